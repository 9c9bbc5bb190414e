//! A child process with its output in a file, killed when dropped.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::wait_until;

/// A running program; standard output and error go to one log file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: tempfile::NamedTempFile,
    name: String,
    keep: bool,
}

impl Process {
    /// Starts a prepared command.
    pub fn start(mut command: Command) -> Self {
        let log = tempfile::Builder::new().prefix("trivium-").suffix(".log").tempfile().expect("log file");
        let out = File::options().append(true).open(log.path()).expect("log file");
        let err = out.try_clone().expect("log file");
        let name = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { child, log, name, keep: false }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn output(&self) -> String {
        let mut text = Vec::new();
        let _ = File::open(self.log.path()).and_then(|mut f| f.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        self.log.path()
    }

    /// Waits until its output contains `text`.
    ///
    /// # Panics
    /// When `limit` has passed or the process has ended before; the message carries the output.
    pub fn wait_line(&mut self, text: &str, limit: Duration) {
        let start = std::time::Instant::now();
        loop {
            let output = self.output();
            if output.contains(text) {
                return;
            }
            let ended = self.child.try_wait().ok().flatten();
            assert!(ended.is_none(), "{} ended ({ended:?}) before it said {text:?}:\n{output}", self.name);
            assert!(start.elapsed() < limit, "{} did not say {text:?} in {limit:?}:\n{output}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it at once, as a crash would, and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().expect("end of the process")
    }

    /// Ends it at once, as a crash would, and waits for nothing.
    pub fn strike(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let mut status = None;
        wait_until(&format!("end of {}", self.name), limit, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.expect("exit status")
    }

    /// Lets the process outlive this guard; its log file goes with the guard.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let tail = output.len().saturating_sub(4000);
            let tail = (tail..output.len()).find(|i| output.is_char_boundary(*i)).unwrap_or(output.len());
            eprintln!("--- end of the output of {}\n{}", self.name, &output[tail..]);
        }
    }
}
