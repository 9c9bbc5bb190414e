//! How the start went: each part of a system VM notes when it has come how far, and an operator reads it all by
//! `timeline`. Gone with a reboot, as what it tells of is.

use std::{fs, io::Write as _};

use crate::paths::Paths;

/// Longest timeline in bytes: a service that starts over and over does not fill the memory.
const LIMIT: u64 = 32 * 1024;

/// Notes that something has been done, with the seconds since the machine started. A note that cannot be
/// written is no error.
pub fn note(paths: &Paths, what: &str) {
    let file = paths.timeline();
    if fs::metadata(&file).is_ok_and(|known| known.len() > LIMIT) {
        return;
    }
    let written = fs::create_dir_all(paths.run()).and_then(|()| {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&file)?;
        // One write: lines of several processes do not mix.
        file.write_all(format!("{:>9.2} s  {what}\n", uptime()).as_bytes())
    });
    if let Err(error) = written {
        tracing::debug!(%error, what, "cannot be noted in the timeline");
    }
}

/// All that was noted, the first line first.
pub fn read(paths: &Paths) -> String {
    fs::read_to_string(paths.timeline()).unwrap_or_default()
}

/// Seconds since the machine started.
pub fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_in_their_order_and_do_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        assert_eq!(read(&paths), "");
        note(&paths, "boot: arguments");
        note(&paths, "core: ready");
        let text = read(&paths);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" s  boot: arguments") && lines[1].ends_with(" s  core: ready"), "{text}");
        for _ in 0..10_000 {
            note(&paths, "core: once more");
        }
        assert!(read(&paths).len() < 33 * 1024);
    }
}
