//! The `sftp` subsystem (SSH file transfer protocol version 3, draft-ietf-secsh-filexfer-02), as much
//! as a copy client needs: uploads to `/var/cache/cloud/` by the same road as `scp -t`, and
//! diagnostics to be fetched.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::{self, Read, Seek as _, SeekFrom, Write},
    os::unix::fs::MetadataExt as _,
};

use super::{
    scp,
    upload::{self, Upload},
};
use crate::paths::Paths;

/// Longest packet in bytes.
const PACKET: usize = 256 * 1024 + 1024;
/// Most bytes of one answer to a read.
const READ: u32 = 128 * 1024;
/// Files that may be open at a time.
const OPEN: usize = 16;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN_FILE: u8 = 3;
const CLOSE: u8 = 4;
const READ_FILE: u8 = 5;
const WRITE_FILE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

/// Status codes of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    Denied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// What a file is open for.
enum Open {
    Write(Box<Upload>),
    Read(File),
}

/// One connection's state.
struct Server<'a> {
    paths: &'a Paths,
    open: HashMap<u32, Open>,
    next: u32,
}

/// Serves until the client closes.
///
/// # Errors
/// Where the connection breaks or a packet is too long.
pub(super) fn serve(paths: &Paths, input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut server = Server { paths, open: HashMap::new(), next: 0 };
    loop {
        let mut head = [0; 4];
        match input.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let length = u32::from_be_bytes(head) as usize;
        if length == 0 || length > PACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of a wrong length"));
        }
        let mut packet = vec![0; length];
        input.read_exact(&mut packet)?;
        let answer = server.answer(&packet);
        let length = u32::try_from(answer.len()).map_err(io::Error::other)?;
        output.write_all(&length.to_be_bytes())?;
        output.write_all(&answer)?;
        output.flush()?;
    }
}

/// What is left of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Code> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Code::BadMessage)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Code> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Code> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Code::BadMessage)
    }

    fn u64(&mut self) -> Result<u64, Code> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| Code::BadMessage)
    }

    fn string(&mut self) -> Result<&'a [u8], Code> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn path(&mut self) -> Result<String, Code> {
        let text = std::str::from_utf8(self.string()?).map_err(|_| Code::NoSuchFile)?;
        Ok(absolute(text))
    }

    fn handle(&mut self) -> Result<u32, Code> {
        self.string()?.try_into().map(u32::from_be_bytes).map_err(|_| Code::Failure)
    }
}

/// A path from `/`, relative ones from root's home, without `.`, `..` and doubled slashes.
fn absolute(text: &str) -> String {
    let mut parts: Vec<&str> = if text.starts_with('/') { Vec::new() } else { vec!["root"] };
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

impl Server<'_> {
    /// The answer to one packet, without its length.
    fn answer(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut reader = Reader(packet);
        let Ok(kind) = reader.u8() else { return status(0, Code::BadMessage) };
        if kind == INIT {
            return [&[VERSION][..], &3_u32.to_be_bytes()].concat();
        }
        let Ok(id) = reader.u32() else { return status(0, Code::BadMessage) };
        self.request(kind, id, &mut reader).unwrap_or_else(|code| status(id, code))
    }

    fn request(&mut self, kind: u8, id: u32, reader: &mut Reader<'_>) -> Result<Vec<u8>, Code> {
        match kind {
            OPEN_FILE => {
                let path = reader.path()?;
                let flags = reader.u32()?;
                let handle = self.open(&path, flags)?;
                Ok(packet(HANDLE, id, &[&4_u32.to_be_bytes(), &handle.to_be_bytes()]))
            }
            CLOSE => match self.open.remove(&reader.handle()?).ok_or(Code::Failure)? {
                Open::Write(upload) => {
                    upload.finish().map(|()| status(id, Code::Ok)).map_err(|_| Code::Failure)
                }
                Open::Read(_) => Ok(status(id, Code::Ok)),
            },
            READ_FILE => {
                let (handle, offset, length) = (reader.handle()?, reader.u64()?, reader.u32()?);
                let Some(Open::Read(file)) = self.open.get_mut(&handle) else { return Err(Code::Failure) };
                let bytes = read_at(file, offset, length.min(READ)).map_err(|_| Code::Failure)?;
                if bytes.is_empty() {
                    return Err(Code::Eof);
                }
                let length = u32::try_from(bytes.len()).map_err(|_| Code::Failure)?;
                Ok(packet(DATA, id, &[&length.to_be_bytes(), &bytes]))
            }
            WRITE_FILE => {
                let (handle, offset, bytes) = (reader.handle()?, reader.u64()?, reader.string()?);
                let Some(Open::Write(upload)) = self.open.get_mut(&handle) else { return Err(Code::Failure) };
                // The checksum needs the bytes in order, and every client sends them so.
                if offset != upload.size() {
                    return Err(Code::Unsupported);
                }
                upload.write(bytes).map(|()| status(id, Code::Ok)).map_err(|_| Code::Failure)
            }
            STAT | LSTAT => {
                let path = reader.path()?;
                Ok(packet(ATTRS, id, &[&attributes(&self.about(&path)?)]))
            }
            FSTAT => match self.open.get(&reader.handle()?).ok_or(Code::Failure)? {
                Open::Write(upload) => Ok(packet(ATTRS, id, &[&size_only(upload.size())])),
                Open::Read(file) => {
                    Ok(packet(ATTRS, id, &[&attributes(&file.metadata().map_err(|_| Code::Failure)?)]))
                }
            },
            // Modes and times of what is uploaded are this side's matter.
            SETSTAT | FSETSTAT => Ok(status(id, Code::Ok)),
            REALPATH => {
                let path = reader.path()?;
                let length = u32::try_from(path.len()).map_err(|_| Code::BadMessage)?.to_be_bytes();
                let name = [&length[..], path.as_bytes()].concat();
                Ok(packet(NAME, id, &[&1_u32.to_be_bytes(), &name, &name, &[0; 4]]))
            }
            _ => Err(Code::Unsupported),
        }
    }

    fn open(&mut self, path: &str, flags: u32) -> Result<u32, Code> {
        const WRITES: u32 = 0x02;
        const READS: u32 = 0x01;
        if self.open.len() >= OPEN {
            return Err(Code::Failure);
        }
        let open = match (flags & READS != 0, flags & WRITES != 0) {
            (false, true) => {
                let upload = Upload::start(self.paths, path, None).map_err(|error| match error {
                    upload::UploadError::Place(_) => Code::Denied,
                    _ => Code::Failure,
                })?;
                Open::Write(Box::new(upload))
            }
            (true, false) if scp::is_fetchable(path) => {
                Open::Read(File::open(self.paths.at(path)).map_err(|_| Code::NoSuchFile)?)
            }
            _ => return Err(Code::Denied),
        };
        self.next = self.next.wrapping_add(1);
        self.open.insert(self.next, open);
        Ok(self.next)
    }

    /// What is known of a path: of the folder of uploads, what is in it, and of diagnostics only.
    fn about(&self, path: &str) -> Result<Metadata, Code> {
        let visible = upload::is_folder(path)
            || upload::plain_name(path).is_some()
            || scp::is_fetchable(path)
            || matches!(path, "/" | "/root" | "/var" | "/var/cache");
        if !visible {
            return Err(Code::Denied);
        }
        fs::metadata(self.paths.at(path)).map_err(|_| Code::NoSuchFile)
    }
}

fn read_at(file: &mut File, offset: u64, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length.into()).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn packet(kind: u8, id: u32, parts: &[&[u8]]) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes(), &parts.concat()].concat()
}

fn status(id: u32, code: Code) -> Vec<u8> {
    let text = match code {
        Code::Ok => "done",
        Code::Eof => "end of file",
        Code::NoSuchFile => "no such file",
        Code::Denied => "not allowed",
        Code::Failure => "failed",
        Code::BadMessage => "cannot be read",
        Code::Unsupported => "not known here",
    };
    let length = u32::try_from(text.len()).unwrap_or_default().to_be_bytes();
    // Behind the text comes the tag of its language, which is empty.
    packet(STATUS, id, &[&(code as u32).to_be_bytes(), &length, text.as_bytes(), &[0; 4]])
}

/// Size, owner, mode and times.
fn attributes(about: &Metadata) -> Vec<u8> {
    let seconds = |time: i64| u32::try_from(time).unwrap_or_default().to_be_bytes();
    let mut bytes = 0x0d_u32.to_be_bytes().to_vec();
    bytes.extend(about.len().to_be_bytes());
    bytes[3] |= 0x02;
    bytes.extend([0; 8]);
    bytes.extend(about.mode().to_be_bytes());
    bytes.extend(seconds(about.atime()));
    bytes.extend(seconds(about.mtime()));
    bytes
}

fn size_only(size: u64) -> Vec<u8> {
    [&1_u32.to_be_bytes()[..], &size.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn request(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = packet(kind, 7, parts);
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    fn run(paths: &Paths, requests: &[Vec<u8>]) -> Vec<(u8, Vec<u8>)> {
        let mut output = Vec::new();
        serve(paths, &mut &requests.concat()[..], &mut output).unwrap();
        let mut answers = Vec::new();
        let mut rest = &output[..];
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            answers.push((rest[4], rest[9..4 + length].to_vec()));
            rest = &rest[4 + length..];
        }
        answers
    }

    #[test]
    fn an_upload() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let handle = [0, 0, 0, 4, 0, 0, 0, 1];
        let answers = run(
            &paths,
            &[
                request(OPEN_FILE, &[&string("/var/cache/cloud/a.json"), &0x1a_u32.to_be_bytes(), &[0; 4]]),
                request(WRITE_FILE, &[&handle, &0_u64.to_be_bytes(), &string("hel")]),
                request(WRITE_FILE, &[&handle, &9_u64.to_be_bytes(), &string("gap")]),
                request(WRITE_FILE, &[&handle, &3_u64.to_be_bytes(), &string("lo")]),
                request(FSETSTAT, &[&handle, &[0; 4]]),
                request(CLOSE, &[&handle]),
                request(CLOSE, &[&handle]),
                request(STAT, &[&string("/var/cache/cloud/a.json")]),
            ],
        );
        let codes: Vec<u8> =
            answers.iter().map(|(kind, body)| if *kind == STATUS { body[3] } else { 100 + *kind }).collect();
        assert_eq!(codes, [202, 0, 8, 0, 0, 0, 4, 205]);
        assert_eq!(fs::read(paths.cache().join("a.json")).unwrap(), b"hello");
    }

    #[test]
    fn other_places_are_closed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let answers = run(
            &paths,
            &[
                request(OPEN_FILE, &[&string("/etc/passwd"), &1_u32.to_be_bytes(), &[0; 4]]),
                request(
                    OPEN_FILE,
                    &[&string("/var/cache/cloud/../../../etc/x"), &2_u32.to_be_bytes(), &[0; 4]],
                ),
                request(STAT, &[&string("/etc/shadow")]),
                request(14, &[&string("/var/cache/cloud/new"), &[0; 4]]),
                request(13, &[&string("/var/cache/cloud/cmdline")]),
            ],
        );
        let codes: Vec<u8> = answers.iter().map(|(_, body)| body[3]).collect();
        assert_eq!(codes, [3, 3, 3, 8, 8]);
    }

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(absolute("."), "/root");
        assert_eq!(absolute("/var//cache/./cloud/"), "/var/cache/cloud");
        assert_eq!(absolute("../../.."), "/");
    }

    proptest! {
        #[test]
        fn any_packets_are_answered(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..60), 0..8)) {
            let folder = tempfile::tempdir().unwrap();
            let paths = Paths::below(folder.path());
            let bytes: Vec<u8> = packets.iter().flat_map(|p| [&(p.len() as u32).to_be_bytes()[..], p].concat()).collect();
            serve(&paths, &mut &bytes[..], &mut io::sink()).unwrap();
        }
    }
}
