//! What to say to whom (RFC 2131 4.3, and 4.1 for the way back). Pure.

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;

use super::{
    request::Request,
    table::{Lease, Table},
};

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// An answer goes out.
    Answer(Answer<'a>),
    /// The client is known and needs no answer, or its message is for another server.
    Silent,
    /// The client found its address in use by another machine.
    Declined(Lease<'a>),
    /// The client has no reservation here.
    Unknown,
    /// The message contradicts itself.
    Nonsense,
}

/// An answer and its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'a> {
    /// OFFER, ACK or NAK.
    pub kind: MessageType,
    /// Whose reservation it is about.
    pub lease: Lease<'a>,
    /// Whether the answer grants the address: all but NAK and the ACK to an INFORM.
    pub grants: bool,
    /// Where it goes.
    pub way: Way,
}

/// The way of an answer to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the relay agent, port 67.
    Relay(Ipv4Addr),
    /// To everybody on the NIC, port 68.
    Broadcast,
    /// In a frame to the sender of the request, to this address, port 68; the client may not answer
    /// ARP for it yet.
    Frame(Ipv4Addr),
}

/// Decides about a message that came in on `nic`.
pub fn answer<'a>(table: &'a Table, nic: &str, request: &Request) -> Outcome<'a> {
    let Some(lease) = table.find(nic, request.mac, request.giaddr) else {
        return Outcome::Unknown;
    };
    match request.kind {
        MessageType::Discover => Outcome::Answer(grant(MessageType::Offer, lease, request)),
        MessageType::Request => select(table, nic, lease, request),
        MessageType::Inform => inform(lease, request),
        MessageType::Decline => Outcome::Declined(lease),
        MessageType::Release => Outcome::Silent,
        _ => Outcome::Nonsense,
    }
}

/// A REQUEST in one of the four states of RFC 2131 4.3.2. The state shows in which fields are filled.
fn select<'a>(table: &Table, nic: &str, lease: Lease<'a>, request: &Request) -> Outcome<'a> {
    if let Some(server) = request.server
        && server != lease.subnet.router
        && !table.is_server(nic, server)
    {
        return Outcome::Silent;
    }
    let wanted = if request.ciaddr.is_unspecified() {
        match request.requested {
            Some(requested) => requested,
            None => return Outcome::Nonsense,
        }
    } else {
        request.ciaddr
    };
    if wanted == lease.host.address {
        return Outcome::Answer(grant(MessageType::Ack, lease, request));
    }
    let way = if request.giaddr.is_unspecified() { Way::Broadcast } else { Way::Relay(request.giaddr) };
    Outcome::Answer(Answer { kind: MessageType::Nak, lease, grants: false, way })
}

/// An INFORM is answered to the address that the client uses, wherever in its own network that is.
fn inform<'a>(lease: Lease<'a>, request: &Request) -> Outcome<'a> {
    if !lease.subnet.network.contains(&request.ciaddr) {
        return Outcome::Nonsense;
    }
    let way = Way::Frame(request.ciaddr);
    Outcome::Answer(Answer { kind: MessageType::Ack, lease, grants: false, way })
}

fn grant<'a>(kind: MessageType, lease: Lease<'a>, request: &Request) -> Answer<'a> {
    let way = if !request.giaddr.is_unspecified() {
        Way::Relay(request.giaddr)
    } else if request.ciaddr == lease.host.address {
        Way::Frame(request.ciaddr)
    } else if request.broadcast() {
        Way::Broadcast
    } else {
        Way::Frame(lease.host.address)
    };
    Answer { kind, lease, grants: true, way }
}
