//! File-system calls that cannot leave a folder: every path is opened beneath an open root, and no
//! link is followed on the way.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{Node, StoreError, StoreResult};
use crate::layout::StorePath;

/// Folders that hypervisors must be able to write into, whatever user they come as.
const FOLDER_MODE: u32 = 0o777;
/// What this VM needs of a file.
const READ_MODE: u32 = 0o444;
/// Folders within folders that are looked into at most.
const DEEPEST: usize = 8;
/// Files that a listing may hold.
const MOST_FILES: usize = 1_000_000;

/// Translates what the system said about `path`.
pub(super) fn error(path: impl ToString, errno: Errno) -> StoreError {
    let path = path.to_string();
    match errno {
        Errno::NOENT | Errno::NOTDIR => StoreError::Missing(path),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => StoreError::Denied(path),
        Errno::NOSPC | Errno::DQUOT => StoreError::Full(path),
        Errno::STALE => StoreError::Stale(path),
        Errno::TIMEDOUT => StoreError::Silent(60),
        errno => StoreError::Other { what: path, reason: io::Error::from(errno).to_string() },
    }
}

/// The same for an error of the standard library.
pub(super) fn io_error(path: impl ToString, source: &io::Error) -> StoreError {
    match source.raw_os_error() {
        Some(code) => error(path, Errno::from_raw_os_error(code)),
        None => StoreError::Other { what: path.to_string(), reason: source.to_string() },
    }
}

/// Opens `path` beneath `root` without following links.
pub(super) fn open(root: impl AsFd, path: &str, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // A rename elsewhere in the tree makes the kernel ask for another try.
    for _ in 0..8 {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(mode), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a folder beneath `root`; `None` for a folder stands for the root itself.
pub(super) fn open_folder(root: impl AsFd, path: Option<&StorePath>) -> rustix::io::Result<OwnedFd> {
    open(root, path.map_or(".", StorePath::as_str), OFlags::DIRECTORY | OFlags::RDONLY, 0)
}

/// Makes a folder and all on the way to it, and opens it.
pub(super) fn make_folders(root: impl AsFd, path: Option<&StorePath>) -> StoreResult<OwnedFd> {
    let mut at = open_folder(&root, None).map_err(|e| error("the store", e))?;
    for name in path.iter().flat_map(|p| p.components()) {
        at = match open(&at, name, OFlags::DIRECTORY | OFlags::RDONLY, 0) {
            Err(Errno::NOENT) => {
                let made = match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(FOLDER_MODE)) {
                    Ok(()) => true,
                    Err(Errno::EXIST) => false,
                    Err(e) => return Err(error(name, e)),
                };
                let folder =
                    open(&at, name, OFlags::DIRECTORY | OFlags::RDONLY, 0).map_err(|e| error(name, e))?;
                if made {
                    rustix::fs::fchmod(&folder, Mode::from_raw_mode(FOLDER_MODE))
                        .map_err(|e| error(name, e))?;
                }
                folder
            }
            other => other.map_err(|e| error(name, e))?,
        };
    }
    Ok(at)
}

/// Names and types in a folder, without `.` and `..`.
pub(super) fn entries(folder: impl AsFd) -> rustix::io::Result<Vec<(String, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(
                rustix::fs::statat(&folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?.st_mode,
            ),
            known => known,
        };
        names.push((name, kind));
    }
    Ok(names)
}

/// Calls `visit` with each regular file below an open folder. Names that cannot be paths of the
/// store, and links, are passed over.
pub(super) fn walk(
    folder: &OwnedFd,
    path: &StorePath,
    depth: usize,
    visit: &mut dyn FnMut(&OwnedFd, StorePath) -> StoreResult<()>,
) -> StoreResult<()> {
    if depth > DEEPEST {
        return Ok(());
    }
    for (name, kind) in entries(folder).map_err(|e| error(path, e))? {
        let Ok(below) = path.join(&name) else { continue };
        match kind {
            FileType::Directory => match open(folder, &name, OFlags::DIRECTORY | OFlags::RDONLY, 0) {
                Ok(inner) => walk(&inner, &below, depth + 1, visit)?,
                // Removed by another host meanwhile.
                Err(Errno::NOENT) => {}
                Err(e) => return Err(error(&below, e)),
            },
            FileType::RegularFile => visit(folder, below)?,
            _ => {}
        }
    }
    Ok(())
}

/// See [`super::Store::browse`]. Links are not shown.
pub(super) fn browse(root: &OwnedFd, path: Option<&StorePath>) -> StoreResult<Option<Vec<Node>>> {
    let shown = path.map_or("the store", StorePath::as_str);
    let node = |path: StorePath, stat: &rustix::fs::Stat| Node {
        path,
        is_folder: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        size: stat.st_size.unsigned_abs(),
        modified: stat.st_mtime.saturating_mul(1000),
    };
    let found = match open(root, path.map_or(".", StorePath::as_str), OFlags::PATH | OFlags::NOFOLLOW, 0) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other.map_err(|e| error(shown, e))?,
    };
    let stat = rustix::fs::fstat(&found).map_err(|e| error(shown, e))?;
    match (FileType::from_raw_mode(stat.st_mode), path) {
        (FileType::Directory, _) => {}
        (FileType::RegularFile, Some(path)) => return Ok(Some(vec![node(path.clone(), &stat)])),
        _ => return Ok(None),
    }
    let folder = open_folder(root, path).map_err(|e| error(shown, e))?;
    let mut nodes = Vec::new();
    for (name, kind) in entries(&folder).map_err(|e| error(shown, e))? {
        bounded(&nodes)?;
        let below = path.map_or_else(|| StorePath::parse(&name), |path| path.join(&name));
        let Ok(below) = below else { continue };
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            continue;
        }
        match rustix::fs::statat(&folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => nodes.push(node(below, &stat)),
            // Removed by another host meanwhile.
            Err(Errno::NOENT) => {}
            Err(e) => return Err(error(&below, e)),
        }
    }
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(nodes))
}

/// Guards a listing against a store that grows without bound.
pub(super) fn bounded<T>(list: &[T]) -> StoreResult<()> {
    if list.len() >= MOST_FILES {
        return Err(StoreError::Other {
            what: "listing".into(),
            reason: format!("more than {MOST_FILES} files"),
        });
    }
    Ok(())
}

/// Removes a folder with its files; see [`super::Store::remove_folder`].
pub(super) fn remove_folder(root: impl AsFd, path: &StorePath, expendable: &[&str]) -> StoreResult<bool> {
    let folder = match open_folder(&root, Some(path)) {
        Ok(folder) => folder,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
        Err(e) => return Err(error(path, e)),
    };
    for (name, kind) in entries(&folder).map_err(|e| error(path, e))? {
        let gone = match kind {
            FileType::Directory => {
                if expendable.contains(&name.as_str()) {
                    empty(&folder, &name)?;
                }
                rustix::fs::unlinkat(&folder, name.as_str(), AtFlags::REMOVEDIR)
            }
            _ => rustix::fs::unlinkat(&folder, name.as_str(), AtFlags::empty()),
        };
        match gone {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(error(format_args!("{path}/{name}"), e)),
        }
    }
    let parent = open_folder(&root, path.parent().as_ref()).map_err(|e| error(path, e))?;
    match rustix::fs::unlinkat(&parent, path.name(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(e) => Err(error(path, e)),
    }
}

/// Removes the files of a folder within `folder`.
fn empty(folder: &OwnedFd, name: &str) -> StoreResult<()> {
    let inner = open(folder, name, OFlags::DIRECTORY | OFlags::RDONLY, 0).map_err(|e| error(name, e))?;
    for (file, kind) in entries(&inner).map_err(|e| error(name, e))? {
        if kind != FileType::Directory {
            rustix::fs::unlinkat(&inner, file.as_str(), AtFlags::empty()).map_err(|e| error(&file, e))?;
        }
    }
    Ok(())
}

/// Lets every host write into a folder (or the folder of a file), those on the way to it, and those
/// directly within it, and lets every host read the file. `true` where anything was changed.
pub(crate) fn open_up(root: &str, path: &StorePath) -> bool {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(mut at) = rustix::fs::open(root, flags, Mode::empty()) else { return false };
    let allow = |file: &OwnedFd, mode: u32| {
        rustix::fs::fstat(file).is_ok_and(|stat| {
            stat.st_mode & mode != mode
                && rustix::fs::fchmod(file, Mode::from_raw_mode(stat.st_mode | mode)).is_ok()
        })
    };
    let mut changed = false;
    for name in path.components() {
        let Ok(next) = open(&at, name, OFlags::DIRECTORY | OFlags::RDONLY, 0) else {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            changed |= open(&at, name, flags, 0).is_ok_and(|file| allow(&file, READ_MODE));
            break;
        };
        changed |= allow(&next, FOLDER_MODE);
        at = next;
    }
    for (name, kind) in entries(&at).unwrap_or_default() {
        if kind == FileType::Directory
            && let Ok(inner) = open(&at, &name, OFlags::DIRECTORY | OFlags::RDONLY, 0)
        {
            changed |= allow(&inner, FOLDER_MODE);
        }
    }
    changed
}
