//! From the answer of an agent to a result.

use common::channel::{
    message::{Message, Wire},
    server::{AttachedAgent, SendOptions},
};
use std::time::Duration;

/// Sends one command and reads its answer; a failed one is an error with its details.
pub(super) async fn ask<A: Wire>(
    agent: &AttachedAgent,
    command: Message,
    wait: Duration,
) -> Result<A, String> {
    let answer = ask_any(agent, command, wait).await?;
    if !answer.result() {
        let details = answer.details();
        return Err(if details.is_empty() {
            "failed without a reason".to_owned()
        } else {
            details.to_owned()
        });
    }
    answer.read().map_err(|error| error.to_string())
}

/// The same, but the caller looks at the result.
pub(super) async fn ask_any(
    agent: &AttachedAgent,
    command: Message,
    wait: Duration,
) -> Result<Message, String> {
    let options = SendOptions { wait: Some(wait), ..SendOptions::default() };
    agent.ask(command, options).await.map_err(|error| error.to_string())
}
