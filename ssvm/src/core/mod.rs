//! The privileged half: mounts, state, the management channel. It reads nothing that a stranger
//! wrote; that is the work of the serve process, to which it gives tasks.

mod cifs;
mod copy;
mod download;
mod export;
mod jobs;
pub(crate) mod mount;
mod nft;
mod packages;
mod resource;
mod startup;
mod state;
mod status;
mod stores;
mod upkeep;
mod uploads;
mod web;
mod workshop;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    boot::{self, Identity},
    channel::agent::{Agent, AgentConfig},
    handover::{self, Event},
    health::Health,
    paths::Paths,
    sandbox::{self, CapabilitySet, User},
    shim,
};
use futures_util::future::join_all;
use tokio::{
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    order::{Outcome, Task},
    store::StoreSpec,
    web::Tls,
    worker::LINE,
};
use jobs::{Jobs, Stand};
use mount::Mounts;
use resource::Role;
use state::State;
use uploads::Uploads;
use workshop::Workshop;

/// Between two sweeps of the stores.
const SWEEP: Duration = Duration::from_secs(3600);
/// Leftovers older than this are removed, in seconds.
const LEFTOVER: u64 = 24 * 3600;
/// Longest time for a sweep.
const SWEEP_LIMIT: Duration = Duration::from_secs(600);

/// Why the core cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreError {
    /// The VM does not know who it is.
    #[error(transparent)]
    Boot(#[from] boot::LoadError),
    /// A socket or the runtime cannot be made.
    #[error("The core cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Everything that commands work on.
pub(crate) struct Core {
    paths: Paths,
    identity: Identity,
    state: State,
    mounts: Mounts,
    workshop: Workshop,
    jobs: Jobs,
    uploads: Uploads,
    /// The way to the serve process.
    serve: handover::Core,
    /// For https until certificates are delivered.
    own_tls: Option<Tls>,
    health: Health,
    /// Stores that have a route in this life of the VM's core.
    routed: Mutex<HashSet<Ipv4Addr>>,
    /// Buckets that commands of this life have named.
    buckets: Mutex<BTreeMap<String, StoreSpec>>,
}

/// Runs until the service is stopped.
///
/// # Errors
/// Where the boot arguments or the sockets are missing.
pub(crate) fn run(paths: &Paths) -> Result<(), CoreError> {
    // Stores are mounted.
    sandbox::keep_only(sandbox::CORE.union(CapabilitySet::SYS_ADMIN));
    let identity = boot::load(paths)?;
    tokio::runtime::Runtime::new()?.block_on(core(paths, identity))
}

async fn core(paths: &Paths, identity: Identity) -> Result<(), CoreError> {
    let user = User::named(paths, User::SERVE)?;
    let (serve, events) = handover::Core::listen(paths, user)?;
    let core = Arc::new(Core {
        own_tls: web::own_certificate(paths, &identity),
        serve,
        uploads: Uploads::load(paths),
        state: State::load(paths),
        mounts: Mounts::new(paths),
        workshop: Workshop::new(),
        jobs: Jobs::load(paths),
        health: Health::default(),
        routed: Mutex::default(),
        buckets: Mutex::default(),
        paths: paths.clone(),
        identity,
    });
    core.load_filter().await;
    for site in core.state.get().sites {
        stores::route(&core.identity, &site.to_string(), core.identity.get("localgw")).await;
    }
    std::fs::create_dir_all(mount::parent(paths))?;
    core.offer_web();
    tokio::spawn(hear(Arc::clone(&core), events));
    core.resume_jobs();
    tokio::spawn(sweep(Arc::clone(&core)));
    let agent = Agent::start(agent_config(&core), Arc::new(Role(Arc::clone(&core))));
    let (handle, shared) = (agent.handle(), Arc::clone(&core));
    let commands =
        shim::listen(paths, move |request| status::command(Arc::clone(&shared), handle.clone(), request))?;
    boot::ready(paths, "ssvm")?;
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        () = commands => {}
        _ = stop.recv() => tracing::info!("stopping"),
    }
    agent.stop().await;
    Ok(())
}

fn agent_config(core: &Core) -> AgentConfig {
    let hosts = core.identity.list("host").into_iter().map(str::to_owned).collect();
    let mut config = AgentConfig::new(hosts, startup::resource_name(&core.identity), &core.paths);
    config.port = core.identity.parsed("port").unwrap_or(config.port);
    // A copy may take hours, and a dead store answers late: neither must keep a status poll waiting.
    config.workers = core.identity.parsed("workers").unwrap_or(config.workers).max(512);
    config
}

/// Hears what serve says: it wants a line for tasks, or has news of uploads.
async fn hear(core: Arc<Core>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if event.kind == LINE {
            give_line(&core, event);
        } else {
            tokio::spawn(Arc::clone(&core).upload_event(event));
        }
    }
}

/// Gives a line for tasks; the question says which uploads are under way.
fn give_line(core: &Arc<Core>, event: Event) {
    let running: BTreeSet<String> = event.parse().unwrap_or_default();
    let pair = std::os::unix::net::UnixStream::pair().and_then(|(ours, theirs)| {
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    });
    match pair {
        Ok((ours, theirs)) => {
            core.workshop.attach(ours);
            event.answer_with(&(), Some(theirs.into()));
            let core = Arc::clone(core);
            tokio::spawn(async move { core.uploads_running(running).await });
        }
        Err(error) => event.refuse(error.to_string()),
    }
}

/// Removes now and then what broken transfers left in the stores.
async fn sweep(core: Arc<Core>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        core.expire_links();
        let open = |job: &Arc<jobs::Job>| job.record().stand == Stand::Open;
        let live: Vec<String> = core.jobs.all().iter().filter(|j| open(j)).map(|j| j.record().id).collect();
        for (name, store) in core.known_stores().await {
            let Ok(store) = store else { continue };
            let task = Task::Sweep { store, age: LEFTOVER, live: live.clone() };
            match core.workshop.call(task, SWEEP_LIMIT).await {
                Ok(Outcome::Swept(removed)) if removed > 0 => tracing::info!(removed, store = name, "swept"),
                Ok(_) => {}
                Err(failure) => tracing::warn!(store = name, reason = failure.text, "not swept"),
            }
        }
    }
}

impl Core {
    /// Every store that this VM knows, by its URL or name, or why it is not there.
    async fn known_stores(&self) -> Vec<(String, Result<StoreSpec, String>)> {
        let exports = self.state.get().exports.into_values().map(|export| async move {
            let folder = self.mounted(&export, false).await;
            (export.url, folder.map(StoreSpec::Folder).map_err(|e| e.to_string()))
        });
        let mut stores = join_all(exports).await;
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stores.extend(buckets.into_iter().map(|(name, store)| (name, Ok(store))));
        stores
    }
}
