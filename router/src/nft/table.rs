//! The packet filter's table as plain values: what a plan fills and tests look at.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    net::Ipv4Addr,
};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::{
    helper::Helper,
    types::{Ports, Transport},
};

/// What names of chains that say which table is in force begin with; the youngest one counts.
pub const SEAL: &str = "sealed_";

/// A whole table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Table {
    /// Named counters; their figures outlive every change.
    pub counters: BTreeSet<String>,
    /// Protocols whose conversations the kernel follows.
    pub helpers: BTreeSet<Helper>,
    /// Maps and sets by name.
    pub maps: BTreeMap<String, Map>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

impl Table {
    /// The chain of this name, made where it is missing.
    pub fn chain(&mut self, name: impl Into<String>) -> &mut Chain {
        self.chains.entry(name.into()).or_default()
    }

    /// The map of this name, made where it is missing.
    pub fn map(&mut self, name: &str, key: &[Field], value: ValueKind) -> &mut Map {
        self.maps.entry(name.to_owned()).or_insert_with(|| Map {
            key: key.to_vec(),
            value,
            elements: BTreeMap::new(),
        })
    }

    /// Tells this table from others: the sum of 128 bits of SHA-256 over each of its parts, so that the
    /// digest of a changed table follows from the parts that differ.
    pub fn digest(&self) -> u128 {
        self.digest_after(&Self::default(), 0)
    }

    /// The digest, from that of the table before.
    pub fn digest_after(&self, before: &Self, digest: u128) -> u128 {
        let mut sum = Sum(digest);
        differ(&before.counters, &self.counters, |name, new| sum.count(new, &("counter", name)));
        differ(&before.helpers, &self.helpers, |helper, new| sum.count(new, &("helper", helper)));
        let maps = |table: &Self| -> BTreeMap<String, Kind> {
            table.maps.iter().map(|(name, map)| (name.clone(), (map.key.clone(), map.value))).collect()
        };
        differ_values(&maps(before), &maps(self), |name, kind, new| sum.count(new, &("map", name, kind)));
        differ_values(&before.chains, &self.chains, |name, chain, new| {
            sum.count(new, &("chain", name, chain));
        });
        let nothing = BTreeMap::new();
        for name in before.maps.keys().chain(self.maps.keys().filter(|name| !before.maps.contains_key(*name)))
        {
            let old = before.maps.get(name).map_or(&nothing, |map| &map.elements);
            let new = self.maps.get(name).map_or(&nothing, |map| &map.elements);
            differ_values(old, new, |key, value, new| sum.count(new, &("element", name, key, value)));
        }
        sum.0
    }

    /// The name of an empty chain that says that the table with this digest is in force. A core that starts
    /// finds by it whether the kernel has this very table already.
    pub fn seal(digest: u128) -> String {
        format!("{SEAL}{digest:032x}")
    }
}

/// What a map is made of.
type Kind = (Vec<Field>, ValueKind);

/// A sum of digests of parts.
struct Sum(u128);

impl Sum {
    /// Adds a part that is new, or takes away one that has gone.
    fn count(&mut self, new: bool, part: &impl Hash) {
        let mut hasher = Sha(Sha256::new());
        part.hash(&mut hasher);
        let digest = hasher.0.finalize();
        let value = digest.iter().take(16).fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
        self.0 = if new { self.0.wrapping_add(value) } else { self.0.wrapping_sub(value) };
    }
}

/// Tells what has gone (false) and what is new (true).
fn differ<K: Ord>(old: &BTreeSet<K>, new: &BTreeSet<K>, mut tell: impl FnMut(&K, bool)) {
    old.difference(new).for_each(|key| tell(key, false));
    new.difference(old).for_each(|key| tell(key, true));
}

/// The same of keys with values, in the order of the keys: a value that has changed has gone and is new. Both
/// are walked side by side, which costs far less than to look each key up.
pub(super) fn differ_values<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
    mut tell: impl FnMut(&'a K, &'a V, bool),
) {
    let (mut before, mut after) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let gone = if order.is_le() { before.next() } else { None };
        let fresh = if order.is_ge() { after.next() } else { None };
        if let (Some((_, old)), Some((_, new))) = (gone, fresh)
            && old == new
        {
            continue;
        }
        gone.into_iter().for_each(|(key, value)| tell(key, value, false));
        fresh.into_iter().for_each(|(key, value)| tell(key, value, true));
    }
}

struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// A map from keys to values, or a set where there is no value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Map {
    /// What a key is made of.
    pub key: Vec<Field>,
    /// What is looked up.
    pub value: ValueKind,
    /// The elements.
    pub elements: BTreeMap<Key, Value>,
}

/// A field of a packet, as part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// IPv4 source address.
    Source,
    /// IPv4 destination address.
    Destination,
    /// Protocol in the IP header.
    Protocol,
    /// Destination port of any transport.
    Port,
    /// Name of the NIC that the packet came in by.
    InNic,
    /// Name of the NIC that the packet leaves by.
    OutNic,
}

/// The parts of a key, in the order of [`Map::key`].
pub type Key = Vec<Part>;

/// One part of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// An address.
    Address(Ipv4Addr),
    /// A transport.
    Transport(Transport),
    /// A port.
    Port(u16),
    /// A NIC.
    Nic(String),
}

/// What a map leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// Nothing: it is a set.
    Nothing,
    /// An address.
    Address,
    /// A port.
    Port,
    /// A mark.
    Mark,
    /// What becomes of the packet.
    Verdict,
}

/// One value of a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// Of a set.
    Nothing,
    /// An address.
    Address(Ipv4Addr),
    /// A port.
    Port(u16),
    /// A mark.
    Mark(u32),
    /// The packet passes this hook.
    Accept,
    /// The packet vanishes.
    Drop,
    /// Rules of this chain are tried, then those behind the lookup.
    Jump(String),
}

/// A chain of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Chain {
    /// Where packets enter it from the kernel; `None` where only other chains lead to it.
    pub base: Option<Base>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// Adds a rule behind the others.
    pub fn add(&mut self, matches: impl Into<Vec<Match>>, action: Action) {
        self.rules.push(Rule { matches: matches.into(), action });
    }
}

/// How a chain hangs in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// Whether it translates addresses; filters otherwise.
    pub nat: bool,
    /// Order among chains of the same hook.
    pub priority: i32,
    /// Whether packets that no rule decides about are dropped.
    pub drops: bool,
}

/// A place in a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Came in.
    Prerouting,
    /// For the router itself.
    Input,
    /// Passes through.
    Forward,
    /// From the router itself.
    Output,
    /// Goes out.
    Postrouting,
}

/// One rule: where all matches hold, the action is taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Conditions.
    pub matches: Vec<Match>,
    /// What is done.
    pub action: Action,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// Came in by this NIC.
    In(String),
    /// Leaves by this NIC.
    Out(String),
    /// The key is an element of the set.
    Known(Field, &'static str),
    /// The key is no element of the set.
    Unknown(Field, &'static str),
    /// Of version 6 of the protocol.
    Six,
    /// From one of these networks, all of one family.
    From(Vec<IpNet>),
    /// To one of these networks, all of one family.
    To(Vec<IpNet>),
    /// Of this transport.
    Transport(Transport),
    /// Of the protocol with this number.
    Number(u8),
    /// ICMP of IPv4.
    Icmp,
    /// ICMP of this type.
    IcmpType(u8),
    /// ICMP of this code.
    IcmpCode(u8),
    /// ICMP of IPv6.
    Icmp6,
    /// The same of this type.
    Icmp6Type(u8),
    /// The same of this code.
    Icmp6Code(u8),
    /// IPv6 of a neighbour: no router has passed it on (hop limit 255).
    Near,
    /// To these ports of the transport.
    Ports(Transport, Ports),
    /// From this port of the transport.
    FromPort(Transport, u16),
    /// Of a connection that is known.
    Established,
    /// Of a connection whose destination was translated.
    Translated,
    /// Came in encrypted, and was decrypted here.
    Decrypted,
    /// Goes out as it is: no tunnel takes it.
    Bare,
}

impl Match {
    /// From one of these networks or addresses.
    pub fn from(nets: impl IntoIterator<Item: Into<IpNet>>) -> Self {
        Self::From(nets.into_iter().map(Into::into).collect())
    }

    /// To one of these networks or addresses.
    pub fn to(nets: impl IntoIterator<Item: Into<IpNet>>) -> Self {
        Self::To(nets.into_iter().map(Into::into).collect())
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The packet passes this hook.
    Accept,
    /// The packet vanishes.
    Drop,
    /// Back to where the chain was entered from.
    Return,
    /// Try another chain first.
    Jump(String),
    /// Look the verdict up.
    Lookup(Vec<Field>, &'static str),
    /// No connection is kept for the packet; it goes on.
    Untrack,
    /// Count the packet, and go on.
    Count(String),
    /// Mark the connection, and go on.
    MarkConnection(u32),
    /// Mark the connection with what a map says, and go on.
    MarkConnectionBy(Vec<Field>, &'static str),
    /// Mark the packet as its connection is, and go on.
    RestoreMark,
    /// Translate the destination to what a map says.
    TranslateBy(Vec<Field>, &'static str),
    /// Translate the destination to what two maps with one key say: the address and the port.
    TranslatePortBy(Vec<Field>, &'static str, &'static str),
    /// Translate the destination address, keep the port.
    Translate(Ipv4Addr),
    /// Translate the destination address, and each port as listed.
    TranslatePorts(Ipv4Addr, Transport, Vec<(u16, u16)>),
    /// Translate the source to what a map says.
    SourceBy(Vec<Field>, &'static str),
    /// Translate the source.
    Source(Ipv4Addr),
    /// Translate the destination to one of several.
    Spread(Spread),
    /// Follow the conversation, and go on.
    Help(Helper),
}

/// How connections are spread over servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spread {
    /// By the client's address, else by turns.
    pub by_client: bool,
    /// The servers.
    pub targets: Vec<Ipv4Addr>,
    /// Their port.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_tables_apart_and_follows_their_changes() {
        let mut table = Table::default();
        table.chain("input").add([Match::Established], Action::Accept);
        let before = (table.clone(), table.digest());
        assert_eq!(before.1, table.clone().digest());
        table.chain("input").add([], Action::Drop);
        table.counters.insert("usage".to_owned());
        let map = table.map("public", &[Field::Destination], ValueKind::Nothing);
        map.elements.insert(vec![Part::Port(1)], Value::Nothing);
        map.elements.insert(vec![Part::Port(2)], Value::Nothing);
        assert_ne!(before.1, table.digest());
        assert_eq!(table.digest_after(&before.0, before.1), table.digest());
        assert_eq!(before.0.digest_after(&table, table.digest()), before.1);
        let full = table.digest();
        table.map("public", &[], ValueKind::Nothing).elements.remove(&vec![Part::Port(1)]);
        assert_ne!(table.digest(), full);
    }
}
