//! Sessions that come and go for an hour, in all the ways that they can end.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tests::lab::cpvm::{
    LIMIT, Lab,
    hostile::Dice,
    run,
    screen::{Act, screen},
    until,
    viewer::Viewer,
};

/// Sessions at a time.
const AT_ONCE: usize = 20;
/// What memory may grow by between the end of the first tenth and the end, KiB.
const GROWTH: u64 = 8 * 1024;

/// How long: an hour, or as many seconds as `TRIVIUM_CHURN` says.
fn length() -> Duration {
    let seconds = std::env::var("TRIVIUM_CHURN").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3600))
}

/// One session from its beginning to one of its ends.
async fn visit(lab: &Lab, ports: (u16, u16), seed: u64) {
    let mut dice = Dice::new(seed);
    let brief = dice.below(8) == 0;
    let port = if brief { ports.1 } else { ports.0 };
    let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
    let (mut viewer, _) = Viewer::shown(&token).await;
    viewer.send(&[3, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90]).await;
    if brief {
        assert_eq!(viewer.closed().await.map(|(code, _)| code), Some(4002));
        return;
    }
    let until = tokio::time::Instant::now() + Duration::from_millis(dice.roll() % 15_000);
    while let Ok(message) = tokio::time::timeout_at(until, viewer.socket.next()).await {
        message.expect("the session goes on").expect("the session goes on");
    }
    match dice.below(4) {
        0 => viewer.socket.close(None).await.unwrap(),
        1 => {
            rustix::net::sockopt::set_socket_linger(viewer.socket.get_ref(), Some(Duration::ZERO)).unwrap();
        }
        2 => {
            let listed = lab.operator(&["sessions"]).await.stdout;
            let session = token_session(lab, &token);
            let line = listed.lines().find(|line| line.ends_with(&session));
            if let Some(number) = line.and_then(|line| line.split(' ').next()) {
                lab.operator(&["cut", number]).await;
                assert_eq!(viewer.closed().await.map(|(code, _)| code), Some(4003));
            }
        }
        _ => {}
    }
}

fn token_session(lab: &Lab, token: &str) -> String {
    lab.management.key.open(token).unwrap().session_uuid.clone().unwrap()
}

#[test]
fn sessions_come_and_go_for_an_hour_and_leave_nothing() {
    run("vncport=8080", true, async |lab| {
        let ports = (screen(Act::Paced).await, screen(Act::Brief).await);
        let (start, length) = (Instant::now(), length());
        let visits = futures_util::stream::iter(0_u64..)
            .take_while(|_| std::future::ready(start.elapsed() < length))
            .map(|seed| visit(lab, ports, seed));
        let mut visits = std::pin::pin!(visits.buffer_unordered(AT_ONCE));
        let (mut count, mut early, mut told) = (0_usize, None, Instant::now());
        while visits.next().await.is_some() {
            count += 1;
            if early.is_none() && start.elapsed() > length / 10 {
                early = Some(lab.memory());
            }
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                println!(
                    "{:?}: {count} sessions, {} KiB, {} descriptors",
                    start.elapsed(),
                    lab.memory(),
                    lab.descriptors()
                );
            }
        }
        until("all sessions are over", LIMIT, async || {
            lab.operator(&["sessions"]).await.stdout.lines().count() == 1
        })
        .await;
        until("each end is reported", LIMIT, async || lab.management.removed().len() == count).await;
        let removed = lab.management.removed();
        assert_eq!(removed.iter().collect::<BTreeSet<_>>().len(), count, "each once");
        let (early, late) = (early.unwrap(), lab.memory());
        println!("{count} sessions in {length:?}; {early} KiB early, {late} KiB at the end");
        assert!(late < early + GROWTH, "{early} KiB early, {late} KiB at the end");
        assert_eq!((lab.connections_to(ports.0), lab.connections_to(ports.1)), (0, 0));
    });
}
