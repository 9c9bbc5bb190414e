//! The router of a VPC on a machine: its NICs come while it runs, and all is back after a restart.

use tests::lab::{
    Namespace,
    vm::{Config, Vm},
    wait_until,
};

use crate::{
    documents::{acl, address, rule, tier},
    lab::{CONTROL, Lab, STEP, stdout},
    traffic::{Client, Flow, send},
};

/// What the management server tells the router of a VPC at its start: of the control NIC only.
const ARGUMENTS: &str = "vpccidr=10.9.0.0/16 domain=vpc1.example publicMtu=1500 dns1=192.0.2.53 template=domP \
    name=r-12-VM eth0mask=255.255.0.0 has_public_network=true type=vpcrouter disable_rp_filter=true \
    logrotatefrequency=*:00:00 source_nat_ip=203.0.113.20";

/// Where the balancer listens.
const FRONT: &str = "203.0.113.20:80";

/// A guest of tier `n`.
fn guest(n: u8) -> String {
    format!(
        r#"{{"host_name":"web{n}","mac_address":"02:00:00:00:01:0{n}","ipv4_address":"10.9.{n}.10","ipv6_duid":"00:03:00:01:02:00:00:00:01:0{n}","default_gateway":"10.9.{n}.1","default_entry":true,"type":"dhcpentry"}}"#
    )
}

/// So many balanced ports from 80 on, all to the guest of the first tier.
fn balance(count: u16) -> String {
    let rule = |port: u16| {
        format!(
            r#","listen 203_0_113_20-{port}","\tbind 203.0.113.20:{port}","\tbalance roundrobin","\tserver 203_0_113_20-{port}_0 10.9.1.10:8000 check""#
        )
    };
    let rules: String = (80..80 + count).map(rule).collect();
    format!(
        r#"{{"rules":[{{"configuration":["global","\tmaxconn 4096","defaults","\tmode tcp","\tretries 3"{rules}],"ssl_certs":[],"add_rules":[],"remove_rules":[],"stat_rules":[],"router_ip":"{CONTROL}"}}],"type":"loadbalancer"}}"#
    )
}

/// What an echo server makes of a word; empty where nobody answers.
fn echo(from: &Namespace, address: &str) -> String {
    let (host, port) = address.rsplit_once(':').expect("an address and a port");
    let out = from.sh(&format!("echo hello | timeout 20 busybox nc -w 5 {host} {port}"));
    stdout(&out).trim().to_owned()
}

/// What holds before and after a restart.
fn serves(lab: &Lab, a: &Client, b: &Client) {
    assert_eq!(a.lease(), "10.9.1.10 10.9.1.1 web1");
    assert_eq!(b.lease(), "10.9.2.10 10.9.2.1 web2");
    assert_eq!(b.net.ok("dig +tries=3 +time=5 +short @10.9.2.1 web2.tier2.example").trim(), "10.9.2.10");
    assert_eq!(echo(&b.net, "10.9.1.10:8000"), "hello", "the list of tier 1 lets tier 2 in");
    assert_eq!(echo(&a.net, "10.9.2.10:8000"), "", "the list of tier 2 lets nobody in");
    assert_eq!(echo(&a.net, "203.0.113.1:7"), "hello", "source NAT");
    wait_until("the balancer", STEP, || echo(&lab.host, FRONT) == "hello");
}

#[test]
fn tiers_lists_and_balancer_come_while_it_runs_and_outlive_a_restart() {
    let lab = Lab::new();
    lab.host.bridge("tier1");
    lab.host.bridge("tier2");
    let config = Config::ours().behind(&lab.host, "control", "02:00:4c:00:00:00");
    let mut vm = Vm::start(config);
    vm.deliver(&lab.keyed(ARGUMENTS, &format!("eth0ip={CONTROL}")), STEP);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);

    vm.plug(&lab.host, "public", "02:00:00:00:00:01");
    send(&lab, "ip_associations.json.1", &address("203.0.113.20", 1, true));
    for (n, nic) in [(1, 2), (2, 3)] {
        vm.plug(&lab.host, &format!("tier{n}"), &format!("02:00:00:00:00:0{nic}"));
        send(&lab, &format!("guest_network.json.{nic}"), &tier(n, nic, true));
        send(&lab, &format!("vm_dhcp_entry.json.{nic}"), &guest(n));
    }
    let a = Client::new(&lab, "tier1", "02:00:00:00:01:01");
    let b = Client::new(&lab, "tier2", "02:00:00:00:01:02");
    let _echoes =
        [a.echo(8000), b.echo(8000), lab.host.spawn("busybox", &["nc", "-ll", "-p", "7", "-e", "cat"])];
    assert_eq!(b.lease(), "10.9.2.10 10.9.2.1 web2");
    assert_eq!(a.lease(), "10.9.1.10 10.9.1.1 web1");
    assert_eq!(echo(&b.net, "10.9.1.10:8000"), "", "a tier without a list lets nobody in");
    send(&lab, "network_acl.json.4", &acl(2, &[rule("tcp", Some((8000, 8000)), "10.9.2.0/24", true)], &[]));
    send(&lab, "load_balancer.json.5", &balance(1));
    serves(&lab, &a, &b);

    // A connection by the balancer lasts while rules are added and taken away.
    let flow = Flow::start(&lab, FRONT);
    for count in [2, 3, 4, 3, 2, 1, 2] {
        send(&lab, &format!("load_balancer.json.1{count}"), &balance(count));
        let last = format!("203.0.113.20:{}", 79 + count);
        wait_until("the new rule", STEP, || echo(&lab.host, &last) == "hello");
        assert_eq!(echo(&lab.host, &format!("203.0.113.20:{}", 80 + count)), "", "a rule that has gone");
    }
    let (words, longest) = flow.end();
    println!("{words} words by the balancer during 7 reloads, the longest took {longest:?}");
    assert!(words > 100, "{words} words");

    vm.restart("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);
    serves(&lab, &a, &b);
    vm.shut_down(STEP);
}
