//! The core dies and comes back; packets do not notice.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    documents::{egress, forward, ingress},
    lab::{Lab, alive, connect, inside, serve, serve_udp},
};

#[test]
fn a_crash_of_the_core_costs_no_packet_and_the_state_stays() {
    let mut lab = Lab::start();
    serve(&lab.a, "10.1.1.20:22");
    serve_udp(&lab.outside, "203.0.113.1:53");
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", "2222:2222", "10.1.1.20", "22:22", false));
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "tcp", Some((2222, 2222)), "0.0.0.0/0", false));
    let (mut stream, _) = connect(&lab.outside, "203.0.113.10:2222").expect("a connection");
    let before = lab.dump();
    let counted = lab.router.ok("nft list counters table inet trivium");

    let flow = Flow::start(&lab);
    for _ in 0..3 {
        lab.core.kill();
        assert!(alive(&mut stream));
        assert_eq!(lab.dump(), before, "what is in force stays so without the core");
        lab.restart();
        assert_eq!(lab.dump(), before, "and the new core touches nothing of it");
    }
    for n in 0..40 {
        let port = format!("{}:{}", 3000 + n, 3000 + n);
        lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", &port, "10.1.1.20", "22:22", false));
        lab.apply(
            "firewall_rules",
            &ingress(100 + n, "203.0.113.10", "tcp", Some((22, 22)), "192.0.2.1/32", false),
        );
    }
    assert!(alive(&mut stream));
    let (sent, lost) = flow.end();
    assert!(sent > 100, "{sent} datagrams");
    assert_eq!(lost, 0, "of {sent} datagrams");
    assert!(figure(&lab.router.ok("nft list counters table inet trivium")) >= figure(&counted));
}

#[test]
fn a_core_that_dies_in_the_middle_of_a_change_leaves_the_old_or_the_new_state() {
    let mut lab = Lab::start();
    let change = |n: u32, revoke| {
        let port = format!("{}:{}", 4000 + n, 4000 + n);
        let address = forward("tcp", "203.0.113.10", &port, "10.1.1.20", "22:22", revoke);
        let gate = ingress(n + 1, "203.0.113.10", "tcp", Some((4000, 4000)), "192.0.2.0/24", revoke);
        [("forwarding_rules", address), ("firewall_rules", gate)]
    };
    let (mut old, mut new) = (0, 0);
    for n in 0..16_u32 {
        let (kind, document) = &change(n, false)[(n % 2) as usize];
        let before = sorted(lab.dump());
        // What it would be, on a core that lives.
        lab.apply(kind, document);
        let after = sorted(lab.dump());
        let (kind, back) = &change(n, true)[(n % 2) as usize];
        lab.apply(kind, back);
        assert_eq!(sorted(lab.dump()), before);
        std::thread::scope(|scope| {
            let lab = &lab;
            // Nobody may be there any more to answer.
            scope.spawn(|| lab.try_send(kind, document));
            std::thread::sleep(Duration::from_micros(u64::from(n) * 900));
            lab.core.strike();
        });
        lab.restart();
        let found = sorted(lab.dump());
        assert!(found == before || found == after, "neither the old nor the new state: {found:#?}");
        if found == after {
            new += 1;
            lab.apply(kind, back);
        } else {
            old += 1;
        }
        assert_eq!(sorted(lab.dump()), before);
    }
    println!("killed at 16 moments: {old} times the old state, {new} times the new one");
}

/// A table that somebody else has emptied is put right.
#[test]
fn a_filter_that_is_not_ours_is_replaced_whole() {
    let mut lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "icmp", None, "0.0.0.0/0", false));
    let before = sorted(lab.dump());
    lab.core.kill();
    lab.router.ok("nft add table inet trivium; nft flush table inet trivium; nft delete table inet trivium");
    lab.restart();
    assert_eq!(sorted(lab.dump()), before);
    // Under a running core, too: the change that does not fit replaces all.
    lab.router.ok("nft delete table inet trivium");
    lab.apply("firewall_rules", &ingress(42, "203.0.113.10", "tcp", Some((1, 1)), "0.0.0.0/0", false));
    lab.apply("firewall_rules", &ingress(42, "203.0.113.10", "tcp", Some((1, 1)), "0.0.0.0/0", true));
    assert_eq!(sorted(lab.dump()), before);
}

/// A table that is made anew lists its chains in another order.
fn sorted(dump: String) -> Vec<String> {
    let mut lines: Vec<String> = dump.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn figure(listing: &str) -> u64 {
    let words: Vec<&str> = listing.split_whitespace().collect();
    let bytes = words.windows(2).filter(|pair| pair[0] == "bytes");
    bytes.map(|pair| pair[1].parse::<u64>().expect("a figure")).sum()
}

/// One guest asks the outside every 3 ms over one flow; each answer is awaited.
struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<u32>,
}

impl Flow {
    fn start(lab: &Lab) -> Self {
        let socket = inside(&lab.a, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("socket");
            socket.connect("203.0.113.1:53").expect("route");
            socket
        });
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("time limit");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                let mut lost = 0;
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let answered = socket.send(b"?").is_ok() && socket.recv(&mut buffer).is_ok();
                    lost += u32::from(!answered);
                    std::thread::sleep(Duration::from_millis(3));
                }
                lost
            }
        });
        Self { stop, sent, thread }
    }

    fn end(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.thread.join().expect("the flow");
        (self.sent.load(Ordering::Relaxed), lost)
    }
}
