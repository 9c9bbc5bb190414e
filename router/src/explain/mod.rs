//! Which rule decides about a packet, without sending one: the planned table is run by hand for the first
//! packet of a connection, and each rule that had a say is named.

#[cfg(test)]
mod tests;
pub(crate) mod text;
mod walk;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use crate::{
    link::plan::{Links, MAIN, NicPlan, Via},
    plan::Plan,
    types::Transport,
};

/// Numbers of protocols: ICMP of IPv4 and of IPv6.
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// The first packet of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The number in the IP header.
    pub protocol: u8,
    /// Who sends it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// To which port; 0 where the protocol has none.
    pub port: u16,
    /// The NIC that it comes in by; `None` where the router sends it, or where the source tells.
    pub nic: Option<String>,
}

/// Words that describe no packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; expected is: tcp|udp|icmp|NUMBER SOURCE[:PORT] DESTINATION[:PORT] [NIC], \
     an address of IPv6 with a port as [ADDRESS]:PORT"
)]
pub struct PacketError(String);

impl Packet {
    /// Reads `tcp 198.51.100.7 203.0.113.10:80 eth2` or `tcp 2001:db8::7 [2001:db8:1::9]:80`.
    pub fn read(words: &[&str]) -> Result<Self, PacketError> {
        let (protocol, source, destination, nic) = match words {
            [protocol, source, destination] => (protocol, source, destination, None),
            [protocol, source, destination, nic] => (protocol, source, destination, Some((*nic).to_owned())),
            _ => return Err(PacketError(format!("there are {} words", words.len()))),
        };
        let ((source, _), (destination, port)) = (end(source)?, end(destination)?);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(PacketError(format!("{source} and {destination} are not of one family")));
        }
        let number = match *protocol {
            "tcp" => Transport::Tcp.number(),
            "udp" => Transport::Udp.number(),
            "icmp" if source.is_ipv6() => ICMP6,
            "icmp" => ICMP,
            other => other.parse().map_err(|_| PacketError(format!("{other:?} is no protocol")))?,
        };
        let has_ports = [Transport::Tcp, Transport::Udp].iter().any(|t| t.number() == number);
        if has_ports && port == 0 {
            return Err(PacketError("the destination lacks a port".to_owned()));
        }
        Ok(Self { protocol: number, source, destination, port, nic })
    }
}

/// Reads an address with or without a port; without one the port is 0.
fn end(text: &str) -> Result<(IpAddr, u16), PacketError> {
    if let Ok(address) = text.parse() {
        return Ok((address, 0));
    }
    let socket = text.parse::<SocketAddr>();
    socket
        .map(|socket| (socket.ip(), socket.port()))
        .map_err(|_| PacketError(format!("{text:?} is no address, nor one with a port")))
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = SocketAddr::new(self.destination, self.port);
        match self.protocol {
            ICMP | ICMP6 => write!(f, "icmp (echo request) {} to {}", self.source, self.destination),
            6 => write!(f, "tcp {} to {to}", self.source),
            17 => write!(f, "udp {} to {to}", self.source),
            n => write!(f, "protocol {n} {} to {}", self.source, self.destination),
        }
    }
}

/// Says what becomes of a packet, a line each for the rules that had a say, the verdict last.
pub fn explain(plan: &Plan, packet: &Packet) -> String {
    walk::Walk::new(plan, packet).run()
}

/// Networks at a NIC, with the router's addresses in them.
fn nets(nic: &NicPlan) -> impl Iterator<Item = IpNet> {
    nic.addresses.iter().map(|net| IpNet::V4(*net)).chain(nic.six.iter().map(|net| IpNet::V6(*net)))
}

/// Whether an address is one of the router's.
fn is_own(links: &Links, address: IpAddr) -> bool {
    links.nics.values().flat_map(nets).any(|net| net.addr() == address)
}

/// By which NIC a packet leaves: rules in their order, the longest prefix within a table.
fn route(links: &Links, source: IpAddr, destination: IpAddr, mark: u32) -> Option<String> {
    // Rules about marks and sources are of IPv4 alone.
    let mut rules: Vec<_> = links.rules.iter().filter(|_| source.is_ipv4()).collect();
    rules.sort_by_key(|rule| rule.preference);
    let of_table = |table: u32| {
        let routes = links.routes.iter().filter(|r| r.table == table && r.destination.contains(&destination));
        routes
            .max_by_key(|r| r.destination.prefix_len())
            .map(|r| (r.destination.prefix_len(), r.via.as_ref()))
    };
    for rule in rules {
        let fits = rule.mark.is_none_or(|m| m == mark)
            && rule.source.is_none_or(|net| IpNet::V4(net).contains(&source));
        if let Some((_, Some(Via { nic, .. }))) = of_table(rule.table).filter(|_| fits) {
            return Some(nic.clone());
        }
    }
    let near = links.nics.iter().flat_map(|(name, nic)| nets(nic).map(move |net| (net, name)));
    let near = near.filter(|(net, _)| net.contains(&destination)).max_by_key(|(net, _)| net.prefix_len());
    match (near, of_table(MAIN)) {
        (Some((net, name)), Some((length, _))) if net.prefix_len() >= length => Some(name.clone()),
        (_, Some((_, Some(via)))) => Some(via.nic.clone()),
        (Some((_, name)), None) => Some(name.clone()),
        _ => None,
    }
}
