//! The life of the process: what it may do, and what guests see when core or it dies or much changes.

use std::process::Stdio;

use tests::lab::wait_until;

use crate::lab::{Lab, SOON, host};

#[test]
fn it_is_shut_in() {
    let lab = Lab::new();
    let pids = lab.router.ok(&format!("ip netns pids {}", lab.router.name()));
    let status = pids
        .split_whitespace()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .find(|status| status.starts_with("Name:\trouter"))
        .expect("the process");
    for line in
        ["Seccomp:\t2", "NoNewPrivs:\t1", "Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000"]
    {
        assert!(status.contains(line), "{line} is missing in\n{status}");
    }
}

#[test]
fn guests_are_served_while_core_is_away_and_after_it_came_back() {
    let mut lab = Lab::new();
    lab.address_guests();
    let lookup = "dig +tries=1 +time=5 +short @10.9.1.1 db A";
    lab.core.kill();
    assert_eq!(lab.a.ok(lookup).trim(), "10.9.1.20");
    lab.hosts[1].address = [10, 9, 1, 21].into();
    lab.restart_core();
    assert_eq!(lab.a.ok(lookup).trim(), "10.9.1.21");
}

#[test]
fn a_network_that_goes_is_served_no_more_and_the_other_on() {
    let mut lab = Lab::new();
    lab.address_guests();
    lab.set_data([10, 9, 1, 10], Some(b"a"), &[]);
    lab.set_data([10, 9, 2, 10], Some(b"c"), &[]);
    let get = |router: &str| format!("curl -s -m 5 http://{router}/latest/user-data");
    assert_eq!(lab.c.ok(&get("10.9.2.1")), "c");
    let gone = (lab.dhcp.subnets.pop().unwrap(), lab.dns.subnets.pop().unwrap());
    lab.declare();
    assert_eq!(lab.c.sh(&get("10.9.2.1")).status.code(), Some(7), "connection refused");
    assert_eq!(lab.a.ok(&get("10.9.1.1")), "a");
    lab.dhcp.subnets.push(gone.0);
    lab.dns.subnets.push(gone.1);
    lab.declare();
    assert_eq!(lab.c.ok(&get("10.9.2.1")), "c");
}

#[test]
fn no_name_is_lost_while_much_changes() {
    let mut lab = Lab::new();
    lab.address_guests();
    let questions = lab.file("questions", &"db A\n".repeat(400));
    let mut command = lab.a.command("dig");
    command.args(["+tries=1", "+time=2", "+short", "@10.9.1.1", "-f", &questions]);
    let asker = command.stdout(Stdio::piped()).spawn().unwrap();
    for i in 1..=100 {
        let name = format!("vm{i}");
        let mac = format!("02:00:00:00:01:{i:02x}");
        lab.hosts.push(host(&mac, [10, 9, 1, 100 + i], &name));
        lab.declare();
    }
    let out = asker.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "10.9.1.20\n".repeat(400));
}

#[test]
fn core_is_told_what_was_counted() {
    let lab = Lab::new();
    lab.address_guests();
    lab.a.ok("dig +tries=1 +time=5 @10.9.1.1 db A");
    lab.a.ok("dig +tries=1 +time=5 @10.9.1.1 nobody A");
    lab.a.ok("curl -s -m 5 http://10.9.1.1/latest/user-data");
    let count = |name: &str| lab.core.counters.lock().unwrap().get(name).copied().unwrap_or(0);
    wait_until("counters", SOON, || count("dns_local") == 2 && count("metadata_refused") == 1);
    assert_eq!(count("dns_queries"), 2);
}
