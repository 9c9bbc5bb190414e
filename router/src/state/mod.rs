//! What should be: the router's state, and how documents change it (the merge rules of router
//! contract 3.5 to 3.13).
//!
//! The state holds what is in force and nothing else: no tombstones, no order of arrival. So a router
//! with any history equals a fresh one that was given the surviving entries.

mod edits;
mod guests;
mod hosts;
mod merge;
mod setup;
mod vpc;
mod vpn;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod vpc_tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::Arc,
};

use imbl::OrdMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

pub use edits::{Changed, Edits, changed};
pub use guests::{Guests, Secrets};
pub use hosts::Hosts;
pub(crate) use setup::read as setup_value;
pub use setup::{BootNic, Kind, Setup, SetupError};
pub use vpc::{Acl, AclRule, Outside6, Tier, Tier6};
pub use vpn::{IkeVersion, Remote, Site, Vpn, VpnEdits, Wireguard, WireguardPeer};

use crate::{
    balance::Balance,
    bgp::Peer,
    mac::Mac,
    types::{Family, Nets, Ports, Transport},
};

/// Most entries of one kind: what a stranger with the host's key could grow.
pub const LIMIT: usize = 100_000;

/// The state of the network. A copy shares everything with what it was made from, and keeps sharing what is not
/// changed: copying costs nothing, and [`Edits::between`] finds what differs by looking at that alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Public addresses.
    pub addresses: OrdMap<Ipv4Addr, Address>,
    /// Port forwards; those of one key have sources that do not collide.
    pub forwards: OrdMap<ForwardKey, Vec<Forward>>,
    /// Static NAT, from public address to guest.
    pub static_nat: OrdMap<Ipv4Addr, Ipv4Addr>,
    /// Firewall rules by their identity.
    pub firewall: OrdMap<u64, FirewallRule>,
    /// The same of IPv6, which have identities of their own.
    pub firewall6: OrdMap<u64, FirewallRule>,
    /// Reservations.
    pub hosts: Hosts,
    /// What the health checks look at.
    pub monitor: Arc<Monitor>,
    /// Tiers of a VPC, by the MAC of the router's NIC in them.
    pub tiers: OrdMap<Mac, Arc<Tier>>,
    /// Lists of rules, by the MAC of the NIC of a tier or private gateway, which need not be there.
    pub acls: OrdMap<Mac, Arc<Acl>>,
    /// Routes, from network to next hop.
    pub routes: OrdMap<Ipv4Net, Ipv4Addr>,
    /// More addresses on the guest NIC of the boot arguments, with the lengths of their prefixes.
    pub aliases: OrdMap<Ipv4Addr, u8>,
    /// MTU of that NIC, where another one than that of the boot arguments was asked for.
    pub guest_mtu: Option<u16>,
    /// Load balancing.
    pub balance: Arc<Balance>,
    /// Who is told of guests' networks by BGP.
    pub peers: Arc<BTreeSet<Peer>>,
    /// Virtual private networks.
    pub vpn: Vpn,
}

/// One public address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Length of its prefix.
    pub prefix: u8,
    /// Gateway of its VLAN.
    pub gateway: Option<Ipv4Addr>,
    /// Its NIC by MAC: what counts where it is known.
    pub mac: Option<Mac>,
    /// Its NIC by number.
    pub index: Option<u32>,
    /// Said to be the source NAT address of its NIC.
    pub source_nat: bool,
    /// Given by the boot arguments: the source NAT address of its NIC, whatever documents say.
    pub boot: bool,
    /// MTU for the NIC.
    pub mtu: Option<u16>,
    /// It is the router's address at a private gateway of a VPC, not a public one.
    #[serde(default)]
    pub private_gateway: bool,
}

/// Which packets a port forward is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ForwardKey {
    /// Public address.
    pub address: Ipv4Addr,
    /// Transport.
    pub transport: Transport,
    /// Public ports.
    pub ports: Ports,
}

impl ForwardKey {
    /// All keys of addresses from the first to the last.
    pub const fn between(first: Ipv4Addr, last: Ipv4Addr) -> RangeInclusive<Self> {
        let low = Self { address: first, transport: Transport::Tcp, ports: Ports::one(0) };
        let high = Self { address: last, transport: Transport::Udp, ports: Ports::one(u16::MAX) };
        low..=high
    }
}

/// Where a port forward leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Forward {
    /// Whose packets only.
    pub sources: Nets,
    /// The guest.
    pub target: Ipv4Addr,
    /// The guest's ports: as many as there are public ones, or one.
    pub ports: Ports,
}

/// Which packets a firewall rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Packets {
    /// Protocol and what the protocol can be narrowed by.
    pub protocol: Protocol,
    /// From where.
    pub sources: Nets,
    /// To where.
    pub destinations: Nets,
}

/// Protocol of a firewall rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Every one.
    All,
    /// TCP or UDP, all ports or some.
    Transport {
        /// Which.
        transport: Transport,
        /// Destination ports as the sender wrote them, before any translation.
        ports: Option<Ports>,
    },
    /// ICMP; `None` means any.
    Icmp {
        /// Type.
        kind: Option<u8>,
        /// Code.
        code: Option<u8>,
    },
    /// The ICMP of IPv6; `None` means any.
    Icmp6 {
        /// Type.
        kind: Option<u8>,
        /// Code.
        code: Option<u8>,
    },
    /// Another one, by its number in the IP header.
    Number(u8),
}

/// To what traffic a firewall rule belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards a public address; the rule lets through.
    Ingress {
        /// The address.
        address: Ipv4Addr,
    },
    /// Towards guests of a network that is routed; the rule lets through.
    Inward,
    /// From guests to public networks.
    Egress,
}

impl Protocol {
    /// What it is called in packets of a family: each has an ICMP of its own.
    #[must_use]
    pub const fn of(self, family: Family) -> Self {
        match (self, family) {
            (Self::Icmp { kind, code }, Family::Six) => Self::Icmp6 { kind, code },
            _ => self,
        }
    }
}

/// One firewall rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FirewallRule {
    /// To what traffic it belongs.
    pub direction: Direction,
    /// Which packets.
    pub packets: Packets,
    /// An egress rule that stands for the default action.
    pub is_default: bool,
    /// What the network does by default with egress: every other egress rule does the opposite.
    pub default_allow: bool,
}

/// What the health checks look at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// Whether checks run.
    pub enabled: bool,
    /// Names of checks to leave out.
    pub excluded: Vec<String>,
    /// Parameters of the checks.
    pub parameters: BTreeMap<String, String>,
}

/// JSON has no keys but texts: a map with another key is written as a list of pairs.
pub(crate) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Vec::<(K, V)>::deserialize(deserializer).map(|pairs| pairs.into_iter().collect())
    }
}
