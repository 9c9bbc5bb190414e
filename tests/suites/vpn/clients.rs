//! Clients that come in from outside: with L2TP inside IPsec, with IKEv2 and a password, with WireGuard.

use std::time::Duration;

use tests::lab::{
    vm::{Agent, Config, Vm},
    wait_until,
};

use crate::{
    documents::{acl, rule},
    lab::{STEP, stdout},
    pair::Side,
};

/// The router, and a guest behind it.
const ROUTER: &str = "203.0.113.20";
const GUEST: &str = "10.9.1.10";
/// How long a session of somebody who is let in no more may last.
const CUT: Duration = Duration::from_secs(20);

/// A machine outside, from the same image, that nobody has told to be anything.
struct Outside {
    agent: Agent,
    _vm: Vm,
}

impl Outside {
    fn new(side: &Side) -> Self {
        let vm = Vm::start(Config::ours().behind(&side.lab.host, "public", "02:00:4f:00:00:0f"));
        let mut outside = Self { agent: vm.agent(STEP), _vm: vm };
        outside.run("/sbin/ip addr add 203.0.113.50/24 dev eth0");
        outside.run("/sbin/ip link set eth0 up");
        outside
    }

    /// Runs a line of execline, and returns what it prints.
    fn run(&mut self, line: &str) -> String {
        let ran = self.agent.run("/usr/lib/execline/bin/execlineb", &["-P", "-c", line]);
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    fn may(&mut self, line: &str) -> bool {
        self.agent.run("/usr/lib/execline/bin/execlineb", &["-P", "-c", line]).code == 0
    }

    /// Runs a program that stays.
    fn start(&mut self, log: &str, line: &str) {
        self.run(&format!(
            "background {{ redirfd -r 0 /dev/null redirfd -w 1 /tmp/{log} fdmove -c 2 1 {line} }} exit 0"
        ));
    }

    fn address_of(&mut self, nic: &str) -> Option<String> {
        let text = self.agent.run("/sbin/ip", &["-4", "-o", "addr", "show", "dev", nic]).stdout;
        let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
        Some(words.nth(1)?.split('/').next()?.to_owned())
    }
}

fn remote(create: bool) -> String {
    format!(
        r#"{{"create":{create},"ip_range":"10.1.2.2-10.1.2.9","preshared_key":"psk-Example2","vpn_server_ip":"{ROUTER}",
        "local_ip":"10.1.2.1","local_cidr":"10.9.1.0/24","public_interface":"eth1","type":"remoteaccessvpn"}}"#
    )
}

fn user(name: &str, password: &str, add: bool) -> String {
    format!(
        r#"{{"vpn_users":[{{"user":"{name}","password":"{password}","add":{add}}}],"type":"vpnuserlist"}}"#
    )
}

const CLIENT: &str = r#"
connections {
  l2tp { version = 1
    local_addrs = 203.0.113.50
    remote_addrs = 203.0.113.20
    proposals = aes256-sha1-modp2048
    local { auth = psk }
    remote { auth = psk
      id = 203.0.113.20 }
    children { l2tp { mode = transport
      local_ts = dynamic[udp]
      remote_ts = dynamic[udp/1701]
      esp_proposals = aes128-sha1 } } }
  ikev2 { version = 2
    local_addrs = 203.0.113.50
    remote_addrs = 203.0.113.20
    vips = 0.0.0.0
    local { auth = eap-mschapv2
      id = bob
      eap_id = bob }
    remote { auth = pubkey
      id = 203.0.113.20 }
    children { net { remote_ts = 10.9.1.0/24,10.1.2.1/32 } } }
}
secrets {
  ike { secret = psk-Example2 }
  eap-bob { id = bob
    secret = "a \"b\" c" }
}
"#;

const XL2TPD: &str = "[global]\nport = 1701\naccess control = no\n\n[lac vpn]\nlns = 203.0.113.20\nredial = yes\n\
    redial timeout = 3\nautodial = yes\nppp debug = no\npppoptfile = /tmp/options\nlength bit = yes\n";
const OPTIONS: &str = "name bob\npassword \"a \\\"b\\\" c\"\nnoauth\nnoccp\nipcp-accept-local\nipcp-accept-remote\n\
    refuse-eap\nmtu 1410\nmru 1410\nnodefaultroute\n";

/// What `status` of the router says of clients.
fn told(side: &Side) -> Vec<String> {
    let text = stdout(&side.lab.ssh("status"));
    let lines = text.lines().filter(|line| line.starts_with("client: ") || line.starts_with("session: "));
    lines.map(str::to_owned).collect()
}

#[test]
fn clients_come_in_and_go_with_their_users() {
    let (mut side, ()) = crate::pair::one(|_| ());
    let allowed = ["10.1.2.0/24", "10.3.0.0/24"].map(|net| rule("all", None, net, true));
    side.send("network_acl", &acl(3, &allowed, &[]));
    let mut client = Outside::new(&side);
    side.send("remote_access_vpn", &remote(true));
    side.send("vpn_user_list", &user("bob", r#"a \"b\" c"#, true));

    client.agent.write("/etc/swanctl/swanctl.conf", CLIENT.as_bytes());
    client.agent.write("/etc/swanctl/x509ca/router.pem", &side.lab.ssh("certificate").stdout);
    client.agent.write("/tmp/xl2tpd.conf", XL2TPD.as_bytes());
    client.agent.write("/tmp/options", OPTIONS.as_bytes());
    client.start("charon", "/usr/lib/ipsec/charon");
    wait_until("charon of the client", STEP, || client.may("/usr/sbin/swanctl --load-all"));

    // Nobody speaks L2TP in the clear.
    client.run("modprobe -a l2tp_ppp ppp_async");
    client
        .start("xl2tpd", "/usr/sbin/xl2tpd -D -c /tmp/xl2tpd.conf -p /tmp/xl2tpd.pid -C /tmp/xl2tpd.control");
    wait_until("xl2tpd of the client", STEP, || client.agent.read("/tmp/xl2tpd.pid").is_some());
    assert_eq!(client.address_of("ppp0"), None);
    wait_until("L2TP's IPsec", STEP, || client.may("/usr/sbin/swanctl --initiate --child l2tp --timeout 20"));
    let mut address = None;
    wait_until("an address for the client", STEP, || {
        address = client.address_of("ppp0");
        address.is_some()
    });
    let address = address.expect("an address");
    assert!(["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5"].contains(&address.as_str()), "{address}");
    client.run("/sbin/ip route add 10.9.1.0/24 dev ppp0");
    wait_until("the guest by L2TP", STEP, || client.may(&format!("/bin/ping -c 1 -W 2 {GUEST}")));
    assert!(side.reaches(&address), "the guest reaches the client");
    assert_eq!(told(&side).iter().filter(|line| line.starts_with("session: ")).count(), 1);
    println!("L2TP: {address}, {:?}", told(&side));

    // Another user comes: nothing becomes of bob. Bob goes: so does his session.
    side.send("vpn_user_list", &user("eve", "other", true));
    assert!(client.may(&format!("/bin/ping -c 1 -W 2 {GUEST}")));
    side.send("vpn_user_list", &user("bob", "x", false));
    wait_until("the end of bob's session", CUT, || !side.reaches(&address));
    wait_until("xl2tpd knows of it", CUT, || !told(&side).iter().any(|line| line.contains("bob")));
    client.may("/usr/sbin/swanctl --terminate --ike l2tp --force");

    // IKEv2.
    side.send("vpn_user_list", &user("bob", r#"a \"b\" c"#, true));
    wait_until("IKEv2", STEP, || client.may("/usr/sbin/swanctl --initiate --child net --timeout 20"));
    let list = client.run("/usr/sbin/swanctl --list-sas");
    let address = list.split("local  ").filter_map(|part| part.split("/32").next()).last().expect("address");
    let address = address.trim().to_owned();
    assert!(address.starts_with("10.1.2."), "{list}");
    client.run(&format!("/sbin/ip addr add {address}/32 dev lo"));
    client.run(&format!("/sbin/ip route add 10.9.1.0/24 dev eth0 via 203.0.113.20 src {address}"));
    wait_until("the guest by IKEv2", STEP, || {
        client.may(&format!("/bin/ping -c 1 -W 2 -I {address} {GUEST}"))
    });
    assert!(side.reaches(&address), "the guest reaches the client");
    println!("IKEv2: {address}, {:?}", told(&side));
    side.send("vpn_user_list", &user("bob", "x", false));
    wait_until("the end of bob's connection", CUT, || !told(&side).iter().any(|line| line.contains("bob")));
    assert!(!side.reaches(&address));
    client.run(&format!("/sbin/ip route del 10.9.1.0/24 dev eth0 via 203.0.113.20 src {address}"));
    side.send("remote_access_vpn", &remote(false));
    wait_until("nothing is left for clients", STEP, || {
        let text = stdout(&side.lab.ssh("status"));
        text.contains("  xl2tpd: down") && text.contains("  charon: down")
    });

    wireguard(&mut side, &mut client);
}

/// A key pair, made by the machine outside.
fn keys(client: &mut Outside) -> (String, String) {
    client.run("redirfd -w 1 /tmp/key /usr/bin/wg genkey");
    let public = client.run("redirfd -r 0 /tmp/key /usr/bin/wg pubkey");
    (client.agent.text("/tmp/key").trim().to_owned(), public.trim().to_owned())
}

fn wireguard(side: &mut Side, client: &mut Outside) {
    let (router, client_keys) = (keys(client), keys(client));
    let document = |peers: &str| {
        format!(
            r#"{{"private_key":"{}","port":51820,"address":"10.3.0.1/24","peers":[{peers}],"type":"wireguard"}}"#,
            router.0
        )
    };
    let peer = format!(r#"{{"public_key":"{}","allowed":"10.3.0.2/32"}}"#, client_keys.1);
    side.send("wireguard", &document(&peer));
    client.run("/sbin/ip link add wg0 type wireguard");
    client.run(&format!(
        "/usr/bin/wg set wg0 private-key /tmp/key peer {} endpoint {ROUTER}:51820 allowed-ips 10.9.1.0/24,10.3.0.1/32",
        router.1
    ));
    client.run("/sbin/ip addr add 10.3.0.2/24 dev wg0");
    client.run("/sbin/ip link set wg0 up");
    client.run("/sbin/ip route add 10.9.1.0/24 dev wg0");
    wait_until("the guest by WireGuard", STEP, || client.may(&format!("/bin/ping -c 1 -W 2 {GUEST}")));
    assert!(side.reaches("10.3.0.2"), "the guest reaches the client");
    side.send("wireguard", &document(""));
    wait_until("the peer has gone", CUT, || !client.may(&format!("/bin/ping -c 1 -W 1 {GUEST}")));
    side.send("wireguard", r#"{"create":false,"type":"wireguard"}"#);
    wait_until("the interface has gone", CUT, || {
        side.vm.agent(STEP).run("/sbin/ip", &["link", "show", "wg0"]).code != 0
    });
}
