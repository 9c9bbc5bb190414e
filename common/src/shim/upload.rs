//! Files that a host uploads: below `/var/cache/cloud/`, under a plain name, within a bound. The patch
//! archives of the reference are taken and thrown away; of one of them the checksum is kept, and where it
//! is a bundle of ours, it goes into the slot for the next root.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha512};

use crate::{
    journal,
    paths::Paths,
    persist,
    roots::{Receiver, Verdict},
};

/// Largest document in bytes.
const DOCUMENT: u64 = 64 * 1024 * 1024;
/// Largest archive that is thrown away, in bytes.
const ARCHIVE: u64 = 4 * 1024 * 1024 * 1024;
/// The folder as the host names it.
const FOLDER: &str = "/var/cache/cloud";

/// Why an upload was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// The place is not below the one folder, or the name is not plain.
    #[error("{0}: uploads go to {FOLDER}/ under a plain name")]
    Place(String),
    /// The file is too big.
    #[error("{name}: larger than {limit} bytes")]
    TooBig {
        /// Its name.
        name: String,
        /// The bound.
        limit: u64,
    },
    /// The disk says no.
    #[error("{name}: {source}")]
    Io {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What happens to the bytes.
enum Sink {
    Keep { file: File, temporary: PathBuf },
    Discard,
    Scripts(Box<(Sha512, Receiver)>),
}

/// One upload. Dropped without [`Upload::finish`] it leaves nothing behind.
pub(super) struct Upload {
    name: String,
    paths: Paths,
    sink: Sink,
    size: u64,
    limit: u64,
}

impl Upload {
    /// Begins an upload to `target` (a path as the host names it); `size` where it is known.
    ///
    /// # Errors
    /// Where the target is not a plain name in the folder, or it would be too big.
    pub(super) fn start(paths: &Paths, target: &str, size: Option<u64>) -> Result<Self, UploadError> {
        let name = plain_name(target).ok_or_else(|| UploadError::Place(shown(target)))?.to_owned();
        let limit = match name.as_str() {
            "agent.zip" | "cloud-scripts.tgz" | "patch-sysvms.sh" => ARCHIVE,
            _ => DOCUMENT,
        };
        if size.is_some_and(|size| size > limit) {
            return Err(UploadError::TooBig { name, limit });
        }
        let sink = match name.as_str() {
            "agent.zip" | "patch-sysvms.sh" => Sink::Discard,
            "cloud-scripts.tgz" => Sink::Scripts(Box::new((Sha512::new(), Receiver::new(paths)))),
            _ => keep(paths, &name).map_err(|source| UploadError::Io { name: name.clone(), source })?,
        };
        Ok(Self { name, paths: paths.clone(), sink, size: 0, limit })
    }

    /// How many bytes came so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Where it gets too big or the disk says no.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.size += bytes.len() as u64;
        if self.size > self.limit {
            return Err(UploadError::TooBig { name: self.name.clone(), limit: self.limit });
        }
        match &mut self.sink {
            Sink::Keep { file, .. } => {
                file.write_all(bytes).map_err(|source| UploadError::Io { name: self.name.clone(), source })
            }
            Sink::Discard => Ok(()),
            Sink::Scripts(scripts) => {
                scripts.0.update(bytes);
                scripts.1.write(bytes);
                Ok(())
            }
        }
    }

    /// Ends the upload: only now the file is there under its name.
    ///
    /// # Errors
    /// Where the disk says no.
    pub(super) fn finish(mut self) -> Result<(), UploadError> {
        let target = self.paths.cache().join(&self.name);
        let done = match std::mem::replace(&mut self.sink, Sink::Discard) {
            Sink::Keep { temporary, .. } => fs::rename(temporary, target),
            Sink::Discard => Ok(()),
            Sink::Scripts(scripts) => {
                let (sum, receiver) = *scripts;
                let verdict = receiver.finish();
                if verdict != Verdict::Stock {
                    journal::note(&self.paths, "shim", &format!("bundle: {verdict}"));
                }
                let text = format!("{}\n", hex::encode(sum.finalize()));
                persist::write(&signature(&self.paths), text.as_bytes(), 0o644)
            }
        };
        done.map_err(|source| UploadError::Io { name: self.name.clone(), source })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Sink::Keep { temporary, .. } = &self.sink {
            // After `finish` it has another name already.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Where the SHA-512 of the last uploaded script archive is kept.
pub(super) fn signature(paths: &Paths) -> PathBuf {
    paths.cache().join("cloud-scripts-signature")
}

/// Whether a path, as a host names it, is the folder of uploads itself.
pub(super) fn is_folder(path: &str) -> bool {
    path.strip_prefix(FOLDER).is_some_and(|rest| matches!(rest, "" | "/" | "/." | "/./"))
}

/// The plain name of a path in the folder.
pub(super) fn plain_name(path: &str) -> Option<&str> {
    let name = path.strip_prefix(FOLDER)?.trim_start_matches('/');
    let plain = path.len() > FOLDER.len()
        && path[FOLDER.len()..].starts_with('/')
        && (1..=200).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains('/')
        && !name.chars().any(char::is_control);
    plain.then_some(name)
}

fn keep(paths: &Paths, name: &str) -> io::Result<Sink> {
    let folder = paths.cache();
    fs::create_dir_all(&folder)?;
    sweep(&folder)?;
    let temporary = folder.join(format!(".{name}.{}.part", std::process::id()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    Ok(Sink::Keep { file, temporary })
}

/// Removes what uploads left behind whose process ended without a chance to.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|n| n.strip_prefix('.')?.strip_suffix(".part")?.rsplit('.').next());
        if process.is_some_and(|process| {
            process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists()
        }) {
            // Another upload may have swept at the same time.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn shown(path: &str) -> String {
    path.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(plain_name("/var/cache/cloud/x.json.1"), Some("x.json.1"));
        assert_eq!(plain_name("/var/cache/cloud//x"), Some("x"));
        for path in [
            "/var/cache/cloud/",
            "/var/cache/cloud/../x",
            "/var/cache/cloud/a/b",
            "/var/cache/cloudx",
            "/etc/passwd",
            "/var/cache/cloud/.x",
            "x",
        ] {
            assert_eq!(plain_name(path), None, "{path}");
        }
        assert!(is_folder("/var/cache/cloud/") && is_folder("/var/cache/cloud") && !is_folder("/var/cache"));
    }

    #[test]
    fn a_file_is_there_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let mut upload = Upload::start(&paths, "/var/cache/cloud/a.json", Some(4)).unwrap();
        upload.write(b"ab").unwrap();
        assert!(!paths.cache().join("a.json").exists());
        drop(upload);
        assert_eq!(fs::read_dir(paths.cache()).unwrap().count(), 0);
        // Process numbers end at 2^22.
        fs::write(paths.cache().join(".b.json.4194305.part"), "half").unwrap();
        let mut upload = Upload::start(&paths, "/var/cache/cloud/a.json", None).unwrap();
        assert!(!paths.cache().join(".b.json.4194305.part").exists());
        upload.write(b"abcd").unwrap();
        upload.finish().unwrap();
        assert_eq!(fs::read(paths.cache().join("a.json")).unwrap(), b"abcd");
        assert!(matches!(
            Upload::start(&paths, "/var/cache/cloud/a.json", Some(DOCUMENT + 1)),
            Err(UploadError::TooBig { .. })
        ));
    }

    #[test]
    fn archives_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for name in ["agent.zip", "patch-sysvms.sh", "cloud-scripts.tgz"] {
            let mut upload =
                Upload::start(&paths, &format!("/var/cache/cloud/{name}"), Some(ARCHIVE)).unwrap();
            upload.write(b"abc").unwrap();
            upload.finish().unwrap();
            assert!(!paths.cache().join(name).exists());
        }
        let sum = fs::read_to_string(signature(&paths)).unwrap();
        assert!(sum.starts_with("ddaf35a193617abacc417349ae204131"), "{sum}");
        assert_eq!(sum.len(), 129);
    }
}
