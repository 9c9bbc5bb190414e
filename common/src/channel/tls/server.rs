//! The management end's side of TLS: what it shows, and which client certificates it takes
//! (management channel 4.2 and 4.3).

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;

use super::authority::hex;
use super::{Authority, Issue, KeyKind, TlsError, certificates, private_key, provider};

/// Serial numbers of revoked certificates, in hex. Clones share the same list.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    serials: Arc<RwLock<HashSet<String>>>,
}

impl Revoked {
    /// Adds a serial number, in hex of either case, leading zeros allowed.
    pub fn add(&self, serial: &str) {
        self.serials.write().unwrap_or_else(PoisonError::into_inner).insert(plain(serial));
    }

    /// True where the certificate with this serial number is revoked.
    pub fn contains(&self, serial: &str) -> bool {
        self.serials.read().unwrap_or_else(PoisonError::into_inner).contains(&plain(serial))
    }
}

fn plain(serial: &str) -> String {
    let lower = serial.trim().to_ascii_lowercase();
    let short = lower.trim_start_matches('0');
    if short.is_empty() { "0".to_owned() } else { short.to_owned() }
}

/// How strictly client certificates are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPolicy {
    /// Take only certificates that our authority issued for the address that they come from, and
    /// that are not revoked. Otherwise take anything, also nothing.
    pub strict: bool,
    /// Take certificates that have expired.
    pub allow_expired: bool,
}

impl Default for ClientPolicy {
    fn default() -> Self {
        Self { strict: true, allow_expired: true }
    }
}

/// What a client showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Presented {
    /// Serial number in hex; none without a certificate.
    pub serial: Option<String>,
    /// End of validity, seconds since 1970.
    pub expires: Option<i64>,
    /// Issued by our authority, for the address it comes from, not revoked.
    pub verified: bool,
}

/// What the management end needs for TLS.
#[derive(Clone)]
pub struct ServerTls {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    rules: Arc<Rules>,
}

impl ServerTls {
    /// A server that shows a certificate of its own from `authority`, made now for `names` and
    /// `addresses`, and takes clients with certificates of the same authority.
    pub fn new(
        authority: &Authority,
        names: Vec<String>,
        addresses: Vec<IpAddr>,
        policy: ClientPolicy,
        revoked: Revoked,
    ) -> Result<Self, TlsError> {
        let issued = authority.issue(&Issue { names, addresses, days: 365 * 10 }, KeyKind::P256)?;
        let mut chain = certificates("the server's certificate", &issued.certificate)?;
        chain.push(authority.certificate().clone());
        let key = Arc::new(private_key("the server's key", &issued.private_key)?);
        let rules = Arc::new(Rules::new(authority.certificate(), policy, revoked)?);
        let tls = Self { chain, key, rules };
        tls.config(IpAddr::from([127, 0, 0, 1]))?;
        Ok(tls)
    }

    /// What a client that connects from `peer` showed.
    pub fn presented(&self, chain: Option<&[CertificateDer<'_>]>, peer: IpAddr) -> Presented {
        let Some((leaf, rest)) = chain.and_then(<[_]>::split_first) else {
            return Presented::default();
        };
        let verified = self.rules.check(leaf, rest, UnixTime::now(), peer).is_ok();
        Presented { verified, ..presented(leaf) }
    }

    /// The configuration for a connection from `peer`.
    pub fn config(&self, peer: IpAddr) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = Arc::new(Verifier { rules: self.rules.clone(), peer });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .map_err(|error| TlsError::Setup(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(TlsError::Key)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}

/// Serial number and end of validity of a certificate; nothing of one that cannot be read.
fn presented(leaf: &CertificateDer<'_>) -> Presented {
    match x509_parser::parse_x509_certificate(leaf) {
        Ok((_, parsed)) => Presented {
            serial: Some(hex(parsed.raw_serial())),
            expires: Some(parsed.validity().not_after.timestamp()),
            verified: false,
        },
        Err(_) => Presented::default(),
    }
}

#[derive(Debug)]
struct Rules {
    policy: ClientPolicy,
    revoked: Revoked,
    chain: Arc<dyn ClientCertVerifier>,
}

impl Rules {
    fn new(authority: &CertificateDer<'_>, policy: ClientPolicy, revoked: Revoked) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned()).map_err(|error| TlsError::Setup(error.to_string()))?;
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        Ok(Self { policy, revoked, chain })
    }

    /// All that strict mode asks for: issued by our authority, in its time (unless that does not
    /// matter), not revoked, and for the address that it comes from.
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
        peer: IpAddr,
    ) -> Result<(), Error> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let mut when = now;
        if self.policy.allow_expired {
            let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
            when = when.min(UnixTime::since_unix_epoch(Duration::from_secs(end)));
        }
        self.chain.verify_client_cert(leaf, rest, when)?;
        if self.revoked.contains(&hex(parsed.raw_serial())) {
            return Err(CertificateError::Revoked.into());
        }
        let names = parsed.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        if names.iter().any(|name| is_for(name, peer)) {
            Ok(())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    /// The one rule that holds in lax mode too, where expired certificates are not welcome.
    fn check_time(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        if !self.policy.allow_expired && now.as_secs() > end {
            return Err(CertificateError::Expired.into());
        }
        Ok(())
    }
}

/// True where an alternative name is the address `peer`, as an address or as its text.
fn is_for(name: &GeneralName<'_>, peer: IpAddr) -> bool {
    let named = match name {
        GeneralName::IPAddress(bytes) => address(bytes),
        GeneralName::DNSName(text) => text.parse().ok(),
        _ => None,
    };
    named.is_some_and(|named| named.to_canonical() == peer.to_canonical())
}

/// The address in an alternative name: 4 or 16 bytes.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The rules for one connection.
#[derive(Debug)]
struct Verifier {
    rules: Arc<Rules>,
    peer: IpAddr,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.rules.policy.strict
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.rules.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.rules.check_time(leaf, now)?;
        match self.rules.check(leaf, rest, now, self.peer) {
            Ok(()) => {}
            Err(error) if self.rules.policy.strict => return Err(error),
            Err(error) => {
                tracing::warn!(peer = %self.peer, %error, "taking a client certificate that strict mode would refuse");
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rules.chain.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.rules.chain.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rules.chain.supported_verify_schemes()
    }
}
