//! `loadbalancer` (router contract 3.14 and 3.15): the whole configuration of all load balancers, as lines of
//! HAProxy's language. They are read into a model, never passed on: a line that is not known makes its rule
//! refused, and no other.

mod rule;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;

use serde_json::Value;

use self::words::Section;
use super::{DocumentError, Node};
use crate::{
    balance::{Balance, Front, Limits, Millis, PageView, TIMEOUTS},
    types::Transport,
};

/// Most rules.
const RULES: usize = 2000;
/// Most servers of all rules together.
const SERVERS: usize = 20_000;

/// A `loadbalancer` document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BalanceChange {
    /// What is to be balanced, less what was refused.
    pub balance: Balance,
    /// What was refused.
    pub refused: Vec<Refusal>,
}

/// A rule that cannot be right. The one before stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it would balance, where that can be told.
    pub front: Option<Front>,
    /// Its name in the document.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl BalanceChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let objects = root.objects("rules")?;
        let [node] = objects.as_slice() else {
            return Err(root.error("rules", format_args!("holds {} configurations, not one", objects.len())));
        };
        let Some(Value::Array(elements)) = node.get("configuration") else {
            return Err(node.error("configuration", "is missing, or no list"));
        };
        // A null among them says nothing.
        let certificates = certificates(node)?;
        let mut change = Self::default();
        for section in words::sections(elements.iter().filter_map(Value::as_str)) {
            change.section(&section, &certificates);
        }
        let (rules, servers) =
            (&change.balance.rules, change.balance.rules.values().map(|r| r.servers.len()).sum::<usize>());
        if rules.len() > RULES || servers > SERVERS {
            let reason = format_args!("holds more than {RULES} rules or {SERVERS} servers");
            return Err(node.error("configuration", reason));
        }
        Ok(change)
    }

    fn section(&mut self, section: &Section, certificates: &BTreeMap<String, String>) {
        let balance = &mut self.balance;
        match section.kind.as_str() {
            "global" => limits(section, &mut balance.limits, &mut None),
            "defaults" => {
                let mut page = None;
                limits(section, &mut balance.limits, &mut page);
                balance.limits.page = page;
            }
            "listen" => match rule::read(section, certificates) {
                Ok(rule::Listen::Placeholder) => {}
                Ok(rule::Listen::Page(at, page)) => {
                    let front = Front { address: *at.ip(), port: at.port(), transport: Transport::Tcp };
                    if balance.rules.contains_key(&front) || balance.pages.contains_key(&at) {
                        self.refuse(section, None, format!("{at} is taken"));
                    } else {
                        balance.pages.insert(at, page);
                    }
                }
                Ok(rule::Listen::Rule(front, rule)) => {
                    let page =
                        front.transport == Transport::Tcp && balance.pages.contains_key(&front.socket());
                    if page || balance.rules.contains_key(&front) {
                        self.refuse(section, None, format!("{front} is taken"));
                    } else {
                        balance.rules.insert(front, *rule);
                    }
                }
                Err((front, reason)) => self.refuse(section, front, reason),
            },
            other => {
                let reason = format!("section {other:?} is not known");
                self.refuse(section, None, reason);
            }
        }
    }

    fn refuse(&mut self, section: &Section, front: Option<Front>, reason: String) {
        let shown: String = section.name.chars().take(60).collect();
        let front = front.or_else(|| Front::of_pool(&section.name));
        self.refused.push(Refusal { front, name: format!("{} {shown}", section.kind), reason });
    }
}

/// Limits of `global` and `defaults`. What is not known there is named in the log and left out: it belongs to
/// no rule, and the program's user, sockets and log are ours anyway.
fn limits(section: &Section, limits: &mut Limits, page: &mut Option<PageView>) {
    for line in &section.lines {
        let words: Vec<&str> = match line {
            Ok(words) => words.iter().map(String::as_str).collect(),
            Err(reason) => {
                tracing::warn!(section = section.kind, reason, "a line is left out");
                continue;
            }
        };
        let known = match words.as_slice() {
            ["maxconn", n] if section.kind == "global" => {
                n.parse().ok().map(|n| limits.connections = Some(n))
            }
            ["retries", n] => n.parse().ok().map(|n| limits.retries = Some(n)),
            ["timeout", name, time] => timeout(name, time).ok().map(|time| {
                limits.timeouts.insert((*name).to_owned(), time);
            }),
            ["option", "httpclose"] => {
                limits.close = true;
                Some(())
            }
            ["no", "option", "httpclose"] | ["option", "http-keep-alive"] => {
                limits.close = false;
                Some(())
            }
            ["stats", "socket", ..] => Some(()),
            ["stats", words @ ..] => rule::page_line(page.get_or_insert_default(), words).ok(),
            ["log", ..] | ["maxpipes" | "chroot" | "user" | "group" | "mode", _] | ["daemon"] => Some(()),
            ["option", "dontlognull" | "redispatch" | "forwardfor" | "forceclose" | "tcplog" | "httplog"]
            | ["no", "option", "forceclose"] => Some(()),
            _ => None,
        };
        if known.is_none() {
            tracing::warn!(
                section = section.kind,
                line = words.join(" "),
                "a line is not known and left out"
            );
        }
    }
}

/// A time of a known name.
fn timeout(name: &str, time: &str) -> Result<Millis, String> {
    if !TIMEOUTS.contains(&name) {
        return Err(format!("there is no time-out {name:?}"));
    }
    Millis::read(time, 1).ok_or_else(|| format!("{time:?} is no time"))
}

/// Certificates by the name of their pool: certificate, chain and key in PEM.
fn certificates(node: &Node<'_>) -> Result<BTreeMap<String, String>, DocumentError> {
    let Some(Value::Array(_)) = node.get("ssl_certs") else { return Ok(BTreeMap::new()) };
    let mut all = BTreeMap::new();
    for item in node.objects("ssl_certs")? {
        let name: String = item.required("name")?;
        let mut pem = String::new();
        for part in ["cert", "chain", "key"] {
            let text = item.text(part)?.unwrap_or_default();
            pem.push_str(&text.replace("\r\n", "\n"));
            if !text.is_empty() && !text.ends_with('\n') {
                pem.push('\n');
            }
        }
        all.insert(name, pem);
    }
    Ok(all)
}
