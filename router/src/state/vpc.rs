//! What a VPC is made of, and the aliases of a shared network: tiers, lists of rules, routes, more addresses
//! (router contract 3.6, 3.7, 3.16, 3.19).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Kind, Protocol, Setup, State, merge::room};
use crate::{
    document::{AclChange, AliasChange, DocumentError, RouteChange, TierChange},
    mac::Mac,
    types::{Family, Nets},
};

/// Most rules of one list.
const RULES: usize = 10_000;

/// One tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// N of `eth<N>` as the management server counts, which need not be the kernel's.
    pub device: Option<u32>,
    /// The router's address in it.
    pub address: Ipv4Addr,
    /// Length of its prefix.
    pub prefix: u8,
    /// What guests have as their gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers that guests are told besides the router.
    pub resolvers: Vec<Ipv4Addr>,
    /// Domain of the guests.
    pub domain: String,
    /// Whether the router is the way out; if not it serves names and addresses only.
    pub is_gateway: bool,
    /// The management server's number of the network.
    pub network: u64,
    /// MTU in bytes.
    pub mtu: Option<u16>,
    /// IPv6, where it has that, too.
    #[serde(default)]
    pub six: Option<Tier6>,
}

/// IPv6 of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier6 {
    /// The router's address in it.
    pub net: Ipv6Net,
    /// What guests have as their gateway.
    pub gateway: Option<Ipv6Addr>,
    /// Resolvers that guests are told besides the router.
    pub resolvers: Vec<Ipv6Addr>,
    /// The router's way out.
    pub outside: Option<Outside6>,
}

/// IPv6 of the router's public NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside6 {
    /// Its address.
    pub net: Ipv6Net,
    /// The gateway there.
    pub gateway: Option<Ipv6Addr>,
}

/// The rules of one NIC, each list in its order: the first one that fits decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    /// N of `eth<N>` as the management server counts.
    pub device: Option<u32>,
    /// For what leaves by the NIC.
    pub ingress: Vec<AclRule>,
    /// For what comes in by it.
    pub egress: Vec<AclRule>,
}

/// One rule of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AclRule {
    /// The other side: sources of ingress, destinations of egress; `None` where it says nothing of IPv4.
    pub nets: Option<Nets>,
    /// The same of IPv6.
    #[serde(default)]
    pub nets6: Option<Nets>,
    /// Which packets.
    pub protocol: Protocol,
    /// Whether they pass.
    pub allow: bool,
}

impl AclRule {
    /// The other side in packets of a family; `None` where it says nothing of them.
    pub const fn of(&self, family: Family) -> Option<&Nets> {
        match family {
            Family::Four => self.nets.as_ref(),
            Family::Six => self.nets6.as_ref(),
        }
    }
}

impl Tier {
    /// Its network.
    pub fn net(&self) -> Ipv4Net {
        Ipv4Net::new(self.address, self.prefix.min(32)).map_or_else(|_| self.address.into(), |n| n.trunc())
    }
}

impl State {
    /// Merges a `guestnetwork` document. A tier takes the place of another one that has its number or its
    /// address: NICs are told apart by their MACs, and numbers are given anew.
    pub fn merge_tier(&mut self, setup: &Setup, change: &TierChange) -> Result<(), DocumentError> {
        only_vpc(setup, "guestnetwork")?;
        let Some(tier) = &change.tier else {
            self.tiers.remove(&change.mac);
            return Ok(());
        };
        if setup.inner().any(|nic| nic.network().contains(&tier.address)) {
            let reason = format!("{} lies in the network of the host", tier.address);
            return Err(DocumentError::new("router_guest_ip", reason));
        }
        room("mac_address", self.tiers.len(), 1)?;
        let same = |other: &Tier| {
            other.address == tier.address || (other.device.is_some() && other.device == tier.device)
        };
        let gone: Vec<Mac> =
            self.tiers.iter().filter(|(_, other)| same(other)).map(|(mac, _)| *mac).collect();
        gone.iter().for_each(|mac| drop(self.tiers.remove(mac)));
        self.tiers.insert(change.mac, Arc::new(tier.clone()));
        Ok(())
    }

    /// Merges a `networkacl` document: the whole list of one NIC. One for a NIC that is not there waits for it,
    /// until its number is given to another NIC.
    pub fn merge_acl(&mut self, setup: &Setup, change: &AclChange) -> Result<(), DocumentError> {
        only_vpc(setup, "networkacl")?;
        room("mac_address", self.acls.len(), 1)?;
        for (name, rules) in [("ingress_rules", &change.acl.ingress), ("egress_rules", &change.acl.egress)] {
            if rules.len() > RULES {
                return Err(DocumentError::new(name, format_args!("holds more than {RULES} rules")));
            }
        }
        let same = |other: &Acl| other.device.is_some() && other.device == change.acl.device;
        let gone: Vec<Mac> = self.acls.iter().filter(|(_, other)| same(other)).map(|(mac, _)| *mac).collect();
        gone.iter().for_each(|mac| drop(self.acls.remove(mac)));
        self.acls.insert(change.mac, Arc::new(change.acl.clone()));
        Ok(())
    }

    /// Merges a `staticroutes` document: a route replaces, or a revocation removes, that of its network.
    pub fn merge_routes(&mut self, setup: &Setup, changes: &[RouteChange]) -> Result<(), DocumentError> {
        only_vpc(setup, "staticroutes")?;
        room("routes", self.routes.len(), changes.len())?;
        for change in changes {
            match change.gateway {
                Some(gateway) => drop(self.routes.insert(change.network, gateway)),
                None => drop(self.routes.remove(&change.network)),
            }
        }
        Ok(())
    }

    /// Merges an `ipaliases` document.
    pub fn merge_aliases(&mut self, setup: &Setup, changes: &[AliasChange]) -> Result<(), DocumentError> {
        if setup.guest.is_none() || !setup.kind.serves_guests() {
            return Err(DocumentError::new("type", "ipaliases: this router has no guest NIC for them"));
        }
        room("aliases", self.aliases.len(), changes.len())?;
        for (n, change) in changes.iter().enumerate() {
            if setup.inner().any(|nic| nic.address == change.address)
                || self.addresses.contains_key(&change.address)
            {
                let reason = format!("{} is an address of this router already", change.address);
                return Err(DocumentError::new(format!("aliases[{n}].ip_address"), reason));
            }
        }
        for change in changes {
            match change.prefix {
                Some(prefix) => drop(self.aliases.insert(change.address, prefix)),
                None => drop(self.aliases.remove(&change.address)),
            }
        }
        Ok(())
    }

    /// Sets the MTU of the NIC that has the address; `None` where no NIC has it.
    pub fn set_mtu(&mut self, setup: &Setup, address: Ipv4Net, mtu: u16) -> Option<()> {
        let is_it = |tier: &Tier| (tier.address, tier.prefix) == (address.addr(), address.prefix_len());
        let mac = self.tiers.iter().find(|(_, tier)| is_it(tier)).map(|(mac, _)| *mac);
        if let Some(tier) = mac.and_then(|mac| self.tiers.get_mut(&mac)) {
            Arc::make_mut(tier).mtu = Some(mtu);
            return Some(());
        }
        if let Some(known) =
            self.addresses.get_mut(&address.addr()).filter(|a| a.prefix == address.prefix_len())
        {
            known.mtu = Some(mtu);
            return Some(());
        }
        let boot = setup.guest.as_ref().map(|nic| (nic.address, nic.prefix));
        let is_alias = self.aliases.get(&address.addr()) == Some(&address.prefix_len());
        if is_alias || boot == Some((address.addr(), address.prefix_len())) {
            self.guest_mtu = Some(mtu);
            return Some(());
        }
        None
    }
}

fn only_vpc(setup: &Setup, kind: &str) -> Result<(), DocumentError> {
    if setup.kind == Kind::Vpc {
        return Ok(());
    }
    Err(DocumentError::new("type", format_args!("{kind} is for the router of a VPC")))
}
