use super::*;
use crate::{
    plan::plan,
    state::tests::{SIX, address, after, after_at, devices, setup, setup_of},
};

/// The ingress rules of router contract 5.1, and one of every other kind.
pub(crate) const INGRESS: &str = r#"{"rules":[
    {"id":41,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[22,22],"revoked":false,"already_added":true,
     "source_cidr_list":["198.51.100.0/24"],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Ingress",
     "default_egress_policy":false},
    {"id":42,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[80,80],"revoked":false,"already_added":true,
     "source_cidr_list":["0.0.0.0/0"],"traffic_type":"Ingress"},
    {"id":43,"src_ip":"203.0.113.10","protocol":"icmp","revoked":false,"source_cidr_list":["0.0.0.0/0"],
     "icmp_type":8,"icmp_code":-1,"traffic_type":"Ingress"},
    {"id":44,"src_ip":"203.0.113.10","protocol":"udp","src_port_range":[5000,5100],"revoked":false,
     "source_cidr_list":["192.0.2.1/32","192.0.2.9/32"],"traffic_type":"Ingress"},
    {"id":45,"src_ip":"203.0.113.10","protocol":"all","revoked":false,"source_cidr_list":["192.0.2.77/32"],
     "traffic_type":"Ingress"}],
    "type":"firewallrules","delete_from_processed_cache":false}"#;

fn egress(id: u64, protocol: &str, sources: &str, default_allow: bool) -> String {
    format!(
        r#"{{"rules":[{{"id":{id},"src_ip":"","protocol":"{protocol}","src_port_range":[443,443],"revoked":false,
        "source_cidr_list":[{sources}],"dest_cidr_list":["0.0.0.0/0"],"traffic_type":"Egress",
        "default_egress_policy":{default_allow}}}],"type":"firewallrules"}}"#
    )
}

fn table(documents: &[&str]) -> Table {
    plan(&setup(), &after(documents), &devices()).table
}

fn port_key(port: u16) -> Key {
    let address = "203.0.113.10".parse().unwrap();
    vec![Part::Address(address), Part::Transport(Transport::Tcp), Part::Port(port)]
}

#[test]
fn exact_ports_are_looked_up_and_the_rest_stands_in_one_chain() {
    let table = table(&[INGRESS]);
    let ports = &table.maps["gate_ports"].elements;
    assert_eq!(ports.len(), 2);
    assert_eq!(ports[&port_key(80)], Value::Accept);
    assert_eq!(ports[&port_key(22)], Value::Jump("gate_203.0.113.10_tcp_22".into()));
    let narrow = &table.chains["gate_203.0.113.10_tcp_22"].rules;
    assert_eq!(narrow.len(), 1);
    assert_eq!(narrow[0].matches[0], Match::From(vec!["198.51.100.0/24".parse().unwrap()]));
    assert_eq!(narrow[0].action, Action::Accept);
    let rest = &table.chains["gate_203.0.113.10"].rules;
    assert_eq!(rest.len(), 3);
    assert!(rest.iter().any(|r| r.matches == [Match::Icmp, Match::IcmpType(8)]));
    assert!(rest.iter().any(|r| r.matches == [Match::From(vec!["192.0.2.77/32".parse().unwrap()])]));
    assert_eq!(table.chains["gate"].rules.last().unwrap().action, Action::Drop);
}

#[test]
fn nothing_is_open_without_a_rule() {
    let table = table(&[]);
    assert!(table.maps["gate_ports"].elements.is_empty() && table.maps["gate_rules"].elements.is_empty());
    assert_eq!(table.chains["egress"].rules.last().unwrap().action, Action::Drop);
    for chain in ["input", "forward"] {
        assert!(table.chains[chain].base.unwrap().drops, "{chain}");
    }
}

#[test]
fn egress_rules_do_the_opposite_of_the_default() {
    let deny = table(&[&egress(52, "tcp", r#""10.1.1.0/24""#, false)]);
    let key = vec![Part::Transport(Transport::Tcp), Part::Port(443)];
    assert_eq!(deny.maps["egress_allow_ports"].elements[&key], Value::Jump("egress_allow_tcp_443".into()));
    assert_eq!(deny.chains["egress"].rules.last().unwrap().action, Action::Drop);

    let allow = table(&[&egress(0, "all", "", true), &egress(53, "tcp", r#""10.1.1.0/24""#, true)]);
    assert_eq!(allow.maps["egress_deny_ports"].elements[&key], Value::Jump("egress_deny_tcp_443".into()));
    assert_eq!(allow.chains["egress_deny_tcp_443"].rules[0].action, Action::Drop);
    assert_eq!(allow.chains["egress"].rules.last().unwrap().action, Action::Accept);
}

#[test]
fn an_ingress_rule_without_sources_is_refused() {
    let text = INGRESS.replace(r#"["198.51.100.0/24"]"#, "[]");
    let error = crate::state::tests::merge(&mut after(&[]), &text).unwrap_err();
    assert_eq!(error.path, "rules[0].source_cidr_list");
}

#[test]
fn the_control_nic_is_never_forwarded_to_or_from() {
    let table = table(&[&egress(0, "all", "", true)]);
    let rules = &table.chains["forward"].rules;
    assert_eq!(rules[1].matches, [Match::In("eth1".into())]);
    assert_eq!(rules[2].matches, [Match::Out("eth1".into())]);
    assert!(rules[1..3].iter().all(|r| r.action == Action::Drop));
}

#[test]
fn replies_leave_by_the_nic_that_the_request_came_in_by() {
    let table = table(&[&address("198.18.7.5", 3, true, true)]);
    let marks = table.chains["early"].rules.iter().filter_map(|r| match (&*r.matches, &r.action) {
        ([Match::In(nic)], Action::MarkConnection(mark)) => Some((nic.as_str(), *mark)),
        _ => None,
    });
    assert_eq!(marks.collect::<Vec<_>>(), [("eth2", 102), ("eth3", 103)]);
}

const SIX_RULES: &str = r#"{"rules":[
    {"id":0,"src_ip":"","protocol":"all","revoked":false,"already_added":false,"source_cidr_list":[],"dest_cidr_list":[],
     "purpose":"Ipv6Firewall","traffic_type":"Egress","default_egress_policy":true,"guest_ip6_cidr":"2001:db8:1::/64"},
    {"id":61,"protocol":"tcp","src_port_range":[80,80],"revoked":false,"already_added":true,"source_cidr_list":["::/0"],
     "dest_cidr_list":["2001:db8:1::20/128"],"purpose":"Ipv6Firewall","traffic_type":"Ingress",
     "default_egress_policy":true,"guest_ip6_cidr":"2001:db8:1::/64"},
    {"id":62,"protocol":"icmp","icmp_type":-1,"icmp_code":-1,"source_cidr_list":["::/0"],"dest_cidr_list":["::/0"],
     "traffic_type":"Ingress","default_egress_policy":true}],
    "type":"ipv6firewallrules","delete_from_processed_cache":false}"#;

#[test]
fn rules_of_ipv6_stand_apart_from_those_of_ipv4() {
    let setup = setup_of(SIX);
    let table = |documents: &[&str]| plan(&setup, &after_at(&setup, documents), &devices()).table;
    let closed = table(&[]);
    assert_eq!(
        closed.chains["egress6"].rules.last().unwrap().action,
        Action::Drop,
        "until something is told"
    );
    assert_eq!(closed.chains["inward6"].rules.last().unwrap().action, Action::Drop);
    let open = table(&[SIX_RULES]);
    assert_eq!(open.chains["egress6"].rules.last().unwrap().action, Action::Accept);
    let to = Match::To(vec!["2001:db8:1::20/128".parse().unwrap()]);
    let port = vec![Part::Transport(Transport::Tcp), Part::Port(80)];
    assert_eq!(open.maps["inward6_rules_ports"].elements[&port], Value::Jump("inward6_rules_tcp_80".into()));
    assert_eq!(open.chains["inward6_rules_tcp_80"].rules[0].matches[0], to);
    assert_eq!(open.chains["inward6_rules"].rules[0].matches, [Match::Icmp6]);
    assert_eq!(open.chains["egress"], closed.chains["egress"], "nothing changes for IPv4");
    let revoked = SIX_RULES.replace(r#""revoked":false"#, r#""revoked":true"#);
    assert_ne!(
        table(&[SIX_RULES, &revoked]).chains["inward6_rules"],
        closed.chains["inward6_rules"],
        "what is not named stays"
    );
    // A change is planned for what it is about, and that is all that it changes.
    let (before, after) = (after_at(&setup, &[]), after_at(&setup, &[SIX_RULES]));
    let edits = crate::state::Edits::between(&before, &after);
    let (scope, devices) = (crate::scope::Scope::of(&edits, &before, &after), devices());
    let within = |state| crate::plan::table(&View::new(&setup, state, &devices).within(&scope));
    assert_eq!(within(&after).digest_after(&within(&before), closed.digest()), open.digest());
    assert!(within(&after).maps["gate_ports"].elements.is_empty());
    // Without IPv6 no packet of it passes.
    let without = super::tests::table(&[]);
    assert!(!without.chains.contains_key("forward6"));
    assert!(
        without.chains["forward"]
            .rules
            .iter()
            .any(|rule| rule.matches == [Match::Six] && rule.action == Action::Drop)
    );
}
