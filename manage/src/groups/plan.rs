//! From a policy to tables of the packet filter: a pure function.
//!
//! What is said of each port lies in sets and maps by the name of its tap, what is said of groups in a chain for each
//! group and direction, and their members in a set for each group: a new guest is a few elements.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Group, Policy, Port, Rule, Service,
    table::{Ruleset, Table},
};
use crate::zone::Ports;

/// The table with the rules.
pub(super) const RULES: &str = "bridge trivium";
/// The table that marks replies, where the kernel keeps no connections of bridges.
pub(super) const REPLIES: &str = "inet trivium_replies";

/// How a reply is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    /// The kernel keeps connections of bridges (`nf_conntrack_bridge`).
    Bridge,
    /// Bridged packets pass the filter of IP (`br_netfilter`), where connections are kept; one bit of the packet's mark
    /// tells of it.
    Mark,
}

/// The bit of a packet's mark.
const BIT: u32 = 0x2000_0000;

/// What is asked of a neighbour, and answered: always allowed (RFC 4861, RFC 3810).
const NEIGHBOURS: &str =
    "icmpv6 type { 131, 132, 143, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }";

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// The tables for the ports that there are; none where there are no ports.
pub(super) fn plan<'a>(policy: &'a Policy, active: impl Fn(&str) -> bool, tracking: Tracking) -> Ruleset {
    let ports: Vec<(&'a str, &'a Port)> = policy
        .ports
        .iter()
        .filter(|(tap, port)| port.standing || active(tap))
        .map(|(tap, port)| (tap.as_str(), port))
        .collect();
    let mut ruleset = Ruleset::new();
    if ports.is_empty() {
        return ruleset;
    }
    let mut table = Table::default();
    skeleton(&mut table, tracking);
    for (tap, port) in &ports {
        plug(&mut table, policy, tap, port);
    }
    groups(&mut table, policy, &ports);
    ruleset.insert(RULES, table);
    if tracking == Tracking::Mark {
        ruleset.insert(REPLIES, replies(&ports));
    }
    ruleset
}

/// What is the same for all ports.
fn skeleton(table: &mut Table, tracking: Tracking) {
    table.set("taps", "type ifname");
    table.set("macs", "type ifname . ether_addr");
    table.set("four", "type ifname . ipv4_addr");
    table.set("six", "type ifname . ipv6_addr");
    table.set("routers", "type ifname . ipv4_addr");
    table.set("adverts", "type ifname : verdict");
    table.set("ingress", "type ifname : verdict");
    table.set("egress", "type ifname : verdict");
    // Before the bridge learns from a packet where its sender is.
    let first = "type filter hook prerouting priority -300; policy accept;";
    table.chain("come", first, ["iifname @taps jump spoof"]);
    // Packets in pieces are whole again here, also where connections are kept by the filter of IP (priority 0).
    let hook = "type filter hook forward priority 10; policy accept;";
    table.chain("leave_through", hook, ["iifname @taps jump leave"]);
    let hook = "type filter hook input priority 10; policy accept;";
    table.chain("leave_to_host", hook, ["iifname @taps jump leave"]);
    let hook = "type filter hook forward priority 11; policy accept;";
    table.chain("enter_through", hook, ["oifname @taps jump enter"]);
    let hook = "type filter hook output priority 11; policy accept;";
    table.chain("enter_from_host", hook, ["oifname @taps jump enter"]);
    table.chain(
        "spoof",
        "",
        [
            // VLAN tags and all else are not a guest's business.
            "ether type != { arp, ip, ip6 } drop",
            "iifname . ether saddr != @macs drop",
            "ether type arp iifname . arp saddr ether != @macs drop",
            // Who looks whether an address is in use has none yet (RFC 5227).
            "ether type arp arp operation request arp saddr ip 0.0.0.0 return",
            "ether type arp iifname . arp saddr ip != @four drop",
            "ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 return",
            "ether type ip iifname . ip saddr != @four drop",
            "ether type ip6 ip6 saddr :: icmpv6 type { nd-router-solicit, nd-neighbor-solicit, 143 } return",
            "ether type ip6 iifname . ip6 saddr != @six drop",
        ],
    );
    let reply = match tracking {
        Tracking::Bridge => "ct state established,related".to_owned(),
        Tracking::Mark => format!("meta mark and {BIT:#x} == {BIT:#x}"),
    };
    table.chain(
        "leave",
        "",
        [
            // A guest is no server of addresses and no router.
            "udp sport 67 udp dport { 67, 68 } drop".to_owned(),
            "udp sport 547 udp dport 546 drop".to_owned(),
            "icmpv6 type { nd-router-advert, nd-redirect } drop".to_owned(),
            "icmpv6 type nd-neighbor-advert iifname vmap @adverts".to_owned(),
            "ether type arp accept".to_owned(),
            format!("{reply} accept"),
            format!("{NEIGHBOURS} accept"),
            "ip saddr 0.0.0.0 accept".to_owned(),
            "iifname . ip daddr @routers udp dport { 53, 67 } accept".to_owned(),
            "iifname . ip daddr @routers tcp dport 53 accept".to_owned(),
            "udp sport 546 udp dport 547 accept".to_owned(),
            "iifname vmap @egress".to_owned(),
        ],
    );
    table.chain(
        "enter",
        "",
        [
            "ether type arp accept".to_owned(),
            format!("{reply} accept"),
            "icmpv6 type { 130, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept"
                .to_owned(),
            "oifname . ip saddr @routers udp sport 67 udp dport 68 accept".to_owned(),
            "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept".to_owned(),
            "oifname vmap @ingress".to_owned(),
            "drop".to_owned(),
        ],
    );
}

/// What is said of one port.
fn plug(table: &mut Table, policy: &Policy, tap: &str, port: &Port) {
    let name = format!("\"{tap}\"");
    table.add("taps", name.clone());
    table.add("macs", format!("{name} . {}", port.mac));
    table.add("routers", format!("{name} . {}", port.router));
    let mut six: BTreeSet<Ipv6Addr> = link_local(&port.mac).into_iter().collect();
    for address in &port.addresses {
        match address {
            IpAddr::V4(address) => {
                table.add("four", format!("{name} . {address}"));
            }
            IpAddr::V6(address) => {
                six.insert(*address);
            }
        }
    }
    for address in &six {
        table.add("six", format!("{name} . {address}"));
    }
    let adverts = format!("adverts/{tap}");
    table.add("adverts", format!("{name} : jump {adverts}"));
    // The address that a neighbour tells of, which this program has no name for.
    let told: Vec<String> = six.iter().map(|address| format!("{:#034x}", u128::from(*address))).collect();
    let own = format!("@th,64,128 {{ {} }} return", told.join(", "));
    table.chain(adverts, "", [own, "drop".to_owned()]);

    let has = |rules: fn(&Group) -> &Vec<Rule>| -> Vec<&str> {
        let with = |name: &&String| policy.groups.get(*name).is_some_and(|group| !rules(group).is_empty());
        port.groups.iter().filter(with).map(String::as_str).collect()
    };
    let ingress = has(|group| &group.ingress);
    if !ingress.is_empty() {
        let chain = format!("in/{}", ingress.join("/"));
        table.add("ingress", format!("{name} : jump {chain}"));
        table.chain(chain, "", ingress.iter().map(|group| format!("jump ingress/{group}")));
    }
    let egress = has(|group| &group.egress);
    if !egress.is_empty() {
        let chain = format!("out/{}", egress.join("/"));
        table.add("egress", format!("{name} : jump {chain}"));
        let jumps = egress.iter().map(|group| format!("jump egress/{group}"));
        table.chain(chain, "", jumps.chain(["drop".to_owned()]));
    }
}

/// The address that a NIC gives itself (RFC 4291, appendix A).
fn link_local(mac: &str) -> Option<Ipv6Addr> {
    let bytes: Vec<u8> = mac.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let [a, b, c, d, e, f] = bytes[..] else { return None };
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Some(Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)))
}

/// What is said of the groups of these ports, and the members of those that they name.
fn groups(table: &mut Table, policy: &Policy, ports: &[(&str, &Port)]) {
    let used: BTreeSet<&String> = ports.iter().flat_map(|(_, port)| &port.groups).collect();
    for (name, group) in used.iter().filter_map(|name| Some((name, policy.groups.get(*name)?))) {
        let sides = [("ingress", &group.ingress, Direction::In), ("egress", &group.egress, Direction::Out)];
        for (word, list, direction) in sides.into_iter().filter(|(_, list, _)| !list.is_empty()) {
            let mut rules = Vec::new();
            for (number, rule) in (1..).zip(list) {
                let comment = format!("comment \"{name} {word} {number}\"");
                rules.extend(
                    lines(rule, direction).into_iter().map(|line| format!("{line} accept {comment}")),
                );
                for other in &rule.groups {
                    members(table, policy, other);
                }
            }
            table.chain(format!("{word}/{name}"), "", rules);
        }
    }
}

fn members(table: &mut Table, policy: &Policy, name: &str) {
    let nobody = BTreeSet::new();
    let members = policy.groups.get(name).map_or(&nobody, |group| &group.members);
    table.set(format!("{name}/4"), "type ipv4_addr");
    table.set(format!("{name}/6"), "type ipv6_addr");
    for address in members {
        let family = if address.is_ipv4() { 4 } else { 6 };
        table.add(&format!("{name}/{family}"), address.to_string());
    }
}

/// The conditions that a rule stands for; it allows what fulfils any of them.
fn lines(rule: &Rule, direction: Direction) -> Vec<String> {
    let side = match direction {
        Direction::In => "saddr",
        Direction::Out => "daddr",
    };
    let service = match rule.service {
        Service::All => String::new(),
        Service::Tcp(None) => "meta l4proto tcp".to_owned(),
        Service::Udp(None) => "meta l4proto udp".to_owned(),
        Service::Tcp(Some(ports)) => format!("tcp dport {}", range(ports)),
        Service::Udp(Some(ports)) => format!("udp dport {}", range(ports)),
        Service::Icmp(kind, code) => icmp("ip protocol icmp", "icmp", kind, code),
        Service::Icmpv6(kind, code) => icmp("meta l4proto ipv6-icmp", "icmpv6", kind, code),
    };
    let (four, six) = match rule.service {
        Service::Icmp(..) => (true, false),
        Service::Icmpv6(..) => (false, true),
        _ => (true, true),
    };
    let mut peers = Vec::new();
    if rule.nets.is_empty() && rule.groups.is_empty() {
        peers.extend(four.then(|| "ether type ip".to_owned()));
        peers.extend(six.then(|| "ether type ip6".to_owned()));
    }
    // The program refuses networks that overlap.
    let (nets4, nets6): (Vec<_>, Vec<_>) =
        IpNet::aggregate(&rule.nets).into_iter().partition(|net| net.addr().is_ipv4());
    peers.extend(networks("ip", side, &nets4));
    peers.extend(networks("ip6", side, &nets6));
    for group in &rule.groups {
        peers.extend(four.then(|| format!("ip {side} @{group}/4")));
        peers.extend(six.then(|| format!("ip6 {side} @{group}/6")));
    }
    peers.into_iter().map(|peer| format!("{peer} {service}").trim_end().to_owned()).collect()
}

fn range(ports: Ports) -> String {
    if ports.first == ports.last {
        ports.first.to_string()
    } else {
        format!("{}-{}", ports.first, ports.last)
    }
}

fn icmp(any: &str, word: &str, kind: Option<u8>, code: Option<u8>) -> String {
    match (kind, code) {
        (None, _) => any.to_owned(),
        (Some(kind), None) => format!("{word} type {kind}"),
        (Some(kind), Some(code)) => format!("{word} type {kind} {word} code {code}"),
    }
}

fn networks(header: &str, side: &str, nets: &[IpNet]) -> Option<String> {
    if nets.is_empty() {
        return None;
    }
    if nets.iter().any(|net| net.prefix_len() == 0) {
        return Some(format!("ether type {header}"));
    }
    let list: Vec<String> = nets.iter().map(ToString::to_string).collect();
    Some(format!("{header} {side} {{ {} }}", list.join(", ")))
}

/// Marks what belongs to a connection that is known, on its way over a bridge with ports.
fn replies(ports: &[(&str, &Port)]) -> Table {
    let mut table = Table::default();
    table.set("bridges", "type ifname");
    for (_, port) in ports {
        table.add("bridges", format!("\"{}\"", port.bridge));
    }
    let steps = |side: &str| {
        [
            format!("{side} @bridges meta mark set meta mark and {:#x}", !BIT),
            format!("{side} @bridges ct state established,related meta mark set meta mark or {BIT:#x}"),
        ]
    };
    let hook = "type filter hook prerouting priority -150; policy accept;";
    table.chain("come", hook, steps("iifname"));
    // What the host itself sends, or routes, to a bridge.
    let hook = "type filter hook postrouting priority -150; policy accept;";
    table.chain("go", hook, steps("oifname"));
    table
}
