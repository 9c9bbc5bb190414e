//! The secondary storage VM: fetches templates, volumes and snapshots into stores and moves them
//! between stores.
//!
//! - `ssvm core`: privileged; mounts, state, the management channel.
//! - `ssvm serve`: own user, shut in; touches the stores and the strangers' bytes that go into them, and
//!   answers browsers and the other secondary storage VMs.

mod core;
mod format;
mod layout;
mod order;
mod source;
mod store;
mod transfer;
mod web;
mod worker;

use std::process::ExitCode;

use common::{log, paths::Paths};

fn main() -> ExitCode {
    log::init();
    let paths = Paths::from_env();
    let result = match std::env::args().nth(1).as_deref() {
        Some("core") => core::run(&paths).map_err(|e| e.to_string()),
        Some("serve") => worker::run(&paths).map_err(|e| e.to_string()),
        _ => Err("usage: ssvm core | ssvm serve".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("ssvm: {reason}");
            ExitCode::FAILURE
        }
    }
}
