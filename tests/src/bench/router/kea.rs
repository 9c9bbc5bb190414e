//! Kea with its leases in memory and a file, beside which ours are counted.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::documents;
use crate::lab::{Namespace, Process, join, wait_until};

/// A Kea that knows as many guests as the router, and the namespace where they are.
pub(super) struct Kea {
    pub(super) server: Process,
    pub(super) guest: Namespace,
    _net: Namespace,
    _folder: tempfile::TempDir,
}

impl Kea {
    pub(super) fn new(count: u32) -> Self {
        let (net, guest) = (Namespace::new("kea"), Namespace::new("kea-out"));
        join(&net, "eth0", &guest, "eth0");
        net.address("eth0", "10.1.0.1/16");
        let folder = tempfile::tempdir().expect("folder");
        let reservations: Vec<Value> = (0..count)
            .map(|n| {
                json!({
                    "hw-address": documents::guest_mac(n),
                    "ip-address": documents::guest(n),
                    "hostname": format!("vm{n}"),
                })
            })
            .collect();
        let config = json!({"Dhcp4": {
            "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "udp"},
            "lease-database": {"type": "memfile", "persist": true, "name": folder.path().join("leases")},
            "valid-lifetime": u32::MAX,
            "authoritative": true,
            "reservations-in-subnet": true,
            "reservations-out-of-pool": true,
            "host-reservation-identifiers": ["hw-address"],
            "option-data": [
                {"name": "routers", "data": "10.1.0.1"},
                {"name": "domain-name-servers", "data": "10.1.0.1"},
                {"name": "domain-name", "data": "cs1.example"},
            ],
            "subnet4": [{"subnet": "10.1.0.0/16", "reservations": reservations}],
            "loggers": [{"name": "kea-dhcp4", "severity": "ERROR"}],
        }});
        let file = folder.path().join("kea.json");
        fs::write(&file, config.to_string()).expect("configuration");
        let mut command = net.command("kea-dhcp4");
        command.arg("-c").arg(file);
        command.env("KEA_PIDFILE_DIR", folder.path()).env("KEA_LOCKFILE_DIR", folder.path());
        let server = Process::start(command);
        wait_until("kea-dhcp4 (package kea-dhcp4-server)", Duration::from_secs(30), || {
            net.sh("ss -Hlnu sport = :67").stdout.len() > 1
        });
        Self { server, guest, _net: net, _folder: folder }
    }
}
