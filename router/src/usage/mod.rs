//! Bytes per public NIC, for billing: four named counters each, which outlive every change (router
//! behaviour 9.2).

use std::collections::BTreeMap;

use crate::{
    firewall::{COUNT_FORWARD, COUNT_INPUT, GUEST_NICS},
    nft::{Action, Base, Field, Hook, Match, Table},
    types::Transport,
    view::View,
};

/// The four figures of a NIC, in the order in which they are reported.
pub(crate) const FIGURES: [&str; 4] = ["sent", "received", "own_sent", "own_received"];

fn counter(nic: &str, figure: &str) -> String {
    format!("usage_{nic}_{figure}")
}

/// Adds the counters, and the chains that feed them.
pub fn plan(view: &View<'_>, table: &mut Table) {
    let tcp = Match::Transport(Transport::Tcp);
    for chain in [COUNT_FORWARD, COUNT_INPUT, "count_output"] {
        table.chain(chain);
    }
    for nic in view.outer() {
        let name = &nic.name;
        table.counters.extend(FIGURES.map(|figure| counter(name, figure)));
        let count = |figure| Action::Count(counter(name, figure));
        let (entering, leaving) = (Match::In(name.clone()), Match::Out(name.clone()));
        let forward = table.chain(COUNT_FORWARD);
        forward.add([Match::Known(Field::InNic, GUEST_NICS), leaving.clone()], count("sent"));
        forward.add([entering.clone(), Match::Known(Field::OutNic, GUEST_NICS)], count("received"));
        let others = Match::Unknown(Field::InNic, GUEST_NICS);
        forward.add([others, leaving.clone(), tcp.clone()], count("own_sent"));
        let others = Match::Unknown(Field::OutNic, GUEST_NICS);
        forward.add([entering.clone(), others, tcp.clone()], count("own_received"));
        table.chain("count_output").add([leaving, tcp.clone()], count("own_sent"));
        table.chain(COUNT_INPUT).add([entering, tcp.clone()], count("own_received"));
    }
    let output = table.chain("output");
    output.base = Some(Base { hook: Hook::Output, nat: false, priority: 0, drops: false });
    output.add([], Action::Jump("count_output".into()));
}

/// The names of the counters of a NIC.
pub fn counters(nic: &str) -> [String; 4] {
    FIGURES.map(|figure| counter(nic, figure))
}

/// The line that the management server reads: `sent:received:own_sent:own_received:`, bytes.
pub fn report(nic: &str, counters: &BTreeMap<String, (u64, u64)>) -> String {
    let bytes = |figure| counters.get(&counter(nic, figure)).map_or(0, |(_, bytes)| *bytes);
    FIGURES.map(|figure| format!("{}:", bytes(figure))).concat()
}
