//! The folder of recordings: a file a console, named by its time, VM and session; the oldest go when room is needed.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::Path,
    time::SystemTime,
};

use super::options::Recording;
use crate::wire::Open;

/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;
/// The end of each name.
const END: &str = ".fbs";
/// Longest part of a name that somebody else has chosen.
const PART: usize = 64;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its name in the folder.
    pub name: String,
    /// Bytes so far.
    pub size: u64,
}

/// Makes room, and a new file; its name in the folder. `open`: names of those that are still being written, which
/// count with all that they may become.
///
/// # Errors
/// Where there is no room beside those, or the disk says no.
pub fn begin(
    folder: &Path,
    recording: &Recording,
    console: &Open,
    open: &BTreeSet<String>,
    now: SystemTime,
) -> io::Result<(String, OwnedFd)> {
    fs::create_dir_all(folder)?;
    let session = recording.session_mib.saturating_mul(MIB);
    let total = recording.total_mib.saturating_mul(MIB);
    let all = list(folder)?;
    let is_open = |file: &&Recorded| open.contains(&file.name);
    let (written, ended): (Vec<_>, Vec<_>) = all.iter().partition(is_open);
    let held: u64 = written.iter().map(|file| file.size.max(session)).sum();
    let room = total.checked_sub(held + session).ok_or_else(|| {
        io::Error::other(format!("{} consoles that are recorded now may take all the room", written.len()))
    })?;
    let mut kept: u64 = ended.iter().map(|file| file.size).sum();
    for oldest in ended {
        if kept <= room {
            break;
        }
        fs::remove_file(folder.join(&oldest.name))?;
        tracing::info!(recording = oldest.name, "removed to make room");
        kept -= oldest.size;
    }
    let name = name(console, now);
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(folder.join(&name))?;
    Ok((name, OwnedFd::from(file)))
}

/// All recordings, the oldest first.
///
/// # Errors
/// Where the folder cannot be read.
pub fn list(folder: &Path) -> io::Result<Vec<Recorded>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().filter(|name| name.ends_with(END)) {
            found.push(Recorded { name: name.to_owned(), size: entry.metadata()?.len() });
        }
    }
    // The time is first in a name.
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Removes one.
///
/// # Errors
/// Where there is none of this name.
pub fn remove(folder: &Path, name: &str) -> io::Result<()> {
    if !list(folder)?.iter().any(|file| file.name == name) {
        return Err(io::ErrorKind::NotFound.into());
    }
    fs::remove_file(folder.join(name))
}

/// Milliseconds since 1970, VM and session.
fn name(console: &Open, now: SystemTime) -> String {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let plain = |text: &str| -> String {
        let safe = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' };
        text.chars().take(PART).map(safe).collect()
    };
    format!("{:013}.{}.{}{END}", since.as_millis(), plain(&console.vm), plain(&console.session))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, time::Duration};

    use super::*;

    fn console(vm: &str) -> Open {
        Open {
            key: 1,
            host: "10.1.1.20".into(),
            port: 5901,
            to: ("10.1.1.20".into(), 5901),
            ask: true,
            vm: vm.into(),
            password: "secret".into(),
            ticket: None,
            session: "../session".into(),
            client: [203, 0, 113, 7].into(),
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn names_lead_nowhere_else_and_stand_in_order() {
        let name = name(&console("a/b\0\u{e4}"), at(1));
        assert_eq!(name, "0000000001000.a_b__.___session.fbs");
    }

    #[test]
    fn the_oldest_go_and_those_that_are_written_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("recordings");
        let recording = Recording { vms: vec!["*".into()], session_mib: 2, total_mib: 6 };
        let mut open = BTreeSet::new();
        let begin =
            |second, open: &BTreeSet<String>| begin(&folder, &recording, &console("vm"), open, at(second));
        let fill = |file: OwnedFd, bytes: u64| {
            File::from(file).write_all(&vec![1; bytes as usize]).unwrap();
        };
        let mut names = Vec::new();
        for second in 0..5 {
            let (name, file) = begin(second, &open).unwrap();
            fill(file, 2 * MIB);
            names.push(name);
        }
        let there = |names: &[String]| {
            assert_eq!(list(&folder).unwrap().into_iter().map(|file| file.name).collect::<Vec<_>>(), names);
        };
        there(&names[2..]);
        // One that has only begun counts with all that it may become.
        for second in [5, 6] {
            let (name, _) = begin(second, &open).unwrap();
            open.insert(name);
        }
        assert_eq!(list(&folder).unwrap().len(), 3);
        let (third, _) = begin(7, &open).unwrap();
        open.insert(third);
        assert!(begin(8, &open).unwrap_err().to_string().contains("3 consoles"));
        there(&open.iter().cloned().collect::<Vec<_>>());
        for name in open {
            remove(&folder, &name).unwrap();
            assert!(remove(&folder, &name).is_err());
        }
        assert!(remove(&folder, "../recordings").is_err());
    }

    #[test]
    fn without_a_folder_there_are_none() {
        assert_eq!(list(Path::new("/nowhere/at/all")).unwrap(), []);
    }
}
