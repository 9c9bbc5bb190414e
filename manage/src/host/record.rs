//! What a host remembers of each VM, so that it knows them again after it was started anew.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use common::command::host::VirtualMachine;
use serde::{Deserialize, Serialize};

use super::HostError;

/// Longest path of a folder of a VM: sockets lie in it, and the kernel allows 107 bytes for the
/// path of one; SSH adds 22 to its own while it makes it.
const FOLDER_LIMIT: usize = 76;

/// The folder of one VM.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder of the VM of that name below the host's state folder.
    pub(super) fn new(state: &Path, name: &str) -> Result<Self, HostError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(HostError::Name(name.to_owned()));
        }
        let path = state.join("vm").join(name);
        if path.as_os_str().len() > FOLDER_LIMIT {
            return Err(HostError::LongPath(path));
        }
        Ok(Self(path))
    }

    /// Makes the folder; only root may look into it.
    pub(super) fn make(&self) -> Result<(), HostError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(HostError::file(&self.0))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Overlay on the image.
    pub(super) fn disk(&self) -> PathBuf {
        self.0.join("disk.qcow2")
    }

    /// Socket of the guest agent.
    pub(super) fn agent(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// Socket of QEMU's monitor.
    pub(super) fn qmp(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }

    /// Socket of the SSH connection.
    pub(super) fn ssh(&self) -> PathBuf {
        self.0.join("ssh.sock")
    }

    /// What the VM writes to its serial console.
    pub(super) fn serial(&self) -> PathBuf {
        self.0.join("serial.log")
    }

    /// File in which QEMU writes its process id.
    pub(super) fn pid_file(&self) -> PathBuf {
        self.0.join("qemu.pid")
    }

    /// Password of the console.
    pub(super) fn console_secret(&self) -> PathBuf {
        self.0.join("console.secret")
    }

    fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }
}

/// A process that cannot be taken for another one: process ids are used again, start times are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// Process id.
    pub(super) pid: i32,
    /// Clock ticks between the machine's boot and the start of the process.
    pub(super) started: u64,
}

impl Process {
    /// The process with that id, if there is one that is not a zombie.
    pub(super) fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; the fields after it are plain.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, started: fields.nth(18)?.parse().ok()? })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }
}

/// What is known of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The VM as it was started.
    pub(super) vm: VirtualMachine,
    /// Its QEMU.
    pub(super) process: Option<Process>,
    /// Whether its start went through.
    pub(super) ready: bool,
    /// Port of its console.
    pub(super) console_port: Option<u16>,
    /// What the overlay lies on: size and time of the image.
    pub(super) image: Option<(u64, i64)>,
}

impl Record {
    /// Reads the record of a VM; `None` where there is none, or it was cut off while it was written.
    pub(super) fn load(folder: &Folder) -> Option<Self> {
        let text = fs::read(folder.record()).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!("{:?}: {error}", folder.record()))
            .ok()
    }

    /// Writes the record, whole or not at all.
    pub(super) fn save(&self, folder: &Folder) -> Result<(), HostError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| HostError::file(&folder.record())(std::io::Error::other(error)))?;
        write_private(&folder.record(), &text)
    }

    /// Whether its QEMU runs.
    pub(super) fn is_alive(&self) -> bool {
        self.process.is_some_and(Process::is_alive)
    }
}

/// Writes a file that only root may read, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), HostError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(HostError::file(path))
}

/// Folders of all VMs that this host has had.
pub(super) fn all(state: &Path) -> Vec<Folder> {
    let Ok(entries) = fs::read_dir(state.join("vm")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Folder::new(state, &name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
    }

    #[test]
    fn a_name_cannot_leave_the_folder() {
        for name in ["../x", "", "a/b", "a b"] {
            assert!(matches!(Folder::new(Path::new("/s"), name), Err(HostError::Name(_))), "{name}");
        }
        assert!(matches!(Folder::new(Path::new(&"/s".repeat(40)), "r-1-VM"), Err(HostError::LongPath(_))));
    }
}
