//! Words of FRR's: everything, or what leads from one to another. All that goes into them is a number, an address or
//! a password without blanks.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::plan::{Neighbor, Speaker};

/// The lines that lead from what is said to what should be said. Neighbours that are the same in both are not named.
pub fn change(old: Option<&Speaker>, new: Option<&Speaker>) -> Vec<String> {
    let mut lines = Vec::new();
    // Another number or identity is another router.
    let old = match (old, new) {
        (Some(old), Some(new)) if (old.number, old.id) == (new.number, new.id) => Some(old),
        (Some(old), _) => {
            lines.push(format!("no router bgp {}", old.number));
            old.neighbors.keys().for_each(|address| lines.push(no_list(*address)));
            None
        }
        (None, _) => None,
    };
    let Some(new) = new else { return lines };
    let nobody = BTreeMap::new();
    let known: &BTreeMap<IpAddr, Neighbor> = old.map_or(&nobody, |old| &old.neighbors);
    // A list is there before anybody is told to keep to it: without one everything would be told.
    for (address, neighbor) in &new.neighbors {
        let before = known.get(address).map(|before| &before.networks);
        if before == Some(&neighbor.networks) {
            continue;
        }
        let gone = before.into_iter().flatten().filter(|net| !neighbor.networks.contains(net));
        lines.extend(neighbor.networks.iter().map(|net| format!("{} permit {net}", list(*address))));
        lines.extend(gone.map(|net| format!("no {} permit {net}", list(*address))));
        if neighbor.networks.is_empty() {
            lines.push(format!("{} deny any", list(*address)));
        } else if before.is_some_and(|before| before.is_empty()) {
            lines.push(format!("no {} deny any", list(*address)));
        }
    }
    lines.push(format!("router bgp {}", new.number));
    if old.is_none() {
        // As the management server's own routers do: what is announced needs no policy, nor a route of its own.
        lines.push(format!("bgp router-id {}", new.id));
        let without = ["ebgp-requires-policy", "network import-check", "default ipv4-unicast"];
        lines.extend(without.map(|habit| format!("no bgp {habit}")));
    }
    let gone = known.iter().filter(|(address, before)| {
        new.neighbors.get(address).is_none_or(|now| !is_same_session(before, now))
    });
    let gone: Vec<IpAddr> = gone.map(|(address, _)| *address).collect();
    lines.extend(gone.iter().map(|address| format!("no neighbor {address}")));
    for (address, neighbor) in &new.neighbors {
        if !known.contains_key(address) || gone.contains(address) {
            lines.extend(session(*address, neighbor));
        }
    }
    let before = old.map(|old| old.networks.clone()).unwrap_or_default();
    for is_six in [false, true] {
        let of = |net: &&IpNet| net.addr().is_ipv6() == is_six;
        let goes = before.difference(&new.networks).filter(of).map(|net| format!("no network {net}"));
        let comes = new.networks.difference(&before).filter(of).map(|net| format!("network {net}"));
        let mut inside: Vec<String> = goes.chain(comes).collect();
        let fresh = new.neighbors.keys().filter(|a| !known.contains_key(a) || gone.contains(a));
        for address in fresh.filter(|address| address.is_ipv6() == is_six) {
            inside.push(format!("neighbor {address} activate"));
            inside.push(format!("neighbor {address} prefix-list {} out", name(*address)));
        }
        if !inside.is_empty() {
            lines.push(format!("address-family {} unicast", if is_six { "ipv6" } else { "ipv4" }));
            lines.append(&mut inside);
            lines.push("exit-address-family".to_owned());
        }
    }
    lines.push("exit".to_owned());
    lines.extend(known.keys().filter(|a| !new.neighbors.contains_key(a)).map(|address| no_list(*address)));
    lines
}

fn is_same_session(one: &Neighbor, other: &Neighbor) -> bool {
    let of = |n: &Neighbor| (n.their, n.known_as, n.password.clone(), n.hops);
    of(one) == of(other)
}

fn session(address: IpAddr, neighbor: &Neighbor) -> Vec<String> {
    let mut lines = vec![format!("neighbor {address} remote-as {}", neighbor.their)];
    let mut add = |words: String| lines.push(format!("neighbor {address} {words}"));
    if let Some(number) = neighbor.known_as {
        add(format!("local-as {number} no-prepend replace-as"));
    }
    if let Some(password) = &neighbor.password {
        add(format!("password {password}"));
    }
    if let Some(hops) = neighbor.hops {
        add(format!("ebgp-multihop {hops}"));
    }
    lines
}

/// What a neighbour may hear of.
fn name(address: IpAddr) -> String {
    format!("to-{address}")
}

fn list(address: IpAddr) -> String {
    let family = if address.is_ipv6() { "ipv6" } else { "ip" };
    format!("{family} prefix-list {}", name(address))
}

fn no_list(address: IpAddr) -> String {
    format!("no {}", list(address))
}
