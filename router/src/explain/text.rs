//! Conditions and keys as people read them.

use crate::nft::{Action, Field, Match, Part, Value};

/// The conditions of a rule, with what separates them from what it does.
pub(crate) fn conditions(matches: &[Match]) -> String {
    let all: Vec<String> = matches.iter().map(condition).collect();
    if all.is_empty() { String::new() } else { format!("{}: ", all.join(", ")) }
}

fn condition(condition: &Match) -> String {
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
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
        Match::Six => "IPv6".to_owned(),
        Match::Icmp6 => "icmpv6".to_owned(),
        Match::Icmp6Type(kind) => format!("icmpv6 type {kind}"),
        Match::Icmp6Code(code) => format!("icmpv6 code {code}"),
        Match::Near => "from a neighbour".to_owned(),
        Match::Ports(transport, ports) => match ports.single() {
            Some(port) => format!("{} port {port}", transport.word()),
            None => format!("{} ports {ports}", transport.word()),
        },
        Match::FromPort(transport, port) => format!("from {} port {port}", transport.word()),
        Match::Established => "of a known connection".to_owned(),
        Match::Translated => "translated".to_owned(),
        Match::Decrypted => "decrypted here".to_owned(),
        Match::Bare => "in no tunnel".to_owned(),
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
pub(crate) fn key(parts: &[Part]) -> String {
    let part = |part: &Part| match part {
        Part::Address(address) => address.to_string(),
        Part::Transport(transport) => transport.word().to_owned(),
        Part::Port(port) => port.to_string(),
        Part::Nic(nic) => nic.clone(),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(" ")
}

fn fields(fields: &[Field]) -> String {
    fields.iter().map(|field| name(*field)).collect::<Vec<_>>().join(" and ")
}

/// What a key leads to, with what separates them; empty for an element of a set.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::Address(address) => format!(" = {address}"),
        Value::Port(port) => format!(" = {port}"),
        Value::Mark(mark) => format!(" = mark {mark}"),
        Value::Accept => ": accept".to_owned(),
        Value::Drop => ": drop".to_owned(),
        Value::Jump(chain) => format!(": try {chain}"),
    }
}

/// What a rule does.
pub(crate) fn action(action: &Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Jump(chain) => format!("try {chain}"),
        Action::Lookup(key, map) => format!("as {map} says of the {}", fields(key)),
        Action::Untrack => "keep no connection".to_owned(),
        Action::Count(counter) => format!("count as {counter}"),
        Action::MarkConnection(mark) => format!("mark the connection {mark}"),
        Action::MarkConnectionBy(key, map) => {
            format!("mark the connection as {map} says of the {}", fields(key))
        }
        Action::RestoreMark => "mark the packet as its connection".to_owned(),
        Action::TranslateBy(key, map) => format!("destination as {map} says of the {}", fields(key)),
        Action::TranslatePortBy(key, addresses, ports) => {
            format!("destination as {addresses} and {ports} say of the {}", fields(key))
        }
        Action::Translate(address) => format!("destination becomes {address}"),
        Action::TranslatePorts(address, _, ports) => match ports.as_slice() {
            [(from, to)] => format!("destination becomes {address}, port {from} becomes {to}"),
            ports => format!("destination becomes {address}, each of {} ports another one", ports.len()),
        },
        Action::SourceBy(key, map) => format!("source as {map} says of the {}", fields(key)),
        Action::Source(address) => format!("source becomes {address}"),
        Action::Spread(spread) => {
            let servers: Vec<String> = spread.targets.iter().map(ToString::to_string).collect();
            format!("to one of {}, port {}", servers.join(" "), spread.port)
        }
        Action::Help(helper) => format!("follow it as {}", helper.name()),
    }
}
