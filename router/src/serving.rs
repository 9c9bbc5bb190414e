//! What serve is to have: the sockets, and the snapshots that follow from the network's state.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv4Subnets};

use crate::{
    link::Devices,
    snapshot::{Dhcp, DhcpSubnet, Dns, DnsSubnet, Listener, Service, Subnet6},
    state::Kind,
    view::{GuestNic, View},
};

/// MTU of a NIC that nobody gave one.
const MTU: u32 = 1500;

/// The sockets to open.
pub fn listeners(view: &View<'_>) -> Vec<Listener> {
    let mut all = Vec::new();
    // Of a pair, only the one that is in force answers guests.
    if !view.setup.kind.serves_guests() || view.setup.is_silent() {
        return all;
    }
    for nic in view.guests.values() {
        for (n, address) in nic.addresses.iter().enumerate() {
            let wanted = |service: &Service| match service {
                Service::DnsUdp | Service::DnsTcp => view.serves_dns(),
                Service::Dhcp | Service::DhcpFrames => n == 0,
                Service::Metadata | Service::MetadataTls => true,
                // Where its guests look for it: not at an address that is one router's alone.
                Service::Password => nic.known().any(|net| net == *address),
                Service::Advert | Service::Dhcp6 => false,
            };
            let address = address.addr().into();
            let listener = |service| Listener { service, nic: nic.name.clone(), address };
            all.extend(Service::ALL.into_iter().filter(wanted).map(listener));
        }
        all.extend(listeners6(view, nic));
    }
    if view.serves_dns() {
        let any = crate::serve::sockets::ANY;
        let listener =
            |service, address: Ipv4Addr| Listener { service, nic: any.to_owned(), address: address.into() };
        let of = |(_, address)| [Service::DnsUdp, Service::DnsTcp].map(|service| listener(service, address));
        all.extend(clients(view).into_iter().flat_map(of));
    }
    all
}

/// The sockets for IPv6 of a NIC.
fn listeners6(view: &View<'_>, nic: &GuestNic<'_>) -> Vec<Listener> {
    let Some(six) = &nic.six else { return Vec::new() };
    let mut all = Vec::new();
    for (n, address) in six.routers().enumerate() {
        let wanted = |service: &Service| match service {
            Service::Dhcp | Service::DhcpFrames => false,
            Service::DnsUdp | Service::DnsTcp => view.serves_dns(),
            Service::Metadata | Service::MetadataTls => true,
            Service::Password | Service::Dhcp6 => n == 0,
            Service::Advert => n == 0 && is_advertised(view, nic) && !six.link_local.is_unspecified(),
        };
        let address = |service| if service == Service::Advert { six.link_local } else { address.addr() };
        let listener =
            |service| Listener { service, nic: nic.name.clone(), address: address(service).into() };
        all.extend(Service::ALL.into_iter().filter(wanted).map(listener));
    }
    all
}

/// Whether guests are told that this router is their way out with IPv6: only where it is.
fn is_advertised(view: &View<'_>, nic: &GuestNic<'_>) -> bool {
    view.setup.kind.forwards() && nic.is_forwarded()
}

/// IPv6 of the first subnet of a NIC.
fn subnet6(view: &View<'_>, nic: &GuestNic<'_>) -> Option<Subnet6> {
    let six = nic.six.as_ref()?;
    let own = view.serves_dns().then_some(six.known.addr()).filter(|_| !view.setup.external_dns);
    let alone = nic.tier.is_some() && view.setup.vpc.own_resolver_only;
    let outside = six.resolvers.iter().copied().filter(|_| !alone);
    let mut resolvers: Vec<Ipv6Addr> = own.into_iter().collect();
    outside.for_each(|resolver| {
        if !resolvers.contains(&resolver) {
            resolvers.push(resolver)
        }
    });
    Some(Subnet6 {
        network: six.known.trunc(),
        routers: six.routers().map(|net| net.addr()).collect(),
        resolvers,
        advertised: is_advertised(view, nic),
    })
}

/// Networks of clients of a VPN that ask for names, each with the address that they ask.
fn clients(view: &View<'_>) -> BTreeSet<(Ipv4Net, Ipv4Addr)> {
    if !view.setup.kind.forwards() {
        return BTreeSet::new();
    }
    let vpn = &view.state.vpn;
    let dialed = vpn.remotes.values().flat_map(|remote| {
        let nets = Ipv4Subnets::new(remote.range.0, remote.range.1, 0);
        nets.map(|net| (net, remote.local))
    });
    dialed.chain(vpn.wireguard.iter().map(|w| (w.address.trunc(), w.address.addr()))).collect()
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
            nic.known().enumerate().map(move |(n, address)| DhcpSubnet {
                six: subnet6(view, nic).filter(|_| n == 0),
                ..subnet(view, nic, address, mtu)
            })
        })
        .collect();
    Dhcp { subnets }
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
        six: None,
    }
}

/// What DNS answers; empty where guests ask outside resolvers.
pub fn dns(view: &View<'_>) -> Dns {
    if !view.serves_dns() {
        return Dns::default();
    }
    let setup = view.setup;
    let addresses = || view.guests.values().flat_map(|nic| &nic.addresses);
    let is_own = |address: IpAddr| addresses().any(|net| IpAddr::V4(net.addr()) == address);
    let mut domains = vec![setup.domain.clone()];
    for (_, tier) in view.guests.values().filter_map(|nic| nic.tier) {
        if !domains.contains(&tier.domain) {
            domains.push(tier.domain.clone());
        }
    }
    Dns {
        domains,
        upstreams: setup.resolvers.iter().copied().filter(|r| !is_own(*r)).collect(),
        router_names: vec![setup.name.clone(), "data-server".to_owned()],
        subnets: view
            .guests
            .values()
            .flat_map(|nic| {
                let six = nic.six.as_ref().map(|six| (six.known.trunc(), six.known.addr()));
                nic.known().enumerate().map(move |(n, net)| (net.trunc(), net.addr(), six.filter(|_| n == 0)))
            })
            .chain(clients(view).into_iter().map(|(network, router)| (network, router, None)))
            .map(|(network, router, six)| DnsSubnet { network, router, six })
            .collect(),
        open: setup.exposed_dns,
        // Names in a tier are there for its guests as long as the tier is.
        near_only: setup.kind == Kind::Vpc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{
        Setup,
        tests::{SHARED, VPC, after_at, devices_to, setup, setup_of, tier},
    };

    /// Services of an IPv4 address.
    const FOUR: usize = 7;

    fn with<T>(setup: &Setup, documents: &[&str], ask: impl FnOnce(&View<'_>, &Devices) -> T) -> T {
        let (state, devices) = (after_at(setup, documents), devices_to(4));
        ask(&View::new(setup, &state, &devices), &devices)
    }

    #[test]
    fn each_tier_has_its_own_sockets_resolvers_and_domain() {
        let documents = [tier(1, 2, true), tier(2, 3, true), tier(3, 9, true)];
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let setup = setup_of(VPC);
        let (listeners, dhcp, dns) =
            with(&setup, &documents, |view, devices| (listeners(view), dhcp(view, devices), dns(view)));
        assert_eq!(listeners.len(), 2 * FOUR, "the third tier has no NIC yet");
        let subnet = &dhcp.subnets[0];
        let resolvers: Vec<String> = subnet.resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(resolvers, ["10.9.1.1", "192.0.2.53", "192.0.2.54"], "the router first");
        assert_eq!((subnet.domain.as_str(), subnet.mtu, &subnet.boot_file), ("tier1.example", 1500, &None));
        assert_eq!(dns.domains, ["vpc1.example", "tier1.example", "tier2.example"]);
        assert_eq!((dns.subnets.len(), dns.near_only), (2, true));

        let alone = setup_of(&format!("{VPC} userouteripresolver=true"));
        let dhcp = with(&alone, &documents, super::dhcp);
        assert_eq!(dhcp.subnets[1].resolvers, [std::net::Ipv4Addr::new(10, 9, 2, 1)]);
        let outside = setup_of(&format!("{VPC} useextdns=true"));
        let (dhcp, dns) =
            with(&outside, &documents, |view, devices| (super::dhcp(view, devices), super::dns(view)));
        assert_eq!(dhcp.subnets[0].resolvers.len(), 2, "without the router");
        assert!(!dns.subnets.is_empty(), "which answers all the same");
    }

    #[test]
    fn an_alias_is_a_subnet_of_its_own() {
        let alias = r#"{"aliases":[{"revoke":false,"ip_address":"10.30.1.2","netmask":"255.255.255.0"}],"type":"ipaliases"}"#;
        let (listeners, dhcp) =
            with(&setup_of(SHARED), &[alias], |view, devices| (listeners(view), dhcp(view, devices)));
        assert_eq!(listeners.len(), FOUR + 5, "DHCP has one pair of sockets for the NIC");
        let routers: Vec<_> = dhcp.subnets.iter().map(|s| (s.router.to_string(), s.resolvers[0])).collect();
        assert_eq!(routers[1], ("10.30.1.2".to_owned(), [10, 30, 1, 2].into()));
    }

    #[test]
    fn a_balancer_serves_no_guests_and_an_isolated_network_its_one() {
        let balancer = setup_of(&SHARED.replace("dhcpsrvr", "ilbvm"));
        let (none, dns) = with(&balancer, &[], |view, devices| {
            assert_eq!(dhcp(view, devices), Dhcp::default());
            (listeners(view), dns(view))
        });
        assert!(none.is_empty() && dns == Dns::default());
        let dhcp = with(&setup(), &[], dhcp);
        assert_eq!(dhcp.subnets[0].boot_file.as_deref(), Some("pxelinux.0"));
    }
}
