//! Two routers of VPCs on one public network, each with a host and a guest of its own.

use std::{fs, process::Output};

use tests::lab::{
    join,
    vm::{Config, Saved, Vm},
    wait_until,
};

use crate::{
    documents::{acl, address, rule, tier},
    lab::{CONTROL, Lab, STEP, stdout},
    traffic::{Client, send},
};

/// One side.
pub(crate) struct Side {
    pub(crate) lab: Lab,
    pub(crate) vm: Vm,
    pub(crate) guest: Client,
    pub(crate) public: &'static str,
    /// The other one's.
    pub(crate) peer: &'static str,
    /// 10.9.N.0/24 is its tier.
    number: u8,
    documents: u32,
}

impl Side {
    fn new(number: u8, public: &'static str, peer: &'static str) -> Self {
        let lab = Lab::new();
        lab.host.bridge("tier");
        // A machine that goes on from a saved moment has the MAC that it was saved with.
        let config = Config::ours().behind(&lab.host, "control", "02:00:4c:00:00:01");
        let vm = Saved::before_arguments(config.clone()).restore(|_| config);
        let guest = Client::new(&lab, "tier", &format!("02:00:00:00:0{number}:10"));
        guest.net.address("eth0", &format!("10.9.{number}.10/24"));
        guest.net.ip(&["route", "add", "default", "via", &format!("10.9.{number}.1")]);
        Self { lab, vm, guest, public, peer, number, documents: 0 }
    }

    /// Tells the router what it is, and gives it its NICs.
    fn set_up(&mut self) {
        let arguments = format!(
            "vpccidr=10.9.{n}.0/24 domain=vpc{n}.example publicMtu=1500 dns1=192.0.2.53 template=domP \
             name=r-1{n}-VM eth0mask=255.255.0.0 has_public_network=true type=vpcrouter disable_rp_filter=true \
             logrotatefrequency=*:00:00 source_nat_ip={}",
            self.public,
            n = self.number
        );
        self.vm.deliver(&self.lab.keyed(&arguments, &format!("eth0ip={CONTROL}")), STEP);
        self.vm.wait_line("TRIVIUM-READY role=router", STEP);
        self.lab.wait_ssh(&self.vm);
        // Both hosts know NICs by their numbers: on the public network they must differ.
        let (public, inner) = (self.number, self.number + 2);
        self.vm.plug(&self.lab.host, "public", &format!("02:00:00:00:00:0{public}"));
        self.send("ip_associations", &address(self.public, public, true));
        self.vm.plug(&self.lab.host, "tier", &format!("02:00:00:00:00:0{inner}"));
        self.send("guest_network", &tier(self.number, inner, true));
        let other = format!("10.9.{}.0/24", 3 - self.number);
        self.send("network_acl", &acl(inner, &[rule("all", None, &other, true)], &[]));
    }

    fn next(&mut self, kind: &str) -> String {
        self.documents += 1;
        format!("{kind}.json.{}", self.documents)
    }

    /// Sends a document that is taken.
    pub(crate) fn send(&mut self, kind: &str, text: &str) {
        let name = self.next(kind);
        send(&self.lab, &name, text);
    }

    /// Sends a document that may be refused.
    pub(crate) fn offer(&mut self, kind: &str, text: &str) -> Output {
        let name = self.next(kind);
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join(&name);
        fs::write(&file, text).expect("document");
        assert!(self.lab.scp(&[&file]).status.success());
        self.lab.ssh(&format!("/opt/cloud/bin/update_config.py {name}"))
    }

    /// The document for the tunnel to the other side, with members that take the place of these.
    pub(crate) fn site(&self, changes: &[(&str, &str)]) -> String {
        self.site_to(self.peer, &format!("10.9.{}.0/24", 3 - self.number), changes)
    }

    /// The same for another peer.
    pub(crate) fn site_to(&self, peer: &str, nets: &str, changes: &[(&str, &str)]) -> String {
        let (public, number) = (self.public, self.number);
        let text = format!(
            r#"{{"local_public_ip":"{public}","local_guest_cidr":"10.9.{number}.0/24","local_public_gateway":"203.0.113.1",
            "peer_gateway_ip":"{peer}","peer_guest_cidr_list":"{nets}","esp_policy":"aes256-sha256;modp2048",
            "ike_policy":"aes256-sha256;modp2048","ipsec_psk":"a secret, \"quoted\"","ike_version":"ikev2",
            "ike_lifetime":86400,"esp_lifetime":3600,"create":true,"dpd":true,"passive":false,"encap":false,
            "split_connections":false,"type":"site2sitevpn","delete_from_processed_cache":false}}"#
        );
        changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from} in {text}");
            text.replace(from, to)
        })
    }

    /// What the management server hears of peers.
    pub(crate) fn check(&self, peers: &str) -> Output {
        self.lab.ssh(&format!("/opt/cloud/bin/checkbatchs2svpn.sh {peers} "))
    }

    /// Whether the tunnel to the other side is established.
    pub(crate) fn is_up(&self) -> bool {
        let out = self.check(self.peer);
        let up = format!("{}:0:IPsec SA found;Site-to-site VPN have connected&", self.peer);
        out.status.success() && stdout(&out) == up
    }

    /// What `status` says of a site.
    pub(crate) fn word(&self, peer: &str) -> String {
        let text = stdout(&self.lab.ssh("status"));
        let word = text.lines().find_map(|line| line.strip_prefix(&format!("site {peer}: ")));
        word.unwrap_or_default().to_owned()
    }

    /// The numbers that tell the kernel's tunnels apart, in order.
    pub(crate) fn tunnels(&self) -> Vec<String> {
        let text = self.vm.agent(STEP).run("/sbin/ip", &["-s", "xfrm", "state"]).stdout;
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut all: Vec<String> =
            words.windows(2).filter(|w| w[0] == "spi").map(|w| w[1].to_owned()).collect();
        all.sort();
        all
    }

    /// Sends a signal to a service of the router: `-k` kills it, `-p` halts it, `-c` lets it go on.
    pub(crate) fn signal(&self, signal: &str, service: &str) {
        let sent = self.vm.agent(STEP).run("/bin/s6-svc", &[signal, &format!("/run/service/{service}")]);
        assert_eq!(sent.code, 0, "{}", sent.stderr);
    }

    /// The children of charon, a line each, as charon describes their algorithms.
    pub(crate) fn children(&self) -> Vec<String> {
        let text = self.vm.agent(STEP).run("/usr/sbin/swanctl", &["--list-sas"]).stdout;
        text.lines().filter(|line| line.contains("INSTALLED")).map(str::to_owned).collect()
    }

    /// A key pair of WireGuard: the private one and the public one.
    pub(crate) fn keys(&self) -> (String, String) {
        let mut agent = self.vm.agent(STEP);
        let private = agent.run("/usr/bin/wg", &["genkey"]).stdout;
        agent.write("/tmp/key", private.as_bytes());
        let line = "redirfd -r 0 /tmp/key /usr/bin/wg pubkey";
        let public = agent.run("/usr/lib/execline/bin/execlineb", &["-P", "-c", line]).stdout;
        (private.trim().to_owned(), public.trim().to_owned())
    }

    /// Whether its guest reaches the other guest.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        self.guest.net.sh(&format!("ping -c 1 -W 2 {address}")).status.success()
    }
}

/// Both sides, with nothing between them yet.
pub(crate) fn pair() -> (Side, Side) {
    let (mut a, mut b) =
        (Side::new(1, "203.0.113.20", "203.0.113.30"), Side::new(2, "203.0.113.30", "203.0.113.20"));
    // One public network, in which one host is the gateway.
    join(&a.lab.host, "other", &b.lab.host, "other");
    a.lab.host.attach("public", "other");
    b.lab.host.attach("public", "other");
    b.lab.host.ip(&["addr", "del", "203.0.113.1/24", "dev", "public"]);
    // Both at once: each waits for its own machine.
    std::thread::scope(|scope| {
        scope.spawn(|| b.set_up());
        a.set_up();
    });
    (a, b)
}

/// Waits until both say that the tunnel is established.
pub(crate) fn wait_up(a: &Side, b: &Side) {
    wait_until("the tunnel", STEP, || {
        let up = a.is_up() && b.is_up();
        if !up && std::env::var_os("VPN_TRACE").is_some() {
            println!("{} / {}", a.word(a.peer), b.word(b.peer));
        }
        up
    });
}

/// What the management server hears of a site without a tunnel.
pub(crate) fn down(peer: &str) -> String {
    format!("{peer}:11:IPsec SA not found;Site-to-site VPN have not connected&")
}

/// Waits until something is said of the other side.
pub(crate) fn wait_word(side: &Side, part: &str) {
    let mut last = String::new();
    wait_until(part, STEP, || {
        let word = side.word(side.peer);
        if word != last {
            println!("{}: {word}", side.peer);
            last.clone_from(&word);
        }
        word.contains(part)
    });
}

/// One side alone, and what is started beside it while it comes up.
pub(crate) fn one<T>(beside: impl FnOnce(&Lab) -> T) -> (Side, T) {
    let mut side = Side::new(1, "203.0.113.20", "203.0.113.30");
    let beside = beside(&side.lab);
    side.set_up();
    (side, beside)
}
