//! `router`: what a change costs, what a restart costs, what is lost meanwhile, and how fast guests are answered.

mod answers;
mod changes;
mod lab;
mod lost;
mod peer;

/// Measures and prints everything.
pub fn run() {
    changes::run(1000, 20.0);
    changes::run(10_000, 40.0);
    changes::restart(250);
    lost::run(1000);
    answers::names();
    answers::leases();
}
