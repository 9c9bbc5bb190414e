use proptest::prelude::*;

use super::{
    tests::{VPC, acl, address, after_at, check_edits, devices_to, merge_at, private, route, setup_of, tier},
    *,
};
use crate::{document::Document, plan::plan};

/// A step of a random history of a VPC.
#[derive(Debug, Clone)]
enum Move {
    Tier { n: u8, nic: u32, device: u32, add: bool },
    Acl { nic: u32, device: u32, rules: usize },
    Route { network: u8, gateway: u8, revoke: bool },
    Address { last: u8, nic: u32, add: bool },
    Private { nic: u32, source_nat: bool, add: bool },
    Host { mac: u8, ip: u8, remove: bool },
}

const RULES: [&[&str]; 4] = [
    &[],
    &[r#"{"type":"all","cidr":"0.0.0.0/0,::/0","allowed":true}"#],
    &[
        r#"{"type":"tcp","first_port":22,"last_port":23,"cidr":"10.9.2.0/24,192.0.2.7/32","allowed":false}"#,
        r#"{"type":"icmp","icmp_type":8,"icmp_code":-1,"cidr":"","allowed":true}"#,
    ],
    &[r#"{"type":"protocol","protocol":47,"cidr":"198.51.100.0/24","allowed":true}"#],
];

impl Move {
    fn document(&self) -> String {
        match self {
            Self::Tier { n, nic, device, add } => with_device(&tier(*n, *nic, *add), *nic, *device),
            Self::Acl { nic, device, rules } => {
                with_device(&acl(*nic, RULES[*rules], RULES[3 - rules]), *nic, *device)
            }
            Self::Route { network, gateway, revoke } => {
                let gateway = format!("10.9.1.{gateway}");
                route(&format!("172.{network}.0.0/16"), (!revoke).then_some(gateway.as_str()))
            }
            Self::Address { last, nic, add } => {
                address(&format!("203.0.113.{last}"), *nic, *last == 20, *add)
            }
            Self::Private { nic, source_nat, add } => private("172.16.5.2", *nic, *source_nat, *add),
            Self::Host { mac, ip, remove } => format!(
                r#"{{"host_name":"vm{ip}","mac_address":"02:00:00:00:01:{mac:02x}","ipv4_address":"10.9.1.{ip}",
                "remove":{remove},"type":"dhcpentry"}}"#
            ),
        }
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Tier { .. } => 0,
            Self::Acl { .. } => 1,
            Self::Route { .. } => 2,
            Self::Address { .. } | Self::Private { .. } => 3,
            Self::Host { .. } => 4,
        }
    }
}

fn with_device(text: &str, nic: u32, device: u32) -> String {
    text.replace(&format!(r#""device":"eth{nic}""#), &format!(r#""device":"eth{device}""#))
}

fn step() -> impl Strategy<Value = Move> {
    prop_oneof![
        (1..4u8, 2..6u32, 2..6u32, any::<bool>()).prop_map(|(n, nic, device, add)| Move::Tier {
            n,
            nic,
            device,
            add
        }),
        (2..6u32, 2..6u32, 0..4usize).prop_map(|(nic, device, rules)| Move::Acl { nic, device, rules }),
        (30..33u8, 50..53u8, any::<bool>()).prop_map(|(network, gateway, revoke)| Move::Route {
            network,
            gateway,
            revoke
        }),
        (20..23u8, 1..4u32, any::<bool>()).prop_map(|(last, nic, add)| Move::Address { last, nic, add }),
        (4..6u32, any::<bool>(), any::<bool>()).prop_map(|(nic, source_nat, add)| Move::Private {
            nic,
            source_nat,
            add
        }),
        (1..4u8, 2..6u8, any::<bool>()).prop_map(|(mac, ip, remove)| Move::Host { mac, ip, remove }),
    ]
}

/// Documents that give a fresh router exactly what a state holds.
fn surviving(state: &State) -> Vec<String> {
    let mut moves = Vec::new();
    for (mac, t) in &state.tiers {
        let (n, nic) = (t.address.octets()[2], u32::from(mac.0[5]));
        moves.push(Move::Tier { n, nic, device: t.device.unwrap(), add: true });
    }
    for (mac, list) in &state.acls {
        let same = |rules: &usize| {
            let text = acl(0, RULES[*rules], RULES[3 - rules]);
            matches!(Document::read(text.as_bytes()).unwrap(), Document::Acl(change)
                if change.acl.ingress == list.ingress && change.acl.egress == list.egress)
        };
        let rules = (0..RULES.len()).find(same).unwrap();
        moves.push(Move::Acl { nic: u32::from(mac.0[5]), device: list.device.unwrap(), rules });
    }
    for (network, gateway) in &state.routes {
        let (network, gateway) = (network.addr().octets()[1], gateway.octets()[3]);
        moves.push(Move::Route { network, gateway, revoke: false });
    }
    for (ip, a) in &state.addresses {
        let nic = a.index.unwrap();
        moves.push(if a.private_gateway {
            Move::Private { nic, source_nat: a.source_nat, add: true }
        } else {
            Move::Address { last: ip.octets()[3], nic, add: true }
        });
    }
    for (ip, host) in state.hosts.iter() {
        moves.push(Move::Host { mac: host.mac.0[5], ip: ip.octets()[3], remove: false });
    }
    moves.iter().map(Move::document).collect()
}

proptest! {
    /// Whatever happened before, only what survived counts; and saying the last thing again changes nothing.
    #[test]
    fn any_history_of_a_vpc_equals_a_fresh_one_with_what_survived(moves in prop::collection::vec(step(), 0..40)) {
        let setup = setup_of(VPC);
        let documents: Vec<String> = moves.iter().map(Move::document).collect();
        let (mut state, devices) = (setup.first_state(), devices_to(6));
        for document in &documents {
            let before = state.clone();
            merge_at(&setup, &mut state, document).unwrap();
            check_edits(&setup, &devices, &before, &state);
        }
        let kept = surviving(&state);
        let fresh = after_at(&setup, &kept.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(&fresh, &state);
        prop_assert_eq!(plan(&setup, &fresh, &devices), plan(&setup, &state, &devices));
        if let Some(last) = documents.last() {
            let mut again = state.clone();
            merge_at(&setup, &mut again, last).unwrap();
            prop_assert_eq!(again, state);
        }
    }

    /// Of documents of different kinds, it does not matter which comes first.
    #[test]
    fn documents_of_independent_kinds_commute(
        moves in prop::collection::vec(step(), 0..20),
        one in step(),
        other in step(),
    ) {
        prop_assume!(one.kind() != other.kind());
        let setup = setup_of(VPC);
        let documents: Vec<String> = moves.iter().map(Move::document).collect();
        let mut first = after_at(&setup, &documents.iter().map(String::as_str).collect::<Vec<_>>());
        let mut second = first.clone();
        let (one, other) = (one.document(), other.document());
        for text in [&one, &other] {
            merge_at(&setup, &mut first, text).unwrap();
        }
        for text in [&other, &one] {
            merge_at(&setup, &mut second, text).unwrap();
        }
        prop_assert_eq!(first, second);
    }
}
