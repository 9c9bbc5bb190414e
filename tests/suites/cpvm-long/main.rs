//! Consoles over minutes: what is idle stays, and what has vanished is found.

mod churn;
mod guest;

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tests::lab::cpvm::{LIMIT, PUBLIC, WORLD, hostile, run, until, viewer::Viewer};
use tokio_tungstenite::tungstenite::Message;

/// A peer that has vanished is found within this time.
const FOUND: Duration = Duration::from_secs(90);
/// How long nothing happens on an idle console.
const IDLE: Duration = Duration::from_secs(600);

#[test]
fn peers_that_vanish_without_a_word_are_found_within_90_seconds() {
    run("vncport=8080", true, async |lab| {
        let _machines = [lab.machine(5901, None), lab.machine(5902, None), lab.machine(5903, None)];
        let mut viewers = Vec::new();
        for port in [5901, 5902, 5903] {
            let token = lab.announced(port, |_| {}).await;
            viewers.push(Viewer::shown(&token).await.0);
        }
        // One browser is gone, and two hypervisors are, to one of which a key is on its way; no packet says so.
        let gone = viewers[0].socket.get_ref().local_addr().unwrap().port();
        lab.world.ok(&format!(
            "nft add table inet cut; nft add chain inet cut in '{{ type filter hook input priority 0; }}'; \
             nft add rule inet cut in ip daddr 203.0.113.7 tcp dport {gone} drop; \
             nft add rule inet cut in ip daddr {WORLD} tcp dport {{ 5902, 5903 }} drop; \
             nft add chain inet cut out '{{ type filter hook output priority 0; }}'; \
             nft add rule inet cut out ip daddr {PUBLIC} tcp sport {gone} drop; \
             nft add rule inet cut out ip saddr {WORLD} tcp sport {{ 5902, 5903 }} drop"
        ));
        viewers[2].send(&[4, 1, 0, 0, 0, 0, 0, 0x61]).await;
        let start = Instant::now();
        // The other browsers answer pings, as browsers do.
        let [_, two, three] = &mut viewers[..] else { unreachable!() };
        assert_eq!(tokio::join!(code(two), code(three)), (4002, 4002));
        until("all sessions are over", FOUND + Duration::from_secs(5), async || {
            lab.operator(&["sessions"]).await.stdout.lines().count() == 1
        })
        .await;
        println!("found after {:?}", start.elapsed());
        assert!(start.elapsed() < FOUND, "{:?}", start.elapsed());
        until("all are reported", LIMIT, async || lab.management.removed().len() == 3).await;
    });
}

/// Answers pings until the end, and returns its code.
async fn code(viewer: &mut Viewer) -> u16 {
    loop {
        let message = tokio::time::timeout(FOUND, viewer.socket.next()).await.expect("in time");
        if let Message::Close(frame) = message.unwrap().unwrap() {
            return frame.unwrap().code.into();
        }
        // The end may be on its way already.
        let _ = viewer.socket.flush().await;
    }
}

#[test]
fn an_idle_console_works_after_ten_minutes() {
    run("vncport=8080", true, async |lab| {
        let machine = lab.machine(5901, None);
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        let end = Instant::now() + IDLE;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Ok(message) = tokio::time::timeout(left, viewer.socket.next()).await {
                assert!(message.unwrap().unwrap().is_ping());
                viewer.socket.flush().await.unwrap();
            }
        }
        viewer.send(&[4, 1, 0, 0, 0, 0, 0, 0x61, 4, 0, 0, 0, 0, 0, 0, 0x61]).await;
        until("a key arrives", LIMIT, async || machine.output().contains("qcode a, down 0")).await;
        viewer.picture().await;
    });
}

#[test]
fn thousands_of_servers_and_clients_do_no_harm_to_others() {
    run("vncport=8080", true, async |lab| {
        let _machine = lab.machine(5901, None);
        let token = lab.announced(5901, |_| {}).await;
        let (mut viewer, _) = Viewer::shown(&token).await;
        viewer.picture().await;
        let looking = hostile::bystander(viewer);
        for round in 1..=5 {
            hostile::servers(lab, round * 1000..round * 1000 + 400).await;
            hostile::clients(lab, 5901, round * 1000..round * 1000 + 800).await;
            assert!(!looking.is_finished(), "round {round}: the picture goes on");
        }
        looking.abort();
    });
}
