//! Two routers for one network, in namespaces that share bridges: guests, an outside, and one bridge a tier.

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    shim::wire::{self, Reply, Request},
};

use super::{Namespace, Process, binary, join, wait_until};

/// Time for an election and what follows, on a busy machine.
pub const ELECTED: Duration = Duration::from_secs(15);

/// The public MAC of both.
const PUBLIC: &str = "1e:00:4c:00:00:60";

/// One of the two.
pub struct Router {
    /// Where it is.
    pub space: Namespace,
    /// Its files.
    pub paths: Paths,
    halves: Vec<Process>,
    number: u8,
    root: tempfile::TempDir,
}

/// Both, and all around.
pub struct Twins {
    /// The first has 10.1.1.5 or 10.9.N.5, the second the next address.
    pub routers: [Router; 2],
    /// Where the bridges are: `guests` or `tierN`, and `public`.
    pub lan: Namespace,
    /// A guest: `eth0` in the isolated network, `ethN` in tier N.
    pub guest: Namespace,
    /// 203.0.113.1.
    pub outside: Namespace,
    _host: Namespace,
}

/// Boot arguments of the router with this number (5 or 6) for an isolated network; one address each second.
pub fn isolated(number: u8) -> String {
    format!(
        "template=domP name=r-3{number}-VM eth2ip=203.0.113.30 eth2mask=255.255.255.0 gateway=203.0.113.1 \
         publicMtu=1500 eth0ip=10.1.1.{number} eth0mask=255.255.255.0 privateMtu=1500 redundant_router=1 advert_int=1 \
         redundant_state=PRIMARY guestgw=10.1.1.1 guestbrd=10.1.1.255 guestcidrsize=24 domain=cs4.example \
         cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.30.{number} eth1mask=255.255.0.0 type=router \
         disable_rp_filter=true dns1=203.0.113.1\n"
    )
}

/// The same with IPv6.
pub fn isolated6(number: u8) -> String {
    isolated(number).replace(
        "domain=",
        &format!(
            "eth0ip6=2001:db8:1::{number} eth0ip6prelen=64 eth2ip6=2001:db8:ff::30 eth2ip6prelen=64 \
             ip6gateway=2001:db8:ff::1 guestgw6=2001:db8:1::1 guestcidr6size=64 ip6firewall=true domain="
        ),
    )
}

/// The same for a VPC.
pub fn vpc(number: u8) -> String {
    format!(
        "vpccidr=10.9.0.0/16 domain=vpc1.example dns1=203.0.113.1 template=domP name=r-4{number}-VM \
         eth0ip=169.254.30.{number} eth0mask=255.255.0.0 redundant_router=1 advert_int=1 router_id=5 \
         router_password=92161234567890 redundant_state=PRIMARY has_public_network=true type=vpcrouter \
         disable_rp_filter=true source_nat_ip=203.0.113.30\n"
    )
}

impl Router {
    /// One without a partner, whose NICs are wired by `wire`; it is there when this returns.
    pub fn alone(line: &str, wire: impl FnOnce(&Namespace)) -> Self {
        let mut router = Self::new(7, line);
        wire(&router.space);
        router.boot();
        router
    }

    fn new(number: u8, line: &str) -> Self {
        let root = tempfile::tempdir().expect("folder");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("folder");
        let paths = Paths::below(root.path());
        for folder in ["/var/cache/cloud", "/etc", "/var/log"] {
            fs::create_dir_all(paths.at(folder)).expect("folder");
        }
        fs::write(paths.cmdline(), line).expect("boot arguments");
        let host = fs::read_to_string("/etc/passwd").expect("accounts");
        let frr = host.lines().find(|line| line.starts_with("frr:")).unwrap_or_default();
        let accounts = format!("serve:x:65534:65534::/:/none\n{frr}\n");
        fs::write(paths.at("/etc/passwd"), accounts).expect("accounts");
        Self { space: Namespace::new(&format!("r{number}")), paths, halves: Vec::new(), number, root }
    }

    /// Boots it, and waits until it is there.
    pub fn boot(&mut self) {
        let _ = fs::remove_file(self.paths.boot_done());
        self.halves = ["core", "serve"].map(|half| self.half(half)).into();
        wait_until("the core", Duration::from_secs(60), || {
            self.paths.boot_done().exists() && self.try_run(&["status"]).is_some()
        });
    }

    fn half(&self, half: &str) -> Process {
        let mut command = self.space.command(binary("router"));
        command.arg(half).env("TRIVIUM_ROOT", self.root.path());
        Process::start(command)
    }

    /// Kills the core alone.
    pub fn kill_core(&mut self) {
        self.halves[0].kill();
    }

    /// Starts another core.
    pub fn start_core(&mut self) {
        let _ = fs::remove_file(self.paths.boot_done());
        self.halves[0] = self.half("core");
        wait_until("the core", Duration::from_secs(60), || {
            self.paths.boot_done().exists() && self.try_run(&["status"]).is_some()
        });
    }

    /// Gives the core a command.
    pub fn try_run(&self, words: &[&str]) -> Option<Reply> {
        wire::call(&self.paths, &Request::new(words.iter().copied()), Duration::from_secs(60)).ok()
    }

    /// The same where somebody answers.
    pub fn run(&self, words: &[&str]) -> Reply {
        self.try_run(words).expect("an answer of the core")
    }

    /// What it says of itself: `PRIMARY`, `BACKUP`, …
    pub fn role(&self) -> String {
        let reply = self.run(&["checkrouter.sh"]);
        reply.stdout.trim().strip_prefix("Status: ").expect("a status").to_owned()
    }

    /// A document as the host sends it.
    pub fn send(&self, text: &str) -> Reply {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("document.json.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::write(self.paths.cache().join(&name), text).expect("document");
        self.run(&["update_config.py", &name])
    }

    /// Stops or starts keepalived as the management server does.
    pub fn keepalived(&self, action: &str) {
        let reply = self.run(&["manage_service.sh", action, "keepalived"]);
        assert_eq!((reply.code, reply.stderr.as_str()), (0, ""), "{action}");
    }

    /// The processes of one of its programs.
    pub fn pids(&self, program: &str) -> Vec<u32> {
        let folder = self.paths.run().join("redundancy").join(format!("{program}.conf"));
        let line = format!("pgrep -f '{program} .*{}'", folder.display());
        let out = self.space.sh(&line);
        let own =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == program);
        String::from_utf8_lossy(&out.stdout).lines().filter_map(|l| l.parse().ok()).filter(own).collect()
    }

    /// The processes that have a file of its runtime folder among their arguments.
    pub fn pids_with(&self, file: &str) -> Vec<u32> {
        let path = self.paths.run().join(file);
        let out = std::process::Command::new("pgrep").args(["-f", &path.display().to_string()]).output();
        let out = out.expect("pgrep (package procps)");
        String::from_utf8_lossy(&out.stdout).lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// How often it was elected, by keepalived's own words.
    pub fn elections(&self) -> usize {
        let log = fs::read_to_string(self.paths.at("/var/log/keepalived.log")).unwrap_or_default();
        log.matches("Entering MASTER STATE").count()
    }

    /// Its packet filter with everything of its own named alike.
    pub fn filter(&self) -> String {
        let filter = self.space.ok("nft -s list ruleset | sed '/chain sealed_/,/}/d; /^$/d'");
        let own = |net: &str| format!("{net}.{}", self.number);
        ["10.1.1", "10.9.1", "10.9.2", "169.254.30"]
            .iter()
            .fold(filter, |text, net| text.replace(&own(net), net))
    }
}

impl Twins {
    /// Both for an isolated network whose guests may go out; nobody is elected yet.
    pub fn isolated() -> Self {
        Self::isolated_of(isolated)
    }

    /// The same with IPv6: 2001:db8:1::/64 for guests, 2001:db8:ff::1 outside.
    pub fn isolated6() -> Self {
        let twins = Self::isolated_of(isolated6);
        twins.outside.ip(&["addr", "add", "2001:db8:ff::1/64", "dev", "eth0"]);
        twins.outside.ip(&["route", "add", "2001:db8:1::/64", "via", "2001:db8:ff::30"]);
        twins.apply(
            r#"{"rules":[{"id":0,"protocol":"all","source_cidr_list":[],"dest_cidr_list":[],"traffic_type":"Egress","default_egress_policy":true}],"type":"ipv6firewallrules"}"#,
        );
        twins
    }

    fn isolated_of(line: fn(u8) -> String) -> Self {
        let twins = Self::wired(line, |twins, n| {
            let router = &twins.routers[n].space;
            join(router, "eth0", &twins.lan, &format!("guests{n}"));
            twins.lan.attach("guests", &format!("guests{n}"));
            join(router, "eth1", &twins._host, &format!("eth{n}"));
            join(router, "eth2", &twins.lan, &format!("public{n}"));
            router.ip(&["link", "set", "eth2", "address", PUBLIC]);
            twins.lan.attach("public", &format!("public{n}"));
        });
        join(&twins.guest, "eth0", &twins.lan, "guest");
        twins.lan.attach("guests", "guest");
        twins.guest.address("eth0", "10.1.1.20/24");
        twins.guest.ip(&["route", "add", "default", "via", "10.1.1.1"]);
        twins.apply(&super::documents::egress(0, "all", None, "", true, false));
        twins
    }

    /// Both for a VPC without tiers.
    pub fn vpc() -> Self {
        let twins = Self::wired(vpc, |twins, n| {
            let router = &twins.routers[n].space;
            join(router, "eth0", &twins._host, &format!("eth{n}"));
            join(router, "eth1", &twins.lan, &format!("public{n}"));
            router.ip(&["link", "set", "eth1", "address", PUBLIC]);
            twins.lan.attach("public", &format!("public{n}"));
        });
        let address = super::documents::address("203.0.113.30", 1, true).replace("02:00:00:00:00:01", PUBLIC);
        twins.apply(&address);
        twins
    }

    fn wired(line: fn(u8) -> String, wire: impl Fn(&Self, usize)) -> Self {
        let [lan, guest, outside, host] = ["lan", "guest", "outside", "host"].map(Namespace::new);
        let routers = [5, 6].map(|number| Router::new(number, &line(number)));
        let mut twins = Self { routers, lan, guest, outside, _host: host };
        ["guests", "public"].iter().for_each(|bridge| twins.lan.bridge(bridge));
        join(&twins.outside, "eth0", &twins.lan, "outside");
        twins.lan.attach("public", "outside");
        twins.outside.address("eth0", "203.0.113.1/24");
        [0, 1].iter().for_each(|n| wire(&twins, *n));
        twins.routers.iter_mut().for_each(Router::boot);
        twins
    }

    /// Brings tier N as `eth<N+1>` of the router at a place, without telling it.
    pub fn plug(&self, n: u8, place: usize) {
        let (bridge, router) = (format!("tier{n}"), &self.routers[place].space);
        if place == 0 {
            self.lan.bridge(&bridge);
            join(&self.guest, &format!("eth{n}"), &self.lan, &format!("guest{n}"));
            self.lan.attach(&bridge, &format!("guest{n}"));
            self.guest.address(&format!("eth{n}"), &format!("10.9.{n}.20/24"));
        }
        let (nic, port) = (format!("eth{}", n + 1), format!("tier{n}-{place}"));
        join(router, &nic, &self.lan, &port);
        router.ip(&["link", "set", &nic, "address", &tier_mac(n, place)]);
        self.lan.attach(&bridge, &port);
    }

    /// The document of tier N for the router at a place.
    pub fn tier(&self, n: u8, place: usize) -> String {
        let own = self.routers[place].number;
        super::documents::tier(n, n + 1, true).replace(&tier_mac(n, 0), &tier_mac(n, place)).replace(
            &format!(r#""router_guest_ip":"10.9.{n}.1""#),
            &format!(r#""router_guest_ip":"10.9.{n}.{own}""#),
        )
    }

    /// Sends a document to both.
    pub fn apply(&self, text: &str) {
        for router in &self.routers {
            let reply = router.send(text);
            assert_eq!((reply.code, reply.stderr.as_str()), (0, ""), "{text}");
        }
    }

    /// Waits until one is elected and the other one is not; tells the place of the elected one.
    pub fn elected(&self) -> usize {
        let mut place = 0;
        wait_until("an election", ELECTED, || {
            let roles = self.roles();
            place = usize::from(roles[1] == "PRIMARY");
            roles.contains(&"PRIMARY".to_owned()) && roles.contains(&"BACKUP".to_owned())
        });
        place
    }

    /// What both are.
    pub fn roles(&self) -> [String; 2] {
        [0, 1].map(|n| self.routers[n].role())
    }

    /// Power goes: everything that runs there ends, and no wire carries anything.
    pub fn cut_power(&mut self, place: usize) {
        for port in ["guests", "public", "tier1-", "tier2-"] {
            let _ = self.lan.sh(&format!("ip link set {port}{place} nomaster"));
        }
        let router = &mut self.routers[place];
        let out = std::process::Command::new("ip").args(["netns", "pids", router.space.name()]).output();
        for pid in String::from_utf8_lossy(&out.expect("ip").stdout).split_whitespace() {
            let _ = std::process::Command::new("kill").args(["-9", pid]).status();
        }
        router.halves.clear();
    }
}

/// The MAC of a router's NIC in tier N.
fn tier_mac(n: u8, place: usize) -> String {
    format!("02:00:00:00:0{place}:{:02}", n + 1)
}

/// A TCP server that tells each client its address, then repeats what it says; and the same by datagrams.
pub fn serve(space: &Namespace, address: &str) {
    let listener = space.inside(|| TcpListener::bind(address).expect("listener"));
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let _ = writeln!(stream, "{}", peer.ip());
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let socket = space.inside(|| UdpSocket::bind(address).expect("socket"));
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
}

/// A connection to [`serve`], and whom that took the client for.
pub fn connect(space: &Namespace, address: &str) -> Option<(TcpStream, String)> {
    let address: SocketAddr = address.parse().expect("address");
    let stream = space.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("time limit");
    let mut line = String::new();
    BufReader::new(stream.try_clone().expect("stream")).read_line(&mut line).ok()?;
    Some((stream, line.trim().to_owned()))
}

/// Whether it still carries something both ways.
pub fn alive(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && buffer == *b"ping"
}

/// Sends a datagram to [`serve`] every 10 ms while `errand` runs, and two seconds longer at most until answers come
/// again; tells the longest time without an answer.
pub fn longest_silence(space: &Namespace, address: &str, errand: impl FnOnce()) -> Duration {
    let socket = space.inside(|| UdpSocket::bind("0.0.0.0:0").expect("socket"));
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("time limit");
    let done = std::sync::atomic::AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let sender = socket.try_clone().expect("socket");
        let done = &done;
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let _ = sender.send_to(b"?", address);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let listener = scope.spawn(move || {
            let (mut last, mut longest, mut buffer) = (started, Duration::ZERO, [0; 64]);
            while !done.load(Ordering::Relaxed) {
                if socket.recv(&mut buffer).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest.max(last.elapsed())
        });
        errand();
        std::thread::sleep(Duration::from_secs(2));
        done.store(true, Ordering::Relaxed);
        listener.join().expect("listener")
    })
}
