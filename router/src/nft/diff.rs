//! The difference of two tables as one transaction: what is declared first, then rules and elements,
//! what is no longer needed last. Only what differs is touched: single elements of maps, single chains.

use std::collections::BTreeMap;

use super::{
    render::{Command, Renderer},
    table::{Map, Table, differ_values},
};

/// Seals that may pile up before they are taken away.
const SEALS: usize = 64;

/// Turns `old`, which the kernel has, into `new`; nothing to do gives an empty list. `seal` is the name of the
/// new table's seal; `seals` are those that the kernel has, and afterwards those that it will have.
///
/// Old seals go only with a change that deletes something anyway: the kernel makes whoever deletes wait
/// for a grace period (15 ms measured), and most changes only add.
pub fn changes(old: &Table, new: &Table, seal: &str, seals: &mut Vec<String>) -> Vec<Command> {
    let mut render = Renderer::default();
    declare(&mut render, old, new, &BTreeMap::new());
    fill(&mut render, old, new);
    for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
        render.flush_chain(name);
    }
    for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
        render.delete_chain(name);
    }
    for (name, map) in old.maps.iter().filter(|(name, _)| !new.maps.contains_key(*name)) {
        render.delete_map(name, map);
    }
    for name in old.counters.difference(&new.counters) {
        render.delete_counter(name);
    }
    for helper in old.helpers.difference(&new.helpers) {
        render.delete_helper(*helper);
    }
    if !render.is_empty() {
        if render.deletes() || seals.len() >= SEALS || seals.iter().any(|present| present == seal) {
            seals.drain(..).for_each(|name| render.delete_chain(&name));
        }
        render.add_chain(seal, None);
        seals.push(seal.to_owned());
    }
    render.finish()
}

/// Replaces whatever the kernel has under the table's name by `new`, counters beginning at `figures`
/// (packets and bytes).
pub fn replacement(new: &Table, seal: &str, figures: &BTreeMap<String, (u64, u64)>) -> Vec<Command> {
    let mut render = Renderer::default();
    // Deleting what may not be there is an error, so it is added first.
    render.add_table();
    render.delete_table();
    render.add_table();
    let nothing = Table::default();
    declare(&mut render, &nothing, new, figures);
    fill(&mut render, &nothing, new);
    render.add_chain(seal, None);
    render.finish()
}

fn declare(render: &mut Renderer, old: &Table, new: &Table, figures: &BTreeMap<String, (u64, u64)>) {
    for name in new.counters.difference(&old.counters) {
        render.add_counter(name, figures.get(name).copied().unwrap_or_default());
    }
    for helper in new.helpers.difference(&old.helpers) {
        render.add_helper(*helper);
    }
    for (name, map) in new.maps.iter().filter(|(name, _)| !old.maps.contains_key(*name)) {
        render.add_map(name, map);
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        render.add_chain(name, chain.base);
    }
}

fn fill(render: &mut Renderer, old: &Table, new: &Table) {
    for (name, chain) in &new.chains {
        let before = old.chains.get(name);
        if before.is_some_and(|b| b.rules == chain.rules) {
            continue;
        }
        if before.is_some_and(|b| !b.rules.is_empty()) {
            render.flush_chain(name);
        }
        for rule in &chain.rules {
            render.add_rule(name, rule);
        }
    }
    for (name, map) in &new.maps {
        let nothing = BTreeMap::new();
        let before = old.maps.get(name).map_or(&nothing, |m: &Map| &m.elements);
        let (mut gone, mut fresh) = (Vec::new(), Vec::new());
        differ_values(before, &map.elements, |key, value, new| {
            if new { fresh.push((key, value)) } else { gone.push((key, value)) }
        });
        render.delete_elements(name, map, gone.into_iter());
        render.add_elements(name, map, fresh.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::plan,
        state::tests::{after, devices, forward, setup},
    };

    fn table(forwards: u16) -> Table {
        let documents: Vec<String> = (0..forwards)
            .map(|n| forward("203.0.113.10", &format!("{n}:{n}"), "10.1.1.20", "22:22", "", false))
            .collect();
        plan(&setup(), &after(&documents.iter().map(String::as_str).collect::<Vec<_>>()), &devices()).table
    }

    fn seal(table: &Table) -> String {
        Table::seal(table.digest())
    }

    /// The same as the tested function, with the seal that belongs to the new table.
    fn changes(old: &Table, new: &Table, seals: &mut Vec<String>) -> Vec<Command> {
        super::changes(old, new, &seal(new), seals)
    }

    fn text(changes: &[Command]) -> String {
        serde_json::to_string(changes).unwrap()
    }

    #[test]
    fn a_change_touches_its_elements_and_the_seal_alone() {
        let mut seals = vec![seal(&table(100))];
        let changes = changes(&table(100), &table(101), &mut seals);
        assert_eq!(changes.len(), 3, "{}", text(&changes));
        assert_eq!(seals.last(), Some(&seal(&table(101))));
        let text = text(&changes);
        assert!(!text.contains("delete"), "what only adds does not wait for the kernel: {text}");
        for part in [
            r#"{"concat":["203.0.113.10","tcp",100]},"10.1.1.20"]"#,
            r#"{"concat":["203.0.113.10","tcp",100]},22]"#,
            r#"{"add":{"chain":{"family":"inet","table":"trivium","name":"sealed_"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn nothing_changes_where_nothing_differs() {
        assert_eq!(changes(&table(3), &table(3), &mut Vec::new()), []);
    }

    #[test]
    fn old_seals_go_with_what_is_deleted_and_before_they_are_too_many() {
        let mut seals = vec![seal(&table(1)), seal(&table(2))];
        changes(&table(2), &table(1), &mut seals);
        assert_eq!(seals, [seal(&table(1))]);
        for n in 1..2 * u16::try_from(SEALS).unwrap() {
            changes(&table(n), &table(n + 1), &mut seals);
            assert!(seals.len() <= SEALS + 1);
        }
    }

    #[test]
    fn a_replacement_is_one_transaction_and_carries_the_counters() {
        let figures = BTreeMap::from([("usage_eth2_sent".to_owned(), (7, 5_000_000_000))]);
        let all = replacement(&table(1), &seal(&table(1)), &figures);
        let text = text(&all);
        assert!(text.starts_with(r#"[{"add":{"table":"#), "{text}");
        assert!(
            text.contains(r#""bytes":5000000000,"family":"inet","name":"usage_eth2_sent","packets":7"#),
            "{text}"
        );
    }
}
