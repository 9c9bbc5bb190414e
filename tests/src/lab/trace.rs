//! What a process has others do for it: the programs that it starts, and what it tells them.

use std::{fs, process::Command, time::Duration};

use super::Process;

/// Watches a process and its children with `strace`, which slows them down.
#[derive(Debug)]
pub struct Trace {
    strace: Process,
    file: tempfile::NamedTempFile,
}

/// What was seen since the watching began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Programs that were started.
    pub programs: u64,
    /// Bytes that went into pipes or into the file of the packet filter's changes: what programs were told.
    pub told: u64,
}

impl Trace {
    /// Begins to watch; every thread is watched when this returns.
    pub fn start(pid: u32) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-e", "trace=execve,write,pwrite64", "-e", "signal=none", "-o"]);
        command.arg(file.path()).args(["-p", &pid.to_string()]);
        let mut strace = Process::start(command);
        strace.wait_line("attached", Duration::from_secs(30));
        Self { strace, file }
    }

    /// Everything so far; calls that a process has returned from are in it.
    pub fn work(&self) -> Work {
        let text = fs::read_to_string(self.file.path()).expect("what strace saw");
        let mut work = Work { programs: 0, told: 0 };
        for line in text.lines() {
            // A call that another thread's line came in between of tells how much it was to write, and not its result.
            let asked = || line.strip_suffix("<unfinished ...>")?.trim_end().rsplit(", ").next();
            let result = line.rsplit_once(" = ").map(|(_, result)| result).or_else(asked);
            if line.contains("execve") && result == Some("0") {
                work.programs += 1;
            } else if (line.contains(" write(") && line.contains("<pipe:"))
                || (line.contains(" pwrite64(") && line.contains("/trivium/filter>"))
            {
                work.told += result.and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        work
    }

    /// What an errand costs, by this.
    pub fn during(&self, errand: impl FnOnce()) -> Work {
        let before = self.work();
        errand();
        let after = self.work();
        Work { programs: after.programs - before.programs, told: after.told - before.told }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It lets go of what it watches, which goes on.
        self.strace.terminate(Duration::from_secs(10));
    }
}
