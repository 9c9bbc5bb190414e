//! What an operator asks on the VM: `status`, `sessions`, `cut NUMBER`, `recordings`; and `agent reload`, by which the
//! shim says that new certificates are there.

use std::fmt::Write as _;

use common::shim::wire::{Reply, Request};

use super::{Proxy, plan::listeners, recordings};
use crate::wire::{CUT, now};

/// Answers one command.
pub(super) async fn answer(proxy: &Proxy, request: &Request) -> Reply {
    let words: Vec<&str> = request.words.iter().map(String::as_str).collect();
    match words[..] {
        ["status"] => Reply::ok(status(proxy)),
        ["agent", "reload"] => {
            if let Some(agent) = proxy.agent.get() {
                agent.reload().await;
            }
            Reply::default()
        }
        ["sessions"] => Reply::ok(sessions(proxy)),
        ["cut", number] => cut(proxy, number),
        ["recordings"] => list(proxy),
        ["recordings", "remove", name] => remove(proxy, name),
        ["recordings", ..] => Reply::fail(2, "usage: recordings [remove NAME]"),
        ["cut", ..] => Reply::fail(2, "usage: cut NUMBER, as sessions lists them"),
        [command, ..] => Reply::fail(1, format_args!("{command}: the console proxy has no such command")),
        [] => Reply::fail(1, "no command"),
    }
}

fn status(proxy: &Proxy) -> String {
    let mut text = format!("console proxy {}\n", proxy.identity.name);
    let channel = match proxy.agent.get().map(|agent| agent.status().borrow().clone()) {
        Some(status) => match (status.server, status.last_error) {
            (Some(server), _) => {
                format!("connected to {server}{}", if status.ready { ", ready" } else { "" })
            }
            (None, Some(error)) => format!("not connected: {error}"),
            (None, None) => "not connected".to_owned(),
        },
        None => "not started".to_owned(),
    };
    let state = proxy.state();
    let (open, waiting) = (state.ledger.load().connections.len(), state.ledger.waiting());
    let started = state.settings.is_some();
    drop(state);
    let failures = proxy.serve.failures();
    let serve = if *proxy.serve.connected().borrow() { "running" } else { "not running" };
    // Writing into a string does not fail.
    let _ = writeln!(text, "management: {channel}");
    let _ = writeln!(text, "serve: {serve}");
    if started {
        for listener in listeners(&proxy.identity) {
            let how = failures.get(&listener.to_string()).map_or("listening", String::as_str);
            let _ = writeln!(text, "{listener}: {how}");
        }
    } else {
        text.push_str("listeners: not started by management yet\n");
    }
    let _ = writeln!(text, "sessions: {open} open, {waiting} ended and not yet reported");
    text + &proxy.health.text()
}

fn sessions(proxy: &Proxy) -> String {
    let mut text =
        "NUMBER VM HYPERVISOR CLIENT OPEN-SECONDS IDLE-SECONDS BYTES-DOWN BYTES-UP SESSION\n".to_owned();
    for (one, traffic) in proxy.state().ledger.sessions() {
        let seconds = |since: i64| (now() - since).max(0) / 1000;
        let client = traffic.map_or_else(|| "-".to_owned(), |traffic| traffic.client.to_string());
        let _ = writeln!(
            text,
            "{} {} {}:{} {client} {} {} {} {} {}",
            one.id,
            if one.tag.is_empty() { "-" } else { &one.tag },
            one.host,
            one.port,
            seconds(one.create_time),
            seconds(one.last_used_time),
            traffic.map_or(0, |traffic| traffic.down),
            traffic.map_or(0, |traffic| traffic.up),
            one.session_uuid.as_deref().unwrap_or("-")
        );
    }
    text
}

/// The recordings, the oldest first; a host fetches them by `scp`.
fn list(proxy: &Proxy) -> Reply {
    let folder = proxy.paths.recordings();
    let all = match recordings::list(&folder) {
        Ok(all) => all,
        Err(error) => return Reply::fail(1, format_args!("{}: {error}", folder.display())),
    };
    let state = proxy.state();
    let mut text = "BYTES STATE FILE\n".to_owned();
    for file in all {
        let written = state.tapes.values().any(|name| *name == file.name);
        let how = if written { "recording" } else { "ended" };
        let _ = writeln!(text, "{} {how} {}", file.size, folder.join(&file.name).display());
    }
    Reply::ok(text)
}

fn remove(proxy: &Proxy, name: &str) -> Reply {
    let name = name.rsplit('/').next().unwrap_or(name);
    match recordings::remove(&proxy.paths.recordings(), name) {
        Ok(()) => Reply::ok(format!("{name} is removed\n")),
        Err(error) => Reply::fail(1, format_args!("{name}: {error}")),
    }
}

fn cut(proxy: &Proxy, number: &str) -> Reply {
    let mut state = proxy.state();
    let Some(key) = number.parse().ok().and_then(|id| state.ledger.key(id)) else {
        return Reply::fail(1, format_args!("no open session has the number {number}"));
    };
    let mut cut = std::mem::take(&mut state.cut);
    cut.retain(|key| state.ledger.is_open(*key));
    cut.push(key);
    let published = proxy.serve.publish(CUT, &cut);
    state.cut = cut;
    match published {
        Ok(_) => Reply::ok(format!("session {number} is cut\n")),
        Err(error) => Reply::fail(1, error),
    }
}
