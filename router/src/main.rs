//! The virtual router: `router core` (privileged: links, packet filter, state) and `router serve`
//! (own user, sandboxed: everything that answers guests).

use std::process::ExitCode;

use common::paths::Paths;

fn main() -> ExitCode {
    let paths = Paths::from_env();
    let result = match std::env::args().nth(1).as_deref() {
        Some("core") => router::core::run(&paths).map_err(|e| e.to_string()),
        Some("serve") => router::serve::run(&paths).map_err(|e| e.to_string()),
        _ => Err("usage: router core | router serve".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("router: {reason}");
            ExitCode::FAILURE
        }
    }
}
