//! What the core asks of a worker, and what comes back: frames of a 4-byte big-endian length and a
//! JSON object, over one local socket.

use std::io;

use common::command::{
    Secret,
    storage::{DatadiskTO, ImageFormat, OVFInformationTO, TemplateProp},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    layout::StorePath,
    source::HttpOrder,
    store::{Checkpoint, Node, Origin, StoreError, StoreSpec},
    transfer::{Checksum, TransferError},
};

/// Longest frame in bytes.
const LIMIT: usize = 64 * 1024 * 1024;

/// From the core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Begin with a task.
    Start { id: u64, task: Task },
    /// Stop a task and leave nothing behind; its report still comes.
    Abort { id: u64 },
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// How far a task is; about once a second while that changes.
    Progress { id: u64, progress: Progress },
    /// A task has ended.
    Done { id: u64, result: Result<Outcome, Failure> },
}

/// How far a task is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Whether it has left the queue.
    pub(crate) running: bool,
    /// Bytes that have arrived.
    pub(crate) received: u64,
    /// Bytes that are expected, where known.
    pub(crate) total: Option<u64>,
    /// All bytes have arrived.
    pub(crate) installing: bool,
    /// Where they come from, if what is stored of them can be gone on with.
    pub(crate) origin: Option<Origin>,
    /// What is stored of them in a bucket.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// One piece of work on a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// Download into a store.
    Fetch(Box<FetchTask>),
    /// Copy from one store to another.
    Copy(Box<CopyTask>),
    /// Remove a template or volume: its folder, or its keys.
    RemoveImage { store: StoreSpec, path: StorePath, id: i64 },
    /// Remove one snapshot and its checkpoint.
    RemoveSnapshot { store: StoreSpec, path: StorePath, checkpoint: Option<StorePath> },
    /// List what is installed.
    List { store: StoreSpec, what: Images },
    /// How full is the store?
    Usage { store: StoreSpec },
    /// The same once a small file was written into the store and removed, if it is a folder.
    Probe { store: StoreSpec, job: String },
    /// Compute a checksum.
    Sum { store: StoreSpec, path: StorePath, algorithm: String },
    /// Remove all that lies below a folder, and the folder.
    RemoveTree { store: StoreSpec, path: StorePath },
    /// Remove one file; a folder with all that lies below it.
    RemoveFile { store: StoreSpec, path: StorePath },
    /// Move a folder; fails where there is something at `to`.
    Move { store: StoreSpec, from: StorePath, to: StorePath },
    /// Show a part of a folder, or a file; `None` for the root.
    Browse { store: StoreSpec, path: Option<StorePath>, start: usize, most: usize },
    /// The files of a snapshot.
    Parts { store: StoreSpec, path: StorePath },
    /// Can the file be read?
    Check { store: StoreSpec, path: StorePath },
    /// How many bytes lie below these folders?
    Weigh { store: StoreSpec, folders: Vec<StorePath> },
    /// Write a small file whose bytes come in base64.
    Write { store: StoreSpec, path: StorePath, data: Secret },
    /// The disks of a package, in a configuration or in all.
    Disks { store: StoreSpec, job: String, package: StorePath, configuration: Option<String> },
    /// Make a template of one disk of a package.
    Disk(Box<DiskTask>),
    /// Remove what attempts of a job have left of a file.
    Discard { store: StoreSpec, job: String, path: StorePath },
    /// Remove what broken transfers left behind.
    Sweep { store: StoreSpec, age: u64, live: Vec<String> },
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Images {
    Templates,
    Volumes,
}

/// How an image is written down beside itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Label {
    /// Unique name of a template, name of a volume.
    pub(crate) name: String,
    pub(crate) id: i64,
    pub(crate) description: String,
    pub(crate) hvm: bool,
    /// Written for volumes only.
    pub(crate) checksum: Option<String>,
    /// Property file: `template.properties` or `volume.properties`.
    pub(crate) file: String,
}

/// A download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FetchTask {
    pub(crate) job: String,
    pub(crate) http: HttpOrder,
    /// Other files of the same snapshot, with their names.
    pub(crate) others: Vec<(HttpOrder, String)>,
    pub(crate) store: StoreSpec,
    /// Folder of the image.
    pub(crate) folder: StorePath,
    /// Name of the image within it.
    pub(crate) file: String,
    /// `None` for snapshots, whose bytes are taken as they are.
    pub(crate) format: Option<ImageFormat>,
    pub(crate) checksum: Option<Checksum>,
    /// Most bytes of the installed image.
    pub(crate) limit: u64,
    /// `None` for snapshots.
    pub(crate) label: Option<Label>,
    /// What an attempt has left behind whose process died comes from here.
    pub(crate) kept: Option<Origin>,
    /// How far it was on its way into a bucket.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyTask {
    pub(crate) job: String,
    pub(crate) source: StoreSpec,
    pub(crate) from: StorePath,
    pub(crate) destination: StoreSpec,
    /// Folder of the copy.
    pub(crate) folder: StorePath,
    pub(crate) how: CopyHow,
    /// Most bytes of a file.
    pub(crate) limit: u64,
}

/// A template of one disk of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskTask {
    pub(crate) job: String,
    pub(crate) store: StoreSpec,
    /// The disk, beside its package or in its place.
    pub(crate) disk: StorePath,
    /// Folder of the template.
    pub(crate) folder: StorePath,
    /// It stays with its package, whose template it is then.
    pub(crate) stays: bool,
    /// Unique name of the template.
    pub(crate) name: String,
    pub(crate) id: i64,
    /// Bytes of the disk.
    pub(crate) virtual_size: u64,
    /// Bytes of the file.
    pub(crate) physical_size: u64,
}

/// How a copy is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CopyHow {
    /// One file, the same bytes under the same name.
    File,
    /// A template or volume with all files of its folder.
    Folder,
    /// An image out of an object store into a folder, inspected and labelled as a download is.
    Install { label: Label, format: Option<ImageFormat> },
    /// A snapshot as a template of its own.
    Template { label: Label, format: ImageFormat },
    /// A snapshot, and all VHDs that it builds on, as one VHD.
    Flatten { label: Label },
    /// A snapshot: a file, or a folder of its own.
    Snapshot,
}

/// What a task has brought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A file is in its place.
    Stored(Stored),
    /// It is gone; `false`: it was not there.
    Removed(bool),
    /// What is installed.
    Images(Vec<TemplateProp>),
    /// Bytes.
    Usage { capacity: u64, used: u64 },
    /// `{ALGORITHM}hex`.
    Sum(String),
    /// Leftovers that were removed.
    Swept(u64),
    /// A folder.
    Browsed(Page),
    /// Files.
    Parts(Vec<StorePath>),
    /// Disks of a package; paths are those below the store.
    Disks(Vec<DatadiskTO>),
    /// Bytes.
    Weight(u64),
    /// What was asked for is so.
    Done,
}

/// A part of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// Whether there is anything at the path.
    pub(crate) exists: bool,
    /// Entries of the whole folder.
    pub(crate) count: usize,
    /// In the order of their names.
    pub(crate) entries: Vec<Node>,
}

/// A file in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) path: StorePath,
    /// In bytes.
    pub(crate) virtual_size: u64,
    /// In bytes.
    pub(crate) physical_size: u64,
    /// Over the bytes as they came; absent for a whole folder.
    pub(crate) checksum: Option<Checksum>,
    pub(crate) format: Option<ImageFormat>,
    /// What a package tells of its machine; the paths of its disks are names of files beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) package: Option<Box<OVFInformationTO>>,
}

/// Why a task brought nothing about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// For the user; never empty.
    pub(crate) text: String,
}

/// What may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureKind {
    /// Nothing.
    Final,
    /// Mounting the store anew.
    Stale,
    /// More rights on the store.
    Denied,
    /// It was asked for.
    Aborted,
    /// The worker is gone; the task may be given again.
    Lost,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn end(text: impl Into<String>) -> Self {
        Self::new(FailureKind::Final, text)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Stale(_) => FailureKind::Stale,
            StoreError::Denied(_) => FailureKind::Denied,
            _ => FailureKind::Final,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<TransferError> for Failure {
    fn from(error: TransferError) -> Self {
        use crate::store::SourceError;
        match error {
            TransferError::Sink(store) | TransferError::Source(SourceError::Store(store)) => store.into(),
            other => Self::end(other.to_string()),
        }
    }
}

impl From<crate::store::SourceError> for Failure {
    fn from(error: crate::store::SourceError) -> Self {
        TransferError::from(error).into()
    }
}

impl From<crate::layout::PathError> for Failure {
    fn from(error: crate::layout::PathError) -> Self {
        Self::end(error.to_string())
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Writes one frame.
pub(crate) async fn send<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), frame: &T) -> io::Result<()> {
    let body = serde_json::to_vec(frame).map_err(invalid)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LIMIT);
    let length = length.ok_or_else(|| invalid(format_args!("a frame of {} bytes", body.len())))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

/// Reads one frame; `None` where the other end has gone between two.
pub(crate) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes(length) as usize;
    if length > LIMIT {
        return Err(invalid(format_args!("a frame of {length} bytes")));
    }
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&body).map(Some).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use common::command::Secret;

    use super::*;

    #[tokio::test]
    async fn frames_go_both_ways_and_broken_ones_are_refused() {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        send(&mut a, &Order::Abort { id: 7 }).await.unwrap();
        assert_eq!(receive::<Order>(&mut b).await.unwrap(), Some(Order::Abort { id: 7 }));
        a.write_all(&[0, 0, 0, 2, b'{']).await.unwrap();
        drop(a);
        assert!(receive::<Order>(&mut b).await.is_err());
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_all(&[255; 4]).await.unwrap();
        assert!(receive::<Order>(&mut b).await.is_err());
        drop(a);
        assert!(receive::<Order>(&mut b).await.unwrap().is_none());
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let http = HttpOrder {
            url: Secret::new("http://u:hunter2@h/x?sig=hunter2"),
            user: Some(("u".into(), Secret::new("hunter2"))),
            proxy: None,
            follow_redirects: false,
            policy: Default::default(),
            trust: vec![],
            stall: 30,
        };
        let shown = format!("{http:?} {}", http.shown());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
