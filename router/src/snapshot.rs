//! What core hands to serve, and what serve tells core.
//!
//! Core opens every socket and gives it away under the name of a [`Listener`]; it gives what to serve as
//! whole snapshots: the kinds [`DHCP`], [`DNS`] and [`PASSWORDS`] replace the one before. Reservations and metadata
//! come as one snapshot per guest, kinds [`host_kind`] and [`metadata_kind`], so that a change of one guest costs
//! nothing for the others. All are JSON. A JSON `null` under any kind means: nothing of this kind is left to serve.
//! Back come [`Event`]s of kind [`EVENT`], which core answers once it has dealt with them, and, every few
//! seconds while they change, [`COUNTERS`]: one JSON object of names and numbers.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::mac::Mac;

/// Kind of the snapshot that holds a [`Dhcp`].
pub const DHCP: &str = "dhcp";
/// Kind of the snapshot that holds a [`Dns`].
pub const DNS: &str = "dns";
/// Kind of the snapshot that holds [`Passwords`].
pub const PASSWORDS: &str = "passwords";
/// Kind of an [`Event`].
pub const EVENT: &str = "event";
/// Kind of what serve has counted since it started.
pub const COUNTERS: &str = "counters";
/// What the kind of each [`DhcpHost`] snapshot begins with; the guest's address follows.
pub const HOST: &str = "host/";
/// What the kind of each [`Metadata`] snapshot begins with; the guest's address follows.
pub const METADATA: &str = "metadata/";

/// Kind of the snapshot that holds the [`Metadata`] of the guest at `address`.
pub fn metadata_kind(address: Ipv4Addr) -> String {
    format!("{METADATA}{address}")
}

/// Kind of the snapshot that holds the [`DhcpHost`] of the guest at `address`.
pub fn host_kind(address: Ipv4Addr) -> String {
    format!("{HOST}{address}")
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// UDP 67 on every address, bound to the device, allowed to broadcast. One for each NIC, however
    /// many addresses it has.
    Dhcp,
    /// IPv4 packets to UDP 67 as they come in on the device, and out of it to machines without an address.
    /// One for each NIC, too.
    DhcpFrames,
    /// UDP 53 on the address.
    DnsUdp,
    /// TCP 53 on the address, listening.
    DnsTcp,
    /// TCP 80 on the address, listening.
    Metadata,
    /// TCP 443 on the address, listening: the same behind TLS.
    MetadataTls,
    /// TCP 8080 on the address, listening.
    Password,
    /// ICMPv6 on the device, from the address, which is a link-local one: who looks for a router is answered.
    Advert,
    /// UDP 547 on every IPv6 address, bound to the device.
    Dhcp6,
}

impl Service {
    /// All services of a guest address.
    pub const ALL: [Self; 9] = [
        Self::Dhcp,
        Self::DhcpFrames,
        Self::DnsUdp,
        Self::DnsTcp,
        Self::Metadata,
        Self::MetadataTls,
        Self::Password,
        Self::Advert,
        Self::Dhcp6,
    ];

    /// The UDP or TCP port; 0 where there are none.
    pub const fn port(self) -> u16 {
        match self {
            Self::Dhcp | Self::DhcpFrames => 67,
            Self::DnsUdp | Self::DnsTcp => 53,
            Self::Metadata => 80,
            Self::MetadataTls => 443,
            Self::Password => 8080,
            Self::Advert => 0,
            Self::Dhcp6 => 547,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::DhcpFrames => "dhcp-frames",
            Self::DnsUdp => "dns-udp",
            Self::DnsTcp => "dns-tcp",
            Self::Metadata => "metadata",
            Self::MetadataTls => "metadata-tls",
            Self::Password => "password",
            Self::Advert => "advert",
            Self::Dhcp6 => "dhcp6",
        }
    }
}

/// One socket that core opened for serve. Its text form, `metadata eth0 10.1.1.1`, is the name under which
/// the socket is handed over. A socket under a name seen before replaces the former one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// What it is for.
    pub service: Service,
    /// The guest NIC, `eth0`.
    pub nic: String,
    /// The router's own address on it that the socket serves.
    pub address: IpAddr,
}

/// A name of a socket that is not one of a [`Listener`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unknown name of a socket: {0}")]
pub struct ListenerError(String);

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.service.word(), self.nic, self.address)
    }
}

impl FromStr for Listener {
    type Err = ListenerError;

    fn from_str(name: &str) -> Result<Self, ListenerError> {
        let bad = || ListenerError(name.chars().take(80).collect());
        let mut words = name.split(' ');
        let (Some(word), Some(nic), Some(address), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad());
        };
        let service = Service::ALL.into_iter().find(|s| s.word() == word).ok_or_else(bad)?;
        Ok(Self { service, nic: nic.to_owned(), address: address.parse().map_err(|_| bad())? })
    }
}

/// With what DHCP answers those who have a [`DhcpHost`] (router-behaviour of the reference: only known MACs,
/// infinite leases).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    /// The subnets of guests; a guest is served on the subnet that its address lies in.
    pub subnets: Vec<DhcpSubnet>,
}

/// One subnet with guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpSubnet {
    /// The NIC on which its guests are.
    pub nic: String,
    /// The router's address in it: server identifier, `siaddr`.
    pub router: Ipv4Addr,
    /// The subnet: mask and broadcast address.
    pub network: Ipv4Net,
    /// Option 26, bytes.
    pub mtu: u16,
    /// Option 6, in order; empty: the option is left out.
    pub resolvers: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: String,
    /// Option 119; empty: the option is left out.
    pub search: Vec<String>,
    /// `file`, where the subnet names one (`pxelinux.0`).
    pub boot_file: Option<String>,
    /// IPv6, where it has that, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six: Option<Subnet6>,
}

/// IPv6 of a subnet with guests, who make their addresses themselves (RFC 4862).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet6 {
    /// The network.
    pub network: Ipv6Net,
    /// The router's addresses in it, first the one that guests know.
    pub routers: Vec<Ipv6Addr>,
    /// Resolvers for guests, in order.
    pub resolvers: Vec<Ipv6Addr>,
    /// Whether the router is the way out, and says so.
    pub advertised: bool,
}

impl DhcpSubnet {
    /// Whether an address is one of a host in it: neither the network's nor the broadcast address.
    pub fn has_host(&self, address: Ipv4Addr) -> bool {
        let network = self.network;
        network.contains(&address)
            && (network.prefix_len() >= 31
                || (address != network.network() && address != network.broadcast()))
    }
}

/// One reservation: what DHCP gives to a guest, and a name for DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpHost {
    /// Who is served.
    pub mac: Mac,
    /// What it gets.
    pub address: Ipv4Addr,
    /// The IPv6 address that it makes for itself, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six: Option<Ipv6Addr>,
    /// Option 12; may be empty.
    pub name: String,
    /// Option 3; `None`: the option is left out.
    pub gateway: Option<Ipv4Addr>,
    /// Whether this is the guest's default NIC; if not, options 3, 6 and 15 are left out.
    pub default_nic: bool,
}

/// What DNS answers by itself besides the names of the [`DhcpHost`]s, and whom it asks for the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Domains answered here alone, without a trailing dot; the first one is appended to names of hosts.
    pub domains: Vec<String>,
    /// Resolvers to forward to, in order.
    pub upstreams: Vec<IpAddr>,
    /// Names of the router itself (its host name, `data-server`).
    pub router_names: Vec<String>,
    /// Per subnet: who may ask (its network), and what the router's own names resolve to there.
    pub subnets: Vec<DnsSubnet>,
    /// Whether the name of a guest is known only while its address lies in one of the subnets.
    pub near_only: bool,
    /// Whether anybody who reaches a guest address may ask, not only the guests of its network (`exposedns`).
    pub open: bool,
}

/// One subnet whose guests may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSubnet {
    /// Who asks.
    pub network: Ipv4Net,
    /// What the router's own names resolve to for them.
    pub router: Ipv4Addr,
    /// The same of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub six: Option<(Ipv6Net, Ipv6Addr)>,
}

/// User data and metadata of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// User data in standard base64 with padding, checked by core; `None`: there is none (404).
    pub user_data: Option<String>,
    /// Keys and values of `/latest/meta-data`, in the order in which they are listed. An empty value is
    /// an empty file (200).
    pub keys: Vec<(String, String)>,
}

/// Passwords that wait for their guests, by the guest's address.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passwords(pub BTreeMap<Ipv4Addr, Password>);

/// One waiting password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password {
    /// The secret itself.
    pub value: String,
    /// Tells this password from a later one of the same guest.
    pub serial: u64,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "password {}", self.serial)
    }
}

/// What serve tells core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A guest has confirmed that it has its password: core forgets it durably and sends the
    /// remaining ones.
    PasswordTaken {
        /// The guest.
        address: Ipv4Addr,
        /// [`Password::serial`] of the password it was given.
        serial: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_listener_is_read_back() {
        for service in Service::ALL {
            let listener = Listener { service, nic: "eth0".into(), address: [10, 1, 1, 1].into() };
            assert_eq!(listener.to_string().parse(), Ok(listener));
        }
        for bad in ["", "dhcp", "dhcp eth0", "dhcp eth0 10.1.1", "smtp eth0 10.1.1.1", "dhcp eth0 10.1.1.1 x"]
        {
            assert!(bad.parse::<Listener>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_does_not_show_in_logs() {
        let one = Password { value: "hunter2".into(), serial: 7 };
        let all = Passwords([(Ipv4Addr::new(10, 1, 1, 20), one)].into());
        assert!(!format!("{all:?} {:?}", all.0).contains("hunter2"));
    }
}
