//! What passes through the router of a VPC: a list of rules for each tier and private gateway and each
//! direction, the first rule that fits decides (router behaviour 3.5 to 3.7).
//!
//! A list is a chain of its own, found by the name of the NIC: a packet does not pay for other lists, and a
//! change rewrites one chain. What leaves a tier is judged as the sender wrote it, before any translation;
//! what goes to one, after it. Both must allow.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    firewall::{GUEST_NICS, PUBLIC_NICS, nic_key, protocol, six::link_local},
    mac::Mac,
    nft::{Action, Chain, Field, Match, Table, Value, ValueKind},
    redundancy,
    state::{AclRule, Kind},
    types::{Family, Ports, Transport},
    view::{Guest6, View},
    vpn,
};

/// Where the lists for IPv6 are looked up.
const INGRESS6: &str = "acl6_ingress";
const EGRESS6: &str = "acl6_egress";

/// What becomes of packets that no rule of a list fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// They go on.
    Pass,
    /// They vanish.
    Drop,
}

/// Adds the chains of a VPC.
pub fn plan(view: &View<'_>, table: &mut Table) {
    if view.setup.kind != Kind::Vpc {
        return;
    }
    forward(view, table);
    table.map("acl_ingress", &[Field::OutNic], ValueKind::Verdict);
    table.map("acl_egress", &[Field::InNic], ValueKind::Verdict);
    if view.has_six() {
        table.map(INGRESS6, &[Field::OutNic], ValueKind::Verdict);
        table.map(EGRESS6, &[Field::InNic], ValueKind::Verdict);
        table.chain("early").add([Match::Six], Action::Jump("early6".into()));
        let early = table.chain("early6");
        early.add([], Action::Lookup(vec![Field::InNic], EGRESS6));
        early.add([], Action::Accept);
    }
    table.chain("early").add([], Action::Lookup(vec![Field::InNic], "acl_egress"));
    for nic in view.forwarded() {
        let Some((mac, _)) = nic.tier.filter(|(mac, _)| view.scope.has_acl(*mac)) else { continue };
        if let Some(six) = &nic.six {
            tier6(view, table, &nic.name, mac, six);
        }
        if view.setup.vpc.without_public {
            insert(table, "acl_ingress", &nic.name, Value::Accept);
        } else {
            ingress(view, table, &nic.name, mac);
        }
        let end = if view.setup.routed { End::Drop } else { End::Pass };
        egress(view, table, &nic.name, mac, &nic.addresses, end);
    }
    for nic in view.private.values().filter(|nic| view.scope.has_acl(nic.mac)) {
        ingress(view, table, &nic.name, nic.mac);
        egress(view, table, &nic.name, nic.mac, &nic.addresses, End::Pass);
    }
}

fn forward(view: &View<'_>, table: &mut Table) {
    let out = Match::Known(Field::OutNic, PUBLIC_NICS);
    let chain = table.chain("forward");
    chain.add([Match::Established], Action::Accept);
    if view.translates() {
        chain.add([Match::Known(Field::InNic, PUBLIC_NICS)], Action::Jump("from_public".into()));
    }
    chain.add([], Action::Lookup(vec![Field::OutNic], "acl_ingress"));
    if vpn::filter::is_used(view) {
        chain.add([], Action::Jump(vpn::filter::FORWARD.into()));
    }
    chain.add([Match::Known(Field::InNic, GUEST_NICS), out.clone()], Action::Accept);
    for nic in view.private.values() {
        // Where the router is the gateway of the network there, it is its way out, too.
        if nic.gateway.is_some_and(|g| nic.addresses.iter().any(|net| net.addr() == g)) {
            let from = Match::from(nic.networks());
            chain.add([Match::In(nic.name.clone()), from, out.clone()], Action::Accept);
        }
    }
    if view.translates() {
        // A guest is reached from outside by a translated address only, never by its own.
        let chain = table.chain("from_public");
        chain.add([Match::Translated], Action::Return);
        if vpn::filter::is_used(view) {
            chain.add([Match::Decrypted], Action::Return);
        }
        chain.add([], Action::Drop);
    }
}

/// The list for what leaves by a NIC; without one nothing does.
fn ingress(view: &View<'_>, table: &mut Table, nic: &str, mac: Mac) {
    let name = format!("acl_ingress_{nic}");
    let chain = table.chain(name.as_str());
    if view.setup.routed {
        chain.add([Match::In(nic.to_owned())], Action::Accept);
    }
    let rules = view.state.acls.get(&mac).map(|acl| acl.ingress.as_slice()).unwrap_or_default();
    add(chain, rules, Family::Four, &Match::From, &[]);
    chain.add([], Action::Drop);
    insert(table, "acl_ingress", nic, Value::Jump(name));
}

/// The list for what comes in by a NIC. What is for the router itself there is not subject to it.
fn egress(view: &View<'_>, table: &mut Table, nic: &str, mac: Mac, own: &[Ipv4Net], end: End) {
    let rules = view.state.acls.get(&mac).map(|acl| acl.egress.as_slice()).unwrap_or_default();
    if rules.is_empty() && end == End::Pass {
        return;
    }
    let name = format!("acl_egress_{nic}");
    let chain = table.chain(name.as_str());
    let pair = redundancy::GROUPS.iter().filter(|_| view.setup.pair.is_some());
    let router = own.iter().map(Ipv4Net::addr).chain(pair.copied()).map(Ipv4Net::from);
    chain.add([Match::to(router)], Action::Return);
    if let Ok(port) = Ports::new(67, 67) {
        // Guests without an address ask everybody for one.
        let everybody = Match::to([Ipv4Net::from(std::net::Ipv4Addr::BROADCAST)]);
        chain.add([everybody, Match::Ports(Transport::Udp, port)], Action::Return);
    }
    // Without a public network others come in by a tier, too: its list is about its own guests only.
    let own = view.setup.vpc.without_public.then(|| Match::from(own.iter().map(Ipv4Net::trunc)));
    add(chain, rules, Family::Four, &Match::To, own.as_slice());
    if end == End::Drop {
        chain.add([], Action::Drop);
    }
    insert(table, "acl_egress", nic, Value::Jump(name));
}

/// Adds those rules of a list that say something of a family's packets, each behind `first`.
fn add(
    chain: &mut Chain,
    rules: &[AclRule],
    family: Family,
    side: &dyn Fn(Vec<IpNet>) -> Match,
    first: &[Match],
) {
    for (rule, nets) in rules.iter().filter_map(|rule| Some((rule, rule.of(family)?))) {
        let nets = (!nets.is_any()).then(|| side(nets.as_slice().to_vec()));
        let matches = first.iter().cloned().chain(nets).chain(protocol(rule.protocol.of(family)));
        chain.add(matches.collect::<Vec<_>>(), verdict(rule));
    }
}

/// The lists of a tier for IPv6, from the same rules. What none of them fits vanishes in both directions; what guests
/// send in the name of others, too.
fn tier6(view: &View<'_>, table: &mut Table, nic: &str, mac: Mac, six: &Guest6<'_>) {
    let acl = view.state.acls.get(&mac);
    let name = format!("acl6_ingress_{nic}");
    let chain = table.chain(name.as_str());
    add(chain, acl.map(|acl| acl.ingress.as_slice()).unwrap_or_default(), Family::Six, &Match::From, &[]);
    chain.add([], Action::Drop);
    insert(table, INGRESS6, nic, Value::Jump(name));

    let name = format!("acl6_egress_{nic}");
    let chain = table.chain(name.as_str());
    // What is for the router itself, or for all of the link, is not subject to it.
    let router = six.routers().map(|net| Ipv6Net::from(net.addr()));
    let near = [Ipv6Net::from(six.link_local)].into_iter().chain(router).map(IpNet::V6);
    chain.add([Match::to(near.chain([link_local(), groups()]))], Action::Return);
    let own = [Match::from([six.known.trunc()])];
    add(chain, acl.map(|acl| acl.egress.as_slice()).unwrap_or_default(), Family::Six, &Match::To, &own);
    chain.add([], Action::Drop);
    insert(table, EGRESS6, nic, Value::Jump(name));
}

/// `ff00::/8`.
fn groups() -> IpNet {
    Ipv6Net::new([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8).map_or_else(|_| IpNet::default(), IpNet::V6)
}

/// Adds to a chain what passes through of IPv6: what a tier's list lets in, and what leaves for the public network.
pub(crate) fn forward6(view: &View<'_>, table: &mut Table, chain: &str) {
    let chain = table.chain(chain);
    if view.setup.vpc.without_public {
        return;
    }
    chain.add([], Action::Lookup(vec![Field::OutNic], INGRESS6));
    let out = Match::Known(Field::OutNic, PUBLIC_NICS);
    chain.add([Match::Known(Field::InNic, GUEST_NICS), out], Action::Accept);
}

const fn verdict(rule: &AclRule) -> Action {
    if rule.allow { Action::Accept } else { Action::Drop }
}

fn insert(table: &mut Table, map: &str, nic: &str, value: Value) {
    if let Some(map) = table.maps.get_mut(map) {
        map.elements.insert(nic_key(nic), value);
    }
}

#[cfg(test)]
mod tests;
