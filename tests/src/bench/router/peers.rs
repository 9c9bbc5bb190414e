//! `push_dead_peers`: what a change costs while sites are asked that do not answer.

use std::{fs, time::Duration};

use super::lab::Lab;
use crate::{
    bench::{Figure, Floor},
    lab::{
        Process,
        documents::{acl, address, rule, tier},
        wait_until,
    },
};

/// Sites at which nobody is.
const DEAD: u8 = 5;
/// Changes that are measured.
const ROUNDS: usize = 25;

/// Measures and prints it.
pub(in crate::bench) fn run() {
    let lab = Lab::vpc(1);
    let _charon = charon(&lab);
    lab.apply(&[
        lab.place("ip_associations", &address("203.0.113.10", 1, true)),
        lab.place("guest_network", &tier(1, 2, true)),
    ]);
    for last in 70..70 + DEAD {
        lab.apply(&[lab.place("site_2_site_vpn", &site(&format!("203.0.113.{last}")))]);
    }
    wait_until("charon asks all of them", Duration::from_secs(60), || {
        let (_, text) = lab.run(&["status"]).expect("an answer");
        text.lines().filter(|line| line.starts_with("site ") && line.contains("has begun")).count()
            == usize::from(DEAD)
    });
    let change = |round: usize| {
        let port = u16::try_from(1000 + round).expect("port");
        lab.place("network_acl", &acl(2, &[rule("tcp", Some((port, port)), "0.0.0.0/0", true)], &[]))
    };
    let ours = (0..ROUNDS).map(|round| lab.apply(&[change(round)]).as_secs_f64() * 1000.0).collect();
    Figure::host("push_dead_peers", "ms", ours, Some(Floor::AtMost(50.0))).print();
}

fn site(peer: &str) -> String {
    format!(
        r#"{{"local_public_ip":"203.0.113.10","local_guest_cidr":"10.9.0.0/16","peer_gateway_ip":"{peer}","peer_guest_cidr_list":"192.168.{}.0/24,172.20.{}.0/24","esp_policy":"aes256-sha256;modp2048","ike_policy":"aes256-sha256;modp2048","ipsec_psk":"secret","ike_version":"ike","ike_lifetime":86400,"esp_lifetime":3600,"create":true,"dpd":true,"passive":false,"encap":false,"split_connections":false,"type":"site2sitevpn"}}"#,
        peer.rsplit('.').next().unwrap_or_default(),
        peer.rsplit('.').next().unwrap_or_default(),
    )
}

/// charon in the router's namespace, where the core looks for it.
fn charon(lab: &Lab) -> Process {
    let folder = lab.paths.at("/run");
    fs::create_dir_all(&folder).expect("folder");
    let (socket, conf) = (lab.paths.at("/run/charon.vici"), folder.join("strongswan.conf"));
    let text = format!("charon {{\n plugins {{ vici {{ socket = unix://{} }} }}\n}}\n", socket.display());
    fs::write(&conf, text).expect("configuration");
    // Its file with the process id is not to meet another charon's.
    let line = "mount -t tmpfs none /run && exec /usr/lib/ipsec/charon";
    let mut command = lab.router.command("unshare");
    command.args(["-m", "sh", "-c", line]).env("STRONGSWAN_CONF", &conf);
    let process = Process::start(command);
    wait_until("charon", Duration::from_secs(20), || socket.exists());
    process
}
