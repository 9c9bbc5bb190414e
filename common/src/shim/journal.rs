//! What the shim did, in a small file of its own: its standard error belongs to the host.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
};

use tracing_subscriber::fmt::{format::Writer, time::FormatTime as _};

use crate::paths::Paths;

/// Size in bytes at which the file becomes the old one, in place of the old one before.
const LIMIT: u64 = 256 * 1024;

/// Writes a line with the time. A disk that is full or read-only keeps no command from being answered.
pub(super) fn note(paths: &Paths, text: &str) {
    let file = paths.at("/var/log/shim.log");
    if fs::metadata(&file).is_ok_and(|about| about.len() > LIMIT) {
        let _ = fs::rename(&file, paths.at("/var/log/shim.log.old"));
    }
    let mut line = String::new();
    let _ = tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut line));
    line.push(' ');
    line.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
    line.push('\n');
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file) {
        let _ = file.write_all(line.as_bytes());
    }
}
