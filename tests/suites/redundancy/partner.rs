//! A partner that is none of ours: keepalived as the management server's own routers configure it.

use std::{fs, time::Duration};

use tests::lab::{Process, pair::Twins, wait_until};

/// The beginning of the MD5 digest of `203.0.113.30-1`, from which both derive their secret.
fn secret() -> String {
    let out = std::process::Command::new("sh")
        .args(["-c", "printf 203.0.113.30-1 | md5sum"])
        .output()
        .expect("md5sum");
    String::from_utf8_lossy(&out.stdout).chars().take(8).collect()
}

fn configuration(state: &str) -> String {
    format!(
        "global_defs {{\n  router_id r-36-VM\n}}\n\
         vrrp_script heartbeat {{\n  script \"/bin/true\"\n  interval 5\n}}\n\
         vrrp_instance inside_network {{\n  state BACKUP\n  interface eth0\n  virtual_router_id 51\n  nopreempt\n\n  \
         advert_int 1\n  authentication {{\n    auth_type AH\n    auth_pass {}\n  }}\n\n  \
         virtual_ipaddress {{\n    10.1.1.1/24 brd 10.1.1.255 dev eth0\n  }}\n\n  track_script {{\n    heartbeat\n  }}\n\n  \
         notify_backup \"/bin/sh -c 'echo BACKUP >{state}'\"\n  notify_master \"/bin/sh -c 'echo MASTER >{state}'\"\n  \
         notify_fault \"/bin/sh -c 'echo FAULT >{state}'\"\n}}\n",
        secret()
    )
}

#[test]
fn it_and_ours_take_over_from_each_other() {
    let mut twins = Twins::isolated();
    twins.elected();
    // Its place is the second one's.
    twins.routers[1].keepalived("stop");
    twins.routers[1].kill_core();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("conf"), configuration(&at("state"))).unwrap();
    let start = || -> Process {
        let words = ["-n", "-l", "-P", "-f", &at("conf"), "-p", &at("pid"), "-r", &at("vrrp-pid")];
        twins.routers[1].space.spawn("keepalived", &words)
    };
    let its = || fs::read_to_string(at("state")).unwrap_or_default().trim().to_owned();
    let limit = Duration::from_secs(15);
    let ours = &twins.routers[0];
    wait_until("ours alone", limit, || ours.role() == "PRIMARY");
    let mut partner = start();
    wait_until("it as backup", limit, || its() == "BACKUP");
    // Both go on for longer than an election takes.
    let elections = ours.elections();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((its().as_str(), ours.role().as_str()), ("BACKUP", "PRIMARY"), "{}", partner.output());

    ours.keepalived("stop");
    wait_until("it in force", limit, || its() == "MASTER");
    ours.keepalived("start");
    wait_until("ours as backup", limit, || ours.role() == "BACKUP");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((its().as_str(), ours.role().as_str()), ("MASTER", "BACKUP"), "it is not taken back");
    assert_eq!(ours.elections(), elections);

    let _ = std::process::Command::new("kill").arg(fs::read_to_string(at("pid")).unwrap().trim()).status();
    wait_until("ours in force again", limit, || ours.role() == "PRIMARY");
    partner.kill();
}
