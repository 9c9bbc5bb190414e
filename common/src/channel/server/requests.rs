//! What agents ask: sorting it, and the answers that concern nobody else.

use std::time::Duration;

use super::{AttachedAgent, Manager, ServerConfig};
use crate::channel::message::{AnswerBase, Message};
use crate::channel::packet::{Flags, Ids, Packet};
use crate::command::agent::{PingAnswer, failed};

/// Longest work on one control command.
const LIMIT: Duration = Duration::from_secs(60);

/// A request of an agent, sorted by its first command.
pub(super) enum Request {
    /// A start-up.
    Startup(Vec<Message>),
    /// A sign of life.
    Ping(Message),
    /// It ends, for this reason.
    Shutdown(String),
    /// Anything else; an error stands for an element that is no command.
    Control(Vec<Result<Message, String>>),
    /// No list of commands, or an empty one.
    Unreadable(String),
}

/// Sorts a request.
pub(super) fn classify(packet: &Packet) -> Request {
    if !packet.is_request() || packet.flags.has(Flags::FROM_SERVER) {
        return Request::Unreadable("not a request of an agent".to_owned());
    }
    let list = match packet.messages() {
        Ok(list) if !list.is_empty() => list,
        Ok(_) => return Request::Unreadable("no command".to_owned()),
        Err(error) => return Request::Unreadable(error.to_string()),
    };
    let first = list.first().and_then(|first| first.as_ref().ok());
    let name = first.map(Message::simple_name).unwrap_or_default();
    if name.starts_with("Startup") && name.ends_with("Command") {
        return Request::Startup(list.into_iter().filter_map(Result::ok).collect());
    }
    if let Some(ping) = first.filter(|_| name.starts_with("Ping") && name.ends_with("Command")) {
        return Request::Ping(ping.clone());
    }
    if let Some(shutdown) = first.filter(|_| name == "ShutdownCommand") {
        let reason = shutdown.body.get("reason").and_then(serde_json::Value::as_str);
        return Request::Shutdown(reason.unwrap_or("unknown").to_owned());
    }
    Request::Control(list.into_iter().map(|item| item.map_err(|error| error.to_string())).collect())
}

/// The answer to a ping.
pub(super) fn ping_answer(ping: Message, send_startup: bool) -> Message {
    Message::wrap(&PingAnswer {
        command: Some(ping.body.into()),
        send_startup,
        avoid_ms_list: Some(Vec::new()),
        reconcile_commands: Vec::new(),
        answer: AnswerBase::ok(),
    })
}

/// Answers each command of a control request.
pub(super) async fn control<M: Manager>(
    manager: &M,
    agent: &AttachedAgent,
    commands: Vec<Result<Message, String>>,
) -> Vec<Message> {
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        answers.push(match command {
            Ok(command) => tokio::time::timeout(LIMIT, manager.control(agent, command))
                .await
                .unwrap_or_else(|_| failed("the server could not answer in time")),
            Err(reason) => failed(reason),
        });
    }
    answers
}

/// The response to a request of an admitted agent.
pub(super) fn response(
    request: &Packet,
    agent: &AttachedAgent,
    config: &ServerConfig,
    answers: &[Message],
) -> Packet {
    let ids = Ids { management: config.id, agent: request.agent, via: agent.host_id() };
    Packet::new(request.flags.answered(), request.sequence, ids, answers)
}
