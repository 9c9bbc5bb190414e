//! Runs a program of the image to its end: no shell, a bound on its output, and a time limit.

use std::{
    ffi::OsStr,
    io::{self, Read, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};

/// Bytes of a program's output that are kept.
const OUTPUT: u64 = 4 * 1024 * 1024;

/// Where programs are looked for, whoever started this process.
const PATH: &str = "/usr/lib/execline/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be started.
    #[error("{program} cannot be started: {source}")]
    Start {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("{program} took longer than {} s and was ended", limit.as_secs())]
    Late {
        /// Its name.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It says that it failed.
    #[error("{program} failed with {code}: {output}")]
    Failed {
        /// Its name.
        program: String,
        /// Its exit code, or `signal`.
        code: String,
        /// What it printed, standard error first.
        output: String,
    },
}

/// Runs a program to its end with `input` on its standard input; returns its standard output.
///
/// # Errors
/// Where it cannot be started, takes longer than `limit` or ends with another code than 0.
pub fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: &[u8],
    limit: Duration,
) -> Result<String, ProgramError> {
    let start = |source| ProgramError::Start { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let mut stdin = child.stdin.take();
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        if let Some(stdin) = &mut stdin {
            // A program that does not want its input closes it early.
            let _ = stdin.write_all(&input);
        }
    });
    let ended = wait(&mut child, limit).map_err(start)?;
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().map_err(start)?;
    if !ended {
        return Err(ProgramError::Late { program: program.to_owned(), limit });
    }
    let _ = writer.join();
    let (stdout, stderr) = (text(stdout), text(stderr));
    if status.success() {
        return Ok(stdout);
    }
    let code = status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    let output = format!("{} {}", stderr.trim(), stdout.trim()).trim().to_owned();
    Err(ProgramError::Failed { program: program.to_owned(), code, output })
}

fn collect<R: Read + Send + 'static>(source: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            // What could be read is better than nothing.
            let _ = (&mut source).take(OUTPUT).read_to_end(&mut bytes);
            let _ = io::copy(&mut source, &mut io::sink());
        }
        bytes
    })
}

fn text(reader: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

/// Whether a child ends within a time.
fn wait(child: &mut Child, limit: Duration) -> io::Result<bool> {
    let pid = rustix::process::Pid::from_child(child);
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let limit = Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let ready =
        rustix::event::poll(&mut [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)], Some(&limit))?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn output_and_failure() {
        assert_eq!(run("cat", ["-"], b"hello", LIMIT).unwrap(), "hello");
        let error = run("sh", ["-c", "echo why >&2; exit 3"], b"", LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "sh failed with 3: why");
        assert!(matches!(run("/no/such", [""; 0], b"", LIMIT), Err(ProgramError::Start { .. })));
    }

    #[test]
    fn a_slow_program_is_ended() {
        let error = run("sleep", ["600"], b"", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ProgramError::Late { .. }));
    }
}
