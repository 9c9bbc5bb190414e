//! Opens the sockets that serve answers guests on: only the core may.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
};

use common::handover::Offer;
use socket2::{Domain, Protocol, Socket, Type};

use crate::snapshot::{Listener, Service};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// The offer of a socket.
pub(super) fn offer(listener: &Listener) -> Offer {
    let wanted = listener.clone();
    Offer::new(listener.to_string(), move || open(&wanted))
}

fn open(listener: &Listener) -> io::Result<OwnedFd> {
    let service = listener.service;
    let (kind, protocol) = match service.is_udp() {
        true => (Type::DGRAM, Protocol::UDP),
        false => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::IPV4, kind.nonblocking(), Some(protocol))?;
    socket.set_reuse_address(true)?;
    // Discovery comes to the broadcast address, so DHCP listens on every address of its NIC; the
    // others on theirs, which need not be there yet.
    let address = match service {
        Service::Dhcp => {
            socket.set_broadcast(true)?;
            Ipv4Addr::UNSPECIFIED
        }
        _ => {
            socket.set_freebind_v4(true)?;
            listener.address
        }
    };
    socket.bind_device(Some(listener.nic.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(address, service.port()).into())?;
    if !service.is_udp() {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}
