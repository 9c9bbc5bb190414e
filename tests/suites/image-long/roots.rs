//! Another root: a bundle that is put in place, tried, kept or taken back, and ones that are refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::lab::{Process, vm::Vm, wait_until};

use crate::{
    lab::{Lab, Role, STEP, stdout},
    traffic::{Client, send},
};

/// What gives a guest its lease.
const LEASE: &str = r#"{"host_name":"web","mac_address":"02:00:00:00:00:0a","ipv4_address":"10.1.1.20","ipv6_duid":"00:03:00:01:02:00:00:00:00:0a","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}"#;

pub(crate) fn image() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../image")
}

/// Runs a script of the build, in its folder.
pub(crate) fn script(script: &str, arguments: &[&Path]) {
    let ran = Command::new("bash").current_dir(image()).args(["-ec", script, "-"]).args(arguments).output();
    let ran = ran.expect("bash");
    assert!(ran.status.success(), "{script}: {ran:?}");
}

/// Makes a bundle of a root, signed with the image's key; the salt makes it another root.
fn bundle(root: &Path, salt: char, out: &Path) {
    let salt = salt.to_string().repeat(64);
    let text = format!(
        "IMAGE=$PWD CACHE=$PWD/cache KEY=$PWD/key/bundle.pem LOCK=$PWD/packages.lock
         . lib/say.sh; . lib/packages.sh; . lib/slot.sh; . lib/disk.sh
         name=$(locked | awk '$1 == \"build\" && $2 ~ /^linux-image/ {{ print $2 }}'); KVER=${{name#linux-image-}}
         build_slot \"$1\" \"$2.slot\" {salt}; cat \"$2.slot.head\" \"$2.slot.content\" > \"$2\"; rm \"$2\".slot.*"
    );
    script(&text, &[root, out]);
}

/// A machine of a role, and what its host has at hand.
struct Patched {
    lab: Lab,
    vm: Vm,
    folder: tempfile::TempDir,
}

impl Patched {
    fn new(role: Role) -> Self {
        let lab = Lab::new();
        let mut vm = lab.start(role, "");
        vm.wait_line("TRIVIUM-READY", STEP);
        lab.wait_ssh(&vm);
        Self { lab, vm, folder: tempfile::tempdir().expect("folder") }
    }

    fn status(&self) -> String {
        stdout(&self.lab.ssh("status"))
    }

    /// Sends an archive as a host does, and has it applied; returns whether it was, and what was said.
    fn patch(&self, archive: &Path) -> (bool, String) {
        let named = self.folder.path().join("cloud-scripts.tgz");
        let _ = fs::remove_file(&named);
        fs::hard_link(archive, &named).expect("link");
        let sent = self.lab.scp(&[&named]);
        assert!(sent.status.success(), "an upload never fails for its content: {sent:?}");
        let out = self.lab.ssh("/var/cache/cloud/patch-sysvms.sh");
        (out.status.success(), stdout(&out) + &String::from_utf8_lossy(&out.stderr))
    }

    /// Restarts the machine in order.
    fn restart(&mut self) {
        self.vm.restart("TRIVIUM-READY", STEP * 3);
        self.lab.wait_ssh(&self.vm);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Asks the router for a name five times a second, and says of each answer whether it came.
fn ask(lab: &Lab) -> Process {
    let line = "while :; do dig +time=4 +tries=1 +short @10.1.1.1 data-server.cs1.example | grep -q . && \
                echo answered || echo lost; sleep 0.2; done";
    lab.host.spawn("sh", &["-c", line])
}

#[test]
fn a_new_root_is_tried_and_kept_and_one_that_dies_is_taken_back() {
    let mut machine = Patched::new(Role::Router);
    assert!(machine.status().contains(" in slot a\n"), "{}", machine.status());
    let new = machine.file("new.bundle");
    bundle(&image().join("out/root.squashfs"), '1', &new);

    // The upload and the patch change nothing of what runs.
    let asked = ask(&machine.lab);
    let (done, said) = machine.patch(&new);
    assert!(done && said.starts_with("version:") && said.matches(':').count() == 1, "{said}");
    let status = machine.status();
    assert!(status.contains("root: the next start tries 4.22.0-"), "{status}");
    wait_until("some answers", STEP, || asked.output().lines().count() >= 20);
    let answers = asked.output();
    drop(asked);
    assert!(!answers.contains("lost"), "{answers}");

    machine.restart();
    wait_until("the new root to be kept", STEP, || {
        let status = machine.status();
        status.contains(" in slot b\n") && !status.contains("on trial")
    });
    assert!(machine.vm.serial().contains("root: tries the one in slot b"));

    // One whose first program is not there ends at once.
    let folder = machine.file("empty");
    fs::create_dir_all(folder.join("proc")).expect("folder");
    fs::copy(image().join("out/vmlinuz"), folder.join("filling")).expect("file");
    let empty = machine.file("empty.squashfs");
    script("mksquashfs \"$1\" \"$2\" -quiet -no-progress >/dev/null", &[&folder, &empty]);
    let dead = machine.file("dead.bundle");
    bundle(&empty, '2', &dead);
    let (done, said) = machine.patch(&dead);
    assert!(done, "{said}");
    machine.vm.agent(STEP).restart();
    wait_until("the machine to go back", STEP, || {
        machine.vm.serial().contains("root: the one in slot a did not become ready: back to slot b")
    });
    wait_until("its role", STEP, || machine.vm.serial().matches("TRIVIUM-READY").count() >= 3);
    machine.lab.wait_ssh(&machine.vm);
    let status = machine.status();
    assert!(status.contains(" in slot b\n") && status.contains("slot a was tried"), "{status}");
    // And it stays so.
    machine.vm.agent(STEP).restart();
    wait_until("its role again", STEP, || machine.vm.serial().matches("TRIVIUM-READY").count() >= 4);
    machine.lab.wait_ssh(&machine.vm);
    assert!(machine.status().contains(" in slot b\n"), "{}", machine.status());
}

#[test]
fn a_root_whose_role_does_not_become_ready_is_taken_back() {
    let machine = Patched::new(Role::ConsoleProxy);
    let bad = machine.file("bad.bundle");
    bundle(&other_programs(&machine, "cpvm", true), '3', &bad);
    let (done, said) = machine.patch(&bad);
    assert!(done, "{said}");
    machine.vm.agent(STEP).restart();
    wait_until("the new root to be given up", STEP * 4, || {
        machine.vm.serial().contains("root: it did not become ready")
    });
    wait_until("the root before", STEP, || machine.vm.serial().matches("TRIVIUM-READY").count() >= 2);
    machine.lab.wait_ssh(&machine.vm);
    let status = machine.status();
    assert!(status.contains(" in slot a\n") && status.contains("slot b was tried"), "{status}");
}

/// A root whose programs are those of the image with a byte more, which changes nothing of what they do, or, where
/// `broken` is set, end at once.
fn other_programs(machine: &Patched, role: &str, broken: bool) -> PathBuf {
    let (root, tree) = (machine.file("programs.squashfs"), machine.file("programs"));
    let change = if broken {
        format!("cp \"$2/opt/trivium/boot\" \"$2/opt/trivium/{role}\"")
    } else {
        format!("printf x >> \"$2/opt/trivium/{role}\"")
    };
    let text = format!(
        "rm -rf \"$1\" \"$2\"; cp cache/tree.sq \"$1\"; mkdir \"$2\"; cp -a cache/tree/opt \"$2/\"; {change}
         mksquashfs \"$2/opt\" \"$1\" -keep-as-directory -quiet -no-progress -comp zstd >/dev/null"
    );
    script(&text, &[&root, &tree]);
    root
}

#[test]
fn new_programs_are_taken_over_without_a_lost_answer_and_bad_ones_are_taken_back() {
    let machine = Patched::new(Role::Router);
    let lab = &machine.lab;
    let refused = lab.ssh("replace");
    assert!(!refused.status.success(), "there is nothing to replace them with: {refused:?}");
    let client = Client::new(lab, "guest", "02:00:00:00:00:0a");
    send(lab, "vm_dhcp_entry.json.1", LEASE);
    assert_eq!(client.lease(), "10.1.1.20 10.1.1.1 web");
    let process = |vm: &Vm| {
        let mut agent = vm.agent(STEP);
        ["core", "serve"].map(|name| {
            agent.run("/usr/bin/s6-svstat", &["-o", "pid", &format!("/run/service/{name}")]).stdout
        })
    };
    for (salt, broken) in [('5', false), ('6', true)] {
        let new = machine.file("programs.bundle");
        bundle(&other_programs(&machine, "router", broken), salt, &new);
        assert!(machine.patch(&new).0);
        let before = process(&machine.vm);
        let asked = ask(lab);
        let leases = client.net.spawn(
            "sh",
            &[
                "-c",
                "while :; do udhcpc -f -n -q -t 1 -T 10 -i eth0 -s /bin/true >/dev/null 2>&1 && \
                     echo answered || echo lost; sleep 0.2; done",
            ],
        );
        wait_until("some answers", STEP, || {
            [&asked, &leases].iter().all(|log| log.output().lines().count() >= 5)
        });
        let replaced = lab.ssh("replace");
        let told = stdout(&replaced) + &String::from_utf8_lossy(&replaced.stderr);
        assert_eq!(replaced.status.success(), !broken, "{told}");
        assert!(
            told.contains(if broken { "those of before run again" } else { "run, until the next start" }),
            "{told}"
        );
        let seen = [asked.output().lines().count(), leases.output().lines().count()];
        wait_until("some answers more", STEP, || {
            asked.output().lines().count() >= seen[0] + 5 && leases.output().lines().count() >= seen[1] + 5
        });
        let (names, leases) = (asked.output(), leases.output());
        println!("broken {broken}: {} answers and {} leases", names.lines().count(), leases.lines().count());
        let after = process(&machine.vm);
        assert!(
            after[0] != before[0] && after[1] != before[1],
            "both were started anew: {before:?} {after:?}"
        );
        if !broken {
            assert!(!names.contains("lost") && !leases.contains("lost"), "{names}{leases}");
        }
        let status = machine.status();
        // What was taken back is the program that was taken over first: of another version than the root.
        assert!(
            status.contains("programs: those of 4.22.0-") && status.contains("health: healthy"),
            "{status}"
        );
    }
}

#[test]
fn what_is_not_signed_or_not_whole_is_refused_and_changes_nothing() {
    let machine = Patched::new(Role::SecondaryStorage);
    let good = machine.file("good.bundle");
    bundle(&image().join("out/root.squashfs"), '4', &good);
    let bytes = fs::read(&good).expect("bundle");
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let path = machine.file(name);
        fs::write(&path, bytes).expect("bundle");
        path
    };
    for (bad, why) in [
        (changed("header", &|bytes| bytes[40] ^= 1), "refused"),
        (changed("content", &|bytes| bytes[10_000_000] ^= 1), "not what its header says"),
        (changed("cut", &|bytes| bytes.truncate(20_000_000)), "missing"),
    ] {
        let (done, said) = machine.patch(&bad);
        assert!(!done && said.contains(why), "{why}: {said}");
        let status = machine.status();
        assert!(status.contains(" in slot a\n") && status.contains("bundle: refused"), "{status}");
        assert!(!status.contains("next start"), "{status}");
    }
    let stock = machine.file("stock");
    fs::write(&stock, [0x1f, 0x8b, 8, 0].repeat(1000)).expect("archive");
    assert!(machine.patch(&stock).0, "the archive of the reference is taken");
    let status = machine.status();
    assert!(status.contains("bundle: the archive that the host has sent is not for this image"), "{status}");
    assert!(!status.contains("next start"), "{status}");
}
