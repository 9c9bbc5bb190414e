//! Conversations with the engine: a client's bytes in, the server's bytes out.

use std::net::Ipv4Addr;

use dhcproto::{
    Decodable as _, Decoder, Encodable as _, Encoder,
    v4::{DhcpOption, DhcpOptions, Flags, Message, MessageType, Opcode, OptionCode},
};
use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::{
    answer::{Outcome, Way, answer},
    reply::render,
    request::{Malformed, Request},
    table::Table,
};
use crate::{
    mac::Mac,
    snapshot::{Dhcp, DhcpHost, DhcpSubnet},
};

const A: Mac = Mac([2, 0, 0, 0, 0, 0x0a]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0x0b]);
const ALIAS: Mac = Mac([2, 0, 0, 0, 0, 0x0c]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x0d]);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const A_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 10);

fn subnet(nic: &str, router: [u8; 4], prefix: u8) -> DhcpSubnet {
    DhcpSubnet {
        nic: nic.into(),
        router: router.into(),
        network: Ipv4Net::new(router.into(), prefix).unwrap().trunc(),
        mtu: 1450,
        resolvers: vec![router.into(), [8, 8, 8, 8].into()],
        domain: "cs1.example".into(),
        search: vec!["a.example".into(), "b.example".into()],
        boot_file: Some("pxelinux.0".into()),
        six: None,
    }
}

fn host(mac: Mac, address: [u8; 4], default_nic: bool) -> DhcpHost {
    DhcpHost {
        mac,
        address: address.into(),
        six: None,
        name: "web".into(),
        gateway: Some(ROUTER),
        default_nic,
    }
}

fn table() -> Table {
    table_of(
        vec![subnet("eth0", [10, 1, 1, 1], 24), subnet("eth0", [10, 3, 0, 5], 24)],
        [
            host(A, [10, 1, 1, 10], true),
            host(B, [10, 1, 1, 20], false),
            host(ALIAS, [10, 3, 0, 9], true),
            host(Mac([2, 0, 0, 0, 0, 0x0e]), [10, 1, 1, 255], true),
            host(Mac([2, 0, 0, 0, 0, 0x0f]), [192, 0, 2, 1], true),
        ],
    )
}

fn table_of(subnets: Vec<DhcpSubnet>, hosts: impl IntoIterator<Item = DhcpHost>) -> Table {
    let table = Table::default().with_subnets(Dhcp { subnets });
    hosts.into_iter().fold(table, |table, host| table.with_host(host.address, Some(host)))
}

#[test]
fn a_guest_that_moves_is_served_at_its_new_place_whatever_is_told_first() {
    let (old, new) = ([10, 1, 1, 10], [10, 1, 1, 30]);
    let moved = || Some(host(A, new, true));
    let found = |table: &Table| table.find("eth0", A, Ipv4Addr::UNSPECIFIED).map(|lease| lease.host.address);
    for first_new in [true, false] {
        let mut table = table();
        for of_new in [first_new, !first_new] {
            table = match of_new {
                true => table.with_host(new.into(), moved()),
                false => table.with_host(old.into(), None),
            };
        }
        assert_eq!(found(&table), Some(new.into()));
        assert_eq!(found(&table.with_host(new.into(), None)), None);
    }
}

/// A client's message, changed by `change`.
fn message(kind: MessageType, mac: Mac, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, zero, zero, zero, zero, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    change(&mut message);
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

fn requested(address: [u8; 4]) -> impl FnOnce(&mut Message) {
    move |m| {
        m.opts_mut().insert(DhcpOption::RequestedIpAddress(address.into()));
    }
}

fn renewing(address: [u8; 4]) -> impl FnOnce(&mut Message) {
    move |m| {
        m.set_flags(Flags::default());
        *m = Message::new_with_id(7, address.into(), [0; 4].into(), [0; 4].into(), [0; 4].into(), m.chaddr());
        m.opts_mut().insert(DhcpOption::MessageType(MessageType::Request));
    }
}

/// What the server sends back, and how; `None` where it is silent.
fn ask(table: &Table, nic: &str, bytes: &[u8]) -> Option<(Message, Way)> {
    let request = Request::read(bytes).unwrap();
    match answer(table, nic, &request) {
        Outcome::Answer(answer) => {
            let bytes = render(&answer, &request).unwrap();
            assert!(bytes.len() >= 300, "BOOTP minimum");
            Some((Message::decode(&mut Decoder::new(&bytes)).unwrap(), answer.way))
        }
        _ => None,
    }
}

fn kind(answer: &Option<(Message, Way)>) -> Option<MessageType> {
    answer.as_ref().and_then(|(m, _)| m.opts().msg_type())
}

#[test]
fn an_offer_carries_all_options_of_a_default_nic() {
    let discover = message(MessageType::Discover, A, |m| {
        m.opts_mut().insert(DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0, 0x0a]));
    });
    let (offer, way) = ask(&table(), "eth0", &discover).unwrap();
    assert_eq!(way, Way::Frame(A_ADDRESS), "the client may be reached without broadcast");
    assert_eq!(offer.opcode(), Opcode::BootReply);
    assert_eq!((offer.xid(), offer.yiaddr(), offer.siaddr()), (0x1234_5678, A_ADDRESS, ROUTER));
    assert_eq!(offer.fname(), Some(&b"pxelinux.0\0"[..]));
    let expected: DhcpOptions = [
        DhcpOption::MessageType(MessageType::Offer),
        DhcpOption::SubnetMask([255, 255, 255, 0].into()),
        DhcpOption::Router(vec![ROUTER]),
        DhcpOption::DomainNameServer(vec![ROUTER, [8, 8, 8, 8].into()]),
        DhcpOption::Hostname("web".into()),
        DhcpOption::DomainName("cs1.example".into()),
        DhcpOption::InterfaceMtu(1450),
        DhcpOption::BroadcastAddr([10, 1, 1, 255].into()),
        DhcpOption::AddressLeaseTime(u32::MAX),
        DhcpOption::ServerIdentifier(ROUTER),
        DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0, 0x0a]),
        DhcpOption::DomainSearch(vec!["a.example.".parse().unwrap(), "b.example.".parse().unwrap()]),
    ]
    .into_iter()
    .collect();
    assert_eq!(offer.opts(), &expected);
}

#[test]
fn another_nic_gets_no_router_resolver_or_domain() {
    let (offer, _) = ask(&table(), "eth0", &message(MessageType::Discover, B, |_| ())).unwrap();
    for code in [OptionCode::Router, OptionCode::DomainNameServer, OptionCode::DomainName] {
        assert!(!offer.opts().contains(code), "{code:?}");
    }
    for code in
        [OptionCode::SubnetMask, OptionCode::Hostname, OptionCode::InterfaceMtu, OptionCode::DomainSearch]
    {
        assert!(offer.opts().contains(code), "{code:?}");
    }
}

#[test]
fn a_client_that_lists_options_gets_no_others() {
    let discover = message(MessageType::Discover, A, |m| {
        let list = vec![OptionCode::SubnetMask, OptionCode::BootfileName, OptionCode::TFTPServerName];
        m.opts_mut().insert(DhcpOption::ParameterRequestList(list));
    });
    let (offer, _) = ask(&table(), "eth0", &discover).unwrap();
    let codes: Vec<u8> = offer.opts().iter().map(|(c, _)| u8::from(*c)).collect();
    assert_eq!(codes, [1, 51, 53, 54, 66, 67, 119], "the domain search list is sent unasked");
}

#[test]
fn windows_is_told_to_release_on_shutdown() {
    let discover = message(MessageType::Discover, A, |m| {
        m.opts_mut().insert(DhcpOption::ClassIdentifier(b"MSFT 5.0".to_vec()));
    });
    let (offer, _) = ask(&table(), "eth0", &discover).unwrap();
    let option = DhcpOption::VendorExtensions(vec![2, 4, 0, 0, 0, 1]);
    assert_eq!(offer.opts().get(OptionCode::VendorExtensions), Some(&option));
}

#[test]
fn an_alias_subnet_speaks_for_itself() {
    let (offer, _) = ask(&table(), "eth0", &message(MessageType::Discover, ALIAS, |_| ())).unwrap();
    let server = Ipv4Addr::new(10, 3, 0, 5);
    assert_eq!(offer.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(server)));
    assert_eq!(offer.siaddr(), server);
}

#[test]
fn strangers_other_nics_and_addresses_of_no_subnet_get_nothing() {
    let table = table();
    let stray = [STRANGER, Mac([2, 0, 0, 0, 0, 0x0e]), Mac([2, 0, 0, 0, 0, 0x0f])];
    for mac in stray {
        assert!(ask(&table, "eth0", &message(MessageType::Discover, mac, |_| ())).is_none());
        let request = message(MessageType::Request, mac, requested([192, 168, 7, 7]));
        assert!(ask(&table, "eth0", &request).is_none(), "no NAK for strangers");
    }
    assert!(ask(&table, "eth1", &message(MessageType::Discover, A, |_| ())).is_none());
}

#[test]
fn selecting_grants_the_reservation_and_refuses_all_else() {
    let table = table();
    let select = |address: [u8; 4], server: Ipv4Addr| {
        message(MessageType::Request, A, |m| {
            m.opts_mut().insert(DhcpOption::RequestedIpAddress(address.into()));
            m.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        })
    };
    let ack = ask(&table, "eth0", &select([10, 1, 1, 10], ROUTER));
    assert_eq!(kind(&ack), Some(MessageType::Ack));
    let nak = ask(&table, "eth0", &select([10, 1, 1, 11], ROUTER));
    assert_eq!(kind(&nak), Some(MessageType::Nak));
    let other = ask(&table, "eth0", &select([10, 1, 1, 10], [10, 1, 1, 2].into()));
    assert_eq!(kind(&other), None, "the client chose another server");
}

#[test]
fn a_rebuilt_router_grants_what_the_former_one_gave() {
    let table = table();
    let rebooted = ask(&table, "eth0", &message(MessageType::Request, A, requested([10, 1, 1, 10])));
    assert_eq!(kind(&rebooted), Some(MessageType::Ack));
    let (ack, way) =
        ask(&table, "eth0", &message(MessageType::Request, A, renewing([10, 1, 1, 10]))).unwrap();
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!((way, ack.ciaddr()), (Way::Frame(A_ADDRESS), A_ADDRESS));
}

#[test]
fn a_moved_guest_is_refused_its_former_address_in_every_state() {
    let table = table();
    for old in [
        message(MessageType::Request, A, requested([10, 1, 1, 9])),
        message(MessageType::Request, A, renewing([10, 9, 9, 9])),
    ] {
        let (nak, way) = ask(&table, "eth0", &old).unwrap();
        assert_eq!(nak.opts().msg_type(), Some(MessageType::Nak));
        assert_eq!(way, Way::Broadcast);
        assert!(
            nak.yiaddr().is_unspecified() && nak.ciaddr().is_unspecified() && nak.siaddr().is_unspecified()
        );
        assert!(nak.opts().contains(OptionCode::Message) && !nak.opts().contains(OptionCode::SubnetMask));
    }
}

#[test]
fn an_inform_is_answered_without_a_lease() {
    let inform = |address: [u8; 4]| {
        message(MessageType::Inform, A, |m| {
            renewing(address)(m);
            m.opts_mut().insert(DhcpOption::MessageType(MessageType::Inform));
        })
    };
    let (ack, way) = ask(&table(), "eth0", &inform([10, 1, 1, 10])).unwrap();
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert!(ack.yiaddr().is_unspecified() && !ack.opts().contains(OptionCode::AddressLeaseTime));
    assert_eq!(way, Way::Frame(A_ADDRESS));
    assert!(ask(&table(), "eth0", &inform([192, 0, 2, 1])).is_none(), "no answers to elsewhere");
}

#[test]
fn relayed_and_broadcast_ways_are_kept() {
    let relay = Ipv4Addr::new(10, 1, 1, 3);
    let relayed = |kind, address: [u8; 4]| {
        message(kind, A, |m| {
            m.set_giaddr(relay);
            m.opts_mut().insert(DhcpOption::RequestedIpAddress(address.into()));
            let info = dhcproto::v4::UnknownOption::new(OptionCode::RelayAgentInformation, vec![1, 2, 9, 9]);
            m.opts_mut().insert(DhcpOption::Unknown(info));
        })
    };
    let (ack, way) = ask(&table(), "eth7", &relayed(MessageType::Request, [10, 1, 1, 10])).unwrap();
    assert_eq!((way, ack.giaddr()), (Way::Relay(relay), relay));
    assert!(ack.opts().contains(OptionCode::RelayAgentInformation), "echoed");
    let (nak, way) = ask(&table(), "eth7", &relayed(MessageType::Request, [10, 1, 1, 11])).unwrap();
    assert_eq!((way, nak.flags().broadcast()), (Way::Relay(relay), true));
    let shouted = message(MessageType::Discover, A, |m| {
        m.set_flags(Flags::default().set_broadcast());
    });
    assert_eq!(ask(&table(), "eth0", &shouted).unwrap().1, Way::Broadcast);
}

#[test]
fn release_decline_and_nonsense_get_no_answer() {
    let table = table();
    for kind in [MessageType::Release, MessageType::Decline, MessageType::Request] {
        assert!(ask(&table, "eth0", &message(kind, A, |_| ())).is_none(), "{kind:?}");
    }
    let declined = Request::read(&message(MessageType::Decline, A, |_| ())).unwrap();
    assert!(matches!(answer(&table, "eth0", &declined), Outcome::Declined(_)));
}

#[test]
fn an_answer_fits_what_the_client_takes() {
    let mut long = subnet("eth0", [10, 1, 1, 1], 24);
    long.search = (0..40).map(|i| format!("a-rather-long-label-{i}.example")).collect();
    let table = table_of(vec![long], [host(A, [10, 1, 1, 10], true)]);
    let (small, _) = ask(&table, "eth0", &message(MessageType::Discover, A, |_| ())).unwrap();
    assert!(!small.opts().contains(OptionCode::DomainSearch));
    let roomy = message(MessageType::Discover, A, |m| {
        m.opts_mut().insert(DhcpOption::MaxMessageSize(1500));
    });
    let (large, _) = ask(&table, "eth0", &roomy).unwrap();
    assert!(large.opts().contains(OptionCode::DomainSearch));
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    let good = message(MessageType::Discover, A, |_| ());
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Request::read(&bytes)
    };
    assert_eq!(Request::read(&good[..239]), Err(Malformed::Size(239)));
    assert_eq!(Request::read(&[0; 1501]), Err(Malformed::Size(1501)));
    assert_eq!(with(0, 2), Err(Malformed::Opcode));
    assert_eq!(with(2, 255), Err(Malformed::Hardware));
    assert_eq!(with(28, 1), Err(Malformed::Group));
    assert_eq!(with(242, 2), Err(Malformed::Kind), "an OFFER");
    assert_eq!(with(240, 0), Err(Malformed::Kind), "BOOTP");
}

#[test]
fn an_option_that_cannot_be_right_does_not_hide_the_others() {
    let mut bytes = message(MessageType::Request, A, requested([10, 1, 1, 10]));
    assert_eq!(bytes.pop(), Some(255));
    bytes.extend([12, 2, 0xff, 0xfe, 54, 3, 1, 2, 3, 60, 4]);
    bytes.extend(b"MSFT\xff");
    let request = Request::read(&bytes).unwrap();
    assert_eq!(request.requested, Some(A_ADDRESS));
    assert_eq!(request.server, None);
    assert!(request.microsoft);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
        let _ = Request::read(&bytes);
    }

    /// Right up to the options, and anything at all in them and in the addresses.
    #[test]
    fn any_options_of_a_known_guest_are_answered_within_bounds(
        addresses in proptest::array::uniform16(any::<u8>()),
        flags in any::<[u8; 2]>(),
        kind in 1_u8..9,
        options in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = message(MessageType::Discover, A, |_| ());
        bytes[10..12].copy_from_slice(&flags);
        bytes[12..28].copy_from_slice(&addresses);
        bytes[242] = kind;
        bytes.pop();
        bytes.extend(&options);
        let table = table();
        if let Ok(request) = Request::read(&bytes)
            && let Outcome::Answer(answer) = answer(&table, "eth0", &request)
        {
            let reply = render(&answer, &request).unwrap();
            prop_assert!((300..=1472).contains(&reply.len()));
        }
    }
}
