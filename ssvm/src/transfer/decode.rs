//! Decompression by content: what the first bytes say counts, not the name.

use super::zip;
use async_compression::tokio::bufread::{BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead};

/// Most memory for the dictionary of an XZ stream: 128 MiB, twice what the highest preset takes.
const XZ_MEMORY: u64 = 128 * 1024 * 1024;
/// Bytes that tell a compression.
pub(super) const MAGIC: usize = 6;

/// A compression that is undone on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    /// An archive with one file.
    Zip,
}

impl Compression {
    /// Tells from the first bytes.
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        [
            (&b"\x1f\x8b\x08"[..], Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"PK\x03\x04", Self::Zip),
        ]
        .into_iter()
        .find_map(|(magic, kind)| start.starts_with(magic).then_some(kind))
    }

    /// The plain bytes of a compressed stream; several streams one after the other count as one.
    pub(super) fn decoder<'a>(
        self,
        source: impl AsyncBufRead + Send + Unpin + 'a,
    ) -> Box<dyn AsyncRead + Send + Unpin + 'a> {
        match self {
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(source);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Bzip2 => {
                let mut decoder = BzDecoder::new(source);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Xz => {
                let mut decoder = XzDecoder::with_mem_limit(source, XZ_MEMORY);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            Self::Zip => Box::new(zip::only_file(source)),
            Self::Zstd => {
                let mut decoder = ZstdDecoder::new(source);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
        }
    }
}

/// The first bytes of a stream, without taking them. Shorter only where the stream is.
pub(super) async fn peek(
    source: &mut (impl AsyncBufRead + Unpin),
    kept: &mut Vec<u8>,
) -> std::io::Result<()> {
    while kept.len() < MAGIC {
        let bytes = source.fill_buf().await?;
        if bytes.is_empty() {
            break;
        }
        let want = bytes.len().min(MAGIC - kept.len());
        kept.extend_from_slice(&bytes[..want]);
        source.consume(want);
    }
    Ok(())
}
