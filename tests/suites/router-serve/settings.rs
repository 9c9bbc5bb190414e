//! What the boot arguments say of resolvers, and what becomes of it.

use std::process::Stdio;

use crate::pair::{LINE, Pair};

/// Whether somebody gets an answer from the router's resolver.
fn answered(net: &tests::lab::Namespace, how: &str) -> bool {
    net.sh(&format!("dig +tries=1 +time=2 +short {how} web.cs1.example A")).stdout == b"10.1.1.20\n"
}

#[test]
fn guests_with_a_resolver_elsewhere_get_none_here() {
    let pair = Pair::start(&LINE.replace("type=", "useextdns=true type="));
    pair.entry("10.1.1.20", "");
    let told = "10.1.1.20 10.1.1.1 203.0.113.1 cs1.example web 1450 10.1.1.1";
    assert_eq!(pair.lease().as_deref(), Some(told));
    assert!(!answered(&pair.guest, "@10.1.1.1"));
    assert!(!answered(&pair.guest, "@10.1.1.1 +tcp"));
}

#[test]
fn names_are_for_guests_alone() {
    let pair = Pair::start(&LINE.replace("type=", "dnssearchorder=a.example,b.example type="));
    pair.entry("10.1.1.20", "");
    let told = "10.1.1.20 10.1.1.1 10.1.1.1 203.0.113.1 cs1.example web 1450 10.1.1.1 a.example b.example";
    assert_eq!(pair.lease().as_deref(), Some(told));
    pair.outside.address("eth0", "203.0.113.1/24");
    stranger(&pair);
    for how in ["@10.1.1.1", "@10.1.1.1 +tcp"] {
        assert!(answered(&pair.guest, how), "{how}");
        assert!(!answered(&pair.guest, &format!("{how} -b 172.31.0.10")), "{how} from another network");
    }
    for how in ["@203.0.113.10", "@203.0.113.10 +tcp"] {
        assert!(!answered(&pair.outside, how), "{how} from outside");
    }
}

#[test]
fn names_are_for_all_where_that_is_said() {
    let pair = Pair::start(&LINE.replace("type=", "exposedns=true type="));
    pair.entry("10.1.1.20", "");
    assert!(pair.lease().is_some());
    pair.outside.address("eth0", "203.0.113.1/24");
    stranger(&pair);
    for how in ["@10.1.1.1", "@10.1.1.1 +tcp"] {
        assert!(answered(&pair.guest, &format!("{how} -b 172.31.0.10")), "{how} from another network");
    }
    assert!(!answered(&pair.outside, "@203.0.113.10"), "the public side is no part of it");
}

/// Gives the guest an address of another network, which the router knows the way to.
fn stranger(pair: &Pair) {
    pair.guest.ip(&["addr", "add", "172.31.0.10/24", "dev", "eth0"]);
    pair.router.ip(&["route", "add", "172.31.0.0/24", "dev", "eth0"]);
}

#[test]
fn another_mtu_is_told_and_loses_no_name() {
    let pair = Pair::start(LINE);
    pair.entry("10.1.1.20", "");
    assert!(pair.lease().is_some_and(|told| told.contains(" 1450 ")));
    let line = "yes 'web.cs1.example A' | head -n 300 | dig +tries=1 +time=5 +short @10.1.1.1 -f -";
    let asker = pair.guest.command("sh").args(["-c", line]).stdout(Stdio::piped()).spawn().unwrap();
    for mtu in ["1400", "1410", "1420"] {
        assert_eq!(pair.command(&["update_interface_config.sh", "10.1.1.1", "24", mtu, "5"]), Some(0));
    }
    let out = asker.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "10.1.1.20\n".repeat(300));
    let told = "10.1.1.20 10.1.1.1 10.1.1.1 203.0.113.1 cs1.example web 1420 10.1.1.1";
    assert_eq!(pair.lease().as_deref(), Some(told));
    assert!(pair.router.ok("ip link show eth0").contains(" mtu 1420 "));
}
