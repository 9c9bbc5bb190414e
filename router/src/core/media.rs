//! `cks_iso.sh true|false`: the disk in the drive is put where serve shows it, or taken away.

use std::{io, path::Path, time::Duration};

use common::{paths::Paths, program, shim::wire::Reply};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::task::spawn_blocking;

use crate::metadata::media::NAME;

/// Names of the drive.
const DRIVES: [&str; 2] = ["/dev/cdrom", "/dev/sr0"];
/// File systems of such disks.
const KINDS: [&str; 2] = ["iso9660", "udf"];
/// Time to load drivers.
const DRIVERS: Duration = Duration::from_secs(20);

/// Answers the command.
pub(super) async fn run(paths: &Paths, arguments: &[&str]) -> Reply {
    let wanted = match arguments {
        ["true"] => true,
        ["false"] => false,
        _ => return Reply::fail(1, "cks_iso.sh: expects true or false"),
    };
    let paths = paths.clone();
    let done = spawn_blocking(move || set(&paths, wanted)).await;
    match done.unwrap_or_else(|broken| Err(io::Error::other(broken))) {
        Ok(()) => Reply::ok(""),
        Err(error) => Reply::fail(1, format_args!("cks_iso.sh: {error}")),
    }
}

fn set(paths: &Paths, wanted: bool) -> io::Result<()> {
    let place = paths.media().join(NAME);
    // The disk may be another one by now: the former one goes in any case.
    match unmount(&place, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    if !wanted {
        return Ok(());
    }
    std::fs::create_dir_all(&place)?;
    // The drive may have been plugged in just now. Drivers that are part of the kernel are no error.
    let _ = program::run("modprobe", ["-a", "sr_mod", "isofs", "udf"], b"", DRIVERS);
    let drive = DRIVES.map(|name| paths.at(name)).into_iter().find(|drive| drive.exists());
    let drive = drive.ok_or_else(|| io::Error::other("there is no drive"))?;
    let mut outcome = Ok(());
    for kind in KINDS {
        outcome = read_only(&drive, &place, kind);
        if outcome.is_ok() {
            break;
        }
    }
    outcome.map_err(|error| io::Error::other(format!("{}: {error}", drive.display())))
}

/// Whatever the disk says of rights, all of it can be read.
fn read_only(drive: &Path, place: &Path, kind: &str) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = match kind {
        "iso9660" => c"mode=0444,dmode=0555,overriderockperm",
        _ => c"mode=0444,dmode=0555",
    };
    Ok(mount(drive, place, kind, flags, options)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::below(folder.path());
        let run = async |word: &str| run(&paths, &[word]).await;
        assert_eq!(run("false").await.code, 0, "nothing was there");
        assert_eq!(run("true").await.stderr, "cks_iso.sh: there is no drive\n");
        assert_eq!(run("maybe").await.code, 1);
        std::fs::create_dir_all(paths.at("/dev")).unwrap();
        std::fs::write(paths.at("/dev/cdrom"), "no disk").unwrap();
        assert_eq!(run("true").await.code, 1);
    }
}
