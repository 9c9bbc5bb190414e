//! `ips`: public addresses (router contract 3.5).

use std::net::Ipv4Addr;

use super::{DocumentError, Node};
use crate::{mac::Mac, types::prefix_of};

/// One item of an `ips` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressChange {
    /// The address.
    pub address: Ipv4Addr,
    /// Whether it is to be there; `false` releases it.
    pub add: bool,
    /// Length of the prefix; `None` where no mask came (a release may come without).
    pub prefix: Option<u8>,
    /// Gateway of its VLAN.
    pub gateway: Option<Ipv4Addr>,
    /// The NIC, by its MAC: what counts where it is given.
    pub mac: Option<Mac>,
    /// The NIC, by its number.
    pub index: Option<u32>,
    /// Marked as the source NAT address; also set on the first one of each VLAN.
    pub source_nat: bool,
    /// MTU for the NIC, bytes.
    pub mtu: Option<u16>,
    /// The router's address at a private gateway of a VPC.
    pub private_gateway: bool,
    /// Where it stood in the document.
    pub path: String,
}

impl AddressChange {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, DocumentError> {
        let add = node.flag("add", true)?;
        let kind = node.text("nw_type")?.unwrap_or_default();
        if !(kind.is_empty() || kind.eq_ignore_ascii_case("public")) {
            return Err(
                node.error("nw_type", format_args!("{kind:?}: only public addresses come and go here"))
            );
        }
        let prefix = match node.optional::<Ipv4Addr>("netmask")? {
            None if add => return Err(node.error("netmask", "is missing")),
            None => None,
            Some(mask) => Some(prefix_of(mask).ok_or_else(|| node.error("netmask", "is no mask"))?),
        };
        let gateway = match node.text("gateway")?.as_deref() {
            None | Some("None" | "null") => None,
            Some(_) => Some(node.required("gateway")?),
        };
        let change = Self {
            address: node.required("public_ip")?,
            add,
            prefix,
            gateway,
            mac: node.optional("vif_mac_address")?,
            index: node.optional("nic_dev_id")?,
            source_nat: node.flag("source_nat", false)?,
            mtu: node.optional("mtu")?,
            private_gateway: node.flag("is_private_gateway", false)?,
            path: node.path().to_owned(),
        };
        if change.mtu.is_some_and(|mtu| mtu < 576) {
            return Err(node.error("mtu", "is below 576"));
        }
        Ok(change)
    }
}
