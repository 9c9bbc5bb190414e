use proptest::prelude::*;

use super::*;
use crate::state::Protocol;

fn error(text: &str) -> DocumentError {
    Document::read(text.as_bytes()).unwrap_err()
}

#[test]
fn the_documents_of_a_network_are_read() {
    let ips = r#"{"ip_address":[{"public_ip":"203.0.113.11","source_nat":false,"add":true,"one_to_one_nat":true,
        "first_i_p":false,"gateway":"203.0.113.1","netmask":"255.255.255.0","vif_mac_address":"1E:00:4C:00:00:35",
        "nic_dev_id":2,"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}],"type":"ips",
        "delete_from_processed_cache":false}"#;
    let Document::Addresses(changes) = Document::read(ips.as_bytes()).unwrap() else { panic!() };
    assert_eq!((changes[0].prefix, changes[0].mtu, changes[0].index), (Some(24), Some(1500), Some(2)));
    assert_eq!(changes[0].mac.unwrap().to_string(), "1e:00:4c:00:00:35");

    let egress = r#"{"rules":[{"id":0,"src_ip":"","protocol":"all","revoked":false,"already_added":false,
        "source_cidr_list":[],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Egress",
        "default_egress_policy":true}],"type":"firewallrules","delete_from_processed_cache":false}"#;
    let Document::Firewall(changes) = Document::read(egress.as_bytes()).unwrap() else { panic!() };
    let rule = changes[0].rule.as_ref().unwrap();
    assert!(rule.is_default && rule.default_allow && rule.packets.protocol == Protocol::All);

    let data = r#"{"vm_ip_address":"10.1.1.20","vm_metadata":[["userdata","user-data","I2Nsb3VkLWNvbmZpZwo"],
        ["metadata","instance-id","6f0e"],["metadata","public-keys",null],["metadata","hypervisor-host-name",""],
        ["password","x","secret"]],"type":"vmdata","delete_from_processed_cache":false}"#;
    let Document::Metadata(change) = Document::read(data.as_bytes()).unwrap() else { panic!() };
    assert_eq!(change.user_data, Some(Some("I2Nsb3VkLWNvbmZpZwo=".into())), "missing padding is added");
    let keys: Vec<_> = change.keys.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
    let expected = [("instance-id", Some("6f0e")), ("public-keys", Some("")), ("hypervisor-host-name", None)];
    assert_eq!(keys, expected);

    let password = r#"{"ip_address":"10.1.1.20","password":" a b% ","type":"vmpassword"}"#;
    let Document::Password(change) = Document::read(password.as_bytes()).unwrap() else { panic!() };
    assert_eq!(change.password.as_deref(), Some(" a b% "));
    assert!(!format!("{change:?}").contains("a b"));
}

#[test]
fn an_error_names_the_place() {
    for (text, message) in [
        ("{", "no JSON: EOF while parsing"),
        ("[]", "is no object"),
        ("{}", "type: is missing"),
        (r#"{"type":"ips"}"#, "ip_address: is missing, or no list"),
        (r#"{"type":"ips","ip_address":[1]}"#, "ip_address[0]: is no object"),
        (
            r#"{"type":"ips","ip_address":[{"public_ip":"1.2.3.4","netmask":"255.0.255.0"}]}"#,
            "ip_address[0].netmask: is no mask",
        ),
        (
            r#"{"type":"forwardrules","rules":[{"protocol":"gre"}]}"#,
            r#"rules[0].protocol: "gre" is neither tcp nor udp"#,
        ),
        (
            r#"{"type":"forwardrules","rules":[{"protocol":"tcp","source_ip_address":"300.1.1.1"}]}"#,
            r#"rules[0].source_ip_address: "300.1.1.1": invalid IPv4 address syntax"#,
        ),
        (
            r#"{"type":"firewallrules","rules":[{"id":1,"traffic_type":"Egress","protocol":"tcp","source_cidr_list":["10.1.1.0/33"]}]}"#,
            r#"rules[0].source_cidr_list[0]: "10.1.1.0/33" is no network"#,
        ),
        (r#"{"type":"dhcpentry","mac_address":"02:01"}"#, r#"mac_address: "02:01": not an Ethernet address"#),
        (
            r#"{"type":"vmdata","vm_ip_address":"10.1.1.2","vm_metadata":[["metadata","../x","y"]]}"#,
            "vm_metadata[0]: has a file name",
        ),
        (r#"{"type":"loadbalancer","rules":[]}"#, "rules: holds 0 configurations, not one"),
        (r#"{"type":"bgppeers"}"#, "peers: is missing, or no list"),
        (r#"{"type":"ipv6firewallrules"}"#, "rules: is missing, or no list"),
        (
            r#"{"type":"ipv6firewallrules","rules":[{"id":1,"traffic_type":"Egress","protocol":"tcp","source_cidr_list":["10.1.1.0/24"]}]}"#,
            "rules[0].source_cidr_list: holds no IPv6 network",
        ),
        (
            r#"{"type":"guestnetwork","mac_address":"02:01:00:cc:00:09","router_guest_ip":"10.9.1.1","router_guest_netmask":"255.255.255.0","router_guest_ip6":"2001:db8::1","cidr6":"129"}"#,
            r#"cidr6: "129" is no length of a prefix"#,
        ),
    ] {
        let error = error(text).to_string();
        assert!(error.starts_with(message), "{error}");
        assert!(error.ends_with("; nothing of this document was applied"), "{error}");
    }
}

#[test]
fn what_nobody_knows_asks_for_nothing() {
    let document = Document::read(br#"{"type":"something","x":1}"#).unwrap();
    assert_eq!(document, Document::Nothing("something".into()));
    let v6 = br#"{"type":"dhcpentry","mac_address":"02:01:00:cc:00:09","ipv6_address":"2001:db8::1"}"#;
    assert!(matches!(Document::read(v6).unwrap(), Document::Nothing(_)));
}

#[test]
fn numbers_and_truth_values_may_be_texts_and_bytes_may_be_of_another_locale() {
    let text =
        b"{\"type\":\"dhcpentry\",\"mac_address\":\"02:01:00:cc:00:09\",\"ipv4_address\":\"10.1.1.20\",\
        \"host_name\":\"w\xe9b\",\"remove\":\"true\",\"default_entry\":\"False\"}";
    let Document::Dhcp(change) = Document::read(text).unwrap() else { panic!() };
    assert!(change.remove && !change.host.default_nic);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = Document::read(&bytes);
    }

    #[test]
    fn any_members_are_read_or_refused(
        kind in "(ips|forwardrules|staticnatrules|firewallrules|ipv6firewallrules|bgppeers|dhcpentry|vmdata|vmpassword|monitorservice|guestnetwork|networkacl|staticroutes|ipaliases|site2sitevpn|remoteaccessvpn|vpnuserlist|wireguard)",
        list in "(ip_address|rules|vm_metadata|ingress_rules|egress_rules|routes|aliases|vpn_users|peers)",
        members in prop::collection::vec(("[a-z_]{1,24}", "[ -~]{0,20}"), 0..12),
    ) {
        let item: serde_json::Map<_, _> = members.into_iter().map(|(k, v)| (k, Value::String(v))).collect();
        let text = serde_json::json!({"type": kind, list: [item]}).to_string();
        let _ = Document::read(text.as_bytes());
    }
}
