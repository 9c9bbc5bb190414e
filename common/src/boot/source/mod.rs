//! Where the boot arguments come from: the kernel's command line, what VMware, XenServer and Hyper-V
//! have for it, or the file that a KVM host has the guest agent write.

mod hypervisor;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use hypervisor::Hypervisor;

use super::LIMIT;
use crate::{
    paths::Paths,
    persist::{self, PersistError},
};

/// Pause between two looks at the file: a host writes it once, and nothing else waits on this processor.
const PAUSE: Duration = Duration::from_millis(50);
/// Time that a host has to write the file anew before one that is there from the boot before counts.
const REWRITE: Duration = Duration::from_secs(10);
/// Pause between two lines in the log that say what is waited for.
const REMIND: Duration = Duration::from_secs(30);
/// Pause between two questions to a hypervisor.
const ASK: Duration = Duration::from_secs(1);
/// Version of [`Seen`].
const VERSION: u32 = 1;

/// The arguments of the boot before, to tell a restart from a new start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Their line.
    pub line: String,
    /// When the file was last written: seconds, then nanoseconds.
    pub written: (i64, i64),
}

impl Seen {
    /// What the boot before saw; nothing where there was none, or what it left is damaged.
    pub fn load(paths: &Paths) -> Option<Self> {
        match persist::load(&paths.state("boot.json"), VERSION) {
            Ok(loaded) => loaded.value,
            Err(error) => {
                tracing::warn!(%error, "the boot arguments of the boot before are lost");
                None
            }
        }
    }

    /// Keeps this for the next boot.
    ///
    /// # Errors
    /// Where the disk says no.
    pub fn save(&self, paths: &Paths) -> Result<(), PersistError> {
        persist::save(&paths.state("boot.json"), VERSION, self)
    }
}

/// Waits for the boot arguments, at most `limit`. A file that the boot before has seen already counts
/// only after the host had some time to write a new one.
///
/// # Errors
/// Where nothing came in time.
pub fn wait(paths: &Paths, before: Option<&Seen>, limit: Duration) -> io::Result<Seen> {
    if let Some(line) = kernel(&paths.at("/proc/cmdline")) {
        tracing::info!("boot arguments on the kernel's command line");
        return Ok(Seen { line, written: (0, 0) });
    }
    let start = Instant::now();
    let mut remind = REMIND;
    let mut ask = Duration::ZERO;
    let hypervisor = Hypervisor::of(paths);
    loop {
        if start.elapsed() >= ask {
            if let Some(line) = hypervisor.arguments(paths) {
                tracing::info!(?hypervisor, "boot arguments of the hypervisor");
                return Ok(Seen { line, written: (0, 0) });
            }
            ask = start.elapsed() + ASK;
        }
        match file(&paths.cmdline()) {
            Some(seen) if Some(&seen) != before => return Ok(seen),
            Some(seen) if start.elapsed() >= REWRITE.min(limit) => {
                tracing::info!("the host wrote no new boot arguments: those of the boot before count");
                return Ok(seen);
            }
            _ => {}
        }
        if start.elapsed() >= limit {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no boot arguments came"));
        }
        if start.elapsed() >= remind {
            tracing::info!(seconds = remind.as_secs(), "still waiting for boot arguments");
            remind += REMIND;
        }
        sleep(PAUSE);
    }
}

/// Waits until the file is written again, at most `limit`.
pub fn wait_for_other(paths: &Paths, seen: &Seen, limit: Duration) -> Option<Seen> {
    let start = Instant::now();
    while start.elapsed() < limit {
        match file(&paths.cmdline()) {
            Some(other) if other != *seen => return Some(other),
            _ => sleep(PAUSE * 10),
        }
    }
    None
}

/// The kernel's command line where it holds boot arguments.
fn kernel(path: &Path) -> Option<String> {
    let line = fs::read_to_string(path).ok()?;
    super::arguments(&line).contains_key("type").then(|| line.trim().to_owned())
}

/// The file's line once it is whole: not empty, and ended.
fn file(path: &Path) -> Option<Seen> {
    let about = fs::metadata(path).ok()?;
    if about.len() > LIMIT as u64 {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let line = String::from_utf8_lossy(&bytes).into_owned();
    let whole = line.ends_with('\n') && !line.trim().is_empty();
    whole.then_some(Seen { line, written: (about.mtime(), about.mtime_nsec()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(120);

    fn paths() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        fs::create_dir_all(paths.cache()).unwrap();
        fs::create_dir_all(paths.at("/proc")).unwrap();
        (folder, paths)
    }

    #[test]
    fn the_kernel_line_comes_first() {
        let (_folder, paths) = paths();
        fs::write(paths.at("/proc/cmdline"), "console=ttyS0 panic=1 type=router name=r-1-VM\n").unwrap();
        assert!(wait(&paths, None, SOON).unwrap().line.ends_with("type=router name=r-1-VM"));
        fs::write(paths.at("/proc/cmdline"), "console=ttyS0 rootfstype=ext4\n").unwrap();
        assert_eq!(wait(&paths, None, SOON).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_line_counts_when_it_is_whole() {
        let (_folder, paths) = paths();
        fs::write(paths.cmdline(), " template=domP type=rou").unwrap();
        let (cmdline, writer) = (paths.cmdline(), Duration::from_secs(20));
        let late = std::thread::spawn(move || fs::write(cmdline, "template=domP type=router name=r-1-VM\n"));
        assert!(wait(&paths, None, writer).unwrap().line.contains("type=router "));
        late.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_seen_before_counts_late() {
        let (_folder, paths) = paths();
        fs::write(paths.cmdline(), "type=router name=r-1-VM\n").unwrap();
        let first = wait(&paths, None, SOON).unwrap();
        first.save(&paths).unwrap();
        let before = Seen::load(&paths);
        assert_eq!(before.as_ref(), Some(&first));
        let start = Instant::now();
        assert_eq!(wait(&paths, before.as_ref(), SOON).unwrap(), first);
        assert!(start.elapsed() >= SOON);
    }
}
