//! A console proxy in a namespace of its own, and around it the world: management and hypervisors at
//! 10.1.1.11, browsers at 203.0.113.7 and 203.0.113.8.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    shim::wire::{self, Reply, Request},
    token::{Token, ticket},
};
use tests::lab::{Namespace, Process, binary, join, wait_tcp};

use super::management::{HASH_KEY, Management};

/// Longest wait for anything; the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const PUBLIC: &str = "203.0.113.5";
pub const WORLD: &str = "10.1.1.11";

pub struct Lab {
    pub core: Process,
    pub serve: Process,
    pub management: Arc<Management>,
    pub world: Namespace,
    pub proxy: Namespace,
    pub folder: tempfile::TempDir,
    sessions: std::cell::Cell<u32>,
}

/// Runs a scenario in the world's namespace. `arguments` are added to those of the boot; `started`:
/// management starts the listeners as soon as the proxy joins.
pub fn run<F: AsyncFn(&mut Lab)>(arguments: &str, started: bool, scenario: F) {
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
        let start = |half: &str| {
            let mut command = proxy.command(binary("cpvm"));
            command.arg(half).env("TRIVIUM_ROOT", folder.path());
            Process::start(command)
        };
        let (core, serve) = (start("core"), start("serve"));
        let mut lab = Lab { core, serve, management, world, proxy, folder, sessions: Default::default() };
        lab.management.joined(LIMIT).await;
        if started {
            lab.reachable();
        }
        scenario(&mut lab).await;
        let said = lab.core.output() + &lab.serve.output();
        for secret in [lab.management.key.encryptor_password().as_str(), HASH_KEY, "Secr3tPw"] {
            assert!(!said.contains(secret), "a secret is in the log:\n{said}");
        }
    });
}

impl Lab {
    /// Waits until the stream port is open.
    pub fn reachable(&self) {
        wait_tcp(format!("{PUBLIC}:8080").parse().unwrap(), LIMIT);
    }

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
        self.management.key.seal(&token).unwrap()
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
        token.ticket = Some(ticket::ticket(HASH_KEY, &token, minute));
        token
    }

    /// A QEMU machine whose screen shows the firmware's greeting, on this VNC port.
    pub fn machine(&self, port: u16, password: Option<&str>) -> Process {
        let mut command = self.world.command("qemu-system-x86_64");
        let mut screen = format!("{WORLD}:{}", port - 5900);
        if let Some(password) = password {
            command.args(["-object", &format!("secret,id=vnc,data={password}")]);
            screen += ",password-secret=vnc";
        }
        command.args(["-accel", "tcg", "-m", "64", "-display", "none", "-nodefaults", "-vga", "std"]);
        command.args(["-boot", "menu=on,splash-time=60000", "-vnc", &screen]);
        let process = Process::start(command);
        wait_tcp(format!("{WORLD}:{port}").parse().unwrap(), LIMIT);
        process
    }

    /// Connections that the proxy has to this port.
    pub fn connections_to(&self, port: u16) -> usize {
        let listed = self.proxy.ok(&format!("ss -Htn state established dport = :{port}"));
        listed.lines().filter(|line| !line.trim().is_empty()).count()
    }

    pub fn picture(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
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
