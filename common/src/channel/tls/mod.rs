//! Keys, certificates and who trusts whom (management channel 4).
//!
//! TLS 1.2 only, no resumption: that is what the peers speak, and what keeps every byte after the
//! handshake inside link frames.

mod authority;
mod client;
mod files;
mod server;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use authority::{Authority, Issue, Issued, KeyKind};
pub use client::peer_config;
pub use files::{AgentCertificates, AgentFiles, Texts};
pub use server::{ClientPolicy, Presented, Revoked, ServerTls};

/// What is wrong with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// PEM text cannot be read or holds not what it should.
    #[error("{what}: {reason}")]
    Pem {
        /// Which text.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The key is not that of the certificate, or of a kind that TLS cannot use.
    #[error("the key cannot be used: {0}")]
    Key(rustls::Error),
    /// The TLS engine refuses its configuration.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// A certificate or request cannot be made.
    #[error("the certificate cannot be issued: {0}")]
    Issue(#[from] rcgen::Error),
}

/// The one crypto provider of the whole tree.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificates of a PEM text, at least one.
pub fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Pem { what: what.to_owned(), reason };
    let list = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if list.is_empty() {
        return Err(wrong("no certificate".to_owned()));
    }
    Ok(list)
}

/// The private key of a PEM text: PKCS#8, PKCS#1 or SEC 1.
pub fn private_key(what: &str, pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| TlsError::Pem { what: what.to_owned(), reason: error.to_string() })
}
