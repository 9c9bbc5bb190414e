//! Tables of the packet filter as the texts of the `nft` program, and the difference of two of them as one transaction.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

/// All tables of ours, by family and name: `bridge trivium`.
pub(super) type Ruleset = BTreeMap<&'static str, Table>;

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Sets and maps by name.
    pub(super) sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub(super) chains: BTreeMap<String, Chain>,
}

/// A set, or a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// `type ifname`; a map has a colon in it.
    pub(super) kind: &'static str,
    /// Its elements; of a map `key : value`.
    pub(super) elements: BTreeSet<String>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where packets enter it from the kernel; empty where only other chains lead to it.
    pub(super) hook: &'static str,
    /// Its rules.
    pub(super) rules: Vec<String>,
}

impl Table {
    /// Adds a chain with these rules.
    pub(super) fn chain<R: Into<String>>(
        &mut self,
        name: impl Into<String>,
        hook: &'static str,
        rules: impl IntoIterator<Item = R>,
    ) {
        let rules = rules.into_iter().map(Into::into).collect();
        self.chains.insert(name.into(), Chain { hook, rules });
    }

    /// Makes a set, or a map, where it is missing.
    pub(super) fn set(&mut self, name: impl Into<String>, kind: &'static str) {
        self.sets.entry(name.into()).or_insert_with(|| Set { kind, ..Set::default() });
    }

    /// Adds an element to a set that is there.
    pub(super) fn add(&mut self, name: &str, element: String) {
        if let Some(set) = self.sets.get_mut(name) {
            set.elements.insert(element);
        }
    }
}

impl Set {
    fn word(&self) -> &'static str {
        if self.kind.contains(':') { "map" } else { "set" }
    }
}

/// The name of an empty chain that says that this ruleset is in force.
pub(super) fn seal(ruleset: &Ruleset) -> String {
    let nothing = Ruleset::new();
    let digest = Sha256::digest(changes(&nothing, ruleset).as_bytes());
    format!("sealed_{}", hex::encode(&digest[..16]))
}

/// Replaces whatever the kernel has under the names of these tables, and `others`, which are to go.
pub(super) fn replacement(new: &Ruleset, others: &[&str]) -> String {
    let mut text = String::new();
    for name in new.keys().copied().chain(others.iter().copied().filter(|name| !new.contains_key(name))) {
        // Deleting what may not be there is an error, so it is added first.
        text.push_str(&format!("add table {name}\ndelete table {name}\n"));
    }
    text + &changes(&Ruleset::new(), new)
}

/// Turns `old`, which the kernel has, into `new`: empty where nothing differs. First what is declared, then rules and
/// elements, and last what is no longer needed.
pub(super) fn changes(old: &Ruleset, new: &Ruleset) -> String {
    let mut text = String::new();
    let nothing = Table::default();
    for (name, table) in new {
        if !old.contains_key(name) {
            text.push_str(&format!("add table {name}\n"));
        }
        change(&mut text, name, old.get(name).unwrap_or(&nothing), table);
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        text.push_str(&format!("delete table {name}\n"));
    }
    text
}

fn change(text: &mut String, table: &str, old: &Table, new: &Table) {
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        say(format!("add {} {table} {name} {{ {}; }}", set.word(), set.kind));
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        let hook = if chain.hook.is_empty() { String::new() } else { format!(" {{ {} }}", chain.hook) };
        say(format!("add chain {table} {name}{hook}"));
    }
    for (name, chain) in &new.chains {
        let before = old.chains.get(name).map_or(&[][..], |chain| &chain.rules);
        if before == chain.rules {
            continue;
        }
        if !before.is_empty() {
            say(format!("flush chain {table} {name}"));
        }
        for rule in &chain.rules {
            say(format!("add rule {table} {name} {rule}"));
        }
    }
    let nothing = BTreeSet::new();
    for (name, set) in &new.sets {
        let before = old.sets.get(name).map_or(&nothing, |set| &set.elements);
        let list = |elements: Vec<&String>| elements.into_iter().cloned().collect::<Vec<_>>().join(", ");
        let gone: Vec<_> = before.difference(&set.elements).collect();
        if !gone.is_empty() {
            say(format!("delete element {table} {name} {{ {} }}", list(gone)));
        }
        let fresh: Vec<_> = set.elements.difference(before).collect();
        if !fresh.is_empty() {
            say(format!("add element {table} {name} {{ {} }}", list(fresh)));
        }
    }
    let gone = || old.chains.keys().filter(|name| !new.chains.contains_key(*name));
    for name in gone() {
        say(format!("flush chain {table} {name}"));
    }
    for name in gone() {
        say(format!("delete chain {table} {name}"));
    }
    for (name, set) in old.sets.iter().filter(|(name, _)| !new.sets.contains_key(*name)) {
        say(format!("delete {} {table} {name}", set.word()));
    }
}
