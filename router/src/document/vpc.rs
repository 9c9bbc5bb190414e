//! `guestnetwork`, `networkacl`, `staticroutes` and `ipaliases` (router contract 3.6, 3.7, 3.16, 3.19).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use super::{DocumentError, Node, firewall::icmp, node::shorten};
use crate::{
    mac::Mac,
    state::{Acl, AclRule, Protocol, Tier},
    types::{Ports, Transport, prefix_of},
};

/// Domain of a tier that has none.
const DOMAIN: &str = "cloudnine.internal";

/// A `guestnetwork` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierChange {
    /// The NIC.
    pub mac: Mac,
    /// The tier; `None` takes it away.
    pub tier: Option<Tier>,
}

impl TierChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let mac = root.required("mac_address")?;
        if !root.flag("add", true)? {
            return Ok(Self { mac, tier: None });
        }
        let mask = root.required("router_guest_netmask")?;
        let prefix = prefix_of(mask).ok_or_else(|| root.error("router_guest_netmask", "is no mask"))?;
        let tier = Tier {
            device: device(root)?,
            address: root.required("router_guest_ip")?,
            prefix,
            gateway: root.optional("router_guest_gateway")?,
            resolvers: resolvers(root)?,
            domain: root.text("domain_name")?.unwrap_or_else(|| DOMAIN.to_owned()),
            is_gateway: root.flag("is_vr_guest_gateway", true)?,
            network: root.optional("network_id")?.unwrap_or_default(),
            mtu: root.optional("mtu")?,
        };
        if tier.mtu.is_some_and(|mtu| mtu < 576) {
            return Err(root.error("mtu", "is below 576"));
        }
        Ok(Self { mac, tier: Some(tier) })
    }
}

/// `eth3`: 3.
fn device(root: &Node<'_>) -> Result<Option<u32>, DocumentError> {
    let Some(text) = root.text("device")? else { return Ok(None) };
    let number = text.strip_prefix("eth").and_then(|n| n.parse().ok());
    number.map(Some).ok_or_else(|| root.error("device", format_args!("{:?} is no eth<N>", shorten(&text))))
}

/// IPv4 resolvers of a list with commas.
fn resolvers(root: &Node<'_>) -> Result<Vec<Ipv4Addr>, DocumentError> {
    let mut all = Vec::new();
    let list = root.text("dns")?.unwrap_or_default();
    for text in list.split(',').map(str::trim).filter(|t| !t.is_empty() && *t != "null") {
        match text.parse() {
            Ok(IpAddr::V4(address)) if !all.contains(&address) => all.push(address),
            Ok(_) => {}
            Err(_) => return Err(root.error("dns", format_args!("{:?} is no address", shorten(text)))),
        }
    }
    Ok(all)
}

/// A `networkacl` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclChange {
    /// The NIC.
    pub mac: Mac,
    /// Its rules, all of them.
    pub acl: Acl,
}

impl AclChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let list = |name| -> Result<Vec<AclRule>, DocumentError> {
            if !root.names(name) {
                return Ok(Vec::new());
            }
            let rules = root.objects(name)?;
            rules.iter().filter_map(|node| rule(node).transpose()).collect()
        };
        let acl =
            Acl { device: device(root)?, ingress: list("ingress_rules")?, egress: list("egress_rules")? };
        Ok(Self { mac: root.required("mac_address")?, acl })
    }
}

/// One rule; `None` where it is about IPv6 only.
fn rule(node: &Node<'_>) -> Result<Option<AclRule>, DocumentError> {
    let word = node.required::<String>("type")?;
    let protocol = match word.to_ascii_lowercase().as_str() {
        "all" => Protocol::All,
        "tcp" => Protocol::Transport { transport: Transport::Tcp, ports: ports(node)? },
        "udp" => Protocol::Transport { transport: Transport::Udp, ports: ports(node)? },
        "icmp" => icmp(node)?,
        "protocol" => Protocol::Number(node.required("protocol")?),
        _ => {
            let reason = format!("{:?} is none of tcp, udp, icmp, protocol, all", shorten(&word));
            return Err(node.error("type", reason));
        }
    };
    let (nets, _) = node.nets_of_either("cidr")?;
    let allow = node.flag("allowed", false)?;
    Ok(nets.map(|nets| AclRule { nets, protocol, allow }))
}

/// `None` for every port: absent, or 0 to 0.
fn ports(node: &Node<'_>) -> Result<Option<Ports>, DocumentError> {
    let Some(first) = node.optional("first_port")? else { return Ok(None) };
    let last = node.optional("last_port")?.unwrap_or(first);
    if (first, last) == (0, 0) {
        return Ok(None);
    }
    Ports::new(first, last).map(Some).map_err(|e| node.error("last_port", e))
}

/// One item of a `staticroutes` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    /// To where.
    pub network: Ipv4Net,
    /// The next hop; `None` takes the route away.
    pub gateway: Option<Ipv4Addr>,
}

impl RouteChange {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, DocumentError> {
        let network: Ipv4Net = node.required("network")?;
        let gateway = if node.flag("revoke", false)? { None } else { Some(node.required("gateway")?) };
        Ok(Self { network: network.trunc(), gateway })
    }
}

/// One item of an `ipaliases` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasChange {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its prefix; `None` takes the address away.
    pub prefix: Option<u8>,
}

impl AliasChange {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, DocumentError> {
        let address = node.required("ip_address")?;
        if node.flag("revoke", false)? {
            return Ok(Self { address, prefix: None });
        }
        let prefix = prefix_of(node.required("netmask")?);
        let prefix = prefix.ok_or_else(|| node.error("netmask", "is no mask"))?;
        Ok(Self { address, prefix: Some(prefix) })
    }
}
