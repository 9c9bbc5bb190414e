//! Core and serve together: documents in, answers to a guest out.

use std::{
    fs,
    fs::Permissions,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{
    paths::Paths,
    shim::wire::{self, Request},
};
use tests::lab::{Namespace, Process, binary, documents::tier, join, wait_until};

use crate::lab::{SOON, inside};

pub const LINE: &str = "template=domP name=r-7-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 \
    eth0ip=10.1.1.1 eth0mask=255.255.255.0 privateMtu=1450 domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 \
    eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=203.0.113.1\n";

const VPC: &str = "vpccidr=10.9.0.0/16 domain=vpc1.example dns1=203.0.113.1 name=r-12-VM eth0ip=169.254.10.20 \
    eth0mask=255.255.0.0 has_public_network=true type=vpcrouter disable_rp_filter=true source_nat_ip=203.0.113.20\n";

/// Writes what udhcpc was told, and takes the address.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr flush dev eth0; ip addr add "$ip/$mask" dev eth0; ip route add default via "$router"
echo "$ip $router $dns $domain $hostname $mtu $serverid $search" >"$OUT"
"#;

pub struct Pair {
    core: Process,
    _serve: Process,
    pub guest: Namespace,
    pub router: Namespace,
    pub outside: Namespace,
    _host: Namespace,
    pub paths: Paths,
    _root: tempfile::TempDir,
}

impl Pair {
    pub fn start(line: &str) -> Self {
        let spaces = ["router", "guest", "host", "out"].map(Namespace::new);
        let [router, guest, host, outside] = &spaces;
        for (nic, peer) in [("eth0", guest), ("eth1", host), ("eth2", outside)] {
            join(router, nic, peer, "eth0");
        }
        guest.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:0a"]);
        Self::boot(line, spaces)
    }

    /// The router of a VPC; the guest waits for its tier.
    fn vpc(line: &str) -> Self {
        let spaces = ["router", "guest", "host", "out"].map(Namespace::new);
        let [router, _, host, outside] = &spaces;
        for (nic, peer) in [("eth0", host), ("eth1", outside)] {
            join(router, nic, peer, "eth0");
        }
        Self::boot(line, spaces)
    }

    fn boot(line: &str, [router, guest, host, outside]: [Namespace; 4]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let paths = Paths::below(root.path());
        fs::create_dir_all(paths.cache()).unwrap();
        fs::create_dir_all(paths.at("/etc")).unwrap();
        fs::write(paths.cmdline(), line).unwrap();
        fs::write(paths.at("/etc/passwd"), "serve:x:65534:65534::/:/none\n").unwrap();
        let (core, serve) = (run(&router, root.path(), "core"), run(&router, root.path(), "serve"));
        let pair = Self { core, _serve: serve, guest, router, outside, _host: host, paths, _root: root };
        pair.wait_ready();
        pair
    }

    fn wait_ready(&self) {
        wait_until("the core", SOON, || {
            self.paths.boot_done().exists() && self.command(&["status"]).is_some()
        });
    }

    pub fn command(&self, words: &[&str]) -> Option<u8> {
        let request = Request::new(words.iter().copied());
        wire::call(&self.paths, &request, SOON).ok().map(|reply| reply.code)
    }

    /// What `status` says of the balanced rule of a port.
    pub fn status(&self, port: u16) -> String {
        let reply = wire::call(&self.paths, &Request::new(["status"]), SOON).expect("an answer of the core");
        let name = format!("balanced 203.0.113.10:{port}: ");
        reply.stdout.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap_or_default().to_owned()
    }

    /// A document as the host sends it. The answer comes when it is in force.
    pub fn apply(&self, name: &str, text: &str) {
        fs::write(self.paths.cache().join(name), text).unwrap();
        assert_eq!(self.command(&["update_config.py", name]), Some(0), "{name}: {text}");
    }

    /// Joins the guest to the router by a tier's NIC.
    fn plug(&self) {
        join(&self.router, "eth2", &self.guest, "eth0");
        self.router.ip(&["link", "set", "eth2", "address", "02:00:00:00:00:02"]);
        self.guest.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:0a"]);
    }

    pub fn entry(&self, address: &str, more: &str) {
        let gateway = format!("{}.1", address.rsplit_once('.').unwrap().0);
        let document = format!(
            r#"{{"host_name":"web","mac_address":"02:00:00:00:00:0a","ipv4_address":"{address}","ipv6_duid":"00:03:00:01:02:00:00:00:00:0a","default_gateway":"{gateway}","default_entry":true{more},"type":"dhcpentry"}}"#
        );
        self.apply("vm_dhcp_entry.json.1", &document);
    }

    /// What a client was told: address, router, resolvers, domain, name, MTU, server, domains to search.
    pub fn lease(&self) -> Option<String> {
        let at = |name: &str| self.paths.at(name).to_str().unwrap().to_owned();
        let (script, out) = (at("/udhcpc.sh"), at("/told"));
        fs::write(&script, SCRIPT).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let _ = fs::remove_file(&out);
        self.guest.sh(&format!("OUT={out} udhcpc -f -n -q -t 3 -T 1 -i eth0 -s {script} -O mtu -O search"));
        fs::read_to_string(&out).ok().map(|told| told.trim().to_owned())
    }

    fn curl(&self, more: &str) -> String {
        self.guest.ok(&format!("curl -s -m 20 {more}"))
    }
}

fn run(router: &Namespace, root: &Path, half: &str) -> Process {
    let mut command = router.command(binary("router"));
    command.arg(half).env("TRIVIUM_ROOT", root);
    Process::start(command)
}

#[test]
fn documents_become_answers_to_the_guest() {
    let mut pair = Pair::start(LINE);
    assert_eq!(pair.lease(), None, "nobody is known yet");
    pair.entry("10.1.1.20", "");
    let told = "10.1.1.20 10.1.1.1 10.1.1.1 203.0.113.1 cs1.example web 1450 10.1.1.1";
    assert_eq!(pair.lease().as_deref(), Some(told));
    assert_eq!(pair.guest.ok("dig +tries=1 +time=5 +short @10.1.1.1 web.cs1.example").trim(), "10.1.1.20");
    assert_eq!(pair.guest.ok("dig +tries=1 +time=5 +short @10.1.1.1 data-server").trim(), "10.1.1.1");

    pair.apply(
        "vm_metadata.json.2",
        r##"{"vm_ip_address":"10.1.1.20","vm_metadata":[["userdata","user-data","I2Nsb3VkLWNvbmZpZwo="],["metadata","instance-id","i-7"],["metadata","public-keys",null]],"type":"vmdata"}"##,
    );
    assert_eq!(pair.curl("http://10.1.1.1/latest/user-data"), "#cloud-config\n");
    assert_eq!(pair.curl("http://10.1.1.1/latest/meta-data/"), "instance-id\npublic-keys\n");
    assert_eq!(pair.curl("http://10.1.1.1/latest/meta-data/instance-id"), "i-7");

    pair.apply(
        "vm_password.json.3",
        r#"{"ip_address":"10.1.1.20","password":"Abc 12%3!","type":"vmpassword"}"#,
    );
    let ask = |pair: &Pair, word: &str| pair.curl(&format!("-H 'DomU_Request: {word}' http://10.1.1.1:8080"));
    assert_eq!(ask(&pair, "send_my_password"), "Abc 12%3!");

    // Another core: everything is still there, also the password.
    pair.core.kill();
    assert_eq!(pair.curl("http://10.1.1.1/latest/meta-data/instance-id"), "i-7", "while core is away");
    fs::remove_file(pair.paths.boot_done()).unwrap();
    pair.core = run(&pair.router, pair.paths.root(), "core");
    pair.wait_ready();
    assert_eq!(pair.lease().as_deref(), Some(told));
    assert_eq!(ask(&pair, "send_my_password"), "Abc 12%3!");
    assert_eq!(ask(&pair, "saved_password"), "saved_password");
    assert_eq!(ask(&pair, "send_my_password"), "saved_password");
    let kept = pair.guest.sh(&format!("grep -r 'Abc 12' {} | head -1", pair.paths.root().display()));
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "", "no copy is left on the disk");

    pair.entry("10.1.1.20", r#","remove":true"#);
    assert_eq!(pair.lease(), None, "removed at once");
}

#[test]
fn a_tier_is_served_when_its_nic_comes_and_comes_again() {
    let pair = Pair::vpc(VPC);
    pair.plug();
    pair.apply("guest_network.json.1", &tier(1, 2, true));
    pair.entry("10.9.1.20", "");
    pair.apply(
        "vm_metadata.json.2",
        r##"{"vm_ip_address":"10.9.1.20","vm_metadata":[["metadata","instance-id","i-8"]],"type":"vmdata"}"##,
    );
    let told = "10.9.1.20 10.9.1.1 10.9.1.1 192.0.2.53 tier1.example web 1450 10.9.1.1";
    for again in [false, true] {
        if again {
            pair.router.ip(&["link", "del", "eth2"]);
            pair.plug();
        }
        wait_until("a lease", SOON, || pair.lease().as_deref() == Some(told));
        for name in ["web.tier1.example", "web.vpc1.example"] {
            let answer = pair.guest.ok(&format!("dig +tries=1 +time=5 +short @10.9.1.1 {name}"));
            assert_eq!(answer.trim(), "10.9.1.20", "{name}");
        }
        assert_eq!(pair.curl("http://10.9.1.1/latest/meta-data/instance-id"), "i-8");
    }
}

#[test]
fn guests_are_told_the_router_alone_where_the_vpc_says_so() {
    let pair = Pair::vpc(&format!("{} userouteripresolver=true\n", VPC.trim_end()));
    pair.plug();
    pair.apply("guest_network.json.1", &tier(1, 2, true));
    pair.entry("10.9.1.20", "");
    let told = "10.9.1.20 10.9.1.1 10.9.1.1 tier1.example web 1450 10.9.1.1";
    wait_until("a lease", SOON, || pair.lease().as_deref() == Some(told));
}

#[test]
fn no_request_fails_while_data_and_tiers_come() {
    const LENGTH: usize = 8192;
    let pair = Pair::vpc(VPC);
    pair.plug();
    pair.apply("guest_network.json.1", &tier(1, 2, true));
    pair.entry("10.9.1.20", "");
    wait_until("a lease", SOON, || pair.lease().is_some());
    let data = |round: usize| {
        let text = STANDARD.encode([b'a' + u8::try_from(round % 26).unwrap()].repeat(LENGTH));
        for address in ["10.9.1.20", "10.9.1.30"] {
            pair.apply(
                "vm_metadata.json.2",
                &format!(
                    r#"{{"vm_ip_address":"{address}","vm_metadata":[["userdata","user-data","{text}"]],"type":"vmdata"}}"#
                ),
            );
        }
    };
    data(0);
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            inside(&pair.guest, move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut answer = Vec::new();
                    let mut stream = TcpStream::connect("10.9.1.1:80").expect("a connection");
                    stream.set_read_timeout(Some(SOON)).unwrap();
                    stream
                        .write_all(b"GET /latest/user-data HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        .unwrap();
                    stream.read_to_end(&mut answer).expect("an answer");
                    let body = &answer[answer.len().checked_sub(LENGTH).expect("a whole body")..];
                    assert!(answer.starts_with(b"HTTP/1.1 200 ") && body.iter().all(|byte| *byte == body[0]));
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let begun = Instant::now();
    for round in 1..=50 {
        let before = made.load(Ordering::Relaxed);
        data(round);
        if round == 25 {
            join(&pair.router, "eth3", &pair.outside, "eth1");
            pair.router.ip(&["link", "set", "eth3", "address", "02:00:00:00:00:03"]);
            pair.apply("guest_network.json.1", &tier(2, 3, true));
        }
        wait_until("requests between two pushes", SOON, || made.load(Ordering::Relaxed) >= before + 20);
    }
    let rate = made.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no request failed"));
    println!("{} requests, {rate:.0} a second, during 101 pushes", made.load(Ordering::Relaxed));
}

/// What cloud-init finds in the guest, who asks the router for names.
fn cloud_init(pair: &Pair) -> serde_json::Value {
    let tests = env!("CARGO_MANIFEST_DIR");
    let out = std::process::Command::new(format!("{tests}/unpack")).arg("cloud-init").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let folder = String::from_utf8(out.stdout).unwrap();
    let names = Path::new("/etc/netns").join(pair.guest.name());
    fs::create_dir_all(&names).unwrap();
    fs::write(names.join("resolv.conf"), "nameserver 10.1.1.1\n").unwrap();
    let script = format!("{tests}/suites/router-serve/cloudstack.py");
    let found = pair.guest.sh(&format!("/usr/bin/python3 {script} {}", folder.trim()));
    fs::remove_dir_all(names).unwrap();
    let text = String::from_utf8_lossy(&found.stdout);
    let error = String::from_utf8_lossy(&found.stderr);
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}{error}"))
}

#[test]
fn cloud_init_finds_its_data_and_takes_its_password_once() {
    let pair = Pair::start(LINE);
    pair.entry("10.1.1.20", "");
    assert!(pair.lease().is_some());
    pair.apply(
        "vm_metadata.json.2",
        r##"{"vm_ip_address":"10.1.1.20","vm_metadata":[["userdata","user-data","I2Nsb3VkLWNvbmZpZwpwYWNrYWdlczogW2FdCg=="],["metadata","service-offering","Small"],["metadata","availability-zone","zone-a"],["metadata","local-ipv4","10.1.1.20"],["metadata","local-hostname","web"],["metadata","public-hostname","203.0.113.10"],["metadata","instance-id","6f0e7d6b"],["metadata","vm-id","6f0e7d6b"],["metadata","public-keys","ssh-ed25519 AAAAC3Nz user@host"],["metadata","cloud-identifier","CloudStack-{7}"],["metadata","hypervisor-host-name",""]],"type":"vmdata"}"##,
    );
    pair.apply(
        "vm_password.json.3",
        r#"{"ip_address":"10.1.1.20","password":"Abc 12%3!","type":"vmpassword"}"#,
    );
    let found = cloud_init(&pair);
    assert_eq!(found["found"], true, "{found}");
    assert_eq!(
        (&found["address"], &found["id"], &found["zone"]),
        (&"10.1.1.1".into(), &"6f0e7d6b".into(), &"zone-a".into())
    );
    assert_eq!(found["user_data"], "#cloud-config\npackages: [a]\n");
    assert_eq!(found["metadata"]["local-hostname"], "web");
    assert!(
        found["metadata"]["public-keys"].to_string().contains("ssh-ed25519 AAAAC3Nz user@host"),
        "{found}"
    );
    assert_eq!(found["config"]["password"], "Abc 12%3!");
    let again = cloud_init(&pair);
    assert_eq!((&again["found"], &again["id"]), (&true.into(), &"6f0e7d6b".into()));
    assert!(again["config"].get("password").is_none(), "{again}");
}
