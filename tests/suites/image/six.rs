//! IPv6 on the built image: a guest finds the router, makes its address, and goes where rules let it.

use tests::lab::wait_until;

use crate::{
    lab::{Lab, Role, STEP},
    traffic::{Client, send},
};

const ARGUMENTS: &str = "eth0ip6=2001:db8:1::1 eth0ip6prelen=64 eth2ip6=2001:db8:ff::10 eth2ip6prelen=64 \
    ip6gateway=2001:db8:ff::1 ip6firewall=true ip6dns1=2001:db8:53::53";
const OPEN: &str = r#"{"rules":[{"id":0,"src_ip":"","protocol":"all","revoked":false,"source_cidr_list":[],"dest_cidr_list":[],"purpose":"Ipv6Firewall","traffic_type":"Egress","default_egress_policy":true,"guest_ip6_cidr":"2001:db8:1::/64"}],"type":"ipv6firewallrules"}"#;

#[test]
fn a_guest_has_ipv6_and_goes_out_by_a_rule() {
    let lab = Lab::new();
    for bridge in ["guest", "control"] {
        // The host itself is no guest.
        lab.host.ok(&format!("echo 1 > /proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"));
    }
    lab.host.ip(&["addr", "add", "2001:db8:ff::1/64", "dev", "public"]);
    lab.host.ip(&["route", "add", "2001:db8:1::/64", "via", "2001:db8:ff::10"]);
    let guest = Client::new(&lab, "guest", "02:01:00:cc:00:09");
    guest.net.ip(&["link", "set", "eth0", "up"]);
    let mut vm = lab.start(Role::Router, ARGUMENTS);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);
    wait_until("an address of its own", STEP, || {
        guest.net.ok("ip -6 -o addr show dev eth0").contains("2001:db8:1:0:1:ff:fecc:9/64")
    });
    let pings = |address: &str| guest.net.sh(&format!("ping -c 1 -W 2 -n -q {address}")).status.success();
    wait_until("the router", STEP, || pings("2001:db8:1::1"));
    let names = guest.net.ok("dig +tries=3 +time=5 +short @2001:db8:1::1 AAAA data-server");
    assert_eq!(names.trim(), "2001:db8:1::1");
    assert!(!pings("2001:db8:ff::1"), "nothing is open without a rule");
    send(&lab, "ipv6_firewall_rules.json.1", OPEN);
    wait_until("the way out", STEP, || pings("2001:db8:ff::1"));
}
