//! The management end: takes in agents and talks to them.
//!
//! An implementation of [`Manager`] decides who may join and what it shall do first; [`Server`]
//! does the rest: TLS, start-up, set-up commands, Ready, pings, queues, time-outs. To work with an
//! agent take its [`AttachedAgent`] from [`Server::agents`] or keep the one given to
//! [`Manager::attached`].

mod attached;
mod config;
mod connection;
mod joining;
mod listen;
mod registry;
mod requests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use attached::{AttachedAgent, SendError, SendOptions};
pub use config::ServerConfig;

use super::message::{AnswerBase, Message};
use super::tls::{Revoked, ServerTls};
use crate::command::agent::{AgentControlAnswer, ReadyCommand};

/// An agent at the door.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it comes from.
    pub address: SocketAddr,
    /// The start-up commands as they came; the first says who it is.
    pub startup: Vec<Message>,
    /// Serial number of the certificate that it showed, in hex; none without one.
    pub serial: Option<String>,
    /// The certificate was verified: issued by our authority, for this address, not revoked.
    pub verified: bool,
}

impl Candidate {
    /// A text member of the first start-up command: `guid`, `name`, `type`, `dataCenter` …
    pub fn text(&self, member: &str) -> &str {
        self.startup
            .first()
            .and_then(|command| command.body.get(member))
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    }
}

/// What an agent is taken in with.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Host id, the same for the same guid for ever; greater than 0.
    pub host_id: i64,
    /// UUID of the host record.
    pub host_uuid: String,
    /// Name of the host record.
    pub host_name: String,
    /// Commands to execute before Ready, one after the other.
    pub setup: Vec<Message>,
    /// The Ready command; the server fills in id, UUID and name.
    pub ready: ReadyCommand,
}

/// What the management end decides.
pub trait Manager: Send + Sync + 'static {
    /// Takes an agent in, or refuses it with a reason that the agent is told.
    fn admit(&self, candidate: &Candidate) -> impl Future<Output = Result<Admission, String>> + Send;

    /// The set-up commands have been answered, in their order; an error closes the connection.
    fn set_up(
        &self,
        agent: &AttachedAgent,
        answers: Vec<Message>,
    ) -> impl Future<Output = Result<(), String>> + Send {
        let _ = (agent, answers);
        async { Ok(()) }
    }

    /// The agent has said that it is ready.
    fn attached(&self, agent: &AttachedAgent) -> impl Future<Output = ()> + Send {
        let _ = agent;
        async {}
    }

    /// A request of an agent, for instance whether a console may be opened.
    fn control(&self, agent: &AttachedAgent, command: Message) -> impl Future<Output = Message> + Send {
        let _ = (agent, command);
        async { Message::wrap(&AgentControlAnswer { answer: AnswerBase::ok() }) }
    }

    /// A ping came. True asks the agent to send its start-up again.
    fn pinged(&self, agent: &AttachedAgent, ping: &Message) -> bool {
        let _ = (agent, ping);
        false
    }

    /// The connection of an agent has ended; called once for each that was admitted.
    fn detached(&self, agent: &AttachedAgent, reason: &str) -> impl Future<Output = ()> + Send {
        let _ = (agent, reason);
        async {}
    }
}

/// A running management end. Dropping it closes the listener and every connection.
pub struct Server {
    shared: Arc<registry::Registry>,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address` and serves until it is stopped or dropped.
    pub async fn bind<M: Manager>(
        address: SocketAddr,
        config: ServerConfig,
        tls: ServerTls,
        manager: Arc<M>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(registry::Registry::default());
        let door = listen::Door { config: Arc::new(config), tls, manager, registry: shared.clone() };
        let stop = CancellationToken::new();
        let task = tokio::spawn(listen::listen(listener, Arc::new(door), stop.clone()));
        Ok(Self { shared, address, stop, task })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A cheap reference through which agents are found.
    pub fn agents(&self) -> Agents {
        Agents { registry: self.shared.clone() }
    }

    /// Closes the listener and every connection, and waits a few seconds for their end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.close_all("the server stops");
    }
}

/// The agents that are connected now.
#[derive(Clone)]
pub struct Agents {
    registry: Arc<registry::Registry>,
}

impl Agents {
    /// The agent with this host id, once it has been admitted.
    pub fn get(&self, host_id: i64) -> Option<AttachedAgent> {
        self.registry.find(|agent| agent.host_id() == host_id)
    }

    /// The agent with this name of its host record.
    pub fn named(&self, name: &str) -> Option<AttachedAgent> {
        self.registry.find(|agent| agent.name() == name)
    }

    /// All agents, in no order.
    pub fn all(&self) -> Vec<AttachedAgent> {
        self.registry.all()
    }

    /// Closes the connections of agents whose certificate has been revoked.
    pub fn close_revoked(&self, revoked: &Revoked) {
        for agent in self.all() {
            if agent.serial().is_some_and(|serial| revoked.contains(serial)) {
                agent.close("its certificate has been revoked");
            }
        }
    }
}
