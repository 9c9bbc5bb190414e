use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use super::{config::Files, runtime::orders, stats::Row, *};
use crate::{
    document::{BalanceChange, Document},
    link::Devices,
    nft::Table,
    plan::plan,
    state::tests::{devices, setup},
};

fn files() -> Files {
    Files::below(PathBuf::from("/run/trivium/balance"))
}

fn read(lines: &[&str]) -> BalanceChange {
    let text = serde_json::json!({"rules": [{"configuration": lines}], "type": "loadbalancer"}).to_string();
    match Document::read(text.as_bytes()).unwrap() {
        Document::Balance(change) => change,
        other => panic!("{other:?}"),
    }
}

fn state(lines: &[&str]) -> State {
    let mut state = setup().first_state();
    assert_eq!(state.merge_balance(&setup(), &read(lines)), []);
    state
}

fn rule(servers: &[&str]) -> Vec<String> {
    let head = ["listen 203_0_113_10-80", "bind 203.0.113.10:80", "balance roundrobin"].map(str::to_owned);
    let servers = servers.iter().map(|server| format!("server x {server}:80 check"));
    head.into_iter().chain(servers).collect()
}

fn with(servers: &[&str], more: &[&str]) -> State {
    let rule = rule(servers);
    state(&rule.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
}

fn table(state: &State) -> Table {
    plan(&setup(), state, &devices()).table
}

#[test]
fn servers_do_not_touch_the_seal_and_all_else_does() {
    let seal = |state: &State| config::seal(&state.balance, &files());
    let one = with(&["10.1.1.20"], &[]);
    assert_eq!(seal(&one), seal(&with(&["10.1.1.20", "10.1.1.21"], &[])));
    for more in ["cookie a insert", "balance source", "timeout client 1000", "maxconn 3"] {
        assert_ne!(seal(&one), seal(&with(&["10.1.1.20"], &[more])), "{more}");
    }
    let text = config::render(&with(&["10.1.1.20"], &["cookie a insert nocache"]).balance, &files());
    assert!(text.contains("\n    server 10.1.1.20:80 10.1.1.20:80 check\n"), "{text}");
    assert!(text.contains("\n    cookie a insert nocache dynamic\n"), "{text}");
    assert!(text.contains("\n    bind 203.0.113.10:80\n    mode http\n"), "{text}");
}

#[test]
fn texts_cannot_leave_their_place() {
    let hostile = "stats realm a\\ \\\"b\\'\\#c\\\\d";
    let state = state(&["listen p", "bind 203.0.113.10:8081", "stats enable", hostile]);
    let text = config::render(&state.balance, &files());
    assert!(text.contains("stats realm a\\ \\\"b\\'\\#c\\\\d\n"), "{text}");
    assert!("a\nb".parse::<Text>().is_err() && "".parse::<Word>().is_err() && "a b".parse::<Word>().is_err());
}

fn row(name: &str, status: &str) -> Row {
    Row { pool: "203_0_113_10-80".into(), name: name.into(), status: status.into(), ..Row::default() }
}

#[test]
fn servers_come_and_go_by_commands() {
    let words = |state: &State, rows: &[Row]| -> Vec<String> {
        orders(&state.balance, rows).into_iter().map(|order| order.words).collect()
    };
    let two = with(&["10.1.1.20", "10.1.1.21"], &["cookie a insert"]);
    let rows = [row("FRONTEND", "OPEN"), row("10.1.1.20:80", "UP"), row("10.1.1.99:80", "DOWN 1/2")];
    let [add, cookie, health, enable, aside, delete] = words(&two, &rows).try_into().unwrap();
    assert_eq!(add, "add server 203_0_113_10-80/10.1.1.21:80 10.1.1.21:80 check");
    assert!(cookie.starts_with("set dynamic-cookie-key backend 203_0_113_10-80 "), "{cookie}");
    assert_eq!(health, "enable health 203_0_113_10-80/10.1.1.21:80");
    assert_eq!(enable, "enable server 203_0_113_10-80/10.1.1.21:80");
    assert_eq!(aside, "set server 203_0_113_10-80/10.1.1.99:80 state maint");
    assert_eq!(delete, "del server 203_0_113_10-80/10.1.1.99:80");
    let rows = [row("10.1.1.20:80", "UP"), row("10.1.1.21:80", "MAINT"), row("10.1.1.99:80", "MAINT")];
    let [ready, delete] = words(&two, &rows).try_into().unwrap();
    assert_eq!(ready, "set server 203_0_113_10-80/10.1.1.21:80 state ready");
    assert_eq!(delete, "del server 203_0_113_10-80/10.1.1.99:80");
    let rows = [row("10.1.1.20:80", "UP"), row("10.1.1.21:80", "DOWN")];
    assert_eq!(words(&two, &rows), [""; 0]);
}

#[test]
fn a_refused_rule_stays_as_it_was() {
    let mut state = with(&["10.1.1.20"], &[]);
    let before = state.clone();
    let bad = ["listen 203_0_113_10-80", "bind 203.0.113.10:80", "nonsense"];
    let good = ["listen 203_0_113_10-81", "bind 203.0.113.10:81", "server x 10.1.1.20:81"];
    let refused = state.merge_balance(&setup(), &read(&[bad, good].concat()));
    assert_eq!(refused.len(), 1);
    assert_eq!(state.balance.rules.len(), 2);
    let front = before.balance.rules.keys().next().unwrap();
    assert_eq!(state.balance.rules[front], before.balance.rules[front]);
    // One for an address that is not ours is refused, and others are not.
    let foreign = ["listen 203_0_113_99-80", "bind 203.0.113.99:80", "server x 10.1.1.20:81"];
    let refused = state.merge_balance(&setup(), &read(&[foreign, good].concat()));
    assert!(refused[0].to_string().contains("203.0.113.99 is no address of this router"), "{refused:?}");
    assert_eq!(state.balance.rules.keys().map(|f| f.port).collect::<Vec<_>>(), [81]);
}

#[test]
fn clients_are_let_in_where_something_listens() {
    let page = ["listen p", "bind 169.254.10.20:8081", "stats enable"];
    let table = table(&with(&["10.1.1.20"], &page));
    let elements = &table.maps["balance_streams"].elements;
    assert_eq!(elements.len(), 1, "{elements:?}");
    assert_eq!(elements[&key([203, 0, 113, 10].into(), Transport::Tcp, 80)], Value::Accept);
    let rules = &table.chains["input"].rules;
    assert!(rules.iter().any(|r| r.matches.contains(&Match::In("eth1".into())) && r.matches.len() == 3));
    // An address that has gone is not served.
    let mut state = with(&["10.1.1.20"], &[]);
    state.addresses.clear();
    assert!(plan(&setup(), &state, &Devices::default()).balance.rules.is_empty());
}

#[test]
fn datagrams_are_spread_by_the_filter() {
    let udp = |servers: &[&str], more: &[&str]| {
        let head = ["listen 203_0_113_10-53", "bind 203.0.113.10:53", "mode udp"].map(str::to_owned);
        let servers = servers.iter().map(|server| format!("server x {server}:5353"));
        let lines: Vec<String> =
            head.into_iter().chain(servers).chain(more.iter().map(|l| (*l).to_owned())).collect();
        state(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let before = udp(&["10.1.1.20", "10.1.1.21"], &[]);
    assert!(plan(&setup(), &before, &devices()).balance.rules.is_empty(), "HAProxy does not do it");
    let chain = |state: &State| table(state).chains["balance_203.0.113.10_53"].rules[0].action.clone();
    let targets = vec![Ipv4Addr::new(10, 1, 1, 20), Ipv4Addr::new(10, 1, 1, 21)];
    let spread = |by_client| Action::Spread(Spread { by_client, targets: targets.clone(), port: 5353 });
    assert_eq!(chain(&before), spread(false));
    assert_eq!(chain(&udp(&["10.1.1.20", "10.1.1.21"], &["balance source"])), spread(true));
    // Flows of a server that goes are ended, and no others.
    let after = udp(&["10.1.1.20"], &[]);
    let gone = Lost::DatagramsOf([203, 0, 113, 10].into(), 53, [10, 1, 1, 21].into());
    assert_eq!(lost(&table(&before), &table(&after)), [gone]);
    assert_eq!(lost(&table(&before), &table(&with(&["10.1.1.20"], &[]))).len(), 2);
    assert_eq!(lost(&table(&before), &table(&before)), []);
}

#[test]
fn health_checks_tell_that_a_rule_is_about_datagrams() {
    let mut state = with(&["10.1.1.20"], &[]);
    let record = |protocol: &str| {
        format!(
            "maxconn=4096,sourcePortStart=80,sourcePortEnd=80,sourceIp=203.0.113.10,protocol={protocol},vmIps=10.1.1.20 ;"
        )
    };
    Arc::make_mut(&mut state.monitor).parameters.insert("haproxyData".into(), record("tcp"));
    assert_eq!(streams(&setup(), &state).rules.len(), 1);
    Arc::make_mut(&mut state.monitor).parameters.insert("haproxyData".into(), record("udp"));
    assert_eq!(streams(&setup(), &state).rules.len(), 0);
    assert!(table(&state).chains.contains_key("balance_203.0.113.10_80"));
}
