//! Routers of VPCs: their clients, a peer that falls silent, an IKE daemon that is killed.

use std::time::{Duration, Instant};

use tests::lab::wait_until;

use crate::{
    debian::{CUT, Debian, answers_l2tp, told_of_bob},
    documents::{acl, rule},
    lab::{STEP, stdout},
    pair::{down, one, pair, wait_up, wait_word},
    texts::{CLIENT, NO_WIREGUARD, bob, remote, user, wireguard},
};

/// The router, the network behind it, and a guest.
const ROUTER: &str = "203.0.113.20";
const NET: &str = "10.9.1.0/24";
const GUEST: &str = "10.9.1.10";
/// A guest of the other side.
const FAR: &str = "10.9.2.10";
/// What the core says when charon knows everything.
const ALL: &str = "the IKE daemon has all that is wanted";
/// How often charon is killed.
const ROUNDS: usize = 5;

#[test]
fn clients_come_in_as_the_list_of_a_tier_allows() {
    let (mut side, debian) = one(Debian::power_on);
    let mut debian = Debian::new(debian);
    side.send("remote_access_vpn", &remote(ROUTER, NET, true));
    side.send("vpn_user_list", &bob(true));
    wait_until("a router that lets clients in", STEP, || {
        stdout(&side.lab.ssh("status")).contains("  xl2tpd: up")
    });
    debian.prepare(&side.lab, ROUTER, NET, "");
    wait_until("xl2tpd of Debian", STEP, || answers_l2tp(&side.lab.host, CLIENT));
    assert!(!answers_l2tp(&side.lab.host, ROUTER), "L2TP in the clear is answered");
    let dialed = debian.dial(NET);
    assert!(["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5"].contains(&dialed.as_str()), "{dialed}");
    wait_until("the router's own answer", STEP, || debian.pings("10.1.2.1"));
    assert!(!debian.pings(GUEST), "the list lets in the other site alone");
    let allowed = ["10.1.2.0/24", "10.3.0.0/24"].map(|net| rule("all", None, net, true));
    side.send("network_acl", &acl(3, &allowed, &[]));
    wait_until("the guest by L2TP", STEP, || debian.pings(GUEST));
    assert!(side.reaches(&dialed), "the guest reaches the client");

    // Another user comes: nothing becomes of bob. Bob goes: so does his session.
    side.send("vpn_user_list", &user("eve", "other", true));
    assert!(debian.pings(GUEST));
    side.send("vpn_user_list", &bob(false));
    wait_until("the end of bob's session", CUT, || told_of_bob(&side.lab).is_empty());
    assert!(!side.reaches(&dialed));
    debian.hung_up();

    // By IKEv2; another password ends it, too.
    side.send("vpn_user_list", &bob(true));
    let address = debian.come_in();
    wait_until("the guest by IKEv2", STEP, || debian.pings(&format!("-I {address} {GUEST}")));
    assert!(side.reaches(&address), "the guest reaches the client");
    side.send("vpn_user_list", &user("bob", "another", true));
    wait_until("the end of bob's connection", CUT, || told_of_bob(&side.lab).is_empty());
    assert!(!side.reaches(&address));
    assert!(!debian.may("swanctl --initiate --child net --timeout 20"), "the password of before");
    side.send("remote_access_vpn", &remote(ROUTER, NET, false));
    wait_until("nothing is left for clients", STEP, || {
        let text = stdout(&side.lab.ssh("status"));
        text.contains("  xl2tpd: down") && text.contains("  charon: down")
    });
    debian.may("swanctl --terminate --ike ikev2 --force");

    // WireGuard: its peers come and go.
    let (router, own) = (debian.keys(), debian.keys());
    let peer = format!(r#"{{"public_key":"{}","allowed":"10.3.0.2/32"}}"#, own.1);
    side.send("wireguard", &wireguard(&router.0, &peer));
    debian.wireguard(ROUTER, &router.1, NET);
    wait_until("the guest by WireGuard", STEP, || debian.pings(GUEST));
    assert!(side.reaches("10.3.0.2"), "the guest reaches the client");
    side.send("wireguard", &wireguard(&router.0, ""));
    wait_until("the peer has gone", CUT, || !debian.pings(GUEST));
    side.send("wireguard", &wireguard(&router.0, &peer));
    wait_until("the guest by WireGuard", STEP, || debian.pings(GUEST));
    side.send("wireguard", NO_WIREGUARD);
    wait_until("the interface has gone", CUT, || {
        side.vm.agent(STEP).run("/sbin/ip", &["link", "show", "wg0"]).code != 0
    });
    assert!(!debian.pings(GUEST));
}

/// The other side cannot be heard any more: that is noticed, told, and ends by itself. A charon that does not answer is
/// no tunnel that is down.
#[test]
fn a_peer_that_falls_silent_is_noticed() {
    let (mut a, mut b) = pair();
    a.send("site_2_site_vpn", &a.site(&[]));
    b.send("site_2_site_vpn", &b.site(&[]));
    wait_up(&a, &b);
    let began = Instant::now();
    a.lab.host.ip(&["link", "set", "other", "down"]);
    b.signal("-p", "charon");
    wait_until("nobody to know", STEP, || {
        let out = b.check(b.peer);
        let (code, text) = (out.status.code(), stdout(&out));
        assert!(!text.contains(":11:"), "{text}");
        code == Some(1) && text.is_empty()
    });
    println!("unknown {:?} after charon was halted: {}", began.elapsed(), b.word(b.peer));
    assert!(b.word(b.peer).contains("does not answer"), "{}", b.word(b.peer));
    b.signal("-c", "charon");
    wait_word(&a, "not established: the other side does not answer");
    println!("down {:?} after the link was cut", began.elapsed());
    assert_eq!(stdout(&a.check(a.peer)), down(a.peer));
    let began = Instant::now();
    a.lab.host.ip(&["link", "set", "other", "up"]);
    wait_up(&a, &b);
    wait_until("packets", STEP, || a.reaches(FAR) && b.reaches(GUEST));
    println!("up {:?} after the link came back", began.elapsed());
}

/// Measured alone, by the clock of the machine that it happens on.
#[test]
fn charon_is_killed_and_has_all_again() {
    let (mut side, ()) = one(|_| ());
    side.send("site_2_site_vpn", &side.site(&[]));
    let log = || side.vm.agent(STEP).text("/var/log/core/current");
    let times = || log().matches(ALL).count();
    wait_until("charon", STEP, || times() == 1);
    for round in 1..=ROUNDS {
        // One that has run for a while is started again at once.
        std::thread::sleep(Duration::from_secs(3));
        side.signal("-k", "charon");
        wait_until("charon", STEP, || times() > round);
    }
    let log = log();
    let mut gone = None;
    let mut took = Vec::new();
    for line in log.lines() {
        if line.contains("the IKE daemon has gone") {
            gone = gone.or(Some(second(line)));
        } else if line.contains(ALL) {
            took.extend(gone.take().map(|gone| second(line) - gone));
        }
    }
    println!("charon has all again {took:.2?} s after it was killed");
    assert!(took.len() == ROUNDS && took.iter().all(|took| *took < 10.0), "{took:?}");
}

/// The second of its day that a line of a log was written in: `2026-01-31 10:20:30.5 …`.
fn second(line: &str) -> f64 {
    let time = line.split_whitespace().nth(1).unwrap_or_default();
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().expect("a time"))
}
