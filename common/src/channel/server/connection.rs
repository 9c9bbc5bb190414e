//! One connection, from the handshake to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::listen::{Door, Place};
use super::requests::{self, Request};
use super::{Admission, AttachedAgent, Candidate, Manager, joining};
use crate::channel::message::Message;
use crate::channel::packet::{Flags, Packet};
use crate::channel::stream::{self, PacketReader, PacketWriter, StreamError};
use crate::command::agent::failed;

/// Packets that may wait to be written to one agent.
const QUEUE: usize = 64;
/// Packets that cannot be read before the connection is given up.
const MAX_BAD: u32 = 16;
/// Longest text of a packet before the agent has been admitted.
const MAX_STARTUP: usize = 1024 * 1024;

/// Serves one connection until it ends.
pub(super) async fn serve<M: Manager>(door: Arc<Door<M>>, socket: TcpStream, peer: SocketAddr, place: Place) {
    if let Err(error) = admit_and_run(door, socket, peer, place).await {
        // Probes, scanners and agents still without a certificate end here.
        tracing::info!(%peer, %error, "connection ended before an agent was admitted");
    }
}

/// Why no agent was admitted on a connection.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("{0}")]
    Tls(#[from] crate::channel::tls::TlsError),
    #[error("it closed")]
    Closed,
    #[error("no start-up command in time")]
    Late,
    #[error("refused: {0}")]
    Refused(String),
}

async fn admit_and_run<M: Manager>(
    door: Arc<Door<M>>,
    socket: TcpStream,
    peer: SocketAddr,
    place: Place,
) -> Result<(), SetupError> {
    let config = &door.config;
    stream::tune(&socket).map_err(StreamError::from)?;
    let tls = door.tls.config(peer.ip())?;
    let mut stream = stream::accept(socket, tls, config.handshake).await?;
    let shown = door.tls.presented(stream.certificates.as_deref(), peer.ip());
    let (request, startup) =
        timeout(config.startup, first_startup(&mut stream.reader)).await.map_err(|_| SetupError::Late)??;
    let candidate = Candidate { address: peer, startup, serial: shown.serial, verified: shown.verified };
    let decision = timeout(config.startup, door.manager.admit(&candidate)).await;
    let decision = decision.unwrap_or_else(|_| Err("the server could not decide in time".to_owned()));
    let admission = match decision.and_then(joining::checked) {
        Ok(admission) => admission,
        Err(reason) => {
            refuse(&mut stream.reader, &mut stream.writer, &request, config, &reason).await;
            return Err(SetupError::Refused(reason));
        }
    };
    let answer = joining::startup_answer(&request, &admission, config);
    stream.writer.send(&answer, config.write).await?;
    drop(place);
    run(&door, stream.reader, stream.writer, &candidate, admission).await;
    Ok(())
}

/// The first start-up request; whatever else comes before it is ignored, as agents expect.
async fn first_startup(reader: &mut PacketReader) -> Result<(Packet, Vec<Message>), SetupError> {
    while let Some(bytes) = reader.next_bytes(MAX_STARTUP).await? {
        let Ok(packet) = Packet::decode(&bytes, MAX_STARTUP) else { continue };
        if let Request::Startup(startup) = requests::classify(&packet) {
            return Ok((packet, startup));
        }
    }
    Err(SetupError::Closed)
}

/// Tells an agent that it may not join, and gives it a moment to read it.
async fn refuse(
    reader: &mut PacketReader,
    writer: &mut PacketWriter,
    request: &Packet,
    config: &super::ServerConfig,
    reason: &str,
) {
    for packet in joining::refusal(request, config, reason) {
        if writer.send(&packet, config.write).await.is_err() {
            return;
        }
    }
    writer.close().await;
    let until_closed = async { while let Ok(Some(_)) = reader.next_bytes(MAX_STARTUP).await {} };
    let _ = timeout(Duration::from_secs(5), until_closed).await;
}

/// An admitted agent, until its connection ends.
async fn run<M: Manager>(
    door: &Arc<Door<M>>,
    reader: PacketReader,
    writer: PacketWriter,
    candidate: &Candidate,
    admission: Admission,
) {
    let (out, queue) = mpsc::channel(QUEUE);
    let agent = AttachedAgent::new(candidate, admission.clone(), &door.config, out.clone());
    door.registry.enter(&agent);
    tracing::info!(?agent, verified = candidate.verified, "agent admitted");
    let controls = Arc::new(Semaphore::new(door.config.controls));
    let mut tasks = JoinSet::new();
    tasks.spawn(write(writer, queue, agent.clone(), door.config.write));
    tasks.spawn(joining::join(door.clone(), agent.clone(), admission));
    let reason = Talk { door, agent: &agent, out, tasks, bad: 0, controls }.until_end(reader).await;
    agent.close(&reason);
    door.registry.leave(&agent);
    tracing::info!(?agent, reason = agent.close_reason(), "agent gone");
    door.manager.detached(&agent, agent.close_reason()).await;
}

async fn write(
    mut writer: PacketWriter,
    mut queue: mpsc::Receiver<Packet>,
    agent: AttachedAgent,
    limit: Duration,
) {
    while let Some(packet) = queue.recv().await {
        log(&packet, "Sending");
        if let Err(error) = writer.send(&packet, limit).await {
            agent.close(&error.to_string());
            return;
        }
    }
}

fn log(packet: &Packet, what: &str) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        tracing::debug!("{}", packet.describe(what));
    }
}

/// The conversation with an admitted agent.
struct Talk<'a, M> {
    door: &'a Arc<Door<M>>,
    agent: &'a AttachedAgent,
    out: mpsc::Sender<Packet>,
    tasks: JoinSet<()>,
    bad: u32,
    controls: Arc<Semaphore>,
}

impl<M: Manager> Talk<'_, M> {
    /// Runs until the connection ends; gives the reason.
    async fn until_end(mut self, mut reader: PacketReader) -> String {
        let config = &self.door.config;
        loop {
            let deadline = Instant::from_std(self.agent.last_ping()) + config.ping_timeout;
            let packet = tokio::select! {
                () = self.agent.closed() => return self.agent.close_reason().to_owned(),
                () = sleep_until(deadline) => return format!("no ping for {:?}", config.ping_timeout),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(agent = ?self.agent, %error, "work for an agent failed");
                    }
                    continue;
                }
                packet = reader.next() => match packet {
                    Ok(Some(packet)) => packet,
                    Ok(None) => return "it closed the connection".to_owned(),
                    Err(error) => return error.to_string(),
                },
            };
            match packet {
                Ok(packet) => {
                    log(&packet, "Received");
                    if let Some(reason) = self.take(packet).await {
                        return reason;
                    }
                }
                Err(error) => {
                    tracing::warn!(agent = ?self.agent, %error, "ignoring a packet");
                    self.bad += 1;
                    if self.bad >= MAX_BAD {
                        return format!("too many packets that cannot be read, the last: {error}");
                    }
                }
            }
        }
    }

    /// Takes one packet; gives the reason where the connection ends with it.
    async fn take(&mut self, packet: Packet) -> Option<String> {
        if packet.flags.has(Flags::FROM_SERVER) || packet.flags.has(Flags::CONTROL) {
            tracing::warn!(agent = ?self.agent, flags = packet.flags.0, "dropping a packet that only a server may send");
            return None;
        }
        if !packet.is_request() {
            let sequence = packet.sequence;
            if !self.agent.deliver(packet) {
                tracing::debug!(agent = ?self.agent, sequence, "nobody waits for this answer any more");
            }
            return None;
        }
        match requests::classify(&packet) {
            Request::Ping(ping) => {
                self.agent.saw_ping();
                let send_startup = self.door.manager.pinged(self.agent, &ping);
                self.answer(&packet, &[requests::ping_answer(ping, send_startup)]).await;
            }
            Request::Shutdown(reason) if reason == "update" => {
                self.answer(&packet, &[failed("not supported")]).await;
            }
            Request::Shutdown(reason) if reason == "sig.kill" => return Some("it shuts down".to_owned()),
            Request::Shutdown(reason) => tracing::info!(agent = ?self.agent, reason, "shutdown noted"),
            Request::Startup(startup) => {
                let candidate = Candidate {
                    address: self.agent.address(),
                    startup,
                    serial: self.agent.serial().map(str::to_owned),
                    verified: self.agent.verified(),
                };
                let again = joining::again(
                    self.door.clone(),
                    self.agent.clone(),
                    candidate,
                    packet,
                    self.out.clone(),
                );
                self.tasks.spawn(again);
            }
            Request::Control(commands) => self.control(packet, commands).await,
            Request::Unreadable(reason) => self.answer(&packet, &[failed(reason)]).await,
        }
        None
    }

    /// Works on a control request beside the conversation; beyond the limit it fails at once.
    async fn control(&mut self, packet: Packet, commands: Vec<Result<Message, String>>) {
        let Ok(permit) = self.controls.clone().try_acquire_owned() else {
            let busy = failed("too many requests at once");
            return self.answer(&packet, &vec![busy; commands.len()]).await;
        };
        let (door, agent, out) = (self.door.clone(), self.agent.clone(), self.out.clone());
        self.tasks.spawn(async move {
            let answers = requests::control(&*door.manager, &agent, commands).await;
            let _ = out.send(requests::response(&packet, &agent, &door.config, &answers)).await;
            drop(permit);
        });
    }

    async fn answer(&self, request: &Packet, answers: &[Message]) {
        let response = requests::response(request, self.agent, &self.door.config, answers);
        let _ = self.out.send(response).await;
    }
}
