//! Documents, bundles and commands, and what becomes of the bad ones.

use std::fs;

use crate::{
    documents::{address, egress, forward, forward_item, ingress, static_nat},
    lab::{Lab, connect, serve},
};

#[test]
fn a_refused_document_changes_nothing_and_says_why() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &ingress(41, "203.0.113.10", "icmp", None, "0.0.0.0/0", false));
    let before = lab.dump();
    for (name, text, reason) in [
        ("firewall_rules", "{", "no JSON"),
        (
            "forwarding_rules",
            &*forward("tcp", "203.0.113.77", "22:22", "10.1.1.20", "22:22", false),
            "rules[0].source_ip_address",
        ),
        (
            "forwarding_rules",
            &*forward("gre", "203.0.113.10", "22:22", "10.1.1.20", "22:22", false),
            "rules[0].protocol",
        ),
        ("load_balancer", r#"{"type":"loadbalancer","rules":[]}"#, "rules: holds 0 configurations"),
        ("network_acl", r#"{"type":"networkacl"}"#, "mac_address: is missing"),
        ("ipv6_firewall_rules", r#"{"type":"ipv6firewallrules"}"#, "rules: is missing"),
        ("ip_associations", &*address("10.1.1.1", 2, false), "is the address of eth0"),
    ] {
        let reply = lab.send(name, text);
        assert_eq!(reply.code, 1, "{text}");
        assert!(reply.stderr.contains(reason), "{}", reply.stderr);
        assert_eq!(lab.dump(), before);
    }
    assert_eq!(lab.run(&["update_config.py", "absent.json.1"]).code, 1);
    assert_eq!(lab.run(&["update_config.py", "../cmdline"]).code, 1);
    assert_eq!(lab.run(&["reboot"]).code, 127);
}

#[test]
fn the_same_again_changes_nothing_and_conversions_leave_nothing_behind() {
    let lab = Lab::start();
    lab.apply("ip_associations", &address("203.0.113.11", 2, true));
    let clean = lab.dump();
    let pf = forward("tcp", "203.0.113.11", "80:90", "10.1.1.20", "80:90", false);
    for document in [
        ("forwarding_rules", pf.clone()),
        ("firewall_rules", ingress(41, "203.0.113.11", "tcp", Some((80, 80)), "192.0.2.0/24", false)),
        ("firewall_rules", egress(52, "udp", Some(53), "10.1.1.0/24", false, false)),
        ("ip_associations", address("203.0.113.11", 2, true)),
    ] {
        lab.apply(document.0, &document.1);
        let once = lab.dump();
        lab.apply(document.0, &document.1);
        assert_eq!(lab.dump(), once, "{}", document.1);
    }
    lab.apply("staticnat_rules", &static_nat("203.0.113.11", "10.1.1.30", false));
    lab.apply("forwarding_rules", &pf);
    lab.apply("staticnat_rules", &static_nat("203.0.113.11", "10.1.1.30", true));
    lab.apply("firewall_rules", &ingress(41, "203.0.113.11", "tcp", Some((80, 80)), "192.0.2.0/24", true));
    lab.apply("firewall_rules", &egress(52, "udp", Some(53), "10.1.1.0/24", false, true));
    assert_eq!(lab.dump(), clean);
}

#[test]
fn an_address_that_nothing_asks_for_goes_with_the_next_document() {
    let lab = Lab::start();
    let clean = lab.dump();
    lab.router.ip(&["addr", "add", "192.0.2.99/24", "dev", "eth2"]);
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, true));
    assert_eq!(lab.dump(), clean);
}

#[test]
fn a_bundle_applies_what_it_can_and_reports_the_rest() {
    let lab = Lab::start();
    serve(&lab.a, "10.1.1.20:22");
    let metadata = r#"{"vm_ip_address":"10.1.1.20","vm_metadata":[["metadata","service-offering","two  blanks  *"]],"type":"vmdata"}"#;
    let items = [
        ("ip_associations", address("203.0.113.11", 2, true)),
        ("forwarding_rules", forward("tcp", "203.0.113.11", "22:22", "10.1.1.20", "22:22", false)),
        ("forwarding_rules", forward("tcp", "203.0.113.99", "22:22", "10.1.1.20", "22:22", false)),
        ("firewall_rules", ingress(41, "203.0.113.11", "tcp", Some((22, 22)), "0.0.0.0/0", false)),
        ("vm_metadata", metadata.to_owned()),
    ];
    let mut text = "#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n".to_owned();
    for (n, (name, document)) in items.iter().enumerate() {
        text += &format!(
            "<file>\n/var/cache/cloud/{name}.json.{n}\n{document}\n</file>\n<script>\n\
             /opt/cloud/bin/update_config.py {name}.json.{n}\n</script>\n"
        );
    }
    fs::write(lab.paths.cache().join("VR-1.cfg"), &text).expect("bundle");
    let reply = lab.run(&["vr_cfg.sh", "-c", "/var/cache/cloud/VR-1.cfg"]);
    assert_eq!(reply.code, 1);
    assert_eq!(reply.stderr.lines().count(), 1, "{}", reply.stderr);
    assert!(
        reply
            .stderr
            .starts_with("VR config: forwarding_rules.json.2: rules[0].source_ip_address: 203.0.113.99")
    );
    let (_stream, seen) = connect(&lab.outside, "203.0.113.11:22").expect("the rest is in force");
    assert_eq!(seen, "203.0.113.1");
    let kept = fs::read_to_string(lab.paths.state("router").join("guests")).expect("metadata");
    assert!(kept.contains("two  blanks  *"), "byte for byte");
    assert!(!lab.paths.cache().join("VR-1.cfg").exists());
}

#[test]
fn the_start_of_a_large_network_is_one_change_and_ends_no_connection() {
    const COUNT: u16 = 300;
    let lab = Lab::start();
    serve(&lab.outside, "203.0.113.1:80");
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    let (mut held, _) = connect(&lab.a, "203.0.113.1:80").expect("a connection");
    let mut text = String::new();
    let mut add = |kind: &str, n: u16, document: String| {
        text += &format!(
            "<file>\n/var/cache/cloud/{kind}.json.{n}\n{document}\n</file>\n<script>\n\
             /opt/cloud/bin/update_config.py {kind}.json.{n}\n</script>\n"
        );
    };
    for n in 0..COUNT {
        let guest = format!("10.1.1.{}", 2 + n % 250);
        let port = format!("{}:{}", 2000 + n, 2000 + n);
        add("forwarding_rules", n, forward("tcp", "203.0.113.10", &port, &guest, "22:22", false));
        let gate =
            ingress(u32::from(n) + 1, "203.0.113.10", "tcp", Some((2000 + n, 2000 + n)), "0.0.0.0/0", false);
        add("firewall_rules", n, gate);
    }
    for n in 0..250_u16 {
        let guest = format!("10.1.1.{}", 2 + n);
        add(
            "vm_dhcp_entry",
            n,
            format!(
                r#"{{"host_name":"vm{n}","mac_address":"02:00:00:00:01:{n:02x}","ipv4_address":"{guest}","default_gateway":"10.1.1.1","default_entry":true,"remove":false,"type":"dhcpentry"}}"#
            ),
        );
        add(
            "vm_metadata",
            n,
            format!(
                r#"{{"vm_ip_address":"{guest}","vm_metadata":[["metadata","instance-id","i-{n}"]],"type":"vmdata"}}"#
            ),
        );
    }
    fs::write(lab.paths.cache().join("VR-1.cfg"), &text).expect("bundle");
    let began = std::time::Instant::now();
    let reply = lab.run(&["vr_cfg.sh", "-c", "/var/cache/cloud/VR-1.cfg"]);
    println!("{COUNT} rules of two kinds and 250 guests: {:?}", began.elapsed());
    assert_eq!((reply.code, reply.stderr.as_str()), (0, ""));
    assert!(crate::lab::alive(&mut held), "what is established stays");
    let status = lab.run(&["status"]).stdout;
    for line in [
        &*format!("port forwards: {COUNT}"),
        &format!("firewall rules: {}", COUNT + 1),
        "reservations: 250",
        "guests with metadata: 250",
    ] {
        assert!(status.lines().any(|l| l == line), "{line} in {status}");
    }
    serve(&lab.a, "10.1.1.20:22");
    assert!(connect(&lab.outside, "203.0.113.10:2018").is_some());
}

#[test]
fn nothing_of_many_changes_stays_behind() {
    let lab = Lab::start();
    let change = |n: u16, revoke: bool| {
        let (ip, port) = (format!("203.0.113.{}", 100 + n % 20), format!("{n}:{n}"));
        if !revoke {
            lab.apply("ip_associations", &address(&ip, 2, true));
        }
        lab.apply("forwarding_rules", &forward("tcp", &ip, &port, "10.1.1.20", "22:22", revoke));
        lab.apply(
            "firewall_rules",
            &ingress(u32::from(n) + 1, &ip, "tcp", Some((n, n)), "192.0.2.0/24", revoke),
        );
        lab.apply(
            "firewall_rules",
            &egress(u32::from(n) + 500, "udp", Some(n), "10.1.1.0/24", false, revoke),
        );
        if revoke {
            lab.apply("ip_associations", &address(&ip, 2, false));
        }
    };
    let round = |n| {
        change(n, false);
        change(n, true);
    };
    let open = || fs::read_dir(format!("/proc/{}/fd", lab.core.id())).expect("files").count();
    let memory = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", lab.core.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a figure")
    };
    (1..4).for_each(round);
    let (clean, files, before) = (lab.dump(), open(), memory());
    (4..44).for_each(round);
    assert_eq!(lab.dump(), clean);
    assert!(open() <= files + 2, "{files} open files, then {}", open());
    assert!(memory() < before + 4096, "{before} KiB, then {}", memory());
}

#[test]
fn queries_are_answered_in_their_forms() {
    let lab = Lab::start();
    serve(&lab.outside, "203.0.113.1:80");
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    assert_eq!(lab.run(&["netusage.sh", "-c"]).stdout, "");
    assert_eq!(lab.run(&["netusage.sh", "-g"]).stdout, "0:0:0:0:");
    drop(connect(&lab.a, "203.0.113.1:80").expect("a connection"));
    let figures = || -> Vec<u64> {
        let text = lab.run(&["netusage.sh", "-g", "-l", "203.0.113.10"]).stdout;
        text.trim_end_matches(':').split(':').map(|n| n.parse().expect("a figure")).collect()
    };
    let before = figures();
    assert!(before[0] > 100 && before[1] > 100, "{before:?}");
    let items: Vec<String> = (1..20)
        .map(|n| forward_item("tcp", "203.0.113.10", &format!("{n}:{n}"), "10.1.1.20", "22:22", false))
        .collect();
    lab.apply("forwarding_rules", &format!(r#"{{"rules":[{}],"type":"forwardrules"}}"#, items.join(",")));
    assert!(figures()[0] >= before[0], "figures outlive changes");
    assert_eq!(lab.run(&["netusage.sh", "-r"]).code, 0);
    assert!(figures()[0] < before[0]);
    assert_eq!(lab.run(&["checkrouter.sh"]).stdout, "Status: PRIMARY\n");
    assert_eq!(lab.run(&["getRouterAlerts.sh", "1970-01-01", "00:00:00"]).stdout, "No Alerts\n");
    let results = lab.run(&["getRouterMonitorResults.sh", "true"]).stdout;
    let (failing, json) = results.split_once("MONITOR RESULTS:\n").expect("two parts");
    assert!(failing.starts_with("FAILING CHECKS:\n"));
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert!(json["basic"]["dhcp.service"]["lastUpdate"].as_str().is_some(), "{json}");
    let ping = lab.run(&["diagnostics.py", "ping", "10.1.1.20", "-c", "1"]).stdout;
    let parts: Vec<&str> = ping.split("&&").map(str::trim).collect();
    assert_eq!((parts.len(), parts[2]), (3, "0"), "{ping}");
    assert_eq!(lab.run(&["get_haproxy_stats.sh", "203.0.113.10", "80"]).stdout, "0");
    let status = lab.run(&["status"]).stdout;
    assert!(status.contains("role: router") && status.contains("port forwards: 19"), "{status}");
}
