//! Documents as the management server writes them.

/// A public address of a NIC whose MAC ends in the NIC's number.
pub fn address(ip: &str, nic: u8, add: bool) -> String {
    let net = ip.rsplit_once('.').expect("an address").0;
    format!(
        r#"{{"ip_address":[{{"public_ip":"{ip}","source_nat":false,"add":{add},"one_to_one_nat":false,"first_i_p":false,"gateway":"{net}.1","netmask":"255.255.255.0","vif_mac_address":"02:00:00:00:00:0{nic}","nic_dev_id":{nic},"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}}],"type":"ips","delete_from_processed_cache":false}}"#
    )
}

/// A port forward.
pub fn forward(protocol: &str, ip: &str, ports: &str, target: &str, to: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{}],"type":"forwardrules","delete_from_processed_cache":false}}"#,
        forward_item(protocol, ip, ports, target, to, revoke)
    )
}

/// One item of a document with port forwards.
pub fn forward_item(protocol: &str, ip: &str, ports: &str, target: &str, to: &str, revoke: bool) -> String {
    format!(
        r#"{{"revoke":{revoke},"protocol":"{protocol}","source_ip_address":"{ip}","source_port_range":"{ports}","destination_ip_address":"{target}","destination_port_range":"{to}","source_cidr_list":""}}"#
    )
}

/// Static NAT.
pub fn static_nat(ip: &str, target: &str, revoke: bool) -> String {
    format!(
        r#"{{"rules":[{{"revoke":{revoke},"source_ip_address":"{ip}","source_port_range":"0:0","destination_ip_address":"{target}"}}],"type":"staticnatrules","delete_from_processed_cache":false}}"#
    )
}

/// An ingress rule; no ports for ICMP and all.
pub fn ingress(
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
pub fn egress(
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

/// The router's address at a private gateway of a VPC.
pub fn private(ip: &str, nic: u8, source_nat: bool, add: bool) -> String {
    let text = address(ip, nic, add).replace(r#""is_private_gateway":false"#, r#""is_private_gateway":true"#);
    text.replace(r#""source_nat":false"#, &format!(r#""source_nat":{source_nat}"#))
}

/// A tier 10.9.N.0/24 whose NIC is `eth<nic>`.
pub fn tier(n: u8, nic: u8, add: bool) -> String {
    format!(
        r#"{{"add":{add},"mac_address":"02:00:00:00:00:{nic:02}","device":"eth{nic}","router_guest_ip":"10.9.{n}.1","router_guest_netmask":"255.255.255.0","router_guest_gateway":"10.9.{n}.1","cidr":"24","dns":"192.0.2.53","domain_name":"tier{n}.example","is_vr_guest_gateway":true,"network_id":20{n},"mtu":1450,"type":"guestnetwork","delete_from_processed_cache":false}}"#
    )
}

/// The rules of a NIC, each as [`rule`] writes it.
pub fn acl(nic: u8, ingress: &[String], egress: &[String]) -> String {
    format!(
        r#"{{"device":"eth{nic}","mac_address":"02:00:00:00:00:{nic:02}","private_gateway_acl":false,"nic_ip":"10.9.1.1","nic_netmask":"24","ingress_rules":[{}],"egress_rules":[{}],"type":"networkacl","delete_from_processed_cache":false}}"#,
        ingress.join(","),
        egress.join(",")
    )
}

/// One rule of a list; no ports for `all` and `icmp`.
pub fn rule(protocol: &str, ports: Option<(u16, u16)>, cidr: &str, allowed: bool) -> String {
    let ports = ports.map_or_else(String::new, |(a, b)| format!(r#""first_port":{a},"last_port":{b},"#));
    let icmp = if protocol == "icmp" { r#""icmp_type":-1,"icmp_code":-1,"# } else { "" };
    format!(r#"{{"type":"{protocol}",{ports}{icmp}"cidr":"{cidr}","allowed":{allowed}}}"#)
}

/// A static route of a VPC.
pub fn route(network: &str, gateway: &str, revoke: bool) -> String {
    format!(
        r#"{{"routes":[{{"revoke":{revoke},"ip_address":"172.16.5.2","gateway":"{gateway}","network":"{network}"}}],"type":"staticroutes","delete_from_processed_cache":false}}"#
    )
}

/// An ingress rule of a network that is routed.
pub fn inward(id: u32, protocol: &str, ports: Option<(u16, u16)>, sources: &[&str]) -> String {
    let sources = format!(r#""source_cidr_list":["{}"]"#, sources.join(r#"",""#));
    let text = ingress(id, "", protocol, ports, "x", false).replace(r#""source_cidr_list":["x"]"#, &sources);
    text.replace(r#""src_ip":"","#, "")
}
