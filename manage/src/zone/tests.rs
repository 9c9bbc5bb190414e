use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../examples/zone.toml");

/// The zone of the example file.
pub(crate) fn example() -> Zone {
    Zone::parse(EXAMPLE, Path::new("/zone")).unwrap()
}

fn refused(find: &str, replace: &str) -> String {
    assert!(EXAMPLE.contains(find), "the example has no {find:?}");
    Zone::parse(&EXAMPLE.replacen(find, replace, 1), Path::new("/zone")).unwrap_err().to_string()
}

#[test]
fn the_example_is_a_zone() {
    let zone = example();
    assert_eq!(zone.system.image, Path::new("/zone/../../image/out/trivium.qcow2"));
    assert_eq!(zone.networks[0].forwards[0].to_ports, Ports { first: 22, last: 22 });
    assert_eq!(zone.networks[0].egress[0].sources, ["10.1.1.0/24".parse().unwrap()]);
    assert_eq!(zone.ping_interval, Duration::from_secs(60));
}

#[test]
fn an_error_names_the_key_and_the_value() {
    for (find, replace, want) in [
        (
            "cidr = \"10.1.1.0/24\"",
            "cidr = \"10.1.1.7/24\"",
            "key network[0].cidr: \"10.1.1.7/24\": has host bits",
        ),
        (
            "gateway = \"10.1.1.1\"",
            "gateway = \"10.2.1.1\"",
            "key network[0].gateway: \"10.2.1.1\": not a host",
        ),
        ("ports = \"80\"", "ports = \"80-70\"", "key network[0].egress[0].ports: \"80-70\""),
        ("protocol = \"icmp\"", "protocol = \"gre\"", "key network[0].egress[1].protocol: \"gre\""),
        ("to_ports = \"22\"", "to_ports = \"22-23\"", "key network[0].forward[0].to_ports: \"22-23\""),
        ("kind = \"s3\"", "kind = \"ftp\"", "key store[1].kind: \"ftp\": must be nfs or s3"),
        ("bucket = \"secondary\"\n", "", "key store[1].bucket: \"\": a store of kind s3 needs it"),
        ("network = \"net1\"", "network = \"net2\"", "key guest[0].network: \"net2\": no [[network]]"),
        (
            "address = \"10.1.1.20\"",
            "address = \"10.1.1.1\"",
            "key guest[0].address: \"10.1.1.1\": already in use",
        ),
        ("mac = \"02:01", "mac = \"03:01", "key guest[0].mac: \"03:01:00:cc:00:09\": not a unicast MAC"),
        ("Abc123!", "", "key guest[0].password: \"***\": must be one line"),
        ("ping_interval = 60", "ping_interval = 0", "key zone.ping_interval: \"0\": must be 1 to 3600"),
        ("ping_interval = 60", "fence_after = 3", "key zone.fence_after: \"3\": must be 5 to 600"),
        (
            "bridge = \"br-mgmt\"",
            "bridge = \"br-mgmt\"\npage = \"8254\"",
            "key management.page: \"8254\": must be ADDRESS:PORT",
        ),
        ("memory = 512", "placement = \"any\"", "key system.placement: \"any\": must be spread or pack"),
        (
            "domain = \"cs1.example\"",
            "domain = \"cs1.example\"\nhost_tag = \"ssd\"",
            "key network.host_tag: \"ssd\": no [[host]] has this tag",
        ),
        ("bridge = \"br-pub\"", "bridge = \"br-public-network\"", "key public.bridge: \"br-public-network\""),
        ("range = \"203.0.113.10-", "range = \"203.0.112.10-", "key public.range: \"203.0.112.10\""),
        ("name = \"web1\"", "name = \"web 1\"", "key guest[0].name: \"web 1\""),
    ] {
        let error = refused(find, replace);
        assert!(error.contains(want), "{error}\nlacks: {want}");
    }
}

#[test]
fn an_unknown_key_is_named() {
    let error = refused("memory = 512", "memmory = 512");
    assert!(error.contains("memmory"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Zone::load(Path::new("/nonexistent/zone.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/zone.toml"), "{error}");
}

#[test]
fn a_plan_says_what_differs_and_nothing_else() {
    let old = example();
    assert_eq!(diff(&old, &old), Ok(vec![]));
    let change = |find: &str, replace: &str| {
        assert!(EXAMPLE.contains(find), "the example has no {find:?}");
        let new = Zone::parse(&EXAMPLE.replacen(find, replace, 1), Path::new("/zone")).unwrap();
        diff(&old, &new)
    };
    for (find, replace, lines) in [
        ("ports = \"80\"", "ports = \"81\"", &["~ network net1: its router gets the rules that differ"][..]),
        (
            "domain = \"cs1.example\"",
            "domain = \"cs2.example\"",
            &[
                "~ network net1: bridge, subnet, gateway, domain or source NAT address; when its VMs start again",
            ],
        ),
        ("Abc123!", "Abc124!", &["~ guest web1: its router is told"]),
        (
            "name = \"web1\"",
            "name = \"web2\"",
            &["- guest web1: it is stopped; its disk stays", "+ guest web2: it is started"],
        ),
        (
            "memory = 512",
            "memory = 513",
            &["~ system.image or system.memory: when each system VM starts again"],
        ),
        ("bucket = \"secondary\"", "bucket = \"third\"", &["~ store s3a: the SSVM attaches it anew"]),
        (
            "name = \"host1\"",
            "name = \"host2\"",
            &[
                "- host host1: it is let in no more and loses its vote",
                "+ host host2: a file to join with is written; it gets a vote",
            ],
        ),
    ] {
        assert_eq!(change(find, replace).unwrap(), lines, "{replace}");
    }
    let refused = change("ping_interval = 60", "ping_interval = 61").unwrap_err();
    assert!(refused.starts_with("zone.ping_interval: cannot change while the manager runs"), "{refused}");
}
