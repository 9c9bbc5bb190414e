//! The secondary storage VM: fetches templates, volumes and snapshots into stores and moves them
//! between stores.
//!
//! - `ssvm core`: privileged; mounts, state, the management channel.
//! - `ssvm serve`: own user, shut in; touches the stores and the strangers' bytes that go into them, and
//!   answers browsers and the other secondary storage VMs.

mod core;
mod format;
pub mod fuzz;
mod layout;
mod order;
mod source;
mod store;
mod transfer;
mod web;
mod worker;

use common::paths::Paths;

/// Runs the core until the service is stopped.
///
/// # Errors
/// Why it cannot run.
pub fn core(paths: &Paths) -> Result<(), String> {
    core::run(paths).map_err(|e| e.to_string())
}

/// Runs the part that meets strangers until the service is stopped.
///
/// # Errors
/// Why it cannot run.
pub fn serve(paths: &Paths) -> Result<(), String> {
    worker::run(paths).map_err(|e| e.to_string())
}
