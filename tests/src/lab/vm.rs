//! Virtual machines on QEMU: booted from our image, driven over the guest agent, saved and
//! restored. KVM where a probe boot works under it, else TCG.

mod agent;
mod json;
mod qmp;
mod saved;
pub mod writes;

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

pub use agent::{Agent, Ran};
pub use saved::Saved;

use super::{Namespace, Process, wait_until};

/// The folder with what `image/build` made.
///
/// # Panics
/// When there is no image yet.
pub fn image_folder() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/out");
    assert!(dir.join("trivium.qcow2").exists(), "{} has no image: run image/build first", dir.display());
    dir
}

/// How a machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// QEMU loads kernel and RAM disk itself: the fastest way. The words are added to the kernel
    /// command line.
    Direct {
        /// Folder with `vmlinux` and `initrd`.
        parts: PathBuf,
        /// More words for the kernel command line.
        words: String,
    },
    /// SeaBIOS, from the disk.
    Bios,
    /// OVMF, from the disk; needs Debian's package `ovmf`.
    Uefi,
}

/// One network card; its order in [`Config::nics`] is that of `eth0`, `eth1` …
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nic {
    /// A tap of the machine's namespace that is already there and up.
    Tap {
        /// Its name.
        device: String,
        /// Address of the card.
        mac: String,
    },
    /// QEMU's own network, 10.0.2.0/24, from which the machine reaches the host.
    User,
}

/// What a machine consists of. The disk stays untouched: each machine writes to an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The disk below.
    pub disk: PathBuf,
    /// Its format, as qemu-img calls it.
    pub format: &'static str,
    /// How it starts.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory: u32,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Network namespace that QEMU runs in; the taps lie there.
    pub namespace: Option<String>,
    /// Where every write to the disk is recorded, in order, besides ([`writes`]).
    pub record: Option<PathBuf>,
}

impl Config {
    /// A machine from our image, started the fast way, without network.
    pub fn ours() -> Self {
        Self::of(image_folder())
    }

    /// The same from an image that lies elsewhere.
    pub fn of(parts: PathBuf) -> Self {
        Self {
            disk: parts.join("trivium.qcow2"),
            format: "qcow2",
            firmware: Firmware::Direct { parts, words: String::new() },
            memory: 384,
            nics: Vec::new(),
            namespace: None,
            record: None,
        }
    }

    /// A machine of plain Debian, made by `tests/debian/build`: a guest agent, programs that others have
    /// written, and nothing of ours.
    pub fn debian() -> Self {
        let parts = image_folder().join("debian");
        assert!(
            parts.join("key").exists(),
            "{} has no machine: run tests/debian/build first",
            parts.display()
        );
        Self {
            disk: parts.join("disk.qcow2"),
            format: "qcow2",
            firmware: Firmware::Direct { parts, words: String::new() },
            memory: 384,
            nics: Vec::new(),
            namespace: None,
            record: None,
        }
    }

    /// Adds a card behind a bridge of a namespace; all cards of a machine share one namespace.
    #[must_use]
    pub fn behind(mut self, namespace: &Namespace, bridge: &str, mac: &str) -> Self {
        // Two machines may have one MAC.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let device = format!("t{number}-{}", mac.split(':').skip(3).collect::<String>());
        namespace.ip(&["tuntap", "add", "dev", &device, "mode", "tap"]);
        namespace.attach(bridge, &device);
        self.nics.push(Nic::Tap { device, mac: mac.to_owned() });
        self.namespace = Some(namespace.name().to_owned());
        self
    }

    /// The command line of QEMU for this machine, with its files in `dir`.
    fn command(&self, dir: &Path, restore: Option<&str>) -> Command {
        let mut command = match &self.namespace {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "qemu-system-x86_64"]);
                command
            }
            None => Command::new("qemu-system-x86_64"),
        };
        let path = |name: &str| dir.join(name).display().to_string();
        command.args([
            "-accel",
            accelerator(),
            "-nodefaults",
            "-display",
            "none",
            "-m",
            &self.memory.to_string(),
        ]);
        command.args(["-serial", &format!("file:{}", path("serial.log")), "-device", "virtio-rng-pci"]);
        let disk = path("disk.qcow2");
        match &self.record {
            None => command.args(["-drive", &format!("file={disk},if=virtio,format=qcow2")]),
            Some(record) => command.args(writes::options(&disk, record)),
        };
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
        command.args(["-chardev", &format!("socket,path={},server=on,wait=off,id=qga", path("qga"))]);
        command.args([
            "-device",
            "virtio-serial",
            "-device",
            "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
        ]);
        match &self.firmware {
            Firmware::Direct { parts, words } => {
                command.arg("-kernel").arg(parts.join("vmlinux")).arg("-initrd").arg(parts.join("initrd"));
                let line = format!("console=ttyS0,115200 quiet net.ifnames=0 biosdevname=0 panic=1 {words}");
                command.arg("-append").arg(line.trim());
            }
            Firmware::Bios => {}
            Firmware::Uefi => {
                let code = "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd";
                let vars = format!("if=pflash,unit=1,format=raw,file={}", path("vars.fd"));
                command.args(["-machine", "q35", "-drive", code, "-drive", &vars]);
            }
        }
        for (index, nic) in self.nics.iter().enumerate() {
            let (net, mac) = match nic {
                Nic::Tap { device, mac } => (
                    format!("tap,id=n{index},ifname={device},script=no,downscript=no"),
                    format!(",mac={mac}"),
                ),
                Nic::User => (format!("user,id=n{index}"), String::new()),
            };
            command.args(["-netdev", &net, "-device", &format!("virtio-net-pci,netdev=n{index}{mac}")]);
        }
        if let Some(name) = restore {
            command.args(["-loadvm", name]);
        }
        command
    }
}

/// A running machine; it and its overlay disk end with this guard.
#[derive(Debug)]
pub struct Vm {
    config: Config,
    process: Process,
    dir: tempfile::TempDir,
    started: Instant,
}

impl Vm {
    /// Powers a new machine on.
    pub fn start(config: Config) -> Self {
        let dir = folder();
        let disk = dir.path().join("disk.qcow2");
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", config.format, "-b"])
            .arg(&config.disk)
            .arg(&disk));
        if config.firmware == Firmware::Uefi {
            std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", dir.path().join("vars.fd"))
                .expect("package ovmf");
        }
        Self::run(config, dir, None)
    }

    fn run(config: Config, dir: tempfile::TempDir, restore: Option<&str>) -> Self {
        let process = Process::start(config.command(dir.path(), restore));
        let mut vm = Self { config, process, dir, started: Instant::now() };
        let socket = vm.dir.path().join("qmp");
        wait_until("QEMU's control socket", Duration::from_secs(20), || {
            assert!(vm.process.runs(), "QEMU ended: {}", vm.process.output());
            // Its file is there a moment before anyone listens at it.
            UnixStream::connect(&socket).is_ok()
        });
        vm
    }

    /// Cuts the power at once and starts the same machine, with its disk, again.
    pub fn power_cycle(self) -> Self {
        let Self { config, mut process, dir, .. } = self;
        process.kill();
        drop(process);
        for name in ["qmp", "qga", "serial.log"] {
            let _ = std::fs::remove_file(dir.path().join(name));
        }
        Self::run(config, dir, None)
    }

    /// Brings one more card while the machine runs; it is there at the next power-on, too.
    pub fn plug(&mut self, namespace: &Namespace, bridge: &str, mac: &str) {
        let config = self.config.clone().behind(namespace, bridge, mac);
        let index = self.config.nics.len();
        self.config = config;
        let Some(Nic::Tap { device, .. }) = self.config.nics.last() else { return };
        let socket = self.dir.path().join("qmp");
        let net = format!("tap,id=n{index},ifname={device},script=no,downscript=no");
        qmp::command(&socket, "netdev_add", &net);
        qmp::command(&socket, "device_add", &format!("virtio-net-pci,netdev=n{index},mac={mac}"));
    }

    /// Restarts the machine in order, from inside, and waits until `line` is on its console again.
    pub fn restart(&mut self, line: &str, limit: Duration) {
        let lines = |text: String| text.lines().filter(|l| l.contains(line)).count();
        let before = lines(self.serial());
        self.agent(limit).restart();
        wait_until("the machine to be back", limit, || lines(self.serial()) > before);
        let serial = self.serial();
        assert!(!serial.contains("panic") && serial.contains("Restarting system"), "{serial}");
    }

    /// Asks the guest agent for an orderly end and waits for QEMU to end.
    pub fn shut_down(mut self, limit: Duration) {
        self.agent(limit).power_down();
        wait_until("end of the machine after an orderly shutdown", limit, || !self.process.runs());
        let serial = self.serial();
        assert!(!serial.contains("panic") && serial.contains("Power down"), "{serial}");
    }

    /// Whether QEMU still runs.
    pub fn runs(&self) -> bool {
        Path::new(&format!("/proc/{}/fd/0", self.process.id())).exists()
    }

    /// What the machine has written to its serial console.
    pub fn serial(&self) -> String {
        let text = std::fs::read(self.dir.path().join("serial.log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until a line of the serial console contains `text`, and returns the line.
    ///
    /// # Panics
    /// When `limit` has passed or QEMU has ended; the message carries the console.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> String {
        let start = Instant::now();
        loop {
            let serial = self.serial();
            if let Some(line) = serial.lines().find(|line| line.contains(text)) {
                return line.trim().to_owned();
            }
            let late = start.elapsed() >= limit;
            assert!(
                !late && self.process.runs(),
                "no line with {text:?} on the console after {limit:?}:\n{serial}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The guest agent, once it answers.
    ///
    /// # Panics
    /// When it does not within `limit`; the message carries the console.
    pub fn agent(&self, limit: Duration) -> Agent {
        Agent::connect(&self.dir.path().join("qga"), limit).unwrap_or_else(|| {
            panic!("no guest agent after {limit:?}; {}; console:\n{}", self.condition(), self.serial())
        })
    }

    /// What a machine does that says nothing: its state, where its processor is, and what it has used.
    fn condition(&self) -> String {
        let socket = self.dir.path().join("qmp");
        let (state, registers) =
            (qmp::ask(&socket, "info", "status"), qmp::ask(&socket, "info", "registers"));
        let (wall, cpu) = self.seconds();
        let place = registers.lines().filter(|line| line.contains("IP=") || line.contains("CS"));
        format!("{cpu} CPU s in {wall} s, {}, {}", state.trim(), place.collect::<Vec<_>>().join(" "))
    }

    /// Hands over the boot arguments as a KVM host does.
    pub fn deliver(&self, arguments: &str, limit: Duration) {
        self.agent(limit).deliver(arguments);
    }

    /// Seconds since power-on, and seconds of CPU that QEMU has used.
    pub fn seconds(&self) -> (f64, f64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: f64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
        (self.started.elapsed().as_secs_f64(), ticks / 100.0)
    }

    /// The folder with its sockets (`qmp`, `qga`), console (`serial.log`) and overlay.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

/// `kvm` where a probe boot under it prints its first line within five seconds, else `tcg`.
pub fn accelerator() -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    FOUND.get_or_init(|| if kvm_works() { "kvm" } else { "tcg" })
}

fn kvm_works() -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let dir = folder();
    let log = dir.path().join("probe.log");
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "kvm", "-nodefaults", "-display", "none", "-m", "256", "-serial"]);
    command.arg(format!("file:{}", log.display())).arg("-kernel").arg(image_folder().join("vmlinux"));
    command.args(["-append", "earlyprintk=serial console=ttyS0"]);
    let mut probe = Process::start(command);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) && probe.runs() {
        if std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Linux version")) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("trivium-vm-").tempdir().expect("folder of the machine")
}

fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().expect("qemu-img (package qemu-utils)");
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
