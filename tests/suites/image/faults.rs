//! What a router was told outlives its processes and its power.

use tests::lab::{
    Process,
    vm::{Agent, Vm},
    wait_until,
};

use crate::{
    lab::{Lab, Role, STEP, stdout},
    traffic::{Client, Flow, send},
};

/// What the management server sends for one guest, in this order.
const DOCUMENTS: [(&str, &str); 8] = [
    (
        "ip_associations.json.1",
        r#"{"ip_address":[{"public_ip":"203.0.113.10","source_nat":true,"add":true,"one_to_one_nat":false,"first_i_p":true,"gateway":"203.0.113.1","netmask":"255.255.255.0","vif_mac_address":"02:00:4c:00:00:02","nic_dev_id":2,"new_nic":false,"nw_type":"Public","is_private_gateway":false,"mtu":1500}],"type":"ips"}"#,
    ),
    (
        "firewall_rules.json.2",
        r#"{"rules":[{"id":41,"src_ip":"203.0.113.10","protocol":"tcp","src_port_range":[2222,2222],"revoked":false,"already_added":false,"source_cidr_list":["0.0.0.0/0"],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Ingress","default_egress_policy":false}],"type":"firewallrules"}"#,
    ),
    (
        "firewall_rules.json.3",
        r#"{"rules":[{"id":0,"src_ip":"","protocol":"all","revoked":false,"already_added":false,"source_cidr_list":[],"dest_cidr_list":[],"purpose":"Firewall","traffic_type":"Egress","default_egress_policy":true}],"type":"firewallrules"}"#,
    ),
    (
        "forwarding_rules.json.4",
        r#"{"rules":[{"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.10","source_port_range":"2222:2222","destination_ip_address":"10.1.1.20","destination_port_range":"22:22","source_cidr_list":""}],"type":"forwardrules"}"#,
    ),
    (
        "vm_dhcp_entry.json.5",
        r#"{"host_name":"web","mac_address":"02:00:00:00:00:0a","ipv4_address":"10.1.1.20","ipv6_duid":"00:03:00:01:02:00:00:00:00:0a","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}"#,
    ),
    (
        "vm_metadata.json.6",
        r#"{"vm_ip_address":"10.1.1.20","vm_metadata":[["metadata","instance-id","i-7"]],"type":"vmdata"}"#,
    ),
    ("vm_password.json.7", r#"{"ip_address":"10.1.1.20","password":"Abc 12%3!","type":"vmpassword"}"#),
    // The last one is acknowledged right before the power goes.
    (
        "forwarding_rules.json.8",
        r#"{"rules":[{"revoke":false,"protocol":"tcp","source_ip_address":"203.0.113.10","source_port_range":"2223:2223","destination_ip_address":"10.1.1.20","destination_port_range":"22:22","source_cidr_list":""}],"type":"forwardrules"}"#,
    ),
];

struct Guest {
    client: Client,
    _echo: Process,
}

impl Guest {
    fn new(lab: &Lab) -> Self {
        let client = Client::new(lab, "guest", "02:00:00:00:00:0a");
        let echo = client.echo(22);
        Self { client, _echo: echo }
    }

    /// All that a guest asks of its router, but the password.
    fn is_served(&self) {
        assert_eq!(self.client.lease(), "10.1.1.20 10.1.1.1 web");
        let name = self.client.net.ok("dig +tries=3 +time=5 +short @10.1.1.1 web.cs1.example");
        assert_eq!(name.trim(), "10.1.1.20");
        let id = self.client.net.ok("curl -s -m 20 http://10.1.1.1/latest/meta-data/instance-id");
        assert_eq!(id, "i-7");
    }

    fn password(&self) -> String {
        self.client.net.ok("curl -s -m 20 -H 'DomU_Request: send_my_password' http://10.1.1.1:8080")
    }

    fn takes_password(&self) {
        self.client.net.ok("curl -s -m 20 -H 'DomU_Request: saved_password' http://10.1.1.1:8080");
    }
}

/// The rules in force.
fn rules(lab: &Lab) -> Vec<String> {
    let out = lab.ssh("rules");
    assert!(out.status.success(), "{out:?}");
    let text = stdout(&out);
    // Seals and counts are the history of a table, not its rules.
    let is_rule = |line: &&str| {
        let empty = matches!(line.trim(), "" | "}");
        !empty && !line.contains("packets") && !line.contains("chain sealed_")
    };
    let mut lines: Vec<String> = text.lines().filter(is_rule).map(str::to_owned).collect();
    assert!(lines.len() > 20, "{text}");
    lines.sort();
    lines
}

fn figure(lab: &Lab, name: &str) -> Option<String> {
    let text = stdout(&lab.ssh("status"));
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

fn is_healthy(lab: &Lab) -> bool {
    figure(lab, "health").as_deref() == Some("healthy")
}

fn again(lab: &Lab, vm: Vm, more: &str) -> Vm {
    let mut vm = vm.power_cycle();
    vm.deliver(&lab.line(Role::Router, more), STEP);
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);
    vm
}

fn kill(agent: &mut Agent, services: &[&str]) {
    let folders: Vec<String> = services.iter().map(|name| format!("/run/service/{name}")).collect();
    for folder in &folders {
        let killed = agent.run("/bin/s6-svc", &["-k", folder]);
        assert_eq!(killed.code, 0, "{folder}: {}", killed.stderr);
    }
}

#[test]
fn rules_leases_names_and_passwords_outlive_processes_and_power() {
    let lab = Lab::new();
    let mut vm = lab.start(Role::Router, "");
    vm.wait_line("TRIVIUM-READY role=router", STEP);
    lab.wait_ssh(&vm);
    let guest = Guest::new(&lab);
    let (last, first) = DOCUMENTS.split_last().expect("documents");
    for (name, text) in first {
        send(&lab, name, text);
    }
    guest.is_served();

    // Kill each, then both at once: what is in force stays, and what flows goes on.
    let before = rules(&lab);
    let flow = Flow::start(&lab, "203.0.113.10:2222");
    let mut agent = vm.agent(STEP);
    for services in [&["core"][..], &["serve"], &["core", "serve"], &["sshd"]] {
        kill(&mut agent, services);
        wait_until("the router is healthy again", STEP, || is_healthy(&lab));
        assert_eq!(rules(&lab), before, "after SIGKILL of {services:?}");
        guest.is_served();
    }
    let (words, longest) = flow.end();
    println!("{words} words through the port forward, the longest took {longest:?}");
    assert!(words > 100, "{words} words");

    // The power goes right after an acknowledgement.
    send(&lab, last.0, last.1);
    let before = rules(&lab);
    let vm = again(&lab, vm, "");
    assert_eq!(rules(&lab), before, "after the power cut");
    assert_eq!(figure(&lab, "port forwards").as_deref(), Some("2"));
    guest.is_served();
    assert_eq!(guest.password(), "Abc 12%3!");
    guest.takes_password();
    assert_eq!(guest.password(), "saved_password");
    let vm = again(&lab, vm, "");
    assert_eq!(guest.password(), "saved_password", "once is once, whatever the power does");

    // Other arguments make it another router.
    let _vm = again(&lab, vm, "dnssearchorder=b.example");
    assert_eq!(figure(&lab, "port forwards").as_deref(), Some("0"));
}
