//! `bench SUBJECT`: measures and prints figures. Fails only where it could not measure.

use std::process::ExitCode;

use tests::bench;

fn main() -> ExitCode {
    let subject = std::env::args().nth(1).unwrap_or_default();
    match subject.as_str() {
        "boot" => bench::boot::run(5),
        "image" => bench::image::run(),
        "router" => bench::router::run(),
        _ => {
            eprintln!("bench: no subject '{subject}'; there are: boot image router");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
