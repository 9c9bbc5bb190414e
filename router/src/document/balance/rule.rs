//! One `listen` section: a rule, a page with statistics, or the placeholder of a configuration without rules.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use ipnet::Ipv4Net;

use super::{timeout, words::Section};
use crate::{
    balance::{Algorithm, CookieMode, Front, Millis, Page, PageView, Rule, Stickiness, Tls, Word},
    types::{Nets, Transport},
};

/// What a section is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listen {
    /// Stands where there is no rule.
    Placeholder,
    /// A page with statistics.
    Page(SocketAddrV4, Page),
    /// A rule.
    Rule(Front, Box<Rule>),
}

/// The placeholder's name.
const PLACEHOLDER: &str = "vmops";

/// What a client is remembered by the longest name of a cookie, in characters.
const LENGTH: u16 = 1024;

/// Reads a section; an error tells which rule it is about, where that is known by then.
pub(super) fn read(
    section: &Section,
    certificates: &BTreeMap<String, String>,
) -> Result<Listen, (Option<Front>, String)> {
    if section.name == PLACEHOLDER {
        return Ok(Listen::Placeholder);
    }
    let mut reader = Reader { certificates, ..Reader::default() };
    for line in &section.lines {
        let words = line.as_ref().map_err(|reason| (reader.front(), reason.clone()))?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        reader.line(&words).map_err(|reason| {
            let shown: String = words.join(" ").chars().take(80).collect();
            (reader.front(), format!("line {shown:?}: {reason}"))
        })?;
    }
    let front = reader.front();
    reader.finish(&section.name).map_err(|reason| (front, reason))
}

static NONE: BTreeMap<String, String> = BTreeMap::new();

struct Reader<'a> {
    certificates: &'a BTreeMap<String, String>,
    bind: Option<SocketAddrV4>,
    udp: bool,
    rule: Rule,
    acl: Option<(String, Nets)>,
    rejects: Option<String>,
    /// Whether each server is checked, and told by the PROXY protocol.
    options: Option<(bool, bool)>,
    size: Option<(u32, Millis)>,
    by_source: bool,
}

impl Default for Reader<'_> {
    fn default() -> Self {
        Self {
            certificates: &NONE,
            bind: None,
            udp: false,
            rule: Rule::default(),
            acl: None,
            rejects: None,
            options: None,
            size: None,
            by_source: false,
        }
    }
}

impl Reader<'_> {
    fn front(&self) -> Option<Front> {
        let transport = if self.udp { Transport::Udp } else { Transport::Tcp };
        self.bind.map(|at| Front { address: *at.ip(), port: at.port(), transport })
    }

    fn line(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["bind", at, options @ ..] => return self.bind(at, options),
            ["server", _, at, options @ ..] => return self.server(at, options),
            ["mode", "http"] => self.rule.http = true,
            ["mode", "tcp"] => {}
            ["mode", "udp"] => self.udp = true,
            ["balance", word] => self.rule.algorithm = algorithm(word)?,
            ["option", "httpclose"] => self.rule.close = Some(true),
            ["no", "option", "httpclose" | "forceclose"] | ["option", "http-keep-alive"] => {
                self.rule.close = Some(false);
            }
            ["option", "forceclose" | "forwardfor" | "redispatch" | "dontlognull" | "tcplog" | "httplog"]
            | ["log", ..] => {}
            ["http-request", "add-header", "X-Forwarded-Proto", "https"] => self.rule.forwarded_proto = true,
            ["maxconn", n] => self.rule.connections = Some(number(n)?),
            ["timeout", name, time] => {
                let time = timeout(name, time)?;
                self.rule.timeouts.insert((*name).to_owned(), time);
            }
            ["acl", name, "src", list @ ..] => self.acl = Some(((*name).to_owned(), nets(list)?)),
            ["tcp-request", "connection", "reject", "if", name] if name.starts_with('!') => {
                self.rejects = Some(name.trim_start_matches('!').to_owned());
            }
            ["stats", words @ ..] => page_line(self.rule.page.get_or_insert_default(), words)?,
            ["cookie", name, options @ ..] => self.rule.stickiness = Some(cookie(name, options)?),
            ["appsession", name, options @ ..] => self.rule.stickiness = Some(application(name, options)?),
            ["stick-table", "type", "ip", "size", size, "expire", time] => {
                let time = Millis::read(time, 1).ok_or_else(|| format!("{time:?} is no time"))?;
                self.size = Some((count(size)?, time));
            }
            ["stick", "on", "src"] => self.by_source = true,
            _ => return Err("is not known".to_owned()),
        }
        Ok(())
    }

    fn bind(&mut self, at: &str, options: &[&str]) -> Result<(), String> {
        let at: SocketAddrV4 = parse(at, "an address and port")?;
        if self.bind.is_some() {
            return Err("is a second address".to_owned());
        }
        self.bind = Some(at);
        if at.port() == 0 {
            return Err("port 0 is none".to_owned());
        }
        let mut tls =
            Tls { pem: String::new(), alpn: None, version: None, ciphers: None, suites: None, tickets: true };
        let (mut wanted, mut name) = (false, None);
        let mut rest = options;
        while let [word, after @ ..] = rest {
            let value = || after.first().copied().ok_or_else(|| format!("{word} lacks a value"));
            let mut used = 1;
            match *word {
                "ssl" => wanted = true,
                "no-tls-tickets" => tls.tickets = false,
                "crt" => name = Some(value()?),
                "alpn" => tls.alpn = Some(parse(value()?, "a list of protocols")?),
                "ssl-min-ver" => tls.version = Some(parse(value()?, "a version of TLS")?),
                "ciphers" => tls.ciphers = Some(parse(value()?, "a list of ciphers")?),
                "ciphersuites" => tls.suites = Some(parse(value()?, "a list of ciphers")?),
                other => return Err(format!("{other:?} is not known")),
            }
            if !matches!(*word, "ssl" | "no-tls-tickets") {
                used = 2;
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        if wanted {
            let path = name.ok_or("TLS lacks a certificate")?;
            let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".pem");
            let pem = self.certificates.get(name);
            tls.pem.clone_from(pem.ok_or_else(|| format!("the document brings no certificate {name:?}"))?);
            self.rule.tls = Some(tls);
        }
        Ok(())
    }

    fn server(&mut self, at: &str, options: &[&str]) -> Result<(), String> {
        let at: SocketAddrV4 = parse(at, "an address and port")?;
        if at.port() == 0 || at.ip().is_unspecified() {
            return Err(format!("{at} is no server"));
        }
        let (mut check, mut proxy) = (false, false);
        let mut rest = options;
        while let [word, after @ ..] = rest {
            rest = after;
            match *word {
                "check" => check = true,
                "send-proxy" => proxy = true,
                // Options of TLS without TLS say nothing; the value of a cookie is ours to choose.
                "no-tls-tickets" => {}
                "alpn" | "ssl-min-ver" | "ciphers" | "ciphersuites" | "cookie" | "crt" => {
                    rest = after.get(1..).unwrap_or_default();
                }
                other => return Err(format!("{other:?} is not known")),
            }
        }
        match self.options.replace((check, proxy)) {
            Some(before) if before != (check, proxy) => {
                return Err("differs from the servers before".to_owned());
            }
            _ => {}
        }
        self.rule.servers.insert(at);
        Ok(())
    }

    fn finish(mut self, name: &str) -> Result<Listen, String> {
        let front = self.front().ok_or("has no address")?;
        if let Some(view) =
            self.rule.page.take_if(|_| self.options.is_none() && front.transport == Transport::Tcp)
        {
            return Ok(Listen::Page(front.socket(), Page { name: parse(name, "a name")?, view }));
        }
        if front.address.is_unspecified() {
            return Err("is for every address".to_owned());
        }
        let mut rule = self.rule;
        (rule.check, rule.proxy_protocol) = self.options.unwrap_or_default();
        match (self.acl, self.rejects) {
            (None, None) => {}
            (Some((name, nets)), Some(rejected)) if name == rejected => rule.sources = nets,
            _ => return Err("says who may connect by half only".to_owned()),
        }
        match (self.size, self.by_source) {
            (None, false) => {}
            (Some((size, expire)), true) if rule.stickiness.is_none() => {
                rule.stickiness = Some(Stickiness::Source { size, expire });
            }
            _ => return Err("says what keeps a client at a server by half only, or twice".to_owned()),
        }
        let cookies =
            matches!(rule.stickiness, Some(Stickiness::Cookie { .. } | Stickiness::Application { .. }));
        rule.http |= cookies || rule.forwarded_proto;
        if self.udp {
            let ports =
                rule.servers.iter().map(SocketAddrV4::port).collect::<std::collections::BTreeSet<_>>();
            if rule.http || rule.tls.is_some() || rule.proxy_protocol {
                return Err("datagrams are neither HTTP nor TLS nor told by the PROXY protocol".to_owned());
            }
            if ports.len() > 1 {
                return Err("servers of datagrams must have one port".to_owned());
            }
        }
        Ok(Listen::Rule(front, Box::new(rule)))
    }
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{:?} is not {what}", text.chars().take(60).collect::<String>()))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    parse(text, "a number")
}

/// A number of entries, with `k` for thousands and `m` for millions; at most ten million.
fn count(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1024 * 1024)),
    };
    let all = number::<u32>(digits)?.checked_mul(unit).filter(|n| (1..=10_000_000).contains(n));
    all.ok_or_else(|| format!("{text:?} is no size of a table"))
}

fn algorithm(word: &str) -> Result<Algorithm, String> {
    match word {
        "roundrobin" => Ok(Algorithm::RoundRobin),
        "leastconn" => Ok(Algorithm::LeastConn),
        "source" => Ok(Algorithm::Source),
        other => Err(format!("there is no algorithm {other:?}")),
    }
}

/// Networks, blank or comma between them. IPv6 ones say nothing here.
fn nets(list: &[&str]) -> Result<Nets, String> {
    let mut nets: Vec<Ipv4Net> = Vec::new();
    for text in list.iter().flat_map(|word| word.split(',')).filter(|t| !t.is_empty() && !t.contains(':')) {
        let net = text.parse().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from));
        nets.push(net.ok_or_else(|| format!("{text:?} is no network"))?);
    }
    if nets.is_empty() { Err("names no IPv4 network".to_owned()) } else { Ok(Nets::new(nets)) }
}

/// A line of a page with statistics, without its first word.
pub(super) fn page_line(page: &mut PageView, words: &[&str]) -> Result<(), String> {
    match words {
        ["enable"] => {}
        ["uri", uri] => page.uri = Some(parse(uri, "a path")?),
        ["realm", realm] => page.realm = Some(parse(realm, "a name")?),
        ["auth", auth] if auth.contains(':') => page.auth.push(parse(auth, "a user and password")?),
        _ => return Err("is not known".to_owned()),
    }
    Ok(())
}

fn cookie(name: &str, options: &[&str]) -> Result<Stickiness, String> {
    let name: Word = parse(name, "the name of a cookie")?;
    let (mut mode, mut domains) = (CookieMode::Insert, Vec::new());
    let (mut indirect, mut nocache, mut postonly) = (false, false, false);
    let mut rest = options;
    while let [word, after @ ..] = rest {
        rest = after;
        match *word {
            "insert" => mode = CookieMode::Insert,
            "rewrite" => mode = CookieMode::Rewrite,
            "prefix" => mode = CookieMode::Prefix,
            "indirect" => indirect = true,
            "nocache" => nocache = true,
            "postonly" => postonly = true,
            "domain" => {
                let domain = after.first().ok_or("domain lacks a value")?;
                domains.push(parse(domain, "a domain")?);
                rest = after.get(1..).unwrap_or_default();
            }
            other => return Err(format!("{other:?} is not known")),
        }
    }
    Ok(Stickiness::Cookie { name, mode, indirect, nocache, postonly, domains })
}

fn application(name: &str, options: &[&str]) -> Result<Stickiness, String> {
    // It becomes part of an expression.
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Err(format!("{name:?} is not the name of a cookie"));
    }
    let name: Word = parse(name, "the name of a cookie")?;
    let (mut length, mut hold) = (52, Millis(3 * 3_600_000));
    let (mut prefix, mut request_learn, mut query) = (false, false, false);
    let mut rest = options;
    while let [word, after @ ..] = rest {
        let value = after.first().copied().ok_or_else(|| format!("{word} lacks a value"));
        rest = after;
        match *word {
            "prefix" => prefix = true,
            "request-learn" => request_learn = true,
            "len" => {
                length = number(value?).and_then(|n| match n {
                    1..=LENGTH => Ok(n),
                    _ => Err(format!("{n} is no length of a cookie")),
                })?
            }
            "timeout" => {
                let text = value?;
                hold = Millis::read(text, 1).ok_or_else(|| format!("{text:?} is no time"))?;
            }
            "mode" => match value? {
                "path-parameters" => query = false,
                "query-string" => query = true,
                other => return Err(format!("there is no mode {other:?}")),
            },
            other => return Err(format!("{other:?} is not known")),
        }
        if matches!(*word, "len" | "timeout" | "mode") {
            rest = after.get(1..).unwrap_or_default();
        }
    }
    Ok(Stickiness::Application { name, length, hold, prefix, request_learn, query })
}
