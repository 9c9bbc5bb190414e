//! The agent's three PEM files (management channel 4.5): loading, and putting new ones in place.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use super::{Issue, TlsError, certificates, client, private_key};

/// Own certificate.
const CERTIFICATE: &str = "cloud.crt";
/// The authorities.
const AUTHORITIES: &str = "cloud.ca.crt";
/// Private key.
const KEY: &str = "cloud.key";
/// Certificate request.
const REQUEST: &str = "cloud.csr";
/// Key of the request, until its certificate comes.
const REQUEST_KEY: &str = "cloud.key.requested";
/// Mode of the three files, as the hosts' scripts set it.
const MODE: u32 = 0o750;

/// The folder with an agent's certificate files.
#[derive(Debug, Clone)]
pub struct AgentFiles {
    folder: PathBuf,
}

/// The texts of an agent's files (PEM), as they are; `None` for one that is not there.
#[derive(Clone, Default)]
pub struct Texts {
    /// Own certificate with its chain.
    pub certificate: Option<String>,
    /// The authorities.
    pub authorities: Option<String>,
    /// Private key; a secret.
    pub key: Option<String>,
}

/// The certificates of an agent, loaded.
pub struct AgentCertificates {
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    authorities: Vec<CertificateDer<'static>>,
}

impl AgentCertificates {
    /// True where the agent knows whom to trust.
    pub fn has_authority(&self) -> bool {
        !self.authorities.is_empty()
    }

    /// True where the agent has a certificate to show. It shows none to a server that it cannot check.
    pub fn has_identity(&self) -> bool {
        self.identity.is_some() && self.has_authority()
    }

    /// The configuration for connections to servers.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let identity = self
            .identity
            .as_ref()
            .filter(|_| self.has_authority())
            .map(|(chain, key)| (chain.clone(), key.clone_key()));
        client::config(&self.authorities, identity)
    }
}

impl AgentFiles {
    /// The files of `folder`, for instance `Paths::agent()`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The texts that are there.
    pub fn texts(&self) -> Result<Texts, TlsError> {
        let pem = |name: &str| -> Result<Option<String>, TlsError> {
            let path = self.folder.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(TlsError::File { path, source }),
            }
        };
        Ok(Texts { certificate: pem(CERTIFICATE)?, authorities: pem(AUTHORITIES)?, key: pem(KEY)? })
    }

    /// Loads what is there. Missing files are no error: an agent starts without any.
    pub fn load(&self) -> Result<AgentCertificates, TlsError> {
        let texts = self.texts()?;
        let authorities = match texts.authorities {
            Some(text) => certificates(AUTHORITIES, &text)?,
            None => Vec::new(),
        };
        let identity = match (texts.certificate, texts.key) {
            (Some(chain), Some(key)) => Some((certificates(CERTIFICATE, &chain)?, private_key(KEY, &key)?)),
            _ => None,
        };
        let loaded = AgentCertificates { identity, authorities };
        loaded.config()?;
        Ok(loaded)
    }

    /// Something that differs whenever the content of the files does.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for name in [CERTIFICATE, AUTHORITIES, KEY] {
            let content = fs::read(self.folder.join(name)).unwrap_or_default();
            hash.update(content.len().to_be_bytes());
            hash.update(&content);
        }
        hash.finalize().into()
    }

    /// Puts a certificate, its authorities and its key (all PEM) in place. An empty key means that
    /// of the last [`AgentFiles::request`], or the one in place. Everything is checked before the
    /// first file is touched; on an error the old files stay in force.
    pub fn install(&self, certificate: &str, authorities: &str, key: &str) -> Result<(), TlsError> {
        let requested = self.folder.join(REQUEST_KEY);
        let key = match key.trim().is_empty() {
            false => key.to_owned(),
            true if requested.exists() => read(&requested)?,
            true => read(&self.folder.join(KEY))?,
        };
        let chain = certificates("the certificate", certificate)?;
        let known = certificates("the authorities' certificates", authorities)?;
        client::config(&known, Some((chain, private_key("the key", &key)?)))?;
        // All three are on the disk before the first takes its place.
        let files = [(KEY, key.as_str()), (AUTHORITIES, authorities), (CERTIFICATE, certificate)];
        let mut staged = Vec::with_capacity(files.len());
        for (name, text) in files {
            staged.push(stage(&self.folder.join(name), text, MODE)?);
        }
        for file in staged {
            file.take_place()?;
        }
        let _ = fs::remove_file(requested);
        Ok(())
    }

    /// Makes a key and a request for a certificate, PEM. The key in place stays in force until the
    /// certificate is installed.
    pub fn request(&self, wish: &Issue) -> Result<String, TlsError> {
        let (key, request) = super::authority::request(wish)?;
        write(&self.folder.join(REQUEST_KEY), &key, 0o600)?;
        write(&self.folder.join(REQUEST), &request, 0o600)?;
        Ok(request)
    }
}

pub(super) fn read(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

/// Writes a whole file or nothing: first beside it, then renamed onto it.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    stage(path, text, mode)?.take_place()
}

/// A file that lies beside the one it will replace.
struct Staged {
    beside: PathBuf,
    path: PathBuf,
}

impl Staged {
    fn take_place(self) -> Result<(), TlsError> {
        fs::rename(&self.beside, &self.path).map_err(|source| TlsError::File { path: self.path, source })
    }
}

fn stage(path: &Path, text: &str, mode: u32) -> Result<Staged, TlsError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let write = || {
        let _ = fs::remove_file(&beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::set_permissions(&beside, Permissions::from_mode(mode))
    };
    write().map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    Ok(Staged { beside, path: path.to_owned() })
}
