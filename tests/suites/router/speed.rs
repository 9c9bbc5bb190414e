//! A change costs the same with a thousand rules as with one.

use std::time::{Duration, Instant};

use crate::{
    documents::{forward, forward_item, ingress},
    lab::Lab,
};

/// What one change may take where the machine has nothing else to do; tests share theirs with others, so that the
/// best of several counts.
const LIMIT: Duration = Duration::from_millis(50);

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
    let add: Vec<Duration> = (0..15).map(|n| one(n, false)).collect();
    let same = time(|| {
        lab.apply(
            "forwarding_rules",
            &forward("tcp", "203.0.113.10", "5001:5001", "10.1.1.20", "22:22", false),
        )
    });
    let remove: Vec<Duration> = (0..15).map(|n| one(n, true)).collect();
    let rule: Vec<Duration> = (0..15)
        .map(|n| {
            let port = 5000 + n;
            time(|| {
                let text = ingress(
                    u32::from(n) + 1,
                    "203.0.113.10",
                    "tcp",
                    Some((port, port)),
                    "192.0.2.0/24",
                    false,
                );
                lab.apply("firewall_rules", &text);
            })
        })
        .collect();
    println!("1000 port forwards at once: {all:?}; the same again: {same:?}");
    for (name, mut times) in
        [("forward added", add), ("forward revoked", remove), ("ingress rule added", rule)]
    {
        times.sort();
        let (best, middle) = (times[0], times[times.len() / 2]);
        println!(
            "{name}, 1000 port forwards present: best {best:?}, median {middle:?}, worst {:?}",
            times[times.len() - 1]
        );
        assert!(best < LIMIT, "{name}: {best:?}");
    }
    assert!(lab.run(&["status"]).stdout.contains("port forwards: 1000"));
}

fn time(errand: impl FnOnce()) -> Duration {
    let start = Instant::now();
    errand();
    start.elapsed()
}
