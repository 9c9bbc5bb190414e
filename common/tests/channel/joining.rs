//! Joining, commands, control requests, leaving.

use std::time::Duration;

use common::channel::agent::{Agent, RequestError};
use common::channel::message::Message;
use common::channel::server::{SendError, SendOptions};
use common::command::agent::{
    CheckHealthAnswer, CheckHealthCommand, MaintainAnswer, MaintainCommand, UnsupportedAnswer,
};
use serde_json::json;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_joins_works_and_leaves() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let setup = vec![message("x.Echo", json!({"result": true, "n": 1})), message("x.Echo", json!({"n": 2}))];
    let mut office = office(&ca, Setting { setup: setup.clone(), ..Setting::default() }).await;
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());

    let Seen::SetUp(5, answers) = office.next().await else { panic!("set-up comes first") };
    assert_eq!(
        answers.iter().map(|answer| &answer.body).collect::<Vec<_>>(),
        [&setup[0].body, &setup[1].body]
    );
    let attached = office.attached().await;
    assert_eq!((attached.host_id(), attached.name(), attached.kind()), (5, "v-2-VM", "ConsoleProxy"));
    assert!(attached.is_ready() && attached.verified());
    let joined = status(&agent, "ready", |status| status.ready).await;
    assert_eq!(
        (joined.host_id, joined.host_name.as_deref(), joined.secured),
        (Some(5), Some("v-2-VM"), true)
    );

    // Commands of the agent, of the role, unknown ones, and one that panics, all in one packet.
    let commands = vec![
        Message::wrap(&CheckHealthCommand::default()),
        message("x.Echo", json!({"result": true, "text": "Größe 🦀"})),
        message("x.NoSuchCommand", json!({})),
        message("x.Panic", json!({})),
        Message::wrap(&MaintainCommand::default()),
    ];
    let answers = attached.send(commands.clone(), SendOptions::default()).await.unwrap();
    assert!(answers[0].read::<CheckHealthAnswer>().unwrap().answer.result);
    assert_eq!(answers[1].body["text"], "Größe 🦀");
    assert_eq!(
        answers[2].read::<UnsupportedAnswer>().unwrap().answer.details.unwrap(),
        "Unsupported command issued: x.NoSuchCommand.  Are you sure you got the right type of server?"
    );
    assert!(!answers[3].result());
    assert!(answers[4].read::<MaintainAnswer>().unwrap().will_migrate);

    // The same, stopping at the first failure.
    let answers = attached.send(commands, SendOptions::in_sequence()).await.unwrap();
    assert_eq!(answers.len(), 5);
    assert!(answers[1].result());
    assert_eq!(answers[3].details(), "Stopped by previous failure");
    assert_eq!(answers[4].details(), "Stopped by previous failure");

    // Requests of the agent.
    let echo = message("x.Echo", json!({"answer": 42}));
    assert_eq!(agent.request(echo, LIMIT).await.unwrap().body["answer"], 42);
    agent.post(message("x.Report", json!({}))).await.unwrap();
    assert_eq!(office.next().await, Seen::Control("x.Echo".to_owned()));
    assert_eq!(office.next().await, Seen::Control("x.Report".to_owned()));
    let short = Duration::from_millis(100);
    let late = agent.request(message("x.Silent", json!({})), short).await;
    assert!(matches!(late, Err(RequestError::Timeout(_))), "{late:?}");
    assert_eq!(office.next().await, Seen::Control("x.Silent".to_owned()));

    agent.stop().await;
    assert_eq!(office.next().await, Seen::Detached(5, "it shuts down".to_owned()));
    let gone = attached.send(vec![message("x.Echo", json!({}))], SendOptions::default()).await;
    assert!(matches!(gone, Err(SendError::Gone { .. })), "{gone:?}");
    assert!(office.server.agents().get(5).is_none());
    office.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_agent_is_told_why_and_tries_again() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let office = office(&ca, Setting::default()).await;
    let role = Role { guid: Some("refused".to_owned()), ..Role::default() };
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), role.into());
    let refused = status(&agent, "refusal", |status| {
        status.last_error.as_deref().is_some_and(|text| text.contains("incorrect data center"))
    })
    .await;
    assert_eq!(refused.host_id, None);
    status(&agent, "another attempt", |status| status.connections >= 3).await;
    assert!(office.server.agents().all().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_set_up_ends_the_connection() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let setup = vec![message("x.Fail", json!({}))];
    let mut office = office(&ca, Setting { setup, ..Setting::default() }).await;
    let _agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    assert!(matches!(office.next().await, Seen::SetUp(5, _)));
    assert_eq!(office.next().await, Seen::Detached(5, "as asked".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_run_side_by_side_up_to_the_limit_and_in_sequence_one_by_one() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, Setting::default()).await;
    let (open, gate) = tokio::sync::watch::channel(false);
    let role = Role { gate: Some(gate), ..Role::default() };
    let (running, most) = (role.running.clone(), role.most.clone());
    let mut config = agent_config(folder.path(), office.server.address());
    config.workers = 3;
    let _agent = Agent::start(config, role.into());
    let attached = office.attached().await;

    use std::sync::atomic::Ordering::SeqCst;
    let wait = || vec![message("x.Wait", json!({}))];
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let attached = attached.clone();
        let command = wait();
        sent.spawn(async move { attached.send(command, SendOptions::default()).await });
    }
    soon("three at work", async {
        while running.load(SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // A busy agent still says that it is alive.
    let health = attached.ask(Message::wrap(&CheckHealthCommand::default()), SendOptions::default()).await;
    assert!(health.unwrap().result());
    open.send(true).unwrap();
    while let Some(answers) = sent.join_next().await {
        assert!(answers.unwrap().unwrap()[0].result());
    }
    assert_eq!(most.load(SeqCst), 3);

    // In sequence there is never more than one on its way, and a time-out makes room for the next.
    most.store(0, SeqCst);
    open.send(false).unwrap();
    let short = SendOptions::in_sequence().within(Duration::from_millis(200));
    let late = attached.send(wait(), short).await;
    assert!(matches!(late, Err(SendError::Timeout { .. })), "{late:?}");
    open.send(true).unwrap();
    // The agent still works on the one that was given up here.
    soon("the late one is done", async {
        while running.load(SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    most.store(0, SeqCst);
    for _ in 0..4 {
        let attached = attached.clone();
        let command = wait();
        sent.spawn(async move { attached.send(command, SendOptions::in_sequence()).await });
    }
    while let Some(answers) = sent.join_next().await {
        assert!(answers.unwrap().unwrap()[0].result());
    }
    assert_eq!(most.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_packets_pass_in_both_directions_at_once() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, Setting::default()).await;
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let attached = office.attached().await;
    // Text that does not shrink much, so that a packet takes dozens of frames.
    let mut seed: u64 = 1;
    let text: String = (0..500_000)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(33 + (seed >> 33) as u8 % 90)
        })
        .collect();
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (attached, handle, text) = (attached.clone(), agent.handle(), text.clone());
        sent.spawn(async move {
            let echo = message("x.Echo", json!({ "text": text, "result": true }));
            let (down, up) = tokio::join!(
                attached.ask(echo.clone(), SendOptions::default()),
                handle.request(echo.clone(), LIMIT)
            );
            (down.unwrap().body == echo.body, up.unwrap().body == echo.body)
        });
    }
    while let Some(same) = soon("big answers", sent.join_next()).await {
        assert_eq!(same.unwrap(), (true, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_answer_can_ask_for_a_new_start_up() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, Setting::default()).await;
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let first = office.attached().await;
    *office.desk.ask_again.lock().unwrap() = true;
    let again = office.attached().await;
    assert!(first == again, "the same connection");
    let candidates = office.desk.candidates.lock().unwrap().clone();
    assert_eq!(candidates.len(), 2);
    assert_eq!(candidates[1].startup[0].body["id"], 5);
    // One ping an interval, not two: the next three come at least two intervals apart.
    let start = std::time::Instant::now();
    for _ in 0..3 {
        while !matches!(office.next_any().await.0, Seen::Ping(ping) if ping.body["hostId"] == 5) {}
    }
    assert!(start.elapsed() > Duration::from_millis(1900), "{:?}", start.elapsed());
    assert_eq!(status(&agent, "ready", |status| status.ready).await.connections, 1);
}
