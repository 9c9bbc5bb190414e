//! Any bytes as a frame from a guest, and as a datagram: what is answered is short, and for known guests alone.
#![no_main]

use std::{net::Ipv4Addr, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use router::{
    dhcp::{
        answer::{Outcome, answer},
        packet, reply,
        request::Request,
        table::Table,
    },
    snapshot::{Dhcp, DhcpHost, DhcpSubnet},
};

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let router = Ipv4Addr::new(10, 1, 1, 1);
    let subnet = DhcpSubnet {
        nic: "eth0".into(),
        router,
        network: "10.1.1.0/24".parse().expect("network"),
        mtu: 1500,
        resolvers: vec![router],
        domain: "cs1.example".into(),
        search: vec!["a.example".into()],
        boot_file: Some("pxelinux.0".into()),
        six: None,
    };
    // The MAC of zeros is what short requests have.
    let host = |mac: &str, last| DhcpHost {
        mac: mac.parse().expect("MAC"),
        address: Ipv4Addr::new(10, 1, 1, last),
        six: None,
        name: "vm".into(),
        gateway: Some(router),
        default_nic: last % 2 == 0,
    };
    let hosts = [host("00:00:00:00:00:00", 20), host("02:00:00:00:00:01", 21)];
    let table = Table::default().with_subnets(Dhcp { subnets: vec![subnet] });
    hosts.into_iter().fold(table, |table, host| table.with_host(host.address, Some(host)))
});

fn judge(bytes: &[u8]) {
    let Ok(request) = Request::read(bytes) else { return };
    if let Outcome::Answer(answer) = answer(&TABLE, "eth0", &request) {
        let bytes = reply::render(&answer, &request).expect("bytes");
        assert!((300..=1472).contains(&bytes.len()));
        assert!(packet::write(Ipv4Addr::new(10, 1, 1, 1), Ipv4Addr::BROADCAST, &bytes).is_some());
    }
}

fuzz_target!(|bytes: &[u8]| {
    judge(bytes);
    if let Some(datagram) = packet::read(bytes) {
        judge(datagram.payload);
    }
});
