//! Staying with a server, losing it, and moving to another.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::channel::agent::{Agent, RequestError};
use common::channel::message::Message;
use common::channel::server::{SendOptions, ServerConfig};
use common::command::agent::{
    MigrateAgentConnectionCommand, ReadyCommand, SetupMsListCommand, ShutdownCommand,
};
use serde_json::json;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_comes_back_when_its_server_was_killed() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut first = office(&ca, Setting::default()).await;
    let address = first.server.address();
    let agent = Agent::start(agent_config(folder.path(), address), Role::default().into());
    first.attached().await;
    drop(first);
    let lost = status(&agent, "loss", |status| status.server.is_none() && status.connections == 1).await;
    assert_eq!(lost.host_id, Some(5));
    let down = agent.request(message("x.Echo", json!({})), LIMIT).await;
    assert!(matches!(down, Err(RequestError::NotConnected)), "{down:?}");
    let mut second = office(&ca, Setting { address, ..Setting::default() }).await;
    second.attached().await;
    let startup = second.desk.candidates.lock().unwrap()[0].startup[0].clone();
    assert_eq!(startup.body["id"], 5);
    assert_eq!(startup.body["connectionTransferred"], false);
    // The number of requests goes on; a new process knows its id, too.
    agent.stop().await;
    let again = Agent::start(agent_config(folder.path(), address), Role::default().into());
    status(&again, "its id", |status| status.host_id == Some(5)).await;
    second.attached().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_falls_silent_is_left() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    // Answers the start-up with one-second pings and never says another word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = server_tls(&ca);
    let mut config = agent_config(folder.path(), address);
    config.timings.silence = 1.5;
    let agent = Agent::start(config, Role::default().into());
    let mut held = Vec::new();
    for _ in 0..2 {
        let (socket, _) = soon("a connection", listener.accept()).await.unwrap();
        let mut stream =
            common::channel::stream::accept(socket, tls.config(LOCALHOST).unwrap(), LIMIT).await.unwrap();
        let request = receive(&mut stream).await.unwrap();
        let answer = message(
            "com.cloud.agent.api.StartupAnswer",
            json!({"hostId": 0, "pingInterval": 1, "result": true}),
        );
        send(&mut stream, &request.response(&[answer])).await;
        held.push(stream);
    }
    let left = status(&agent, "second connection", |status| status.connections == 2).await;
    assert_eq!(left.last_error.as_deref(), Some("the server has been silent for too long"));
    assert_eq!(left.host_id, None, "0 is no host id");
    // It had gone on pinging.
    let pings = async {
        while let Some(packet) = receive(&mut held[0]).await {
            if only(&packet).simple_name() == "PingCommand" {
                return true;
            }
        }
        false
    };
    assert!(pings.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_up_without_an_answer_is_tried_again() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = server_tls(&ca);
    let mut config = agent_config(folder.path(), listener.local_addr().unwrap());
    config.timings.startup = Duration::from_millis(200);
    let agent = Agent::start(config, Role::default().into());
    let mut held = Vec::new();
    for attempt in 0..2 {
        let (socket, _) = soon("a connection", listener.accept()).await.unwrap();
        let mut stream =
            common::channel::stream::accept(socket, tls.config(LOCALHOST).unwrap(), LIMIT).await.unwrap();
        let request = receive(&mut stream).await.unwrap();
        assert_eq!((request.sequence, request.flags.0), (attempt, 5));
        held.push(stream);
    }
    let tried = status(&agent, "second attempt", |status| status.last_error.is_some()).await;
    assert_eq!(tried.last_error.as_deref(), Some("no answer to the start-up"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_ping_is_closed() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let config = ServerConfig {
        ping_interval: 3600,
        ping_timeout: Duration::from_millis(300),
        ..Setting::default().config
    };
    let mut office = office(&ca, Setting { config, ..Setting::default() }).await;
    let _agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let attached = office.attached().await;
    // Other traffic does not count.
    let echo = attached.ask(message("x.Echo", json!({})), SendOptions::default()).await;
    assert!(echo.is_ok());
    assert_eq!(office.next().await, Seen::Detached(5, "no ping for 300ms".to_owned()));
}

/// Two servers on two addresses of loopback with the same port, and an agent that may use both.
async fn two_offices(ca: &Ca) -> (Office, Office) {
    for _ in 0..20 {
        let first = office(ca, Setting::default()).await;
        let address = SocketAddr::new(IpAddr::from([127, 0, 0, 2]), first.server.address().port());
        if std::net::TcpListener::bind(address).is_ok() {
            let second = office(ca, Setting { address, ..Setting::default() }).await;
            return (first, second);
        }
    }
    panic!("no port is free on both addresses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_moves_when_told_and_keeps_the_list() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let (mut first, mut second) = two_offices(&ca).await;
    let config = agent_config(folder.path(), first.server.address());
    let agent = Agent::start(config.clone(), Role::default().into());
    let attached = first.attached().await;
    let here = "127.0.0.1".to_owned();
    let there = "127.0.0.2".to_owned();
    let migrate = MigrateAgentConnectionCommand {
        ms_list: Some(vec![here.clone(), there.clone()]),
        avoid_ms_list: vec![here.clone()],
        lb_algorithm: Some("static".to_owned()),
        lb_check_interval: Some(0),
        ..MigrateAgentConnectionCommand::default()
    };
    let answer = attached.ask(Message::wrap(&migrate), SendOptions::default()).await.unwrap();
    assert_eq!(answer.class, "com.cloud.agent.api.MigrateAgentConnectionAnswer");
    assert!(answer.result(), "{answer:?}");
    let moved = second.attached().await;
    let startup = second.desk.candidates.lock().unwrap()[0].startup[0].clone();
    assert_eq!(startup.body["connectionTransferred"], true);
    assert_eq!(startup.body["msHostList"], "127.0.0.1,127.0.0.2@static");
    assert_eq!(first.next().await, Seen::Detached(5, "it closed the connection".to_owned()));

    // A new list with the wish to look at once brings it back, without the mark of a migration.
    let list = SetupMsListCommand {
        ms_list: vec![here.clone(), there.clone()],
        avoid_ms_list: vec![],
        lb_algorithm: "static".to_owned(),
        lb_check_interval: Some(0),
        trigger_host_lb: true,
        ..SetupMsListCommand::default()
    };
    let answer = moved.ask(Message::wrap(&list), SendOptions::default()).await.unwrap();
    assert_eq!(answer.class, "org.apache.cloudstack.agent.lb.SetupMSListAnswer");
    first.attached().await;
    let startup = first.desk.candidates.lock().unwrap()[1].startup[0].clone();
    assert_eq!(startup.body["connectionTransferred"], false);

    // A new process begins with the list that it was given.
    agent.stop().await;
    drop(first);
    let again = Agent::start(config, Role::default().into());
    second.attached().await;
    assert_eq!(status(&again, "ready", |status| status.ready).await.server, Some(there));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_to_where_nobody_answers_does_not_happen() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let ready = ReadyCommand {
        ms_host_list: Some(vec!["127.0.0.1".to_owned(), "127.0.0.3".to_owned()]),
        lb_algorithm: Some("static".to_owned()),
        ..ReadyCommand::default()
    };
    let mut office = office(&ca, Setting { ready, ..Setting::default() }).await;
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let attached = office.attached().await;
    let migrate = MigrateAgentConnectionCommand {
        avoid_ms_list: vec!["127.0.0.1".to_owned()],
        ..MigrateAgentConnectionCommand::default()
    };
    assert!(attached.ask(Message::wrap(&migrate), SendOptions::default()).await.unwrap().result());
    // Two pings later it is still here.
    for _ in 0..2 {
        while !matches!(office.next_any().await.0, Seen::Ping(_)) {}
    }
    assert_eq!(agent.status().borrow().connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dismissed_agent_stays_away_until_it_is_reloaded() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, Setting::default()).await;
    let agent = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let attached = office.attached().await;
    let shutdown =
        ShutdownCommand { reason: "deleteHost".to_owned(), remove_host: true, ..ShutdownCommand::default() };
    assert!(attached.ask(Message::wrap(&shutdown), SendOptions::default()).await.unwrap().result());
    attached.close("host deleted");
    status(&agent, "dismissal", |status| status.dismissed).await;
    let properties = std::fs::read_to_string(folder.path().join("agent.properties")).unwrap();
    assert!(properties.contains("zone=\n") && properties.contains("cluster=\n"), "{properties}");
    agent.reload().await;
    office.attached().await;
    assert_eq!(status(&agent, "ready", |status| status.ready).await.connections, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_of_the_same_agent_takes_the_place_of_the_first() {
    let ca = authority();
    let folder = tempfile::tempdir().unwrap();
    ca.equip(folder.path(), "127.0.0.1");
    let mut office = office(&ca, Setting::default()).await;
    let mut old = raw_agent(office.server.address(), folder.path()).await.unwrap();
    send(&mut old, &startup(0)).await;
    assert_eq!(only(&receive(&mut old).await.unwrap()).simple_name(), "StartupAnswer");
    assert_eq!(only(&receive(&mut old).await.unwrap()).simple_name(), "ReadyCommand");
    assert_eq!(office.next().await, Seen::SetUp(5, vec![]));
    let _new = Agent::start(agent_config(folder.path(), office.server.address()), Role::default().into());
    let mut events =
        [office.next().await, office.next().await, office.next().await].map(|seen| format!("{seen:?}"));
    events.sort();
    assert_eq!(events, ["Attached(5)", "Detached(5, \"the agent has connected anew\")", "SetUp(5, [])"]);
    assert!(receive(&mut old).await.is_none());
    assert_eq!(office.server.agents().all().len(), 1);
}

/// TLS of a raw server.
pub(crate) fn server_tls(ca: &Ca) -> common::channel::tls::ServerTls {
    use common::channel::tls::{ClientPolicy, Revoked, ServerTls};
    ServerTls::new(&ca.authority, vec![], vec![LOCALHOST], ClientPolicy::default(), Revoked::default())
        .unwrap()
}
