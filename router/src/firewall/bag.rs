//! Rules that all do the same, so that their order does not matter. Those for one port are found by a
//! lookup, the others stand in one chain: a packet does not pay for other ports, and a change touches one
//! element and one small chain.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    nft::{Action, Field, Match, Part, Table, Value},
    state::{Packets, Protocol},
    types::Transport,
};

/// Key of a bag for one public address.
pub(super) const HEADED: [Field; 3] = [Field::Destination, Field::Protocol, Field::Port];
/// Key of a bag for all addresses.
pub(super) const BARE: [Field; 2] = [Field::Protocol, Field::Port];

/// What the rules of a bag do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let through.
    Accept,
    /// Take out.
    Drop,
}

/// Adds a bag. With a `head` address its lookups are the maps `<name>_ports` and `<name>_rules`, and its
/// chains carry the address; without, the map is `<name>_ports` and the chain `<name>` is always there.
pub(super) fn add<'a>(
    table: &mut Table,
    name: &str,
    head: Option<Ipv4Addr>,
    verdict: Verdict,
    rules: impl Iterator<Item = &'a Packets>,
) {
    let full = head.map_or_else(|| name.to_owned(), |address| format!("{name}_{address}"));
    let mut ports: BTreeMap<(Transport, u16), BTreeSet<&Packets>> = BTreeMap::new();
    let mut others: BTreeSet<&Packets> = BTreeSet::new();
    for packets in rules {
        match packets.protocol {
            Protocol::Transport { transport, ports: Some(range) } if range.single().is_some() => {
                ports.entry((transport, range.first())).or_default().insert(packets);
            }
            _ => {
                others.insert(packets);
            }
        }
    }
    for ((transport, port), rules) in ports {
        let key = head.map(Part::Address).into_iter().chain([Part::Transport(transport), Part::Port(port)]);
        let value = if rules.iter().any(|p| p.sources.is_any() && p.destinations.is_any()) {
            match verdict {
                Verdict::Accept => Value::Accept,
                Verdict::Drop => Value::Drop,
            }
        } else {
            let chain = format!("{full}_{}_{port}", transport.word());
            fill(table, &chain, verdict, rules);
            Value::Jump(chain)
        };
        if let Some(map) = table.maps.get_mut(&format!("{name}_ports")) {
            map.elements.insert(key.collect(), value);
        }
    }
    match head {
        None => fill(table, &full, verdict, others),
        Some(_) if others.is_empty() => {}
        Some(address) => {
            fill(table, &full, verdict, others);
            if let Some(map) = table.maps.get_mut(&format!("{name}_rules")) {
                map.elements.insert(vec![Part::Address(address)], Value::Jump(full));
            }
        }
    }
}

fn fill(table: &mut Table, name: &str, verdict: Verdict, rules: BTreeSet<&Packets>) {
    let chain = table.chain(name);
    for packets in rules {
        let mut matches = Vec::new();
        if !packets.sources.is_any() {
            matches.push(Match::From(packets.sources.as_slice().to_vec()));
        }
        if !packets.destinations.is_any() {
            matches.push(Match::To(packets.destinations.as_slice().to_vec()));
        }
        matches.extend(protocol(packets.protocol));
        let action = match verdict {
            Verdict::Accept => Action::Accept,
            Verdict::Drop => Action::Drop,
        };
        chain.add(matches, action);
    }
}

/// The conditions of a protocol.
pub(crate) fn protocol(protocol: Protocol) -> Vec<Match> {
    match protocol {
        Protocol::All => Vec::new(),
        Protocol::Transport { transport, ports: None } => vec![Match::Transport(transport)],
        Protocol::Transport { transport, ports: Some(ports) } => vec![Match::Ports(transport, ports)],
        Protocol::Icmp { kind, code } => {
            let (kind, code) = (kind.map(Match::IcmpType), code.map(Match::IcmpCode));
            [Match::Icmp].into_iter().chain(kind).chain(code).collect()
        }
        Protocol::Icmp6 { kind, code } => {
            let (kind, code) = (kind.map(Match::Icmp6Type), code.map(Match::Icmp6Code));
            [Match::Icmp6].into_iter().chain(kind).chain(code).collect()
        }
        Protocol::Number(number) => vec![Match::Number(number)],
    }
}
