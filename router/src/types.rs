//! Small values that documents, state and plans share.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A transport with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// `tcp` or `udp`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The number of the protocol in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// Ports from the first to the last, both included; written `80:90`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A text or a pair of numbers that is no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a range of ports (first:last, 0 to 65535, first not above last)")]
pub struct PortsError;

impl Ports {
    /// From the first to the last.
    pub fn new(first: u16, last: u16) -> Result<Self, PortsError> {
        if first <= last { Ok(Self { first, last }) } else { Err(PortsError) }
    }

    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// These and others, and what lies between.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self { first: self.first.min(others.first), last: self.last.max(others.last) }
    }

    /// The lowest one.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest one.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The only one, where there is but one.
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Whether a port is among them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// How many, less one.
    pub const fn width(self) -> u16 {
        self.last - self.first
    }

    /// All of them, upwards.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let (first, last) = text.split_once([':', '-']).unwrap_or((text, text));
        let port = |text: &str| text.trim().parse().map_err(|_| PortsError);
        Self::new(port(first)?, port(last)?)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.last)
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for Ports {
    type Error = PortsError;

    fn try_from(text: String) -> Result<Self, PortsError> {
        text.parse()
    }
}

/// Version of the Internet protocol that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Version 4.
    Four,
    /// Version 6.
    Six,
}

/// Networks of one family that a rule is limited to, without overlaps, in order; empty means any.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nets(Vec<IpNet>);

impl Nets {
    /// Joins what overlaps or adjoins; `0.0.0.0/0` or `::/0` among them makes it any.
    pub fn new(nets: impl IntoIterator<Item: Into<IpNet>>) -> Self {
        let nets: Vec<IpNet> = nets.into_iter().map(|net| net.into().trunc()).collect();
        let joined = IpNet::aggregate(&nets);
        if joined.iter().any(|n| n.prefix_len() == 0) { Self::default() } else { Self(joined) }
    }

    /// Whether nothing is excluded.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks; none where any is meant.
    pub fn as_slice(&self) -> &[IpNet] {
        &self.0
    }

    /// Whether both mean any, or both are limited and some address is in both.
    pub fn collides(&self, other: &Self) -> bool {
        match (self.is_any(), other.is_any()) {
            (true, true) => true,
            (false, false) => self.0.iter().any(|a| other.0.iter().any(|b| a.contains(b) || b.contains(a))),
            _ => false,
        }
    }
}

/// Length of the prefix of a dotted mask (`255.255.255.0` gives 24); `None` where it is no mask.
pub fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    ipnet::ipv4_mask_to_prefix(mask).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Nets {
        Nets::new(texts.iter().map(|t| t.parse::<IpNet>().unwrap()))
    }

    #[test]
    fn ports_are_read_and_written() {
        assert_eq!("80:90".parse::<Ports>().unwrap().to_string(), "80:90");
        assert_eq!("22".parse::<Ports>().unwrap().single(), Some(22));
        for bad in ["", ":", "90:80", "1:2:3", "65536", "-1", "a:b"] {
            assert_eq!(bad.parse::<Ports>(), Err(PortsError), "{bad}");
        }
    }

    #[test]
    fn networks_are_joined_and_compared() {
        assert_eq!(nets(&["10.0.0.0/25", "10.0.0.128/25", "10.0.0.7/32"]), nets(&["10.0.0.0/24"]));
        assert!(nets(&["10.0.0.0/8", "0.0.0.0/0"]).is_any() && nets(&["2001:db8::/32", "::/0"]).is_any());
        assert!(nets(&[]).collides(&nets(&[])));
        assert!(nets(&["10.0.0.0/8"]).collides(&nets(&["10.1.0.0/16", "192.0.2.0/24"])));
        assert!(!nets(&["10.0.0.0/8"]).collides(&nets(&["192.0.2.0/24"])));
        assert!(!nets(&["10.0.0.0/8"]).collides(&nets(&[])));
    }

    #[test]
    fn masks_become_prefixes() {
        assert_eq!(prefix_of(Ipv4Addr::new(255, 255, 252, 0)), Some(22));
        assert_eq!(prefix_of(Ipv4Addr::new(255, 0, 255, 0)), None);
    }
}
