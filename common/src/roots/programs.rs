//! The programs of the root in the other slot, taken over without a restart of the machine.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sha2::{Digest as _, Sha256};

use super::{Header, Running, key, read_last};
use crate::{
    paths::Paths,
    shim::wire::{self, Request},
    supervise::{self, Action},
};

/// Where our programs lie, in every root.
const FOLDER: &str = "/opt/trivium";
/// How long a service must have run to count as well.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it may take until then.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Time for the core to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Why the programs are those of before.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// There is no other root, or not now.
    #[error("{0}; nothing was changed")]
    Root(#[from] super::RootsError),
    /// What lies in the other slot is not what was signed.
    #[error("the other slot is not what was signed: {0}; nothing was changed")]
    Signature(String),
    /// They cannot be put in place.
    #[error("{path}: {source}; the programs are those of before")]
    Place {
        /// The program or partition.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A service does not run with them.
    #[error("{service} does not run with the new programs ({why}); those of before run again")]
    Service {
        /// `serve` or `core`.
        service: &'static str,
        /// What its supervisor said.
        why: String,
    },
}

/// Has the services of this machine run the programs of the root in the other slot, until the next start.
/// First serve is started anew, then core: either keeps the sockets for the other, so that no datagram and
/// no connection attempt is lost. Where one of them does not come back, those of before run again.
/// Returns the header of the root that they are of.
///
/// # Errors
/// Where there is no such root or its programs do not run.
pub fn take_over(paths: &Paths) -> Result<Header, ProgramsError> {
    let running = Running::load(paths)?;
    if running.trial {
        return Err(super::RootsError::Trial.into());
    }
    let header = verified(paths, &running.other)?;
    let role = fs::read_to_string(paths.role()).unwrap_or_default();
    let names = ["boot", "shim", role.trim()];
    let mounted = Mounted::new(paths, &running.other)?;
    let placed =
        Placed::put(&mounted.folder.join(FOLDER.trim_start_matches('/')), &paths.at(FOLDER), &names)?;
    drop(mounted);
    for service in ["serve", "core"] {
        if let Err(why) = renew(paths, service) {
            placed.take_back();
            for service in ["serve", "core"] {
                let _ = renew(paths, service);
            }
            return Err(ProgramsError::Service { service, why });
        }
    }
    placed.keep();
    let note = paths.run().join("programs");
    if let Err(error) = fs::write(&note, &header.version) {
        tracing::warn!(%error, "which programs run is not kept");
    }
    Ok(header)
}

/// The version of the programs that were taken over since the machine started.
pub(super) fn taken_over(paths: &Paths) -> Option<String> {
    fs::read_to_string(paths.run().join("programs")).ok()
}

/// The header of a slot, once every byte behind it is known to be what was signed.
fn verified(paths: &Paths, slot: &Path) -> Result<Header, ProgramsError> {
    let at = |source| ProgramsError::Place { path: slot.display().to_string(), source };
    let wrong = ProgramsError::Signature;
    let block = read_last(slot).map_err(at)?;
    let key = key(paths).ok_or_else(|| wrong("this image has no key for bundles".into()))?;
    let header = Header::verify(&block, &key).map_err(|error| wrong(error.to_string()))?;
    let mut sum = Sha256::new();
    let mut content = File::open(slot).map_err(at)?.take(header.data + header.tree);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = content.read(&mut buffer).map_err(at)?;
        if length == 0 {
            break;
        }
        sum.update(&buffer[..length]);
    }
    if hex::encode(sum.finalize()) != header.sum {
        return Err(wrong("its content has changed".into()));
    }
    Ok(header)
}

/// A slot whose files can be read; no longer when this is dropped.
struct Mounted {
    folder: PathBuf,
}

impl Mounted {
    fn new(paths: &Paths, slot: &Path) -> Result<Self, ProgramsError> {
        let folder = paths.run().join("next");
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        fs::create_dir_all(&folder)
            .and_then(|()| Ok(mount(slot, &folder, c"squashfs", flags, None)?))
            .map_err(|source| ProgramsError::Place { path: slot.display().to_string(), source })?;
        Ok(Self { folder })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.folder, UnmountFlags::DETACH) {
            tracing::warn!(%error, "the other root stays mounted");
        }
    }
}

/// Programs that were replaced, each at once, those of before beside them.
struct Placed {
    folder: PathBuf,
    names: Vec<String>,
}

impl Placed {
    /// Copies programs from one folder into the place of those in another.
    fn put(from: &Path, folder: &Path, names: &[&str]) -> Result<Self, ProgramsError> {
        let mut placed = Self { folder: folder.to_owned(), names: Vec::new() };
        // All copies are there before the first is used.
        let copied = names.iter().try_for_each(|name| {
            let next = placed.beside(name, "next");
            fs::copy(from.join(name), &next).map(drop).map_err(|source| (next, source))
        });
        let put = copied.and_then(|()| {
            names.iter().try_for_each(|name| {
                let (program, before) = (folder.join(name), placed.beside(name, "before"));
                let _ = fs::remove_file(&before);
                fs::hard_link(&program, &before)
                    .and_then(|()| fs::rename(placed.beside(name, "next"), &program))
                    .map_err(|source| (program, source))?;
                placed.names.push((*name).to_owned());
                Ok(())
            })
        });
        match put {
            Ok(()) => Ok(placed),
            Err((path, source)) => {
                for name in names {
                    let _ = fs::remove_file(placed.beside(name, "next"));
                }
                placed.take_back();
                Err(ProgramsError::Place { path: path.display().to_string(), source })
            }
        }
    }

    fn beside(&self, name: &str, what: &str) -> PathBuf {
        self.folder.join(format!(".{name}.{what}"))
    }

    /// Those of before are the programs again.
    fn take_back(&self) {
        for name in &self.names {
            if let Err(error) = fs::rename(self.beside(name, "before"), self.folder.join(name)) {
                tracing::error!(%error, name, "the program of before cannot be put back");
            }
        }
    }

    /// Those of before can go.
    fn keep(self) {
        for name in &self.names {
            let _ = fs::remove_file(self.beside(name, "before"));
        }
    }
}

/// Starts a service anew and waits until it is well: up for a while without a break, and, for the core, answering.
fn renew(paths: &Paths, service: &'static str) -> Result<(), String> {
    let start = Instant::now();
    supervise::control(paths, service, Action::Restart).map_err(|error| error.to_string())?;
    loop {
        let status = supervise::status(paths, service).map_err(|error| error.to_string())?;
        let answers = || wire::call(paths, &Request::new(["status"]), ANSWER).is_ok();
        if status.up && status.seconds >= SETTLE.as_secs() && answers() {
            return Ok(());
        }
        if start.elapsed() >= LIMIT {
            return Err(status.to_string());
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_all_replaced_or_none_and_can_be_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        for (folder, text) in [(&new, "new"), (&old, "old")] {
            fs::create_dir(folder).unwrap();
            for name in ["boot", "router"] {
                fs::write(folder.join(name), text).unwrap();
            }
        }
        let is = |text: &str| {
            ["boot", "router"].iter().all(|name| fs::read_to_string(old.join(name)).unwrap() == text)
        };
        let files = || fs::read_dir(&old).unwrap().count();
        assert!(Placed::put(&new, &old, &["boot", "router", "none"]).is_err());
        assert!(is("old") && files() == 2, "one that is not there: none is replaced");
        let placed = Placed::put(&new, &old, &["boot", "router"]).unwrap();
        assert!(is("new"));
        placed.take_back();
        assert!(is("old") && files() == 2);
        Placed::put(&new, &old, &["boot", "router"]).unwrap().keep();
        assert!(is("new") && files() == 2);
    }
}
