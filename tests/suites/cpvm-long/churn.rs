//! Sessions that come and go for an hour, in all the ways that they can end; management is away twice meanwhile.

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
use tokio::sync::RwLock;

/// Sessions at a time.
const AT_ONCE: usize = 20;
/// What memory may grow by between the end of the first tenth and the end, KiB.
const GROWTH: u64 = 8 * 1024;

/// How long management is away.
const AWAY: Duration = Duration::from_secs(60);
/// Between two reports, and what they may be early or late.
const EVERY: Duration = Duration::from_secs(5);
const JITTER: Duration = Duration::from_secs(1);

/// How long: an hour, or as many seconds as `TRIVIUM_CHURN` says.
fn length() -> Duration {
    let seconds = std::env::var("TRIVIUM_CHURN").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3600))
}

/// One session from its beginning to one of its ends. `there`: management is, which lets it begin.
async fn visit(lab: &Lab, there: &RwLock<()>, ports: (u16, u16), seed: u64) {
    let mut dice = Dice::new(seed);
    let brief = dice.below(8) == 0;
    let port = if brief { ports.1 } else { ports.0 };
    let beginning = there.read().await;
    let token = lab.announced(port, |token| token.session_requires_new_viewer = true).await;
    let (mut viewer, _) = Viewer::shown(&token).await;
    drop(beginning);
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

/// How management is away.
#[derive(Debug, Clone, Copy)]
enum Away {
    /// Its connection is cut, and it takes no other.
    Gone,
    /// No packet passes, and nobody says so: what is on its way arrives when it is back.
    Silent,
}

/// Takes management away for as long as it may be; sessions end meanwhile, and none begins. Returns when it was so.
async fn away(lab: &Lab, there: &RwLock<()>, how: Away) -> (Instant, Instant) {
    let nobody_begins = there.write().await;
    let (port, start) = (lab.management.port(), Instant::now());
    let verdict = match how {
        Away::Gone => "reject with tcp reset",
        Away::Silent => "drop",
    };
    lab.world.ok(&format!(
        "nft add table inet away; nft add chain inet away in '{{ type filter hook input priority 0; }}'; \
         nft add rule inet away in tcp dport {port} {verdict}"
    ));
    if let Away::Gone = how {
        lab.management.agent().unwrap().close("the link is cut");
    }
    tokio::time::sleep(AWAY).await;
    let waiting = lab.operator(&["status"]).await.stdout;
    lab.world.ok("nft delete table inet away");
    // As often as a lost packet is sent again after a minute of silence.
    lab.management.joined(2 * LIMIT).await;
    let report = lab.management.next_report(|info| info.removed_sessions.is_some());
    tokio::time::timeout(2 * LIMIT, report).await.expect("reports come again");
    println!(
        "{how:?} for {:?}; before: {}",
        start.elapsed(),
        waiting.lines().find(|l| l.contains("ended")).unwrap()
    );
    drop(nobody_begins);
    (start, Instant::now())
}

fn token_session(lab: &Lab, token: &str) -> String {
    lab.management.key.open(token).unwrap().session_uuid.clone().unwrap()
}

#[test]
fn sessions_come_and_go_for_an_hour_and_leave_nothing() {
    run("vncport=8080", true, async |lab| {
        let ports = (screen(Act::Paced).await, screen(Act::Brief).await);
        let (start, length, there) = (Instant::now(), length(), RwLock::new(()));
        let absences = async {
            let mut absences = Vec::new();
            for (part, how) in [(3, Away::Gone), (2, Away::Silent)] {
                tokio::time::sleep_until((start + length / part).into()).await;
                absences.push(away(lab, &there, how).await);
            }
            absences
        };
        let visits = futures_util::stream::iter(0_u64..)
            .take_while(|_| std::future::ready(start.elapsed() < length))
            .map(|seed| visit(lab, &there, ports, seed));
        let mut visits = std::pin::pin!(visits.buffer_unordered(AT_ONCE));
        let (mut count, mut early, mut told) = (0_usize, None, Instant::now());
        let churn = async {
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
        };
        let ((), absences) = tokio::join!(churn, absences);
        until("all sessions are over", LIMIT, async || {
            lab.operator(&["sessions"]).await.stdout.lines().count() == 1
        })
        .await;
        // A report names twenty of them at most.
        until("each end is reported", 5 * LIMIT, async || {
            lab.operator(&["status"]).await.stdout.contains(" 0 ended and not yet reported")
        })
        .await;
        lab.management.next_report(|info| info.removed_sessions.is_some()).await;
        let removed = lab.management.removed();
        assert_eq!(removed.iter().collect::<BTreeSet<_>>().len(), count, "none is lost");
        assert_eq!(removed.len(), count, "each once");
        let times = lab.management.seen.lock().unwrap().times.clone();
        let mut gaps: Vec<Duration> = times
            .windows(2)
            .filter(|pair| absences.iter().all(|(from, to)| pair[1] < *from || pair[0] > *to))
            .map(|pair| pair[1] - pair[0])
            .collect();
        gaps.sort_unstable();
        let (least, most) = (gaps[0], gaps[gaps.len() - 1]);
        println!("{} reports, {least:?} to {most:?} apart", times.len());
        assert!(least > EVERY - JITTER && most < EVERY + JITTER, "{least:?} to {most:?} apart");
        let (early, late) = (early.unwrap(), lab.memory());
        println!("{count} sessions in {length:?}; {early} KiB early, {late} KiB at the end");
        assert!(late < early + GROWTH, "{early} KiB early, {late} KiB at the end");
        assert_eq!((lab.connections_to(ports.0), lab.connections_to(ports.1)), (0, 0));
    });
}
