//! The agent's end: finds a server, joins it, stays with it, and comes back when it is lost.
//!
//! A role implements [`Resource`] and calls [`Agent::start`]. From then on the agent connects
//! (host list, back-off, certificates that may arrive late), executes what the server sends, pings,
//! and answers by itself what concerns no role: ready, lists of servers, migration, certificates,
//! maintenance, shutdown.

mod addresses;
mod config;
mod core;
mod properties;
mod run;
mod session;
mod state;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use config::{AgentConfig, Timings};

use super::message::{AnswerBase, Message};
use crate::command::agent::{CheckHealthAnswer, ReadyAnswer, ReadyCommand};

/// What a role brings to the channel.
pub trait Resource: Send + Sync + 'static {
    /// The start-up commands, the role's own first. The agent fills in `id`, `msHostList` and
    /// `connectionTransferred` of each.
    fn startup(&self) -> Vec<Message>;

    /// Executes one command and gives its answer. Several run at once, up to
    /// [`AgentConfig::workers`]; a command that panics is answered with a failure. What the role
    /// does not know it answers with [`crate::command::agent::unsupported`].
    ///
    /// Commands may come before [`Resource::ready`] has been called.
    fn execute(&self, command: Message) -> impl Future<Output = Message> + Send;

    /// The ping command; the agent fills in `hostId`.
    fn ping(&self) -> Message;

    /// The server has taken the agent in. May happen more than once a connection.
    fn ready(&self, command: &ReadyCommand) -> ReadyAnswer {
        let _ = command;
        ReadyAnswer { details_map: None, answer: AnswerBase::ok() }
    }

    /// Whether the role is well; asked by the server's health check.
    fn health(&self) -> CheckHealthAnswer {
        let details = Some("resource is alive".to_owned());
        CheckHealthAnswer { answer: AnswerBase { details, ..AnswerBase::ok() } }
    }

    /// The connection has gone; running commands go on.
    fn disconnected(&self) {}
}

/// What the agent knows of its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Host of the server that the agent is connected to.
    pub server: Option<String>,
    /// The server has said Ready on this connection.
    pub ready: bool,
    /// The connection is one that both sides have proved themselves on.
    pub secured: bool,
    /// Host id that a server gave, also from an earlier life.
    pub host_id: Option<i64>,
    /// UUID of the host record.
    pub host_uuid: Option<String>,
    /// Name of the host record.
    pub host_name: Option<String>,
    /// How many connections were made in this life.
    pub connections: u64,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
    /// The server told the agent to stop for good.
    pub dismissed: bool,
}

/// Why a request to the server has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection, or it was lost while waiting.
    #[error("no server is connected")]
    NotConnected,
    /// No answer in time.
    #[error("the server did not answer within {0:?}")]
    Timeout(Duration),
    /// More requests are on their way than the agent keeps track of.
    #[error("too many requests wait for an answer")]
    Busy,
    /// The answer has no message in it.
    #[error("the server's answer cannot be read: {0}")]
    Unreadable(String),
}

/// What others ask of the running agent.
pub(super) enum Order {
    /// Send a control request; hand back the answer if somebody waits.
    Request(Message, Option<oneshot::Sender<Result<Message, RequestError>>>, Duration),
    /// Send a ping now.
    Ping,
    /// Certificates have changed: load them and connect anew.
    Reload,
}

/// A running agent. Dropping it aborts the agent; [`Agent::stop`] ends it in good order.
pub struct Agent {
    handle: AgentHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A cheap reference to a running agent.
#[derive(Clone)]
pub struct AgentHandle {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
}

impl AgentHandle {
    /// Asks the server and waits for its answer at most `timeout`.
    pub async fn request(&self, command: Message, timeout: Duration) -> Result<Message, RequestError> {
        let (sender, answer) = oneshot::channel();
        let ask = async {
            self.orders
                .send(Order::Request(command, Some(sender), timeout))
                .await
                .map_err(|_| RequestError::NotConnected)?;
            answer.await.map_err(|_| RequestError::NotConnected)?
        };
        tokio::time::timeout(timeout, ask).await.unwrap_or(Err(RequestError::Timeout(timeout)))
    }

    /// Tells the server something; its answer is dropped.
    pub async fn post(&self, command: Message) -> Result<(), RequestError> {
        if self.status.borrow().server.is_none() {
            return Err(RequestError::NotConnected);
        }
        self.orders
            .send(Order::Request(command, None, Duration::ZERO))
            .await
            .map_err(|_| RequestError::NotConnected)
    }

    /// Sends a ping at once, between two regular ones.
    pub async fn ping(&self) {
        let _ = self.orders.send(Order::Ping).await;
    }

    /// Loads the certificates and connects anew with them. Also forgets that a server told the
    /// agent to stop for good.
    pub async fn reload(&self) {
        let _ = self.orders.send(Order::Reload).await;
    }

    /// What the agent knows of its place, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl std::ops::Deref for Agent {
    type Target = AgentHandle;

    fn deref(&self) -> &AgentHandle {
        &self.handle
    }
}

impl Agent {
    /// Starts an agent in the current tokio runtime. It never gives up: connection errors are
    /// logged and seen in [`Status::last_error`].
    pub fn start<R: Resource>(config: AgentConfig, resource: Arc<R>) -> Self {
        let (orders, inbox) = mpsc::channel(256);
        let (sender, status) = watch::channel(Status::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(run::run(config, resource, inbox, sender, stop.clone()));
        Self { handle: AgentHandle { orders, status }, stop, task }
    }

    /// A reference for those who ask the server or watch the status.
    pub fn handle(&self) -> AgentHandle {
        self.handle.clone()
    }

    /// Tells the server good-bye, closes the connection and waits for the end, at most a few seconds.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(5), &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
