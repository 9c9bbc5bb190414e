//! The image in the formats of other hypervisors: the same disk, and it boots.

use std::{path::Path, process::Command};

use tests::lab::vm::{Config, Firmware, Vm};

use crate::lab::STEP;

fn run(program: &str, words: &[&str]) -> String {
    let ran = Command::new(program).args(words).output().expect(program);
    assert!(ran.status.success(), "{program} {words:?}: {ran:?}");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("path")
}

/// Boots a disk up to its guest agent, under both firmwares.
fn boots(disk: &Path, format: &'static str) {
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let vm = Vm::start(Config { disk: disk.to_owned(), format, firmware, ..Config::ours() });
        let mut agent = vm.agent(STEP);
        assert!(agent.text("/run/trivium/root").starts_with("slot=a\n"), "{format}");
        drop(agent);
        vm.shut_down(STEP);
    }
}

#[test]
fn every_format_is_the_same_disk_and_boots() {
    let folder = tempfile::tempdir().expect("folder");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/build");
    run(text(&build), &["--out", text(folder.path()), "--format", "all"]);
    let disk = |name: &str| folder.path().join(name);
    let raw = disk("trivium.raw");

    // The OVA has descriptor, sums and disk in this order, and the sums are right.
    let ova = disk("trivium.ova");
    let members = run("tar", &["-tf", text(&ova)]);
    assert_eq!(members, "trivium.ovf\ntrivium.mf\ntrivium-disk0.vmdk\n");
    run("tar", &["-C", text(folder.path()), "-xf", text(&ova)]);
    let sums = std::fs::read_to_string(disk("trivium.mf")).expect("sums");
    for line in sums.lines() {
        let (name, sum) =
            line.strip_prefix("SHA256(").and_then(|line| line.split_once(")= ")).expect("a sum");
        assert!(run("sha256sum", &[text(&disk(name))]).starts_with(sum), "{name}");
    }
    let descriptor = std::fs::read_to_string(disk("trivium.ovf")).expect("descriptor");
    let size = std::fs::metadata(&raw).expect("raw").len();
    assert!(descriptor.contains(&format!("ovf:capacity=\"{size}\"")), "{descriptor}");

    for (name, format) in [
        ("trivium.qcow2", "qcow2"),
        ("trivium.vmdk", "vmdk"),
        ("trivium-disk0.vmdk", "vmdk"),
        ("trivium.vhd", "vpc"),
    ] {
        run("qemu-img", &["compare", "-f", format, "-F", "raw", text(&disk(name)), text(&raw)]);
    }
    for (name, format) in [("trivium.raw", "raw"), ("trivium.vmdk", "vmdk"), ("trivium.vhd", "vpc")] {
        boots(&disk(name), format);
    }
}
