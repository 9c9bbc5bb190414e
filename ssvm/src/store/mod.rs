//! Stores: a mounted folder or a bucket, behind one trait.
//!
//! A file is written to a [`Sink`] and is not there until [`Sink::finish`] has returned; it is read
//! from a [`Source`]. Every call has an end of its own: a store that does not answer gives
//! [`StoreError::Silent`].

mod beneath;
#[cfg(test)]
pub(crate) mod failing;
mod folder;
mod gate;
mod s3;
mod signature;
mod spec;
mod upload;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub(crate) use beneath::open_up;
pub(crate) use folder::FolderStore;
pub(crate) use gate::Gate;
pub(crate) use s3::S3Store;
pub(crate) use spec::{BucketSpec, StoreSpec};

use crate::{
    layout::{PathError, StorePath},
    transfer::Algorithm,
};

/// Why a store did not do what was asked. What was there before is still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is nothing at this path.
    #[error("{0} does not exist")]
    Missing(String),
    /// The store refuses this VM.
    #[error("{0}: permission denied")]
    Denied(String),
    /// The store has no room.
    #[error("no space left on the store: {0}")]
    Full(String),
    /// The mount no longer fits what the server exports.
    #[error("stale file handle: {0}")]
    Stale(String),
    /// The store did not answer in time.
    #[error("the store did not answer within {0} s")]
    Silent(u64),
    /// The path leaves the store, or goes through a link.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Anything else that the system or the service said.
    #[error("{what}: {reason}")]
    Other {
        /// What was tried.
        what: String,
        /// What came back.
        reason: String,
    },
}

/// Result of a call to a store.
pub(crate) type StoreResult<T> = Result<T, StoreError>;

/// What is known about a file before it is written, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Its size, where that is known.
    pub(crate) size: Option<u64>,
    /// The most that will be written.
    pub(crate) limit: u64,
    /// So many of the first bytes are there from an earlier attempt, see [`Store::kept`]. They are written once
    /// more, to no effect.
    pub(crate) kept: u64,
    /// It is written beside the file that the job is about, and never gone on with.
    pub(crate) beside: bool,
}

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: StorePath,
    pub(crate) size: u64,
}

/// How far an object is on its way into a bucket, so that another process can go on with it: all that is needed, but
/// the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) stored: Stored,
    /// Of the checksum's computation.
    pub(crate) algorithm: Algorithm,
    /// What that knew after these parts.
    pub(crate) state: String,
    /// SHA-256 of what the inspection looks at, in hex.
    pub(crate) head: String,
}

/// Parts of an object that the service has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Number of the upload at the service.
    pub(crate) upload: String,
    /// Bytes of each part.
    pub(crate) part: u64,
    /// So many of them, without a gap.
    pub(crate) parts: u64,
}

impl Stored {
    /// Bytes of them all.
    pub(crate) fn bytes(&self) -> u64 {
        self.part.saturating_mul(self.parts)
    }
}

/// How full a store is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) capacity: u64,
    pub(crate) used: u64,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A file or object and its size in bytes.
    File(u64),
    Folder,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) path: StorePath,
    pub(crate) is_folder: bool,
    pub(crate) size: u64,
    /// Milliseconds since 1970.
    pub(crate) modified: i64,
}

/// A place for templates, volumes and snapshots.
pub(crate) trait Store: Send + Sync {
    /// Starts to write the file at `path`; folders on the way are made.
    fn create<'a>(
        &'a self,
        path: &'a StorePath,
        expected: Expected,
    ) -> BoxFuture<'a, StoreResult<Box<dyn Sink>>>;

    /// What an attempt to write `path` has left behind whose process has died: the first bytes of what it wrote.
    fn kept<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Option<Box<dyn Source>>>>;

    /// Goes on with an object of which a service has these parts; `None` where it has not.
    fn go_on<'a>(
        &'a self,
        _path: &'a StorePath,
        _stored: &'a Stored,
    ) -> BoxFuture<'a, StoreResult<Option<Box<dyn Sink>>>> {
        Box::pin(async { Ok(None) })
    }

    /// Removes what attempts to write `path` have left behind whose process has died.
    fn discard<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<()>>;

    /// Opens the file at `path` for reading from its start.
    fn open<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Box<dyn Source>>>;

    /// What lies at `path`.
    fn find<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Found>>;

    /// All files below `folder`, at any depth; none where it does not exist. Never a part of them.
    fn list<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<Vec<Listed>>>;

    /// Removes one file; `false` where there was none.
    fn remove_file<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<bool>>;

    /// Removes a folder with its files, or what lies at and below a key. A folder within it other than
    /// those named in `expendable` must be empty. `false` where there was nothing.
    fn remove_folder<'a>(
        &'a self,
        path: &'a StorePath,
        expendable: &'a [&'a str],
    ) -> BoxFuture<'a, StoreResult<bool>>;

    /// Removes a folder that holds nothing any more.
    fn tidy<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<()>>;

    /// Moves a folder; folders on the way are made. What lies at `to` is never replaced.
    fn rename<'a>(&'a self, from: &'a StorePath, to: &'a StorePath) -> BoxFuture<'a, StoreResult<()>>;

    /// The entries of a folder by their names, or the one entry of a file; `None` where there is neither. `None`
    /// for a path stands for the root.
    fn browse<'a>(&'a self, path: Option<&'a StorePath>) -> BoxFuture<'a, StoreResult<Option<Vec<Node>>>>;

    /// How full it is.
    fn usage(&self) -> BoxFuture<'_, StoreResult<Usage>>;

    /// Removes what broken transfers left behind longer than `age` seconds ago, except temporary
    /// files of the named jobs. Returns how many.
    fn sweep<'a>(&'a self, age: u64, live: &'a [String]) -> BoxFuture<'a, StoreResult<u64>>;

    /// Whether images are accompanied by a property file.
    fn has_properties(&self) -> bool;
}

/// A file being written.
pub(crate) trait Sink: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, StoreResult<()>>;

    /// What another process could go on with, if there is such.
    fn stored(&mut self) -> Option<Stored> {
        None
    }

    /// Bytes of a part, where there are parts that another process could go on with.
    fn part(&self) -> Option<u64> {
        None
    }

    /// Makes the file appear at its path, whole and safe from a power cut.
    fn finish(&mut self) -> BoxFuture<'_, StoreResult<()>>;

    /// Drops what was written. Failures are logged; the sweep comes after.
    fn abort(&mut self) -> BoxFuture<'_, ()>;
}

/// A stream of bytes that are fetched from somewhere.
pub(crate) trait Source: Send {
    /// How many bytes there will be, where that is known.
    fn size(&self) -> Option<u64>;

    /// What tells this very file from any other, where that is known.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// The next bytes, `None` at the end.
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>>;
}

/// What tells a file on a web server from any other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Strong entity tag (RFC 9110 8.8.3), with its quotes.
    pub(crate) tag: String,
    /// In bytes.
    pub(crate) size: u64,
}

/// Why the bytes did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The other end refused or vanished for good; the text is for users.
    #[error("{0}")]
    Remote(String),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Name of the temporary file of a job.
pub(crate) fn temporary_name(job: &str) -> String {
    format!("dnld{job}tmp_")
}

/// Name of the temporary file for what a job writes beside the file that it is about.
fn temporary_beside(job: &str) -> String {
    format!("dnld{job}+tmp_")
}

/// Names of all temporary files of a job.
pub(crate) fn temporaries(job: &str) -> [String; 2] {
    [temporary_name(job), temporary_beside(job)]
}

/// The job of a temporary file.
pub(crate) fn job_of_temporary(name: &str) -> Option<&str> {
    let job = name.strip_prefix("dnld")?.strip_suffix("tmp_")?;
    Some(job.strip_suffix('+').unwrap_or(job))
}
