//! Documents as the management server writes them.

/// A public address of a NIC whose MAC ends in the NIC's number.
pub(crate) fn address(ip: &str, nic: u8, add: bool) -> String {
    let net = ip.rsplit_once('.').expect("an address").0;
    format!(
        r#"{{"ip_address":[{{"public_ip":"{ip}","source_nat":false,"add":{add},"one_to_one_nat":false,"first_i_p":false,"gateway":"{net}.1","netmask":"255.255.255.0","vif_mac_address":"02:00:00:00:00:0{nic}","nic_dev_id":{nic},"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}}],"type":"ips","delete_from_processed_cache":false}}"#
    )
}

/// A port forward.
pub(crate) fn forward(protocol: &str, ip: &str, ports: &str, target: &str, to: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{}],"type":"forwardrules","delete_from_processed_cache":false}}"#,
        forward_item(protocol, ip, ports, target, to, revoke)
    )
}

/// One item of a document with port forwards.
pub(crate) fn forward_item(
    protocol: &str,
    ip: &str,
    ports: &str,
    target: &str,
    to: &str,
    revoke: bool,
) -> String {
    format!(
        r#"{{"revoke":{revoke},"protocol":"{protocol}","source_ip_address":"{ip}","source_port_range":"{ports}","destination_ip_address":"{target}","destination_port_range":"{to}","source_cidr_list":""}}"#
    )
}

/// Static NAT.
pub(crate) fn static_nat(ip: &str, target: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"source_ip_address":"{ip}","source_port_range":"0:0","destination_ip_address":"{target}"}}],"type":"staticnatrules","delete_from_processed_cache":false}}"#
    )
}

/// An ingress rule; no ports for ICMP and all.
pub(crate) fn ingress(
    id: u32,
    ip: &str,
    protocol: &str,
    ports: Option<(u16, u16)>,
    source: &str,
    revoked: bool,
) -> String {
    let ports = ports.map_or_else(String::new, |(a, b)| format!(r#""src_port_range":[{a},{b}],"#));
    let icmp = if protocol == "icmp" { r#""icmp_type":-1,"icmp_code":-1,"# } else { "" };
    format!(
        r#"{{"rules":[{{"id":{id},"src_ip":"{ip}","protocol":"{protocol}",{ports}{icmp}"revoked":{revoked},"already_added":false,"source_cidr_list":["{source}"],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}}],"type":"firewallrules","delete_from_processed_cache":false}}"#
    )
}

/// An egress rule; id 0 with protocol `all` and no source is the default.
pub(crate) fn egress(
    id: u32,
    protocol: &str,
    port: Option<u16>,
    source: &str,
    allow: bool,
    revoked: bool,
) -> String {
    let ports = port.map_or_else(String::new, |p| format!(r#""src_port_range":[{p},{p}],"#));
    let icmp = if protocol == "icmp" { r#""icmp_type":-1,"icmp_code":-1,"# } else { "" };
    let source = if source.is_empty() { String::new() } else { format!(r#""{source}""#) };
    format!(
        r#"{{"rules":[{{"id":{id},"src_ip":"","protocol":"{protocol}",{ports}{icmp}"revoked":{revoked},"already_added":false,"source_cidr_list":[{source}],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Egress","default_egress_policy":{allow}}}],"type":"firewallrules","delete_from_processed_cache":false}}"#
    )
}
