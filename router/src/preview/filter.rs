//! Rules of chains, and elements of maps and sets.

use std::collections::{BTreeMap, BTreeSet};

use super::Changes;
use crate::{
    explain::text,
    nft::{Chain, Table},
};

/// Says what differs, chain by chain and map by map.
pub(super) fn compare(before: &Table, after: &Table, changes: &mut Changes) {
    before.counters.difference(&after.counters).for_each(|name| changes.goes(format_args!("counter {name}")));
    after
        .counters
        .difference(&before.counters)
        .for_each(|name| changes.comes(format_args!("counter {name}")));
    let nothing = BTreeMap::new();
    let maps: BTreeSet<&String> = before.maps.keys().chain(after.maps.keys()).collect();
    for name in maps {
        let elements = |table: &'_ Table| table.maps.get(name).map(|map| map.elements.clone());
        let (old, new) = (elements(before), elements(after));
        let (old, new) = (old.as_ref().unwrap_or(&nothing), new.as_ref().unwrap_or(&nothing));
        let line = |key, value| format!("{name}[{}]{}", text::key(key), text::value(value));
        for (key, value) in old.iter().filter(|(key, value)| new.get(*key) != Some(value)) {
            changes.goes(line(key, value));
        }
        for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
            changes.comes(line(key, value));
        }
    }
    let chains: BTreeSet<&String> = before.chains.keys().chain(after.chains.keys()).collect();
    for name in chains {
        let (old, new) = (before.chains.get(name), after.chains.get(name));
        if old != new {
            rules(name, &lines(old), &lines(new), changes);
        }
    }
}

fn lines(chain: Option<&Chain>) -> Vec<String> {
    let rules = chain.into_iter().flat_map(|chain| &chain.rules);
    rules.map(|rule| format!("{}{}", text::conditions(&rule.matches), text::action(&rule.action))).collect()
}

/// Rules have an order: what is the same at the beginning and at the end is left out, the rest goes and comes. The
/// number is that of the rule in its chain.
pub(super) fn rules(name: &str, old: &[String], new: &[String], changes: &mut Changes) {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let left = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(left).take_while(|(a, b)| a == b).count();
    let numbered = |rules: &[String]| -> Vec<String> {
        let middle = rules.iter().enumerate().take(rules.len() - tail).skip(same);
        middle.map(|(n, rule)| format!("{name} rule {}: {rule}", n + 1)).collect()
    };
    numbered(old).iter().for_each(|line| changes.goes(line));
    numbered(new).iter().for_each(|line| changes.comes(line));
}
