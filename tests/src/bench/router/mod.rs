//! `router`: what a change costs, what a restart costs, what is lost meanwhile, how fast guests are answered,
//! and what packets pay for rules.

mod answers;
mod balance;
mod changes;
mod documents;
mod growth;
mod kea;
mod lab;
mod lost;
mod peer;
pub(super) mod peers;
mod probe;
mod ssh;

/// The parts, in order, by the names that the command line knows.
const PARTS: [(&str, fn()); 10] = [
    ("change_1000", || changes::run(1000, 20.0)),
    ("change_10000", || changes::run(10_000, 40.0)),
    ("change_ssh", || ssh::run(1000)),
    ("restart_250", || changes::restart(250)),
    ("lost", || lost::run(1000)),
    ("lb_reload", balance::run),
    ("dns_local", answers::local_names),
    ("dns_cached", answers::cached_names),
    ("dhcp", answers::leases),
    ("forward_growth", growth::run),
];

/// Measures and prints the parts that are named, everything where none is.
///
/// # Errors
/// What is wrong with a name.
pub fn run(parts: &[String]) -> Result<(), String> {
    super::run_parts(&PARTS, parts)
}
