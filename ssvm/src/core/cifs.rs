//! Mounting of CIFS shares, by the kernel's own calls: user and password are on no command line and in no file.

use std::{net::IpAddr, path::Path};

use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    },
};

use super::export::Share;

/// Options that hold where a URL does not say otherwise. Who comes from this VM may do all that the share's user may, and
/// only the server judges that; one that does not answer is given up three of these intervals later, in seconds.
const DEFAULTS: [(&str, &str); 4] =
    [("noperm", ""), ("file_mode", "0666"), ("dir_mode", "0777"), ("echo_interval", "10")];

/// Mounts `device` (`//address/share`) at the empty folder `at`; `replace` takes away what is mounted there, but only
/// once the share is there.
///
/// # Errors
/// Why it is not mounted; without anything secret.
pub(super) fn mount(
    device: &str,
    address: IpAddr,
    share: &Share,
    at: &Path,
    replace: bool,
) -> Result<(), String> {
    let fs =
        fsopen("cifs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| format!("this kernel has no CIFS: {e}"))?;
    set(&fs, "source", device)?;
    set(&fs, "ip", &address.to_string())?;
    set(&fs, "user", &share.user)?;
    set(&fs, "pass", share.password.expose())?;
    for (name, value) in DEFAULTS.into_iter().filter(|(name, _)| !share.options.contains_key(*name)) {
        set(&fs, name, value)?;
    }
    for (name, value) in &share.options {
        set(&fs, name, value)?;
    }
    // Without caching of attributes, since hypervisors write the same folders.
    set(&fs, "soft", "")?;
    set(&fs, "actimeo", "0")?;
    fsconfig_create(fs.as_fd()).map_err(|e| reason(e).to_owned())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mounted =
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| e.to_string())?;
    if replace {
        unmount(at, UnmountFlags::DETACH).map_err(|e| e.to_string())?;
    }
    move_mount(mounted.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| e.to_string())
}

/// Sets an option, or one that is a word of its own where there is no value.
fn set(fs: &OwnedFd, name: &str, value: &str) -> Result<(), String> {
    let done = match value {
        "" => fsconfig_set_flag(fs.as_fd(), name),
        value => fsconfig_set_string(fs.as_fd(), name, value),
    };
    done.map_err(|error| format!("the option {name} is not taken: {error}"))
}

/// What a failed mount means.
fn reason(errno: Errno) -> String {
    let text = match errno {
        Errno::ACCESS | Errno::PERM | Errno::KEYREJECTED => "the server refuses the user or the password",
        Errno::KEYEXPIRED => "the password has expired",
        Errno::NOENT | Errno::NXIO | Errno::NODEV => "the server has no such share",
        Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::CONNREFUSED
        | Errno::TIMEDOUT
        | Errno::AGAIN
        | Errno::INPROGRESS
        | Errno::CONNABORTED
        | Errno::CONNRESET => "the server does not answer",
        Errno::OPNOTSUPP => "the server speaks no version that is asked for",
        _ => "the server or the kernel refuses the mount",
    };
    format!("{text}: {errno}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_clear() {
        assert!(reason(Errno::ACCESS).starts_with("the server refuses the user or the password: "));
        assert!(reason(Errno::HOSTDOWN).starts_with("the server does not answer: "));
    }
}
