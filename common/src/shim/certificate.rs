//! Keys and certificates of the agent, as a host delivers them over SSH (management channel contract 4.6):
//! `keystore-setup` makes a key and a request, `keystore-cert-import` installs what was issued. The PEM
//! files are the truth; no Java key store is written.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{CertificateParams, DnType, KeyPair, RsaKeySize, SanType};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::wire::{self, Request};
use crate::{paths::Paths, persist, program};

/// The folder of the agent's files, as a host names it.
const FOLDER: &str = "/usr/local/cloud/systemvm/conf";
/// The key of a request that has not been answered yet.
const PENDING: &str = "cloud.key.pending";

/// Why keys or certificates were not changed. Those before stay in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    /// A file lies elsewhere than the agent's files.
    #[error("{0}: only files below {FOLDER}/ are known")]
    Place(String),
    /// There is no pass-phrase, given or kept.
    #[error("no keystore.passphrase in the properties, and none given")]
    Passphrase,
    /// A PEM text cannot be read.
    #[error("{what}: {reason}")]
    Pem {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key are not of one pair.
    #[error("the certificate does not belong to the private key")]
    Pair,
    /// No key can be made, or no request.
    #[error("cannot make a key or a request: {0}")]
    Make(#[from] rcgen::Error),
    /// The disk says no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// `keystore-setup PROPS KEYSTORE PASSPHRASE VALIDITY CSR`: makes a key and returns the request for its
/// certificate, PEM.
///
/// # Errors
/// See [`CertificateError`].
pub(super) fn setup(paths: &Paths, arguments: &[String]) -> Result<String, CertificateError> {
    let [properties, _, passphrase, _, request] = arguments else {
        return Err(CertificateError::Place("arguments".to_owned()));
    };
    let (properties, request) = (place(paths, properties)?, place(paths, request)?);
    keep_passphrase(&properties, passphrase)?;
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let mut wanted = CertificateParams::default();
    let name = fs::read_to_string(paths.at("/etc/hostname")).unwrap_or_default();
    wanted.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in [
        (DnType::CommonName, name.trim()),
        (DnType::OrganizationalUnitName, "cloudstack"),
        (DnType::OrganizationName, "cloudstack"),
        (DnType::CountryName, "cloudstack"),
    ] {
        wanted.distinguished_name.push(kind, value);
    }
    wanted.subject_alt_names = addresses().into_iter().map(SanType::IpAddress).collect();
    let text = wanted.serialize_request(&key)?.pem()?;
    write(&paths.agent().join(PENDING), key.serialize_pem().as_bytes(), 0o600)?;
    write(&request, text.as_bytes(), 0o600)?;
    Ok(text)
}

/// `keystore-cert-import PROPS PASSPHRASE KEYSTORE MODE CERT-FILE CERT CA-FILE CA KEY-FILE KEY`: installs a
/// certificate, its CA chain and its key, and has the agent use them. Returns a remark for the host.
///
/// # Errors
/// See [`CertificateError`].
pub(super) fn import(paths: &Paths, arguments: &[String]) -> Result<String, CertificateError> {
    let [properties, passphrase, _, _, cert_file, cert, ca_file, ca, key_file, key] = arguments else {
        return Err(CertificateError::Place("arguments".to_owned()));
    };
    keep_passphrase(&place(paths, properties)?, passphrase)?;
    let (cert_file, ca_file, key_file) =
        (place(paths, cert_file)?, place(paths, ca_file)?, place(paths, key_file)?);
    let (Some(cert), Some(ca)) = (given(cert, &cert_file)?, given(ca, &ca_file)?) else {
        // Hosts take this for success, as ever.
        return Ok("no certificate given, and none here\n".to_owned());
    };
    let pending = paths.agent().join(PENDING);
    let key = match decode(key) {
        key if !key.is_empty() => key,
        _ => match given("", &pending)?.filter(|key| pair(&cert, key).is_ok()) {
            Some(key) => key,
            None => given("", &key_file)?.ok_or(CertificateError::Pair)?,
        },
    };
    check_chain(&ca)?;
    pair(&cert, &key)?;
    // The key first: whoever reads in between finds a pair that does not fit, and reads again on reload.
    write(&key_file, key.as_bytes(), 0o600)?;
    write(&ca_file, ca.as_bytes(), 0o644)?;
    write(&cert_file, cert.as_bytes(), 0o644)?;
    let _ = fs::remove_file(pending);
    // A core that is not up yet reads the files when it starts.
    let told = wire::call(paths, &Request::new(["agent", "reload"]), Duration::from_secs(30));
    Ok(match told {
        Ok(reply) if reply.code == 0 => String::new(),
        Ok(reply) => format!("installed; the agent says: {}", reply.stderr),
        Err(_) => "installed; the agent is not up yet\n".to_owned(),
    })
}

/// A host's path of an agent's file as a real one.
fn place(paths: &Paths, path: &str) -> Result<PathBuf, CertificateError> {
    let name = path.strip_prefix(FOLDER).and_then(|rest| rest.strip_prefix('/')).filter(|name| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    });
    let name = name.ok_or_else(|| CertificateError::Place(path.chars().take(200).collect()))?;
    Ok(paths.agent().join(name))
}

/// PEM text as it comes through a shell: `^` stands for a line end, `~` for a blank.
fn decode(text: &str) -> String {
    let mut text = text.replace('^', "\n").replace('~', " ");
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The text of an argument, else of the file that is there already.
fn given(argument: &str, file: &Path) -> Result<Option<String>, CertificateError> {
    if !argument.is_empty() {
        return Ok(Some(decode(argument)));
    }
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CertificateError::Io { path: file.display().to_string(), source }),
    }
}

/// Makes sure that the properties hold a pass-phrase: scripts of hosts look for it there.
fn keep_passphrase(properties: &Path, given: &str) -> Result<(), CertificateError> {
    let mut text = self::given("", properties)?.unwrap_or_default();
    let kept = text.lines().any(|line| {
        line.trim()
            .strip_prefix("keystore.passphrase=")
            .is_some_and(|passphrase| !passphrase.trim().is_empty())
    });
    if kept {
        return Ok(());
    }
    if given.is_empty() || given.chars().any(char::is_control) {
        return Err(CertificateError::Passphrase);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("keystore.passphrase={given}\n"));
    write(properties, text.as_bytes(), 0o600)
}

/// Checks that a certificate belongs to a key.
fn pair(cert: &str, key: &str) -> Result<(), CertificateError> {
    let pem = |what, reason: String| CertificateError::Pem { what, reason };
    let cert =
        CertificateDer::from_pem_slice(cert.as_bytes()).map_err(|e| pem("certificate", e.to_string()))?;
    let (_, cert) =
        x509_parser::parse_x509_certificate(&cert).map_err(|e| pem("certificate", e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| pem("private key", e.to_string()))?;
    let key = any_supported_type(&key).map_err(|e| pem("private key", e.to_string()))?;
    let public = key.public_key().ok_or(CertificateError::Pair)?;
    if public.as_ref() == cert.public_key().raw { Ok(()) } else { Err(CertificateError::Pair) }
}

/// Checks that a text holds certificates and nothing unreadable.
fn check_chain(text: &str) -> Result<(), CertificateError> {
    let pem = |reason: String| CertificateError::Pem { what: "CA certificates", reason };
    let mut count = 0;
    for cert in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let cert = cert.map_err(|e| pem(e.to_string()))?;
        x509_parser::parse_x509_certificate(&cert).map_err(|e| pem(e.to_string()))?;
        count += 1;
    }
    if count > 0 { Ok(()) } else { Err(pem("there is none".to_owned())) }
}

/// Addresses of this machine that others may reach it by.
fn addresses() -> Vec<IpAddr> {
    let shown =
        program::run("ip", ["-o", "address", "show", "scope", "global"], b"", Duration::from_secs(10));
    let shown = shown.unwrap_or_default();
    let found = shown.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip_while(|word| !matches!(*word, "inet" | "inet6"));
        words.nth(1)?.split('/').next()?.parse::<IpAddr>().ok()
    });
    found.filter(|a| !matches!(a, IpAddr::V4(a) if a.is_link_local() || a.is_loopback())).collect()
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertificateError> {
    persist::write(path, bytes, mode)
        .map_err(|source| CertificateError::Io { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateSigningRequestParams, IsCa, Issuer};

    use super::*;

    fn conf(name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    fn arguments(cert: &str, ca: &str, key: &str) -> Vec<String> {
        let encode = |text: &str| text.replace('\n', "^").replace(' ', "~");
        vec![
            conf("agent.properties"),
            "Secret123".into(),
            conf("cloud.jks"),
            "ssh".into(),
            conf("cloud.crt"),
            encode(cert),
            conf("cloud.ca.crt"),
            encode(ca),
            conf("cloud.key"),
            encode(key),
        ]
    }

    fn authority() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    }

    fn paths() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        (folder, paths)
    }

    #[test]
    fn what_a_host_pushes_is_installed() {
        let (_folder, paths) = paths();
        let (ca, issuer) = authority();
        let key = KeyPair::generate().unwrap();
        let cert =
            CertificateParams::new(["v-1-VM".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap().pem();
        let remark = import(&paths, &arguments(&cert, &ca, &key.serialize_pem())).unwrap();
        assert_eq!(remark, "installed; the agent is not up yet\n");
        let read = |name: &str| fs::read_to_string(paths.agent().join(name)).unwrap();
        assert_eq!(read("cloud.crt").trim(), cert.replace("\r\n", "\n").trim());
        assert_eq!(read("agent.properties"), "keystore.passphrase=Secret123\n");
        let mode = fs::metadata(paths.agent().join("cloud.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Another certificate for the key that is here, and one that does not fit.
        import(&paths, &arguments(&cert, &ca, "")).unwrap();
        let other = KeyPair::generate().unwrap();
        let error = import(&paths, &arguments(&cert, &ca, &other.serialize_pem())).unwrap_err();
        assert!(matches!(error, CertificateError::Pair));
        assert_eq!(read("cloud.key").trim(), key.serialize_pem().replace("\r\n", "\n").trim());
    }

    #[test]
    fn a_request_and_its_certificate() {
        let (_folder, paths) = paths();
        let request =
            [conf("agent.properties"), conf("cloud.jks"), "pw".into(), "365".into(), conf("cloud.csr")];
        let text = setup(&paths, &request).unwrap();
        assert!(text.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        let (ca, issuer) = authority();
        let cert =
            CertificateSigningRequestParams::from_pem(&text).unwrap().signed_by(&issuer).unwrap().pem();
        import(&paths, &arguments(&cert, &ca, "")).unwrap();
        assert!(paths.agent().join("cloud.key").exists());
        assert!(!paths.agent().join(PENDING).exists());
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let (_folder, paths) = paths();
        let (ca, _) = authority();
        assert!(matches!(import(&paths, &arguments("junk", &ca, "junk")), Err(CertificateError::Pem { .. })));
        assert!(import(&paths, &arguments("", "", "")).unwrap().starts_with("no certificate given"));
        let mut elsewhere = arguments("a", "b", "c");
        elsewhere[4] = "/etc/passwd".into();
        assert!(matches!(import(&paths, &elsewhere), Err(CertificateError::Place(_))));
        elsewhere[4] = conf("../../x");
        assert!(matches!(import(&paths, &elsewhere), Err(CertificateError::Place(_))));
        let (_folder, paths) = super::tests::paths();
        let mut silent = arguments("a", "b", "c");
        silent[1].clear();
        assert!(matches!(import(&paths, &silent), Err(CertificateError::Passphrase)));
    }
}
