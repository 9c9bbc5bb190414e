//! The certificates by which clients with IKEv2 know this router: one authority of its own, and one certificate for each
//! public address that clients come to. They outlive the core; who connects has the authority's certificate.

use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

use common::{command::Secret, paths::Paths, persist};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};

/// Version of the shape of the file.
const VERSION: u32 = 1;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It cannot be made.
    #[error("no certificate for clients can be made: {0}")]
    Made(#[from] rcgen::Error),
    /// It cannot be kept, or read.
    #[error(transparent)]
    Persist(#[from] persist::PersistError),
}

/// The certificate of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Secret,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    certificate: String,
    key: Secret,
    leaves: BTreeMap<Ipv4Addr, Leaf>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Authority {
    file: PathBuf,
    kept: Option<Kept>,
}

impl Authority {
    /// What was made before.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn load(paths: &Paths) -> Result<Self, persist::PersistError> {
        let file = paths.state("router").join("vpn-authority");
        let loaded = persist::load(&file, VERSION)?;
        Ok(Self { file, kept: loaded.value })
    }

    /// The authority's certificate, PEM; there is none before the first client may come.
    pub fn certificate(&self) -> Option<&str> {
        self.kept.as_ref().map(|kept| kept.certificate.as_str())
    }

    /// The certificate of an address, made where there is none yet.
    ///
    /// # Errors
    /// Where it cannot be made or kept.
    pub fn leaf(&mut self, router: &str, address: Ipv4Addr) -> Result<Leaf, AuthorityError> {
        if let Some(leaf) = self.kept.as_ref().and_then(|kept| kept.leaves.get(&address)) {
            return Ok(leaf.clone());
        }
        let mut kept = match self.kept.clone() {
            Some(kept) => kept,
            None => authority(router)?,
        };
        let leaf = leaf(&kept, address)?;
        kept.leaves.insert(address, leaf.clone());
        persist::save(&self.file, VERSION, &kept)?;
        self.kept = Some(kept);
        Ok(leaf)
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    params
}

fn authority(router: &str) -> Result<Kept, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = params(&format!("VPN of {router}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?.pem();
    Ok(Kept { certificate, key: Secret::new(key.serialize_pem()), leaves: BTreeMap::new() })
}

fn leaf(kept: &Kept, address: Ipv4Addr) -> Result<Leaf, AuthorityError> {
    let issuer = Issuer::from_ca_cert_pem(&kept.certificate, KeyPair::from_pem(kept.key.expose())?)?;
    let key = KeyPair::generate()?;
    let mut params = params(&address.to_string());
    params.subject_alt_names = vec![SanType::IpAddress(address.into())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(Leaf { certificate, key: Secret::new(key.serialize_pem()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let mut authority = Authority::load(&paths).unwrap();
        assert_eq!(authority.certificate(), None);
        let address = Ipv4Addr::new(203, 0, 113, 10);
        let leaf = authority.leaf("r-7-VM", address).unwrap();
        let mut again = Authority::load(&paths).unwrap();
        assert_eq!(again.certificate(), authority.certificate());
        assert_eq!(again.leaf("r-7-VM", address).unwrap(), leaf);
        assert_ne!(again.leaf("r-7-VM", Ipv4Addr::new(203, 0, 113, 11)).unwrap(), leaf);
        assert!(!format!("{again:?}").contains("PRIVATE"));
    }
}
