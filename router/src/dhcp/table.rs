//! The reservations, ready to be looked up.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use imbl::OrdMap;

use crate::{
    mac::Mac,
    snapshot::{Dhcp, DhcpHost, DhcpSubnet},
};

/// One reservation together with the subnet it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease<'a> {
    /// The reservation.
    pub host: &'a DhcpHost,
    /// Its subnet.
    pub subnet: &'a DhcpSubnet,
}

/// All reservations. A copy shares all of them, so that one with another guest costs little.
#[derive(Debug, Clone, Default)]
pub struct Table {
    subnets: Arc<[DhcpSubnet]>,
    hosts: OrdMap<Mac, DhcpHost>,
    /// Who has an address.
    macs: OrdMap<Ipv4Addr, Mac>,
    /// The same of IPv6, where that is told.
    macs6: OrdMap<Ipv6Addr, Mac>,
}

impl Table {
    /// The same guests in other subnets. One whose address lies strictly within no subnet is not served.
    #[must_use]
    pub fn with_subnets(&self, snapshot: Dhcp) -> Self {
        Self { subnets: snapshot.subnets.into(), ..self.clone() }
    }

    /// The same with another reservation of an address, or none.
    #[must_use]
    pub fn with_host(&self, address: Ipv4Addr, host: Option<DhcpHost>) -> Self {
        let mut table = self.clone();
        // What the MAC has elsewhere by now stays.
        if let Some(mac) = table.macs.remove(&address)
            && table.hosts.get(&mac).is_some_and(|host| host.address == address)
            && let Some(six) = table.hosts.remove(&mac).and_then(|host| host.six)
        {
            table.macs6.remove(&six);
        }
        if let Some(host) = host {
            if let Some(six) = host.six {
                table.macs6.insert(six, host.mac);
            }
            table.macs.insert(address, host.mac);
            table.hosts.insert(host.mac, host);
        }
        table
    }

    /// The reservation of a MAC that asks on `nic`, directly (`relay` is 0.0.0.0) or through the relay
    /// agent at `relay`.
    pub fn find(&self, nic: &str, mac: Mac, relay: Ipv4Addr) -> Option<Lease<'_>> {
        let host = self.hosts.get(&mac)?;
        let subnet = self.subnets.iter().find(|s| s.has_host(host.address))?;
        let reachable =
            if relay.is_unspecified() { subnet.nic == nic } else { subnet.network.contains(&relay) };
        reachable.then_some(Lease { host, subnet })
    }

    /// Subnets of a NIC.
    pub fn subnets(&self, nic: &str) -> impl Iterator<Item = &DhcpSubnet> {
        self.subnets.iter().filter(move |subnet| subnet.nic == nic)
    }

    /// The address of the router, and that of the guest, in IPv4: by these both are known wherever they are asked by
    /// IPv6. Strangers are 0.0.0.0.
    pub fn known_as(&self, router: IpAddr, guest: IpAddr) -> (Ipv4Addr, Ipv4Addr) {
        let (router, guest) = match (router, guest) {
            (IpAddr::V4(router), IpAddr::V4(guest)) => return (router, guest),
            (IpAddr::V6(router), IpAddr::V6(guest)) => (router, guest),
            _ => return (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED),
        };
        let near = |subnet: &&DhcpSubnet| {
            subnet
                .six
                .as_ref()
                .is_some_and(|six| six.routers.contains(&router) && six.network.contains(&guest))
        };
        let Some(subnet) = self.subnets.iter().find(near) else {
            return (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        };
        let mac = self.macs6.get(&guest).copied().or_else(|| Mac::of_identifier(guest.to_bits() as u64));
        let host = mac.and_then(|mac| self.hosts.get(&mac)).filter(|host| subnet.has_host(host.address));
        (subnet.router, host.map_or(Ipv4Addr::UNSPECIFIED, |host| host.address))
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
}
