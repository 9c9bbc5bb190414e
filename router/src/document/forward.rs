//! `forwardrules` and `staticnatrules` (router contract 3.11 and 3.12).

use std::net::Ipv4Addr;

use super::{DocumentError, Node};
use crate::{
    state::{Forward, ForwardKey},
    types::{Family, Transport},
};

/// One item of a `forwardrules` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardChange {
    /// Whether it goes away.
    pub revoke: bool,
    /// What packets it is about.
    pub key: ForwardKey,
    /// Where they go, and whose packets only.
    pub forward: Forward,
    /// Where it stood in the document.
    pub path: String,
}

impl ForwardChange {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, DocumentError> {
        let revoke = node.flag("revoke", false)?;
        let protocol = node.required::<String>("protocol")?;
        let transport = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(node.error("protocol", format_args!("{protocol:?} is neither tcp nor udp"))),
        };
        let key = ForwardKey {
            address: node.required("source_ip_address")?,
            transport,
            ports: node.required("source_port_range")?,
        };
        let (sources, _) = node.nets("source_cidr_list", Family::Four)?;
        let forward = Forward {
            sources,
            target: node.required("destination_ip_address")?,
            ports: node.required("destination_port_range")?,
        };
        if forward.ports.width() != key.ports.width() && forward.ports.single().is_none() {
            return Err(node.error(
                "destination_port_range",
                format_args!("{} is neither one port nor as wide as {}", forward.ports, key.ports),
            ));
        }
        Ok(Self { revoke, key, forward, path: node.path().to_owned() })
    }
}

/// One item of a `staticnatrules` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticNatChange {
    /// Whether it goes away.
    pub revoke: bool,
    /// The public address.
    pub address: Ipv4Addr,
    /// The guest; a revocation may come without.
    pub target: Option<Ipv4Addr>,
    /// Where it stood in the document.
    pub path: String,
}

impl StaticNatChange {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, DocumentError> {
        let revoke = node.flag("revoke", false)?;
        let target = node.optional("destination_ip_address")?;
        if target.is_none() && !revoke {
            return Err(node.error("destination_ip_address", "is missing"));
        }
        let address = node.required("source_ip_address")?;
        Ok(Self { revoke, address, target, path: node.path().to_owned() })
    }
}
