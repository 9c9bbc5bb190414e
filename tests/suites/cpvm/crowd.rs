//! As many consoles as a proxy is given by default, all with moving pictures, on one processor.

use std::time::{Duration, Instant};

use common::{channel::message::Message, command::agent::CheckHealthCommand};
use futures_util::StreamExt as _;
use tests::lab::cpvm::{
    LIMIT,
    management::succeeded,
    run,
    screen::{Act, screen},
    until,
    viewer::Viewer,
};

/// Consoles; management gives a proxy no more.
const CONSOLES: usize = 50;
/// How long what they get is counted.
const WATCHED: Duration = Duration::from_secs(4);
/// Memory that both halves may take, KiB.
const MEMORY: u64 = 300 * 1024;
/// What one console may hold that nobody reads, KiB.
const HELD: u64 = 8 * 1024;
/// For management's questions meanwhile.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Asks for the screen.
const ASK: [u8; 10] = [3, 1, 0, 0, 0, 0, 2, 0x80, 1, 0x90];

/// Bytes that come to a viewer until then.
async fn watched(viewer: &mut Viewer, end: tokio::time::Instant) -> usize {
    let mut bytes = 0;
    while let Ok(message) = tokio::time::timeout_at(end, viewer.socket.next()).await {
        bytes += message.expect("it goes on").expect("it goes on").len();
    }
    bytes
}

#[test]
fn fifty_moving_pictures_share_one_processor_and_nobody_starves() {
    run("vncport=8080", true, async |lab| {
        for half in [lab.core.id(), lab.serve.id()] {
            lab.world.ok(&format!("taskset -apc 0 {half}"));
        }
        let (moving, flood) = (screen(Act::Paced).await, screen(Act::Flood).await);
        let open = async |port| {
            let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
            let (mut viewer, _) = Viewer::shown(&token).await;
            viewer.send(&ASK).await;
            viewer
        };
        let mut viewers = Vec::new();
        for _ in 0..CONSOLES {
            viewers.push(open(moving).await);
        }
        // One browser takes nothing of a screen that sends all it can.
        let before = lab.memory();
        let _unread = open(flood).await;
        let end = tokio::time::Instant::now() + WATCHED;
        let counts = futures_util::future::join_all(viewers.iter_mut().map(|viewer| watched(viewer, end)));
        let questions = async {
            let unknown = Message { class: "com.cloud.agent.api.Surprise".into(), body: Default::default() };
            let (start, mut slowest) = (Instant::now(), Duration::ZERO);
            while start.elapsed() < WATCHED / 2 {
                let asked = Instant::now();
                let health = lab.management.ask(Message::wrap(&CheckHealthCommand::default())).await;
                assert!(succeeded(&health), "{health:?}");
                assert!(lab.management.ask(unknown.clone()).await.class.ends_with("UnsupportedAnswer"));
                slowest = slowest.max(asked.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            slowest
        };
        let (mut counts, slowest) = tokio::join!(counts, questions);
        counts.sort_unstable();
        let (least, middle) = (counts[0], counts[CONSOLES / 2]);
        println!(
            "bytes of a console: least {least}, middle {middle}; two questions take {slowest:?} at most"
        );
        assert!(least * 2 > middle, "{counts:?}");
        assert!(slowest < AT_ONCE, "{slowest:?}");
        let after = lab.memory();
        println!("memory: {before} KiB, with one that does not read {after} KiB");
        assert!(after < MEMORY && after < before + HELD, "{before} KiB, then {after} KiB");
        drop(viewers);
        until("the fifty have ended", LIMIT, async || lab.connections_to(moving) == 0).await;
    });
}
