//! Tables as objects of the `nftables` crate: the JSON that the `nft` program takes.
//!
//! A translation of address and port together looks up two maps of one key: nft 1.0.6 cannot load a map
//! whose values are `address . port` through JSON. Maps, their elements and counters are JSON of our own: the
//! crate (0.6.3) knows no verdict maps, writes an accepting element as a bare word, and counts in 32 bits.

use std::{borrow::Cow, net::Ipv4Addr};

use ipnet::IpNet;
use nftables::{
    expr::{
        CT, Expression, JHash, Map as MapOf, Meta, MetaKey, NamedExpression, NgMode, Numgen, Payload,
        PayloadField, Prefix, Range, SetItem,
    },
    schema::{self, FlushObject, NfCmd, NfListObject, NfObject},
    stmt::{self, JumpTarget, Mangle, NAT, NATFamily, Operator, Statement, VerdictMap},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook},
};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::table::{Action, Base, Field, Hook, Key, Map, Match, Part, Rule, Spread, Value, ValueKind};
use crate::{helper::Helper, types::Transport};

/// The one table of this machine.
pub const TABLE: &str = "trivium";

type Expr = Expression<'static>;

/// One command of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// What the crate has a type for.
    Typed(Box<NfObject<'static>>),
    /// What it has none for.
    Plain(Json),
}

/// Collects the commands of one transaction.
#[derive(Debug, Default)]
pub(super) struct Renderer(Vec<Command>);

impl Renderer {
    pub(super) fn finish(self) -> Vec<Command> {
        self.0
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything goes away by it.
    pub(super) fn deletes(&self) -> bool {
        self.0.iter().any(|command| match command {
            Command::Typed(object) => {
                matches!(**object, NfObject::CmdObject(NfCmd::Delete(_) | NfCmd::Flush(_)))
            }
            Command::Plain(object) => object.get("delete").is_some(),
        })
    }

    fn push(&mut self, command: NfCmd<'static>) {
        self.0.push(Command::Typed(Box::new(NfObject::CmdObject(command))));
    }

    pub(super) fn add_table(&mut self) {
        self.push(NfCmd::Add(NfListObject::Table(table())));
    }

    pub(super) fn delete_table(&mut self) {
        self.push(NfCmd::Delete(NfListObject::Table(table())));
    }

    pub(super) fn add_counter(&mut self, name: &str, (packets, bytes): (u64, u64)) {
        self.0.push(Command::Plain(json!({"add": {"counter": {
            "family": "inet", "table": TABLE, "name": name, "packets": packets, "bytes": bytes
        }}})));
    }

    pub(super) fn delete_counter(&mut self, name: &str) {
        let counter = json!({"family": "inet", "table": TABLE, "name": name});
        self.0.push(Command::Plain(json!({"delete": {"counter": counter}})));
    }

    pub(super) fn add_helper(&mut self, helper: Helper) {
        self.0.push(Command::Plain(helper_command(helper)));
    }

    pub(super) fn delete_helper(&mut self, helper: Helper) {
        let object = json!({"family": "inet", "table": TABLE, "name": helper.name()});
        self.0.push(Command::Plain(json!({"delete": {"ct helper": object}})));
    }

    pub(super) fn add_map(&mut self, name: &str, map: &Map) {
        self.map_command("add", name, map);
    }

    pub(super) fn delete_map(&mut self, name: &str, map: &Map) {
        self.map_command("delete", name, map);
    }

    fn map_command(&mut self, verb: &str, name: &str, map: &Map) {
        let words: Vec<&str> = map.key.iter().map(|f| key_word(*f)).collect();
        let key = match words.as_slice() {
            [one] => json!(one),
            many => json!(many),
        };
        let mut object = json!({"family": "inet", "table": TABLE, "name": name, "type": key});
        let kind = match map.value {
            ValueKind::Nothing => "set",
            _ => "map",
        };
        if let Some(word) = value_word(map.value) {
            object["map"] = word.into();
        }
        self.0.push(Command::Plain(json!({verb: {kind: object}})));
    }

    pub(super) fn add_chain(&mut self, name: &str, base: Option<Base>) {
        let mut object = chain(name);
        if let Some(base) = base {
            object._type = Some(if base.nat { NfChainType::NAT } else { NfChainType::Filter });
            object.hook = Some(match base.hook {
                Hook::Prerouting => NfHook::Prerouting,
                Hook::Input => NfHook::Input,
                Hook::Forward => NfHook::Forward,
                Hook::Output => NfHook::Output,
                Hook::Postrouting => NfHook::Postrouting,
            });
            object.prio = Some(base.priority);
            object.policy = Some(if base.drops { NfChainPolicy::Drop } else { NfChainPolicy::Accept });
        }
        self.push(NfCmd::Add(NfListObject::Chain(object)));
    }

    pub(super) fn flush_chain(&mut self, name: &str) {
        self.push(NfCmd::Flush(FlushObject::Chain(chain(name))));
    }

    pub(super) fn delete_chain(&mut self, name: &str) {
        self.push(NfCmd::Delete(NfListObject::Chain(chain(name))));
    }

    pub(super) fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let typed: Option<Vec<_>> =
            rule.matches.iter().map(condition).chain([action(&rule.action)]).collect();
        let Some(expr) = typed else {
            let mut expr: Vec<Json> = rule.matches.iter().map(condition_json).collect();
            expr.push(match rule.action {
                Action::Help(helper) => json!({"ct helper": helper.name()}),
                // The crate writes this statement as a bare word, which nft refuses.
                Action::Untrack => json!({"notrack": null}),
                _ => json!(action(&rule.action)),
            });
            let rule = json!({"family": "inet", "table": TABLE, "chain": chain, "expr": expr});
            self.0.push(Command::Plain(json!({"add": {"rule": rule}})));
            return;
        };
        self.push(NfCmd::Add(NfListObject::Rule(schema::Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.to_owned().into(),
            expr: expr.into(),
            ..Default::default()
        })));
    }

    pub(super) fn add_elements<'a>(
        &mut self,
        name: &str,
        map: &Map,
        elements: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) {
        self.element_command("add", name, map, elements);
    }

    pub(super) fn delete_elements<'a>(
        &mut self,
        name: &str,
        map: &Map,
        elements: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) {
        self.element_command("delete", name, map, elements);
    }

    fn element_command<'a>(
        &mut self,
        verb: &str,
        name: &str,
        map: &Map,
        elements: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) {
        let element = |(key, value)| match map.value {
            ValueKind::Nothing => key_json(key),
            _ => json!([key_json(key), value_json(value)]),
        };
        let elem: Vec<Json> = elements.map(element).collect();
        if !elem.is_empty() {
            let object = json!({"family": "inet", "table": TABLE, "name": name, "elem": elem});
            self.0.push(Command::Plain(json!({verb: {"element": object}})));
        }
    }
}

fn table() -> schema::Table<'static> {
    schema::Table { family: NfFamily::INet, name: TABLE.into(), handle: None }
}

fn chain(name: &str) -> schema::Chain<'static> {
    schema::Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.to_owned().into(),
        ..Default::default()
    }
}

const fn key_word(field: Field) -> &'static str {
    match field {
        Field::Source | Field::Destination => "ipv4_addr",
        Field::Protocol => "inet_proto",
        Field::Port => "inet_service",
        Field::InNic | Field::OutNic => "ifname",
    }
}

const fn value_word(kind: ValueKind) -> Option<&'static str> {
    match kind {
        ValueKind::Nothing => None,
        ValueKind::Address => Some("ipv4_addr"),
        ValueKind::Port => Some("inet_service"),
        ValueKind::Mark => Some("mark"),
        ValueKind::Verdict => Some("verdict"),
    }
}

fn text(value: impl ToString) -> Expr {
    Expr::String(Cow::Owned(value.to_string()))
}

fn part_json(part: &Part) -> Json {
    match part {
        Part::Address(address) => json!(address.to_string()),
        Part::Transport(transport) => json!(transport.word()),
        Part::Port(port) => json!(port),
        Part::Nic(name) => json!(name),
    }
}

fn key_json(key: &Key) -> Json {
    match key.as_slice() {
        [one] => part_json(one),
        many => json!({"concat": many.iter().map(part_json).collect::<Vec<_>>()}),
    }
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Nothing => Json::Null,
        Value::Address(address) => json!(address.to_string()),
        Value::Port(port) => json!(port),
        Value::Mark(mark) => json!(mark),
        Value::Accept => json!({"accept": null}),
        Value::Drop => json!({"drop": null}),
        Value::Jump(chain) => json!({"jump": {"target": chain}}),
    }
}

fn field_expression(field: Field) -> Expr {
    match field {
        Field::Source => payload("ip", "saddr"),
        Field::Destination => payload("ip", "daddr"),
        Field::Protocol => meta(MetaKey::L4proto),
        Field::Port => payload("th", "dport"),
        Field::InNic => meta(MetaKey::Iifname),
        Field::OutNic => meta(MetaKey::Oifname),
    }
}

fn fields_expression(fields: &[Field]) -> Expr {
    match fields {
        [one] => field_expression(*one),
        many => Expr::Named(NamedExpression::Concat(many.iter().map(|f| field_expression(*f)).collect())),
    }
}

fn lookup(fields: &[Field], map: &str) -> Expr {
    let map = MapOf { key: fields_expression(fields), data: text(format_args!("@{map}")) };
    Expr::Named(NamedExpression::Map(Box::new(map)))
}

fn payload(protocol: &'static str, field: &'static str) -> Expr {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expr::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn meta(key: MetaKey) -> Expr {
    Expr::Named(NamedExpression::Meta(Meta { key }))
}

fn ct(key: &'static str) -> Expr {
    Expr::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

fn compare(left: Expr, op: Operator, right: Expr) -> Statement<'static> {
    Statement::Match(stmt::Match { left, right, op })
}

fn equal(left: Expr, right: Expr) -> Statement<'static> {
    compare(left, Operator::EQ, right)
}

/// The header that holds addresses of a list.
fn header(nets: &[IpNet]) -> &'static str {
    if nets.first().is_some_and(|net| net.addr().is_ipv6()) { "ip6" } else { "ip" }
}

fn nets(nets: &[IpNet]) -> Expr {
    let net = |net: &IpNet| match net.prefix_len() {
        len if len == net.max_prefix_len() => text(net.addr()),
        len => Expr::Named(NamedExpression::Prefix(Prefix {
            addr: Box::new(text(net.network())),
            len: u32::from(len),
        })),
    };
    match nets {
        [one] => net(one),
        many => Expr::Named(NamedExpression::Set(many.iter().map(|n| SetItem::Element(net(n))).collect())),
    }
}

/// What the crate has no type for, too.
fn condition_json(of: &Match) -> Json {
    let is = |left: Json, right: bool| json!({"match": {"op": "==", "left": left, "right": right}});
    match of {
        Match::Decrypted => is(json!({"meta": {"key": "ipsec"}}), true),
        Match::Bare => is(json!({"rt": {"key": "ipsec"}}), false),
        other => json!(condition(other)),
    }
}

/// `None` for what the crate has no type for.
fn condition(condition: &Match) -> Option<Statement<'static>> {
    Some(match condition {
        Match::Decrypted | Match::Bare => return None,
        Match::In(nic) => equal(meta(MetaKey::Iifname), text(nic)),
        Match::Out(nic) => equal(meta(MetaKey::Oifname), text(nic)),
        Match::Known(field, set) => equal(field_expression(*field), text(format_args!("@{set}"))),
        Match::Unknown(field, set) => {
            compare(field_expression(*field), Operator::NEQ, text(format_args!("@{set}")))
        }
        Match::Six => equal(meta(MetaKey::Nfproto), text("ipv6")),
        Match::From(list) => equal(payload(header(list), "saddr"), nets(list)),
        Match::To(list) => equal(payload(header(list), "daddr"), nets(list)),
        Match::Transport(transport) => equal(meta(MetaKey::L4proto), text(transport.word())),
        Match::Number(number) => equal(meta(MetaKey::L4proto), Expr::Number(u32::from(*number))),
        Match::Icmp => equal(payload("ip", "protocol"), text("icmp")),
        Match::IcmpType(kind) => equal(payload("icmp", "type"), Expr::Number(u32::from(*kind))),
        Match::IcmpCode(code) => equal(payload("icmp", "code"), Expr::Number(u32::from(*code))),
        Match::Icmp6 => equal(meta(MetaKey::L4proto), text("ipv6-icmp")),
        Match::Icmp6Type(kind) => equal(payload("icmpv6", "type"), Expr::Number(u32::from(*kind))),
        Match::Icmp6Code(code) => equal(payload("icmpv6", "code"), Expr::Number(u32::from(*code))),
        Match::Near => equal(payload("ip6", "hoplimit"), Expr::Number(255)),
        Match::Ports(transport, ports) => {
            let right = match ports.single() {
                Some(port) => Expr::Number(u32::from(port)),
                None => Expr::Range(Box::new(Range {
                    range: [Expr::Number(u32::from(ports.first())), Expr::Number(u32::from(ports.last()))],
                })),
            };
            equal(payload(transport.word(), "dport"), right)
        }
        Match::FromPort(transport, port) => {
            equal(payload(transport.word(), "sport"), Expr::Number(u32::from(*port)))
        }
        Match::Established => {
            let states = Expr::List(vec![text("established"), text("related")]);
            compare(ct("state"), Operator::IN, states)
        }
        Match::Translated => compare(ct("status"), Operator::IN, text("dnat")),
    })
}

/// The object for a protocol that the kernel follows.
fn helper_command(helper: Helper) -> Json {
    json!({"add": {"ct helper": {
        "family": "inet", "table": TABLE, "name": helper.name(), "type": helper.name(),
        "protocol": helper.transport().word(), "l3proto": "ip"
    }}})
}

/// What shows whether the kernel can follow a protocol; to be checked only.
pub(super) fn probe(helper: Helper) -> Vec<Command> {
    let table = NfObject::CmdObject(NfCmd::Add(NfListObject::Table(table())));
    vec![Command::Typed(Box::new(table)), Command::Plain(helper_command(helper))]
}

/// `None` for what the crate has no type for.
fn action(action: &Action) -> Option<Statement<'static>> {
    Some(match action {
        Action::Untrack | Action::Help(_) => return None,
        Action::Accept => Statement::Accept(None),
        Action::Drop => Statement::Drop(None),
        Action::Return => Statement::Return(None),
        Action::Jump(chain) => Statement::Jump(JumpTarget { target: chain.clone().into() }),
        Action::Lookup(fields, map) => Statement::VerdictMap(VerdictMap {
            key: fields_expression(fields),
            data: text(format_args!("@{map}")),
        }),
        Action::Count(counter) => Statement::Counter(stmt::Counter::Named(counter.clone().into())),
        Action::MarkConnection(mark) => {
            Statement::Mangle(Mangle { key: ct("mark"), value: Expr::Number(*mark) })
        }
        Action::MarkConnectionBy(fields, map) => {
            Statement::Mangle(Mangle { key: ct("mark"), value: lookup(fields, map) })
        }
        Action::RestoreMark => Statement::Mangle(Mangle { key: meta(MetaKey::Mark), value: ct("mark") }),
        Action::TranslateBy(fields, map) => destination(lookup(fields, map), None),
        Action::TranslatePortBy(fields, addresses, ports) => {
            destination(lookup(fields, addresses), Some(lookup(fields, ports)))
        }
        Action::Translate(address) => destination(text(address), None),
        Action::TranslatePorts(address, transport, ports) => {
            destination(text(address), Some(port_table(*transport, ports)))
        }
        Action::SourceBy(fields, map) => source(lookup(fields, map)),
        Action::Source(address) => source(text(address as &Ipv4Addr)),
        Action::Spread(spread) => destination(spread_map(spread), Some(Expr::Number(u32::from(spread.port)))),
    })
}

fn spread_map(spread: &Spread) -> Expr {
    if let [one] = spread.targets.as_slice() {
        return text(one);
    }
    let count = u32::try_from(spread.targets.len()).unwrap_or(u32::MAX);
    let key = if spread.by_client {
        let expr = Box::new(payload("ip", "saddr"));
        NamedExpression::JHash(JHash { hash_mod: count, offset: None, expr, seed: None })
    } else {
        NamedExpression::Numgen(Numgen { mode: NgMode::Inc, ng_mod: count, offset: None })
    };
    let item = |(n, target): (u32, &Ipv4Addr)| SetItem::Mapping(Expr::Number(n), text(target));
    let items = (0..).zip(&spread.targets).map(item).collect();
    let map = MapOf { key: Expr::Named(key), data: Expr::Named(NamedExpression::Set(items)) };
    Expr::Named(NamedExpression::Map(Box::new(map)))
}

fn port_table(transport: Transport, ports: &[(u16, u16)]) -> Expr {
    let number = |port: u16| Expr::Number(u32::from(port));
    let items = ports.iter().map(|(from, to)| SetItem::Mapping(number(*from), number(*to))).collect();
    let map =
        MapOf { key: payload(transport.word(), "dport"), data: Expr::Named(NamedExpression::Set(items)) };
    Expr::Named(NamedExpression::Map(Box::new(map)))
}

fn destination(address: Expr, port: Option<Expr>) -> Statement<'static> {
    Statement::DNAT(Some(NAT { addr: Some(address), family: Some(NATFamily::IP), port, flags: None }))
}

fn source(address: Expr) -> Statement<'static> {
    Statement::SNAT(Some(NAT { addr: Some(address), family: Some(NATFamily::IP), port: None, flags: None }))
}
