//! How fast guests are answered, beside others on the same core.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use super::{
    super::{Figure, Floor, processor_seconds},
    documents,
    kea::Kea,
    lab::Lab,
    peer::Peer,
};
use crate::lab::{Namespace, Process};

/// Guests that are known.
const GUESTS: u32 = 1000;
/// Names of the world that are asked for.
const NAMES: u32 = 1000;
/// Runs of each, in turns.
const RUNS: usize = 5;
/// Length of a run of perfdhcp, seconds.
const PERIOD: f64 = 4.0;

/// One who answers, and where those are who ask.
struct Server<'a> {
    name: &'static str,
    pid: u32,
    guests: &'a Namespace,
}

/// Compares the first of some servers with the others: answers a second, and processor time of the server for
/// each. `ask` says how many a second there were, and how many in all.
fn compare(name: &str, unit: &'static str, servers: &[Server<'_>], ask: impl Fn(&Namespace) -> (f64, f64)) {
    let mut rates = vec![vec![]; servers.len()];
    let mut costs = rates.clone();
    for server in servers {
        // The one who asks has the other core.
        let pinned = Command::new("taskset").args(["-a", "-c", "-p", "0", &server.pid.to_string()]).output();
        assert!(pinned.expect("taskset (package util-linux)").status.success());
    }
    for _ in 0..RUNS {
        for ((server, rates), costs) in servers.iter().zip(&mut rates).zip(&mut costs) {
            let before = processor_seconds(server.pid);
            let (rate, answers) = ask(server.guests);
            rates.push(rate);
            costs.push((processor_seconds(server.pid) - before) / answers * 1e6);
        }
    }
    for (number, peer) in servers.iter().enumerate().skip(1) {
        let name = if number == 1 { name.to_owned() } else { format!("{name}_{}", peer.name) };
        Figure::host(format!("{name}_cpu"), "us/answer", costs[0].clone(), None)
            .against(peer.name, costs[number].clone())
            .print();
        Figure::host(name, unit, rates[0].clone(), Some(Floor::RatioAtLeast(1.0)))
            .against(peer.name, rates[number].clone())
            .print();
    }
}

fn filled() -> (Lab, Peer) {
    let (lab, peer) = (Lab::isolated(), Peer::new(GUESTS));
    let mut all = vec![("ip_associations", documents::addresses(2))];
    all.extend((0..GUESTS).map(|n| ("vm_dhcp_entry", documents::reservation(n))));
    lab.bundle(&all);
    peer.guest.address("eth0", "10.1.0.20/16");
    (lab, peer)
}

fn servers<'a>(lab: &'a Lab, peer: &'a Peer) -> [Server<'a>; 2] {
    [
        Server { name: "trivium", pid: lab.serve.id(), guests: &lab.guest },
        Server { name: "dnsmasq", pid: peer.dnsmasq.id(), guests: &peer.guest },
    ]
}

/// The figure behind a word of what a program printed.
fn figure(text: &str, word: &str) -> f64 {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(word));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no '{word}' in: {text}"))
}

/// Asks for the names in a file; each must be known.
fn ask_names(net: &Namespace, file: &Path, how: &str) -> (f64, f64) {
    let text = net.ok(&format!("taskset -c 1 dnsperf -s 10.1.0.1 -d {} {how} 2>&1", file.display()));
    assert!(figure(&text, "Queries lost:") < 1.0 && text.contains("(100.00%)"), "{text}");
    assert!(!text.contains("SERVFAIL") && !text.contains("NXDOMAIN"), "{text}");
    (figure(&text, "Queries per second:"), figure(&text, "Queries completed:"))
}

/// Local names.
pub(super) fn local_names() {
    let (lab, peer) = filled();
    let file = names((0..GUESTS).map(|n| format!("vm{n}.cs1.example")));
    compare("dns_local", "answers/s", &servers(&lab, &peer), |net| {
        ask_names(net, file.path(), "-l 3 -c 8 -q 100")
    });
}

/// Names that an upstream has told once. It is gone when they are asked for again.
pub(super) fn cached_names() {
    let (lab, peer) = filled();
    peer.guest.address("eth0", "10.1.0.53/16");
    let file = names((0..NAMES).map(|n| format!("host{n}.example.org")));
    let upstreams = [upstream(&lab.outside, "203.0.113.1"), upstream(&peer.guest, "10.1.0.53")];
    for net in [&lab.guest, &peer.guest] {
        ask_names(net, file.path(), "-n 1 -c 1 -q 10");
    }
    drop(upstreams);
    compare("dns_cached", "answers/s", &servers(&lab, &peer), |net| {
        ask_names(net, file.path(), "-l 3 -c 8 -q 100")
    });
}

/// A file of questions.
fn names(names: impl Iterator<Item = String>) -> tempfile::NamedTempFile {
    let mut questions = String::new();
    for name in names {
        let _ = writeln!(questions, "{name} A");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), questions).expect("questions");
    file
}

/// A server that knows every name of the world.
fn upstream(net: &Namespace, address: &str) -> Process {
    let server = net.spawn(
        "dnsmasq",
        &[
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--bind-interfaces",
            &format!("--listen-address={address}"),
            "--address=/#/192.0.2.1",
            "--local-ttl=86400",
        ],
    );
    let listens = format!("ss -Hlnu src {address}:53");
    crate::lab::wait_until("the upstream", std::time::Duration::from_secs(30), || {
        net.sh(&listens).stdout.len() > 1
    });
    server
}

/// Whole leases (four messages), as a relay asks for them.
pub(super) fn leases() {
    let ((lab, peer), kea) = (filled(), Kea::new(GUESTS));
    kea.guest.address("eth0", "10.1.0.20/16");
    let [ours, dnsmasq] = servers(&lab, &peer);
    let kea = Server { name: "kea", pid: kea.server.id(), guests: &kea.guest };
    compare("dhcp", "leases/s", &[ours, dnsmasq, kea], |net| {
        let rate = figure(&exchanges(net, 20_000, PERIOD), "Rate:");
        (rate, rate * PERIOD)
    });
    // The longest that a guest waits for its offer, where 200 come in a second.
    let delay = |net: &Namespace| figure(&exchanges(net, 200, 1.0), "max delay:");
    let (own, others) = (0..RUNS).map(|_| (delay(&lab.guest), delay(&peer.guest))).unzip();
    Figure::host("dhcp_delay".to_owned(), "ms", own, Some(Floor::AtMost(50.0)))
        .against("dnsmasq", others)
        .print();
}

/// What perfdhcp says of so many exchanges a second, at most.
fn exchanges(net: &Namespace, rate: u32, seconds: f64) -> String {
    let mac = documents::guest_mac(0);
    let load = format!("-r {rate} -R {GUESTS} -b mac={mac} -p {seconds} -W 200000");
    net.ok(&format!("taskset -c 1 perfdhcp -4 -l 10.1.0.20 {load} 10.1.0.1 2>&1 || true"))
}
