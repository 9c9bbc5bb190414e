//! From the zone to what each host enforces: a pure function.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Policy, Port};
use crate::{db::Vm, index::Index, machine::tap, zone::Network};

/// The policy of each host that has ports.
pub(crate) fn policies(index: &Index<'_>, vms: &[Vm]) -> BTreeMap<String, Policy> {
    let mut policies: BTreeMap<String, Policy> = BTreeMap::new();
    let mut members: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut put = |host: Option<&String>, tap: String, port: Port| {
        if let Some(host) = host {
            policies.entry(host.clone()).or_default().ports.insert(tap, port);
        }
    };
    let build = |network: &Network, mac: &str, groups: &BTreeSet<String>, addresses, standing| Port {
        bridge: network.bridge.clone(),
        mac: mac.to_owned(),
        addresses,
        groups: groups.clone(),
        router: network.router(),
        standing,
    };
    for vm in vms {
        let Some(guest) = index.guest(vm) else { continue };
        let Some(network) = index.network(&guest.network).filter(|network| network.is_guarded()) else {
            continue;
        };
        let Some((nic, number)) = vm.nics.first().zip(u64::try_from(vm.id).ok()) else { continue };
        let addresses = all(guest.address.into(), &guest.addresses);
        for group in &guest.groups {
            members.entry(group).or_default().extend(&addresses);
        }
        let port = build(network, &nic.mac, &guest.groups, addresses, false);
        put(vm.host.as_ref(), tap(number, nic.device), port);
    }
    for port in &index.zone.ports {
        let Some(network) = index.network(&port.network) else { continue };
        let addresses = all(port.address.into(), &port.addresses);
        for group in &port.groups {
            members.entry(group).or_default().extend(&addresses);
        }
        put(Some(&port.host), port.tap.clone(), build(network, &port.mac, &port.groups, addresses, true));
    }
    let known: BTreeMap<&str, _> =
        index.zone.groups.iter().map(|group| (group.name.as_str(), group)).collect();
    let found = |name: &str| members.get(name).cloned().unwrap_or_default();
    for policy in policies.values_mut() {
        let used: BTreeSet<String> = policy.ports.values().flat_map(|port| port.groups.clone()).collect();
        for (name, group) in used.iter().filter_map(|name| Some((name, known.get(name.as_str())?))) {
            for other in group.ingress.iter().chain(&group.egress).flat_map(|rule| &rule.groups) {
                // Of those that are only named the members are enough.
                policy.groups.entry(other.clone()).or_default().members = found(other);
            }
            let entry = policy.groups.entry(name.clone()).or_default();
            (entry.ingress, entry.egress) = (group.ingress.clone(), group.egress.clone());
        }
    }
    policies
}

fn all(first: IpAddr, more: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    std::iter::once(first).chain(more.iter().copied()).collect()
}
