//! The sockets: frames of guests in and out, broadcasts and relay agents over UDP.
//!
//! A guest without an address answers no ARP, so an answer to it goes into a frame to whoever sent the
//! request: the packet socket tells the sender's link address and takes the same one back.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use dhcproto::v4::MessageType;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketAddrAny},
};
use socket2::SockAddr;
use tokio::{io::Interest, net::UdpSocket};

use super::{
    answer::{self, Answer, Outcome, Way},
    packet, reply,
    request::{LARGEST, Request},
    table::Table,
};
use crate::{
    mac::Mac,
    serve::{
        counters::{Counters, count},
        limit::Limiter,
    },
};

/// Answers to one MAC: so many at once, and so many in a second after that.
const BURST: (u32, u32) = (40, 20);
/// MACs whose rate is watched at a time.
const WATCHED: usize = 8192;
/// Room for IPv4 and UDP headers in front of a message, bytes.
const HEADERS: usize = 68;

/// The DHCP service.
#[derive(Debug)]
pub struct Server {
    /// The reservations in force.
    pub table: ArcSwap<Table>,
    /// The UDP socket of each NIC, by its name.
    pub datagrams: ArcSwap<BTreeMap<String, Arc<socket2::Socket>>>,
    limiter: Mutex<Limiter<Mac>>,
    counters: Arc<Counters>,
}

impl Server {
    /// A server without reservations, which answers nobody.
    pub fn new(counters: Arc<Counters>) -> Self {
        let limiter = Mutex::new(Limiter::new(BURST.0, BURST.1, WATCHED));
        Self { table: ArcSwap::default(), datagrams: ArcSwap::default(), limiter, counters }
    }

    /// Answers guests on `nic`, until its packet socket breaks.
    pub async fn serve(self: Arc<Self>, nic: String, frames: OwnedFd) -> io::Result<()> {
        // To the runtime any socket of datagrams is alike; only the addresses of this one are other.
        let frames = UdpSocket::from_std(frames.into())?;
        let mut buffer = vec![0; LARGEST + HEADERS];
        loop {
            let receive = || Ok(rustix::net::recvfrom(&frames, &mut buffer[..], RecvFlags::DONTWAIT)?);
            match frames.async_io(Interest::READABLE, receive).await {
                Ok((length, _, Some(from))) => self.handle(&nic, &buffer[..length], &frames, &from),
                Ok((_, _, None)) => {}
                // The link went down; it may come back.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NETDOWN) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn handle(&self, nic: &str, bytes: &[u8], frames: &UdpSocket, from: &SocketAddrAny) {
        let table = self.table.load();
        let Some(datagram) = packet::read(bytes).filter(|d| table.is_addressed(nic, d.destination)) else {
            return;
        };
        count(&self.counters.dhcp_requests);
        let request = match Request::read(datagram.payload) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(nic, %error, "not a request");
                return count(&self.counters.dhcp_ignored);
            }
        };
        match answer::answer(&table, nic, &request) {
            Outcome::Answer(answer) if self.allows(request.mac) => {
                self.send(nic, &answer, &request, frames, from)
            }
            Outcome::Silent => {}
            Outcome::Declined(lease) => {
                count(&self.counters.dhcp_declines);
                tracing::warn!(nic, mac = %request.mac, address = %lease.host.address, "address in use by another machine");
            }
            Outcome::Answer(_) | Outcome::Unknown | Outcome::Nonsense => count(&self.counters.dhcp_ignored),
        }
    }

    fn allows(&self, mac: Mac) -> bool {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner).allows(mac, Instant::now())
    }

    fn send(
        &self,
        nic: &str,
        answer: &Answer<'_>,
        request: &Request,
        frames: &UdpSocket,
        from: &SocketAddrAny,
    ) {
        let Some(payload) = reply::render(answer, request) else { return };
        let sent = match answer.way {
            Way::Frame(address) => {
                packet::write(answer.lease.subnet.router, address, &payload).map_or(Ok(()), |p| {
                    rustix::net::sendto(frames, &p, SendFlags::DONTWAIT, from)
                        .map(drop)
                        .map_err(io::Error::from)
                })
            }
            Way::Broadcast => self.send_datagram(nic, &payload, Ipv4Addr::BROADCAST, packet::CLIENT_PORT),
            Way::Relay(agent) => self.send_datagram(nic, &payload, agent, packet::SERVER_PORT),
        };
        let mac = request.mac;
        match sent {
            Ok(()) => {
                tracing::debug!(nic, %mac, address = %answer.lease.host.address, kind = ?answer.kind, "answered")
            }
            Err(error) => tracing::warn!(nic, %mac, %error, "cannot send an answer"),
        }
        match answer.kind {
            MessageType::Ack => count(&self.counters.dhcp_acks),
            MessageType::Nak => count(&self.counters.dhcp_naks),
            _ => {}
        }
    }

    fn send_datagram(&self, nic: &str, payload: &[u8], to: Ipv4Addr, port: u16) -> io::Result<()> {
        let datagrams = self.datagrams.load();
        let socket = datagrams.get(nic).ok_or(io::ErrorKind::NotConnected)?;
        socket.send_to(payload, &SockAddr::from(std::net::SocketAddrV4::new(to, port))).map(drop)
    }
}
