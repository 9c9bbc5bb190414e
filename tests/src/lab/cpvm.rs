//! A console proxy in a namespace of its own, and around it the world: management and hypervisors at
//! 10.1.1.11, browsers at 203.0.113.7 and 203.0.113.8.

pub mod browser;
pub mod hostile;
pub mod management;
pub mod screen;
pub mod viewer;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use self::management::{HASH_KEY, Management};
use super::{Namespace, Process, binary, join, wait_tcp};
use common::{
    channel::tls::{AgentFiles, Authority, Issue, Issued, KeyKind},
    paths::Paths,
    shim::wire::{self, Reply, Request},
    token::{Token, ticket},
};

/// Longest wait for anything; the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Where browsers find the proxy.
pub const PUBLIC: &str = "203.0.113.5";
/// Management and hypervisors.
pub const WORLD: &str = "10.1.1.11";
/// Another management end.
const SECOND: &str = "10.1.1.12";

/// The proxy's two halves and what is around them.
pub struct Lab {
    /// `cpvm core`.
    pub core: Process,
    /// `cpvm serve`.
    pub serve: Process,
    /// What the proxy has joined.
    pub management: Arc<Management>,
    /// Around the proxy.
    pub world: Namespace,
    /// The proxy's own.
    pub proxy: Namespace,
    /// The proxy's disk.
    pub folder: tempfile::TempDir,
    sessions: std::cell::Cell<u32>,
    /// Some of the tokens and tickets that were handed out.
    secrets: std::cell::RefCell<Vec<String>>,
}

/// Tokens and tickets that are looked for in the log.
const SECRETS: usize = 200;

/// Runs a scenario in the world's namespace. `arguments` are added to those of the boot; `started`:
/// management starts the listeners as soon as the proxy joins.
pub fn run<F: AsyncFn(&mut Lab)>(arguments: &str, started: bool, scenario: F) {
    run_logging("info", arguments, started, scenario);
}

/// The same with more or less in the proxy's log (`TRIVIUM_LOG`).
pub fn run_logging<F: AsyncFn(&mut Lab)>(log: &str, arguments: &str, started: bool, scenario: F) {
    let world = Namespace::new("world");
    let proxy = Namespace::new("cpvm");
    for (inner, outer, own, other) in [
        ("eth0", "c0", "169.254.3.4/16", "169.254.3.1/16"),
        ("eth1", "m0", "10.1.1.22/24", "10.1.1.11/24"),
        ("eth2", "p0", "203.0.113.5/24", "203.0.113.7/24"),
    ] {
        join(&proxy, inner, &world, outer);
        proxy.address(inner, own);
        world.address(outer, other);
    }
    world.address("p0", "203.0.113.8/24");
    world.address("m0", "10.1.1.12/24");
    world.enter();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let management = Management::start(started).await;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let paths = Paths::below(folder.path());
        for path in [paths.cache(), paths.agent(), paths.at("/etc")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(paths.at("/etc/passwd"), "serve:x:65534:65534:serve:/:/none\n").unwrap();
        let line = format!(
            "template=domP type=consoleproxy host={WORLD} port={} name=v-42-VM zone=1 pod=1 guid=Proxy.42 \
             proxy_vm=42 disable_rp_filter=true eth0ip=169.254.3.4 eth0mask=255.255.0.0 eth1ip=10.1.1.22 \
             eth1mask=255.255.255.0 eth2ip=203.0.113.5 eth2mask=255.255.255.0 gateway=203.0.113.7 \
             localgw=10.1.1.11 {arguments}\n",
            management.port()
        );
        fs::write(paths.cmdline(), line).unwrap();
        let start = |half: &str| half_of(&proxy, folder.path(), half, log);
        let (core, serve) = (start("core"), start("serve"));
        let mut lab = Lab {
            core,
            serve,
            management,
            world,
            proxy,
            folder,
            sessions: Default::default(),
            secrets: Default::default(),
        };
        lab.management.joined(LIMIT).await;
        if started {
            lab.reachable();
        }
        scenario(&mut lab).await;
        let said = lab.core.output() + &lab.serve.output();
        let own = [lab.management.key.encryptor_password().to_string(), HASH_KEY.into(), "Secr3tPw".into()];
        for secret in own.iter().chain(lab.secrets.borrow().iter()) {
            assert!(!said.contains(secret), "{secret} is in the log:\n{said}");
        }
    });
}

/// Starts `core` or `serve`.
fn half_of(proxy: &Namespace, folder: &Path, half: &str, log: &str) -> Process {
    let mut command = proxy.command(binary("cpvm"));
    command.arg(half).env("TRIVIUM_ROOT", folder).env("TRIVIUM_LOG", log);
    Process::start(command)
}

impl Lab {
    /// Waits until the stream port is open.
    pub fn reachable(&self) {
        wait_tcp(format!("{PUBLIC}:8080").parse().unwrap(), LIMIT);
    }

    /// Starts `core` or `serve` anew.
    pub fn half(&self, name: &str) -> Process {
        half_of(&self.proxy, self.folder.path(), name, "info")
    }

    /// Paths of the proxy's disk.
    pub fn paths(&self) -> Paths {
        Paths::below(self.folder.path())
    }

    /// What an operator on the VM is answered.
    pub async fn operator(&self, words: &[&str]) -> Reply {
        let (paths, request) = (self.paths(), Request::new(words.iter().copied()));
        tokio::task::spawn_blocking(move || wire::call(&paths, &request, LIMIT)).await.unwrap().unwrap()
    }

    /// A token for a fresh session that management has announced, as it would be in a URL.
    pub async fn announced(&self, port: u16, change: impl FnOnce(&mut Token)) -> String {
        let token = self.token(port, change);
        self.management.allow(token.session_uuid.as_deref().unwrap()).await;
        let sealed = self.management.key.seal(&token).unwrap();
        self.secret(&sealed);
        sealed
    }

    fn secret(&self, text: &str) {
        let mut secrets = self.secrets.borrow_mut();
        if secrets.len() < SECRETS {
            secrets.push(text.to_owned());
        }
    }

    /// A token for a fresh session; its ticket is made last, as management does.
    pub fn token(&self, port: u16, change: impl FnOnce(&mut Token)) -> Token {
        self.sessions.set(self.sessions.get() + 1);
        let number = self.sessions.get();
        let mut token = Token {
            host: Some(WORLD.into()),
            port: port.into(),
            password: Some("Secr3tPw".into()),
            tag: Some(format!("vm-{port}")),
            display_name: Some("web 01".into()),
            source: Some("203.0.113.7".into()),
            session_uuid: Some(format!("9f1c0c1e-aaaa-4bbb-8ccc-{number:012}")),
            ..Token::default()
        };
        change(&mut token);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let minute = ticket::minute(now.as_millis() as i64);
        let ticket = ticket::ticket(HASH_KEY, &token, minute);
        self.secret(&ticket);
        token.ticket = Some(ticket);
        token
    }

    /// A QEMU machine whose screen shows the firmware's greeting, on this VNC port.
    pub fn machine(&self, port: u16, password: Option<&str>) -> Process {
        self.machine_with(port, password, None)
    }

    /// The same behind TLS; `tls` is QEMU's object of that, whose id is `tls`.
    pub fn machine_with(&self, port: u16, password: Option<&str>, tls: Option<&str>) -> Process {
        let mut command = self.world.command("qemu-system-x86_64");
        let mut screen = format!("{WORLD}:{}", port - 5900);
        if let Some(password) = password {
            command.args(["-object", &format!("secret,id=vnc,data={password}")]);
            screen += ",password-secret=vnc";
        }
        if let Some(tls) = tls {
            command.args(["-object", tls]);
            screen += ",tls-creds=tls";
        }
        command.args(["-accel", "tcg", "-m", "64", "-display", "none", "-nodefaults", "-vga", "std"]);
        command.args(["-trace", "input_event_key_qcode", "-trace", "input_event_btn"]);
        command.args(["-boot", "menu=on,splash-time=60000", "-vnc", &screen]);
        let process = Process::start(command);
        wait_tcp(format!("{WORLD}:{port}").parse().unwrap(), LIMIT);
        process
    }

    /// A folder with the certificate of a VNC server as QEMU wants it.
    pub fn credentials(&self, name: &str, authority: &Authority) -> String {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        let issued = issued(authority);
        for (file, text) in [
            ("ca-cert.pem", &issued.ca_certificates),
            ("server-cert.pem", &issued.certificate),
            ("server-key.pem", &issued.private_key),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        folder.display().to_string()
    }

    /// Gives the proxy a certificate of its own, as management does.
    pub fn certify(&self, authority: &Authority) {
        let issued = issued(authority);
        AgentFiles::new(self.paths().agent())
            .install(&issued.certificate, &issued.ca_certificates, &issued.private_key)
            .unwrap();
    }

    /// Connections that the proxy has to this port.
    pub fn connections_to(&self, port: u16) -> usize {
        let listed = self.proxy.ok(&format!("ss -Htn state established dport = :{port}"));
        listed.lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// Memory of both halves now, KiB.
    pub fn memory(&self) -> u64 {
        let of = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().to_owned();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        of(self.core.id()) + of(self.serve.id())
    }

    /// Open descriptors of both halves.
    pub fn descriptors(&self) -> usize {
        let of = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        of(self.core.id()) + of(self.serve.id())
    }

    /// Puts the operator's options for consoles in force.
    pub fn options(&self, text: &str) {
        fs::write(self.paths().cache().join("console.json"), text).unwrap();
    }

    /// A file beside the proxy's own.
    pub fn picture(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A certificate for the world's address, under another name.
pub fn issued(authority: &Authority) -> Issued {
    let wish = Issue { names: vec!["host.example".into()], addresses: vec![], days: 30 };
    authority.issue(&wish, KeyKind::P256).unwrap()
}

/// Waits until `ready` says yes, and says how long that took.
pub async fn until(what: &str, limit: Duration, mut ready: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !ready().await {
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}
