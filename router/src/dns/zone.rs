//! The local names.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::{
    Name, RData, RecordType,
    rdata::{A, AAAA, PTR},
};
use imbl::{OrdMap, OrdSet};

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

/// All local names. A copy shares all of them, so that one with another name costs little.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    /// Addresses by lower-case name.
    hosts: OrdMap<String, OrdSet<Ipv4Addr>>,
    names: OrdMap<Ipv4Addr, String>,
    /// IPv6 addresses of those that have one.
    sixes: OrdMap<Ipv4Addr, Ipv6Addr>,
    /// Whose they are.
    owners: OrdMap<Ipv6Addr, Ipv4Addr>,
    around: Arc<Around>,
}

/// What is not about one guest.
#[derive(Debug, Default)]
struct Around {
    router_names: HashSet<String>,
    /// The router's name, as it is written.
    router_name: Option<String>,
    /// What is behind the names of addresses.
    suffix: String,
    /// Lower-case labels, the rightmost one last.
    domains: Vec<Vec<String>>,
    subnets: Vec<DnsSubnet>,
    upstreams: Vec<IpAddr>,
    near_only: bool,
    open: bool,
}

impl Zone {
    /// The same names of guests with what a snapshot says. Domains that are no names are left out.
    #[must_use]
    pub fn with(&self, snapshot: Dns) -> Self {
        let domains: Vec<Vec<String>> =
            snapshot.domains.iter().filter_map(|d| Name::from_ascii(d).ok()).map(|d| labels(&d)).collect();
        let first = snapshot.domains.first().filter(|d| !d.is_empty());
        let own = |s: &DnsSubnet| [Some(s.router.into()), s.six.map(|(_, router)| router.into())];
        let own: HashSet<IpAddr> = snapshot.subnets.iter().flat_map(own).flatten().collect();
        let around = Around {
            router_names: snapshot.router_names.iter().map(|n| n.to_ascii_lowercase()).collect(),
            router_name: snapshot.router_names.into_iter().next(),
            suffix: first.map(|domain| format!(".{domain}")).unwrap_or_default(),
            domains: domains.into_iter().filter(|d| !d.is_empty()).collect(),
            subnets: snapshot.subnets,
            // Asking oneself would never end.
            upstreams: snapshot
                .upstreams
                .into_iter()
                .filter(|u| !u.is_loopback() && !own.contains(u))
                .collect(),
            near_only: snapshot.near_only,
            open: snapshot.open,
        };
        Self { around: Arc::new(around), ..self.clone() }
    }

    /// The same with another name of an address, or none; the name may have an IPv6 address, too.
    #[must_use]
    pub fn with_host(&self, address: Ipv4Addr, named: Option<(String, Option<Ipv6Addr>)>) -> Self {
        let mut zone = self.clone();
        if let Some(six) = zone.sixes.remove(&address) {
            zone.owners.remove(&six);
        }
        if let Some(before) = zone.names.remove(&address).map(|name| name.to_ascii_lowercase())
            && let Some(addresses) = zone.hosts.get_mut(&before)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                zone.hosts.remove(&before);
            }
        }
        if let Some((name, six)) = named.filter(|(name, _)| !name.is_empty()) {
            if let Some(six) = six {
                zone.sixes.insert(address, six);
                zone.owners.insert(six, address);
            }
            zone.hosts.entry(name.to_ascii_lowercase()).or_default().insert(address);
            zone.names.insert(address, name);
        }
        zone
    }

    /// Whether `asker` may ask at the router's address `listener`.
    pub fn serves(&self, listener: IpAddr, asker: IpAddr) -> bool {
        let subnets = &self.around.subnets;
        self.around.open || subnets.iter().any(|s| holds(s, listener) && holds(s, asker))
    }

    /// Whom to ask for what is not local, in order of preference.
    pub fn upstreams(&self) -> &[IpAddr] {
        &self.around.upstreams
    }

    /// What is known here of `name`, for a guest at `asker`.
    pub fn look_up(&self, name: &Name, kind: RecordType, asker: IpAddr) -> Local {
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

    fn below_a_domain(&self, labels: &[String], kind: RecordType, asker: IpAddr) -> Local {
        let domains = &self.around.domains;
        let Some(domain) = domains.iter().filter(|d| labels.ends_with(d)).max_by_key(|d| d.len()) else {
            return Local::Elsewhere;
        };
        match &labels[..labels.len() - domain.len()] {
            [] => Local::Empty,
            [host] => self.host(host, kind, asker),
            _ if domains.iter().any(|d| d.ends_with(labels)) => Local::Empty,
            _ => Local::Absent,
        }
    }

    fn host(&self, label: &str, kind: RecordType, asker: IpAddr) -> Local {
        let known = self.hosts.get(label).into_iter().flatten().copied();
        let known: Vec<Ipv4Addr> = known.filter(|address| self.is_here(*address)).collect();
        let addresses = match known.is_empty() {
            false => self.nearest(known, asker),
            true if self.around.router_names.contains(label) => self.routers(asker),
            true => return Local::Absent,
        };
        let six = || addresses.iter().filter_map(|address| self.six(*address)).map(|a| RData::AAAA(AAAA(a)));
        let records: Vec<RData> = match kind {
            RecordType::A => addresses.iter().map(|a| RData::A(A(*a))).collect(),
            RecordType::AAAA => six().collect(),
            RecordType::ANY => addresses.iter().map(|a| RData::A(A(*a))).chain(six()).collect(),
            _ => Vec::new(),
        };
        if records.is_empty() { Local::Empty } else { Local::Found(records) }
    }

    /// The IPv6 address of who has an address of IPv4, the router included.
    fn six(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let router = self.around.subnets.iter().find(|subnet| subnet.router == address);
        router
            .and_then(|subnet| subnet.six)
            .map(|(_, router)| router)
            .or_else(|| self.sixes.get(&address).copied())
    }

    /// Whether what a guest at this address is called counts.
    fn is_here(&self, address: Ipv4Addr) -> bool {
        !self.around.near_only || self.subnet_of(address.into()).is_some()
    }

    /// The addresses in the asker's own subnet if there are any, else all of them.
    fn nearest(&self, addresses: Vec<Ipv4Addr>, asker: IpAddr) -> Vec<Ipv4Addr> {
        let near: Vec<_> = match self.subnet_of(asker) {
            Some(subnet) => addresses.iter().copied().filter(|a| subnet.network.contains(a)).collect(),
            None => Vec::new(),
        };
        if near.is_empty() { addresses } else { near }
    }

    fn routers(&self, asker: IpAddr) -> Vec<Ipv4Addr> {
        match self.subnet_of(asker) {
            Some(subnet) => vec![subnet.router],
            None => self.around.subnets.iter().map(|s| s.router).collect(),
        }
    }

    fn subnet_of(&self, asker: IpAddr) -> Option<&DnsSubnet> {
        self.around.subnets.iter().find(|subnet| holds(subnet, asker))
    }

    fn name_of(&self, address: Ipv4Addr) -> Option<String> {
        let is_router = self.around.subnets.iter().any(|subnet| subnet.router == address);
        let name = match is_router.then_some(self.around.router_name.as_ref()).flatten() {
            Some(name) => name,
            None => self.names.get(&address).filter(|_| self.is_here(address))?,
        };
        Some(format!("{name}{}", self.around.suffix))
    }

    /// Names of addresses. Those of private addresses that nobody here has are nobody's.
    fn reverse(&self, labels: &[String], kind: RecordType) -> Option<Local> {
        if let Some(nibbles) = labels.strip_suffix(&["ip6".to_owned(), "arpa".to_owned()][..]) {
            return Some(self.reverse6(nibbles, kind));
        }
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
        let address_of = Ipv4Addr::from(address);
        let otherwise = if private { Local::Absent } else { Local::Elsewhere };
        Some(pointer(self.name_of(address_of), kind).unwrap_or(otherwise))
    }

    /// The same of IPv6 (RFC 3596, 2.5): nibbles, the lowest first.
    fn reverse6(&self, nibbles: &[String], kind: RecordType) -> Local {
        let mut bits = 0_u128;
        for label in nibbles.iter().rev() {
            match u8::from_str_radix(label, 16) {
                Ok(nibble) if label.len() == 1 => bits = (bits << 4) | u128::from(nibble),
                _ => return Local::Elsewhere,
            }
        }
        if nibbles.len() != 32 {
            return Local::Elsewhere;
        }
        let address = Ipv6Addr::from_bits(bits);
        let routers = self.around.subnets.iter().find(|s| s.six.is_some_and(|(_, router)| router == address));
        let owner = routers.map(|subnet| subnet.router).or_else(|| self.owners.get(&address).copied());
        pointer(owner.and_then(|owner| self.name_of(owner)), kind).unwrap_or(Local::Elsewhere)
    }
}

/// The record of the name of an address; `None` where it has none.
fn pointer(name: Option<String>, kind: RecordType) -> Option<Local> {
    let mut name = Name::from_ascii(name?).ok()?;
    if !matches!(kind, RecordType::PTR | RecordType::ANY) {
        return Some(Local::Empty);
    }
    name.set_fqdn(true);
    Some(Local::Found(vec![RData::PTR(PTR(name))]))
}

fn holds(subnet: &DnsSubnet, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => subnet.network.contains(&address),
        IpAddr::V6(address) => subnet.six.is_some_and(|(network, _)| network.contains(&address)),
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

    const TIER_1: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 1, 50));
    const TIER_2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 2, 50));

    fn zone() -> Zone {
        let subnet = |network: &str, router: [u8; 4]| DnsSubnet {
            network: network.parse().unwrap(),
            router: router.into(),
            six: (router[2] == 2)
                .then(|| ("2001:db8:2::/64".parse().unwrap(), "2001:db8:2::1".parse().unwrap())),
        };
        let zone = Zone::default().with(Dns {
            domains: vec!["vpc.example".into(), "tier1.vpc.example".into(), "Tier2.example".into()],
            upstreams: vec![[10, 9, 1, 1].into(), [127, 0, 0, 1].into(), [192, 0, 2, 53].into()],
            router_names: vec!["r-12-VM".into(), "data-server".into()],
            subnets: vec![subnet("10.9.1.0/24", [10, 9, 1, 1]), subnet("10.9.2.0/24", [10, 9, 2, 1])],
            near_only: false,
            open: false,
        });
        let hosts = [
            ("Web", [10, 9, 1, 10]),
            ("web", [10, 9, 2, 10]),
            ("db", [10, 9, 2, 20]),
            ("pub", [198, 51, 100, 9]),
        ];
        hosts
            .into_iter()
            .fold(zone, |zone, (name, address)| zone.with_host(address.into(), Some((name.into(), None))))
    }

    #[test]
    fn names_come_and_go_one_by_one() {
        let ask = |zone: &Zone, name: &str| zone.look_up(&name.parse().unwrap(), RecordType::A, TIER_1);
        let (web, db) = (Ipv4Addr::new(10, 9, 1, 10), Ipv4Addr::new(10, 9, 2, 20));
        let zone = zone().with_host(web, Some(("db".into(), None)));
        assert_eq!(ask(&zone, "web."), a(&[[10, 9, 2, 10]]));
        assert_eq!(ask(&zone, "db."), a(&[[10, 9, 1, 10]]), "the nearest");
        let zone = zone.with_host(web, None);
        assert_eq!(ask(&zone, "db."), a(&[[10, 9, 2, 20]]));
        assert_eq!(ask(&zone.with_host(db, None), "db."), Local::Absent);
    }

    #[test]
    fn names_of_a_tier_go_and_come_with_it() {
        let subnets = vec![DnsSubnet {
            network: "10.9.1.0/24".parse().unwrap(),
            router: [10, 9, 1, 1].into(),
            six: None,
        }];
        let zone = zone();
        let one = zone.with(Dns { subnets, near_only: true, ..Dns::default() });
        let ask = |zone: &Zone, name: &str, kind| zone.look_up(&name.parse().unwrap(), kind, TIER_1);
        assert_eq!(ask(&one, "db.", RecordType::A), Local::Absent);
        assert_eq!(ask(&one, "20.2.9.10.in-addr.arpa.", RecordType::PTR), Local::Absent);
        assert_eq!(ask(&one, "web.", RecordType::A), a(&[[10, 9, 1, 10]]));
        let all = one.with(Dns { near_only: false, ..Dns::default() });
        assert_eq!(ask(&all, "db.", RecordType::A), a(&[[10, 9, 2, 20]]));
    }

    fn ask(name: &str, kind: RecordType, asker: IpAddr) -> Local {
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
    fn names_have_addresses_of_both_kinds_and_those_names() {
        let six: Ipv6Addr = "2001:db8:2::20".parse().unwrap();
        let zone = zone().with_host([10, 9, 2, 20].into(), Some(("db".into(), Some(six))));
        let asker = "2001:db8:2::99".parse().unwrap();
        let ask = |name: &str, kind| zone.look_up(&name.parse().unwrap(), kind, asker);
        let aaaa = |address: Ipv6Addr| Local::Found(vec![RData::AAAA(AAAA(address))]);
        assert_eq!(ask("db.", RecordType::AAAA), aaaa(six));
        assert_eq!(ask("db.", RecordType::A), a(&[[10, 9, 2, 20]]));
        assert_eq!(ask("web.", RecordType::A), a(&[[10, 9, 2, 10]]), "the nearest");
        assert_eq!(ask("web.", RecordType::AAAA), Local::Empty);
        assert_eq!(ask("data-server.", RecordType::AAAA), aaaa("2001:db8:2::1".parse().unwrap()));
        let reverse = |last: &str| {
            format!("{last}.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.")
        };
        let ptr = |name: &str| Local::Found(vec![RData::PTR(PTR(name.parse().unwrap()))]);
        assert_eq!(ask(&reverse("0.2"), RecordType::PTR), ptr("db.vpc.example."));
        assert_eq!(ask(&reverse("1.0"), RecordType::PTR), ptr("r-12-VM.vpc.example."));
        assert_eq!(ask(&reverse("2.2"), RecordType::PTR), Local::Elsewhere);
        assert!(zone.serves("2001:db8:2::1".parse().unwrap(), asker));
        assert!(!zone.serves("2001:db8:2::1".parse().unwrap(), "2001:db8:3::1".parse().unwrap()));
        let gone = zone.with_host([10, 9, 2, 20].into(), None);
        assert_eq!(gone.look_up(&reverse("0.2").parse().unwrap(), RecordType::PTR, asker), Local::Elsewhere);
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
        let zone = zone();
        let listener = IpAddr::from([10, 9, 1, 1]);
        assert!(zone.serves(listener, TIER_1));
        assert!(!zone.serves(listener, TIER_2));
        let open = zone.with(Dns { open: true, ..Dns::default() });
        assert!(open.serves(listener, TIER_2));
    }

    #[test]
    fn the_router_does_not_ask_itself() {
        assert_eq!(zone().upstreams(), [IpAddr::from([192, 0, 2, 53])]);
    }
}
