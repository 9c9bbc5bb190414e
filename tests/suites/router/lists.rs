//! Rules of a tier's list: protocols, types, ranges, what is not subject to them.

use crate::{
    documents::{acl, private, route, rule, tier},
    gate::passes,
    lab::{Lab, pings, seen, seen_udp, serve, serve_udp},
    vpc::{ANY, open, vpc},
};

/// A rule by the number of a protocol.
fn number(protocol: u8, allowed: bool) -> String {
    format!(r#"{{"type":"protocol","protocol":{protocol},"cidr":"{ANY}","allowed":{allowed}}}"#)
}

#[test]
fn protocols_types_and_ranges_are_what_they_say() {
    let lab = vpc();
    for port in [7999, 8000, 8100, 8101] {
        serve(&lab.a, &format!("10.9.1.10:{port}"));
    }
    let list = |rules: &[String]| lab.apply("network_acl", &acl(2, rules, &[]));
    list(&[rule("tcp", Some((8000, 8100)), ANY, true)]);
    for (port, passes) in [(7999, false), (8000, true), (8100, true), (8101, false)] {
        assert_eq!(seen(&lab.b, &format!("10.9.1.10:{port}")).is_some(), passes, "{port}");
    }
    for protocol in [47, 41] {
        list(&[number(protocol, false), rule("all", None, ANY, true)]);
        assert_eq!(passes(&lab, protocol, &lab.b, (&lab.a, "10.9.1.10")), None, "{protocol}");
        list(&[number(protocol, true)]);
        assert_eq!(passes(&lab, protocol, &lab.b, (&lab.a, "10.9.1.10")).as_deref(), Some("10.9.2.10"));
    }
    assert!(!pings(&lab.b, "10.9.1.10"), "only what is named");
    let time = format!("python3 {} timestamp 10.9.1.10", crate::gate::raw());
    let tells_time = || lab.b.sh(&time).status.success();
    let echo = rule("icmp", None, ANY, true)
        .replace(r#""icmp_type":-1,"icmp_code":-1"#, r#""icmp_type":8,"icmp_code":-1"#);
    list(&[echo]);
    assert!(pings(&lab.b, "10.9.1.10") && !tells_time());
    list(&[rule("icmp", None, ANY, true)]);
    assert!(pings(&lab.b, "10.9.1.10") && tells_time());
    // A rule without ports says 0 to 0, and means all of them.
    list(&[rule("tcp", Some((0, 0)), ANY, true)]);
    assert!(seen(&lab.b, "10.9.1.10:8101").is_some());
}

#[test]
fn what_leaves_a_tier_passes_unless_something_says_no() {
    let lab = vpc();
    serve(&lab.outside, "203.0.113.1:80");
    serve_udp(&lab.router, "0.0.0.0:53");
    lab.apply("network_acl", &acl(2, &[], &[rule("tcp", Some((443, 443)), ANY, true)]));
    assert!(seen(&lab.a, "203.0.113.1:80").is_some(), "a list that only allows denies nothing");
    // Both lists must allow, and answers need none.
    serve(&lab.b, "10.9.2.10:22");
    lab.apply("network_acl", &open(3));
    assert!(seen(&lab.a, "10.9.2.10:22").is_some());
    let no_ssh = [rule("tcp", Some((22, 22)), "10.9.2.0/24", false)];
    lab.apply("network_acl", &acl(2, &[], &no_ssh));
    assert_eq!(seen(&lab.a, "10.9.2.10:22"), None);
    lab.apply("network_acl", &acl(2, &[], &[rule("all", None, ANY, false)]));
    assert_eq!(seen(&lab.a, "203.0.113.1:80"), None);
    assert!(seen_udp(&lab.a, "10.9.1.1:53").is_some(), "the router itself answers all the same");
    assert_eq!(seen_udp(&lab.a, "10.9.2.1:53"), None, "by its address in the tier of the guest");
}

#[test]
fn routes_follow_their_gateways_and_the_way_out_its_tier() {
    let lab = vpc();
    let peer = tests::lab::Namespace::new("peer");
    lab.plug(4, &peer, "172.16.5.1/24", "172.16.5.2");
    lab.apply("ip_associations", &private("172.16.5.2", 4, false, true));
    let way = |to: &str| lab.router.ok(&format!("ip route show {to}")).trim().to_owned();
    for gateway in ["172.16.5.1", "172.16.5.77"] {
        lab.apply("static_routes", &route("172.30.0.0/24", gateway, false));
        assert!(way("172.30.0.0/24").starts_with(&format!("172.30.0.0/24 via {gateway} ")), "{gateway}");
    }
    lab.apply("static_routes", &route("172.30.0.0/24", "172.16.5.77", true));
    assert_eq!(way("172.30.0.0/24"), "");

    // Without a public network the first tier is the way out, by whoever is the gateway there.
    let line = crate::lab::VPC.replace("has_public_network=true", "has_public_network=false");
    let lab = Lab::vpc_of(&line);
    lab.plug(2, &lab.a, "10.9.1.10/24", "10.9.1.1");
    lab.plug(3, &lab.b, "10.9.2.10/24", "10.9.2.1");
    let of = |n: u8, nic: u8, add: bool| {
        tier(n, nic, add).replace(
            &format!(r#""router_guest_gateway":"10.9.{n}.1""#),
            &format!(r#""router_guest_gateway":"10.9.{n}.254""#),
        )
    };
    let way = || lab.router.ok("ip route show default").trim().to_owned();
    lab.apply("guest_network", &of(2, 3, true));
    assert!(way().starts_with("default via 10.9.2.254 dev eth3"), "{}", way());
    lab.apply("guest_network", &of(1, 2, true));
    assert!(way().starts_with("default via 10.9.1.254 dev eth2"), "{}", way());
    lab.apply("guest_network", &of(1, 2, false));
    assert!(way().starts_with("default via 10.9.2.254 dev eth3"), "{}", way());
}
