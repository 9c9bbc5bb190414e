//! Tunnels between two sites.

use std::time::Instant;

use tests::lab::wait_until;

use crate::{
    lab::{STEP, stdout},
    pair::{Side, down, pair, wait_up, wait_word},
};

/// Guests of both sides.
const A: &str = "10.9.1.10";
const B: &str = "10.9.2.10";
/// Nobody is there.
const DEAD: &str = "203.0.113.77";

#[test]
fn two_sites_reach_each_other_whatever_else_changes() {
    let (mut a, mut b) = pair();
    assert_eq!(stdout(&a.check(a.peer)), down(a.peer));
    assert_eq!(a.lab.ssh(&format!("/opt/cloud/bin/checks2svpn.sh {}", a.peer)).status.code(), Some(11));
    assert!(!a.reaches(B), "there is no tunnel yet");
    let began = Instant::now();
    a.send("site_2_site_vpn", &a.site(&[]));
    b.send("site_2_site_vpn", &b.site(&[]));
    wait_up(&a, &b);
    println!("established {:?} after the first document", began.elapsed());
    // The list of each tier lets in the other tier alone: who is translated would not come through.
    wait_until("packets", STEP, || a.reaches(B) && b.reaches(A));
    assert_eq!(a.lab.ssh(&format!("/opt/cloud/bin/checks2svpn.sh {}", a.peer)).status.code(), Some(0));
    assert!(a.word(a.peer).contains("1 of 1 children"), "{}", a.word(a.peer));
    let before = a.tunnels();
    assert_eq!(before.len(), 2, "{before:?}");

    // One more site, at which nobody is, and a document that cannot be right.
    let began = Instant::now();
    a.send("site_2_site_vpn", &a.site_to(DEAD, "192.168.77.0/24", &[]));
    println!("a site at which nobody is: {:?} for the document", began.elapsed());
    let asked = format!("{} {DEAD} 198.51.100.7", a.peer);
    let up = format!("{}:0:IPsec SA found;Site-to-site VPN have connected&", a.peer);
    assert_eq!(stdout(&a.check(&asked)), up + &down(DEAD) + &down("198.51.100.7"));
    let refused = a.offer("site_2_site_vpn", &a.site(&[("ike_policy\":\"aes256", "ike_policy\":\"aes257")]));
    assert_eq!(refused.status.code(), Some(1));
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(reason.contains("ike_policy: \"aes257\" is no algorithm that is known here"), "{reason}");
    assert!(reason.contains("nothing of this document was applied"), "{reason}");
    assert_eq!(a.tunnels(), before, "the tunnel is the same");

    // The core is killed: nothing becomes of the tunnel.
    a.signal("-k", "core");
    wait_until("the core", STEP, || a.is_up());
    assert_eq!(a.tunnels(), before, "the tunnel is the same");
    assert!(a.reaches(B));

    // charon is killed.
    let began = Instant::now();
    a.signal("-k", "charon");
    wait_until("charon and what it is to have", STEP, || {
        let ran = a.vm.agent(STEP).run("/usr/sbin/swanctl", &["--list-conns"]);
        ran.stdout.contains(&format!("site-{}-", a.peer)) && ran.stdout.contains(&format!("site-{DEAD}-"))
    });
    println!("charon has all again {:?} after it was killed; its own clock:", began.elapsed());
    for log in ["core", "charon"] {
        let text = stdout(&a.lab.ssh(&format!("logs {log}")));
        let says =
            ["has gone", "is there", "has all", "Starting IKE", "loaded plugins", "spawning", "added vici"];
        let lines = text.lines().filter(|line| says.iter().any(|s| line.contains(s)));
        lines.for_each(|line| println!("{log}: {line}"));
    }
    wait_until("another tunnel", STEP, || a.is_up() && a.tunnels() != before);
    wait_until("packets", STEP, || a.reaches(B) && b.reaches(A));
    a.send(
        "site_2_site_vpn",
        &a.site_to(DEAD, "192.168.77.0/24", &[("\"create\":true", "\"create\":false")]),
    );

    // Each reason is told.
    for (from, to, reasons) in [
        ("a secret", "another secret", ["the secrets of both sides differ", "does not believe who we are"]),
        ("aes256-sha256", "aes128-sha1", ["have nothing in common", "have nothing in common"]),
    ] {
        b.send("site_2_site_vpn", &b.site(&[(from, to)]));
        let mut told = Vec::new();
        wait_until(reasons[0], STEP, || {
            let words = [a.word(a.peer), b.word(b.peer)];
            let says = |reason: &str| words.iter().any(|word| word.contains(reason));
            told.extend(words.iter().filter(|word| !told.contains(*word)).cloned().collect::<Vec<_>>());
            says(reasons[0]) || says(reasons[1])
        });
        println!("{told:?}");
        assert!(!a.is_up() && !b.is_up());
        b.send("site_2_site_vpn", &b.site(&[]));
        wait_up(&a, &b);
    }

    several_networks(&mut a, &mut b);

    // The old version, with two networks, and wrapped in UDP; one side only answers.
    let old = [("\"ikev2\"", "\"ikev1\""), ("\"encap\":false", "\"encap\":true")];
    a.send("site_2_site_vpn", &a.site(&old));
    b.send("site_2_site_vpn", &b.site(&[&old[..], &[("\"passive\":false", "\"passive\":true")]].concat()));
    wait_until("the old version", STEP, || a.is_up() && b.is_up());
    wait_until("packets", STEP, || a.reaches(B) && b.reaches(A));

    // Gone on one side: gone on both.
    a.send("site_2_site_vpn", &a.site(&[("\"create\":true", "\"create\":false")]));
    wait_until("the end", STEP, || {
        stdout(&a.check(a.peer)) == down(a.peer) && stdout(&b.check(b.peer)) == down(b.peer)
    });
    assert!(!a.reaches(B));
    wait_until("no tunnel in the kernel", STEP, || a.tunnels().is_empty());
    wait_until("charon rests", STEP, || stdout(&a.lab.ssh("status")).contains("  charon: down"));
    wait_word(&b, "other side has to begin");
    b.send("site_2_site_vpn", &b.site(&[("\"create\":true", "\"create\":false")]));
    wireguard(&mut a, &mut b);
}

/// Several networks, with a child each, which have forward secrecy, or have not, or are refused for it.
fn several_networks(a: &mut Side, b: &mut Side) {
    const TWO: (&str, &str) = ("10.9.2.0/24", "10.9.2.0/25,10.9.2.128/25");
    const SPLIT: (&str, &str) = ("\"split_connections\":false", "\"split_connections\":true");
    const NONE: (&str, &str) = ("esp_policy\":\"aes256-sha256;modp2048", "esp_policy\":\"aes256-sha256");
    b.guest.net.ip(&["addr", "add", "10.9.2.200/24", "dev", "eth0"]);
    let groups = |side: &Side| side.children().iter().filter(|line| line.contains("MODP_2048")).count();

    a.send("site_2_site_vpn", &a.site(&[TWO, SPLIT]));
    wait_word(a, "2 of 2 children");
    wait_until("packets", STEP, || a.reaches(B) && a.reaches("10.9.2.200"));
    // The keys of the first child came with those of the connection.
    assert_eq!((a.children().len(), groups(a)), (2, 1), "{:?}", a.children());
    let rekeyed = a.vm.agent(STEP).run("/usr/sbin/swanctl", &["--rekey", "--child", "net"]);
    assert_eq!(rekeyed.code, 0, "{rekeyed:?}");
    wait_until("keys of its own for each child", STEP, || groups(a) == 2);
    assert!(a.reaches(B) && a.reaches("10.9.2.200"));

    b.send("site_2_site_vpn", &b.site(&[NONE]));
    wait_word(a, "1 of 2 children");
    wait_word(a, "have nothing in common");
    a.send("site_2_site_vpn", &a.site(&[TWO, SPLIT, NONE]));
    wait_word(a, "2 of 2 children");
    assert_eq!(groups(a), 0, "{:?}", a.children());
    a.send("site_2_site_vpn", &a.site(&[TWO, NONE]));
    wait_word(a, "1 of 1 children");
    wait_until("packets", STEP, || a.reaches(B) && a.reaches("10.9.2.200"));
}

/// Two sites by our own document.
fn wireguard(a: &mut Side, b: &mut Side) {
    let keys = [a.keys(), b.keys()];
    let document = |own: usize, other: &Side| {
        format!(
            r#"{{"private_key":"{}","port":51820,"address":"10.3.0.{}/24","peers":[{{"public_key":"{}","allowed":"10.9.{}.0/24","endpoint":"{}:51820"}}],"type":"wireguard"}}"#,
            keys[own].0,
            own + 1,
            keys[1 - own].1,
            2 - own,
            other.public
        )
    };
    let (for_a, for_b) = (document(0, b), document(1, a));
    a.send("wireguard", &for_a);
    assert!(!a.reaches(B), "the other side does not know of it");
    b.send("wireguard", &for_b);
    wait_until("packets by WireGuard", STEP, || a.reaches(B) && b.reaches(A));
    a.send("wireguard", &for_a.replace("10.9.2.0/24", "192.168.77.0/24"));
    wait_until("another network", STEP, || !a.reaches(B));
    a.send("wireguard", r#"{"create":false,"type":"wireguard"}"#);
}
