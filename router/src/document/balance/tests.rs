use std::net::SocketAddrV4;

use proptest::prelude::*;

use crate::{
    balance::{Algorithm, Balance, CookieMode, Front, Millis, Stickiness},
    document::{BalanceChange, Document, DocumentError},
    types::Transport,
};

/// What stands before the rules of each document.
pub(crate) const HEAD: [&str; 20] = [
    "global",
    "\tlog 127.0.0.1:3914   local0 warning",
    "\tmaxconn 4000",
    "\tmaxpipes 1000",
    "\tchroot /var/lib/haproxy",
    "\tuser haproxy",
    "\tgroup haproxy",
    "\tstats socket /run/haproxy/admin.sock",
    "\tdaemon",
    "\t ",
    "defaults",
    "\tlog     global",
    "\tmode    tcp",
    "\toption  dontlognull",
    "\tretries 3",
    "\toption redispatch",
    "\toption forwardfor",
    "\toption httpclose",
    "\ttimeout connect    5000",
    "\ttimeout client     50000",
];

/// A document with these lines after the head.
pub(crate) fn document(lines: &[&str], certificates: &str) -> String {
    let lines: Vec<&str> = HEAD.iter().chain(lines).copied().collect();
    format!(
        r#"{{"rules":[{{"configuration":{},"tmp_cfg_file_path":"/etc/haproxy/","tmp_cfg_file_name":
        "haproxy.cfg.new.1762077300123","ssl_certs":[{certificates}],"add_rules":["203.0.113.10:80:"],
        "remove_rules":[],"stat_rules":[""],"router_ip":"169.254.10.20"}}],"type":"loadbalancer"}}"#,
        serde_json::to_string(&lines).unwrap()
    )
}

fn read(lines: &[&str], certificates: &str) -> BalanceChange {
    match Document::read(document(lines, certificates).as_bytes()).unwrap() {
        Document::Balance(change) => change,
        other => panic!("{other:?}"),
    }
}

fn fine(lines: &[&str]) -> Balance {
    let change = read(lines, "");
    assert_eq!(change.refused, []);
    change.balance
}

fn front(port: u16) -> Front {
    Front { address: [203, 0, 113, 10].into(), port, transport: Transport::Tcp }
}

const RULE: [&str; 9] = [
    "listen 203_0_113_10-80",
    "\tbind 203.0.113.10:80",
    "\tmode http",
    "\toption httpclose",
    "\tacl network_allowed src 192.0.2.0/24 198.51.100.0/24 \n\ttcp-request connection reject if !network_allowed",
    "\tbalance leastconn",
    "\tserver 203_0_113_10-80_0 10.1.1.20:80 check",
    "\tserver 203_0_113_10-80_1 10.1.1.21:80 check",
    "\t ",
];

#[test]
fn a_document_of_the_management_server_is_read() {
    let page = "\nlisten stats_on_public\n\tbind 203.0.113.10:8081\n\tmode http\n\toption httpclose\n\tstats enable\n\tstats uri     /admin?stats\n\tstats realm   Haproxy\\ Statistics\n\tstats auth    admin1:AdMiN123\n";
    let balance = fine(&[&[page, "\t "], RULE.as_slice()].concat());
    assert_eq!(balance.limits.connections, Some(4000));
    assert!(balance.limits.close);
    assert_eq!(balance.limits.timeouts["client"], Millis(50_000));
    let rule = &balance.rules[&front(80)];
    assert!(rule.http && rule.check && rule.close == Some(true) && !rule.proxy_protocol);
    assert_eq!(rule.algorithm, Algorithm::LeastConn);
    assert_eq!(rule.servers.len(), 2);
    assert_eq!(rule.sources.as_slice().len(), 2);
    let page = &balance.pages[&"203.0.113.10:8081".parse::<SocketAddrV4>().unwrap()];
    assert_eq!(String::from(page.view.realm.clone().unwrap()), "Haproxy Statistics");
    let text = serde_json::to_string(&balance).unwrap();
    assert_eq!(serde_json::from_str::<Balance>(&text).unwrap(), balance, "it survives its file");
}

#[test]
fn no_rule_at_all_is_a_placeholder() {
    let balance = fine(&["listen  vmops", "\tbind 0.0.0.0:9", "\toption transparent"]);
    assert!(balance.rules.is_empty() && balance.pages.is_empty());
}

#[test]
fn what_keeps_a_client_at_a_server() {
    let with = |lines: &[&str]| {
        let all =
            [&["listen x", "bind 203.0.113.10:80", "server a 10.1.1.20:80 check cookie 10_1_1_20-80"], lines];
        fine(&all.concat()).rules[&front(80)].clone()
    };
    let rule = with(&["cookie lb prefix indirect nocache domain .a.example domain .b.example"]);
    assert!(rule.http, "cookies are HTTP");
    let Some(Stickiness::Cookie { mode, indirect, postonly, domains, .. }) = rule.stickiness else {
        panic!()
    };
    assert_eq!((mode, indirect, postonly, domains.len()), (CookieMode::Prefix, true, false, 2));
    let rule = with(&["stick-table type ip size 200k expire 30m", "stick on src"]);
    assert_eq!(rule.stickiness, Some(Stickiness::Source { size: 204_800, expire: Millis(1_800_000) }));
    let rule = with(&["appsession JSESSIONID len 40 timeout 3h request-learn mode query-string"]);
    let Some(Stickiness::Application { length: 40, hold, request_learn: true, query: true, .. }) =
        rule.stickiness
    else {
        panic!("{rule:?}")
    };
    assert_eq!(hold, Millis(3 * 3_600_000));
}

#[test]
fn quirks_are_taken_as_they_are_meant() {
    let balance = fine(&[
        "listen 203_0_113_10-80",
        "bind 203.0.113.10:80",
        "no option forceclose",
        "acl network_allowed src 192.0.2.0/24,198.51.100.0/24",
        "tcp-request connection reject if !network_allowed",
        "timeout client 600000",
        "server a 10.1.1.20:80 check send-proxy",
    ]);
    let rule = &balance.rules[&front(80)];
    assert_eq!((rule.close, rule.sources.as_slice().len(), rule.proxy_protocol), (Some(false), 2, true));
    assert_eq!(rule.timeouts["client"], Millis(600_000));
    // A rule without servers is a rule.
    assert!(
        fine(&["listen x", "bind 203.0.113.10:80", "balance source"]).rules[&front(80)].servers.is_empty()
    );
    let udp = fine(&["listen x", "bind 203.0.113.10:53", "mode udp", "server a 10.1.1.20:53"]);
    assert_eq!(udp.rules.keys().next().unwrap().transport, Transport::Udp);
}

#[test]
fn tls_needs_its_certificate() {
    let bind = "bind 203.0.113.10:443 ssl crt /etc/cloudstack/ssl/203_0_113_10-443.pem alpn h2,http/1.1 \
        ssl-min-ver TLSv1.2 no-tls-tickets ciphers ECDHE-RSA-AES128-GCM-SHA256:!aNULL ciphersuites TLS_AES_128_GCM_SHA256\n\
        \thttp-request add-header X-Forwarded-Proto https";
    let lines =
        ["listen 203_0_113_10-443", bind, "server a 10.1.1.20:80 check alpn h2 no-tls-tickets ciphers X"];
    let certificate = r#"{"name":"203_0_113_10-443","cert":"CERT\r\n","chain":"CHAIN","key":"KEY\n"}"#;
    let change = read(&lines, certificate);
    assert_eq!(change.refused, []);
    let rule = &change.balance.rules[&front(443)];
    assert!(rule.http && rule.forwarded_proto);
    assert_eq!(rule.tls.as_ref().unwrap().pem, "CERT\nCHAIN\nKEY\n");
    assert!(!format!("{rule:?}").contains("KEY"), "keys do not get into logs");
    let change = read(&lines, "");
    assert_eq!(change.refused[0].front, Some(front(443)));
    assert!(change.refused[0].reason.contains("brings no certificate"), "{:?}", change.refused);
}

#[test]
fn a_bad_rule_is_refused_alone() {
    for (line, reason) in [
        ("balance fair", "there is no algorithm"),
        ("server x 10.1.1.20:70000 check", "is not an address and port"),
        ("server x 10.1.1.20:81 check ssl", "\"ssl\" is not known"),
        ("server x 10.1.1.20:81", "differs from the servers before"),
        ("lua-load /tmp/x", "is not known"),
        ("errorfile 503 /etc/shadow", "is not known"),
        ("appsession a)b len 1 timeout 3h", "is not the name of a cookie"),
        ("cookie a(b", "is not the name of a cookie"),
        ("cookie \"a b\" insert", "is not the name of a cookie"),
        ("timeout client 300d", "is no time"),
        ("timeout nonsense 1", "there is no time-out"),
        ("acl network_allowed src nonsense", "is no network"),
        ("acl network_allowed src 10.0.0.0/8", "by half only"),
        ("stick on src", "by half only"),
        ("bind 203.0.113.10:82", "is a second address"),
        ("stick-table type ip size 99999m expire 30m", "is no size of a table"),
        ("stats auth \"a\"", "is not known"),
        ("server a 10.1.1.1:80 \"", "quote"),
    ] {
        let bad = ["listen 203_0_113_10-81", "bind 203.0.113.10:81", "server b 10.1.1.9:81 check", line];
        let change = read(&[RULE.as_slice(), &bad].concat(), "");
        assert_eq!(change.balance.rules.keys().map(|f| f.port).collect::<Vec<_>>(), [80], "{line}");
        assert_eq!(change.refused.len(), 1, "{line}: {:?}", change.refused);
        assert_eq!(change.refused[0].front, Some(front(81)), "{line}");
        assert!(change.refused[0].reason.contains(reason), "{line}: {}", change.refused[0]);
    }
    for (lines, reason) in [
        (&["frontend x", "bind 203.0.113.10:81"][..], "section \"frontend\" is not known"),
        (&["listen x", "mode http"], "has no address"),
        (&["listen x", "bind 203.0.113.10:80"], "is taken"),
        (&["listen x", "bind 0.0.0.0:80"], "every address"),
        (&["listen x", "bind 203.0.113.10:53", "mode udp", "mode http"], "datagrams are neither"),
    ] {
        let change = read(&[RULE.as_slice(), lines].concat(), "");
        assert_eq!(change.balance.rules.len(), 1, "{lines:?}");
        assert!(change.refused[0].reason.contains(reason), "{lines:?}: {:?}", change.refused);
    }
}

#[test]
fn a_document_without_a_configuration_is_refused() {
    for (text, path) in [
        (r#"{"type":"loadbalancer","rules":[]}"#, "rules"),
        (r#"{"type":"loadbalancer","rules":[{}]}"#, "rules[0].configuration"),
        (r#"{"type":"loadbalancer","rules":[{"configuration":[],"ssl_certs":[{}]}]}"#, "ssl_certs[0].name"),
    ] {
        let error: DocumentError = Document::read(text.as_bytes()).unwrap_err();
        assert_eq!(error.path, path, "{error}");
    }
}

proptest! {
    #[test]
    fn any_lines_are_read_or_refused(lines: Vec<String>) {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let _ = read(&[&["listen 203_0_113_10-80", "bind 203.0.113.10:80"], lines.as_slice()].concat(), "");
    }
}
