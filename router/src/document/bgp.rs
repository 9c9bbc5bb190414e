//! `bgppeers` (router contract 3.21): all peers, each once for each network of guests that it is to hear of.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::{DocumentError, Node, node::shorten};
use crate::bgp::Peer;

/// Letters of a password that the kernel takes (TCP-MD5, RFC 2385).
const PASSWORD: usize = 80;

/// A `bgppeers` document: it replaces what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BgpChange {
    /// All peers.
    pub peers: BTreeSet<Peer>,
}

impl BgpChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let items = root.objects("peers")?;
        // One without an identity is not meant.
        let items = items.iter().filter(|node| node.names("peer_id"));
        let mut peers = BTreeSet::new();
        for node in items {
            peers.extend(of_item(node)?);
        }
        Ok(Self { peers })
    }
}

/// A peer that has addresses of both families is spoken to by both, by each of what belongs to it.
fn of_item(node: &Node<'_>) -> Result<Vec<Peer>, DocumentError> {
    let number = |name: &str| match node.required::<u32>(name)? {
        0 | u32::MAX => Err(node.error(name, "is no number of an autonomous system")),
        number => Ok(number),
    };
    let (their, our) = (number("peer_as_number")?, number("network_as_number")?);
    let password = node.text("peer_password")?;
    if password.as_ref().is_some_and(|p| p.len() > PASSWORD || !p.bytes().all(|b| b.is_ascii_graphic())) {
        let reason = format!("holds blanks or other than ASCII, or is longer than {PASSWORD}");
        return Err(node.error("peer_password", reason));
    }
    let hops = hops(node)?;
    let four = node.optional::<Ipv4Addr>("ip4_address")?.map(IpAddr::V4);
    let six = node.optional::<Ipv6Addr>("ip6_address")?.map(IpAddr::V6);
    let networks = [
        node.optional::<Ipv4Net>("guest_ip4_cidr")?.map(|net| IpNet::V4(net.trunc())),
        node.optional::<Ipv6Net>("guest_ip6_cidr")?.map(|net| IpNet::V6(net.trunc())),
    ];
    let mut peers = Vec::new();
    for ((name, address), network) in [("ip4_address", four), ("ip6_address", six)].into_iter().zip(networks)
    {
        let Some(address) = address else { continue };
        let is_everyone = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_everyone {
            return Err(node.error(name, format_args!("{address} is no address of a peer")));
        }
        peers.push(Peer { address, their, our, password: password.clone(), hops, network });
    }
    if peers.is_empty() {
        return Err(node.error("ip4_address", "is missing, and so is ip6_address"));
    }
    Ok(peers)
}

/// `details.EBGP_MultiHop`, by whatever case.
fn hops(node: &Node<'_>) -> Result<Option<u8>, DocumentError> {
    const NAME: &str = "details.EBGP_MultiHop";
    let Some(details) = node.get("details") else { return Ok(None) };
    let details = details.as_object().ok_or_else(|| node.error("details", "is no object"))?;
    let found = details.iter().find(|(name, _)| name.eq_ignore_ascii_case("EBGP_MultiHop"));
    let text = match found.map(|(_, value)| value) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(value) => value.to_string(),
    };
    let hops = text.parse::<u8>().ok().filter(|hops| *hops > 0);
    hops.map(Some).ok_or_else(|| node.error(NAME, format_args!("{:?} is not 1 to 255", shorten(&text))))
}
