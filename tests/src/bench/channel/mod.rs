//! `channel`: one manager with many agents; an agent whose server is killed while it is at work; and how long a router is
//! away whose host is cut off.

mod agents;
mod host_lost;
mod reconnect;

use super::{Part, run_parts};

const PARTS: [Part; 3] =
    [("agents", agents::measure), ("reconnect", reconnect::measure), ("host_lost", host_lost::measure)];

/// Measures and prints the parts that are named, everything where none is.
///
/// # Errors
/// What is wrong with a name.
pub fn run(parts: &[String]) -> Result<(), String> {
    run_parts(&PARTS, parts)
}
