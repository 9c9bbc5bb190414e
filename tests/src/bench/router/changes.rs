//! One change among many, and everything at once.

use std::time::Duration;

use super::{
    super::{Figure, Floor},
    lab::{self, Lab},
    peer::Peer,
};

/// Tiers of the VPC.
const TIERS: u8 = 10;
/// Changes of each kind.
const EACH: u32 = 10;
/// Rounds that warm up and are not counted.
const WARM: u32 = 2;

/// The kinds of changes, drawn evenly.
const KINDS: [&str; 5] = ["forward", "firewall", "vm", "static_nat", "acl"];

/// Measures one change with `count` of its kind present; a median over `floor` milliseconds fails.
pub(super) fn run(count: u32, floor: f64) {
    let isolated = Lab::isolated();
    isolated.bundle(&[("ip_associations", lab::addresses(2)), ("firewall_rules", lab::egress())]);
    let mut all = vec![
        ("forwarding_rules", lab::forwards(0..count, false)),
        ("firewall_rules", lab::ingress(0..count, false)),
    ];
    all.extend((0..count).map(|n| ("vm_dhcp_entry", lab::reservation(n))));
    all.extend((0..19).map(|n| ("staticnat_rules", lab::static_nat(n, false))));
    let full = isolated.bundle(&all);
    let vpc = Lab::vpc(TIERS);
    let mut tiers = vec![("ip_associations", lab::addresses(1))];
    tiers.extend((0..TIERS).map(|tier| ("guest_network", lab::tier(tier))));
    tiers.extend((0..TIERS).map(|tier| ("network_acl", lab::acl(tier, count / u32::from(TIERS), 0))));
    vpc.bundle(&tiers);
    let peer = Peer::new(count);

    let (mut ours, mut theirs, mut by_kind) = (vec![], vec![], vec![vec![]; KINDS.len()]);
    let (mut before, mut before_peer) = (0.0, 0.0);
    for round in 0..WARM + EACH {
        if round == WARM {
            before = isolated.processor() + vpc.processor();
            before_peer = peer.processor();
        }
        for (index, kind) in KINDS.iter().enumerate() {
            let n = count + round;
            let took = match *kind {
                "forward" => one(&isolated, &[("forwarding_rules", lab::forwards(n..=n, false))]),
                "firewall" => one(&isolated, &[("firewall_rules", lab::ingress(n..=n, false))]),
                "vm" => one(
                    &isolated,
                    &[("vm_dhcp_entry", lab::reservation(n)), ("vm_metadata", lab::metadata(n))],
                ),
                // The one address that is left, in turns.
                "static_nat" => one(&isolated, &[("staticnat_rules", lab::static_nat(19, round % 2 == 1))]),
                _ => {
                    let tier = u8::try_from(round % u32::from(TIERS)).unwrap_or_default();
                    let list = lab::acl(tier, count / u32::from(TIERS) + 1, 1 + round);
                    one(&vpc, &[("network_acl", list)])
                }
            };
            let other = peer.change(kind, n);
            if round >= WARM {
                ours.push(milliseconds(took));
                by_kind[index].push(milliseconds(took));
                theirs.push(milliseconds(other));
            }
        }
    }
    let changes = f64::from(EACH) * KINDS.len() as f64;
    let each = (isolated.processor() + vpc.processor() - before) / changes * 1000.0;
    let each_peer = (peer.processor() - before_peer) / changes * 1000.0;
    for (kind, values) in KINDS.iter().zip(by_kind) {
        Figure::host(format!("change_{count}_{kind}"), "ms", values, None).print();
    }
    Figure::host(format!("change_{count}_cpu"), "ms", vec![each], None)
        .against("iptables+dnsmasq", vec![each_peer])
        .print();
    Figure::host(format!("change_{count}"), "ms", ours, Some(Floor::AtMost(floor)))
        .against("iptables+dnsmasq", theirs)
        .print();
    Figure::host(format!("full_{count}"), "ms", vec![milliseconds(full)], None).print();
    let floor = (count == 1000).then_some(Floor::AtMost(64.0));
    Figure::host(format!("rss_{count}"), "MiB", vec![isolated.resident()], floor).print();
}

fn one(lab: &Lab, documents: &[(&str, String)]) -> Duration {
    let names: Vec<String> = documents.iter().map(|(kind, text)| lab.place(kind, text)).collect();
    lab.apply(&names)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Measures the start of a router with `count` guests, each with reservation, metadata, password and a
/// port forward.
pub(super) fn restart(count: u32) {
    let values = (0..5).map(|_| {
        let lab = Lab::isolated();
        let mut all = vec![
            ("ip_associations", lab::addresses(2)),
            ("firewall_rules", lab::egress()),
            ("forwarding_rules", lab::forwards(0..count, false)),
        ];
        for n in 0..count {
            all.push(("vm_dhcp_entry", lab::reservation(n)));
            all.push(("vm_metadata", lab::metadata(n)));
            all.push(("vm_password", lab::password(n)));
        }
        lab.bundle(&all).as_secs_f64()
    });
    Figure::host(format!("restart_{count}"), "s", values.collect(), Some(Floor::AtMost(1.0))).print();
}
