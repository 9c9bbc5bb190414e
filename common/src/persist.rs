//! State files that survive a power cut: each write is whole or has not happened, each file carries
//! its version and checksum, and the generation before the last is kept for the day when the last
//! one is damaged. What changes a little at a time is kept as a [`Journal`].

mod journal;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

pub use journal::Journal;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// Largest state file that is read, in bytes.
pub const LIMIT: u64 = 256 * 1024 * 1024;

/// Files that are saved side by side.
const SIDE_BY_SIDE: usize = 16;

const MAGIC: &str = "trivium-state";

/// Why a state file could not be saved or loaded. What was saved before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// The disk said no.
    #[error("state file {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The value cannot be put into JSON.
    #[error("state file {path}: cannot be encoded: {source}")]
    Encode {
        /// The file.
        path: String,
        /// What the encoder said.
        source: serde_json::Error,
    },
    /// Neither the file nor the generation before it can be used.
    #[error("state file {path}: {reason}; no generation of it can be used")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with the newest one.
        reason: String,
    },
}

/// What [`load`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The value; `None` where there was never a file.
    pub value: Option<T>,
    /// Where the newest generation could not be used and the one before it was: what was wrong.
    pub fallback: Option<String>,
}

/// Saves a value: a temporary file beside `path`, flushed to the disk, then renamed over it; what
/// was there before stays as `<path>.previous`. Mode 0600.
///
/// # Errors
/// Where the value cannot be encoded or the disk says no.
pub fn save<T: Serialize>(path: &Path, version: u32, value: &T) -> Result<(), PersistError> {
    let body = serde_json::to_vec(value)
        .map_err(|source| PersistError::Encode { path: path.display().to_string(), source })?;
    let mut bytes =
        format!("{MAGIC} {version} {} {}\n", body.len(), hex::encode(Sha256::digest(&body))).into_bytes();
    bytes.extend_from_slice(&body);
    keep_previous(path).and_then(|()| write(path, &bytes, 0o600)).map_err(|source| io_error(path, source))
}

/// Saves many values as [`save`] does, each into its own file, side by side: together they wait for the disk
/// about as long as a few of them. One outcome for each, in their order.
pub fn save_all<T: Serialize + Sync>(values: &[(PathBuf, T)], version: u32) -> Vec<Result<(), PersistError>> {
    let at_once = values.len().div_ceil(SIDE_BY_SIDE).max(1);
    let group = |group: &[(PathBuf, T)]| -> Vec<_> {
        group.iter().map(|(path, value)| save(path, version, value)).collect()
    };
    if let [_] | [] = values {
        return group(values);
    }
    std::thread::scope(|scope| {
        let groups: Vec<_> =
            values.chunks(at_once).map(|part| (part, scope.spawn(move || group(part)))).collect();
        let lost = |path: &Path| Err(io_error(path, io::Error::other("the thread that saves it has ended")));
        let outcomes = groups.into_iter().flat_map(|(part, work)| {
            work.join().unwrap_or_else(|_| part.iter().map(|(path, _)| lost(path)).collect())
        });
        outcomes.collect()
    })
}

/// Loads what [`save`] wrote. A damaged file, or one of another version, falls back to the previous
/// generation, and the answer says so; the caller logs it.
///
/// # Errors
/// Where there is a file but no generation of it can be used.
pub fn load<T: DeserializeOwned>(path: &Path, version: u32) -> Result<Loaded<T>, PersistError> {
    let newest = match read(path, version) {
        Ok(value) => return Ok(Loaded { value: Some(value), fallback: None }),
        Err(fault) => fault,
    };
    let before = previous(path);
    match (newest, read(&before, version)) {
        (newest, Ok(value)) => Ok(Loaded {
            value: Some(value),
            fallback: Some(format!(
                "state file {}: {newest}; the generation before it is in force",
                path.display()
            )),
        }),
        (Fault::Absent, Err(Fault::Absent)) => Ok(Loaded { value: None, fallback: None }),
        (newest, Err(_)) => {
            Err(PersistError::Damaged { path: path.display().to_string(), reason: newest.to_string() })
        }
    }
}

/// Removes a state file and all its generations; absent ones are no error.
///
/// # Errors
/// Where the disk says no.
pub fn remove(path: &Path) -> Result<(), PersistError> {
    for path in [path.to_owned(), previous(path)] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(io_error(&path, source)),
            _ => {}
        }
    }
    Ok(())
}

/// Writes a plain file whole or not at all: temporary file beside it, flush, rename, flush of the
/// folder (which is created where it is missing). `mode` is the file's mode, whatever the umask.
///
/// # Errors
/// Where the disk says no; the file before stays.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, mode, |file| file.write_all(bytes))
}

/// The same of what `fill` writes.
fn replace(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{}-{number}.new", std::process::id()));
    let written = (|| {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
        let mut buffer = BufWriter::new(file);
        fill(&mut buffer)?;
        buffer.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// What is wrong with one generation.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("is absent")]
    Absent,
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("{0}")]
    Content(String),
}

fn read<T: DeserializeOwned>(path: &Path, version: u32) -> Result<T, Fault> {
    let file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Fault::Absent,
        _ => Fault::Io(e),
    })?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(Fault::Io)?;
    let body = body(&bytes, version).map_err(Fault::Content)?;
    serde_json::from_slice(body).map_err(|e| Fault::Content(format!("does not hold what it should: {e}")))
}

/// The JSON behind the first line, once that line fits it.
fn body(bytes: &[u8], version: u32) -> Result<&[u8], String> {
    let end = bytes.iter().take(256).position(|b| *b == b'\n').ok_or("has no first line")?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| "has a garbled first line")?;
    let words: Vec<&str> = head.split(' ').collect();
    let [MAGIC, found, length, sum] = words[..] else { return Err("has a garbled first line".into()) };
    if found != version.to_string() {
        return Err(format!("has version {found} where {version} is known"));
    }
    if length != body.len().to_string() {
        return Err(format!("is cut: {} of {length} bytes", body.len()));
    }
    if sum != hex::encode(Sha256::digest(body)) {
        return Err("has a wrong checksum".into());
    }
    Ok(body)
}

/// Gives the present file a second name, so that there is no moment without it.
fn keep_previous(path: &Path) -> io::Result<()> {
    let spare = with_suffix(path, ".spare");
    let _ = fs::remove_file(&spare);
    match fs::hard_link(path, &spare) {
        Ok(()) => fs::rename(&spare, previous(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn previous(path: &Path) -> PathBuf {
    with_suffix(path, ".previous")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io_error(path: &Path, source: io::Error) -> PersistError {
    PersistError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn generations() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/leases.json");
        save(&path, 1, &vec![1, 2]).unwrap();
        save(&path, 1, &vec![3]).unwrap();
        (folder, path)
    }

    #[test]
    fn saved_is_loaded() {
        let (folder, path) = generations();
        assert_eq!(load(&path, 1).unwrap(), Loaded { value: Some(vec![3]), fallback: None });
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let nothing: Loaded<u8> = load(&folder.path().join("none"), 1).unwrap();
        assert_eq!(nothing, Loaded { value: None, fallback: None });
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_damaged_file_falls_back_and_says_so() {
        for damage in ["", "trivium-state 1 3 00\n[9]", "junk", "trivium-state 2 3 00\n[9]"] {
            let (_folder, path) = generations();
            fs::write(&path, damage).unwrap();
            let loaded: Loaded<Vec<i32>> = load(&path, 1).unwrap();
            assert_eq!(loaded.value, Some(vec![1, 2]));
            assert!(loaded.fallback.unwrap().contains("the generation before it is in force"));
        }
    }

    #[test]
    fn nothing_usable_is_an_error() {
        let (_folder, path) = generations();
        fs::write(&path, "x").unwrap();
        fs::write(previous(&path), "x").unwrap();
        let error = load::<Vec<i32>>(&path, 1).unwrap_err().to_string();
        assert!(error.contains("has no first line"), "{error}");
        remove(&path).unwrap();
        assert_eq!(load::<Vec<i32>>(&path, 1).unwrap().value, None);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let (_folder, path) = generations();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(load::<Vec<i32>>(&path, 1).unwrap().fallback.unwrap().contains("wrong checksum"));
    }
}
