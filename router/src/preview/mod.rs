//! What a document would change, in the words of an operator, without changing it: everything that follows from the
//! state is worked out for the state that is and for the one that would be, and set side by side.

mod filter;
mod parts;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv4Addr};

use crate::{
    link::Devices,
    nat::{self, Lost},
    plan::{Plan, plan},
    serving,
    snapshot::{Dhcp, Dns, Metadata},
    state::{Hosts, Setup, State},
    view::View,
};

/// Everything that follows from a state.
#[derive(Debug, Clone)]
pub struct Side {
    plan: Plan,
    dhcp: (Dhcp, Hosts),
    dns: (Dns, Hosts),
}

impl Side {
    /// Works it out.
    pub fn new(setup: &Setup, state: &State, devices: &Devices) -> Self {
        let view = View::new(setup, state, devices);
        let hosts = || state.hosts.clone();
        let (dhcp, dns) = ((serving::dhcp(&view, devices), hosts()), (serving::dns(&view), hosts()));
        Self { plan: plan(setup, state, devices), dhcp, dns }
    }
}

/// Lines of a comparison: `+` is new, `-` goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    text: String,
    section: &'static str,
}

impl Changes {
    /// Compares what is with what would be.
    pub fn between(before: &Side, after: &Side) -> Self {
        let mut changes = Self { section: "packet filter", ..Self::default() };
        filter::compare(&before.plan.table, &after.plan.table, &mut changes);
        changes.sets("addresses, routes and rules", parts::links, &before.plan.links, &after.plan.links);
        changes.sets("settings of NICs", parts::settings, &before.plan.settings, &after.plan.settings);
        changes.sets("load balancing", parts::balance, &before.plan.balance, &after.plan.balance);
        changes.sets("DHCP", parts::dhcp, &before.dhcp, &after.dhcp);
        changes.sets("names", parts::dns, &before.dns, &after.dns);
        changes.section = "connections that would be ended";
        for lost in nat::lost(&before.plan.table, &after.plan.table) {
            changes.goes(match lost {
                Lost::Address(address) => format!("all of {address}"),
                Lost::Datagrams(address, ports) => format!("datagrams to {address}, ports {ports}"),
                Lost::DatagramsOf(address, port, server) => {
                    format!("datagrams to {address}, port {port}, of server {server}")
                }
            });
        }
        changes
    }

    /// Adds what would become of the metadata of a guest.
    pub fn metadata(&mut self, guest: Ipv4Addr, before: Option<&Metadata>, after: &Metadata) {
        let lines = |data: &Metadata| parts::metadata(guest, data);
        self.section = "metadata";
        self.compare(&before.map(lines).unwrap_or_default(), &lines(after));
    }

    /// Adds that a guest would get a password; which one, nobody is told.
    pub fn password(&mut self, guest: Ipv4Addr) {
        self.section = "passwords";
        self.comes(format!("{guest} gets a new one"));
    }

    /// All lines; empty where nothing would change.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn sets<T>(&mut self, section: &'static str, lines: fn(&T) -> BTreeSet<String>, before: &T, after: &T)
    where
        T: PartialEq,
    {
        self.section = section;
        if before != after {
            self.compare(&lines(before), &lines(after));
        }
    }

    fn compare(&mut self, before: &BTreeSet<String>, after: &BTreeSet<String>) {
        before.difference(after).for_each(|line| self.goes(line));
        after.difference(before).for_each(|line| self.comes(line));
    }

    fn comes(&mut self, line: impl std::fmt::Display) {
        self.line('+', line);
    }

    fn goes(&mut self, line: impl std::fmt::Display) {
        self.line('-', line);
    }

    fn line(&mut self, sign: char, line: impl std::fmt::Display) {
        if !self.section.is_empty() {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(self.text, "{}", self.section);
            self.section = "";
        }
        let _ = writeln!(self.text, "  {sign} {line}");
    }
}
