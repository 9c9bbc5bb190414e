//! From the file to the model. Each function takes the path of its key, so that an error can name it.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::Ipv4Net;

use super::{
    Filter, Forward, Guest, GuestBoot, Host, Ingress, Management, Network, NetworkKind, Placement, Ports,
    Protocol, Segment, StaticNat, Store, StoreKind, System, Zone, ZoneError, groups, wire,
};

use crate::fence::MOST_HOSTS;

pub(super) type Checked<T> = Result<T, ZoneError>;

pub(super) fn wrong(key: impl Into<String>, value: impl Into<String>, reason: impl Display) -> ZoneError {
    ZoneError::Value { key: key.into(), value: value.into(), reason: reason.to_string() }
}

pub(super) fn zone(file: wire::ZoneFile, folder: &Path) -> Checked<Zone> {
    let head = file.zone;
    if !(1..=3600).contains(&head.ping_interval) {
        return Err(wrong("zone.ping_interval", head.ping_interval.to_string(), "must be 1 to 3600 seconds"));
    }
    if !(5..=600).contains(&head.fence_after) {
        return Err(wrong("zone.fence_after", head.fence_after.to_string(), "must be 5 to 600 seconds"));
    }
    let dns = resolvers("zone.dns", &head.dns)?;
    if dns.is_empty() {
        return Err(wrong("zone.dns", "[]", "at least one resolver is needed"));
    }
    let internal_dns = if head.internal_dns.is_empty() {
        dns.clone()
    } else {
        resolvers("zone.internal_dns", &head.internal_dns)?
    };
    let management = management(file.management)?;
    let public = segment("public", file.public)?;
    let zone = Zone {
        id: positive("zone.id", head.id)?,
        name: word("zone.name", head.name)?,
        pod: positive("zone.pod", head.pod)?,
        dns,
        internal_dns,
        ntp: each("zone.ntp", head.ntp, |key, value| word(&key, value))?,
        ping_interval: Duration::from_secs(head.ping_interval),
        fence_after: Duration::from_secs(head.fence_after),
        system: System {
            image: file_path("system.image", &file.system.image, folder)?,
            kernel: file
                .system
                .kernel
                .map(|kernel| file_path("system.kernel", &kernel, folder))
                .transpose()?,
            memory_mib: memory("system.memory", file.system.memory)?,
            placement: match file.system.placement.as_str() {
                "spread" => Placement::Spread,
                "pack" => Placement::Pack,
                other => return Err(wrong("system.placement", other, "must be spread or pack")),
            },
            ssvm: file.system.ssvm,
            cpvm: file.system.cpvm,
            ssvm_max: within("system.ssvm_max", file.system.ssvm_max, 1, 16)?,
            ssvm_transfers: within("system.ssvm_transfers", file.system.ssvm_transfers, 1, 10_000)?,
            cpvm_max: within("system.cpvm_max", file.system.cpvm_max, 1, 16)?,
            cpvm_sessions: within("system.cpvm_sessions", file.system.cpvm_sessions, 1, 10_000)?,
            spare_after: Duration::from_secs(within(
                "system.spare_after",
                file.system.spare_after,
                5,
                86_400,
            )?),
        },
        control_bridge: bridge("control.bridge", file.control.bridge)?,
        hosts: each("host", file.host, |key, host| {
            let address = address(&format!("{key}.address"), &host.address)?;
            inside(&format!("{key}.address"), address, management.segment.net)?;
            Ok(Host {
                name: word(&format!("{key}.name"), host.name)?,
                address,
                fence: host.fence,
                tags: host.tags,
                memory_mib: host.memory,
            })
        })?,
        networks: each("network", file.network, |key, section| network(&key, section, &public))?,
        stores: each("store", file.store, |key, section| store(&key, section))?,
        guests: each("guest", file.guest, |key, section| guest(&key, section, folder))?,
        ports: each("port", file.port, |key, section| groups::port(&key, section))?,
        groups: each("security_group", file.security_group, |key, section| groups::group(&key, section))?,
        internal_sites: each("zone.internal_sites", head.internal_sites, |key, text| cidr(&key, &text))?,
        management,
        public,
    };
    unique("host", zone.hosts.iter().map(|h| h.name.as_str()))?;
    unique("network", zone.networks.iter().map(|n| n.name.as_str()))?;
    unique("store", zone.stores.iter().map(|s| s.name.as_str()))?;
    unique("guest", zone.guests.iter().map(|g| g.name.as_str()))?;
    if zone.hosts.is_empty() {
        return Err(wrong("host", "[]", "a zone needs at least one [[host]]"));
    }
    if zone.hosts.len() > MOST_HOSTS {
        let most = format!("a zone has at most {MOST_HOSTS} hosts");
        return Err(wrong("host", format!("{} of them", zone.hosts.len()), most));
    }
    let known = |tag: &String| zone.hosts.iter().any(|host| host.tags.contains(tag));
    let networks = zone.networks.iter().map(|network| ("network", &network.host_tag));
    let tags = networks.chain(zone.guests.iter().map(|guest| ("guest", &guest.host_tag)));
    for (kind, tag) in tags.filter_map(|(kind, tag)| Some((kind, tag.as_ref()?))) {
        if !known(tag) {
            return Err(wrong(format!("{kind}.host_tag"), tag, "no [[host]] has this tag"));
        }
    }
    owners(&zone)?;
    members(&zone)?;
    groups::check(&zone)?;
    Ok(zone)
}

fn owners(zone: &Zone) -> Checked<()> {
    let mut owner = std::collections::BTreeMap::new();
    for (index, network) in zone.networks.iter().enumerate() {
        for address in network.named_public() {
            if *owner.entry(address).or_insert(index) != index {
                return Err(wrong(
                    format!("network[{index}]"),
                    address.to_string(),
                    "used by another network",
                ));
            }
        }
    }
    Ok(())
}

fn members(zone: &Zone) -> Checked<()> {
    let mut taken = BTreeSet::new();
    for (index, guest) in zone.guests.iter().enumerate() {
        let key = format!("guest[{index}].network");
        let Some(network) = zone.network(&guest.network) else {
            return Err(wrong(key, &guest.network, "no [[network]] has this name"));
        };
        let key = format!("guest[{index}].address");
        inside(&key, guest.address, network.net)?;
        let own = [network.gateway, network.router()].contains(&guest.address);
        if own || !taken.insert((guest.network.as_str(), guest.address)) {
            return Err(wrong(key, guest.address.to_string(), "already in use"));
        }
    }
    Ok(())
}

fn management(section: wire::ManagementSection) -> Checked<Management> {
    let address = address("management.address", &section.address)?;
    let segment = segment(
        "management",
        wire::SegmentSection {
            bridge: section.bridge,
            cidr: section.cidr,
            gateway: section.gateway,
            range: section.range,
        },
    )?;
    inside("management.address", address, segment.net)?;
    if section.port == section.join_port {
        return Err(wrong(
            "management.join_port",
            section.join_port.to_string(),
            "must not be management.port",
        ));
    }
    let page = match section.page.as_str() {
        "" => None,
        text => {
            Some(text.parse().map_err(|_| wrong("management.page", text, "must be ADDRESS:PORT, or empty"))?)
        }
    };
    Ok(Management { address, port: section.port, join_port: section.join_port, segment, page })
}

fn segment(key: &str, section: wire::SegmentSection) -> Checked<Segment> {
    let net = cidr(&format!("{key}.cidr"), &section.cidr)?;
    let gateway = address(&format!("{key}.gateway"), &section.gateway)?;
    inside(&format!("{key}.gateway"), gateway, net)?;
    let at = format!("{key}.range");
    let Some((first, last)) = section.range.split_once('-') else {
        return Err(wrong(at, section.range, "must be two addresses with a dash between them"));
    };
    let (first, last) = (address(&at, first.trim())?, address(&at, last.trim())?);
    inside(&at, first, net)?;
    inside(&at, last, net)?;
    if last < first {
        return Err(wrong(at, section.range, "the last address lies before the first"));
    }
    Ok(Segment {
        bridge: bridge(&format!("{key}.bridge"), section.bridge)?,
        net,
        gateway,
        range: (first, last),
    })
}

fn network(key: &str, section: wire::NetworkSection, public: &Segment) -> Checked<Network> {
    let net = cidr(&format!("{key}.cidr"), &section.cidr)?;
    let gateway = address(&format!("{key}.gateway"), &section.gateway)?;
    inside(&format!("{key}.gateway"), gateway, net)?;
    let public_address = |at: String, text: Option<String>| -> Checked<Option<Ipv4Addr>> {
        let Some(text) = text else { return Ok(None) };
        let found = address(&at, &text)?;
        inside(&at, found, public.net)?;
        Ok(Some(found))
    };
    let egress_allowed = match section.egress_default.as_str() {
        "allow" => true,
        "deny" => false,
        other => return Err(wrong(format!("{key}.egress_default"), other, "must be allow or deny")),
    };
    let kind = match (section.kind.as_str(), &section.router) {
        ("isolated", None) => NetworkKind::Isolated,
        ("isolated", Some(router)) => {
            return Err(wrong(
                format!("{key}.router"),
                router,
                "the router of an isolated network is its gateway",
            ));
        }
        ("basic", router) => {
            let (at, text) = (format!("{key}.router"), router.clone().unwrap_or_default());
            let router = address(&at, &text)?;
            inside(&at, router, net)?;
            if router == gateway {
                return Err(wrong(at, text, "is the gateway, which is the operator's in a basic network"));
            }
            NetworkKind::Basic { router }
        }
        (other, _) => return Err(wrong(format!("{key}.kind"), other, "must be isolated or basic")),
    };
    let translates = [
        ("source_nat", section.source_nat.is_some()),
        ("egress", !section.egress.is_empty()),
        ("ingress", !section.ingress.is_empty()),
        ("forward", !section.forward.is_empty()),
        ("static_nat", !section.static_nat.is_empty()),
    ];
    if let (NetworkKind::Basic { .. }, Some((name, _))) = (kind, translates.iter().find(|(_, there)| *there))
    {
        let reason = "the router of a basic network passes nothing on; security groups say what may pass";
        return Err(wrong(format!("{key}.{name}"), "", reason));
    }
    let source_nat = public_address(format!("{key}.source_nat"), section.source_nat)?;
    let egress = each(&format!("{key}.egress"), section.egress, |key, rule| {
        if let Some(address) = &rule.address {
            return Err(wrong(format!("{key}.address"), address, "an egress rule has no public address"));
        }
        filter(&key, rule, net)
    })?;
    let ingress = each(&format!("{key}.ingress"), section.ingress, |key, mut rule| {
        if let Some(to) = &rule.to {
            return Err(wrong(format!("{key}.to"), to.join(","), "an ingress rule has no destination"));
        }
        let address = public_address(format!("{key}.address"), rule.address.take())?;
        Ok(Ingress { address, filter: filter(&key, rule, Ipv4Net::default())? })
    })?;
    let forwards = each(&format!("{key}.forward"), section.forward, |key, rule| {
        let protocol = protocol(&format!("{key}.protocol"), &rule.protocol)?;
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            return Err(wrong(format!("{key}.protocol"), rule.protocol, "must be tcp or udp"));
        }
        let ports = ports(&format!("{key}.ports"), &rule.ports)?;
        let to_ports = match &rule.to_ports {
            Some(text) => self::ports(&format!("{key}.to_ports"), text)?,
            None => ports,
        };
        if ports.last - ports.first != to_ports.last - to_ports.first {
            let text = rule.to_ports.unwrap_or_default();
            return Err(wrong(format!("{key}.to_ports"), text, "must be as many ports as ports"));
        }
        let to = address(&format!("{key}.to"), &rule.to)?;
        inside(&format!("{key}.to"), to, net)?;
        Ok(Forward {
            address: public_address(format!("{key}.address"), rule.address)?,
            protocol,
            ports,
            to,
            to_ports,
        })
    })?;
    let static_nats = each(&format!("{key}.static_nat"), section.static_nat, |key, rule| {
        let outside = address(&format!("{key}.address"), &rule.address)?;
        inside(&format!("{key}.address"), outside, public.net)?;
        if Some(outside) == source_nat {
            return Err(wrong(format!("{key}.address"), rule.address, "is the source NAT address"));
        }
        let to = address(&format!("{key}.to"), &rule.to)?;
        inside(&format!("{key}.to"), to, net)?;
        Ok(StaticNat { address: outside, to })
    })?;
    Ok(Network {
        name: word(&format!("{key}.name"), section.name)?,
        kind,
        bridge: bridge(&format!("{key}.bridge"), section.bridge)?,
        net,
        gateway,
        domain: word(&format!("{key}.domain"), section.domain)?,
        host_tag: section.host_tag,
        source_nat,
        egress_allowed,
        egress,
        ingress,
        forwards,
        static_nats,
    })
}

fn filter(key: &str, rule: wire::FilterSection, default_source: Ipv4Net) -> Checked<Filter> {
    let protocol = protocol(&format!("{key}.protocol"), &rule.protocol)?;
    let ports = match rule.ports {
        Some(text) if matches!(protocol, Protocol::Icmp | Protocol::All) => {
            return Err(wrong(
                format!("{key}.ports"),
                text,
                format!("protocol {} has no ports", rule.protocol),
            ));
        }
        Some(text) => Some(ports(&format!("{key}.ports"), &text)?),
        None if matches!(protocol, Protocol::Icmp | Protocol::All) => None,
        None => Some(Ports { first: 1, last: u16::MAX }),
    };
    let list = |name: &str, texts: Option<Vec<String>>, default: Ipv4Net| match texts {
        Some(texts) if texts.is_empty() => Err(wrong(format!("{key}.{name}"), "[]", "must not be empty")),
        Some(texts) => each(&format!("{key}.{name}"), texts, |key, text| cidr(&key, &text)),
        None => Ok(vec![default]),
    };
    Ok(Filter {
        protocol,
        ports,
        sources: list("from", rule.from, default_source)?,
        destinations: list("to", rule.to, Ipv4Net::default())?,
    })
}

fn store(key: &str, section: wire::StoreSection) -> Checked<Store> {
    let need = |name: &str, value: Option<String>| {
        value.filter(|v| !v.is_empty()).ok_or_else(|| {
            wrong(format!("{key}.{name}"), "", format!("a store of kind {} needs it", section.kind))
        })
    };
    let kind = match section.kind.as_str() {
        "nfs" => {
            let url = need("url", section.url)?;
            let rest = url.strip_prefix("nfs://").unwrap_or_default();
            if !rest.split_once('/').is_some_and(|(host, path)| !host.is_empty() && !path.is_empty()) {
                return Err(wrong(format!("{key}.url"), url, "must be nfs://host/path"));
            }
            StoreKind::Nfs { url, version: section.version }
        }
        "s3" => StoreKind::S3 {
            endpoint: need("endpoint", section.endpoint)?,
            bucket: need("bucket", section.bucket)?,
            access_key: need("access_key", section.access_key)?,
            secret_key: need("secret_key", section.secret_key)?,
            https: section.https,
        },
        other => return Err(wrong(format!("{key}.kind"), other, "must be nfs or s3")),
    };
    Ok(Store { name: word(&format!("{key}.name"), section.name)?, kind })
}

fn guest(key: &str, section: wire::GuestSection, folder: &Path) -> Checked<Guest> {
    let boot = match (section.disk, section.kernel) {
        (Some(disk), None) => GuestBoot::Disk(file_path(&format!("{key}.disk"), &disk, folder)?),
        (None, Some(kernel)) => GuestBoot::Kernel {
            kernel: file_path(&format!("{key}.kernel"), &kernel, folder)?,
            initrd: section
                .initrd
                .map(|initrd| file_path(&format!("{key}.initrd"), &initrd, folder))
                .transpose()?,
            append: section.append,
        },
        _ => return Err(wrong(format!("{key}.disk"), "", "give either disk or kernel")),
    };
    if section.password.as_deref().is_some_and(|p| p.is_empty() || p.contains(['\n', '\r'])) {
        return Err(wrong(format!("{key}.password"), "***", "must be one line that is not empty"));
    }
    Ok(Guest {
        host_tag: section.host_tag,
        name: word(&format!("{key}.name"), section.name)?,
        network: section.network,
        mac: section.mac.map(|text| mac(&format!("{key}.mac"), &text)).transpose()?,
        address: address(&format!("{key}.address"), &section.address)?,
        addresses: groups::addresses(&format!("{key}.addresses"), section.addresses)?,
        groups: section.groups.into_iter().collect(),
        boot,
        memory_mib: memory(&format!("{key}.memory"), section.memory)?,
        user_data: section.user_data,
        public_key: section.public_key,
        password: section.password,
    })
}

pub(super) fn each<T, U>(
    key: &str,
    list: Vec<T>,
    mut one: impl FnMut(String, T) -> Checked<U>,
) -> Checked<Vec<U>> {
    list.into_iter().enumerate().map(|(index, item)| one(format!("{key}[{index}]"), item)).collect()
}

pub(super) fn unique<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Checked<()> {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            return Err(wrong(format!("{key}[{index}].name"), name, "this name is used twice"));
        }
    }
    Ok(())
}

pub(super) fn address(key: &str, text: &str) -> Checked<Ipv4Addr> {
    Ipv4Addr::from_str(text).map_err(|_| wrong(key, text, "not an IPv4 address"))
}

pub(super) fn cidr(key: &str, text: &str) -> Checked<Ipv4Net> {
    let net =
        Ipv4Net::from_str(text).map_err(|_| wrong(key, text, "not an IPv4 subnet such as 10.1.1.0/24"))?;
    if net.trunc() != net {
        return Err(wrong(key, text, format!("has host bits set, did you mean {}?", net.trunc())));
    }
    Ok(net)
}

pub(super) fn inside(key: &str, address: Ipv4Addr, net: Ipv4Net) -> Checked<()> {
    if net.contains(&address) && address != net.network() && address != net.broadcast() {
        return Ok(());
    }
    Err(wrong(key, address.to_string(), format!("not a host address of {net}")))
}

fn resolvers(key: &str, texts: &[String]) -> Checked<Vec<Ipv4Addr>> {
    if texts.len() > 2 {
        return Err(wrong(key, texts.join(","), "at most two resolvers"));
    }
    texts.iter().enumerate().map(|(index, text)| address(&format!("{key}[{index}]"), text)).collect()
}

fn protocol(key: &str, text: &str) -> Checked<Protocol> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        "all" => Ok(Protocol::All),
        _ => Err(wrong(key, text, "must be tcp, udp, icmp or all")),
    }
}

pub(super) fn ports(key: &str, text: &str) -> Checked<Ports> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first > 0 && first <= last => Ok(Ports { first, last }),
        _ => Err(wrong(key, text, "must be a port, or first-last, from 1 to 65535")),
    }
}

pub(super) fn mac(key: &str, text: &str) -> Checked<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let fits = parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && u8::from_str_radix(p, 16).is_ok());
    if !fits || u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 == 1) {
        return Err(wrong(key, text, "not a unicast MAC address such as 02:01:00:cc:00:09"));
    }
    Ok(text.to_ascii_lowercase())
}

/// Words end up in boot arguments, host names and file names.
pub(super) fn word(key: &str, text: String) -> Checked<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) || text.starts_with(['-', '.']) {
        return Err(wrong(key, text, "must be 1 to 63 letters, digits, dots, dashes or underscores"));
    }
    Ok(text)
}

pub(super) fn bridge(key: &str, text: String) -> Checked<String> {
    if text.len() > 15 {
        return Err(wrong(key, text, "an interface name has at most 15 characters"));
    }
    word(key, text)
}

fn positive(key: &str, value: u64) -> Checked<u64> {
    if value == 0 { Err(wrong(key, "0", "must be 1 or more")) } else { Ok(value) }
}

fn within<T: PartialOrd + Display>(key: &str, value: T, least: T, most: T) -> Checked<T> {
    if (&least..=&most).contains(&&value) {
        Ok(value)
    } else {
        Err(wrong(key, value.to_string(), format!("must be {least} to {most}")))
    }
}

fn memory(key: &str, mib: u64) -> Checked<u64> {
    if (32..=1_048_576).contains(&mib) {
        Ok(mib)
    } else {
        Err(wrong(key, mib.to_string(), "must be 32 MiB to 1 TiB"))
    }
}

fn file_path(key: &str, text: &str, folder: &Path) -> Checked<PathBuf> {
    // QEMU splits its options at commas.
    if text.is_empty() || text.contains([',', '\n', '\0']) {
        return Err(wrong(key, text, "must be a path without a comma"));
    }
    Ok(folder.join(text))
}
