//! The documents of the contract (router contract 3.5 to 3.13), from the rules.

use std::{collections::BTreeSet, net::Ipv4Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::rules::{Firewall, Forward, GuestEntry, Rules};
use crate::zone::{Ports, Protocol, Segment};

/// A document: one JSON object on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// Name of its file without `.json`.
    pub(crate) name: &'static str,
    /// Its text.
    pub(crate) json: String,
}

/// A password for a guest, to be handed out once.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password {
    /// Address of the guest.
    pub(crate) ip: Ipv4Addr,
    /// The password.
    pub(crate) password: String,
}

/// What a router holds, but should hold no longer.
pub(crate) type Revoked<'a> = Option<&'a Rules>;

/// The documents that bring a router from `old` to `new`, in the order of the contract
/// (router contract 2.6). `mac` is that of its public NIC on `public`, where it has one. All of `new` is in them, so
/// they may be sent any number of times.
pub(crate) fn render(
    old: Revoked<'_>,
    new: &Rules,
    mac: Option<&str>,
    public: &Segment,
    passwords: &[Password],
) -> Vec<Document> {
    let empty = Rules::default();
    let old = old.unwrap_or(&empty);
    let mut documents = Vec::new();
    documents.extend(mac.map(|mac| addresses(old, new, mac, public)));
    documents.extend(firewall(old, new, |rule| rule.ingress.is_none()));
    documents.extend(static_nats(old, new));
    documents.extend(firewall(old, new, |rule| rule.ingress.is_some()));
    documents.extend(forwards(old, new));
    for (mac, guest) in old.guests.iter().filter(|(mac, _)| !new.guests.contains_key(*mac)) {
        documents.push(dhcp(mac, guest, true));
    }
    documents.extend(new.guests.iter().map(|(mac, guest)| dhcp(mac, guest, false)));
    documents.extend(new.guests.values().map(metadata));
    documents.extend(
        passwords.iter().map(|p| {
            document("vm_password", "vmpassword", json!({"ip_address": p.ip, "password": p.password}))
        }),
    );
    documents
}

fn document(name: &'static str, kind: &str, mut body: Value) -> Document {
    body["type"] = kind.into();
    body["delete_from_processed_cache"] = false.into();
    Document { name, json: body.to_string() }
}

fn addresses(old: &Rules, new: &Rules, mac: &str, public: &Segment) -> Document {
    let item = |ip: Ipv4Addr, first: bool, add: bool, static_nat: bool| {
        json!({
            "public_ip": ip, "source_nat": first, "add": add, "one_to_one_nat": static_nat,
            "first_i_p": first, "gateway": public.gateway, "netmask": public.net.netmask(),
            "vif_mac_address": mac, "nic_dev_id": 2, "new_nic": false, "nw_type": "Public",
            "is_private_gateway": false, "mtu": 1500,
        })
    };
    let kept: BTreeSet<_> = new.addresses.iter().map(|a| a.ip).collect();
    let mut items: Vec<Value> =
        new.addresses.iter().enumerate().map(|(at, a)| item(a.ip, at == 0, true, a.static_nat)).collect();
    let gone = old.addresses.iter().filter(|a| !kept.contains(&a.ip));
    items.extend(gone.map(|a| item(a.ip, false, false, a.static_nat)));
    document("ip_associations", "ips", json!({"ip_address": items}))
}

fn firewall(old: &Rules, new: &Rules, which: impl Fn(&Firewall) -> bool) -> Option<Document> {
    let gone = old.firewall.iter().filter(|(id, _)| !new.firewall.contains_key(id)).map(|r| (r, true));
    let rules: Vec<Value> = gone
        .chain(new.firewall.iter().map(|r| (r, false)))
        .filter(|((_, rule), _)| which(rule))
        .map(|((id, rule), revoked)| firewall_rule(*id, rule, revoked))
        .collect();
    (!rules.is_empty()).then(|| document("firewall_rules", "firewallrules", json!({"rules": rules})))
}

fn firewall_rule(id: u32, rule: &Firewall, revoked: bool) -> Value {
    let mut item = json!({
        "id": id,
        "src_ip": rule.ingress.map(|ip| ip.to_string()).unwrap_or_default(),
        "protocol": rule.filter.as_ref().map_or(Protocol::All, |f| f.protocol),
        "revoked": revoked,
        "already_added": false,
        "source_cidr_list": rule.filter.as_ref().map_or(&[][..], |f| &f.sources),
        "dest_cidr_list": rule.filter.as_ref().filter(|_| rule.ingress.is_none()).map_or(&[][..], |f| &f.destinations),
        "purpose": "Firewall",
        "traffic_type": if rule.ingress.is_some() { "Ingress" } else { "Egress" },
        "default_egress_policy": rule.ingress.is_none() && rule.egress_allowed,
    });
    if let Some(filter) = &rule.filter {
        if let Some(ports) = filter.ports {
            item["src_port_range"] = json!([ports.first, ports.last]);
        }
        if filter.protocol == Protocol::Icmp {
            item["icmp_type"] = (-1).into();
            item["icmp_code"] = (-1).into();
        }
    }
    item
}

fn static_nats(old: &Rules, new: &Rules) -> Option<Document> {
    let item = |outside: &Ipv4Addr, to: &Ipv4Addr, revoke: bool| {
        json!({"revoke": revoke, "source_ip_address": outside, "source_port_range": "0:0",
               "destination_ip_address": to})
    };
    let gone = old.static_nats.iter().filter(|(outside, _)| !new.static_nats.contains_key(*outside));
    let mut rules: Vec<Value> = gone.map(|(outside, to)| item(outside, to, true)).collect();
    rules.extend(new.static_nats.iter().map(|(outside, to)| item(outside, to, false)));
    (!rules.is_empty()).then(|| document("staticnat_rules", "staticnatrules", json!({"rules": rules})))
}

fn forwards(old: &Rules, new: &Rules) -> Option<Document> {
    let range = |ports: Ports| format!("{}:{}", ports.first, ports.last);
    let item = |f: &Forward, revoke: bool| {
        json!({"revoke": revoke, "protocol": f.protocol, "source_ip_address": f.ip,
               "source_port_range": range(f.ports), "destination_ip_address": f.to,
               "destination_port_range": range(f.to_ports), "source_cidr_list": ""})
    };
    let gone = old.forwards.iter().filter(|f| !new.forwards.contains(f));
    let mut rules: Vec<Value> = gone.map(|f| item(f, true)).collect();
    rules.extend(new.forwards.iter().map(|f| item(f, false)));
    (!rules.is_empty()).then(|| document("forwarding_rules", "forwardrules", json!({"rules": rules})))
}

fn dhcp(mac: &str, guest: &GuestEntry, remove: bool) -> Document {
    let body = json!({
        "host_name": guest.name, "mac_address": mac, "ipv4_address": guest.ip,
        "ipv6_duid": format!("00:03:00:01:{mac}"), "dns_addresses": guest.resolver.unwrap_or(guest.gateway),
        "default_gateway": guest.gateway, "default_entry": true, "remove": remove,
    });
    document("vm_dhcp_entry", "dhcpentry", body)
}

fn metadata(guest: &GuestEntry) -> Document {
    let user_data = guest.user_data.as_ref().map(|text| STANDARD.encode(text));
    let body = json!({
        "vm_ip_address": guest.ip,
        "vm_metadata": [
            ["userdata", "user-data", user_data],
            ["metadata", "service-offering", "zone-file"],
            ["metadata", "availability-zone", guest.zone],
            ["metadata", "local-ipv4", guest.ip],
            ["metadata", "local-hostname", guest.name],
            ["metadata", "public-ipv4", guest.public_ip],
            ["metadata", "public-hostname", guest.public_ip],
            ["metadata", "instance-id", guest.uuid],
            ["metadata", "vm-id", guest.uuid],
            ["metadata", "public-keys", guest.public_key],
            ["metadata", "cloud-identifier", ""],
            ["metadata", "hypervisor-host-name", ""],
        ],
    });
    document("vm_metadata", "vmdata", body)
}
