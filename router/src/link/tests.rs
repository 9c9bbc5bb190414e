use ipnet::{IpNet, Ipv4Net};

use super::{
    plan::{MAIN, Via},
    steps::{Present, Step, steps},
    *,
};
use crate::{
    redundancy::Role,
    state::tests::{SIX, address, after, after_at, devices, devices_to, setup, setup_of, tier6},
    view::View,
};

fn links(documents: &[&str]) -> Links {
    let (setup, state, devices) = (setup(), after(documents), devices());
    plan::plan(&View::new(&setup, &state, &devices), &devices)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn all(nic: &NicPlan) -> Vec<IpNet> {
    let four = nic.addresses.iter().map(|net| IpNet::V4(*net));
    four.chain(nic.six.iter().map(|net| IpNet::V6(*net))).collect()
}

/// What the kernel has once a plan is in force.
fn present(links: &Links) -> Present {
    Present {
        devices: devices(),
        addresses: links.nics.iter().map(|(name, nic)| (name.clone(), all(nic))).collect(),
        routes: links.routes.clone(),
        rules: links.rules.clone(),
    }
}

#[test]
fn each_public_nic_has_its_own_table() {
    let links = links(&[&address("198.18.7.5", 3, true, true)]);
    let default = |table| {
        let all = links
            .routes
            .iter()
            .filter(|r| r.table == table && r.destination == IpNet::from(Ipv4Net::default()));
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
    let add = Step::AddAddress("eth2".into(), net("203.0.113.11/24").into());
    assert_eq!(steps(&present(&before), &after), std::slice::from_ref(&add));
    assert_eq!(steps(&present(&after), &before), [add.undo().unwrap()]);

    let mut stray = present(&before);
    stray.addresses.entry("eth3".into()).or_default().push(net("192.0.2.9/24").into());
    assert_eq!(steps(&stray, &before), [Step::DeleteAddress("eth3".into(), net("192.0.2.9/24").into())]);

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

fn six(links: &Links, nic: &str) -> Vec<String> {
    links.nics[nic].six.iter().map(ToString::to_string).collect()
}

fn way_out6(links: &Links) -> Vec<(String, String)> {
    let routes = links.routes.iter().filter(|route| route.destination == "::/0".parse().unwrap());
    let via = routes.map(|route| route.via.clone().unwrap());
    via.map(|via| (via.gateway.to_string(), via.nic)).collect()
}

#[test]
fn ipv6_has_its_addresses_and_its_way_out() {
    let of = |setup: &crate::state::Setup, documents: &[&str], devices: &Devices| {
        plan::plan(&View::new(setup, &after_at(setup, documents), devices), devices)
    };
    let links = of(&setup_of(SIX), &[], &devices());
    assert_eq!(
        (six(&links, "eth0"), six(&links, "eth2")),
        (vec!["2001:db8:1::1/64".to_owned()], vec!["2001:db8:ff::10/64".to_owned()])
    );
    let out = ("2001:db8:ff::1".to_owned(), "eth2".to_owned());
    assert_eq!(way_out6(&links), [out]);
    assert_eq!(steps(&present(&links), &links), []);

    let mut pair = setup_of(&format!(
        "{SIX} redundant_router=1 guestgw=10.1.1.254 guestcidrsize=24 guestgw6=2001:db8:1::fe guestcidr6size=64"
    ));
    let silent = of(&pair, &[], &devices());
    assert_eq!((six(&silent, "eth0"), six(&silent, "eth2")), (vec!["2001:db8:1::1/64".to_owned()], vec![]));
    assert_eq!(way_out6(&silent), []);
    pair.pair.as_mut().unwrap().role = Role::Primary;
    let first = of(&pair, &[], &devices());
    assert_eq!(six(&first, "eth0"), ["2001:db8:1::1/64", "fe80::fe/64", "2001:db8:1::fe/64"]);

    let vpc = setup_of(crate::state::tests::VPC);
    let documents = [address("203.0.113.20", 1, true, true), tier6(1, 2, true), tier6(2, 3, true)];
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let links = of(&vpc, &documents, &devices_to(6));
    assert_eq!(six(&links, "eth2"), ["2001:db8:a:1::1/64"]);
    assert_eq!(six(&links, "eth1"), ["2001:db8:ff::20/64"], "both tiers bring the same one along");
    assert_eq!(way_out6(&links).len(), 1);

    let shared = setup_of(&format!(
        "{} eth0ip6=2001:db8:30::2 eth0ip6prelen=64 ip6gateway=2001:db8:30::1",
        crate::state::tests::SHARED
    ));
    let out = ("2001:db8:30::1".to_owned(), "eth0".to_owned());
    assert_eq!(way_out6(&of(&shared, &[], &devices())), [out]);
}
