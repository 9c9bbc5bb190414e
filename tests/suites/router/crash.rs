//! The core is killed at every moment of a change: what it leaves is all of the change or nothing of it.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use common::shim::wire::{self, Request};

use crate::{
    documents::{address, egress, forward, ingress, static_nat},
    lab::Lab,
};

/// Moments of a change at which the core is killed.
const MOMENTS: u32 = 36;

/// Documents that take the router there or back: some of everything that a change can touch.
fn bundle(add: bool) -> String {
    let items = [
        ("ip_associations", address("203.0.113.11", 2, true)),
        ("forwarding_rules", forward("tcp", "203.0.113.10", "22:22", "10.1.1.20", "22:22", !add)),
        ("forwarding_rules", forward("udp", "203.0.113.10", "5000:5100", "10.1.1.20", "5000:5100", !add)),
        ("staticnat_rules", static_nat("203.0.113.11", "10.1.1.21", !add)),
        ("firewall_rules", ingress(1, "203.0.113.10", "tcp", Some((22, 22)), "198.51.100.0/24", !add)),
        ("firewall_rules", ingress(2, "203.0.113.11", "udp", Some((1, 99)), "0.0.0.0/0", !add)),
        ("firewall_rules", egress(3, "tcp", Some(25), "10.1.1.0/24", false, !add)),
        ("ip_associations", address("203.0.113.11", 2, add)),
    ];
    let mut text = "#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n".to_owned();
    for (n, (name, document)) in items.iter().enumerate() {
        text += &format!(
            "<file>\n/var/cache/cloud/{name}.json.{n}\n{document}\n</file>\n<script>\n\
             /opt/cloud/bin/update_config.py {name}.json.{n} false\n</script>\n"
        );
    }
    text
}

/// Puts a bundle where the host puts it, and returns the command that has it applied.
fn place(lab: &Lab, add: bool) -> Request {
    std::fs::write(lab.paths.cache().join("VR.cfg"), bundle(add)).expect("bundle");
    Request::new(["vr_cfg.sh", "-c", "/var/cache/cloud/VR.cfg"])
}

fn apply(lab: &Lab, add: bool) -> Duration {
    let request = place(lab, add);
    let start = Instant::now();
    let reply = wire::call(&lab.paths, &request, Duration::from_secs(60)).expect("an answer");
    assert_eq!((reply.code, reply.stderr.as_str()), (0, ""));
    start.elapsed()
}

/// What the kernel has, whatever the order in which it lists it.
fn kernel(lab: &Lab) -> Vec<String> {
    let listed: serde_json::Value =
        serde_json::from_str(&lab.router.ok("nft -j -s list table inet trivium")).expect("JSON");
    let mut all = Vec::new();
    let mut rules: BTreeMap<String, String> = BTreeMap::new();
    for object in listed["nftables"].as_array().expect("a list") {
        let mut object = object.clone();
        for (kind, part) in object.as_object_mut().expect("an object") {
            if let Some(part) = part.as_object_mut() {
                part.remove("handle");
            }
            if let Some(elements) = part.get_mut("elem").and_then(serde_json::Value::as_array_mut) {
                elements.sort_by_key(ToString::to_string);
            }
            let text = format!("{kind} {part}");
            match kind.as_str() {
                "rule" => *rules.entry(part["chain"].to_string()).or_default() += &text,
                "counter" | "metainfo" => {}
                // Names of tables that were, of no effect.
                "chain" if text.contains("sealed_") => {}
                _ => all.push(text),
            }
        }
    }
    all.extend(rules.into_values());
    let links = lab.router.ok("ip -4 -o addr show; ip rule; ip -4 route show table all");
    all.extend(links.lines().map(str::to_owned));
    all.sort();
    all
}

#[test]
fn a_kill_at_any_moment_leaves_all_of_a_change_or_nothing() {
    let mut lab = Lab::start();
    apply(&lab, true);
    let with = kernel(&lab);
    let span = (0..3).map(|_| apply(&lab, false).max(apply(&lab, true))).max().expect("a time");
    apply(&lab, false);
    let without = kernel(&lab);
    assert_ne!(with, without);
    let (mut all, mut nothing) = (0, 0);
    for moment in 0..MOMENTS {
        let add = moment % 2 == 0;
        let (before, after) = if add { (&without, &with) } else { (&with, &without) };
        let request = place(&lab, add);
        let paths = lab.paths.clone();
        let sent = thread::spawn(move || wire::call(&paths, &request, Duration::from_secs(60)).is_ok());
        thread::sleep(span * moment / MOMENTS);
        lab.core.kill();
        let answered = sent.join().expect("a thread");
        lab.restart();
        let left = kernel(&lab);
        assert!(left == *before || left == *after, "moment {moment} leaves neither: {left:#?}");
        assert!(!answered || left == *after, "what was answered is in force");
        all += u32::from(left == *after);
        nothing += u32::from(left == *before);
        // The host says it again: the file may have gone by now.
        apply(&lab, add);
        assert_eq!(kernel(&lab), *after, "moment {moment}: the same again");
    }
    println!("{MOMENTS} kills within {span:?}: {all} left all, {nothing} nothing");
    assert!(all > 0 && nothing > 0);
}
