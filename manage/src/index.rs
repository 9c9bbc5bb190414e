//! What of the zone file and the database belongs together, found by name: looking through lists for each VM would
//! take the square of their number.

use std::collections::HashMap;

use crate::{
    db::{Owner, Vm},
    zone::{Guest, Network, Port, Zone},
};

/// A zone and its VMs by name.
pub(crate) struct Index<'a> {
    /// The zone.
    pub(crate) zone: &'a Zone,
    networks: HashMap<&'a str, &'a Network>,
    guests: HashMap<&'a str, &'a Guest>,
    members: HashMap<&'a str, Vec<&'a Guest>>,
    ports: HashMap<&'a str, Vec<&'a Port>>,
    vms: HashMap<&'a Owner, &'a Vm>,
}

impl<'a> Index<'a> {
    /// Sorts them by name.
    pub(crate) fn new(zone: &'a Zone, vms: &'a [Vm]) -> Self {
        let mut members: HashMap<&str, Vec<&Guest>> = HashMap::new();
        for guest in &zone.guests {
            members.entry(&guest.network).or_default().push(guest);
        }
        let mut ports: HashMap<&str, Vec<&Port>> = HashMap::new();
        for port in &zone.ports {
            ports.entry(&port.network).or_default().push(port);
        }
        Self {
            zone,
            ports,
            networks: zone.networks.iter().map(|network| (network.name.as_str(), network)).collect(),
            guests: zone.guests.iter().map(|guest| (guest.name.as_str(), guest)).collect(),
            members,
            vms: vms.iter().map(|vm| (&vm.owner, vm)).collect(),
        }
    }

    /// The network of that name.
    pub(crate) fn network(&self, name: &str) -> Option<&'a Network> {
        self.networks.get(name).copied()
    }

    /// The guest of the zone file that a VM is.
    pub(crate) fn guest(&self, vm: &Vm) -> Option<&'a Guest> {
        let Owner::Guest(name) = &vm.owner else { return None };
        self.guests.get(name.as_str()).copied()
    }

    /// The guests of a network.
    pub(crate) fn members(&self, network: &str) -> &[&'a Guest] {
        self.members.get(network).map_or(&[], Vec::as_slice)
    }

    /// The ports of a network.
    pub(crate) fn ports(&self, network: &str) -> &[&'a Port] {
        self.ports.get(network).map_or(&[], Vec::as_slice)
    }

    /// The VM for that.
    pub(crate) fn vm(&self, owner: &Owner) -> Option<&'a Vm> {
        self.vms.get(owner).copied()
    }
}
