//! The privileged half of the router: starts, re-adopts what runs, answers the host's commands, keeps
//! serve supplied, and follows NICs that come and go.

mod accounting;
mod alerts;
mod archive;
pub mod bundle;
mod checks;
mod clock;
mod commands;
mod diagnose;
mod engine;
mod inbox;
mod legacy;
mod media;
mod metrics;
mod zip;

use std::{io, sync::Arc, time::Duration};

use common::{
    boot, handover,
    paths::Paths,
    sandbox::{self, CapabilitySet, User},
    shim, timeline,
};
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
    sync::Mutex,
    time::{sleep, timeout},
};

use self::{commands::Commands, engine::Engine};
use crate::{
    apply::{ApplyError, Network},
    balance, helper,
    link::netlink::{LinkError, Netlink},
    nft::run::Changes,
    redundancy::keeper::Keeper,
    snapshot::{COUNTERS, EVENT, Event},
    state::{Setup, SetupError},
    sysctl,
};

/// How long the start waits for the NICs of the boot arguments.
const NICS: Duration = Duration::from_secs(15);
/// News of NICs that come within this time are dealt with together.
const SETTLE: Duration = Duration::from_millis(50);
/// After a failure to follow the NICs, how long until the next try.
const RETRY: Duration = Duration::from_secs(5);

/// How often is looked whether what elects still runs.
const ELECTION: Duration = Duration::from_millis(250);

/// How often is looked whether what speaks BGP still runs.
const SPEAKER: Duration = Duration::from_millis(500);

/// How often is looked whether what balances still runs.
const BALANCE: Duration = Duration::from_secs(1);

/// Why the core could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no boot arguments that can be used.
    #[error(transparent)]
    Boot(#[from] boot::LoadError),
    /// They ask for something else.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The durable state cannot be read.
    #[error(transparent)]
    State(#[from] common::persist::PersistError),
    /// The network cannot be brought to it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// NICs cannot be read.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// Something of the system is not there.
    #[error("{what}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// What it keeps of root's privileges, for the daemons that it looks after (FRR, HAProxy, keepalived, conntrackd)
/// and to read an ISO.
const PRIVILEGES: CapabilitySet = sandbox::CORE
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::IPC_LOCK);

/// Runs until the service is stopped. Stopping leaves the network as it is.
pub fn run(paths: &Paths) -> Result<(), Error> {
    common::log::init();
    sandbox::keep_only(PRIVILEGES);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io_error("cannot start the runtime"))?;
    runtime.block_on(serve(paths))
}

async fn serve(paths: &Paths) -> Result<(), Error> {
    let note = |what: &str| timeline::note(paths, &format!("core: {what}"));
    note("starts");
    let mut setup = Setup::new(&boot::load(paths)?)?;
    setup.helpers = helper::present().await;
    let netlink = Netlink::open(setup.pair.is_some()).map_err(io_error("cannot open netlink"))?;
    wait_for_nics(&setup, &netlink).await?;
    note("NICs are there");
    sysctl::apply(&sysctl::plan(&setup, sysctl::memory()));
    let changes = Changes::open(paths).await.map_err(ApplyError::from)?;
    let mut network = Network::load(paths, setup, netlink.clone(), changes)?;
    let mut keeper = Keeper::new(paths);
    network.adopt_role(&mut keeper).await?;
    network.reconcile().await?;
    note("the network is in force");
    let user = User::named(paths, User::SERVE).map_err(io_error("cannot read the accounts"))?;
    let (handover, mut events) =
        handover::Core::listen(paths, user).map_err(io_error("cannot listen for serve"))?;
    let engine = Arc::new(Mutex::new(Engine::new(paths, network, handover, keeper)?));
    let commands = Commands::new(paths.clone(), Arc::clone(&engine), netlink.clone());
    let listening = shim::listen(paths, move |request| commands.clone().run(request))
        .map_err(io_error("cannot listen for commands"))?;
    let mut listening = tokio::spawn(listening);
    boot::ready(paths, "router").map_err(io_error("cannot tell that the boot is done"))?;

    // Tasks of their own: each holds the engine while it waits for the kernel or for HAProxy, and what is
    // heard from serve below waits for the engine.
    let mut following = tokio::spawn(follow(netlink, Arc::clone(&engine)));
    let mut balancing = tokio::spawn(watch_balance(Arc::clone(&engine)));
    let mut electing = tokio::spawn(follow_pair(paths.clone(), Arc::clone(&engine)));
    let mut speaking = tokio::spawn(speak(Arc::clone(&engine)));
    let log = paths.clone();
    tokio::spawn(async move { balance::log::keep(&log).await });
    let (first, own) = (engine.lock().await.handover().connected(), paths.clone());
    tokio::spawn(async move {
        let mut first = first;
        if first.wait_for(|there| *there).await.is_ok() {
            timeline::note(&own, "core: guests are answered");
        }
    });
    let (told, heard) = (Arc::clone(&engine), engine.lock().await.handover().connected());
    tokio::spawn(async move { alerts::follow(heard, &told).await });
    let mut end = signal(SignalKind::terminate()).map_err(io_error("cannot await signals"))?;
    loop {
        tokio::select! {
            _ = &mut listening => return Ok(()),
            _ = &mut following => return Ok(()),
            _ = &mut balancing => return Ok(()),
            _ = &mut electing => return Ok(()),
            _ = &mut speaking => return Ok(()),
            _ = end.recv() => return Ok(()),
            Some(event) = events.recv() => hear(event, &engine).await,
        }
    }
}

/// Deals with what serve tells, and answers it.
async fn hear(event: handover::Event, engine: &Mutex<Engine>) {
    match event.kind.as_str() {
        EVENT => match event.parse() {
            Ok(Event::PasswordTaken { address, serial }) => {
                match engine.lock().await.password_taken(address, serial) {
                    Ok(taken) => event.answer(&taken),
                    Err(error) => event.refuse(error.to_string()),
                }
            }
            Err(error) => event.refuse(format!("unknown event: {error}")),
        },
        COUNTERS => match event.parse() {
            Ok(counters) => {
                engine.lock().await.counters = counters;
                event.answer(&true);
            }
            Err(error) => event.refuse(format!("no counters: {error}")),
        },
        kind => {
            let reason = format!("unknown kind {kind}");
            event.refuse(reason);
        }
    }
}

/// Waits a bounded time for the NICs of the boot arguments; those that come later are followed.
async fn wait_for_nics(setup: &Setup, netlink: &Netlink) -> Result<(), LinkError> {
    let mut news = netlink.news();
    let wanted: Vec<String> = setup.inner().chain(&setup.public).map(|nic| nic.name()).collect();
    let all = async {
        loop {
            let devices = netlink.devices().await?;
            if wanted.iter().all(|name| devices.get(name).is_some()) || news.changed().await.is_err() {
                return Ok(());
            }
        }
    };
    timeout(NICS, all).await.unwrap_or_else(|_| {
        tracing::warn!(?wanted, "not all NICs are there");
        Ok(())
    })
}

/// Sees to it that others hear of guests' networks.
async fn speak(engine: Arc<Mutex<Engine>>) {
    loop {
        engine.lock().await.speak().await;
        sleep(SPEAKER).await;
    }
}

/// Sees to it that what is balanced stays so, and that the management server hears where it does not.
async fn watch_balance(engine: Arc<Mutex<Engine>>) {
    let (mut away, mut told) = (false, 0);
    loop {
        sleep(BALANCE).await;
        let mut engine = engine.lock().await;
        let before = engine.balancer().is_well();
        engine.balancer().tick().await;
        let (well, ends) = (engine.balancer().is_well(), engine.balancer().ends());
        if well && away {
            engine.alerts.note("INFO", "haproxy", "service is running again");
        } else if well && ends > told {
            engine.alerts.note("INFO", "haproxy", alerts::RESTARTED);
        } else if !before && !well && !away {
            engine.alerts.note("ALERT", "haproxy", "service is down: nothing is balanced");
            away = true;
        }
        if well {
            (away, told) = (false, ends);
        }
    }
}

/// Follows the election of a pair: what keepalived tells is heard at once, and that it is there is seen to.
async fn follow_pair(paths: Paths, engine: Arc<Mutex<Engine>>) {
    if engine.lock().await.network().setup().pair.is_none() {
        return std::future::pending().await;
    }
    let mut events = None;
    loop {
        if events.is_none() {
            let opened = Keeper::events(&paths);
            events = opened.inspect_err(|error| tracing::warn!(%error, "keepalived cannot be heard")).ok();
        }
        let mut text = vec![0; 4096];
        let length = match &mut events {
            Some(pipe) => timeout(ELECTION, pipe.read(&mut text)).await.unwrap_or(Ok(0)),
            None => {
                sleep(ELECTION).await;
                Ok(0)
            }
        };
        text.truncate(length.unwrap_or(0));
        let outcome = engine.lock().await.tend(&String::from_utf8_lossy(&text)).await;
        if let Err(error) = outcome {
            tracing::warn!(%error, "the network does not follow the election");
            sleep(ELECTION).await;
        }
    }
}

/// Brings the network to the state in force again whenever a NIC has come, gone or changed.
async fn follow(netlink: Netlink, engine: Arc<Mutex<Engine>>) {
    let mut news = netlink.news();
    while news.changed().await.is_ok() {
        sleep(SETTLE).await;
        news.mark_unchanged();
        let outcome = engine.lock().await.reconcile().await;
        if let Err(error) = outcome {
            tracing::warn!(%error, "the network does not follow the NICs");
            sleep(RETRY).await;
            news.mark_changed();
        }
    }
}
