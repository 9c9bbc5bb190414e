//! The wires: guests a and b and the router's eth0 on one bridge, a host at eth1, the outside at eth2 and,
//! with an address of its own network, at eth3.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use common::{
    paths::Paths,
    shim::wire::{self, Reply, Request},
};
use tests::lab::{Namespace, Process, binary, join, wait_until};

/// Boot arguments of the router.
pub(crate) const LINE: &str = "template=domP name=r-7-VM authorized_key=c3NoLXJzYSBBQUFB eth2ip=203.0.113.10 \
    eth2mask=255.255.255.0 gateway=203.0.113.1 publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 \
    privateMtu=1500 domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.10.20 \
    eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 logrotatefrequency=*:00:00\n";

/// Boot arguments of the router of a VPC.
pub(crate) const VPC: &str = "vpccidr=10.9.0.0/16 domain=vpc1.example publicMtu=1500 dns1=192.0.2.53 template=domP \
    name=r-12-VM eth0ip=169.254.10.20 eth0mask=255.255.0.0 has_public_network=true type=vpcrouter \
    disable_rp_filter=true logrotatefrequency=*:00:00 source_nat_ip=203.0.113.20\n";

/// Time in which an answer comes if one comes at all.
pub(crate) const ANSWER: Duration = Duration::from_millis(1500);

pub(crate) struct Lab {
    pub(crate) core: Process,
    pub(crate) router: Namespace,
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
    pub(crate) host: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) paths: Paths,
    _lan: Namespace,
    _root: tempfile::TempDir,
}

impl Lab {
    /// Lays the wires of an isolated network and starts the core; it is in force when this returns.
    pub(crate) fn start() -> Self {
        Self::isolated(LINE)
    }

    /// The same with other boot arguments.
    pub(crate) fn isolated(line: &str) -> Self {
        let [router, lan, a, b, host, outside] =
            ["router", "lan", "a", "b", "host", "outside"].map(Namespace::new);
        lan.bridge("br0");
        for (peer, port) in [(&router, "port-r"), (&a, "port-a"), (&b, "port-b")] {
            join(peer, "eth0", &lan, port);
            lan.attach("br0", port);
        }
        join(&router, "eth1", &host, "eth0");
        join(&router, "eth2", &outside, "eth0");
        for (guest, ip) in [(&a, "10.1.1.20/24"), (&b, "10.1.1.21/24")] {
            guest.address("eth0", ip);
            guest.ip(&["route", "add", "default", "via", "10.1.1.1"]);
        }
        let lab = Self::boot(line, router, [a, b, host, outside], lan);
        lab.host.ip(&["route", "add", "10.1.1.0/24", "via", "169.254.10.20"]);
        lab.outside.ip(&["addr", "add", "203.0.113.50/24", "dev", "eth0"]);
        // Someone on the public network who knows where the guests are.
        lab.outside.ip(&["route", "add", "10.1.1.0/24", "via", "203.0.113.10"]);
        lab
    }

    /// Lays the wires of a VPC: the host at eth0, the outside at eth1. The guests a (10.9.1.10) and b
    /// (10.9.2.10) wait for their tiers, which [`Lab::plug`] brings.
    pub(crate) fn vpc() -> Self {
        Self::vpc_of(VPC)
    }

    /// The same with other boot arguments.
    pub(crate) fn vpc_of(line: &str) -> Self {
        let [router, lan, a, b, host, outside] =
            ["router", "lan", "a", "b", "host", "outside"].map(Namespace::new);
        join(&router, "eth0", &host, "eth0");
        join(&router, "eth1", &outside, "eth0");
        let lab = Self::boot(line, router, [a, b, host, outside], lan);
        lab.outside.ip(&["route", "add", "10.9.0.0/16", "via", "203.0.113.20"]);
        lab.host.ip(&["route", "add", "10.9.0.0/16", "via", "169.254.10.20"]);
        lab
    }

    /// Brings a NIC of the router of a VPC, joined to `eth0` of another namespace.
    pub(crate) fn plug(&self, nic: u8, peer: &Namespace, ip: &str, gateway: &str) {
        let (name, mac) = (format!("eth{nic}"), format!("02:00:00:00:00:0{nic}"));
        let ends = ["link", "add", &name, "netns", self.router.name(), "address", &mac, "type", "veth"];
        let peer_end = ["peer", "name", "eth0", "netns", peer.name()];
        assert!(std::process::Command::new("ip").args(ends).args(peer_end).status().expect("ip").success());
        peer.address("eth0", ip);
        peer.ip(&["route", "add", "default", "via", gateway]);
    }

    fn boot(line: &str, router: Namespace, others: [Namespace; 4], lan: Namespace) -> Self {
        let [a, b, host, outside] = others;
        let nics = router.ok("ls /sys/class/net");
        for nic in nics.split_whitespace().filter(|nic| nic.starts_with("eth")) {
            router.ip(&["link", "set", nic, "address", &format!("02:00:00:00:00:0{}", &nic[3..])]);
        }
        host.address("eth0", "169.254.0.1/16");
        outside.address("eth0", "203.0.113.1/24");
        let root = tempfile::tempdir().expect("folder");
        let paths = Paths::below(root.path());
        fs::create_dir_all(paths.cache()).expect("folder");
        fs::write(paths.cmdline(), line).expect("boot arguments");
        for folder in ["/etc", "/var/log"] {
            fs::create_dir_all(paths.at(folder)).expect("folder");
        }
        fs::write(paths.at("/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("accounts");
        let core = core(&router, root.path());
        let lab = Self { core, router, a, b, host, outside, paths, _lan: lan, _root: root };
        lab.wait_ready();
        lab
    }

    /// Starts another core where the one before has gone.
    pub(crate) fn restart(&mut self) {
        let _ = fs::remove_file(self.paths.boot_done());
        self.core = core(&self.router, self.paths.root());
        self.wait_ready();
    }

    fn wait_ready(&self) {
        wait_until("the core", Duration::from_secs(60), || {
            self.paths.boot_done().exists() && self.try_run(&["status"]).is_some()
        });
    }

    fn try_run(&self, words: &[&str]) -> Option<Reply> {
        let request = Request::new(words.iter().copied());
        wire::call(&self.paths, &request, Duration::from_secs(120)).ok()
    }

    /// Gives the core a command as the shim does.
    pub(crate) fn run(&self, words: &[&str]) -> Reply {
        self.try_run(words).expect("an answer of the core")
    }

    /// Puts a document where the host puts it, and has it applied.
    pub(crate) fn send(&self, name: &str, text: &str) -> Reply {
        self.try_send(name, text).expect("an answer of the core")
    }

    /// The same where nobody may be there to answer.
    pub(crate) fn try_send(&self, name: &str, text: &str) -> Option<Reply> {
        let name = self.put(name, text);
        self.try_run(&["update_config.py", &name])
    }

    /// Puts a document where the host puts it; tells its name.
    pub(crate) fn put(&self, name: &str, text: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}.json.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        fs::write(self.paths.cache().join(&name), text).expect("document");
        name
    }

    /// The same for a document that must be fine.
    pub(crate) fn apply(&self, name: &str, text: &str) {
        let reply = self.send(name, text);
        assert_eq!((reply.code, reply.stderr.as_str()), (0, ""), "{text}");
    }

    /// Packet filter, addresses, routes and rules as text, without counters and handles.
    pub(crate) fn dump(&self) -> String {
        // Seals are names of tables that were, of no effect: the youngest one tells a core what it finds.
        let filter = self.router.ok("nft -s list ruleset | sed '/chain sealed_/,/}/d; /^$/d'");
        let links = self.router.ok("ip -4 -o addr show; ip rule; ip -4 route show table all");
        filter + &links
    }
}

fn core(router: &Namespace, root: &Path) -> Process {
    let mut command = router.command(binary("router"));
    command.arg("core").env("TRIVIUM_ROOT", root);
    Process::start(command)
}

/// Does something in a namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(namespace: &Namespace, errand: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(Path::new("/run/netns").join(namespace.name())).expect("namespace");
    std::thread::scope(|scope| {
        let errand = scope.spawn(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .expect("to enter the namespace");
            errand()
        });
        errand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A TCP server in a namespace: tells each client the client's address, then repeats what it says.
pub(crate) fn serve(namespace: &Namespace, address: &str) {
    serve_as(namespace, address, "");
}

/// The same, but it tells its own name, where it has one.
pub(crate) fn serve_as(namespace: &Namespace, address: &str, name: &'static str) {
    let listener = inside(namespace, || TcpListener::bind(address).expect("listener"));
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let _ = match name {
                    "" => writeln!(stream, "{}", peer.ip()),
                    name => writeln!(stream, "{name}"),
                };
                while let Ok(length) = stream.read(&mut buffer) {
                    if length == 0 || stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A UDP server in a namespace: answers every datagram with the sender's address.
pub(crate) fn serve_udp(namespace: &Namespace, address: &str) {
    let socket = inside(namespace, || UdpSocket::bind(address).expect("socket"));
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// A connection and whom the server took the client for.
pub(crate) fn connect(namespace: &Namespace, address: &str) -> Option<(TcpStream, String)> {
    let address: SocketAddr = address.parse().expect("address");
    let stream = inside(namespace, || TcpStream::connect_timeout(&address, ANSWER)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
    let mut line = String::new();
    BufReader::new(stream.try_clone().expect("stream")).read_line(&mut line).ok()?;
    Some((stream, line.trim().to_owned()))
}

/// Whom a server takes a client for; `None` where there is no answer.
pub(crate) fn seen(namespace: &Namespace, address: &str) -> Option<String> {
    connect(namespace, address).map(|(_, seen)| seen)
}

/// That none of these addresses lets a client in; all are tried at once.
pub(crate) fn none(namespace: &Namespace, addresses: &[&str]) {
    std::thread::scope(|scope| {
        let tries: Vec<_> =
            addresses.iter().map(|to| scope.spawn(move || (to, seen(namespace, to)))).collect();
        for one in tries {
            let (to, seen) = one.join().expect("a try");
            assert_eq!(seen, None, "{to}");
        }
    });
}

/// The same by one datagram.
pub(crate) fn seen_udp(namespace: &Namespace, address: &str) -> Option<String> {
    seen_udp_from(namespace, "0.0.0.0", address)
}

/// The same from one of the client's addresses.
pub(crate) fn seen_udp_from(namespace: &Namespace, source: &str, address: &str) -> Option<String> {
    let socket = inside(namespace, || UdpSocket::bind(format!("{source}:0")).expect("socket"));
    socket.set_read_timeout(Some(ANSWER)).expect("time limit");
    inside(namespace, || socket.send_to(b"?", address)).ok()?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether a connection still carries something both ways.
pub(crate) fn alive(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && buffer == *b"ping"
}

/// Whether an address answers ping.
pub(crate) fn pings(namespace: &Namespace, address: &str) -> bool {
    namespace.sh(&format!("ping -c 1 -W 1 -n -q {address}")).status.success()
}
