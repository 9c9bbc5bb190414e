use ipnet::Ipv4Net;

use super::{
    plan::{MAIN, Via},
    steps::{Present, Step, steps},
    *,
};
use crate::{
    state::tests::{address, after, devices, setup},
    view::View,
};

fn links(documents: &[&str]) -> Links {
    let (setup, state, devices) = (setup(), after(documents), devices());
    plan::plan(&View::new(&setup, &state, &devices), &devices)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

/// What the kernel has once a plan is in force.
fn present(links: &Links) -> Present {
    Present {
        devices: devices(),
        addresses: links.nics.iter().map(|(name, nic)| (name.clone(), nic.addresses.clone())).collect(),
        routes: links.routes.clone(),
        rules: links.rules.clone(),
    }
}

#[test]
fn each_public_nic_has_its_own_table() {
    let links = links(&[&address("198.18.7.5", 3, true, true)]);
    let default = |table| {
        let all = links.routes.iter().filter(|r| r.table == table && r.destination == Ipv4Net::default());
        all.map(|r| r.via.clone().unwrap()).collect::<Vec<_>>()
    };
    let via = |gateway: &str, nic: &str, source: &str| Via {
        gateway: gateway.parse().unwrap(),
        nic: nic.into(),
        source: source.parse().unwrap(),
    };
    assert_eq!(default(MAIN), [via("203.0.113.1", "eth2", "203.0.113.10")]);
    assert_eq!(default(103), [via("198.18.7.1", "eth3", "198.18.7.5")]);
    let thrown: Vec<_> = links.routes.iter().filter(|r| r.table == 103 && r.via.is_none()).collect();
    assert_eq!(thrown.len(), 3, "its own network, the guests' and the host's");
    assert!(links.rules.iter().any(|r| r.mark == Some(103) && r.table == 103));
    assert!(links.rules.iter().any(|r| r.source == Some(net("198.18.7.0/24")) && r.table == 103));
}

#[test]
fn nothing_is_left_of_a_nic_without_addresses() {
    let gone = links(&[&address("198.18.7.5", 3, true, true), &address("198.18.7.5", 3, true, false)]);
    assert_eq!(gone, links(&[]));
}

#[test]
fn a_plan_in_force_needs_no_step() {
    let links = links(&[&address("203.0.113.11", 2, false, true)]);
    assert_eq!(steps(&present(&links), &links), []);
}

#[test]
fn new_addresses_come_before_routes_and_stale_ones_go_last() {
    let (before, after) = (links(&[]), links(&[&address("203.0.113.11", 2, false, true)]));
    let add = Step::AddAddress("eth2".into(), net("203.0.113.11/24"));
    assert_eq!(steps(&present(&before), &after), std::slice::from_ref(&add));
    assert_eq!(steps(&present(&after), &before), [add.undo().unwrap()]);

    let mut stray = present(&before);
    stray.addresses.entry("eth3".into()).or_default().push(net("192.0.2.9/24"));
    assert_eq!(steps(&stray, &before), [Step::DeleteAddress("eth3".into(), net("192.0.2.9/24"))]);

    let first = steps(&Present { devices: devices(), ..Present::default() }, &before);
    let place = |wanted: fn(&Step) -> bool| first.iter().position(wanted).unwrap();
    assert!(place(|s| matches!(s, Step::AddAddress(..))) < place(|s| matches!(s, Step::SetRoute(..))));
}

#[test]
fn a_route_that_changes_is_replaced_not_missing_for_a_moment() {
    let (before, after) = (links(&[]), {
        let mut setup = setup();
        setup.gateway = Some("203.0.113.254".parse().unwrap());
        let (state, devices) = (setup.first_state(), devices());
        plan::plan(&View::new(&setup, &state, &devices), &devices)
    });
    let changes = steps(&present(&before), &after);
    assert!(changes.iter().all(|s| matches!(s, Step::SetRoute(_, Some(_)))), "{changes:?}");
    assert_eq!(changes.len(), 2, "in the main table and in that of the NIC");
    assert!(matches!(changes[0].undo(), Some(Step::SetRoute(..))));
}

#[test]
fn mtu_and_state_of_a_nic_are_set_where_they_differ() {
    let links = links(&[&address("203.0.113.11", 2, false, true).replace(r#""mtu":1500"#, r#""mtu":1400"#)]);
    let mut now = present(&links);
    now.devices.0[0].up = false;
    let expected = [Step::Up("eth0".into()), Step::Mtu("eth2".into(), 1400, 1500)];
    assert_eq!(steps(&now, &links), expected);
}
