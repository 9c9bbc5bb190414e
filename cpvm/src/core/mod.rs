//! The privileged half: the channel to management, the packet filter, and every socket.
//!
//! [`plan`] turns the boot arguments into listeners and routes, [`firewall`] into rules. [`agent`] does
//! what management says, [`gate`] and [`ledger`] keep which sessions may be opened, are open and have
//! ended, [`desk`] answers serve, [`report`] tells management, [`operator`] tells the operator. [`options`] is what the
//! operator has decided, [`recordings`] the folder of what consoles have shown.

mod agent;
mod desk;
pub mod firewall;
pub mod gate;
pub mod ledger;
mod operator;
pub mod options;
pub mod plan;
pub mod recordings;
mod report;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use common::{
    boot::{self, Identity, LoadError, Role},
    channel::agent::{Agent, AgentConfig, AgentHandle},
    handover::{self, Event},
    health::Health,
    paths::Paths,
    sandbox::{self, User},
    shim,
};
use tokio::sync::mpsc;

use self::{gate::Gate, ledger::Ledger, options::Options};
use crate::wire::{self, Settings};

/// Why the core cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The boot arguments cannot be read.
    #[error(transparent)]
    Boot(#[from] LoadError),
    /// They are those of another role.
    #[error("boot argument type={0}: this is the console proxy")]
    Role(String),
    /// A socket of the VM cannot be made, or a file not be read.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

/// What the parts of the core share.
struct Proxy {
    identity: Identity,
    paths: Paths,
    serve: handover::Core,
    agent: OnceLock<AgentHandle>,
    health: Health,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    gate: Gate,
    ledger: Ledger,
    /// What management has set; `None` until it has started the listeners.
    settings: Option<Settings>,
    /// Keys of the sessions that an operator has cut; those of ended ones are dropped with the next cut.
    cut: Vec<u64>,
    /// The operator's options as they were last read; `None` where they could not be read yet.
    options: Option<Options>,
    /// Recordings that are being written, by the session's key.
    tapes: BTreeMap<u64, String>,
}

impl Proxy {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `proxy_vm` of the boot arguments; 0 where there is none.
    fn number(&self) -> i64 {
        self.identity.parsed("proxy_vm").unwrap_or_default()
    }
}

/// Runs until the process is ended.
///
/// # Errors
/// Where the core cannot start.
pub fn run(paths: &Paths) -> Result<(), Error> {
    sandbox::keep_only(sandbox::CORE);
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(core(paths))
}

async fn core(paths: &Paths) -> Result<(), Error> {
    let identity = boot::load(paths)?;
    if identity.role != Role::ConsoleProxy {
        return Err(Error::Role(identity.kind));
    }
    let health = Health::new();
    let filter = firewall::apply(&identity);
    health.report("firewall", filter.map_err(|error| error.to_string()));
    let (serve, events) = handover::Core::listen(paths, User::named(paths, User::SERVE).unwrap_or_default())?;
    let window = Duration::from_millis(identity.parsed("session_reconnection_window").unwrap_or_default());
    let proxy = Arc::new(Proxy {
        paths: paths.clone(),
        serve,
        agent: OnceLock::new(),
        health,
        window,
        state: Mutex::new(State { gate: Gate::new(window), ..State::default() }),
        identity,
    });
    let agent = Agent::start(config(&proxy), Arc::new(agent::Console(Arc::clone(&proxy))));
    let _ = proxy.agent.set(agent.handle());
    let commands = {
        let proxy = Arc::clone(&proxy);
        shim::listen(paths, move |request| {
            let proxy = Arc::clone(&proxy);
            async move { operator::answer(&proxy, &request).await }
        })?
    };
    boot::ready(paths, Role::ConsoleProxy.name())?;
    tokio::select! {
        () = commands => {}
        () = serving(&proxy, events) => {}
        () = report::run(&proxy) => {}
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
    }
    agent.stop().await;
    Ok(())
}

fn config(proxy: &Proxy) -> AgentConfig {
    let hosts = proxy.identity.list("host").into_iter().map(str::to_owned).collect();
    let mut config = AgentConfig::new(hosts, agent::RESOURCE, &proxy.paths);
    if let Some(port) = proxy.identity.parsed("port") {
        config.port = port;
    }
    config
}

/// Takes what serve sends; questions are answered side by side.
async fn serving(proxy: &Arc<Proxy>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event.kind.as_str() {
            wire::OPEN => {
                tokio::spawn(desk::open(Arc::clone(proxy), event));
            }
            wire::TAPE => desk::tape(proxy, event),
            wire::ENDED => desk::ended(proxy, &event),
            wire::ALIVE => desk::alive(proxy, &event),
            kind => tracing::warn!(kind, "serve sent something unknown"),
        }
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot be told to stop");
            std::future::pending().await
        }
    }
}
