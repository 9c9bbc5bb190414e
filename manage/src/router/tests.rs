use serde_json::{Value, json};

use super::*;
use crate::{
    db::{Db, Kind, Vm},
    zone::{Zone, tests::example},
};

fn vms(zone: &Zone) -> Vec<Vm> {
    let db = Db::in_memory().unwrap();
    db.take_zone(zone).unwrap();
    db.vms().unwrap()
}

fn rules(zone: &Zone) -> Rules {
    let vms = vms(zone);
    let index = crate::index::Index::new(zone, &vms);
    Rules::of(&index, vms.iter().find(|v| v.kind == Kind::Router).unwrap()).unwrap()
}

fn of_kind(documents: &[Document], name: &str) -> Vec<Value> {
    documents.iter().filter(|d| d.name == name).map(|d| serde_json::from_str(&d.json).unwrap()).collect()
}

#[test]
fn documents_come_in_the_contracts_order_and_form() {
    let zone = example();
    let password = Password { ip: "10.1.1.20".parse().unwrap(), password: "Abc123!".to_owned() };
    let documents = render(None, &rules(&zone), Some("1e:02:00:00:00:01"), &zone.public, &[password]);
    let names: Vec<_> = documents.iter().map(|d| d.name).collect();
    assert_eq!(
        names,
        [
            "ip_associations",
            "firewall_rules",
            "firewall_rules",
            "forwarding_rules",
            "vm_dhcp_entry",
            "vm_metadata",
            "vm_password"
        ]
    );
    assert_eq!(
        of_kind(&documents, "ip_associations")[0],
        json!({"ip_address":[{"public_ip":"203.0.113.10","source_nat":true,"add":true,"one_to_one_nat":false,
            "first_i_p":true,"gateway":"203.0.113.1","netmask":"255.255.255.0",
            "vif_mac_address":"1e:02:00:00:00:01","nic_dev_id":2,"new_nic":false,"nw_type":"Public",
            "is_private_gateway":false,"mtu":1500}],"type":"ips","delete_from_processed_cache":false})
    );
    assert_eq!(
        of_kind(&documents, "forwarding_rules")[0],
        json!({"rules":[{"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.10",
            "source_port_range":"2222:2222","destination_ip_address":"10.1.1.20",
            "destination_port_range":"22:22","source_cidr_list":""}],"type":"forwardrules",
            "delete_from_processed_cache":false})
    );
    assert_eq!(
        of_kind(&documents, "vm_dhcp_entry")[0],
        json!({"host_name":"web1","mac_address":"02:01:00:cc:00:09","ipv4_address":"10.1.1.20",
            "ipv6_duid":"00:03:00:01:02:01:00:cc:00:09","dns_addresses":"10.1.1.1","default_gateway":"10.1.1.1",
            "default_entry":true,"remove":false,"type":"dhcpentry","delete_from_processed_cache":false})
    );
    assert_eq!(
        of_kind(&documents, "vm_password")[0],
        json!({"ip_address":"10.1.1.20","password":"Abc123!","type":"vmpassword",
            "delete_from_processed_cache":false})
    );
    let egress = &of_kind(&documents, "firewall_rules")[0]["rules"];
    let http = egress.as_array().unwrap().iter().find(|r| r["protocol"] == "tcp").unwrap();
    assert_eq!(
        (&http["src_port_range"], &http["source_cidr_list"], &http["dest_cidr_list"]),
        (&json!([80, 80]), &json!(["10.1.1.0/24"]), &json!(["0.0.0.0/0"]))
    );
    assert_eq!((&http["default_egress_policy"], &http["src_ip"]), (&json!(false), &json!("")));
}

#[test]
fn what_the_zone_has_no_longer_is_revoked() {
    let mut zone = example();
    let before = rules(&zone);
    zone.networks[0].egress.clear();
    zone.networks[0].forwards.clear();
    zone.guests.clear();
    let documents = render(Some(&before), &rules(&zone), Some("1e:02:00:00:00:01"), &zone.public, &[]);
    let egress = &of_kind(&documents, "firewall_rules")[0]["rules"];
    assert!(egress.as_array().unwrap().iter().all(|r| r["revoked"] == true), "{egress}");
    assert_eq!(egress.as_array().unwrap().len(), 2);
    assert_eq!(of_kind(&documents, "forwarding_rules")[0]["rules"][0]["revoke"], true);
    assert_eq!(of_kind(&documents, "vm_dhcp_entry")[0]["remove"], true);
    assert!(of_kind(&documents, "vm_metadata").is_empty());
}

#[test]
fn a_network_that_allows_egress_says_so_with_rule_zero() {
    let mut zone = example();
    zone.networks[0].egress_allowed = true;
    let documents = render(None, &rules(&zone), Some("1e:02:00:00:00:01"), &zone.public, &[]);
    let egress = &of_kind(&documents, "firewall_rules")[0]["rules"][0];
    assert_eq!((&egress["id"], &egress["protocol"]), (&json!(0), &json!("all")));
    assert_eq!((&egress["source_cidr_list"], &egress["default_egress_policy"]), (&json!([]), &json!(true)));
}

#[test]
fn a_bundle_has_one_file_and_one_script_a_document() {
    let document = Document { name: "vm_password", json: "{\"a\":1}".to_owned() };
    assert_eq!(
        bundle(&[document], "id"),
        "#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n<file>\n\
         /var/cache/cloud/vm_password.json.id-0\n{\"a\":1}\n</file>\n<script>\n\
         /opt/cloud/bin/update_config.py vm_password.json.id-0\n</script>\n"
    );
}

#[test]
fn an_operators_document_is_named_by_its_type() {
    assert_eq!(read("{\"type\":\"firewallrules\",\"rules\":[]}").unwrap().name, "firewall_rules");
    assert!(read("{\"type\":\"magic\"}").unwrap_err().to_string().contains("\"magic\""));
    assert!(read("{").is_err());
}

#[test]
fn rules_survive_the_database() {
    let rules = rules(&example());
    let text = serde_json::to_string(&rules).unwrap();
    assert_eq!(serde_json::from_str::<Rules>(&text).unwrap(), rules);
}

#[test]
fn the_router_of_a_basic_network_knows_its_guests_alone() {
    let zone = crate::zone::tests::with_basic();
    let vms = vms(&zone);
    let index = crate::index::Index::new(&zone, &vms);
    let rules = Rules::of(&index, vms.iter().filter(|v| v.kind == Kind::Router).nth(1).unwrap()).unwrap();
    let documents = render(None, &rules, None, &zone.public, &[]);
    let names: Vec<_> = documents.iter().map(|d| d.name).collect();
    assert_eq!(names, ["vm_dhcp_entry", "vm_metadata"]);
    let entry = &of_kind(&documents, "vm_dhcp_entry")[0];
    assert_eq!(
        (&entry["ipv4_address"], &entry["mac_address"]),
        (&json!("10.2.0.10"), &json!("02:00:00:00:00:0a"))
    );
    assert_eq!(
        (&entry["dns_addresses"], &entry["default_gateway"]),
        (&json!("10.2.0.2"), &json!("10.2.0.1"))
    );
}
