//! Joining: the answers to a start-up, the set-up commands, and Ready (management channel 3.4).

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::listen::Door;
use super::{Admission, AttachedAgent, Candidate, Manager, SendOptions, ServerConfig};
use crate::channel::message::{AnswerBase, Message};
use crate::channel::packet::{Flags, Ids, Packet};
use crate::command::agent::{ReadyCommand, StartupAnswer};

/// An admission that can be used: its host id is one.
pub(super) fn checked(admission: Admission) -> Result<Admission, String> {
    if admission.host_id > 0 { Ok(admission) } else { Err("the server gave no host id".to_owned()) }
}

fn taken_note(admission: Option<&Admission>, config: &ServerConfig) -> Message {
    Message::wrap(&StartupAnswer {
        host_id: admission.map_or(0, |admission| admission.host_id),
        host_name: Some(admission.map(|admission| admission.host_name.clone()).unwrap_or_default()),
        host_uuid: Some(admission.map(|admission| admission.host_uuid.clone()).unwrap_or_default()),
        ping_interval: i64::from(config.ping_interval),
        answer: AnswerBase::ok(),
    })
}

/// The answer to the first start-up of a connection.
pub(super) fn startup_answer(request: &Packet, admission: &Admission, config: &ServerConfig) -> Packet {
    let ids = Ids { management: config.id, agent: request.agent, via: -1 };
    Packet::new(request.flags.answered(), request.sequence, ids, &[taken_note(Some(admission), config)])
}

/// What an agent is told that may not join: its start-up is noted, and a Ready that says why not.
pub(super) fn refusal(request: &Packet, config: &ServerConfig, reason: &str) -> [Packet; 2] {
    let ids = Ids { management: config.id, agent: request.agent, via: -1 };
    let answer = Packet::new(request.flags.answered(), request.sequence, ids, &[taken_note(None, config)]);
    let ready = ReadyCommand { details: Some(reason.to_owned()), ..ReadyCommand::default() };
    let nobody = Ids { management: -1, agent: -1, via: -1 };
    let flags = Flags::REQUEST.with(Flags::STOP_ON_ERROR).with(Flags::IN_SEQUENCE);
    [answer, Packet::new(flags, -1, nobody, &[Message::wrap(&ready)])]
}

/// Sends the set-up commands and Ready; closes the connection where one of them fails for good.
pub(super) async fn join<M: Manager>(door: Arc<Door<M>>, agent: AttachedAgent, admission: Admission) {
    if let Err(reason) = try_join(&door, &agent, admission).await {
        agent.close(&reason);
    }
}

async fn try_join<M: Manager>(
    door: &Door<M>,
    agent: &AttachedAgent,
    admission: Admission,
) -> Result<(), String> {
    let mut answers = Vec::with_capacity(admission.setup.len());
    for command in admission.setup {
        let sent = agent.ask(command, SendOptions::in_sequence()).await;
        answers.push(sent.map_err(|error| error.to_string())?);
    }
    door.manager.set_up(agent, answers).await?;
    let mut ready = admission.ready;
    ready.host_id = Some(admission.host_id);
    ready.host_uuid = Some(admission.host_uuid);
    ready.host_name = Some(admission.host_name);
    if ready.base.wait == 0 {
        ready.base.wait = i64::try_from(door.config.ready_wait.as_secs()).unwrap_or(60);
    }
    let options = SendOptions::in_sequence().within(door.config.ready_wait);
    let answer = agent.ask(Message::wrap(&ready), options).await.map_err(|error| error.to_string())?;
    if !answer.result() {
        return Err(format!("it is not ready: {}", answer.details()));
    }
    agent.set_ready();
    tracing::info!(?agent, "agent ready");
    door.manager.attached(agent).await;
    Ok(())
}

/// A start-up on a connection whose agent was admitted before: asked for by an answer to a ping.
pub(super) async fn again<M: Manager>(
    door: Arc<Door<M>>,
    agent: AttachedAgent,
    candidate: Candidate,
    request: Packet,
    out: mpsc::Sender<Packet>,
) {
    let decision = timeout(door.config.startup, door.manager.admit(&candidate)).await;
    let admission = match decision.unwrap_or_else(|_| Err("the server could not decide in time".to_owned())) {
        Ok(admission) if admission.host_id == agent.host_id() && candidate.text("guid") == agent.guid() => {
            admission
        }
        Ok(_) => return agent.close("it started up as another agent"),
        Err(reason) => return agent.close(&reason),
    };
    let ids = Ids { management: door.config.id, agent: request.agent, via: agent.host_id() };
    let note = [taken_note(Some(&admission), &door.config)];
    let _ = out.send(Packet::new(request.flags.answered(), request.sequence, ids, &note)).await;
    join(door, agent, admission).await;
}
