//! The disk under both firmwares: partitions, what outlives a power cut, an orderly end.

use tests::lab::vm::{Agent, Config, Firmware, Vm};

use crate::lab::{Lab, Role, STEP};

/// Names and sizes (MiB) of the partitions as the VM sees them.
fn partitions(agent: &mut Agent) -> Vec<(String, u64)> {
    (1..=5)
        .filter_map(|n| {
            let event = agent.text(&format!("/sys/class/block/vda{n}/uevent"));
            let name = event.lines().find_map(|line| line.strip_prefix("PARTNAME="))?.to_owned();
            let sectors: u64 = agent.text(&format!("/sys/class/block/vda{n}/size")).trim().parse().ok()?;
            Some((name, sectors / 2048))
        })
        .collect()
}

/// Boots from the disk up to the guest agent, looks around, and ends in order.
fn boots(firmware: Firmware) {
    let vm = Vm::start(Config { firmware: firmware.clone(), ..Config::ours() });
    let mut agent = vm.agent(STEP);
    let (wall, cpu) = vm.seconds();
    println!("{firmware:?}: {wall:.1} s and {cpu:.1} CPU s to the guest agent");
    let found = partitions(&mut agent);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["boot", "root-a", "root-b", "state"]);
    assert_eq!(found[1].1, found[2].1, "both roots have the same room");
    let mounts = agent.text("/proc/mounts");
    assert!(mounts.lines().any(|line| line.starts_with("root / overlay")), "{mounts}");
    for place in ["/state", "/var/cache/cloud", "/usr/local/cloud/systemvm/conf", "/etc/ssh/keys", "/var/log"]
    {
        assert!(mounts.contains(&format!("/dev/vda4 {place} ext4")), "{place} is not kept: {mounts}");
    }
    assert!(agent.text("/proc/cmdline").contains("net.ifnames=0"));
    drop(agent);
    vm.shut_down(STEP);
}

#[test]
fn the_disk_boots_under_bios() {
    boots(Firmware::Bios);
}

#[test]
fn the_disk_boots_under_uefi() {
    boots(Firmware::Uefi);
}

/// Public halves of the host keys.
fn host_keys(agent: &mut Agent) -> [String; 2] {
    ["ed25519", "ecdsa"].map(|kind| agent.text(&format!("/etc/ssh/keys/ssh_host_{kind}_key.pub")))
}

#[test]
fn a_power_cut_costs_neither_host_keys_nor_state() {
    let lab = Lab::new();
    let mut vm = lab.start(Role::ConsoleProxy, "");
    vm.wait_line("TRIVIUM-READY role=cpvm", STEP);
    lab.wait_ssh(&vm);
    let mut agent = vm.agent(STEP);
    let before = host_keys(&mut agent);
    assert!(before.iter().all(|key| key.len() > 50), "{before:?}");
    agent.write("/state/note", b"kept\n");
    assert_eq!(agent.run("/bin/sync", &[]).code, 0);

    let mut vm = vm.power_cycle();
    vm.deliver(&lab.line(Role::ConsoleProxy, ""), STEP);
    vm.wait_line("TRIVIUM-READY role=cpvm", STEP);
    let mut agent = vm.agent(STEP);
    assert_eq!(host_keys(&mut agent), before);
    assert_eq!(agent.text("/state/note"), "kept\n");
}
