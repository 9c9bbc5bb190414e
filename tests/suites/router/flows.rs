//! What guests send out, by every kind of rule, and while everything else changes.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use tests::lab::Namespace;

use crate::{
    documents::{acl, address, egress, forward, ingress, inward, rule, static_nat},
    lab::{LINE, Lab, inside, seen_udp, serve_udp},
};

/// Asks over a new flow every 3 ms while `work` goes on; tells how many asked and how many had no answer within
/// `patience`.
fn probe(from: &Namespace, to: &str, patience: Duration, work: impl FnOnce()) -> (u32, u32) {
    let (stop, asked, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            inside(from, || {
                std::thread::scope(|answers| {
                    while !stop.load(Ordering::Relaxed) {
                        let socket = UdpSocket::bind("0.0.0.0:0").expect("socket");
                        socket.set_read_timeout(Some(patience)).expect("time limit");
                        socket.send_to(b"?", to).expect("datagram");
                        asked.fetch_add(1, Ordering::Relaxed);
                        answers.spawn({
                            let lost = &lost;
                            move || {
                                if socket.recv(&mut [0; 64]).is_err() {
                                    lost.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        });
                        std::thread::sleep(Duration::from_millis(3));
                    }
                });
            });
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
    (asked.into_inner(), lost.into_inner())
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn egress_rules_mean_sources_and_destinations_together() {
    let lab = Lab::start();
    for host in ["51", "52"] {
        lab.outside.ip(&["addr", "add", &format!("203.0.113.{host}/24"), "dev", "eth0"]);
    }
    for host in ["1", "50", "51", "52"] {
        serve_udp(&lab.outside, &format!("203.0.113.{host}:53"));
    }
    let one = |id: u32, sources: &str, destinations: &str| {
        egress(id, "udp", Some(53), "x", false, false)
            .replace(r#"["x"]"#, sources)
            .replace(r#""dest_cidr_list":[]"#, &format!(r#""dest_cidr_list":{destinations}"#))
    };
    let rule = one(52, r#"["10.1.1.20/32","10.1.1.99/32"]"#, r#"["203.0.113.50/32","203.0.113.51/32"]"#);
    lab.apply("firewall_rules", &rule);
    for (host, passes) in [("50", true), ("51", true), ("52", false), ("1", false)] {
        let answer = seen_udp(&lab.a, &format!("203.0.113.{host}:53"));
        assert_eq!(answer.is_some(), passes, "{host}");
    }
    assert_eq!(seen_udp(&lab.b, "203.0.113.50:53"), None, "another source");
    lab.apply("firewall_rules", &one(53, r#"["10.1.1.21/32"]"#, r#"["0.0.0.0/0"]"#));
    assert!(seen_udp(&lab.b, "203.0.113.52:53").is_some(), "0.0.0.0/0 is everywhere");
}

#[test]
fn no_new_flow_is_lost_while_everything_changes() {
    let lab = Lab::start();
    serve_udp(&lab.outside, "203.0.113.1:53");
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    let (asked, lost) = probe(&lab.a, "203.0.113.1:53", LONG, || {
        for n in 0..8_u16 {
            let (ip, port) = (format!("203.0.113.{}", 100 + n), format!("{n}:{n}"));
            lab.apply("ip_associations", &address(&ip, 2, true));
            lab.apply("forwarding_rules", &forward("tcp", &ip, &port, "10.1.1.21", "22:22", false));
            lab.apply("firewall_rules", &ingress(u32::from(n) + 1, &ip, "tcp", None, "192.0.2.0/24", false));
            lab.apply(
                "firewall_rules",
                &egress(u32::from(n) + 100, "tcp", Some(n), "10.1.1.0/24", true, false),
            );
            lab.apply("staticnat_rules", &static_nat(&ip, "10.1.1.21", false));
            lab.apply(
                "vm_dhcp_entry",
                &format!(
                    r#"{{"host_name":"vm{n}","mac_address":"02:00:00:00:01:{n:02}","ipv4_address":"10.1.1.{}","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}}"#,
                    100 + n
                ),
            );
            lab.apply("ip_associations", &address(&ip, 2, false));
        }
    });
    assert!(asked > 100, "{asked} flows");
    assert_eq!(lost, 0, "of {asked} flows");
}

#[test]
fn a_list_that_is_replaced_neither_loses_nor_leaks() {
    let lab = crate::vpc::vpc();
    serve_udp(&lab.a, "10.9.1.10:53");
    serve_udp(&lab.a, "10.9.1.10:54");
    let list = |n: u16| {
        let others = (0..20).map(|k| rule("tcp", Some((1000 * n + k, 1000 * n + k)), "0.0.0.0/0", true));
        let open = rule("udp", Some((53, 53)), "0.0.0.0/0", true);
        acl(2, &others.chain([open]).collect::<Vec<_>>(), &[])
    };
    lab.apply("network_acl", &list(1));
    let changes = || (0..25).for_each(|n| lab.apply("network_acl", &list(n % 5 + 1)));
    let (asked, lost) = probe(&lab.b, "10.9.1.10:53", LONG, changes);
    assert!(asked > 30 && lost == 0, "{lost} of {asked} lost");
    let (asked, lost) = probe(&lab.b, "10.9.1.10:54", SHORT, changes);
    assert!(asked > 30 && lost == asked, "{} of {asked} leaked", asked - lost);
}

#[test]
fn a_routed_network_is_never_open_for_a_moment() {
    let lab = Lab::isolated(&LINE.replace("type=router", "is_routed=true type=router"));
    serve_udp(&lab.a, "10.1.1.20:53");
    lab.apply("firewall_rules", &inward(40, "udp", Some((54, 54)), &["0.0.0.0/0"]));
    let (asked, lost) = probe(&lab.outside, "10.1.1.20:53", SHORT, || {
        for n in 0..25_u16 {
            lab.apply("firewall_rules", &inward(u32::from(n) + 50, "tcp", Some((n, n)), &["192.0.2.0/24"]));
        }
    });
    assert!(asked > 30 && lost == asked, "{} of {asked} leaked", asked - lost);
}
