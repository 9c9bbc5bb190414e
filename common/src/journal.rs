//! Small logs in files of their own, for those who have no service that keeps theirs: the shim, whose standard
//! error belongs to the host, and what a role only hears of.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
};

use tracing_subscriber::fmt::{format::Writer, time::FormatTime as _};

use crate::paths::Paths;

/// Size in bytes at which the file becomes the old one, in place of the old one before.
const LIMIT: u64 = 256 * 1024;

/// Writes a line with the time into `/var/log/NAME.log`. A disk that is full or read-only keeps no command from being answered.
pub fn note(paths: &Paths, name: &str, text: &str) {
    let file = paths.at(&format!("/var/log/{name}.log"));
    if fs::metadata(&file).is_ok_and(|about| about.len() > LIMIT) {
        let _ = fs::rename(&file, paths.at(&format!("/var/log/{name}.log.old")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_one_line_a_note_and_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        note(&paths, "haproxy", "nowhere to write to is no harm");
        fs::create_dir_all(paths.at("/var/log")).unwrap();
        note(&paths, "haproxy", "one\ntwo");
        let text = fs::read_to_string(paths.at("/var/log/haproxy.log")).unwrap();
        assert!(text.ends_with(" one?two\n") && text.lines().count() == 1, "{text}");
        for _ in 0..4 {
            note(&paths, "haproxy", &"x".repeat(200_000));
        }
        let size = |name: &str| fs::metadata(paths.at(name)).unwrap().len();
        assert!(size("/var/log/haproxy.log") + size("/var/log/haproxy.log.old") < 2 * LIMIT + 400_000);
    }
}
