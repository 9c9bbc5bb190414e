//! Root's login shell, every script below `/opt/cloud/bin`, and the `sftp` subsystem of a system VM.

use std::{
    io::{BufWriter, stderr, stdin, stdout},
    process::ExitCode,
};

use common::{paths::Paths, shim};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut output = BufWriter::with_capacity(64 * 1024, stdout().lock());
    ExitCode::from(shim::run(&Paths::from_env(), &words, stdin().lock(), &mut output, &mut stderr().lock()))
}
