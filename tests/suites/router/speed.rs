//! A change costs the same with a thousand rules as with one.

use std::time::{Duration, Instant};

use crate::{
    documents::{acl, forward, forward_item, ingress, rule, tier},
    lab::Lab,
};

/// Processor time that one change may take, the `nft` program included. Tests share their machine with others:
/// the time on the clock is printed, and only the processor's is judged.
const LIMIT: Duration = Duration::from_millis(20);

/// The same for a change of a list of a hundred rules, which is written anew.
const LIST: Duration = Duration::from_millis(30);

/// Changes of one kind that are measured together.
const CHANGES: u16 = 20;

#[test]
fn one_change_among_a_thousand_is_quick() {
    let lab = Lab::start();
    let items: Vec<String> = (0..1000)
        .map(|n| {
            let port = format!("{}:{}", 1000 + n, 1000 + n);
            forward_item("tcp", "203.0.113.10", &port, &format!("10.1.1.{}", 20 + n % 200), "22:22", false)
        })
        .collect();
    let all = time(|| {
        lab.apply("forwarding_rules", &format!(r#"{{"rules":[{}],"type":"forwardrules"}}"#, items.join(",")));
    });
    let one = |n: u16, revoke| {
        let port = format!("{}:{}", 5000 + n, 5000 + n);
        time(|| {
            lab.apply(
                "forwarding_rules",
                &forward("tcp", "203.0.113.10", &port, "10.1.1.20", "22:22", revoke),
            )
        })
    };
    println!("1000 port forwards at once: {all:?}");
    let rule = |n: u16| {
        let ports = Some((5000 + n, 5000 + n));
        let text = ingress(u32::from(n) + 1, "203.0.113.10", "tcp", ports, "192.0.2.0/24", false);
        time(|| lab.apply("firewall_rules", &text))
    };
    let kinds: [(&str, &dyn Fn(u16) -> Duration); 4] = [
        ("forward added", &|n| one(n, false)),
        ("the same again", &|n| one(n, false)),
        ("forward revoked", &|n| one(n, true)),
        ("ingress rule added", &rule),
    ];
    for (name, change) in kinds {
        let before = processor(&lab);
        let mut times: Vec<Duration> = (0..CHANGES).map(change).collect();
        let each = (processor(&lab) - before) / u32::from(CHANGES);
        times.sort();
        let (best, median) = (times[0], times[times.len() / 2]);
        println!("{name}, 1000 port forwards present: best {best:?}, median {median:?}, processor {each:?}");
        assert!(each < LIMIT, "{name}: {each:?}");
    }
    assert!(lab.run(&["status"]).stdout.contains("port forwards: 1000"));
}

#[test]
fn one_change_of_a_list_costs_that_list() {
    let lab = Lab::vpc();
    let rules = |tier: u8, count: u16| -> Vec<String> {
        (0..count)
            .map(|n| rule("tcp", Some((n + 1, n + 1)), &format!("198.51.{tier}.{}/32", n % 200), true))
            .collect()
    };
    for tier_number in 0..10 {
        let nic = 10 + tier_number;
        let mac = format!("02:00:00:00:00:{nic}");
        lab.router.ip(&["link", "add", &format!("eth{nic}"), "address", &mac, "type", "bridge"]);
        lab.apply("guest_network", &tier(tier_number, nic, true));
        lab.apply("network_acl", &acl(nic, &rules(tier_number, 100), &[]));
    }
    let nic = 12;
    let before = processor(&lab);
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|n| {
            let text = acl(nic, &rules(2, 101 + n), &[]);
            time(|| lab.apply("network_acl", &text))
        })
        .collect();
    let each = (processor(&lab) - before) / u32::from(CHANGES);
    times.sort();
    println!(
        "a list of 100 rules changed, 1000 present: median {:?}, processor {each:?}",
        times[times.len() / 2]
    );
    assert!(each < LIST, "{each:?}");
}

fn time(errand: impl FnOnce()) -> Duration {
    let start = Instant::now();
    errand();
    start.elapsed()
}

/// Processor time of the core and of the programs it has run.
fn processor(lab: &Lab) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", lab.core.id())).expect("figures of the core");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    // utime, stime, cutime, cstime, in hundredths of a second.
    let ticks: u64 = fields[11..15].iter().map(|n| n.parse::<u64>().expect("a figure")).sum();
    Duration::from_millis(ticks * 10)
}
