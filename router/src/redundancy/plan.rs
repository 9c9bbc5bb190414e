//! What keepalived and conntrackd should do, of the NICs that are there.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{link::Devices, view::View};

/// One election, for all networks of guests together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Name of this router.
    pub name: String,
    /// The NIC that it is held on, and that connections are carried over by.
    pub nic: String,
    /// This router's own address there.
    pub own: Ipv4Addr,
    /// This router's address to its host.
    pub control: Ipv4Addr,
    /// Seconds between two advertisements.
    pub interval: u8,
    /// By which the two know each other.
    pub secret: String,
    /// What the elected one has, by the number of the NIC.
    pub shared: Vec<Shared>,
}

/// An address of the elected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The NIC.
    pub nic: String,
    /// The kernel's number of it: a NIC that went and came back is another one.
    pub index: u32,
    /// The address and its prefix.
    pub net: Ipv4Net,
}

/// The election that there should be; `None` where there are no guests to be elected for.
///
/// It is held in the network that is the oldest by its number, so that one that is added never moves it; both routers
/// come to the same one.
pub fn plan(view: &View<'_>, devices: &Devices) -> Option<Election> {
    let pair = view.setup.pair.as_ref()?;
    let nics = || view.guests.values().filter_map(|nic| Some((nic, nic.shared?)));
    let there = |nic: &str| devices.get(nic).map(|device| device.index);
    let age = |(nic, _): &(&crate::view::GuestNic<'_>, Ipv4Net)| nic.tier.map(|(_, tier)| tier.network);
    let (place, _) = nics().filter(|(nic, _)| there(&nic.name).is_some()).min_by_key(age)?;
    let shared =
        nics().filter_map(|(nic, net)| Some(Shared { nic: nic.name.clone(), index: there(&nic.name)?, net }));
    Some(Election {
        name: view.setup.name.clone(),
        nic: place.name.clone(),
        own: place.own().first()?.addr(),
        control: view.setup.control.address,
        interval: pair.interval,
        secret: pair.secret().to_owned(),
        shared: shared.collect(),
    })
}

impl Election {
    /// The address by which the elected one is known.
    pub fn sign(&self) -> Option<Ipv4Net> {
        self.shared.iter().find(|shared| shared.nic == self.nic).map(|shared| shared.net)
    }
}
