use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../examples/zone.toml");

/// The zone of the example file.
pub(crate) fn example() -> Zone {
    Zone::parse(EXAMPLE, Path::new("/zone")).unwrap()
}

/// The same with a basic network and a port in it.
pub(crate) fn with_basic() -> Zone {
    Zone::parse(&format!("{EXAMPLE}{BASIC}"), Path::new("/zone")).unwrap()
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

const BASIC: &str = r#"
[[network]]
name = "basic"
kind = "basic"
bridge = "br-basic"
cidr = "10.2.0.0/24"
gateway = "10.2.0.1"
router = "10.2.0.2"
domain = "cs2.example"
[[security_group]]
name = "web"
[[security_group.ingress]]
protocol = "tcp"
ports = "80"
from = ["10.0.0.0/8", "2001:db8::/32"]
[[security_group]]
name = "db"
[[security_group.ingress]]
protocol = "all"
groups = ["web"]
[[port]]
name = "old1"
network = "basic"
host = "host1"
tap = "vnet3"
mac = "02:00:00:00:00:0a"
address = "10.2.0.10"
groups = ["web"]
"#;

#[test]
fn groups_and_ports_are_checked_together() {
    let parse = |find: &str, replace: &str| {
        assert!(BASIC.contains(find), "no {find:?}");
        Zone::parse(&format!("{EXAMPLE}{}", BASIC.replacen(find, replace, 1)), Path::new("/zone"))
    };
    let zone = parse("", "").unwrap();
    let network = zone.network("basic").unwrap();
    assert!(network.is_guarded() && network.router() == Ipv4Addr::new(10, 2, 0, 2));
    assert_eq!(zone.groups[0].ingress[0].text("from"), "tcp 80 from 10.0.0.0/8, 2001:db8::/32");
    for (find, replace, want) in [
        (
            "router = \"10.2.0.2\"",
            "router = \"10.2.0.1\"",
            "key network[1].router: \"10.2.0.1\": is the gateway",
        ),
        ("kind = \"basic\"", "kind = \"flat\"", "key network[1].kind: \"flat\": must be isolated or basic"),
        ("kind = \"basic\"\n", "", "key network[1].router: \"10.2.0.2\": the router of an isolated network"),
        ("router = ", "source_nat = \"203.0.113.9\"\nrouter = ", "key network[1].source_nat"),
        ("protocol = \"all\"", "protocol = \"gre\"", "key security_group[1].ingress[0].protocol: \"gre\""),
        (
            "protocol = \"all\"",
            "protocol = \"all\"\ntype = 8",
            "key security_group[1].ingress[0].type: \"8\"",
        ),
        (
            "protocol = \"all\"",
            "protocol = \"icmp\"\ncode = 0",
            "key security_group[1].ingress[0].code: \"0\": needs",
        ),
        (
            "protocol = \"all\"",
            "protocol = \"icmp\"\nfrom = [\"::/0\"]",
            "ingress[0].from[0]: \"::/0\": icmp is of",
        ),
        (
            "10.0.0.0/8",
            "10.0.0.1/8",
            "key security_group[0].ingress[0].from[0]: \"10.0.0.1/8\": has host bits",
        ),
        (
            "groups = [\"web\"]\n[[port]]",
            "groups = [\"wbe\"]\n[[port]]",
            "key security_group[1].ingress[0].groups: \"wbe\"",
        ),
        (
            "network = \"basic\"",
            "network = \"net1\"",
            "key port[0].network: \"net1\": no [[network]] of kind basic",
        ),
        ("host = \"host1\"", "host = \"host9\"", "key port[0].host: \"host9\": no [[host]]"),
        ("\"vnet3\"", "\"vm3-0\"", "key port[0].tap: \"vm3-0\": names such as vm7-0"),
        ("10.2.0.10", "10.2.0.2", "key port[0].address: \"10.2.0.2\": already in use"),
        ("10.2.0.10", "10.3.0.10", "key port[0].address: \"10.3.0.10\": not a host address"),
    ] {
        let error = parse(find, replace).unwrap_err().to_string();
        assert!(error.contains(want), "{error}\nlacks: {want}");
    }
    let before = parse("", "").unwrap();
    let other = parse("ports = \"80\"", "ports = \"443\"").unwrap();
    assert_eq!(
        diff(&before, &other).unwrap(),
        [
            "~ security group web: - ingress tcp 80 from 10.0.0.0/8, 2001:db8::/32",
            "~ security group web: + ingress tcp 443 from 10.0.0.0/8, 2001:db8::/32"
        ]
    );
}
