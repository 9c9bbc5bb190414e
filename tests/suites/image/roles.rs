//! Each role: what runs, and how long it takes until it is ready.

use std::{collections::BTreeSet, process::Command};

use tests::lab::vm::{Agent, Vm, image_folder};

use crate::lab::{CONTROL, Lab, Role, STEP, stdout};

/// Names of the services that the supervisor knows.
fn services(agent: &mut Agent) -> Vec<String> {
    let ran = agent.run("/usr/bin/execlineb", &["-c", "elglob NAMES /run/service/* echo ${NAMES}"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let names = ran.stdout.split_whitespace().filter_map(|path| path.rsplit('/').next());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

/// What `s6-svstat` says about a service.
fn stat(agent: &mut Agent, name: &str, field: &str) -> String {
    let ran = agent.run("/usr/bin/s6-svstat", &["-o", field, &format!("/run/service/{name}")]);
    ran.stdout.trim().to_owned()
}

/// A field of the status of a service's process, such as its resident memory.
fn field(agent: &mut Agent, name: &str, field: &str) -> String {
    let pid = stat(agent, name, "pid");
    let status = agent.text(&format!("/proc/{pid}/status"));
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

/// The paths that a pattern fits.
fn paths(agent: &mut Agent, pattern: &str) -> Vec<String> {
    let ran = agent.run("/usr/bin/execlineb", &["-c", &format!("elglob NAMES {pattern} echo ${{NAMES}}")]);
    ran.stdout.split_whitespace().map(str::to_owned).collect()
}

/// Names of the processes that are not the kernel's own.
fn processes(agent: &mut Agent) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for place in paths(agent, "/proc/[0-9]*") {
        // One that has ended in between is not there to be read.
        let Some(words) = agent.read(&format!("{place}/cmdline")) else { continue };
        let Some(name) = agent.read(&format!("{place}/comm")) else { continue };
        if !words.is_empty() {
            names.insert(String::from_utf8_lossy(&name).trim().to_owned());
        }
    }
    names
}

/// What listens, as `tcp 3922`; what does so for this machine alone has `lo` before its port.
fn ports(agent: &mut Agent) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (table, name, state) in
        [("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07")]
    {
        for line in agent.text(&format!("/proc/net/{table}")).lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words[3] != state {
                continue;
            }
            let (address, port) = words[1].rsplit_once(':').expect("address");
            let port = u16::from_str_radix(port, 16).expect("port");
            let loopback = address.ends_with("7F") || address == "00000000000000000000000001000000";
            found.insert(format!("{name} {}{port}", if loopback { "lo " } else { "" }));
        }
    }
    found
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn no_file_of_the_image_gives_its_user_other_rights() {
    let listed = Command::new("unsquashfs").arg("-lls").arg(image_folder().join("root.squashfs")).output();
    let listed = String::from_utf8(listed.expect("unsquashfs").stdout).expect("text");
    let files: Vec<&str> = listed.lines().filter(|line| line.contains("squashfs-root/")).collect();
    assert!(files.len() > 1000, "{} files", files.len());
    // The mode is the first word: `-rwsr-xr-x` for a set-uid file.
    let risky = |line: &&&str| {
        let mode = line.split(' ').next().unwrap_or_default();
        mode.starts_with('-')
            && (mode.contains('s') || mode.contains('S') || mode.ends_with("w-") || mode.ends_with("wx"))
    };
    let found: Vec<_> = files.iter().filter(risky).collect();
    assert!(found.is_empty(), "{found:?}");
    for absent in [
        "/usr/bin/sh",
        "/usr/bin/bash",
        "/usr/bin/dash",
        "/usr/bin/busybox",
        "/usr/bin/perl",
        "/usr/bin/python3",
        "/usr/bin/su",
        "/usr/bin/login",
    ] {
        assert!(!listed.contains(&format!("squashfs-root{absent}\n")), "{absent}");
    }
}

/// Boots a role and looks at what runs.
fn check(role: Role) -> (Lab, Vm) {
    let lab = Lab::new();
    let mut vm = lab.start(role, "");
    let line = vm.wait_line(&format!("TRIVIUM-READY role={}", role.name()), STEP);
    let (wall, cpu) = vm.seconds();
    println!("{line}: {wall:.1} s and {cpu:.1} CPU s after the restore");
    let mut agent = vm.agent(STEP);
    assert_eq!(agent.text("/run/trivium/role").trim(), role.name());
    let mut expected = vec!["boot", "chronyd", "core", "qemu-ga", "serve", "sshd"];
    // What waits for a VPN does not run before there is one.
    let waiting = if role == Role::Router { &["charon", "xl2tpd"][..] } else { &[] };
    expected.extend(waiting);
    if role == Role::SecondaryStorage {
        expected.extend(["rpcbind", "statd"]);
    }
    expected.sort_unstable();
    assert_eq!(services(&mut agent), expected, "only what the role needs runs");
    for name in ["core", "serve", "sshd", "chronyd"] {
        tests::lab::wait_until(&format!("service {name}"), STEP, || stat(&mut agent, name, "up") == "true");
    }
    tests::lab::wait_until("end of the one-shot boot", STEP, || stat(&mut agent, "boot", "up") == "false");
    for name in waiting {
        assert_eq!(stat(&mut agent, name, "up"), "false", "{name}");
    }
    assert_eq!(field(&mut agent, "core", "Uid:"), "0");
    assert_eq!(field(&mut agent, "serve", "Uid:"), "901", "serve has no privileges");
    for (name, value) in [("CapEff:", "0000000000000000"), ("NoNewPrivs:", "1"), ("Seccomp:", "2")] {
        assert_eq!(field(&mut agent, "serve", name), value, "{name}");
    }
    // Files of others, their processes, and the network; besides, as a bit each.
    let (module, chroot, admin, nice, resource, lock) =
        (1 << 16, 1 << 18, 1 << 21, 1 << 23, 1 << 24, 1 << 14);
    let kept = 0x34ff_u64
        | match role {
            Role::Router => module | chroot | admin | nice | resource | lock,
            Role::SecondaryStorage => admin,
            Role::ConsoleProxy => 0,
        };
    for set in ["CapEff:", "CapBnd:"] {
        assert_eq!(field(&mut agent, "core", set), format!("{kept:016x}"), "{set}");
    }
    let mut running =
        set(&["chronyd", "qemu-ga", "s6-log", "s6-supervise", "s6-svscan", "sshd", role.name()]);
    let mut open = set(&["tcp 3922"]);
    match role {
        Role::Router => {
            open.extend(set(&["udp 67", "udp 53", "tcp 53", "tcp 80", "tcp 443", "tcp 8080", "udp lo 3914"]))
        }
        Role::SecondaryStorage => {
            running.extend(set(&["rpcbind", "rpc.statd"]));
            open.extend(set(&["tcp 80", "tcp 443", "tcp 111", "udp 111"]));
        }
        Role::ConsoleProxy => {}
    }
    assert_eq!(processes(&mut agent), running);
    // rpc.statd takes a free port of each kind, and one of this machine to itself.
    let statd = |port: &String| {
        let number: u16 = port.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        role == Role::SecondaryStorage && (number >= 32768 || port.starts_with("udp lo "))
    };
    let found = ports(&mut agent);
    assert!(found.iter().filter(|port| statd(port)).count() <= 5, "{found:?}");
    assert_eq!(found.into_iter().filter(|port| !statd(port)).collect::<BTreeSet<_>>(), open);
    for name in ["core", "serve"] {
        println!("{} {name}: {} KiB resident", role.name(), field(&mut agent, name, "VmRSS:"));
    }
    (lab, vm)
}

#[test]
fn the_router_runs_what_it_needs() {
    check(Role::Router);
}

#[test]
fn the_secondary_storage_vm_runs_what_it_needs() {
    check(Role::SecondaryStorage);
}

#[test]
fn the_console_proxy_runs_what_it_needs_and_gives_its_recordings() {
    let (lab, vm) = check(Role::ConsoleProxy);
    lab.wait_ssh(&vm);
    let name = "/state/recordings/1795369288253.vm-1.9f1c0c1e.fbs";
    let bytes = b"FBS 001.001\nnot a whole one".repeat(10_000);
    let mut agent = vm.agent(STEP);
    // The image has no mkdir; this one makes its folder.
    assert_eq!(agent.run("/usr/bin/s6-log", &["/state/recordings"]).code, 0);
    agent.write(name, &bytes);
    let listed = stdout(&lab.ssh("recordings"));
    assert_eq!(listed, format!("BYTES STATE FILE\n{} ended {name}\n", bytes.len()));
    let folder = tempfile::tempdir().expect("folder");
    // By the old protocol and by SFTP, which `scp` speaks today.
    for way in [&["-O"][..], &[]] {
        let here = folder.path().join("fetched.fbs");
        let out = lab.client("scp", "id").args(way).arg(format!("root@{CONTROL}:{name}")).arg(&here).output();
        let out = out.expect("scp");
        assert!(out.status.success(), "{out:?}");
        assert!(std::fs::read(&here).expect("the recording") == bytes, "other bytes");
        std::fs::remove_file(here).expect("the recording");
        let mut other = lab.client("scp", "id");
        other.args(way).arg(format!("root@{CONTROL}:/etc/shadow")).arg(folder.path());
        assert!(!other.output().expect("scp").status.success(), "only recordings are given");
    }
    assert!(lab.ssh(&format!("recordings remove {name}")).status.success());
    assert_eq!(stdout(&lab.ssh("recordings")), "BYTES STATE FILE\n");
}
