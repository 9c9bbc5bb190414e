//! Ends connections whose translation has gone, and no others: reads the kernel's table of connections by
//! netlink (`NFNL_SUBSYS_CTNETLINK`), deletes those that match.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
        sockopt::{ReceiveTimeout, SendTimeout},
    },
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    nat::Lost,
    types::{Ports, Transport},
};

const LIST: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 0x2;
const DONE: u16 = 0x3;

/// Attributes (`ctattr_type`, `ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto`).
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_DESTINATION_PORT: u16 = 3;

/// Seconds that the kernel may take for one answer.
const LIMIT: i64 = 5;

/// Ends the connections that used lost translations; tells how many there were.
pub fn end(lost: &[Lost]) -> io::Result<usize> {
    if lost.is_empty() {
        return Ok(0);
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    let limit = TimeVal::seconds(LIMIT);
    setsockopt(&socket, ReceiveTimeout, &limit)?;
    setsockopt(&socket, SendTimeout, &limit)?;
    let lost = Index::new(lost);
    let fd = socket.as_raw_fd();
    send(fd, &request(LIST, REQUEST | DUMP, &[]), MsgFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    'reading: loop {
        let length = recv(fd, &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                DONE => break 'reading,
                ERROR => {
                    return Err(outcome(body).err().unwrap_or_else(|| io::ErrorKind::InvalidData.into()));
                }
                _ => found.extend(body.get(4..).and_then(|attributes| matching(attributes, &lost))),
            }
        }
    }
    for tuple in &found {
        send(fd, &request(DELETE, REQUEST | ACK, tuple), MsgFlags::empty())?;
        let length = recv(fd, &mut buffer, MsgFlags::empty())?;
        for (_, body) in messages(&buffer[..length]).filter(|(kind, _)| *kind == ERROR) {
            // It may have ended by itself meanwhile.
            match outcome(body) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(found.len())
}

/// One netlink message: header, family and version, one attribute that is ready.
fn request(kind: u16, flags: u16, attribute: &[u8]) -> Vec<u8> {
    let length = 20 + attribute.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    // AF_INET, version 0, resource 0.
    bytes.extend([2, 0, 0, 0]);
    bytes.extend(attribute);
    bytes
}

/// Kinds and bodies of the messages in a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

fn outcome(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_abs())) }
}

/// Kinds, bodies and whole bytes of attributes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let (body, whole) = (bytes.get(4..length)?, bytes.get(..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body, whole))
    })
}

/// The ends of one direction of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tuple {
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
    protocol: u8,
    port: u16,
}

fn tuple(bytes: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    let address = |body: &[u8]| <[u8; 4]>::try_from(body).ok().map(Ipv4Addr::from);
    for (part, body, _) in attributes(bytes) {
        for (kind, value, _) in attributes(body) {
            match (part, kind) {
                (TUPLE_IP, IP_SOURCE) => tuple.source = address(value),
                (TUPLE_IP, IP_DESTINATION) => tuple.destination = address(value),
                (TUPLE_PROTO, PROTO_NUMBER) => tuple.protocol = value.first().copied().unwrap_or_default(),
                (TUPLE_PROTO, PROTO_DESTINATION_PORT) => {
                    tuple.port = value.try_into().map_or(0, u16::from_be_bytes);
                }
                _ => {}
            }
        }
    }
    tuple
}

/// Lost translations, to be looked up once for each connection there is.
#[derive(Debug, Default)]
struct Index {
    addresses: BTreeSet<Ipv4Addr>,
    datagrams: BTreeMap<Ipv4Addr, Vec<Ports>>,
    servers: BTreeSet<(Ipv4Addr, u16, Ipv4Addr)>,
}

impl Index {
    fn new(lost: &[Lost]) -> Self {
        let mut index = Self::default();
        for one in lost {
            match one {
                Lost::Address(address) => drop(index.addresses.insert(*address)),
                Lost::DatagramsOf(address, port, server) => {
                    index.servers.insert((*address, *port, *server));
                }
                Lost::Datagrams(address, ports) => index.datagrams.entry(*address).or_default().push(*ports),
            }
        }
        index
    }

    fn has(&self, address: Option<Ipv4Addr>) -> bool {
        address.is_some_and(|address| self.addresses.contains(&address))
    }

    fn has_datagrams(&self, to: &Tuple) -> bool {
        let ports = to.destination.and_then(|address| self.datagrams.get(&address));
        to.protocol == Transport::Udp.number()
            && ports.is_some_and(|all| all.iter().any(|ports| ports.contains(to.port)))
    }
}

/// The tuple, as the kernel wrote it, of a connection that used a lost translation.
fn matching(bytes: &[u8], lost: &Index) -> Option<Vec<u8>> {
    let mut whole = None;
    let mut hit = false;
    let mut front = None;
    let mut server = None;
    for (kind, body, all) in attributes(bytes) {
        match kind {
            TUPLE_ORIGINAL => {
                let tuple = tuple(body);
                hit |= lost.has(tuple.destination) || lost.has_datagrams(&tuple);
                whole = Some(all.to_vec());
                let datagram = tuple.protocol == Transport::Udp.number();
                front = tuple.destination.filter(|_| datagram).map(|address| (address, tuple.port));
            }
            // Where an outgoing connection carries the address, answers come back to it.
            TUPLE_REPLY => {
                let tuple = tuple(body);
                hit |= lost.has(tuple.destination);
                server = tuple.source;
            }
            _ => {}
        }
    }
    if let (Some((address, port)), Some(server)) = (front, server) {
        hit |= lost.servers.contains(&(address, port, server));
    }
    whole.filter(|_| hit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(body.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn side(kind: u16, source: [u8; 4], destination: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
        let ip = [attribute(IP_SOURCE, &source), attribute(IP_DESTINATION, &destination)].concat();
        let ports = attribute(PROTO_DESTINATION_PORT, &port.to_be_bytes());
        let proto = [attribute(PROTO_NUMBER, &[protocol]), ports].concat();
        attribute(
            kind | 0x8000,
            &[attribute(TUPLE_IP | 0x8000, &ip), attribute(TUPLE_PROTO, &proto)].concat(),
        )
    }

    #[test]
    fn only_what_was_lost_is_found() {
        let (outside, public, guest) = ([198, 51, 100, 7], [203, 0, 113, 11], [10, 1, 1, 30]);
        let inbound =
            [side(TUPLE_ORIGINAL, outside, public, 17, 5000), side(TUPLE_REPLY, guest, outside, 17, 40000)]
                .concat();
        let outbound =
            [side(TUPLE_ORIGINAL, guest, outside, 6, 443), side(TUPLE_REPLY, outside, public, 6, 40000)]
                .concat();
        let hit = |bytes: &[u8], lost: Lost| matching(bytes, &Index::new(&[lost]));
        let first = side(TUPLE_ORIGINAL, outside, public, 17, 5000);
        assert_eq!(hit(&inbound, Lost::Datagrams(public.into(), "4990:5000".parse().unwrap())), Some(first));
        assert_eq!(hit(&inbound, Lost::Datagrams(public.into(), "5001".parse().unwrap())), None);
        assert!(hit(&inbound, Lost::DatagramsOf(public.into(), 5000, guest.into())).is_some());
        assert_eq!(hit(&inbound, Lost::DatagramsOf(public.into(), 5000, public.into())), None);
        assert!(hit(&inbound, Lost::Address(public.into())).is_some());
        assert!(hit(&outbound, Lost::Address(public.into())).is_some());
        assert_eq!(hit(&outbound, Lost::Address(guest.into())), None);
        assert_eq!(hit(&outbound, Lost::Datagrams(public.into(), "443".parse().unwrap())), None);
    }

    #[test]
    fn garbled_bytes_are_no_match() {
        let lost = Index::new(&[Lost::Address(Ipv4Addr::LOCALHOST)]);
        for bytes in [&[][..], &[1], &[0, 0, 0, 0], &[255, 255, 1, 0, 9], &[3, 0, 1, 0]] {
            assert_eq!(matching(bytes, &lost), None);
            assert_eq!(messages(bytes).count(), 0);
        }
    }
}
