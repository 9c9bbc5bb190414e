//! A router of an isolated network: a site with programs of Debian, and clients, at one address.

use tests::lab::{
    vm::{Config, Saved, Vm},
    wait_until,
};

use crate::{
    debian::{CUT, Debian, answers_l2tp, told, told_of_bob},
    documents::{egress, ingress},
    lab::{CONTROL, Lab, STEP, stdout},
    texts::{CLIENT, FAR, GATEWAY, NO_WIREGUARD, bob, document, remote, site, wireguard},
    traffic::{Client, send},
};

const ROUTER: &str = "203.0.113.10";
const NET: &str = "10.1.1.0/24";
const GUEST: &str = "10.1.1.20";

const ARGUMENTS: &str = "template=domP name=r-31-VM eth2ip=203.0.113.10 eth2mask=255.255.255.0 gateway=203.0.113.1 \
    publicMtu=1500 eth0ip=10.1.1.1 eth0mask=255.255.255.0 privateMtu=1500 domain=cs4.example cidrsize=24 \
    dhcprange=10.1.1.1 eth1mask=255.255.0.0 type=router disable_rp_filter=true dns1=192.0.2.53 \
    logrotatefrequency=*:00:00";

struct Branch {
    lab: Lab,
    _vm: Vm,
    guest: Client,
    documents: u32,
}

impl Branch {
    /// The router, and a machine of Debian outside.
    fn new() -> (Self, Debian) {
        let lab = Lab::new();
        // A machine that goes on from a saved moment has one card; the others come before it is told what it is.
        let config = Config::ours().behind(&lab.host, "guest", "02:00:4c:00:00:01");
        let mut vm = Saved::before_arguments(config.clone()).restore(|_| config);
        let debian = Debian::power_on(&lab);
        vm.plug(&lab.host, "control", "02:00:4c:00:00:02");
        vm.plug(&lab.host, "public", "02:00:4c:00:00:03");
        vm.deliver(&lab.keyed(ARGUMENTS, &format!("eth1ip={CONTROL}")), STEP);
        let guest = Client::new(&lab, "guest", "02:00:00:00:00:20");
        guest.net.address("eth0", &format!("{GUEST}/24"));
        guest.net.ip(&["route", "add", "default", "via", "10.1.1.1"]);
        vm.wait_line("TRIVIUM-READY role=router", STEP);
        lab.wait_ssh(&vm);
        let mut branch = Self { lab, _vm: vm, guest, documents: 0 };
        branch.send("firewall_rules", &egress(0, "all", None, "", true, false));
        (branch, Debian::new(debian))
    }

    fn send(&mut self, kind: &str, text: &str) {
        self.documents += 1;
        send(&self.lab, &format!("{kind}.json.{}", self.documents), text);
    }

    fn pings(&self, address: &str) -> bool {
        self.guest.net.sh(&format!("ping -c 1 -W 2 {address}")).status.success()
    }

    fn status(&self) -> String {
        stdout(&self.lab.ssh("status"))
    }

    /// Waits until something is said of the site.
    fn wait_word(&self, part: &str) {
        wait_until(part, STEP, || {
            let text = self.status();
            let word = text.lines().find(|line| line.starts_with(&format!("site {GATEWAY}: ")));
            word.unwrap_or_default().contains(part)
        });
    }

    /// Bob by L2TP and by IKEv2 at once: his addresses, at which a guest reaches him, and from which he reaches the guest.
    fn bob(&self, debian: &mut Debian) -> [String; 2] {
        let dialed = debian.dial(NET);
        wait_until("the guest by L2TP", STEP, || debian.pings(&format!("-I ppp0 {GUEST}")));
        let address = debian.come_in();
        wait_until("the guest by IKEv2", STEP, || debian.pings(&format!("-I {address} {GUEST}")));
        assert!(self.pings(&address) && self.pings(&dialed), "the guest reaches the client");
        let told = told_of_bob(&self.lab);
        let is = |kind: &str| told.iter().any(|line| line.starts_with(kind));
        assert!(told.len() == 2 && is("session: ") && is("client: "), "{told:?}");
        [dialed, address]
    }

    /// Waits until nothing of bob is left.
    fn cut(&self, debian: &mut Debian, addresses: &[String]) {
        wait_until("the end of bob's sessions", CUT, || told_of_bob(&self.lab).is_empty());
        assert!(addresses.iter().all(|address| !self.pings(address)));
        debian.hung_up();
        assert!(self.pings(FAR[1]), "the site stays");
    }
}

#[test]
fn a_site_and_clients_of_debian() {
    let (mut branch, mut debian) = Branch::new();

    // Who it says to be, and whom it expects.
    debian.load(&site(ROUTER, NET, "branch.example", ROUTER));
    branch.send("site_2_site_vpn", &document(ROUTER, NET, true));
    branch.wait_word("the other side has to begin");
    debian.may("swanctl --initiate --child fifty --timeout 20");
    branch.wait_word("the identities of both sides differ");
    debian.load(&site(ROUTER, NET, GATEWAY, "hq.example"));
    branch.send("site_2_site_vpn", &document(ROUTER, NET, false));
    branch.wait_word("does not believe who we are");
    assert!(!branch.pings(FAR[0]));
    let log = stdout(&branch.lab.ssh("logs core"));
    for cause in ["the identities of both sides differ", "does not believe who we are"] {
        assert!(log.contains(cause), "{cause} is not in the log:\n{log}");
    }
    let right = site(ROUTER, NET, GATEWAY, ROUTER);
    debian.load(&right);
    branch.wait_word("2 of 2 children");
    for far in FAR {
        wait_until("packets", STEP, || branch.pings(far) && debian.pings(&format!("-I {far} {GUEST}")));
    }
    let list = debian.run("swanctl --list-sas --ike site");
    assert!(list.contains(NET) && list.contains("fifty-one: #") && list.contains("fifty: #"), "{list}");
    let tunnel = |debian: &mut Debian| debian.run("swanctl --list-sas --ike site | grep -E 'in +c|out +c'");
    let before: Vec<String> = tunnel(&mut debian)
        .lines()
        .map(|line| line.split(',').next().unwrap_or_default().to_owned())
        .collect();

    // Clients at the same address; the management server opens these ports.
    for (id, port) in [(1, 500), (2, 1701), (3, 4500)] {
        branch.send("firewall_rules", &ingress(id, ROUTER, "udp", Some((port, port)), "0.0.0.0/0", false));
    }
    branch.send("remote_access_vpn", &remote(ROUTER, NET, true));
    branch.send("vpn_user_list", &bob(true));
    wait_until("a router that lets clients in", STEP, || branch.status().contains("  xl2tpd: up"));
    debian.prepare(&branch.lab, ROUTER, NET, &right);
    wait_until("L2TP in the clear where it is not refused", STEP, || answers_l2tp(&branch.lab.host, CLIENT));
    assert!(!answers_l2tp(&branch.lab.host, ROUTER), "L2TP in the clear is answered");
    let addresses = branch.bob(&mut debian);
    assert!(!answers_l2tp(&branch.lab.host, ROUTER), "L2TP in the clear is answered");

    // No bob any more, or nobody any more: all sessions end, and the site stays.
    branch.send("vpn_user_list", &bob(false));
    branch.cut(&mut debian, &addresses);
    branch.send("vpn_user_list", &bob(true));
    let addresses = branch.bob(&mut debian);
    branch.send("remote_access_vpn", &remote(ROUTER, NET, false));
    branch.cut(&mut debian, &addresses);
    assert!(told(&branch.lab).is_empty() && branch.status().contains("  xl2tpd: down"));
    let now = tunnel(&mut debian);
    assert!(before.len() == 4 && before.iter().all(|line| now.contains(line)), "{before:?}: {now}");

    // WireGuard.
    let (router, own) = (debian.keys(), debian.keys());
    let peer = format!(r#"{{"public_key":"{}","allowed":"10.3.0.2/32"}}"#, own.1);
    branch.send("wireguard", &wireguard(&router.0, &peer));
    debian.wireguard(ROUTER, &router.1, NET);
    wait_until("the guest by WireGuard", STEP, || debian.pings(&format!("-I wg0 {GUEST}")));
    assert!(branch.pings("10.3.0.2"), "the guest reaches the client");
    branch.send("wireguard", NO_WIREGUARD);
    wait_until("the end of WireGuard", CUT, || !debian.pings(&format!("-I wg0 {GUEST}")));
    assert!(!branch.pings("10.3.0.2") && branch.pings(FAR[0]));
}
