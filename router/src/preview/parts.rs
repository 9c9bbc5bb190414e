//! Everything but the packet filter, a line for each thing.

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::{
    balance::Balance,
    link::Links,
    snapshot::{Dhcp, Dns, Metadata},
    state::Hosts,
};

type Lines = BTreeSet<String>;

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

pub(super) fn links(links: &Links) -> Lines {
    let mut lines = Lines::new();
    for (name, nic) in &links.nics {
        lines.extend(nic.addresses.iter().map(|address| format!("{name} address {address}")));
        lines.extend(nic.six.iter().map(|address| format!("{name} address {address}")));
        lines.extend(nic.mtu.map(|mtu| format!("{name} MTU {mtu}")));
    }
    lines.extend(links.routes.iter().map(|route| match &route.via {
        Some(via) => {
            format!("route to {} by {} of {}, table {}", route.destination, via.gateway, via.nic, route.table)
        }
        None => format!("route to {} is not for table {}", route.destination, route.table),
    }));
    lines.extend(links.rules.iter().map(|rule| {
        let whose = match (rule.source, rule.mark) {
            (Some(net), _) => format!("packets from {net}"),
            (None, Some(mark)) => format!("packets with mark {mark}"),
            (None, None) => "all packets".to_owned(),
        };
        format!("{whose} look in table {} (preference {})", rule.table, rule.preference)
    }));
    lines
}

#[expect(clippy::ptr_arg, reason = "compared as what it is a member of")]
pub(super) fn settings(settings: &Vec<(String, String)>) -> Lines {
    settings.iter().map(|(key, value)| format!("{key} = {value}")).collect()
}

/// Certificates have keys in them: only that there is one is told.
pub(super) fn balance(balance: &Balance) -> Lines {
    let mut lines = Lines::new();
    for (front, rule) in &balance.rules {
        let mode = if rule.http { "HTTP" } else { "TCP" };
        let tls = if rule.tls.is_some() { " behind TLS" } else { "" };
        let sources = if rule.sources.is_any() {
            String::new()
        } else {
            format!(", from {}", list(rule.sources.as_slice()))
        };
        let word = rule.algorithm.word();
        lines.insert(format!("{front} {mode}{tls} {word}{sources}"));
        lines.extend(rule.servers.iter().map(|server| format!("{front} server {server}")));
        lines.extend(rule.stickiness.iter().map(|stickiness| format!("{front} {stickiness:?}")));
        lines.extend(rule.timeouts.iter().map(|(name, time)| format!("{front} timeout {name} {}", time.0)));
        lines.extend(rule.connections.map(|most| format!("{front} at most {most} connections")));
        // What is left to tell apart: certificates by their digest.
        lines.extend(rule.tls.iter().map(|tls| {
            let digest = crate::balance::config::certificate(&tls.pem);
            format!("{front} certificate {digest}")
        }));
    }
    lines.extend(balance.pages.keys().map(|at| format!("statistics at {at}")));
    lines.extend(balance.limits.connections.map(|most| format!("at most {most} connections in all")));
    lines
}

pub(super) fn dhcp((dhcp, hosts): &(Dhcp, Hosts)) -> Lines {
    let mut lines = Lines::new();
    for subnet in &dhcp.subnets {
        let (network, nic, router) = (subnet.network, &subnet.nic, subnet.router);
        let (resolvers, domain, mtu) = (list(&subnet.resolvers), &subnet.domain, subnet.mtu);
        lines.insert(format!(
            "network {network} on {nic}: server {router}, resolvers {resolvers}, domain {domain}, MTU {mtu}"
        ));
    }
    for host in hosts.values().filter(|host| dhcp.subnets.iter().any(|s| s.has_host(host.address))) {
        let gateway = match (host.default_nic, host.gateway) {
            (true, Some(gateway)) => format!("gateway {gateway}"),
            (true, None) => "no gateway".to_owned(),
            (false, _) => "not its main NIC".to_owned(),
        };
        lines.insert(format!("{} to {} ({}), {gateway}", host.address, host.mac, host.name));
    }
    lines
}

pub(super) fn dns((dns, hosts): &(Dns, Hosts)) -> Lines {
    let is_near = |address| dns.subnets.iter().any(|subnet| subnet.network.contains(&address));
    let named = hosts.values().filter(|host| !host.name.is_empty() && !dns.subnets.is_empty());
    let here = named.filter(|host| !dns.near_only || is_near(host.address));
    let mut lines: Lines = here.map(|host| format!("{} is {}", host.name, host.address)).collect();
    lines.extend(dns.domains.iter().map(|domain| format!("domain {domain} is answered here")));
    lines.extend(dns.subnets.iter().map(|subnet| format!("{} may ask {}", subnet.network, subnet.router)));
    lines
}

/// Values may be anything, and may be secret: their lengths are told.
pub(super) fn metadata(guest: Ipv4Addr, data: &Metadata) -> Lines {
    // A digest tells values of one length apart.
    let told = |value: &str| {
        use std::hash::{Hash as _, Hasher as _};
        let mut hasher = std::hash::DefaultHasher::new();
        value.hash(&mut hasher);
        format!("{} bytes, digest {:08x}", value.len(), hasher.finish() as u32)
    };
    let keys = data.keys.iter().map(|(key, value)| format!("{guest} {key} ({})", told(value)));
    keys.chain(data.user_data.iter().map(|data| format!("{guest} user-data ({} in base64)", told(data))))
        .collect()
}
