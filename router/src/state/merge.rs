//! How documents change the state. Each document is checked first and merged then, so that a refused
//! one has changed nothing.

use std::{net::Ipv4Addr, sync::Arc};

use imbl::OrdMap;

use super::{Address, Direction, FirewallRule, ForwardKey, Kind, LIMIT, Setup, State};
use crate::{
    balance::{can_spread, is_own},
    document::{
        AddressChange, BalanceChange, BgpChange, DhcpChange, DocumentError, FirewallChange, ForwardChange,
        MonitorChange, Refusal, StaticNatChange,
    },
    types::Transport,
};

/// Most peers.
const PEERS: usize = 1000;

impl State {
    /// Merges an `ips` document (router contract 3.5). A released address is forgotten with all that
    /// its item says; rules that name it stay and wait for its return.
    pub fn merge_addresses(&mut self, setup: &Setup, changes: &[AddressChange]) -> Result<(), DocumentError> {
        for change in changes {
            let at = |member: &str| format!("{}.{member}", change.path);
            if let Some(nic) = setup.inner().find(|nic| nic.address == change.address) {
                let reason = format!("{} is the address of {}", change.address, nic.name());
                return Err(DocumentError::new(at("public_ip"), reason));
            }
            if change.private_gateway && setup.kind != Kind::Vpc {
                return Err(DocumentError::new(at("is_private_gateway"), "only a VPC has private gateways"));
            }
            let known = self.addresses.contains_key(&change.address);
            if change.add && change.mac.is_none() && change.index.is_none() && !known {
                let reason = "neither it nor nic_dev_id tells the NIC";
                return Err(DocumentError::new(at("vif_mac_address"), reason));
            }
            let is_inner = |n| setup.inner().any(|nic| nic.index == n);
            if change.index.is_some_and(is_inner) && change.mac.is_none() {
                return Err(DocumentError::new(at("nic_dev_id"), "is not a public NIC"));
            }
        }
        room("ip_address", self.addresses.len(), changes.len())?;
        for change in changes {
            let before = self.addresses.remove(&change.address);
            let Some(prefix) = change.prefix.filter(|_| change.add) else { continue };
            let boot = setup.public.as_ref().is_some_and(|nic| nic.address == change.address);
            let (mac, index) = match (change.mac, change.index) {
                (None, None) => before.map_or((None, None), |b| (b.mac, b.index)),
                told => told,
            };
            let address = Address {
                prefix,
                gateway: change.gateway,
                mac,
                index,
                source_nat: change.source_nat,
                boot,
                mtu: change.mtu,
                private_gateway: change.private_gateway,
            };
            self.addresses.insert(change.address, address);
        }
        Ok(())
    }

    /// Merges a `forwardrules` document (3.11): a rule replaces, or a revocation removes, those of the
    /// same key whose sources collide with its own.
    pub fn merge_forwards(&mut self, setup: &Setup, changes: &[ForwardChange]) -> Result<(), DocumentError> {
        for change in changes.iter().filter(|c| !c.revoke) {
            must_translate(setup, &change.path)?;
            self.must_have(change.key.address, &change.path, "source_ip_address")?;
        }
        room("rules", self.forwards.len(), changes.len())?;
        for change in changes {
            let all = self.forwards.entry(change.key).or_default();
            all.retain(|f| !f.sources.collides(&change.forward.sources));
            if !change.revoke {
                // Static NAT takes every port: the later of the two stays.
                self.static_nat.remove(&change.key.address);
                all.push(change.forward.clone());
                all.sort();
            }
            if all.is_empty() {
                self.forwards.remove(&change.key);
            }
        }
        Ok(())
    }

    /// Merges a `staticnatrules` document (3.12): static NAT takes the place of all that the address
    /// had, a revocation leaves nothing.
    pub fn merge_static_nat(
        &mut self,
        setup: &Setup,
        changes: &[StaticNatChange],
    ) -> Result<(), DocumentError> {
        for change in changes.iter().filter(|c| !c.revoke) {
            must_translate(setup, &change.path)?;
            self.must_have(change.address, &change.path, "source_ip_address")?;
        }
        room("rules", self.static_nat.len(), changes.len())?;
        for change in changes {
            let all = self.forwards.range(ForwardKey::between(change.address, change.address));
            let all: Vec<ForwardKey> = all.map(|(key, _)| *key).collect();
            all.iter().for_each(|key| drop(self.forwards.remove(key)));
            self.static_nat.remove(&change.address);
            if let Some(target) = change.target.filter(|_| !change.revoke) {
                self.static_nat.insert(change.address, target);
            }
        }
        Ok(())
    }

    /// Merges a `firewallrules` document (3.13): a rule that is known is not changed by a later one
    /// of the same identity.
    pub fn merge_firewall(&mut self, setup: &Setup, changes: &[FirewallChange]) -> Result<(), DocumentError> {
        for change in changes {
            match change.rule.as_ref().map(|r| r.direction) {
                Some(Direction::Ingress { address }) => self.must_have(address, &change.path, "src_ip")?,
                Some(Direction::Inward) if !setup.routed => {
                    return Err(DocumentError::new(format!("{}.src_ip", change.path), "is missing"));
                }
                _ => {}
            }
        }
        merge_rules(&mut self.firewall, changes)
    }

    /// Merges an `ipv6firewallrules` document, the same way.
    pub fn merge_firewall6(
        &mut self,
        setup: &Setup,
        changes: &[FirewallChange],
    ) -> Result<(), DocumentError> {
        if setup.kind != Kind::Isolated {
            return Err(DocumentError::new(
                "type",
                "ipv6firewallrules is for the router of an isolated network",
            ));
        }
        merge_rules(&mut self.firewall6, changes)
    }

    /// Merges a `dhcpentry` document (3.8): one reservation per MAC and per address. A removal takes
    /// what the MAC has, and leaves the address to whoever has it by now.
    pub fn merge_host(&mut self, change: &DhcpChange) -> Result<(), DocumentError> {
        room("ipv4_address", self.hosts.len(), 1)?;
        if change.remove {
            self.hosts.remove_mac(change.host.mac);
        } else {
            self.hosts.insert(change.host.clone());
        }
        Ok(())
    }

    /// Merges a `monitorservice` document (3.20).
    pub fn merge_monitor(&mut self, change: &MonitorChange) {
        let monitor = Arc::make_mut(&mut self.monitor);
        monitor.enabled = change.enabled.unwrap_or(monitor.enabled);
        if let Some(excluded) = &change.excluded {
            monitor.excluded.clone_from(excluded);
        }
        if let Some(parameters) = &change.parameters {
            monitor.parameters.clone_from(parameters);
        }
    }

    /// Merges a `loadbalancer` document (3.14): it is all that is to be balanced. What of it was refused stays as it
    /// was, and so does a rule whose address this router does not have; those are returned.
    pub fn merge_balance(&mut self, setup: &Setup, change: &BalanceChange) -> Vec<Refusal> {
        let mut refused = change.refused.clone();
        let mut next = change.balance.clone();
        next.rules.retain(|front, _| {
            let reason = if !is_own(setup, self, front.address) {
                format!("{} is no address of this router", front.address)
            } else if front.transport == Transport::Udp && !can_spread(setup) {
                "this router balances no datagrams".to_owned()
            } else {
                return true;
            };
            refused.push(Refusal { front: Some(*front), name: front.to_string(), reason });
            false
        });
        for front in refused.iter().filter_map(|refusal| refusal.front) {
            if let Some(before) = self.balance.rules.get(&front) {
                next.rules.entry(front).or_insert_with(|| before.clone());
            }
        }
        self.balance = Arc::new(next);
        refused
    }

    /// Merges a `bgppeers` document (3.21): it is all peers.
    pub fn merge_peers(&mut self, setup: &Setup, change: &BgpChange) -> Result<(), DocumentError> {
        if !setup.kind.forwards() {
            return Err(DocumentError::new("type", "bgppeers: nothing passes through this router"));
        }
        if change.peers.len() > PEERS {
            return Err(DocumentError::new("peers", format_args!("holds more than {PEERS} peers")));
        }
        self.peers = Arc::new(change.peers.clone());
        Ok(())
    }

    fn must_have(&self, address: Ipv4Addr, path: &str, member: &str) -> Result<(), DocumentError> {
        if self.addresses.get(&address).is_some_and(|a| !a.private_gateway) {
            return Ok(());
        }
        Err(DocumentError::new(
            format!("{path}.{member}"),
            format_args!("{address} is no public address of this router"),
        ))
    }
}

fn merge_rules(
    rules: &mut OrdMap<u64, FirewallRule>,
    changes: &[FirewallChange],
) -> Result<(), DocumentError> {
    room("rules", rules.len(), changes.len())?;
    for change in changes {
        match &change.rule {
            None => drop(rules.remove(&change.id)),
            Some(rule) => {
                rules.entry(change.id).or_insert_with(|| rule.clone());
            }
        }
    }
    Ok(())
}

fn must_translate(setup: &Setup, path: &str) -> Result<(), DocumentError> {
    if setup.kind.forwards() && !setup.routed {
        return Ok(());
    }
    Err(DocumentError::new(path, "this router translates no addresses"))
}

pub(super) fn room(path: &str, present: usize, more: usize) -> Result<(), DocumentError> {
    if present + more <= LIMIT {
        return Ok(());
    }
    Err(DocumentError::new(path, format_args!("would make more than {LIMIT} entries")))
}
