//! A store that is a mounted folder.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Expected, Found, Listed, Node, Sink, Source, SourceError, Store, StoreError, StoreResult, Usage, beneath,
    gate::Gate, job_of_temporary, temporaries, temporary_beside, temporary_name,
};
use crate::layout::StorePath;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

/// Bytes read at once.
const CHUNK: usize = 1024 * 1024;
/// Blocks of zeros of this size are left out of a file.
const HOLE: usize = 64 * 1024;
/// Files that hypervisors must be able to write, whatever user they come as.
const FILE_MODE: u32 = 0o666;

/// A mounted folder.
#[derive(Debug)]
pub(crate) struct FolderStore {
    root: Arc<OwnedFd>,
    gate: Gate,
    job: String,
}

impl FolderStore {
    /// Opens the folder; `job` names temporary files.
    pub(crate) async fn open(path: &str, job: &str) -> StoreResult<Self> {
        let (path, job, gate) = (path.to_owned(), job.to_owned(), Gate::of(path));
        let root = gate.pass(move || {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(|e| beneath::error(&path, e))
        });
        Ok(Self { root: Arc::new(root.await?), gate, job })
    }
}

/// An open file of a folder, to be read from anywhere.
pub(crate) struct Served {
    gate: Gate,
    path: StorePath,
    file: File,
    /// In bytes.
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) modified: u64,
}

impl Served {
    /// So many bytes of it from an offset on.
    pub(crate) fn into_source(mut self, from: u64, length: u64) -> StoreResult<Box<dyn Source>> {
        self.file.seek(SeekFrom::Start(from)).map_err(|e| beneath::io_error(&self.path, &e))?;
        let Self { gate, path, file, .. } = self;
        Ok(Box::new(FolderSource { gate, path, file: Some(file), size: length, left: length }))
    }
}

impl FolderStore {
    /// Opens a regular file; links are not followed.
    pub(crate) async fn served(&self, path: &StorePath) -> StoreResult<Served> {
        let (root, path, gate) = (Arc::clone(&self.root), path.clone(), self.gate.clone());
        let call = move || {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = match beneath::open(&root, path.as_str(), flags, 0) {
                // A link lies in the way.
                Err(Errno::LOOP) => return Err(StoreError::Missing(path.to_string())),
                other => File::from(other.map_err(|e| beneath::error(&path, e))?),
            };
            let meta = file.metadata().map_err(|e| beneath::io_error(&path, &e))?;
            if !meta.is_file() {
                return Err(StoreError::Missing(path.to_string()));
            }
            let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
            let modified = modified.map_or(0, |d| d.as_secs());
            Ok(Served { gate, path, file, size: meta.len(), modified })
        };
        self.gate.pass(call).await
    }
}

impl Store for FolderStore {
    fn create<'a>(
        &'a self,
        path: &'a StorePath,
        expected: Expected,
    ) -> BoxFuture<'a, StoreResult<Box<dyn Sink>>> {
        let (root, path, job) = (Arc::clone(&self.root), path.clone(), self.job.clone());
        let gate = self.gate.clone();
        Box::pin(self.gate.pass(move || {
            let folder = beneath::make_folders(&root, path.parent().as_ref())?;
            let space = rustix::fs::fstatvfs(&folder).map_err(|e| beneath::error(&path, e))?;
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            if expected.size.is_some_and(|size| size.saturating_sub(expected.kept) > free) {
                return Err(StoreError::Full(format!("{free} bytes are free for {path}")));
            }
            let temporary = if expected.beside { temporary_beside(&job) } else { temporary_name(&job) };
            let how = if expected.kept > 0 { OFlags::empty() } else { OFlags::CREATE | OFlags::TRUNC };
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | how;
            let mode = if expected.kept > 0 { 0 } else { FILE_MODE };
            let file =
                beneath::open(&folder, &temporary, flags, mode).map_err(|e| beneath::error(&path, e))?;
            let mut file = File::from(file);
            file.seek(SeekFrom::Start(expected.kept)).map_err(|e| beneath::io_error(&path, &e))?;
            let open = Open { folder, temporary, file: Some(file), size: 0, skip: expected.kept };
            Ok(Box::new(FolderSink { gate, path, open: Arc::new(Mutex::new(open)) }) as Box<dyn Sink>)
        }))
    }

    fn kept<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Option<Box<dyn Source>>>> {
        Box::pin(async move {
            let Some(folder) = path.parent() else { return Ok(None) };
            match self.served(&folder.join(&temporary_name(&self.job))?).await {
                Ok(file) if file.size > 0 => {
                    let size = file.size;
                    file.into_source(0, size).map(Some)
                }
                Ok(_) | Err(StoreError::Missing(_)) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn discard<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        Box::pin(async move {
            let Some(folder) = path.parent() else { return Ok(()) };
            let mut any = false;
            for name in temporaries(&self.job) {
                any |= self.remove_file(&folder.join(&name)?).await?;
            }
            if any {
                self.tidy(&folder).await?;
            }
            Ok(())
        })
    }

    fn open<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Box<dyn Source>>> {
        Box::pin(async move {
            let file = self.served(path).await?;
            let size = file.size;
            file.into_source(0, size)
        })
    }

    fn find<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<Found>> {
        let (root, path) = (Arc::clone(&self.root), path.clone());
        Box::pin(self.gate.pass(move || {
            let file = match beneath::open(&root, path.as_str(), OFlags::PATH | OFlags::NOFOLLOW, 0) {
                Ok(file) => file,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Found::Nothing),
                Err(e) => return Err(beneath::error(&path, e)),
            };
            let meta = File::from(file).metadata().map_err(|e| beneath::io_error(&path, &e))?;
            Ok(if meta.is_dir() {
                Found::Folder
            } else if meta.is_file() {
                Found::File(meta.len())
            } else {
                Found::Nothing
            })
        }))
    }

    fn list<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<Vec<Listed>>> {
        let (root, path) = (Arc::clone(&self.root), folder.clone());
        Box::pin(self.gate.pass(move || {
            let mut list = Vec::new();
            let folder = match beneath::open_folder(&root, Some(&path)) {
                Ok(folder) => folder,
                Err(Errno::NOENT) => return Ok(list),
                Err(e) => return Err(beneath::error(&path, e)),
            };
            beneath::walk(&folder, &path, 0, &mut |at, file| {
                beneath::bounded(&list)?;
                match rustix::fs::statat(at, file.name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => list.push(Listed { path: file, size: stat.st_size.unsigned_abs() }),
                    Err(Errno::NOENT) => {}
                    Err(e) => return Err(beneath::error(&file, e)),
                }
                Ok(())
            })?;
            Ok(list)
        }))
    }

    fn remove_file<'a>(&'a self, path: &'a StorePath) -> BoxFuture<'a, StoreResult<bool>> {
        let (root, path) = (Arc::clone(&self.root), path.clone());
        Box::pin(self.gate.pass(move || {
            let folder = match beneath::open_folder(&root, path.parent().as_ref()) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
                Err(e) => return Err(beneath::error(&path, e)),
            };
            match rustix::fs::unlinkat(&folder, path.name(), AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(e) => Err(beneath::error(&path, e)),
            }
        }))
    }

    fn remove_folder<'a>(
        &'a self,
        path: &'a StorePath,
        expendable: &'a [&'a str],
    ) -> BoxFuture<'a, StoreResult<bool>> {
        let (root, path) = (Arc::clone(&self.root), path.clone());
        let expendable: Vec<String> = expendable.iter().map(|name| (*name).to_owned()).collect();
        Box::pin(self.gate.pass(move || {
            let expendable: Vec<&str> = expendable.iter().map(String::as_str).collect();
            beneath::remove_folder(&root, &path, &expendable)
        }))
    }

    fn tidy<'a>(&'a self, folder: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        let (root, path) = (Arc::clone(&self.root), folder.clone());
        Box::pin(self.gate.pass(move || {
            let gone = beneath::open_folder(&root, path.parent().as_ref())
                .and_then(|parent| rustix::fs::unlinkat(&parent, path.name(), AtFlags::REMOVEDIR));
            match gone {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                Err(e) => Err(beneath::error(&path, e)),
            }
        }))
    }

    fn rename<'a>(&'a self, from: &'a StorePath, to: &'a StorePath) -> BoxFuture<'a, StoreResult<()>> {
        let (root, from, to) = (Arc::clone(&self.root), from.clone(), to.clone());
        Box::pin(self.gate.pass(move || {
            let source =
                beneath::open_folder(&root, from.parent().as_ref()).map_err(|e| beneath::error(&from, e))?;
            let target = beneath::make_folders(&root, to.parent().as_ref())?;
            // Not every file system has a rename that never replaces.
            if rustix::fs::statat(&target, to.name(), AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err(StoreError::Other { what: to.to_string(), reason: "exists already".into() });
            }
            rustix::fs::renameat(&source, from.name(), &target, to.name())
                .map_err(|e| beneath::error(&from, e))
        }))
    }

    fn browse<'a>(&'a self, path: Option<&'a StorePath>) -> BoxFuture<'a, StoreResult<Option<Vec<Node>>>> {
        let (root, path) = (Arc::clone(&self.root), path.cloned());
        Box::pin(self.gate.pass(move || beneath::browse(&root, path.as_ref())))
    }

    fn usage(&self) -> BoxFuture<'_, StoreResult<Usage>> {
        let root = Arc::clone(&self.root);
        Box::pin(self.gate.pass(move || {
            let stat = rustix::fs::fstatvfs(&root).map_err(|e| beneath::error("the store", e))?;
            let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
            let free = stat.f_bfree.saturating_mul(stat.f_frsize);
            Ok(Usage { capacity, used: capacity.saturating_sub(free) })
        }))
    }

    fn sweep<'a>(&'a self, age: u64, live: &'a [String]) -> BoxFuture<'a, StoreResult<u64>> {
        let (root, live) = (Arc::clone(&self.root), live.to_vec());
        Box::pin(self.gate.pass(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let mut removed = 0;
            for kind in ["template", "volumes", "snapshots", "configdrive"] {
                let path = StorePath::parse(kind)?;
                let Ok(folder) = beneath::open_folder(&root, Some(&path)) else { continue };
                beneath::walk(&folder, &path, 0, &mut |at, file| {
                    let Some(job) = job_of_temporary(file.name()) else { return Ok(()) };
                    if live.iter().any(|l| l == job) {
                        return Ok(());
                    }
                    let Ok(stat) = rustix::fs::statat(at, file.name(), AtFlags::SYMLINK_NOFOLLOW) else {
                        return Ok(());
                    };
                    if now.saturating_sub(stat.st_mtime.unsigned_abs()) >= age
                        && rustix::fs::unlinkat(at, file.name(), AtFlags::empty()).is_ok()
                    {
                        tracing::info!(file = %file, "removed what a broken transfer left behind");
                        removed += 1;
                    }
                    Ok(())
                })?;
            }
            Ok(removed)
        }))
    }

    fn has_properties(&self) -> bool {
        true
    }
}

/// The temporary file behind a sink.
struct Open {
    folder: OwnedFd,
    temporary: String,
    file: Option<File>,
    size: u64,
    /// Bytes that are there already.
    skip: u64,
}

struct FolderSink {
    gate: Gate,
    path: StorePath,
    /// Held by the call that is under way, also after whoever waited for it has gone: the next call
    /// waits for its end.
    open: Arc<Mutex<Open>>,
}

impl FolderSink {
    /// Runs a call on the temporary file, after the one before.
    async fn with(
        &mut self,
        call: impl FnOnce(&mut Open) -> StoreResult<()> + Send + 'static,
    ) -> StoreResult<()> {
        let open = Arc::clone(&self.open);
        self.gate.pass(move || call(&mut open.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl Sink for FolderSink {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, StoreResult<()>> {
        let path = self.path.clone();
        Box::pin(self.with(move |open| {
            let Some(file) = open.file.as_mut() else { return Err(StoreError::Missing(path.to_string())) };
            let known = usize::try_from(open.skip).unwrap_or(usize::MAX).min(bytes.len());
            write_sparse(file, &bytes[known..]).map_err(|e| beneath::io_error(&path, &e))?;
            open.skip -= known as u64;
            open.size += bytes.len() as u64;
            Ok(())
        }))
    }

    fn finish(&mut self) -> BoxFuture<'_, StoreResult<()>> {
        let path = self.path.clone();
        Box::pin(self.with(move |open| {
            let fail = |e: std::io::Error| beneath::io_error(&path, &e);
            let Some(file) = open.file.take() else { return Err(StoreError::Missing(path.to_string())) };
            file.set_len(open.size).map_err(fail)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(FILE_MODE))
                .map_err(|e| beneath::error(&path, e))?;
            file.sync_all().map_err(fail)?;
            drop(file);
            rustix::fs::renameat(&open.folder, open.temporary.as_str(), &open.folder, path.name())
                .and_then(|()| rustix::fs::fsync(&open.folder))
                .map_err(|e| beneath::error(&path, e))
        }))
    }

    fn abort(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let open = Arc::clone(&self.open);
            let gone = self.gate.within(Gate::TIDY, move || {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                open.file = None;
                match rustix::fs::unlinkat(&open.folder, open.temporary.as_str(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(e) => Err(beneath::error(&open.temporary, e)),
                }
            });
            if let Err(error) = gone.await {
                tracing::warn!(path = %self.path, %error, "a temporary file stays behind for the sweep");
            }
        })
    }
}

/// Writes bytes at the file's position, leaving holes where there is nothing but zeros.
fn write_sparse(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let zeros =
            bytes.chunks(HOLE).take_while(|b| b.len() == HOLE && b.iter().all(|x| *x == 0)).count() * HOLE;
        if zeros > 0 {
            file.seek(SeekFrom::Current(i64::try_from(zeros).unwrap_or(0)))?;
            bytes = &bytes[zeros..];
            continue;
        }
        let data: usize = bytes
            .chunks(HOLE)
            .take_while(|b| b.len() < HOLE || b.iter().any(|x| *x != 0))
            .map(<[u8]>::len)
            .sum();
        file.write_all(&bytes[..data])?;
        bytes = &bytes[data..];
    }
    Ok(())
}

struct FolderSource {
    gate: Gate,
    path: StorePath,
    file: Option<File>,
    size: u64,
    left: u64,
}

impl Source for FolderSource {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            if self.left == 0 {
                return Ok(None);
            }
            let Some(mut file) = self.file.take() else {
                return Err(StoreError::Silent(Gate::LIMIT.as_secs()).into());
            };
            let path = self.path.clone();
            let want = CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK));
            let call = move || {
                let mut bytes = BytesMut::zeroed(want);
                let got = file.read(&mut bytes).map_err(|e| beneath::io_error(&path, &e))?;
                bytes.truncate(got);
                Ok((file, bytes))
            };
            let (file, bytes) = self.gate.pass(call).await?;
            if bytes.is_empty() {
                return Err(SourceError::Remote(format!("{} became shorter while it was read", self.path)));
            }
            self.file = Some(file);
            self.left -= bytes.len() as u64;
            Ok(Some(bytes.freeze()))
        })
    }
}
