//! `manage host`: runs VMs on this machine for the manager.
//!
//! It is an agent on the management channel. VMs are QEMU processes of their own: they live on
//! when this program ends, and it knows them again when it comes back.

mod accel;
mod agent;
mod execute;
mod join;
mod line;
mod monitor;
mod net;
mod qemu;
mod record;
mod ssh;
mod start;
mod watch;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use common::{
    channel::agent::{Agent, AgentConfig},
    paths::Paths,
};
use tokio::sync::{Mutex as Turn, OnceCell};
use tokio_util::sync::CancellationToken;

use accel::Accelerator;
pub(crate) use join::{JoinAnswer, JoinFile, JoinRequest};
pub(crate) use line::LineError;
use record::Folder;
pub(crate) use record::write_private;
use ssh::Ssh;
pub(crate) use start::end_system_vms;

use crate::{
    fence::guard::{self, Word},
    groups::Keeper,
};

/// How long a start waits for the guard to hold.
const HOLD: Duration = Duration::from_secs(10);

/// Why a host could not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// A file or folder.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A name that is not one of a VM.
    #[error("{0:?} is not the name of a VM")]
    Name(String),
    /// Sockets would have too long a path.
    #[error("{0}: too long for sockets; give a shorter --state")]
    LongPath(PathBuf),
    /// Another program failed.
    #[error("{command}: {reason}")]
    Command {
        /// Which.
        command: String,
        /// What it said.
        reason: String,
    },
    /// The guest agent.
    #[error("Guest agent of {vm}: {source}")]
    Agent {
        /// Which VM.
        vm: String,
        /// Cause.
        source: LineError,
    },
    /// SSH never answered.
    #[error("No SSH server answers at {address}:3922 within {limit:?}")]
    NoSsh {
        /// Control address.
        address: String,
        /// How long was waited.
        limit: Duration,
    },
    /// ICMP echo is not answered.
    #[error("{0} does not answer ICMP echo")]
    NoEcho(String),
    /// A system VM without a control NIC.
    #[error("{0} has no control NIC")]
    NoControl(String),
    /// The VM is not there.
    #[error("{0} does not run on this host")]
    NotRunning(String),
    /// Its guard does not hold.
    #[error(
        "This host starts no VM: its guard hears neither the manager nor more than half of all votes; \
         do UDP ports 8252 of the hosts and 8253 of the manager reach each other?"
    )]
    NoHold,
    /// It was cut off since the connection was made.
    #[error("This host was cut off from its zone since this order may have been given; it connects anew")]
    CutOff,
    /// Stopped while it started.
    #[error("{0} was stopped while it started")]
    Stopped(String),
    /// Security groups.
    #[error("{0}")]
    Groups(String),
    /// This host could not join.
    #[error("{0}")]
    Join(String),
    /// TLS files.
    #[error("{0}")]
    Tls(#[from] common::channel::tls::TlsError),
}

impl HostError {
    /// Turns the error of a file into one that names it.
    pub(crate) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path: path.clone(), source }
    }
}

/// This host.
pub(crate) struct Host {
    /// Name by which it joined.
    name: String,
    /// Its management address.
    address: String,
    /// Zone and pod on the wire.
    place: (u64, u64),
    /// Folder of all that it keeps.
    state: PathBuf,
    /// Kernel with which KVM is tried.
    kernel: Option<PathBuf>,
    accelerator: OnceCell<Accelerator>,
    /// How often this host had been fenced when it connected last.
    epoch: AtomicU64,
    /// What its guests may send and get.
    groups: Keeper,
    /// One start, stop or command at a time for each VM.
    turns: Mutex<HashMap<String, VmTurns>>,
}

/// What keeps the commands to one VM apart.
#[derive(Clone, Default)]
struct VmTurns {
    /// Starts and stops.
    life: Arc<Turn<()>>,
    /// Scripts run in it.
    script: Arc<Turn<()>>,
    /// Cancelled when a stop comes while it starts.
    cancel: CancellationToken,
}

impl Host {
    fn turns(&self, vm: &str) -> VmTurns {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(vm.to_owned()).or_default().clone()
    }

    /// Breaks off a start that is under way.
    fn cancel_start(&self, vm: &str) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = turns.entry(vm.to_owned()).or_default();
        entry.cancel.cancel();
        entry.cancel = CancellationToken::new();
    }

    async fn accelerator(&self) -> Accelerator {
        let probe = async {
            let found = accel::probe(self.kernel.as_deref()).await;
            tracing::info!("VMs run under {}", found.word());
            found
        };
        *self.accelerator.get_or_init(|| probe).await
    }

    /// How often this host has been fenced so far, where its guard says so.
    fn fenced(&self) -> Option<u64> {
        Word::heard(&self.state).map(|word| word.epoch)
    }

    /// Whether a VM may be started now: the guard holds, and this host was not fenced since it made the connection by
    /// which the order came. One that was on its way while the host was cut off may be carried out elsewhere by now.
    async fn may_start(&self, epoch: u64) -> Result<(), HostError> {
        let until = Instant::now() + HOLD;
        // A manager that has told of no votes moves no VMs, either.
        while guard::roll_file(&self.state).exists() {
            match Word::heard(&self.state) {
                Some(word) if word.epoch != epoch => return Err(HostError::CutOff),
                Some(word) if word.holds => return Ok(()),
                _ if Instant::now() >= until => return Err(HostError::NoHold),
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        Ok(())
    }

    fn ssh(&self, folder: &Folder, address: &str) -> Ssh {
        Ssh { address: address.to_owned(), key: self.key_file(), socket: folder.ssh() }
    }

    fn key_file(&self) -> PathBuf {
        self.state.join("id_rsa")
    }
}

/// Joins the zone if need be, then runs until it is told to end.
pub(crate) async fn run(state: &Path, join_file: Option<&Path>) -> Result<(), HostError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(HostError::file(state))?;
    let state = state.canonicalize().map_err(HostError::file(state))?;
    // Found out now rather than at the first VM.
    Folder::new(&state, "i-2-65535-VM")?;
    let membership = join::membership(&state, join_file).await?;
    let running = record::all(&state).into_iter().filter_map(|folder| start::known(&folder));
    let running = running.filter(record::Record::is_alive).map(|record| record.vm);
    let host = Arc::new(Host {
        groups: Keeper::open(&state, running).await,
        name: membership.host.clone(),
        address: membership.address.clone(),
        place: (membership.zone, membership.pod),
        kernel: membership.kernel.clone(),
        accelerator: OnceCell::new(),
        epoch: AtomicU64::new(0),
        turns: Mutex::default(),
        state: state.clone(),
    });
    tracing::info!("{} at {}: {}", host.name, host.address, host.accelerator().await.word());
    watch::adopt(&host);
    guard::ensure(&state)?;
    let config = AgentConfig {
        port: membership.port,
        workers: 64,
        folder: join::certificates(&state),
        require_authority: true,
        ..AgentConfig::new(vec![membership.manager], execute::RESOURCE, &Paths::below(&state))
    };
    let agent = Agent::start(config, host.clone());
    let watch = tokio::spawn(watch::watch(host, agent.handle()));
    crate::until_terminated().await;
    watch.abort();
    agent.stop().await;
    Ok(())
}
