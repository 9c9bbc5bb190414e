//! Mounting of NFS exports: each at the folder whose name the other VMs of the zone compute as well.

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{paths::Paths, program};
use tokio::{task::spawn_blocking, time::timeout};

use super::state::Export;
use crate::layout::mount_name;

/// Longest time for a mount or unmount.
const LIMIT: Duration = Duration::from_secs(45);
/// Longest wait for others who mount the same export, and for the mount itself.
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
    #[error("Unable to resolve {0}")]
    Host(String),
    #[error("the server does not answer within {seconds} s")]
    Late { seconds: u64 },
    #[error("Unable to mount {device} at {at} due to {reason}")]
    Mount { device: String, at: String, reason: String },
}

/// How an export gets to its folder.
pub(crate) trait Mounter: Send + Sync {
    /// Mounts `device` with `options` at the empty folder `at`.
    fn mount(&self, device: &str, options: &str, at: &Path) -> Result<(), String>;
    /// Takes whatever is mounted at `at` away, even where its server is gone.
    fn unmount(&self, at: &Path) -> Result<(), String>;
    /// Whether something is mounted at `at`.
    fn mounted(&self, at: &Path) -> bool;
}

/// The kernel's NFS client.
struct Nfs;

impl Mounter for Nfs {
    fn mount(&self, device: &str, options: &str, at: &Path) -> Result<(), String> {
        let at = at.to_string_lossy();
        program::run("mount.nfs", [device, &at, "-o", options], b"", LIMIT)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    fn unmount(&self, at: &Path) -> Result<(), String> {
        rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).map_err(|e| e.to_string())
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
    fn mount(&self, device: &str, _options: &str, at: &Path) -> Result<(), String> {
        let path = device.split_once(":/").map_or("", |(_, path)| path);
        let folder = self.exports.join(path);
        if !folder.is_dir() {
            return Err(format!("{} is no folder", folder.display()));
        }
        let linked = fs::remove_dir(at).and_then(|()| symlink(&folder, at));
        linked.map_err(|e| e.to_string())
    }

    fn unmount(&self, at: &Path) -> Result<(), String> {
        fs::remove_file(at).and_then(|()| fs::create_dir(at)).map_err(|e| e.to_string())
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

/// Reads `nfs://<host>/<path>` and looks the host up.
pub(crate) async fn export(url: &str, version: Option<&str>) -> Result<Export, MountError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if !scheme.eq_ignore_ascii_case("nfs") {
        let uri = url.split('?').next().unwrap_or_default().to_owned();
        return Err(MountError::Scheme { scheme: scheme.to_owned(), uri });
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.ends_with(':') => host,
        _ => authority,
    };
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() || path.is_empty() || path.chars().any(|c| c.is_control() || c == ',') {
        return Err(MountError::Uri { uri: url.to_owned() });
    }
    let address = match host.parse() {
        Ok(address) => address,
        Err(_) => resolve(host).await.ok_or_else(|| MountError::Host(host.to_owned()))?,
    };
    let version = version.filter(|v| !v.is_empty() && *v != "null").map(str::to_owned);
    Ok(Export { url: url.to_owned(), address, path: format!("/{path}"), version })
}

async fn resolve(host: &str) -> Option<IpAddr> {
    let found: Vec<IpAddr> = timeout(Duration::from_secs(15), tokio::net::lookup_host((host, 0)))
        .await
        .ok()?
        .ok()?
        .map(|a| a.ip())
        .collect();
    found.iter().find(|a| a.is_ipv4()).or(found.first()).copied()
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
            None => Arc::new(Nfs),
        };
        Self { parent: parent(paths), mounter, locks: Mutex::default() }
    }

    /// The folder of an export, mounted if it was not; `afresh` takes a mount that is there away first.
    /// Waits only for others who mount the same export, and not for ever.
    pub(crate) async fn ensure(&self, export: &Export, afresh: bool) -> Result<PathBuf, MountError> {
        let name = mount_name(export.address, &export.path);
        let at = self.parent.join(&name);
        let host = match export.address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let device = format!("{host}:{}", export.path);
        let fail = |reason: String| MountError::Mount {
            device: device.clone(),
            at: at.display().to_string(),
            reason,
        };
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(name).or_default())
        };
        let late = |_| fail(format!("the server does not answer within {} s", WAIT.as_secs()));
        let guard = timeout(WAIT, lock.lock_owned()).await.map_err(late)?;
        let (mounter, folder, options) =
            (Arc::clone(&self.mounter), at.clone(), options(export.version.as_deref()));
        let wanted = device.clone();
        let call = spawn_blocking(move || {
            let result = mount(&*mounter, &wanted, &options, &folder, afresh);
            drop(guard);
            result
        });
        match timeout(WAIT, call).await.map_err(late)? {
            Ok(Ok(())) => Ok(at),
            Ok(Err(reason)) => Err(fail(reason)),
            Err(join) => Err(fail(join.to_string())),
        }
    }
}

fn mount(mounter: &dyn Mounter, device: &str, options: &str, at: &Path, afresh: bool) -> Result<(), String> {
    if mounter.mounted(at) {
        if !afresh {
            return Ok(());
        }
        mounter.unmount(at)?;
    }
    fs::create_dir_all(at).map_err(|e| e.to_string())?;
    if let Err(reason) = mounter.mount(device, options, at) {
        // The folder tells others that the export is there.
        let _ = fs::remove_dir(at);
        return Err(reason);
    }
    tracing::info!(device, at = %at.display(), "mounted");
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

    #[tokio::test]
    async fn urls_of_exports() {
        let good = export("nfs://10.1.1.5/export/sec", Some("null")).await.unwrap();
        assert_eq!((good.path.as_str(), good.version), ("/export/sec", None));
        assert_eq!(export("nfs://10.1.1.5:2049/e", Some("4.1")).await.unwrap().version.unwrap(), "4.1");
        assert_eq!(export("nfs://[fd00::1]/e", None).await.unwrap().address.to_string(), "fd00::1");
        let error = export("cifs://h/s?user=u&password=hunter2", None).await.unwrap_err().to_string();
        assert_eq!(error, "Unsupported storage device scheme cifs in uri cifs://h/s");
        for bad in ["nfs://", "nfs:///x", "nfs://h", "nfs://10.0.0.1/a,vers=3"] {
            assert!(export(bad, None).await.is_err(), "{bad}");
        }
    }

    #[test]
    fn options_of_a_mount() {
        assert_eq!(options(None), "soft,timeo=133,retrans=2,tcp,acdirmax=0,acdirmin=0");
        assert!(options(Some("4.1")).ends_with(",vers=4.1"));
        assert!(options(Some("3")).ends_with(",nolock,vers=3"));
        assert_eq!(options(Some("4,exec")), options(None));
    }
}
