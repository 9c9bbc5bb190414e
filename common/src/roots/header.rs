//! What is said of a root, before it in a bundle and behind it in its slot.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use super::BLOCK;

/// The first line of a header, and so of a bundle.
pub const MAGIC: &[u8] = b"trivium-root 1\n";
/// The line that ends it.
const SIGNATURE: &str = "signature=";
/// Longest version and kernel release, characters.
const WORD: usize = 100;

/// A root: lines of `key=value`, of which the last is the signature (Ed25519) of all before it, then
/// zeros to the end of the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What an operator calls it.
    pub version: String,
    /// Release of the kernel whose modules it has.
    pub kernel: String,
    /// Bytes of the file system, whole blocks.
    pub data: u64,
    /// Bytes of the hash tree behind it, whole blocks.
    pub tree: u64,
    /// Root hash of the tree: SHA-256, hex.
    pub root: String,
    /// SHA-256 of data and tree as they follow the header in a bundle, hex.
    pub sum: String,
}

/// Why a header is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It has not the form of one.
    #[error("its header is malformed: {0}")]
    Form(&'static str),
    /// Somebody else has signed it, or nobody.
    #[error("its signature is not by the key of this image")]
    Signature,
}

impl Header {
    /// Reads a header whose signature was checked before.
    ///
    /// # Errors
    /// Where it has not the form of one.
    pub fn parse(block: &[u8]) -> Result<Self, HeaderError> {
        let text = signed(block)?.0;
        let value = |key: &'static str| {
            let mut found = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let first = found.next().ok_or(HeaderError::Form(key))?;
            if found.next().is_some() { Err(HeaderError::Form(key)) } else { Ok(first) }
        };
        let word = |key| {
            let word = value(key)?;
            let plain = !word.is_empty() && word.len() <= WORD && word.bytes().all(|b| b.is_ascii_graphic());
            if plain { Ok(word.to_owned()) } else { Err(HeaderError::Form(key)) }
        };
        let blocks = |key| {
            let bytes: u64 = value(key)?.parse().map_err(|_| HeaderError::Form(key))?;
            let whole = bytes > 0 && bytes.is_multiple_of(BLOCK as u64) && bytes < 1 << 40;
            if whole { Ok(bytes) } else { Err(HeaderError::Form(key)) }
        };
        let hash = |key| {
            let text = value(key)?;
            let plain = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if plain { Ok(text.to_owned()) } else { Err(HeaderError::Form(key)) }
        };
        hash("salt")?;
        Ok(Self {
            version: word("version")?,
            kernel: word("kernel")?,
            data: blocks("data")?,
            tree: blocks("tree")?,
            root: hash("root")?,
            sum: hash("sum")?,
        })
    }

    /// Reads a header that must be signed by the owner of a key (Ed25519, 32 bytes).
    ///
    /// # Errors
    /// Where it is not, or has not the form of a header.
    pub fn verify(block: &[u8], key: &[u8]) -> Result<Self, HeaderError> {
        let (text, signature) = signed(block)?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(text.as_bytes(), &signature)
            .map_err(|_| HeaderError::Signature)?;
        Self::parse(block)
    }
}

/// The signed text and its signature.
fn signed(block: &[u8]) -> Result<(&str, Vec<u8>), HeaderError> {
    if block.len() != BLOCK || !block.starts_with(MAGIC) {
        return Err(HeaderError::Form("it does not begin like one"));
    }
    let text = block.split(|byte| *byte == 0).next().unwrap_or_default();
    if block[text.len()..].iter().any(|byte| *byte != 0) {
        return Err(HeaderError::Form("something follows it"));
    }
    let text = std::str::from_utf8(text).map_err(|_| HeaderError::Form("it is no text"))?;
    let at = text.rfind(SIGNATURE).ok_or(HeaderError::Form(SIGNATURE))?;
    let (before, line) = text.split_at(at);
    let line = line.strip_suffix('\n').and_then(|line| line.strip_prefix(SIGNATURE));
    let signature = line.and_then(|hex| hex::decode(hex).ok()).ok_or(HeaderError::Form(SIGNATURE))?;
    Ok((before, signature))
}
