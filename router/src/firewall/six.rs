//! The same for IPv6 (router behaviour 3.8): packets of it leave the common chains at once for chains of their own, so
//! that no rule about IPv4 ever judges one, nor the other way round. Nothing is translated: what guests send and what
//! reaches them is let through by rules of the same shape.

use ipnet::{IpNet, Ipv6Net};

use super::{PUBLIC_NICS, egress, inward, one_port};
use crate::{
    acl,
    nft::{Action, Field, Match, Table},
    state::Kind,
    types::{Family, Ports, Transport},
    view::{Guest6, GuestNic, View},
};

/// What the router itself answers.
pub(crate) const INPUT: &str = "input6";
/// What passes through.
const FORWARD: &str = "forward6";

/// Types of ICMPv6 (RFC 4443, RFC 4861, RFC 3810).
const ECHO_REQUEST: u8 = 128;
const LISTENERS: [u8; 4] = [130, 131, 132, 143];
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOURS: [u8; 2] = [135, 136];

/// Port of DHCPv6 servers.
const DHCP: u16 = 547;

/// Sends packets of IPv6 from a common chain to their own, from which they do not come back.
fn leave(view: &View<'_>, table: &mut Table, from: &str, to: &str) {
    let chain = table.chain(from);
    if view.has_six() {
        chain.add([Match::Six], Action::Jump(to.to_owned()));
    }
    chain.add([Match::Six], Action::Drop);
}

/// `fe80::/10`.
pub(crate) fn link_local() -> IpNet {
    Ipv6Net::new([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), 10).map_or_else(|_| IpNet::default(), IpNet::V6)
}

/// Adds the chain of what the router itself answers. What belongs to a known connection has been let in before.
pub(super) fn input(view: &View<'_>, table: &mut Table) {
    leave(view, table, "input", INPUT);
    if !view.has_six() {
        return;
    }
    let chain = table.chain(INPUT);
    for kind in NEIGHBOURS {
        chain.add([Match::Near, Match::Icmp6, Match::Icmp6Type(kind)], Action::Accept);
    }
    for kind in LISTENERS {
        let from = Match::from([link_local()]);
        chain.add([from, Match::Icmp6, Match::Icmp6Type(kind)], Action::Accept);
    }
    chain.add([Match::Icmp6, Match::Icmp6Type(ECHO_REQUEST)], Action::Accept);
    for nic in view.guests.values() {
        if let Some(six) = &nic.six {
            input_guest(view, nic, six, table);
        }
    }
}

/// What the guests of one NIC are answered.
fn input_guest(view: &View<'_>, nic: &GuestNic<'_>, six: &Guest6<'_>, table: &mut Table) {
    if !view.setup.kind.serves_guests() {
        return;
    }
    let chain = table.chain(INPUT);
    let by = Match::In(nic.name.clone());
    let asks = [by.clone(), Match::Near, Match::Icmp6, Match::Icmp6Type(ROUTER_SOLICITATION)];
    chain.add(asks, Action::Accept);
    let dhcp = Match::Ports(Transport::Udp, Ports::one(DHCP));
    chain.add([by.clone(), Match::from([link_local()]), dhcp], Action::Accept);
    let mine = Match::to(six.routers().map(|net| Ipv6Net::from(net.addr())));
    let near = Match::from([six.known.trunc()]);
    for (transport, port) in [(Transport::Tcp, 80), (Transport::Tcp, 443), (Transport::Tcp, 8080)] {
        let port = one_port(transport, port).into_iter();
        let all = [by.clone(), near.clone(), mine.clone()].into_iter().chain(port);
        chain.add(all.collect::<Vec<_>>(), Action::Accept);
    }
    for transport in [Transport::Udp, Transport::Tcp].into_iter().filter(|_| view.serves_dns()) {
        let from = Some(near.clone()).filter(|_| !view.setup.exposed_dns);
        let port = one_port(transport, 53);
        let all = [by.clone()].into_iter().chain(from).chain([mine.clone()]).chain(port);
        chain.add(all.collect::<Vec<_>>(), Action::Accept);
    }
}

/// Adds the chains of what passes through.
pub(super) fn forward(view: &View<'_>, table: &mut Table) {
    leave(view, table, "forward", FORWARD);
    if !view.has_six() {
        return;
    }
    table.chain(FORWARD).add([Match::Established], Action::Accept);
    match view.setup.kind {
        Kind::Isolated => isolated(view, table),
        Kind::Vpc => acl::forward6(view, table, FORWARD),
        Kind::Shared | Kind::Balancer => {}
    }
}

fn isolated(view: &View<'_>, table: &mut Table) {
    let nets = || view.forwarded().filter_map(|nic| Some((nic, nic.six.as_ref()?.known.trunc())));
    for (nic, net) in nets() {
        let chain = table.chain(FORWARD);
        let public = Match::Known(Field::InNic, PUBLIC_NICS);
        chain.add([public, Match::Out(nic.name.clone()), Match::to([net])], Action::Jump("inward6".into()));
        // Nobody sends in the name of others.
        let public = Match::Known(Field::OutNic, PUBLIC_NICS);
        chain.add([Match::In(nic.name.clone()), Match::from([net]), public], Action::Jump("egress6".into()));
    }
    inward(view, table, Family::Six);
    egress(view, table, Family::Six);
}
