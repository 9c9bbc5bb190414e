//! A small management end, a small role, and threads that live in a network namespace.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use common::channel::agent::{AgentConfig, Resource};
use common::channel::message::Message;
use common::channel::server::{Admission, AttachedAgent, Candidate, Manager, Server, ServerConfig};
use common::channel::tls::{AgentFiles, Authority, ClientPolicy, Issue, KeyKind, Revoked, ServerTls};
use common::command::agent::{PingCommand, ReadyCommand, StartupBase, StartupProxyCommand, unsupported};
use common::paths::Paths;
use tests::lab::{Namespace, join};

/// Longest wait for anything that must happen.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Two machines with a cable between them: the management end and the agent's.
pub struct Lab {
    pub office: Namespace,
    pub branch: Namespace,
}

impl Lab {
    /// 10.77.0.1 and fd77::1 in the office; 10.77.0.2, 10.77.0.3 and fd77::2 in the branch.
    pub fn new() -> Self {
        let (office, branch) = (Namespace::new("office"), Namespace::new("branch"));
        join(&office, "eth0", &branch, "eth0");
        for (side, addresses) in [
            (&office, &["10.77.0.1/24", "fd77::1/64"][..]),
            (&branch, &["10.77.0.2/24", "10.77.0.3/24", "fd77::2/64"]),
        ] {
            for address in addresses {
                let mut words = vec!["addr", "add", address, "dev", "eth0"];
                if address.contains(':') {
                    words.push("nodad");
                }
                side.ip(&words);
            }
        }
        Self { office, branch }
    }
}

/// Runs `work` on a thread of its own inside `namespace`.
pub fn inside<F, T>(namespace: &Namespace, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    let handle = std::fs::File::open(Path::new("/run/netns").join(namespace.name())).expect("namespace");
    std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(handle.as_fd(), kind).expect("root may change namespaces");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(work())
    })
}

/// What the management end saw.
#[derive(Debug)]
pub enum Seen {
    Listening(SocketAddr),
    Attached { from: SocketAddr, verified: bool },
    Detached(String),
}

pub struct Desk(Sender<Seen>);

impl Manager for Desk {
    async fn admit(&self, candidate: &Candidate) -> Result<Admission, String> {
        Ok(Admission {
            host_id: 9,
            host_uuid: "c1c2c3c4-0000-4000-8000-000000000009".to_owned(),
            host_name: candidate.text("name").to_owned(),
            setup: Vec::new(),
            ready: ReadyCommand::default(),
        })
    }

    async fn attached(&self, agent: &AttachedAgent) {
        let _ = self.0.send(Seen::Attached { from: agent.address(), verified: agent.verified() });
    }

    async fn control(&self, _: &AttachedAgent, command: Message) -> Message {
        Message { class: "com.cloud.agent.api.Answer".to_owned(), ..command }
    }

    async fn detached(&self, _: &AttachedAgent, reason: &str) {
        let _ = self.0.send(Seen::Detached(reason.to_owned()));
    }
}

/// Runs a strict management end on `address` until `Office` is dropped.
pub struct Office {
    pub seen: Receiver<Seen>,
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Office {
    pub fn open(namespace: &Namespace, authority: &Authority, address: &str) -> Self {
        let address: SocketAddr = address.parse().expect("address");
        let names = vec!["office".to_owned()];
        let tls = ServerTls::new(authority, names, Vec::new(), ClientPolicy::default(), Revoked::default());
        let tls = tls.expect("TLS");
        let (sender, seen) = channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let config = ServerConfig {
            ping_interval: 1,
            ping_timeout: Duration::from_millis(2500),
            ..ServerConfig::default()
        };
        let thread = inside(namespace, move || async move {
            let desk = Arc::new(Desk(sender.clone()));
            let server = Server::bind(address, config, tls, desk).await.expect("server");
            let _ = sender.send(Seen::Listening(server.address()));
            let _ = stopped.await;
            server.stop().await;
        });
        let address = match seen.recv_timeout(LIMIT) {
            Ok(Seen::Listening(address)) => address,
            other => panic!("the server does not listen: {other:?}"),
        };
        Self { seen, address, stop: Some(stop), thread: Some(thread) }
    }

    pub fn next(&self) -> Seen {
        self.seen.recv_timeout(LIMIT).expect("something at the management end")
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A role that knows one command, which it answers with its own members.
pub struct Role;

impl Resource for Role {
    fn startup(&self) -> Vec<Message> {
        vec![Message::wrap(&StartupProxyCommand {
            proxy_port: 80,
            proxy_vm_id: 2,
            startup: StartupBase {
                kind: "ConsoleProxy".to_owned(),
                guid: "Proxy.2-ConsoleProxyResource".to_owned(),
                name: "v-2-VM".to_owned(),
                ..StartupBase::default()
            },
        })]
    }

    async fn execute(&self, command: Message) -> Message {
        match command.simple_name() {
            "Echo" => Message { class: "com.cloud.agent.api.Answer".to_owned(), ..command },
            _ => unsupported(&command.class),
        }
    }

    fn ping(&self) -> Message {
        Message::wrap(&PingCommand { host_type: "ConsoleProxy".to_owned(), ..PingCommand::default() })
    }
}

/// An authority in `folder`.
pub fn authority(folder: &Path) -> Authority {
    Authority::open(folder, AUTHORITY, KeyKind::P256).expect("authority")
}

/// Name of the authorities.
pub const AUTHORITY: &str = "ca.cloudstack.apache.org";

/// Puts a certificate for `address` into an agent's folder.
pub fn equip(authority: &Authority, folder: &Path, address: &str) {
    let address: IpAddr = address.parse().expect("address");
    let wish = Issue { names: vec!["v-2-VM".to_owned()], addresses: vec![address], days: 30 };
    let issued = authority.issue(&wish, KeyKind::Rsa).expect("certificate");
    std::fs::create_dir_all(folder).expect("folder");
    let files = AgentFiles::new(folder);
    files.install(&issued.certificate, &issued.ca_certificates, &issued.private_key).expect("installed");
}

/// An agent's configuration that comes back quickly.
pub fn config(folder: &Path, host: &str, port: u16) -> AgentConfig {
    let mut config = AgentConfig::new(vec![host.to_owned()], "ConsoleProxyResource", &Paths::below(folder));
    config.folder = folder.to_owned();
    config.port = port;
    config.timings.backoff_limit = Duration::from_secs(2);
    config
}
