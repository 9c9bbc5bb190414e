//! A machine outside that runs plain Debian: what others have written, set up by hand as their manuals say.

use std::{net::UdpSocket, time::Duration};

use tests::lab::{
    Namespace,
    vm::{Agent, Config, Vm},
    wait_until,
};

use crate::{
    lab::{Lab, STEP, stdout},
    texts::{CLIENT, FAR, GATEWAY, OPTIONS, client, dialer},
};

/// How long what is no longer wanted may last.
pub(crate) const CUT: Duration = Duration::from_secs(20);

/// By what xl2tpd is told to dial.
const DIAL: &str = "/var/run/xl2tpd/l2tp-control";

/// The machine.
pub(crate) struct Debian {
    pub(crate) agent: Agent,
    _vm: Vm,
}

impl Debian {
    /// Starts it; it is not waited for.
    pub(crate) fn power_on(lab: &Lab) -> Vm {
        Vm::start(Config::debian().behind(&lab.host, "public", "02:00:4f:00:00:0f"))
    }

    /// Gives it its addresses, and starts its IKE daemon.
    pub(crate) fn new(vm: Vm) -> Self {
        let mut debian = Self { agent: vm.agent(STEP), _vm: vm };
        debian.run(&format!("ip addr add {CLIENT}/24 dev eth0; ip addr add {GATEWAY}/24 dev eth0"));
        debian.run("ip link set eth0 up; ip link add site type dummy; ip link set site up");
        debian.run(&FAR.map(|address| format!("ip addr add {address}/24 dev site")).join(";"));
        debian.start("charon", "/usr/lib/ipsec/charon");
        wait_until("charon of Debian", STEP, || debian.may("swanctl --stats"));
        debian
    }

    /// Runs a line of the shell, and returns what it prints.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let ran = self.agent.run("/bin/sh", &["-c", line]);
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Whether a line of the shell succeeds.
    pub(crate) fn may(&mut self, line: &str) -> bool {
        self.agent.run("/bin/sh", &["-c", line]).code == 0
    }

    /// Whether it reaches an address.
    pub(crate) fn pings(&mut self, words: &str) -> bool {
        self.may(&format!("ping -c 1 -W 2 {words}"))
    }

    /// Runs a program that stays.
    fn start(&mut self, log: &str, line: &str) {
        self.run(&format!("{line} </dev/null >/tmp/{log} 2>&1 &"));
    }

    /// Replaces what charon is to have by a file.
    pub(crate) fn load(&mut self, text: &str) {
        self.agent.write("/etc/swanctl/conf.d/lab.conf", text.as_bytes());
        self.run("swanctl --load-all --clear");
    }

    /// Begins a connection of charon, and waits until it is there.
    pub(crate) fn initiate(&mut self, child: &str) {
        wait_until(child, STEP, || self.may(&format!("swanctl --initiate --child {child} --timeout 20")));
    }

    /// Has the client's programs know the router, and starts the one for L2TP; `more` is for charon, too.
    pub(crate) fn prepare(&mut self, lab: &Lab, router: &str, net: &str, more: &str) {
        self.agent.write("/etc/swanctl/x509ca/router.pem", &lab.ssh("certificate").stdout);
        self.agent.write("/etc/xl2tpd/xl2tpd.conf", dialer(router).as_bytes());
        self.agent.write("/etc/ppp/options.l2tpd.client", OPTIONS.as_bytes());
        self.load(&(client(router, net) + more));
        self.start_dialer();
    }

    fn start_dialer(&mut self) {
        self.start("xl2tpd", "xl2tpd -D");
        wait_until("xl2tpd of Debian", STEP, || self.may(&format!("[ -p {DIAL} ]")));
    }

    /// Forgets all sessions, as somebody does who dials anew.
    pub(crate) fn forget(&mut self) {
        self.run(&format!("killall xl2tpd; while pidof xl2tpd pppd; do sleep 0.1; done; rm -f {DIAL}"));
        self.may("swanctl --terminate --ike l2tp --force; swanctl --terminate --ike ikev2 --force");
        self.start_dialer();
    }

    /// The first address of an interface.
    fn address_of(&mut self, nic: &str) -> Option<String> {
        let text = self.agent.run("/bin/ip", &["-4", "-o", "addr", "show", "dev", nic]).stdout;
        let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
        Some(words.nth(1)?.split('/').next()?.to_owned())
    }

    /// Dials in by L2TP inside IPsec, and returns the address that it gets; a network is then reached that way.
    pub(crate) fn dial(&mut self, net: &str) -> String {
        self.initiate("l2tp");
        assert_eq!(self.address_of("ppp0"), None, "there is a session already");
        self.run(&format!("echo 'c vpn' >{DIAL}"));
        let mut address = None;
        wait_until("an address for the client", STEP, || {
            address = self.address_of("ppp0");
            address.is_some()
        });
        self.run(&format!("ip route replace {net} dev ppp0"));
        address.expect("an address")
    }

    /// Waits until the session by L2TP has ended here, too.
    pub(crate) fn hung_up(&mut self) {
        wait_until("the end of ppp0", STEP, || self.address_of("ppp0").is_none());
        self.may("swanctl --terminate --ike l2tp --force");
    }

    /// Comes in by IKEv2, and returns the address that it gets. Debian's charon sets it and the route by itself.
    pub(crate) fn come_in(&mut self) -> String {
        self.initiate("net");
        let list = self.run("swanctl --list-sas --ike ikev2");
        let address = list.split("local  ").filter_map(|part| part.split("/32").next()).last();
        let address = address.expect("address").trim().to_owned();
        assert!(address.starts_with("10.1.2."), "{list}");
        address
    }

    /// A key pair of WireGuard: the private one, which is also in `/tmp/key`, and the public one.
    pub(crate) fn keys(&mut self) -> (String, String) {
        let text = self.run("umask 77; wg genkey | tee /tmp/key | wg pubkey");
        (self.agent.text("/tmp/key").trim().to_owned(), text.trim().to_owned())
    }

    /// Sets up WireGuard with the key of `/tmp/key`, for a router and the network behind it.
    pub(crate) fn wireguard(&mut self, router: &str, key: &str, net: &str) {
        self.run(&format!(
            "ip link add wg0 type wireguard; \
             wg set wg0 private-key /tmp/key peer {key} endpoint {router}:51820 allowed-ips {net},10.3.0.1/32; \
             ip addr add 10.3.0.2/24 dev wg0; ip link set wg0 up; ip route replace {net} dev wg0"
        ));
    }
}

/// What `status` of the router says of clients. A session by L2TP is two: the machine, by IPsec, and the user.
pub(crate) fn told(lab: &Lab) -> Vec<String> {
    let text = stdout(&lab.ssh("status"));
    let lines = text.lines().filter(|line| line.starts_with("client: ") || line.starts_with("session: "));
    lines.map(str::to_owned).collect()
}

/// What it says of bob.
pub(crate) fn told_of_bob(lab: &Lab) -> Vec<String> {
    told(lab).into_iter().filter(|line| line.contains("bob")).collect()
}

/// Whether anybody answers within 3 s who is asked for a tunnel of L2TP in the clear (RFC 2661, 6.1).
pub(crate) fn answers_l2tp(host: &Namespace, address: &str) -> bool {
    const REQUEST: &[u8] = b"\xc8\x02\x00\x35\x00\x00\x00\x00\x00\x00\x00\x00\
        \x80\x08\x00\x00\x00\x00\x00\x01\
        \x80\x08\x00\x00\x00\x02\x01\x00\
        \x80\x0a\x00\x00\x00\x03\x00\x00\x00\x03\
        \x80\x07\x00\x00\x00\x07a\
        \x80\x08\x00\x00\x00\x09\x12\x34";
    host.inside(|| {
        let socket = UdpSocket::bind("203.0.113.1:0").expect("socket");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("time limit");
        socket.send_to(REQUEST, format!("{address}:1701")).expect("request");
        socket.recv(&mut [0; 500]).is_ok()
    })
}
