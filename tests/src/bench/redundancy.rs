//! `redundancy`: how long guests are without their way out when the router in force is stopped, or its power goes,
//! and how long a network that was split takes to be right again. A datagram every 10 ms, and an established
//! connection that has to go on.

use std::time::{Duration, Instant};

use super::{Figure, Floor};
use crate::lab::{
    pair::{ELECTED, Twins, alive, connect, longest_silence, serve},
    wait_until,
};

/// Runs of each.
const RUNS: usize = 5;
/// How long a split lasts.
const SPLIT: Duration = Duration::from_secs(30);
/// Where datagrams and connections are answered.
const ECHO: &str = "203.0.113.1:7000";

/// The parts, by the names that the command line knows.
const PARTS: [(&str, fn()); 3] =
    [("failover_planned", planned), ("failover_power", power), ("split_heal", split)];

/// Measures and prints the parts that are named, everything where none is.
///
/// # Errors
/// What is wrong with a name.
pub fn run(parts: &[String]) -> Result<(), String> {
    if let Some(part) = parts.iter().find(|part| PARTS.iter().all(|(name, _)| part != name)) {
        let names = PARTS.map(|(name, _)| name).join(" ");
        return Err(format!("redundancy has no part '{part}'; there are: {names}"));
    }
    for (name, measure) in PARTS {
        if parts.is_empty() || parts.iter().any(|part| part == name) {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            println!("# {name}; load of the machine {}", load.trim());
            measure();
        }
    }
    Ok(())
}

/// A pair with one in force, and its place.
fn pair() -> (Twins, usize) {
    let twins = Twins::isolated();
    let first = twins.elected();
    serve(&twins.outside, ECHO);
    wait_until("the way out", ELECTED, || connect(&twins.guest, ECHO).is_some());
    (twins, first)
}

fn planned() {
    let (twins, mut first) = pair();
    let (mut stream, _) = connect(&twins.guest, ECHO).expect("a connection");
    let once = || {
        assert!(alive(&mut stream), "the connection goes on");
        let silence = longest_silence(&twins.guest, ECHO, || {
            twins.routers[first].keepalived("stop");
            wait_until("the other one", ELECTED, || twins.routers[1 - first].role() == "PRIMARY");
        });
        assert!(alive(&mut stream), "the connection goes on");
        twins.routers[first].keepalived("start");
        wait_until("the first one", ELECTED, || twins.routers[first].role() == "BACKUP");
        // One that has just begun has to hear of the other one first.
        std::thread::sleep(Duration::from_secs(3));
        first = 1 - first;
        silence.as_secs_f64()
    };
    let all = std::iter::repeat_with(once).take(RUNS).collect();
    Figure::host("failover_planned", "s", all, Some(Floor::AtMost(1.0))).print();
}

fn power() {
    let once = || {
        let (mut twins, first) = pair();
        let (mut stream, _) = connect(&twins.guest, ECHO).expect("a connection");
        assert!(alive(&mut stream));
        // New connections are carried over within a moment.
        std::thread::sleep(Duration::from_secs(1));
        let guest = twins.guest.name().to_owned();
        let guest = crate::lab::Namespace::there(guest);
        let silence = longest_silence(&guest, ECHO, || {
            twins.cut_power(first);
            wait_until("the other one", ELECTED, || twins.routers[1 - first].role() == "PRIMARY");
        });
        assert!(alive(&mut stream), "the connection goes on");
        silence.as_secs_f64()
    };
    let all = std::iter::repeat_with(once).take(RUNS).collect();
    Figure::host("failover_power", "s", all, Some(Floor::AtMost(3.0 + 0.61 + 1.0))).print();
}

fn split() {
    let (twins, _) = pair();
    let (mut single, mut right) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let port = format!("guests{}", run % 2);
        twins.lan.ip(&["link", "set", &port, "nomaster"]);
        std::thread::sleep(SPLIT);
        assert_eq!(twins.roles(), ["PRIMARY", "PRIMARY"]);
        twins.lan.attach("guests", &port);
        let healed = Instant::now();
        twins.elected();
        single.push(healed.elapsed().as_secs_f64());
        wait_until("the way out", ELECTED, || connect(&twins.guest, ECHO).is_some());
        right.push(healed.elapsed().as_secs_f64());
    }
    Figure::host("split_heal_one_in_force", "s", single, Some(Floor::AtMost(3.0))).print();
    Figure::host("split_heal_traffic", "s", right, Some(Floor::AtMost(5.0))).print();
}
