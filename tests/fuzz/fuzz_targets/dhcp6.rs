//! Any bytes as a DHCPv6 message from a guest: what is answered can be read, and is for whoever asked.
#![no_main]

use std::{net::Ipv4Addr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use router::{
    dhcp::stateless::answer,
    snapshot::{DhcpSubnet, Subnet6},
};

static SUBNET: LazyLock<(DhcpSubnet, Subnet6)> = LazyLock::new(|| {
    let subnet = DhcpSubnet {
        nic: "eth0".into(),
        router: Ipv4Addr::new(10, 1, 1, 1),
        network: "10.1.1.0/24".parse().expect("network"),
        mtu: 1500,
        resolvers: vec![],
        domain: "cs1.example".into(),
        search: vec!["a.example".into()],
        boot_file: None,
        six: None,
    };
    let router = "2001:db8:1::1".parse().expect("address");
    let six = Subnet6 {
        network: "2001:db8:1::/64".parse().expect("network"),
        routers: vec![router],
        resolvers: vec![router],
        advertised: true,
    };
    (subnet, six)
});

fuzz_target!(|bytes: &[u8]| {
    let (subnet, six) = &*SUBNET;
    let Some(reply) = answer(subnet, six, bytes) else { return };
    assert!(matches!(reply[0], 2 | 7), "an ADVERTISE or a REPLY");
    assert_eq!(reply[1..4], bytes[1..4], "the transaction of whoever asked");
    assert!(reply.len() <= bytes.len() + 200, "hardly longer than what was asked");
});
