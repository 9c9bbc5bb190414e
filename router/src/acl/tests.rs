use super::*;
use crate::{
    link::{
        Links,
        plan::{MAIN, Via},
    },
    plan::{Plan, plan},
    state::{
        Setup,
        tests::{SHARED, VPC, acl, address, after_at, devices_to, private, route, setup_of, tier, tier6},
    },
};

const TCP_22: &str = r#"{"type":"tcp","first_port":22,"last_port":22,"cidr":"198.51.100.0/24,192.0.2.7/32,::/0","allowed":false}"#;
const ALL: &str = r#"{"type":"all","cidr":"0.0.0.0/0,::/0","allowed":true}"#;
const GRE: &str = r#"{"type":"protocol","protocol":47,"cidr":"10.0.0.0/8","allowed":true}"#;
const V6: &str = r#"{"type":"all","cidr":"2001:db8::/32","allowed":true}"#;
const ANY_PORT: &str = r#"{"type":"udp","first_port":0,"last_port":0,"cidr":"10.9.2.0/24","allowed":true}"#;

fn at(setup: &Setup, documents: &[&str]) -> Plan {
    plan(setup, &after_at(setup, documents), &devices_to(6))
}

fn vpc(documents: &[&str]) -> Plan {
    let public = address("203.0.113.20", 1, true, true);
    let all: Vec<&str> = [public.as_str()].into_iter().chain(documents.iter().copied()).collect();
    at(&setup_of(VPC), &all)
}

fn targets(table: &Table, map: &str) -> Vec<(String, Value)> {
    let nic = |key: &[crate::nft::Part]| match key {
        [crate::nft::Part::Nic(name)] => name.clone(),
        other => panic!("{other:?}"),
    };
    table.maps[map].elements.iter().map(|(key, value)| (nic(key), value.clone())).collect()
}

#[test]
fn a_list_keeps_its_order_and_ends_closed() {
    let plan = vpc(&[&tier(1, 2, true), &acl(2, &[TCP_22, V6, GRE, ANY_PORT, ALL], &[])]);
    let rules = &plan.table.chains["acl_ingress_eth2"].rules;
    let nets = ["192.0.2.7/32", "198.51.100.0/24"].map(|n| n.parse().unwrap()).to_vec();
    let ports = Match::Ports(Transport::Tcp, "22".parse().unwrap());
    assert_eq!(rules[0].matches, [Match::From(nets), ports], "one rule, one set");
    assert_eq!(rules[0].action, Action::Drop);
    assert_eq!(rules[1].matches[1], Match::Number(47), "a rule for IPv6 says nothing about IPv4");
    assert_eq!(rules[2].matches[1], Match::Transport(Transport::Udp), "0 to 0 means any port");
    assert_eq!((rules[3].matches.len(), &rules[3].action), (0, &Action::Accept));
    assert_eq!((rules.len(), &rules[4].action), (5, &Action::Drop));
    assert_eq!(
        targets(&plan.table, "acl_ingress"),
        [("eth2".into(), Value::Jump("acl_ingress_eth2".into()))]
    );
    assert_eq!(targets(&plan.table, "acl_egress"), [], "without rules everything may leave");
}

#[test]
fn egress_spares_what_is_for_the_router_and_passes_at_its_end() {
    let plan = vpc(&[&tier(1, 2, true), &acl(2, &[], &[TCP_22])]);
    let rules = &plan.table.chains["acl_egress_eth2"].rules;
    assert_eq!(rules[0].matches, [Match::To(vec!["10.9.1.1/32".parse().unwrap()])]);
    assert_eq!(rules[0].action, Action::Return);
    assert_eq!((rules.len(), &rules[2].action), (3, &Action::Drop));
    let routed = at(&setup_of(&VPC.replace("type=", "is_routed=true type=")), &[&tier(1, 2, true)]);
    let rules = &routed.table.chains["acl_egress_eth2"].rules;
    assert_eq!(rules.last().unwrap().action, Action::Drop, "a routed tier is closed until it has a list");
    assert!(!routed.table.chains.contains_key("source"), "and nothing of it is translated");
}

#[test]
fn a_change_of_one_list_touches_its_chain_alone() {
    let documents = |rules: &[&str]| {
        vpc(&[&tier(1, 2, true), &tier(2, 3, true), &acl(2, &[ALL], &[ALL]), &acl(3, rules, &[])]).table
    };
    let (before, after) = (documents(&[ALL]), documents(&[TCP_22, ALL]));
    let differing: Vec<_> =
        after.chains.iter().filter(|(name, chain)| before.chains.get(*name) != Some(chain)).collect();
    assert_eq!(differing.len(), 1);
    assert_eq!(differing[0].0, "acl_ingress_eth3");
    assert_eq!(before.maps, after.maps);
}

#[test]
fn guests_never_reach_the_control_network_and_are_not_reached_untranslated() {
    let table = vpc(&[&tier(1, 2, true)]).table;
    let rules = &table.chains["forward"].rules;
    assert_eq!(rules[1].matches, [Match::In("eth0".into())]);
    assert_eq!(rules[2].matches, [Match::Out("eth0".into())]);
    assert!(rules[1..3].iter().all(|r| r.action == Action::Drop));
    assert!(table.chains["forward"].base.unwrap().drops);
    let from_public: Vec<_> = table.chains["from_public"].rules.iter().map(|r| &r.action).collect();
    assert_eq!(from_public, [&Action::Return, &Action::Drop]);
    assert!(!table.chains.contains_key("gate"), "lists, not gates, guard a VPC");
}

#[test]
fn a_tier_that_others_route_is_served_only() {
    let other = tier(1, 2, true).replace(r#""is_vr_guest_gateway":true"#, r#""is_vr_guest_gateway":false"#);
    let plan = vpc(&[&other]);
    assert_eq!(targets(&plan.table, "acl_ingress"), []);
    assert_eq!(targets(&plan.table, GUEST_NICS), []);
    assert_eq!(targets(&plan.table, "input_guests").len(), 1);
    assert!(plan.links.nics.contains_key("eth2"));
}

fn via(links: &Links, table: u32, to: &str) -> Option<Option<Via>> {
    let to = to.parse().unwrap();
    links.routes.iter().find(|r| (r.table, r.destination) == (table, to)).map(|r| r.via.clone())
}

fn hop(gateway: &str, nic: &str, source: &str) -> Option<Option<Via>> {
    let (gateway, source) = (gateway.parse().unwrap(), source.parse().unwrap());
    Some(Some(Via { gateway, nic: nic.into(), source }))
}

#[test]
fn a_private_gateway_has_its_lists_and_its_routes() {
    let documents =
        [tier(1, 2, true), private("172.16.5.2", 4, false, true), route("172.30.0.0/24", Some("172.16.5.1"))];
    let mut all: Vec<&str> = documents.iter().map(String::as_str).collect();
    let plan = vpc(&all);
    assert_eq!(via(&plan.links, MAIN, "0.0.0.0/0"), hop("203.0.113.1", "eth1", "203.0.113.20"));
    assert_eq!(via(&plan.links, MAIN, "172.30.0.0/24"), hop("172.16.5.1", "eth4", "172.16.5.2"));
    for near in ["172.30.0.0/24", "172.16.5.0/24", "10.9.1.0/24", "169.254.0.0/16"] {
        assert_eq!(via(&plan.links, 101, near), Some(None), "{near} is not looked for outside");
    }
    let sources = targets(&plan.table, "source_nat");
    assert_eq!(sources, [("eth1".into(), Value::Address([203, 0, 113, 20].into()))]);
    assert_eq!(plan.table.chains["acl_ingress_eth4"].rules.last().unwrap().action, Action::Drop);
    let own = private("172.16.5.2", 4, true, true);
    all.push(&own);
    assert!(targets(&vpc(&all).table, "source_nat").len() == 2, "with source NAT it has its own address");
    let moved = route("172.30.0.0/24", Some("10.9.1.77"));
    all.push(&moved);
    assert_eq!(via(&vpc(&all).links, MAIN, "172.30.0.0/24"), hop("10.9.1.77", "eth2", "10.9.1.1"));
}

#[test]
fn other_public_nics_carry_the_source_nat_address() {
    let plan = vpc(&[&address("198.18.7.5", 2, false, true)]);
    let address = Value::Address([203, 0, 113, 20].into());
    assert_eq!(
        targets(&plan.table, "source_nat"),
        [("eth1".into(), address.clone()), ("eth2".into(), address)]
    );
    assert_eq!(via(&plan.links, 102, "0.0.0.0/0"), hop("198.18.7.1", "eth2", "198.18.7.5"));
}

#[test]
fn without_a_public_network_the_way_out_is_the_first_tier() {
    let setup = setup_of(&VPC.replace("has_public_network=true", "has_public_network=false"));
    let away = |n, nic| {
        let text = tier(n, nic, true);
        text.replace(&format!("gateway\":\"10.9.{n}.1"), &format!("gateway\":\"10.9.{n}.254"))
    };
    let plan = at(&setup, &[&away(2, 3), &away(1, 2)]);
    assert_eq!(via(&plan.links, MAIN, "0.0.0.0/0"), hop("10.9.1.254", "eth2", "10.9.1.1"));
    let fewer = at(&setup, &[&away(2, 3), &away(1, 2), &tier(1, 2, false)]);
    assert_eq!(via(&fewer.links, MAIN, "0.0.0.0/0"), hop("10.9.2.254", "eth3", "10.9.2.1"));
    assert!(targets(&plan.table, "acl_ingress").iter().all(|(_, verdict)| *verdict == Value::Accept));
    let settings: Vec<_> = plan.settings.iter().filter(|(k, _)| k == "ipv4/conf/eth2/rp_filter").collect();
    assert_eq!(settings[0].1, "0");
}

#[test]
fn a_nic_that_goes_takes_all_of_it_away() {
    let setup = setup_of(VPC);
    let public = address("203.0.113.20", 1, true, true);
    let state = after_at(&setup, &[&public, &tier(1, 2, true), &acl(2, &[ALL], &[ALL])]);
    let without = plan(&setup, &state, &devices_to(2));
    assert_eq!(without.table, plan(&setup, &after_at(&setup, &[&public]), &devices_to(2)).table);
}

#[test]
fn others_neither_forward_nor_translate() {
    for line in [
        SHARED.to_owned(),
        SHARED.replace("dhcpsrvr", "ilbvm"),
        SHARED.replace("dhcpsrvr", "elbvm sshonguest=true"),
    ] {
        let setup = setup_of(&line);
        let plan = at(&setup, &[]);
        let rules = &plan.table.chains["forward"].rules;
        assert!(!rules.iter().any(|r| r.action == Action::Accept), "{line}");
        assert!(!plan.table.chains.contains_key("translate"));
        assert_eq!(via(&plan.links, MAIN, "0.0.0.0/0"), hop("10.30.0.1", "eth0", "10.30.0.2"));
        let ssh = if line.contains("sshonguest") { "eth0" } else { "eth1" };
        assert!(
            plan.table.chains["input"]
                .rules
                .iter()
                .any(|r| r.matches.first() == Some(&Match::In(ssh.into())) && r.matches.len() == 2)
        );
        let serves = plan.table.chains["input_eth0"].rules.len() > 1;
        assert_eq!(serves, line.contains("dhcpsrvr"), "a balancer serves no guests");
    }
}

#[test]
fn aliases_are_served_like_the_subnet_itself() {
    let setup = setup_of(SHARED);
    let alias = r#"{"aliases":[{"revoke":false,"ip_address":"10.30.1.2","netmask":"255.255.255.0","count":1}],"type":"ipaliases"}"#;
    let plan = at(&setup, &[alias]);
    assert_eq!(plan.links.nics["eth0"].addresses.len(), 2);
    let nets = Match::From(vec!["10.30.0.0/23".parse().unwrap()]);
    assert!(plan.table.chains["input_eth0"].rules.iter().any(|r| r.matches.first() == Some(&nets)));
    let revoked = alias.replace("false", "true");
    assert_eq!(at(&setup, &[alias, &revoked]), at(&setup, &[]));
}

#[test]
fn both_families_come_from_one_list() {
    let plan = vpc(&[&tier6(1, 2, true), &acl(2, &[TCP_22, V6, GRE, ALL], &[ALL])]);
    let rules = &plan.table.chains["acl6_ingress_eth2"].rules;
    let ports = Match::Ports(Transport::Tcp, "22".parse().unwrap());
    assert_eq!(
        (rules[0].matches.as_slice(), &rules[0].action),
        ([ports].as_slice(), &Action::Drop),
        "::/0 is any"
    );
    assert_eq!(rules[1].matches, [Match::From(vec!["2001:db8::/32".parse().unwrap()])]);
    assert_eq!((rules[2].matches.len(), &rules[2].action), (0, &Action::Accept), "GRE is for IPv4 alone");
    assert_eq!((rules.len(), &rules[3].action), (4, &Action::Drop));
    let rules = &plan.table.chains["acl6_egress_eth2"].rules;
    let own = Match::From(vec!["2001:db8:a:1::/64".parse().unwrap()]);
    assert_eq!(rules[0].action, Action::Return, "what is for the router");
    assert_eq!((rules[1].matches.as_slice(), &rules[1].action), ([own].as_slice(), &Action::Accept));
    assert_eq!((rules.len(), &rules[2].action), (3, &Action::Drop), "nobody sends in the name of others");
    let closed = vpc(&[&tier6(1, 2, true)]);
    assert_eq!(closed.table.chains["acl6_egress_eth2"].rules.last().unwrap().action, Action::Drop);
    let pings = r#"{"type":"icmp","icmp_type":128,"icmp_code":-1,"cidr":"::/0","allowed":true}"#;
    let plan = vpc(&[&tier6(1, 2, true), &acl(2, &[pings], &[])]);
    let rules = &plan.table.chains["acl6_ingress_eth2"].rules;
    assert_eq!(rules[0].matches, [Match::Icmp6, Match::Icmp6Type(128)]);
    assert!(
        plan.table.chains["acl_ingress_eth2"].rules.iter().all(|rule| !rule.matches.contains(&Match::Icmp))
    );
}
