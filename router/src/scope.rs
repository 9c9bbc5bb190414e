//! Which entries of the state a plan of the packet filter is about.
//!
//! A change of one entry needs the tables before and after it only as far as the entry reaches: both are planned
//! within the same scope, and their difference is that of the whole tables. What depends on NICs and addresses
//! is always planned, there is little of it; what is planned an entry each asks here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use crate::{
    mac::Mac,
    state::{Direction, Edits, FirewallRule, ForwardKey, Protocol, State},
    types::{Family, Ports, Transport},
};

/// Firewall rules that are planned together: of one direction, and of one port where they are for one alone.
type Bag = (Direction, Option<(Transport, u16)>);

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    whole: bool,
    /// Public addresses and transports, with the lowest and the highest port that is touched.
    forwards: BTreeMap<(Ipv4Addr, Transport), Ports>,
    static_nat: BTreeSet<Ipv4Addr>,
    targets: BTreeSet<Ipv4Addr>,
    bags: BTreeSet<Bag>,
    bags6: BTreeSet<Bag>,
    acls: BTreeSet<Mac>,
}

/// Everything.
pub static WHOLE: Scope = Scope::new(true);

impl Scope {
    const fn new(whole: bool) -> Self {
        Self {
            whole,
            forwards: BTreeMap::new(),
            static_nat: BTreeSet::new(),
            targets: BTreeSet::new(),
            bags: BTreeSet::new(),
            bags6: BTreeSet::new(),
            acls: BTreeSet::new(),
        }
    }

    /// What the edits of a state reach, for the same NICs before and after. An address or a tier that comes or goes
    /// reaches everything.
    pub fn of(edits: &Edits, old: &State, new: &State) -> Self {
        let mut scope = Self::new(!edits.addresses.is_empty() || !edits.tiers.is_empty());
        for (key, _) in &edits.forwards {
            let ports = scope.forwards.entry((key.address, key.transport)).or_insert(key.ports);
            *ports = ports.and(key.ports);
        }
        for (address, _) in &edits.static_nat {
            scope.static_nat.insert(*address);
            scope.targets.extend([old, new].iter().filter_map(|state| state.static_nat.get(address)));
        }
        for (id, _) in &edits.firewall {
            scope.bags.extend([old, new].iter().filter_map(|state| state.firewall.get(id)).map(bag));
        }
        for (id, _) in &edits.firewall6 {
            scope.bags6.extend([old, new].iter().filter_map(|state| state.firewall6.get(id)).map(bag));
        }
        scope.acls.extend(edits.acls.iter().map(|(mac, _)| *mac));
        scope
    }

    /// Where the port forwards are that reach into the scope.
    pub fn forwards(&self) -> Vec<RangeInclusive<ForwardKey>> {
        if self.whole {
            return vec![ForwardKey::between(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)];
        }
        let addresses: BTreeSet<Ipv4Addr> = self.forwards.keys().map(|(address, _)| *address).collect();
        addresses.into_iter().map(|address| ForwardKey::between(address, address)).collect()
    }

    /// Whether a port of a public address is in it.
    pub fn has_port(&self, address: Ipv4Addr, transport: Transport, port: u16) -> bool {
        self.whole || self.forwards.get(&(address, transport)).is_some_and(|ports| ports.contains(port))
    }

    /// Whether static NAT of a public address is in it.
    pub fn has_static_nat(&self, address: Ipv4Addr) -> bool {
        self.whole || self.static_nat.contains(&address)
    }

    /// Whether static NAT to a guest is in it.
    pub fn has_target(&self, guest: Ipv4Addr) -> bool {
        self.whole || self.targets.contains(&guest)
    }

    /// Whether a firewall rule of a family is in it.
    pub fn has_rule(&self, family: Family, rule: &FirewallRule) -> bool {
        let bags = match family {
            Family::Four => &self.bags,
            Family::Six => &self.bags6,
        };
        self.whole || bags.contains(&bag(rule))
    }

    /// Whether the lists of a NIC are in it.
    pub fn has_acl(&self, nic: Mac) -> bool {
        self.whole || self.acls.contains(&nic)
    }
}

fn bag(rule: &FirewallRule) -> Bag {
    let port = match rule.packets.protocol {
        Protocol::Transport { transport, ports: Some(ports) } => ports.single().map(|port| (transport, port)),
        _ => None,
    };
    (rule.direction, port)
}
