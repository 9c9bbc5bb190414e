//! Each role: what runs, and how long it takes until it is ready.

use tests::lab::vm::Agent;

use crate::lab::{Lab, Role, STEP};

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

/// Boots a role and looks at what runs.
fn check(role: Role) {
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
    for name in ["core", "serve"] {
        println!("{} {name}: {} KiB resident", role.name(), field(&mut agent, name, "VmRSS:"));
    }
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
fn the_console_proxy_runs_what_it_needs() {
    check(Role::ConsoleProxy);
}
