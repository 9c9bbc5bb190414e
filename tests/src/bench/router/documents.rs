//! The documents that a host sends, each told by a number.

/// The MAC of a NIC of the router.
pub(super) fn mac(nic: u8) -> String {
    format!("02:00:00:00:00:{nic:02x}")
}

/// The MAC of a guest; the numbers go on from one to the next.
pub(super) fn guest_mac(n: u32) -> String {
    let [_, a, b, c] = n.to_be_bytes();
    format!("02:01:00:{a:02x}:{b:02x}:{c:02x}")
}

/// The address of a guest, below 10.1.16.0.
pub(super) fn guest(n: u32) -> String {
    format!("10.1.{}.{}", 16 + n / 250, 1 + n % 250)
}

/// One of 20 public addresses.
pub(super) fn public(n: u32) -> String {
    format!("203.0.113.{}", 10 + n % 20)
}

/// The document of the public addresses, and of as many for static NAT.
pub(super) fn addresses(nic: u8) -> String {
    let one = |n: u32| {
        format!(
            r#"{{"public_ip":"203.0.113.{}","source_nat":{},"add":true,"one_to_one_nat":false,"first_i_p":false,"gateway":"203.0.113.1","netmask":"255.255.255.0","vif_mac_address":"{}","nic_dev_id":{nic},"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}}"#,
            10 + n,
            n == 0,
            mac(nic),
        )
    };
    let all: Vec<String> = (0..40).map(one).collect();
    format!(r#"{{"ip_address":[{}],"type":"ips"}}"#, all.join(","))
}

fn forward_item(n: u32, revoke: bool) -> String {
    forward_text("tcp", &public(n), 1000 + n / 20, &guest(n), 22, revoke)
}

fn forward_text(protocol: &str, ip: &str, port: u32, guest: &str, inner: u32, revoke: bool) -> String {
    format!(
        r#"{{"revoke":{revoke},"protocol":"{protocol}","source_ip_address":"{ip}","source_port_range":"{port}:{port}","destination_ip_address":"{guest}","destination_port_range":"{inner}:{inner}","source_cidr_list":""}}"#
    )
}

/// Port forwards as they are told: protocol, public address and port, guest and its port.
pub(super) fn forward(protocol: &str, ip: &str, port: u32, guest: &str, inner: u32) -> String {
    forwards_of([(protocol, ip.to_owned(), port, guest.to_owned(), inner)].into_iter())
}

/// Many of them.
pub(super) fn forwards_of<'a>(all: impl Iterator<Item = (&'a str, String, u32, String, u32)>) -> String {
    let items: Vec<String> = all
        .map(|(protocol, ip, port, guest, inner)| forward_text(protocol, &ip, port, &guest, inner, false))
        .collect();
    format!(r#"{{"rules":[{}],"type":"forwardrules"}}"#, items.join(","))
}

/// Port forwards, each of them told by its number.
pub(super) fn forwards(numbers: impl Iterator<Item = u32>, revoke: bool) -> String {
    let items: Vec<String> = numbers.map(|n| forward_item(n, revoke)).collect();
    format!(r#"{{"rules":[{}],"type":"forwardrules"}}"#, items.join(","))
}

/// Ingress rules, each of them told by its number.
pub(super) fn ingress(numbers: impl Iterator<Item = u32>, revoked: bool) -> String {
    let one = |n: u32| {
        let port = 1000 + n / 20;
        ingress_item(n + 1, &public(n), "tcp", (port, port), revoked)
    };
    let items: Vec<String> = numbers.map(one).collect();
    format!(r#"{{"rules":[{}],"type":"firewallrules"}}"#, items.join(","))
}

fn ingress_item(id: u32, ip: &str, protocol: &str, (first, last): (u32, u32), revoked: bool) -> String {
    format!(
        r#"{{"id":{id},"src_ip":"{ip}","protocol":"{protocol}","src_port_range":[{first},{last}],"revoked":{revoked},"already_added":false,"source_cidr_list":["0.0.0.0/0"],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}}"#
    )
}

/// Opens ports of a public address to everybody.
pub(super) fn open(id: u32, ip: &str, protocol: &str, ports: (u32, u32)) -> String {
    format!(r#"{{"rules":[{}],"type":"firewallrules"}}"#, ingress_item(id, ip, protocol, ports, false))
}

/// Lets guests out.
pub(super) fn egress() -> String {
    r#"{"rules":[{"id":0,"src_ip":"","protocol":"all","revoked":false,"already_added":false,"source_cidr_list":[],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Egress","default_egress_policy":true}],"type":"firewallrules"}"#.to_owned()
}

/// The reservation of a guest.
pub(super) fn reservation(n: u32) -> String {
    let mac = guest_mac(n);
    format!(
        r#"{{"host_name":"vm{n}","mac_address":"{mac}","ipv4_address":"{}","ipv6_duid":"00:03:00:01:{mac}","default_gateway":"10.1.0.1","default_entry":true,"type":"dhcpentry"}}"#,
        guest(n)
    )
}

/// The metadata of a guest.
pub(super) fn metadata(n: u32) -> String {
    format!(
        r#"{{"vm_ip_address":"{}","vm_metadata":[["metadata","instance-id","i-{n}"],["metadata","local-hostname","vm{n}"]],"type":"vmdata"}}"#,
        guest(n)
    )
}

/// The password of a guest.
pub(super) fn password(n: u32) -> String {
    format!(r#"{{"ip_address":"{}","password":"Secret{n}","type":"vmpassword"}}"#, guest(n))
}

/// Static NAT of one of the 20 addresses kept for it.
pub(super) fn static_nat(n: u32, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"source_ip_address":"203.0.113.{}","source_port_range":"0:0","destination_ip_address":"{}"}}],"type":"staticnatrules"}}"#,
        30 + n % 20,
        guest(n)
    )
}

/// A tier of a VPC.
pub(super) fn tier(tier: u8) -> String {
    let nic = tier + 2;
    format!(
        r#"{{"add":true,"mac_address":"{}","device":"eth{nic}","router_guest_ip":"10.9.{nic}.1","router_guest_netmask":"255.255.255.0","router_guest_gateway":"10.9.{nic}.1","cidr":"24","dns":"203.0.113.1","domain_name":"tier{nic}.example","is_vr_guest_gateway":true,"network_id":{},"mtu":1500,"type":"guestnetwork"}}"#,
        mac(nic),
        200 + u32::from(nic)
    )
}

/// The list of a tier with so many entries, the last of them told by `mark`.
pub(super) fn acl(tier: u8, entries: u32, mark: u32) -> String {
    let nic = tier + 2;
    let one = |n: u32| {
        let port = if n + 1 == entries { 20_000 + mark } else { 1000 + n };
        format!(
            r#"{{"type":"tcp","first_port":{port},"last_port":{port},"cidr":"192.0.2.{}/32","allowed":{}}}"#,
            n % 250,
            n % 4 < 3
        )
    };
    let rules: Vec<String> = (0..entries).map(one).collect();
    format!(
        r#"{{"device":"eth{nic}","mac_address":"{}","private_gateway_acl":false,"nic_ip":"10.9.{nic}.1","nic_netmask":"24","ingress_rules":[{}],"egress_rules":[],"type":"networkacl"}}"#,
        mac(nic),
        rules.join(",")
    )
}
