//! `cpvm core` and `cpvm serve`: the two services of a console proxy VM.

use std::process::ExitCode;

use common::{log, paths::Paths};

/// Gives back what thousands of connections have taken once they are gone; the C library's keeps it for good, since
/// something small that lives on lies above it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    log::init();
    let paths = Paths::from_env();
    let ended = match std::env::args().nth(1).as_deref() {
        Some("core") => cpvm::core::run(&paths).map_err(|error| error.to_string()),
        Some("serve") => cpvm::serve::run(&paths).map_err(|error| error.to_string()),
        _ => Err("usage: cpvm core | cpvm serve".to_owned()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
