//! BGP: FRR of others as peers, who hear of guests' networks.

use std::{fs, time::Duration};

use tests::lab::{Namespace, Process, join, pair::Router, wait_until};

const LINE: &str = "template=domP name=r-7-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 \
    eth0ip=10.1.1.1 eth0mask=255.255.255.0 eth0ip6=2001:db8:1::1 eth2ip6=2001:db8:ff::10 \
    ip6gateway=2001:db8:ff::1 domain=cs1.example cidrsize=24 dhcprange=10.1.1.1 eth1ip=169.254.10.20 \
    eth1mask=255.255.0.0 type=router is_routed=true disable_rp_filter=true dns1=203.0.113.1\n";

const SOON: Duration = Duration::from_secs(30);

/// A router of somebody else.
struct Peer {
    space: Namespace,
    address: String,
    number: u32,
    folder: tempfile::TempDir,
    _processes: Vec<Process>,
}

impl Peer {
    fn start(lan: &Namespace, last: u8, number: u32, password: &str) -> Self {
        let space = Namespace::new(&format!("peer{last}"));
        let port = format!("peer{last}");
        join(&space, "eth0", lan, &port);
        lan.attach("public", &port);
        let address = format!("203.0.113.{last}");
        space.address("eth0", &format!("{address}/24"));
        space.ip(&["addr", "add", &format!("2001:db8:ff::{last}/64"), "dev", "eth0"]);
        let folder = tempfile::tempdir().expect("folder");
        let out = std::process::Command::new("chown").args(["frr:frr"]).arg(folder.path()).status();
        assert!(out.expect("chown").success(), "the account frr (package frr)");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let lines = format!(
            "router bgp {number}\n no bgp ebgp-requires-policy\n no bgp network import-check\n timers bgp 1 3\n \
             neighbor 203.0.113.10 remote-as 4200000000\n neighbor 203.0.113.10 password {password}\n \
             neighbor 203.0.113.10 timers connect 1\n address-family ipv4 unicast\n  network 198.51.{last}.0/24\n \
             exit-address-family\n \
             neighbor 2001:db8:ff::10 remote-as 4200000000\n neighbor 2001:db8:ff::10 password {password}\n \
             neighbor 2001:db8:ff::10 timers connect 1\n address-family ipv6 unicast\n  \
             network 2001:db8:{last}::/48\n  neighbor 2001:db8:ff::10 activate\n exit-address-family\n"
        );
        fs::write(at("bgpd.conf"), lines).expect("configuration");
        fs::write(at("zebra.conf"), "").expect("configuration");
        fs::write(at("vtysh.conf"), "").expect("configuration");
        let run = |program: &str| {
            let (config, pid, socket) =
                (at(&format!("{program}.conf")), at(&format!("{program}.pid")), at("zserv.api"));
            let own = folder.path().display().to_string();
            let words = [
                "-u",
                "frr",
                "-g",
                "frr",
                "-P",
                "0",
                "-f",
                &config,
                "-i",
                &pid,
                "--vty_socket",
                &own,
                "-z",
                &socket,
            ];
            space.spawn(format!("/usr/lib/frr/{program}"), &words)
        };
        let processes = ["zebra", "bgpd"].map(run).into();
        Self { address, number, _processes: processes, space, folder }
    }

    fn item(&self, password: &str) -> String {
        let (number, address) = (self.number, &self.address);
        format!(
            r#"{{"peer_id":{number},"peer_as_number":{number},"ip4_address":"{address}","peer_password":"{password}","network_id":204,"network_as_number":4200000000,"guest_ip4_cidr":"10.1.1.0/24","details":{{"EBGP_MultiHop":"2"}}}}"#
        )
    }

    /// The same by both families.
    fn item6(&self, password: &str) -> String {
        let (_, last) = self.address.rsplit_once('.').expect("an address");
        let six =
            format!(r#""ip6_address":"2001:db8:ff::{last}","guest_ip6_cidr":"2001:db8:1::/64","details""#);
        self.item(password).replace(r#""details""#, &six)
    }

    /// Whether it has a way to the guests by the router with IPv6.
    fn knows_guests6(&self) -> bool {
        self.ask("show bgp ipv6 unicast 2001:db8:1::/64").contains("2001:db8:ff::10 from 2001:db8:ff::10")
    }

    fn ask(&self, what: &str) -> String {
        let folder = self.folder.path().display();
        let line = format!("vtysh --vty_socket {folder} --config_dir {folder} -d bgpd -c '{what}'");
        String::from_utf8_lossy(&self.space.sh(&line).stdout).into_owned()
    }

    /// Whether it has a way to the guests by the router.
    fn knows_guests(&self) -> bool {
        self.ask("show bgp ipv4 unicast 10.1.1.0/24").contains("203.0.113.10 from 203.0.113.10")
    }

    /// Sessions that it has seen begin.
    fn sessions(&self) -> String {
        let neighbor = self.ask("show bgp neighbors 203.0.113.10");
        let line = neighbor.lines().find(|line| line.contains("Connections established"));
        line.unwrap_or_default().trim().to_owned()
    }
}

fn document(items: &[String]) -> String {
    format!(r#"{{"peers":[{}],"type":"bgppeers","delete_from_processed_cache":false}}"#, items.join(","))
}

#[test]
fn peers_hear_of_guests_and_one_that_goes_does_not_touch_the_others() {
    let [lan, guest, host] = ["lan", "guest", "host"].map(Namespace::new);
    lan.bridge("public");
    let mut router = Router::alone(LINE, |router| {
        join(router, "eth0", &guest, "eth0");
        join(router, "eth1", &host, "eth0");
        join(router, "eth2", &lan, "router");
        lan.attach("public", "router");
    });
    guest.address("eth0", "10.1.1.20/24");
    guest.ip(&["route", "add", "default", "via", "10.1.1.1"]);
    let (a, b) = (Peer::start(&lan, 2, 64512, "bgp-pw"), Peer::start(&lan, 3, 64513, "other"));
    let send = |router: &Router, items: &[String]| {
        let reply = router.send(&document(items));
        assert_eq!((reply.code, reply.stderr.as_str()), (0, ""));
    };
    send(&router, &[a.item("bgp-pw")]);
    wait_until("the first peer", SOON, || a.knows_guests());
    wait_until("the way to what it tells", SOON, || router.space.ok("ip route").contains("198.51.2.0/24"));
    send(&router, &[a.item("bgp-pw"), b.item("wrong")]);
    send(&router, &[a.item("bgp-pw"), b.item("other")]);
    wait_until("the second peer", SOON, || b.knows_guests());
    assert!(!a.ask("show bgp ipv4 unicast 198.51.3.0/24").contains("203.0.113.10"), "guests' networks only");

    // IPv6 has a session of its own, which comes and goes without those there are.
    let before = a.sessions();
    send(&router, &[a.item6("bgp-pw"), b.item("other")]);
    wait_until("the first peer by IPv6", SOON, || a.knows_guests6());
    wait_until("the way to what it tells by IPv6", SOON, || {
        router.space.ok("ip -6 route").contains("2001:db8:2::/48")
    });
    assert!(!a.ask("show bgp ipv6 unicast").contains("10.1.1.0") && !b.knows_guests6());
    assert!(router.space.ok("nft list chain inet trivium input6").contains("2001:db8:ff::2 tcp dport 179"));
    send(&router, &[a.item("bgp-pw"), b.item("other")]);
    wait_until("the end of the session by IPv6", SOON, || !a.knows_guests6());
    assert_eq!(a.sessions(), before);

    // A document that cannot be right changes nothing.
    let reply = router.send(&document(&[a.item("with a blank")]));
    assert!(reply.code == 1 && reply.stderr.contains("peers[0].peer_password"), "{reply:?}");
    let (before, filter) = (a.sessions(), router.filter());
    assert!(filter.contains("203.0.113.2") && filter.contains("179"), "{filter}");

    // The second one goes; the first one's session stays.
    send(&router, &[a.item("bgp-pw")]);
    wait_until("the end of the second session", SOON, || !b.knows_guests());
    assert!(a.knows_guests());
    assert_eq!(a.sessions(), before);

    // The core goes and comes back: nothing changes.
    let pids = router.pids_with("frr/bgpd.pid");
    router.kill_core();
    router.start_core();
    assert_eq!(router.pids_with("frr/bgpd.pid"), pids);
    assert_eq!(a.sessions(), before);

    // Speakers that are killed are back at once, and say the same.
    for file in ["frr/zebra.pid", "frr/bgpd.pid"] {
        let pids = router.pids_with(file);
        assert!(!pids.is_empty(), "{file}");
        for pid in &pids {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        // Two seconds are meant; other tests share this machine's processors.
        wait_until(file, Duration::from_secs(6), || {
            let now = router.pids_with(file);
            !now.is_empty() && now.iter().all(|pid| !pids.contains(pid))
        });
    }
    wait_until("the first peer again", SOON, || a.knows_guests());
    send(&router, &[]);
    wait_until("the end of both", SOON, || router.pids_with("frr/bgpd.pid").is_empty());
}
