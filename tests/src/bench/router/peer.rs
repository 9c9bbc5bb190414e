//! The same changes as a shell script makes them by one process a rule, beside a dnsmasq that reloads.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use super::{super::processor_seconds, documents};
use crate::lab::{Namespace, Process, join, wait_until};

/// A namespace with as many rules as the router has.
pub(super) struct Peer {
    _net: Namespace,
    /// Names and addresses are its business.
    pub(super) dnsmasq: Process,
    /// The namespace of its guests; the router's end is 10.1.0.1.
    pub(super) guest: Namespace,
    shell: Shell,
    dir: tempfile::TempDir,
}

impl Peer {
    /// With `count` of each kind.
    pub(super) fn new(count: u32) -> Self {
        let (net, guest) = (Namespace::new("peer"), Namespace::new("peer-out"));
        join(&net, "eth0", &guest, "eth0");
        net.address("eth0", "10.1.0.1/16");
        let dir = tempfile::tempdir().expect("folder");
        restore(&net, &rules(count));
        let (mut hosts, mut reservations) = (String::new(), String::new());
        for n in 0..count {
            let guest = documents::guest(n);
            let _ = writeln!(hosts, "{guest} vm{n}");
            let _ = writeln!(reservations, "{},{guest},vm{n},infinite", documents::guest_mac(n));
        }
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
                "--server=10.1.0.53",
                "--cache-size=10000",
                "--dns-forward-max=1000",
                &format!("--addn-hosts={}", file("hosts")),
                &format!("--dhcp-hostsfile={}", file("dhcp")),
                &format!("--dhcp-leasefile={}", file("leases")),
            ],
        );
        wait_until("dnsmasq", Duration::from_secs(30), || net.sh("ss -Hlnu sport = :67").stdout.len() > 1);
        let shell = Shell::start(&net);
        Self { _net: net, dnsmasq, guest, shell, dir }
    }

    /// One change, by one process a rule; what it adds on even rounds it may take back on odd ones. The
    /// reload of dnsmasq goes on after the script: it counts as processor time only.
    pub(super) fn change(&mut self, kind: &str, n: u32, round: u32) -> Duration {
        let (ip, guest, port) = (documents::public(n), documents::guest(n), 1000 + n / 20);
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
                "mkdir -p {dir}/metadata/{guest} && echo vm{n} >{dir}/metadata/{guest}/local-hostname &&
                 echo i-{n} >{dir}/metadata/{guest}/instance-id &&
                 echo '{},{guest},vm{n},infinite' >>{dir}/dhcp && echo '{guest} vm{n}' >>{dir}/hosts &&
                 kill -HUP {}",
                documents::guest_mac(n),
                self.dnsmasq.id()
            ),
            "static_nat" => {
                let verb = if round.is_multiple_of(2) { "-I" } else { "-D" };
                let guest = documents::guest(19);
                format!(
                    "iptables -w -t nat {verb} PREROUTING -d 203.0.113.49 -j DNAT --to {guest} &&
                     iptables -w -t nat {verb} OUTPUT -d 203.0.113.49 -j DNAT --to {guest} &&
                     iptables -w -t nat {verb} POSTROUTING -s {guest} -j SNAT --to 203.0.113.49 &&
                     iptables -w {verb} FORWARD -d {guest} -j ACCEPT"
                )
            }
            _ => format!("iptables -w -A ACL{} -s 192.0.2.7 -p tcp --dport {port} -j ACCEPT", round % 10),
        };
        let start = Instant::now();
        self.shell.run(&script);
        start.elapsed()
    }

    /// Processor seconds of dnsmasq and of all programs that were run.
    pub(super) fn processor(&self) -> f64 {
        processor_seconds(self.dnsmasq.id()) + processor_seconds(self.shell.child.id())
    }
}

/// The rules of so many port forwards, firewall rules and entries of lists, and of 19 static NATs.
fn rules(count: u32) -> String {
    let mut rules = String::from("*nat\n");
    for n in 0..count {
        let (ip, guest, port) = (documents::public(n), documents::guest(n), 1000 + n / 20);
        for chain in ["PREROUTING", "OUTPUT"] {
            let _ = writeln!(rules, "-A {chain} -d {ip} -p tcp --dport {port} -j DNAT --to {guest}:22");
        }
        let _ = writeln!(
            rules,
            "-A POSTROUTING -s 10.1.0.0/16 -d {guest} -p tcp --dport 22 -j SNAT --to 10.1.0.1"
        );
    }
    for n in 0..19 {
        let (ip, guest) = (format!("203.0.113.{}", 30 + n), documents::guest(n));
        for chain in ["PREROUTING", "OUTPUT"] {
            let _ = writeln!(rules, "-I {chain} -d {ip} -j DNAT --to {guest}");
        }
        let _ = writeln!(rules, "-I POSTROUTING -s {guest} -j SNAT --to {ip}");
    }
    rules += "COMMIT\n*mangle\n";
    for n in 0..count {
        let (ip, port) = (documents::public(n), 1000 + n / 20);
        let _ = writeln!(rules, "-A PREROUTING -d {ip} -p tcp --dport {port} -j RETURN");
    }
    rules += "COMMIT\n*filter\n";
    for tier in 0..10 {
        let _ = writeln!(rules, ":ACL{tier} - [0:0]");
    }
    for n in 0..count {
        let _ = writeln!(rules, "-A FORWARD -d {} -p tcp --dport 22 -j ACCEPT", documents::guest(n));
    }
    for n in 0..count {
        let (tier, ip, port) = (n % 10, n % 250, 1000 + n / 10);
        let _ = writeln!(rules, "-A ACL{tier} -s 192.0.2.{ip} -p tcp --dport {port} -j ACCEPT");
    }
    rules + "COMMIT\n"
}

fn restore(net: &Namespace, rules: &str) {
    let mut restore = net
        .command("iptables-restore")
        .arg("-w")
        .stdin(Stdio::piped())
        .spawn()
        .expect("iptables-restore (package iptables)");
    restore.stdin.take().expect("its input").write_all(rules.as_bytes()).expect("rules");
    assert!(restore.wait().expect("iptables-restore").success());
}

/// A shell in the namespace that runs one script after the other.
struct Shell {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    fn start(net: &Namespace) -> Self {
        let mut command = net.command("sh");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, answers }
    }

    fn run(&mut self, script: &str) {
        let input = self.child.stdin.as_mut().expect("its input");
        writeln!(input, "{{\n{script}\n}} && echo done || echo failed").expect("a script");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, "done\n", "{script}");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
