//! `cpvm core` and `cpvm serve`: the two services of a console proxy VM.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use common::{log, paths::Paths};

/// Gives back what thousands of connections have taken once they are gone; the C library's keeps it for good, since
/// something small that lives on lies above it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After how many milliseconds the allocator gives back what is free. By default it does so with the next allocations
/// after a second, which a process without sessions hardly makes.
const PURGE_DELAY: &str = "MIMALLOC_PURGE_DELAY";

/// Starts the program anew with [`PURGE_DELAY`] at 0, unless it is set: the allocator reads it before `main`.
fn give_back_at_once() {
    if env::var_os(PURGE_DELAY).is_none() {
        let begin = |program| Command::new(program).args(env::args_os().skip(1)).env(PURGE_DELAY, "0").exec();
        let error = env::current_exe().map_or_else(|error| error, begin);
        tracing::warn!(%error, "memory will be given back late");
    }
}

fn main() -> ExitCode {
    log::init();
    give_back_at_once();
    let paths = Paths::from_env();
    let ended = match env::args().nth(1).as_deref() {
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
