//! Programs of others that must outlive the core: each is started in the foreground of nobody, found again by one
//! of its arguments, and started anew where it has ended. What it prints goes into a small file, from which it is
//! read now and then.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// A program that ran so long before it ended is started again at once.
const STEADY: Duration = Duration::from_secs(10);
/// The first pause before another try of one that did not; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Time to end by itself.
const END: Duration = Duration::from_secs(5);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of output that are kept, and read at once.
const OUTPUT: u64 = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Daemon {
    program: &'static str,
    mark: PathBuf,
    output: PathBuf,
    pid: Option<Pid>,
    started: Option<Instant>,
    failures: u32,
    read: u64,
}

impl Daemon {
    /// A program that is known by its argument `mark`; prints into the file `output`. Nothing is started.
    pub fn new(program: &'static str, mark: PathBuf, output: PathBuf) -> Self {
        let read = fs::metadata(&output).map_or(0, |about| about.len());
        Self { program, mark, output, pid: None, started: None, failures: 0, read }
    }

    /// What is run.
    pub const fn program(&self) -> &'static str {
        self.program
    }

    /// Its process, where it runs.
    pub fn pid(&mut self) -> Option<Pid> {
        if !self.pid.is_some_and(|pid| self.is_it(pid) || is_beginning(pid)) {
            self.pid = self.search();
        }
        self.pid
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.pid().is_some()
    }

    /// Starts it, unless it runs, or has just ended several times.
    ///
    /// # Errors
    /// Where the program cannot be started at all.
    pub fn start<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> io::Result<()> {
        if self.runs() || self.started.is_some_and(|at| at.elapsed() < self.pause()) {
            return Ok(());
        }
        let steady = self.started.is_none_or(|at| at.elapsed() > STEADY);
        self.failures = if steady { 0 } else { self.failures + 1 };
        self.started = Some(Instant::now());
        let output = OpenOptions::new().append(true).create(true).open(&self.output)?;
        let arguments: Vec<OsString> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let mut command = tokio::process::Command::new(self.program);
        command.args(arguments).stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        // What ends the core is not meant for it.
        let mut child = command.process_group(0).spawn()?;
        self.pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        tracing::info!(program = self.program, pid = ?child.id(), "started");
        let program = self.program;
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::info!(program, %status, "ended");
            }
        });
        Ok(())
    }

    /// Tells it something; returns whether there was anybody to tell.
    pub fn signal(&mut self, signal: Signal) -> bool {
        self.pid().is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Has it end, and waits for that; a program that does not is killed.
    pub async fn end(&mut self) {
        let began = Instant::now();
        let mut asked = false;
        while self.runs() {
            if !asked || began.elapsed() > END {
                self.signal(if asked { Signal::KILL } else { Signal::TERM });
                asked = true;
            }
            sleep(LOOK).await;
        }
        (self.started, self.failures) = (None, 0);
    }

    /// Lines that it has printed since the last call.
    pub fn news(&mut self) -> Vec<String> {
        self.read_news().unwrap_or_default()
    }

    fn read_news(&mut self) -> io::Result<Vec<String>> {
        let mut file = File::options().read(true).write(true).open(&self.output)?;
        let length = file.metadata()?.len();
        if length == self.read {
            return Ok(Vec::new());
        }
        // Somebody else may have emptied it.
        let from = if length < self.read { 0 } else { self.read };
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        self.read = from + (&mut file).take(OUTPUT).read_to_end(&mut bytes)? as u64;
        if self.read >= OUTPUT && self.read >= length {
            file.set_len(0)?;
            self.read = 0;
        }
        Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }

    fn pause(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => (PAUSE * 2_u32.saturating_pow(n.min(10))).min(LONGEST_PAUSE),
        }
    }

    fn is_it(&self, pid: Pid) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        let name = |path: &[u8]| path.rsplit(|b| *b == b'/').next().map(<[u8]>::to_vec);
        // Others may name the same file.
        words.next().and_then(name) == name(self.program.as_bytes())
            && words.any(|word| word == self.mark.as_os_str().as_encoded_bytes())
    }

    /// The process with the mark; of several, the one whose parent has none.
    fn search(&self) -> Option<Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let all: Vec<Pid> = numbers.filter_map(Pid::from_raw).filter(|pid| self.is_it(*pid)).collect();
        all.iter().find(|pid| !parent(**pid).is_some_and(|parent| all.contains(&parent))).copied()
    }
}

/// Whether a process has its program, but not yet its arguments.
fn is_beginning(pid: Pid) -> bool {
    let at = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    fs::read(at("cmdline")).is_ok_and(|line| line.is_empty()) && fs::read_link(at("exe")).is_ok()
}

fn parent(pid: Pid) -> Option<Pid> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // `7 (a name) S 1 …`
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_outlives_its_starter_and_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (mark, output) = (folder.path().join("mark"), folder.path().join("out"));
        fs::write(&mark, "one\n").unwrap();
        let daemon = || Daemon::new("tail", mark.clone(), output.clone());
        let mut first = daemon();
        assert!(!first.runs() && !first.signal(Signal::HUP));
        first.start([OsStr::new("-f"), mark.as_os_str()]).unwrap();
        let mut second = daemon();
        while !second.runs() {
            sleep(LOOK).await;
        }
        let pid = second.pid();
        assert!(pid.is_some() && pid == first.pid());
        second.start([OsStr::new("-f"), mark.as_os_str()]).unwrap();
        assert_eq!(second.pid(), pid, "one is enough");
        while !first.news().contains(&"one".to_owned()) {
            sleep(LOOK).await;
        }
        assert!(first.news().is_empty());
        for waits in [false, true] {
            first.signal(Signal::KILL);
            while first.runs() {
                sleep(LOOK).await;
            }
            first.start([OsStr::new("-f"), mark.as_os_str()]).unwrap();
            assert_eq!(!first.runs(), waits, "one that ends early again and again has to wait");
        }
        while !first.runs() {
            sleep(LOOK).await;
            first.start([OsStr::new("-f"), mark.as_os_str()]).unwrap();
        }
        // For a moment a new process has no arguments yet, and only who started it knows it.
        while !second.runs() {
            sleep(LOOK).await;
        }
        second.end().await;
        assert!(!first.runs());
    }
}
