//! `diff`: what a document would change.

use std::fs;

use crate::{
    documents::{address, egress, forward, ingress, static_nat},
    lab::Lab,
};

#[test]
fn a_document_tells_what_it_would_change_and_changes_nothing() {
    let lab = Lab::start();
    lab.apply("firewall_rules", &egress(0, "all", None, "", true, false));
    let before = lab.dump();
    let state = || fs::read(lab.paths.state("router").join("network")).expect("state");
    let host = r#"{"host_name":"web1","mac_address":"02:00:00:00:00:0a","ipv4_address":"10.1.1.20","default_gateway":"10.1.1.1","default_entry":true,"type":"dhcpentry"}"#;
    for (kind, document, lines) in [
        (
            "forwarding_rules",
            forward("tcp", "203.0.113.10", "22:22", "10.1.1.20", "22:22", false),
            &["packet filter", "  + forward_address[203.0.113.10 tcp 22] = 10.1.1.20"][..],
        ),
        (
            "firewall_rules",
            ingress(41, "203.0.113.10", "tcp", Some((22, 22)), "198.51.100.0/24", false),
            &["  + gate_203.0.113.10_tcp_22 rule 1: from 198.51.100.0/24, tcp port 22: accept"],
        ),
        (
            "firewall_rules",
            egress(0, "all", None, "", true, true),
            &["  - egress rule 5: accept", "  + egress rule 5: drop"],
        ),
        (
            "ip_associations",
            address("203.0.113.11", 2, true),
            &["  + eth2 address 203.0.113.11/24", "  + public[203.0.113.11]"],
        ),
        (
            "vm_dhcp_entry",
            host.to_owned(),
            &[
                "DHCP",
                "  + 10.1.1.20 to 02:00:00:00:00:0a (web1), gateway 10.1.1.1",
                "names",
                "  + web1 is 10.1.1.20",
            ],
        ),
        (
            "vm_password",
            r#"{"ip_address":"10.1.1.20","password":"hunter2","type":"vmpassword"}"#.to_owned(),
            &["passwords", "  + 10.1.1.20 gets a new one"],
        ),
    ] {
        let (name, kept) = (lab.put(kind, &document), state());
        let said = lab.run(&["diff", &name]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{kind}");
        for line in lines {
            assert!(said.stdout.lines().any(|l| l == *line), "{line} in {}", said.stdout);
        }
        assert!(!said.stdout.contains("hunter2"), "{}", said.stdout);
        assert_eq!((lab.dump(), state()), (before.clone(), kept), "{kind}");
        // The same document is still there to be applied; then it would change nothing more.
        if kind == "forwarding_rules" {
            assert_eq!(lab.run(&["update_config.py", &name]).code, 0);
            let again = lab.put(&format!("diff.{kind}"), &document);
            assert_eq!(lab.run(&["diff", &again]).stdout, "nothing would change\n");
            assert!(!lab.paths.cache().join(&again).exists(), "copied for this question only");
            lab.apply(kind, &forward("tcp", "203.0.113.10", "22:22", "10.1.1.20", "22:22", true));
        }
    }
}

#[test]
fn what_would_be_refused_says_so() {
    let lab = Lab::start();
    let bad = lab.put("staticnat_rules", &static_nat("203.0.113.77", "10.1.1.20", false));
    let said = lab.run(&["diff", &bad]);
    assert_eq!((said.code, said.stdout.as_str()), (1, "nothing would change\n"));
    assert!(
        said.stderr.contains("would be refused: ") && said.stderr.contains("rules[0]."),
        "{}",
        said.stderr
    );
    assert_eq!(lab.run(&["diff", "absent.json.1"]).code, 1);
    assert_eq!(lab.run(&["diff"]).code, 1);
    // A bundle: what can be merged is told, the rest is named.
    let good = address("203.0.113.77", 2, true);
    let then = static_nat("203.0.113.77", "10.1.1.20", false);
    let text = format!(
        "<file>\n/var/cache/cloud/ip_associations.json.1\n{good}\n</file>\n<file>\n/var/cache/cloud/staticnat_rules.json.2\n{then}\n</file>\n<file>\n/var/cache/cloud/x.json.3\n{{\n</file>\n"
    );
    fs::write(lab.paths.cache().join("VR-1.cfg"), text).expect("bundle");
    let said = lab.run(&["diff", "VR-1.cfg"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.starts_with("would be refused: x.json.3: no JSON"), "{}", said.stderr);
    for line in ["  + eth2 address 203.0.113.77/24", "  + static_in[203.0.113.77] = 10.1.1.20"] {
        assert!(said.stdout.contains(line), "{line} in {}", said.stdout);
    }
    assert!(lab.paths.cache().join("VR-1.cfg").exists());
}
