//! The Java key store (JKS) in which management delivers the browsers' certificate.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::wire::Tls;

const MAGIC: u32 = 0xfeed_feed;
const DIGEST: usize = 20;
/// Largest store in bytes.
const LIMIT: usize = 1024 * 1024;
/// The protection of keys in such a store, 1.3.6.1.4.1.42.2.17.1.1, as DER.
const PROTECTION: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x2a, 0x02, 0x11, 0x01, 0x01];

/// Why a store cannot be used. The certificate before stays in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// It is of another kind.
    #[error("keystoreBits: not a Java key store of version 1 or 2")]
    Format,
    /// It ends too early, or is longer than any store.
    #[error("keystoreBits: damaged or too long")]
    Length,
    /// The password is wrong or a byte was changed.
    #[error("keystoreBits: keystorePassword is wrong, or the store was changed")]
    Password,
    /// Its key is protected in an unknown way.
    #[error("keystoreBits: the key is protected in an unknown way")]
    Protection,
    /// It holds no private key with a certificate.
    #[error("keystoreBits: no private key with a certificate in it")]
    NoKey,
}

/// Reads the store's first private key and its chain.
pub fn open(bytes: &[u8], password: &str) -> Result<Tls, KeystoreError> {
    if bytes.len() > LIMIT || bytes.len() < DIGEST {
        return Err(KeystoreError::Length);
    }
    let password = Zeroizing::new(password.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>());
    let (body, digest) = bytes.split_at(bytes.len() - DIGEST);
    let mut reader = Reader(body);
    if reader.u32()? != MAGIC {
        return Err(KeystoreError::Format);
    }
    let version = reader.u32()?;
    if !matches!(version, 1 | 2) {
        return Err(KeystoreError::Format);
    }
    if !same(&sha1(&[&password, b"Mighty Aphrodite", body]), digest) {
        return Err(KeystoreError::Password);
    }
    for _ in 0..reader.u32()? {
        let tag = reader.u32()?;
        let _alias = reader.text()?;
        let _created = reader.take(8)?;
        match tag {
            1 => {
                let key = reader.block()?;
                let mut chain = Vec::new();
                for _ in 0..reader.u32()? {
                    chain.push(STANDARD.encode(reader.certificate(version)?));
                }
                if !chain.is_empty() {
                    let key = Zeroizing::new(unprotect(key, &password)?);
                    return Ok(Tls { chain, key: STANDARD.encode(&*key) });
                }
            }
            2 => {
                reader.certificate(version)?;
            }
            _ => return Err(KeystoreError::Format),
        }
    }
    Err(KeystoreError::NoKey)
}

/// Undoes the protection of a key: a stream of digests laid over it, salt before and digest behind.
fn unprotect(block: &[u8], password: &[u8]) -> Result<Vec<u8>, KeystoreError> {
    let (0x30, content, _) = der(block)? else { return Err(KeystoreError::Protection) };
    let (0x30, algorithm, rest) = der(content)? else { return Err(KeystoreError::Protection) };
    let (0x04, sealed, _) = der(rest)? else { return Err(KeystoreError::Protection) };
    if !algorithm.starts_with(PROTECTION) || sealed.len() < 2 * DIGEST {
        return Err(KeystoreError::Protection);
    }
    let (salt, sealed) = sealed.split_at(DIGEST);
    let (sealed, check) = sealed.split_at(sealed.len() - DIGEST);
    let mut key = sealed.to_vec();
    let mut stream = salt.to_vec();
    for chunk in key.chunks_mut(DIGEST) {
        stream = sha1(&[password, &stream]);
        chunk.iter_mut().zip(&stream).for_each(|(byte, over)| *byte ^= over);
    }
    if same(&sha1(&[password, &key]), check) { Ok(key) } else { Err(KeystoreError::Password) }
}

/// One DER element: its tag, its content, and what follows it.
fn der(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), KeystoreError> {
    let mut reader = Reader(bytes);
    let head = reader.take(2)?;
    let length = match head[1] {
        short @ ..=0x7f => usize::from(short),
        long @ 0x81..=0x83 => {
            let octets = reader.take(usize::from(long & 0x7f))?;
            octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet))
        }
        _ => return Err(KeystoreError::Protection),
    };
    Ok((head[0], reader.take(length)?, reader.0))
}

fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    let mut digest = Sha1::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().to_vec()
}

fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], KeystoreError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(KeystoreError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, KeystoreError> {
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| KeystoreError::Length)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn text(&mut self) -> Result<&'a [u8], KeystoreError> {
        let length: [u8; 2] = self.take(2)?.try_into().map_err(|_| KeystoreError::Length)?;
        self.take(usize::from(u16::from_be_bytes(length)))
    }

    fn block(&mut self) -> Result<&'a [u8], KeystoreError> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| KeystoreError::Length)?)
    }

    fn certificate(&mut self, version: u32) -> Result<&'a [u8], KeystoreError> {
        if version == 2 {
            let _kind = self.text()?;
        }
        self.block()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;

    const STORE: &[u8] = include_bytes!("../testdata/cpvm.jks");
    const NO_CHAIN: &[u8] = include_bytes!("../testdata/cpvm-nochain.jks");
    const PASSWORD: &str = "AAECAwQFBgcICQoLDA0ODw==";

    fn sha256(base64: &str) -> String {
        hex::encode(Sha256::digest(STANDARD.decode(base64).unwrap()))
    }

    #[test]
    fn key_and_chain_are_those_that_went_in() {
        let tls = open(STORE, PASSWORD).unwrap();
        assert_eq!(sha256(&tls.key), "22b68087c2bd181cd4276daa3c69682f7dd99c21b56aaeaa9183fc777843df1f");
        assert_eq!(tls.chain.len(), 3);
        assert_eq!(sha256(&tls.chain[0]), "8871ce6ab8d430673d401bbc85001c0f875ad92d646461a2eadd5e083903f798");
        assert!(crate::serve::tls::config(&tls).is_ok());
        let alone = open(NO_CHAIN, PASSWORD).unwrap();
        assert_eq!((&alone.chain[..], &alone.key), (&tls.chain[..1], &tls.key));
    }

    #[test]
    fn wrong_passwords_and_changed_stores_are_named() {
        assert_eq!(open(STORE, "other"), Err(KeystoreError::Password));
        let mut changed = STORE.to_vec();
        changed[100] ^= 1;
        assert_eq!(open(&changed, PASSWORD), Err(KeystoreError::Password));
        assert_eq!(open(&STORE[..STORE.len() - 1], PASSWORD), Err(KeystoreError::Password));
        assert_eq!(open(b"", PASSWORD), Err(KeystoreError::Length));
        assert_eq!(open(&[0; 64], PASSWORD), Err(KeystoreError::Format));
        assert_eq!(open(&vec![0; LIMIT + 1], PASSWORD), Err(KeystoreError::Length));
    }

    /// A store whose digest is right whatever is in it.
    fn signed(body: &[u8]) -> Vec<u8> {
        let password: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
        [body, &sha1(&[&password, b"Mighty Aphrodite", body])].concat()
    }

    #[test]
    fn a_store_without_a_key_is_named() {
        let empty = signed(&[&MAGIC.to_be_bytes()[..], &[0, 0, 0, 2], &[0; 4]].concat());
        assert_eq!(open(&empty, PASSWORD), Err(KeystoreError::NoKey));
        let many = signed(&[&MAGIC.to_be_bytes()[..], &[0, 0, 0, 2], &[0xff; 4]].concat());
        assert_eq!(open(&many, PASSWORD), Err(KeystoreError::Length));
    }

    proptest! {
        #[test]
        fn any_store_is_survived(at in 8..STORE.len() - DIGEST, with in any::<[u8; 4]>()) {
            let mut body = STORE[..STORE.len() - DIGEST].to_vec();
            for (offset, byte) in with.into_iter().enumerate() {
                if let Some(slot) = body.get_mut(at + offset) {
                    *slot = byte;
                }
            }
            let _ = open(&signed(&body), PASSWORD);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = der(&bytes);
            let _ = open(&signed(&[&MAGIC.to_be_bytes()[..], &[0, 0, 0, 2], &bytes].concat()), PASSWORD);
        }
    }
}
