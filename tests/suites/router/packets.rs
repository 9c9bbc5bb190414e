//! What passes and what does not.

use std::time::Duration;

use tests::lab::wait_until;

use crate::{
    documents::{address, egress, forward, ingress, static_nat},
    lab::{Lab, alive, connect, pings, seen, seen_udp, serve, serve_udp},
};

const ANY: &str = "0.0.0.0/0";

#[test]
fn a_fresh_router_is_closed() {
    let lab = Lab::start();
    serve(&lab.outside, "203.0.113.1:80");
    serve(&lab.a, "10.1.1.20:22");
    assert_eq!(seen(&lab.a, "203.0.113.1:80"), None, "egress is denied by default");
    assert!(!pings(&lab.a, "203.0.113.1"));
    assert!(!pings(&lab.outside, "203.0.113.10"), "the gate is closed");
    assert_eq!(seen(&lab.outside, "10.1.1.20:22"), None, "a guest has no way in by its own address");
    assert!(pings(&lab.a, "10.1.1.1") && pings(&lab.a, "10.1.1.21"));
    assert!(pings(&lab.host, "169.254.10.20"), "the host's ping is answered whatever happens");
    assert!(!pings(&lab.a, "169.254.0.1") && !pings(&lab.a, "169.254.10.20"));
    assert!(!pings(&lab.host, "10.1.1.20"));
    serve(&lab.router, "0.0.0.0:3922");
    assert!(seen(&lab.host, "169.254.10.20:3922").is_some());
    for (from, to) in
        [(&lab.a, "10.1.1.1:3922"), (&lab.a, "169.254.10.20:3922"), (&lab.outside, "203.0.113.10:3922")]
    {
        assert_eq!(seen(from, to), None, "{to}");
    }
}

#[test]
fn port_forwards_pass_the_gate_only() {
    let lab = Lab::start();
    for guest in [(&lab.a, "10.1.1.20:22"), (&lab.b, "10.1.1.21:22"), (&lab.a, "10.1.1.20:25")] {
        serve(guest.0, guest.1);
    }
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", "2222:2222", "10.1.1.20", "22:22", false));
    assert_eq!(seen(&lab.outside, "203.0.113.10:2222"), None, "no rule lets it through the gate");
    lab.apply(
        "firewall_rules",
        &ingress(41, "203.0.113.10", "tcp", Some((2222, 2230)), "203.0.113.1/32", false),
    );
    assert_eq!(seen(&lab.outside, "203.0.113.10:2222").as_deref(), Some("203.0.113.1"));
    assert_eq!(seen(&lab.b, "203.0.113.10:2222"), None, "another source");
    lab.apply(
        "firewall_rules",
        &ingress(42, "203.0.113.10", "tcp", Some((2222, 2222)), "10.1.1.0/24", false),
    );
    // Guests reach each other, and themselves, by the public address; they see the router.
    assert_eq!(seen(&lab.b, "203.0.113.10:2222").as_deref(), Some("10.1.1.1"));
    assert_eq!(seen(&lab.a, "203.0.113.10:2222").as_deref(), Some("10.1.1.1"));
    assert!(seen(&lab.router, "203.0.113.10:2222").is_some(), "the router itself");
    assert_eq!(seen(&lab.outside, "10.1.1.21:22"), None, "a forward opens no other guest");
    assert_eq!(seen(&lab.outside, "10.1.1.20:22"), None, "nor the guest itself");

    let (mut old, _) = connect(&lab.outside, "203.0.113.10:2222").expect("a connection");
    // A range that moves: 2225 becomes 25.
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", "2222:2222", "10.1.1.20", "22:22", true));
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", "2222:2230", "10.1.1.20", "22:30", false));
    assert!(seen(&lab.outside, "203.0.113.10:2225").is_some());
    assert!(alive(&mut old), "an established connection stays");
    lab.apply(
        "firewall_rules",
        &ingress(41, "203.0.113.10", "tcp", Some((2222, 2230)), "203.0.113.1/32", true),
    );
    assert_eq!(seen(&lab.outside, "203.0.113.10:2222"), None);
    assert!(alive(&mut old), "revoking a rule does not break what is established");
}

#[test]
fn egress_follows_the_policy_and_carries_the_source_nat_address() {
    let lab = Lab::start();
    serve(&lab.outside, "203.0.113.1:80");
    serve(&lab.outside, "203.0.113.1:25");
    serve_udp(&lab.outside, "203.0.113.1:53");
    lab.apply("firewall_rules", &egress(52, "tcp", Some(80), "10.1.1.20/32", false, false));
    assert_eq!(seen(&lab.a, "203.0.113.1:80").as_deref(), Some("203.0.113.10"));
    assert_eq!(seen(&lab.b, "203.0.113.1:80"), None);
    assert_eq!(seen(&lab.a, "203.0.113.1:25"), None);
    lab.apply("firewall_rules", &egress(54, "icmp", None, "", false, false));
    assert!(pings(&lab.b, "203.0.113.1"));
    lab.apply("firewall_rules", &egress(52, "tcp", Some(80), "10.1.1.20/32", false, true));
    lab.apply("firewall_rules", &egress(54, "icmp", None, "", false, true));

    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    assert_eq!(seen_udp(&lab.b, "203.0.113.1:53").as_deref(), Some("203.0.113.10"));
    lab.apply("firewall_rules", &egress(55, "tcp", Some(25), "10.1.1.0/24", true, false));
    assert_eq!(seen(&lab.a, "203.0.113.1:25"), None);
    let (mut open, _) = connect(&lab.a, "203.0.113.1:80").expect("a connection");
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, true));
    assert_eq!(seen(&lab.a, "203.0.113.1:80"), None);
    assert!(alive(&mut open), "closing egress closes it for new connections only");
}

#[test]
fn static_nat_works_both_ways_and_ends_with_its_address() {
    let lab = Lab::start();
    serve(&lab.b, "10.1.1.21:80");
    serve(&lab.outside, "203.0.113.1:80");
    // The neighbour believes that the address is elsewhere; it must hear of the router at once.
    lab.outside.ip(&[
        "neigh",
        "add",
        "203.0.113.11",
        "lladdr",
        "02:ff:ff:ff:ff:ff",
        "dev",
        "eth0",
        "nud",
        "stale",
    ]);
    lab.apply("ip_associations", &address("203.0.113.11", 2, true));
    wait_until("the neighbour to hear of the address", Duration::from_secs(5), || {
        lab.outside.ok("ip neigh show 203.0.113.11").contains("02:00:00:00:00:02")
    });
    assert!(!pings(&lab.outside, "203.0.113.11"), "a new address has its gate at once");
    lab.apply("staticnat_rules", &static_nat("203.0.113.11", "10.1.1.21", false));
    lab.apply("firewall_rules", &ingress(43, "203.0.113.11", "all", None, ANY, false));
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    assert_eq!(seen(&lab.outside, "203.0.113.11:80").as_deref(), Some("203.0.113.1"));
    assert_eq!(seen(&lab.a, "203.0.113.11:80").as_deref(), Some("10.1.1.1"));
    assert_eq!(seen(&lab.b, "203.0.113.1:80").as_deref(), Some("203.0.113.11"));
    assert_eq!(seen(&lab.a, "203.0.113.1:80").as_deref(), Some("203.0.113.10"));
    let (mut lost, _) = connect(&lab.b, "203.0.113.1:80").expect("a connection");
    let (mut kept, _) = connect(&lab.a, "203.0.113.1:80").expect("a connection");
    lost.set_read_timeout(Some(Duration::from_secs(1))).expect("time limit");
    lab.apply("staticnat_rules", &static_nat("203.0.113.11", "10.1.1.21", true));
    lab.apply("ip_associations", &address("203.0.113.11", 2, false));
    assert!(!alive(&mut lost), "nothing goes on under an address that is given back");
    assert!(alive(&mut kept));
    assert!(!lab.dump().contains("203.0.113.11/24"));
}

#[test]
fn a_second_public_network_answers_by_its_own_nic() {
    let lab = Lab::start();
    serve(&lab.a, "10.1.1.20:22");
    // The NIC comes a moment after the document that names it.
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| lab.send("ip_associations", &address("198.18.7.5", 3, true)));
        std::thread::sleep(Duration::from_millis(500));
        let (router, outside) = (lab.router.name(), lab.outside.name());
        let ends = ["link", "add", "eth3", "netns", router, "address", "02:00:00:00:00:03", "type", "veth"];
        let peer = ["peer", "name", "eth1", "netns", outside];
        let made = std::process::Command::new("ip").args(ends).args(peer).status().expect("ip");
        assert!(made.success());
        assert_eq!(sent.join().expect("the document").code, 0);
    });
    lab.outside.address("eth1", "198.18.7.1/24");
    lab.apply("staticnat_rules", &static_nat("198.18.7.5", "10.1.1.20", false));
    lab.apply("firewall_rules", &ingress(44, "198.18.7.5", "tcp", Some((22, 22)), ANY, false));
    // A client that the main table would answer by eth2.
    lab.outside.ip(&["addr", "add", "100.64.0.9/32", "dev", "lo"]);
    lab.outside.ip(&["route", "change", "198.18.7.0/24", "dev", "eth1", "src", "100.64.0.9"]);
    wait_until("an answer by the NIC of the request", Duration::from_secs(5), || {
        seen(&lab.outside, "198.18.7.5:22").as_deref() == Some("100.64.0.9")
    });
    let out = lab.outside.ok("cat /sys/class/net/eth1/statistics/rx_packets");
    assert!(out.trim().parse::<u64>().expect("a figure") > 3, "answers came by the second network");
    lab.router.ip(&["link", "del", "eth3"]);
    wait_until("the router to follow", Duration::from_secs(5), || !lab.dump().contains("eth3"));
}
