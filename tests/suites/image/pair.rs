//! Two machines of our image for one network: one takes over from the other, planned and when its power goes; and FRR
//! beside them.

use tests::lab::{
    pair::{alive, connect, serve},
    vm::{Config, Vm},
    wait_until,
};

use crate::{
    documents,
    lab::{Lab, STEP, stdout},
    traffic::{Client, send_to},
};

/// Where the host reaches them.
const CONTROL: [&str; 2] = ["169.254.10.20", "169.254.10.21"];

/// What both are told; each has more of its own.
const ARGUMENTS: &str = "template=domP eth2ip=203.0.113.30 eth2mask=255.255.255.0 gateway=203.0.113.1 \
    publicMtu=1500 eth0mask=255.255.255.0 privateMtu=1500 redundant_router=1 advert_int=1 redundant_state=PRIMARY \
    guestgw=10.1.1.1 guestbrd=10.1.1.255 guestcidrsize=24 domain=cs4.example cidrsize=24 dhcprange=10.1.1.1 \
    eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 logrotatefrequency=*:00:00";

const GUEST: &str = r#"{"host_name":"ha1","mac_address":"02:01:00:ce:00:21","ipv4_address":"10.1.1.40","ipv6_duid":"00:03:00:01:02:01:00:ce:00:21","dns_addresses":"10.1.1.40","default_gateway":"10.1.1.1","default_entry":true,"remove":false,"type":"dhcpentry","delete_from_processed_cache":false}"#;

fn machine(lab: &Lab, n: usize) -> Vm {
    let mut config = Config::ours();
    config.nics.clear();
    let config = config
        .behind(&lab.host, "guest", &format!("02:00:4c:00:0{n}:00"))
        .behind(&lab.host, "control", &format!("02:00:4c:00:0{n}:01"))
        .behind(&lab.host, "public", "1e:00:4c:00:00:60");
    let vm = Vm::start(config);
    let own = format!("name=r-3{n}-VM eth0ip=10.1.1.{} eth1ip={}", 5 + n, CONTROL[n]);
    vm.deliver(&lab.keyed(ARGUMENTS, &own), STEP);
    vm
}

fn role(lab: &Lab, n: usize) -> String {
    let out = stdout(&lab.ssh_to(CONTROL[n], "/opt/cloud/bin/checkrouter.sh"));
    out.trim().trim_start_matches("Status: ").to_owned()
}

/// Waits until one is elected and the other is not; tells which.
fn elected(lab: &Lab) -> usize {
    let mut first = 0;
    wait_until("an election", STEP, || {
        let roles = [role(lab, 0), role(lab, 1)];
        first = usize::from(roles[1] == "PRIMARY");
        roles.iter().any(|role| role == "PRIMARY") && roles.iter().any(|role| role == "BACKUP")
    });
    first
}

#[test]
fn one_takes_over_from_the_other() {
    let lab = Lab::new();
    let mut machines = [0, 1].map(|n| Some(machine(&lab, n)));
    for (n, machine) in machines.iter_mut().enumerate() {
        let vm = machine.as_mut().expect("a machine");
        vm.wait_line("TRIVIUM-READY role=router", STEP);
        wait_until("SSH", STEP, || {
            lab.ssh_to(CONTROL[n], "/opt/cloud/bin/get_template_version.sh").status.success()
        });
        send_to(
            &lab,
            CONTROL[n],
            "firewall_rules.json.1",
            &documents::egress(0, "all", None, "", true, false),
        );
        send_to(&lab, CONTROL[n], "vm_dhcp_entry.json.2", GUEST);
    }
    let first = elected(&lab);
    let status = stdout(&lab.ssh_to(CONTROL[first], "status"));
    assert!(status.contains("of a pair: PRIMARY, keepalived runs, conntrackd runs"), "{status}");
    let client = Client::new(&lab, "guest", "02:01:00:ce:00:21");
    assert_eq!(client.lease(), "10.1.1.40 10.1.1.1 ha1");
    serve(&lab.host, "203.0.113.1:7000");
    let (mut stream, seen) = connect(&client.net, "203.0.113.1:7000").expect("the way out");
    assert_eq!(seen, "203.0.113.30");

    let manage = |n: usize, action: &str| {
        let out = lab.ssh_to(CONTROL[n], &format!("/opt/cloud/bin/manage_service.sh {action} keepalived"));
        assert!(out.status.success(), "{out:?}");
    };
    assert!(alive(&mut stream));
    manage(first, "stop");
    wait_until("the other one", STEP, || role(&lab, 1 - first) == "PRIMARY");
    assert!(alive(&mut stream), "the connection goes on");
    assert_eq!(role(&lab, first), "FAULT");
    manage(first, "start");
    assert_eq!(elected(&lab), 1 - first, "it is not taken back");

    // What is known of connections is passed on within moments; the machines are slow.
    let (mut other, _) = connect(&client.net, "203.0.113.1:7000").expect("the way out");
    assert!(alive(&mut other));
    std::thread::sleep(std::time::Duration::from_secs(5));
    drop(machines[1 - first].take());
    wait_until("the first one", STEP, || role(&lab, first) == "PRIMARY");
    assert!(alive(&mut stream) && alive(&mut other), "connections go on");
    assert_eq!(client.lease(), "10.1.1.40 10.1.1.1 ha1");

    // FRR finds in the image what it needs.
    let peer = r#"{"peers":[{"peer_id":7,"peer_as_number":64512,"ip4_address":"203.0.113.2","peer_password":"bgp-pw","network_id":204,"network_as_number":65001,"guest_ip4_cidr":"10.1.1.0/24"}],"type":"bgppeers"}"#;
    send_to(&lab, CONTROL[first], "bgp_peers.json.3", peer);
    wait_until("sessions that begin", STEP, || {
        let status = stdout(&lab.ssh_to(CONTROL[first], "status"));
        status.lines().any(|line| line.starts_with("bgp: 203.0.113.2 "))
            && !status.contains("FRR is not there")
    });
    let logs = stdout(&lab.ssh_to(CONTROL[first], "logs keepalived"));
    assert!(logs.contains("Entering MASTER STATE"), "{logs}");
}
