//! Single DHCP messages, as no well-behaved client sends them or as none lets one see: what is answered,
//! with what, and that it is whole on the wire.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tests::lab::{Namespace, Process, wait_until};

use crate::lab::{Lab, SOON, host, inside, subnet};

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;
/// Guest A, and a machine that nobody knows.
const A: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// A message of a client. With `relay` it comes by a relay agent at 10.9.1.10, else from that address itself.
fn message(kind: u8, mac: [u8; 6], xid: u8, relay: bool, more: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..8].copy_from_slice(&[1, 1, 6, 0, 0, 0, 0, xid]);
    let at = if relay { 24 } else { 12 };
    message[at..at + 4].copy_from_slice(&[10, 9, 1, 10]);
    message[28..34].copy_from_slice(&mac);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    message.extend(more);
    message.push(255);
    message
}

/// What an answer says under an option.
fn option(answer: &[u8], code: u8) -> Option<&[u8]> {
    let mut rest = &answer[240..];
    while let [at, length, tail @ ..] = rest {
        let (value, tail) = tail.split_at_checked(usize::from(*length))?;
        if *at == code {
            return Some(value);
        }
        rest = tail;
    }
    None
}

/// Sends messages to the router and hears the first answer, at the port where a relay or a client listens.
fn first_answer(guest: &Namespace, port: u16, messages: Vec<Vec<u8>>) -> Vec<u8> {
    let errand = inside(guest, move || {
        let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        for message in messages {
            socket.send_to(&message, "10.9.1.1:67").unwrap();
        }
        let mut buffer = [0; 1500];
        let (length, _) = socket.recv_from(&mut buffer).expect("an answer");
        buffer[..length].to_vec()
    });
    errand.join().unwrap()
}

#[test]
fn strangers_hear_nothing_whatever_they_ask() {
    let lab = Lab::new();
    lab.address_guests();
    let own = [50, 4, 10, 9, 1, 77, 54, 4, 10, 9, 1, 1];
    let foreign = [50, 4, 192, 0, 2, 9];
    let mut messages = vec![
        message(DISCOVER, STRANGER, 1, true, &[]),
        message(REQUEST, STRANGER, 2, true, &own),
        message(REQUEST, STRANGER, 3, true, &foreign),
        message(REQUEST, STRANGER, 4, false, &[]),
        message(INFORM, STRANGER, 5, true, &[]),
    ];
    // Messages are answered in order: had any of these an answer, it would be the first.
    messages.push(message(DISCOVER, A, 9, true, &[]));
    let answer = first_answer(&lab.a, 67, messages);
    assert_eq!((answer[7], option(&answer, 53)), (9, Some(&[OFFER][..])));
}

#[test]
fn another_address_is_refused_and_a_client_with_its_own_is_told_the_rest() {
    let lab = Lab::new();
    lab.address_guests();
    let wrong = message(REQUEST, A, 1, true, &[50, 4, 10, 9, 1, 77, 54, 4, 10, 9, 1, 1]);
    let answer = first_answer(&lab.a, 67, vec![wrong]);
    assert_eq!(option(&answer, 53), Some(&[NAK][..]));
    assert_eq!(answer[16..20], [0, 0, 0, 0], "no address");
    let inform = message(INFORM, A, 2, false, &[]);
    let answer = first_answer(&lab.a, 68, vec![inform]);
    assert_eq!(option(&answer, 53), Some(&[ACK][..]));
    assert_eq!((&answer[16..20], option(&answer, 51)), (&[0, 0, 0, 0][..], None), "no lease");
    assert_eq!(option(&answer, 3), Some(&[10, 9, 1, 1][..]));
    assert_eq!(option(&answer, 26), Some(&1450_u16.to_be_bytes()[..]));
}

#[test]
fn windows_gets_its_vendor_option_and_others_do_not() {
    let lab = Lab::new();
    lab.address_guests();
    let class = [60, 8, b'M', b'S', b'F', b'T', b' ', b'5', b'.', b'0'];
    let answer = first_answer(&lab.a, 67, vec![message(DISCOVER, A, 1, true, &class)]);
    assert_eq!(option(&answer, 43), Some(&[2, 4, 0, 0, 0, 1][..]));
    let answer = first_answer(&lab.a, 67, vec![message(DISCOVER, A, 2, true, &[])]);
    assert_eq!(option(&answer, 43), None);
}

#[test]
fn a_second_network_on_the_wire_is_told_of_itself() {
    let mut lab = Lab::new();
    lab.router.ip(&["addr", "add", "10.9.3.5/24", "dev", "eth0"]);
    let mut alias = subnet("eth0", 3);
    alias.router = [10, 9, 3, 5].into();
    alias.resolvers = vec![alias.router];
    lab.dns.subnets.push(router::snapshot::DnsSubnet {
        network: alias.network,
        router: alias.router,
        six: None,
    });
    lab.dhcp.subnets.push(alias);
    lab.hosts.retain(|host| host.name != "db");
    let mut guest = host(crate::lab::B, [10, 9, 3, 20], "db");
    guest.gateway = Some([10, 9, 3, 5].into());
    lab.hosts.push(guest);
    lab.declare();
    let script = lab.file(
        "told.sh",
        "#!/bin/sh\n[ $1 = bound ] && echo $ip/$mask $router $dns $serverid >$OUT\nexit 0\n",
    );
    let told = lab.paths.at("/told");
    lab.b.ok(&format!(
        "chmod 755 {script}; OUT={} udhcpc -f -n -q -t 4 -T 1 -i eth0 -s {script}",
        told.display()
    ));
    assert_eq!(std::fs::read_to_string(&told).unwrap().trim(), "10.9.3.20/24 10.9.3.5 10.9.3.5 10.9.3.5");
    lab.address_guests();
    lab.b.ip(&["addr", "flush", "dev", "eth0"]);
    lab.b.address("eth0", "10.9.3.20/24");
    for (guest, router) in [(&lab.a, "10.9.1.1"), (&lab.b, "10.9.3.5")] {
        let said = guest.ok(&format!("dig +tries=1 +time=8 +short @{router} data-server A"));
        assert_eq!(said.trim(), router);
    }
}

#[test]
fn an_answer_in_a_frame_has_a_right_sum() {
    let lab = Lab::new();
    let words = ["-l", "-n", "-vv", "-i", "eth0", "-c", "2", "udp and src port 67"];
    let mut watcher: Process = lab.a.spawn("tcpdump", &words);
    watcher.wait_line("listening on", SOON);
    lab.a.ok("udhcpc -f -n -q -t 4 -T 1 -i eth0 -s /bin/true");
    watcher.wait_line("2 packets captured", SOON);
    let seen = watcher.output();
    assert_eq!(seen.matches("[udp sum ok]").count(), 2, "{seen}");
    assert!(!seen.contains("bad"), "{seen}");
}

#[test]
fn no_lease_is_missed_while_much_changes() {
    let mut lab = Lab::new();
    lab.address_guests();
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let asker = inside(&lab.a, move || {
        let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut asked, mut buffer) = (0_u8, [0; 1500]);
        while !ended.load(Ordering::Relaxed) || asked < 20 {
            asked += 1;
            socket.send_to(&message(DISCOVER, A, asked, true, &[]), "10.9.1.1:67").unwrap();
            socket.recv(&mut buffer).unwrap_or_else(|e| panic!("question {asked}: {e}"));
            assert_eq!((buffer[7], &buffer[16..20]), (asked, &[10, 9, 1, 10][..]));
            // A client that asks more often is held back.
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for i in 1..=100 {
        lab.hosts.push(host(&format!("02:00:00:00:01:{i:02x}"), [10, 9, 1, 100 + i], &format!("vm{i}")));
        lab.declare();
    }
    stop.store(true, Ordering::Relaxed);
    asker.join().unwrap();
}

#[test]
fn names_are_answered_where_no_guest_is_known() {
    let mut lab = Lab::new();
    lab.address_guests();
    lab.hosts.clear();
    lab.declare();
    let ask = |name: &str| lab.a.ok(&format!("dig +tries=1 +time=8 @10.9.1.1 {name} A"));
    assert!(ask("data-server").contains("\tA\t10.9.1.1"));
    assert!(ask("web").contains("status: NXDOMAIN"));
    wait_until("the count", SOON, || {
        lab.core.counters.lock().unwrap().get("dns_local").is_some_and(|count| *count == 2)
    });
}
