//! Where things lie in a system VM. One home for every path, so that a test can move them all
//! below a folder of its own by setting `TRIVIUM_ROOT`.

use std::path::{Path, PathBuf};

/// The folders of one system VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The paths of this machine: below `TRIVIUM_ROOT` where that is set, else of the VM itself.
    pub fn from_env() -> Self {
        Self { root: std::env::var_os("TRIVIUM_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from) }
    }

    /// All paths below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Turns an absolute path of the contract (`/var/cache/cloud/cmdline`) into the real one.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where documents arrive and where the host looks for answers.
    pub fn cache(&self) -> PathBuf {
        self.at("/var/cache/cloud")
    }

    /// The line of boot arguments.
    pub fn cmdline(&self) -> PathBuf {
        self.cache().join("cmdline")
    }

    /// Marks that the boot has finished; the host waits for it.
    pub fn boot_done(&self) -> PathBuf {
        self.cache().join("boot_up_done")
    }

    /// State of the role that outlives a reboot.
    pub fn state(&self, role: &str) -> PathBuf {
        self.at("/state").join(role)
    }

    /// What consoles have shown, where that is recorded; outlives a reboot.
    pub fn recordings(&self) -> PathBuf {
        self.at("/state/recordings")
    }

    /// Certificates and keys of the agent (`cloud.crt`, `cloud.ca.crt`, `cloud.key`, `agent.properties`).
    pub fn agent(&self) -> PathBuf {
        self.at("/usr/local/cloud/systemvm/conf")
    }

    /// Sockets of the running services.
    pub fn run(&self) -> PathBuf {
        self.at("/run/trivium")
    }

    /// Where a role's core answers the shim; mode 0600.
    pub fn core_socket(&self) -> PathBuf {
        self.run().join("core.sock")
    }

    /// Where a role's core waits for its serve process.
    pub fn serve_socket(&self) -> PathBuf {
        self.run().join("serve.sock")
    }

    /// Service folders of the image, of which a role uses some.
    pub fn available(&self) -> PathBuf {
        self.at("/etc/s6/services")
    }

    /// Services that the supervisor knows.
    pub fn services(&self) -> PathBuf {
        self.at("/run/service")
    }

    /// The short name of the role, one line; written before the role's services start.
    pub fn role(&self) -> PathBuf {
        self.run().join("role")
    }

    /// Where disks in the drive are shown.
    pub fn media(&self) -> PathBuf {
        self.run().join("media")
    }

    /// How far the start had come when; see [`crate::timeline`].
    pub fn timeline(&self) -> PathBuf {
        self.run().join("timeline")
    }

    /// The folder that all others lie below.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
