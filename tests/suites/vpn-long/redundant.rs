//! Two routers of one network, and a machine of Debian that is a site and a client of theirs: of the two, the one in
//! force has tunnels, the other none until it takes over.

use std::time::Instant;

use tests::lab::{
    vm::{Config, Vm},
    wait_until,
};

use crate::{
    debian::{CUT, Debian},
    documents::{egress, ingress},
    lab::{Lab, STEP, stdout},
    texts::{FAR, GATEWAY, bob, document, remote, site, wireguard},
    traffic::{Client, send_to},
};

/// Where the host reaches them.
const CONTROL: [&str; 2] = ["169.254.10.20", "169.254.10.21"];

const ROUTER: &str = "203.0.113.10";
const NET: &str = "10.1.1.0/24";
const GUEST: &str = "10.1.1.20";

/// What both are told; each has more of its own.
const ARGUMENTS: &str = "template=domP eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 \
    publicMtu=1500 eth0mask=255.255.255.0 privateMtu=1500 redundant_router=1 advert_int=1 redundant_state=PRIMARY \
    guestgw=10.1.1.1 guestbrd=10.1.1.255 guestcidrsize=24 domain=cs4.example cidrsize=24 dhcprange=10.1.1.1 \
    eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 logrotatefrequency=*:00:00";

struct Two {
    lab: Lab,
    machines: [Option<Vm>; 2],
    guest: Client,
    documents: u32,
}

impl Two {
    fn new() -> (Self, Debian) {
        let lab = Lab::new();
        let mut machines = [0, 1].map(|n| {
            let config = Config::ours()
                .behind(&lab.host, "guest", &format!("02:00:4c:00:0{n}:00"))
                .behind(&lab.host, "control", &format!("02:00:4c:00:0{n}:01"))
                .behind(&lab.host, "public", "1e:00:4c:00:00:60");
            let vm = Vm::start(config);
            let own = format!("name=r-3{n}-VM eth0ip=10.1.1.{} eth1ip={}", 5 + n, CONTROL[n]);
            vm.deliver(&lab.keyed(ARGUMENTS, &own), STEP);
            Some(vm)
        });
        let debian = Debian::power_on(&lab);
        for (n, machine) in machines.iter_mut().enumerate() {
            machine.as_mut().expect("a machine").wait_line("TRIVIUM-READY role=router", STEP);
            wait_until("SSH", STEP, || {
                lab.ssh_to(CONTROL[n], "/opt/cloud/bin/get_template_version.sh").status.success()
            });
        }
        let guest = Client::new(&lab, "guest", "02:00:00:00:00:20");
        guest.net.address("eth0", &format!("{GUEST}/24"));
        guest.net.ip(&["route", "add", "default", "via", "10.1.1.1"]);
        (Self { lab, machines, guest, documents: 0 }, Debian::new(debian))
    }

    /// Sends a document to both, as the management server does.
    fn send(&mut self, kind: &str, text: &str) {
        self.documents += 1;
        for control in CONTROL {
            send_to(&self.lab, control, &format!("{kind}.json.{}", self.documents), text);
        }
    }

    fn role(&self, n: usize) -> String {
        let out = stdout(&self.lab.ssh_to(CONTROL[n], "/opt/cloud/bin/checkrouter.sh"));
        out.trim().trim_start_matches("Status: ").to_owned()
    }

    /// Waits until one is elected and the other is not; tells which.
    fn elected(&self) -> usize {
        let mut first = 0;
        wait_until("an election", STEP, || {
            let roles = [self.role(0), self.role(1)];
            first = usize::from(roles[1] == "PRIMARY");
            roles.iter().any(|role| role == "PRIMARY") && roles.iter().any(|role| role == "BACKUP")
        });
        first
    }

    fn status(&self, n: usize) -> String {
        stdout(&self.lab.ssh_to(CONTROL[n], "status"))
    }

    fn wait_site(&self, n: usize) {
        let word = format!("site {GATEWAY}: established");
        wait_until("the site", STEP, || {
            let text = self.status(n);
            text.lines().any(|line| line.starts_with(&word) && line.contains("2 of 2 children"))
        });
    }

    fn pings(&self, address: &str) -> bool {
        self.guest.net.sh(&format!("ping -c 1 -W 1 {address}")).status.success()
    }

    /// Waits until a router has nothing of any VPN, neither running nor in its kernel.
    fn wait_silent(&self, n: usize) {
        wait_until("a silent router", STEP, || {
            let text = self.status(n);
            text.contains("  charon: down") && text.contains("  xl2tpd: down")
        });
        let mut agent = self.machines[n].as_ref().expect("a machine").agent(STEP);
        for what in ["state", "policy"] {
            let text = agent.run("/sbin/ip", &["xfrm", what]).stdout;
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("src ")).collect();
            let of_sockets =
                |line: &&str| *line == "src 0.0.0.0/0 dst 0.0.0.0/0" || *line == "src ::/0 dst ::/0";
            assert!(lines.iter().all(of_sockets), "{what}: {text}");
        }
        assert_ne!(agent.run("/sbin/ip", &["link", "show", "wg0"]).code, 0, "WireGuard of a silent router");
        let addresses = agent.run("/sbin/ip", &["-4", "-o", "addr"]).stdout;
        assert!(!addresses.contains("10.1.2.1/"), "{addresses}");
    }

    /// Bob comes in by L2TP and by IKEv2, a third one by WireGuard.
    fn clients(&self, debian: &mut Debian, n: usize) {
        let dialed = debian.dial(NET);
        wait_until("the guest by L2TP", STEP, || debian.pings(&format!("-I ppp0 {GUEST}")));
        let address = debian.come_in();
        wait_until("the guest by IKEv2", STEP, || debian.pings(&format!("-I {address} {GUEST}")));
        wait_until("the guest by WireGuard", STEP, || debian.pings(&format!("-I wg0 {GUEST}")));
        assert!([&dialed, &address, "10.3.0.2"].iter().all(|address| self.pings(address)));
        assert!(self.status(n).contains("site ") && self.pings(FAR[0]) && self.pings(FAR[1]));
    }
}

#[test]
fn of_two_routers_the_one_in_force_has_sites_and_clients() {
    let (mut two, mut debian) = Two::new();
    two.send("firewall_rules", &egress(0, "all", None, "", true, false));
    for (id, port) in [(1, 500), (2, 1701), (3, 4500)] {
        two.send("firewall_rules", &ingress(id, ROUTER, "udp", Some((port, port)), "0.0.0.0/0", false));
    }
    let first = two.elected();
    let (router, own) = (debian.keys(), debian.keys());
    let right = site(ROUTER, NET, GATEWAY, ROUTER);
    debian.load(&right);
    two.send("site_2_site_vpn", &document(ROUTER, NET, false));
    two.send("remote_access_vpn", &remote(ROUTER, NET, true));
    two.send("vpn_user_list", &bob(true));
    let peer = format!(r#"{{"public_key":"{}","allowed":"10.3.0.2/32"}}"#, own.1);
    two.send("wireguard", &wireguard(&router.0, &peer));
    two.wait_site(first);
    two.wait_silent(1 - first);
    let certificates = CONTROL.map(|control| stdout(&two.lab.ssh_to(control, "certificate")));
    debian.prepare(&two.lab, ROUTER, NET, &right);
    debian.agent.write("/etc/swanctl/x509ca/router.pem", certificates[first].as_bytes());
    debian.agent.write("/etc/swanctl/x509ca/other.pem", certificates[1 - first].as_bytes());
    debian.run("swanctl --load-creds");
    debian.wireguard(ROUTER, &router.1, NET);
    two.clients(&mut debian, first);
    two.wait_silent(1 - first);

    // Its power goes.
    let began = Instant::now();
    drop(two.machines[first].take());
    wait_until("the other one", STEP, || two.role(1 - first) == "PRIMARY");
    println!("in force {:?} after the other one's power went", began.elapsed());
    wait_until("packets to the site", STEP, || FAR.iter().all(|far| two.pings(far)));
    println!("packets to the site {:?} after it", began.elapsed());
    two.wait_site(1 - first);
    wait_until("packets by WireGuard", STEP, || debian.pings(&format!("-I wg0 {GUEST}")));
    println!("packets by WireGuard {:?} after it", began.elapsed());
    // Clients with IPsec call again.
    debian.forget();
    two.clients(&mut debian, 1 - first);

    // Nobody elects it any more: it is silent, until somebody does.
    let manage = |two: &Two, action: &str| {
        let line = format!("/opt/cloud/bin/manage_service.sh {action} keepalived");
        let out = two.lab.ssh_to(CONTROL[1 - first], &line);
        assert!(out.status.success(), "{out:?}");
    };
    manage(&two, "stop");
    two.wait_silent(1 - first);
    wait_until("the end of WireGuard", CUT, || !debian.pings(&format!("-I wg0 {GUEST}")));
    manage(&two, "start");
    two.wait_site(1 - first);
    wait_until("packets", STEP, || FAR.iter().all(|far| two.pings(far)));
}
