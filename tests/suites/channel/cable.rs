//! A cable that is pulled: no end is told, both must notice.

use std::time::{Duration, Instant};

use common::channel::agent::Agent;

use crate::support::*;

#[test]
fn both_ends_notice_a_pulled_cable_and_find_each_other_again() {
    let (lab, folder) = (Lab::new(), tempfile::tempdir().expect("folder"));
    let authority = authority(&folder.path().join("ca"));
    let office = Office::open(&lab.office, &authority, "10.77.0.1:8250");
    let own = folder.path().join("agent");
    equip(&authority, &own, "10.77.0.2");
    let mut config = config(&own, "10.77.0.1", 8250);
    config.timings.connect = Duration::from_secs(2);
    let (sender, states) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let agent = inside(&lab.branch, move || async move {
        let agent = Agent::start(config, Role.into());
        let mut status = agent.status();
        let watch = async {
            while status.changed().await.is_ok() {
                let _ = sender.send(status.borrow_and_update().clone());
            }
        };
        tokio::select! {
            () = watch => {}
            _ = stopped => {}
        }
        agent.stop().await;
    });
    let ready = || loop {
        let status = states.recv_timeout(LIMIT).expect("the agent goes on");
        if status.ready {
            return;
        }
    };
    ready();
    assert!(matches!(office.next(), Seen::Attached { verified: true, .. }));

    let pulled = Instant::now();
    lab.office.ip(&["link", "set", "eth0", "down"]);
    let Seen::Detached(reason) = office.next() else { panic!("the office notices") };
    assert_eq!(reason, "no ping for 2.5s");
    loop {
        let status = states.recv_timeout(LIMIT).expect("the agent notices");
        if status.server.is_none() {
            break;
        }
    }
    assert!(pulled.elapsed() < Duration::from_secs(8), "noticed after {:?}", pulled.elapsed());

    lab.office.ip(&["link", "set", "eth0", "up"]);
    ready();
    assert!(matches!(office.next(), Seen::Attached { verified: true, .. }));
    let _ = stop.send(());
    agent.join().expect("the agent's thread");
}
