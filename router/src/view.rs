//! What every plan looks at: the state laid over the NICs that are there.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;

use crate::{
    link::Devices,
    state::{Address, Setup, State},
};

/// Highest number of a NIC that is used: its routing table is `100 + N`.
const NICS: u32 = 150;

/// The state laid over the NICs.
#[derive(Debug)]
pub struct View<'a> {
    /// What the boot arguments fix.
    pub setup: &'a Setup,
    /// What documents have made of it.
    pub state: &'a State,
    /// Public NICs that are there and have an address, by number.
    pub public: BTreeMap<u32, PublicNic>,
}

/// A public NIC and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicNic {
    /// `eth<N>`.
    pub name: String,
    /// N.
    pub number: u32,
    /// The address that the NIC's outgoing connections carry.
    pub source: Ipv4Addr,
    /// Gateway of the source address, else of the first address that has one.
    pub gateway: Option<Ipv4Addr>,
    /// Addresses with their prefixes, the source address first.
    pub addresses: Vec<Ipv4Net>,
    /// MTU, where some address asks for one: the lowest of all.
    pub mtu: Option<u16>,
}

impl PublicNic {
    /// Mark of its connections, and number of its routing table.
    pub const fn table(&self) -> u32 {
        100 + self.number
    }

    /// Networks that the NIC is in, each once.
    pub fn networks(&self) -> Vec<Ipv4Net> {
        let mut networks: Vec<Ipv4Net> = self.addresses.iter().map(Ipv4Net::trunc).collect();
        networks.sort_unstable();
        networks.dedup();
        networks
    }
}

impl<'a> View<'a> {
    /// Lays the state over the NICs that are there.
    pub fn new(setup: &'a Setup, state: &'a State, devices: &Devices) -> Self {
        let mut by_nic: BTreeMap<u32, Vec<(Ipv4Addr, &Address)>> = BTreeMap::new();
        for (address, details) in &state.addresses {
            if let Some(number) = number(setup, details, devices) {
                by_nic.entry(number).or_default().push((*address, details));
            }
        }
        let public =
            by_nic.into_iter().filter_map(|(number, addresses)| Some((number, nic(number, addresses)?)));
        Self { setup, state, public: public.collect() }
    }

    /// The public NIC that an address is on.
    pub fn nic_of(&self, address: Ipv4Addr) -> Option<&PublicNic> {
        self.public.values().find(|nic| nic.addresses.iter().any(|net| net.addr() == address))
    }

    /// `eth0`.
    pub fn guest(&self) -> String {
        self.setup.guest.name()
    }

    /// `eth1`.
    pub fn control(&self) -> String {
        self.setup.control.name()
    }
}

/// The NIC of an address: by its MAC, else by its number; never one of guests or of the host.
fn number(setup: &Setup, address: &Address, devices: &Devices) -> Option<u32> {
    let by_mac = address.mac.and_then(|mac| devices.by_mac(mac));
    let by_index = || address.index.and_then(|n| devices.get(&format!("eth{n}")));
    let number = by_mac.or_else(by_index)?.number()?;
    (number <= NICS && number != setup.guest.index && number != setup.control.index).then_some(number)
}

fn nic(number: u32, mut addresses: Vec<(Ipv4Addr, &Address)>) -> Option<PublicNic> {
    // The address of the boot arguments, else one that is said to be the source NAT address, else the lowest:
    // the order of arrival does not matter.
    addresses.sort_by_key(|(address, a)| (!a.boot, !a.source_nat, *address));
    let source = addresses.first()?.0;
    Some(PublicNic {
        name: format!("eth{number}"),
        number,
        source,
        gateway: addresses.iter().find_map(|(_, a)| a.gateway),
        addresses: addresses.iter().filter_map(|(ip, a)| Ipv4Net::new(*ip, a.prefix).ok()).collect(),
        mtu: addresses.iter().filter_map(|(_, a)| a.mtu).min(),
    })
}
