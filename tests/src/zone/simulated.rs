//! Simulated hosts: each joins with its token, speaks TLS from its own address, pings, and does at once what it is told.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
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
            ModifySshKeysCommand, PingRoutingCommand, Power, ReportAnswer, ReportCommand, RollCommand,
            RouterAnswer, RouterCommand, StartAnswer, StartCommand, StartupRoutingCommand, VmReport,
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

/// Between two pings.
const PING: Duration = Duration::from_secs(10);
/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// Attempts at once to join and to connect; the manager lets in so many strangers.
const JOINS: usize = 6;
const CONNECTS: usize = 32;
const NOBODY: Ids = Ids { management: -1, agent: -1, via: -1 };

/// A host that is only simulated.
pub(super) struct Member {
    name: String,
    address: Ipv4Addr,
    config: Arc<rustls::ClientConfig>,
    vms: BTreeMap<String, VmReport>,
}

/// All of them.
pub(super) struct Crowd {
    ready: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Joins all hosts of which the manager wrote a file into `folder`. They share one key, which costs a second to make.
pub(super) async fn join(folder: &Path, scratch: &Path) -> Vec<Member> {
    let files = AgentFiles::new(scratch);
    let request = files.request(&Issue::default()).expect("a certificate request");
    let key = std::fs::read_to_string(scratch.join("cloud.key.requested")).expect("its key");
    let shared = Arc::new((request, key, Semaphore::new(JOINS)));
    let mut joining = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the files to join with").flatten() {
        let (shared, scratch) = (shared.clone(), scratch.to_owned());
        joining.push(tokio::spawn(async move {
            let _slot = shared.2.acquire().await.expect("a slot");
            join_one(&entry.path(), &shared.0, &shared.1, &scratch).await
        }));
    }
    let mut members = Vec::new();
    for member in joining {
        members.push(member.await.expect("a member"));
    }
    members
}

async fn join_one(path: &Path, request: &str, key: &str, scratch: &Path) -> Member {
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
    let folder: PathBuf = scratch.join(word("host"));
    std::fs::create_dir(&folder).expect("a folder");
    for (name, text) in [("cloud.crt", certificate), ("cloud.ca.crt", &word("authority")), ("cloud.key", key)]
    {
        std::fs::write(folder.join(name), text).expect("a file");
    }
    let config = AgentFiles::new(&folder).load().expect("certificates").config().expect("TLS");
    Member { name: word("host"), address, config, vms: BTreeMap::new() }
}

impl Crowd {
    /// Connects them all; each comes back where it loses its connection.
    pub(super) fn connect(members: Vec<Member>, server: SocketAddr) -> Self {
        let (ready, slots) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(CONNECTS)));
        let tasks = members.into_iter().map(|mut member| {
            let (ready, slots) = (ready.clone(), slots.clone());
            tokio::spawn(async move {
                loop {
                    let stream = {
                        let _slot = slots.acquire().await.expect("a slot");
                        member.dial(server).await
                    };
                    if let Ok(stream) = stream {
                        let mut counted = false;
                        let _ = member.talk(stream, &ready, &mut counted).await;
                        if counted {
                            ready.fetch_sub(1, Ordering::AcqRel);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            })
        });
        Self { tasks: tasks.collect(), ready }
    }

    /// How many of them the manager has taken in.
    pub(super) fn ready(&self) -> usize {
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

impl Member {
    async fn dial(&self, server: SocketAddr) -> Result<Stream, Box<dyn std::error::Error + Send + Sync>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.address, 0).into())?;
        let socket = socket.connect(server).await?;
        socket.set_nodelay(true)?;
        Ok(stream::connect(socket, self.config.clone(), LIMIT).await?)
    }

    /// Everything of a connection, until it ends.
    async fn talk(
        &mut self,
        mut stream: Stream,
        ready: &AtomicUsize,
        counted: &mut bool,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let flags = Flags::REQUEST.with(Flags::IN_SEQUENCE);
        let mut sequence = 1;
        stream.writer.send(&Packet::new(flags, sequence, NOBODY, &[self.startup()]), LIMIT).await?;
        // Not all at the same moment.
        let phase = PING.mul_f64(f64::from(u32::from(self.address) % 997) / 997.0);
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + phase, PING);
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
                        if let Ok(command) = command.read::<ReadyCommand>()
                            && command.details.is_none()
                            && !*counted
                        {
                            host_id = command.host_id.unwrap_or(-1);
                            *counted = true;
                            ready.fetch_add(1, Ordering::AcqRel);
                        }
                        answers.push(self.execute(&command));
                    }
                    stream.writer.send(&packet.response(&answers), LIMIT).await?;
                }
                _ = pings.tick() => {
                    sequence += 1;
                    let ids = Ids { management: -1, agent: host_id, via: host_id };
                    let ping = Packet::new(Flags::REQUEST, sequence, ids, &[self.ping()]);
                    stream.writer.send(&ping, LIMIT).await?;
                }
            }
        }
    }

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
            vms: self.vms.clone(),
            gateway_accessible: true,
            vnet_accessible: true,
            host_type: "Routing".to_owned(),
            ..PingRoutingCommand::default()
        })
    }

    fn execute(&mut self, command: &Message) -> Message {
        match command.class.as_str() {
            ModifySshKeysCommand::CLASS | RollCommand::CLASS => {
                Message::wrap(&Answer { answer: AnswerBase::ok() })
            }
            ReportCommand::CLASS => {
                Message::wrap(&ReportAnswer { vms: self.vms.clone(), base: AnswerBase::ok() })
            }
            ReadyCommand::CLASS => {
                Message::wrap(&ReadyAnswer { details_map: None, answer: AnswerBase::ok() })
            }
            StartCommand::CLASS => {
                let start: StartCommand = command.read().expect("a start");
                let report = VmReport {
                    state: Power::PowerOn,
                    host: self.name.clone(),
                    start_id: start.vm.start_id,
                    ready: true,
                };
                self.vms.insert(start.vm.name, report);
                Message::wrap(&StartAnswer { steps: BTreeMap::new(), base: AnswerBase::ok() })
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
