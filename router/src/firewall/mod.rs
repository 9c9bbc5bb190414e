//! Who may talk to whom: the gate before each public address, what the router itself answers, what is
//! forwarded, and what guests may send out.
//!
//! Everything is closed unless said otherwise. The control NIC is never forwarded to or from, and SSH
//! and ping on it are open whatever documents say.

mod bag;

use ipnet::Ipv4Net;

use self::bag::Verdict;
use crate::{
    nft::{Action, Base, Field, Hook, Key, Match, Part, Table, Value, ValueKind},
    state::Direction,
    types::{Ports, Transport},
    view::View,
};

/// TCP port of SSH on the control NIC.
const SSH: u16 = 3922;

/// The set of all public addresses.
pub const PUBLIC: &str = "public";

/// Chains of other features that count what passes, tried before any verdict.
pub(crate) const COUNT_FORWARD: &str = "count_forward";
/// The same for what comes in for the router itself.
pub(crate) const COUNT_INPUT: &str = "count_input";

/// Adds the filtering chains.
pub fn plan(view: &View<'_>, table: &mut Table) {
    let public = table.map(PUBLIC, &[Field::Destination], ValueKind::Nothing);
    public.elements =
        view.state.addresses.keys().map(|a| (vec![Part::Address(*a)], Value::Nothing)).collect();
    table.map("public_nics", &[Field::OutNic], ValueKind::Nothing).elements =
        view.public.values().map(|nic| (nic_key(&nic.name), Value::Nothing)).collect();
    mark(view, table);
    gate(view, table);
    input(view, table);
    forward(view, table);
    egress(view, table);
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

/// Marks connections with the public NIC that they belong to, so that replies leave by the NIC that the
/// request came in by, and guests with static NAT begin connections by the NIC of their address. Then the gate,
/// which sees the address that the sender wrote, before any translation.
fn mark(view: &View<'_>, table: &mut Table) {
    let marks = table.map("static_marks", &[Field::Source], ValueKind::Mark);
    for (address, target) in &view.state.static_nat {
        if let Some(nic) = view.nic_of(*address) {
            // The lowest public address of a guest counts.
            marks.elements.entry(vec![Part::Address(*target)]).or_insert(Value::Mark(nic.table()));
        }
    }
    let chain = table.chain("early");
    chain.base = base(Hook::Prerouting, -150, false);
    chain.add([Match::Established], Action::RestoreMark);
    chain.add([Match::Established], Action::Accept);
    for nic in view.public.values() {
        chain.add([Match::In(nic.name.clone())], Action::MarkConnection(nic.table()));
    }
    chain.add([Match::In(view.guest())], Action::MarkConnectionBy(vec![Field::Source], "static_marks"));
    chain.add([Match::In(view.guest())], Action::RestoreMark);
    chain.add([Match::Known(Field::Destination, PUBLIC)], Action::Jump("gate".into()));
}

/// Only what an ingress rule names comes to a public address.
fn gate(view: &View<'_>, table: &mut Table) {
    table.map("gate_ports", &bag::HEADED, ValueKind::Verdict);
    table.map("gate_rules", &[Field::Destination], ValueKind::Verdict);
    let chain = table.chain("gate");
    chain.add([], Action::Lookup(bag::HEADED.to_vec(), "gate_ports"));
    chain.add([], Action::Lookup(vec![Field::Destination], "gate_rules"));
    chain.add([], Action::Drop);
    for address in view.state.addresses.keys() {
        let rules = view.state.firewall.values().filter_map(|rule| match rule.direction {
            Direction::Ingress { address: of } if of == *address => Some(&rule.packets),
            _ => None,
        });
        bag::add(table, "gate", Some(*address), Verdict::Accept, rules);
    }
}

/// What the router itself answers.
fn input(view: &View<'_>, table: &mut Table) {
    let chain = table.chain("input");
    chain.base = base(Hook::Input, 0, true);
    chain.add([], Action::Jump(COUNT_INPUT.into()));
    chain.add([Match::Established], Action::Accept);
    chain.add([Match::In("lo".into())], Action::Accept);
    let control = Match::In(view.control());
    chain.add(
        [vec![control.clone()], one_port(Transport::Tcp, SSH).into_iter().collect()].concat(),
        Action::Accept,
    );
    chain.add([control, Match::Icmp], Action::Accept);
    chain.add([Match::In(view.guest())], Action::Jump("input_guest".into()));
    // The gate has let it through.
    chain.add([Match::Known(Field::Destination, PUBLIC), Match::Icmp], Action::Accept);

    let chain = table.chain("input_guest");
    let mine = Match::To(vec![Ipv4Net::from(view.setup.guest.address)]);
    chain.add(one_port(Transport::Udp, 67).into_iter().collect::<Vec<_>>(), Action::Accept);
    chain.add([mine.clone(), Match::Icmp], Action::Accept);
    let mut services = vec![(Transport::Tcp, 80), (Transport::Tcp, 8080)];
    let dns = [(Transport::Udp, 53), (Transport::Tcp, 53)];
    match (view.setup.external_dns, view.setup.exposed_dns) {
        (true, _) => {}
        (false, false) => services.extend(dns),
        (false, true) => {
            for (transport, port) in dns {
                let port = one_port(transport, port).into_iter();
                chain.add([mine.clone()].into_iter().chain(port).collect::<Vec<_>>(), Action::Accept);
            }
        }
    }
    let from = Match::From(vec![view.setup.guest.network()]);
    for (transport, port) in services {
        let port = one_port(transport, port).into_iter();
        chain.add([from.clone(), mine.clone()].into_iter().chain(port).collect::<Vec<_>>(), Action::Accept);
    }
}

/// What passes through.
fn forward(view: &View<'_>, table: &mut Table) {
    let (guest, control) = (view.guest(), view.control());
    let chain = table.chain("forward");
    chain.base = base(Hook::Forward, 0, true);
    chain.add([], Action::Jump(COUNT_FORWARD.into()));
    chain.add([Match::In(control.clone())], Action::Drop);
    chain.add([Match::Out(control)], Action::Drop);
    chain.add([Match::Established], Action::Accept);
    chain.add([Match::In(guest.clone()), Match::Out(guest.clone())], Action::Accept);
    // A guest is reached from outside by a translated address only, never by its own.
    chain.add([Match::Translated, Match::Out(guest.clone())], Action::Accept);
    chain.add([Match::In(guest), Match::Known(Field::OutNic, "public_nics")], Action::Jump("egress".into()));
}

/// What guests may send out. Rules do the opposite of the network's default; without a rule for the
/// default nothing more goes out (router contract 3.13).
fn egress(view: &View<'_>, table: &mut Table) {
    table.map("egress_deny_ports", &bag::BARE, ValueKind::Verdict);
    table.map("egress_allow_ports", &bag::BARE, ValueKind::Verdict);
    let rules = || view.state.firewall.values().filter(|rule| rule.direction == Direction::Egress);
    let of =
        |allow: bool| rules().filter(move |r| !r.is_default && r.default_allow == allow).map(|r| &r.packets);
    bag::add(table, "egress_deny", None, Verdict::Drop, of(true));
    bag::add(table, "egress_allow", None, Verdict::Accept, of(false));
    let open = rules().any(|rule| rule.is_default && rule.default_allow);
    let chain = table.chain("egress");
    chain.add([], Action::Lookup(bag::BARE.to_vec(), "egress_deny_ports"));
    chain.add([], Action::Jump("egress_deny".into()));
    chain.add([], Action::Lookup(bag::BARE.to_vec(), "egress_allow_ports"));
    chain.add([], Action::Jump("egress_allow".into()));
    chain.add([], if open { Action::Accept } else { Action::Drop });
}

#[cfg(test)]
pub(crate) mod tests;
