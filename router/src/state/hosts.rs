//! The reservations: one per address and one per MAC.

use std::{net::Ipv4Addr, ops::Deref};

use imbl::OrdMap;

use crate::{mac::Mac, snapshot::DhcpHost};

/// Reservations by the guest's address, which is how they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    all: OrdMap<Ipv4Addr, DhcpHost>,
    of: OrdMap<Mac, Ipv4Addr>,
}

impl Hosts {
    /// Adds a reservation in place of those of its address and of its MAC.
    pub fn insert(&mut self, host: DhcpHost) {
        self.remove(host.address);
        self.remove_mac(host.mac);
        self.of.insert(host.mac, host.address);
        self.all.insert(host.address, host);
    }

    /// Takes away what an address has.
    pub fn remove(&mut self, address: Ipv4Addr) {
        if let Some(host) = self.all.remove(&address) {
            self.of.remove(&host.mac);
        }
    }

    /// Takes away what a MAC has.
    pub fn remove_mac(&mut self, mac: Mac) {
        if let Some(address) = self.of.remove(&mac) {
            self.all.remove(&address);
        }
    }
}

impl Deref for Hosts {
    type Target = OrdMap<Ipv4Addr, DhcpHost>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}
