//! The guest agent of a system VM: how it gets its boot arguments (router contract 1.1).

use std::{path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};

use super::line::{LineError, Lines};

/// Longest wait for one answer once the agent has answered at all.
const ANSWER: Duration = Duration::from_secs(10);
/// Time between two attempts while the VM boots.
const PAUSE: Duration = Duration::from_millis(100);
/// The number that the host says and the agent repeats.
const SYNC: i64 = 1_234_567_890;
/// Where boot arguments go.
const CMDLINE: &str = "/var/cache/cloud/cmdline";

/// Hands the boot arguments to the VM whose agent listens behind `socket`: waits until it answers,
/// then writes the file. Gives up after `limit`.
pub(super) async fn hand_over(socket: &Path, arguments: &str, limit: Duration) -> Result<(), LineError> {
    timeout(limit, async {
        let mut agent = wait(socket).await?;
        write(&mut agent, arguments).await
    })
    .await
    .map_err(|_| LineError::Timeout(limit))?
}

/// Asks the VM to power off. That it does is seen by its process ending.
pub(super) async fn shut_down(socket: &Path) -> Result<(), LineError> {
    let mut agent = Lines::new(UnixStream::connect(socket).await?);
    agent.send(&json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})).await
}

/// Pings until the agent answers, then makes sure that its next answer belongs to our next request.
async fn wait(socket: &Path) -> Result<Lines, LineError> {
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            let mut agent = Lines::new(stream);
            if ping(&mut agent).await.is_ok() {
                agent.send(&json!({"execute": "guest-sync", "arguments": {"id": SYNC}})).await?;
                sync(&mut agent).await?;
                return Ok(agent);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One connection's attempts; what is sent before the agent runs may be lost, so it is sent again.
async fn ping(agent: &mut Lines) -> Result<(), LineError> {
    loop {
        agent.send(&json!({"execute": "guest-ping"})).await?;
        if let Ok(answer) = timeout(Duration::from_millis(500), agent.receive()).await {
            answer?;
            return Ok(());
        }
    }
}

/// Answers to earlier pings may still be on their way: passes over them, but not for ever.
async fn sync(agent: &mut Lines) -> Result<(), LineError> {
    for _ in 0..1000 {
        let answer = timeout(ANSWER, agent.receive()).await.map_err(|_| LineError::Timeout(ANSWER))??;
        if answer["return"] == SYNC {
            return Ok(());
        }
    }
    Err(LineError::Refused("guest-sync is not answered".to_owned()))
}

async fn write(agent: &mut Lines, arguments: &str) -> Result<(), LineError> {
    let open = json!({"execute": "guest-file-open", "arguments": {"path": CMDLINE, "mode": "w+"}});
    let handle = ask(agent, open).await?;
    let handle = handle.as_i64().ok_or_else(|| LineError::Refused(format!("a handle {handle}")))?;
    let content = STANDARD.encode(format!("{arguments}\n"));
    let write = json!({"execute": "guest-file-write", "arguments": {"handle": handle, "buf-b64": content}});
    let written = ask(agent, write).await?["count"].as_u64();
    ask(agent, json!({"execute": "guest-file-close", "arguments": {"handle": handle}})).await?;
    let wanted = arguments.len() as u64 + 1;
    match written {
        Some(count) if count != wanted => {
            Err(LineError::Refused(format!("{count} of {wanted} bytes written")))
        }
        _ => Ok(()),
    }
}

async fn ask(agent: &mut Lines, request: Value) -> Result<Value, LineError> {
    agent.send(&request).await?;
    let mut answer = timeout(ANSWER, agent.receive()).await.map_err(|_| LineError::Timeout(ANSWER))??;
    match answer.get("error") {
        Some(error) => Err(LineError::Refused(error.to_string().chars().take(200).collect())),
        None => Ok(answer["return"].take()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// An agent that leaves the first ping unanswered, then does as the real one, and gives back
    /// the requests it saw.
    async fn fake(listener: UnixListener, refuse: &'static str) -> Vec<String> {
        let (stream, _) = listener.accept().await.unwrap();
        let mut lines = Lines::new(stream);
        let mut seen = Vec::new();
        let mut pings = 0;
        while let Ok(request) = lines.receive().await {
            let name = request["execute"].as_str().unwrap().to_owned();
            seen.push(request.to_string());
            let answer = match name.as_str() {
                name if name == refuse => json!({"error": {"class": "GenericError", "desc": "no"}}),
                "guest-ping" => {
                    pings += 1;
                    if pings == 1 {
                        continue;
                    }
                    json!({"return": {}})
                }
                "guest-sync" => json!({"return": request["arguments"]["id"]}),
                "guest-file-open" => json!({"return": 1000}),
                "guest-file-write" => json!({"return": {"count": 12, "eof": false}}),
                _ => json!({"return": {}}),
            };
            if lines.send(&answer).await.is_err() {
                break;
            }
        }
        seen
    }

    #[tokio::test]
    async fn arguments_are_written_as_a_hypervisor_host_does() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let agent = tokio::spawn(fake(UnixListener::bind(&socket).unwrap(), ""));
        hand_over(&socket, "type=router", Duration::from_secs(10)).await.unwrap();
        let seen = agent.await.unwrap();
        assert_eq!(
            seen[2..],
            [
                r#"{"arguments":{"id":1234567890},"execute":"guest-sync"}"#,
                r#"{"arguments":{"mode":"w+","path":"/var/cache/cloud/cmdline"},"execute":"guest-file-open"}"#,
                r#"{"arguments":{"buf-b64":"dHlwZT1yb3V0ZXIK","handle":1000},"execute":"guest-file-write"}"#,
                r#"{"arguments":{"handle":1000},"execute":"guest-file-close"}"#,
            ]
        );
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let agent = tokio::spawn(fake(UnixListener::bind(&socket).unwrap(), "guest-file-open"));
        let error = hand_over(&socket, "type=router", Duration::from_secs(10)).await.unwrap_err();
        assert!(error.to_string().contains("GenericError"), "{error}");
        agent.await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_never_answers_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let error = hand_over(&folder.path().join("s"), "x", Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, LineError::Timeout(_)));
    }
}
