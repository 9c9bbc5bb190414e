//! Conditions and keys as people read them.

use crate::nft::{Field, Match, Part};

/// The conditions of a rule, with what separates them from what it does.
pub(super) fn conditions(matches: &[Match]) -> String {
    let all: Vec<String> = matches.iter().map(condition).collect();
    if all.is_empty() { String::new() } else { format!("{}: ", all.join(", ")) }
}

fn condition(condition: &Match) -> String {
    let nets = |nets: &[ipnet::Ipv4Net]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    match condition {
        Match::In(nic) => format!("in by {nic}"),
        Match::Out(nic) => format!("out by {nic}"),
        Match::Known(field, set) => format!("{} among {set}", name(*field)),
        Match::Unknown(field, set) => format!("{} not among {set}", name(*field)),
        Match::From(list) => format!("from {}", nets(list)),
        Match::To(list) => format!("to {}", nets(list)),
        Match::Transport(transport) => transport.word().to_owned(),
        Match::Number(number) => format!("protocol {number}"),
        Match::Icmp => "icmp".to_owned(),
        Match::IcmpType(kind) => format!("icmp type {kind}"),
        Match::IcmpCode(code) => format!("icmp code {code}"),
        Match::Ports(transport, ports) => match ports.single() {
            Some(port) => format!("{} port {port}", transport.word()),
            None => format!("{} ports {ports}", transport.word()),
        },
        Match::FromPort(transport, port) => format!("from {} port {port}", transport.word()),
        Match::Established => "of a known connection".to_owned(),
        Match::Translated => "translated".to_owned(),
    }
}

const fn name(field: Field) -> &'static str {
    match field {
        Field::Source => "source",
        Field::Destination => "destination",
        Field::Protocol => "protocol",
        Field::Port => "port",
        Field::InNic => "NIC in",
        Field::OutNic => "NIC out",
    }
}

/// A key, with blanks between its parts.
pub(super) fn key(parts: &[Part]) -> String {
    let part = |part: &Part| match part {
        Part::Address(address) => address.to_string(),
        Part::Transport(transport) => transport.word().to_owned(),
        Part::Port(port) => port.to_string(),
        Part::Nic(nic) => nic.clone(),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" ")
}
