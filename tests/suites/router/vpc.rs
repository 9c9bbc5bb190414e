//! A VPC: tiers that come and go, their lists of rules, private gateways, translations.

use std::time::Duration;

use tests::lab::{Namespace, wait_until};

use crate::{
    documents::{acl, address, forward, private, route, rule, static_nat, tier},
    lab::{Lab, alive, connect, pings, seen, seen_udp, serve, serve_udp},
};

pub(crate) const ANY: &str = "0.0.0.0/0,::/0";

/// A VPC with its public address and two tiers, whose NICs are there.
pub(crate) fn vpc() -> Lab {
    let lab = Lab::vpc();
    lab.plug(2, &lab.a, "10.9.1.10/24", "10.9.1.1");
    lab.plug(3, &lab.b, "10.9.2.10/24", "10.9.2.1");
    lab.apply("ip_associations", &address("203.0.113.20", 1, true));
    lab.apply("guest_network", &tier(1, 2, true));
    lab.apply("guest_network", &tier(2, 3, true));
    lab
}

pub(crate) fn open(nic: u8) -> String {
    acl(nic, &[rule("all", None, ANY, true)], &[])
}

#[test]
fn tiers_are_closed_until_their_lists_open_them() {
    let lab = vpc();
    serve(&lab.a, "10.9.1.10:22");
    serve(&lab.a, "10.9.1.10:23");
    serve(&lab.outside, "203.0.113.1:80");
    serve_udp(&lab.outside, "203.0.113.1:53");
    assert_eq!(seen(&lab.a, "203.0.113.1:80").as_deref(), Some("203.0.113.20"), "egress is open by default");
    assert_eq!(seen(&lab.b, "10.9.1.10:22"), None);
    assert!(pings(&lab.a, "10.9.1.1") && pings(&lab.a, "10.9.2.1"));
    assert!(pings(&lab.outside, "203.0.113.20"), "a VPC has no gate");

    lab.apply("network_acl", &acl(2, &[rule("tcp", Some((22, 22)), "10.9.2.0/24", true)], &[]));
    assert_eq!(seen(&lab.b, "10.9.1.10:22").as_deref(), Some("10.9.2.10"));
    assert_eq!(seen(&lab.b, "10.9.1.10:23"), None);
    let (mut old, _) = connect(&lab.b, "10.9.1.10:22").expect("a connection");
    // The first rule that fits decides, however many networks it names.
    let deny = rule("tcp", Some((22, 22)), "198.51.100.0/24,10.9.2.10/32,2001:db8::/32", false);
    let ssh = rule("tcp", Some((22, 22)), ANY, true);
    lab.apply("network_acl", &acl(2, &[deny.clone(), ssh.clone()], &[]));
    assert_eq!(seen(&lab.b, "10.9.1.10:22"), None);
    assert!(alive(&mut old), "what is established stays");
    lab.apply("network_acl", &acl(2, &[ssh, deny], &[]));
    assert!(seen(&lab.b, "10.9.1.10:22").is_some());

    let egress = [rule("udp", Some((53, 53)), ANY, true), rule("all", None, ANY, false)];
    lab.apply("network_acl", &acl(2, &[rule("all", None, ANY, true)], &egress));
    assert!(seen_udp(&lab.a, "203.0.113.1:53").is_some());
    assert_eq!(seen(&lab.a, "203.0.113.1:80"), None);
    assert!(pings(&lab.a, "10.9.1.1"), "the router itself is not subject to lists");
    assert!(!pings(&lab.a, "10.9.2.1"), "its other addresses are");
    assert!(pings(&lab.b, "10.9.1.10"), "answers need no rule");
}

#[test]
fn nobody_gets_behind_the_router_untranslated() {
    let lab = vpc();
    serve(&lab.a, "10.9.1.10:22");
    serve(&lab.host, "169.254.0.1:80");
    serve(&lab.router, "0.0.0.0:3922");
    lab.apply("network_acl", &open(2));
    assert!(seen(&lab.b, "10.9.1.10:22").is_some());
    assert_eq!(seen(&lab.outside, "10.9.1.10:22"), None, "from the public network");
    assert!(!pings(&lab.outside, "10.9.1.1"));
    assert_eq!(seen(&lab.host, "10.9.1.10:22"), None, "from the host");
    assert_eq!(seen(&lab.a, "169.254.0.1:80"), None, "to the host");
    assert!(!pings(&lab.a, "169.254.10.20"));
    assert!(seen(&lab.host, "169.254.10.20:3922").is_some());
    for to in ["10.9.1.1:3922", "203.0.113.20:3922"] {
        assert_eq!(seen(&lab.a, to), None, "{to}");
    }
    assert_eq!(seen(&lab.outside, "203.0.113.20:3922"), None);
}

#[test]
fn forwards_and_static_nat_pass_the_list_of_the_tier() {
    let lab = vpc();
    serve(&lab.a, "10.9.1.10:22");
    serve(&lab.b, "10.9.2.10:80");
    serve(&lab.outside, "203.0.113.1:80");
    lab.apply("ip_associations", &address("203.0.113.21", 1, true));
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.20", "2222:2230", "10.9.1.10", "22:30", false));
    lab.apply("staticnat_rules", &static_nat("203.0.113.21", "10.9.2.10", false));
    assert_eq!(seen(&lab.outside, "203.0.113.20:2222"), None);
    lab.apply(
        "network_acl",
        &acl(2, &[rule("tcp", Some((22, 22)), "203.0.113.0/24,10.9.0.0/16", true)], &[]),
    );
    assert_eq!(seen(&lab.outside, "203.0.113.20:2222").as_deref(), Some("203.0.113.1"));
    assert_eq!(seen(&lab.b, "203.0.113.20:2222").as_deref(), Some("10.9.2.10"), "another tier as it is");
    assert_eq!(seen(&lab.a, "203.0.113.20:2222").as_deref(), Some("10.9.1.1"), "its own tier by the router");
    lab.apply("network_acl", &open(3));
    assert_eq!(seen(&lab.outside, "203.0.113.21:80").as_deref(), Some("203.0.113.1"));
    assert_eq!(seen(&lab.b, "203.0.113.1:80").as_deref(), Some("203.0.113.21"));
    assert_eq!(seen(&lab.a, "203.0.113.1:80").as_deref(), Some("203.0.113.20"));
    let usage = lab.run(&["vpc_netusage.sh", "-l", "203.0.113.21", "-g"]).stdout;
    let figures: Vec<u64> = usage.trim_end_matches(':').split(':').map(|n| n.parse().expect("n")).collect();
    assert!(figures.len() == 4 && figures[0] > 100 && figures[1] > 100, "{usage}");
    assert_eq!(lab.run(&["vpc_netusage.sh", "-l", "203.0.113.99", "-g"]).stdout, "");
}

#[test]
fn a_tier_comes_and_goes_with_its_nic() {
    let lab = Lab::vpc();
    serve(&lab.outside, "203.0.113.1:80");
    lab.apply("ip_associations", &address("203.0.113.20", 1, true));
    // The list comes before the tier, and the tier before its NIC.
    lab.apply("network_acl", &acl(2, &[rule("icmp", None, ANY, true)], &[]));
    let clean = lab.dump();
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| lab.send("guest_network", &tier(1, 2, true)));
        std::thread::sleep(Duration::from_millis(300));
        lab.plug(2, &lab.a, "10.9.1.10/24", "10.9.1.1");
        assert_eq!(sent.join().expect("the document").code, 0);
    });
    assert_eq!(seen(&lab.a, "203.0.113.1:80").as_deref(), Some("203.0.113.20"));
    assert_eq!(lab.router.ok("cat /sys/class/net/eth2/mtu").trim(), "1450");
    assert_eq!(lab.router.ok("cat /proc/sys/net/ipv4/conf/eth2/rp_filter").trim(), "1");
    assert!(lab.dump().contains("acl_ingress_eth2"), "the list has waited");

    let changed = lab.run(&["update_interface_config.sh", "10.9.1.1", "24", "1400", "15"]);
    assert_eq!((changed.code, changed.stdout.as_str()), (0, ""));
    assert_eq!(lab.router.ok("cat /sys/class/net/eth2/mtu").trim(), "1400");
    let unknown = lab.run(&["update_interface_config.sh", "10.9.7.1", "24", "1400", "15"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, "Interface with IP 10.9.7.1 not found\n"));

    // The host takes the NIC away and brings it back.
    lab.router.ip(&["link", "del", "eth2"]);
    wait_until("the router to follow", Duration::from_secs(5), || lab.dump() == clean);
    lab.plug(2, &lab.a, "10.9.1.10/24", "10.9.1.1");
    wait_until("the tier to be back", Duration::from_secs(5), || seen(&lab.a, "203.0.113.1:80").is_some());
    lab.apply("guest_network", &tier(1, 2, false));
    lab.router.ip(&["link", "del", "eth2"]);
    wait_until("the router to follow", Duration::from_secs(5), || lab.dump() == clean);
}

#[test]
fn a_private_gateway_has_its_own_lists_and_routes() {
    let lab = vpc();
    let peer = Namespace::new("peer");
    lab.plug(4, &peer, "172.16.5.1/24", "172.16.5.2");
    peer.ip(&["addr", "add", "172.30.0.1/24", "dev", "lo"]);
    serve(&peer, "172.16.5.1:80");
    serve(&peer, "172.30.0.1:80");
    serve(&lab.a, "10.9.1.10:22");
    lab.apply("ip_associations", &private("172.16.5.2", 4, false, true));
    lab.apply("static_routes", &route("172.30.0.0/24", "172.16.5.1", false));
    assert_eq!(seen(&lab.a, "172.30.0.1:80"), None, "its list lets nothing out");
    lab.apply("network_acl", &acl(4, &[rule("all", None, "10.9.1.0/24", true)], &[]));
    assert_eq!(seen(&lab.a, "172.30.0.1:80").as_deref(), Some("10.9.1.10"), "as it is");
    assert_eq!(seen(&lab.b, "172.30.0.1:80"), None);
    // A guest with static NAT, too, by the private gateway and not by the public NIC.
    lab.apply("ip_associations", &address("203.0.113.21", 1, true));
    lab.apply("staticnat_rules", &static_nat("203.0.113.21", "10.9.1.10", false));
    assert_eq!(seen(&lab.a, "172.30.0.1:80").as_deref(), Some("10.9.1.10"));
    assert_eq!(seen(&peer, "10.9.1.10:22"), None, "the list of the tier");
    lab.apply("network_acl", &acl(2, &[rule("tcp", Some((22, 22)), "172.16.5.0/24", true)], &[]));
    assert!(seen(&peer, "10.9.1.10:22").is_some());
    let out = [rule("all", None, "10.9.2.0/24", false), rule("all", None, "10.9.1.0/24", false)];
    lab.apply("network_acl", &acl(4, &[rule("all", None, ANY, true)], &out));
    assert_eq!(seen(&peer, "10.9.1.10:22"), None, "what comes in by the gateway has its list, too");
    lab.apply("ip_associations", &private("172.16.5.2", 4, true, true));
    assert_eq!(seen(&lab.a, "172.16.5.1:80").as_deref(), Some("172.16.5.2"), "with source NAT");
    lab.apply("static_routes", &route("172.30.0.0/24", "172.16.5.1", true));
    assert_eq!(seen(&lab.a, "172.30.0.1:80"), None);
}

#[test]
fn what_leaves_by_a_second_public_network_shows_the_address_of_the_vpc() {
    let lab = vpc();
    let other = Namespace::new("other");
    lab.plug(4, &other, "198.18.7.1/24", "198.18.7.5");
    lab.apply("ip_associations", &address("198.18.7.5", 4, true));
    lab.apply("network_acl", &open(2));
    serve(&other, "198.18.7.1:80");
    serve(&lab.a, "10.9.1.10:22");
    assert_eq!(seen(&lab.a, "198.18.7.1:80").as_deref(), Some("203.0.113.20"));
    lab.apply("forwarding_rules", &forward("tcp", "198.18.7.5", "22:22", "10.9.1.10", "22:22", false));
    assert_eq!(seen(&other, "198.18.7.5:22").as_deref(), Some("198.18.7.1"), "its own address answers there");
}

#[test]
fn the_same_again_changes_nothing_and_what_goes_leaves_nothing() {
    let lab = Lab::vpc();
    lab.plug(2, &lab.a, "10.9.1.10/24", "10.9.1.1");
    lab.apply("ip_associations", &address("203.0.113.20", 1, true));
    let clean = lab.dump();
    let documents = [
        ("guest_network", tier(1, 2, true)),
        ("network_acl", open(2)),
        ("static_routes", route("172.31.0.0/16", "10.9.1.77", false)),
        ("forwarding_rules", forward("udp", "203.0.113.20", "53:53", "10.9.1.10", "53:53", false)),
    ];
    for (name, text) in &documents {
        lab.apply(name, text);
        let once = lab.dump();
        lab.apply(name, text);
        assert_eq!(lab.dump(), once, "{text}");
    }
    lab.apply("forwarding_rules", &forward("udp", "203.0.113.20", "53:53", "10.9.1.10", "53:53", true));
    lab.apply("static_routes", &route("172.31.0.0/16", "10.9.1.77", true));
    lab.apply("guest_network", &tier(1, 2, false));
    assert_eq!(lab.dump(), clean);
}
