//! Of a VPC: tiers come without anybody taking over, and all of them follow when somebody does.

use std::time::Duration;

use tests::lab::{
    pair::{Twins, alive, connect, serve},
    wait_until,
};

#[test]
fn a_tier_that_is_added_moves_nothing_and_all_follow_a_take_over() {
    let twins = Twins::vpc();
    assert_eq!(twins.roles(), ["UNKNOWN", "UNKNOWN"], "nobody to be elected for");
    for place in [0, 1] {
        twins.plug(1, place);
        assert_eq!(twins.routers[place].send(&twins.tier(1, place)).code, 0);
    }
    let first = twins.elected();
    let elections = || [0, 1].map(|n| twins.routers[n].elections());
    let before = elections();
    [0, 1].iter().for_each(|place| twins.plug(2, *place));
    // The other one hears of it first, and much earlier.
    for place in [1 - first, first] {
        assert_eq!(twins.routers[place].send(&twins.tier(2, place)).code, 0);
        std::thread::sleep(Duration::from_secs(5));
    }
    assert_eq!(twins.elected(), first);
    assert_eq!(elections(), before, "nobody was elected anew");
    serve(&twins.outside, "203.0.113.1:7000");
    let go = |n: u8| {
        twins.guest.ip(&["route", "replace", "default", "via", &format!("10.9.{n}.1")]);
        connect(&twins.guest, "203.0.113.1:7000")
    };
    for n in [1, 2] {
        wait_until("the way out of a tier", Duration::from_secs(5), || go(n).is_some());
    }
    let (mut stream, seen) = go(2).expect("the way out");
    assert_eq!(seen, "203.0.113.30");
    assert!(alive(&mut stream));
    twins.routers[first].keepalived("stop");
    wait_until("the other one", Duration::from_secs(10), || twins.routers[1 - first].role() == "PRIMARY");
    assert!(alive(&mut stream), "the connection goes on");
    for n in [1, 2] {
        assert!(go(n).is_some(), "tier {n}");
    }
    // A NIC that goes takes nobody's place.
    twins.routers[1 - first].space.ip(&["link", "del", "eth3"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(twins.routers[1 - first].role(), "PRIMARY");
    assert!(go(1).is_some());
}
