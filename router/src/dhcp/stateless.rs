//! DHCPv6 for guests (RFC 8415), as far as it goes without leases: guests make their addresses themselves, and may
//! ask for resolvers and domains. One that asks for an address is told that there is none to be had.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use dhcproto::{
    Decodable as _, Decoder, Encodable as _, Encoder,
    v6::{DhcpOption, Message, MessageType, OptionCode, Status, StatusCode},
};
use hickory_proto::rr::Name;
use tokio::{net::UdpSocket, time::Instant};

use super::task::Server;
use crate::{
    serve::limit::Limiter,
    snapshot::{DhcpSubnet, Subnet6},
};

/// Longest message that is looked at, bytes.
const LONGEST: usize = 1500;
/// Port of clients.
const CLIENT: u16 = 546;
/// Longest identifier of a client (RFC 8415, 11.1), bytes.
const IDENTIFIER: usize = 130;
/// Answers to one guest: so many at once, and so many in a second after that; guests that are watched at a time.
const BURST: (u32, u32, usize) = (10, 5, 1024);

/// The answer to what a client says on a subnet; `None` where there is none to give.
pub fn answer(subnet: &DhcpSubnet, six: &Subnet6, bytes: &[u8]) -> Option<Vec<u8>> {
    let request = Message::decode(&mut Decoder::new(bytes)).ok()?;
    let server = identifier(six)?;
    let client = match request.opts().get(OptionCode::ClientId) {
        Some(DhcpOption::ClientId(id)) if id.len() <= IDENTIFIER => Some(id.clone()),
        Some(_) => return None,
        None => None,
    };
    let meant = match request.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(id)) => *id == server,
        _ => true,
    };
    let leases = [OptionCode::IANA, OptionCode::IATA, OptionCode::IAPD];
    let has_leases = leases.iter().any(|lease| request.opts().get(*lease).is_some());
    let kind = match request.msg_type() {
        // RFC 8415, 16.12 and 16.2.
        MessageType::InformationRequest if meant && !has_leases => MessageType::Reply,
        MessageType::Solicit if client.is_some() => MessageType::Advertise,
        _ => return None,
    };
    let mut reply = Message::new_with_id(kind, request.xid());
    let options = reply.opts_mut();
    options.insert(DhcpOption::ServerId(server));
    if let Some(client) = client {
        options.insert(DhcpOption::ClientId(client));
    }
    if kind == MessageType::Advertise {
        let msg = "addresses come from router advertisements".to_owned();
        options.insert(DhcpOption::StatusCode(StatusCode { status: Status::NoAddrsAvail, msg }));
    }
    if !six.resolvers.is_empty() {
        options.insert(DhcpOption::DomainNameServers(six.resolvers.clone()));
    }
    let domains =
        if subnet.search.is_empty() { std::slice::from_ref(&subnet.domain) } else { &subnet.search };
    let domains: Vec<Name> = domains.iter().filter_map(|domain| name(domain)).collect();
    if !domains.is_empty() {
        options.insert(DhcpOption::DomainSearchList(domains));
    }
    let mut bytes = Vec::new();
    reply.encode(&mut Encoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// By which clients know this server: a DUID of the fourth kind (RFC 6355), whose 16 bytes are the router's address.
fn identifier(six: &Subnet6) -> Option<Vec<u8>> {
    let router = six.routers.first()?;
    Some([&[0, 4][..], &router.octets()].concat())
}

fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name).filter(|name| !name.is_root())
}

/// Answers guests on `nic`, until the socket breaks.
pub(crate) async fn serve(guests: Arc<Server>, nic: String, socket: UdpSocket) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST];
    let mut limiter: Limiter<Ipv6Addr> = Limiter::new(BURST.0, BURST.1, BURST.2);
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let IpAddr::V6(guest) = from.ip() else { continue };
        let is_client = from.port() == CLIENT && guest.is_unicast_link_local();
        if !is_client || !limiter.allows(guest, Instant::now().into_std()) {
            continue;
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let answer = {
            let table = guests.table.load();
            let mut subnets = table.subnets(&nic);
            subnets
                .find_map(|subnet| Some((subnet, subnet.six.as_ref()?)))
                .and_then(|(s, six)| answer(s, six, bytes))
        };
        let Some(answer) = answer else { continue };
        if let Err(error) = socket.send_to(&answer, from).await {
            tracing::debug!(%error, nic, "answer not sent");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A subnet with IPv6, whose router is its resolver.
    pub(crate) fn subnet() -> (DhcpSubnet, Subnet6) {
        let subnet = DhcpSubnet {
            nic: "eth0".into(),
            router: [10, 1, 1, 1].into(),
            network: "10.1.1.0/24".parse().unwrap(),
            mtu: 1500,
            resolvers: vec![],
            domain: "cs1.example".into(),
            search: vec![],
            boot_file: None,
            six: None,
        };
        let six = Subnet6 {
            network: "2001:db8:1::/64".parse().unwrap(),
            routers: vec!["2001:db8:1::1".parse().unwrap()],
            resolvers: vec!["2001:db8:1::1".parse().unwrap()],
            advertised: true,
        };
        (subnet, six)
    }

    fn ask(kind: MessageType, options: Vec<DhcpOption>) -> Option<Message> {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        for option in options {
            message.opts_mut().insert(option);
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        let (subnet, six) = subnet();
        let answer = answer(&subnet, &six, &bytes)?;
        Some(Message::decode(&mut Decoder::new(&answer)).unwrap())
    }

    #[test]
    fn who_asks_for_information_gets_it_and_who_asks_for_an_address_none() {
        let client = DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 1, 0, 0xcc, 0, 9]);
        let reply = ask(MessageType::InformationRequest, vec![client.clone()]).unwrap();
        assert_eq!((reply.msg_type(), reply.xid()), (MessageType::Reply, [1, 2, 3]));
        assert_eq!(reply.opts().get(OptionCode::ClientId), Some(&client));
        let resolvers = DhcpOption::DomainNameServers(subnet().1.resolvers);
        assert_eq!(reply.opts().get(OptionCode::DomainNameServers), Some(&resolvers));
        let domains = DhcpOption::DomainSearchList(vec!["cs1.example.".parse().unwrap()]);
        assert_eq!(reply.opts().get(OptionCode::DomainSearchList), Some(&domains));
        let none = ask(MessageType::Solicit, vec![client.clone()]).unwrap();
        let Some(DhcpOption::StatusCode(status)) = none.opts().get(OptionCode::StatusCode) else { panic!() };
        assert_eq!((none.msg_type(), status.status), (MessageType::Advertise, Status::NoAddrsAvail));
        let other = DhcpOption::ServerId(vec![0, 4, 7]);
        assert!(
            ask(MessageType::InformationRequest, vec![client.clone(), other]).is_none(),
            "another server"
        );
        assert!(ask(MessageType::Request, vec![client]).is_none());
        assert!(ask(MessageType::Solicit, vec![]).is_none());
        assert!(ask(MessageType::InformationRequest, vec![DhcpOption::ClientId(vec![0; 131])]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_or_not(kind in 0_u8..14, bytes: Vec<u8>) {
            let (subnet, six) = subnet();
            let all = [&[kind][..], &bytes].concat();
            if let Some(answer) = answer(&subnet, &six, &all) {
                prop_assert!(answer.len() <= 1232);
            }
        }
    }
}
