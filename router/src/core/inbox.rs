//! The folder where documents arrive, and the archive of those that have been dealt with (router contract 3.2).

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use common::{paths::Paths, persist};
use flate2::{Compression, write::GzEncoder};

use crate::document::LIMIT;

/// Documents that are kept in the archive.
const KEPT: usize = 100;

/// What names of documents with passwords and keys begin with.
const SECRET: [&str; 5] =
    ["vm_password", "site_2_site_vpn", "remote_access_vpn", "vpn_user_list", "wireguard"];

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Inbox {
    cache: PathBuf,
}

/// What was found under a name.
#[derive(Debug)]
pub(super) enum Found {
    /// The bytes of the document.
    Bytes(Vec<u8>),
    /// It was dealt with before.
    Done,
}

impl Inbox {
    pub(super) fn new(paths: &Paths) -> Self {
        Self { cache: paths.cache() }
    }

    /// Whether a name is one of a file in this folder, and nothing else.
    pub(super) fn is_name(name: &str) -> bool {
        !name.is_empty()
            && name.len() <= 200
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    }

    /// Reads the document of this name.
    pub(super) fn read(&self, name: &str) -> io::Result<Found> {
        let file = match fs::File::open(self.cache.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.archived(name).exists() => {
                return Ok(Found::Done);
            }
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(LIMIT as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Found::Bytes(bytes))
    }

    /// Writes a file of a bundle that no command of it has taken.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        persist::write(&self.cache.join(name), bytes, 0o600)
    }

    /// Takes a document that has been dealt with out of the folder, into the archive where it is to be
    /// kept: under its name once it is in force, under another where it was refused. Of passwords
    /// the archive keeps only that they came. Failures are logged: the outcome stands, whatever becomes of the file.
    pub(super) fn finish(&self, name: &str, bytes: &[u8], in_force: bool, keep: bool) {
        let content = if SECRET.iter().any(|secret| name.starts_with(secret)) { &[] } else { bytes };
        let kept_as = if in_force { name.to_owned() } else { format!("{name}.refused") };
        let outcome = if keep || !in_force { self.archive(&kept_as, content) } else { Ok(()) };
        let removed = match fs::remove_file(self.cache.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        if let Err(error) = outcome.and(removed) {
            tracing::warn!(%error, name, "a document cannot be archived");
        }
    }

    /// Takes a document away that was never to be dealt with.
    pub(super) fn forget(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.cache.join(name)) {
            tracing::warn!(%error, name, "a document cannot be removed");
        }
    }

    fn archived(&self, name: &str) -> PathBuf {
        self.cache.join("processed").join(format!("{name}.gz"))
    }

    fn archive(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes)?;
        let folder = self.cache.join("processed");
        fs::create_dir_all(&folder)?;
        let path = self.archived(name);
        // Not flushed to the disk: the state is durable, the archive is for people.
        fs::write(&path, packed.finish()?)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let mut all: Vec<_> = fs::read_dir(&folder)?
            .flatten()
            .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
            .collect();
        if all.len() > KEPT {
            all.sort();
            for (_, path) in all.iter().take(all.len() - KEPT) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_archived_once_it_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(&Paths::below(folder.path()));
        let name = "vm_dhcp_entry.json.1";
        assert!(inbox.read(name).is_err());
        inbox.write(name, b"{}").unwrap();
        assert!(matches!(inbox.read(name).unwrap(), Found::Bytes(bytes) if bytes == b"{}"));
        inbox.finish(name, b"{}", true, true);
        assert!(matches!(inbox.read(name).unwrap(), Found::Done));
        for n in 0..2 * KEPT {
            inbox.finish(&format!("x.json.{n}"), b"{}", true, true);
        }
        assert_eq!(fs::read_dir(inbox.cache.join("processed")).unwrap().count(), KEPT);
    }

    #[test]
    fn a_refused_document_does_not_count_as_done_and_no_password_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::new(&Paths::below(folder.path()));
        inbox.finish("a.json.1", b"x", false, true);
        assert!(inbox.read("a.json.1").is_err());
        assert!(inbox.archived("a.json.1.refused").exists());
        inbox.finish("vm_password.json.1", b"hunter2", true, true);
        let mut kept = Vec::new();
        let file = fs::File::open(inbox.archived("vm_password.json.1")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_end(&mut kept).unwrap();
        assert_eq!(kept, b"");
    }

    #[test]
    fn names_stay_in_the_folder() {
        assert!(Inbox::is_name("firewall_rules.json.5b0c6a0e-2b68"));
        for bad in ["", "../x", "a/b", ".x", "a b", "a*"] {
            assert!(!Inbox::is_name(bad), "{bad}");
        }
    }
}
