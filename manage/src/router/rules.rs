//! What should hold on a router, made from the zone. It is kept in the database as it was last
//! applied, so that what the zone file has no longer can be revoked.

use std::{collections::BTreeMap, net::Ipv4Addr};

use common::command::host::Traffic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    db::{Owner, Vm},
    index::Index,
    zone::{Filter, Network, NetworkKind, Ports, Protocol},
};

/// Everything that a router of an isolated network holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rules {
    /// Public addresses; the first is the source NAT address.
    pub(crate) addresses: Vec<Address>,
    /// Firewall rules by id.
    pub(crate) firewall: BTreeMap<u32, Firewall>,
    /// Port forwards.
    pub(crate) forwards: Vec<Forward>,
    /// Public address to guest address.
    pub(crate) static_nats: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Guests by MAC address.
    pub(crate) guests: BTreeMap<String, GuestEntry>,
}

/// A public address of a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    /// The address.
    pub(crate) ip: Ipv4Addr,
    /// Whether it is one guest's.
    pub(crate) static_nat: bool,
}

/// A firewall rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Firewall {
    /// Public address of an ingress rule; `None` = egress.
    pub(crate) ingress: Option<Ipv4Addr>,
    /// What it matches; `None` = the system rule that stands for the default.
    pub(crate) filter: Option<Filter>,
    /// The network's default for egress: true = allow.
    pub(crate) egress_allowed: bool,
}

/// A port forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forward {
    /// Public address.
    pub(crate) ip: Ipv4Addr,
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// Public ports.
    pub(crate) ports: Ports,
    /// Guest address.
    pub(crate) to: Ipv4Addr,
    /// Guest ports.
    pub(crate) to_ports: Ports,
}

/// A guest as its router knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GuestEntry {
    /// Host name.
    pub(crate) name: String,
    /// Address.
    pub(crate) ip: Ipv4Addr,
    /// Stable id.
    pub(crate) uuid: String,
    /// User data.
    pub(crate) user_data: Option<String>,
    /// SSH public key.
    pub(crate) public_key: Option<String>,
    /// Public address by which it is known outside.
    pub(crate) public_ip: Ipv4Addr,
    /// Name of the zone.
    pub(crate) zone: String,
    /// Gateway of its network, and resolver unless there is another one.
    pub(crate) gateway: Ipv4Addr,
    /// Its resolver, where that is not the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resolver: Option<Ipv4Addr>,
}

impl Rules {
    /// What `router` shall hold; `None` where the zone has its network no longer.
    pub(crate) fn of(index: &Index<'_>, router: &Vm) -> Option<Self> {
        let Owner::Network(name) = &router.owner else { return None };
        let network = index.network(name)?;
        let NetworkKind::Isolated = network.kind else { return Some(basic(index, network)) };
        let source_nat = router.address(Traffic::Public)?;
        let static_nats: BTreeMap<_, _> = network.static_nats.iter().map(|n| (n.address, n.to)).collect();
        Some(Self {
            addresses: addresses(network, source_nat, &static_nats),
            firewall: firewall(network, source_nat),
            forwards: network
                .forwards
                .iter()
                .map(|f| Forward {
                    ip: f.address.unwrap_or(source_nat),
                    protocol: f.protocol,
                    ports: f.ports,
                    to: f.to,
                    to_ports: f.to_ports,
                })
                .collect(),
            guests: index
                .members(name)
                .iter()
                .filter_map(|guest| {
                    let vm = index.vm(&Owner::Guest(guest.name.clone()))?;
                    let own = static_nats.iter().find(|(_, to)| **to == guest.address);
                    let entry = GuestEntry {
                        name: guest.name.clone(),
                        ip: guest.address,
                        uuid: vm.uuid.clone(),
                        user_data: guest.user_data.clone(),
                        public_key: guest.public_key.clone(),
                        public_ip: own.map_or(source_nat, |(outside, _)| *outside),
                        zone: index.zone.name.clone(),
                        gateway: network.gateway,
                        resolver: None,
                    };
                    Some((vm.nics.first()?.mac.clone(), entry))
                })
                .collect(),
            static_nats,
        })
    }
}

/// What the router of a basic network holds: its guests, and the operator's own.
fn basic(index: &Index<'_>, network: &Network) -> Rules {
    let entry = |name: &str, ip: Ipv4Addr, uuid: &str| GuestEntry {
        name: name.to_owned(),
        ip,
        uuid: uuid.to_owned(),
        user_data: None,
        public_key: None,
        public_ip: ip,
        zone: index.zone.name.clone(),
        gateway: network.gateway,
        resolver: Some(network.router()),
    };
    let guests = index.members(&network.name).iter().filter_map(|guest| {
        let vm = index.vm(&Owner::Guest(guest.name.clone()))?;
        let known = entry(&guest.name, guest.address, &vm.uuid);
        let (user_data, public_key) = (guest.user_data.clone(), guest.public_key.clone());
        Some((vm.nics.first()?.mac.clone(), GuestEntry { user_data, public_key, ..known }))
    });
    let ports = index.ports(&network.name).iter();
    let ports = ports.map(|port| (port.mac.clone(), entry(&port.name, port.address, &port.name)));
    Rules { guests: guests.chain(ports).collect(), ..Rules::default() }
}

fn addresses(
    network: &Network,
    source_nat: Ipv4Addr,
    static_nats: &BTreeMap<Ipv4Addr, Ipv4Addr>,
) -> Vec<Address> {
    let mut others: Vec<_> = network.named_public().filter(|ip| *ip != source_nat).collect();
    others.sort();
    others.dedup();
    let address = |ip| Address { ip, static_nat: static_nats.contains_key(&ip) };
    std::iter::once(source_nat).chain(others).map(address).collect()
}

fn firewall(network: &Network, source_nat: Ipv4Addr) -> BTreeMap<u32, Firewall> {
    let egress_allowed = network.egress_allowed;
    let mut rules = BTreeMap::new();
    if egress_allowed {
        // The rule of id 0 says that the default is to allow (router contract 3.13).
        rules.insert(0, Firewall { ingress: None, filter: None, egress_allowed });
    }
    let egress = network.egress.iter().map(|filter| (None, filter));
    let ingress = network.ingress.iter().map(|i| (Some(i.address.unwrap_or(source_nat)), &i.filter));
    for (ingress, filter) in egress.chain(ingress) {
        let rule = Firewall { ingress, filter: Some(filter.clone()), egress_allowed };
        rules.insert(id(&rule), rule);
    }
    rules
}

/// The id of a rule is made from what it says: a router never changes a rule of a known id, so a
/// rule that says something else needs another one.
fn id(rule: &Firewall) -> u32 {
    let text = serde_json::to_vec(rule).unwrap_or_default();
    let hash = Sha256::digest(text);
    (u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) & 0x7fff_ffff).max(1)
}
