//! The sockets of serve. Core opens them, since that takes privileges; each is bound to one NIC, so
//! that a guest is known by its address and by the network it really is in.

use std::{
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::OwnedFd,
};

use rustix::net::netdevice::name_to_index;
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::snapshot::{Listener, Service};

/// The NIC of a socket that takes what comes by any: interfaces of clients come and go.
pub const ANY: &str = "*";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// Bytes of packets that wait to be read; enough for a burst when a whole host of guests boots.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Where routers are looked for, and where DHCPv6 servers are.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// `ETH_P_IP` in network byte order, as socket(2) wants it.
const IPV4: i32 = 0x0800_u16.to_be() as i32;

/// Opens one socket, non-blocking. The NIC has to exist; the address need not be on it yet.
///
/// # Errors
/// What the system answers: no such NIC, no privilege, port taken.
pub fn open(listener: &Listener) -> io::Result<OwnedFd> {
    let socket = match listener.service {
        Service::Dhcp => {
            let socket = bound(Type::DGRAM, listener, Ipv4Addr::UNSPECIFIED.into())?;
            socket.set_broadcast(true)?;
            socket
        }
        Service::DhcpFrames => frames(&listener.nic)?,
        Service::DnsUdp => {
            let socket = bound(Type::DGRAM, listener, listener.address)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket
        }
        Service::Dhcp6 => {
            let socket = bound(Type::DGRAM, listener, Ipv6Addr::UNSPECIFIED.into())?;
            socket.join_multicast_v6(&SERVERS, name_to_index(&socket, &listener.nic)?)?;
            socket
        }
        Service::Advert => advert(listener)?,
        Service::DnsTcp | Service::Metadata | Service::MetadataTls | Service::Password => {
            let socket = bound(Type::STREAM, listener, listener.address)?;
            socket.listen(BACKLOG)?;
            socket
        }
    };
    Ok(socket.into())
}

fn bound(kind: Type, listener: &Listener, address: IpAddr) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
    }
    if listener.nic != ANY {
        socket.bind_device(Some(listener.nic.as_bytes()))?;
    }
    socket.bind(&SockAddr::from(SocketAddr::new(address, listener.service.port())))?;
    Ok(socket)
}

/// A raw socket for ICMPv6 from a link-local address, with which a router is looked for and found (RFC 4861, 6.2).
fn advert(listener: &Listener) -> io::Result<Socket> {
    let IpAddr::V6(address) = listener.address else { return Err(io::ErrorKind::InvalidInput.into()) };
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?;
    socket.set_freebind_v6(true)?;
    socket.bind_device(Some(listener.nic.as_bytes()))?;
    let index = name_to_index(&socket, &listener.nic)?;
    socket.bind(&SockAddr::from(SocketAddrV6::new(address, 0, 0, index)))?;
    socket.join_multicast_v6(&ROUTERS, index)?;
    // Others are no neighbours.
    socket.set_multicast_hops_v6(255)?;
    socket.set_unicast_hops_v6(255)?;
    Ok(socket)
}

/// A packet socket that sees nothing but whole IPv4 packets to UDP 67 that came in on `nic`.
fn frames(nic: &str) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(IPV4)))?;
    socket.attach_filter(&only_dhcp_of(name_to_index(&socket, nic)?))?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    // What came in before the filter was there. Its end shows as an error ("would block").
    let mut packet = [0; 64];
    while (&socket).read(&mut packet).is_ok() {}
    Ok(socket)
}

/// The filter as a classic BPF program. The packet begins with its IPv4 header.
fn only_dhcp_of(interface: u32) -> [SockFilter; 11] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_AT_X: u16 = 0x48;
    const X_IS_HEADER_LENGTH: u16 = 0xb1;
    const SKIP_IF_EQUAL: u16 = 0x15;
    const SKIP_IF_ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    // SKF_AD_OFF + SKF_AD_IFINDEX of linux/filter.h.
    const INTERFACE: u32 = 0xffff_f008;
    let step = SockFilter::new;
    [
        step(LOAD_WORD, 0, 0, INTERFACE),
        step(SKIP_IF_EQUAL, 0, 8, interface),
        step(LOAD_BYTE, 0, 0, 9),
        step(SKIP_IF_EQUAL, 0, 6, 17),
        step(LOAD_HALF, 0, 0, 6),
        step(SKIP_IF_ANY_BIT, 4, 0, 0x3fff),
        step(X_IS_HEADER_LENGTH, 0, 0, 0),
        step(LOAD_HALF_AT_X, 0, 0, 2),
        step(SKIP_IF_EQUAL, 0, 1, 67),
        step(RETURN, 0, 0, 0xffff),
        step(RETURN, 0, 0, 0),
    ]
}
