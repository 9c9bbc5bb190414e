//! What the first stage has started.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Choice, Header, RootsError, Slot, read_last};
use crate::paths::Paths;

/// The root that runs, as the first stage says in `/run/trivium/root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Where it lies.
    pub slot: Slot,
    /// What it is called.
    pub version: String,
    /// Its root hash, hex.
    pub root: String,
    /// Whether this start is the one attempt that it has, and it is not known to be well yet.
    pub trial: bool,
    /// The partition of the other slot.
    pub other: PathBuf,
    /// The partition whose last block is the choice.
    pub choice: PathBuf,
}

impl Running {
    /// Reads what the first stage said.
    ///
    /// # Errors
    /// Where it said nothing, or not all of it.
    pub fn load(paths: &Paths) -> Result<Self, RootsError> {
        let path = paths.run().join("root");
        let text = fs::read_to_string(&path)
            .map_err(|error| RootsError::Unknown(format!("{}: {error}", path.display())))?;
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .ok_or_else(|| RootsError::Unknown(format!("{}: no {key}", path.display())))
        };
        let slot = Slot::parse(value("slot")?)
            .ok_or_else(|| RootsError::Unknown(format!("{}: no such slot", path.display())))?;
        let choice = paths.at(value("choice")?);
        let tried = || read_last(&choice).ok().and_then(|block| Choice::parse(&block)?.attempt) == Some(slot);
        Ok(Self {
            slot,
            version: value("version")?.to_owned(),
            root: value("root")?.to_owned(),
            trial: value("trial")? == "yes" && tried(),
            other: paths.at(value("other")?),
            choice,
        })
    }

    /// The header of the root in the other slot.
    pub fn other_header(&self) -> Option<Header> {
        header_of(&self.other)
    }
}

/// The header of the root in a partition.
fn header_of(device: &Path) -> Option<Header> {
    Header::parse(&read_last(device).ok()?).ok()
}
