//! IPv6 by packets: guests that find their router and make their addresses, rules and lists, names and metadata.

use std::time::Duration;

use tests::lab::{
    Namespace, join,
    pair::{ELECTED, Router, Twins},
    wait_until,
};

use crate::{
    documents::{acl, address, rule, tier},
    lab::{VPC, alive, connect, none, pings, seen, serve},
};

const LINE: &str = "template=domP name=r-7-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 eth2ip6=2001:db8:ff::10 \
    eth2ip6prelen=64 gateway=203.0.113.1 ip6gateway=2001:db8:ff::1 publicMtu=1500 eth0ip=10.1.1.1 \
    eth0mask=255.255.255.0 eth0ip6=2001:db8:1::1 eth0ip6prelen=64 privateMtu=1450 ip6firewall=true domain=cs1.example \
    cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=router disable_rp_filter=true \
    dns1=192.0.2.53 ip6dns1=2001:db8:53::53\n";

/// What guest a makes of its MAC.
const MAC: &str = "02:01:00:cc:00:09";
const GUEST: &str = "2001:db8:1:0:1:ff:fecc:9";

const SOON: Duration = Duration::from_secs(10);

struct Lab {
    router: Router,
    a: Namespace,
    b: Namespace,
    outside: Namespace,
    _others: [Namespace; 2],
}

fn apply(router: &Router, text: &str) {
    let reply = router.send(text);
    assert_eq!((reply.code, reply.stderr.as_str()), (0, ""), "{text}");
}

/// An isolated network with guests a and b, and an outside that knows the way to it.
fn isolated(line: &str) -> Lab {
    let [lan, a, b, host, outside] = ["lan", "a", "b", "host", "outside"].map(Namespace::new);
    let router = Router::alone(line, |router| {
        lan.bridge("br0");
        for (peer, port) in [(router, "port-r"), (&a, "port-a"), (&b, "port-b")] {
            join(peer, "eth0", &lan, port);
            lan.attach("br0", port);
        }
        join(router, "eth1", &host, "eth0");
        join(router, "eth2", &outside, "eth0");
        a.ip(&["link", "set", "eth0", "address", MAC]);
        a.address("eth0", "10.1.1.20/24");
        b.address("eth0", "10.1.1.21/24");
        outside.address("eth0", "203.0.113.1/24");
        outside.ip(&["addr", "add", "2001:db8:ff::1/64", "dev", "eth0"]);
        outside.ip(&["route", "add", "2001:db8:1::/64", "via", "2001:db8:ff::10"]);
    });
    Lab { router, a, b, outside, _others: [lan, host] }
}

fn rules(items: &[&str]) -> String {
    format!(
        r#"{{"rules":[{}],"type":"ipv6firewallrules","delete_from_processed_cache":false}}"#,
        items.join(",")
    )
}

/// The rule that stands for what the network does with egress.
fn default_egress(allow: bool, revoked: bool) -> String {
    format!(
        r#"{{"id":0,"src_ip":"","protocol":"all","revoked":{revoked},"already_added":false,"source_cidr_list":[],"dest_cidr_list":[],"purpose":"Ipv6Firewall","traffic_type":"Egress","default_egress_policy":{allow},"guest_ip6_cidr":"2001:db8:1::/64"}}"#
    )
}

fn in_six(id: u32, what: &str, to: &str) -> String {
    format!(
        r#"{{"id":{id},{what},"revoked":false,"already_added":false,"source_cidr_list":["::/0"],"dest_cidr_list":["{to}"],"purpose":"Ipv6Firewall","traffic_type":"Ingress","default_egress_policy":true,"guest_ip6_cidr":"2001:db8:1::/64"}}"#
    )
}

fn out_six(id: u32, what: &str, allow: bool) -> String {
    in_six(id, what, "::/0")
        .replace("Ingress", "Egress")
        .replace(r#""default_egress_policy":true"#, &format!(r#""default_egress_policy":{allow}"#))
}

const TCP_22: &str = r#""protocol":"tcp","src_port_range":[22,22]"#;
const TCP_80: &str = r#""protocol":"tcp","src_port_range":[80,80]"#;

fn settle(guest: &Namespace, address: &str) {
    wait_until("an address of its own", SOON, || {
        guest.ok("ip -6 -o addr show dev eth0").contains(address)
            && guest.ok("ip -6 route").contains("default via fe80")
    });
}

#[test]
fn guests_find_their_router_and_only_what_rules_let_through_passes() {
    let Lab { router, a, b, outside, _others } = &mut isolated(LINE);
    // Who looks for a router finds it within a second.
    wait_until("who answers guests", SOON, || a.sh("rdisc6 -1 -w 1000 -r 1 eth0").status.success());
    let found = a.ok("rdisc6 -1 -w 1000 -r 1 eth0");
    for part in ["2001:db8:1::/64", "2001:db8:1::1", "2001:db8:53::53"] {
        assert!(found.contains(part), "{part} in {found}");
    }
    let value = |name: &str| {
        let line = found.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {found}"))
            .split_once(':')
            .expect("a value")
            .1
            .trim()
            .to_owned()
    };
    assert!(
        value("Autonomous address conf.").starts_with("Yes")
            && value("DNS servers lifetime").starts_with("30")
    );
    assert!(value("Stateful address conf.").starts_with("No") && value("MTU").starts_with("1450"), "{found}");
    settle(a, GUEST);
    settle(b, "2001:db8:1:");
    // Without being asked it says so again.
    b.ok("timeout 17 tcpdump -c 1 -ni eth0 'icmp6 and ip6[40] == 134'");
    assert_eq!(
        router.space.ok("cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6").trim(),
        "1",
        "the host has none"
    );

    for address in [&format!("[{GUEST}]:22"), &format!("[{GUEST}]:23"), "[::]:80"] {
        serve(a, address);
    }
    serve(outside, "[2001:db8:ff::1]:80");
    serve(outside, "[2001:db8:ff::1]:81");
    assert!(pings(a, "2001:db8:1::1") && pings(outside, "2001:db8:ff::10"), "the router answers");
    none(outside, &[&format!("[{GUEST}]:22")]);
    none(a, &["[2001:db8:ff::1]:80"]);

    let ping = in_six(60, r#""protocol":"icmp","icmp_type":-1,"icmp_code":-1"#, "2001:db8:1::/64");
    let open = rules(&[&default_egress(true, false), &in_six(61, TCP_22, GUEST), &ping]);
    apply(router, &open);
    assert_eq!(seen(outside, &format!("[{GUEST}]:22")).as_deref(), Some("2001:db8:ff::1"), "as it is");
    assert_eq!(seen(a, "[2001:db8:ff::1]:80").as_deref(), Some(GUEST));
    assert!(pings(outside, GUEST));
    none(
        outside,
        &[
            &format!("[{GUEST}]:23"),
            &format!("[{GUEST}]:80"),
            "[2001:db8:ff::10]:3922",
            "[2001:db8:ff::10]:80",
        ],
    );
    let (filter, links) = (router.filter(), router.space.ok("ip -6 addr; ip -6 route"));
    apply(router, &open);
    assert_eq!(
        (router.filter(), router.space.ok("ip -6 addr; ip -6 route")),
        (filter, links),
        "twice is once"
    );
    // A rule of IPv4 says nothing of IPv6, nor the other way round.
    none(outside, &["10.1.1.20:22"]);

    // With a default of allow a rule denies; with one of deny it allows. What is known goes on.
    let (mut old, _) = connect(a, "[2001:db8:ff::1]:80").expect("a connection");
    apply(router, &rules(&[&out_six(62, TCP_80, true)]));
    none(a, &["[2001:db8:ff::1]:80"]);
    assert!(seen(a, "[2001:db8:ff::1]:81").is_some() && alive(&mut old));
    apply(
        router,
        &rules(&[
            &default_egress(true, true),
            &out_six(62, TCP_80, true).replace(r#""revoked":false"#, r#""revoked":true"#),
        ]),
    );
    apply(router, &rules(&[&default_egress(false, false), &out_six(63, TCP_80, false)]));
    assert!(seen(a, "[2001:db8:ff::1]:80").is_some());
    none(a, &["[2001:db8:ff::1]:81"]);
    // Nobody sends in the name of others.
    a.ip(&["addr", "add", "2001:db8:2::20/128", "dev", "eth0"]);
    let ask = a.sh("ping -c 1 -W 1 -n -q -I 2001:db8:2::20 2001:db8:ff::1");
    assert!(!ask.status.success());
    a.ip(&["addr", "del", "2001:db8:2::20/128", "dev", "eth0"]);
    let left = router.space.ok("nft list chain inet trivium forward6");
    assert!(left.contains("2001:db8:1::/64"), "{left}");
    let mut before = router.space.ok("nft -s list ruleset");
    before.push_str(&router.space.ok("ip -6 -o addr"));
    let reply = router.send(r#"{"rules":[{"id":70,"protocol":"tcp","source_cidr_list":["10.0.0.0/8"],"traffic_type":"Ingress"}],"type":"ipv6firewallrules"}"#);
    assert!(reply.code == 1 && reply.stderr.contains("holds no IPv6 network"), "{reply:?}");
    let after = router.space.ok("nft -s list ruleset") + &router.space.ok("ip -6 -o addr");
    assert_eq!(before, after, "a document that cannot be right changes nothing");
    // A core that starts again finds everything in place.
    let links = |router: &Router| router.space.ok("ip -6 addr; ip -6 route");
    let before = (router.filter(), links(router));
    router.kill_core();
    router.start_core();
    assert_eq!((router.filter(), links(router)), before);
    assert!(alive(&mut old), "what is known goes on");
    assert!(seen(a, "[2001:db8:ff::1]:80").is_some());
}

#[test]
fn guests_have_names_metadata_and_passwords_by_ipv6() {
    let Lab { router, a, b, outside, _others } = &isolated(LINE);
    settle(a, GUEST);
    settle(b, "2001:db8:1:");
    apply(
        router,
        &format!(
            r#"{{"host_name":"web1","mac_address":"{MAC}","ipv4_address":"10.1.1.20","ipv6_address":"{GUEST}","default_entry":true,"type":"dhcpentry"}}"#
        ),
    );
    apply(
        router,
        r#"{"vm_ip_address":"10.1.1.20","vm_metadata":[["metadata","instance-id","i-7"]],"type":"vmdata"}"#,
    );
    apply(router, r#"{"ip_address":"10.1.1.20","password":"Abc12","type":"vmpassword"}"#);
    let dig =
        |words: &str| a.ok(&format!("dig +tries=2 +time=2 +short @2001:db8:1::1 {words}")).trim().to_owned();
    wait_until("names", SOON, || dig("AAAA web1.cs1.example") == GUEST);
    assert_eq!(
        (dig("A web1"), dig("AAAA data-server"), dig(&format!("-x {GUEST}"))),
        ("10.1.1.20".into(), "2001:db8:1::1".into(), "web1.cs1.example.".into())
    );
    assert_eq!(dig("+tcp A data-server"), "10.1.1.1");
    let curl = |guest: &Namespace, url: &str| {
        let out = guest.sh(&format!("curl -gsk -m 5 -H 'DomU_Request: send_my_password' '{url}'"));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert_eq!(curl(a, "http://[2001:db8:1::1]/latest/meta-data/instance-id"), "i-7");
    assert_eq!(curl(a, "https://[2001:db8:1::1]/latest/meta-data/instance-id"), "i-7");
    assert_eq!(curl(a, "http://[2001:db8:1::1]:8080"), "Abc12");
    assert_ne!(curl(b, "http://[2001:db8:1::1]/latest/meta-data/instance-id"), "i-7", "it is another one's");
    assert_eq!(curl(b, "http://[2001:db8:1::1]:8080"), "saved_password", "there is none for it");
    assert_eq!(curl(outside, "http://[2001:db8:1::1]/latest/meta-data/instance-id"), "");
    assert!(!outside.sh("dig +tries=1 +time=1 @2001:db8:ff::10 data-server").status.success());
    // Who asks for more than its address by DHCPv6 gets resolvers and domains.
    let told = a.ok("d=$(mktemp -d); printf '#!/bin/sh\\nset > '$d'/told\\n' > $d/script; chmod +x $d/script; \
         timeout 20 dhclient -6 -S -1 -sf $d/script -lf $d/leases -pf $d/pid eth0 >/dev/null 2>&1; cat $d/told; \
         kill $(cat $d/pid) 2>/dev/null; rm -r $d");
    assert!(told.contains("new_dhcp6_name_servers='2001:db8:1::1 2001:db8:53::53'"), "{told}");
    assert!(told.contains("new_dhcp6_domain_search='cs1.example.'"), "{told}");
}

#[test]
fn the_router_of_a_shared_network_says_nothing_of_a_way_out() {
    let line = "name=r-20-VM eth0ip=10.1.1.2 eth0mask=255.255.255.0 eth0ip6=2001:db8:1::2 eth0ip6prelen=64 \
        gateway=10.1.1.1 ip6gateway=2001:db8:1::1 domain=cs3.example cidrsize=24 eth1ip=169.254.44.9 \
        eth1mask=255.255.0.0 type=dhcpsrvr dns1=192.0.2.53\n";
    let Lab { router, a, _others, .. } = &isolated(line);
    a.ip(&["addr", "add", "2001:db8:1::20/64", "dev", "eth0"]);
    assert!(pings(a, "2001:db8:1::2"));
    wait_until("names", SOON, || {
        let out = a.sh("dig +tries=1 +time=2 +short @2001:db8:1::2 AAAA data-server");
        String::from_utf8_lossy(&out.stdout).trim() == "2001:db8:1::2"
    });
    assert!(!a.sh("rdisc6 -1 -w 1500 -r 1 eth0").status.success());
    assert_eq!(router.space.ok("cat /proc/sys/net/ipv6/conf/all/forwarding").trim(), "0");
    assert!(router.space.ok("ip -6 route").contains("default via 2001:db8:1::1 dev eth0"));
}

/// A tier with 2001:db8:a:N::/64.
fn tier6(n: u8, nic: u8, add: bool) -> String {
    let six = format!(
        r#""cidr":"24","cidr6":"64","dns6":"2001:db8:53::53","router_guest_ip6":"2001:db8:a:{n}::1","router_guest_ip6_gateway":"2001:db8:a:{n}::1","router_guest_ip6_cidr":"2001:db8:a:{n}::/64","router_ip6":"2001:db8:ff::20","router_ip6_gateway":"2001:db8:ff::1","router_ip6_cidr":"2001:db8:ff::/64","#
    );
    tier(n, nic, add).replace(r#""cidr":"24","#, &six)
}

#[test]
fn lists_of_a_vpc_are_for_both_families() {
    let [a, b, host, outside] = ["a", "b", "host", "outside"].map(Namespace::new);
    let router = Router::alone(VPC, |router| {
        join(router, "eth0", &host, "eth0");
        join(router, "eth1", &outside, "eth0");
        for (nic, peer) in [(2, &a), (3, &b)] {
            join(router, &format!("eth{nic}"), peer, "eth0");
            let n = nic - 1;
            peer.address("eth0", &format!("10.9.{n}.10/24"));
            peer.ip(&["route", "add", "default", "via", &format!("10.9.{n}.1")]);
        }
        for nic in 0..4 {
            router.ip(&["link", "set", &format!("eth{nic}"), "address", &format!("02:00:00:00:00:0{nic}")]);
        }
        outside.address("eth0", "203.0.113.1/24");
        outside.ip(&["addr", "add", "2001:db8:ff::1/64", "dev", "eth0"]);
        outside.ip(&["route", "add", "2001:db8:a::/48", "via", "2001:db8:ff::20"]);
        for (guest, last) in [(&a, "0a"), (&b, "0b")] {
            guest.ip(&["link", "set", "eth0", "address", &format!("02:01:00:cc:00:{last}")]);
        }
    });
    apply(&router, &address("203.0.113.20", 1, true));
    apply(&router, &tier6(1, 2, true));
    apply(&router, &tier6(2, 3, true));
    let [one, two] = ["2001:db8:a:1:1:ff:fecc:a", "2001:db8:a:2:1:ff:fecc:b"];
    settle(&a, one);
    settle(&b, two);
    serve(&a, "[::]:22");
    serve(&b, "[::]:22");
    serve(&outside, "[2001:db8:ff::1]:80");
    let at = |address: &str, port: u16| format!("[{address}]:{port}");
    none(&a, &["[2001:db8:ff::1]:80", &at(two, 22)]);
    assert!(pings(&a, "2001:db8:a:1::1") && pings(&outside, "2001:db8:ff::20"));

    // Each part of a rule is for packets of its family alone.
    let any = rule("all", None, "0.0.0.0/0,::/0", true);
    let ssh = rule("tcp", Some((22, 22)), "10.9.1.0/24,2001:db8:ff::/64,2001:db8:ee::/64", true);
    apply(&router, &acl(2, &[], std::slice::from_ref(&any)));
    apply(&router, &acl(3, &[ssh], std::slice::from_ref(&any)));
    assert_eq!(seen(&a, "[2001:db8:ff::1]:80").as_deref(), Some(one), "as it is");
    assert_eq!(seen(&outside, &at(two, 22)).as_deref(), Some("2001:db8:ff::1"));
    none(&a, &[&at(two, 22)]);
    assert!(seen(&a, "10.9.2.10:22").is_some());
    apply(&router, &acl(3, &[rule("tcp", Some((22, 22)), "2001:db8:a:1::/64", true)], &[any]));
    assert!(seen(&a, &at(two, 22)).is_some());
    none(&a, &["10.9.2.10:22"]);
    none(&outside, &[&at(two, 22)]);
    // What a tier sends has to be let out, too; what is not named is not.
    apply(&router, &acl(2, &[], &[rule("tcp", Some((80, 80)), "2001:db8:ff::/64", true)]));
    assert!(seen(&a, "[2001:db8:ff::1]:80").is_some() && pings(&a, "2001:db8:a:1::1"));
    none(&a, &[&at(two, 22)]);

    // A tier goes with all that it has brought.
    apply(&router, &tier6(2, 3, false));
    assert!(!router.space.ok("ip -6 -o addr").contains("2001:db8:a:2::1"));
    assert!(router.space.ok("ip -6 route").contains("default via 2001:db8:ff::1 dev eth1"));
    apply(&router, &tier6(1, 2, false));
    assert!(!router.space.ok("ip -6 -o addr; ip -6 route").contains("2001:db8"));
}

#[test]
fn of_a_pair_the_one_in_force_is_the_router_of_ipv6() {
    let mut twins = Twins::isolated6();
    let first = twins.elected();
    let guest = &twins.guest;
    let known = "2001:db8:1::1";
    wait_until("an address of its own", ELECTED, || {
        guest.ok("ip -6 -o addr show dev eth0").contains("2001:db8:1:")
    });
    wait_until("the router", ELECTED, || pings(guest, known));
    let routers = guest.ok("ip -6 route show default");
    assert!(
        routers.contains("via fe80::1 ") && routers.lines().count() == 1,
        "both are one to guests: {routers}"
    );
    let silent = twins.routers[1 - first].space.ok("ip -6 -o addr");
    assert!(!silent.contains("2001:db8:1::1/") && !silent.contains("2001:db8:ff::"), "{silent}");
    assert!(pings(guest, "2001:db8:ff::1"));
    twins.cut_power(first);
    wait_until("the other one", ELECTED, || twins.routers[1 - first].role() == "PRIMARY");
    // Guests and those outside hear at once where everything is now.
    wait_until("the way out", Duration::from_secs(3), || pings(&twins.guest, "2001:db8:ff::1"));
}
