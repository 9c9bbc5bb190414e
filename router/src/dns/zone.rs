//! The local names.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::rr::{
    Name, RData, RecordType,
    rdata::{A, AAAA, PTR},
};
use ipnet::Ipv4Net;

use crate::snapshot::{Dns, DnsSubnet};

/// What the zone has to say to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// The name and records of the type are there.
    Found(Vec<RData>),
    /// The name is there, but nothing of the type.
    Empty,
    /// There is no such name, here or anywhere.
    Absent,
    /// Others know.
    Elsewhere,
}

/// All local names; built once for each snapshot.
#[derive(Debug, Default)]
pub struct Zone {
    hosts: HashMap<String, Vec<Ipv4Addr>>,
    names: HashMap<Ipv4Addr, String>,
    router_names: HashSet<String>,
    /// Lower-case labels, the rightmost one last.
    domains: Vec<Vec<String>>,
    subnets: Vec<DnsSubnet>,
    upstreams: Vec<IpAddr>,
    open: bool,
}

impl Zone {
    /// Indexes a snapshot. Names that are no names are left out.
    pub fn new(snapshot: Dns) -> Self {
        let mut hosts: HashMap<String, Vec<Ipv4Addr>> = HashMap::new();
        let mut names = HashMap::new();
        for host in snapshot.hosts {
            names.insert(host.address, host.name.clone());
            hosts.entry(host.name.to_ascii_lowercase()).or_default().push(host.address);
        }
        for subnet in &snapshot.subnets {
            if let Some(name) = snapshot.router_names.first() {
                names.insert(subnet.router, name.clone());
            }
        }
        let domains: Vec<Vec<String>> =
            snapshot.domains.iter().filter_map(|d| Name::from_ascii(d).ok()).map(|d| labels(&d)).collect();
        if let Some(domain) = snapshot.domains.first().filter(|d| !d.is_empty()) {
            for name in names.values_mut() {
                *name = format!("{name}.{domain}");
            }
        }
        let own: HashSet<Ipv4Addr> = snapshot.subnets.iter().map(|s| s.router).collect();
        Self {
            hosts,
            names,
            router_names: snapshot.router_names.iter().map(|n| n.to_ascii_lowercase()).collect(),
            domains: domains.into_iter().filter(|d| !d.is_empty()).collect(),
            subnets: snapshot.subnets,
            // Asking oneself would never end.
            upstreams: snapshot
                .upstreams
                .into_iter()
                .filter(|u| !u.is_loopback() && !matches!(u, IpAddr::V4(u) if own.contains(u)))
                .collect(),
            open: snapshot.open,
        }
    }

    /// Whether `asker` may ask at the router's address `listener`.
    pub fn serves(&self, listener: Ipv4Addr, asker: Ipv4Addr) -> bool {
        self.open || self.subnets.iter().any(|s| s.network.contains(&listener) && s.network.contains(&asker))
    }

    /// Whom to ask for what is not local, in order of preference.
    pub fn upstreams(&self) -> &[IpAddr] {
        &self.upstreams
    }

    /// What is known here of `name`, for a guest at `asker`.
    pub fn look_up(&self, name: &Name, kind: RecordType, asker: Ipv4Addr) -> Local {
        let labels = labels(name);
        if let Some(local) = self.reverse(&labels, kind) {
            return local;
        }
        if labels.last().is_some_and(|l| l == "localhost") {
            return localhost(kind);
        }
        match &labels[..] {
            [] => Local::Elsewhere,
            [host] => match self.host(host, kind, asker) {
                // Top level domains are asked for by resolvers that validate.
                Local::Absent if is_structure(kind) => Local::Elsewhere,
                local => local,
            },
            _ => self.below_a_domain(&labels, kind, asker),
        }
    }

    fn below_a_domain(&self, labels: &[String], kind: RecordType, asker: Ipv4Addr) -> Local {
        let Some(domain) = self.domains.iter().filter(|d| labels.ends_with(d)).max_by_key(|d| d.len()) else {
            return Local::Elsewhere;
        };
        match &labels[..labels.len() - domain.len()] {
            [] => Local::Empty,
            [host] => self.host(host, kind, asker),
            _ if self.domains.iter().any(|d| d.ends_with(labels)) => Local::Empty,
            _ => Local::Absent,
        }
    }

    fn host(&self, label: &str, kind: RecordType, asker: Ipv4Addr) -> Local {
        let addresses = match self.hosts.get(label) {
            Some(addresses) => self.nearest(addresses, asker),
            None if self.router_names.contains(label) => self.routers(asker),
            None => return Local::Absent,
        };
        match kind {
            RecordType::A | RecordType::ANY if !addresses.is_empty() => {
                Local::Found(addresses.into_iter().map(|a| RData::A(A(a))).collect())
            }
            _ => Local::Empty,
        }
    }

    /// The addresses in the asker's own subnet if there are any, else all of them.
    fn nearest(&self, addresses: &[Ipv4Addr], asker: Ipv4Addr) -> Vec<Ipv4Addr> {
        let near: Vec<_> = match self.subnet_of(asker) {
            Some(network) => addresses.iter().copied().filter(|a| network.contains(a)).collect(),
            None => Vec::new(),
        };
        if near.is_empty() { addresses.to_vec() } else { near }
    }

    fn routers(&self, asker: Ipv4Addr) -> Vec<Ipv4Addr> {
        match self.subnets.iter().find(|s| s.network.contains(&asker)) {
            Some(subnet) => vec![subnet.router],
            None => self.subnets.iter().map(|s| s.router).collect(),
        }
    }

    fn subnet_of(&self, asker: Ipv4Addr) -> Option<Ipv4Net> {
        self.subnets.iter().map(|s| s.network).find(|n| n.contains(&asker))
    }

    /// Names of addresses. Those of private addresses that nobody here has are nobody's.
    fn reverse(&self, labels: &[String], kind: RecordType) -> Option<Local> {
        let octets = labels.strip_suffix(&["in-addr".to_owned(), "arpa".to_owned()][..])?;
        let mut address = [0; 4];
        if octets.is_empty() || octets.len() > 4 {
            return Some(Local::Elsewhere);
        }
        for (byte, label) in address.iter_mut().zip(octets.iter().rev()) {
            match label.parse() {
                Ok(octet) => *byte = octet,
                Err(_) => return Some(Local::Elsewhere),
            }
        }
        let private = is_private(address, octets.len());
        if octets.len() < 4 {
            return Some(if private { Local::Empty } else { Local::Elsewhere });
        }
        Some(match self.names.get(&Ipv4Addr::from(address)).and_then(|n| Name::from_ascii(n).ok()) {
            Some(mut name) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                name.set_fqdn(true);
                Local::Found(vec![RData::PTR(PTR(name))])
            }
            Some(_) => Local::Empty,
            None if private => Local::Absent,
            None => Local::Elsewhere,
        })
    }
}

fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect()
}

/// Types that are asked of top level domains, and never of a machine.
fn is_structure(kind: RecordType) -> bool {
    matches!(kind, RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY)
}

/// RFC 6761 6.3.
fn localhost(kind: RecordType) -> Local {
    match kind {
        RecordType::A => Local::Found(vec![RData::A(A(Ipv4Addr::LOCALHOST))]),
        RecordType::AAAA => Local::Found(vec![RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))]),
        _ => Local::Empty,
    }
}

/// Whether the block of the first `octets` octets lies within those of RFC 1918, loopback or link-local.
fn is_private(address: [u8; 4], octets: usize) -> bool {
    match address {
        [10 | 127, ..] => true,
        [172, second, ..] => octets > 1 && (16..32).contains(&second),
        [192, 168, ..] | [169, 254, ..] => octets > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::DnsHost;

    const TIER_1: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 50);
    const TIER_2: Ipv4Addr = Ipv4Addr::new(10, 9, 2, 50);

    fn zone() -> Zone {
        let subnet = |network: &str, router: [u8; 4]| DnsSubnet {
            network: network.parse().unwrap(),
            router: router.into(),
        };
        let host = |name: &str, address: [u8; 4]| DnsHost { name: name.into(), address: address.into() };
        Zone::new(Dns {
            domains: vec!["vpc.example".into(), "tier1.vpc.example".into(), "Tier2.example".into()],
            upstreams: vec![[10, 9, 1, 1].into(), [127, 0, 0, 1].into(), [192, 0, 2, 53].into()],
            router_names: vec!["r-12-VM".into(), "data-server".into()],
            subnets: vec![subnet("10.9.1.0/24", [10, 9, 1, 1]), subnet("10.9.2.0/24", [10, 9, 2, 1])],
            hosts: vec![
                host("Web", [10, 9, 1, 10]),
                host("web", [10, 9, 2, 10]),
                host("db", [10, 9, 2, 20]),
                host("pub", [198, 51, 100, 9]),
            ],
            open: false,
        })
    }

    fn ask(name: &str, kind: RecordType, asker: Ipv4Addr) -> Local {
        zone().look_up(&Name::from_ascii(name).unwrap(), kind, asker)
    }

    fn a(addresses: &[[u8; 4]]) -> Local {
        Local::Found(addresses.iter().map(|a| RData::A(A(Ipv4Addr::from(*a)))).collect())
    }

    #[test]
    fn hosts_are_known_bare_and_below_every_domain_in_any_case() {
        for name in ["db.", "DB.", "db.vpc.example.", "db.TIER2.Example.", "db.tier1.vpc.example."] {
            assert_eq!(ask(name, RecordType::A, TIER_1), a(&[[10, 9, 2, 20]]), "{name}");
            assert_eq!(ask(name, RecordType::AAAA, TIER_1), Local::Empty, "{name}");
        }
    }

    #[test]
    fn a_name_in_two_tiers_means_the_one_of_the_asker() {
        assert_eq!(ask("web.", RecordType::A, TIER_1), a(&[[10, 9, 1, 10]]));
        assert_eq!(ask("web.", RecordType::A, TIER_2), a(&[[10, 9, 2, 10]]));
        let elsewhere = [192, 0, 2, 1].into();
        assert_eq!(ask("web.", RecordType::A, elsewhere), a(&[[10, 9, 1, 10], [10, 9, 2, 10]]));
    }

    #[test]
    fn the_router_is_where_the_asker_is() {
        for name in ["data-server.", "Data-Server.vpc.example.", "r-12-vm."] {
            assert_eq!(ask(name, RecordType::A, TIER_2), a(&[[10, 9, 2, 1]]), "{name}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let ptr = |name: &str| Local::Found(vec![RData::PTR(PTR(name.parse().unwrap()))]);
        assert_eq!(ask("20.2.9.10.in-addr.arpa.", RecordType::PTR, TIER_1), ptr("db.vpc.example."));
        assert_eq!(ask("9.100.51.198.in-addr.arpa.", RecordType::PTR, TIER_1), ptr("pub.vpc.example."));
        assert_eq!(ask("1.2.9.10.in-addr.arpa.", RecordType::PTR, TIER_1), ptr("r-12-VM.vpc.example."));
        assert_eq!(ask("20.2.9.10.in-addr.arpa.", RecordType::A, TIER_1), Local::Empty);
    }

    #[test]
    fn what_is_ours_or_private_is_not_asked_elsewhere() {
        for name in [
            "nobody.",
            "nobody.vpc.example.",
            "a.db.vpc.example.",
            "99.2.9.10.in-addr.arpa.",
            "1.1.16.172.in-addr.arpa.",
        ] {
            assert_eq!(ask(name, RecordType::A, TIER_1), Local::Absent, "{name}");
        }
        for name in ["vpc.example.", "tier1.vpc.example.", "168.192.in-addr.arpa."] {
            assert_eq!(ask(name, RecordType::SOA, TIER_1), Local::Empty, "{name}");
        }
    }

    #[test]
    fn everything_else_is() {
        for name in [
            "example.org.",
            "vpc.example.org.",
            "example.",
            "1.1.32.172.in-addr.arpa.",
            "8.8.8.8.in-addr.arpa.",
            "x.8.in-addr.arpa.",
            "172.in-addr.arpa.",
        ] {
            assert_eq!(ask(name, RecordType::NS, TIER_1), Local::Elsewhere, "{name}");
        }
        assert_eq!(ask(".", RecordType::NS, TIER_1), Local::Elsewhere);
    }

    #[test]
    fn only_guests_of_the_subnet_may_ask_unless_all_may() {
        let mut zone = zone();
        let listener = Ipv4Addr::new(10, 9, 1, 1);
        assert!(zone.serves(listener, TIER_1));
        assert!(!zone.serves(listener, TIER_2));
        zone.open = true;
        assert!(zone.serves(listener, TIER_2));
    }

    #[test]
    fn the_router_does_not_ask_itself() {
        assert_eq!(zone().upstreams(), [IpAddr::from([192, 0, 2, 53])]);
    }
}
