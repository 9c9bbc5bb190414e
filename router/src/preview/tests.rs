use super::*;
use crate::state::tests::{after, devices, forward, setup, static_nat};

fn diff(before: &[&str], more: &[&str]) -> String {
    let all: Vec<&str> = before.iter().chain(more).copied().collect();
    let side = |documents: &[&str]| Side::new(&setup(), &after(documents), &devices());
    Changes::between(&side(before), &side(&all)).text().to_owned()
}

const HOST: &str = r#"{"host_name":"web1","mac_address":"02:00:00:00:00:0a","ipv4_address":"10.1.1.20",
    "default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}"#;
const INGRESS: &str = r#"{"rules":[{"id":41,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[22,22],
    "revoked":false,"source_cidr_list":["198.51.100.0/24"],"traffic_type":"Ingress"}],"type":"firewallrules"}"#;
const ADDRESS: &str = r#"{"ip_address":[{"public_ip":"198.18.7.5","netmask":"255.255.255.0","gateway":"198.18.7.1",
    "nic_dev_id":3,"add":true,"vif_mac_address":"02:00:00:00:00:03","nw_type":"Public"}],"type":"ips"}"#;

#[test]
fn only_what_would_change_is_told() {
    let pf = forward("203.0.113.10", "2222:2222", "10.1.1.20", "22:22", "", false);
    assert_eq!(
        diff(&[], &[&pf]),
        "packet filter\n  + forward_address[203.0.113.10 tcp 2222] = 10.1.1.20\n  \
         + forward_port[203.0.113.10 tcp 2222] = 22\n"
    );
    assert_eq!(diff(&[&pf], &[&pf]), "");
    let elsewhere = forward("203.0.113.10", "2222:2222", "10.1.1.30", "22:22", "", false);
    let text = diff(&[&pf], &[&elsewhere]);
    assert!(
        text.contains("  - forward_address[203.0.113.10 tcp 2222] = 10.1.1.20\n")
            && text.contains("  + forward_address[203.0.113.10 tcp 2222] = 10.1.1.30\n"),
        "{text}"
    );
    let text = diff(&[], &[INGRESS]);
    assert!(text.contains("rule 1: from 198.51.100.0/24, tcp port 22: accept\n"), "{text}");
}

#[test]
fn addresses_leases_names_and_connections_have_their_lines() {
    let text = diff(&[], &[HOST]);
    assert_eq!(
        text,
        "DHCP\n  + 10.1.1.20 to 02:00:00:00:00:0a (web1), gateway 10.1.1.1\nnames\n  + web1 is 10.1.1.20\n"
    );
    let text = diff(&[], &[ADDRESS]);
    for line in [
        "  + eth3 address 198.18.7.5/24\n",
        "  + route to 0.0.0.0/0 by 198.18.7.1 of eth3, table 103\n",
        "  + packets with mark 103 look in table 103 (preference 20003)\n",
        "  + public[198.18.7.5]\n",
        "  + counter usage_eth3_sent\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let given = static_nat("203.0.113.10", "10.1.1.20", false);
    let taken = static_nat("203.0.113.10", "10.1.1.20", true);
    let text = diff(&[&given], &[&taken]);
    assert!(text.ends_with("connections that would be ended\n  - all of 203.0.113.10\n"), "{text}");
}

#[test]
fn a_rule_in_the_middle_is_told_alone() {
    let chain = |rules: &[&str]| rules.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
    let of = |old: &[&str], new: &[&str]| {
        let mut changes = Changes { section: "packet filter", ..Changes::default() };
        filter::rules("acl", &chain(old), &chain(new), &mut changes);
        changes.text
    };
    assert_eq!(of(&["a", "b", "c"], &["a", "x", "b", "c"]), "packet filter\n  + acl rule 2: x\n");
    assert_eq!(of(&["a", "b", "c"], &["a", "c"]), "packet filter\n  - acl rule 2: b\n");
    assert_eq!(of(&["a", "a"], &["a"]), "packet filter\n  - acl rule 2: a\n");
    assert_eq!(of(&["a"], &["a"]), "");
}

#[test]
fn secrets_are_not_told() {
    let mut changes = Changes::default();
    let guest = Ipv4Addr::new(10, 1, 1, 20);
    let data = |value: &str| Metadata { user_data: None, keys: vec![("public-keys".into(), value.into())] };
    changes.metadata(guest, Some(&data("one")), &data("two"));
    changes.password(guest);
    let text = changes.text();
    assert!(
        text.contains("  - 10.1.1.20 public-keys (3 bytes") && text.contains("  + 10.1.1.20 public-keys")
    );
    assert!(text.ends_with("passwords\n  + 10.1.1.20 gets a new one\n"), "{text}");
    assert!(!text.contains("two"), "{text}");
}
