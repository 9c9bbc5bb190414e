//! Load balancing: HAProxy for TCP and HTTP, the packet filter for datagrams.
//!
//! A document's lines become a [`model`] that cannot be wrong, that becomes HAProxy's [`config`], and [`process`]
//! brings the running HAProxy to it: servers come and go by its [`runtime`] interface, another rule makes a new worker
//! beside the old one, which finishes its connections. [`stats`] adds up what all workers have counted, [`log`]
//! keeps what they complain about.

mod cli;
pub mod config;
pub mod log;
pub mod model;
pub mod process;
pub mod runtime;
pub mod stats;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
};

pub use model::{
    Algorithm, Balance, CookieMode, Front, Limits, Millis, Page, PageView, Rule, Stickiness, TIMEOUTS, Text,
    Tls, Word,
};
pub use process::{BalanceError, Balancer};

use crate::{
    nat::Lost,
    nft::{Action, Field, Match, Part, Spread, Table, Value, ValueKind},
    state::{Setup, State},
    types::Transport,
    view::View,
};

/// Key of a front.
const KEY: [Field; 3] = [Field::Destination, Field::Protocol, Field::Port];
/// Where datagrams are looked up.
const DATAGRAMS: &str = "balance_datagrams";

/// Whether the router has an address, so that it can balance what comes to it.
pub fn is_own(setup: &Setup, state: &State, address: Ipv4Addr) -> bool {
    state.addresses.contains_key(&address)
        || setup.inner().any(|nic| nic.address == address)
        || state.aliases.contains_key(&address)
        || state.tiers.values().any(|tier| tier.address == address)
}

/// What HAProxy is to do: rules for streams whose address the router has.
pub fn streams(setup: &Setup, state: &State) -> Balance {
    let told = told(setup, state);
    let mut balance = Balance::clone(&state.balance);
    balance.rules.retain(|front, rule| is_stream(setup, state, &told, front, rule));
    balance.pages.retain(|at, _| is_own(setup, state, *at.ip()));
    balance
}

/// Whether what HAProxy is to do may differ between two states.
pub fn may_differ(one: &State, other: &State) -> bool {
    one.balance != other.balance
        || one.monitor != other.monitor
        || one.addresses != other.addresses
        || one.aliases != other.aliases
        || one.tiers != other.tiers
}

fn is_stream(setup: &Setup, state: &State, told: &Told<'_>, front: &Front, rule: &Rule) -> bool {
    front.transport == Transport::Tcp
        && is_own(setup, state, front.address)
        && !is_datagrams(setup, told, front, rule)
}

/// Whether datagrams can be balanced: where addresses are translated.
pub fn can_spread(setup: &Setup) -> bool {
    setup.kind.forwards() && !setup.routed
}

/// Whether a rule is about datagrams. A document never says so: the management server writes a UDP rule
/// like one for TCP. What it tells the health checks says more (router contract 3.20, `haproxyData`).
fn is_datagrams(setup: &Setup, told: &Told<'_>, front: &Front, rule: &Rule) -> bool {
    if front.transport == Transport::Udp || !can_spread(setup) {
        return front.transport == Transport::Udp;
    }
    let plain = !rule.http && rule.tls.is_none() && !rule.proxy_protocol;
    plain && told.contains(&(front.address.to_string().as_str(), front.port.to_string().as_str()))
}

/// Addresses and ports of rules that the health checks are told to be about datagrams.
type Told<'a> = BTreeSet<(&'a str, &'a str)>;

fn told<'a>(setup: &Setup, state: &'a State) -> Told<'a> {
    let data = state.monitor.parameters.get("haproxyData").filter(|_| can_spread(setup));
    let records =
        data.filter(|_| !state.balance.rules.is_empty()).into_iter().flat_map(|data| data.split(';'));
    let front = |record: &'a str| {
        let field = |name: &str| {
            let mut fields = record.split(',').filter_map(|field| field.trim().split_once('='));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default()
        };
        let is_udp = field("protocol").eq_ignore_ascii_case("udp");
        is_udp.then(|| (field("sourceIp"), field("sourcePortStart")))
    };
    records.filter_map(front).collect()
}

/// Adds what the packet filter does for load balancing: lets clients in, and spreads datagrams.
pub fn plan(view: &View<'_>, table: &mut Table) {
    let (setup, state, told) = (view.setup, view.state, told(view.setup, view.state));
    let control = setup.control.address;
    let rules =
        state.balance.rules.iter().filter(|(front, rule)| is_stream(setup, state, &told, front, rule));
    let pages = state.balance.pages.keys().filter(|at| is_own(setup, state, *at.ip()));
    let fronts = rules.map(|(front, _)| front.socket()).chain(pages.copied());
    let (private, open): (Vec<SocketAddrV4>, Vec<SocketAddrV4>) = fronts.partition(|at| *at.ip() == control);
    let elements = open.iter().map(|at| (key(*at.ip(), Transport::Tcp, at.port()), Value::Accept));
    table.map("balance_streams", &KEY, ValueKind::Verdict).elements = elements.collect();
    let input = table.chain("input");
    input.add([], Action::Lookup(KEY.to_vec(), "balance_streams"));
    for at in private {
        let ports = crate::types::Ports::new(at.port(), at.port()).into_iter();
        let ports = ports.map(|ports| Match::Ports(Transport::Tcp, ports));
        let to = [Match::In(view.control()), Match::to([ipnet::Ipv4Net::from(control)])];
        input.add(to.into_iter().chain(ports).collect::<Vec<_>>(), Action::Accept);
    }

    if !can_spread(setup) {
        return;
    }
    table.map(DATAGRAMS, &KEY, ValueKind::Verdict);
    table.chain("to_guests").add([], Action::Lookup(KEY.to_vec(), DATAGRAMS));
    for (front, rule) in &state.balance.rules {
        if is_datagrams(setup, &told, front, rule) && is_own(setup, state, front.address) {
            spread(table, front, rule);
        }
    }
}

fn key(address: Ipv4Addr, transport: Transport, port: u16) -> Vec<Part> {
    vec![Part::Address(address), Part::Transport(transport), Part::Port(port)]
}

/// Each flow of datagrams goes to one server: the next one by turns, or by the client's address where it is
/// to stay at one. The filter asks no server whether it is well.
fn spread(table: &mut Table, front: &Front, rule: &Rule) {
    let targets: Vec<Ipv4Addr> = rule.servers.iter().map(|at| *at.ip()).collect();
    // Servers of one rule have one port.
    let Some(port) = rule.servers.first().map(SocketAddrV4::port) else { return };
    let by_client = rule.algorithm == Algorithm::Source || rule.stickiness.is_some();
    let spread = Spread { by_client, targets, port };
    let mut matches = vec![Match::Transport(Transport::Udp)];
    if !rule.sources.is_any() {
        matches.push(Match::From(rule.sources.as_slice().to_vec()));
    }
    let name = format!("balance_{}_{}", front.address, front.port);
    table.chain(name.as_str()).add(matches, Action::Spread(spread));
    if let Some(map) = table.maps.get_mut(DATAGRAMS) {
        map.elements.insert(key(front.address, Transport::Udp, front.port), Value::Jump(name));
    }
}

/// Flows of datagrams whose server has gone: they know no end of their own.
pub fn lost(before: &Table, after: &Table) -> Vec<Lost> {
    let fronts = before.maps.get(DATAGRAMS).into_iter().flat_map(|map| &map.elements);
    let targets = |table: &Table, chain: &str| -> Vec<(Ipv4Addr, u16)> {
        let rules = table.chains.get(chain).into_iter().flat_map(|chain| &chain.rules);
        let spreads = rules.filter_map(|rule| match &rule.action {
            Action::Spread(spread) => Some(spread.targets.iter().map(|target| (*target, spread.port))),
            _ => None,
        });
        spreads.flatten().collect()
    };
    let mut lost = Vec::new();
    for (key, value) in fronts {
        let ([Part::Address(address), _, Part::Port(port)], Value::Jump(chain)) = (key.as_slice(), value)
        else {
            continue;
        };
        let still = match after.maps.get(DATAGRAMS).is_some_and(|map| map.elements.contains_key(key)) {
            true => targets(after, chain),
            false => Vec::new(),
        };
        let gone = targets(before, chain).into_iter().filter(|target| !still.contains(target));
        lost.extend(gone.map(|(target, _)| Lost::DatagramsOf(*address, *port, target)));
    }
    lost
}
