//! A bundle as it comes: checked before a byte of it is written, and valid only once it is whole.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write as _},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{BLOCK, Header, MAGIC, Running, key, write_last};
use crate::{paths::Paths, persist};

/// Version of [`Verdict`] on disk.
const VERSION: u32 = 1;

/// What became of the archive that a host has uploaded last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is no bundle of ours: the archive of the reference, which is never applied.
    Stock,
    /// It is the root that runs.
    Same(String),
    /// It lies in the other slot, whole.
    Ready(String),
    /// It was refused, and why.
    Refused(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stock => {
                f.write_str("the archive that the host has sent is not for this image, and was not applied")
            }
            Self::Same(version) => write!(f, "{version} is what runs"),
            Self::Ready(version) => {
                write!(f, "{version} is in place; a live patch has the next start try it")
            }
            Self::Refused(why) => write!(f, "refused, nothing was changed: {why}"),
        }
    }
}

/// What became of the last upload; nothing where there was none yet.
pub fn verdict(paths: &Paths) -> Option<Verdict> {
    persist::load(&place(paths), VERSION).ok()?.value
}

fn place(paths: &Paths) -> std::path::PathBuf {
    paths.state("bundle.json")
}

/// Where the bytes go.
enum Step {
    /// Not yet a block of them.
    Head(Vec<u8>),
    /// Into the other slot.
    Into(Box<Slot>),
    /// Nowhere, for this reason.
    Done(Verdict),
}

struct Slot {
    header: Header,
    block: Vec<u8>,
    running: Running,
    file: File,
    left: u64,
    sum: Sha256,
}

/// Takes the bytes of an upload. An upload never fails for what its bytes are, since a host could then
/// not start the VM: what is wrong stands in the [`Verdict`].
pub struct Receiver {
    paths: Paths,
    step: Step,
}

impl Receiver {
    /// At the first byte.
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone(), step: Step::Head(Vec::new()) }
    }

    /// Takes the next bytes.
    pub fn write(&mut self, mut bytes: &[u8]) {
        if let Step::Head(head) = &mut self.step {
            let part = bytes.len().min(BLOCK - head.len());
            head.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if head.len() < BLOCK {
                return;
            }
            let block = std::mem::take(head);
            self.step = begin(&self.paths, block).map_or_else(Step::Done, |slot| Step::Into(Box::new(slot)));
        }
        if let Step::Into(slot) = &mut self.step
            && let Err(error) = slot.write(bytes)
        {
            self.step = Step::Done(Verdict::Refused(error.to_string()));
        }
    }

    /// At the last byte: keeps the verdict, and returns it.
    pub fn finish(self) -> Verdict {
        let verdict = match self.step {
            Step::Head(head) if head.starts_with(MAGIC) => {
                Verdict::Refused("it ends within its header".into())
            }
            Step::Head(_) => Verdict::Stock,
            Step::Into(slot) => slot.finish().unwrap_or_else(|error| Verdict::Refused(error.to_string())),
            Step::Done(verdict) => verdict,
        };
        if let Err(error) = persist::save(&place(&self.paths), VERSION, &verdict) {
            tracing::warn!(%error, "what became of the bundle is not kept");
        }
        verdict
    }
}

/// Looks at the header; nothing is written before it is known to be ours.
fn begin(paths: &Paths, block: Vec<u8>) -> Result<Slot, Verdict> {
    if !block.starts_with(MAGIC) {
        return Err(Verdict::Stock);
    }
    let refused = |why: String| Verdict::Refused(why);
    let key = key(paths).ok_or_else(|| refused("this image has no key for bundles".into()))?;
    let header = Header::verify(&block, &key).map_err(|error| refused(error.to_string()))?;
    let running = Running::load(paths).map_err(|error| refused(error.to_string()))?;
    if header.root == running.root {
        return Err(Verdict::Same(header.version));
    }
    if running.other_header().is_some_and(|other| other == header) {
        return Err(Verdict::Ready(header.version));
    }
    if running.trial {
        return Err(refused("the root that runs is still being tried".into()));
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    if header.kernel != kernel {
        return Err(refused(format!(
            "it is for kernel {}, and {kernel} runs: another kernel takes a new system VM",
            header.kernel
        )));
    }
    let slot = open(header, block, running);
    slot.map_err(|error| refused(format!("the other slot cannot be written: {error}")))
}

/// Makes the other slot invalid, and ready to be written.
fn open(header: Header, block: Vec<u8>, running: Running) -> io::Result<Slot> {
    let mut file = OpenOptions::new().write(true).open(&running.other)?;
    let room = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
    let left = header.data + header.tree;
    if left + BLOCK as u64 > room {
        return Err(io::Error::other(format!("the root has {left} bytes, the slot {room}")));
    }
    write_last(&running.other, &[0; BLOCK])?;
    io::Seek::rewind(&mut file)?;
    Ok(Slot { header, block, running, file, left, sum: Sha256::new() })
}

impl Slot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("it is longer than its header says"))?;
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }

    /// Only a whole root gets its header.
    fn finish(self) -> io::Result<Verdict> {
        if self.left > 0 {
            return Err(io::Error::other(format!("{} bytes of it are missing", self.left)));
        }
        if hex::encode(self.sum.finalize()) != self.header.sum {
            return Err(io::Error::other("its content is not what its header says"));
        }
        self.file.sync_all()?;
        write_last(&self.running.other, &self.block)?;
        Ok(Verdict::Ready(self.header.version))
    }
}
