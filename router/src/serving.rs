//! What serve is to have: the sockets, and the snapshots that follow from the network's state.

use std::net::IpAddr;

use ipnet::Ipv4Net;

use crate::{
    link::Devices,
    snapshot::{Dhcp, DhcpSubnet, Dns, DnsHost, DnsSubnet, Listener, Service},
    state::Kind,
    view::{GuestNic, View},
};

/// MTU of a NIC that nobody gave one.
const MTU: u32 = 1500;

/// The sockets to open.
pub fn listeners(view: &View<'_>) -> Vec<Listener> {
    let mut all = Vec::new();
    if !view.setup.kind.serves_guests() {
        return all;
    }
    for nic in view.guests.values() {
        for (n, address) in nic.addresses.iter().enumerate() {
            let wanted = |service: &Service| match service {
                Service::DnsUdp | Service::DnsTcp => view.serves_dns(),
                Service::Dhcp | Service::DhcpFrames => n == 0,
                Service::Metadata | Service::Password => true,
            };
            let listener = |service| Listener { service, nic: nic.name.clone(), address: address.addr() };
            all.extend(Service::ALL.into_iter().filter(wanted).map(listener));
        }
    }
    all
}

/// Whom DHCP answers.
pub fn dhcp(view: &View<'_>, devices: &Devices) -> Dhcp {
    if !view.setup.kind.serves_guests() {
        return Dhcp::default();
    }
    let nics = view.guests.values();
    let subnets: Vec<DhcpSubnet> = nics
        .flat_map(|nic| {
            let device = devices.get(&nic.name).map(|device| device.mtu);
            let mtu = device.or(nic.mtu.map(u32::from)).unwrap_or(MTU);
            nic.addresses.iter().map(move |address| subnet(view, nic, *address, mtu))
        })
        .collect();
    let is_served = |address| subnets.iter().any(|subnet| is_host(subnet.network, address));
    let hosts = view.state.hosts.values().filter(|host| is_served(host.address)).cloned().collect();
    Dhcp { hosts, subnets }
}

fn subnet(view: &View<'_>, nic: &GuestNic<'_>, address: Ipv4Net, mtu: u32) -> DhcpSubnet {
    let setup = view.setup;
    let own = (!setup.external_dns).then_some(address.addr());
    // Option 6 holds IPv4 addresses only; `internaldns` are for the router itself.
    let outside = match nic.tier {
        Some(_) if setup.vpc.own_resolver_only => &[],
        Some((_, tier)) => tier.resolvers.as_slice(),
        None => setup.guest_resolvers.as_slice(),
    };
    DhcpSubnet {
        nic: nic.name.clone(),
        router: address.addr(),
        network: address.trunc(),
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        resolvers: own.into_iter().chain(outside.iter().copied()).collect(),
        domain: nic.tier.map_or(&setup.domain, |(_, tier)| &tier.domain).clone(),
        search: setup.search.clone(),
        boot_file: nic.tier.is_none().then(|| "pxelinux.0".to_owned()),
    }
}

/// Whether an address is one of a host: neither the network's nor the broadcast address.
fn is_host(network: Ipv4Net, address: std::net::Ipv4Addr) -> bool {
    network.contains(&address)
        && (network.prefix_len() >= 31 || (address != network.network() && address != network.broadcast()))
}

/// What DNS answers; empty where guests ask outside resolvers.
pub fn dns(view: &View<'_>) -> Dns {
    if !view.serves_dns() {
        return Dns::default();
    }
    let (setup, state) = (view.setup, view.state);
    let addresses = || view.guests.values().flat_map(|nic| &nic.addresses);
    let is_own = |address: IpAddr| addresses().any(|net| IpAddr::V4(net.addr()) == address);
    let mut domains = vec![setup.domain.clone()];
    for (_, tier) in view.guests.values().filter_map(|nic| nic.tier) {
        if !domains.contains(&tier.domain) {
            domains.push(tier.domain.clone());
        }
    }
    // Names in a tier are there for its guests as long as the tier is.
    let is_here = |address| setup.kind != Kind::Vpc || addresses().any(|net| net.contains(&address));
    let hosts = state.hosts.values().filter(|host| !host.name.is_empty() && is_here(host.address));
    Dns {
        domains,
        upstreams: setup.resolvers.iter().copied().filter(|r| !is_own(*r)).collect(),
        router_names: vec![setup.name.clone(), "data-server".to_owned()],
        subnets: addresses().map(|net| DnsSubnet { network: net.trunc(), router: net.addr() }).collect(),
        open: setup.exposed_dns,
        hosts: hosts.map(|host| DnsHost { name: host.name.clone(), address: host.address }).collect(),
    }
}
