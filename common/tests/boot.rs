//! The boot program on a machine of its own: a network namespace with the NICs of a VM, a folder as its
//! root, and a real supervisor.

#![allow(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use common::{boot::Seen, paths::Paths};

const LINE: &str = "template=domP type=consoleproxy host=192.168.10.2 port=8250 name=v-42-VM zone=1 pod=1 guid=Proxy.42 proxy_vm=42 authorized_key=c3NoLXJzYSBBQUFB eth2ip=203.0.113.20 eth2mask=255.255.255.0 gateway=203.0.113.1 eth0ip=169.254.3.4 eth0mask=255.255.0.0 eth1ip=192.168.10.20 eth1mask=255.255.255.0 localgw=192.168.10.1 dns1=192.0.2.53\n";

/// What a boot left behind.
struct Booted {
    _folder: tempfile::TempDir,
    paths: Paths,
    shown: String,
}

/// Boots with these lines in the file of the guest agent, one boot after the other.
fn boot(lines: &[&str]) -> Booted {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::below(folder.path());
    for path in [
        "/proc",
        "/sys/class/net/eth0",
        "/sys/class/net/eth1",
        "/sys/class/net/eth2",
        "/var/cache/cloud",
        "/run/service",
        "/dev",
    ] {
        fs::create_dir_all(paths.at(path)).unwrap();
    }
    fs::write(paths.at("/proc/cmdline"), "console=ttyS0\n").unwrap();
    fs::write(paths.at("/dev/console"), "").unwrap();
    for service in ["sshd", "chronyd", "core", "serve"] {
        let service = paths.available().join(service);
        fs::create_dir_all(&service).unwrap();
        fs::write(service.join("run"), "#!/bin/sh\necho up >> seen\nexec sleep 1000\n").unwrap();
        fs::set_permissions(service.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut shown = String::new();
    for line in lines {
        fs::write(paths.cmdline(), line).unwrap();
        fs::create_dir_all(paths.state("cpvm")).unwrap();
        fs::write(paths.state("cpvm").join("kept"), "x").unwrap();
        let _ = fs::remove_dir_all(paths.run());
        let script = "set -e; ip link set lo up; for n in 0 1 2; do ip link add eth$n type veth peer name peer$n; ip link set peer$n up; done
            s6-svscan \"$TRIVIUM_ROOT/run/service\" & scan=$!
            until s6-svscanctl -a \"$TRIVIUM_ROOT/run/service\" 2>/dev/null; do :; done
            \"$BOOT\" && code=0 || code=$?
            echo \"exit $code\"; hostname; ip -o -4 address; ip route; nft list ruleset
            [ \"$code\" != 0 ] || until [ -s \"$TRIVIUM_ROOT/etc/s6/services/core/seen\" ]; do :; done
            s6-svscanctl -t \"$TRIVIUM_ROOT/run/service\"; wait $scan";
        let mut command = Command::new("unshare");
        command.args(["--net", "--uts", "timeout", "60", "sh", "-c", script]);
        command.env("TRIVIUM_ROOT", paths.root()).env("BOOT", env!("CARGO_BIN_EXE_boot"));
        let output = command.output().unwrap();
        shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    }
    Booted { _folder: folder, paths, shown }
}

#[test]
fn a_console_proxy_is_set_up() {
    let booted = boot(&[LINE]);
    let shown = &booted.shown;
    for part in [
        "exit 0",
        "v-42-VM",
        "inet 169.254.3.4/16 brd 169.254.255.255 scope global eth0",
        "inet 192.168.10.20/24",
        "default via 203.0.113.1 dev eth2",
        "10.0.0.0/8 via 192.168.10.1 dev eth1",
        "table inet trivium",
        "iifname \"eth0\" tcp dport 3922 accept",
        "policy drop",
    ] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    let read = |path: &str| fs::read_to_string(booted.paths.at(path)).unwrap();
    assert_eq!(read("/run/trivium/role"), "cpvm\n");
    assert_eq!(read("/root/.ssh/authorized_keys"), "ssh-rsa AAAA\n");
    assert_eq!(fs::metadata(booted.paths.at("/root/.ssh")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(read("/etc/ssh/sshd_config").contains("ListenAddress 169.254.3.4"));
    assert_eq!(Seen::load(&booted.paths).unwrap().line, LINE);
    assert!(!booted.paths.state("cpvm").exists(), "state of something else before");
}

#[test]
fn the_same_line_keeps_the_state_and_another_discards_it() {
    let booted = boot(&[LINE, LINE]);
    assert!(booted.paths.state("cpvm").join("kept").exists());
    let booted = boot(&[LINE, &LINE.replace("v-42-VM", "v-43-VM")]);
    assert!(booted.shown.contains("v-43-VM"));
    assert!(!booted.paths.state("cpvm").exists());
}

#[test]
fn arguments_without_a_role_leave_ssh() {
    let booted = boot(&[&LINE.replace("type=consoleproxy", "type=toaster")]);
    assert!(booted.shown.contains("exit 1"), "{}", booted.shown);
    assert!(booted.shown.contains("169.254.3.4/16"));
    assert!(booted.paths.services().join("sshd").exists());
    assert!(!booted.paths.services().join("core").exists());
    let console = fs::read_to_string(booted.paths.at("/dev/console")).unwrap();
    assert!(console.contains("boot argument type=toaster"), "{console}");
}
