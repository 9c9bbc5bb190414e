//! An authority, a server and an agent for the tests, and what they saw.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::channel::agent::{Agent, AgentConfig, Resource, Status};
use common::channel::message::Message;
use common::channel::packet::{Flags, Ids, Packet};
use common::channel::server::{Admission, AttachedAgent, Candidate, Manager, Server, ServerConfig};
use common::channel::stream::{self, Stream};
use common::channel::tls::{AgentFiles, Authority, ClientPolicy, Issue, KeyKind, Revoked, ServerTls};
use common::command::agent::{
    PingCommand, ReadyCommand, StartupBase, StartupProxyCommand, failed, succeeded, unsupported,
};
use common::paths::Paths;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// Longest wait for anything that must happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Waits for something that must happen soon.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A message with some members.
pub(crate) fn message(class: &str, body: serde_json::Value) -> Message {
    Message { class: class.to_owned(), body: body.as_object().unwrap().clone() }
}

/// An authority in a folder of its own.
pub(crate) struct Ca {
    pub(crate) authority: Authority,
    _folder: tempfile::TempDir,
}

pub(crate) fn authority() -> Ca {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path(), "ca.test", KeyKind::P256).unwrap();
    Ca { authority, _folder: folder }
}

impl Ca {
    /// Puts a certificate for `address` into an agent's folder; gives its serial number.
    pub(crate) fn equip(&self, folder: &Path, address: &str) -> String {
        std::fs::create_dir_all(folder).unwrap();
        let wish =
            Issue { names: vec!["v-2-VM".to_owned()], addresses: vec![address.parse().unwrap()], days: 30 };
        let issued = self.authority.issue(&wish, KeyKind::P256).unwrap();
        let files = AgentFiles::new(folder);
        files.install(&issued.certificate, &issued.ca_certificates, &issued.private_key).unwrap();
        issued.serial
    }
}

/// What a manager saw.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    SetUp(i64, Vec<Message>),
    Attached(i64),
    Detached(i64, String),
    Control(String),
    Ping(Message),
}

/// A manager that admits every guid but `refused`, and tells the test what it sees.
pub(crate) struct Desk {
    seen: mpsc::UnboundedSender<(Seen, Option<AttachedAgent>)>,
    pub(crate) setup: Vec<Message>,
    pub(crate) ready: ReadyCommand,
    pub(crate) ask_again: Mutex<bool>,
    pub(crate) candidates: Mutex<Vec<Candidate>>,
}

impl Manager for Desk {
    async fn admit(&self, candidate: &Candidate) -> Result<Admission, String> {
        self.candidates.lock().unwrap().push(candidate.clone());
        if candidate.text("guid") == "refused" {
            return Err("incorrect data center: 99".to_owned());
        }
        Ok(Admission {
            host_id: 5,
            host_uuid: "95068256-81c4-3ed3-a902-3bdda15ed117".to_owned(),
            host_name: candidate.text("name").to_owned(),
            setup: self.setup.clone(),
            ready: self.ready.clone(),
        })
    }

    async fn set_up(&self, agent: &AttachedAgent, answers: Vec<Message>) -> Result<(), String> {
        let failure =
            answers.iter().find(|answer| !answer.result()).map(|answer| answer.details().to_owned());
        self.tell(Seen::SetUp(agent.host_id(), answers), Some(agent));
        failure.map_or(Ok(()), Err)
    }

    async fn attached(&self, agent: &AttachedAgent) {
        self.tell(Seen::Attached(agent.host_id()), Some(agent));
    }

    async fn control(&self, agent: &AttachedAgent, command: Message) -> Message {
        self.tell(Seen::Control(command.class.clone()), Some(agent));
        match command.simple_name() {
            "Silent" => std::future::pending().await,
            "Echo" => message("com.cloud.agent.api.Answer", command.body.into()),
            name => unsupported(name),
        }
    }

    fn pinged(&self, agent: &AttachedAgent, ping: &Message) -> bool {
        self.tell(Seen::Ping(ping.clone()), Some(agent));
        std::mem::take(&mut *self.ask_again.lock().unwrap())
    }

    async fn detached(&self, agent: &AttachedAgent, reason: &str) {
        self.tell(Seen::Detached(agent.host_id(), reason.to_owned()), Some(agent));
    }
}

impl Desk {
    fn tell(&self, seen: Seen, agent: Option<&AttachedAgent>) {
        let _ = self.seen.send((seen, agent.cloned()));
    }
}

/// A running server and what its manager saw.
pub(crate) struct Office {
    pub(crate) server: Server,
    pub(crate) desk: Arc<Desk>,
    pub(crate) revoked: Revoked,
    seen: mpsc::UnboundedReceiver<(Seen, Option<AttachedAgent>)>,
}

/// How a test's server differs from an ordinary one.
pub(crate) struct Setting {
    pub(crate) address: SocketAddr,
    pub(crate) policy: ClientPolicy,
    pub(crate) config: ServerConfig,
    pub(crate) setup: Vec<Message>,
    pub(crate) ready: ReadyCommand,
}

impl Default for Setting {
    fn default() -> Self {
        let config = ServerConfig {
            id: 90_520_741_327_555,
            ping_interval: 1,
            handshake: Duration::from_secs(10),
            startup: Duration::from_secs(10),
            ..ServerConfig::default()
        };
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            policy: ClientPolicy::default(),
            config,
            setup: Vec::new(),
            ready: ReadyCommand { dc_id: Some(1), ..ReadyCommand::default() },
        }
    }
}

pub(crate) async fn office(ca: &Ca, setting: Setting) -> Office {
    let (sender, seen) = mpsc::unbounded_channel();
    let desk = Arc::new(Desk {
        seen: sender,
        setup: setting.setup,
        ready: setting.ready,
        ask_again: Mutex::new(false),
        candidates: Mutex::new(Vec::new()),
    });
    let revoked = Revoked::default();
    let names = vec!["cloudstack.internal".to_owned()];
    let tls = ServerTls::new(&ca.authority, names, vec![LOCALHOST], setting.policy, revoked.clone()).unwrap();
    let server = Server::bind(setting.address, setting.config, tls, desk.clone()).await.unwrap();
    Office { server, desk, revoked, seen }
}

impl Office {
    /// The next thing seen that is no ping.
    pub(crate) async fn next(&mut self) -> Seen {
        loop {
            match self.next_any().await {
                (Seen::Ping(_), _) => {}
                (seen, _) => return seen,
            }
        }
    }

    pub(crate) async fn next_any(&mut self) -> (Seen, Option<AttachedAgent>) {
        soon("something at the server", self.seen.recv()).await.expect("the server runs")
    }

    /// The next agent that says it is ready.
    pub(crate) async fn attached(&mut self) -> AttachedAgent {
        loop {
            if let (Seen::Attached(_), Some(agent)) = self.next_any().await {
                return agent;
            }
        }
    }
}

/// A role of the tests: a console proxy that knows a few commands.
#[derive(Default)]
pub(crate) struct Role {
    pub(crate) guid: Option<String>,
    pub(crate) running: Arc<std::sync::atomic::AtomicUsize>,
    pub(crate) most: Arc<std::sync::atomic::AtomicUsize>,
    pub(crate) gate: Option<watch::Receiver<bool>>,
}

impl Resource for Role {
    fn startup(&self) -> Vec<Message> {
        let guid = self.guid.clone().unwrap_or_else(|| "Proxy.2-ConsoleProxyResource".to_owned());
        vec![Message::wrap(&StartupProxyCommand {
            proxy_port: 80,
            proxy_vm_id: 2,
            startup: StartupBase {
                kind: "ConsoleProxy".to_owned(),
                guid,
                name: "v-2-VM".to_owned(),
                ..StartupBase::default()
            },
        })]
    }

    async fn execute(&self, command: Message) -> Message {
        use std::sync::atomic::Ordering::SeqCst;
        match command.simple_name() {
            "Echo" => message("com.cloud.agent.api.Answer", command.body.into()),
            "Fail" => failed("as asked"),
            "Panic" => panic!("as asked"),
            "Wait" => {
                let running = self.running.fetch_add(1, SeqCst) + 1;
                self.most.fetch_max(running, SeqCst);
                if let Some(gate) = &self.gate {
                    let _ = gate.clone().wait_for(|open| *open).await;
                }
                self.running.fetch_sub(1, SeqCst);
                succeeded()
            }
            "WatchConsoleProxyLoadCommand" => message(
                "com.cloud.agent.api.proxy.ConsoleProxyLoadAnswer",
                serde_json::json!({"result": true}),
            ),
            _ => unsupported(&command.class),
        }
    }

    fn ping(&self) -> Message {
        Message::wrap(&PingCommand { host_type: "ConsoleProxy".to_owned(), ..PingCommand::default() })
    }
}

/// The configuration of an agent that comes back quickly.
pub(crate) fn agent_config(folder: &Path, server: SocketAddr) -> AgentConfig {
    let mut config =
        AgentConfig::new(vec![server.ip().to_string()], "ConsoleProxyResource", &Paths::below(folder));
    config.folder = folder.to_owned();
    config.port = server.port();
    config.timings.backoff = Duration::from_millis(50);
    config.timings.backoff_limit = Duration::from_millis(200);
    config.timings.watch = Duration::from_millis(50);
    config.timings.migrate = Duration::from_millis(10);
    config
}

/// Waits until the agent's status is as wished.
pub(crate) async fn status(agent: &Agent, what: &str, wish: impl FnMut(&Status) -> bool) -> Status {
    let mut status = agent.status();
    soon(what, status.wait_for(wish)).await.expect("the agent runs").clone()
}

/// A raw peer of a server: TLS and frames, and nothing that it does by itself.
pub(crate) async fn raw_agent(server: SocketAddr, folder: &Path) -> Result<Stream, stream::StreamError> {
    let config = AgentFiles::new(folder).load().unwrap().config().unwrap();
    let socket = TcpStream::connect(server).await?;
    stream::connect(socket, config, LIMIT).await
}

pub(crate) const NOBODY: Ids = Ids { management: -1, agent: -1, via: -1 };

/// The start-up of the ordinary role as a packet.
pub(crate) fn startup(sequence: i64) -> Packet {
    Packet::new(Flags::REQUEST.with(Flags::IN_SEQUENCE), sequence, NOBODY, &Role::default().startup())
}

/// The next packet of a raw peer.
pub(crate) async fn receive(stream: &mut Stream) -> Option<Packet> {
    soon("a packet", stream.reader.next()).await.unwrap().map(|packet| packet.unwrap())
}

pub(crate) async fn send(stream: &mut Stream, packet: &Packet) {
    stream.writer.send(packet, LIMIT).await.unwrap();
}

/// The only message of a packet.
pub(crate) fn only(packet: &Packet) -> Message {
    let mut list = packet.messages().unwrap();
    assert_eq!(list.len(), 1);
    list.remove(0).unwrap()
}
