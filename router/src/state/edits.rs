//! What differs between two states: it decides what is planned anew and what guests' servers are told, and it
//! is the record of a change on the disk. To find it costs what differs, where one state was made from the other.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Acl, Address, FirewallRule, Forward, ForwardKey, Monitor, State, Tier, VpnEdits};
use crate::{balance::Balance, bgp::Peer, mac::Mac, snapshot::DhcpHost};

/// Keys of a map that have changed, each with its value, or `None` where it has gone.
pub type Changed<K, V> = Vec<(K, Option<V>)>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Edits {
    /// [`State::addresses`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Changed<Ipv4Addr, Address>,
    /// [`State::forwards`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forwards: Changed<ForwardKey, Vec<Forward>>,
    /// [`State::static_nat`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub static_nat: Changed<Ipv4Addr, Ipv4Addr>,
    /// [`State::firewall`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firewall: Changed<u64, FirewallRule>,
    /// [`State::firewall6`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub firewall6: Changed<u64, FirewallRule>,
    /// [`State::hosts`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Changed<Ipv4Addr, DhcpHost>,
    /// [`State::monitor`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Arc<Monitor>>,
    /// [`State::tiers`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tiers: Changed<Mac, Arc<Tier>>,
    /// [`State::acls`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acls: Changed<Mac, Arc<Acl>>,
    /// [`State::routes`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Changed<Ipv4Net, Ipv4Addr>,
    /// [`State::aliases`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Changed<Ipv4Addr, u8>,
    /// [`State::guest_mtu`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub guest_mtu: Option<Option<u16>>,
    /// [`State::balance`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Arc<Balance>>,
    /// [`State::peers`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Arc<BTreeSet<Peer>>>,
    /// [`State::vpn`].
    #[serde(skip_serializing_if = "VpnEdits::is_empty")]
    pub vpn: VpnEdits,
}

/// A value that is there, and `null` is one.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<u16>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl Edits {
    /// What makes `new` out of `old`.
    pub fn between(old: &State, new: &State) -> Self {
        Self {
            addresses: changed(&old.addresses, &new.addresses),
            forwards: changed(&old.forwards, &new.forwards),
            static_nat: changed(&old.static_nat, &new.static_nat),
            firewall: changed(&old.firewall, &new.firewall),
            firewall6: changed(&old.firewall6, &new.firewall6),
            hosts: changed(&old.hosts, &new.hosts),
            monitor: (old.monitor != new.monitor).then(|| Arc::clone(&new.monitor)),
            tiers: changed(&old.tiers, &new.tiers),
            acls: changed(&old.acls, &new.acls),
            routes: changed(&old.routes, &new.routes),
            aliases: changed(&old.aliases, &new.aliases),
            guest_mtu: (old.guest_mtu != new.guest_mtu).then_some(new.guest_mtu),
            balance: (old.balance != new.balance).then(|| Arc::clone(&new.balance)),
            peers: (old.peers != new.peers).then(|| Arc::clone(&new.peers)),
            vpn: VpnEdits::between(&old.vpn, &new.vpn),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl State {
    /// Takes edits over.
    pub fn edit(&mut self, edits: Edits) {
        apply(&mut self.addresses, edits.addresses);
        apply(&mut self.forwards, edits.forwards);
        apply(&mut self.static_nat, edits.static_nat);
        apply(&mut self.firewall, edits.firewall);
        apply(&mut self.firewall6, edits.firewall6);
        apply(&mut self.tiers, edits.tiers);
        apply(&mut self.acls, edits.acls);
        apply(&mut self.routes, edits.routes);
        apply(&mut self.aliases, edits.aliases);
        // First what goes: its MAC may have another address now.
        edits.hosts.iter().for_each(|(address, _)| self.hosts.remove(*address));
        edits.hosts.into_iter().filter_map(|(_, host)| host).for_each(|host| self.hosts.insert(host));
        self.monitor = edits.monitor.unwrap_or_else(|| Arc::clone(&self.monitor));
        self.guest_mtu = edits.guest_mtu.unwrap_or(self.guest_mtu);
        self.balance = edits.balance.unwrap_or_else(|| Arc::clone(&self.balance));
        self.peers = edits.peers.unwrap_or_else(|| Arc::clone(&self.peers));
        self.vpn.edit(edits.vpn);
    }
}

/// What makes one map out of another.
pub fn changed<K: Ord + Clone, V: PartialEq + Clone>(
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
) -> Changed<K, V> {
    let one = |item| match item {
        DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
            (K::clone(key), Some(V::clone(value)))
        }
        DiffItem::Remove(key, _) => (K::clone(key), None),
    };
    old.diff(new).map(one).collect()
}

pub(super) fn apply<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, edits: Changed<K, V>) {
    for (key, value) in edits {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}
