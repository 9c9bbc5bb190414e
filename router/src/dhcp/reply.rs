//! The answer as bytes.

use std::net::Ipv4Addr;

use dhcproto::{
    Encodable, Encoder,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode, UnknownOption},
};
use hickory_proto::rr::Name;

use super::{answer::Answer, request::Request};

/// An infinite lease (RFC 2131 3.3).
const FOR_EVER: u32 = u32::MAX;
/// What a BOOTP client may expect at least, bytes (RFC 1542 2.1).
const SMALLEST: usize = 300;
/// What every client takes, bytes of UDP payload (RFC 2131 2).
const ALWAYS_TAKEN: usize = 548;
/// The most that is sent to a client that takes more, bytes of UDP payload.
const LARGEST: usize = 1472;
/// IPv4 and UDP header, bytes.
const HEADERS: usize = 28;
/// The `file` field, bytes, with its final zero.
const FILE: usize = 128;

/// Renders an answer. `None` where the codec refuses it, which no answer of ours brings about.
pub fn render(answer: &Answer<'_>, request: &Request) -> Option<Vec<u8>> {
    let mut message = header(answer, request);
    if answer.kind != MessageType::Nak {
        fill(&mut message, answer, request);
    }
    let limit = request
        .largest_reply
        .map_or(ALWAYS_TAKEN, |l| usize::from(l).saturating_sub(HEADERS).clamp(ALWAYS_TAKEN, LARGEST));
    let mut bytes = encode(&message)?;
    for least_needed in [OptionCode::DomainSearch, OptionCode::Hostname, OptionCode::DomainName] {
        if bytes.len() <= limit {
            break;
        }
        message.opts_mut().remove(least_needed);
        bytes = encode(&message)?;
    }
    bytes.resize(bytes.len().max(SMALLEST), 0);
    Some(bytes)
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(ALWAYS_TAKEN);
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// Header and the options that every answer has, a NAK included (RFC 2131 table 3).
fn header(answer: &Answer<'_>, request: &Request) -> Message {
    let nak = answer.kind == MessageType::Nak;
    // A relay shall broadcast a NAK: the client's address is not right (RFC 2131 4.3.2).
    let flags = if nak { request.flags | 0x8000 } else { request.flags };
    let yiaddr = if answer.grants { answer.lease.host.address } else { Ipv4Addr::UNSPECIFIED };
    let ciaddr = if nak { Ipv4Addr::UNSPECIFIED } else { request.ciaddr };
    let siaddr = if nak { Ipv4Addr::UNSPECIFIED } else { answer.lease.subnet.router };
    let mut message =
        Message::new_with_id(request.xid, ciaddr, yiaddr, siaddr, request.giaddr, &request.mac.0);
    message.set_opcode(Opcode::BootReply).set_flags(Flags::new(flags));
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(answer.kind));
    options.insert(DhcpOption::ServerIdentifier(answer.lease.subnet.router));
    if let Some(id) = &request.client_id {
        options.insert(DhcpOption::ClientIdentifier(id.clone()));
    }
    if let Some(info) = &request.relay_info {
        let raw = UnknownOption::new(OptionCode::RelayAgentInformation, info.clone());
        options.insert(DhcpOption::Unknown(raw));
    }
    if nak {
        options.insert(DhcpOption::Message("wrong address".into()));
    }
    message
}

/// What a guest is told of its network; options 3, 6 and 15 only on its default NIC.
fn fill(message: &mut Message, answer: &Answer<'_>, request: &Request) {
    let (host, subnet) = (&answer.lease.host, &answer.lease.subnet);
    if let Some(file) = subnet.boot_file.as_deref().filter(|f| f.len() < FILE) {
        message.set_fname_str(file);
    }
    let mut wanted = vec![
        DhcpOption::SubnetMask(subnet.network.netmask()),
        DhcpOption::BroadcastAddr(subnet.network.broadcast()),
        DhcpOption::InterfaceMtu(subnet.mtu),
    ];
    if !host.name.is_empty() {
        wanted.push(DhcpOption::Hostname(host.name.clone()));
    }
    if host.default_nic {
        wanted.extend(host.gateway.map(|g| DhcpOption::Router(vec![g])));
        if !subnet.resolvers.is_empty() {
            wanted.push(DhcpOption::DomainNameServer(subnet.resolvers.clone()));
        }
        if !subnet.domain.is_empty() {
            wanted.push(DhcpOption::DomainName(subnet.domain.clone()));
        }
    }
    let options = message.opts_mut();
    for option in wanted {
        if request.wants(OptionCode::from(&option)) {
            options.insert(option);
        }
    }
    if answer.grants {
        options.insert(DhcpOption::AddressLeaseTime(FOR_EVER));
    }
    let search: Vec<Name> = subnet.search.iter().filter_map(|d| domain(d)).collect();
    if !search.is_empty() {
        options.insert(DhcpOption::DomainSearch(search));
    }
    if request.microsoft {
        // Sub-option 2, value 1: release the lease on shutdown.
        options.insert(DhcpOption::VendorExtensions(vec![2, 4, 0, 0, 0, 1]));
    }
    if let Some(file) = &subnet.boot_file {
        if request.lists(OptionCode::BootfileName) {
            options.insert(DhcpOption::BootfileName(file.clone().into_bytes()));
        }
        if request.lists(OptionCode::TFTPServerName) {
            options.insert(DhcpOption::TFTPServerName(subnet.router.to_string().into_bytes()));
        }
    }
}

fn domain(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}
