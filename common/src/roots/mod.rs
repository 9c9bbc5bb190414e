//! The two roots of the image and how one takes the place of the other: a signed bundle is put into the
//! slot that does not run, tried once at the next start, and kept only where the machine became well.
//!
//! A slot is a partition: the file system (`data`), its hash tree (dm-verity), and in the last block the
//! [`Header`]. A bundle is the same in the order of a stream: header, data, tree. Which slot is started
//! stands in the last block of the state partition ([`Choice`]), which no file system covers. The first
//! stage (`image/initrd/init`) reads both, counts the attempt before it makes it, and says in
//! [`Running`] what it did. The programs of the other slot alone can be taken over while the machine runs
//! ([`take_over`]).

mod choice;
mod header;
mod programs;
mod receive;
mod running;
mod trial;

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

pub use choice::{Choice, Slot};
pub use header::{Header, HeaderError, MAGIC};
pub use programs::{ProgramsError, take_over};
pub use receive::{Receiver, Verdict, verdict};
pub use running::Running;
pub use trial::confirm;

use crate::paths::Paths;

/// Bytes of a block: of headers, choices, file system and tree.
pub const BLOCK: usize = 4096;

/// Why there is no next root.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The machine was not started by our first stage.
    #[error("which root runs is not known: {0}")]
    Unknown(String),
    /// A root is being tried: the other slot holds the one to go back to.
    #[error("the root that runs is still being tried")]
    Trial,
    /// There is no bundle in the other slot.
    #[error("the other slot holds no whole root")]
    Empty,
    /// The disk says no.
    #[error("{path}: {source}")]
    Io {
        /// The partition.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Has the next start try the root of the other slot, once. Returns its header.
///
/// # Errors
/// Where there is none, or the one that runs is itself on trial; the choice stays what it was.
pub fn try_next(paths: &Paths) -> Result<Header, RootsError> {
    let running = Running::load(paths)?;
    if running.trial {
        return Err(RootsError::Trial);
    }
    let header = running.other_header().ok_or(RootsError::Empty)?;
    let choice = Choice { active: running.slot, attempt: Some(running.slot.other()), left: 1, failed: None };
    write_last(&running.choice, &choice.block()).map_err(|source| io_at(&running.choice, source))?;
    Ok(header)
}

/// The lines of `status` on roots and bundle.
pub fn status(paths: &Paths) -> String {
    let Ok(running) = Running::load(paths) else { return String::new() };
    let trial = if running.trial { ", on trial" } else { "" };
    let mut text = format!("root: {} in slot {}{trial}\n", running.version, running.slot);
    if let Some(version) = programs::taken_over(paths) {
        text.push_str(&format!("programs: those of {version}, until the next start\n"));
    }
    let choice = read_last(&running.choice).ok().and_then(|block| Choice::parse(&block));
    match choice {
        Some(Choice { attempt: Some(slot), left: 1.., .. }) => {
            let version =
                running.other_header().map_or_else(|| "nothing".to_owned(), |header| header.version);
            text.push_str(&format!("root: the next start tries {version} in slot {slot}\n"));
        }
        Some(Choice { failed: Some(slot), .. }) => {
            text.push_str(&format!("root: what lies in slot {slot} was tried and did not become ready\n"));
        }
        _ => {}
    }
    match verdict(paths) {
        Some(verdict) => text + &format!("bundle: {verdict}\n"),
        None => text,
    }
}

/// The key that bundles for this image are signed with.
fn key(paths: &Paths) -> Option<Vec<u8>> {
    let text = fs::read_to_string(paths.at("/opt/trivium/bundle.pub")).ok()?;
    hex::decode(text.trim()).ok()
}

/// The last block of a partition.
fn read_last(device: &Path) -> io::Result<Vec<u8>> {
    let mut file = OpenOptions::new().read(true).open(device)?;
    file.seek(SeekFrom::End(-(BLOCK as i64)))?;
    let mut block = vec![0; BLOCK];
    file.read_exact(&mut block)?;
    Ok(block)
}

/// Replaces the last block of a partition; it is on the disk when this returns.
fn write_last(device: &Path, block: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    file.seek(SeekFrom::End(-(BLOCK as i64)))?;
    file.write_all(block)?;
    file.sync_all()
}

fn io_at(path: &Path, source: io::Error) -> RootsError {
    RootsError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests;
