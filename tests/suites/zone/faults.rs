//! What befalls the manager: a full disk, a damaged database, a clock that jumps. VMs run on, and nothing that an operator
//! was told is lost.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use tests::{
    lab::wait_until,
    zone::hosts::{Image, SOON, Zone},
};

use crate::{LIMIT, Lab, text};

/// Writes until nothing more goes in; the file in the way.
fn fill(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("in-the-way");
    let mut file = File::create(&path).unwrap();
    for size in [65_536, 4096, 512] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    path
}

fn trouble(lab: &Zone) -> String {
    lab.status()["trouble"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_full_disk_stops_changes_and_nothing_else() {
    let mut lab = Zone::with_disk(2, Image::Empty, "", Some(8));
    let first = lab.running()[0];
    let folder = lab.path("m");
    let zone = lab.path("zone.toml");
    let before = fs::read_to_string(&zone).unwrap();
    lab.manage(&["host-drain", "h2"]).unwrap();
    assert!(lab.free() > 1 << 20, "there is room at first");
    let filler = fill(&folder);

    // What cannot be written is refused, and the reason says what to do.
    let full = |what: &str, said: Result<serde_json::Value, String>| {
        let error = said.unwrap_err();
        assert!(error.contains("is full") && error.contains("VMs run on as they are"), "{what}: {error}");
    };
    // There may be room for a few more changes in what the database has taken already.
    wait_until("the disk is full for the database, too", SOON, || {
        lab.manage(&["host-resume", "h2"]).is_err() || lab.manage(&["host-drain", "h2"]).is_err()
    });
    full("drain", lab.manage(&["host-drain", "h1"]));
    fs::write(
        &zone,
        before.replace(
            "[[network]]",
            "[[store]]\nname = \"s\"\nkind = \"nfs\"\nurl = \"nfs://192.0.2.9/s\"\n[[network]]",
        ),
    )
    .unwrap();
    full("apply", lab.manage(&["apply", "--yes"]));
    assert_eq!(lab.manage(&["plan"]).unwrap().as_array().unwrap().len(), 1, "nothing was applied");
    assert_eq!(lab.status()["stores"], serde_json::json!([]));
    wait_until("the screen says so", SOON, || {
        let said = trouble(&lab);
        said.contains("is full") && said.contains(folder.to_str().unwrap()) && said.contains("make room")
    });

    // Hosts come and go, and are let in; the VM runs on.
    lab.hosts[first].agent.kill();
    let name = lab.hosts[first].name.clone();
    let is_up = |lab: &Zone| {
        let hosts = lab.status()["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().any(|host| host["name"] == *name && host["up"] == true)
    };
    wait_until("the host is seen to be gone", SOON, || !is_up(&lab));
    lab.start_again(first);
    assert!(lab.watch(SOON, |_| is_up(&lab)), "{}", lab.serve.output());
    assert_eq!(lab.running(), [first]);

    // A manager that starts on a full disk says so, too, or runs.
    lab.serve.kill();
    lab.serve_again();
    wait_until("the manager is there, or says what is wrong", SOON, || {
        lab.serve.output().contains("is full") || !lab.status().is_null()
    });
    assert_eq!(lab.running(), [first]);

    // With room again all goes on, and all that was done is there.
    fs::remove_file(filler).unwrap();
    if !lab.serve.runs() {
        lab.serve_again();
    }
    wait_until("it hears all again", SOON, || {
        let hosts = lab.status()["hosts"].as_array().cloned().unwrap_or_default();
        !hosts.is_empty() && hosts.iter().all(|host| host["up"] == true)
    });
    wait_until("the trouble is over", SOON, || trouble(&lab).is_empty());
    lab.manage(&["apply", "--yes"]).unwrap();
    assert_eq!(lab.status()["stores"][0]["name"], "s");
    lab.manage(&["host-drain", "h2"]).unwrap();
    assert!(lab.status()["hosts"][1]["standing"].as_str().unwrap().starts_with("drained"));
    lab.watch(Duration::from_secs(3), |_| false);
    assert_eq!(lab.running(), [first]);
}

#[test]
fn a_damaged_database_is_replaced_by_its_copy_and_no_vm_is_touched() {
    let mut lab = Zone::new(2, Image::Empty, "");
    let first = lab.running()[0];
    let other = lab.hosts[1 - first].name.clone();
    let began = |lab: &Zone| lab.events().matches("is started on").count();
    let machine = lab.machine(first);
    assert_eq!(began(&lab), 1);

    // Damaged while it runs: it is told, and what to do.
    lab.manage(&["host-drain", &other]).unwrap();
    for name in ["manage.db", "manage.db-wal"] {
        let file = File::options().write(true).open(lab.path("m").join(name)).unwrap();
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0x5a; length.max(8192)], 0).unwrap();
    }
    wait_until("the damage is told", SOON, || {
        let _ = lab.manage(&["host-resume", &other]);
        lab.serve.output().contains("is damaged")
    });
    let log = lab.serve.output();
    assert!(log.contains("VMs run on as they are; start `manage serve` again"), "{log}");
    assert_eq!(lab.running(), [first]);

    // The host with the VM is not there when the manager comes back with the copy.
    lab.serve.kill();
    lab.hosts[first].agent.kill();
    lab.serve_again();
    wait_until("the manager is back", SOON, || lab.status()["hosts"][1 - first]["up"] == true);
    let events = lab.events();
    assert!(events.contains("was damaged") && events.contains("its copy has taken its place"), "{events}");
    let standing = lab.status()["hosts"][1 - first]["standing"].to_string();
    assert!(standing.contains("drained"), "what an operator was told is kept: {standing}");
    lab.watch(Duration::from_secs(3), |_| false);
    assert_eq!(began(&lab), 1, "nothing is started before all hosts have said what they run");
    lab.start_again(first);
    assert!(lab.watch(SOON, |_| lab.events().contains("all hosts have said what they run")));
    lab.watch(Duration::from_secs(3), |_| false);
    assert_eq!((lab.running(), lab.machine(first)), (vec![first], machine), "{}", lab.events());
    let kept = fs::read_dir(lab.path("m")).unwrap().flatten();
    let kept: Vec<String> = kept.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(kept.iter().any(|name| name.starts_with("manage.db.damaged-")), "{kept:?}");

    // Without a copy it does not begin anew.
    lab.serve.kill();
    fs::remove_file(lab.path("m/manage.db.copy")).unwrap();
    let _ = fs::remove_file(lab.path("m/manage.db-wal"));
    let file = File::options().write(true).open(lab.path("m/manage.db")).unwrap();
    file.set_len(6000).unwrap();
    lab.serve_again();
    lab.serve.wait_line("there is no copy of it", LIMIT);
    wait_until("it ends", LIMIT, || !lab.serve.runs());
    assert!(lab.serve.output().contains("Nothing was changed; VMs run on as they are"));
    assert_eq!((lab.running(), fs::metadata(lab.path("m/manage.db")).unwrap().len()), (vec![first], 6000));
}

#[test]
fn a_clock_that_jumps_moves_nothing_else() {
    const FAKE: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    let lab = Lab::new();
    let clock = lab.path("clock");
    fs::write(&clock, "+0\n").unwrap();
    let (zone, state) = (lab.path("zone.toml"), lab.path("m"));
    let mut command = lab.net.command("env");
    command.args(["FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"]);
    command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", text(&clock))).arg(format!("LD_PRELOAD={FAKE}"));
    command.arg(tests::lab::binary("manage")).args(["serve", "--zone", text(&zone), "--state", text(&state)]);
    let _serve = tests::lab::Process::start(command);
    wait_until("the control socket", LIMIT, || lab.ask(&["status"]).is_ok());
    let _host = lab.host("host1");
    lab.wait_up("host1");
    let ups = || lab.ask(&["status"]).unwrap()["events"].to_string().matches("agent is up").count();
    let last = || {
        lab.ask(&["host-drain", "host1"]).unwrap();
        lab.ask(&["host-resume", "host1"]).unwrap();
        let events = lab.ask(&["status"]).unwrap()["events"].clone();
        events.as_array().unwrap().last().unwrap()["at"].as_i64().unwrap()
    };
    let real = last();
    for (jump, days) in [("+400d\n", 400), ("-400d\n", -400), ("+0\n", 0)] {
        fs::write(&clock, jump).unwrap();
        wait_until("the jump is seen", LIMIT, || (last() - real - days * 86_400).abs() < 600);
        // More than an agent may be silent for, pings and all.
        std::thread::sleep(Duration::from_secs(4));
        assert!(lab.is_up("host1"), "after {jump}");
        assert_eq!(ups(), 1, "it was never away");
    }
    // Who connects anew is let in, whatever the manager's clock says.
    fs::write(&clock, "+400d\n").unwrap();
    wait_until("the jump is seen", LIMIT, || (last() - real - 400 * 86_400).abs() < 600);
    drop(_host);
    wait_until("host1 is gone", LIMIT, || !lab.is_up("host1"));
    let _host = lab.host("host1");
    lab.wait_up("host1");
    let renewed = || lab.ask(&["status"]).unwrap()["events"].to_string().contains("has a new certificate");
    wait_until("its certificate, which has ended by that clock, is renewed", LIMIT, renewed);
}
