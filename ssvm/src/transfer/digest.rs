//! Checksums of the form `{ALGORITHM}hex`, computed while bytes pass by.

use std::fmt;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{
    Sha224, Sha256, Sha384, Sha512,
    digest::{Digest, common::hazmat::SerializableState},
};

/// A checksum algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 6] = [Self::Md5, Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The algorithm of a name such as `SHA-256` or `sha256`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let plain = |n: &str| n.replace('-', "").to_ascii_uppercase();
        Self::ALL.into_iter().find(|a| plain(a.name()) == plain(name))
    }

    /// Its name as it is written in a checksum.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
            Self::Sha224 => "SHA-224",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
        }
    }

    /// Hex digits of its result.
    fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha224 => 56,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }

    /// A computation that has seen nothing yet.
    pub(crate) fn hasher(self) -> Hasher {
        let state: Box<dyn State> = match self {
            Self::Md5 => Box::new(Md5::default()),
            Self::Sha1 => Box::new(Sha1::default()),
            Self::Sha224 => Box::new(Sha224::default()),
            Self::Sha256 => Box::new(Sha256::default()),
            Self::Sha384 => Box::new(Sha384::default()),
            Self::Sha512 => Box::new(Sha512::default()),
        };
        Hasher { algorithm: self, state }
    }

    /// A computation as [`Hasher::kept`] has kept it; `None` where it is none of this algorithm.
    pub(crate) fn restored(self, kept: &str) -> Option<Hasher> {
        let bytes = hex::decode(kept).ok()?;
        let state: Box<dyn State> = match self {
            Self::Md5 => Box::new(restored::<Md5>(&bytes)?),
            Self::Sha1 => Box::new(restored::<Sha1>(&bytes)?),
            Self::Sha224 => Box::new(restored::<Sha224>(&bytes)?),
            Self::Sha256 => Box::new(restored::<Sha256>(&bytes)?),
            Self::Sha384 => Box::new(restored::<Sha384>(&bytes)?),
            Self::Sha512 => Box::new(restored::<Sha512>(&bytes)?),
        };
        Some(Hasher { algorithm: self, state })
    }
}

/// A checksum: its algorithm and lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) algorithm: Algorithm,
    pub(crate) hex: String,
}

/// A text that is no checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid algorithm: {0}")]
pub(crate) struct ChecksumError(String);

impl Checksum {
    /// Reads `{ALGORITHM}hex`, or bare hex digits whose number tells the algorithm (32 = MD5).
    pub(crate) fn parse(text: &str) -> Result<Self, ChecksumError> {
        let fail = || ChecksumError(text.to_owned());
        let text = text.trim();
        let (algorithm, hex) = match text.strip_prefix('{').and_then(|t| t.split_once('}')) {
            Some((name, hex)) => (Algorithm::named(name).ok_or_else(fail)?, hex),
            None => {
                let fits = |a: &Algorithm| a.digits() == text.len();
                (Algorithm::ALL.into_iter().find(fits).ok_or_else(fail)?, text)
            }
        };
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(fail());
        }
        Ok(Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}{}", self.algorithm.name(), self.hex)
    }
}

/// What a computation knows.
trait State: Send {
    fn update(&mut self, bytes: &[u8]);
    fn end(self: Box<Self>) -> Vec<u8>;
    fn bytes(&self) -> Vec<u8>;
}

impl<D: Digest + SerializableState + Send> State for D {
    fn update(&mut self, bytes: &[u8]) {
        Digest::update(self, bytes);
    }

    fn end(self: Box<Self>) -> Vec<u8> {
        Digest::finalize(*self).to_vec()
    }

    fn bytes(&self) -> Vec<u8> {
        self.serialize().to_vec()
    }
}

fn restored<D: SerializableState>(bytes: &[u8]) -> Option<D> {
    D::deserialize(bytes.try_into().ok()?).ok()
}

/// A checksum in the making.
pub(crate) struct Hasher {
    algorithm: Algorithm,
    state: Box<dyn State>,
}

impl Hasher {
    /// Takes the next bytes into account.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    /// What it knows so far, as text.
    pub(crate) fn kept(&self) -> String {
        hex::encode(self.state.bytes())
    }

    /// The checksum of all bytes seen.
    pub(crate) fn finish(self) -> Checksum {
        Checksum { algorithm: self.algorithm, hex: hex::encode(self.state.end()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        let sum = |a: Algorithm| {
            let mut hasher = a.hasher();
            hasher.update(b"ab");
            hasher.update(b"c");
            hasher.finish().to_string()
        };
        assert_eq!(sum(Algorithm::Md5), "{MD5}900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sum(Algorithm::Sha1), "{SHA-1}a9993e364706816aba3e25717850c26c9cd0d89d");
        assert!(sum(Algorithm::Sha256).starts_with("{SHA-256}ba7816bf"));
        assert!(sum(Algorithm::Sha512).starts_with("{SHA-512}ddaf35a1"));
    }

    #[test]
    fn a_computation_is_gone_on_with() {
        for algorithm in Algorithm::ALL {
            let (mut whole, mut begun) = (algorithm.hasher(), algorithm.hasher());
            whole.update(&[7; 1000]);
            begun.update(&[7; 333]);
            let mut rest = algorithm.restored(&begun.kept()).unwrap();
            rest.update(&[7; 667]);
            assert_eq!(rest.finish(), whole.finish());
            assert!(algorithm.restored("00").is_none() && algorithm.restored("no").is_none());
        }
    }

    #[test]
    fn both_notations_and_both_cases() {
        let bare = Checksum::parse("900150983CD24FB0D6963F7D28E17F72").unwrap();
        assert_eq!(bare, Checksum::parse("{md5}900150983cd24fb0d6963f7d28e17f72").unwrap());
        assert_eq!(Checksum::parse("{SHA256}AB").unwrap().to_string(), "{SHA-256}ab");
        let error = Checksum::parse("{FOO}abc").unwrap_err().to_string();
        assert_eq!(error, "invalid algorithm: {FOO}abc");
        for bad in ["", "abc", "{MD5}", "{MD5}zz", "{}", "{MD5", "xyzxyzxyzxyzxyzxyzxyzxyzxyzxyzxy"] {
            assert!(Checksum::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,140}") {
            if let Ok(sum) = Checksum::parse(&text) {
                prop_assert_eq!(Checksum::parse(&sum.to_string()).unwrap(), sum);
            }
        }
    }
}
