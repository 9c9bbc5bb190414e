//! QEMU's control socket.

use std::{path::Path, time::Duration};

use serde_json::json;

use super::json::Lines;

/// Runs one command of the human monitor with its argument, and waits for its end.
///
/// # Panics
/// When QEMU refuses it or does not answer within a minute.
pub(super) fn command(socket: &Path, word: &str, argument: &str) {
    let said = ask(socket, word, argument);
    assert_eq!(said, "", "{word} {argument} failed");
}

/// The same, for what it prints.
///
/// # Panics
/// When QEMU refuses it or does not answer within a minute.
pub(super) fn ask(socket: &Path, word: &str, argument: &str) -> String {
    let mut lines = Lines::connect(socket).expect("QEMU's control socket");
    lines.receive(Duration::from_secs(10)).expect("greeting of QEMU");
    execute(&mut lines, json!({ "execute": "qmp_capabilities" }));
    let line = format!("{word} {argument}").trim().to_owned();
    let said = execute(
        &mut lines,
        json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } }),
    );
    said.as_str().unwrap_or_default().to_owned()
}

/// Sends a message and waits for its answer; events in between are skipped.
fn execute(lines: &mut Lines, message: serde_json::Value) -> serde_json::Value {
    lines.send(&message);
    loop {
        let mut answer = lines.receive(Duration::from_secs(60)).expect("answer of QEMU");
        assert!(answer.get("error").is_none(), "{message}: {answer}");
        if let Some(value) = answer.get_mut("return") {
            return value.take();
        }
    }
}
