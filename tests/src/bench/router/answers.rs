//! How fast guests are answered, beside dnsmasq on the same core.

use std::{fmt::Write as _, fs, process::Command};

use super::{
    super::{Figure, Floor},
    lab::{self, Lab},
    peer::Peer,
};
use crate::lab::Namespace;

/// Guests that are known.
const GUESTS: u32 = 1000;
/// Runs of each, in turns.
const RUNS: usize = 5;

fn filled() -> Lab {
    let lab = Lab::isolated();
    let hosts: Vec<_> = (0..GUESTS).map(|n| ("vm_dhcp_entry", lab::reservation(n))).collect();
    lab.bundle(&hosts);
    lab
}

/// Has a process run on one core, so that both peers have the same.
fn pin(pid: u32) {
    let done = Command::new("taskset").args(["-a", "-c", "-p", "0", &pid.to_string()]).output();
    assert!(done.expect("taskset (package util-linux)").status.success());
}

/// The figure behind a word of what a program printed.
fn figure(text: &str, word: &str) -> f64 {
    let line = text.lines().find(|line| line.trim_start().starts_with(word));
    let figure =
        line.and_then(|line| line.trim_start()[word.len()..].split_whitespace().next()?.parse().ok());
    figure.unwrap_or_else(|| panic!("no '{word}' in: {text}"))
}

/// Local names, and names that are in the cache.
pub(super) fn names() {
    let (lab, peer) = (filled(), Peer::new(GUESTS));
    peer.guest().address("eth0", "10.1.0.20/16");
    pin(lab.serve.id());
    pin(peer.server());
    let mut questions = String::new();
    for n in 0..GUESTS {
        let _ = writeln!(questions, "vm{n}.cs1.example A");
    }
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("names");
    fs::write(&file, questions).expect("questions");
    let ask = |net: &Namespace| {
        let line = format!("taskset -c 1 dnsperf -s 10.1.0.1 -d {} -l 3 -c 8 -q 100 2>&1", file.display());
        let text = net.ok(&line);
        assert!(figure(&text, "Queries lost:") < 1.0, "{text}");
        figure(&text, "Queries per second:")
    };
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..RUNS {
        ours.push(ask(&lab.guest));
        theirs.push(ask(peer.guest()));
    }
    Figure::host("dns_local", "answers/s", ours, Some(Floor::RatioAtLeast(1.0)))
        .against("dnsmasq", theirs)
        .print();
}

/// Whole leases (four messages), as a relay asks for them.
pub(super) fn leases() {
    let (lab, peer) = (filled(), Peer::new(GUESTS));
    peer.guest().address("eth0", "10.1.0.20/16");
    pin(lab.serve.id());
    pin(peer.server());
    let ask = |net: &Namespace| {
        let line = format!(
            "taskset -c 1 perfdhcp -4 -l 10.1.0.20 -r 20000 -R {GUESTS} -b mac={} -p 4 -W 200000 10.1.0.1 2>&1 || true",
            lab::guest_mac(0)
        );
        figure(&net.ok(&line), "Rate:")
    };
    let (mut ours, mut theirs) = (vec![], vec![]);
    for _ in 0..RUNS {
        ours.push(ask(&lab.guest));
        theirs.push(ask(peer.guest()));
    }
    Figure::host("dhcp", "leases/s", ours, Some(Floor::RatioAtLeast(1.0))).against("dnsmasq", theirs).print();
}
