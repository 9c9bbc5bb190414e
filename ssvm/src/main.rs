//! `ssvm core | serve`: see the library.

use std::process::ExitCode;

use common::{log, paths::Paths};

fn main() -> ExitCode {
    log::init();
    let paths = Paths::from_env();
    let result = match std::env::args().nth(1).as_deref() {
        Some("core") => ssvm::core(&paths),
        Some("serve") => ssvm::serve(&paths),
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
