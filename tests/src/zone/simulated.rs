//! Simulated agents: they speak TLS from addresses of their own, ping, and do at once what they are told. The hosts among
//! them join with their tokens.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    channel::{
        message::{AnswerBase, Message, Wire},
        packet::{Flags, Ids, Packet},
        stream::{self, Stream},
        tls::{self, AgentFiles, Issue},
    },
    command::{
        agent::{Answer, ReadyAnswer, ReadyCommand, unsupported},
        host::{
            GroupsCommand, ModifySshKeysCommand, PingRoutingCommand, Power, ReportAnswer, ReportCommand,
            RollCommand, RouterAnswer, RouterCommand, StartAnswer, StartCommand, StartupRoutingCommand,
            StopAnswer, StopCommand, VmReport,
        },
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::Semaphore,
};
use tokio_rustls::{TlsConnector, rustls};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// Attempts at once to join and to connect; the manager lets in so many strangers.
const JOINS: usize = 6;
const CONNECTS: usize = 32;
const NOBODY: Ids = Ids { management: -1, agent: -1, via: -1 };

/// What an agent is beside its connection.
pub trait Role: Send + Sync + 'static {
    /// Its first message.
    fn startup(&self) -> Message;
    /// Its ping.
    fn ping(&self) -> Message;
    /// Its answer to a command; ready commands are answered already.
    fn execute(&self, command: &Message) -> Message;
    /// The manager has taken it in, or it has lost the manager again.
    fn connected(&self, _: bool) {}
}

/// Where an agent connects from, how, and how often it pings.
pub struct Peer {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its certificates.
    pub config: Arc<rustls::ClientConfig>,
    /// Between two pings.
    pub ping: Duration,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Peer {
    /// Connects, and comes back where it loses its connection, until it is aborted.
    pub async fn live(&self, server: SocketAddr, role: &dyn Role, slots: &Semaphore) {
        loop {
            let stream = {
                let _slot = slots.acquire().await.expect("a slot");
                self.dial(server).await
            };
            if let Ok(stream) = stream {
                let mut counted = false;
                let _ = self.talk(stream, role, &mut counted).await;
                if counted {
                    role.connected(false);
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn dial(&self, server: SocketAddr) -> Result<Stream, Failure> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.address, 0).into())?;
        let socket = socket.connect(server).await?;
        socket.set_nodelay(true)?;
        Ok(stream::connect(socket, self.config.clone(), LIMIT).await?)
    }

    /// Everything of a connection, until it ends.
    async fn talk(&self, mut stream: Stream, role: &dyn Role, counted: &mut bool) -> Result<(), Failure> {
        let flags = Flags::REQUEST.with(Flags::IN_SEQUENCE);
        let mut sequence = 1;
        stream.writer.send(&Packet::new(flags, sequence, NOBODY, &[role.startup()]), LIMIT).await?;
        // Not all at the same moment.
        let phase = self.ping.mul_f64(f64::from(u32::from(self.address) % 997) / 997.0);
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + phase, self.ping);
        let mut host_id = -1;
        loop {
            tokio::select! {
                packet = stream.reader.next() => {
                    let Some(packet) = packet? else { return Ok(()) };
                    let packet = packet?;
                    if !packet.is_request() {
                        continue;
                    }
                    let mut answers = Vec::new();
                    for command in packet.messages()? {
                        let command = command?;
                        if command.class != ReadyCommand::CLASS {
                            answers.push(role.execute(&command));
                            continue;
                        }
                        let ready: ReadyCommand = command.read()?;
                        if ready.details.is_none() && !*counted {
                            host_id = ready.host_id.unwrap_or(-1);
                            *counted = true;
                            role.connected(true);
                        }
                        answers.push(Message::wrap(&ReadyAnswer { details_map: None, answer: AnswerBase::ok() }));
                    }
                    stream.writer.send(&packet.response(&answers), LIMIT).await?;
                }
                _ = pings.tick() => {
                    sequence += 1;
                    let ids = Ids { management: -1, agent: host_id, via: host_id };
                    let ping = Packet::new(Flags::REQUEST, sequence, ids, &[role.ping()]);
                    stream.writer.send(&ping, LIMIT).await?;
                }
            }
        }
    }
}

/// A host that is only simulated, and that has joined.
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its address and certificates.
    pub peer: Peer,
}

/// What a simulated host does: what it is told to start runs at once, and scripts succeed.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// What runs on it.
    pub vms: Mutex<BTreeMap<String, VmReport>>,
    ready: Arc<AtomicUsize>,
}

impl Machine {
    /// One that runs nothing yet.
    pub fn new(member: &Member, ready: Arc<AtomicUsize>) -> Self {
        Self { name: member.name.clone(), address: member.peer.address, vms: Mutex::default(), ready }
    }

    fn vms(&self) -> BTreeMap<String, VmReport> {
        self.vms.lock().expect("what runs").clone()
    }
}

/// All of them.
pub struct Crowd {
    ready: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Joins all hosts of which the manager wrote a file into `folder`. They share one key, which costs a second to make.
///
/// # Panics
/// When one of them cannot.
pub async fn join(folder: &Path, scratch: &Path, ping: Duration) -> Vec<Member> {
    let files = AgentFiles::new(scratch);
    let request = files.request(&Issue::default()).expect("a certificate request");
    let key = std::fs::read_to_string(scratch.join("cloud.key.requested")).expect("its key");
    let shared = Arc::new((request, key, Semaphore::new(JOINS)));
    let mut joining = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the files to join with").flatten() {
        let (shared, scratch) = (shared.clone(), scratch.to_owned());
        joining.push(tokio::spawn(async move {
            let _slot = shared.2.acquire().await.expect("a slot");
            join_one(&entry.path(), (&shared.0, &shared.1), &scratch, ping).await
        }));
    }
    let mut members = Vec::new();
    for member in joining {
        members.push(member.await.expect("a member"));
    }
    members
}

async fn join_one(path: &Path, (request, key): (&str, &str), scratch: &Path, ping: Duration) -> Member {
    let file: Value =
        serde_json::from_slice(&std::fs::read(path).expect("a file to join with")).expect("JSON");
    let word = |name: &str| file[name].as_str().expect("a word").to_owned();
    let address: Ipv4Addr = word("address").parse().expect("an address");
    let mut roots = rustls::RootCertStore::empty();
    for certificate in tls::certificates("the authority", &word("authority")).expect("certificates") {
        roots.add(certificate).expect("a certificate");
    }
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let port = u16::try_from(file["join_port"].as_u64().expect("a port")).expect("a port");
    let server = SocketAddr::new(word("manager").parse().expect("an address"), port);
    let stream = tokio::net::TcpStream::connect(server).await.expect("the manager's door");
    let name = server.ip().into();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("its TLS");
    let line = json!({"host": word("host"), "token": word("token"), "request": request});
    stream.write_all(format!("{line}\n").as_bytes()).await.expect("the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer");
    let answer: Value = serde_json::from_slice(&answer).expect("an answer");
    let certificate = answer["joined"]["certificate"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let config = equip(&scratch.join(word("host")), certificate, &word("authority"), key);
    Member { name: word("host"), peer: Peer { address, config, ping } }
}

/// The TLS of an agent with these certificates (PEM), which are put into a folder of its own.
///
/// # Panics
/// When they are none.
pub fn equip(folder: &Path, certificate: &str, authorities: &str, key: &str) -> Arc<rustls::ClientConfig> {
    std::fs::create_dir_all(folder).expect("a folder");
    for (name, text) in [("cloud.crt", certificate), ("cloud.ca.crt", authorities), ("cloud.key", key)] {
        std::fs::write(folder.join(name), text).expect("a file");
    }
    AgentFiles::new(folder).load().expect("certificates").config().expect("TLS")
}

impl Crowd {
    /// Connects them all; each comes back where it loses its connection.
    pub fn connect(members: Vec<Member>, server: SocketAddr) -> Self {
        let (ready, slots) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(CONNECTS)));
        let tasks = members.into_iter().map(|member| {
            let (machine, slots) = (Machine::new(&member, ready.clone()), slots.clone());
            tokio::spawn(async move { member.peer.live(server, &machine, &slots).await })
        });
        Self { tasks: tasks.collect(), ready }
    }

    /// How many of them the manager has taken in.
    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Acquire)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Role for Machine {
    fn startup(&self) -> Message {
        Message::wrap(&StartupRoutingCommand {
            kind: "Routing".to_owned(),
            data_center: "1".to_owned(),
            pod: "1".to_owned(),
            guid: format!("{}-simulated", self.name),
            name: self.name.clone(),
            private_ip_address: self.address.to_string(),
            hypervisor_type: "KVM".to_owned(),
            memory: 8 << 30,
            ..StartupRoutingCommand::default()
        })
    }

    fn ping(&self) -> Message {
        Message::wrap(&PingRoutingCommand {
            vms: self.vms(),
            gateway_accessible: true,
            vnet_accessible: true,
            host_type: "Routing".to_owned(),
            ..PingRoutingCommand::default()
        })
    }

    fn connected(&self, connected: bool) {
        if connected {
            self.ready.fetch_add(1, Ordering::AcqRel);
        } else {
            self.ready.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn execute(&self, command: &Message) -> Message {
        match command.class.as_str() {
            ModifySshKeysCommand::CLASS | RollCommand::CLASS | GroupsCommand::CLASS => {
                Message::wrap(&Answer { answer: AnswerBase::ok() })
            }
            ReportCommand::CLASS => Message::wrap(&ReportAnswer { vms: self.vms(), base: AnswerBase::ok() }),
            StartCommand::CLASS => {
                let start: StartCommand = command.read().expect("a start");
                let report = VmReport {
                    state: Power::PowerOn,
                    host: self.name.clone(),
                    start_id: start.vm.start_id,
                    ready: true,
                };
                self.vms.lock().expect("what runs").insert(start.vm.name, report);
                Message::wrap(&StartAnswer { steps: BTreeMap::new(), base: AnswerBase::ok() })
            }
            StopCommand::CLASS => {
                let stop: StopCommand = command.read().expect("a stop");
                self.vms.lock().expect("what runs").remove(&stop.vm_name);
                Message::wrap(&StopAnswer { base: AnswerBase::ok() })
            }
            RouterCommand::CLASS => {
                let order: RouterCommand = command.read().expect("an order");
                let stdout = match order.script.as_str() {
                    "get_template_version.sh" => "Cloudstack Release 4.22&sum",
                    _ => "done",
                };
                Message::wrap(&RouterAnswer {
                    stdout: stdout.to_owned(),
                    code: Some(0),
                    base: AnswerBase::ok(),
                    ..RouterAnswer::default()
                })
            }
            class => unsupported(class),
        }
    }
}
