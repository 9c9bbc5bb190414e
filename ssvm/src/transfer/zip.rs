//! The one file of a ZIP archive, read as it comes: the directory at the archive's end is not needed for it.

use std::{io, pin::Pin};

use async_compression::tokio::bufread::DeflateDecoder;
use bytes::{Bytes, BytesMut};
use flate2::Crc;
use futures_util::{Stream, stream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt as _, Take};
use tokio_util::io::StreamReader;

/// Most bytes of a step.
const STEP: usize = 256 * 1024;
/// Folders that may come before the file.
const FOLDERS: usize = 16;

const MEMBER: [u8; 4] = *b"PK\x03\x04";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
const DIRECTORY: [u8; 4] = *b"PK\x01\x02";
/// Kind of the extra field with sizes of 64 bits.
const LARGE: u16 = 1;

/// What a local header says (APPNOTE 4.3.7).
struct Header {
    flags: u16,
    method: u16,
    crc: u32,
    /// Compressed and plain size.
    sizes: (u64, u64),
    large: bool,
    folder: bool,
}

impl Header {
    /// Sizes and checksum follow the data.
    const fn is_open(&self) -> bool {
        self.flags & 8 != 0
    }
}

enum Body<R> {
    Stored(Take<R>),
    Deflated(DeflateDecoder<R>),
}

struct Member<R> {
    header: Header,
    body: Body<R>,
    crc: Crc,
    length: u64,
}

enum State<R> {
    Start(R),
    Inside(Box<Member<R>>),
    End,
}

type Chunks<'a> = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + 'a>>;

/// The plain bytes of the only file. An archive with another one, or whose file is encrypted, cut or not what
/// its checksum says, ends with an error.
pub(crate) fn only_file<'a>(
    source: impl AsyncBufRead + Send + Unpin + 'a,
) -> StreamReader<Chunks<'a>, Bytes> {
    StreamReader::new(Box::pin(stream::try_unfold(State::Start(source), step)))
}

async fn step<R: AsyncBufRead + Send + Unpin>(mut state: State<R>) -> io::Result<Option<(Bytes, State<R>)>> {
    loop {
        state = match state {
            State::Start(source) => State::Inside(Box::new(open(source).await?)),
            State::Inside(mut member) => {
                let chunk = member.read().await?;
                if !chunk.is_empty() {
                    return Ok(Some((chunk, State::Inside(member))));
                }
                member.close().await?;
                State::End
            }
            State::End => return Ok(None),
        };
    }
}

/// Reads up to the data of the first file.
async fn open<R: AsyncBufRead + Send + Unpin>(mut source: R) -> io::Result<Member<R>> {
    for _ in 0..FOLDERS {
        let mut signature = [0; 4];
        source.read_exact(&mut signature).await?;
        if signature != MEMBER {
            return Err(broken("the archive holds no file"));
        }
        let header = header(&mut source).await?;
        if header.flags & 1 != 0 {
            return Err(broken("the file in the archive is encrypted"));
        }
        if header.folder {
            if header.is_open() || header.sizes != (0, 0) {
                return Err(broken("the archive has a folder with content"));
            }
            continue;
        }
        let body = match header.method {
            0 if header.is_open() => return Err(broken("the size of the file in the archive is not known")),
            0 => Body::Stored(source.take(header.sizes.0)),
            8 => Body::Deflated(DeflateDecoder::new(source)),
            method => return Err(broken(format!("compression method {method} of the archive is not known"))),
        };
        return Ok(Member { header, body, crc: Crc::new(), length: 0 });
    }
    Err(broken("the archive has too many folders"))
}

async fn header<R: AsyncRead + Unpin>(source: &mut R) -> io::Result<Header> {
    let _version = source.read_u16_le().await?;
    let flags = source.read_u16_le().await?;
    let method = source.read_u16_le().await?;
    let _time = source.read_u32_le().await?;
    let crc = source.read_u32_le().await?;
    let (packed, plain) = (source.read_u32_le().await?, source.read_u32_le().await?);
    let (name, extra) = (source.read_u16_le().await?, source.read_u16_le().await?);
    let mut bytes = vec![0; usize::from(name) + usize::from(extra)];
    source.read_exact(&mut bytes).await?;
    let (name, extra) = bytes.split_at(usize::from(name));
    let large = large_sizes(extra);
    let size = |short: u32, long: Option<u64>| match (short, long) {
        (u32::MAX, Some(long)) => long,
        (short, _) => u64::from(short),
    };
    Ok(Header {
        flags,
        method,
        crc,
        sizes: (size(packed, large.map(|l| l.1)), size(plain, large.map(|l| l.0))),
        large: large.is_some(),
        folder: name.ends_with(b"/"),
    })
}

/// Plain and compressed size of the extra field for large files.
fn large_sizes(mut extra: &[u8]) -> Option<(u64, u64)> {
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let kind = u16::from_le_bytes([head[0], head[1]]);
        let (field, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
        if kind == LARGE {
            let (plain, more) = field.split_first_chunk::<8>()?;
            return Some((u64::from_le_bytes(*plain), u64::from_le_bytes(*more.first_chunk::<8>()?)));
        }
        extra = rest;
    }
    None
}

impl<R: AsyncBufRead + Send + Unpin> Member<R> {
    /// The next bytes; none at the end of the file.
    async fn read(&mut self) -> io::Result<Bytes> {
        let mut chunk = BytesMut::with_capacity(STEP);
        match &mut self.body {
            Body::Stored(body) => body.read_buf(&mut chunk).await?,
            Body::Deflated(body) => body.read_buf(&mut chunk).await?,
        };
        self.crc.update(&chunk);
        self.length += chunk.len() as u64;
        Ok(chunk.freeze())
    }

    /// Compares what was read with what the archive says of it, and makes sure that it was all.
    async fn close(self) -> io::Result<()> {
        let mut source = match self.body {
            Body::Stored(body) => body.into_inner(),
            Body::Deflated(body) => body.into_inner(),
        };
        let mut signature = [0; 4];
        source.read_exact(&mut signature).await?;
        let (crc, length) = if self.header.is_open() {
            let crc = if signature == DESCRIPTOR {
                source.read_u32_le().await?
            } else {
                u32::from_le_bytes(signature)
            };
            let length = if self.header.large {
                source.read_u64_le().await?;
                source.read_u64_le().await?
            } else {
                source.read_u32_le().await?;
                u64::from(source.read_u32_le().await?)
            };
            source.read_exact(&mut signature).await?;
            (crc, length)
        } else {
            (self.header.crc, self.header.sizes.1)
        };
        if crc != self.crc.sum() || length != self.length {
            return Err(broken("the file in the archive is not what its checksum says"));
        }
        match signature {
            DIRECTORY => Ok(()),
            MEMBER => Err(broken("the archive holds more than one file")),
            _ => Err(broken("the archive goes on with what cannot be read")),
        }
    }
}

fn broken(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        only_file(bytes).read_to_end(&mut plain).await?;
        Ok(plain)
    }

    /// An archive that Python makes. In a `pipe` the sizes follow the data.
    fn archive(script: &str, pipe: bool) -> Vec<u8> {
        let target = if pipe { "sys.stdout.buffer" } else { "out" };
        let text = format!(
            "import zipfile, io, sys\nout = io.BytesIO()\nz = zipfile.ZipFile({target}, 'w')\n{script}\nz.close()\n\
             sys.stdout.buffer.write(out.getvalue())"
        );
        let out = std::process::Command::new("python3").args(["-c", &text]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    #[tokio::test]
    async fn one_file_comes_out() {
        for script in [
            "z.writestr('disk.raw', b'0123456789' * 100000, 8)",
            "z.writestr('disk.raw', b'0123456789' * 100000, 0)",
            "z.writestr('folder/', b''); z.writestr('folder/disk.raw', b'0123456789' * 100000, 8)",
            "with z.open(zipfile.ZipInfo('x'), 'w', force_zip64=True) as f: f.write(b'0123456789' * 100000)",
        ] {
            let plain = unpack(&archive(script, false)).await.unwrap_or_else(|e| panic!("{script}: {e}"));
            assert_eq!(plain, b"0123456789".repeat(100_000), "{script}");
        }
        let piped = archive("z.writestr('disk.raw', b'0123456789' * 100000, 8)", true);
        assert_eq!(unpack(&piped).await.unwrap(), b"0123456789".repeat(100_000));
        // Where a file lies in a pipe as it is, its end cannot be told.
        let stored = archive("z.writestr('disk.raw', b'0123456789', 0)", true);
        assert!(unpack(&stored).await.unwrap_err().to_string().contains("size"));
    }

    #[tokio::test]
    async fn archives_that_are_not_one_whole_file_are_refused() {
        let two = archive("z.writestr('a', b'1', 8); z.writestr('b', b'2', 8)", false);
        assert_eq!(unpack(&two).await.unwrap_err().to_string(), "the archive holds more than one file");
        assert_eq!(unpack(&archive("", false)).await.unwrap_err().to_string(), "the archive holds no file");
        let good = archive("z.writestr('a', b'0123456789' * 1000, 8)", false);
        let mut wrong = good.clone();
        wrong[14] ^= 1;
        assert!(unpack(&wrong).await.unwrap_err().to_string().contains("checksum"));
        let mut secret = good.clone();
        secret[6] |= 1;
        assert!(unpack(&secret).await.unwrap_err().to_string().contains("encrypted"));
        for length in 4..good.len() - 100 {
            assert!(unpack(&good[..length]).await.is_err(), "{length}");
        }
        let other = archive("z.writestr('a', b'0123456789' * 1000, zipfile.ZIP_LZMA)", false);
        assert!(unpack(&other).await.unwrap_err().to_string().contains("method 14"));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(mut bytes in proptest::collection::vec(any::<u8>(), 4..400)) {
            bytes[..4].copy_from_slice(&MEMBER);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(unpack(&bytes));
        }
    }
}
