//! TLS towards browsers, with the certificate that management has delivered.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::wire::Tls;

/// Why a certificate cannot be used. The one before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not base64.
    #[error("the browsers' certificate or key is not base64")]
    Base64,
    /// Key and certificate do not fit, or are of a kind that cannot be used.
    #[error("the browsers' certificate: {0}")]
    Rustls(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3, no client certificates.
pub fn config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let der = |text: &String| STANDARD.decode(text).map_err(|_| TlsError::Base64);
    let chain = tls.chain.iter().map(|text| der(text).map(CertificateDer::from)).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der(&tls.key)?));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
