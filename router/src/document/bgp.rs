//! `bgppeers` (router contract 3.21): all peers, each once for each network of guests that it is to hear of.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
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
        let peers: BTreeSet<Peer> = items.map(peer).collect::<Result<_, _>>()?;
        Ok(Self { peers })
    }
}

fn peer(node: &Node<'_>) -> Result<Peer, DocumentError> {
    let number = |name: &str| match node.required::<u32>(name)? {
        0 | u32::MAX => Err(node.error(name, "is no number of an autonomous system")),
        number => Ok(number),
    };
    let address: Option<Ipv4Addr> = node.optional("ip4_address")?;
    let address =
        address.ok_or_else(|| node.error("ip4_address", "is missing: peers are reached by IPv4"))?;
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback() {
        return Err(node.error("ip4_address", format_args!("{address} is no address of a peer")));
    }
    let password = node.text("peer_password")?;
    if password.as_ref().is_some_and(|p| p.len() > PASSWORD || !p.bytes().all(|b| b.is_ascii_graphic())) {
        let reason = format!("holds blanks or other than ASCII, or is longer than {PASSWORD}");
        return Err(node.error("peer_password", reason));
    }
    let network: Option<Ipv4Net> = node.optional("guest_ip4_cidr")?;
    Ok(Peer {
        address,
        their: number("peer_as_number")?,
        our: number("network_as_number")?,
        password,
        hops: hops(node)?,
        network: network.map(|net| net.trunc()),
    })
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
