//! Programs that are killed.

use std::time::Duration;

use tests::lab::{
    pair::{Twins, alive, connect, serve},
    wait_until,
};

/// Two seconds are meant; several pairs share this machine's processors.
const BACK: Duration = Duration::from_secs(6);

fn kill(pids: &[u32]) {
    for pid in pids {
        let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
}

#[test]
fn what_is_killed_is_back_at_once_and_one_is_in_force() {
    let twins = Twins::isolated();
    let first = twins.elected();
    for place in [1 - first, first] {
        for program in ["conntrackd", "keepalived"] {
            let router = &twins.routers[place];
            let before = router.pids(program);
            assert!(!before.is_empty(), "{program} runs");
            kill(&before);
            let began = std::time::Instant::now();
            wait_until(program, BACK, || {
                let now = router.pids(program);
                !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
            });
            println!("{program} is back after {:?}", began.elapsed());
        }
    }
    twins.elected();
    let health = twins.routers[first].run(&["status"]).stdout;
    assert!(health.contains("keepalived runs, conntrackd runs"), "{health}");
}

#[test]
fn a_core_that_is_killed_moves_nothing_and_another_one_takes_over() {
    let mut twins = Twins::isolated();
    let first = twins.elected();
    serve(&twins.outside, "203.0.113.1:7000");
    let (mut out, _) = connect(&twins.guest, "203.0.113.1:7000").expect("the way out");
    let (pids, elections) = (twins.routers[first].pids("keepalived"), twins.routers[1 - first].elections());
    twins.routers[first].kill_core();
    // Longer than an election takes.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        assert!(alive(&mut out));
        assert_eq!(twins.routers[1 - first].role(), "BACKUP");
        std::thread::sleep(Duration::from_millis(200));
    }
    twins.routers[first].start_core();
    assert_eq!(twins.routers[first].role(), "PRIMARY");
    assert!(alive(&mut out));
    assert_eq!(twins.routers[first].pids("keepalived"), pids, "the same as before");
    assert_eq!(twins.routers[1 - first].elections(), elections);
    // The other one's core goes while it is elected.
    twins.routers[1 - first].kill_core();
    twins.routers[first].keepalived("stop");
    twins.routers[1 - first].start_core();
    wait_until("the other one", Duration::from_secs(10), || twins.routers[1 - first].role() == "PRIMARY");
    assert!(alive(&mut out));
}
