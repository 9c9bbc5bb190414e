//! A recording of what a console shows, in the format `FBS 001.001` of rfbproxy: blocks of what the server has said,
//! each with its time. Of the viewer it holds nothing, and so no key that was typed.
//!
//! It begins as a server of version 3.3 without authentication would, and describes the screen with the pixels that the
//! viewer has asked for, so that any player understands what follows. The disk is written by a thread of its own: one
//! that is slow ends recordings, and never holds up a console.

use std::{
    fs::File,
    io::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

use crate::rfb::{ServerInit, view::ViewOnly};

/// What each file begins with.
const MAGIC: &[u8] = b"FBS 001.001\n";
/// Version 3.3, and its word for no authentication.
const GREETING: &[u8] = b"RFB 003.003\n\0\0\0\x01";
/// Blocks of all recordings that may wait for the disk; each has up to 64 KiB.
const WAITING: usize = 128;
/// Bytes of a block beside the server's: length, up to three to fill it up, time.
const AROUND: usize = 11;

/// What is to be written where.
type Portion = (Arc<Sink>, Vec<u8>);

static WRITER: LazyLock<SyncSender<Portion>> = LazyLock::new(|| {
    let (sender, portions) = sync_channel(WAITING);
    std::thread::spawn(move || write(&portions));
    sender
});

fn write(portions: &Receiver<Portion>) {
    while let Ok((sink, bytes)) = portions.recv() {
        if !sink.broken.load(Ordering::Relaxed)
            && let Err(error) = (&sink.file).write_all(&bytes)
        {
            tracing::error!(session = sink.session, %error, "the recording ends here");
            sink.broken.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Sink {
    session: String,
    file: File,
    broken: AtomicBool,
}

/// The recording of one console.
#[derive(Debug)]
pub struct Tape {
    sink: Arc<Sink>,
    /// Description of the screen, until it has been written.
    init: Option<Vec<u8>>,
    /// Knows how the viewer wants pixels; `None` once it has said something unknown.
    viewer: Option<ViewOnly>,
    format: Option<[u8; 16]>,
    begun: Instant,
    /// Bytes that the file may still take.
    left: u64,
    over: bool,
}

impl Tape {
    /// Into this file, at most so many bytes; `init` is the description of the screen that the viewer was given.
    pub fn new(session: &str, file: File, limit: u64, init: Vec<u8>) -> Self {
        let sink = Sink { session: session.to_owned(), file, broken: AtomicBool::new(false) };
        Self {
            sink: Arc::new(sink),
            init: Some(init),
            viewer: Some(ViewOnly::default()),
            format: None,
            begun: Instant::now(),
            left: limit,
            over: false,
        }
    }

    /// What the viewer says: of that only how it wants pixels is of interest.
    pub fn up(&mut self, bytes: &[u8]) {
        let Some(viewer) = self.viewer.as_mut().filter(|_| !self.over) else { return };
        if viewer.pass(bytes, &mut Vec::new()).is_err() {
            self.viewer = None;
            return;
        }
        let format = viewer.format();
        if format.is_some() && format != self.format {
            self.format = format;
            if self.init.is_none() {
                self.end("the viewer has changed how it wants pixels, the recording ends here");
            }
        }
    }

    /// What the server says.
    pub fn down(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        if let Some(init) = self.init.take() {
            let init = self.format.map_or_else(|| init.clone(), |format| ServerInit::with(&init, format));
            let mut start = MAGIC.to_vec();
            self.append(&mut start, GREETING);
            self.append(&mut start, &init);
            self.put(start);
        }
        let mut block = Vec::with_capacity(bytes.len() + AROUND);
        self.append(&mut block, bytes);
        self.put(block);
    }

    fn append(&self, to: &mut Vec<u8>, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let time = u32::try_from(self.begun.elapsed().as_millis()).unwrap_or(u32::MAX);
        to.extend_from_slice(&length.to_be_bytes());
        to.extend_from_slice(bytes);
        to.resize(to.len() + (bytes.len().next_multiple_of(4) - bytes.len()), 0);
        to.extend_from_slice(&time.to_be_bytes());
    }

    fn put(&mut self, bytes: Vec<u8>) {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return self.end("it has its full size, the recording ends here");
        };
        self.left = left;
        if self.sink.broken.load(Ordering::Relaxed) {
            self.over = true;
        } else if WRITER.try_send((Arc::clone(&self.sink), bytes)).is_err() {
            self.end("the disk does not keep up, the recording ends here");
        }
    }

    fn end(&mut self, why: &str) {
        tracing::warn!(session = self.sink.session, "{why}");
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;

    const INIT: [u8; 25] =
        [2, 0x80, 1, 0x90, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];
    const FORMAT: [u8; 20] = [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0];

    fn tape(folder: &Path, limit: u64) -> Tape {
        let file = File::create(folder.join("a.fbs")).unwrap();
        Tape::new("session", file, limit, INIT.to_vec())
    }

    /// The blocks of a file of so many bytes, once it is written.
    fn blocks(folder: &Path, size: usize) -> Vec<(u32, Vec<u8>)> {
        let start = Instant::now();
        let bytes = loop {
            let bytes = std::fs::read(folder.join("a.fbs")).unwrap();
            if bytes.len() == size {
                break bytes;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{} of {size}", bytes.len());
            std::thread::yield_now();
        };
        let mut rest = bytes.strip_prefix(MAGIC).unwrap();
        let mut found = Vec::new();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
        while !rest.is_empty() {
            let length = number(rest) as usize;
            let end = 4 + length.next_multiple_of(4);
            found.push((number(&rest[end..]), rest[4..4 + length].to_vec()));
            rest = &rest[end + 4..];
        }
        found
    }

    #[test]
    fn what_the_server_says_is_there_with_the_pixels_that_the_viewer_wants() {
        let folder = tempfile::tempdir().unwrap();
        let mut tape = tape(folder.path(), 1000);
        tape.up(&[&FORMAT[..], &[2, 0, 0, 1, 0, 0, 0, 0], &[4, 1, 0, 0, 0, 0, 0, 0x61]].concat());
        tape.down(b"first");
        tape.up(&[4, 0, 0, 0, 0, 0, 0, 0x61]);
        tape.down(b"next");
        let found = blocks(folder.path(), 12 + 24 + 36 + 16 + 12);
        let said: Vec<&[u8]> = found.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let init = [&INIT[..4], &FORMAT[4..], &INIT[20..]].concat();
        assert_eq!(said, [GREETING, &init, b"first", b"next"]);
        assert!(found.is_sorted_by_key(|(time, _)| *time) && found[3].0 < 10_000);
    }

    #[test]
    fn it_ends_at_its_limit_and_when_pixels_change() {
        let folder = tempfile::tempdir().unwrap();
        let mut short = tape(folder.path(), 12 + 24 + 36 + 16);
        for _ in 0..3 {
            short.down(b"picture");
        }
        assert!(short.over);
        assert_eq!(blocks(folder.path(), 12 + 24 + 36 + 16).len(), 3);

        let mut changed = tape(folder.path(), 1000);
        changed.up(&FORMAT);
        changed.down(b"picture");
        changed.up(&FORMAT);
        assert!(!changed.over);
        let mut other = FORMAT;
        other[4] = 16;
        changed.up(&other);
        assert!(changed.over);
    }

    #[test]
    fn a_viewer_that_says_something_unknown_is_recorded_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut tape = tape(folder.path(), 1000);
        tape.up(&[99]);
        tape.up(&FORMAT);
        tape.down(b"four");
        assert_eq!(blocks(folder.path(), 12 + 24 + 36 + 12)[1].1, INIT);
    }

    #[test]
    fn a_full_disk_ends_the_recording() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut tape = Tape::new("session", full, u64::MAX, INIT.to_vec());
        let start = Instant::now();
        while !tape.over {
            tape.down(b"picture");
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
    }
}
