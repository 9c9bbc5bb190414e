//! Sealing and opening: AES-256-GCM with a key derived from the delivered one.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand,
};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use serde::Deserialize;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::Token;

/// Longest token in characters; a URL of this length passes no proxy on the way.
const LIMIT: usize = 16 * 1024;
const TAG_LEN: usize = 16;
const PART_LEN: usize = 16;
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The token's alphabet; its padding may be lost on the way.
const TOKEN: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// The key that management and all console proxies share.
pub struct TokenKey {
    raw: Zeroizing<[u8; PART_LEN]>,
    aad: [u8; PART_LEN],
    cipher: LessSafeKey,
}

/// Why an `encryptorPassword` is refused. The key before stays in force.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not the JSON object that it should be.
    #[error("encryptorPassword is not a JSON object with base64EncodedKeyBytes and base64EncodedIvBytes")]
    Json,
    /// A member is not 16 bytes in base64.
    #[error("encryptorPassword: {0} is not base64 of 16 bytes")]
    Member(&'static str),
    /// The cipher refused the key, or there is no randomness.
    #[error("encryptorPassword: the cipher cannot be set up")]
    Cipher,
}

/// Why a token was refused. Nothing of it may reach the browser.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum OpenError {
    /// Longer than any token can be.
    #[error("the token is longer than {LIMIT} characters")]
    Long,
    /// Not standard base64.
    #[error("the token is not base64")]
    Base64,
    /// Shorter than nonce and tag.
    #[error("the token is too short")]
    Short,
    /// Changed on the way, or sealed with another key.
    #[error("the token was not sealed with this key")]
    Seal,
    /// Sealed with this key, but not the JSON object of a token.
    #[error("the token's text is not that of a token")]
    Text,
}

/// Why a token could not be made.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[error("the token cannot be sealed")]
pub struct SealError;

#[derive(Deserialize, ZeroizeOnDrop)]
struct EncryptorPassword {
    #[serde(rename = "base64EncodedKeyBytes")]
    key: String,
    #[serde(rename = "base64EncodedIvBytes")]
    iv: String,
}

impl TokenKey {
    /// Reads the text that management delivers. Both base64 alphabets are accepted, padding is optional.
    pub fn from_encryptor_password(text: &str) -> Result<Self, KeyError> {
        let parts: EncryptorPassword = serde_json::from_str(text).map_err(|_| KeyError::Json)?;
        let raw = part(&parts.key).ok_or(KeyError::Member("base64EncodedKeyBytes"))?;
        let aad = part(&parts.iv).ok_or(KeyError::Member("base64EncodedIvBytes"))?;
        Self::of(raw, *aad)
    }

    /// A new random key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut raw = Zeroizing::new([0; PART_LEN]);
        let mut aad = [0; PART_LEN];
        rand::fill(raw.as_mut()).map_err(|_| KeyError::Cipher)?;
        rand::fill(&mut aad).map_err(|_| KeyError::Cipher)?;
        Self::of(raw, aad)
    }

    /// The text that delivers this key: a secret.
    pub fn encryptor_password(&self) -> Zeroizing<String> {
        let engine = general_purpose::URL_SAFE_NO_PAD;
        let (key, iv) = (Zeroizing::new(engine.encode(self.raw.as_ref())), engine.encode(self.aad));
        let text = format!(r#"{{"base64EncodedKeyBytes":"{}","base64EncodedIvBytes":"{iv}"}}"#, key.as_str());
        Zeroizing::new(text)
    }

    fn of(raw: Zeroizing<[u8; PART_LEN]>, aad: [u8; PART_LEN]) -> Result<Self, KeyError> {
        let derived = digest(&SHA256, raw.as_ref());
        let key = UnboundKey::new(&AES_256_GCM, derived.as_ref()).map_err(|_| KeyError::Cipher)?;
        Ok(Self { raw, aad, cipher: LessSafeKey::new(key) })
    }

    /// Makes the text for the URL: standard base64, `+`, `/` and `=` included.
    pub fn seal(&self, token: &Token) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError)?;
        self.seal_with(token, nonce)
    }

    pub(super) fn seal_with(&self, token: &Token, nonce: [u8; NONCE_LEN]) -> Result<String, SealError> {
        let mut sealed = Zeroizing::new(token.text().map_err(|_| SealError)?.into_bytes());
        let tag = self
            .cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(self.aad), &mut sealed)
            .map_err(|_| SealError)?;
        Ok(TOKEN.encode([&nonce[..], &sealed[..], tag.as_ref()].concat()))
    }

    /// Reads a token from a URL, in the standard alphabet; padding is optional.
    pub fn open(&self, text: &str) -> Result<Token, OpenError> {
        if text.len() > LIMIT {
            return Err(OpenError::Long);
        }
        let mut bytes = Zeroizing::new(TOKEN.decode(text).map_err(|_| OpenError::Base64)?);
        if bytes.len() < NONCE_LEN + TAG_LEN {
            return Err(OpenError::Short);
        }
        let (nonce, sealed) = bytes.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Short)?;
        let plain =
            self.cipher.open_in_place(nonce, Aad::from(self.aad), sealed).map_err(|_| OpenError::Seal)?;
        serde_json::from_slice(plain).map_err(|_| OpenError::Text)
    }
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw && self.aad == other.aad
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey")
    }
}

fn part(text: &str) -> Option<Zeroizing<[u8; PART_LEN]>> {
    let bytes = Zeroizing::new(URL.decode(text).or_else(|_| TOKEN.decode(text)).ok()?);
    <[u8; PART_LEN]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
}
