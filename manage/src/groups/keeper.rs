//! The host's end: keeps the packet filter as the manager's policy and the VMs here want it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    command::host::VirtualMachine,
    program::{self, ProgramError},
};
use tokio::sync::Mutex;

use super::{
    Policy, Port,
    plan::{REPLIES, RULES, Tracking, plan},
    table::{Ruleset, changes, replacement, seal},
};
use crate::{
    host::{HostError, write_private},
    machine::tap,
};

/// Longest run of `nft`.
const LIMIT: Duration = Duration::from_secs(30);
/// The switches by which bridged packets pass the filter of IP.
const SWITCHES: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];

/// What a host enforces, and what the kernel has of it. One change at a time.
pub(crate) struct Keeper {
    file: PathBuf,
    kept: Mutex<Kept>,
}

struct Kept {
    policy: Policy,
    /// Taps of VMs that run or are about to.
    active: BTreeSet<String>,
    /// What the kernel has; `None` where that is to be found out.
    applied: Option<Ruleset>,
    tracking: Option<Tracking>,
}

impl Keeper {
    /// Reads what the manager said last, and brings it about for the VMs that run. What goes wrong is tried again by
    /// [`Self::look`].
    pub(crate) async fn open(state: &Path, running: impl Iterator<Item = VirtualMachine>) -> Self {
        let file = state.join("groups.json");
        let read = |text: Vec<u8>| {
            serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::error!("{}: {error}; the manager says it again", file.display());
                Policy::default()
            })
        };
        let policy = fs::read(&file).ok().map(read);
        // A host without ports has never had a rule of ours, and may have no `nft`.
        let applied = policy.is_none().then(Ruleset::new);
        let policy = policy.unwrap_or_default();
        let active = running.flat_map(|vm| guarded(&vm)).collect();
        let keeper = Self { file, kept: Mutex::new(Kept { policy, active, applied, tracking: None }) };
        keeper.look().await;
        keeper
    }

    /// Takes a new policy; where it cannot be brought about the one before stays.
    pub(crate) async fn take(&self, text: &str) -> Result<(), HostError> {
        let mut new: Policy = serde_json::from_str(text).map_err(|error| refused(&error))?;
        let mut kept = self.kept.lock().await;
        // The manager names a VM no longer that is still to be stopped: until then it gets nothing more.
        for (tap, port) in kept.policy.ports.iter().filter(|(tap, _)| kept.active.contains(*tap)) {
            let bare = || Port { groups: BTreeSet::new(), ..port.clone() };
            new.ports.entry(tap.clone()).or_insert_with(bare);
        }
        let before = std::mem::replace(&mut kept.policy, new);
        // A host that is cut off in between must know that the kernel has rules of ours.
        let mut done = self.write(&kept.policy);
        if done.is_ok() {
            done = kept.apply().await;
        }
        if done.is_err() {
            kept.policy = before;
            self.write(&kept.policy)?;
        }
        if kept.applied.as_ref().is_some_and(Ruleset::is_empty) && kept.policy.ports.is_empty() {
            let _ = fs::remove_file(&self.file);
        }
        done
    }

    fn write(&self, policy: &Policy) -> Result<(), HostError> {
        let text = serde_json::to_vec(policy).map_err(|error| refused(&error))?;
        write_private(&self.file, &text)
    }

    /// Before the taps of a VM are made: from here on its rules stand.
    pub(crate) async fn plug(&self, vm: &VirtualMachine) -> Result<(), HostError> {
        let taps: Vec<String> = guarded(vm).collect();
        if taps.is_empty() {
            return Ok(());
        }
        let mut kept = self.kept.lock().await;
        if let Some(tap) = taps.iter().find(|tap| !kept.policy.ports.contains_key(*tap)) {
            return Err(HostError::Groups(format!(
                "{}: the manager has not said what {tap} may send and get; the VM was not started",
                vm.name
            )));
        }
        let before = kept.active.clone();
        kept.active.extend(taps);
        let done = kept.apply().await;
        if done.is_err() {
            kept.active = before;
        }
        done
    }

    /// After the taps of a VM have gone: its rules go, too.
    pub(crate) async fn unplug(&self, vm: &VirtualMachine) {
        let mut kept = self.kept.lock().await;
        let before = kept.active.len();
        for tap in guarded(vm) {
            kept.active.remove(&tap);
        }
        if kept.active.len() != before
            && let Err(error) = kept.apply().await
        {
            tracing::warn!("{}: {error}", vm.name);
        }
    }

    /// Sees whether the kernel still has it, and puts it there again where somebody else has flushed all rules.
    pub(crate) async fn look(&self) {
        let mut kept = self.kept.lock().await;
        let there = match &kept.applied {
            Some(ruleset) if ruleset.is_empty() => true,
            Some(ruleset) => is_sealed(&seal(ruleset)).await,
            None => false,
        };
        if there {
            return;
        }
        if kept.applied.take().is_some() {
            tracing::warn!("somebody has removed the rules of the security groups; they are put there again");
        }
        if let Err(error) = kept.apply().await {
            tracing::error!("{error}");
        }
    }
}

impl Kept {
    /// Brings the kernel to what is wanted, by one transaction.
    async fn apply(&mut self) -> Result<(), HostError> {
        let tracking = match self.tracking {
            Some(tracking) => tracking,
            // There is nothing to track.
            None if self.policy.ports.is_empty() => Tracking::Bridge,
            None => *self.tracking.insert(find_tracking().await),
        };
        let wanted = plan(&self.policy, |tap| self.active.contains(tap), tracking);
        let mark = seal(&wanted);
        let text = match &self.applied {
            Some(before) if *before == wanted => return Ok(()),
            Some(before) if before.is_empty() || wanted.is_empty() => changes(before, &wanted),
            Some(before) => format!("{}delete chain {RULES} {}\n", changes(before, &wanted), seal(before)),
            // After a restart of this program.
            None if !wanted.is_empty() && is_sealed(&mark).await => {
                self.applied = Some(wanted);
                return Ok(());
            }
            None => replacement(&wanted, &[RULES, REPLIES]),
        };
        let text = if wanted.is_empty() { text } else { format!("{text}add chain {RULES} {mark}\n") };
        if tracking == Tracking::Mark && !wanted.is_empty() {
            for switch in SWITCHES {
                fs::write(switch, "1").map_err(HostError::file(Path::new(switch)))?;
            }
        }
        nft(&["-f", "-"], text).await.map_err(|error| refused(&error))?;
        self.applied = Some(wanted);
        Ok(())
    }
}

fn refused(reason: &dyn std::fmt::Display) -> HostError {
    HostError::Groups(format!("security groups: {reason}; what was in force before stays"))
}

/// Taps of the NICs whose packets are judged.
fn guarded(vm: &VirtualMachine) -> impl Iterator<Item = String> + use<> {
    let id = vm.id;
    let nics: Vec<u32> = vm.nics.iter().filter(|nic| nic.guarded).map(|nic| nic.device_id).collect();
    nics.into_iter().map(move |device| tap(id, device))
}

/// Whether the kernel has the ruleset of this seal.
async fn is_sealed(seal: &str) -> bool {
    let mut words = vec!["list", "chain"];
    words.extend(RULES.split(' '));
    words.push(seal);
    nft(&words, String::new()).await.is_ok()
}

/// Whether the kernel keeps connections of bridges; nothing is changed.
async fn find_tracking() -> Tracking {
    let probe = "add table bridge trivium_probe\nadd chain bridge trivium_probe c\n\
                 add rule bridge trivium_probe c ct state established accept\n";
    if nft(&["-c", "-f", "-"], probe.to_owned()).await.is_ok() {
        return Tracking::Bridge;
    }
    // Where there is no such module it may be built in.
    let _ = run("modprobe", &["br_netfilter"], String::new()).await;
    tracing::info!(
        "this kernel keeps no connections of bridges (nf_conntrack_bridge): br_netfilter does instead"
    );
    Tracking::Mark
}

async fn nft(words: &[&str], input: String) -> Result<String, ProgramError> {
    run("nft", words, input).await
}

async fn run(name: &'static str, words: &[&str], input: String) -> Result<String, ProgramError> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || program::run(name, words, input.as_bytes(), LIMIT)).await;
    ended.unwrap_or_else(|error| {
        let source = std::io::Error::other(error);
        Err(ProgramError::Start { program: name.to_owned(), source })
    })
}
