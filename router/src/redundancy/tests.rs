use super::*;
use crate::{
    redundancy::plan::plan,
    state::tests::{VPC, after_at, devices_to, setup_of, tier},
    view::View,
};

/// Boot arguments of one of a pair for an isolated network.
const PAIR: &str = "name=r-30-VM eth2ip=203.0.113.30 eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=10.1.1.5 \
    eth0mask=255.255.255.0 redundant_router=1 advert_int=2 redundant_state=PRIMARY guestgw=10.1.1.1 \
    guestbrd=10.1.1.255 guestcidrsize=24 eth1ip=169.254.30.5 eth1mask=255.255.0.0 type=router";

fn pair(line: &str) -> Result<Option<Pair>, SetupError> {
    Pair::read(&Identity::parse(line).unwrap())
}

#[test]
fn both_find_the_secret_of_the_reference() {
    let isolated = pair(PAIR).unwrap().unwrap();
    // The beginning of the MD5 digest of "203.0.113.30-1".
    let digest = hex(&Md5::digest("203.0.113.30-1"));
    assert_eq!(isolated.secret(), &digest[..8]);
    assert_eq!((isolated.interval, isolated.role), (2, Role::Backup));
    let vpc = format!("{VPC} redundant_router=1 router_id=5 router_password=92161234567890");
    assert_eq!(pair(&vpc).unwrap().unwrap().secret(), "92161234");
    assert!(pair(VPC).unwrap().is_none());
    assert!(pair(&format!("{VPC} redundant_router=1 router_password=a}}b")).is_err());
    assert_eq!(pair(&PAIR.replace("guestgw=10.1.1.1", "")), Err(SetupError::Missing("guestgw")));
    assert!(!format!("{isolated:?}").contains(isolated.secret()));
}

#[test]
fn a_network_that_is_added_does_not_move_the_election() {
    let setup = setup_of(&format!("{VPC} redundant_router=1 router_password=12345678"));
    let two = |n: u8, nic: u32| {
        tier(n, nic, true).replace(
            &format!("\"router_guest_ip\":\"10.9.{n}.1\""),
            &format!("\"router_guest_ip\":\"10.9.{n}.5\""),
        )
    };
    let (first, second) = (two(2, 3), two(3, 2));
    let devices = devices_to(4);
    let election = |documents: &[&str]| {
        let state = after_at(&setup, documents);
        plan(&View::new(&setup, &state, &devices), &devices)
    };
    assert_eq!(election(&[]), None, "nobody to be elected for");
    let one = election(&[&first]).unwrap();
    assert_eq!((one.nic.as_str(), one.own.to_string(), one.shared.len()), ("eth3", "10.9.2.5".to_owned(), 1));
    let both = election(&[&first, &second]).unwrap();
    assert_eq!(
        (both.nic.as_str(), both.shared.len()),
        ("eth3", 2),
        "although the other NIC has a lower number"
    );
    assert_eq!(both.sign(), one.sign());
    let files = config::Files::new(&common::paths::Paths::below("/x"));
    let texts = [one, both].map(|election| config::keepalived(&election, &files));
    assert!(config::differ_in_addresses_only(&texts[0], &texts[1]) && texts[0] != texts[1]);
    assert!(texts[1].contains("10.9.3.1/24 brd 10.9.3.255 dev eth2 no_track\n"), "{}", texts[1]);
}

#[test]
fn a_silent_router_has_everything_but_public_nics_and_ears() {
    let mut setup = setup_of(PAIR);
    let (state, devices) = (setup.first_state(), devices_to(3));
    let plan = |setup: &crate::state::Setup| crate::plan::plan(setup, &state, &devices);
    let silent = plan(&setup);
    assert!(silent.links.nics["eth2"].down && silent.links.routes.iter().all(|route| route.via.is_none()));
    assert_eq!(silent.links.nics["eth0"].shared, Some("10.1.1.1/24".parse().unwrap()));
    assert!(crate::serving::listeners(&View::new(&setup, &state, &devices)).is_empty());
    setup.pair.as_mut().unwrap().role = Role::Primary;
    let first = plan(&setup);
    assert!(!first.links.nics["eth2"].down && first.links.routes.len() > silent.links.routes.len());
    assert_eq!(first.table, silent.table, "the packet filter is the same on both");
    assert_eq!(first.links.nics["eth2"].addresses, silent.links.nics["eth2"].addresses);
    let view = View::new(&setup, &state, &devices);
    let dhcp = crate::serving::dhcp(&view, &devices);
    assert_eq!((dhcp.subnets.len(), dhcp.subnets[0].router.to_string()), (1, "10.1.1.1".to_owned()));
    let listeners = crate::serving::listeners(&view);
    let password = |l: &&crate::snapshot::Listener| l.service == crate::snapshot::Service::Password;
    assert_eq!(listeners.iter().filter(password).count(), 1, "at the gateway's address alone");
    assert_eq!(listeners.len(), 7 + 4, "all for IPv4, and at its own address what is for each");
}
