//! A change costs the same with a thousand rules as with ten. What is counted is work: programs that the core
//! starts, and what it tells them. Times are the bench's.

use tests::lab::{Trace, Work};

use crate::{
    documents::{acl, forward, forward_item, ingress, rule, tier},
    lab::Lab,
};

/// Bytes that a change may tell `nft` beyond what it told among few: a line or two, not one for each rule there is.
const SLACK: u64 = 256;

/// Adds port forwards, each told by its port.
fn forwards(lab: &Lab, ports: std::ops::Range<u16>) {
    let items: Vec<String> = ports
        .map(|n| {
            let port = format!("{n}:{n}");
            forward_item("tcp", "203.0.113.10", &port, &format!("10.1.1.{}", 20 + n % 200), "22:22", false)
        })
        .collect();
    lab.apply("forwarding_rules", &format!(r#"{{"rules":[{}],"type":"forwardrules"}}"#, items.join(",")));
}

#[test]
fn one_change_among_a_thousand_is_as_small_as_among_ten() {
    let lab = Lab::start();
    let trace = Trace::start(lab.core.id());
    let one = |port: u16, revoke| {
        let ports = format!("{port}:{port}");
        trace.during(|| {
            let text = forward("tcp", "203.0.113.10", &ports, "10.1.1.20", "22:22", revoke);
            lab.apply("forwarding_rules", &text);
        })
    };
    let rule = |n: u16| {
        let text = ingress(u32::from(n), "203.0.113.10", "tcp", Some((n, n)), "192.0.2.0/24", false);
        trace.during(|| lab.apply("firewall_rules", &text))
    };
    let changes = |port: u16| -> [Work; 3] { [one(port, false), one(port, true), rule(port)] };
    forwards(&lab, 1000..1010);
    let few = changes(5000);
    forwards(&lab, 1010..2000);
    assert!(lab.run(&["status"]).stdout.contains("port forwards: 1000"));
    let many = changes(5001);
    for (name, (few, many)) in ["added", "revoked", "ingress rule"].iter().zip(few.into_iter().zip(many)) {
        assert_eq!((few.programs, many.programs), (1, 1), "{name}: one program each");
        assert!(few.told > 0 && many.told <= few.told + SLACK, "{name}: {few:?}, among 1000 {many:?}");
    }
    one(5002, false);
    assert_eq!(one(5002, false), Work { programs: 0, told: 0 }, "the same again is no work");
}

#[test]
fn one_change_of_a_list_costs_that_list() {
    let lab = Lab::vpc();
    let rules = |tier: u8, count: u16| -> Vec<String> {
        (0..count)
            .map(|n| rule("tcp", Some((n + 1, n + 1)), &format!("198.51.{tier}.{}/32", n % 200), true))
            .collect()
    };
    let trace = Trace::start(lab.core.id());
    let nic = |tier: u8| 10 + tier;
    let change = |list: u8, count| {
        trace.during(|| lab.apply("network_acl", &acl(nic(list), &rules(list, count), &[])))
    };
    let mut alone = None;
    for number in 0..10 {
        let nic = nic(number);
        let mac = format!("02:00:00:00:00:{nic}");
        lab.router.ip(&["link", "add", &format!("eth{nic}"), "address", &mac, "type", "bridge"]);
        lab.apply("guest_network", &tier(number, nic, true));
        change(number, 100);
        alone.get_or_insert_with(|| change(0, 101));
    }
    let (alone, among) = (alone.expect("a first list"), change(0, 102));
    assert_eq!((alone.programs, among.programs), (1, 1));
    // One rule more than before.
    let rule = alone.told / 50;
    assert!(among.told <= alone.told + rule + SLACK, "{alone:?}, among 1000 {among:?}");
}
