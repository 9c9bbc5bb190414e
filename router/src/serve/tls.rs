//! TLS of the metadata service: a certificate of this process's own, which nobody can check and nobody does.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio_rustls::TlsAcceptor;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate could be made.
    #[error("no certificate can be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// It cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Use(#[from] rustls::Error),
}

/// Makes a certificate, and takes connections with it.
///
/// # Errors
/// Where none can be made.
pub fn acceptor() -> Result<TlsAcceptor, TlsError> {
    let own = rcgen::generate_simple_self_signed(vec!["data-server".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
