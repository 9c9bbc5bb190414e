//! The reservations, ready to be looked up.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use crate::{
    mac::Mac,
    snapshot::{Dhcp, DhcpHost, DhcpSubnet},
};

/// One reservation together with the subnet it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The reservation.
    pub host: DhcpHost,
    /// Its subnet.
    pub subnet: Arc<DhcpSubnet>,
}

/// All reservations; built once for each snapshot.
#[derive(Debug, Default)]
pub struct Table {
    leases: HashMap<Mac, Lease>,
    subnets: Vec<Arc<DhcpSubnet>>,
}

impl Table {
    /// Indexes a snapshot. A host whose address lies strictly within no subnet is not served.
    pub fn new(snapshot: Dhcp) -> Self {
        let subnets: Vec<_> = snapshot.subnets.into_iter().map(Arc::new).collect();
        let leases = snapshot
            .hosts
            .into_iter()
            .filter_map(|host| {
                let subnet = subnets.iter().find(|s| is_host_of(s, host.address))?.clone();
                Some((host.mac, Lease { host, subnet }))
            })
            .collect();
        Self { leases, subnets }
    }

    /// The reservation of a MAC that asks on `nic`, directly (`relay` is 0.0.0.0) or through the relay
    /// agent at `relay`.
    pub fn find(&self, nic: &str, mac: Mac, relay: Ipv4Addr) -> Option<&Lease> {
        let lease = self.leases.get(&mac)?;
        let reachable = if relay.is_unspecified() {
            lease.subnet.nic == nic
        } else {
            lease.subnet.network.contains(&relay)
        };
        reachable.then_some(lease)
    }

    /// Whether `address` is where clients on `nic` talk to this server.
    pub fn is_server(&self, nic: &str, address: Ipv4Addr) -> bool {
        self.subnets.iter().any(|s| s.nic == nic && s.router == address)
    }

    /// Whether a packet to `address` that came in on `nic` is meant for this server.
    pub fn is_addressed(&self, nic: &str, address: Ipv4Addr) -> bool {
        address.is_broadcast()
            || self
                .subnets
                .iter()
                .any(|s| s.nic == nic && (s.router == address || s.network.broadcast() == address))
    }

    /// How many reservations are served.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether nobody is served.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

fn is_host_of(subnet: &DhcpSubnet, address: Ipv4Addr) -> bool {
    let network = subnet.network;
    network.contains(&address)
        && (network.prefix_len() >= 31 || (address != network.network() && address != network.broadcast()))
}
