//! What takes long: power cuts, arm64, a patch archive as large as the reference's, new roots, other formats, stores that fall silent, and
//! downloads over restarts.

mod arm64;
mod cuts;
mod formats;
#[path = "../image/lab.rs"]
#[allow(dead_code)]
mod lab;
mod memory;
mod roots;
mod stores;
#[path = "../image/traffic.rs"]
#[allow(dead_code)]
mod traffic;

use std::fs;

use lab::{Lab, Role, STEP, stdout};

#[test]
fn an_agent_archive_of_100_mb_is_taken_and_leaves_nothing() {
    let lab = Lab::new();
    let mut vm = lab.start(Role::ConsoleProxy, "");
    vm.wait_line("TRIVIUM-READY", STEP);
    lab.wait_ssh(&vm);
    let dir = tempfile::tempdir().expect("folder");
    let archive = dir.path().join("agent.zip");
    fs::write(&archive, vec![0x5a; 100 << 20]).expect("archive");
    let out = lab.scp(&[&archive]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(vm.agent(STEP).read("/var/cache/cloud/agent.zip"), None, "the archive was kept");
    assert!(stdout(&lab.ssh("/opt/cloud/bin/get_template_version.sh")).contains('&'));
}
