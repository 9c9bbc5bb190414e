//! `multipart/form-data` as it arrives (RFC 7578, RFC 2046 5.1): the parts one after the other, never
//! more than a little of it in memory.

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};

/// Longest boundary (RFC 2046 5.1.1).
const LONGEST_BOUNDARY: usize = 70;
/// Longest head of a part.
const LONGEST_HEAD: usize = 16 * 1024;
/// Parts that are looked at for a file.
const MOST_PARTS: usize = 100;

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It stopped coming.
    #[error("file receive failed or connection closed prematurely.")]
    Broken,
    /// It is not what it should be.
    #[error("the body cannot be read: {0}")]
    Shape(&'static str),
}

/// A body and how far it has been read.
pub(crate) struct Parts<S> {
    stream: S,
    /// Line break, dashes, boundary: what ends a part.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    /// The delimiter after the present part has been reached.
    at_delimiter: bool,
}

/// The boundary that a content type names.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let mut words = content_type.split(';').map(str::trim);
    if !words.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let (_, value) = words
        .filter_map(|word| word.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let good = (1..=LONGEST_BOUNDARY).contains(&value.len()) && value.bytes().all(|b| (32..127).contains(&b));
    good.then_some(value)
}

impl<S> Parts<S>
where
    S: Stream<Item = Result<Bytes, String>> + Unpin + Send,
{
    /// Nothing has been read yet.
    pub(crate) fn new(boundary: &str, stream: S) -> Self {
        // The first boundary has no line break before it.
        let buffer = BytesMut::from(&b"\r\n"[..]);
        Self { stream, delimiter: format!("\r\n--{boundary}").into(), buffer, at_delimiter: false }
    }

    /// Goes on to the next part that is a file; its name as the browser gave it.
    pub(crate) async fn next_file(&mut self) -> Result<Option<String>, Fault> {
        for _ in 0..MOST_PARTS {
            while self.chunk().await?.is_some() {}
            self.buffer.advance(self.delimiter.len());
            self.at_delimiter = false;
            self.at_least(2).await?;
            if self.buffer.starts_with(b"--") {
                return Ok(None);
            }
            let head = self.head().await?;
            if let Some(name) = file_name(&head) {
                return Ok(Some(name));
            }
        }
        Err(Fault::Shape("too many parts"))
    }

    /// The next bytes of the present part; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if self.at_delimiter {
                return Ok(None);
            }
            let (free, found) = scan(&self.buffer, &self.delimiter);
            self.at_delimiter = found;
            if free > 0 {
                return Ok(Some(self.buffer.split_to(free).freeze()));
            }
            if !found {
                self.fill().await?;
            }
        }
    }

    /// Takes what is left of the body, at most `limit` bytes of it.
    pub(super) async fn drain(&mut self, limit: usize) {
        let mut left = limit;
        while let Some(Ok(bytes)) = self.stream.next().await {
            match left.checked_sub(bytes.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }

    /// From the end of a boundary's line to the empty line.
    async fn head(&mut self) -> Result<String, Fault> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 4);
                return Ok(head);
            }
            if self.buffer.len() > LONGEST_HEAD {
                return Err(Fault::Shape("a head that is too long"));
            }
            self.fill().await?;
        }
    }

    async fn at_least(&mut self, bytes: usize) -> Result<(), Fault> {
        while self.buffer.len() < bytes {
            self.fill().await?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        match self.stream.next().await {
            Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
            Some(Err(_)) | None => return Err(Fault::Broken),
        }
        Ok(())
    }
}

/// Bytes before a delimiter or what may become one, and whether it is there whole.
fn scan(buffer: &[u8], delimiter: &[u8]) -> (usize, bool) {
    let mut from = 0;
    while let Some(at) = buffer[from..].iter().position(|b| *b == b'\r').map(|at| from + at) {
        let rest = &buffer[at..];
        if rest.starts_with(delimiter) {
            return (at, true);
        }
        if delimiter.starts_with(rest) {
            return (at, false);
        }
        from = at + 1;
    }
    (buffer.len(), false)
}

/// The file name in the head of a part, if it is a file.
fn file_name(head: &str) -> Option<String> {
    let line = head.lines().find(|line| {
        line.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
    })?;
    let lower = line.to_ascii_lowercase();
    let at = lower.find("filename=").or_else(|| lower.find("filename*="))?;
    let (_, value) = line[at..].split_once('=')?;
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => value.split(';').next().unwrap_or_default().trim(),
    };
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    /// Reads a body that comes in pieces of this size: names and contents of its files.
    fn files(body: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let pieces: Vec<_> = body.chunks(piece).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut parts = Parts::new("XX", stream::iter(pieces));
            let mut files = Vec::new();
            while let Some(name) = parts.next_file().await? {
                let mut content = Vec::new();
                while let Some(chunk) = parts.chunk().await? {
                    content.extend_from_slice(&chunk);
                }
                files.push((name, content));
            }
            Ok(files)
        })
    }

    fn body(content: &[u8]) -> Vec<u8> {
        [
            b"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nfield\r\n--XX\r\n\
              content-disposition: form-data; name=\"files[]\"; filename=\"d.qcow2\"\r\n\
              Content-Type: application/octet-stream\r\n\r\n",
            content,
            b"\r\n--XX--\r\n",
        ]
        .concat()
    }

    #[test]
    fn boundaries() {
        assert_eq!(boundary("multipart/form-data; boundary=XX"), Some("XX"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"a b\""), Some("a b"));
        for bad in ["", "text/plain; boundary=XX", "multipart/form-data", "multipart/form-data; boundary="] {
            assert_eq!(boundary(bad), None, "{bad}");
        }
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }

    #[test]
    fn what_is_not_whole_is_a_fault() {
        let whole = body(b"content");
        for end in [0, 3, 40, whole.len() - 20, whole.len() - 5] {
            assert_eq!(files(&whole[..end], 7), Err(Fault::Broken), "{end}");
        }
        assert_eq!(files(b"--XX--\r\n", 3), Ok(vec![]));
        let endless = [&b"--XX\r\n"[..], &vec![b'h'; 40_000]].concat();
        assert_eq!(files(&endless, 1000), Err(Fault::Shape("a head that is too long")));
        let many = b"--XX\r\nx:y\r\n\r\n\r\n".repeat(200);
        assert_eq!(files(&many, 1000), Err(Fault::Shape("too many parts")));
        assert_eq!(
            files(b"--XX\r\ncontent-disposition: x; filename=a\r\n\r\n\r\n--XX--", 5),
            Ok(vec![("a".into(), vec![])])
        );
    }

    proptest! {
        #[test]
        fn a_file_comes_out_as_it_went_in(
            content in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X'), any::<u8>()], 0..400),
            piece in 1_usize..60,
        ) {
            prop_assume!(!content.windows(6).any(|w| w == b"\r\n--XX"));
            let read = files(&body(&content), piece);
            prop_assert_eq!(read, Ok(vec![("d.qcow2".to_owned(), content)]));
        }

        #[test]
        fn no_body_upsets_it(bytes in proptest::collection::vec(any::<u8>(), 0..600), piece in 1_usize..60) {
            let _ = files(&bytes, piece);
            let _ = files(&[&b"--XX\r\n"[..], &bytes].concat(), piece);
        }
    }
}
