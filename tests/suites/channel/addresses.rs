//! A certificate is good for the address that it names, and for no other.

use common::channel::agent::{Agent, Status};

use crate::support::*;

/// An agent in the branch, until it is let go.
struct Attempt {
    status: Status,
    let_go: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Attempt {
    /// Starts an agent and waits until it is ready or has been refused.
    fn start(lab: &Lab, folder: &std::path::Path, host: &'static str, port: u16) -> Self {
        let config = config(folder, host, port);
        let (sender, decided) = std::sync::mpsc::channel();
        let (let_go, gone) = tokio::sync::oneshot::channel();
        let thread = inside(&lab.branch, move || async move {
            let agent = Agent::start(config, Role.into());
            let mut status = agent.status();
            let known = status.wait_for(|status| status.ready || status.last_error.is_some());
            let _ = sender.send(known.await.expect("it runs").clone());
            let _ = gone.await;
            agent.stop().await;
        });
        Self { status: decided.recv_timeout(LIMIT).expect("a decision in time"), let_go, thread }
    }

    fn end(self) {
        let _ = self.let_go.send(());
        self.thread.join().expect("the agent's thread");
    }
}

#[test]
fn a_certificate_is_good_for_its_own_address_only() {
    let (lab, folder) = (Lab::new(), tempfile::tempdir().expect("folder"));
    let authority = authority(&folder.path().join("ca"));
    // One listener for both families, so IPv4 peers appear as mapped addresses.
    let office = Office::open(&lab.office, &authority, "[::]:8250");
    for (address, host) in [("10.77.0.2", "10.77.0.1"), ("fd77::2", "fd77::1")] {
        let own = folder.path().join(address);
        equip(&authority, &own, address);
        let attempt = Attempt::start(&lab, &own, host, office.address.port());
        assert!(attempt.status.ready && attempt.status.secured, "{:?}", attempt.status);
        let Seen::Attached { from, verified: true } = office.next() else { panic!("{address} is taken in") };
        assert_eq!(from.ip().to_canonical().to_string(), address);
        attempt.end();
        let Seen::Detached(reason) = office.next() else { panic!("{address} leaves") };
        assert_eq!(reason, "it shuts down");
    }
    // Good certificates, but the connections come from 10.77.0.2.
    for address in ["10.77.0.3", "10.77.0.1", "fd77::2"] {
        let stolen = folder.path().join(format!("stolen-{address}"));
        equip(&authority, &stolen, address);
        let attempt = Attempt::start(&lab, &stolen, "10.77.0.1", office.address.port());
        assert!(!attempt.status.ready, "{address}");
        attempt.end();
    }
    assert!(office.seen.try_recv().is_err(), "nobody else was taken in");
}
