//! An agent that has been admitted, and the commands sent to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex as Turn, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Admission, Candidate, ServerConfig};
use crate::channel::message::Message;
use crate::channel::packet::{Flags, Ids, Packet};
use crate::channel::waiters::Waiters;

/// How commands are sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct SendOptions {
    /// Wait until the agent has answered the last commands that were sent in sequence.
    pub in_sequence: bool,
    /// The agent shall not execute what follows a command that failed.
    pub stop_on_error: bool,
    /// Longest wait for the answers, counted from when the commands leave. None: the longest
    /// `wait` of the commands, else [`ServerConfig::wait`].
    pub wait: Option<Duration>,
}

impl SendOptions {
    /// One after the other, stopping at the first failure: what set-up commands want.
    pub fn in_sequence() -> Self {
        Self { in_sequence: true, stop_on_error: true, wait: None }
    }

    /// The same, waiting at most so long.
    pub fn within(self, wait: Duration) -> Self {
        Self { wait: Some(wait), ..self }
    }
}

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing to send.
    #[error("no command to send")]
    Empty,
    /// The agent has gone, before or while it was asked.
    #[error("agent {name} has gone: {reason}")]
    Gone {
        /// Name of the host record.
        name: String,
        /// Why the connection ended.
        reason: String,
    },
    /// No answer in time. The agent may still be working.
    #[error("agent {name} did not answer within {wait:?}")]
    Timeout {
        /// Name of the host record.
        name: String,
        /// How long was waited.
        wait: Duration,
    },
    /// Too many requests are on their way to this agent.
    #[error("agent {name} has too many requests to answer")]
    Busy {
        /// Name of the host record.
        name: String,
    },
    /// The answers cannot be read or are not as many as the commands.
    #[error("agent {name} answered what cannot be used: {reason}")]
    Unusable {
        /// Name of the host record.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// An agent that has been admitted. Clones are the same agent; one that has gone stays gone, a new
/// connection is a new `AttachedAgent`.
#[derive(Clone)]
pub struct AttachedAgent {
    inner: Arc<Inner>,
}

struct Inner {
    admission: Admission,
    guid: String,
    kind: String,
    class: String,
    address: SocketAddr,
    serial: Option<String>,
    verified: bool,
    ids: Ids,
    sequence: AtomicI64,
    out: mpsc::Sender<Packet>,
    waiters: Waiters,
    turn: Turn<()>,
    slots: Semaphore,
    wait: Duration,
    closed: CancellationToken,
    reason: OnceLock<String>,
    seen: Mutex<Instant>,
    ready: AtomicBool,
}

/// Equal where they are the same connection, not just the same host.
impl PartialEq for AttachedAgent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl std::fmt::Debug for AttachedAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "agent {} {} ({}) at {}", self.host_id(), self.name(), self.guid(), self.address())
    }
}

impl AttachedAgent {
    /// A newly admitted agent whose packets go to `out`.
    pub(super) fn new(
        candidate: &Candidate,
        admission: Admission,
        config: &ServerConfig,
        out: mpsc::Sender<Packet>,
    ) -> Self {
        let base = i64::from(rand::random_range(0..=32_766_u16)) << 48;
        let ids = Ids { management: config.id, agent: admission.host_id, via: admission.host_id };
        Self {
            inner: Arc::new(Inner {
                guid: candidate.text("guid").to_owned(),
                kind: candidate.text("type").to_owned(),
                class: candidate.startup.first().map(|first| first.class.clone()).unwrap_or_default(),
                address: candidate.address,
                serial: candidate.serial.clone(),
                verified: candidate.verified,
                admission,
                ids,
                sequence: AtomicI64::new(base),
                out,
                waiters: Waiters::default(),
                turn: Turn::new(()),
                slots: Semaphore::new(config.requests),
                wait: config.wait,
                closed: CancellationToken::new(),
                reason: OnceLock::new(),
                seen: Mutex::new(Instant::now()),
                ready: AtomicBool::new(false),
            }),
        }
    }

    /// Host id.
    pub fn host_id(&self) -> i64 {
        self.inner.admission.host_id
    }

    /// UUID of the host record.
    pub fn uuid(&self) -> &str {
        &self.inner.admission.host_uuid
    }

    /// Name of the host record.
    pub fn name(&self) -> &str {
        &self.inner.admission.host_name
    }

    /// The guid that it gave.
    pub fn guid(&self) -> &str {
        &self.inner.guid
    }

    /// The host type that it gave: `SecondaryStorage`, `ConsoleProxy`, `Routing`.
    pub fn kind(&self) -> &str {
        &self.inner.kind
    }

    /// Class name of its first start-up command.
    pub fn class(&self) -> &str {
        &self.inner.class
    }

    /// Where it is connected from.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Serial number of its certificate in hex; none without one.
    pub fn serial(&self) -> Option<&str> {
        self.inner.serial.as_deref()
    }

    /// Its certificate was verified: issued by our authority, for its address, not revoked.
    pub fn verified(&self) -> bool {
        self.inner.verified
    }

    /// The last ping, or the start-up where none came yet.
    pub fn last_ping(&self) -> Instant {
        *self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has said that it is ready and is still connected.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire) && !self.is_closed()
    }

    /// The connection has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// Ends the connection. The first reason given counts.
    pub fn close(&self, reason: &str) {
        let _ = self.inner.reason.set(reason.to_owned());
        self.inner.closed.cancel();
        self.inner.waiters.fail_all();
    }

    /// Why the connection has ended.
    pub fn close_reason(&self) -> &str {
        self.inner.reason.get().map_or("closed", String::as_str)
    }

    /// Sends commands in one packet and waits for their answers, one for each in the same order.
    /// Giving up (dropping the future) does not stop the agent's work on them.
    pub async fn send(
        &self,
        commands: Vec<Message>,
        options: SendOptions,
    ) -> Result<Vec<Message>, SendError> {
        let inner = &self.inner;
        if commands.is_empty() {
            return Err(SendError::Empty);
        }
        let asked = commands.iter().map(Message::wait).max().filter(|wait| *wait > 0);
        let wait = options.wait.or(asked.map(Duration::from_secs)).unwrap_or(inner.wait);
        let busy = || SendError::Busy { name: self.name().to_owned() };
        let _slot = inner.slots.try_acquire().map_err(|_| busy())?;
        let _turn = match options.in_sequence {
            true => Some(self.or_gone(inner.turn.lock()).await?),
            false => None,
        };
        let sequence = inner.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let mut waiter = inner.waiters.join(sequence, usize::MAX).ok_or_else(busy)?;
        let mut flags = Flags::REQUEST.with(Flags::FROM_SERVER);
        if options.in_sequence {
            flags = flags.with(Flags::IN_SEQUENCE);
        }
        if options.stop_on_error {
            flags = flags.with(Flags::STOP_ON_ERROR);
        }
        let packet = Packet::new(flags, sequence, inner.ids, &commands);
        let exchange = async {
            inner.out.send(packet).await.ok()?;
            waiter.response().await
        };
        let response = match self.or_gone(tokio::time::timeout(wait, exchange)).await? {
            Ok(Some(response)) => response,
            Ok(None) => return Err(self.gone()),
            Err(_) => return Err(SendError::Timeout { name: self.name().to_owned(), wait }),
        };
        self.answers(&response, commands.len())
    }

    /// Sends one command and waits for its answer.
    pub async fn ask(&self, command: Message, options: SendOptions) -> Result<Message, SendError> {
        let mut answers = self.send(vec![command], options).await?;
        // `send` has made sure that there is one.
        answers.pop().ok_or(SendError::Empty)
    }

    fn answers(&self, response: &Packet, wanted: usize) -> Result<Vec<Message>, SendError> {
        let unusable = |reason: String| SendError::Unusable { name: self.name().to_owned(), reason };
        let list = response.messages().map_err(|error| unusable(error.to_string()))?;
        let answers: Vec<Message> =
            list.into_iter().collect::<Result<_, _>>().map_err(|error| unusable(error.to_string()))?;
        if answers.len() != wanted {
            let first = answers.first().map(Message::details).unwrap_or_default();
            return Err(unusable(format!("{} answers to {wanted} commands {first}", answers.len())));
        }
        Ok(answers)
    }

    async fn or_gone<T>(&self, work: impl Future<Output = T>) -> Result<T, SendError> {
        tokio::select! {
            biased;
            // An answer that came right before the connection ended counts.
            done = work => Ok(done),
            () = self.inner.closed.cancelled() => Err(self.gone()),
        }
    }

    fn gone(&self) -> SendError {
        SendError::Gone { name: self.name().to_owned(), reason: self.close_reason().to_owned() }
    }

    /// Hands over a response that came; false where nobody waits for it.
    pub(super) fn deliver(&self, response: Packet) -> bool {
        self.inner.waiters.deliver(response)
    }

    /// A ping came.
    pub(super) fn saw_ping(&self) {
        *self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The agent said that it is ready.
    pub(super) fn set_ready(&self) {
        self.inner.ready.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::agent::ReadyCommand;

    fn agent() -> (AttachedAgent, mpsc::Receiver<Packet>) {
        let (out, queue) = mpsc::channel(4);
        let address = SocketAddr::from(([127, 0, 0, 1], 8250));
        let candidate = Candidate { address, startup: vec![], serial: None, verified: false };
        let admission = Admission {
            host_id: 5,
            host_uuid: "5".to_owned(),
            host_name: "v-2-VM".to_owned(),
            setup: vec![],
            ready: ReadyCommand::default(),
        };
        (AttachedAgent::new(&candidate, admission, &ServerConfig::default(), out), queue)
    }

    #[tokio::test]
    async fn an_answer_right_before_the_end_counts() {
        let (agent, mut queue) = agent();
        let asks = agent.ask(Message::wrap(&ReadyCommand::default()), SendOptions::default());
        let then_ends = async {
            let request = queue.recv().await.unwrap();
            let answer = crate::command::agent::failed("no");
            assert!(agent.deliver(request.response(&[answer])));
            agent.close("it closed the connection");
        };
        let (answer, ()) = tokio::join!(asks, then_ends);
        assert_eq!(answer.unwrap().details(), "no");
        let late = agent.ask(Message::wrap(&ReadyCommand::default()), SendOptions::default()).await;
        assert!(matches!(late, Err(SendError::Gone { .. })), "{late:?}");
    }
}
