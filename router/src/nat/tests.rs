use std::net::Ipv4Addr;

use super::*;
use crate::{
    plan::plan,
    state::tests::{address, after, devices, forward, setup, static_nat},
};

const P: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const Q: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);

fn table(documents: &[&str]) -> Table {
    plan(&setup(), &after(documents), &devices()).table
}

fn tcp(port: u16) -> Vec<Part> {
    vec![Part::Address(P), Part::Transport(Transport::Tcp), Part::Port(port)]
}

#[test]
fn one_port_is_one_element_in_two_maps() {
    let table = table(&[&forward("203.0.113.10", "2222:2222", "10.1.1.20", "22:22", "", false)]);
    let target = Value::Address(Ipv4Addr::new(10, 1, 1, 20));
    assert_eq!(table.maps["forward_address"].elements, [(tcp(2222), target)].into());
    assert_eq!(table.maps["forward_port"].elements, [(tcp(2222), Value::Port(22))].into());
}

#[test]
fn ranges_keep_their_ports_or_move_each_by_the_same_step() {
    let same = table(&[&forward("203.0.113.10", "80:90", "10.1.1.20", "80:90", "", false)]);
    let rule = &same.chains["forward_203.0.113.10"].rules[0];
    assert_eq!(rule.matches, [Match::Ports(Transport::Tcp, "80:90".parse().unwrap())]);
    assert_eq!(rule.action, Action::Translate(Ipv4Addr::new(10, 1, 1, 20)));

    let moved = table(&[&forward("203.0.113.10", "2222:2230", "10.1.1.20", "22:30", "", false)]);
    assert_eq!(moved.maps["forward_port"].elements[&tcp(2225)], Value::Port(25));
    let joined = table(&[&forward("203.0.113.10", "2222:2230", "10.1.1.20", "22:22", "", false)]);
    assert_eq!(joined.maps["forward_port"].elements[&tcp(2230)], Value::Port(22));
}

#[test]
fn a_forward_for_some_sources_is_tried_before_the_one_for_all() {
    let table = table(&[
        &forward("203.0.113.10", "22:22", "10.1.1.20", "2200:2200", "198.51.100.0/24", false),
        &forward("203.0.113.10", "22:22", "10.1.1.21", "22:22", "", false),
    ]);
    let rule = &table.chains["forward_203.0.113.10"].rules[0];
    assert_eq!(rule.matches[0], Match::From(vec!["198.51.100.0/24".parse().unwrap()]));
    let ports = vec![(22, 2200)];
    assert_eq!(rule.action, Action::TranslatePorts(Ipv4Addr::new(10, 1, 1, 20), Transport::Tcp, ports));
    let order: Vec<_> = table.chains["to_guests"].rules.iter().map(|r| &r.action).collect();
    assert!(matches!(order[1], Action::Lookup(_, "forward_rules")));
    assert!(matches!(order[2], Action::TranslatePortBy(_, "forward_address", "forward_port")));
}

#[test]
fn a_guest_with_static_nat_leaves_by_the_nic_of_its_address() {
    let table =
        table(&[&address("198.18.7.5", 3, true, true), &static_nat("198.18.7.5", "10.1.1.30", false)]);
    let (p, m) = (Ipv4Addr::new(198, 18, 7, 5), Ipv4Addr::new(10, 1, 1, 30));
    let key = vec![Part::Nic("eth3".into()), Part::Address(m)];
    assert_eq!(table.maps["static_out"].elements, [(key, Value::Address(p))].into());
    assert_eq!(table.maps["static_in"].elements, [(vec![Part::Address(p)], Value::Address(m))].into());
    assert_eq!(table.maps["static_marks"].elements, [(vec![Part::Address(m)], Value::Mark(103))].into());
    assert_eq!(table.maps["source_nat"].elements[&vec![Part::Nic("eth2".into())]], Value::Address(P));
}

#[test]
fn the_source_nat_address_is_that_of_the_boot_arguments_whatever_documents_say() {
    let table = table(&[&address("203.0.113.9", 2, true, true)]);
    assert_eq!(table.maps["source_nat"].elements[&vec![Part::Nic("eth2".into())]], Value::Address(P));
}

#[test]
fn only_lost_translations_end_connections() {
    let q = address("203.0.113.11", 2, false, true);
    let udp = forward("203.0.113.10", "53:53", "10.1.1.20", "53:53", "", false).replace("tcp", "udp");
    let full = table(&[&q, &udp, &static_nat("203.0.113.11", "10.1.1.30", false)]);
    assert_eq!(lost(&full, &full), []);
    assert_eq!(lost(&table(&[]), &full), [], "what is new ends nothing");
    let changed = table(&[&q, &udp, &static_nat("203.0.113.11", "10.1.1.31", false)]);
    assert_eq!(lost(&full, &changed), [Lost::Address(Q)]);
    assert_eq!(lost(&full, &table(&[&q])), [Lost::Address(Q), Lost::Datagrams(P, "53".parse().unwrap())]);
    let range = |to: &str| {
        let text = forward("203.0.113.10", "5000:5100", to, "5000:5100", "", false).replace("tcp", "udp");
        table(&[&text])
    };
    let ports = "5000:5100".parse().unwrap();
    assert_eq!(lost(&range("10.1.1.20"), &range("10.1.1.21")), [Lost::Datagrams(P, ports)]);
    assert_eq!(lost(&range("10.1.1.20"), &range("10.1.1.20")), []);
    let tcp = table(&[&forward("203.0.113.10", "22:22", "10.1.1.20", "22:22", "", false)]);
    assert_eq!(lost(&tcp, &table(&[])), [], "connections that know their end keep it");
}
