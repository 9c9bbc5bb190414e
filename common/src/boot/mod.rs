//! The boot arguments of a system VM: one line of `key=value` words, from whatever source the
//! hypervisor offers, read into one typed [`Identity`]; and what the VM does with them before its
//! role starts.

mod apply;
mod files;
mod identity;
mod known;
mod plan;
mod source;
mod sysctl;

use std::{fs, io, io::Write as _};

use tracing_subscriber::fmt::{format::Writer, time::FormatTime as _};

use crate::{paths::Paths, persist, timeline};

pub use apply::{apply, discard_state, facts};
pub use identity::{ArgumentError, Identity, LIMIT, Nic, Role, arguments};
pub use plan::{Facts, File, Plan, SSH_PORT, plan, rescue};
pub use source::{Seen, wait, wait_for_other};

/// Why there is no [`Identity`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The line of boot arguments cannot be read from its file.
    #[error("cannot read the boot arguments {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The arguments do not say what the VM is to be.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

/// Reads the [`Identity`] from the file that the boot left behind ([`Paths::cmdline`]).
///
/// # Errors
/// Where the file cannot be read or names no known role.
pub fn load(paths: &Paths) -> Result<Identity, LoadError> {
    let path = paths.cmdline();
    let bytes =
        fs::read(&path).map_err(|source| LoadError::Read { path: path.display().to_string(), source })?;
    Ok(Identity::parse(&String::from_utf8_lossy(&bytes))?)
}

/// Says that the role is up: writes [`Paths::boot_done`], for which the host waits, and one line
/// `TRIVIUM-READY role=<role> uptime=<seconds>` to the console. Doing it again does no harm.
///
/// # Errors
/// Where the file cannot be written; a console that cannot be written is no error.
pub fn ready(paths: &Paths, role: &str) -> io::Result<()> {
    let mut date = String::new();
    if tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut date)).is_err() {
        date.clear();
    }
    date.push('\n');
    persist::write(&paths.boot_done(), date.as_bytes(), 0o644)?;
    timeline::note(paths, &format!("{role}: ready"));
    console(paths, &format!("TRIVIUM-READY role={role} uptime={:.2}", timeline::uptime()));
    Ok(())
}

/// Writes one line to the console of the VM, where an operator without SSH sees it.
pub fn console(paths: &Paths, line: &str) {
    if let Ok(mut console) = fs::OpenOptions::new().append(true).open(paths.at("/dev/console")) {
        // A console that nobody reads must not hold up the boot.
        let _ = console.write_all(format!("{line}\r\n").as_bytes());
    }
}

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests;
