//! What serve is to have: the sockets, and the snapshots that follow from the network's state.

use std::net::IpAddr;

use ipnet::Ipv4Net;

use crate::{
    snapshot::{Dhcp, DhcpSubnet, Dns, DnsHost, DnsSubnet, Listener, Service},
    state::{Setup, State},
};

/// MTU of a NIC that nobody gave one.
const MTU: u16 = 1500;

/// The sockets to open.
pub fn listeners(setup: &Setup) -> Vec<Listener> {
    let wanted = |service: &Service| match service {
        Service::DnsUdp | Service::DnsTcp => !setup.external_dns,
        Service::Dhcp | Service::DhcpFrames | Service::Metadata | Service::Password => true,
    };
    let listener = |service| Listener { service, nic: setup.guest.name(), address: setup.guest.address };
    Service::ALL.into_iter().filter(wanted).map(listener).collect()
}

/// Whom DHCP answers. `mtu` is the guest NIC's.
pub fn dhcp(setup: &Setup, state: &State, mtu: u32) -> Dhcp {
    let own = (!setup.external_dns).then_some(setup.guest.address);
    // Option 6 holds IPv4 addresses only; `internaldns` are for the router itself.
    let outside = setup.guest_resolvers.iter().copied();
    let subnet = DhcpSubnet {
        nic: setup.guest.name(),
        router: setup.guest.address,
        network: setup.guest.network(),
        mtu: u16::try_from(mtu).unwrap_or(MTU),
        resolvers: own.into_iter().chain(outside).collect(),
        domain: setup.domain.clone(),
        search: setup.search.clone(),
        boot_file: Some("pxelinux.0".to_owned()),
    };
    let served = state.hosts.values().filter(|host| is_host(subnet.network, host.address));
    let hosts = served.cloned().collect();
    Dhcp { hosts, subnets: vec![subnet] }
}

/// Whether an address is one of a host: neither the network's nor the broadcast address.
fn is_host(network: Ipv4Net, address: std::net::Ipv4Addr) -> bool {
    network.contains(&address)
        && (network.prefix_len() >= 31 || (address != network.network() && address != network.broadcast()))
}

/// What DNS answers; empty where guests ask outside resolvers.
pub fn dns(setup: &Setup, state: &State) -> Dns {
    if setup.external_dns {
        return Dns::default();
    }
    let own: IpAddr = setup.guest.address.into();
    let hosts = state.hosts.values().filter(|host| !host.name.is_empty());
    Dns {
        domains: vec![setup.domain.clone()],
        upstreams: setup.resolvers.iter().copied().filter(|r| *r != own).collect(),
        router_names: vec![setup.name.clone(), "data-server".to_owned()],
        subnets: vec![DnsSubnet { network: setup.guest.network(), router: setup.guest.address }],
        open: setup.exposed_dns,
        hosts: hosts.map(|host| DnsHost { name: host.name.clone(), address: host.address }).collect(),
    }
}
