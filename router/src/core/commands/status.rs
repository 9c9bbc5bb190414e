//! `status`: what an operator asks first.

use std::fmt::Write as _;

use common::health;

use super::Commands;
use crate::view::Guest6;

impl Commands {
    /// What is in force, in figures, and whether all is well.
    pub(super) async fn status(&self) -> String {
        let keeper = self.engine.lock().await.vpn();
        let tunnels = keeper.words().await;
        let clients = keeper.report().await.map(|report| report.clients).unwrap_or_default();
        let mut engine = self.engine.lock().await;
        engine.balancer().refresh().await;
        let (balanced, well) = (engine.balancer().report(), engine.balancer().is_well());
        let (pair, sessions) = (engine.pair(), engine.sessions().await);
        let (setup, state) = (engine.network().setup(), engine.network().state());
        let mut text = String::new();
        let connected = *engine.handover().connected().borrow();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {value}");
        };
        line("role", "router".to_owned());
        line("name", setup.name.clone());
        line("core running for", format!("{} s", self.started.elapsed().as_secs()));
        line(
            "control",
            format!("{} {}/{}", setup.control.name(), setup.control.address, setup.control.prefix),
        );
        if let Some((standing, _)) = &pair {
            line("of a pair", standing.clone());
        }
        let view = engine.network().view();
        for nic in view.guests.values() {
            let role = if nic.tier.is_some() { "tier" } else { "guest" };
            nic.addresses.iter().for_each(|address| line(role, format!("{} {address}", nic.name)));
            let six = nic.six.iter().flat_map(Guest6::routers);
            six.for_each(|address| line(role, format!("{} {address}", nic.name)));
        }
        for (mac, tier) in
            state.tiers.iter().filter(|(mac, _)| engine.network().devices().by_mac(**mac).is_none())
        {
            line("tier without its NIC", format!("{mac} {}/{}", tier.address, tier.prefix));
        }
        for (address, details) in &state.addresses {
            let role = if details.private_gateway { "private gateway" } else { "public" };
            line(role, format!("{address}/{}", details.prefix));
        }
        for address in view.public.values().flat_map(|nic| &nic.six) {
            line("public", address.to_string());
        }
        for (name, figure) in engine.figures() {
            line(name, figure.to_string());
        }
        for rule in balanced {
            let (up, servers, current, count) = (rule.up, rule.servers, rule.current, rule.count);
            let servers =
                format!("{up} of {servers} servers, {current} connections, {} since it began", count.total);
            let bytes = format!("{} bytes received, {} sent", count.received, count.sent);
            line(&format!("balanced {}", rule.front), format!("{servers}, {bytes}"));
        }
        for tunnel in tunnels {
            line(&format!("site {}", tunnel.peer), tunnel.text);
        }
        for client in clients {
            line("client", format!("{} from {}", client.user, client.from));
        }
        for (session, user) in engine.machine().sessions() {
            line("session", format!("{session} of {user}"));
        }
        for (name, figure) in &engine.counters {
            line(name, figure.to_string());
        }
        for session in sessions.iter().flat_map(|(report, _)| report.lines()).filter(|l| !l.trim().is_empty())
        {
            line("bgp", session.to_owned());
        }
        if let Some(last) = engine.last() {
            let ago = last.at.elapsed().unwrap_or_default().as_secs();
            let ms = last.took.as_secs_f64() * 1000.0;
            line("last change", format!("{}, took {ms:.1} ms, {ago} s ago", last.what));
        }
        let mut causes = Vec::new();
        if !well {
            causes.push("HAProxy is not there: nothing is balanced".to_owned());
        }
        if pair.is_some_and(|(_, well)| !well) {
            causes.push("keepalived or conntrackd is not there: the other router may be alone".to_owned());
        }
        if sessions.as_ref().is_some_and(|(_, well)| !well) {
            causes.push("FRR is not there: routers outside do not hear of guests' networks".to_owned());
        }
        if !connected {
            causes.push("serve is not there: guests get no answers".to_owned());
        }
        causes.extend(engine.machine().trouble());
        let failures = engine.handover().failures();
        causes.extend(failures.iter().map(|(name, why)| format!("socket {name} cannot be opened: {why}")));
        text + &health::text(causes.into_iter())
    }
}
