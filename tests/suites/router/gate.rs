//! Port forwards of every shape, and the rules of the gate before them.

use std::{fs, net::UdpSocket, time::Duration};

use tests::lab::{Namespace, wait_until};

use crate::{
    documents::{address, forward, ingress, static_nat},
    lab::{
        Lab, alive, connect, inside, none, pings, seen, seen_udp, seen_udp_from, serve, serve_as, serve_udp,
    },
};

const ANY: &str = "0.0.0.0/0";
const P: &str = "203.0.113.10";

/// Whether an address answers an ICMP timestamp request.
fn tells_time(namespace: &Namespace, to: &str) -> bool {
    namespace.sh(&format!("python3 {} timestamp {to}", raw())).status.success()
}

/// The program for odd packets.
pub(crate) fn raw() -> String {
    format!("{}/suites/router/raw.py", env!("CARGO_MANIFEST_DIR"))
}

/// Sends packets of a protocol from one namespace until another one hears one; tells the source that it saw.
pub(crate) fn passes(lab: &Lab, number: u8, from: &Namespace, to: (&Namespace, &str)) -> Option<String> {
    let file = lab.paths.at(&format!("/heard-{number}"));
    let _ = fs::remove_file(&file);
    let name = file.to_str().expect("path").to_owned();
    let _hears = to.0.spawn("python3", &[&raw(), "hear", &number.to_string(), &name]);
    wait_until("the listener", Duration::from_secs(20), || file.exists());
    for _ in 0..5 {
        from.ok(&format!("python3 {} send {} {number}", raw(), to.1));
        std::thread::sleep(Duration::from_millis(100));
        let heard = fs::read_to_string(&file).unwrap_or_default();
        if !heard.is_empty() {
            return Some(heard);
        }
    }
    None
}

#[test]
fn forwards_of_every_shape_lead_where_they_say() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, P, "all", None, ANY, false));
    serve_as(&lab.a, "10.1.1.20:85", "85");
    serve_as(&lab.a, "10.1.1.20:25", "25");
    serve_as(&lab.a, "10.1.1.20:22", "22");
    serve_as(&lab.b, "10.1.1.21:22", "b");
    // A range that stays, one that moves.
    lab.apply("forwarding_rules", &forward("tcp", P, "80:90", "10.1.1.20", "80:90", false));
    lab.apply("forwarding_rules", &forward("tcp", P, "2222:2230", "10.1.1.20", "22:30", false));
    assert_eq!(seen(&lab.outside, "203.0.113.10:85").as_deref(), Some("85"));
    assert_eq!(seen(&lab.outside, "203.0.113.10:2225").as_deref(), Some("25"));
    assert_eq!(seen(&lab.outside, "203.0.113.10:86"), None, "nobody serves there");
    // Another target for what is new; what is established stays where it is.
    let (mut old, name) = connect(&lab.outside, "203.0.113.10:2222").expect("a connection");
    assert_eq!(name, "22");
    lab.apply("forwarding_rules", &forward("tcp", P, "2222:2230", "10.1.1.21", "22:30", false));
    assert_eq!(seen(&lab.outside, "203.0.113.10:2222").as_deref(), Some("b"));
    assert!(alive(&mut old));
    lab.apply("forwarding_rules", &forward("tcp", P, "2222:2230", "10.1.1.21", "22:30", true));
    assert_eq!(seen(&lab.outside, "203.0.113.10:2222"), None, "revoked at once");
    assert!(alive(&mut old));
    // Datagrams both ways over one flow.
    serve_udp(&lab.a, "10.1.1.20:5300");
    lab.apply("forwarding_rules", &forward("udp", P, "53:53", "10.1.1.20", "5300:5300", false));
    let socket = inside(&lab.outside, || UdpSocket::bind("203.0.113.1:0").expect("socket"));
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("time limit");
    socket.connect("203.0.113.10:53").expect("address");
    for n in 0..200 {
        socket.send(b"?").expect("datagram");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("answer {n}: {e}"));
        assert_eq!(&buffer[..length], b"203.0.113.1");
    }
}

#[test]
fn a_forward_for_some_sources_is_for_them_alone() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, P, "all", None, ANY, false));
    serve_udp(&lab.a, "10.1.1.20:53");
    let some = forward("udp", P, "53:53", "10.1.1.20", "53:53", false)
        .replace(r#""source_cidr_list":"""#, r#""source_cidr_list":"198.51.100.0/24,203.0.113.50/32""#);
    lab.apply("forwarding_rules", &some);
    let from = |source| seen_udp_from(&lab.outside, source, "203.0.113.10:53");
    assert_eq!(from("203.0.113.50").as_deref(), Some("203.0.113.50"));
    assert_eq!(from("203.0.113.1"), None);
    // The same in a VPC.
    let lab = crate::vpc::vpc();
    serve_udp(&lab.a, "10.9.1.10:53");
    lab.outside.ip(&["addr", "add", "203.0.113.50/24", "dev", "eth0"]);
    lab.apply("network_acl", &crate::vpc::open(2));
    lab.apply("forwarding_rules", &some.replace(P, "203.0.113.20").replace("10.1.1.20", "10.9.1.10"));
    let from = |source| seen_udp_from(&lab.outside, source, "203.0.113.20:53");
    assert_eq!(from("203.0.113.50").as_deref(), Some("203.0.113.50"));
    assert_eq!(from("203.0.113.1"), None);
}

#[test]
fn the_gate_knows_types_of_icmp_protocols_and_lists_of_sources() {
    let lab = Lab::start();
    let any = ingress(41, P, "icmp", None, ANY, false);
    let echo = any.replace(r#""icmp_type":-1,"icmp_code":-1"#, r#""icmp_type":8,"icmp_code":0"#);
    lab.apply("firewall_rules", &echo);
    assert!(pings(&lab.outside, P) && !tells_time(&lab.outside, P));
    lab.apply("firewall_rules", &any.replace(r#""id":41"#, r#""id":42"#));
    assert!(pings(&lab.outside, P) && tells_time(&lab.outside, P));

    lab.apply("ip_associations", &address("203.0.113.11", 2, true));
    lab.apply("staticnat_rules", &static_nat("203.0.113.11", "10.1.1.21", false));
    serve(&lab.b, "10.1.1.21:80");
    assert_eq!(passes(&lab, 47, &lab.outside, (&lab.b, "203.0.113.11")), None);
    lab.apply("firewall_rules", &ingress(43, "203.0.113.11", "all", None, "203.0.113.1/32", false));
    assert_eq!(passes(&lab, 47, &lab.outside, (&lab.b, "203.0.113.11")).as_deref(), Some("203.0.113.1"));
    assert!(seen(&lab.outside, "203.0.113.11:80").is_some());

    // Three sources; the fourth one is none of them.
    serve_udp(&lab.a, "10.1.1.20:53");
    for source in ["51", "52", "53"] {
        lab.outside.ip(&["addr", "add", &format!("203.0.113.{source}/24"), "dev", "eth0"]);
    }
    lab.apply("forwarding_rules", &forward("udp", P, "53:53", "10.1.1.20", "53:53", false));
    let list = r#""203.0.113.50/32","203.0.113.51/32","203.0.113.52/32""#;
    let rule = ingress(44, P, "udp", Some((53, 53)), "x", false).replace(r#""x""#, list);
    lab.apply("firewall_rules", &rule);
    for source in ["203.0.113.50", "203.0.113.51", "203.0.113.52"] {
        assert!(seen_udp_from(&lab.outside, source, "203.0.113.10:53").is_some(), "{source}");
    }
    assert_eq!(seen_udp_from(&lab.outside, "203.0.113.53", "203.0.113.10:53"), None);
    assert_eq!(seen_udp(&lab.b, "203.0.113.10:53"), None);
    none(&lab.outside, &["203.0.113.10:53", "203.0.113.10:22"]);
}
