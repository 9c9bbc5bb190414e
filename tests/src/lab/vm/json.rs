//! Lines of JSON over a local socket, as QEMU and its guest agent speak.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

/// One connection.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<UnixStream>,
    /// What has arrived of a line that is not whole yet.
    partial: Vec<u8>,
}

impl Lines {
    /// Connects.
    pub(super) fn connect(path: &Path) -> std::io::Result<Self> {
        Ok(Self { reader: BufReader::new(UnixStream::connect(path)?), partial: Vec::new() })
    }

    /// Sends one message.
    pub(super) fn send(&mut self, message: &Value) {
        self.reader.get_mut().write_all(format!("{message}\n").as_bytes()).expect("QEMU's socket");
    }

    /// The next message; `None` when `limit` has passed or the other end is gone.
    pub(super) fn receive(&mut self, limit: Duration) -> Option<Value> {
        let end = Instant::now() + limit;
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            self.reader.get_ref().set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
            match self.reader.read_until(b'\n', &mut self.partial) {
                Ok(0) => return None,
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    // The agent marks a fresh start with a byte 0xff, which is no JSON.
                    let line: Vec<u8> = line.into_iter().filter(|byte| *byte != 0xff).collect();
                    if let Ok(message) = serde_json::from_slice(&line) {
                        return Some(message);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
}
