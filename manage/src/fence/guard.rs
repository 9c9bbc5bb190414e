//! A host's guard: a process of its own, which lives on when `manage host` ends, and ends the host's system VMs when
//! the host has not held for too long.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    net::UdpSocket,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{Moment, Roll, Timing, beat, links::Links, now};
use crate::host::{self, HostError};

/// A guard's word is not believed when it is older than this.
const STALE: Duration = Duration::from_secs(5);
/// A guard that has nothing new to say says so after this time again. A guard that begins anew counts from its last
/// word, so it may act earlier by this, never later.
const SAY_AGAIN: Duration = Duration::from_secs(2);
/// The log of guards begins anew where it is longer than this.
const LOG_LIMIT: u64 = 1024 * 1024;

/// What a guard remembers and tells, in `guard.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Word {
    /// Which boot of the machine the times count from.
    boot: String,
    /// Number of the guard's run.
    run: u64,
    /// How often the host was fenced.
    pub(crate) epoch: u64,
    /// The list of votes by which it has held; empty where it never has.
    pub(crate) generation: String,
    /// Milliseconds since boot when it held last.
    held: u64,
    /// Milliseconds since boot when this was written.
    written: u64,
    /// It holds now.
    pub(crate) holds: bool,
    /// Its system VMs were ended, and it has not held since.
    pub(crate) fenced: bool,
}

impl Word {
    /// Takes in whether the host holds; true where its system VMs must not run.
    pub(crate) fn look(&mut self, holds: bool, generation: &str, now: Moment, fence: Duration) -> bool {
        self.holds = holds;
        self.written = millis(now);
        if holds {
            self.held = millis(now);
            generation.clone_into(&mut self.generation);
            self.fenced = false;
            return false;
        }
        // Who has never held was never given a VM.
        let silent = now.saturating_sub(Duration::from_millis(self.held));
        if self.generation.is_empty() || silent < fence {
            return false;
        }
        if !self.fenced {
            self.fenced = true;
            self.epoch += 1;
        }
        true
    }

    /// What the guard below `state` said last; `None` where there is none, or it is an old word.
    pub(crate) fn heard(state: &Path) -> Option<Self> {
        let word = Self::load(state).filter(|word| word.boot == boot_id())?;
        let age = now().saturating_sub(Duration::from_millis(word.written));
        (age <= STALE).then_some(word)
    }

    fn load(state: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(state.join("guard.json")).ok()?).ok()
    }

    /// Written whole, and not forced to the disk: it is of this boot.
    fn save(&self, state: &Path) -> std::io::Result<()> {
        let beside = state.join("guard.new");
        fs::write(&beside, serde_json::to_vec(self)?)?;
        fs::rename(&beside, state.join("guard.json"))
    }
}

fn millis(moment: Moment) -> u64 {
    u64::try_from(moment.as_millis()).unwrap_or(u64::MAX)
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Where the list of votes lies.
pub(crate) fn roll_file(state: &Path) -> PathBuf {
    state.join("roll.json")
}

fn lock(state: &Path) -> std::io::Result<File> {
    let path = state.join("guard.lock");
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// Starts a guard where none runs.
///
/// # Errors
/// Where `setsid` is not there, or fails.
pub(crate) fn ensure(state: &Path) -> Result<(), HostError> {
    let file = lock(state).map_err(HostError::file(state))?;
    if file.try_lock().is_err() {
        return Ok(());
    }
    drop(file);
    let fail = |reason: String| HostError::Command { command: "setsid".to_owned(), reason };
    let log = state.join("guard.log");
    let long = fs::metadata(&log).is_ok_and(|meta| meta.len() > LOG_LIMIT);
    let mut options = OpenOptions::new();
    options.create(true).append(!long).write(true).truncate(long).mode(0o600);
    let log = options.open(&log).map_err(HostError::file(&log))?;
    let program = std::env::current_exe().map_err(HostError::file(Path::new("/proc/self/exe")))?;
    let status = Command::new("setsid")
        .arg("--fork")
        .arg(program)
        .args(["guard", "--state"])
        .arg(state)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(HostError::file(state))?)
        .stderr(log)
        .status()
        .map_err(|error| fail(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(fail(status.to_string())) }
}

/// Guards until the state folder is gone; ends at once where another guard does.
///
/// # Errors
/// Where there is no folder.
pub(crate) fn run(state: &Path) -> Result<(), HostError> {
    let state = state.canonicalize().map_err(HostError::file(state))?;
    let lock = lock(&state).map_err(HostError::file(&state))?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let mut guard = Guard::new(&state);
    while state.is_dir() {
        guard.turn();
    }
    Ok(())
}

struct Guard {
    state: PathBuf,
    word: Word,
    /// The text of the list of votes, and what came of it.
    text: Vec<u8>,
    network: Option<(UdpSocket, Links)>,
    /// The list, where it names no other host: then there is nobody to hear.
    alone: Option<Roll>,
    next_beat: Moment,
    next_look: Moment,
    next_word: Moment,
}

impl Guard {
    fn new(state: &Path) -> Self {
        let boot = boot_id();
        let kept = Word::load(state).unwrap_or_default();
        // A later run has a greater number, also where the state was lost.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let run = clock.max(kept.run + 1);
        let word = if kept.boot == boot {
            Word { run, ..kept }
        } else {
            Word { boot, run, epoch: kept.epoch, ..Word::default() }
        };
        tracing::info!("guard of {} begins run {run}", state.display());
        Self {
            state: state.to_owned(),
            word,
            text: Vec::new(),
            network: None,
            alone: None,
            next_beat: Moment::ZERO,
            next_look: Moment::ZERO,
            next_word: Moment::ZERO,
        }
    }

    /// Sends, looks and listens until the next of these is due.
    fn turn(&mut self) {
        let time = now();
        if time >= self.next_look {
            self.read_roll(time);
            self.look(time);
            self.next_look = time + Timing::TICK;
        }
        if time >= self.next_beat {
            if let Some((socket, links)) = &mut self.network {
                for (to, datagram) in links.beats(time) {
                    // Who cannot be reached does not answer, either.
                    let _ = socket.send_to(&datagram, to);
                }
            }
            self.next_beat = time + Timing::BEAT;
        }
        let until = self.next_look.min(self.next_beat).saturating_sub(now());
        listen(self.network.as_mut(), until.max(Duration::from_millis(1)));
    }

    /// Takes in a new list of votes. What was known of others ends with the old one.
    fn read_roll(&mut self, time: Moment) {
        let Ok(text) = fs::read(roll_file(&self.state)) else { return };
        if text == self.text && (self.network.is_some() || self.alone.is_some()) {
            return;
        }
        (self.network, self.alone) = (None, None);
        let read = serde_json::from_slice::<Roll>(&text).map_err(|error| error.to_string());
        let opened = read.and_then(|roll| {
            if roll.is_alone() {
                self.alone = Some(roll);
                return Ok(());
            }
            let socket = UdpSocket::bind(roll.at).map_err(|error| format!("UDP {}: {error}", roll.at))?;
            self.word.run += 1;
            tracing::info!("{} votes, list {}", roll.votes(), roll.generation);
            self.network = Some((socket, Links::new(roll, self.word.run, time)));
            Ok(())
        });
        if let Err(error) = opened
            && text != self.text
        {
            tracing::error!("{}: {error}", roll_file(&self.state).display());
        }
        self.text = text;
    }

    fn look(&mut self, time: Moment) {
        let (holds, generation, fence) = match (&self.network, &self.alone) {
            (Some((_, links)), _) => {
                let roll = links.roll();
                (links.holds(time), roll.generation.clone(), roll.timing().fence)
            }
            (None, Some(roll)) => (true, roll.generation.clone(), roll.timing().fence),
            // Without a list that can be used nothing is known.
            (None, None) => (false, String::new(), Timing::LONGEST),
        };
        let before = (self.word.holds, self.word.fenced);
        let held_by = self.word.generation.clone();
        let must_end = self.word.look(holds, &generation, time, fence);
        match (before, (self.word.holds, self.word.fenced)) {
            ((_, false), (_, true)) => {
                tracing::error!(
                    "neither the manager nor more than half of all votes for {fence:?}: system VMs end"
                );
            }
            ((false, _), (true, _)) => tracing::info!("holds"),
            ((true, _), (false, _)) => {
                tracing::warn!("hears neither the manager nor more than half of all votes")
            }
            _ => {}
        }
        if must_end {
            for name in host::end_system_vms(&self.state) {
                tracing::error!("{name} was ended");
            }
        }
        let news = before != (self.word.holds, self.word.fenced) || held_by != self.word.generation;
        if news || time >= self.next_word {
            self.next_word = time + SAY_AGAIN;
            if let Err(error) = self.word.save(&self.state)
                && self.state.is_dir()
            {
                tracing::error!("{}: {error}", self.state.display());
            }
        }
    }
}

/// Takes in what comes until the time is over.
fn listen(network: Option<&mut (UdpSocket, Links)>, limit: Duration) {
    let Some((socket, links)) = network else {
        std::thread::sleep(limit);
        return;
    };
    let mut buffer = vec![0; beat::LIMIT + 64];
    if socket.set_read_timeout(Some(limit)).is_err() {
        std::thread::sleep(limit);
        return;
    }
    match socket.recv_from(&mut buffer) {
        Ok((length, _)) => {
            links.receive(&buffer[..length], now());
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        // An ICMP error of an earlier beat, and whatever else: not in a busy loop.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn vms_end_when_the_host_has_not_held_for_so_long() {
        let mut word = Word::default();
        assert!(!word.look(true, "g", at(100), FENCE) && word.holds);
        assert!(!word.look(false, "g", at(114), FENCE));
        assert!(word.look(false, "g", at(115), FENCE));
        assert!(word.look(false, "g", at(116), FENCE), "and whatever is started until it holds again");
        assert_eq!((word.epoch, word.fenced), (1, true));
        assert!(!word.look(true, "g", at(117), FENCE));
        assert_eq!((word.epoch, word.fenced), (1, false));
    }

    #[test]
    fn who_never_held_ends_nothing() {
        let mut word = Word::default();
        assert!(!word.look(false, "g", at(1_000), FENCE));
        assert_eq!(word.epoch, 0);
    }
}
