//! Network namespaces, joined by veth pairs and bridges.

use std::{
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use super::{Process, run_id};

/// Where `ip netns exec` looks for what a namespace has in the place of files of `/etc`.
const NAMES: &str = "/etc/netns";

/// A network namespace; everything in it ends when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    keep: bool,
}

impl Namespace {
    /// Makes a namespace with `lo` up. `role` is a short word for messages (`guest`, `internet`).
    pub fn new(role: &str) -> Self {
        Self::named(format!("tv{}-{role}", run_id()))
    }

    /// Makes a namespace of that very name, after removing one that was left behind.
    pub fn named(name: String) -> Self {
        if Path::new("/run/netns").join(&name).exists() {
            Self::end(&name);
        }
        ip(&["netns", "add", &name]);
        let namespace = Self { name, keep: false };
        namespace.ip(&["link", "set", "lo", "up"]);
        // IPv6 addresses are there at once: one that settles later is a change of the network, for which
        // a browser gives up what it is loading.
        namespace.ok("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        namespace
    }

    /// One that somebody else holds: it does not end with this.
    pub const fn there(name: String) -> Self {
        Self { name, keep: true }
    }

    /// Lets the namespace and what runs in it outlive this guard.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Ends everything that runs in the namespace called `name`, and removes it.
    pub fn end(name: &str) {
        if let Ok(out) = Command::new("ip").args(["netns", "pids", name]).output() {
            for pid in String::from_utf8_lossy(&out.stdout).split_whitespace() {
                let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
            }
        }
        let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(Path::new(NAMES).join(name));
    }

    /// The names that programs inside know, beside `localhost`: lines of `/etc/hosts`. Those that run already hear of
    /// other lines only if there were some when they began.
    pub fn hosts(&self, lines: &str) {
        let folder = Path::new(NAMES).join(&self.name);
        std::fs::create_dir_all(&folder).expect("folder of names");
        std::fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{lines}\n")).expect("names");
    }

    /// The name `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread inside, and with it every thread that it starts later; sockets that it has
    /// stay where they were made.
    pub fn enter(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        rustix::thread::move_into_link_name_space(
            file.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .expect("move into a namespace");
    }

    /// Does something inside, on a thread of its own, and waits for it.
    pub fn inside<T: Send>(&self, errand: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            self.enter();
            errand()
        };
        std::thread::scope(|scope| scope.spawn(enter).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` inside, for instance `["addr", "add", "10.1.1.2/24", "dev", "eth0"]`.
    pub fn ip(&self, words: &[&str]) {
        let mut all = vec!["-n", &self.name];
        all.extend(words);
        ip(&all);
    }

    /// Sets an interface up and gives it an address such as `10.1.1.2/24`.
    pub fn address(&self, device: &str, address: &str) {
        self.ip(&["addr", "add", address, "dev", device]);
        self.ip(&["link", "set", device, "up"]);
    }

    /// Makes a bridge that is up. It has a MAC of its own: else it has the lowest of its ports, and whoever knows its
    /// address does not hear of it for half a minute when a port comes or goes.
    pub fn bridge(&self, name: &str) {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let [a, b] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let [.., c, d] = std::process::id().to_be_bytes();
        let mac = format!("02:62:{c:02x}:{d:02x}:{a:02x}:{b:02x}");
        self.ip(&["link", "add", name, "address", &mac, "type", "bridge"]);
        self.ip(&["link", "set", name, "up"]);
    }

    /// Puts an interface under a bridge of this namespace and sets it up.
    pub fn attach(&self, bridge: &str, device: &str) {
        self.ip(&["link", "set", device, "master", bridge, "up"]);
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    /// Runs a shell line inside and returns what came of it, whatever its exit code.
    pub fn sh(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).stdin(Stdio::null()).output().expect("sh")
    }

    /// Runs a shell line inside and returns its standard output.
    ///
    /// # Panics
    /// When it fails; the message carries what it printed.
    pub fn ok(&self, line: &str) -> String {
        let out = self.sh(line);
        assert!(
            out.status.success(),
            "{} in {}: {}\n{}{}",
            line,
            self.name,
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Starts a process inside; it ends with the guard.
    pub fn spawn(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Process {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(command)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep {
            Self::end(&self.name);
        }
    }
}

/// Joins two namespaces by a veth pair: `a_device` in `a`, `b_device` in `b`, both up.
pub fn join(a: &Namespace, a_device: &str, b: &Namespace, b_device: &str) {
    ip(&[
        "link", "add", a_device, "netns", &a.name, "type", "veth", "peer", "name", b_device, "netns", &b.name,
    ]);
    a.ip(&["link", "set", a_device, "up"]);
    b.ip(&["link", "set", b_device, "up"]);
}

fn ip(words: &[&str]) {
    let out = Command::new("ip").args(words).output().expect("ip (package iproute2)");
    assert!(out.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&out.stderr));
}
