//! `zone up|check|faults DIR`: lays the wires of a zone on this machine, starts the servers around it and the
//! management end, and has the zone do its main job. `up` leaves it running, `check` ends it,
//! `faults` kills its parts and looks whether they come back.
//! `zone down DIR` ends a zone that was left running.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use tests::zone::{self, Then, browser, report::Failure};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ok = match words.as_slice() {
        ["up", dir] => zone::run(Path::new(dir), Then::Keep),
        ["check", dir] => zone::run(Path::new(dir), Then::End),
        ["faults", dir] => zone::run(Path::new(dir), Then::Faults),
        ["down", dir] => {
            zone::down(Path::new(dir));
            true
        }
        ["browser-console", url, text, picture, profile] => in_browser(|| async {
            browser::console(url, text, &PathBuf::from(picture), &PathBuf::from(profile)).await
        }),
        ["browser-refused", url, _, picture, profile] => in_browser(|| async {
            browser::refused(url, &PathBuf::from(picture), &PathBuf::from(profile)).await
        }),
        _ => {
            eprintln!("zone up|check|faults|down DIR");
            return ExitCode::from(2);
        }
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one errand with a browser driver of its own and prints what was seen.
fn in_browser<F: Future<Output = Result<String, Failure>>>(errand: impl FnOnce() -> F) -> bool {
    let result = browser::driver().and_then(|_driver| {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(errand())
    });
    match result {
        Ok(seen) => println!("{seen}"),
        Err(error) => {
            eprintln!("{error}");
            return false;
        }
    }
    true
}
