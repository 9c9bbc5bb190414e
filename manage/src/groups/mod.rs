//! Security groups: which packets the guests of a basic network may send and get.
//!
//! The manager makes a [`Policy`] for each host, `plan` turns it into tables of the packet filter, `table` finds what
//! differs between two of those, and the host's `keeper` brings it about at the taps.

mod keeper;
mod plan;
mod policy;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use keeper::Keeper;
pub(crate) use policy::policies;

use crate::zone::Ports;

/// What a host enforces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// The groups of its ports, and those that their rules name.
    pub(crate) groups: BTreeMap<String, Group>,
    /// Its ports by the name of their taps.
    pub(crate) ports: BTreeMap<String, Port>,
}

/// A security group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// What its members may get; nothing where it is empty.
    pub(crate) ingress: Vec<Rule>,
    /// What its members may send; everything where none of a member's groups has such a rule.
    pub(crate) egress: Vec<Rule>,
    /// Addresses of its members, wherever they are.
    pub(crate) members: BTreeSet<IpAddr>,
}

/// A rule: what it names is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// What kind of packets.
    pub(crate) service: Service,
    /// From or to these networks. With no groups either: anywhere.
    pub(crate) nets: Vec<IpNet>,
    /// From or to the members of these groups.
    pub(crate) groups: Vec<String>,
}

/// What kind of packets a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    /// All of them.
    All,
    /// TCP to these ports; to all where there are none.
    Tcp(Option<Ports>),
    /// UDP.
    Udp(Option<Ports>),
    /// ICMP of IPv4: type and code.
    Icmp(Option<u8>, Option<u8>),
    /// ICMP of IPv6: type and code.
    Icmpv6(Option<u8>, Option<u8>),
}

/// A guest's NIC, as a host knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    /// Bridge on which its tap is.
    pub(crate) bridge: String,
    /// MAC address.
    pub(crate) mac: String,
    /// All addresses that it may have, besides the link-local one that its MAC address gives it.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Its groups.
    pub(crate) groups: BTreeSet<String>,
    /// Address of its network's router, for DHCP and DNS.
    pub(crate) router: Ipv4Addr,
    /// The operator plugs the tap: its rules stand at all times.
    pub(crate) standing: bool,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |f: &mut fmt::Formatter<'_>, word: &str, ports: &Option<Ports>| match ports {
            Some(ports) if ports.first == ports.last => write!(f, "{word} {}", ports.first),
            Some(ports) => write!(f, "{word} {}-{}", ports.first, ports.last),
            None => f.write_str(word),
        };
        let icmp = |f: &mut fmt::Formatter<'_>, word: &str, kind: &Option<u8>, code: &Option<u8>| {
            f.write_str(word)?;
            kind.map_or(Ok(()), |kind| write!(f, " type {kind}"))?;
            code.map_or(Ok(()), |code| write!(f, " code {code}"))
        };
        match self {
            Self::All => f.write_str("all"),
            Self::Tcp(list) => ports(f, "tcp", list),
            Self::Udp(list) => ports(f, "udp", list),
            Self::Icmp(kind, code) => icmp(f, "icmp", kind, code),
            Self::Icmpv6(kind, code) => icmp(f, "icmpv6", kind, code),
        }
    }
}

impl Rule {
    /// `tcp 80 from 10.0.0.0/8, group db`, with the word for the direction.
    pub(crate) fn text(&self, towards: &str) -> String {
        let nets = self.nets.iter().map(ToString::to_string);
        let groups = self.groups.iter().map(|name| format!("group {name}"));
        let peers: Vec<String> = nets.chain(groups).collect();
        let peers = if peers.is_empty() { "anywhere".to_owned() } else { peers.join(", ") };
        format!("{} {towards} {peers}", self.service)
    }
}

#[cfg(test)]
mod tests;
