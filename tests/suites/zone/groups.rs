//! Security groups, with packets: namespaces as guests behind the taps of a bridge that `manage host` guards.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tests::lab::{Namespace, Process, join, wait_until};

use crate::{LIMIT, Lab, ZONE};

/// Time for a packet that does not come.
const PATIENCE: Duration = Duration::from_millis(600);

const NETWORK: &str = r#"
[[network]]
name = "basic"
kind = "basic"
bridge = "br-guest"
cidr = "10.2.0.0/24"
gateway = "10.2.0.1"
router = "10.2.0.2"
domain = "basic.example"
[[security_group]]
name = "web"
[[security_group.ingress]]
protocol = "tcp"
ports = "80"
[[security_group.ingress]]
protocol = "icmp"
type = 8
from = ["10.2.0.0/24"]
[[security_group]]
name = "db"
[[security_group.ingress]]
protocol = "tcp"
ports = "5432"
groups = ["web"]
[[security_group.egress]]
protocol = "tcp"
ports = "443"
to = ["10.2.0.0/24"]
"#;

/// `[[port]]` of the guest of that letter, behind the tap `tap-LETTER`.
fn port(letter: char, groups: &str) -> String {
    format!(
        "[[port]]\nname = \"{letter}\"\nnetwork = \"basic\"\nhost = \"host1\"\ntap = \"tap-{letter}\"\n\
         mac = \"{}\"\naddress = \"{}\"\naddresses = [\"10.2.0.{}\"]\ngroups = [{groups}]\n",
        mac(letter),
        address(letter),
        last(letter) + 100
    )
}

fn last(letter: char) -> u8 {
    letter as u8 - b'a' + 10
}

fn address(letter: char) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, last(letter))
}

fn mac(letter: char) -> String {
    format!("02:00:00:00:00:{:02x}", last(letter))
}

struct Guests {
    lab: Lab,
    serve: Process,
    host: Process,
    /// In the web, at the database, and in no group.
    a: Namespace,
    b: Namespace,
    c: Namespace,
    /// Not guarded: 10.2.0.1.
    outside: Namespace,
    /// The network's router: 10.2.0.2.
    router: Namespace,
}

impl Guests {
    fn new() -> Self {
        let lab = Lab::new();
        lab.net.bridge("br-guest");
        write(&lab, &zone("\"web\"", "\"db\"", "", ""));
        let serve = lab.serve();
        let host = lab.host("host1");
        lab.wait_up("host1");
        wait_until("the rules stand before the taps are there", LIMIT, || taps(&lab).contains("tap-c"));
        let place = |role: &str, address: Ipv4Addr, mac: &str| {
            let net = Namespace::new(role);
            let tap = format!("tap-{role}");
            join(&lab.net, &tap, &net, "eth0");
            net.ip(&["link", "set", "eth0", "down"]);
            net.ip(&["link", "set", "eth0", "address", mac]);
            net.address("eth0", &format!("{address}/24"));
            lab.net.attach("br-guest", &tap);
            net
        };
        let [a, b, c] =
            ['a', 'b', 'c'].map(|letter| place(&letter.to_string(), address(letter), &mac(letter)));
        let outside = place("out", Ipv4Addr::new(10, 2, 0, 1), "02:00:00:00:01:01");
        let router = place("r", Ipv4Addr::new(10, 2, 0, 2), "02:00:00:00:01:02");
        Self { lab, serve, host, a, b, c, outside, router }
    }

    /// Changes the zone file, and waits until the packet filter says so.
    fn apply(&self, text: &str, has: impl Fn(&str) -> bool) -> String {
        write(&self.lab, text);
        let plan = self.lab.ask(&["plan"]).unwrap().to_string();
        self.lab.ask(&["apply", "--yes"]).unwrap();
        wait_until("the host has taken it", LIMIT, || has(&rules(&self.lab)));
        plan
    }
}

/// The zone with the groups of `a`, `b` and `c`, and more rules.
fn zone(a: &str, b: &str, c: &str, more: &str) -> String {
    // No host has room for the router, which one of the namespaces plays.
    let head = ZONE.replacen(
        "address = \"192.168.100.1\"\n[[host]]",
        "address = \"192.168.100.1\"\nmemory = 1\n[[host]]",
        1,
    );
    format!("{head}{NETWORK}{more}{}{}{}", port('a', a), port('b', b), port('c', c))
}

fn write(lab: &Lab, text: &str) {
    fs::write(lab.path("zone.toml"), text).unwrap();
}

/// What the kernel has, with the numbers that it gave to each rule.
fn rules(lab: &Lab) -> String {
    String::from_utf8(lab.net.sh("nft -a list ruleset").stdout).unwrap()
}

fn members(lab: &Lab, group: &str) -> String {
    String::from_utf8(lab.net.sh(&format!("nft list set bridge trivium {group}/4")).stdout).unwrap()
}

fn taps(lab: &Lab) -> String {
    String::from_utf8(lab.net.sh("nft list set bridge trivium taps").stdout).unwrap()
}

/// Whether a connection can be made.
fn reaches(from: &Namespace, to: impl Into<SocketAddr>) -> bool {
    let to = to.into();
    from.inside(|| TcpStream::connect_timeout(&to, PATIENCE).is_ok())
}

fn pings(from: &Namespace, to: &str) -> bool {
    from.sh(&format!("ping -n -c 1 -W 1 {to}")).status.success()
}

/// Servers on these ports, on all addresses of both families; connections are made without being accepted.
fn listen(at: &Namespace, ports: &[u16]) -> Vec<TcpListener> {
    at.inside(|| ports.iter().map(|port| TcpListener::bind(("::", *port)).unwrap()).collect())
}

#[test]
fn groups_say_what_guests_may_get_and_send() {
    let mut it = Guests::new();
    let _servers = [
        listen(&it.a, &[80, 81]),
        listen(&it.b, &[80, 5432]),
        listen(&it.c, &[80]),
        listen(&it.outside, &[443, 8080]),
    ];
    let at = |letter, port| (address(letter), port);
    let gateway = |port| (Ipv4Addr::new(10, 2, 0, 1), port);

    assert!(reaches(&it.outside, at('a', 80)), "{}", rules(&it.lab));
    assert!(!reaches(&it.outside, at('a', 81)) && !reaches(&it.outside, at('b', 80)));
    assert!(pings(&it.outside, "10.2.0.10") && !pings(&it.outside, "10.2.0.11"));
    assert!(!pings(&it.outside, "fe80::ff:fe00:b%eth0"), "IPv6 is judged as well");
    let number = it.outside.ok("ip -o link show eth0");
    let number = number.split(':').next().unwrap().parse().unwrap();
    let local = SocketAddrV6::new("fe80::ff:fe00:a".parse().unwrap(), 80, 0, number);
    assert!(reaches(&it.outside, local), "from anywhere by IPv6");
    // From group to group.
    assert!(reaches(&it.a, at('b', 5432)) && !reaches(&it.c, at('b', 5432)));
    assert!(!reaches(&it.outside, at('b', 5432)) && !reaches(&it.a, at('b', 80)));
    // What leaves: everything, or what is named. Replies pass.
    assert!(reaches(&it.a, gateway(8080)) && reaches(&it.c, gateway(8080)));
    assert!(reaches(&it.b, gateway(443)) && !reaches(&it.b, gateway(8080)));
    // The router is asked for names and addresses, whatever the groups say; nobody else is.
    assert!(answers(&it.b, &it.router, 53) && answers(&it.b, &it.router, 67));
    assert!(!answers(&it.b, &it.outside, 53) && !answers(&it.b, &it.router, 54));

    // The manager's word for it.
    let group = it.lab.ask(&["group", "show", "db"]).unwrap();
    assert_eq!(group["ingress"][0], "tcp 5432 from group web");
    assert_eq!(group["members"][0]["name"], "b");
    assert_eq!(it.lab.ask(&["group", "list"]).unwrap().as_array().unwrap().len(), 2);
    assert!(it.lab.ask(&["group", "show", "x"]).unwrap_err().contains("no [[security_group]] \"x\""));

    // A new member of the web is an element, and nothing else is touched.
    let before = rules(&it.lab);
    let plan = it
        .apply(&zone("\"web\"", "\"db\"", "\"web\"", ""), |_| members(&it.lab, "web").contains("10.2.0.12"));
    assert!(plan.contains("~ port c: joins security group web"), "{plan}");
    assert!(reaches(&it.c, at('b', 5432)) && reaches(&it.outside, at('c', 80)));
    let numbered = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.contains("# handle") && !line.contains("sealed"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(numbered(&before), numbered(&rules(&it.lab)), "no rule was written anew");

    // Nothing changes where nothing differs: not by a second look, and not by a restart, during which all holds.
    let before = rules(&it.lab);
    it.lab.ask(&["apply", "--yes"]).unwrap();
    it.host.kill();
    assert!(!reaches(&it.outside, at('a', 81)) && reaches(&it.outside, at('a', 80)));
    it.host = it.lab.host("host1");
    it.lab.wait_up("host1");
    it.serve.kill();
    it.serve = it.lab.serve();
    it.lab.wait_up("host1");
    assert_eq!(before, rules(&it.lab));

    // Rules come and go.
    let more = "[[security_group.egress]]\nprotocol = \"tcp\"\nports = \"8080\"\n";
    let plan = it.apply(&zone("", "\"db\"", "", more), |rules| rules.contains("db egress 2"));
    assert!(plan.contains("~ security group db: + egress tcp 8080 to anywhere"), "{plan}");
    assert!(plan.contains("~ port a: leaves security group web"), "{plan}");
    assert!(reaches(&it.b, gateway(8080)) && !reaches(&it.outside, at('a', 80)));

    // Somebody flushes all rules: they come back.
    it.lab.net.ok("nft flush ruleset");
    assert!(reaches(&it.outside, at('a', 81)));
    wait_until("the rules are put there again", LIMIT, || taps(&it.lab).contains("tap-a"));
    assert!(!reaches(&it.outside, at('a', 81)));

    // What the file has no longer is guarded no longer; with the last one the table goes.
    it.apply(ZONE, |rules| !rules.contains("trivium"));
    assert!(reaches(&it.outside, at('a', 81)));
}

/// Whether a datagram of `from` to that port is heard at `at`, and its answer back.
fn answers(from: &Namespace, at: &Namespace, port: u16) -> bool {
    let server = at.inside(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to = at.ok("ip -4 -o addr show eth0");
    let to = to.split_whitespace().find_map(|word| word.split_once('/')).unwrap().0.to_owned();
    let client = from.inside(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"question", (to.as_str(), port)).unwrap();
    let mut bytes = [0; 64];
    let Ok((_, asker)) = server.recv_from(&mut bytes) else { return false };
    server.send_to(b"answer", asker).unwrap();
    client.recv_from(&mut bytes).is_ok()
}

/// Ends the talk when it is dropped, also by a check that fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_change_costs_no_packet() {
    let it = Guests::new();
    let server = it.outside.inside(|| UdpSocket::bind("10.2.0.1:7").unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = it.a.inside(|| UdpSocket::bind("10.2.0.10:7777").unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&done);
        scope.spawn(|| {
            let mut bytes = [0; 64];
            while !done.load(Ordering::Acquire) {
                match server.recv_from(&mut bytes) {
                    Ok((count, from)) => drop(server.send_to(&bytes[..count], from)),
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                        "{error}"
                    ),
                }
            }
        });
        let asked = scope.spawn(|| {
            let mut count = 0_u32;
            let mut bytes = [0; 64];
            while !done.load(Ordering::Acquire) {
                client.send_to(&count.to_be_bytes(), "10.2.0.1:7").unwrap();
                let length =
                    client.recv(&mut bytes).unwrap_or_else(|error| panic!("answer {count} is lost: {error}"));
                assert_eq!(bytes[..length], count.to_be_bytes());
                count += 1;
            }
            count
        });
        for turn in 0..10 {
            let port = 9000 + turn;
            let more = format!("[[security_group.ingress]]\nprotocol = \"udp\"\nports = \"{port}\"\n");
            let c = if turn % 2 == 0 { "\"web\", \"db\"" } else { "" };
            it.apply(&zone("\"web\"", "\"db\"", c, &more), |rules| rules.contains(&format!("dport {port} ")));
        }
        done.store(true, Ordering::Release);
        println!("{} words and answers during ten changes, none lost", asked.join().unwrap());
    });
}

/// Sends a frame, or writes down each that it hears.
const FRAMES: &str = r#"
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(("eth0", 3))
if sys.argv[1] == "hear":
    print("hears", flush=True)
    while True: print(s.recv(2048).hex(), flush=True)
for frame in sys.argv[2:]: s.send(bytes.fromhex(frame))
"#;

/// Frames of a guest, as hexadecimal digits.
mod frame {
    /// To everybody, from the MAC address that ends so, of a kind, with content.
    pub(super) fn of(mac: u8, kind: &str, content: &str) -> String {
        format!("ffffffffffff{}{kind}{content}", self::mac(mac))
    }

    pub(super) fn mac(last: u8) -> String {
        format!("0200000000{last:02x}")
    }

    fn four(last: u8) -> String {
        format!("0a0200{last:02x}")
    }

    /// An answer to a question that nobody asked: these addresses belong together.
    pub(super) fn arp(sender: u8, told: u8, ip: u8, mark: u8) -> String {
        let told = format!("0001080006040002{}{}", mac(told), four(ip));
        of(sender, "0806", &format!("{told}ffffffffffff{}", four(mark)))
    }

    /// UDP with ports and one byte of content, the checksum left out.
    pub(super) fn udp(ip: &str, from: u16, to: u16, mark: u8) -> String {
        let head = format!("4500001d0000000040110000{ip}ffffffff");
        let mut sum: u32 = (0..10).map(|n| u32::from_str_radix(&head[n * 4..n * 4 + 4], 16).unwrap()).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        let head = format!("{}{:04x}{}", &head[..20], !sum & 0xffff, &head[24..]);
        format!("{head}{from:04x}{to:04x}00090000{mark:02x}")
    }

    pub(super) fn ip(sender: u8, source: u8, from: u16, to: u16, mark: u8) -> String {
        of(sender, "0800", &udp(&four(source), from, to, mark))
    }

    /// An ICMPv6 message to all nodes, its checksum right.
    pub(super) fn six(sender: u8, source: &str, kind: u8, rest: &str, mark: u8) -> String {
        let target = "ff020000000000000000000000000001";
        let body = format!("{kind:02x}000000{rest}{mark:02x}00");
        let length = body.len() / 2;
        let all = format!("{source}{target}{length:08x}0000003a{body}");
        let mut sum: u32 =
            (0..all.len() / 4).map(|n| u32::from_str_radix(&all[n * 4..n * 4 + 4], 16).unwrap()).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let body = format!("{kind:02x}00{:04x}{}", !sum & 0xffff, &body[8..]);
        of(sender, "86dd", &format!("60000000{length:04x}3aff{source}{target}{body}"))
    }

    pub(super) fn local(last: u8) -> String {
        format!("fe80000000000000000000fffe0000{last:02x}")
    }
}

#[test]
fn a_guest_cannot_pass_for_somebody_else() {
    let it = Guests::new();
    let script = it.lab.path("frames.py");
    fs::write(&script, FRAMES).unwrap();
    let script = script.to_str().unwrap().to_owned();
    // At `outside`, which hears all that leaves the bridge.
    let mut ear = it.outside.spawn("python3", &[&script, "hear"]);
    ear.wait_line("hears", LIMIT);
    let (own, other) = (last('a'), last('c'));
    let (mine, theirs) = (frame::local(own), frame::local(other));
    let advert = |target: &str| format!("20000000{target}");
    let bad = [
        ("another MAC address", frame::ip(other, own, 4000, 4000, 0xe1)),
        ("another address", frame::ip(own, other, 4000, 4000, 0xe2)),
        ("an ARP sender's MAC address", frame::arp(own, other, own, 0xe3)),
        ("an ARP sender's address", frame::arp(own, own, other, 0xe4)),
        ("the gateway's ARP", frame::arp(own, own, 1, 0xe5)),
        ("a DHCP server", frame::ip(own, own, 67, 68, 0xe6)),
        ("a router's advertisement", frame::six(own, &mine, 134, &format!("40000708{:016x}", 0), 0xe7)),
        ("a redirect", frame::six(own, &mine, 137, &advert(&theirs), 0xe8)),
        ("another's IPv6 address", frame::six(own, &theirs, 136, &advert(&theirs), 0xe9)),
        ("another's advertisement", frame::six(own, &mine, 136, &advert(&theirs), 0xea)),
        (
            "a VLAN tag",
            frame::of(own, "81000005", &format!("0800{}", frame::udp("0a02000a", 4000, 4000, 0xeb))),
        ),
        ("a spanning tree", frame::of(own, "0026", "424203000000eceeeeec")),
    ];
    let good = [
        ("its own ARP", frame::arp(own, own, own, 0xa1)),
        ("ARP of its other address", frame::arp(own, own, own + 100, 0xa2)),
        ("its other address", frame::ip(own, own + 100, 4000, 4000, 0xa3)),
        ("a question for an address", frame::of(own, "0800", &frame::udp("00000000", 68, 67, 0xa4))),
        ("its own advertisement", frame::six(own, &mine, 136, &advert(&mine), 0xa5)),
        ("its own packets", frame::ip(own, own, 4000, 4000, 0xa6)),
    ];
    let frames: Vec<&str> = bad.iter().chain(&good).map(|(_, frame)| frame.as_str()).collect();
    let words: Vec<String> = ["send"].into_iter().chain(frames).map(|word| format!("'{word}'")).collect();
    it.a.ok(&format!("python3 {script} {}", words.join(" ")));
    // Their ends tell them apart; who hears a tag has it taken off before.
    let heard = |frame: &str| ear.output().contains(&frame[frame.len() - 18..]);
    for (what, frame) in &good {
        wait_until(&format!("{what}: {frame}"), LIMIT, || heard(frame));
    }
    for (what, frame) in &bad {
        assert!(!heard(frame), "{what} went through: {frame}");
    }
    let learned = it.lab.net.ok("bridge fdb show br br-guest");
    let where_is = |last: u8| {
        let mac = format!("02:00:00:00:00:{last:02x} dev ");
        learned
            .lines()
            .find_map(|line| line.strip_prefix(&mac))
            .map(|rest| rest.split(' ').next().unwrap().to_owned())
    };
    assert_ne!(where_is(other), Some("tap-a".to_owned()), "the bridge believed it: {learned}");
    // The same frames from somebody who is not guarded are heard: the frames themselves are right.
    it.router.ok(&format!("python3 {script} {}", words.join(" ")));
    for (what, frame) in bad.iter().filter(|(what, _)| *what != "a spanning tree") {
        wait_until(&format!("{what} of a NIC that is not guarded: {frame}"), LIMIT, || heard(frame));
    }
}
