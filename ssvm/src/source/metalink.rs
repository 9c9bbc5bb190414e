//! Metalinks (RFC 5854, and its predecessor): a document that names mirrors of a file, and its checksums.

use roxmltree::{Document, ParsingOptions};

use super::{HttpOrder, HttpSource};
use crate::{
    store::{Source as _, SourceError},
    transfer::{Algorithm, Checksum},
};

/// Largest document in bytes.
const LONGEST: usize = 1024 * 1024;
/// Most elements of a document.
const ELEMENTS: u32 = 10_000;
/// Mirrors that are tried.
const MIRRORS: usize = 20;

/// What a document tells.
#[derive(Debug, PartialEq, Eq)]
struct Metalink {
    /// The best one first.
    mirrors: Vec<String>,
    checksum: Option<Checksum>,
}

/// Whether a URL leads to such a document.
pub(crate) fn is_metalink(url: &str) -> bool {
    url.split(['?', '#']).next().is_some_and(|path| path.to_ascii_lowercase().ends_with(".metalink"))
}

/// Opens the best mirror that has the file: what it brings, the order for it, and the checksum that the document tells.
pub(crate) async fn open(
    order: &HttpOrder,
    limit: u64,
) -> Result<(HttpSource, HttpOrder, Option<Checksum>), SourceError> {
    let mut source = HttpSource::open(order, LONGEST as u64).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = source.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST {
            return Err(SourceError::Remote("the metalink is too large".into()));
        }
    }
    let metalink = read(&bytes).map_err(SourceError::Remote)?;
    let mut last = SourceError::Remote("the metalink names no mirror that can be used".into());
    for url in metalink.mirrors {
        let mirror = order.of_mirror(&url);
        match HttpSource::open(&mirror, limit).await {
            Ok(source) => return Ok((source, mirror, metalink.checksum)),
            Err(error) => {
                tracing::warn!(mirror = mirror.shown(), %error, "the next mirror is tried");
                last = error;
            }
        }
    }
    Err(last)
}

/// Whether a document can be used.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    read(bytes).map(|_| ())
}

fn read(bytes: &[u8]) -> Result<Metalink, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the metalink is not UTF-8")?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: ELEMENTS, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|e| format!("the metalink: {e}"))?;
    let file = document.descendants().find(|node| node.tag_name().name() == "file");
    let file = file.ok_or("the metalink names no file")?;
    let mut mirrors: Vec<(u32, String)> = Vec::new();
    let mut checksums: Vec<Checksum> = Vec::new();
    for node in file.descendants() {
        let content = node.text().unwrap_or_default().trim();
        match node.tag_name().name() {
            "url" => {
                let priority = node.attribute("priority").and_then(|p| p.parse().ok()).unwrap_or(u32::MAX);
                mirrors.push((priority, content.to_owned()));
            }
            // Checksums of pieces are another matter.
            "hash" if node.parent_element().is_some_and(|p| p.tag_name().name() != "pieces") => {
                let kind = node.attribute("type").unwrap_or_default();
                checksums.extend(Checksum::parse(&format!("{{{kind}}}{content}")));
            }
            _ => {}
        }
    }
    mirrors.sort_by_key(|(priority, _)| *priority);
    mirrors.truncate(MIRRORS);
    let strength = |sum: &Checksum| match sum.algorithm {
        Algorithm::Md5 => 0,
        Algorithm::Sha1 => 1,
        Algorithm::Sha224 => 2,
        Algorithm::Sha256 => 3,
        Algorithm::Sha384 => 4,
        Algorithm::Sha512 => 5,
    };
    let checksum = checksums.into_iter().max_by_key(strength);
    Ok(Metalink { mirrors: mirrors.into_iter().map(|(_, url)| url).collect(), checksum })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mirrors_in_their_order_and_the_strongest_checksum() {
        let text = r#"<?xml version="1.0"?><metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="x.qcow2">
            <size>9</size><hash type="md5">900150983cd24fb0d6963f7d28e17f72</hash><hash type="sha-256">AB12</hash>
            <hash type="sha-9">00</hash><pieces length="1" type="sha-512"><hash>aa</hash></pieces>
            <url>http://last/x</url><url priority="2">http://second/x</url><url priority="1"> http://first/x </url>
            </file></metalink>"#;
        let metalink = read(text.as_bytes()).unwrap();
        assert_eq!(metalink.mirrors, ["http://first/x", "http://second/x", "http://last/x"]);
        assert_eq!(metalink.checksum.unwrap().to_string(), "{SHA-256}ab12");
        let entity = format!("<!DOCTYPE m [<!ENTITY e SYSTEM \"file:///etc/passwd\">]>{}", &text[21..]);
        assert!(read(entity.as_bytes()).unwrap_err().contains("DTD"));
        assert!(read(b"<html/>").is_err() && read(b"\xff").is_err());
        assert!(is_metalink("http://h/x.Metalink?a=b") && !is_metalink("http://h/x?y=.metalink"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[<>a-z/\"=! ]{0,300}") {
            let _ = read(text.as_bytes());
        }
    }
}
