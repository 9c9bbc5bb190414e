//! `bench SUBJECT [PART ...]`: measures and prints figures. Fails only where it could not measure.

use std::process::ExitCode;

use tests::bench;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (subject, parts) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
    match subject {
        "boot" => bench::boot::run(5),
        "image" => bench::image::run(),
        "channel" | "router" | "redundancy" | "ssvm" | "cpvm" | "vpn" => {
            let run = match subject {
                "channel" => bench::channel::run,
                "router" => bench::router::run,
                "redundancy" => bench::redundancy::run,
                "ssvm" => bench::ssvm::run,
                "cpvm" => bench::cpvm::run,
                _ => bench::vpn::run,
            };
            if let Err(unknown) = run(parts) {
                eprintln!("bench: {unknown}");
                return ExitCode::from(2);
            }
        }
        _ => {
            eprintln!(
                "bench: no subject '{subject}'; there are: boot image channel router redundancy ssvm cpvm vpn"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
