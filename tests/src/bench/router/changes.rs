//! One change among many, and everything at once.

use std::time::Duration;

use super::{
    super::{Figure, Floor},
    documents,
    lab::Lab,
    peer::Peer,
};
use crate::lab::{Trace, wait_until};

/// Tiers of the VPC.
const TIERS: u8 = 10;
/// Runs that are compared, in turns with the peer's.
const RUNS: u32 = 5;
/// Changes of each kind in a run.
const EACH: u32 = 4;
/// Changes of each kind that warm up and are not counted.
const WARM: u32 = 2;

/// The kinds of changes, drawn evenly.
pub(super) const KINDS: [&str; 5] = ["forward", "firewall", "vm", "static_nat", "acl"];

/// Two routers with so many port forwards, firewall rules, VMs and entries of lists, spread over 20 public
/// addresses and 10 tiers. Of static NATs there are 19, for each takes a public address of its own.
pub(super) struct Full {
    isolated: Lab,
    vpc: Lab,
    count: u32,
    /// How long it took to get there.
    took: Duration,
}

impl Full {
    pub(super) fn new(count: u32) -> Self {
        let isolated = Lab::isolated();
        isolated
            .bundle(&[("ip_associations", documents::addresses(2)), ("firewall_rules", documents::egress())]);
        let mut all = vec![
            ("forwarding_rules", documents::forwards(0..count, false)),
            ("firewall_rules", documents::ingress(0..count, false)),
        ];
        for n in 0..count {
            all.push(("vm_dhcp_entry", documents::reservation(n)));
            all.push(("vm_metadata", documents::metadata(n)));
        }
        all.extend((0..19).map(|n| ("staticnat_rules", documents::static_nat(n, false))));
        let took = isolated.bundle(&all);
        let vpc = Lab::vpc(TIERS);
        let entries = count / u32::from(TIERS);
        let mut tiers = vec![("ip_associations", documents::addresses(1))];
        tiers.extend((0..TIERS).map(|tier| ("guest_network", documents::tier(tier))));
        tiers.extend((0..TIERS).map(|tier| ("network_acl", documents::acl(tier, entries, 0))));
        vpc.bundle(&tiers);
        Self { isolated, vpc, count, took }
    }

    /// A change that has not been yet: the router and its documents, in place.
    pub(super) fn place(&self, kind: &str, round: u32) -> (&Lab, Vec<String>) {
        let n = self.count + round;
        let (lab, documents) = match kind {
            "forward" => (&self.isolated, vec![("forwarding_rules", documents::forwards(n..=n, false))]),
            "firewall" => (&self.isolated, vec![("firewall_rules", documents::ingress(n..=n, false))]),
            "vm" => (
                &self.isolated,
                vec![("vm_dhcp_entry", documents::reservation(n)), ("vm_metadata", documents::metadata(n))],
            ),
            // The one address that is left, in turns.
            "static_nat" => {
                (&self.isolated, vec![("staticnat_rules", documents::static_nat(19, round % 2 == 1))])
            }
            _ => {
                let tier = u8::try_from(round % u32::from(TIERS)).unwrap_or_default();
                let list = documents::acl(tier, self.count / u32::from(TIERS) + 1, 1 + round);
                (&self.vpc, vec![("network_acl", list)])
            }
        };
        (lab, documents.iter().map(|(kind, text)| lab.place(kind, text)).collect())
    }

    fn change(&self, kind: &str, round: u32) -> Duration {
        let (lab, names) = self.place(kind, round);
        lab.apply(&names)
    }

    /// Both routers.
    pub(super) const fn labs(&self) -> [&Lab; 2] {
        [&self.isolated, &self.vpc]
    }

    fn processor(&self) -> f64 {
        self.isolated.processor() + self.vpc.processor()
    }

    /// The most programs that one change starts.
    fn programs(&self, rounds: std::ops::Range<u32>) -> u64 {
        let traces = self.labs().map(|lab| Trace::start(lab.core.id()));
        let mut most = 0;
        for (kind, round) in KINDS.iter().flat_map(|kind| rounds.clone().map(move |round| (kind, round))) {
            let before = traces.iter().map(|trace| trace.work().programs).sum::<u64>();
            self.change(kind, round);
            most = most.max(traces.iter().map(|trace| trace.work().programs).sum::<u64>() - before);
        }
        most
    }
}

/// Measures one change with `count` of its kind present; a median over `floor` milliseconds fails.
pub(super) fn run(count: u32, floor: f64) {
    let (full, mut peer) = (Full::new(count), Peer::new(count));
    for (kind, round) in KINDS.iter().flat_map(|kind| (0..WARM).map(move |round| (kind, round))) {
        full.change(kind, round);
        peer.change(kind, count + round, round);
    }
    let (mut ours, mut theirs) = (vec![vec![]; KINDS.len()], vec![vec![]; KINDS.len()]);
    let (mut cost, mut peer_cost) = (vec![], vec![]);
    let changes = f64::from(EACH) * KINDS.len() as f64;
    for run in 0..RUNS {
        let rounds = WARM + run * EACH..WARM + (run + 1) * EACH;
        let before = full.processor();
        for (number, round) in rounds.clone().flat_map(|round| (0..KINDS.len()).map(move |n| (n, round))) {
            ours[number].push(milliseconds(full.change(KINDS[number], round)));
        }
        cost.push((full.processor() - before) / changes * 1000.0);
        let before = peer.processor();
        for (number, round) in rounds.flat_map(|round| (0..KINDS.len()).map(move |n| (n, round))) {
            theirs[number].push(milliseconds(peer.change(KINDS[number], count + round, round)));
        }
        peer_cost.push((peer.processor() - before) / changes * 1000.0);
    }
    Figure::host(format!("change_{count}_cpu"), "ms", cost, None)
        .against("iptables+dnsmasq", peer_cost)
        .print();
    Figure::host(format!("change_{count}"), "ms", ours.concat(), Some(Floor::AtMost(floor)))
        .against("iptables+dnsmasq", theirs.concat())
        .print();
    for ((kind, ours), theirs) in KINDS.iter().zip(ours).zip(theirs) {
        Figure::host(format!("change_{count}_{kind}"), "ms", ours, None)
            .against("iptables+dnsmasq", theirs)
            .print();
    }
    let next = WARM + RUNS * EACH;
    let most = full.programs(next..next + EACH) as f64;
    Figure::host(format!("change_{count}_children"), "programs", vec![most], Some(Floor::AtMost(1.0)))
        .print();
    Figure::host(format!("full_{count}"), "ms", vec![milliseconds(full.took)], None).print();
    let floor = (count == 1000).then_some(Floor::AtMost(64.0));
    Figure::host(format!("rss_{count}"), "MiB", vec![full.isolated.resident()], floor).print();
}

/// A time as a number.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Measures the start of a router with `count` guests, each with reservation, metadata, password and a
/// port forward.
pub(super) fn restart(count: u32) {
    let (mut cost, mut took) = (vec![], vec![]);
    for _ in 0..RUNS {
        let lab = Lab::isolated();
        let mut all = vec![
            ("ip_associations", documents::addresses(2)),
            ("firewall_rules", documents::egress()),
            ("forwarding_rules", documents::forwards(0..count, false)),
        ];
        for n in 0..count {
            all.push(("vm_dhcp_entry", documents::reservation(n)));
            all.push(("vm_metadata", documents::metadata(n)));
            all.push(("vm_password", documents::password(n)));
        }
        let before = lab.processor();
        took.push(lab.bundle(&all).as_secs_f64());
        // What guests are told is brought about a moment after the answer.
        let (mut after, mut calm) = (lab.processor(), 0);
        wait_until("the router to be idle", Duration::from_secs(30), || {
            let now = lab.processor();
            calm = if now > after { 0 } else { calm + 1 };
            after = now;
            calm == 10
        });
        cost.push(after - before);
    }
    Figure::host(format!("restart_{count}_cpu"), "s", cost, None).print();
    Figure::host(format!("restart_{count}"), "s", took, Some(Floor::AtMost(1.0))).print();
}
