//! What the shim answers itself, in every role.

use std::{
    fs, io,
    net::IpAddr,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::inotify,
};

use super::{scp, upload, wire::Reply};
use crate::{
    journal,
    paths::Paths,
    persist,
    program::{self, ProgramError},
    roots::{self, Verdict},
};

/// Longest time that a host is kept waiting for the end of the boot (router contract 2.8).
const BOOT: Duration = Duration::from_secs(240);

/// `get_template_version.sh`: waits for the end of the boot, then the release and the checksum of the
/// archive that was uploaded last; 128 zeros before the first.
pub(super) fn version(paths: &Paths) -> Reply {
    wait_for_boot(paths, BOOT);
    let release = fs::read_to_string(paths.at("/etc/cloudstack-release")).unwrap_or_default();
    let release = release.lines().next().unwrap_or_default().replace('&', " ");
    Reply::ok(format!("{}&{}\n", release.trim(), signature(paths)))
}

/// The checksum of the archive that was uploaded last.
fn signature(paths: &Paths) -> String {
    let kept = fs::read_to_string(upload::signature(paths)).unwrap_or_default();
    let kept = kept.trim();
    if kept.len() == 128 && kept.bytes().all(|b| b.is_ascii_hexdigit()) {
        kept.to_owned()
    } else {
        "0".repeat(128)
    }
}

/// `patch-sysvms.sh`: has the next start try the bundle that was uploaded, where it was one of ours; the
/// host reads the checksum it just uploaded. The archive of the reference changes nothing.
pub(super) fn patch(paths: &Paths) -> Reply {
    match roots::verdict(paths) {
        Some(Verdict::Refused(why)) => {
            return Reply::fail(1, format_args!("the bundle was refused, nothing was changed: {why}"));
        }
        Some(Verdict::Ready(_)) => match roots::try_next(paths) {
            Ok(header) => {
                journal::note(paths, "shim", &format!("patch: the next start tries {}", header.version));
            }
            Err(error) => return Reply::fail(1, format_args!("nothing was changed: {error}")),
        },
        Some(Verdict::Stock | Verdict::Same(_)) | None => {}
    }
    Reply::ok(format!("version:{} ", signature(paths)))
}

/// `replace`: has the services run the programs of the bundle that was uploaded; the machine goes on.
pub(super) fn replace(paths: &Paths) -> Reply {
    match roots::take_over(paths) {
        Ok(header) => {
            let text = format!("replace: the programs of {} run, until the next start", header.version);
            journal::note(paths, "shim", &text);
            Reply::ok(text + "\n")
        }
        Err(error) => {
            journal::note(paths, "shim", &format!("replace: {error}"));
            Reply::fail(1, format_args!("replace: {error}"))
        }
    }
}

/// Waits until the boot has finished, by an event of its folder; returns whether it has.
fn wait_for_boot(paths: &Paths, limit: Duration) -> bool {
    let start = Instant::now();
    let watch = watch(&paths.cache());
    while !paths.boot_done().exists() {
        let Some(left) = limit.checked_sub(start.elapsed()) else { return false };
        match &watch {
            Ok(watch) => {
                // Woken by anything in the folder; once a second it looks without being woken.
                let pause =
                    Timespec { tv_sec: left.as_secs().min(1) as i64, tv_nsec: left.subsec_nanos().into() };
                let _ = rustix::event::poll(
                    &mut [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)],
                    Some(&pause),
                );
                drain(watch);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100).min(left)),
        }
    }
    true
}

fn watch(folder: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
    Ok(watch)
}

fn drain(watch: &std::os::fd::OwnedFd) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    while reader.next().is_ok() {}
}

/// `patched.sh`: the files of a pattern, one a line; fails where there is none.
pub(super) fn patched(paths: &Paths, pattern: &str) -> Reply {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("/root", pattern));
    let entries = fs::read_dir(paths.at(folder)).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|file| !file.starts_with('.') && fits(name.as_bytes(), file.as_bytes()))
        .map(|file| format!("{folder}/{file}\n"))
        .collect();
    found.sort();
    if found.is_empty() {
        return Reply::fail(2, format_args!("{pattern}: no such file"));
    }
    Reply::ok(found.concat())
}

/// Whether a name fits a pattern of `*` and `?`.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    // Where the last `*` was: what follows it in the pattern, and how far the name had come.
    let (mut rest, mut left, mut star) = (pattern, name, None);
    loop {
        match (rest, left) {
            ([b'*', after @ ..], _) => {
                rest = after;
                star = Some((after, left));
            }
            ([b'?', after @ ..], [_, more @ ..]) => (rest, left) = (after, more),
            ([a, after @ ..], [b, more @ ..]) if a == b => (rest, left) = (after, more),
            ([], []) => return true,
            _ => match star {
                Some((after, [_, more @ ..])) => {
                    star = Some((after, more));
                    (rest, left) = (after, more);
                }
                _ => return false,
            },
        }
    }
}

/// `ls /proc/sys/net/ipv4/conf`: one interface a line.
pub(super) fn interfaces(paths: &Paths) -> Reply {
    let entries = fs::read_dir(paths.at("/proc/sys/net/ipv4/conf")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Reply::ok(names.iter().map(|name| format!("{name}\n")).collect::<String>())
}

/// The MAC of an interface; nothing where there is no such interface, as the pipe of the host would say.
pub(super) fn mac(paths: &Paths, device: &str) -> Reply {
    Reply::ok(fs::read_to_string(paths.at("/sys/class/net").join(device).join("address")).unwrap_or_default())
}

/// `cp -f cmdline cmdline.backup`.
pub(super) fn keep_cmdline(paths: &Paths) -> Reply {
    let copied = fs::read(paths.cmdline())
        .and_then(|bytes| persist::write(&paths.cache().join("cmdline.backup"), &bytes, 0o600));
    match copied {
        Ok(()) => Reply::default(),
        Err(error) => Reply::fail(1, format_args!("cp: {error}")),
    }
}

/// `cat cmdline`.
pub(super) fn show_cmdline(paths: &Paths) -> Reply {
    match fs::read(paths.cmdline()) {
        Ok(bytes) => Reply::ok(String::from_utf8_lossy(&bytes)),
        Err(error) => Reply::fail(1, format_args!("cat: {error}")),
    }
}

/// `ping -c 1 -n -q`: as the tool says.
pub(super) fn ping(address: IpAddr) -> Reply {
    let address = address.to_string();
    match program::run("ping", ["-c", "1", "-n", "-q", "-W", "5", &address], b"", Duration::from_secs(10)) {
        Ok(text) => Reply::ok(text),
        Err(ProgramError::Failed { output, .. }) => {
            Reply { stdout: output + "\n", code: 1, ..Reply::default() }
        }
        Err(error) => Reply::fail(2, error),
    }
}

/// `poweroff -f`: every service ends, the state is written, the machine powers off.
pub(super) fn power_off() -> Reply {
    match program::run("shutdown", ["-P", "now"], b"", Duration::from_secs(10)) {
        Ok(_) => Reply::default(),
        Err(error) => Reply::fail(1, error),
    }
}

/// `cleanup.sh`: an archive of diagnostics may go; nothing else is touched, and the host is always told that
/// all is well.
pub(super) fn cleanup(paths: &Paths, path: &str) -> Reply {
    if scp::is_fetchable(path) {
        let _ = fs::remove_file(paths.at(path));
    }
    Reply::default()
}

/// `filesystem_writable_check.py`.
pub(super) fn writable(paths: &Paths) -> Reply {
    for folder in ["/root", "/var/cache/cloud"] {
        let probe = paths.at(folder).join(format!(".writable-{}", std::process::id()));
        if let Err(error) = fs::write(&probe, "x").and_then(|()| fs::remove_file(&probe)) {
            return Reply::fail(1, format_args!("Read-only file system: {folder}: {error}"));
        }
    }
    Reply::default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        for folder in ["/etc", "/root", "/var/cache/cloud", "/opt/cloud/bin", "/sys/class/net/eth0"] {
            fs::create_dir_all(paths.at(folder)).unwrap();
        }
        (folder, paths)
    }

    #[test]
    fn the_version_waits_for_the_boot() {
        let (_folder, paths) = paths();
        fs::write(
            paths.at("/etc/cloudstack-release"),
            "Cloudstack Release 4.22.0 Wed Oct 22 09:00:00 UTC 2025\n",
        )
        .unwrap();
        assert!(!wait_for_boot(&paths, Duration::from_millis(20)));
        let asking = {
            let paths = paths.clone();
            std::thread::spawn(move || version(&paths))
        };
        crate::boot::ready(&paths, "router").unwrap();
        let reply = asking.join().unwrap();
        assert_eq!(
            reply.stdout,
            format!("Cloudstack Release 4.22.0 Wed Oct 22 09:00:00 UTC 2025&{}\n", "0".repeat(128))
        );
        let mut archive = upload::Upload::start(&paths, "/var/cache/cloud/cloud-scripts.tgz", None).unwrap();
        archive.write(b"abc").unwrap();
        archive.finish().unwrap();
        assert!(version(&paths).stdout.contains("&ddaf35a193617aba"));
        let patched = patch(&paths).stdout;
        assert!(patched.starts_with("version:ddaf35a193617aba") && patched.ends_with(' '));
        assert_eq!(patched.matches(':').count(), 1);
    }

    #[test]
    fn patterns() {
        let (_folder, paths) = paths();
        fs::write(paths.at("/opt/cloud/bin/keystore-setup"), "").unwrap();
        assert_eq!(patched(&paths, "/opt/cloud/bin/keystore*").stdout, "/opt/cloud/bin/keystore-setup\n");
        assert_ne!(patched(&paths, "/opt/cloud/bin/none*").code, 0);
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("a*c?", "abbcd", true),
            ("a*c", "abcb", false),
            ("", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn small_answers() {
        let (_folder, paths) = paths();
        fs::write(paths.at("/sys/class/net/eth0/address"), "0e:00:a9:fe:01:02\n").unwrap();
        assert_eq!(mac(&paths, "eth0").stdout, "0e:00:a9:fe:01:02\n");
        assert_eq!(mac(&paths, "eth7"), Reply::default());
        assert_eq!(writable(&paths), Reply::default());
        fs::remove_dir(paths.at("/root")).unwrap();
        assert!(writable(&paths).stderr.starts_with("Read-only file system"));
        assert_ne!(keep_cmdline(&paths).code, 0);
        fs::write(paths.cmdline(), "type=router\n").unwrap();
        assert_eq!(keep_cmdline(&paths).code, 0);
        assert_eq!(show_cmdline(&paths).stdout, "type=router\n");
        assert!(paths.cache().join("cmdline.backup").exists());
        assert_eq!(cleanup(&paths, "/etc/passwd"), Reply::default());
        assert_eq!(ping("127.0.0.1".parse().unwrap()).code, 0);
    }

    proptest! {
        #[test]
        fn a_pattern_fits_itself(text in "[ab*?]{0,12}", name in "[ab]{0,12}") {
            prop_assert!(fits(text.as_bytes(), text.as_bytes()));
            let _ = fits(text.as_bytes(), name.as_bytes());
        }
    }
}
