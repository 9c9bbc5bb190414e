//! Addresses that come and go, their neighbours, and the NICs that packets leave by.

use std::time::Duration;

use tests::lab::{Process, wait_until};

use crate::{
    documents::{address, egress, forward, ingress, static_nat},
    lab::{Lab, none, pings, seen, seen_udp, seen_udp_from, serve, serve_udp},
};

const ANY: &str = "0.0.0.0/0";

/// Brings the NIC of a second public network, and the outside's end of it.
fn second(lab: &Lab) {
    let (router, outside) = (lab.router.name(), lab.outside.name());
    let ends = ["link", "add", "eth3", "netns", router, "address", "02:00:00:00:00:03", "type", "veth"];
    let peer = ["peer", "name", "eth1", "netns", outside];
    assert!(std::process::Command::new("ip").args(ends).args(peer).status().expect("ip").success());
    lab.outside.address("eth1", "198.18.7.1/24");
    // Someone whom the main table would answer by eth2.
    lab.outside.ip(&["addr", "add", "100.64.0.9/32", "dev", "lo"]);
}

#[test]
fn the_public_address_answers_nothing_and_only_where_it_is() {
    let lab = Lab::start();
    for port in [22, 53, 80, 443, 3922, 8080] {
        serve(&lab.router, &format!("0.0.0.0:{port}"));
    }
    serve_udp(&lab.router, "0.0.0.0:53");
    let ports = [22, 53, 80, 443, 3922, 8080].map(|port| format!("203.0.113.10:{port}"));
    none(&lab.outside, &ports.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(seen_udp(&lab.outside, "203.0.113.10:53"), None);
    // A guest is answered as itself only.
    assert!(seen_udp(&lab.a, "10.1.1.1:53").is_some());
    lab.a.ip(&["addr", "add", "192.0.2.77/32", "dev", "lo"]);
    assert_eq!(seen_udp_from(&lab.a, "192.0.2.77", "10.1.1.1:53"), None);
    // Who has the public address? Nobody in the guests' network says so.
    lab.a.ip(&["route", "add", "203.0.113.10/32", "dev", "eth0"]);
    assert!(!pings(&lab.a, "203.0.113.10"));
    let known = lab.a.ok("ip neigh show 203.0.113.10");
    assert!(!known.contains("lladdr"), "{known}");
    assert!(lab.outside.ok("ip neigh show 203.0.113.10").contains("lladdr 02:00:00:00:00:02"));
}

#[test]
fn a_nic_keeps_the_addresses_that_are_left_and_nothing_of_those_that_went() {
    let lab = Lab::start();
    let clean = lab.dump();
    second(&lab);
    serve(&lab.a, "10.1.1.20:22");
    let with_mtu = address("198.18.7.5", 3, true).replace(r#""mtu":1500"#, r#""mtu":1400"#);
    lab.apply("ip_associations", &with_mtu);
    assert_eq!(lab.router.ok("cat /sys/class/net/eth3/mtu").trim(), "1400");
    lab.apply("ip_associations", &address("198.18.7.6", 3, true));
    lab.apply("forwarding_rules", &forward("tcp", "198.18.7.6", "22:22", "10.1.1.20", "22:22", false));
    assert_eq!(seen(&lab.outside, "198.18.7.6:22"), None, "its own gate is there at once");
    lab.apply("firewall_rules", &ingress(45, "198.18.7.6", "tcp", Some((22, 22)), ANY, false));
    assert!(seen(&lab.outside, "198.18.7.6:22").is_some());
    lab.apply("ip_associations", &address("198.18.7.5", 3, false));
    assert!(seen(&lab.outside, "198.18.7.6:22").is_some(), "without the first address the second one stays");
    // What the router sends from it leaves by its NIC, wherever the main table leads.
    let way = lab.router.ok("ip route get 100.64.0.9 from 198.18.7.6");
    assert!(way.contains("dev eth3"), "{way}");
    assert!(lab.router.ok("ip route get 100.64.0.9").contains("dev eth2"));
    lab.apply("forwarding_rules", &forward("tcp", "198.18.7.6", "22:22", "10.1.1.20", "22:22", true));
    lab.apply("firewall_rules", &ingress(45, "198.18.7.6", "tcp", Some((22, 22)), ANY, true));
    lab.apply("ip_associations", &address("198.18.7.6", 3, false));
    assert_eq!(lab.dump(), clean, "no address, route, rule or element is left of it");
}

#[test]
fn neighbours_hear_of_an_address_once() {
    let lab = Lab::start();
    let mut command = lab.outside.command("tcpdump");
    command.args(["-l", "-n", "-i", "eth0", "arp"]);
    let mut listener = Process::start(command);
    listener.wait_line("listening on eth0", Duration::from_secs(20));
    lab.apply("ip_associations", &address("203.0.113.11", 2, true));
    listener.wait_line("203.0.113.11", Duration::from_secs(10));
    // The last of its announcements comes some seconds after the first.
    let said = || listener.output().matches("203.0.113.11").count();
    wait_until("all announcements", Duration::from_secs(20), || {
        let before = said();
        std::thread::sleep(Duration::from_secs(6));
        said() == before
    });
    let before = listener.output().lines().count();
    for n in 0..10 {
        let port = format!("{}:{}", 2000 + n, 2000 + n);
        lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", &port, "10.1.1.20", "22:22", false));
        lab.apply("ip_associations", &address("203.0.113.11", 2, true));
    }
    std::thread::sleep(Duration::from_millis(500));
    let after = listener.output();
    assert_eq!(after.lines().count(), before, "{after}");
}

#[test]
fn guests_with_static_nat_use_the_nic_of_their_address() {
    let lab = Lab::start();
    second(&lab);
    serve(&lab.outside, "100.64.0.9:80");
    serve(&lab.b, "10.1.1.21:80");
    lab.apply("ip_associations", &address("203.0.113.11", 2, true));
    lab.apply("ip_associations", &address("198.18.7.5", 3, true));
    lab.apply("staticnat_rules", &static_nat("203.0.113.11", "10.1.1.20", false));
    lab.apply("staticnat_rules", &static_nat("198.18.7.5", "10.1.1.21", false));
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    assert_eq!(seen(&lab.b, "100.64.0.9:80").as_deref(), Some("198.18.7.5"), "by the second network");
    let carried = lab.outside.ok("cat /sys/class/net/eth1/statistics/rx_packets");
    assert!(carried.trim().parse::<u64>().expect("a figure") > 2, "{carried}");
    // One guest reaches the other by its public address, through its gate.
    assert_eq!(seen(&lab.a, "198.18.7.5:80"), None);
    lab.apply("firewall_rules", &ingress(46, "198.18.7.5", "tcp", Some((80, 80)), "10.1.1.20/32", false));
    assert_eq!(seen(&lab.a, "198.18.7.5:80").as_deref(), Some("10.1.1.1"));
    assert_eq!(seen(&lab.outside, "198.18.7.5:80"), None, "another source");
}
