//! Both ends against a peer made of other parts: `peer.py`, with Python's ssl module.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::channel::agent::Agent;
use common::channel::tls::{Authority, KeyKind};
use tests::lab::Namespace;

use crate::support::*;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/suites/channel/peer.py");

#[test]
fn the_server_takes_in_a_foreign_agent() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = authority(&folder.path().join("ca"));
    let namespace = Namespace::new("peer");
    let office = Office::open(&namespace, &authority, "127.0.0.1:8250");
    let own = folder.path().join("agent");
    equip(&authority, &own, "127.0.0.1");
    let lines = namespace.ok(&format!("python3 {PEER} agent 127.0.0.1 8250 {} 2>&1", own.display()));
    let wanted = ["handshake TLSv1.2", "ready", "ping", "echo in several frames", "end"];
    assert_eq!(lines.lines().collect::<Vec<_>>(), wanted);
    assert!(matches!(office.next(), Seen::Attached { verified: true, .. }));
}

#[test]
fn the_agent_joins_a_foreign_server_that_shows_its_authority() {
    let folder = tempfile::tempdir().expect("folder");
    let ca = folder.path().join("ca");
    // RSA: OpenSSL does not show an ECDSA certificate that may only sign certificates.
    let authority = Authority::open(&ca, AUTHORITY, KeyKind::Rsa).expect("authority");
    let own = folder.path().join("agent");
    equip(&authority, &own, "127.0.0.1");
    let mut peer = Command::new("python3")
        .args([PEER, "server", "0"])
        .arg(&ca)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut lines = BufReader::new(peer.stdout.take().expect("stdout")).lines();
    let mut next = || lines.next().expect("another line").expect("text");
    let port = next().strip_prefix("listening ").and_then(|port| port.parse().ok()).expect("a port");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let agent = runtime.block_on(async { Agent::start(config(&own, "127.0.0.1", port), Role.into()) });
    for wanted in ["handshake TLSv1.2 v-2-VM", "start-up Proxy.2-ConsoleProxyResource", "answers"] {
        assert_eq!(next(), wanted);
    }
    assert!(peer.wait().expect("the peer").success());
    assert_eq!(agent.status().borrow().host_id, Some(4));
    runtime.block_on(agent.stop());
}
