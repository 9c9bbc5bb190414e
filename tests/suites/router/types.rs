//! Routers of other kinds: of a shared network, of a network that is routed, of a balancer.

use crate::{
    documents::{egress, forward, inward, tier},
    gate::passes,
    lab::{LINE, Lab, pings, seen, seen_udp, seen_udp_from, serve, serve_udp},
};

#[test]
fn the_router_of_a_shared_network_forwards_nothing() {
    let line = LINE.replace("type=router", "type=dhcpsrvr").replace("eth2ip=203.0.113.10 ", "");
    let lab = Lab::isolated(&line.replace("gateway=203.0.113.1", "gateway=10.1.1.254"));
    assert!(pings(&lab.a, "10.1.1.1"));
    assert_eq!(lab.router.ok("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
    assert!(lab.dump().contains("default via 10.1.1.254"), "{}", lab.dump());
    let alias = |revoke: bool| {
        format!(
            r#"{{"aliases":[{{"revoke":{revoke},"ip_address":"10.3.0.5","netmask":"255.255.255.0","count":1}}],"type":"ipaliases","delete_from_processed_cache":false}}"#
        )
    };
    let clean = lab.dump();
    lab.a.ip(&["addr", "add", "10.3.0.20/24", "dev", "eth0"]);
    assert!(!pings(&lab.a, "10.3.0.5"));
    lab.apply("ip_aliases", &alias(false));
    assert!(pings(&lab.a, "10.3.0.5"));
    lab.apply("ip_aliases", &alias(true));
    assert_eq!(lab.dump(), clean);
    lab.apply("dhcp", r#"{"entries":[{"router_ip_address":"10.1.1.1","gateway":"10.1.1.254","netmask":"255.255.255.0","first_ip_of_subnet":"10.1.1.1"}],"type":"dhcpconfig"}"#);
    let refused = lab.send("guest_network", &tier(1, 2, true));
    assert!(refused.stderr.contains("guestnetwork is for the router of a VPC"), "{}", refused.stderr);
}

#[test]
fn names_are_asked_for_by_whom_the_boot_arguments_say() {
    let outside = Lab::isolated(&LINE.replace("type=router", "useextdns=true type=router"));
    serve_udp(&outside.router, "0.0.0.0:53");
    serve(&outside.router, "0.0.0.0:80");
    assert_eq!(seen_udp(&outside.a, "10.1.1.1:53"), None, "guests ask others");
    assert!(seen(&outside.a, "10.1.1.1:80").is_some());
    drop(outside);
    for (exposed, answered) in [("", false), ("exposedns=true ", true)] {
        let line = LINE
            .replace("type=router", &format!("{exposed}type=dhcpsrvr"))
            .replace("eth2ip=203.0.113.10 ", "");
        let lab = Lab::isolated(&line.replace("gateway=203.0.113.1", "gateway=10.1.1.254"));
        serve_udp(&lab.router, "0.0.0.0:53");
        assert!(seen_udp(&lab.b, "10.1.1.1:53").is_some());
        // Somebody behind the gateway of the network.
        lab.a.ip(&["addr", "add", "10.1.1.254/24", "dev", "eth0"]);
        lab.a.ip(&["addr", "add", "10.77.0.5/32", "dev", "lo"]);
        let answer = seen_udp_from(&lab.a, "10.77.0.5", "10.1.1.1:53");
        assert_eq!(answer.is_some(), answered, "{exposed}");
    }
}

#[test]
fn a_balancer_is_reached_by_ssh_and_ping_only() {
    let line = "template=domP name=b-9-VM eth0ip=10.1.1.1 eth0mask=255.255.255.0 gateway=10.1.1.254 dns1=10.1.1.254 \
        eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=ilbvm\n";
    let lab = Lab::isolated(line);
    serve(&lab.router, "0.0.0.0:3922");
    serve(&lab.router, "0.0.0.0:80");
    assert!(pings(&lab.a, "10.1.1.1") && pings(&lab.host, "169.254.10.20"));
    assert!(seen(&lab.host, "169.254.10.20:3922").is_some());
    assert_eq!(seen(&lab.a, "10.1.1.1:80"), None);
    assert_eq!(seen(&lab.a, "10.1.1.1:3922"), None);
    assert_eq!(lab.router.ok("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
}

#[test]
fn a_routed_network_is_closed_and_never_translated() {
    let lab = Lab::isolated(&LINE.replace("type=router", "is_routed=true type=router"));
    for port in [22, 23] {
        serve(&lab.a, &format!("10.1.1.20:{port}"));
    }
    serve(&lab.outside, "203.0.113.1:80");
    assert_eq!(seen(&lab.outside, "10.1.1.20:22"), None, "closed until configured");
    assert_eq!(seen(&lab.a, "203.0.113.1:80"), None);
    lab.apply("firewall_rules", &inward(41, "tcp", Some((22, 22)), &["198.51.100.0/24", "203.0.113.1/32"]));
    assert_eq!(seen(&lab.outside, "10.1.1.20:22").as_deref(), Some("203.0.113.1"));
    assert_eq!(seen(&lab.outside, "10.1.1.20:23"), None);
    // A protocol by its number.
    assert_eq!(passes(&lab, 47, &lab.outside, (&lab.a, "10.1.1.20")), None);
    lab.apply("firewall_rules", &inward(42, "47", None, &["203.0.113.0/24"]));
    assert_eq!(passes(&lab, 47, &lab.outside, (&lab.a, "10.1.1.20")).as_deref(), Some("203.0.113.1"));
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    assert_eq!(seen(&lab.a, "203.0.113.1:80").as_deref(), Some("10.1.1.20"), "as it is");
    assert!(pings(&lab.a, "10.1.1.21") && pings(&lab.outside, "203.0.113.10"));
    let refused =
        lab.send("forwarding_rules", &forward("tcp", "203.0.113.10", "22:22", "10.1.1.20", "22:22", false));
    assert!(refused.stderr.contains("translates no addresses"), "{}", refused.stderr);
}
