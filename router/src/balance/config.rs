//! HAProxy's configuration: a pure function of what is to be balanced.
//!
//! All but the servers makes the *seal*, which the running worker carries as its description: where it stays the
//! same, servers come and go by the runtime interface alone. Servers are named by their address, so that
//! nothing depends on their order.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddrV4,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::model::{Algorithm, Balance, Front, Page, PageView, Rule, Stickiness, Text};

/// Connections at once where the document does not say.
const CONNECTIONS: u32 = 4096;
/// Reloads that connections of a worker outlive.
const RELOADS: u32 = 50;
/// Where workers send what they complain about.
pub const LOG: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 3914);
/// Where a leaving worker hands its tables of clients to the next one.
const PEER: &str = "127.0.0.1:3915";
/// Clients that a table of application cookies holds.
const COOKIES: u32 = 204_800;
/// Networks on one line.
const NETS: usize = 40;
/// The account that it runs as.
const USER: &str = "haproxy";

/// Where its files are.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Files below a folder.
    pub const fn below(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder of all of them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("haproxy.cfg")
    }

    /// Where a worker takes commands.
    pub fn worker(&self) -> PathBuf {
        self.folder.join("worker.sock")
    }

    /// Where the master does.
    pub fn master(&self) -> PathBuf {
        self.folder.join("master.sock")
    }

    /// The master's process.
    pub fn pid(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// What the next worker learns of the servers' health.
    pub fn servers(&self) -> PathBuf {
        self.folder.join("servers")
    }

    /// What was counted by workers that are gone.
    pub fn tally(&self) -> PathBuf {
        self.folder.join("tally")
    }

    /// An empty folder: all that a worker sees of the disk.
    pub fn empty(&self) -> PathBuf {
        self.folder.join("empty")
    }

    /// Certificates.
    pub fn certificates(&self) -> PathBuf {
        self.folder.join("certificates")
    }
}

/// The certificates by the names of their files, which tell their content.
pub fn certificates(balance: &Balance) -> BTreeMap<String, &str> {
    let tls = balance.rules.values().filter_map(|rule| rule.tls.as_ref());
    tls.map(|tls| (certificate(&tls.pem), tls.pem.as_str())).collect()
}

pub(crate) fn certificate(pem: &str) -> String {
    format!("{}.pem", digest(pem))
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(16).fold(String::new(), |mut all, byte| {
        // Writing to a string cannot fail.
        let _ = write!(all, "{byte:02x}");
        all
    })
}

/// What tells whether a worker must be replaced: everything but the servers.
pub fn seal(balance: &Balance, files: &Files) -> String {
    digest(&text(balance, files, "", false))
}

/// The whole configuration.
pub fn render(balance: &Balance, files: &Files) -> String {
    text(balance, files, &seal(balance, files), true)
}

/// A server's name.
pub fn server_name(at: SocketAddrV4) -> String {
    at.to_string()
}

/// What follows a server's name in a configuration and in the command that adds it.
pub fn server_words(rule: &Rule, at: SocketAddrV4) -> String {
    let check = if rule.check { " check" } else { "" };
    let proxy = if rule.proxy_protocol { " send-proxy" } else { "" };
    format!("{at}{check}{proxy}")
}

/// What the values of a rule's own cookies are made with; `None` where it has none. The same for each router that has
/// the rule, so that cookies outlive a router.
pub fn cookie_key(front: &Front, rule: &Rule) -> Option<String> {
    match &rule.stickiness {
        Some(Stickiness::Cookie { name, .. }) => Some(digest(&format!("{} {name}", front.pool()))),
        _ => None,
    }
}

/// Lines of a configuration.
struct Lines(String);

impl Lines {
    fn section(&mut self, words: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{words}");
    }

    fn line(&mut self, words: impl std::fmt::Display) {
        let _ = writeln!(self.0, "    {words}");
    }
}

fn text(balance: &Balance, files: &Files, seal: &str, servers: bool) -> String {
    let mut out = Lines(String::new());
    let limits = &balance.limits;
    out.section("global");
    out.line(format_args!("description {seal}"));
    out.line(format_args!("maxconn {}", limits.connections.unwrap_or(CONNECTIONS).max(1)));
    out.line(format_args!(
        "stats socket {} mode 600 level admin expose-fd listeners",
        files.worker().display()
    ));
    out.line("stats timeout 20d");
    out.line(format_args!("chroot {}", files.empty().display()));
    out.line(format_args!("user {USER}"));
    out.line(format_args!("group {USER}"));
    out.line(format_args!("log {LOG} local0 warning"));
    out.line("localpeer trivium");
    out.line(format_args!("mworker-max-reloads {RELOADS}"));
    out.line(format_args!("server-state-file {}", files.servers().display()));
    out.section("defaults");
    for line in [
        "mode tcp",
        "log global",
        "option redispatch",
        "option dontlognull",
        "option contstats",
        "load-server-state-from-file global",
    ] {
        out.line(line);
    }
    out.line(format_args!("retries {}", limits.retries.unwrap_or(3)));
    for (name, otherwise) in [("connect", 5000), ("client", 50_000), ("server", 50_000)] {
        if !limits.timeouts.contains_key(name) {
            out.line(format_args!("timeout {name} {otherwise}"));
        }
    }
    timeouts(&mut out, &limits.timeouts);
    let tables = |rule: &Rule| {
        matches!(rule.stickiness, Some(Stickiness::Source { .. } | Stickiness::Application { .. }))
    };
    if balance.rules.values().any(tables) {
        out.section("peers kept");
        out.line(format_args!("peer trivium {PEER}"));
    }
    for (at, page) in &balance.pages {
        stats(&mut out, at, page, limits.close);
    }
    for (front, rule) in &balance.rules {
        listen(&mut out, balance, files, (front, rule), servers);
    }
    out.0
}

fn timeouts(out: &mut Lines, timeouts: &super::model::Timeouts) {
    for (name, time) in timeouts {
        out.line(format_args!("timeout {name} {}", time.0));
    }
}

fn stats(out: &mut Lines, at: &SocketAddrV4, page: &Page, close: bool) {
    out.section(format_args!("listen {}", page.name));
    out.line(format_args!("bind {at}"));
    out.line("mode http");
    if close {
        out.line("option httpclose");
    }
    view(out, &page.view);
}

fn view(out: &mut Lines, view: &PageView) {
    out.line("stats enable");
    let mut option = |word: &str, text: &Text| out.line(format_args!("stats {word} {text}"));
    view.uri.iter().for_each(|uri| option("uri", uri));
    view.realm.iter().for_each(|realm| option("realm", realm));
    view.auth.iter().for_each(|auth| option("auth", auth));
}

fn listen(out: &mut Lines, balance: &Balance, files: &Files, (front, rule): (&Front, &Rule), servers: bool) {
    out.section(format_args!("listen {}", front.pool()));
    let mut bind = format!("bind {}", front.socket());
    if let Some(tls) = &rule.tls {
        let path = files.certificates().join(certificate(&tls.pem));
        // Writing to a string cannot fail.
        let _ = write!(bind, " ssl crt {}", path.display());
        for (word, value) in [
            ("alpn", &tls.alpn),
            ("ssl-min-ver", &tls.version),
            ("ciphers", &tls.ciphers),
            ("ciphersuites", &tls.suites),
        ] {
            if let Some(value) = value {
                let _ = write!(bind, " {word} {value}");
            }
        }
        bind.push_str(if tls.tickets { "" } else { " no-tls-tickets" });
    }
    out.line(bind);
    if rule.http {
        out.line("mode http");
        out.line("option forwardfor");
        if rule.close.unwrap_or(balance.limits.close) {
            out.line("option httpclose");
        }
        if rule.forwarded_proto {
            out.line("http-request add-header X-Forwarded-Proto https");
        }
        if let Some(page) = rule.page.as_ref().or(balance.limits.page.as_ref()) {
            view(out, page);
        }
    }
    for nets in rule.sources.as_slice().chunks(NETS) {
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        out.line(format_args!("acl network_allowed src {}", nets.join(" ")));
    }
    if !rule.sources.is_any() {
        out.line("tcp-request connection reject if !network_allowed");
    }
    if let Some(connections) = rule.connections {
        out.line(format_args!("maxconn {connections}"));
    }
    timeouts(out, &rule.timeouts);
    out.line(format_args!("balance {}", rule.algorithm.word()));
    if rule.algorithm == Algorithm::Source {
        // Servers can come and go, and most clients stay where they are.
        out.line("hash-type consistent");
    }
    stick(out, front, rule);
    // What the servers are told belongs to the seal, who they are does not.
    out.line(format_args!(
        "# each server: {}",
        server_words(rule, SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0))
    ));
    for at in rule.servers.iter().filter(|_| servers) {
        out.line(format_args!("server {} {}", server_name(*at), server_words(rule, *at)));
    }
}

fn stick(out: &mut Lines, front: &Front, rule: &Rule) {
    match &rule.stickiness {
        None => {}
        Some(Stickiness::Source { size, expire }) => {
            out.line(format_args!("stick-table type ip size {size} expire {} peers kept", expire.0));
            out.line("stick on src");
        }
        Some(Stickiness::Cookie { name, mode, indirect, nocache, postonly, domains }) => {
            let mut line = format!("cookie {name} {}", mode.word());
            for (word, _) in [("indirect", indirect), ("nocache", nocache), ("postonly", postonly)]
                .iter()
                .filter(|(_, on)| **on)
            {
                // Writing to a string cannot fail.
                let _ = write!(line, " {word}");
            }
            for domain in domains {
                let _ = write!(line, " domain {domain}");
            }
            out.line(format_args!("{line} dynamic"));
            if let Some(key) = cookie_key(front, rule) {
                out.line(format_args!("dynamic-cookie-key {key}"));
            }
        }
        Some(Stickiness::Application { name, length, hold, prefix, request_learn, query }) => {
            let table = format!("stick-table type string len {length} size {COOKIES}");
            out.line(format_args!("{table} expire {} peers kept", hold.0));
            let (request, response) = if *prefix {
                // What follows the name: the rest of the cookie's name, and its value.
                let rest = |header: &str| {
                    let all = format!("'{header},regsub(\".*{name}([^;]*).*\",\"\\1\",)'");
                    format!("{all} if {{ {header} -m sub {name} }}")
                };
                (rest("req.fhdr(cookie)"), rest("res.fhdr(set-cookie)"))
            } else {
                (format!("req.cook({name})"), format!("res.cook({name})"))
            };
            out.line(format_args!("stick match {request}"));
            let delimiter = if *query { "?" } else { ";" };
            out.line(format_args!("stick match url_param({name},{delimiter})"));
            out.line(format_args!("stick store-response {response}"));
            if *request_learn {
                out.line(format_args!("stick store-request {request}"));
            }
        }
    }
}
