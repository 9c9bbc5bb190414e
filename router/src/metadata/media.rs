//! The disk in the drive (`cks_iso.sh`): what nodes of a Kubernetes cluster fetch below `/cks-iso/`. Core puts it in
//! place; here it is only read, and nothing beside it can be.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    StatusCode,
    body::Frame,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION},
};
use tokio_util::io::ReaderStream;

use crate::serve::http::{Answer, answer};

/// The first part of the paths.
pub const NAME: &str = "cks-iso";
/// Bytes that are read at once.
const PIECE: usize = 128 * 1024;
/// Most entries of a folder that are shown.
const ENTRIES: usize = 10_000;

/// What is behind a path.
#[derive(Debug)]
enum Found {
    /// Names, folders with a slash at their end.
    Folder(Vec<String>),
    /// A file and its length in bytes.
    File(File, u64),
    /// A folder that was asked for without the slash at its end.
    Elsewhere,
    /// Nothing.
    Missing,
}

/// The disk, where there is one.
#[derive(Debug)]
pub struct Media {
    folder: PathBuf,
}

impl Media {
    /// What lies below a folder, which need not be there yet.
    pub const fn below(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Answers for a decoded path below [`NAME`]; `head` leaves the content out.
    pub async fn answer(&self, path: String, head: bool) -> Answer {
        let (folder, asked) = (self.folder.clone(), path.clone());
        let found = tokio::task::spawn_blocking(move || look_up(&folder, &asked)).await;
        match found.unwrap_or(Ok(Found::Missing)) {
            Ok(Found::Folder(names)) => {
                let mut listed = answer(StatusCode::OK, page(&path, &names));
                listed
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("text/html;charset=utf-8"));
                listed
            }
            Ok(Found::File(file, length)) => {
                let mut sent = answer(StatusCode::OK, "");
                sent.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
                sent.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                if !head {
                    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
                    *sent.body_mut() = StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync();
                }
                sent
            }
            Ok(Found::Elsewhere) => {
                let mut moved = answer(StatusCode::MOVED_PERMANENTLY, "");
                if let Ok(to) = HeaderValue::from_str(&format!("{}/", link(&path))) {
                    moved.headers_mut().insert(LOCATION, to);
                }
                moved
            }
            Ok(Found::Missing) => answer(StatusCode::NOT_FOUND, ""),
            Err(error) => {
                tracing::warn!(%error, path, "the disk in the drive cannot be read");
                answer(StatusCode::NOT_FOUND, "")
            }
        }
    }
}

fn look_up(folder: &Path, path: &str) -> io::Result<Found> {
    let inner = Path::new(path.trim_start_matches('/'));
    if !inner.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(Found::Missing);
    }
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Found::Missing),
        _ => Err(error),
    };
    // Where links lead counts, not what they are called.
    let (own, target) = match (fs::canonicalize(folder.join(NAME)), fs::canonicalize(folder.join(inner))) {
        (Ok(own), Ok(target)) => (own, target),
        (Err(error), _) | (_, Err(error)) => return missing(error),
    };
    if !target.starts_with(own) {
        return Ok(Found::Missing);
    }
    if target.is_dir() {
        if !path.ends_with('/') {
            return Ok(Found::Elsewhere);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&target)?.take(ENTRIES) {
            let entry = entry?;
            let slash = if entry.path().is_dir() { "/" } else { "" };
            names.extend(entry.file_name().to_str().map(|name| format!("{name}{slash}")));
        }
        names.sort();
        return Ok(Found::Folder(names));
    }
    let file = match File::open(&target) {
        Ok(file) => file,
        Err(error) => return missing(error),
    };
    let about = file.metadata()?;
    Ok(if about.is_file() { Found::File(file, about.len()) } else { Found::Missing })
}

/// A folder as a page with links.
fn page(path: &str, names: &[String]) -> Bytes {
    let title = escape(path);
    let mut text = format!("<!DOCTYPE html>\n<title>{title}</title>\n<h1>{title}</h1>\n");
    for name in names {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "<a href=\"{}\">{}</a><br>", link(name), escape(name));
    }
    text.into()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A path as a URL writes it.
fn link(path: &str) -> String {
    path.bytes().fold(String::new(), |mut all, byte| {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' => all.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => all.push(char::from(byte)),
            // Writing to a string cannot fail.
            byte => drop(write!(all, "%{byte:02X}")),
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_is_on_the_disk_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let found = |path: &str| look_up(folder.path(), path).unwrap();
        assert!(matches!(found("/cks-iso/"), Found::Missing), "no disk");
        let disk = folder.path().join("cks-iso/docker");
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("a b.tar"), "12345").unwrap();
        fs::write(folder.path().join("secret"), "x").unwrap();
        symlink("../../secret", disk.join("out")).unwrap();
        assert!(matches!(found("/cks-iso/docker/a b.tar"), Found::File(_, 5)));
        assert!(matches!(found("/cks-iso"), Found::Elsewhere));
        let Found::Folder(names) = found("/cks-iso/") else { panic!() };
        assert_eq!(names, ["docker/"]);
        for path in [
            "/cks-iso/docker/out",
            "/secret",
            "/cks-iso/../secret",
            "/cks-iso/docker/none",
            "/cks-iso/docker/a b.tar/x",
        ] {
            assert!(matches!(found(path), Found::Missing), "{path}");
        }
    }

    #[test]
    fn names_stay_names() {
        let text = page("/cks-iso/<b>/", &["a b&.tar".to_owned()]);
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains("<title>/cks-iso/&lt;b&gt;/</title>"), "{text}");
        assert!(text.contains(r#"<a href="a%20b%26.tar">a b&amp;.tar</a>"#), "{text}");
    }
}
