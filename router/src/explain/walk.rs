//! A packet's way through the table.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use super::{ICMP, ICMP6, Packet, is_own, route, text};
use crate::{
    nft::{Action, Field, Hook, Key, Match, Part, Value},
    plan::Plan,
    types::Transport,
};

/// Deepest chain of jumps, as in the kernel.
const DEEPEST: usize = 16;
/// Types of an echo request.
const ECHO: u8 = 8;
const ECHO6: u8 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
}

/// See the module.
pub(super) struct Walk<'a> {
    plan: &'a Plan,
    packet: Packet,
    came_by: String,
    leaves_by: String,
    mark: u32,
    connection_mark: u32,
    translated: bool,
    text: String,
}

impl<'a> Walk<'a> {
    pub(super) fn new(plan: &'a Plan, packet: &Packet) -> Self {
        Self {
            plan,
            packet: packet.clone(),
            came_by: String::new(),
            leaves_by: String::new(),
            mark: 0,
            connection_mark: 0,
            translated: false,
            text: String::new(),
        }
    }

    /// Adds a line.
    fn say(&mut self, line: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    pub(super) fn run(mut self) -> String {
        let verdict = self.way();
        self.say(format_args!("verdict: {verdict}"));
        self.text
    }

    fn way(&mut self) -> String {
        let links = &self.plan.links;
        let own = self.packet.nic.is_none() && is_own(links, self.packet.source);
        if own {
            let line = format!("packet: {}, sent by the router itself", self.packet);
            self.say(line);
        } else {
            let back = route(links, self.packet.destination, self.packet.source, 0);
            let Some(nic) = self.packet.nic.clone().or(back) else {
                return "nobody knows by which NIC it would come in".to_owned();
            };
            self.came_by.clone_from(&nic);
            let line = format!("packet: {}, comes in by {nic}", self.packet);
            self.say(line);
        }
        let first = if own { Hook::Output } else { Hook::Prerouting };
        if let Some(dropped) = self.hook(first) {
            return dropped;
        }
        if !own && is_own(links, self.packet.destination) {
            return self.hook(Hook::Input).unwrap_or_else(|| self.arrived());
        }
        let (source, destination) = (self.packet.source, self.packet.destination);
        let Some(nic) = route(links, source, destination, self.mark) else {
            return format!("dropped: there is no route to {destination}");
        };
        self.say(format_args!("route: {destination} by {nic}"));
        self.leaves_by = nic;
        let hooks: &[Hook] = if own { &[Hook::Postrouting] } else { &[Hook::Forward, Hook::Postrouting] };
        for hook in hooks {
            if let Some(dropped) = self.hook(*hook) {
                return dropped;
            }
        }
        format!("leaves by {}: {}", self.leaves_by, self.packet)
    }

    fn arrived(&self) -> String {
        let tcp = self.packet.protocol == Transport::Tcp.number();
        let to = SocketAddr::new(self.packet.destination, self.packet.port);
        let here = |at: std::net::SocketAddrV4| to == SocketAddr::V4(at);
        let balance = &self.plan.balance;
        let rule = balance.rules.iter().find(|(front, _)| tcp && here(front.socket()));
        match rule {
            Some((front, rule)) => {
                let limited = !rule.sources.is_any()
                    && !rule.sources.as_slice().iter().any(|net| net.contains(&self.packet.source));
                let fate = if limited {
                    "which closes it: the source is not allowed"
                } else {
                    "to one of its servers"
                };
                format!("for the router itself: load balancer {front}, {fate}")
            }
            None if tcp && balance.pages.keys().any(|at| here(*at)) => {
                "for the router itself: page with the statistics of load balancing".to_owned()
            }
            None => format!("for the router itself: {}", self.packet),
        }
    }

    /// Runs the chains of a hook; tells how the packet was dropped, if it was.
    fn hook(&mut self, hook: Hook) -> Option<String> {
        let plan = self.plan;
        let chains = plan.table.chains.iter();
        let mut bases: Vec<_> =
            chains.filter_map(|(name, c)| Some((c.base.filter(|b| b.hook == hook)?, name))).collect();
        bases.sort_by_key(|(base, _)| base.priority);
        for (base, name) in bases {
            match self.chain(name, name, 0) {
                Some(Verdict::Drop) => return Some("dropped".to_owned()),
                None if base.drops => {
                    self.say(format_args!("{name}: no rule decides: drop"));
                    return Some("dropped".to_owned());
                }
                _ => {}
            }
        }
        None
    }

    fn chain(&mut self, name: &str, path: &str, depth: usize) -> Option<Verdict> {
        let plan = self.plan;
        let chain = plan.table.chains.get(name).filter(|_| depth < DEEPEST)?;
        for (n, rule) in chain.rules.iter().enumerate() {
            if !rule.matches.iter().all(|m| self.fits(m)) {
                continue;
            }
            let place = format!("{path} rule {}: {}", n + 1, text::conditions(&rule.matches));
            match &rule.action {
                Action::Accept => {
                    self.say(format_args!("{place}accept"));
                    return Some(Verdict::Accept);
                }
                Action::Drop => {
                    self.say(format_args!("{place}drop"));
                    return Some(Verdict::Drop);
                }
                Action::Return => {
                    self.say(format_args!("{place}return"));
                    return None;
                }
                Action::Jump(to) => {
                    if let Some(verdict) = self.chain(to, &format!("{path} > {to}"), depth + 1) {
                        return Some(verdict);
                    }
                }
                Action::Lookup(fields, map) => {
                    let key = self.key(fields);
                    let found = plan.table.maps.get(*map).and_then(|m| m.elements.get(&key));
                    let place = format!("{place}{map}[{}]", text::key(&key));
                    match found {
                        Some(Value::Accept) => {
                            self.say(format_args!("{place}: accept"));
                            return Some(Verdict::Accept);
                        }
                        Some(Value::Drop) => {
                            self.say(format_args!("{place}: drop"));
                            return Some(Verdict::Drop);
                        }
                        Some(Value::Jump(to)) => {
                            if let Some(verdict) = self.chain(to, &format!("{path} > {to}"), depth + 1) {
                                return Some(verdict);
                            }
                        }
                        _ => {}
                    }
                }
                action => {
                    if self.change(action, &place) {
                        return Some(Verdict::Accept);
                    }
                }
            }
        }
        None
    }

    /// Actions that change the packet or its connection; tells whether that ends the hook, as a translation
    /// does.
    fn change(&mut self, action: &Action, place: &str) -> bool {
        let plan = self.plan;
        let found = |fields: &[Field], map: &str, walk: &Self| {
            plan.table.maps.get(map).and_then(|m| m.elements.get(&walk.key(fields))).cloned()
        };
        let (mut address, mut port, mut source) = (None, None, None);
        match action {
            Action::MarkConnection(mark) => self.connection_mark = *mark,
            Action::MarkConnectionBy(fields, map) => {
                if let Some(Value::Mark(mark)) = found(fields, map, self) {
                    self.connection_mark = mark;
                }
            }
            Action::RestoreMark => self.mark = self.connection_mark,
            Action::Help(_) => self.say(format_args!("{place}{}", text::action(action))),
            Action::TranslateBy(fields, map) => address = value_address(found(fields, map, self)),
            Action::TranslatePortBy(fields, addresses, ports) => {
                address = value_address(found(fields, addresses, self));
                if let Some(Value::Port(to)) = found(fields, ports, self) {
                    port = Some(to);
                }
            }
            Action::Translate(to) => address = Some((*to).into()),
            Action::TranslatePorts(to, _, pairs) => {
                address = Some((*to).into());
                port = pairs.iter().find(|(from, _)| *from == self.packet.port).map(|(_, to)| *to);
            }
            Action::Spread(spread) => {
                address = spread.targets.first().copied().map(IpAddr::V4);
                port = Some(spread.port);
                self.say(format_args!("{place}one of {:?}, here the first", spread.targets));
            }
            Action::SourceBy(fields, map) => source = value_address(found(fields, map, self)),
            Action::Source(to) => source = Some((*to).into()),
            _ => {}
        }
        if let Some(address) = address {
            self.packet.destination = address;
            self.packet.port = port.unwrap_or(self.packet.port);
            self.translated = true;
            let to = SocketAddr::new(address, self.packet.port);
            self.say(format_args!("{place}destination becomes {to}"));
        }
        if let Some(source) = source {
            self.packet.source = source;
            self.say(format_args!("{place}source becomes {source}"));
        }
        address.is_some() || source.is_some()
    }

    fn key(&self, fields: &[Field]) -> Key {
        fields.iter().map(|field| self.part(*field)).collect()
    }

    fn part(&self, field: Field) -> Part {
        match field {
            Field::Source => address(self.packet.source),
            Field::Destination => address(self.packet.destination),
            Field::Protocol if self.packet.protocol == Transport::Tcp.number() => {
                Part::Transport(Transport::Tcp)
            }
            Field::Protocol if self.packet.protocol == Transport::Udp.number() => {
                Part::Transport(Transport::Udp)
            }
            // No key holds another protocol.
            Field::Protocol => Part::Port(u16::from(self.packet.protocol)),
            Field::Port => Part::Port(self.packet.port),
            Field::InNic => Part::Nic(self.came_by.clone()),
            Field::OutNic => Part::Nic(self.leaves_by.clone()),
        }
    }

    fn fits(&self, condition: &Match) -> bool {
        let packet = &self.packet;
        let known = |field: Field, set: &str| {
            self.plan.table.maps.get(set).is_some_and(|m| m.elements.contains_key(&vec![self.part(field)]))
        };
        let among = |nets: &[ipnet::IpNet], address| nets.iter().any(|net| net.contains(&address));
        let six = packet.source.is_ipv6();
        match condition {
            Match::In(nic) => *nic == self.came_by,
            Match::Out(nic) => *nic == self.leaves_by,
            Match::Known(field, set) => known(*field, set),
            Match::Unknown(field, set) => !known(*field, set),
            Match::From(nets) => among(nets, packet.source),
            Match::To(nets) => among(nets, packet.destination),
            Match::Transport(transport) => transport.number() == packet.protocol,
            Match::Number(number) => *number == packet.protocol,
            Match::Icmp => packet.protocol == ICMP,
            Match::IcmpType(kind) => packet.protocol == ICMP && *kind == ECHO,
            Match::IcmpCode(code) => packet.protocol == ICMP && *code == 0,
            Match::Ports(transport, ports) => {
                transport.number() == packet.protocol && (ports.first()..=ports.last()).contains(&packet.port)
            }
            // Replies of the router itself: no first packet. One that is asked about came in the clear, and a tunnel
            // that should be there is.
            Match::FromPort(..) | Match::Established | Match::Decrypted | Match::Bare => false,
            // What one asks about has passed a router.
            Match::Near => false,
            Match::Six => six,
            Match::Icmp6 => packet.protocol == ICMP6,
            Match::Icmp6Type(kind) => packet.protocol == ICMP6 && *kind == ECHO6,
            Match::Icmp6Code(code) => packet.protocol == ICMP6 && *code == 0,
            Match::Translated => self.translated,
        }
    }
}

/// An address in a key. Keys hold none of IPv6: there its text stands for it, which no key has.
fn address(address: IpAddr) -> Part {
    match address {
        IpAddr::V4(address) => Part::Address(address),
        IpAddr::V6(address) => Part::Nic(address.to_string()),
    }
}

fn value_address(value: Option<Value>) -> Option<IpAddr> {
    match value {
        Some(Value::Address(address)) => Some(address.into()),
        _ => None,
    }
}
