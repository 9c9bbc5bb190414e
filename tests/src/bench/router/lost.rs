//! What is lost while the router changes: names asked for, flows that last, flows that begin.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    super::{Figure, Floor},
    documents,
    lab::Lab,
    probe::{Probe, ask, connect, datagrams, echo, say},
};

/// Time between two questions, and between two new flows.
const PACE: Duration = Duration::from_millis(5);
/// Where port 7 of the guest is from outside, and where that of the outside is.
const IN: &str = "203.0.113.10:999";
const OUT: &str = "203.0.113.1:7";
/// A question for the address of vm0.cs1.example.
const NAME: &[u8] =
    b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03vm0\x03cs1\x07example\x00\x00\x01\x00\x01";

/// Makes `count` changes while everything is asked for.
pub(super) fn run(count: u32) {
    let lab = Lab::isolated();
    let mut all = vec![
        ("ip_associations", documents::addresses(2)),
        ("firewall_rules", documents::egress()),
        ("vm_dhcp_entry", documents::reservation(0)),
        ("firewall_rules", documents::ingress(0..count, false)),
        ("forwarding_rules", documents::forwards(20..count, false)),
    ];
    for (id, protocol) in [(900_001, "tcp"), (900_002, "udp")] {
        let forward = documents::forward(protocol, "203.0.113.10", 999, "10.1.0.20", 7);
        all.push(("forwarding_rules", forward));
        all.push(("firewall_rules", documents::open(id, "203.0.113.10", protocol, (999, 999))));
    }
    lab.bundle(&all);
    echo(&lab.guest, "10.1.0.20:7");
    echo(&lab.outside, OUT);
    let stop = Arc::new(AtomicBool::new(false));
    let every = (&stop, PACE);
    let mut probes = vec![Probe::start("dns", &lab.guest, every, move || {
        let socket = datagrams();
        move || ask(&socket, "10.1.0.1:53", NAME)
    })];
    for (lasting, to, net) in [("tcp_lasting_out", OUT, &lab.guest), ("tcp_lasting_in", IN, &lab.outside)] {
        probes.push(Probe::start(lasting, net, every, move || {
            let mut stream = connect(to).expect("a connection");
            move || say(&mut stream)
        }));
    }
    for (lasting, to, net) in [("udp_lasting_out", OUT, &lab.guest), ("udp_lasting_in", IN, &lab.outside)] {
        probes.push(Probe::start(lasting, net, every, move || {
            let socket = datagrams();
            move || ask(&socket, to, b"ping")
        }));
    }
    for (new, to, net) in [("tcp_new_out", OUT, &lab.guest), ("tcp_new_in", IN, &lab.outside)] {
        probes.push(Probe::start(new, net, every, move || move || say(&mut connect(to)?)));
    }
    for (new, to, net) in [("udp_new_out", OUT, &lab.guest), ("udp_new_in", IN, &lab.outside)] {
        probes.push(Probe::start(new, net, every, move || move || ask(&datagrams(), to, b"ping")));
    }
    for n in 0..count {
        let (kind, text) = match n % 5 {
            0 => ("forwarding_rules", documents::forwards(count + n..=count + n, false)),
            1 => ("firewall_rules", documents::ingress(count + n..=count + n, false)),
            2 => ("vm_dhcp_entry", documents::reservation(n)),
            3 => ("staticnat_rules", documents::static_nat(19, n % 2 == 0)),
            _ => ("forwarding_rules", documents::forwards(count + n - 4..=count + n - 4, true)),
        };
        lab.apply(&[lab.place(kind, &text)]);
    }
    stop.store(true, Ordering::Relaxed);
    let (mut tried, mut lost) = (0, 0);
    for (of, without) in probes.into_iter().map(Probe::end) {
        (tried, lost) = (tried + of, lost + without);
    }
    println!("# {count} changes, {tried} questions and flows");
    Figure::host("lost", "flows", vec![f64::from(lost)], Some(Floor::AtMost(0.0))).print();
}
