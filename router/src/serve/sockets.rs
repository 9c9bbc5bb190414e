//! The sockets of serve. Core opens them, since that takes privileges; each is bound to one NIC, so
//! that a guest is known by its address and by the network it really is in.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
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
/// `ETH_P_IP` in network byte order, as socket(2) wants it.
const IPV4: i32 = 0x0800_u16.to_be() as i32;

/// Opens one socket, non-blocking. The NIC has to exist; the address need not be on it yet.
///
/// # Errors
/// What the system answers: no such NIC, no privilege, port taken.
pub fn open(listener: &Listener) -> io::Result<OwnedFd> {
    let socket = match listener.service {
        Service::Dhcp => {
            let socket = bound(Type::DGRAM, listener, Ipv4Addr::UNSPECIFIED)?;
            socket.set_broadcast(true)?;
            socket
        }
        Service::DhcpFrames => frames(&listener.nic)?,
        Service::DnsUdp => {
            let socket = bound(Type::DGRAM, listener, listener.address)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket
        }
        Service::DnsTcp | Service::Metadata | Service::MetadataTls | Service::Password => {
            let socket = bound(Type::STREAM, listener, listener.address)?;
            socket.listen(BACKLOG)?;
            socket
        }
    };
    Ok(socket.into())
}

fn bound(kind: Type, listener: &Listener, address: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_freebind_v4(true)?;
    if listener.nic != ANY {
        socket.bind_device(Some(listener.nic.as_bytes()))?;
    }
    socket.bind(&SockAddr::from(SocketAddrV4::new(address, listener.service.port())))?;
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
