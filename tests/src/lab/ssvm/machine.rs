//! A secondary storage VM of the built image on QEMU, with a management server and real stores around it: what only
//! the kernel of the image can show.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use common::command::{
    Secret,
    storage::{DataStoreTO, NfsTO, S3TO, SecStorageSetupCommand, StoreRole},
};

use super::{
    Desk, VM,
    desk::boot_line,
    s3::{ADDRESS as S3, Bucket, Kind, SECRET, bucket},
};
use crate::lab::{
    Namespace, Process,
    vm::{Agent, Config, Saved, Vm},
    wait_tcp, wait_until,
};

/// Longest wait for the machine, on a busy host without KVM.
pub const STEP: Duration = Duration::from_secs(180);
/// Address of the NFS server.
pub const NFS: &str = "10.1.1.7";
/// Address of the CIFS server.
pub const CIFS: &str = "10.1.1.8";
/// Who may use the share.
pub const USER: &str = "store";
/// With this password.
pub const PASSWORD: &str = "pass,word of%the&share";

/// The VM and what is around it. The thread of the test lives in the namespace of its host.
pub struct Machine {
    vm: Option<Vm>,
    desk: Desk,
    pub bucket: Option<Bucket>,
    // What runs in it ends with it, and only then its files go.
    pub host: Namespace,
    pub folder: tempfile::TempDir,
}

impl Deref for Machine {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

/// Runs a scene on a machine that has joined; with a bucket of a real S3 server where that is wanted.
pub fn in_machine<F: Future<Output = ()>>(with_bucket: bool, scene: impl FnOnce(Machine) -> F) {
    with_image(None, with_bucket, scene);
}

/// The same with another image than that in `image/out`.
pub fn with_image<F: Future<Output = ()>>(
    parts: Option<&Path>,
    with_bucket: bool,
    scene: impl FnOnce(Machine) -> F,
) {
    with(parts, None, with_bucket, scene);
}

/// The same with so much memory, in MiB.
pub fn in_small_machine<F: Future<Output = ()>>(memory: u32, scene: impl FnOnce(Machine) -> F) {
    with(None, Some(memory), false, scene);
}

fn with<F: Future<Output = ()>>(
    parts: Option<&Path>,
    memory: Option<u32>,
    with_bucket: bool,
    scene: impl FnOnce(Machine) -> F,
) {
    let host = Namespace::new("store");
    let networks = [
        ("control", &["169.254.0.1/16"][..]),
        ("mgmt", &["10.1.1.5/24", "10.1.1.1/24", "10.1.1.7/24", "10.1.1.8/24"]),
        ("public", &["203.0.113.1/24"]),
    ];
    for (bridge, addresses) in networks {
        host.bridge(bridge);
        addresses.iter().for_each(|address| host.address(bridge, address));
    }
    let bucket = with_bucket.then(|| {
        let bucket = bucket(Kind::Ceph, &host);
        host.ok("echo 1 > /proc/sys/net/ipv4/ip_forward");
        host.ok("nft 'add table ip out; add chain ip out post { type nat hook postrouting priority 100; };
            add rule ip out post oifname store masquerade'");
        bucket
    });
    host.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::open(folder.path(), VM).await;
        let vm = start(&host, parts, memory);
        vm.deliver(&boot_line(VM), STEP);
        desk.joined().await;
        scene(Machine { vm: Some(vm), desk, bucket, host, folder }).await;
    });
}

fn start(host: &Namespace, parts: Option<&Path>, memory: Option<u32>) -> Vm {
    let plug = |mut config: Config| {
        config.memory = memory.unwrap_or(config.memory);
        config.nics.clear();
        for (index, bridge) in ["control", "mgmt", "public"].into_iter().enumerate() {
            config = config.behind(host, bridge, &format!("02:00:4c:00:00:0{index}"));
        }
        config
    };
    let Some(parts) = parts else {
        return Saved::before_arguments(plug(Config::ours())).restore(plug);
    };
    Vm::start(plug(Config::of(parts.to_owned())))
}

impl Machine {
    /// The VM itself.
    pub fn vm(&self) -> &Vm {
        self.vm.as_ref().expect("a VM")
    }

    /// The guest agent of the VM.
    pub fn inside(&self) -> Agent {
        self.vm().agent(STEP)
    }

    /// Cuts the power and starts the VM again; waits until it has joined.
    pub async fn power_cycle(&mut self) {
        let next = self.desk.next();
        self.vm = self.vm.take().map(Vm::power_cycle);
        self.vm().deliver(&boot_line(VM), STEP);
        next.await;
    }

    /// Restarts the VM in order; waits until it has joined.
    pub async fn restart(&mut self) {
        let next = self.desk.next();
        // The management server goes on meanwhile.
        if let Some(mut vm) = self.vm.take() {
            let restarted = tokio::task::spawn_blocking(move || {
                vm.restart("TRIVIUM-READY role=ssvm", STEP);
                vm
            });
            self.vm = Some(restarted.await.expect("a restart"));
        }
        next.await;
    }

    /// Runs a program of the VM: what it printed, whatever its exit code.
    pub fn run(&self, program: &str, words: &[&str]) -> String {
        let ran = self.inside().run(program, words);
        ran.stdout + &ran.stderr
    }

    /// What a mount folder is mounted from and with what, as the kernel shows it; empty where there is none.
    pub fn mount(&self, name: &str) -> String {
        let table = self.inside().text("/proc/self/mounts");
        table.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned()
    }

    /// The folder that the NFS server exports.
    pub fn exported(&self) -> PathBuf {
        self.folder.path().join("nfs/export")
    }

    /// The folder that the CIFS server shares.
    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("cifs/share")
    }

    /// Starts the NFS server.
    pub fn nfs_server(&self) -> Process {
        let dir = self.folder.path().join("nfs");
        fs::create_dir_all(&dir).expect("folder");
        let log = dir.join("nfs.log");
        let _ = fs::remove_file(&log);
        let server = self.host.spawn(script("nfs"), &[dir.to_str().expect("path"), NFS]);
        wait_until("NFS server", STEP, || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("NFS SERVER INITIALIZED"))
        });
        server
    }

    /// Starts the CIFS server.
    pub fn cifs_server(&self) -> Process {
        let dir = self.folder.path().join("cifs");
        let server = self.host.spawn(script("cifs"), &[dir.to_str().expect("path"), CIFS, USER, PASSWORD]);
        wait_tcp(format!("{CIFS}:445").parse().expect("an address"), STEP);
        server
    }

    /// Takes a server's address away, so that nothing comes from it any more, as if its host had lost its power.
    pub fn cut(&self, address: &str) {
        self.host.ip(&["addr", "del", &format!("{address}/24"), "dev", "mgmt"]);
    }

    /// Gives it back.
    pub fn mend(&self, address: &str) {
        self.host.ip(&["addr", "add", &format!("{address}/24"), "dev", "mgmt"]);
    }

    /// The export as a command names it.
    pub fn nfs(&self) -> DataStoreTO {
        store(format!("nfs://{NFS}/export"))
    }

    /// The share as a command names it.
    pub fn cifs(&self) -> DataStoreTO {
        store(share_url(PASSWORD))
    }

    /// The bucket as a command names it.
    pub fn s3(&self) -> DataStoreTO {
        let bucket = self.bucket.as_ref().expect("a machine with a bucket");
        DataStoreTO::S3(Box::new(S3TO {
            id: 3,
            access_key: Some(Secret::new(bucket.kind.access())),
            secret_key: Some(Secret::new(SECRET)),
            end_point: Some(format!("{S3}:{}", bucket.kind.port())),
            bucket_name: Some(bucket.name.clone()),
            https_flag: Some(false),
            ..S3TO::default()
        }))
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stores").join(name)
}

/// The URL of the share with a password.
pub fn share_url(password: &str) -> String {
    let encoded: String = password.bytes().map(|b| format!("%{b:02x}")).collect();
    format!("cifs://{CIFS}/share?user={USER}&password={encoded}&domain=ZONE")
}

/// A store with a URL, as a command names it.
pub fn store(url: String) -> DataStoreTO {
    DataStoreTO::Nfs(NfsTO { url: Some(url), role: Some(StoreRole::Image), ..NfsTO::default() })
}

/// Set-up of a store with a URL.
pub fn set_up(url: &str) -> SecStorageSetupCommand {
    SecStorageSetupCommand {
        store: Some(store(url.to_owned())),
        sec_url: Some(url.to_owned()),
        ..SecStorageSetupCommand::default()
    }
}
