use common::boot::Identity;
use proptest::prelude::*;

use super::*;
use crate::{
    document::Document,
    link::{Device, Devices},
    nat,
    nft::diff,
    plan::plan,
    scope::{Scope, WHOLE},
    view::View,
};

/// Boot arguments of router contract 1.4.
pub(crate) const LINE: &str = "template=domP name=r-7-VM authorized_key=c3NoLXJzYSBBQUFB eth2ip=203.0.113.10 \
    eth2mask=255.255.255.0 gateway=203.0.113.1 publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 \
    privateMtu=1500 domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.10.20 \
    eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 dns2=192.0.2.54 \
    logrotatefrequency=*:00:00";

/// Boot arguments of the router of a VPC (router contract 1.4).
pub(crate) const VPC: &str = "vpccidr=10.9.0.0/16 domain=vpc1.example publicMtu=1500 dns1=192.0.2.53 template=domP \
    name=r-12-VM eth0ip=169.254.33.7 eth0mask=255.255.0.0 has_public_network=true type=vpcrouter \
    disable_rp_filter=true source_nat_ip=203.0.113.20";

/// Boot arguments of the router of a shared network.
pub(crate) const SHARED: &str = "name=r-20-VM eth0ip=10.30.0.2 eth0mask=255.255.255.0 gateway=10.30.0.1 \
    domain=cs3.example cidrsize=24 eth1ip=169.254.44.9 eth1mask=255.255.0.0 type=dhcpsrvr dns1=192.0.2.53";

/// The same with IPv6, too.
pub(crate) const SIX: &str = "template=domP name=r-7-VM authorized_key=c3NoLXJzYSBBQUFB eth2ip=203.0.113.10 \
    eth2mask=255.255.255.0 eth2ip6=2001:db8:ff::10 eth2ip6prelen=64 gateway=203.0.113.1 ip6gateway=2001:db8:ff::1 \
    publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 eth0ip6=2001:db8:1::1 eth0ip6prelen=64 privateMtu=1500 \
    ip6firewall=true domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.10.20 eth1mask=255.255.0.0 \
    type=router disable_rp_filter=true dns1=192.0.2.53 dns2=192.0.2.54 ip6dns1=2001:db8:53::53";

pub(crate) fn setup() -> Setup {
    setup_of(LINE)
}

pub(crate) fn setup_of(line: &str) -> Setup {
    Setup::new(&Identity::parse(line).unwrap()).unwrap()
}

/// eth0 to eth3, MACs ending in their numbers.
pub(crate) fn devices() -> Devices {
    devices_to(4)
}

/// The same up to a number.
pub(crate) fn devices_to(end: u8) -> Devices {
    let device = |n: u8| Device {
        index: u32::from(n) + 10,
        name: format!("eth{n}"),
        mac: Mac([2, 0, 0, 0, 0, n]),
        up: true,
        mtu: 1500,
    };
    Devices((0..end).map(device).collect())
}

/// Merges a document into a state, as the engine does.
pub(crate) fn merge(state: &mut State, text: &str) -> Result<(), crate::document::DocumentError> {
    merge_at(&setup(), state, text)
}

/// The same for a router of any kind.
pub(crate) fn merge_at(
    setup: &Setup,
    state: &mut State,
    text: &str,
) -> Result<(), crate::document::DocumentError> {
    match Document::read(text.as_bytes())? {
        Document::Addresses(changes) => state.merge_addresses(setup, &changes),
        Document::Forwards(changes) => state.merge_forwards(setup, &changes),
        Document::StaticNat(changes) => state.merge_static_nat(setup, &changes),
        Document::Firewall(changes) => state.merge_firewall(setup, &changes),
        Document::Firewall6(changes) => state.merge_firewall6(setup, &changes),
        Document::Tier(change) => state.merge_tier(setup, &change),
        Document::Acl(change) => state.merge_acl(setup, &change),
        Document::Routes(changes) => state.merge_routes(setup, &changes),
        Document::Aliases(changes) => state.merge_aliases(setup, &changes),
        Document::Dhcp(change) => state.merge_host(&change),
        Document::Bgp(change) => state.merge_peers(setup, &change),
        Document::Site(change) => state.merge_site(setup, &change),
        Document::Remote(change) => state.merge_remote(setup, &change),
        Document::Users(changes) => state.merge_users(setup, &changes),
        Document::Wireguard(change) => state.merge_wireguard(setup, &change),
        other => panic!("{other:?} is not about the network"),
    }
}

/// A state after documents that must all be fine.
pub(crate) fn after(documents: &[&str]) -> State {
    after_at(&setup(), documents)
}

/// The same for a router of any kind.
pub(crate) fn after_at(setup: &Setup, documents: &[&str]) -> State {
    let mut state = setup.first_state();
    for document in documents {
        merge_at(setup, &mut state, document).unwrap();
    }
    state
}

/// A private gateway of a VPC, whose network is that of its address.
pub(crate) fn private(ip: &str, nic: u32, source_nat: bool, add: bool) -> String {
    let text = address(ip, nic, source_nat, add);
    text.replace(r#""is_private_gateway":false"#, r#""is_private_gateway":true"#)
}

/// The same tier with 2001:db8:a:N::/64, too.
pub(crate) fn tier6(n: u8, nic: u32, add: bool) -> String {
    let six = format!(
        r#""cidr6":"64","dns6":"2001:db8:53::53","router_guest_ip6":"2001:db8:a:{n}::1",
        "router_guest_ip6_gateway":"2001:db8:a:{n}::1","router_guest_ip6_cidr":"2001:db8:a:{n}::/64",
        "router_ip6":"2001:db8:ff::20","router_ip6_gateway":"2001:db8:ff::1","router_ip6_cidr":"2001:db8:ff::/64",
        "cidr":"24","#
    );
    tier(n, nic, add).replace(r#""cidr":"24","#, &six)
}

/// A tier 10.9.N.0/24 at `eth<nic>`.
pub(crate) fn tier(n: u8, nic: u32, add: bool) -> String {
    format!(
        r#"{{"add":{add},"mac_address":"02:00:00:00:00:0{nic}","device":"eth{nic}","router_guest_ip":"10.9.{n}.1",
        "router_guest_netmask":"255.255.255.0","router_guest_gateway":"10.9.{n}.1","cidr":"24",
        "dns":"192.0.2.53,192.0.2.54","domain_name":"tier{n}.example","is_vr_guest_gateway":true,
        "network_id":{},"mtu":1450,"type":"guestnetwork"}}"#,
        200 + u32::from(n)
    )
}

/// Lists of rules, each rule as JSON.
pub(crate) fn acl(nic: u32, ingress: &[&str], egress: &[&str]) -> String {
    format!(
        r#"{{"device":"eth{nic}","mac_address":"02:00:00:00:00:0{nic}","private_gateway_acl":false,
        "nic_ip":"10.9.1.1","nic_netmask":"24","ingress_rules":[{}],"egress_rules":[{}],"type":"networkacl"}}"#,
        ingress.join(","),
        egress.join(",")
    )
}

/// A route, or without a gateway its revocation.
pub(crate) fn route(network: &str, gateway: Option<&str>) -> String {
    let (revoke, gateway) = (gateway.is_none(), gateway.unwrap_or("172.16.5.1"));
    format!(
        r#"{{"routes":[{{"revoke":{revoke},"gateway":"{gateway}","network":"{network}"}}],"type":"staticroutes"}}"#
    )
}

pub(crate) fn address(ip: &str, nic: u32, source_nat: bool, add: bool) -> String {
    let net = ip.rsplit_once('.').unwrap().0;
    format!(
        r#"{{"ip_address":[{{"public_ip":"{ip}","source_nat":{source_nat},"add":{add},"one_to_one_nat":false,
        "first_i_p":true,"gateway":"{net}.1","netmask":"255.255.255.0","vif_mac_address":"02:00:00:00:00:0{nic}",
        "nic_dev_id":{nic},"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}}],
        "type":"ips","delete_from_processed_cache":false}}"#
    )
}

pub(crate) fn forward(ip: &str, ports: &str, target: &str, to: &str, sources: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"protocol":"tcp","source_ip_address":"{ip}",
        "source_port_range":"{ports}","destination_ip_address":"{target}","destination_port_range":"{to}",
        "source_cidr_list":"{sources}"}}],"type":"forwardrules","delete_from_processed_cache":false}}"#
    )
}

pub(crate) fn static_nat(ip: &str, target: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"source_ip_address":"{ip}","source_port_range":"0:0",
        "destination_ip_address":"{target}"}}],"type":"staticnatrules"}}"#
    )
}

#[test]
fn a_fresh_router_has_what_the_boot_arguments_give() {
    let state = setup().first_state();
    assert_eq!(state.addresses.len(), 1);
    assert!(state.addresses[&Ipv4Addr::new(203, 0, 113, 10)].boot);
}

#[test]
fn kinds_that_are_not_served_are_refused() {
    for (from, to, message) in [
        ("type=router", "type=consoleproxy", "boot argument type=consoleproxy: not served by this router"),
        ("type=router", "type=router redundant_router=1", "boot argument guestgw is missing"),
        ("eth0ip=10.1.1.1", "x=y", "boot argument eth0ip is missing"),
    ] {
        let identity = Identity::parse(&LINE.replace(from, to)).unwrap();
        let error = Setup::new(&identity).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_state_survives_its_file() {
    let state = after(&[
        &address("203.0.113.11", 2, false, true),
        &forward("203.0.113.11", "80:90", "10.1.1.20", "80:90", "198.51.100.0/24", false),
        &static_nat("203.0.113.10", "10.1.1.30", false),
        crate::firewall::tests::INGRESS,
    ]);
    // A router with another MTU, and one that had one.
    for (from, to) in [(None, Some(1400)), (Some(1400), None)] {
        let (old, new) =
            (State { guest_mtu: from, ..State::default() }, State { guest_mtu: to, ..state.clone() });
        check_edits(&setup(), &devices(), &old, &new);
    }
}

/// Sees to it that what differs between two states, as it is written to the disk, makes one out of the other; and that
/// a plan of what the difference reaches changes the packet filter as plans of everything do.
pub(super) fn check_edits(setup: &Setup, devices: &Devices, old: &State, new: &State) {
    let edits = Edits::between(old, new);
    assert_eq!(edits.is_empty(), old == new);
    let text = serde_json::to_string(&edits).unwrap();
    let mut read = old.clone();
    read.edit(serde_json::from_str(&text).unwrap());
    assert_eq!(&read, new, "{text}");

    let scope = Scope::of(&edits, old, new);
    let tables = |scope: &Scope| {
        [old, new].map(|state| crate::plan::table(&View::new(setup, state, devices).within(scope)))
    };
    let ([old, new], [whole_old, whole_new]) = (tables(&scope), tables(&WHOLE));
    let commands = |old, new| diff::changes(old, new, "sealed_", &mut Vec::new());
    assert_eq!(commands(&old, &new), commands(&whole_old, &whole_new), "{text}");
    assert_eq!(new.digest_after(&old, whole_old.digest()), whole_new.digest());
    assert_eq!(nat::lost(&old, &new), nat::lost(&whole_old, &whole_new));
}

#[test]
fn static_nat_takes_the_place_of_forwards_and_back() {
    let fresh = after(&[]);
    let with = after(&[&forward("203.0.113.10", "22:22", "10.1.1.20", "22:22", "", false)]);
    let mut state = with.clone();
    merge(&mut state, &static_nat("203.0.113.10", "10.1.1.30", false)).unwrap();
    assert!(state.forwards.is_empty());
    merge(&mut state, &forward("203.0.113.10", "22:22", "10.1.1.20", "22:22", "", false)).unwrap();
    assert_eq!(state, with);
    merge(&mut state, &static_nat("203.0.113.10", "10.1.1.30", true)).unwrap();
    assert_eq!(state, fresh);
}

#[test]
fn forwards_of_one_port_live_side_by_side_where_sources_do_not_collide() {
    let one = |sources: &str, to: &str| forward("203.0.113.10", "22:22", to, "22:22", sources, false);
    let mut state =
        after(&[&one("10.0.0.0/8", "10.1.1.20"), &one("192.0.2.0/24", "10.1.1.21"), &one("", "10.1.1.22")]);
    assert_eq!(state.forwards.values().map(Vec::len).sum::<usize>(), 3);
    merge(&mut state, &one("10.1.0.0/16", "10.1.1.23")).unwrap();
    let targets: Vec<u8> = state.forwards.values().flatten().map(|f| f.target.octets()[3]).collect();
    assert_eq!(targets, [22, 23, 21], "the one whose sources collide was replaced");
}

#[test]
fn a_firewall_rule_that_is_known_does_not_change() {
    let rule = |port: u16| {
        format!(
            r#"{{"rules":[{{"id":41,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[{port},{port}],
            "revoked":false,"source_cidr_list":["0.0.0.0/0"],"traffic_type":"Ingress"}}],"type":"firewallrules"}}"#
        )
    };
    assert_eq!(after(&[&rule(22), &rule(23)]), after(&[&rule(22)]));
}

#[test]
fn one_reservation_per_mac_and_per_address() {
    let entry = |mac: &str, ip: &str, remove: bool| {
        format!(
            r#"{{"host_name":"web1","mac_address":"{mac}","ipv4_address":"{ip}","default_gateway":"10.1.1.1",
            "default_entry":true,"remove":{remove},"type":"dhcpentry"}}"#
        )
    };
    let (a, b) = ("02:00:00:00:00:0a", "02:00:00:00:00:0b");
    let moved = after(&[&entry(a, "10.1.1.20", false), &entry(a, "10.1.1.21", false)]);
    assert_eq!(moved.hosts.keys().map(|ip| ip.octets()[3]).collect::<Vec<_>>(), [21]);
    let reused =
        [&*entry(a, "10.1.1.20", false), &entry(b, "10.1.1.20", false), &entry(a, "10.1.1.20", true)];
    assert_eq!(
        after(&reused).hosts.values().next().unwrap().mac,
        b.parse().unwrap(),
        "a late removal hurts nobody"
    );
}

#[test]
fn what_names_an_unknown_address_is_refused_and_changes_nothing() {
    let mut state = after(&[]);
    let before = state.clone();
    let two = r#"{"rules":[
        {"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.10","source_port_range":"1:1","destination_ip_address":"10.1.1.2","destination_port_range":"1:1"},
        {"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.99","source_port_range":"1:1","destination_ip_address":"10.1.1.2","destination_port_range":"1:1"}],
        "type":"forwardrules"}"#;
    let error = merge(&mut state, two).unwrap_err().to_string();
    assert_eq!(
        error,
        "rules[1].source_ip_address: 203.0.113.99 is no public address of this router; nothing of this document \
         was applied"
    );
    assert_eq!(state, before);
    let error = merge(&mut state, &address("10.1.1.1", 2, true, false)).unwrap_err().to_string();
    assert!(error.contains("10.1.1.1 is the address of eth0"), "{error}");
}

/// A step of a random history.
#[derive(Debug, Clone)]
enum Move {
    Address { last: u8, nic: u32, source_nat: bool, add: bool },
    Forward { last: u8, port: u16, target: u8, sources: usize, revoke: bool },
    Static { last: u8, target: u8, revoke: bool },
    Rule { id: u64, last: u8, port: u16, width: u16, source: u8, egress: bool, revoke: bool },
    Host { mac: u8, ip: u8, remove: bool },
}

const SOURCES: [&str; 4] = ["", "198.51.100.0/24", "198.51.100.0/25,192.0.2.0/24", "192.0.2.7/32"];

impl Move {
    fn document(&self) -> String {
        match self {
            Self::Address { last, nic, source_nat, add } => {
                address(&format!("203.0.113.{last}"), *nic, *source_nat, *add)
            }
            Self::Forward { last, port, target, sources, revoke } => forward(
                &format!("203.0.113.{last}"),
                &format!("{port}:{}", port + port % 3),
                &format!("10.1.1.{target}"),
                &format!("{}:{}", port + 1, port + 1 + port % 3),
                SOURCES[*sources],
                *revoke,
            ),
            Self::Static { last, target, revoke } => {
                static_nat(&format!("203.0.113.{last}"), &format!("10.1.1.{target}"), *revoke)
            }
            Self::Rule { id, last, port, width, source, egress, revoke } => format!(
                r#"{{"rules":[{{"id":{id},"src_ip":"{}","protocol":"tcp","src_port_range":[{port},{}],
                "revoked":{revoke},"source_cidr_list":["192.0.2.{source}/32"],"traffic_type":"{}",
                "default_egress_policy":false}}],"type":"firewallrules"}}"#,
                if *egress { String::new() } else { format!("203.0.113.{last}") },
                port + width,
                if *egress { "Egress" } else { "Ingress" },
            ),
            Self::Host { mac, ip, remove } => format!(
                r#"{{"host_name":"vm{ip}","mac_address":"02:00:00:00:01:{mac:02x}","ipv4_address":"10.1.1.{ip}",
                "remove":{remove},"type":"dhcpentry"}}"#
            ),
        }
    }
}

fn step() -> impl Strategy<Value = Move> {
    prop_oneof![
        (10..13u8, 2..4u32, any::<bool>(), any::<bool>())
            .prop_map(|(last, nic, source_nat, add)| Move::Address { last, nic, source_nat, add }),
        (10..13u8, 20..25u16, 2..5u8, 0..4usize, any::<bool>()).prop_map(
            |(last, port, target, sources, revoke)| { Move::Forward { last, port, target, sources, revoke } }
        ),
        (10..13u8, 2..5u8, any::<bool>()).prop_map(|(last, target, revoke)| Move::Static {
            last,
            target,
            revoke
        }),
        (1..6u64, 10..13u8, 20..23u16, 0..2u16, 1..3u8, any::<bool>(), any::<bool>()).prop_map(
            |(id, last, port, width, source, egress, revoke)| Move::Rule {
                id,
                last,
                port,
                width,
                source,
                egress,
                revoke
            }
        ),
        (1..4u8, 2..6u8, any::<bool>()).prop_map(|(mac, ip, remove)| Move::Host { mac, ip, remove }),
    ]
}

impl Move {
    /// Kinds that do not depend on each other.
    const fn kind(&self) -> Option<u8> {
        match self {
            Self::Address { .. } => None,
            Self::Forward { .. } | Self::Static { .. } => Some(0),
            Self::Rule { .. } => Some(1),
            Self::Host { .. } => Some(2),
        }
    }
}

/// Documents that give a fresh router exactly what a state holds.
fn surviving(state: &State) -> Vec<String> {
    let mut documents = Vec::new();
    if !state.addresses.values().any(|a| a.boot) {
        documents.push(address("203.0.113.10", 2, false, false));
    }
    for (ip, a) in &state.addresses {
        if a.mac.is_some() {
            documents.push(address(&ip.to_string(), a.index.unwrap(), a.source_nat, true));
        }
    }
    for (key, forwards) in &state.forwards {
        for f in forwards {
            let sources = f.sources.as_slice().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let (ip, target) = (key.address.to_string(), f.target.to_string());
            documents.push(forward(
                &ip,
                &key.ports.to_string(),
                &target,
                &f.ports.to_string(),
                &sources,
                false,
            ));
        }
    }
    for (ip, target) in &state.static_nat {
        documents.push(static_nat(&ip.to_string(), &target.to_string(), false));
    }
    for (id, rule) in &state.firewall {
        let Protocol::Transport { ports: Some(ports), .. } = rule.packets.protocol else {
            panic!("{rule:?}")
        };
        let last = match rule.direction {
            Direction::Ingress { address } => address.octets()[3],
            _ => 0,
        };
        let std::net::IpAddr::V4(source) = rule.packets.sources.as_slice()[0].addr() else {
            panic!("{rule:?}")
        };
        let source = source.octets()[3];
        let egress = rule.direction == Direction::Egress;
        let (port, width) = (ports.first(), ports.width());
        documents.push(Move::Rule { id: *id, last, port, width, source, egress, revoke: false }.document());
    }
    for (ip, host) in state.hosts.iter() {
        let (mac, ip) = (host.mac.0[5], ip.octets()[3]);
        documents.push(Move::Host { mac, ip, remove: false }.document());
    }
    documents
}

fn retain<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, keep: impl Fn(&K, &V) -> bool) {
    *map = map.iter().filter(|(key, value)| keep(key, value)).map(|(k, v)| (k.clone(), v.clone())).collect();
}

proptest! {
    /// Many changes at once, back and forth.
    #[test]
    fn edits_make_one_state_out_of_another(
        common in prop::collection::vec(step(), 0..20),
        one in prop::collection::vec(step(), 0..20),
        other in prop::collection::vec(step(), 0..20),
    ) {
        let merged = |state: &State, moves: &[Move]| {
            let mut state = state.clone();
            // Rules for addresses that are not there are refused.
            moves.iter().for_each(|step| drop(merge(&mut state, &step.document())));
            state
        };
        let common = merged(&setup().first_state(), &common);
        check_edits(&setup(), &devices(), &merged(&common, &one), &merged(&common, &other));
    }

    /// Of a firewall rule, a reservation, and a translation, it does not matter which comes first.
    #[test]
    fn documents_of_independent_kinds_commute(
        moves in prop::collection::vec(step(), 0..20),
        one in step(),
        other in step(),
    ) {
        prop_assume!(one.kind().zip(other.kind()).is_some_and(|(one, other)| one != other));
        let mut first = setup().first_state();
        moves.iter().for_each(|step| drop(merge(&mut first, &step.document())));
        let mut second = first.clone();
        let refused = |state: &mut State, step: &Move| merge(state, &step.document()).is_err();
        let outcomes = (refused(&mut first, &one), refused(&mut first, &other));
        let (other, one) = (refused(&mut second, &other), refused(&mut second, &one));
        prop_assert_eq!((outcomes, first), ((one, other), second));
    }

    /// Whatever happened before, only what survived counts; and saying the last thing again changes nothing.
    #[test]
    fn any_history_equals_a_fresh_router_with_what_survived(moves in prop::collection::vec(step(), 0..40)) {
        let mut state = setup().first_state();
        let mut last = None;
        for step in &moves {
            let document = step.document();
            let before = state.clone();
            match merge(&mut state, &document) {
                Ok(()) => {
                    check_edits(&setup(), &devices(), &before, &state);
                    last = Some(document);
                }
                // A rule for an address that is not there right now.
                Err(_) => prop_assert_eq!(&state, &before),
            }
        }
        // What waits for its address to come back was given while it was there.
        let here = |address: &Ipv4Addr| state.addresses.contains_key(address);
        let mut kept = state.clone();
        retain(&mut kept.forwards, |key, _| here(&key.address));
        retain(&mut kept.static_nat, |address, _| here(address));
        retain(&mut kept.firewall, |_, rule| match rule.direction {
            Direction::Ingress { address } => here(&address),
            _ => true,
        });
        let documents = surviving(&kept);
        let fresh = after(&documents.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(&fresh, &kept);
        let (setup, devices) = (setup(), devices());
        prop_assert_eq!(plan(&setup, &fresh, &devices), plan(&setup, &state, &devices));
        if let Some(last) = last {
            let before = state.clone();
            merge(&mut state, &last).unwrap();
            prop_assert_eq!(state, before);
        }
    }
}
