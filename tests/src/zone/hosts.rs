//! Several hosts and a manager, each in a network namespace, whose cables can be taken out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::lab::{Namespace, Process, binary, join, wait_until};

/// What a host waits.
pub const FENCE: Duration = Duration::from_secs(5);
/// What the manager waits longer.
pub const MARGIN: Duration = Duration::from_secs(12);
/// What is no matter of waiting.
pub const SOON: Duration = Duration::from_secs(30);
const ROUTER: &str = "r-1-VM";

/// Networks that reach all hosts, and their bridges on each.
const WIRES: [(&str, &str); 3] = [("eth0", "br-mgmt"), ("eth1", "br-guest"), ("eth2", "br-public")];

const ZONE: &str = r#"
[zone]
name = "three"
dns = ["192.0.2.53"]
ping_interval = 60
fence_after = 5
[system]
image = "IMAGE"
memory = MEMORY
ssvm = false
cpvm = false
[management]
address = "192.168.100.1"
bridge = "br-mgmt"
cidr = "192.168.100.0/24"
gateway = "192.168.100.1"
range = "192.168.100.20-192.168.100.99"
[control]
bridge = "cloud0"
[public]
bridge = "br-public"
cidr = "203.0.113.0/24"
gateway = "203.0.113.1"
range = "203.0.113.10-203.0.113.99"
[[network]]
name = "net1"
bridge = "br-guest"
cidr = "10.1.1.0/24"
gateway = "10.1.1.1"
domain = "cs1.example"
egress_default = "allow"
"#;

/// What the router's VM boots.
#[derive(Debug, Clone, Copy)]
pub enum Image<'a> {
    /// An empty disk: its QEMU runs, and that is all.
    Empty,
    /// This one.
    File(&'a Path),
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub net: Namespace,
    /// `manage host`.
    pub agent: Process,
}

/// A manager and its hosts.
#[derive(Debug)]
pub struct Zone {
    /// Where all cables meet: a bridge for each network, called as on the hosts.
    wires: Namespace,
    manager: Namespace,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// `manage serve`.
    pub serve: Process,
    disk: Option<SmallDisk>,
    dir: tempfile::TempDir,
}

/// A file system in memory, unmounted at the end.
#[derive(Debug)]
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Zone {
    /// A manager and hosts, each in a namespace of its own, one of them with the router's VM. `fence` is what a host's
    /// section says of the command that cuts its power; `DIR` and `NAME` in it are those of the lab and the host.
    ///
    /// # Panics
    /// When it does not come to be.
    pub fn new(count: usize, image: Image<'_>, fence: &str) -> Self {
        Self::with_disk(count, image, fence, None)
    }

    /// The same with a manager whose state folder is a disk of so many MiB.
    ///
    /// # Panics
    /// When it does not come to be.
    pub fn with_disk(count: usize, image: Image<'_>, fence: &str, mib: Option<u32>) -> Self {
        let dir = tempfile::Builder::new().prefix("tf").tempdir_in("/var/tmp").expect("a folder");
        let small = mib.map(|mib| {
            let state = dir.path().join("m");
            fs::create_dir(&state).expect("the state folder");
            let size = format!("size={mib}m");
            let mounted =
                Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&state).status();
            assert!(mounted.expect("mount").success());
            SmallDisk(state)
        });
        let disk = dir.path().join("empty.qcow2");
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("64M").status();
        assert!(made.expect("qemu-img").success());
        let (image, memory) = match image {
            Image::Empty => (disk.as_path(), "128"),
            Image::File(path) => (path, "384"),
        };
        let address = |n: usize| format!("192.168.100.{}", n + 2);
        let names: Vec<String> = (1..=count).map(|n| format!("h{n}")).collect();
        let mut zone = ZONE.replace("IMAGE", &image.to_string_lossy()).replace("MEMORY", memory);
        for (n, name) in names.iter().enumerate() {
            zone += &format!("[[host]]\nname = \"{name}\"\naddress = \"{}\"\n", address(n));
            zone += &fence.replace("DIR", &dir.path().to_string_lossy()).replace("NAME", name);
        }
        fs::write(dir.path().join("zone.toml"), zone).expect("the zone file");

        let wires = Namespace::new("wires");
        for (_, bridge) in WIRES {
            wires.bridge(bridge);
        }
        let place = |role: &str, address: &str| {
            let net = Namespace::new(role);
            for (device, bridge) in WIRES {
                net.bridge(bridge);
                join(&net, device, &wires, &port(role, device));
                net.attach(bridge, device);
                wires.attach(bridge, &port(role, device));
            }
            net.address("br-mgmt", &format!("{address}/24"));
            net
        };
        let manager = place("m", "192.168.100.1");
        let nets: Vec<_> = names.iter().enumerate().map(|(n, name)| place(name, &address(n))).collect();
        let serve = serve(dir.path(), &manager);
        let state = dir.path().join("m");
        wait_until("the files to join with", SOON, || {
            names.iter().all(|name| state.join("join").join(format!("{name}.json")).exists())
        });
        let hosts = names.into_iter().zip(nets).map(|(name, net)| {
            let agent = agent(dir.path(), &net, &name);
            Host { name, net, agent }
        });
        let zone = Self { wires, manager, hosts: hosts.collect(), serve, disk: small, dir };
        wait_until("the router's VM", SOON, || zone.is_settled());
        wait_until("all guards are heard", SOON, || zone.hears_all());
        zone
    }

    /// Whether there is one VM, and it is in the background: QEMU goes there by a second process, of which it then writes
    /// down the number.
    fn is_settled(&self) -> bool {
        let [host] = self.running()[..] else { return false };
        let folder = self.dir.path().join(&self.hosts[host].name).join("vm").join(ROUTER);
        let pid = fs::read_to_string(folder.join("qemu.pid")).unwrap_or_default();
        self.machine(host) == [Path::new("/proc").join(pid.trim())]
    }

    /// A guest of the router's network, which goes out by it, and somebody outside, at 203.0.113.1.
    pub fn guest_and_outside(&self) -> [Namespace; 2] {
        let [guest, outside] = [("guest", "br-guest"), ("outside", "br-public")].map(|(role, bridge)| {
            let net = Namespace::new(role);
            join(&net, "eth0", &self.wires, role);
            self.wires.attach(bridge, role);
            net
        });
        guest.address("eth0", "10.1.1.20/24");
        guest.ip(&["route", "add", "default", "via", "10.1.1.1"]);
        outside.address("eth0", "203.0.113.1/24");
        [guest, outside]
    }

    /// Whether the manager hears all guards.
    pub fn hears_all(&self) -> bool {
        let hosts = self.status()["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().all(|host| host["up"] == true && host["standing"] == "in service")
    }

    /// Starts the manager again.
    pub fn serve_again(&mut self) {
        self.serve = serve(self.dir.path(), &self.manager);
    }

    /// The bytes that are free on the manager's small disk.
    ///
    /// # Panics
    /// Where it has none.
    pub fn free(&self) -> u64 {
        let disk = self.disk.as_ref().expect("a small disk");
        let found = rustix::fs::statvfs(&disk.0).expect("its figures");
        found.f_bavail * found.f_frsize
    }

    /// Whether the manager hears all guards; hosts may be out of service.
    pub fn hears_or_drains_all(&self) -> bool {
        let hosts = self.status()["hosts"].as_array().cloned().unwrap_or_default();
        let well = |host: &Value| {
            host["up"] == true && (host["standing"] == "in service" || host["standing"] == "drained")
        };
        !hosts.is_empty() && hosts.iter().all(well)
    }

    /// Kills a host's guard, where one runs.
    pub fn kill_guard(&self, host: usize) {
        let state = self.dir.path().join(&self.hosts[host].name);
        kill(&processes(|words| words.contains("\0guard\0") && words.contains(&*state.to_string_lossy())));
    }

    /// The router's QEMU of a host, as a folder below `/proc`; none where it does not run.
    pub fn machine(&self, host: usize) -> Vec<PathBuf> {
        qemus(&self.dir.path().join(&self.hosts[host].name))
    }

    /// Kills the router's QEMU of a host, where it runs.
    pub fn kill_machine(&self, host: usize) {
        kill(&self.machine(host));
    }

    /// Starts `manage host` again.
    pub fn start_again(&mut self, host: usize) {
        let Host { name, net, agent: process } = &mut self.hosts[host];
        *process = agent(self.dir.path(), net, name);
    }

    /// A file of the lab's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a subcommand of `manage` gives, or its error.
    ///
    /// # Errors
    /// What it said.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn manage(&self, words: &[&str]) -> Result<Value, String> {
        let state = self.path("m");
        let out = self
            .manager
            .command(binary("manage"))
            .args(words)
            .args(["--json", "--state", text(&state)])
            .output()
            .expect("manage");
        if out.status.success() {
            serde_json::from_slice(&out.stdout).map_err(|error| error.to_string())
        } else {
            Err(String::from_utf8_lossy(&out.stderr).into_owned())
        }
    }

    /// The state of everything; null where the manager does not tell.
    pub fn status(&self) -> Value {
        self.manage(&["status"]).unwrap_or_default()
    }

    /// Whether all that shall run is ready.
    pub fn is_ready(&self) -> bool {
        self.status()["ready"] == true
    }

    /// What has happened.
    pub fn events(&self) -> String {
        self.status()["events"].to_string()
    }

    /// The hosts on which the router's QEMU runs.
    pub fn running(&self) -> Vec<usize> {
        let runs = |host: &Host| !qemus(&self.dir.path().join(&host.name)).is_empty();
        (0..self.hosts.len()).filter(|n| runs(&self.hosts[*n])).collect()
    }

    /// Takes all cables of one out, or puts them in again.
    pub fn cables(&self, role: &str, plugged: bool) {
        for (device, _) in WIRES {
            self.wires.ip(&["link", "set", &port(role, device), if plugged { "up" } else { "down" }]);
        }
    }

    /// Looks until `done` says so, or for so long, and sees never more than one copy. Tells whether it was done.
    ///
    /// # Panics
    /// Where there are two.
    pub fn watch(&self, limit: Duration, mut done: impl FnMut(&[usize]) -> bool) -> bool {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let running = self.running();
            assert!(running.len() <= 1, "two copies, on hosts {running:?}: {}", self.events());
            if done(&running) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }
}

fn port(role: &str, device: &str) -> String {
    format!("{role}-{device}")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn serve(dir: &Path, net: &Namespace) -> Process {
    let (file, state) = (dir.join("zone.toml"), dir.join("m"));
    net.spawn(binary("manage"), &["serve", "--zone", text(&file), "--state", text(&state)])
}

fn agent(dir: &Path, net: &Namespace, name: &str) -> Process {
    let (file, state) = (dir.join("m/join").join(format!("{name}.json")), dir.join(name));
    net.spawn(binary("manage"), &["host", "--join", text(&file), "--state", text(&state)])
}

/// Process ids of the VM's QEMU of a host, by what its command line says.
fn qemus(state: &Path) -> Vec<PathBuf> {
    let folder = state.join("vm").join(ROUTER);
    processes(|words| words.starts_with("qemu-system") && words.contains(&*folder.to_string_lossy()))
}

/// Folders below `/proc` of the processes whose command lines are so.
fn processes(fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        fits(&String::from_utf8_lossy(&words))
    };
    all.filter(ours).collect()
}

fn kill(processes: &[PathBuf]) {
    let ids = processes.iter().filter_map(|path| path.file_name()?.to_str()?.parse::<i32>().ok());
    for id in ids.filter_map(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
}
