//! What the smallest machines hold: no process is ever ended for want of memory, and there is no swap.

use std::{fs, sync::Arc, time::Instant};

use common::command::storage::{DownloadStatus, ImageFormat, SecStorageSetupAnswer};
use futures_util::future::join_all;
use tests::lab::{
    ssvm::{
        disk,
        machine::{NFS, in_small_machine, set_up},
        origin::{Act, Origin},
        read, template,
    },
    vm::{Agent, Config, Vm},
    wait_until,
};

use crate::{
    lab::{Lab, Role, STEP, stdout},
    traffic::Client,
};

/// VMs of the network, and memory of its router in MiB.
const GUESTS: usize = 1000;
const ROUTER: u32 = 256;
/// Transfers at once, and memory of the SSVM in MiB.
const TRANSFERS: i64 = 50;
const STORAGE: u32 = 512;

/// That nothing was ended for want of memory; prints what is left.
fn has_memory(what: &str, agent: &mut Agent) {
    let field = |text: &str, name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace()
            .nth(1)
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("{name}"))
    };
    let (memory, events) = (agent.text("/proc/meminfo"), agent.text("/proc/vmstat"));
    let [total, free, swap] = ["MemTotal:", "MemAvailable:", "SwapTotal:"].map(|name| field(&memory, name));
    println!("{what}: {free} of {total} KiB are available");
    assert_eq!((swap, field(&events, "oom_kill ")), (0, 0), "{what}: a process was ended");
    assert!(free > 8 * 1024, "{what}: {free} KiB are left");
}

/// All that a host says of so many guests, as one file.
fn bundle() -> String {
    let mut text = "#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n".to_owned();
    let mut add = |name: &str, document: &str| {
        text += &format!(
            "<file>\n/var/cache/cloud/{name}\n{document}\n</file>\n<script>\n/opt/cloud/bin/update_config.py {name} false\n</script>\n"
        );
    };
    add(
        "ip_associations.json.a",
        r#"{"ip_address":[{"public_ip":"203.0.113.10","source_nat":true,"add":true,"one_to_one_nat":false,"first_i_p":true,"gateway":"203.0.113.1","netmask":"255.255.255.0","vif_mac_address":"02:00:4c:00:00:02","nic_dev_id":2,"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}],"type":"ips"}"#,
    );
    for guest in 0..GUESTS {
        let (high, low) = (guest / 250 + 2, guest % 250 + 1);
        let ip = format!("10.1.{high}.{low}");
        let mac = format!("02:00:00:00:{high:02x}:{low:02x}");
        add(
            &format!("vm_dhcp_entry.json.{guest}"),
            &format!(
                r#"{{"host_name":"vm{guest}","mac_address":"{mac}","ipv4_address":"{ip}","ipv6_duid":"00:03:00:01:{mac}","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}}"#
            ),
        );
        add(
            &format!("vm_metadata.json.{guest}"),
            &format!(
                r#"{{"vm_ip_address":"{ip}","vm_metadata":[["userdata","user-data","{}"],["metadata","instance-id","i-{guest}"],["metadata","local-hostname","vm{guest}"],["metadata","local-ipv4","{ip}"]],"type":"vmdata"}}"#,
                "dXNlcmRhdGEg".repeat(80)
            ),
        );
        add(
            &format!("vm_password.json.{guest}"),
            &format!(r#"{{"ip_address":"{ip}","password":"Abc-{guest}","type":"vmpassword"}}"#),
        );
        add(
            &format!("forwarding_rules.json.{guest}"),
            &format!(
                r#"{{"rules":[{{"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.10","source_port_range":"{0}:{0}","destination_ip_address":"{ip}","destination_port_range":"22:22","source_cidr_list":""}}],"type":"forwardrules"}}"#,
                2000 + guest
            ),
        );
    }
    text
}

#[test]
fn a_router_of_256_mib_serves_a_thousand_guests() {
    let lab = Lab::new();
    let mut vm = Vm::start(lab.plug(Config { memory: ROUTER, ..Config::ours() }, Role::Router));
    let line = lab.line(Role::Router, "").replace("eth0mask=255.255.255.0", "eth0mask=255.255.0.0");
    vm.deliver(&line.replace("cidrsize=24", "cidrsize=16"), STEP);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);
    let mut agent = vm.agent(STEP);
    has_memory("an empty router", &mut agent);
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("VR.cfg");
    fs::write(&file, bundle()).expect("bundle");
    assert!(lab.scp(&[&file]).status.success(), "the bundle is taken");
    let begun = Instant::now();
    let out = lab.ssh("/opt/cloud/bin/vr_cfg.sh -c /var/cache/cloud/VR.cfg");
    assert!(out.status.success(), "{out:?}");
    println!("{GUESTS} guests, {} documents in {:?}", 4 * GUESTS + 1, begun.elapsed());
    let status = stdout(&lab.ssh("status"));
    for kind in ["reservations", "guests with metadata", "passwords waiting", "port forwards"] {
        assert!(status.contains(&format!("{kind}: {GUESTS}\n")), "{status}");
    }
    let client = Client::new(&lab, "guest", "02:00:00:00:05:fa");
    assert_eq!(client.lease(), "10.1.5.250 10.1.1.1 vm999");
    let name = client.net.ok("dig +tries=3 +time=5 +short @10.1.1.1 vm500.cs1.example");
    assert_eq!(name.trim(), "10.1.4.1");
    assert_eq!(client.net.ok("curl -s -m 20 http://10.1.1.1/latest/meta-data/instance-id"), "i-999");
    has_memory("a router of a thousand guests", &mut agent);
    drop(agent);

    // And so it starts again.
    let mut vm = vm.power_cycle();
    vm.deliver(&line.replace("cidrsize=24", "cidrsize=16"), STEP);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);
    wait_until("a healthy router", STEP, || stdout(&lab.ssh("status")).contains("health: healthy"));
    assert_eq!(client.lease(), "10.1.5.250 10.1.1.1 vm999");
    has_memory("the same after a power cut", &mut vm.agent(STEP));
}

#[test]
fn an_ssvm_of_512_mib_does_fifty_transfers_at_once() {
    in_small_machine(STORAGE, async |machine| {
        let _nfs = machine.nfs_server();
        let answer: SecStorageSetupAnswer = machine.answer(&set_up(&format!("nfs://{NFS}/export"))).await;
        assert!(answer.answer.result, "{answer:?}");
        let image = read(&disk(machine.folder.path(), "qcow2", 24));
        // Slow enough for all to be under way at once.
        let origin = Origin::start(vec![Act::Slow(Arc::clone(&image), 1 << 20)]).await;
        let commands: Vec<_> = (0..TRANSFERS)
            .map(|id| {
                template(machine.nfs(), 100 + id, &format!("{}/disk.qcow2", origin.url), ImageFormat::Qcow2)
            })
            .collect();
        let begun = Instant::now();
        let ended = join_all(commands.iter().map(|command| machine.download(command))).await;
        for answer in &ended {
            assert_eq!(answer.download_status, DownloadStatus::Downloaded, "{answer:?}");
        }
        println!("{TRANSFERS} transfers of {} bytes in {:?}", image.len(), begun.elapsed());
        has_memory("an SSVM after fifty transfers at once", &mut machine.inside());
    });
}
