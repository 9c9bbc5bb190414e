//! One secondary storage VM in a network namespace of its own, with a management server beside it.

pub mod broken;
mod desk;
pub mod fate;
pub mod machine;
pub mod origin;
pub mod s3;
#[path = "../../../ssvm/src/format/vhd/builder.rs"]
pub mod vhd;

use std::{
    fs,
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use common::{
    command::{
        Secret,
        storage::{
            DataStoreTO, DownloadCommand, ImageFormat, NfsTO, S3TO, SecStorageSetupAnswer,
            SecStorageSetupCommand, StoreRole,
        },
    },
    paths::Paths,
    shim::wire::{self, Request},
};

use self::{
    desk::{SERVER, boot_line},
    s3::{ADDRESS as S3, Bucket, Kind, SECRET},
};
use super::{Namespace, Process, binary, join};
pub use desk::Desk;

/// Address of the web server, on the VM's public network.
pub const WEB: &str = "203.0.113.1";
/// Public address of the VM.
pub const VM: &str = "203.0.113.51";
/// The one of a VM of another zone.
pub const FAR: &str = "203.0.113.52";
/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The VM and what is around it.
pub struct Lab {
    pub core: Process,
    pub serve: Process,
    desk: Desk,
    /// The bucket of a lab with an S3 server.
    pub bucket: Option<Bucket>,
    // What runs in it ends with it, and only then its files go.
    pub namespace: Arc<Namespace>,
    pub folder: tempfile::TempDir,
}

impl Deref for Lab {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

/// Runs a scene on a lab; the thread of the test lives in the namespace of the VM.
pub fn in_lab<F: Future<Output = ()>>(scene: impl FnOnce(Lab) -> F) {
    enter(None, scene);
}

/// The same with an S3 server beside it, Ceph's.
pub fn in_lab_with_s3<F: Future<Output = ()>>(scene: impl FnOnce(Lab) -> F) {
    enter(Some(Kind::Ceph), scene);
}

/// The same with a server of another kind.
pub fn in_lab_with<F: Future<Output = ()>>(kind: Kind, scene: impl FnOnce(Lab) -> F) {
    enter(Some(kind), scene);
}

/// Two VMs of two zones with one public network; the thread of the test lives in the namespace of the first. Programs
/// in both know `names`, lines of `/etc/hosts`.
pub fn in_two_labs<F: Future<Output = ()>>(names: &str, scene: impl FnOnce(Lab, Lab) -> F) {
    let (near, far) = (Namespace::new("ssvm"), Namespace::new("far"));
    join(&near, "eth2", &far, "eth2");
    for (namespace, public) in [(&near, VM), (&far, FAR)] {
        namespace.hosts(names);
        wire_up(namespace, public);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        far.enter();
        let far = Lab::start(Arc::new(far), None, FAR).await;
        near.enter();
        scene(Lab::start(Arc::new(near), None, VM).await, far).await;
    });
}

/// Gives a VM its NICs, and what is around it its addresses.
fn wire_up(namespace: &Namespace, public: &str) {
    let joined = namespace.sh("ip link show dev eth2").status.success();
    for (device, address) in [("eth0", "169.254.1.2/16"), ("eth1", "10.1.1.21/24"), ("eth2", public)] {
        let peer = format!("peer-{device}");
        if device != "eth2" || !joined {
            namespace.ip(&["link", "add", device, "type", "veth", "peer", "name", &peer]);
            namespace.ip(&["link", "set", &peer, "up"]);
        }
        let mask = if device == "eth2" { "/24" } else { "" };
        namespace.address(device, &format!("{address}{mask}"));
    }
    // Of a network on `lo` every address is here.
    let web = format!("{WEB}/{}", if joined { 32 } else { 24 });
    for address in [format!("{SERVER}/24"), web, "10.1.1.7/24".into()] {
        namespace.ip(&["addr", "add", &address, "dev", "lo"]);
    }
}

fn enter<F: Future<Output = ()>>(kind: Option<Kind>, scene: impl FnOnce(Lab) -> F) {
    let namespace = Namespace::new("ssvm");
    wire_up(&namespace, VM);
    let bucket = kind.map(|kind| s3::bucket(kind, &namespace));
    namespace.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { scene(Lab::start(Arc::new(namespace), bucket, VM).await).await });
}

fn start(namespace: &Namespace, root: &Path, part: &str) -> Process {
    let mut command: Command = namespace.command(binary("ssvm"));
    command.arg(part).env("TRIVIUM_ROOT", root).env("TRIVIUM_EXPORTS", root.join("exports"));
    Process::start(command)
}

impl Lab {
    async fn start(namespace: Arc<Namespace>, bucket: Option<Bucket>, public: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        for export in ["a", "b"] {
            let folder = root.join("exports").join(export);
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "serve:x:65534:65534:serve:/:/none\n").unwrap();
        let cache = root.join("var/cache/cloud");
        fs::create_dir_all(&cache).unwrap();
        fs::write(cache.join("cmdline"), boot_line(public)).unwrap();
        let desk = Desk::open(root, public).await;
        let core = start(&namespace, root, "core");
        let serve = start(&namespace, root, "serve");
        desk.joined().await;
        Self { folder, core, serve, desk, bucket, namespace }
    }

    /// Kills the core and starts it again; waits until it is back.
    pub async fn restart_core(&mut self) {
        let before = self.agent();
        self.core.kill();
        self.core = start(&self.namespace, self.folder.path(), "core");
        before.closed().await;
        self.joined().await;
    }

    /// Restarts the core with more words in its boot arguments.
    pub async fn restart_with(&mut self, words: &str) {
        let file = self.folder.path().join("var/cache/cloud/cmdline");
        let line = fs::read_to_string(&file).unwrap();
        fs::write(file, format!("{} {words}\n", line.trim())).unwrap();
        self.restart_core().await;
    }

    /// Kills the serve process and starts it again.
    pub fn restart_serve(&mut self) {
        self.serve.kill();
        self.serve = start(&self.namespace, self.folder.path(), "serve");
    }

    /// An export as a command names it.
    pub fn nfs(&self, export: &str, role: StoreRole) -> DataStoreTO {
        DataStoreTO::Nfs(NfsTO {
            url: Some(format!("nfs://10.1.1.7/{export}")),
            role: Some(role),
            ..NfsTO::default()
        })
    }

    /// A bucket as a command names it.
    pub fn s3(&self) -> DataStoreTO {
        DataStoreTO::S3(Box::new(S3TO {
            id: 3,
            access_key: Some(Secret::new(self.bucket().kind.access())),
            secret_key: Some(Secret::new(SECRET)),
            end_point: Some(format!("{S3}:{}", self.bucket().kind.port())),
            bucket_name: Some(self.bucket().name.clone()),
            https_flag: Some(false),
            ..S3TO::default()
        }))
    }

    /// Set-up of an export.
    pub fn set_up(&self, export: &str) -> SecStorageSetupCommand {
        SecStorageSetupCommand {
            store: Some(self.nfs(export, StoreRole::Image)),
            sec_url: Some(format!("nfs://10.1.1.7/{export}")),
            post_upload_key: Some(Secret::new("psk-of-the-suite")),
            ..SecStorageSetupCommand::default()
        }
    }

    /// A file below an export.
    pub fn file(&self, export: &str, path: &str) -> PathBuf {
        self.folder.path().join("exports").join(export).join(path)
    }

    fn bucket(&self) -> &Bucket {
        self.bucket.as_ref().expect("a lab with an S3 server")
    }

    /// An object of the bucket.
    pub fn s3_object(&self, key: &str) -> Vec<u8> {
        self.bucket().run(&self.namespace, &["get", "--quiet", &format!("BUCKET/{key}"), "-"])
    }

    /// Puts an object into the bucket.
    pub fn s3_put(&self, key: &str) {
        let file = self.folder.path().join("etc/passwd");
        self.bucket().run(&self.namespace, &["put", file.to_str().unwrap(), &format!("BUCKET/{key}")]);
    }

    /// The keys of the bucket, sorted.
    pub fn s3_keys(&self) -> Vec<String> {
        let text = String::from_utf8(self.bucket().run(&self.namespace, &["ls", "-r", "BUCKET"])).unwrap();
        let prefix = format!("s3://{}/", self.bucket().name);
        text.lines().map(|line| line.split_once(&prefix).unwrap().1.to_owned()).collect()
    }

    /// Uploads to the bucket that were begun and not ended.
    pub fn s3_uploads(&self) -> Vec<String> {
        let text = String::from_utf8(self.bucket().run(&self.namespace, &["multipart", "BUCKET"])).unwrap();
        text.lines().filter(|line| line.starts_with("20")).map(str::to_owned).collect()
    }

    /// Sets the export `a` up.
    pub async fn ready(&self) {
        let _: SecStorageSetupAnswer = self.answer(&self.set_up("a")).await;
    }

    /// Names in a folder of the export `a`, sorted; none where there is no folder.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.file("a", folder))
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A command line as the shim gives it to the core: exit code and output.
    pub fn shim(&self, words: &[&str]) -> (u8, String) {
        let (paths, request) = (Paths::below(self.folder.path()), Request::new(words.iter().copied()));
        let reply = wire::call(&paths, &request, LIMIT).unwrap();
        (reply.code, reply.stdout + &reply.stderr)
    }

    /// What `status` prints.
    pub fn status(&self) -> String {
        self.shim(&["status"]).1
    }
}

/// A template to be downloaded.
pub fn template(store: DataStoreTO, id: i64, url: &str, format: ImageFormat) -> DownloadCommand {
    let unique = format!("{id}-2-0b1c2d3e");
    let bucket = matches!(store, DataStoreTO::S3(_));
    DownloadCommand {
        hvm: true,
        description: Some("Debian 12\nfilename=../../evil".into()),
        max_download_size_in_bytes: Some(1 << 30),
        id,
        install_path: Some(if bucket {
            format!("template/tmpl/2/{id}/{unique}")
        } else {
            format!("template/tmpl/2/{id}/")
        }),
        store: Some(store),
        url: Some(url.to_owned()),
        format: Some(format),
        account_id: 2,
        name: Some(unique),
        ..DownloadCommand::default()
    }
}

/// A file's bytes, for a web server.
pub fn read(path: &Path) -> Arc<Vec<u8>> {
    Arc::new(fs::read(path).unwrap())
}

/// Runs a tool of the machine; what it printed.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A real disk image with some content.
pub fn disk(folder: &Path, format: &str, megabytes: usize) -> PathBuf {
    let raw = folder.join("content.raw");
    let mut x = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    })
    .take(megabytes << 20)
    .collect();
    fs::write(&raw, bytes).unwrap();
    let image = folder.join(format!("disk.{format}"));
    let (raw, path) = (raw.to_str().unwrap(), image.to_str().unwrap());
    tool("qemu-img", &["convert", "-f", "raw", "-O", format, raw, path]);
    image
}
