//! The power goes: at any moment of a thousand changes, as the disk sees it, and ten times for a whole machine.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use common::{
    paths::Paths,
    shim::wire::{self, Request},
};
use tests::lab::{
    Namespace, Process, binary,
    cpvm::hostile::Dice,
    join,
    vm::{
        Agent, Config, Vm,
        writes::{self, Part},
    },
    wait_until,
};

use crate::lab::{CONTROL, Lab, Role, STEP, stdout};

/// Changes that are recorded, and moments at which the power goes.
const CHANGES: usize = 1000;
const CUTS: usize = 200;

/// The public address, before all changes.
const ADDRESS: &str = r#"{"ip_address":[{"public_ip":"203.0.113.10","source_nat":true,"add":true,"one_to_one_nat":false,"first_i_p":true,"gateway":"203.0.113.1","netmask":"255.255.255.0","vif_mac_address":"02:00:4c:00:00:02","nic_dev_id":2,"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}],"type":"ips"}"#;

/// What each change in turn adds one of, as `status` names it.
const KINDS: [&str; 4] = ["port forwards", "reservations", "guests with metadata", "passwords waiting"];

/// The document of a change, named as a host names it: another guest for every four.
fn change(number: usize) -> (String, String) {
    let guest = number / KINDS.len();
    let ip = format!("10.1.1.{}", guest + 2);
    let (name, text) = match number % KINDS.len() {
        0 => (
            "forwarding_rules",
            format!(
                r#"{{"rules":[{{"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.10","source_port_range":"{0}:{0}","destination_ip_address":"{ip}","destination_port_range":"22:22","source_cidr_list":""}}],"type":"forwardrules"}}"#,
                2000 + guest
            ),
        ),
        1 => (
            "vm_dhcp_entry",
            format!(
                r#"{{"host_name":"vm{guest}","mac_address":"02:00:00:00:01:{guest:02x}","ipv4_address":"{ip}","ipv6_duid":"00:03:00:01:02:00:00:00:01:{guest:02x}","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}}"#
            ),
        ),
        2 => (
            "vm_metadata",
            format!(
                r#"{{"vm_ip_address":"{ip}","vm_metadata":[["metadata","instance-id","i-{guest}"]],"type":"vmdata"}}"#
            ),
        ),
        _ => (
            "vm_password",
            format!(r#"{{"ip_address":"{ip}","password":"Abc-{guest}","type":"vmpassword"}}"#),
        ),
    };
    (format!("{name}.json.{number}"), text)
}

/// How many changes a `status` shows, which must be the first ones: neither one less of a kind nor one more.
fn reached(status: &str) -> usize {
    let figure = |name: &str| -> usize {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("{name}: {status}")).parse().expect("a figure")
    };
    let found = KINDS.map(figure);
    let all = found.iter().sum();
    let expected: Vec<usize> =
        (0..KINDS.len()).map(|kind| (all + KINDS.len() - 1 - kind) / KINDS.len()).collect();
    assert_eq!(found.as_slice(), expected, "these are the first {all} changes: {KINDS:?}");
    all
}

/// Has a document applied inside the machine.
fn apply(agent: &mut Agent, name: &str, text: &str) {
    agent.write(&format!("/var/cache/cloud/{name}"), text.as_bytes());
    let ran = agent.run("/opt/cloud/bin/update_config.py", &[name]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{name}");
}

/// The partition of the state: first byte and length.
fn state_partition(agent: &mut Agent) -> (u64, u64) {
    let mut figure = |name: &str| -> u64 {
        agent.text(&format!("/sys/class/block/vda4/{name}")).trim().parse().expect("sectors")
    };
    (figure("start") * 512, figure("size") * 512)
}

/// Runs a tool of e2fsprogs on a file system in a file; its exit code.
fn tool(program: &str, arguments: &[&str], image: &Path) -> i32 {
    let ran = Command::new(program).args(arguments).arg(image).output().expect("e2fsprogs");
    ran.status.code().unwrap_or(-1)
}

/// What a router makes of a state: its own `core`, in a namespace with the same NICs.
fn status_of(line: &str, image: &Path) -> String {
    let root = tempfile::tempdir().expect("folder");
    let paths = Paths::below(root.path());
    for folder in ["/state", "/etc", "/var/log", "/var/cache/cloud"] {
        fs::create_dir_all(paths.at(folder)).expect("folder");
    }
    fs::set_permissions(paths.at("/state"), fs::Permissions::from_mode(0o755)).expect("mode");
    let dump = format!("rdump / {}", paths.at("/state").display());
    assert_eq!(tool("debugfs", &["-R", &dump], image), 0, "{dump}");
    fs::write(paths.at("/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("accounts");
    fs::write(paths.cmdline(), line).expect("boot arguments");
    let (router, wires) = (Namespace::new("router"), Namespace::new("wires"));
    for nic in 0..3 {
        let name = format!("eth{nic}");
        join(&router, &name, &wires, &name);
        router.ip(&["link", "set", &name, "address", &format!("02:00:4c:00:00:0{nic}")]);
    }
    let mut command = router.command(binary("router"));
    command.arg("core").env("TRIVIUM_ROOT", root.path());
    let core = Process::start(command);
    let mut status = None;
    wait_until("the core", Duration::from_secs(60), || {
        if paths.boot_done().exists() {
            status = wire::call(&paths, &Request::new(["status"]), Duration::from_secs(60)).ok();
        }
        status.is_some()
    });
    assert!(!core.output().contains("panicked"), "{}", core.output());
    status.expect("status").stdout
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_or_the_new_state() {
    let lab = Lab::new();
    let folder = tempfile::tempdir().expect("folder");
    let record = folder.path().join("writes");
    let config = lab.plug(Config { record: Some(record.clone()), ..Config::ours() }, Role::Router);
    let mut vm = Vm::start(config);
    let line = lab.line(Role::Router, "");
    vm.deliver(&line, STEP);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    let mut agent = vm.agent(STEP);
    let (start, length) = state_partition(&mut agent);
    apply(&mut agent, "ip_associations.json.a", ADDRESS);
    let first = writes::count(&record);
    let begun = Instant::now();
    // How long the record was when a change was acknowledged.
    let acknowledged: Vec<u64> = (0..CHANGES)
        .map(|number| {
            let (name, text) = change(number);
            apply(&mut agent, &name, &text);
            writes::count(&record)
        })
        .collect();
    println!("{CHANGES} changes in {:?}", begun.elapsed());
    drop(agent);
    drop(vm);

    let entries = writes::entries(&record);
    let flushes: Vec<usize> = (0..entries.len()).filter(|entry| entries[*entry].flush).collect();
    let within = flushes.iter().filter(|entry| **entry as u64 >= first).count();
    println!("{} writes, {within} flushes during the changes", entries.len());
    assert!(within >= CHANGES, "each change is flushed");
    let mut dice = Dice::new(1);
    let from = flushes.len() - within;
    let mut cuts: Vec<usize> = (0..CUTS).map(|_| from + dice.below(within)).collect();
    cuts.sort_unstable();

    let disk = Part::blank(&folder.path().join("disk"), &record, start, length).expect("blank disk");
    let (mut done, mut seen, mut dropped) = (0, [0; 2], 0);
    for cut in cuts {
        let flush = flushes[cut];
        for entry in &entries[done..=flush] {
            disk.apply(entry).expect("write");
        }
        done = flush + 1;
        // What follows may have reached the disk in any part, up to the next flush.
        let next = flushes.get(cut + 1).copied().unwrap_or(entries.len());
        let image = folder.path().join("cut");
        let left = disk.copy(&image).expect("copy");
        let share = dice.below(5);
        for entry in &entries[flush + 1..next] {
            if dice.below(4) < share {
                left.apply(entry).expect("write");
            } else {
                dropped += 1;
            }
        }
        let repaired = tool("e2fsck", &["-p"], &image);
        assert!((0..4).contains(&repaired), "cut {cut}: e2fsck -p says {repaired}");
        assert_eq!(tool("e2fsck", &["-fn"], &image), 0, "cut {cut}: not clean");
        let found = reached(&status_of(&line, &image));
        // A change is durable with the last flush before its acknowledgement.
        let durable = |end: &u64| flushes.iter().rev().find(|entry| (**entry as u64) < *end);
        let least =
            acknowledged.iter().filter(|end| durable(end).is_some_and(|entry| *entry <= flush)).count();
        let most = 1 + acknowledged.iter().filter(|end| **end <= next as u64).count();
        assert!((least..=most).contains(&found), "cut {cut}: {found} changes of {least} to {most}");
        seen[usize::from(found > least)] += 1;
    }
    println!("{CUTS} cuts, {dropped} writes lost: {} the old state, {} the new one", seen[0], seen[1]);
}

#[test]
fn ten_power_cuts_of_a_whole_machine_cost_nothing_that_was_acknowledged() {
    let lab = Lab::new();
    let mut vm = Vm::start(lab.plug(Config::ours(), Role::Router));
    let mut dice = Dice::new(2);
    let (mut sure, mut boots) = (0, Vec::new());
    for cut in 0..=10 {
        vm.deliver(&lab.line(Role::Router, ""), STEP);
        vm.wait_line("TRIVIUM-READY role=router", STEP);
        boots.push(vm.seconds().0);
        lab.wait_ssh(&vm);
        let mut agent = vm.agent(STEP);
        if cut == 0 {
            apply(&mut agent, "ip_associations.json.a", ADDRESS);
        }
        let found = reached(&stdout(&lab.ssh("status")));
        assert!(found == sure || found == sure + 1, "cut {cut}: {found} changes, {sure} were acknowledged");
        if cut == 10 {
            break;
        }
        for number in found..found + 40 {
            let (name, text) = change(number);
            agent.write(&format!("/var/cache/cloud/{name}"), text.as_bytes());
        }
        drop(agent);
        let done = Mutex::new(found);
        vm = thread::scope(|scope| {
            scope.spawn(|| {
                for number in found..found + 40 {
                    let (name, _) = change(number);
                    let mut ssh = lab.client("ssh", "id");
                    ssh.args(["-o", "ServerAliveInterval=2", &format!("root@{CONTROL}")]);
                    let ran =
                        ssh.arg(format!("/opt/cloud/bin/update_config.py {name}")).output().expect("ssh");
                    if !ran.status.success() {
                        return;
                    }
                    *done.lock().expect("count") = number + 1;
                }
            });
            wait_until("a first change", STEP, || *done.lock().expect("count") > found);
            // Where in a change the power goes is left to chance.
            thread::sleep(Duration::from_millis(dice.below(4000) as u64));
            vm.power_cycle()
        });
        sure = *done.lock().expect("count");
        println!("cut {cut}: {} changes acknowledged before it", sure - found);
    }
    println!("ready after {boots:.1?} s");
}
