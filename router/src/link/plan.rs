//! Which addresses, routes and rules there should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::Devices;
use crate::{state::BootNic, view::View};

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

/// What a NIC should be like. It is up in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NicPlan {
    /// Addresses with their prefixes, the main one first.
    pub addresses: Vec<Ipv4Net>,
    /// MTU; `None` leaves it as it is.
    pub mtu: Option<u32>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Number of its table.
    pub table: u32,
    /// To where.
    pub destination: Ipv4Net,
    /// By which gateway and NIC; `None` sends the search back to the next rule ("throw").
    pub via: Option<Via>,
}

/// The next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// Name of the NIC.
    pub nic: String,
    /// What the router's own packets carry as their source.
    pub source: Ipv4Addr,
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
    for nic in [&view.setup.guest, &view.setup.control] {
        if devices.get(&nic.name()).is_some() {
            links.nics.insert(nic.name(), boot_nic(nic));
        }
    }
    let inside = [view.setup.guest.network(), view.setup.control.network()];
    for nic in view.public.values() {
        links.nics.insert(
            nic.name.clone(),
            NicPlan { addresses: nic.addresses.clone(), mtu: nic.mtu.map(u32::from) },
        );
        let table = nic.table();
        let via = |gateway| Via { gateway, nic: nic.name.clone(), source: nic.source };
        let default = Ipv4Net::default();
        if let Some(gateway) = nic.gateway.filter(|g| nic.networks().iter().any(|net| net.contains(g))) {
            links.routes.insert(Route { table, destination: default, via: Some(via(gateway)) });
        }
        for destination in nic.networks().into_iter().chain(inside) {
            links.routes.insert(Route { table, destination, via: None });
        }
        let by_mark = Rule { preference: BY_MARK + nic.number, source: None, mark: Some(table), table };
        links.rules.insert(by_mark);
        for network in nic.networks() {
            let preference = BY_SOURCE + nic.number;
            links.rules.insert(Rule { preference, source: Some(network), mark: None, table });
        }
    }
    if let Some(gateway) = view.setup.gateway
        && let Some(nic) =
            view.public.values().find(|nic| nic.networks().iter().any(|n| n.contains(&gateway)))
    {
        let via = Via { gateway, nic: nic.name.clone(), source: nic.source };
        links.routes.insert(Route { table: MAIN, destination: Ipv4Net::default(), via: Some(via) });
    }
    links
}

fn boot_nic(nic: &BootNic) -> NicPlan {
    NicPlan {
        addresses: Ipv4Net::new(nic.address, nic.prefix).into_iter().collect(),
        mtu: nic.mtu.map(u32::from),
    }
}
