//! `get_diagnostics_files.py` (router contract 2.10): files, dumps and answers of commands in one archive,
//! which the host fetches and has removed.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::{Duration, SystemTime},
};

use common::{paths::Paths, persist, shim::wire::Reply};
use tokio::{process::Command, time::timeout};

use super::{clock::Civil, commands::Commands, zip::Zip};
use crate::nft::run::{self, PROGRAMS};

/// Most bytes of one file: its end counts.
const FILE: u64 = 16 * 1024 * 1024;
/// Most bytes of all of them.
const ALL: usize = 128 * 1024 * 1024;
/// Most items.
const ITEMS: usize = 200;
/// Time for one dump.
const DUMP: Duration = Duration::from_secs(20);
/// Folders whose files may leave the machine.
const OPEN: [&str; 3] = ["/var/log/", "/etc/", "/var/cache/cloud/"];
/// Files below them that may not: they hold secrets.
const CLOSED: [&str; 4] = ["/etc/ssh/", "/etc/shadow", "/etc/cloudstack/", "/var/cache/cloud/cmdline"];
/// Commands that only tell something.
const ASKED: [&str; 6] = [
    "checkrouter.sh",
    "checkbatchs2svpn.sh",
    "getRouterAlerts.sh",
    "getRouterMonitorResults.sh",
    "netusage.sh",
    "diagnostics.py",
];

/// Collects the items and answers with the path of the archive, and nothing else.
pub(super) async fn run(paths: &Paths, commands: &Commands, arguments: &[&str]) -> Reply {
    let mut zip = Zip::default();
    let mut info = String::new();
    let mut names = BTreeSet::new();
    let mut size = 0;
    for item in items(&arguments.join(" ")).into_iter().take(ITEMS) {
        let (name, content) = collect(paths, commands, &item).await;
        let found = content.filter(|bytes| size + bytes.len() <= ALL);
        // Writing to a string cannot fail, here and below.
        let Some(bytes) = found else {
            let _ = writeln!(info, "{item} File Not Found!!");
            continue;
        };
        size += bytes.len();
        let name = unused(&name, &mut names);
        match zip.add(&name, &bytes) {
            Ok(()) => drop(writeln!(info, "{item}")),
            Err(error) => drop(writeln!(info, "{item}: {error}")),
        }
    }
    let path = format!("/root/diagnostics_files_{}.zip", stamp(SystemTime::now()));
    let written = zip.add("fileinfo.txt", info.as_bytes()).and_then(|()| zip.finish()).and_then(|bytes| {
        forget(paths)?;
        fs::create_dir_all(paths.at("/root"))?;
        persist::write(&paths.at(&path), &bytes, 0o600)
    });
    match written {
        Ok(()) => Reply::ok(path + "\n"),
        Err(error) => Reply::fail(1, format_args!("get_diagnostics_files.py: {error}")),
    }
}

/// Blanks part the items, but within brackets there is one command with its arguments.
fn items(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with('[') {
            rest.find(']').map_or(rest.len(), |n| n + 1)
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        items.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    items
}

/// The name in the archive and the content; `None` where there is none.
async fn collect(paths: &Paths, commands: &Commands, item: &str) -> (String, Option<Vec<u8>>) {
    if let Some(command) = item.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let answer = match words.split_first() {
            Some((name, rest)) if ASKED.contains(name) => {
                let reply = Box::pin(commands.one(name, rest)).await;
                Some((reply.stdout + &reply.stderr).into_bytes())
            }
            _ => None,
        };
        return (format!("{}.log", words.join(" ").replace('/', "_")), answer);
    }
    let dump: Option<&[&str]> = match item {
        "ipaddr" => Some(&["address"]),
        "iprule" => Some(&["rule", "list"]),
        "iproute" => Some(&["route", "show", "table", "all"]),
        _ => None,
    };
    if let Some(words) = dump {
        return (format!("{item}.log"), ip(words).await);
    }
    if item == "iptables" {
        return (format!("{item}.log"), run::listing().await.ok().map(String::into_bytes));
    }
    let name = item.rsplit('/').next().unwrap_or(item).to_owned();
    (name, end_of(paths, item).ok())
}

async fn ip(words: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new("ip");
    command.args(words).env("PATH", PROGRAMS).kill_on_drop(true);
    timeout(DUMP, command.output()).await.ok()?.ok().map(|output| output.stdout)
}

/// The end of a file that may leave the machine.
fn end_of(paths: &Paths, item: &str) -> io::Result<Vec<u8>> {
    // Where links lead counts, not what they are called.
    let file = fs::canonicalize(paths.at(item))?;
    let root = fs::canonicalize(paths.root())?;
    let inside = Path::new("/").join(file.strip_prefix(root).map_err(io::Error::other)?);
    let text = inside.to_string_lossy();
    let is_open = OPEN.iter().any(|folder| text.starts_with(folder));
    if !is_open || CLOSED.iter().any(|closed| text.starts_with(closed)) || !file.is_file() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut file = fs::File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(FILE)))?;
    let mut bytes = Vec::new();
    file.take(FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A name that no other file of the archive has.
fn unused(name: &str, names: &mut BTreeSet<String>) -> String {
    let mut free = name.to_owned();
    for n in 2.. {
        if names.insert(free.clone()) {
            break;
        }
        free = format!("{n}-{name}");
    }
    free
}

/// Takes archives away that a host never fetched.
fn forget(paths: &Paths) -> io::Result<()> {
    for entry in fs::read_dir(paths.at("/root")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("diagnostics_files_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A moment as `20251102-101500`.
fn stamp(now: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = now.into();
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_brackets_is_one_item() {
        let text = "iptables /etc/hosts [diagnostics.py ping 10.1.1.1] /var/log/x [open";
        let expected = ["iptables", "/etc/hosts", "[diagnostics.py ping 10.1.1.1]", "/var/log/x", "[open"];
        assert_eq!(items(text), expected);
        assert_eq!(items("  "), [""; 0]);
    }

    #[test]
    fn only_open_files_leave_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for file in ["/etc/hosts", "/etc/shadow", "/root/key", "/etc/cloudstack/x"] {
            fs::create_dir_all(paths.at(file).parent().unwrap()).unwrap();
            fs::write(paths.at(file), "x").unwrap();
        }
        std::os::unix::fs::symlink(paths.at("/root/key"), paths.at("/etc/link")).unwrap();
        assert_eq!(end_of(&paths, "/etc/hosts").unwrap(), b"x");
        for closed in
            ["/etc/shadow", "/root/key", "/etc/link", "/etc/../root/key", "/etc/cloudstack/x", "/etc"]
        {
            assert!(end_of(&paths, closed).is_err(), "{closed}");
        }
    }

    #[test]
    fn names_do_not_collide() {
        let mut names = BTreeSet::new();
        let all: Vec<String> = ["a", "a", "b", "a"].iter().map(|n| unused(n, &mut names)).collect();
        assert_eq!(all, ["a", "2-a", "b", "3-a"]);
    }
}
