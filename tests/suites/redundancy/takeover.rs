//! Of an isolated network: one is in force, and the other one when that goes.

use std::time::Duration;

use tests::lab::{
    documents,
    pair::{ELECTED, Twins, alive, connect, serve},
    wait_until,
};

const GUEST: &str = r#"{"host_name":"ha1","mac_address":"02:01:00:ce:00:21","ipv4_address":"10.1.1.20","ipv6_duid":"x","dns_addresses":"10.1.1.20","default_gateway":"10.1.1.1","default_entry":true,"remove":false,"type":"dhcpentry"}"#;
const METADATA: &str =
    r#"{"vm_ip_address":"10.1.1.20","vm_metadata":[["metadata","instance-id","i-7"]],"type":"vmdata"}"#;
const PASSWORD: &str = r#"{"ip_address":"10.1.1.20","password":"Abc12","type":"vmpassword"}"#;

/// A port of the public address that leads to the guest.
fn open_port(twins: &Twins) {
    twins.apply(&documents::forward("tcp", "203.0.113.30", "80:80", "10.1.1.20", "80:80", false));
    twins.apply(&documents::ingress(1, "203.0.113.30", "tcp", Some((80, 80)), "0.0.0.0/0", false));
}

#[test]
fn one_is_in_force_and_the_other_has_everything_and_is_silent() {
    let twins = Twins::isolated();
    open_port(&twins);
    [GUEST, METADATA, PASSWORD].iter().for_each(|document| twins.apply(document));
    let first = twins.elected();
    let (primary, backup) = (&twins.routers[first], &twins.routers[1 - first]);
    assert_eq!(primary.filter(), backup.filter(), "the rules are the same");
    for space in [&primary.space, &backup.space] {
        let nic = space.ok("ip -o link show eth2; ip -o -4 addr show eth2");
        assert!(nic.contains("1e:00:4c:00:00:60") && nic.contains("203.0.113.30/24"), "{nic}");
    }
    assert!(!backup.space.ok("ip -o link show eth2").contains("UP"), "its public NIC is down");
    assert!(!backup.space.ok("ip -4 -o addr show eth0").contains("10.1.1.1/"));
    assert!(!backup.space.ok("ip route").contains("default"));
    assert!(primary.space.ok("ip route").contains("default via 203.0.113.1 dev eth2"));

    let own = |place: usize| ["10.1.1.5", "10.1.1.6"][place];
    let ask = |at: &str| {
        let out = twins.guest.sh(&format!("dig +tries=1 +time=1 +short @{at} ha1.cs4.example"));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    wait_until("answers of the one in force", ELECTED, || ask("10.1.1.1") == "10.1.1.20");
    assert_eq!(ask(own(first)), "10.1.1.20");
    assert_ne!(ask(own(1 - first)), "10.1.1.20");
    let curl = |url: &str| {
        twins.guest.ok(&format!("curl -s -m 5 -H 'DomU_Request: send_my_password' {url} || true"))
    };
    assert_eq!(curl("http://10.1.1.1/latest/meta-data/instance-id"), "i-7");
    assert_eq!(curl("http://10.1.1.1:8080"), "Abc12");
    assert_eq!(curl(&format!("http://{}:8080", own(first))), "", "at the gateway only");
    for port in ["", ":8080"] {
        assert_eq!(curl(&format!("http://{}{port}/latest/meta-data/instance-id", own(1 - first))), "");
    }
    // Only one of them answers for a lease, by the gateway's address.
    twins.guest.ip(&["link", "set", "eth0", "address", "02:01:00:ce:00:21"]);
    let seen = twins.guest.sh("timeout 3 tcpdump -lnvi eth0 udp src port 67 2>/dev/null & sleep 0.5; \
         udhcpc -f -n -q -t 1 -T 1 -i eth0 -s /bin/true >/dev/null 2>&1; wait");
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(
        seen.contains("10.1.1.1.67 >") && !seen.contains("10.1.1.5.67") && !seen.contains("10.1.1.6.67"),
        "{seen}"
    );

    // Nothing that cannot be right changes anything, on either.
    let before = primary.filter();
    for router in &twins.routers {
        let reply = router
            .send(r#"{"rules":[{"id":1,"protocol":"tcp","traffic_type":"Up"}],"type":"firewallrules"}"#);
        assert_eq!(reply.code, 1);
        assert_eq!(router.filter(), before);
    }
    assert_eq!((primary.role().as_str(), backup.role().as_str()), ("PRIMARY", "BACKUP"));
}

#[test]
fn a_planned_take_over_keeps_connections_and_is_not_taken_back() {
    let twins = Twins::isolated();
    open_port(&twins);
    let first = twins.elected();
    serve(&twins.outside, "203.0.113.1:7000");
    serve(&twins.guest, "10.1.1.20:80");
    let (mut out, seen) = connect(&twins.guest, "203.0.113.1:7000").expect("the way out");
    assert_eq!(seen, "203.0.113.30");
    let (mut inward, _) = connect(&twins.outside, "203.0.113.30:80").expect("the way in");
    for round in 0..2 {
        let (old, new) = if round == 0 { (first, 1 - first) } else { (1 - first, first) };
        assert!(alive(&mut out) && alive(&mut inward));
        twins.routers[old].keepalived("stop");
        assert_eq!(twins.routers[old].role(), "FAULT");
        assert!(!twins.routers[old].space.ok("ip -o link show eth2").contains("UP"));
        wait_until("the other one", ELECTED, || twins.routers[new].role() == "PRIMARY");
        assert!(alive(&mut out), "out, round {round}");
        assert!(alive(&mut inward), "in, round {round}");
        twins.routers[old].keepalived("start");
        wait_until("the first one again", ELECTED, || twins.routers[old].role() == "BACKUP");
        assert_eq!(twins.routers[new].role(), "PRIMARY", "it is not taken back");
    }
}

#[test]
fn power_goes_and_connections_and_guests_secrets_stay() {
    let mut twins = Twins::isolated();
    open_port(&twins);
    [GUEST, METADATA, PASSWORD].iter().for_each(|document| twins.apply(document));
    let first = twins.elected();
    serve(&twins.outside, "203.0.113.1:7000");
    let (mut out, _) = connect(&twins.guest, "203.0.113.1:7000").expect("the way out");
    assert!(alive(&mut out));
    // What is new is carried over within a moment.
    wait_until("the connection with the partner", ELECTED, || {
        let file = twins.routers[1 - first].paths.run().join("redundancy/conntrackd.conf");
        let known = twins.routers[1 - first].space.sh(&format!("conntrackd -C {} -e", file.display()));
        String::from_utf8_lossy(&known.stdout).contains("dport=7000")
    });
    twins.cut_power(first);
    let left = &twins.routers[1 - first];
    wait_until("the other one", ELECTED, || left.role() == "PRIMARY");
    assert!(alive(&mut out));
    let curl = |url: &str| twins.guest.ok(&format!("curl -s -m 5 -H 'DomU_Request: send_my_password' {url}"));
    assert_eq!(curl("http://10.1.1.1/latest/meta-data/instance-id"), "i-7");
    assert_eq!(curl("http://10.1.1.1:8080"), "Abc12");
}

#[test]
fn a_split_that_heals_leaves_one_in_force_and_everybody_finds_it() {
    let twins = Twins::isolated();
    open_port(&twins);
    serve(&twins.guest, "10.1.1.20:80");
    serve(&twins.outside, "203.0.113.1:7000");
    // Whichever of them was elected before.
    for cut in [0, 1] {
        twins.elected();
        let port = format!("guests{cut}");
        twins.lan.ip(&["link", "set", &port, "nomaster"]);
        wait_until("both", ELECTED, || twins.roles().iter().all(|role| role == "PRIMARY"));
        twins.lan.attach("guests", &port);
        twins.elected();
        wait_until("the way in", Duration::from_secs(5), || {
            connect(&twins.outside, "203.0.113.30:80").is_some()
        });
        assert!(connect(&twins.guest, "203.0.113.1:7000").is_some());
    }
}
