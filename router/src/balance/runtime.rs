//! The difference between the servers that a worker has and those that it should have, as commands of the
//! runtime interface.

use std::collections::BTreeMap;

use super::{
    config::{cookie_key, server_name, server_words},
    model::Balance,
    stats::{self, Row},
};

/// A command, and whether the worker may refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its words.
    pub words: String,
    /// A refusal is no failure: it is tried again later.
    pub may_fail: bool,
}

fn order(words: String) -> Order {
    Order { words, may_fail: false }
}

/// Commands that give a worker the servers that it should have. A server that goes finishes its connections:
/// it is put aside at once and deleted when the last one has ended.
pub fn orders(wanted: &Balance, rows: &[Row]) -> Vec<Order> {
    let mut orders = Vec::new();
    let servers = rows.iter().filter(|row| row.is_server());
    let mut present: BTreeMap<String, &Row> =
        servers.map(|row| (stats::key(&row.pool, &row.name), row)).collect();
    for (front, rule) in &wanted.rules {
        let pool = front.pool();
        for at in &rule.servers {
            let path = stats::key(&pool, &server_name(*at));
            match present.remove(&path) {
                None => {
                    orders.push(order(format!("add server {path} {}", server_words(rule, *at))));
                    if let Some(key) = cookie_key(front, rule) {
                        // Gives the new server its cookie; the others keep theirs.
                        orders.push(order(format!("set dynamic-cookie-key backend {pool} {key}")));
                    }
                    if rule.check {
                        orders.push(order(format!("enable health {path}")));
                    }
                    orders.push(order(format!("enable server {path}")));
                }
                Some(row) if row.is_put_aside() => {
                    orders.push(order(format!("set server {path} state ready")));
                }
                Some(_) => {}
            }
        }
    }
    let pools: Vec<String> = wanted.rules.keys().map(super::model::Front::pool).collect();
    // Rows of rules that are not wanted belong to pages with statistics, or go with the next worker.
    for (path, row) in present.into_iter().filter(|(_, row)| pools.contains(&row.pool)) {
        if !row.is_put_aside() {
            orders.push(order(format!("set server {path} state maint")));
        }
        orders.push(Order { words: format!("del server {path}"), may_fail: true });
    }
    orders
}

/// Whether the answer to a command says that it was done.
pub fn is_done(answer: &str) -> bool {
    matches!(answer.trim(), "" | "New server registered." | "Server deleted.")
}
