//! What every plan looks at: the state laid over the NICs that are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    link::{Device, Devices},
    mac::{Mac, link_local},
    scope::{Scope, WHOLE},
    state::{Address, Kind, Setup, State, Tier},
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
    /// What of it the packet filter is planned for.
    pub scope: &'a Scope,
    /// NICs with guests, by number: the one of the boot arguments, and tiers whose NICs are there.
    pub guests: BTreeMap<u32, GuestNic<'a>>,
    /// Public NICs that are there and have an address, by number.
    pub public: BTreeMap<u32, PublicNic>,
    /// NICs of private gateways, the same way.
    pub private: BTreeMap<u32, PublicNic>,
}

/// A NIC with guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNic<'a> {
    /// `eth<N>`.
    pub name: String,
    /// N.
    pub number: u32,
    /// The router's addresses and its aliases, with their prefixes: first the one that guests know.
    pub addresses: Vec<Ipv4Net>,
    /// The first of them, where it is that of a pair: on the router that is in force, and kept there by VRRP.
    pub shared: Option<Ipv4Net>,
    /// MTU, where one is asked for.
    pub mtu: Option<u16>,
    /// The tier of a VPC that it is.
    pub tier: Option<(Mac, &'a Tier)>,
    /// IPv6, where it has that, too.
    pub six: Option<Guest6<'a>>,
}

/// IPv6 of a NIC with guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest6<'a> {
    /// The router's address that guests know.
    pub known: Ipv6Net,
    /// This router's own, where the other is that of a pair.
    pub own: Option<Ipv6Net>,
    /// From where guests hear of their router (RFC 4861 4.2): the NIC's own link-local address, or one of the pair.
    pub link_local: Ipv6Addr,
    /// Resolvers that guests are told besides the router.
    pub resolvers: &'a [Ipv6Addr],
}

impl Guest6<'_> {
    /// The router's addresses, the one that guests know first.
    pub fn routers(&self) -> impl Iterator<Item = Ipv6Net> {
        std::iter::once(self.known).chain(self.own)
    }
}

impl GuestNic<'_> {
    /// The router's main address, as guests know it.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.first().map_or(Ipv4Addr::UNSPECIFIED, Ipv4Net::addr)
    }

    /// The addresses that are this router's alone, the main one first.
    pub fn own(&self) -> &[Ipv4Net] {
        self.addresses.get(usize::from(self.shared.is_some())..).unwrap_or_default()
    }

    /// One address of each subnet with guests: the one that they know.
    pub fn known(&self) -> impl Iterator<Item = Ipv4Net> {
        let hidden = |n: usize| self.shared.is_some() && n == 1;
        self.addresses.iter().enumerate().filter(move |(n, _)| !hidden(*n)).map(|(_, net)| *net)
    }

    /// Networks that the NIC is in, each once.
    pub fn networks(&self) -> Vec<Ipv4Net> {
        networks(&self.addresses)
    }

    /// Whether its guests' packets pass through this router.
    pub fn is_forwarded(&self) -> bool {
        self.tier.is_none_or(|(_, tier)| tier.is_gateway)
    }
}

/// A NIC to other networks, and its addresses: a public one, or that of a private gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicNic {
    /// `eth<N>`.
    pub name: String,
    /// N.
    pub number: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The address that the NIC's outgoing connections carry; `None` where they keep their own.
    pub source: Option<Ipv4Addr>,
    /// Gateway of the first address, else of the first one that has one.
    pub gateway: Option<Ipv4Addr>,
    /// Addresses with their prefixes, that of the boot arguments or for source NAT first.
    pub addresses: Vec<Ipv4Net>,
    /// MTU, where some address asks for one: the lowest of all.
    pub mtu: Option<u16>,
    /// IPv6 addresses with their prefixes.
    pub six: Vec<Ipv6Net>,
    /// Gateway of IPv6.
    pub gateway6: Option<Ipv6Addr>,
}

impl PublicNic {
    /// Mark of its connections, and number of its routing table.
    pub const fn table(&self) -> u32 {
        100 + self.number
    }

    /// The first address: what the router's own packets carry.
    pub fn address(&self) -> Ipv4Addr {
        self.addresses.first().map_or(Ipv4Addr::UNSPECIFIED, Ipv4Net::addr)
    }

    /// Networks that the NIC is in, each once.
    pub fn networks(&self) -> Vec<Ipv4Net> {
        networks(&self.addresses)
    }
}

fn networks(addresses: &[Ipv4Net]) -> Vec<Ipv4Net> {
    let networks: BTreeSet<Ipv4Net> = addresses.iter().map(Ipv4Net::trunc).collect();
    networks.into_iter().collect()
}

impl<'a> View<'a> {
    /// Lays the state over the NICs that are there.
    pub fn new(setup: &'a Setup, state: &'a State, devices: &Devices) -> Self {
        let guests = guests(setup, state, devices);
        let mut by_nic: BTreeMap<u32, (&Device, Addresses<'_>)> = BTreeMap::new();
        for (address, details) in &state.addresses {
            let Some((number, device)) = outer(setup, details, devices) else { continue };
            if number != setup.control.index && !guests.contains_key(&number) {
                by_nic.entry(number).or_insert((device, Vec::new())).1.push((*address, details));
            }
        }
        let (public, private) = (BTreeMap::new(), BTreeMap::new());
        let mut view = Self { setup, state, scope: &WHOLE, guests, public, private };
        for (number, (device, addresses)) in by_nic {
            let private = addresses.iter().any(|(_, a)| a.private_gateway);
            let nics = if private { &mut view.private } else { &mut view.public };
            nics.insert(number, nic(setup, number, device, addresses));
        }
        view.add_six();
        view
    }

    /// Gives the public NIC what it has of IPv6: in a VPC every tier brings that along.
    fn add_six(&mut self) {
        let source = self.setup.vpc.source_nat.and_then(|address| self.nic_of(address)).map(|nic| nic.number);
        let number = self.setup.public.as_ref().map(|nic| nic.index).or(source);
        let Some(number) = number.or_else(|| self.public.keys().next().copied()) else { return };
        let Some(nic) = self.public.get_mut(&number) else { return };
        let boot = self.setup.public.as_ref().and_then(|nic| nic.six);
        let tiers = self.guests.values().filter_map(|nic| nic.tier?.1.six.as_ref()?.outside.as_ref());
        let nets: BTreeSet<Ipv6Net> =
            boot.into_iter().chain(tiers.clone().map(|outside| outside.net)).collect();
        nic.six = nets.into_iter().collect();
        let boot = self.setup.gateway6.filter(|_| boot.is_some());
        nic.gateway6 = boot.or_else(|| tiers.filter_map(|outside| outside.gateway).min());
    }

    /// Whether anything here has IPv6.
    pub fn has_six(&self) -> bool {
        self.guests.values().any(|nic| nic.six.is_some())
            || self.public.values().any(|nic| !nic.six.is_empty())
    }

    /// The same for a part of the state.
    #[must_use]
    pub const fn within(mut self, scope: &'a Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The public NIC that an address is on.
    pub fn nic_of(&self, address: Ipv4Addr) -> Option<&PublicNic> {
        self.public.values().find(|nic| nic.addresses.iter().any(|net| net.addr() == address))
    }

    /// All NICs to other networks, public ones first.
    pub fn outer(&self) -> impl Iterator<Item = &PublicNic> {
        self.public.values().chain(self.private.values())
    }

    /// NICs whose guests' packets pass through this router.
    pub fn forwarded(&self) -> impl Iterator<Item = &GuestNic<'a>> {
        self.guests.values().filter(|nic| self.setup.kind.forwards() && nic.is_forwarded())
    }

    /// Whether addresses are translated at all.
    pub const fn translates(&self) -> bool {
        self.setup.kind.forwards() && !self.setup.routed
    }

    /// Whether each public address has a gate that only ingress rules open.
    pub fn has_gates(&self) -> bool {
        self.setup.kind == Kind::Isolated && !self.setup.routed
    }

    /// Whether names are resolved here: always in a VPC, elsewhere unless guests ask outside resolvers.
    pub fn serves_dns(&self) -> bool {
        self.setup.kind == Kind::Vpc || (self.setup.kind.serves_guests() && !self.setup.external_dns)
    }

    /// Name of the NIC to the host.
    pub fn control(&self) -> String {
        self.setup.control.name()
    }
}

fn guests<'a>(setup: &'a Setup, state: &'a State, devices: &Devices) -> BTreeMap<u32, GuestNic<'a>> {
    let boot = setup.guest.iter().map(|nic| {
        let own = Ipv4Net::new(nic.address, nic.prefix).into_iter();
        let aliases = state.aliases.iter().filter_map(|(ip, prefix)| Ipv4Net::new(*ip, *prefix).ok());
        let shared = setup.pair.as_ref().and_then(|pair| pair.gateway).filter(|g| g.addr() != nic.address);
        GuestNic {
            name: nic.name(),
            number: nic.index,
            addresses: shared.into_iter().chain(own).chain(aliases).collect(),
            shared,
            mtu: state.guest_mtu.or(nic.mtu),
            tier: None,
            six: nic.six.map(|own| {
                let gateway = setup.pair.as_ref().and_then(|pair| pair.gateway6);
                let shared = gateway.and_then(|(address, prefix)| Ipv6Net::new(address, prefix).ok());
                guest6(own, shared, devices.get(&nic.name()), &setup.guest_resolvers6)
            }),
        }
    });
    let tiers = state.tiers.iter().filter_map(|(mac, tier)| {
        let device = devices.by_mac(*mac)?;
        let number = device.number().filter(|n| *n <= NICS && *n != setup.control.index)?;
        let gateway = tier.gateway.filter(|g| tier.is_gateway && *g != tier.address);
        let shared = setup.pair.as_ref().and(gateway).and_then(|g| Ipv4Net::new(g, tier.prefix).ok());
        let own = Ipv4Net::new(tier.address, tier.prefix);
        Some(GuestNic {
            name: device.name.clone(),
            number,
            addresses: shared.into_iter().chain(own).collect(),
            shared,
            mtu: tier.mtu,
            tier: Some((*mac, tier.as_ref())),
            six: tier.six.as_ref().map(|six| {
                let gateway = six.gateway.filter(|_| setup.pair.is_some() && tier.is_gateway);
                let shared = gateway.and_then(|gateway| Ipv6Net::new(gateway, six.net.prefix_len()).ok());
                guest6(six.net, shared, Some(device), &six.resolvers)
            }),
        })
    });
    boot.chain(tiers).map(|nic| (nic.number, nic)).collect()
}

fn guest6<'a>(
    own: Ipv6Net,
    shared: Option<Ipv6Net>,
    device: Option<&Device>,
    resolvers: &'a [Ipv6Addr],
) -> Guest6<'a> {
    match shared.filter(|shared| shared.addr() != own.addr()) {
        // Both of a pair speak from one address: to guests they are one router.
        Some(known) => {
            let link_local = link_local(known.addr().to_bits() as u64);
            Guest6 { known, own: Some(own), link_local, resolvers }
        }
        None => {
            let link_local = device.map_or(Ipv6Addr::UNSPECIFIED, |device| device.mac.link_local());
            Guest6 { known: own, own: None, link_local, resolvers }
        }
    }
}

/// The NIC of an address: by its MAC, else by its number. In a VPC, where NICs come and go, a number may be
/// that of another NIC by now: it counts only where no MAC is known.
fn outer<'d>(setup: &Setup, address: &Address, devices: &'d Devices) -> Option<(u32, &'d Device)> {
    let by_mac = address.mac.and_then(|mac| devices.by_mac(mac));
    let index = address.index.filter(|_| setup.kind != Kind::Vpc || address.mac.is_none());
    let device = by_mac.or_else(|| devices.get(&format!("eth{}", index?)))?;
    device.number().filter(|n| *n <= NICS).map(|n| (n, device))
}

/// Addresses of one NIC.
type Addresses<'a> = Vec<(Ipv4Addr, &'a Address)>;

fn nic(setup: &Setup, number: u32, device: &Device, mut addresses: Addresses<'_>) -> PublicNic {
    // The address of the boot arguments, else one that is said to be the source NAT address, else the lowest:
    // the order of arrival does not matter.
    addresses.sort_by_key(|(address, a)| {
        (!a.boot, setup.vpc.source_nat != Some(*address), !a.source_nat, *address)
    });
    let first = addresses.first();
    let marked = first.filter(|(ip, a)| a.source_nat || setup.vpc.source_nat == Some(*ip)).map(|(ip, _)| *ip);
    let private = addresses.iter().any(|(_, a)| a.private_gateway);
    let source = match setup.kind {
        _ if private => marked,
        // Other public NICs of a VPC carry the one source NAT address, too.
        Kind::Vpc => marked.or(setup.vpc.source_nat).or(first.map(|(ip, _)| *ip)),
        _ => first.map(|(ip, _)| *ip),
    };
    PublicNic {
        name: device.name.clone(),
        number,
        mac: device.mac,
        source,
        gateway: addresses.iter().find_map(|(_, a)| a.gateway),
        addresses: addresses.iter().filter_map(|(ip, a)| Ipv4Net::new(*ip, a.prefix).ok()).collect(),
        mtu: addresses.iter().filter_map(|(_, a)| a.mtu).min(),
        six: Vec::new(),
        gateway6: None,
    }
}
