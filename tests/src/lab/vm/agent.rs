//! The guest agent of a VM, as a KVM host uses it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::json::Lines;

/// Number that a KVM host sends to find the start of the answers.
const SYNC: u64 = 1_234_567_890;

/// How long it may take until somebody listens at the socket.
const SOCKET: Duration = Duration::from_secs(10);

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to the guest agent.
#[derive(Debug)]
pub struct Agent {
    lines: Lines,
}

/// What a program that the agent ran has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Exit code.
    pub code: i64,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Agent {
    /// Connects and asks until the agent answers, as a KVM host does: pings, then the sync number.
    pub fn connect(socket: &Path, limit: Duration) -> Option<Self> {
        let start = Instant::now();
        // QEMU makes its sockets one after the other.
        let mut lines = loop {
            match Lines::connect(socket) {
                Ok(lines) => break lines,
                Err(_) if start.elapsed() < limit.min(SOCKET) => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                Err(_) => return None,
            }
        };
        loop {
            lines.send(&json!({ "execute": "guest-ping" }));
            if lines.receive(Duration::from_secs(1)).is_some() {
                break;
            }
            if start.elapsed() > limit {
                return None;
            }
        }
        lines.send(&json!({ "execute": "guest-sync", "arguments": { "id": SYNC } }));
        while lines.receive(ANSWER)?.get("return") != Some(&json!(SYNC)) {}
        Some(Self { lines })
    }

    /// Runs one command and returns its value.
    ///
    /// # Panics
    /// When the agent refuses it or does not answer.
    fn call(&mut self, command: &str, arguments: Value) -> Value {
        self.try_call(command, arguments).unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    fn try_call(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.lines.send(&json!({ "execute": command, "arguments": arguments }));
        let mut answer = self.lines.receive(ANSWER).ok_or("no answer")?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(answer.to_string()),
        }
    }

    /// Writes the boot arguments: runs of blanks collapsed, one line.
    pub fn deliver(&mut self, arguments: &str) {
        let line = arguments.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
        self.write("/var/cache/cloud/cmdline", line.as_bytes());
    }

    /// Replaces a file of the VM.
    pub fn write(&mut self, path: &str, bytes: &[u8]) {
        let handle = self.call("guest-file-open", json!({ "path": path, "mode": "w+" }));
        let text = base64(bytes);
        self.call("guest-file-write", json!({ "handle": handle, "buf-b64": text }));
        self.call("guest-file-close", json!({ "handle": handle }));
    }

    /// Reads a file of the VM, `None` where it cannot be opened. At most 1 MiB.
    pub fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        let handle = self.try_call("guest-file-open", json!({ "path": path, "mode": "r" })).ok()?;
        let value = self.call("guest-file-read", json!({ "handle": handle, "count": 1 << 20 }));
        self.call("guest-file-close", json!({ "handle": handle }));
        Some(from_base64(value["buf-b64"].as_str().unwrap_or_default()))
    }

    /// Reads a text file of the VM; empty where it cannot be opened.
    pub fn text(&mut self, path: &str) -> String {
        String::from_utf8_lossy(&self.read(path).unwrap_or_default()).into_owned()
    }

    /// Runs a program of the VM (absolute path) to its end, at most three minutes.
    pub fn run(&mut self, program: &str, arguments: &[&str]) -> Ran {
        let started =
            self.call("guest-exec", json!({ "path": program, "arg": arguments, "capture-output": true }));
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let status = self.call("guest-exec-status", json!({ "pid": started["pid"] }));
            if status["exited"] == json!(true) {
                let text = |key: &str| {
                    String::from_utf8_lossy(&from_base64(status[key].as_str().unwrap_or_default()))
                        .into_owned()
                };
                return Ran {
                    code: status["exitcode"].as_i64().unwrap_or(-1),
                    stdout: text("out-data"),
                    stderr: text("err-data"),
                };
            }
            assert!(Instant::now() < end, "{program} {arguments:?} does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the VM to power off; there is no answer to wait for.
    pub(super) fn power_down(&mut self) {
        self.lines.send(&json!({ "execute": "guest-shutdown" }));
    }

    /// Asks the VM to restart; there is no answer to wait for.
    pub fn restart(&mut self) {
        self.lines.send(&json!({ "execute": "guest-shutdown", "arguments": { "mode": "reboot" } }));
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn from_base64(text: &str) -> Vec<u8> {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.decode(text).expect("base64 of the guest agent")
}
