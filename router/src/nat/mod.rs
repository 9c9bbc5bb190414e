//! Translations of addresses: static NAT, port forwards, source NAT, and the way back for guests that
//! reach each other by a public address.

use std::{collections::HashSet, net::Ipv4Addr};

use crate::{
    nft::{Action, Base, Field, Hook, Match, Part, Rule, Table, Value, ValueKind},
    scope::Scope,
    state::{Forward, ForwardKey},
    types::{Ports, Transport},
    view::View,
    vpn,
};

/// What the names of chains with the port forwards of one address begin with.
const RULES: &str = "forward_";

/// Key of a port forward.
const KEY: [Field; 3] = [Field::Destination, Field::Protocol, Field::Port];

/// Adds the translating chains, where anything is translated.
pub fn plan(view: &View<'_>, table: &mut Table) {
    if !view.translates() {
        return;
    }
    to_guests(view, table);
    to_outside(view, table);
}

fn base(hook: Hook, priority: i32) -> Option<Base> {
    Some(Base { hook, nat: true, priority, drops: false })
}

/// Public address to guest: for what comes in by any NIC but the control NIC, and for the router itself.
fn to_guests(view: &View<'_>, table: &mut Table) {
    let chain = table.chain("translate");
    chain.base = base(Hook::Prerouting, -100);
    chain.add([Match::In(view.control())], Action::Return);
    chain.add([], Action::Jump("to_guests".into()));
    let chain = table.chain("translate_own");
    chain.base = base(Hook::Output, -100);
    chain.add([], Action::Jump("to_guests".into()));

    let chain = table.chain("to_guests");
    chain.add([], Action::TranslateBy(vec![Field::Destination], "static_in"));
    chain.add([], Action::Lookup(vec![Field::Destination], "forward_rules"));
    chain.add([], Action::TranslatePortBy(KEY.to_vec(), "forward_address", "forward_port"));

    let known = |address: &Ipv4Addr| view.state.addresses.contains_key(address);
    let statics = view.state.static_nat.iter();
    let statics = statics.filter(|(address, _)| known(address) && view.scope.has_static_nat(**address));
    table.map("static_in", &[Field::Destination], ValueKind::Address).elements =
        statics.map(|(from, to)| (vec![Part::Address(*from)], Value::Address(*to))).collect();
    table.map("forward_rules", &[Field::Destination], ValueKind::Verdict);
    table.map("forward_address", &KEY, ValueKind::Address);
    table.map("forward_port", &KEY, ValueKind::Port);
    for keys in view.scope.forwards() {
        for (key, forwards) in view.state.forwards.range(keys).filter(|(key, _)| known(&key.address)) {
            for forward in forwards {
                place(view.scope, table, key, forward);
            }
        }
    }
}

/// Ports that change each by their own go into the maps; whole ranges that stay as they are, and
/// forwards for some sources only, become rules in the chain of the address.
fn place(scope: &Scope, table: &mut Table, key: &ForwardKey, forward: &Forward) {
    let pairs = || -> Vec<(u16, u16)> {
        let first = forward.ports.first();
        let step = u16::from(forward.ports.single().is_none());
        key.ports.iter().zip(0..=u16::MAX).map(|(port, n)| (port, first + step * n)).collect()
    };
    let unchanged = key.ports == forward.ports;
    if forward.sources.is_any() && !(unchanged && key.ports.single().is_none()) {
        for (port, target) in pairs() {
            if !scope.has_port(key.address, key.transport, port) {
                continue;
            }
            let at = vec![Part::Address(key.address), Part::Transport(key.transport), Part::Port(port)];
            insert(table, "forward_address", at.clone(), Value::Address(forward.target));
            insert(table, "forward_port", at, Value::Port(target));
        }
        return;
    }
    let name = format!("{RULES}{}", key.address);
    let mut matches = Vec::new();
    if !forward.sources.is_any() {
        matches.push(Match::From(forward.sources.as_slice().to_vec()));
    }
    matches.push(Match::Ports(key.transport, key.ports));
    let action = if unchanged {
        Action::Translate(forward.target)
    } else {
        Action::TranslatePorts(forward.target, key.transport, pairs())
    };
    table.chain(name.as_str()).add(matches, action);
    insert(table, "forward_rules", vec![Part::Address(key.address)], Value::Jump(name));
}

fn insert(table: &mut Table, map: &str, key: Vec<Part>, value: Value) {
    if let Some(map) = table.maps.get_mut(map) {
        map.elements.insert(key, value);
    }
}

/// Guest to outside: a guest with static NAT carries its public address, all others the source NAT address of
/// the NIC, where it has one.
fn to_outside(view: &View<'_>, table: &mut Table) {
    let chain = table.chain("source");
    chain.base = base(Hook::Postrouting, 100);
    for guest in view.forwarded() {
        // A guest that reached a guest by a public address must answer through the router.
        let inside = Match::from(guest.networks());
        let hairpin = [Match::Out(guest.name.clone()), Match::Translated, inside];
        chain.add(hairpin, Action::Source(guest.address()));
    }
    if vpn::filter::is_used(view) {
        chain.add([], Action::Jump(vpn::filter::AS_IT_IS.into()));
    }
    // What the router itself sends from one of its addresses stays so.
    chain.add([Match::Known(Field::Source, crate::firewall::PUBLIC)], Action::Return);
    chain.add([], Action::SourceBy(vec![Field::OutNic, Field::Source], "static_out"));
    chain.add([], Action::SourceBy(vec![Field::OutNic], "source_nat"));

    let statics = table.map("static_out", &[Field::OutNic, Field::Source], ValueKind::Address);
    for (address, target) in view.state.static_nat.iter().filter(|(_, to)| view.scope.has_target(**to)) {
        if let Some(nic) = view.nic_of(*address) {
            let key = vec![Part::Nic(nic.name.clone()), Part::Address(*target)];
            // The lowest public address of a guest counts.
            statics.elements.entry(key).or_insert(Value::Address(*address));
        }
    }
    let own = view.outer().filter_map(|nic| Some((&nic.name, nic.source?)));
    table.map("source_nat", &[Field::OutNic], ValueKind::Address).elements =
        own.map(|(name, source)| (crate::firewall::nic_key(name), Value::Address(source))).collect();
}

/// A translation that connections may be using: once it has gone, or leads elsewhere, they are
/// ended where they could not end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// Everything to and from a public address: it may belong to someone else tomorrow.
    Address(Ipv4Addr),
    /// Datagrams to ports of a public address: they know no end, so that they would go on to the former guest.
    Datagrams(Ipv4Addr, Ports),
    /// The same, of one server among several.
    DatagramsOf(Ipv4Addr, u16, Ipv4Addr),
}

/// What was translated before and is no longer, or is otherwise.
pub fn lost(before: &Table, after: &Table) -> Vec<Lost> {
    let mut lost = Vec::new();
    let gone = |map: &str| {
        let now = after.maps.get(map);
        before.maps.get(map).into_iter().flat_map(move |old| {
            old.elements
                .iter()
                .filter(move |(key, value)| now.is_none_or(|m| m.elements.get(*key) != Some(value)))
                .map(|(key, _)| key.as_slice())
        })
    };
    for key in gone(crate::firewall::PUBLIC).chain(gone("static_in")) {
        if let [Part::Address(address)] = key {
            lost.push(Lost::Address(*address));
        }
    }
    for key in gone("forward_address").chain(gone("forward_port")) {
        if let [Part::Address(address), Part::Transport(Transport::Udp), Part::Port(port)] = key
            && let Ok(ports) = Ports::new(*port, *port)
        {
            lost.push(Lost::Datagrams(*address, ports));
        }
    }
    for (name, chain) in &before.chains {
        let Some(address) = name.strip_prefix(RULES).and_then(|a| a.parse().ok()) else { continue };
        let now: HashSet<&Rule> = after.chains.get(name).into_iter().flat_map(|c| &c.rules).collect();
        for gone in chain.rules.iter().filter(|rule| !now.contains(rule)) {
            let ports = gone.matches.iter().filter_map(|m| match m {
                Match::Ports(Transport::Udp, ports) => Some(Lost::Datagrams(address, *ports)),
                _ => None,
            });
            lost.extend(ports);
        }
    }
    lost.extend(crate::balance::lost(before, after));
    lost.sort_unstable();
    lost.dedup();
    lost
}

#[cfg(test)]
mod tests;
