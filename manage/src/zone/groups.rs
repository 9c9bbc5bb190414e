//! Security groups and ports of the operator's own VMs, from the file to the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    Port, SecurityGroup, Zone,
    check::{Checked, address, bridge, each, inside, mac, ports, unique, word, wrong},
    wire,
};
use crate::groups::{Rule, Service};

/// Groups that a guest may have: their names are the name of a chain, which has 255 bytes at most.
const MOST_GROUPS: usize = 5;
/// Longest name of a group.
const LONGEST: usize = 31;

pub(super) fn group(key: &str, section: wire::SecurityGroupSection) -> Checked<SecurityGroup> {
    let name = word(&format!("{key}.name"), section.name)?;
    if name.len() > LONGEST {
        return Err(wrong(format!("{key}.name"), name, format!("must have at most {LONGEST} characters")));
    }
    Ok(SecurityGroup {
        name,
        ingress: each(&format!("{key}.ingress"), section.ingress, |key, mut section| {
            if let Some(to) = &section.to {
                return Err(wrong(format!("{key}.to"), to.join(","), "an ingress rule has no destination"));
            }
            let nets = section.from.take();
            rule(&key, section, "from", nets)
        })?,
        egress: each(&format!("{key}.egress"), section.egress, |key, mut section| {
            if let Some(from) = &section.from {
                return Err(wrong(format!("{key}.from"), from.join(","), "an egress rule has no source"));
            }
            let nets = section.to.take();
            rule(&key, section, "to", nets)
        })?,
    })
}

fn rule(key: &str, section: wire::GroupRuleSection, side: &str, nets: Option<Vec<String>>) -> Checked<Rule> {
    let protocol = section.protocol.as_str();
    let list = section.ports.as_deref().map(|text| ports(&format!("{key}.ports"), text)).transpose()?;
    let service = match protocol {
        "tcp" => Service::Tcp(list),
        "udp" => Service::Udp(list),
        "icmp" => Service::Icmp(section.kind, section.code),
        "icmpv6" => Service::Icmpv6(section.kind, section.code),
        "all" => Service::All,
        _ => return Err(wrong(format!("{key}.protocol"), protocol, "must be tcp, udp, icmp, icmpv6 or all")),
    };
    let (has_ports, has_type) = (matches!(protocol, "tcp" | "udp"), protocol.starts_with("icmp"));
    if let Some(text) = section.ports.filter(|_| !has_ports) {
        return Err(wrong(format!("{key}.ports"), text, format!("protocol {protocol} has no ports")));
    }
    for (name, value) in [("type", section.kind), ("code", section.code)] {
        if let Some(value) = value.filter(|_| !has_type) {
            return Err(wrong(
                format!("{key}.{name}"),
                value.to_string(),
                format!("protocol {protocol} has none"),
            ));
        }
    }
    if let (None, Some(code)) = (section.kind, section.code) {
        return Err(wrong(format!("{key}.code"), code.to_string(), "needs a type"));
    }
    let at = format!("{key}.{side}");
    if nets.as_ref().is_some_and(Vec::is_empty) {
        return Err(wrong(at, "[]", "must not be empty"));
    }
    let nets = each(&at, nets.unwrap_or_default(), |key, text| {
        let net: IpNet =
            text.parse().map_err(|_| wrong(key.clone(), text.clone(), "not a subnet such as 10.1.1.0/24"))?;
        if net.trunc() != net {
            return Err(wrong(key, text, format!("has host bits set, did you mean {}?", net.trunc())));
        }
        let other = match service {
            Service::Icmp(..) => net.addr().is_ipv6(),
            Service::Icmpv6(..) => net.addr().is_ipv4(),
            _ => false,
        };
        if other {
            return Err(wrong(key, text, format!("{protocol} is of the other family of addresses")));
        }
        Ok(net)
    })?;
    Ok(Rule { service, nets, groups: section.groups })
}

pub(super) fn port(key: &str, section: wire::PortSection) -> Checked<Port> {
    let tap = bridge(&format!("{key}.tap"), section.tap)?;
    if tap.strip_prefix("vm").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
        return Err(wrong(format!("{key}.tap"), tap, "names such as vm7-0 are those of the zone's own VMs"));
    }
    Ok(Port {
        name: word(&format!("{key}.name"), section.name)?,
        network: section.network,
        host: section.host,
        tap,
        mac: mac(&format!("{key}.mac"), &section.mac)?,
        address: address(&format!("{key}.address"), &section.address)?,
        addresses: addresses(&format!("{key}.addresses"), section.addresses)?,
        groups: section.groups.into_iter().collect(),
    })
}

pub(super) fn addresses(key: &str, texts: Vec<String>) -> Checked<BTreeSet<IpAddr>> {
    let one = |key: String, text: String| -> Checked<IpAddr> {
        let found: IpAddr = text.parse().map_err(|_| wrong(&key, &text, "not an address"))?;
        if found.is_unspecified() || found.is_multicast() {
            return Err(wrong(key, text, "no VM can have this address"));
        }
        Ok(found)
    };
    Ok(each(key, texts, one)?.into_iter().collect())
}

/// What must be true of all of them together.
pub(super) fn check(zone: &Zone) -> Checked<()> {
    unique("security_group", zone.groups.iter().map(|g| g.name.as_str()))?;
    unique("port", zone.ports.iter().map(|p| p.name.as_str()))?;
    let known = |name: &String| zone.groups.iter().any(|group| group.name == *name);
    let unknown = |key: String, name: &String| wrong(key, name, "no [[security_group]] has this name");
    for (index, group) in zone.groups.iter().enumerate() {
        for (word, rules) in [("ingress", &group.ingress), ("egress", &group.egress)] {
            for (number, rule) in rules.iter().enumerate() {
                if let Some(name) = rule.groups.iter().find(|name| !known(name)) {
                    return Err(unknown(format!("security_group[{index}].{word}[{number}].groups"), name));
                }
            }
        }
    }
    let mut taken = BTreeMap::new();
    let mut own = |key: &str, network: &str, addresses: Vec<IpAddr>| -> Checked<()> {
        for address in addresses {
            if taken.insert((network.to_owned(), address), key.to_owned()).is_some() {
                return Err(wrong(format!("{key}.address"), address.to_string(), "already in use"));
            }
        }
        Ok(())
    };
    for (index, guest) in zone.guests.iter().enumerate() {
        let key = format!("guest[{index}]");
        let guarded = zone.network(&guest.network).is_some_and(super::Network::is_guarded);
        let bare = guest.groups.is_empty() && guest.addresses.is_empty();
        if !guarded && !bare {
            let reason = "only guests of a basic network have security groups and more addresses";
            return Err(wrong(format!("{key}.groups"), &guest.network, reason));
        }
        members(&key, &guest.groups, known, unknown)?;
        own(
            &key,
            &guest.network,
            std::iter::once(guest.address.into()).chain(guest.addresses.clone()).collect(),
        )?;
    }
    let mut taps = BTreeSet::new();
    for (index, port) in zone.ports.iter().enumerate() {
        let key = format!("port[{index}]");
        let network = zone.network(&port.network).filter(|network| network.is_guarded());
        let Some(network) = network else {
            return Err(wrong(
                format!("{key}.network"),
                &port.network,
                "no [[network]] of kind basic has this name",
            ));
        };
        if !zone.hosts.iter().any(|host| host.name == port.host) {
            return Err(wrong(format!("{key}.host"), &port.host, "no [[host]] has this name"));
        }
        if !taps.insert((&port.host, &port.tap)) {
            return Err(wrong(format!("{key}.tap"), &port.tap, "this host's tap is another port's already"));
        }
        inside(&format!("{key}.address"), port.address, network.net)?;
        if [network.gateway, network.router()].contains(&port.address) {
            return Err(wrong(format!("{key}.address"), port.address.to_string(), "already in use"));
        }
        members(&key, &port.groups, known, unknown)?;
        own(
            &key,
            &port.network,
            std::iter::once(port.address.into()).chain(port.addresses.clone()).collect(),
        )?;
    }
    Ok(())
}

fn members(
    key: &str,
    groups: &BTreeSet<String>,
    known: impl Fn(&String) -> bool,
    unknown: impl Fn(String, &String) -> super::ZoneError,
) -> Checked<()> {
    let key = format!("{key}.groups");
    if groups.len() > MOST_GROUPS {
        return Err(wrong(
            key,
            format!("{} of them", groups.len()),
            format!("must be at most {MOST_GROUPS}"),
        ));
    }
    groups.iter().find(|name| !known(name)).map_or(Ok(()), |name| Err(unknown(key, name)))
}
