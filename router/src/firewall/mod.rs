//! Who may talk to whom: the gate before each public address, what the router itself answers, what is
//! forwarded, and what guests may send out. Tiers of a VPC have their lists in [`crate::acl`].
//!
//! Everything is closed unless said otherwise. The control NIC is never forwarded to or from, and SSH
//! and ping on it are open whatever documents say.

mod bag;
pub(crate) mod six;

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use self::bag::Verdict;
pub(crate) use self::bag::protocol;
use crate::{
    helper,
    nft::{Action, Base, Field, Hook, Key, Match, Part, Table, Value, ValueKind},
    redundancy,
    state::{Direction, FirewallRule, Kind, Packets},
    types::{Family, Nets, Ports, Transport},
    view::{GuestNic, View},
    vpn,
};

/// TCP port of SSH on the control NIC.
const SSH: u16 = 3922;

/// The set of all public addresses, and of the router's own at private gateways.
pub const PUBLIC: &str = "public";
/// The set of public NICs.
pub(crate) const PUBLIC_NICS: &str = "public_nics";
/// The set of NICs whose guests' packets pass through.
pub(crate) const GUEST_NICS: &str = "guest_nics";
/// The router's addresses in guest networks.
const GUEST_ADDRESSES: &str = "guest_addresses";

/// Chains of other features that count what passes, tried before any verdict.
pub(crate) const COUNT_FORWARD: &str = "count_forward";
/// The same for what comes in for the router itself.
pub(crate) const COUNT_INPUT: &str = "count_input";

/// Adds the filtering chains.
pub fn plan(view: &View<'_>, table: &mut Table) {
    let address = |address| (vec![Part::Address(address)], Value::Nothing);
    let nic = |name: &String| (nic_key(name), Value::Nothing);
    table.map(PUBLIC, &[Field::Destination], ValueKind::Nothing).elements =
        view.state.addresses.keys().map(|a| address(*a)).collect();
    table.map(GUEST_ADDRESSES, &[Field::Destination], ValueKind::Nothing).elements =
        view.guests.values().flat_map(|nic| &nic.addresses).map(|net| address(net.addr())).collect();
    table.map(PUBLIC_NICS, &[Field::OutNic], ValueKind::Nothing).elements =
        view.public.values().map(|n| nic(&n.name)).collect();
    table.map(GUEST_NICS, &[Field::InNic], ValueKind::Nothing).elements =
        view.forwarded().map(|n| nic(&n.name)).collect();
    untracked(view, table);
    early(view, table);
    if view.has_gates() {
        gate(view, table);
    }
    input(view, table);
    forward(view, table);
}

pub(crate) fn nic_key(name: &str) -> Key {
    vec![Part::Nic(name.to_owned())]
}

fn base(hook: Hook, priority: i32, drops: bool) -> Option<Base> {
    Some(Base { hook, nat: false, priority, drops })
}

fn one_port(transport: Transport, port: u16) -> Option<Match> {
    Ports::new(port, port).ok().map(|ports| Match::Ports(transport, ports))
}

/// The host gets in however many connections there are: none is kept for its own.
fn untracked(view: &View<'_>, table: &mut Table) {
    let nic = format!("eth{}", view.setup.ssh);
    let chain = table.chain("untracked");
    chain.base = base(Hook::Prerouting, -300, false);
    let port = one_port(Transport::Tcp, SSH);
    chain.add([Match::In(nic.clone())].into_iter().chain(port).collect::<Vec<_>>(), Action::Untrack);
    let chain = table.chain("untracked_own");
    chain.base = base(Hook::Output, -300, false);
    chain.add([Match::Out(nic), Match::FromPort(Transport::Tcp, SSH)], Action::Untrack);
}

/// Marks connections with the NIC that they belong to, so that replies leave by the NIC that the
/// request came in by, and guests with static NAT begin connections by the NIC of their address. Then the gate,
/// which sees the address that the sender wrote, before any translation.
fn early(view: &View<'_>, table: &mut Table) {
    let chain = table.chain("early");
    chain.base = base(Hook::Prerouting, -150, false);
    chain.add([Match::Established], Action::RestoreMark);
    chain.add([Match::Established], Action::Accept);
    for nic in view.outer() {
        chain.add([Match::In(nic.name.clone())], Action::MarkConnection(nic.table()));
    }
    if view.translates() {
        let guests = Match::Known(Field::InNic, GUEST_NICS);
        chain.add([guests.clone()], Action::MarkConnectionBy(vec![Field::Source], "static_marks"));
        chain.add([guests], Action::RestoreMark);
        let marks = table.map("static_marks", &[Field::Source], ValueKind::Mark);
        for (address, target) in view.state.static_nat.iter().filter(|(_, to)| view.scope.has_target(**to)) {
            if let Some(nic) = view.nic_of(*address) {
                // The lowest public address of a guest counts.
                marks.elements.entry(vec![Part::Address(*target)]).or_insert(Value::Mark(nic.table()));
            }
        }
    }
    if helper::is_used(view) {
        table.chain("early").add([], Action::Jump(helper::CHAIN.into()));
    }
    if view.has_gates() && vpn::filter::is_used(view) {
        table.chain("early").add([], Action::Jump(vpn::filter::BEFORE_GATE.into()));
    }
    if view.has_gates() {
        let gated = Match::Known(Field::Destination, PUBLIC);
        table.chain("early").add([gated], Action::Jump("gate".into()));
    }
}

/// Only what an ingress rule names comes to a public address.
fn gate(view: &View<'_>, table: &mut Table) {
    table.map("gate_ports", &bag::HEADED, ValueKind::Verdict);
    table.map("gate_rules", &[Field::Destination], ValueKind::Verdict);
    let chain = table.chain("gate");
    chain.add([], Action::Lookup(bag::HEADED.to_vec(), "gate_ports"));
    chain.add([], Action::Lookup(vec![Field::Destination], "gate_rules"));
    chain.add([], Action::Drop);
    let mut bags: BTreeMap<Ipv4Addr, Vec<&Packets>> = BTreeMap::new();
    for rule in rules(view, Family::Four) {
        if let Direction::Ingress { address } = rule.direction
            && view.state.addresses.contains_key(&address)
        {
            bags.entry(address).or_default().push(&rule.packets);
        }
    }
    for (address, rules) in bags {
        bag::add(table, "gate", Some(address), Verdict::Accept, rules.into_iter());
    }
}

/// The rules that the plan is about.
fn rules<'a>(view: &View<'a>, family: Family) -> impl Iterator<Item = &'a FirewallRule> {
    let scope = view.scope;
    all_rules(view, family).filter(move |rule| scope.has_rule(family, rule))
}

fn all_rules<'a>(view: &View<'a>, family: Family) -> impl Iterator<Item = &'a FirewallRule> {
    match family {
        Family::Four => view.state.firewall.values(),
        Family::Six => view.state.firewall6.values(),
    }
}

/// What the router itself answers.
fn input(view: &View<'_>, table: &mut Table) {
    let chain = table.chain("input");
    chain.base = base(Hook::Input, 0, true);
    chain.add([], Action::Jump(COUNT_INPUT.into()));
    chain.add([Match::Established], Action::Accept);
    chain.add([Match::In("lo".into())], Action::Accept);
    let ssh = [Match::In(format!("eth{}", view.setup.ssh))].into_iter();
    chain.add(ssh.chain(one_port(Transport::Tcp, SSH)).collect::<Vec<_>>(), Action::Accept);
    chain.add([Match::In(view.control()), Match::Icmp], Action::Accept);
    six::input(view, table);
    let chain = table.chain("input");
    chain.add([], Action::Lookup(vec![Field::InNic], "input_guests"));
    // Where there is a gate, it has let it through.
    chain.add([Match::Known(Field::Destination, PUBLIC), Match::Icmp], Action::Accept);
    if vpn::filter::is_used(view) {
        chain.add([], Action::Jump(vpn::filter::INPUT.into()));
    }

    table.map("input_guests", &[Field::InNic], ValueKind::Verdict);
    for nic in view.guests.values() {
        let name = format!("input_{}", nic.name);
        input_guest(view, nic, table, &name);
        if let Some(map) = table.maps.get_mut("input_guests") {
            map.elements.insert(nic_key(&nic.name), Value::Jump(name));
        }
    }
}

/// What the guests of one NIC are answered.
fn input_guest(view: &View<'_>, nic: &GuestNic<'_>, table: &mut Table, name: &str) {
    let chain = table.chain(name);
    chain.add([Match::Known(Field::Destination, GUEST_ADDRESSES), Match::Icmp], Action::Accept);
    if view.setup.pair.is_some() {
        redundancy::input(nic, chain);
    }
    if !view.setup.kind.serves_guests() {
        return;
    }
    chain.add(one_port(Transport::Udp, 67).into_iter().collect::<Vec<_>>(), Action::Accept);
    let mut services = vec![(Transport::Tcp, 80), (Transport::Tcp, 443), (Transport::Tcp, 8080)];
    let dns = [(Transport::Udp, 53), (Transport::Tcp, 53)];
    let mine = Match::to(nic.addresses.iter().map(|net| Ipv4Net::from(net.addr())));
    match (view.serves_dns(), view.setup.exposed_dns) {
        (false, _) => {}
        (true, false) => services.extend(dns),
        (true, true) => {
            for (transport, port) in dns {
                let port = one_port(transport, port).into_iter();
                chain.add([mine.clone()].into_iter().chain(port).collect::<Vec<_>>(), Action::Accept);
            }
        }
    }
    let from = Match::From(Nets::new(nic.networks()).as_slice().to_vec());
    for (transport, port) in services {
        let port = one_port(transport, port).into_iter();
        chain.add([from.clone(), mine.clone()].into_iter().chain(port).collect::<Vec<_>>(), Action::Accept);
    }
}

/// What passes through.
fn forward(view: &View<'_>, table: &mut Table) {
    let control = view.control();
    let chain = table.chain("forward");
    chain.base = base(Hook::Forward, 0, true);
    chain.add([], Action::Jump(COUNT_FORWARD.into()));
    chain.add([Match::In(control.clone())], Action::Drop);
    chain.add([Match::Out(control)], Action::Drop);
    six::forward(view, table);
    let chain = table.chain("forward");
    if vpn::filter::is_used(view) {
        chain.add([], Action::Jump(vpn::filter::GUARD.into()));
    }
    if view.setup.kind != Kind::Isolated {
        return;
    }
    let from = Match::Known(Field::InNic, GUEST_NICS);
    let to = Match::Known(Field::OutNic, GUEST_NICS);
    chain.add([Match::Established], Action::Accept);
    if vpn::filter::is_used(view) {
        chain.add([], Action::Jump(vpn::filter::FORWARD.into()));
    }
    chain.add([from.clone(), to.clone()], Action::Accept);
    if view.setup.routed {
        chain.add([Match::Known(Field::InNic, PUBLIC_NICS), to], Action::Jump("inward".into()));
    } else {
        // A guest is reached from outside by a translated address only, never by its own.
        chain.add([Match::Translated, to], Action::Accept);
    }
    chain.add([from, Match::Known(Field::OutNic, PUBLIC_NICS)], Action::Jump("egress".into()));
    if view.setup.routed {
        inward(view, table, Family::Four);
    }
    egress(view, table, Family::Four);
}

/// Names of what rules of a direction become.
struct Names {
    chain: &'static str,
    /// Bags of rules, and where those for one port of each are looked up.
    bags: [(&'static str, &'static str); 2],
}

/// What reaches guests of a network that is routed: what rules let through.
fn inward(view: &View<'_>, table: &mut Table, family: Family) {
    let (chain, bag, ports) = match family {
        Family::Four => ("inward", "inward_rules", "inward_rules_ports"),
        Family::Six => ("inward6", "inward6_rules", "inward6_rules_ports"),
    };
    table.map(ports, &bag::BARE, ValueKind::Verdict);
    let rules = rules(view, family).filter(|rule| rule.direction == Direction::Inward);
    bag::add(table, bag, None, Verdict::Accept, rules.map(|rule| &rule.packets));
    let chain = table.chain(chain);
    chain.add([], Action::Lookup(bag::BARE.to_vec(), ports));
    chain.add([], Action::Jump(bag.into()));
    chain.add([], Action::Drop);
}

/// What guests may send out. Rules do the opposite of the network's default; without a rule for the
/// default nothing more goes out (router contract 3.13).
fn egress(view: &View<'_>, table: &mut Table, family: Family) {
    let Names { chain, bags: [deny, allow] } = match family {
        Family::Four => Names {
            chain: "egress",
            bags: [("egress_deny", "egress_deny_ports"), ("egress_allow", "egress_allow_ports")],
        },
        Family::Six => Names {
            chain: "egress6",
            bags: [("egress6_deny", "egress6_deny_ports"), ("egress6_allow", "egress6_allow_ports")],
        },
    };
    let is_egress = |rule: &&FirewallRule| rule.direction == Direction::Egress;
    let of = |allow: bool| {
        let rules = rules(view, family).filter(is_egress);
        rules.filter(move |r| !r.is_default && r.default_allow == allow).map(|rule| &rule.packets)
    };
    for (_, ports) in [deny, allow] {
        table.map(ports, &bag::BARE, ValueKind::Verdict);
    }
    bag::add(table, deny.0, None, Verdict::Drop, of(true));
    bag::add(table, allow.0, None, Verdict::Accept, of(false));
    let open = all_rules(view, family).filter(is_egress).any(|rule| rule.is_default && rule.default_allow);
    let chain = table.chain(chain);
    for (bag, ports) in [deny, allow] {
        chain.add([], Action::Lookup(bag::BARE.to_vec(), ports));
        chain.add([], Action::Jump(bag.into()));
    }
    chain.add([], if open { Action::Accept } else { Action::Drop });
}

#[cfg(test)]
pub(crate) mod tests;
