//! Stores whose server does not answer, or no longer knows what it exported.

use std::{fs, process::Command};

use super::{LIMIT, Lab};
use crate::lab::Process;

/// How a store is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Nothing that is asked of it is ever answered.
    Silent,
    /// All handles are stale until it has been mounted anew.
    Stale,
}

/// Breaks the export `b`, which has been set up, for the serve process: until what is returned ends.
///
/// # Panics
/// Where the machine lets no such file system be mounted.
pub fn break_b(lab: &Lab, how: How) -> Process {
    break_export(lab, "b", how)
}

/// The same for another export.
///
/// # Panics
/// Where the machine lets no such file system be mounted.
pub fn break_export(lab: &Lab, export: &str, how: How) -> Process {
    let script = lab.folder.path().join("broken.py");
    fs::write(&script, include_str!("broken_store.py")).expect("script");
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", lab.serve.id())).arg("python3").arg(script);
    command.arg(if how == How::Silent { "silent" } else { "stale" }).arg(lab.file(export, ""));
    if how == How::Stale {
        let mounts = fs::read_dir(lab.folder.path().join("mnt/SecStorage")).expect("mounts");
        let mut links = mounts.map(|entry| entry.expect("entry").path());
        let link = links.find(|link| fs::read_link(link).is_ok_and(|to| to.ends_with(export)));
        command.arg(link.expect("the export is set up"));
    }
    let mut process = Process::start(command);
    process.wait_line("mounted", LIMIT);
    process
}
