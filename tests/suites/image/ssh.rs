//! SSH as a host uses it: where it answers, to whom, and what it does.

use std::{fs, process::Command};

use crate::lab::{CONTROL, Lab, Role, STEP, stdout};

#[test]
fn a_host_finds_what_it_needs_over_ssh() {
    let lab = Lab::new();
    let mut vm = lab.start(Role::Router, "");
    vm.wait_line("TRIVIUM-READY", STEP);
    lab.wait_ssh(&vm);
    the_version_has_two_parts(&lab);
    patch_files_are_hashed_and_discarded(&lab);
    there_is_no_shell(&lab);
    only_the_key_and_the_control_nic(&lab);
    assert!(lab.host.sh(&format!("ping -c 2 -W 5 {CONTROL}")).status.success(), "no echo on the control NIC");
}

fn the_version_has_two_parts(lab: &Lab) {
    let out = lab.ssh("/opt/cloud/bin/get_template_version.sh");
    assert!(out.status.success(), "{out:?}");
    let text = stdout(&out);
    let parts: Vec<&str> = text.trim_end_matches('\n').split('&').collect();
    assert_eq!(parts.len(), 2, "{text}");
    assert!(parts[0].starts_with("Cloudstack Release 4.22.0 "), "{text}");
    assert!(parts[1].len() == 128 && parts[1].bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
}

/// The three patch files arrive by legacy scp; their archives leave only a sum.
fn patch_files_are_hashed_and_discarded(lab: &Lab) {
    let dir = tempfile::tempdir().expect("folder");
    let files = ["agent.zip", "cloud-scripts.tgz", "patch-sysvms.sh"].map(|name| {
        let path = dir.path().join(name);
        fs::write(&path, format!("contents of {name}\n").repeat(5000)).expect("patch file");
        path
    });
    let out = lab.scp(&files.each_ref().map(std::path::PathBuf::as_path));
    assert!(out.status.success(), "{out:?}");
    let sum = Command::new("sha512sum").arg(&files[1]).output().expect("sha512sum");
    let sum = stdout(&sum)[..128].to_owned();
    let version = stdout(&lab.ssh("/opt/cloud/bin/get_template_version.sh"));
    assert!(version.trim_end().ends_with(&format!("&{sum}")), "{version}");
    let patched = lab.ssh("/var/cache/cloud/patch-sysvms.sh");
    assert_eq!(stdout(&patched).trim(), format!("version:{sum}"), "{patched:?}");
    let seen = lab.ssh("/opt/cloud/bin/patched.sh /opt/cloud/bin/keystore*");
    assert!(seen.status.success(), "{seen:?}");
    let left = lab.ssh("/opt/cloud/bin/patched.sh /var/cache/cloud/agent.zip");
    assert!(!left.status.success(), "agent.zip was kept: {left:?}");
}

fn there_is_no_shell(lab: &Lab) {
    for line in
        ["id", "sh", "/bin/bash -c id", "cat /etc/shadow", "/opt/cloud/bin/get_template_version.sh; id"]
    {
        let out = lab.ssh(line);
        assert!(!stdout(&out).contains("uid=") && !stdout(&out).contains("root:"), "{line}: {out:?}");
        assert!(!out.status.success(), "{line} is not refused: {out:?}");
    }
}

fn only_the_key_and_the_control_nic(lab: &Lab) {
    let refused = |key: &str, user: &str| {
        let out = lab.client("ssh", key).arg(format!("{user}@{CONTROL}")).arg("true").output().expect("ssh");
        assert_eq!(out.status.code(), Some(255), "{user} is let in with key {key}: {out:?}");
    };
    refused("other", "root");
    refused("id", "serve");
    let closed = |address: &str, way: &str| {
        let out = lab.host.sh(&format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/3922'"));
        assert!(!out.status.success(), "port 3922 is open on {address} {way}");
    };
    closed("10.1.1.1", "of the guest NIC");
    closed("203.0.113.10", "of the public NIC");
    // A guest that routes to the control address through its own NIC does not get there either.
    lab.host.ok(&format!("ip route add {CONTROL}/32 via 10.1.1.1"));
    closed(CONTROL, "through the guest NIC");
    lab.host.ok(&format!("ip route del {CONTROL}/32 via 10.1.1.1"));
}
