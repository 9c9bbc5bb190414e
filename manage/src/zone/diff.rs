//! What differs between two zones, and what that does.

use std::{collections::BTreeSet, time::Duration};

use super::{Guest, Network, SecurityGroup, Zone};

/// What applying `new` over `old` does, a line each: `+` comes, `-` goes, `~` changes.
///
/// # Errors
/// Keys that cannot change while the manager runs.
pub(crate) fn diff(old: &Zone, new: &Zone) -> Result<Vec<String>, String> {
    fixed(old, new)?;
    let mut lines = Vec::new();
    named(
        &mut lines,
        &old.hosts,
        &new.hosts,
        |host| &host.name,
        |line| match line {
            Line::Comes => vec!["+ host NAME: a file to join with is written; it gets a vote".to_owned()],
            Line::Goes => vec!["- host NAME: it is let in no more and loses its vote".to_owned()],
            Line::Both(a, b) if a.address != b.address => {
                vec!["~ host NAME: address; it must join again (`manage host-token NAME`)".to_owned()]
            }
            Line::Both(..) => {
                vec!["~ host NAME: its fence command, tags or memory; no VM is moved for it".to_owned()]
            }
        },
    );
    named(
        &mut lines,
        &old.networks,
        &new.networks,
        |network| &network.name,
        |line| match line {
            Line::Comes => vec!["+ network NAME: a router is started".to_owned()],
            Line::Goes => vec!["- network NAME: its router is stopped".to_owned()],
            Line::Both(a, b) => network(a, b),
        },
    );
    named(
        &mut lines,
        &old.stores,
        &new.stores,
        |store| &store.name,
        |line| match line {
            Line::Comes => vec!["+ store NAME: the SSVM attaches it".to_owned()],
            Line::Goes => vec!["- store NAME: nothing new goes there; what it holds stays".to_owned()],
            Line::Both(..) => vec!["~ store NAME: the SSVM attaches it anew".to_owned()],
        },
    );
    named(
        &mut lines,
        &old.guests,
        &new.guests,
        |guest| &guest.name,
        |line| match line {
            Line::Comes => vec!["+ guest NAME: it is started".to_owned()],
            Line::Goes => vec!["- guest NAME: it is stopped; its disk stays".to_owned()],
            Line::Both(a, b) => guest(a, b),
        },
    );
    named(
        &mut lines,
        &old.ports,
        &new.ports,
        |port| &port.name,
        |line| match line {
            Line::Comes => vec!["+ port NAME: its host guards its tap, and its router is told".to_owned()],
            Line::Goes => {
                vec!["- port NAME: its tap is guarded no longer, and its router is told".to_owned()]
            }
            Line::Both(a, b) if a.groups != b.groups => {
                vec![format!("~ port NAME: {}; hosts are told", moves(&a.groups, &b.groups))]
            }
            Line::Both(..) => vec!["~ port NAME: its host and router are told".to_owned()],
        },
    );
    named(
        &mut lines,
        &old.groups,
        &new.groups,
        |group| &group.name,
        |line| match line {
            Line::Comes => vec!["+ security group NAME".to_owned()],
            Line::Goes => vec!["- security group NAME".to_owned()],
            Line::Both(a, b) => group(a, b),
        },
    );
    for (what, differs, effect) in [
        ("system.ssvm", old.system.ssvm != new.system.ssvm, "the SSVM is started or stopped"),
        ("system.cpvm", old.system.cpvm != new.system.cpvm, "the CPVM is started or stopped"),
        (
            "system.ssvm_max, ssvm_transfers, cpvm_max, cpvm_sessions or spare_after",
            crews(old) != crews(new),
            "as many run as there is to do",
        ),
        (
            "system.image or system.memory",
            (&old.system.image, old.system.memory_mib) != (&new.system.image, new.system.memory_mib),
            "when each system VM starts again",
        ),
        ("system.placement", old.system.placement != new.system.placement, "for VMs that are started"),
        ("system.kernel", old.system.kernel != new.system.kernel, "for hosts that join"),
        ("zone.internal_sites", old.internal_sites != new.internal_sites, "the SSVM is told"),
        ("zone.fence_after", old.fence_after != new.fence_after, "hosts are told"),
        (
            "zone.name, zone.dns, zone.internal_dns or zone.ntp",
            (&old.name, &old.dns, &old.internal_dns, &old.ntp)
                != (&new.name, &new.dns, &new.internal_dns, &new.ntp),
            "when each system VM starts again",
        ),
        ("public", old.public != new.public, "when each system VM starts again"),
    ] {
        if differs {
            lines.push(format!("~ {what}: {effect}"));
        }
    }
    Ok(lines)
}

fn crews(zone: &Zone) -> (u32, u32, u32, u32, Duration) {
    let system = &zone.system;
    (system.ssvm_max, system.ssvm_transfers, system.cpvm_max, system.cpvm_sessions, system.spare_after)
}

fn fixed(old: &Zone, new: &Zone) -> Result<(), String> {
    let keys = [
        ("zone.id", old.id != new.id),
        ("zone.pod", old.pod != new.pod),
        ("zone.ping_interval", old.ping_interval != new.ping_interval),
        ("[management]", old.management != new.management),
        ("[control]", old.control_bridge != new.control_bridge),
    ];
    let changed: Vec<&str> = keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let keys = changed.join(", ");
    Err(format!(
        "{keys}: cannot change while the manager runs; start `manage serve` again. Nothing was applied"
    ))
}

enum Line<'a, T> {
    Comes,
    Goes,
    Both(&'a T, &'a T),
}

/// Compares two lists of things with names.
fn named<T: PartialEq>(
    lines: &mut Vec<String>,
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> &String,
    say: impl Fn(Line<'_, T>) -> Vec<String>,
) {
    let mut put = |thing: &T, said: Vec<String>| {
        lines.extend(said.into_iter().map(|line| line.replace("NAME", name(thing))));
    };
    for thing in old {
        match new.iter().find(|other| name(other) == name(thing)) {
            None => put(thing, say(Line::Goes)),
            Some(other) if other != thing => put(thing, say(Line::Both(thing, other))),
            Some(_) => {}
        }
    }
    for thing in new.iter().filter(|thing| !old.iter().any(|other| name(other) == name(thing))) {
        put(thing, say(Line::Comes));
    }
}

fn network(old: &Network, new: &Network) -> Vec<String> {
    let mut lines = Vec::new();
    let boot = |n: &Network| (n.bridge.clone(), n.net, n.gateway, n.domain.clone(), n.source_nat, n.kind);
    if boot(old) != boot(new) {
        lines.push(
            "~ network NAME: bridge, subnet, gateway, domain or source NAT address; when its VMs start again"
                .to_owned(),
        );
    }
    if old.host_tag != new.host_tag {
        lines.push("~ network NAME: host tag; when its router is placed again".to_owned());
    }
    let rest = Network {
        bridge: old.bridge.clone(),
        net: old.net,
        gateway: old.gateway,
        domain: old.domain.clone(),
        source_nat: old.source_nat,
        kind: old.kind,
        host_tag: old.host_tag.clone(),
        ..new.clone()
    };
    if *old != rest {
        lines.push("~ network NAME: its router gets the rules that differ".to_owned());
    }
    lines
}

/// What differs of a group, rule by rule.
fn group(old: &SecurityGroup, new: &SecurityGroup) -> Vec<String> {
    let mut lines = Vec::new();
    for (word, towards, old, new) in
        [("ingress", "from", &old.ingress, &new.ingress), ("egress", "to", &old.egress, &new.egress)]
    {
        for rule in old.iter().filter(|rule| !new.contains(rule)) {
            lines.push(format!("~ security group NAME: - {word} {}", rule.text(towards)));
        }
        for rule in new.iter().filter(|rule| !old.contains(rule)) {
            lines.push(format!("~ security group NAME: + {word} {}", rule.text(towards)));
        }
    }
    if lines.is_empty() {
        lines.push("~ security group NAME: order of its rules".to_owned());
    }
    lines
}

/// The groups that somebody joins and leaves.
fn moves(old: &BTreeSet<String>, new: &BTreeSet<String>) -> String {
    let joins = new.difference(old).map(|name| format!("joins security group {name}"));
    let leaves = old.difference(new).map(|name| format!("leaves security group {name}"));
    joins.chain(leaves).collect::<Vec<_>>().join(", ")
}

fn guest(old: &Guest, new: &Guest) -> Vec<String> {
    let told =
        |g: &Guest| (g.address, g.mac.clone(), g.user_data.clone(), g.public_key.clone(), g.password.clone());
    let machine =
        |g: &Guest| (g.network.clone(), g.boot.clone(), g.memory_mib, g.mac.clone(), g.host_tag.clone());
    let mut lines = Vec::new();
    if old.groups != new.groups {
        lines.push(format!("~ guest NAME: {}; hosts are told", moves(&old.groups, &new.groups)));
    }
    if old.addresses != new.addresses {
        lines.push("~ guest NAME: more addresses; hosts are told".to_owned());
    }
    if told(old) != told(new) {
        lines.push("~ guest NAME: its router is told".to_owned());
    }
    if machine(old) != machine(new) {
        lines.push(
            "~ guest NAME: network, disk, kernel, memory, MAC or host tag; when it starts again".to_owned(),
        );
    }
    lines
}
