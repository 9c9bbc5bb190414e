//! What the packet filter does for VPNs: it lets in what comes encrypted, and nothing leaves in the clear that belongs
//! into a tunnel.
//!
//! Packets between a guest and another site keep their addresses. Whether guests and sites may talk is up to the lists
//! of the tiers, as for everybody else; in an isolated network sites reach guests, and what guests send is subject to
//! the egress rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::{Ipv4Net, Ipv4Subnets};

use crate::{
    firewall::{GUEST_NICS, PUBLIC, PUBLIC_NICS},
    nft::{Action, Field, Match, Part, Table, Value, ValueKind},
    state::Kind,
    types::{Ports, Transport},
    view::View,
};

/// Tried before the gate of a public address.
pub(crate) const BEFORE_GATE: &str = "vpn_before_gate";
/// Tried for what comes to the router itself.
pub(crate) const INPUT: &str = "vpn_input";
/// Tried for all that passes through, before anything is let through.
pub(crate) const GUARD: &str = "vpn_guard";
/// Tried for what passes through and belongs to no known connection.
pub(crate) const FORWARD: &str = "vpn_forward";
/// Tried before a source is translated.
pub(crate) const AS_IT_IS: &str = "vpn_as_it_is";

/// Pairs of gateways that speak IPsec: the other one, then this router's.
const PEERS: &str = "vpn_peers";
/// Addresses that clients come to.
const SERVERS: &str = "vpn_servers";
/// Interfaces of clients with L2TP.
const DIALED: &str = "ppp*";
/// The interface of WireGuard.
pub(super) const WIREGUARD: &str = "wg0";
/// What such a pair may say.
const IPSEC: &str = "vpn_ipsec";

/// Number of the protocol ESP.
const ESP: u8 = 50;
/// UDP ports of IKE: plain, and where addresses are translated on the way.
const IKE: [u16; 2] = [500, 4500];

/// Whether there is any VPN.
pub(crate) fn is_used(view: &View<'_>) -> bool {
    let vpn = &view.state.vpn;
    let any = !vpn.sites.is_empty() || !vpn.remotes.is_empty() || vpn.wireguard.is_some();
    view.setup.kind.forwards() && any
}

/// Adds the chains that others lead to.
pub fn plan(view: &View<'_>, table: &mut Table) {
    if !is_used(view) {
        return;
    }
    let pair = [Field::Source, Field::Destination];
    table.map(PEERS, &pair, ValueKind::Verdict).elements = view
        .state
        .vpn
        .sites
        .iter()
        .filter_map(|(peer, site)| {
            let key = vec![Part::Address(*peer), Part::Address(own_address(view, site.local)?)];
            Some((key, Value::Jump(IPSEC.to_owned())))
        })
        .collect();
    table.chain(INPUT).add([], Action::Lookup(pair.to_vec(), PEERS));
    if view.has_gates() {
        table.chain(BEFORE_GATE).add([], Action::Lookup(pair.to_vec(), PEERS));
    }
    // Others lead to them, be they empty.
    for chain in [GUARD, FORWARD, AS_IT_IS] {
        table.chain(chain);
    }
    ipsec(table);

    clients(view, table);
    wireguard(view, table);
    let out = Match::Known(Field::OutNic, PUBLIC_NICS);
    for (net, far) in networks(view) {
        let to = (!far.iter().any(|net| net.prefix_len() == 0)).then_some(Match::to(far));
        let inside: Vec<Match> = [out.clone(), Match::from([net])].into_iter().chain(to).collect();
        let bare: Vec<Match> = inside.iter().cloned().chain([Match::Bare]).collect();
        table.chain(GUARD).add(bare, Action::Drop);
        table.chain(AS_IT_IS).add(inside, Action::Accept);
    }
    let decrypted =
        [Match::Decrypted, Match::Known(Field::InNic, PUBLIC_NICS), Match::Known(Field::OutNic, GUEST_NICS)];
    let chain = table.chain(FORWARD);
    if view.setup.kind == Kind::Isolated {
        chain.add(decrypted, Action::Accept);
    }
}

/// Lets clients in, and what belongs to them.
fn clients(view: &View<'_>, table: &mut Table) {
    let servers = view.state.vpn.remotes.keys().filter_map(|server| own_address(view, *server));
    let servers: BTreeMap<_, _> =
        servers.map(|address| (vec![Part::Address(address)], Value::Nothing)).collect();
    table.map(SERVERS, &[Field::Destination], ValueKind::Nothing).elements = servers;
    let server = Match::Known(Field::Destination, SERVERS);
    let l2tp = Match::Ports(Transport::Udp, Ports::one(1701));
    // In the clear nobody speaks L2TP here.
    let wrapped = [server.clone(), Match::Decrypted, l2tp];
    if view.has_gates() {
        // The management server makes ingress rules for IKE, and none for ESP.
        table.chain(BEFORE_GATE).add([server.clone(), Match::Number(ESP)], Action::Accept);
        table.chain(BEFORE_GATE).add(wrapped.clone(), Action::Accept);
    }
    table.chain(INPUT).add([server], Action::Jump(IPSEC.into()));
    table.chain(INPUT).add(wrapped, Action::Accept);

    let out = Match::Known(Field::OutNic, PUBLIC_NICS);
    let guests = Match::Known(Field::InNic, GUEST_NICS);
    for remote in view.state.vpn.remotes.values() {
        let pool: Vec<Ipv4Net> = Ipv4Subnets::new(remote.range.0, remote.range.1, 0).collect();
        let to_pool = [out.clone(), Match::to(pool.iter().copied())];
        let bare: Vec<Match> = to_pool.iter().cloned().chain([Match::Bare]).collect();
        table.chain(GUARD).add(bare, Action::Drop);
        table.chain(AS_IT_IS).add(to_pool.clone(), Action::Accept);
        for from in [Match::In(DIALED.into()), Match::Decrypted] {
            own_services(table, &[from, Match::from(pool.iter().copied())], remote.local);
        }
        let inside = Match::from([remote.net]);
        let forward = table.chain(FORWARD);
        forward.add([Match::In(DIALED.into()), Match::Out(DIALED.into())], Action::Accept);
        forward.add([guests.clone(), Match::Out(DIALED.into())], Action::Accept);
        if view.setup.kind == Kind::Isolated {
            let to = Match::to([remote.net]);
            let guests_out = Match::Known(Field::OutNic, GUEST_NICS);
            forward.add([Match::In(DIALED.into()), guests_out, to], Action::Accept);
            let to_pool = [guests.clone(), inside].into_iter().chain(to_pool);
            forward.add(to_pool.collect::<Vec<_>>(), Action::Accept);
        }
    }
}

/// Lets peers of WireGuard in, and what belongs to them.
fn wireguard(view: &View<'_>, table: &mut Table) {
    let Some(wireguard) = &view.state.vpn.wireguard else { return };
    let port = Match::Ports(Transport::Udp, Ports::one(wireguard.port));
    let public = [Match::Known(Field::Destination, PUBLIC), port];
    if view.has_gates() {
        table.chain(BEFORE_GATE).add(public.clone(), Action::Accept);
    }
    table.chain(INPUT).add(public, Action::Accept);
    let from = Match::In(WIREGUARD.into());
    own_services(table, std::slice::from_ref(&from), wireguard.address.addr());
    let forward = table.chain(FORWARD);
    forward.add([from.clone(), Match::Out(WIREGUARD.into())], Action::Accept);
    forward.add([Match::Known(Field::InNic, GUEST_NICS), Match::Out(WIREGUARD.into())], Action::Accept);
    if view.setup.kind == Kind::Isolated {
        forward.add([from, Match::Known(Field::OutNic, GUEST_NICS)], Action::Accept);
    }
}

/// What the router answers clients: names, and whether it is there.
fn own_services(table: &mut Table, from: &[Match], own: Ipv4Addr) {
    let dns = [Transport::Udp, Transport::Tcp].map(|transport| Match::Ports(transport, Ports::one(53)));
    for service in dns.into_iter().chain([Match::Icmp]) {
        let matches = from.iter().cloned().chain([Match::to([Ipv4Net::from(own)]), service]);
        table.chain(INPUT).add(matches.collect::<Vec<_>>(), Action::Accept);
    }
}

fn ipsec(table: &mut Table) {
    let chain = table.chain(IPSEC);
    for port in IKE {
        chain.add([Match::Ports(Transport::Udp, Ports::one(port))], Action::Accept);
    }
    chain.add([Match::Number(ESP)], Action::Accept);
}

/// The networks of other sites, joined, by the network here that they are tied to.
fn networks(view: &View<'_>) -> BTreeMap<Ipv4Net, Vec<Ipv4Net>> {
    let mut all: BTreeMap<Ipv4Net, BTreeSet<Ipv4Net>> = BTreeMap::new();
    for site in view.state.vpn.sites.values() {
        all.entry(site.net).or_default().extend(site.remote.iter().copied());
    }
    let joined = |nets: BTreeSet<Ipv4Net>| Ipv4Net::aggregate(&nets.into_iter().collect::<Vec<_>>());
    all.into_iter().map(|(net, far)| (net, joined(far))).collect()
}

/// The address that IPsec is spoken from for a public address: that address where the router has it; in a VPC without
/// a public network the address in the tier with the lowest number. `None` where it is not there (yet).
pub(crate) fn own_address(view: &View<'_>, public: Ipv4Addr) -> Option<Ipv4Addr> {
    if view.nic_of(public).is_some() {
        return Some(public);
    }
    if !view.setup.vpc.without_public {
        return None;
    }
    let tiers = view.guests.values().filter_map(|nic| nic.tier.map(|(_, tier)| tier));
    tiers.min_by_key(|tier| tier.network).map(|tier| tier.address)
}

#[cfg(test)]
mod tests {
    use crate::{
        explain::{Packet, explain},
        plan::{Plan, plan},
        state::tests::{LINE, VPC, acl, address, after_at, devices, setup_of, tier},
        vpn::wanted::tests::document,
    };

    fn vpc() -> Plan {
        let setup = setup_of(VPC);
        let open = r#"{"type":"all","cidr":"192.168.50.0/24","allowed":true}"#;
        let documents = [
            address("203.0.113.20", 1, true, true),
            tier(1, 2, true),
            acl(2, &[open], &[]),
            document("198.51.100.9", ""),
        ];
        let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
        plan(&setup, &after_at(&setup, &texts), &devices())
    }

    fn said(plan: &Plan, words: &str) -> String {
        explain(plan, &Packet::read(&words.split(' ').collect::<Vec<_>>()).unwrap())
    }

    #[test]
    fn a_peer_is_let_in_and_nobody_else() {
        let plan = vpc();
        for (words, answer) in [
            ("udp 198.51.100.9 203.0.113.20:500", "for the router itself"),
            ("udp 198.51.100.9 203.0.113.20:4500", "for the router itself"),
            ("udp 198.51.100.10 203.0.113.20:500", "dropped"),
            ("udp 198.51.100.9 203.0.113.20:501", "dropped"),
        ] {
            let text = said(&plan, words);
            assert!(text.lines().last().unwrap().contains(answer), "{words}: {text}");
        }
    }

    #[test]
    fn packets_to_a_site_keep_their_source_and_others_do_not() {
        let plan = vpc();
        let text = said(&plan, "tcp 10.9.1.20 192.168.50.7:80");
        assert!(text.ends_with("leaves by eth1: tcp 10.9.1.20 to 192.168.50.7:80\n"), "{text}");
        let text = said(&plan, "tcp 10.9.1.20 192.0.2.7:80");
        assert!(text.contains("source becomes 203.0.113.20"), "{text}");
        let guard = format!("{:?}", plan.table.chains["vpn_guard"]);
        assert!(guard.contains("Bare") && guard.contains("192.168.50.0/23"), "{guard}");
    }

    #[test]
    fn a_gate_lets_peers_through_and_nothing_is_there_without_sites() {
        let setup = setup_of(LINE);
        let site = document("198.51.100.9", "").replace("203.0.113.20", "203.0.113.10");
        let with = plan(&setup, &after_at(&setup, &[&site]), &devices());
        let text = said(&with, "udp 198.51.100.9 203.0.113.10:500");
        assert!(text.contains("for the router itself"), "{text}");
        let without = plan(&setup, &setup.first_state(), &devices());
        assert!(without.table.chains.keys().all(|chain| !chain.starts_with("vpn")));
        let gone = site.replace(r#""dpd":true"#, r#""create":false"#);
        assert_eq!(plan(&setup, &after_at(&setup, &[&site, &gone]), &devices()), without);
    }
}
