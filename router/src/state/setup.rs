//! What the boot arguments fix for as long as the router runs (router contract 1.3).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use common::boot::Identity;
use ipnet::{Ipv4Net, Ipv6Net};

use super::{Address, State};
use crate::{
    helper::Helper,
    redundancy::{Pair, Role},
};

/// Domain of a network that has none.
const DOMAIN: &str = "cloudnine.internal";

/// Boot arguments of a kind of router that cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// This kind of router, or this mode of it, is not served.
    #[error("boot argument {0}: not served by this router")]
    Unserved(String),
    /// An argument is missing.
    #[error("boot argument {0} is missing")]
    Missing(&'static str),
    /// An argument has a value that cannot be read.
    #[error("boot argument {name}={value}: {reason}")]
    Malformed {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A NIC with the address that it has from the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootNic {
    /// N of `eth<N>`.
    pub index: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
    /// MTU, where one is given.
    pub mtu: Option<u16>,
    /// Its IPv6 address and prefix.
    pub six: Option<Ipv6Net>,
}

impl BootNic {
    /// `eth<N>`.
    pub fn name(&self) -> String {
        format!("eth{}", self.index)
    }

    /// The network that it is in.
    pub fn network(&self) -> Ipv4Net {
        // A prefix of the boot arguments is never above 32.
        Ipv4Net::new(self.address, self.prefix.min(32)).map_or_else(|_| self.address.into(), |n| n.trunc())
    }
}

/// The kind of a router, from `type=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `router`: one isolated network, with public addresses.
    Isolated,
    /// `vpcrouter`: several tiers, whose NICs come and go, with public addresses and private gateways.
    Vpc,
    /// `dhcpsrvr`: serves a shared network that others route; forwards nothing.
    Shared,
    /// `ilbvm`, `elbvm`: balances load; forwards nothing and serves no guests.
    Balancer,
}

impl Kind {
    /// The kind of a word behind `type=`.
    fn of(word: &str) -> Option<Self> {
        match word {
            "router" => Some(Self::Isolated),
            "vpcrouter" => Some(Self::Vpc),
            "dhcpsrvr" => Some(Self::Shared),
            "ilbvm" | "elbvm" => Some(Self::Balancer),
            _ => None,
        }
    }

    /// Whether packets pass through.
    pub const fn forwards(self) -> bool {
        matches!(self, Self::Isolated | Self::Vpc)
    }

    /// Whether guests get addresses, names, metadata and passwords here.
    pub const fn serves_guests(self) -> bool {
        !matches!(self, Self::Balancer)
    }
}

/// What the router is, from its boot arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// The kind of router.
    pub kind: Kind,
    /// Host name.
    pub name: String,
    /// Where the guests are; tiers of a VPC come later.
    pub guest: Option<BootNic>,
    /// Where the host is: never forwarded to or from, and where SSH is answered unless `ssh` says otherwise.
    pub control: BootNic,
    /// N of the NIC that SSH is answered on (`sshonguest`).
    pub ssh: u32,
    /// The network is routed (`is_routed`): nothing is translated, and nothing passes that no rule lets through.
    pub routed: bool,
    /// What is said of a VPC only.
    pub vpc: Vpc,
    /// Where the outside is.
    pub public: Option<BootNic>,
    /// Gateway of the default route.
    pub gateway: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Local domain.
    pub domain: String,
    /// Search list for guests.
    pub search: Vec<String>,
    /// Resolvers to ask, in order.
    pub resolvers: Vec<IpAddr>,
    /// `dns1` and `dns2`: what guests are told besides the router.
    pub guest_resolvers: Vec<Ipv4Addr>,
    /// `ip6dns1` and `ip6dns2`: the same for guests with IPv6.
    pub guest_resolvers6: Vec<Ipv6Addr>,
    /// Guests ask the outside resolvers themselves; this router is none.
    pub external_dns: bool,
    /// Anybody who reaches the guest address may ask for names, not only its network (`exposedns`).
    pub exposed_dns: bool,
    /// Strict reverse path check on public NICs too.
    pub strict_reverse_path: bool,
    /// Protocols that the kernel can follow: what the core finds, not the boot arguments.
    pub helpers: BTreeSet<Helper>,
    /// The router is one of a pair, of which one is in force.
    pub pair: Option<Pair>,
}

/// What boot arguments say of a VPC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vpc {
    /// There is no public network: the way out is a tier's gateway, and tiers are open to what comes in.
    pub without_public: bool,
    /// The address that outgoing connections carry (`source_nat_ip`).
    pub source_nat: Option<Ipv4Addr>,
    /// Guests are told this router as their only resolver (`userouteripresolver`).
    pub own_resolver_only: bool,
}

impl Setup {
    /// Takes what it needs out of the boot arguments.
    pub fn new(identity: &Identity) -> Result<Self, SetupError> {
        let unserved = || SetupError::Unserved(format!("type={}", identity.kind));
        let kind = Kind::of(&identity.kind).ok_or_else(unserved)?;
        let is_vpc = kind == Kind::Vpc;
        let guest = if is_vpc {
            None
        } else {
            Some(nic(identity, 0, "privateMtu")?.ok_or(SetupError::Missing("eth0ip"))?)
        };
        // With SSH on the guest NIC there may be no other one.
        let control = match (nic(identity, u32::from(!is_vpc), "")?, &guest) {
            (Some(control), _) => control,
            (None, Some(guest)) if identity.control_nic == 0 => guest.clone(),
            (None, _) => return Err(SetupError::Missing(if is_vpc { "eth0ip" } else { "eth1ip" })),
        };
        let public = if is_vpc { None } else { nic(identity, 2, "publicMtu")? };
        let mut resolvers = Vec::new();
        for name in ["internaldns1", "internaldns2", "dns1", "dns2", "ip6dns1", "ip6dns2"] {
            if let Some(resolver) = read(identity, name)?
                && !resolvers.contains(&resolver)
            {
                resolvers.push(resolver);
            }
        }
        let mut guest_resolvers = Vec::new();
        for name in ["dns1", "dns2"] {
            guest_resolvers.extend(read::<Ipv4Addr>(identity, name)?);
        }
        let mut guest_resolvers6 = Vec::new();
        for name in ["ip6dns1", "ip6dns2"] {
            guest_resolvers6.extend(read::<Ipv6Addr>(identity, name)?);
        }
        let search = identity.get("dnssearchorder").unwrap_or_default().split(',');
        let vpc = Vpc {
            without_public: is_vpc && identity.get("has_public_network").is_some_and(|v| v != "true"),
            source_nat: read(identity, "source_nat_ip")?,
            own_resolver_only: identity.flag("userouteripresolver"),
        };
        Ok(Self {
            kind,
            name: identity.name.clone(),
            guest,
            control,
            ssh: identity.control_nic,
            routed: identity.flag("is_routed"),
            vpc: if is_vpc { vpc } else { Vpc::default() },
            public,
            gateway: read(identity, "gateway")?,
            gateway6: read(identity, "ip6gateway")?,
            domain: identity.get("domain").unwrap_or(DOMAIN).to_owned(),
            search: search.map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            resolvers,
            guest_resolvers,
            guest_resolvers6,
            external_dns: identity.flag("useextdns"),
            exposed_dns: identity.flag("exposedns"),
            strict_reverse_path: !identity.flag("disable_rp_filter"),
            helpers: BTreeSet::new(),
            pair: if kind.forwards() { Pair::read(identity)? } else { None },
        })
    }

    /// The NICs that have their addresses from the start, without the public one.
    pub fn inner(&self) -> impl Iterator<Item = &BootNic> {
        self.guest.iter().chain(std::iter::once(&self.control))
    }

    /// Whether the router is one of a pair and the other one is in force: public NICs are down, and guests are not
    /// answered.
    pub fn is_silent(&self) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.role != Role::Primary)
    }

    /// Where SSH is answered.
    pub fn ssh_address(&self) -> Ipv4Addr {
        self.inner().find(|nic| nic.index == self.ssh).map_or(self.control.address, |nic| nic.address)
    }

    /// The state of a router that no document has reached yet.
    pub fn first_state(&self) -> State {
        let public = self.public.iter().map(|nic| {
            let address = Address {
                prefix: nic.prefix,
                gateway: self.gateway,
                mac: None,
                index: Some(nic.index),
                source_nat: true,
                boot: true,
                mtu: nic.mtu,
                private_gateway: false,
            };
            (nic.address, address)
        });
        State { addresses: public.collect(), ..State::default() }
    }
}

fn nic(identity: &Identity, index: u32, mtu: &'static str) -> Result<Option<BootNic>, SetupError> {
    let Some(found) = identity.nic(index) else { return Ok(None) };
    let Some(address) = found.address else { return Ok(None) };
    let mtu = if mtu.is_empty() { None } else { read(identity, mtu)? };
    let six = found.ipv6.and_then(|(address, prefix)| Ipv6Net::new(address, prefix).ok());
    Ok(Some(BootNic { index, address, prefix: found.prefix, mtu, six }))
}

pub(crate) fn read<T>(identity: &Identity, name: &'static str) -> Result<Option<T>, SetupError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let Some(value) = identity.get(name) else { return Ok(None) };
    value.parse().map(Some).map_err(|e: T::Err| SetupError::Malformed {
        name,
        value: value.to_owned(),
        reason: e.to_string(),
    })
}
