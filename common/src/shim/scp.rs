//! The old copy protocol, both directions, as hosts' Java library and OpenSSH's `scp -O` speak it.

use std::{
    fs::File,
    io::{self, BufRead, Read, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use super::upload::{self, Upload, UploadError};
use crate::paths::Paths;

/// Longest line of the protocol in bytes.
const LINE: u64 = 4096;
/// Bytes that are read at a time.
const CHUNK: usize = 64 * 1024;

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScpError {
    /// The connection broke.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The other end does not speak the protocol.
    #[error("protocol: {0}")]
    Protocol(&'static str),
    /// The other end gave up.
    #[error("the other end: {0}")]
    Peer(String),
    /// The file is not one to be read.
    #[error("{0}: cannot be fetched")]
    Source(String),
}

/// `scp -t`: takes files until the other end closes. A file that is refused is named to the other end, which
/// goes on with the next; returns whether all were taken.
///
/// # Errors
/// Where the connection breaks or the protocol is not kept.
pub(super) fn receive(
    paths: &Paths,
    target: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<bool, ScpError> {
    let mut all = true;
    acknowledge(output)?;
    while let Some(line) = line(input)? {
        let Some((kind, rest)) = line.split_at_checked(1) else {
            return Err(ScpError::Protocol("an empty line"));
        };
        match kind {
            "C" => {
                let (size, name) = header(rest).ok_or(ScpError::Protocol("a garbled file line"))?;
                let place = if upload::is_folder(target) {
                    format!("/var/cache/cloud/{name}")
                } else {
                    target.to_owned()
                };
                match Upload::start(paths, &place, Some(size)) {
                    Ok(upload) => {
                        acknowledge(output)?;
                        if let Err(error) = content(upload, size, input)? {
                            refuse(output, &error)?;
                            all = false;
                            continue;
                        }
                        acknowledge(output)?;
                    }
                    Err(error) => {
                        refuse(output, &error)?;
                        all = false;
                    }
                }
            }
            "T" | "E" => acknowledge(output)?,
            "D" => {
                refuse(output, &"folders are not taken")?;
                return Ok(false);
            }
            "\x01" => all = false,
            "\x02" => return Err(ScpError::Peer(rest.to_owned())),
            _ => return Err(ScpError::Protocol("an unknown line")),
        }
    }
    Ok(all)
}

/// Takes the bytes of one file and the status byte behind them. The outer error ends the connection, the
/// inner one only this file.
fn content(
    mut upload: Upload,
    size: u64,
    input: &mut impl BufRead,
) -> Result<Result<(), UploadError>, ScpError> {
    let mut left = size;
    let mut outcome = Ok(());
    let mut chunk = vec![0; CHUNK];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        input.read_exact(&mut chunk[..want])?;
        left -= want as u64;
        if outcome.is_ok() {
            outcome = upload.write(&chunk[..want]);
        }
    }
    let mut status = [0];
    input.read_exact(&mut status)?;
    if status != [0] {
        return Err(ScpError::Peer(line(input)?.unwrap_or_default()));
    }
    Ok(outcome.and_then(|()| upload.finish()))
}

/// `scp -f`: gives one file.
///
/// # Errors
/// Where it may not be fetched, the connection breaks, or the protocol is not kept.
pub(super) fn send(
    paths: &Paths,
    path: &str,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(), ScpError> {
    answer(input)?;
    let found =
        if is_fetchable(path) { open(&paths.at(path)) } else { Err(io::ErrorKind::PermissionDenied.into()) };
    let (file, size, mode) = match found {
        Ok(found) => found,
        Err(error) => {
            refuse(output, &format_args!("{path}: {error}"))?;
            return Err(ScpError::Source(path.to_owned()));
        }
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    output.write_all(format!("C{mode:04o} {size} {name}\n").as_bytes())?;
    output.flush()?;
    answer(input)?;
    if io::copy(&mut file.take(size), output)? != size {
        return Err(ScpError::Source(path.to_owned()));
    }
    acknowledge(output)?;
    answer(input)
}

/// Whether a host may fetch a file: archives of diagnostics, and what consoles have shown.
pub(super) fn is_fetchable(path: &str) -> bool {
    let recording = path.strip_prefix("/state/recordings/").and_then(|name| name.strip_suffix(".fbs"));
    if recording.is_some_and(|name| {
        (1..=200).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }) {
        return true;
    }
    path.strip_prefix("/root/diagnostics_files_").and_then(|rest| rest.strip_suffix(".zip")).is_some_and(
        |stamp| {
            (1..=64).contains(&stamp.len())
                && stamp.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        },
    )
}

fn open(path: &Path) -> io::Result<(File, u64, u32)> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((file, about.len(), about.permissions().mode() & 0o777))
}

/// One line without its end; `None` where the other end has closed.
fn line(input: &mut impl BufRead) -> Result<Option<String>, ScpError> {
    let mut bytes = Vec::new();
    if input.take(LINE).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(ScpError::Protocol("a line without end"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| ScpError::Protocol("a line that is not text"))
}

/// Size and name of `C0644 12 name`, without the `C`.
fn header(rest: &str) -> Option<(u64, &str)> {
    let (mode, rest) = rest.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    (mode.len() == 4 && mode.bytes().all(|b| matches!(b, b'0'..=b'7'))).then_some(())?;
    Some((size.parse().ok()?, name))
}

/// The other end's answer: 0, or 1 or 2 and a line that says why not.
fn answer(input: &mut impl BufRead) -> Result<(), ScpError> {
    let mut status = [0];
    input.read_exact(&mut status)?;
    match status {
        [0] => Ok(()),
        [1 | 2] => Err(ScpError::Peer(line(input)?.unwrap_or_default())),
        _ => Err(ScpError::Protocol("an unknown answer")),
    }
}

fn acknowledge(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0])?;
    output.flush()
}

fn refuse(output: &mut impl Write, why: &dyn std::fmt::Display) -> io::Result<()> {
    let text = format!("scp: {why}").replace(['\n', '\r'], " ");
    output.write_all(format!("\x01{text}\n").as_bytes())?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn receive_all(
        target: &str,
        bytes: &[u8],
    ) -> (tempfile::TempDir, Paths, Result<bool, ScpError>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let mut output = Vec::new();
        let result = receive(&paths, target, &mut &bytes[..], &mut output);
        (folder, paths, result, output)
    }

    #[test]
    fn what_the_java_library_sends() {
        let bytes = b"C0600 5 a.json.1\nhello\0C0600 2 b.json\nhi\0E\n";
        let (_folder, paths, result, output) = receive_all("/var/cache/cloud/", bytes);
        assert!(result.unwrap());
        assert_eq!(output, [0; 6]);
        assert_eq!(fs::read(paths.cache().join("a.json.1")).unwrap(), b"hello");
        assert_eq!(fs::read(paths.cache().join("b.json")).unwrap(), b"hi");
    }

    #[test]
    fn what_openssh_sends() {
        let bytes = b"T1700000000 0 1700000000 0\nC0644 3 local-name\nabc\0";
        let (_folder, paths, result, _) = receive_all("/var/cache/cloud/x.cfg", bytes);
        assert!(result.unwrap());
        assert_eq!(fs::read(paths.cache().join("x.cfg")).unwrap(), b"abc");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (target, line) in [
            ("/var/cache/cloud", "C0644 3 ../../etc/passwd\n"),
            ("/etc", "C0644 3 passwd\n"),
            ("/var/cache/cloud", "C0644 999999999999 big\n"),
            ("/var/cache/cloud", "D0755 0 folder\n"),
        ] {
            let (folder, _, result, output) = receive_all(target, line.as_bytes());
            assert!(!result.unwrap(), "{line}");
            assert_eq!(output[1], 1);
            assert!(!folder.path().join("etc").exists());
        }
    }

    #[test]
    fn a_broken_upload_leaves_nothing() {
        let (_folder, paths, result, _) = receive_all("/var/cache/cloud", b"C0644 9 a\nabc");
        assert!(matches!(result, Err(ScpError::Io(_))));
        assert_eq!(fs::read_dir(paths.cache()).unwrap().count(), 0);
    }

    #[test]
    fn diagnostics_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let name = "/root/diagnostics_files_20251102-101500.zip";
        fs::create_dir_all(paths.at("/root")).unwrap();
        fs::write(paths.at(name), "zip").unwrap();
        fs::set_permissions(paths.at(name), fs::Permissions::from_mode(0o600)).unwrap();
        let mut output = Vec::new();
        send(&paths, name, &mut &[0, 0, 0][..], &mut output).unwrap();
        assert_eq!(output, b"C0600 3 diagnostics_files_20251102-101500.zip\nzip\0");
        let mut output = Vec::new();
        assert!(send(&paths, "/root/.ssh/id_rsa", &mut &[0][..], &mut output).is_err());
        assert_eq!(output[0], 1);
        assert!(!is_fetchable("/root/diagnostics_files_../x.zip"));
        assert!(is_fetchable("/state/recordings/0000000001000.vm-1.9f1c.fbs"));
        for other in ["/state/recordings/../log/a.fbs", "/state/recordings/.fbs", "/state/recordings/a.log"] {
            assert!(!is_fetchable(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = receive_all("/var/cache/cloud", &bytes);
        }

        #[test]
        fn any_lines_end(lines in proptest::collection::vec("[CTED\\x01\\x02][0-7]{0,4} [0-9]{0,3} [a-z./]{0,6}\n", 0..6)) {
            let (folder, _, _, _) = receive_all("/var/cache/cloud", lines.concat().as_bytes());
            let outside = fs::read_dir(folder.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "var");
            prop_assert_eq!(outside.count(), 0);
        }
    }
}
