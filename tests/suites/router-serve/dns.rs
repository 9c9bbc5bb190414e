//! Names: dig, and an upstream that counts what it is asked.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tests::lab::Namespace;

use crate::lab::{Lab, inside};

/// What `dig` prints in short, one answer a line.
fn short(guest: &Namespace, question: &str) -> String {
    guest.ok(&format!("dig +tries=1 +time=8 +short {question}")).trim().to_owned()
}

/// The whole of what `dig` prints.
fn whole(guest: &Namespace, question: &str) -> String {
    guest.ok(&format!("dig +tries=1 +time=8 {question}"))
}

/// An upstream at `address`: says 198.51.100.7 (TTL 60) to everything; names that begin with `big` have
/// sixty such records, which do not fit into a datagram. Counts questions over UDP.
fn upstream(outside: &Namespace, address: &str) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, at) = (asked.clone(), format!("{address}:53"));
    let (ready, started) = std::sync::mpsc::channel();
    // The threads end with the test process.
    inside(outside, move || {
        let (udp, tcp) = (UdpSocket::bind(&at).unwrap(), TcpListener::bind(&at).unwrap());
        ready.send(()).unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut query).unwrap();
                let answer = answer(&query, false);
                stream.write_all(&[&(answer.len() as u16).to_be_bytes(), &answer[..]].concat()).unwrap();
            }
        });
        let mut query = [0; 1500];
        loop {
            let (length, from) = udp.recv_from(&mut query).unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            udp.send_to(&answer(&query[..length], true), from).unwrap();
        }
    });
    started.recv().unwrap();
    asked
}

fn answer(query: &[u8], datagram: bool) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|b| *b == 0).unwrap();
    let big = query[13..16].eq_ignore_ascii_case(b"big");
    let records = match (big, datagram) {
        (true, true) => 0,
        (true, false) => 60,
        (false, _) => 1,
    };
    let mut answer = query[..2].to_vec();
    answer.extend([if records == 0 { 0x83 } else { 0x81 }, 0x80, 0, 1, 0, records, 0, 0, 0, 0]);
    answer.extend(&query[12..name_end + 5]);
    for i in 0..records {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7 + i]);
    }
    answer
}

#[test]
fn guests_are_known_by_name_and_address() {
    let lab = Lab::new();
    lab.address_guests();
    let at = "@10.9.1.1";
    for name in ["web", "WEB", "web.vpc.example", "web.tier1.example"] {
        let said = whole(&lab.a, &format!("{at} {name} A"));
        assert!(said.contains("\t0\tIN\tA\t10.9.1.10"), "{said}");
        assert!(said.contains("flags: qr aa rd ra;") && said.contains("ANSWER: 1,"), "{said}");
    }
    assert_eq!(short(&lab.c, "@10.9.2.1 web A"), "10.9.2.10", "the neighbour of the asker");
    assert_eq!(short(&lab.c, "@10.9.2.1 db.vpc.example A"), "10.9.1.20");
    assert_eq!(short(&lab.a, "@10.9.1.1 data-server A"), "10.9.1.1");
    assert_eq!(short(&lab.c, "@10.9.2.1 data-server A"), "10.9.2.1");
    assert_eq!(short(&lab.a, &format!("{at} -x 10.9.1.20")), "db.vpc.example.");
    assert_eq!(short(&lab.a, &format!("{at} +tcp db A")), "10.9.1.20");
    let nodata = whole(&lab.a, &format!("{at} web AAAA"));
    assert!(nodata.contains("status: NOERROR") && nodata.contains("ANSWER: 0,"), "{nodata}");
}

#[test]
fn what_is_ours_or_private_is_answered_here_and_the_removed_at_once_no_more() {
    let mut lab = Lab::new();
    lab.address_guests();
    let asked = upstream(&lab.outside, "192.0.2.53");
    for name in ["nobody", "nobody.vpc.example", "nobody.tier2.example", "-x 10.9.1.77", "-x 192.168.3.4"] {
        let said = whole(&lab.a, &format!("@10.9.1.1 {name}"));
        assert!(said.contains("status: NXDOMAIN"), "{said}");
    }
    assert_eq!(short(&lab.a, "@10.9.1.1 db A"), "10.9.1.20");
    lab.hosts.retain(|h| h.name != "db");
    lab.declare();
    assert!(whole(&lab.a, "@10.9.1.1 db A").contains("status: NXDOMAIN"));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn the_rest_comes_from_upstream_once() {
    let lab = Lab::new();
    lab.address_guests();
    let asked = upstream(&lab.outside, "192.0.2.53");
    let said = whole(&lab.a, "@10.9.1.1 www.example.org A");
    assert!(said.contains("\t60\tIN\tA\t198.51.100.7") && said.contains("flags: qr rd ra;"), "{said}");
    assert_eq!(short(&lab.b, "@10.9.1.1 WWW.example.org A"), "198.51.100.7");
    assert_eq!(short(&lab.c, "@10.9.2.1 +tcp www.example.org A"), "198.51.100.7");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "asked once, kept for all");
}

#[test]
fn a_long_answer_comes_over_tcp_on_both_sides() {
    let lab = Lab::new();
    lab.address_guests();
    let _asked = upstream(&lab.outside, "192.0.2.53");
    let cut = whole(&lab.a, "@10.9.1.1 +ignore +noedns big.example.org A");
    assert!(cut.contains("flags: qr tc rd ra;"), "{cut}");
    assert_eq!(short(&lab.a, "@10.9.1.1 +noedns big.example.org A").lines().count(), 60);
    assert_eq!(short(&lab.a, "@10.9.1.1 +bufsize=1232 big.example.org A").lines().count(), 60);
}

#[test]
fn a_dead_upstream_does_not_stop_the_other() {
    let mut lab = Lab::new();
    lab.address_guests();
    // Nothing answers for .99, not even ARP.
    lab.dns.upstreams = vec![[192, 0, 2, 99].into(), [192, 0, 2, 54].into()];
    lab.declare();
    let _asked = upstream(&lab.outside, "192.0.2.54");
    let start = Instant::now();
    assert_eq!(short(&lab.a, "@10.9.1.1 one.example.org A"), "198.51.100.7");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn without_any_upstream_the_failure_is_told_in_time() {
    let mut lab = Lab::new();
    lab.address_guests();
    lab.dns.upstreams = vec![[192, 0, 2, 99].into()];
    lab.declare();
    let start = Instant::now();
    assert!(whole(&lab.a, "@10.9.1.1 one.example.org A").contains("status: SERVFAIL"));
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(short(&lab.a, "@10.9.1.1 db A"), "10.9.1.20", "local names do not wait");
}

#[test]
fn only_guests_of_the_network_are_answered_unless_all_may_ask() {
    let mut lab = Lab::new();
    lab.address_guests();
    lab.a.ip(&["addr", "add", "172.31.0.10/24", "dev", "eth0"]);
    lab.router.ip(&["route", "add", "172.31.0.0/24", "dev", "eth0"]);
    let ask = "dig +tries=1 +time=2 +short @10.9.1.1 -b 172.31.0.10 db A";
    assert!(!lab.a.sh(ask).status.success());
    assert!(!lab.c.sh("dig +tries=1 +time=2 @10.9.1.1 db A").status.success(), "another network's address");
    lab.dns.open = true;
    lab.declare();
    assert_eq!(lab.a.ok(ask).trim(), "10.9.1.20");
}
