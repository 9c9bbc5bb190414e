use super::*;
use crate::{
    plan::plan,
    state::tests::{SIX, after, after_at, devices, forward, setup, setup_of, static_nat},
};

fn ask(documents: &[&str], words: &str) -> String {
    let plan = plan(&setup(), &after(documents), &devices());
    let words: Vec<&str> = words.split_whitespace().collect();
    explain(&plan, &Packet::read(&words).unwrap())
}

const INGRESS: &str = r#"{"rules":[{"id":41,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[22,22],
    "revoked":false,"source_cidr_list":["198.51.100.0/24"],"traffic_type":"Ingress"}],"type":"firewallrules"}"#;

const EGRESS: &str = r#"{"rules":[{"id":0,"protocol":"all","revoked":false,"source_cidr_list":[],
    "dest_cidr_list":[],"traffic_type":"Egress","default_egress_policy":true}],"type":"firewallrules"}"#;

#[test]
fn the_rule_that_decides_is_named() {
    let pf = forward("203.0.113.10", "22:22", "10.1.1.20", "2222:2222", "", false);
    let text = ask(&[&pf], "tcp 198.51.100.7 203.0.113.10:22");
    assert!(text.contains("comes in by eth2\n"), "{text}");
    assert!(text.contains("early > gate rule 3: drop\nverdict: dropped\n"), "{text}");
    let text = ask(&[&pf, INGRESS], "tcp 198.51.100.7:40000 203.0.113.10:22");
    assert!(
        text.contains(
            "> gate > gate_203.0.113.10_tcp_22 rule 1: from 198.51.100.0/24, tcp port 22: accept\n"
        ),
        "{text}"
    );
    assert!(text.contains("destination becomes 10.1.1.20:2222\nroute: 10.1.1.20 by eth0\n"), "{text}");
    assert!(text.ends_with("verdict: leaves by eth0: tcp 198.51.100.7 to 10.1.1.20:2222\n"), "{text}");
    let text = ask(&[&pf, INGRESS], "tcp 192.0.2.7 203.0.113.10:22");
    assert!(text.ends_with("verdict: dropped\n"), "{text}");
}

#[test]
fn guests_the_router_and_strangers() {
    let text = ask(&[], "udp 10.1.1.20 198.51.100.7:53");
    assert!(text.contains("comes in by eth0") && text.contains("forward > egress rule 5: drop"), "{text}");
    let text = ask(&[EGRESS], "udp 10.1.1.20 198.51.100.7:53");
    assert!(
        text.ends_with(
            "source becomes 203.0.113.10\nverdict: leaves by eth2: udp 203.0.113.10 to 198.51.100.7:53\n"
        ),
        "{text}"
    );
    let text = ask(&[&static_nat("203.0.113.10", "10.1.1.30", false), EGRESS], "icmp 10.1.1.30 198.51.100.7");
    assert!(text.contains("source becomes 203.0.113.10"), "{text}");
    let text = ask(&[], "udp 10.1.1.20 10.1.1.1:53");
    assert!(
        text.contains("accept\nverdict: for the router itself: udp 10.1.1.20 to 10.1.1.1:53\n"),
        "{text}"
    );
    let text = ask(&[], "tcp 10.1.1.20 10.1.1.1:3922");
    assert!(text.contains("input: no rule decides: drop\nverdict: dropped\n"), "{text}");
    let text = ask(&[], "tcp 203.0.113.10 198.51.100.7:443");
    assert!(
        text.contains("sent by the router itself")
            && text.ends_with("leaves by eth2: tcp 203.0.113.10 to 198.51.100.7:443\n"),
        "{text}"
    );
    let text = ask(&[EGRESS], "tcp 10.1.1.20 169.254.0.1:22");
    assert!(text.contains("forward rule 3: out by eth1: drop"), "{text}");
}

#[test]
fn packets_of_six_take_their_own_chains() {
    const INWARD: &str = r#"{"rules":[{"id":1,"protocol":"tcp","src_port_range":[443,443],"revoked":false,
        "source_cidr_list":["2001:db8:aa::/48"],"dest_cidr_list":["2001:db8:1::20/128"],"traffic_type":"Ingress",
        "default_egress_policy":true,"guest_ip6_cidr":"2001:db8:1::/64"}],"type":"ipv6firewallrules"}"#;
    let setup = setup_of(SIX);
    let plan = plan(&setup, &after_at(&setup, &[INWARD]), &devices());
    let ask = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        explain(&plan, &Packet::read(&words).unwrap())
    };
    let text = ask("tcp 2001:db8:aa::7 [2001:db8:1::20]:443");
    assert!(text.contains("comes in by eth2\n") && text.contains("forward > forward6 > inward6"), "{text}");
    assert!(
        text.ends_with("verdict: leaves by eth0: tcp 2001:db8:aa::7 to [2001:db8:1::20]:443\n"),
        "{text}"
    );
    for refused in ["tcp 2001:db8:ab::7 [2001:db8:1::20]:443", "udp 2001:db8:aa::7 [2001:db8:1::20]:443"] {
        let text = ask(refused);
        assert!(text.ends_with("verdict: dropped\n"), "{text}");
    }
    let text = ask("icmp 2001:db8:1::20 2001:db8:1::1");
    assert!(
        text.ends_with("for the router itself: icmp (echo request) 2001:db8:1::20 to 2001:db8:1::1\n"),
        "{text}"
    );
}

#[test]
fn what_is_no_packet_is_refused() {
    for words in [
        &[][..],
        &["tcp", "a", "b"],
        &["tcp", "1.2.3.4", "1.2.3.5"],
        &["gre", "1.2.3.4", "1.2.3.5"],
        &["icmp", "1.2.3.4"],
        &["icmp", "1.2.3.4", "2001:db8::1"],
        &["tcp", "2001:db8::2", "2001:db8::1"],
        &["tcp", "2001:db8::2", "2001:db8::1:80000"],
        &["tcp", "2001:db8::2", "[2001:db8::1]"],
    ] {
        assert!(Packet::read(words).is_err(), "{words:?}");
    }
    assert_eq!(Packet::read(&["47", "1.2.3.4", "1.2.3.5"]).unwrap().protocol, 47);
}
