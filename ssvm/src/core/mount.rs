//! Mounting of NFS exports and CIFS shares: each at the folder whose name the other VMs of the zone compute as well.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{paths::Paths, program};
use tokio::{task::spawn_blocking, time::timeout};

use super::{cifs, export::Export};
use crate::layout::mount_name;

/// Longest time for a mount or unmount.
const LIMIT: Duration = Duration::from_secs(45);
/// Longest wait for others who mount the same export, and for the mount itself, together.
const WAIT: Duration = Duration::from_secs(55);
/// What an export must offer to other hosts.
const FOLDERS: [&str; 4] = ["template", "template/tmpl", "volumes", "snapshots"];

/// Why an export is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MountError {
    #[error("Unsupported storage device scheme {scheme} in uri {uri}")]
    Scheme { scheme: String, uri: String },
    #[error("{uri} names no host or no path")]
    Uri { uri: String },
    #[error(
        "Missing user and password from URI. They belong into its query: \
         cifs://example.com/share?user=name&password=secret"
    )]
    Login,
    #[error("The option {name} of the store is refused: {why}")]
    Option { name: String, why: String },
    #[error("Unable to resolve {0}")]
    Host(String),
    #[error("the server does not answer within {seconds} s")]
    Late { seconds: u64 },
    #[error("Unable to mount {device} at {at} due to {reason}")]
    Mount { device: String, at: String, reason: String },
}

/// How an export gets to its folder.
pub(crate) trait Mounter: Send + Sync {
    /// Mounts an export at the empty folder `at`; `replace`: in place of what is mounted there.
    fn mount(&self, export: &Export, at: &Path, replace: bool) -> Result<(), String>;
    /// Whether something is mounted at `at`.
    fn mounted(&self, at: &Path) -> bool;
}

/// The kernel's clients.
struct Kernel;

impl Mounter for Kernel {
    fn mount(&self, export: &Export, at: &Path, replace: bool) -> Result<(), String> {
        let device = export.device();
        if let Some(share) = &export.share {
            return cifs::mount(&device, export.address, share, at, replace);
        }
        if replace {
            // Also where its server is gone.
            rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).map_err(|e| e.to_string())?;
        }
        let (at, options) = (at.to_string_lossy(), options(export.version.as_deref()));
        program::run("mount.nfs", [&*device, &at, "-o", &options], b"", LIMIT)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    fn mounted(&self, at: &Path) -> bool {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        table.lines().any(|line| line.split(' ').nth(1).is_some_and(|p| Path::new(p) == at))
    }
}

/// Folders in the place of exports, for machines without an NFS client: the path of the export
/// below `exports`. Only where all paths of the VM are moved below a folder of their own.
struct Folders {
    exports: PathBuf,
}

impl Mounter for Folders {
    fn mount(&self, export: &Export, at: &Path, replace: bool) -> Result<(), String> {
        let folder = self.exports.join(export.path.trim_start_matches('/'));
        if !folder.is_dir() {
            return Err(format!("{} is no folder", folder.display()));
        }
        let cleared = if replace { fs::remove_file(at) } else { fs::remove_dir(at) };
        cleared.and_then(|()| symlink(&folder, at)).map_err(|e| e.to_string())
    }

    fn mounted(&self, at: &Path) -> bool {
        at.is_symlink()
    }
}

/// Where the folders that stand for exports lie, where that is allowed and asked for.
pub(crate) fn stand_ins(paths: &Paths) -> Option<PathBuf> {
    (paths.root() != Path::new("/")).then(|| std::env::var_os("TRIVIUM_EXPORTS").map(PathBuf::from)).flatten()
}

/// The mounted exports.
pub(crate) struct Mounts {
    parent: PathBuf,
    mounter: Arc<dyn Mounter>,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The folder below which exports are mounted.
pub(crate) fn parent(paths: &Paths) -> PathBuf {
    paths.at("/mnt/SecStorage")
}

/// Options of a mount: soft, so that a dead server ends in an error, and without caching of
/// attributes, since hypervisors write the same folders.
pub(crate) fn options(version: Option<&str>) -> String {
    let base = "soft,timeo=133,retrans=2,tcp,acdirmax=0,acdirmin=0";
    match version.filter(|v| v.bytes().all(|b| b.is_ascii_digit() || b == b'.')) {
        Some(version) if version.starts_with('3') => format!("{base},nolock,vers={version}"),
        Some(version) => format!("{base},vers={version}"),
        None => base.to_owned(),
    }
}

impl Mounts {
    /// For the exports of a VM with these paths.
    pub(crate) fn new(paths: &Paths) -> Self {
        let mounter: Arc<dyn Mounter> = match stand_ins(paths) {
            Some(exports) => Arc::new(Folders { exports }),
            None => Arc::new(Kernel),
        };
        Self { parent: parent(paths), mounter, locks: Mutex::default() }
    }

    /// The folder of an export, mounted if it was not; `afresh` takes a mount that is there away first.
    /// Waits only for others who mount the same export, and not for ever.
    pub(crate) async fn ensure(&self, export: &Export, afresh: bool) -> Result<PathBuf, MountError> {
        let name = mount_name(export.address, &export.path);
        let at = self.parent.join(&name);
        let device = export.device();
        let fail = |reason: String| MountError::Mount {
            device: device.clone(),
            at: at.display().to_string(),
            reason,
        };
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(name).or_default())
        };
        let mounted = async {
            let guard = lock.lock_owned().await;
            let (mounter, folder, export) = (Arc::clone(&self.mounter), at.clone(), export.clone());
            let call = spawn_blocking(move || {
                let result = mount(&*mounter, &export, &folder, afresh);
                drop(guard);
                result
            });
            call.await.unwrap_or_else(|join| Err(join.to_string()))
        };
        // What hangs goes on without anybody who waits for it, and keeps its place.
        match timeout(WAIT, mounted).await {
            Ok(Ok(())) => Ok(at),
            Ok(Err(reason)) => Err(fail(reason)),
            Err(_) => Err(fail(format!("the server does not answer within {} s", WAIT.as_secs()))),
        }
    }
}

fn mount(mounter: &dyn Mounter, export: &Export, at: &Path, afresh: bool) -> Result<(), String> {
    let there = mounter.mounted(at);
    if there && !afresh {
        return Ok(());
    }
    if !there {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
    }
    if let Err(reason) = mounter.mount(export, at, there) {
        // The folder tells others that the export is there. It stays where the mount before does.
        let _ = fs::remove_dir(at);
        return Err(reason);
    }
    tracing::info!(device = export.device(), at = %at.display(), "mounted");
    for folder in FOLDERS {
        if let Err(error) = prepare(&at.join(folder)) {
            tracing::warn!(folder, %error, "the export lacks a folder");
        }
    }
    Ok(())
}

/// Makes a folder that every host may write into; a file in its way is replaced.
fn prepare(folder: &Path) -> io::Result<()> {
    match fs::symlink_metadata(folder) {
        Ok(meta) if meta.is_dir() => return open_up(folder),
        Ok(_) => fs::remove_file(folder)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    fs::create_dir(folder)?;
    open_up(folder)
}

fn open_up(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if fs::metadata(folder)?.permissions().mode() & 0o777 != 0o777 {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_mount() {
        assert_eq!(options(None), "soft,timeo=133,retrans=2,tcp,acdirmax=0,acdirmin=0");
        assert!(options(Some("4.1")).ends_with(",vers=4.1"));
        assert!(options(Some("3")).ends_with(",nolock,vers=3"));
        assert_eq!(options(Some("4,exec")), options(None));
    }
}
