//! Commands of the host that change nothing.

use std::time::Duration;

use tests::lab::wait_until;

use crate::{
    documents::{egress, forward},
    lab::{Lab, seen_udp, serve_udp},
};

#[test]
fn every_question_of_a_host_is_answered_in_its_form() {
    let lab = Lab::start();
    let tunnels = lab.run(&["checkbatchs2svpn.sh", "198.51.100.9", "198.51.100.77"]);
    let down = "IPsec SA not found;Site-to-site VPN have not connected";
    assert_eq!(tunnels.stdout, format!("198.51.100.9:11:{down}&198.51.100.77:11:{down}&"));
    assert_eq!(tunnels.code, 0);
    assert_eq!(lab.run(&["checks2svpn.sh", "198.51.100.9"]).code, 11);
    assert_eq!(lab.run(&["bumpup_priority.sh"]).code, 0);
    assert_eq!(lab.run(&["configure.py", "monitor_service.json"]).code, 0);
}

#[test]
fn diagnostics_come_as_one_archive() {
    let lab = Lab::start();
    let items =
        "iptables ipaddr iprule iproute /etc/passwd /etc/shadow /var/log/none [checkrouter.sh] [reboot]";
    let words: Vec<&str> = ["get_diagnostics_files.py"].into_iter().chain(items.split(' ')).collect();
    let reply = lab.run(&words);
    assert_eq!(reply.code, 0, "{}", reply.stderr);
    let path = reply.stdout.trim();
    assert!(path.starts_with("/root/diagnostics_files_") && path.ends_with(".zip"), "{path}");
    let file = lab.paths.at(path);
    let script = format!(
        "import zipfile; z=zipfile.ZipFile('{}'); print(*[n+'='+z.read(n).decode() for n in z.namelist()], sep='\\n--\\n')",
        file.display()
    );
    let out = std::process::Command::new("python3").args(["-c", &script]).output().expect("python3");
    let text = String::from_utf8_lossy(&out.stdout);
    for part in [
        "iptables.log=table inet trivium",
        "ipaddr.log=1: lo",
        "iprule.log=0:",
        "iproute.log=default via 203.0.113.1",
        "passwd=root",
        "checkrouter.sh.log=Status: PRIMARY",
        "/etc/shadow File Not Found!!",
        "/var/log/none File Not Found!!",
        "[reboot] File Not Found!!",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn health_checks_have_their_names_and_say_what_is_wrong() {
    let lab = Lab::start();
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", "22:22", "10.1.1.20", "22:22", false));
    let document = |excluded: &str, gateways: &str| {
        format!(
            r#"{{"health_checks_enabled":true,"health_checks_basic_run_interval":3,"health_checks_advanced_run_interval":10,"excluded_health_checks":"{excluded}","health_checks_config":{{"virtualMachines":"vmName=web1,macAddress=02:00:00:00:00:0a,ip=10.1.1.20,dhcp=true,dns=true;","gateways":"gatewaysIps={gateways} ","portForwarding":"sourceIp=203.0.113.10,sourcePortStart=22,sourcePortEnd=22,destIp=10.1.1.20,destPortStart=22,destPortEnd=22;","systemThresholds":"minDiskNeeded=1.0,maxCpuUsage=100.1,maxMemoryUsage=100.0;","routerVersion":"templateVersion=other,scriptsVersion=9f2c"}},"type":"monitorservice","delete_from_processed_cache":true}}"#
        )
    };
    let results = || {
        let text = lab.run(&["getRouterMonitorResults.sh", "true"]).stdout;
        let (failing, json) = text.split_once("MONITOR RESULTS:\n").expect("two parts");
        let failing = failing.strip_prefix("FAILING CHECKS:\n").expect("a heading").to_owned();
        (failing, serde_json::from_str::<serde_json::Value>(json).expect("JSON"))
    };
    assert_eq!(results().1["advanced"], serde_json::json!({}), "no checks where none are asked for");
    lab.apply("monitor_service", &document("disk_space_check.py", "203.0.113.1"));
    let (failing, json) = results();
    let word = |json: &serde_json::Value, group: &str, name: &str| {
        json[group][name]["success"].as_str().unwrap_or("absent").to_owned()
    };
    for (group, name, expected) in [
        ("basic", "cpu_usage_check.py", "SUCCESS"),
        ("basic", "memory_usage_check.py", "SUCCESS"),
        ("basic", "disk_space_check.py", "absent"),
        ("basic", "gateways_check.py", "SUCCESS"),
        ("basic", "router_version_check.py", "WARNING"),
        ("advanced", "iptables_check.py", "SUCCESS"),
        ("advanced", "dhcp_check.py", "FAILED"),
        ("advanced", "dns_check.py", "FAILED"),
        ("advanced", "haproxy_check.py", "absent"),
    ] {
        assert_eq!(word(&json, group, name), expected, "{name} in {json}");
    }
    assert!(failing.lines().any(|line| line == "dhcp_check.py,dns_check.py"), "{failing}");
    assert!(json["basic"]["lastRun"]["duration"].as_str().is_some_and(|text| text.parse::<f64>().is_ok()));
    let every =
        json.as_object().expect("groups").values().flat_map(|group| group.as_object().expect("checks"));
    assert!(
        every.flat_map(|(_, check)| check.as_object().expect("members")).all(|(_, value)| value.is_string())
    );

    lab.apply("vm_dhcp_entry", r#"{"host_name":"web1","mac_address":"02:00:00:00:00:0a","ipv4_address":"10.1.1.20","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}"#);
    lab.apply("monitor_service", &document("", "203.0.113.1 203.0.113.99"));
    let (failing, json) = results();
    assert_eq!(word(&json, "advanced", "dns_check.py"), "SUCCESS");
    assert_eq!(word(&json, "basic", "disk_space_check.py"), "SUCCESS");
    assert_eq!(json["basic"]["gateways_check.py"]["message"], "No answer from 203.0.113.99");
    assert!(failing.contains("gateways_check.py"), "{failing}");
}

#[test]
fn bytes_are_counted_exactly_and_seen_among_the_figures() {
    let lab = Lab::start();
    serve_udp(&lab.outside, "203.0.113.1:53");
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    for _ in 0..10 {
        assert_eq!(seen_udp(&lab.a, "203.0.113.1:53").as_deref(), Some("203.0.113.10"));
    }
    lab.apply("forwarding_rules", &forward("tcp", "203.0.113.10", "22:22", "10.1.1.20", "22:22", false));
    // IP and UDP headers are 28 bytes; one byte asks, twelve answer.
    assert_eq!(lab.run(&["netusage.sh", "-g"]).stdout, "290:400:0:0:");
    let text = lab.run(&["metrics"]).stdout;
    for line in [
        r#"trivium_usage_bytes_total{nic="eth2",figure="sent"} 290"#,
        r#"trivium_entries{kind="port forwards"} 1"#,
        "trivium_change_seconds_count 2",
        "trivium_documents_refused_total 0",
        "trivium_serve_up 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    let connections = text.lines().find_map(|line| line.strip_prefix("trivium_connections_limit "));
    assert!(connections.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n >= 16_384), "{text}");
    lab.send("forwarding_rules", "{");
    assert!(lab.run(&["metrics"]).stdout.contains("trivium_documents_refused_total 1\n"));
}

#[test]
fn the_start_tells_how_it_went() {
    let lab = Lab::start();
    wait_until("the end of the start", Duration::from_secs(10), || {
        common::timeline::read(&lab.paths).contains("router: ready")
    });
    let text = common::timeline::read(&lab.paths);
    let steps = ["core: starts", "core: NICs are there", "core: the network is in force", "router: ready"];
    let places: Vec<_> = steps.iter().map(|step| text.find(step)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[test]
fn scripts_of_other_hosts_stand_for_their_documents() {
    let lab = Lab::start();
    let clean = lab.dump();
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        lab.run(&words)
    };
    assert_eq!(run("ipassoc.sh -A -l 203.0.113.11/24 -c eth2 -g 203.0.113.1 -f").code, 0);
    assert!(lab.dump().contains("203.0.113.11/24"));
    assert_eq!(run("ipassoc.sh -D -l 203.0.113.11/24 -c eth2 -g 203.0.113.1").code, 0);
    assert_eq!(lab.dump(), clean);
    for words in ["vpc_snat.sh -A -l 203.0.113.10 -c eth2", "monitor_service.sh -c x", "dnsmasq.sh x"] {
        assert_eq!(run(words).code, 0, "{words}");
    }
    assert_eq!(lab.dump(), clean);
    let refused = run("vpn_l2tp.sh -c -r 10.1.2.1-10.1.2.8");
    assert!(refused.code == 127 && refused.stderr.contains("not served"), "{}", refused.stderr);
}
