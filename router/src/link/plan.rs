//! Which addresses, routes and rules there should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Devices;
use crate::{
    redundancy::Role,
    state::Kind,
    view::{GuestNic, View},
};

/// The main routing table.
pub const MAIN: u32 = 254;

/// Where rules by mark begin; the number of the NIC is added.
const BY_MARK: u32 = 20_000;
/// Where rules by source network begin; the number of the NIC is added.
const BY_SOURCE: u32 = 21_000;
/// The preferences that are ours: rules elsewhere are left alone.
pub const PREFERENCES: std::ops::Range<u32> = BY_MARK..22_000;

/// Everything that should be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// NICs by name; those not named here keep what they have, but no address.
    pub nics: BTreeMap<String, NicPlan>,
    /// Routes of ours.
    pub routes: BTreeSet<Route>,
    /// Rules of ours.
    pub rules: BTreeSet<Rule>,
}

/// What a NIC should be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NicPlan {
    /// Addresses with their prefixes, the main one first.
    pub addresses: Vec<Ipv4Net>,
    /// The same of IPv6, without the link-local address that the kernel gives it.
    pub six: Vec<Ipv6Net>,
    /// MTU; `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// An address that VRRP brings and takes away.
    pub shared: Option<Ipv4Net>,
    /// It is to be down, with its addresses.
    pub down: bool,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Number of its table.
    pub table: u32,
    /// To where.
    pub destination: IpNet,
    /// By which gateway and NIC; `None` sends the search back to the next rule ("throw").
    pub via: Option<Via>,
}

/// The next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// The gateway.
    pub gateway: IpAddr,
    /// Name of the NIC.
    pub nic: String,
    /// What the router's own packets carry as their source; unspecified where that is not fixed.
    pub source: IpAddr,
}

impl Via {
    fn four(gateway: Ipv4Addr, nic: &str, source: Ipv4Addr) -> Self {
        Self { gateway: gateway.into(), nic: nic.to_owned(), source: source.into() }
    }
}

/// One rule that leads to a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Order among rules.
    pub preference: u32,
    /// Packets from this network.
    pub source: Option<Ipv4Net>,
    /// Packets with this mark.
    pub mark: Option<u32>,
    /// The table.
    pub table: u32,
}

/// Says what should be there, of the NICs that are.
pub fn plan(view: &View<'_>, devices: &Devices) -> Links {
    let mut links = Links::default();
    let control = &view.setup.control;
    let control_net = Ipv4Net::new(control.address, control.prefix).into_iter().collect();
    let mtu = control.mtu.map(u32::from);
    links.nics.insert(control.name(), NicPlan { addresses: control_net, mtu, ..NicPlan::default() });
    for nic in view.guests.values() {
        let (addresses, mtu) = (nic.own().to_vec(), nic.mtu.map(u32::from));
        // Where VRRP is not there, nobody else takes the address away.
        let shared = nic.shared.filter(|_| !view.setup.pair.as_ref().is_some_and(|p| p.role == Role::Fault));
        let six = six(view, nic);
        links.nics.insert(nic.name.clone(), NicPlan { addresses, six, mtu, shared, down: false });
    }
    let silent = view.setup.is_silent();
    let mut routes = Routes::default();
    for nic in view.outer() {
        let (addresses, mtu) = (nic.addresses.clone(), nic.mtu.map(u32::from));
        // The kernel takes those of a NIC away that goes down.
        let six = if silent { Vec::new() } else { nic.six.clone() };
        links.nics.insert(nic.name.clone(), NicPlan { addresses, six, mtu, shared: None, down: silent });
        let table = nic.table();
        let gateway = nic.gateway.filter(|g| holds(&nic.networks(), *g) && *g != nic.address());
        // A NIC that is down has no routes.
        if let Some(gateway) = gateway.filter(|_| !silent) {
            let via = Via::four(gateway, &nic.name, nic.address());
            routes.add(table, Ipv4Net::default(), Some(via));
        }
        // What is near, and what the main table has a route of ours for, is looked up there.
        let inside = view.guests.values().flat_map(|guest| guest.networks());
        let inside = inside.chain(view.private.values().flat_map(|private| private.networks()));
        let inside = inside.chain(view.state.routes.keys().copied()).chain([control.network()]);
        for destination in nic.networks().into_iter().chain(inside) {
            routes.add(table, destination, None);
        }
        let by_mark = Rule { preference: BY_MARK + nic.number, source: None, mark: Some(table), table };
        links.rules.insert(by_mark);
        for network in nic.networks() {
            let preference = BY_SOURCE + nic.number;
            links.rules.insert(Rule { preference, source: Some(network), mark: None, table });
        }
    }
    if let Some(via) = way_out(view) {
        routes.add(MAIN, Ipv4Net::default(), Some(via));
    }
    let near: BTreeSet<Ipv4Net> =
        links.nics.values().flat_map(|nic| &nic.addresses).map(Ipv4Net::trunc).collect();
    for (network, gateway) in view.state.routes.iter().filter(|(network, _)| !near.contains(network)) {
        if let Some(via) = towards(view, *gateway) {
            routes.add(MAIN, *network, Some(via));
        }
    }
    if let Some(via) = way_out6(view) {
        routes.add(MAIN, Ipv6Net::default(), Some(via));
    }
    links.routes =
        routes.0.into_iter().map(|((table, to), via)| Route { table, destination: to, via }).collect();
    links.nics.retain(|name, _| devices.get(name).is_some());
    links
}

/// Routes by table and destination: the first one of a place stays.
#[derive(Default)]
struct Routes(BTreeMap<(u32, IpNet), Option<Via>>);

impl Routes {
    fn add(&mut self, table: u32, destination: impl Into<IpNet>, via: Option<Via>) {
        self.0.entry((table, destination.into())).or_insert(via);
    }
}

/// IPv6 of a NIC with guests. What belongs to a pair is there while this router is in force.
fn six(view: &View<'_>, nic: &GuestNic<'_>) -> Vec<Ipv6Net> {
    let Some(six) = &nic.six else { return Vec::new() };
    let Some(own) = six.own else { return vec![six.known] };
    let link_local = Ipv6Net::new(six.link_local, 64).into_iter();
    let shared = link_local.chain([six.known]).filter(|_| !view.setup.is_silent());
    std::iter::once(own).chain(shared).collect()
}

/// The default route of IPv6: by the public NIC; where there is none, by the network of the guests. It names no source:
/// an address that has just come would be refused as one for a moment, and the kernel takes that of the NIC.
fn way_out6(view: &View<'_>) -> Option<Via> {
    let via = |gateway: Ipv6Addr, nic: &str| Via {
        gateway: gateway.into(),
        nic: nic.to_owned(),
        source: Ipv6Addr::UNSPECIFIED.into(),
    };
    let near = |nets: &[Ipv6Net], gateway: Ipv6Addr| {
        gateway.is_unicast_link_local() || nets.iter().any(|net| net.contains(&gateway))
    };
    for nic in view.public.values().filter(|nic| !view.setup.is_silent() && !nic.six.is_empty()) {
        let own = |gateway: Ipv6Addr| nic.six.iter().any(|net| net.addr() == gateway);
        if let Some(gateway) = nic.gateway6.filter(|gateway| near(&nic.six, *gateway) && !own(*gateway)) {
            return Some(via(gateway, &nic.name));
        }
    }
    let gateway = view.setup.gateway6.filter(|_| !view.setup.kind.forwards())?;
    let nic =
        view.guests.values().find(|nic| nic.six.as_ref().is_some_and(|six| near(&[six.known], gateway)))?;
    Some(via(gateway, &nic.name))
}

fn holds(networks: &[Ipv4Net], address: Ipv4Addr) -> bool {
    networks.iter().any(|net| net.contains(&address))
}

/// The default route: by the gateway of the boot arguments; in a VPC by that of its source NAT address, or of
/// the first public NIC; without a public network, by that of the tier with the lowest number.
fn way_out(view: &View<'_>) -> Option<Via> {
    if view.setup.kind != Kind::Vpc {
        return towards(view, view.setup.gateway?);
    }
    if view.setup.vpc.without_public {
        let tiers = view.guests.values().filter_map(|nic| Some((nic.tier?.1, nic)));
        let (tier, nic) = tiers.min_by_key(|(tier, _)| tier.network)?;
        let gateway = tier.gateway.filter(|g| *g != tier.address && tier.net().contains(g))?;
        return Some(Via::four(gateway, &nic.name, tier.address));
    }
    let source = view.setup.vpc.source_nat.and_then(|address| view.nic_of(address));
    let nic = source.or_else(|| view.public.values().next()).filter(|_| !view.setup.is_silent())?;
    let gateway = nic.gateway.filter(|g| holds(&nic.networks(), *g))?;
    Some(Via::four(gateway, &nic.name, nic.address()))
}

/// A next hop by the NIC in whose network it is; public NICs first.
fn towards(view: &View<'_>, gateway: Ipv4Addr) -> Option<Via> {
    let outer = view.outer().filter(|_| !view.setup.is_silent());
    let outer = outer.map(|nic| (nic.networks(), &nic.name, nic.address()));
    let own = |nic: &GuestNic<'_>| nic.own().first().map_or(Ipv4Addr::UNSPECIFIED, Ipv4Net::addr);
    let guests = view.guests.values().map(|nic| (nic.networks(), &nic.name, own(nic)));
    let (_, nic, source) = outer.chain(guests).find(|(networks, ..)| holds(networks, gateway))?;
    Some(Via::four(gateway, nic, source))
}
