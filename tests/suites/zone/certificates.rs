//! Certificates of hosts: renewed before they end, revoked, foreign.

use std::{fs, path::Path, process::Command};

use common::channel::tls::{Authority, Issue, KeyKind};
use tests::lab::wait_until;

use crate::{LIMIT, Lab, text};

fn certificate(lab: &Lab, host: &str) -> String {
    fs::read_to_string(lab.path(host).join("agent/cloud.crt")).unwrap()
}

fn events(lab: &Lab) -> String {
    lab.ask(&["status"]).unwrap()["events"].to_string()
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_certificate_is_renewed_by_hand_and_before_it_ends() {
    let lab = Lab::new();
    let mut serve = lab.serve();
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    let first = certificate(&lab, "host1");
    assert!(lab.ask(&["renew", "host2"]).unwrap_err().contains("host2 is not connected"));
    lab.ask(&["renew", "host1"]).unwrap();
    let second = certificate(&lab, "host1");
    assert_ne!(first, second);
    assert_eq!(events(&lab).matches("agent is up").count(), 1, "the connection stays");
    host.kill();
    wait_until("host1 is gone", LIMIT, || !lab.is_up("host1"));
    host = lab.host("host1");
    lab.wait_up("host1");
    assert_eq!(certificate(&lab, "host1"), second);

    // As the end comes near it happens by itself, when the host connects.
    serve.kill();
    let line = format!(
        "import sqlite3, time; d = sqlite3.connect({:?}); d.execute('UPDATE certificate SET expires = ?', \
         [int(time.time()) + 86400 * 20]); d.commit()",
        text(&lab.path("m/manage.db"))
    );
    assert!(Command::new("python3").args(["-c", &line]).status().unwrap().success());
    let _serve = lab.serve();
    wait_until("a new certificate", LIMIT, || events(&lab).contains("the old one was to end soon"));
    assert_ne!(certificate(&lab, "host1"), second);
    assert_eq!(events(&lab).matches("the old one was to end soon").count(), 1);
    host.kill();
    let _host = lab.host("host1");
    lab.wait_up("host1");
    assert_eq!(events(&lab).matches("the old one was to end soon").count(), 1, "once is enough");
}

#[test]
fn who_is_revoked_is_let_in_no_more_until_it_joins_anew() {
    let lab = Lab::new();
    lab.net.address("br-mgmt", "192.168.100.2/24");
    let mut serve = lab.serve();
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    copy(&lab.path("host1/agent"), &lab.path("stolen"));
    assert!(lab.ask(&["revoke", "host9"]).unwrap_err().contains("was never given a certificate"));
    lab.ask(&["revoke", "host1"]).unwrap();
    wait_until("its connection is cut", LIMIT, || !lab.is_up("host1"));
    assert!(events(&lab).contains("its certificate has been revoked"), "{}", events(&lab));

    // Neither later nor by a manager that was started anew.
    serve.kill();
    let _serve = lab.serve();
    host.kill();
    host = lab.host("host1");
    let log = |host: &tests::lab::Process| host.output();
    wait_until("it is refused", LIMIT, || log(&host).contains("no connection to a server"));
    assert!(!lab.is_up("host1"));
    host.kill();

    lab.ask(&["host-token", "host1"]).unwrap();
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    // The same command line again, with a file whose token was used: it stays as it is.
    fs::write(lab.path("m/join/host1.json"), fs::read(lab.path("host1/host.json")).unwrap()).unwrap();
    host.kill();
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    host.kill();
    wait_until("host1 is gone", LIMIT, || !lab.is_up("host1"));

    // What somebody has kept of the old certificate is of no use.
    copy(&lab.path("stolen"), &lab.path("host1/agent"));
    let thief = lab.host("host1");
    wait_until("it is refused", LIMIT, || log(&thief).contains("no connection to a server"));
    assert!(!lab.is_up("host1"));
}

#[test]
fn a_foreign_certificate_opens_nothing() {
    let lab = Lab::new();
    let _serve = lab.serve();
    let mut host = lab.host("host1");
    lab.wait_up("host1");
    host.kill();
    wait_until("host1 is gone", LIMIT, || !lab.is_up("host1"));
    copy(&lab.path("host1/agent"), &lab.path("own"));
    let folder = tempfile::tempdir().unwrap();
    let foreign = Authority::open(folder.path(), "ca.cloudstack.apache.org", KeyKind::P256).unwrap();
    let wish =
        Issue { names: vec!["host1".into()], addresses: vec!["192.168.100.1".parse().unwrap()], days: 30 };
    let issued = foreign.issue(&wish, KeyKind::P256).unwrap();
    fs::write(lab.path("host1/agent/cloud.crt"), &issued.certificate).unwrap();
    fs::write(lab.path("host1/agent/cloud.key"), &issued.private_key).unwrap();
    let mut host = lab.host("host1");
    wait_until("it is refused", LIMIT, || host.output().contains("no connection to a server"));
    assert!(!lab.is_up("host1"));
    host.kill();
    copy(&lab.path("own"), &lab.path("host1/agent"));
    let _host = lab.host("host1");
    lab.wait_up("host1");
}
