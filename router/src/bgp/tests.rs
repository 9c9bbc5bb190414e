use super::{config::change, plan::plan};
use crate::{
    document::Document,
    state::tests::{after_at, devices_to, setup_of},
    view::View,
};

const ROUTED: &str = "name=r-7-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=10.1.1.1 \
    eth0mask=255.255.255.0 eth1ip=169.254.10.20 eth1mask=255.255.0.0 type=router is_routed=true";

fn item(address: &str, their: u32, our: u32, more: &str) -> String {
    format!(
        r#"{{"peer_id":7,"peer_as_number":{their},"ip4_address":"{address}","network_id":204,"network_as_number":{our},"guest_ip4_cidr":"10.1.1.0/24"{more}}}"#
    )
}

fn document(items: &[String]) -> String {
    format!(r#"{{"peers":[{}],"type":"bgppeers","delete_from_processed_cache":false}}"#, items.join(","))
}

#[test]
fn a_document_is_all_peers_and_a_wrong_one_names_the_place() {
    let setup = setup_of(ROUTED);
    let more = r#","peer_password":"bgp-pw","details":{"EBGP_MultiHop":"2"}"#;
    let one = document(&[item("203.0.113.2", 64512, 4_200_000_000, more)]);
    let state = after_at(&setup, &[&one]);
    let peer = state.peers.first().unwrap();
    assert_eq!((peer.our, peer.hops, peer.password.as_deref()), (4_200_000_000, Some(2), Some("bgp-pw")));
    assert!(!format!("{state:?}").contains("bgp-pw"));
    assert!(after_at(&setup, &[&one, &document(&[])]).peers.is_empty());
    for (wrong, place) in [
        (item("203.0.113.2", 0, 1, ""), "peers[0].peer_as_number"),
        (item("224.0.0.1", 1, 1, ""), "peers[0].ip4_address"),
        (item("203.0.113.2", 1, 1, r#","peer_password":"a\nno router bgp 1""#), "peers[0].peer_password"),
        (
            item("203.0.113.2", 1, 1, r#","details":{"EBGP_MultiHop":"300"}"#),
            "peers[0].details.EBGP_MultiHop",
        ),
    ] {
        let error = Document::read(document(&[wrong]).as_bytes()).unwrap_err();
        assert_eq!(error.path, place);
    }
}

#[test]
fn a_change_names_only_sessions_that_differ() {
    let setup = setup_of(ROUTED);
    let speaker = |items: &[String]| plan(&setup, &after_at(&setup, &[&document(items)]));
    let [a, b] = ["203.0.113.2", "203.0.113.3"].map(|address| item(address, 64512, 65001, ""));
    let (one, both) = (speaker(std::slice::from_ref(&a)), speaker(&[a.clone(), b]));
    let words = |old: &Option<_>, new: &Option<_>| change(old.as_ref(), new.as_ref()).join("\n");
    let first = words(&None, &one);
    assert!(first.contains("router bgp 65001\nbgp router-id 203.0.113.10\n"), "{first}");
    assert!(
        first.contains("\nnetwork 10.1.1.0/24\n") && first.contains("neighbor 203.0.113.2 remote-as 64512\n")
    );
    for (old, new) in [(&one, &both), (&both, &one)] {
        let text = words(old, new);
        assert!(text.contains("203.0.113.3") && !text.contains("203.0.113.2"), "{text}");
    }
    assert_eq!(words(&one, &None).lines().next(), Some("no router bgp 65001"));
    let other = speaker(&[a, item("203.0.113.4", 64513, 65002, "")]);
    let text = words(&None, &other);
    assert!(text.contains("neighbor 203.0.113.4 local-as 65002 no-prepend replace-as\n"), "{text}");
}

#[test]
fn peers_get_in_by_nics_to_the_outside_and_nobody_else() {
    let setup = setup_of(ROUTED);
    let (one, devices) = (document(&[item("203.0.113.2", 64512, 65001, "")]), devices_to(3));
    let state = after_at(&setup, &[&one]);
    let table = crate::plan::table(&View::new(&setup, &state, &devices));
    let text = format!("{:?}", table.chains["input"]);
    assert_eq!(text.matches("179:179").count(), 1, "{text}");
    assert!(text.contains("203.0.113.2/32"));
    let closed = crate::plan::table(&View::new(&setup, &setup.first_state(), &devices));
    assert!(!format!("{:?}", closed.chains["input"]).contains("179"));
}

#[test]
fn a_peer_of_both_families_hears_by_each_of_what_belongs_to_it() {
    let setup = setup_of(&format!(
        "{ROUTED} eth0ip6=2001:db8:1::1 eth2ip6=2001:db8:ff::10 ip6gateway=2001:db8:ff::1"
    ));
    let more = r#","ip6_address":"2001:db8:ff::2","guest_ip6_cidr":"2001:db8:1::/64""#;
    let state = after_at(&setup, &[&document(&[item("203.0.113.2", 64512, 65001, more)])]);
    let text = change(None, plan(&setup, &state).as_ref()).join("\n");
    for line in [
        "ip prefix-list to-203.0.113.2 permit 10.1.1.0/24\n",
        "ipv6 prefix-list to-2001:db8:ff::2 permit 2001:db8:1::/64\n",
        "no bgp default ipv4-unicast\n",
        "address-family ipv6 unicast\nnetwork 2001:db8:1::/64\nneighbor 2001:db8:ff::2 activate\n",
        "address-family ipv4 unicast\nnetwork 10.1.1.0/24\nneighbor 203.0.113.2 activate\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let devices = devices_to(3);
    let table = crate::plan::table(&View::new(&setup, &state, &devices));
    let text = format!("{:?}", table.chains["input6"]);
    assert!(text.contains("2001:db8:ff::2/128") && text.contains("179:179"), "{text}");
    let alone = item("", 64512, 65001, r#","ip6_address":"2001:db8:ff::2""#);
    assert_eq!(after_at(&setup, &[&document(&[alone])]).peers.len(), 1);
    let nobody = Document::read(document(&[item("", 1, 1, "")]).as_bytes()).unwrap_err();
    assert_eq!(
        nobody.to_string().split(';').next(),
        Some("peers[0].ip4_address: is missing, and so is ip6_address")
    );
}
