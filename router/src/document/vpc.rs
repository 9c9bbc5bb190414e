//! `guestnetwork`, `networkacl`, `staticroutes` and `ipaliases` (router contract 3.6, 3.7, 3.16, 3.19).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{DocumentError, Node, firewall::icmp, node::shorten};
use crate::{
    mac::Mac,
    state::{Acl, AclRule, Outside6, Protocol, Tier, Tier6},
    types::{Family, Ports, Transport, prefix_of},
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
            resolvers: resolvers(root, "dns", four)?,
            domain: root.text("domain_name")?.unwrap_or_else(|| DOMAIN.to_owned()),
            is_gateway: root.flag("is_vr_guest_gateway", true)?,
            network: root.optional("network_id")?.unwrap_or_default(),
            mtu: root.optional("mtu")?,
            six: six(root)?,
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

/// Resolvers of a list with commas, those of one family.
fn resolvers<A: PartialEq>(
    root: &Node<'_>,
    name: &str,
    of: impl Fn(IpAddr) -> Option<A>,
) -> Result<Vec<A>, DocumentError> {
    let mut all = Vec::new();
    let list = root.text(name)?.unwrap_or_default();
    for text in list.split(',').map(str::trim).filter(|t| !t.is_empty() && *t != "null") {
        let address = text.parse::<IpAddr>();
        let address =
            address.map_err(|_| root.error(name, format_args!("{:?} is no address", shorten(text))))?;
        all.extend(of(address).filter(|address| !all.contains(address)));
    }
    Ok(all)
}

const fn four(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

const fn six_of(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// IPv6 of a tier.
fn six(root: &Node<'_>) -> Result<Option<Tier6>, DocumentError> {
    let Some(address) = root.optional::<Ipv6Addr>("router_guest_ip6")? else { return Ok(None) };
    let outside = match root.optional::<Ipv6Addr>("router_ip6")? {
        None => None,
        Some(address) => {
            let net = with_prefix(root, "router_ip6", address, "router_ip6_cidr", None)?;
            Some(Outside6 { net, gateway: root.optional("router_ip6_gateway")? })
        }
    };
    Ok(Some(Tier6 {
        net: with_prefix(root, "router_guest_ip6", address, "router_guest_ip6_cidr", Some("cidr6"))?,
        gateway: root.optional("router_guest_ip6_gateway")?,
        resolvers: resolvers(root, "dns6", six_of)?,
        outside,
    }))
}

/// An address with the length of its prefix, which is told alone or with its network; 64 where it is not told.
fn with_prefix(
    root: &Node<'_>,
    name: &str,
    address: Ipv6Addr,
    network: &str,
    length: Option<&str>,
) -> Result<Ipv6Net, DocumentError> {
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(root.error(name, format_args!("{address} is no address of a machine")));
    }
    let alone = match length {
        None => None,
        Some(length) => root.text(length)?.map(|text| (length, text)),
    };
    let prefix = match (alone, root.optional::<Ipv6Net>(network)?) {
        (Some((length, text)), _) => {
            let prefix = text.trim().parse::<u8>().ok().filter(|prefix| *prefix <= 128);
            let bad = || root.error(length, format_args!("{:?} is no length of a prefix", shorten(&text)));
            prefix.ok_or_else(bad)?
        }
        (None, Some(net)) => net.prefix_len(),
        (None, None) => 64,
    };
    Ipv6Net::new(address, prefix).map_err(|error| root.error(name, error))
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
            rules.iter().map(rule).collect()
        };
        let acl =
            Acl { device: device(root)?, ingress: list("ingress_rules")?, egress: list("egress_rules")? };
        Ok(Self { mac: root.required("mac_address")?, acl })
    }
}

fn rule(node: &Node<'_>) -> Result<AclRule, DocumentError> {
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
    let nets = |family| node.nets_of("cidr", family).map(|(nets, _)| nets);
    let (nets, nets6) = (nets(Family::Four)?, nets(Family::Six)?);
    Ok(AclRule { nets, nets6, protocol, allow: node.flag("allowed", false)? })
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
