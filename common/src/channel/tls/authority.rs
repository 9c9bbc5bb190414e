//! The certificate authority of the management end: created once, kept in two files, asked for
//! certificates with and without a request.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use std::time::{Duration, SystemTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::files::{read, write};
use super::{TlsError, certificates};

/// Name of the certificate's file.
const CERTIFICATE: &str = "ca.crt";
/// Name of the key's file; mode 0600.
const KEY: &str = "ca.key";
/// Certificates are valid from so long ago, for clocks that differ.
const BEFORE: Duration = Duration::from_secs(12 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The authority itself is valid for 30 years.
const AUTHORITY_DAYS: u32 = 365 * 30;

/// Kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA as the protocol's first implementation has it: 4096 bits for an authority, 2048 else.
    Rsa,
    /// ECDSA on P-256: as good, and made in a moment.
    P256,
}

impl KeyKind {
    fn generate(self, size: RsaKeySize) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, size),
            Self::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        }
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issue {
    /// Names; the first is also the subject's common name.
    pub names: Vec<String>,
    /// Addresses that its owner connects from.
    pub addresses: Vec<IpAddr>,
    /// Days that it is valid.
    pub days: u32,
}

/// A certificate with what belongs to it.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PKCS#8 PEM; empty where it was issued on a request.
    pub private_key: String,
    /// The authority's certificate, PEM.
    pub ca_certificates: String,
    /// Serial number in hex.
    pub serial: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "certificate {}", self.serial)
    }
}

/// A certificate authority.
pub struct Authority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Loads the authority of `folder`, or creates it there under `name` (`ca.cloudstack.apache.org`).
    /// An RSA authority takes a few seconds to create.
    pub fn open(folder: &Path, name: &str, kind: KeyKind) -> Result<Self, TlsError> {
        if folder.join(CERTIFICATE).exists() { Self::load(folder) } else { Self::create(folder, name, kind) }
    }

    /// Loads the authority of `folder`.
    pub fn load(folder: &Path) -> Result<Self, TlsError> {
        let pem = read(&folder.join(CERTIFICATE))?;
        let key = KeyPair::from_pem(&read(&folder.join(KEY))?)?;
        Self::of(pem, key)
    }

    fn create(folder: &Path, name: &str, kind: KeyKind) -> Result<Self, TlsError> {
        let key = kind.generate(RsaKeySize::_4096)?;
        let mut params = params(name, AUTHORITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        std::fs::create_dir_all(folder)
            .map_err(|source| TlsError::File { path: folder.to_owned(), source })?;
        write(&folder.join(KEY), &key.serialize_pem(), 0o600)?;
        write(&folder.join(CERTIFICATE), &certificate.pem(), 0o644)?;
        Self::of(certificate.pem(), key)
    }

    fn of(pem: String, key: KeyPair) -> Result<Self, TlsError> {
        let certificate = certificates("the authority's certificate", &pem)?.swap_remove(0);
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|error| {
            TlsError::Pem { what: "the authority's certificate".to_owned(), reason: error.to_string() }
        })?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(TlsError::Pem {
                what: "the authority's key".to_owned(),
                reason: "it is not that of the certificate".to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, certificate_pem: pem, issuer })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key and a certificate for it. An RSA key may take a second: not for an async task.
    pub fn issue(&self, wish: &Issue, kind: KeyKind) -> Result<Issued, TlsError> {
        let key = kind.generate(RsaKeySize::_2048)?;
        let mut issued = self.sign(wish, &key)?;
        issued.private_key = key.serialize_pem();
        Ok(issued)
    }

    /// Issues a certificate on a request (PEM, also with the `NEW CERTIFICATE REQUEST` header). Its
    /// signature is checked; of its content the key, the common name where `wish` has no name, and
    /// the names and addresses are taken, nothing else.
    pub fn issue_on_request(&self, request: &str, wish: &Issue) -> Result<Issued, TlsError> {
        let wrong = |reason: String| TlsError::Pem { what: "the certificate request".to_owned(), reason };
        let pem = request.replace("NEW CERTIFICATE REQUEST", "CERTIFICATE REQUEST");
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| wrong(error.to_string()))?;
        let (_, parsed) =
            X509CertificationRequest::from_der(&der).map_err(|error| wrong(error.to_string()))?;
        parsed.verify_signature().map_err(|error| wrong(error.to_string()))?;
        let info = &parsed.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)?;
        let mut wish = wish.clone();
        if wish.names.is_empty() {
            let name = info.subject.iter_common_name().next().and_then(|name| name.as_str().ok());
            wish.names.extend(name.map(str::to_owned));
        }
        for extension in parsed.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(list) = extension else { continue };
            for entry in &list.general_names {
                match entry {
                    GeneralName::DNSName(name) if !wish.names.iter().any(|known| known == name) => {
                        wish.names.push((*name).to_owned());
                    }
                    GeneralName::IPAddress(bytes) => {
                        let address = super::server::address(bytes);
                        wish.addresses.extend(address.filter(|known| !wish.addresses.contains(known)));
                    }
                    _ => {}
                }
            }
        }
        self.sign(&wish, &key)
    }

    fn sign(&self, wish: &Issue, key: &impl PublicKeyData) -> Result<Issued, TlsError> {
        let name = wish.names.first().map_or("agent", String::as_str);
        let mut params = params(name, wish.days);
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = wish.addresses.iter().copied().map(SanType::IpAddress).collect();
        for name in &wish.names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        let serial = params.serial_number.as_ref().map(|serial| hex(&serial.to_bytes())).unwrap_or_default();
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            private_key: String::new(),
            ca_certificates: self.certificate_pem.clone(),
            serial,
        })
    }
}

/// A new RSA key of 2048 bits and a request for a certificate of `wish` (its days do not matter
/// here), both PEM.
pub(in crate::channel) fn request(wish: &Issue) -> Result<(String, String), TlsError> {
    let key = KeyKind::Rsa.generate(RsaKeySize::_2048)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(wish.names.first().map_or("agent", String::as_str));
    params.subject_alt_names = wish.addresses.iter().copied().map(SanType::IpAddress).collect();
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
}

fn params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + DAY * days).into();
    params.distinguished_name = distinguished(name);
    // 63 random bits, so that the number is positive and needs no leading zero.
    let serial = rand::random::<u64>() >> 1 | 1 << 62;
    params.serial_number = Some(SerialNumber::from_slice(&serial.to_be_bytes()));
    params
}

fn distinguished(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A serial number as it is written everywhere: lower-case hex without leading zeros.
pub(super) fn hex(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let short = text.trim_start_matches('0');
    if short.is_empty() { "0".to_owned() } else { short.to_owned() }
}
