//! The same changes as a shell script of one process a rule makes them, beside a dnsmasq that reloads.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use super::lab;
use crate::lab::{Namespace, Process, join, wait_until};

/// A namespace with as many rules as the router has.
pub(super) struct Peer {
    net: Namespace,
    dnsmasq: Process,
    dir: tempfile::TempDir,
    guest: Namespace,
}

impl Peer {
    pub(super) fn new(count: u32) -> Self {
        let (net, other) = (Namespace::new("peer"), Namespace::new("peer-out"));
        join(&net, "eth0", &other, "eth0");
        net.address("eth0", "10.1.0.1/16");
        let dir = tempfile::tempdir().expect("folder");
        let (mut rules, mut hosts, mut reservations) = (String::from("*nat\n"), String::new(), String::new());
        for n in 0..count {
            let (ip, guest, port) = (lab::public(n), lab::guest(n), 1000 + n / 20);
            for chain in ["PREROUTING", "OUTPUT"] {
                let _ = writeln!(rules, "-A {chain} -d {ip} -p tcp --dport {port} -j DNAT --to {guest}:22");
            }
            let _ = writeln!(
                rules,
                "-A POSTROUTING -s 10.1.0.0/16 -d {guest} -p tcp --dport 22 -j SNAT --to 10.1.0.1"
            );
            let _ = writeln!(hosts, "{guest} vm{n}");
            let _ = writeln!(reservations, "{},{guest},vm{n},infinite", lab::guest_mac(n));
        }
        rules += "COMMIT\n*mangle\n";
        for n in 0..count {
            let _ = writeln!(
                rules,
                "-A PREROUTING -d {} -p tcp --dport {} -j RETURN",
                lab::public(n),
                1000 + n / 20
            );
        }
        rules += "COMMIT\n*filter\n:ACL - [0:0]\n";
        for n in 0..count {
            let _ = writeln!(rules, "-A FORWARD -d {} -p tcp --dport 22 -j ACCEPT", lab::guest(n));
        }
        for n in 0..count / 10 {
            let _ = writeln!(rules, "-A ACL -s 192.0.2.{} -p tcp --dport {} -j ACCEPT", n % 250, 1000 + n);
        }
        rules += "COMMIT\n";
        let mut restore = net
            .command("iptables-restore")
            .arg("-w")
            .stdin(Stdio::piped())
            .spawn()
            .expect("iptables-restore (package iptables)");
        restore.stdin.take().expect("its input").write_all(rules.as_bytes()).expect("rules");
        assert!(restore.wait().expect("iptables-restore").success());
        fs::write(dir.path().join("hosts"), hosts).expect("hosts");
        fs::write(dir.path().join("dhcp"), reservations).expect("reservations");
        let file = |name: &str| dir.path().join(name).display().to_string();
        let dnsmasq = net.spawn(
            "dnsmasq",
            &[
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
                "--dhcp-range=10.1.0.1,static,255.255.0.0",
                "--dhcp-authoritative",
                "--dhcp-lease-max=100000",
                "--domain=cs1.example",
                "--expand-hosts",
                &format!("--addn-hosts={}", file("hosts")),
                &format!("--dhcp-hostsfile={}", file("dhcp")),
                &format!("--dhcp-leasefile={}", file("leases")),
            ],
        );
        let peer = Self { net, dnsmasq, dir, guest: other };
        wait_until("dnsmasq", Duration::from_secs(30), || {
            peer.net.sh("ss -Hlnu sport = :67").stdout.len() > 1
        });
        peer
    }

    /// One change, by one process a rule.
    pub(super) fn change(&self, kind: &str, n: u32) -> Duration {
        let (ip, guest, port) = (lab::public(n), lab::guest(n), 1000 + n / 20);
        let dir = self.dir.path().display();
        let script = match kind {
            "forward" => format!(
                "iptables -w -t nat -A PREROUTING -d {ip} -p tcp --dport {port} -j DNAT --to {guest}:22 &&
                 iptables -w -t nat -A OUTPUT -d {ip} -p tcp --dport {port} -j DNAT --to {guest}:22 &&
                 iptables -w -t nat -A POSTROUTING -s 10.1.0.0/16 -d {guest} -p tcp --dport 22 -j SNAT --to 10.1.0.1 &&
                 iptables -w -A FORWARD -d {guest} -p tcp --dport 22 -j ACCEPT"
            ),
            "firewall" => {
                format!("iptables -w -t mangle -A PREROUTING -d {ip} -p tcp --dport {port} -j RETURN")
            }
            "vm" => format!(
                "echo '{},{guest},vm{n},infinite' >>{dir}/dhcp && echo '{guest} vm{n}' >>{dir}/hosts &&
                 kill -HUP {}",
                lab::guest_mac(n),
                self.dnsmasq.id()
            ),
            "static_nat" => format!(
                "iptables -w -t nat -I PREROUTING -d 203.0.113.49 -j DNAT --to {guest} &&
                 iptables -w -t nat -I OUTPUT -d 203.0.113.49 -j DNAT --to {guest} &&
                 iptables -w -t nat -I POSTROUTING -s {guest} -j SNAT --to 203.0.113.49 &&
                 iptables -w -A FORWARD -d {guest} -j ACCEPT"
            ),
            _ => format!("iptables -w -A ACL -s 192.0.2.7 -p tcp --dport {port} -j ACCEPT"),
        };
        let start = Instant::now();
        self.net.ok(&script);
        start.elapsed()
    }

    /// Processor seconds of dnsmasq and of all programs that were run.
    pub(super) fn processor(&self) -> f64 {
        lab::seconds(self.dnsmasq.id()) + children()
    }

    /// The namespace of a guest, for questions.
    pub(super) const fn guest(&self) -> &Namespace {
        &self.guest
    }

    /// The process that answers.
    pub(super) fn server(&self) -> u32 {
        self.dnsmasq.id()
    }
}

/// Processor seconds of the programs that this one has run and that have ended.
fn children() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("figures");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[13..15].iter().map(|n| n.parse::<f64>().expect("a figure")).sum::<f64>() / 100.0
}
