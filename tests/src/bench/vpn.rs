//! `vpn`: what becomes of packets in tunnels while another tunnel comes, and what changes cost while peers are dead.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use super::{Figure, Floor, Where, router};
use crate::lab::{
    Namespace,
    documents::{acl, address, rule, tier},
    join,
    vm::{Config, Vm},
    wait_until,
};

/// The parts, in order, by the names that the command line knows.
const PARTS: [(&str, fn()); 2] =
    [("push_dead_peers", router::peers::run), ("tunnel_loss", || tunnel_loss(3))];

/// Longest time for one step of a machine without KVM.
const LIMIT: Duration = Duration::from_secs(240);
/// Tunnels that carry packets.
const TUNNELS: u8 = 20;
/// Packets in each of them: ten a second.
const PACKETS: u32 = 200;

/// Measures and prints the parts that are named, everything where none is.
///
/// # Errors
/// What is wrong with a name.
pub fn run(parts: &[String]) -> Result<(), String> {
    super::run_parts(&PARTS, parts)
}

/// One of two routers, and the guest behind it.
struct Side {
    vm: Vm,
    guest: Namespace,
    /// 10.9.N.0/24 is its tier.
    number: u8,
    documents: u32,
}

impl Side {
    fn new(host: &Namespace, number: u8) -> Self {
        let bridge = format!("tier{number}");
        host.bridge(&bridge);
        let (public, inner) = (2 * number - 1, 2 * number);
        let config = Config::ours()
            .behind(host, "control", &format!("02:00:4e:00:00:0{number}"))
            .behind(host, "public", &format!("02:00:00:00:00:0{public}"))
            .behind(host, &bridge, &format!("02:00:00:00:00:0{inner}"));
        let guest = Namespace::new(&bridge);
        join(host, &format!("g{number}"), &guest, "eth0");
        host.attach(&bridge, &format!("g{number}"));
        guest.address("eth0", &format!("10.9.{number}.254/24"));
        guest.ip(&["route", "add", "default", "via", &format!("10.9.{number}.1")]);
        for tunnel in 1..=TUNNELS + 1 {
            guest.ip(&["addr", "add", &format!("10.9.{number}.{}/32", 8 * tunnel + 1), "dev", "eth0"]);
        }
        Self { vm: Vm::start(config), guest, number, documents: 0 }
    }

    fn set_up(&mut self) {
        let arguments = format!(
            "vpccidr=10.9.{n}.0/24 domain=vpc{n}.example template=domP name=r-1{n}-VM eth0ip=169.254.10.2{n} \
             eth0mask=255.255.0.0 has_public_network=true type=vpcrouter disable_rp_filter=true \
             source_nat_ip={}",
            own(self.number, 1),
            n = self.number
        );
        self.vm.deliver(&arguments, LIMIT);
        self.vm.wait_line("TRIVIUM-READY role=router", LIMIT);
        let (public, inner) = (2 * self.number - 1, 2 * self.number);
        let mut documents: Vec<(&str, String)> = (1..=TUNNELS + 1)
            .map(|tunnel| ("ip_associations", address(&own(self.number, tunnel), public, true)))
            .collect();
        documents.push(("guest_network", tier(self.number, inner, true)));
        documents.push(("network_acl", acl(inner, &[rule("all", None, "0.0.0.0/0", true)], &[])));
        documents.extend((1..=TUNNELS).map(|tunnel| ("site_2_site_vpn", self.site(tunnel))));
        self.send(&documents);
    }

    /// Has documents applied as one bundle.
    fn send(&mut self, documents: &[(&str, String)]) {
        let mut text =
            String::from("#Apache CloudStack Virtual Router Config File\n<version>\n1.0\n</version>\n");
        for (kind, document) in documents {
            self.documents += 1;
            let name = format!("{kind}.json.{}", self.documents);
            // Writing to a string cannot fail.
            let _ = write!(text, "<file>\n/var/cache/cloud/{name}\n{document}\n</file>\n");
            let _ = write!(text, "<script>\n/opt/cloud/bin/update_config.py {name}\n</script>\n");
        }
        let path = format!("/var/cache/cloud/VR-{}.cfg", self.documents);
        let mut agent = self.vm.agent(LIMIT);
        agent.write(&path, text.as_bytes());
        let ran = agent.run("/opt/cloud/bin/vr_cfg.sh", &["-c", &path]);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    }

    /// Each tunnel has a public address of its own on each side, and a part of the network of the second side.
    fn site(&self, tunnel: u8) -> String {
        let part = format!("10.9.2.{}/29", 8 * tunnel);
        let (near, far) = match self.number {
            1 => ("10.9.1.0/24".to_owned(), part),
            _ => (part, "10.9.1.0/24".to_owned()),
        };
        let (local, peer) = (own(self.number, tunnel), own(3 - self.number, tunnel));
        format!(
            r#"{{"local_public_ip":"{local}","local_guest_cidr":"{near}","peer_gateway_ip":"{peer}","peer_guest_cidr_list":"{far}","esp_policy":"aes128-sha256;modp2048","ike_policy":"aes128-sha256;modp2048","ipsec_psk":"secret {tunnel}","ike_version":"ikev2","ike_lifetime":86400,"esp_lifetime":3600,"create":true,"dpd":true,"passive":false,"encap":false,"split_connections":false,"type":"site2sitevpn"}}"#
        )
    }

    /// How many tunnels to the other side are established.
    fn established(&self) -> usize {
        let peers: Vec<String> = (1..=TUNNELS + 1).map(|tunnel| own(3 - self.number, tunnel)).collect();
        let words: Vec<&str> = peers.iter().map(String::as_str).collect();
        let ran = self.vm.agent(LIMIT).run("/opt/cloud/bin/checkbatchs2svpn.sh", &words);
        ran.stdout.split('&').filter(|one| one.contains(":0:")).count()
    }
}

/// A public address of a side.
fn own(side: u8, tunnel: u8) -> String {
    format!("203.0.113.{}", 100 * side + tunnel)
}

/// Packets that are lost while a tunnel comes beside those that carry them.
fn tunnel_loss(rounds: usize) {
    let host = Namespace::new("host");
    host.bridge("control");
    host.bridge("public");
    let (mut a, mut b) = (Side::new(&host, 1), Side::new(&host, 2));
    a.set_up();
    b.set_up();
    wait_until("all tunnels", LIMIT, || a.established() == usize::from(TUNNELS));
    let one_more = |side: &Side, create: bool| {
        let text = side.site(TUNNELS + 1);
        vec![("site_2_site_vpn", text.replace("\"create\":true", &format!("\"create\":{create}")))]
    };
    let (mut lost, mut added) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut pings: Vec<_> = (1..=TUNNELS)
            .map(|tunnel| {
                let to = format!("10.9.2.{}", 8 * tunnel + 1);
                let ping = ["-i", "0.1", "-c", &PACKETS.to_string(), "-W", "5", &to];
                a.guest.spawn("ping", &ping)
            })
            .collect();
        let began = Instant::now();
        let (for_a, for_b) = (one_more(&a, true), one_more(&b, true));
        b.send(&for_b);
        a.send(&for_a);
        wait_until("one more tunnel", LIMIT, || a.established() == usize::from(TUNNELS) + 1);
        added.push(began.elapsed().as_secs_f64());
        let missing = |ping: &mut crate::lab::Process| {
            wait_until("the end of a ping", LIMIT, || !ping.runs());
            let output = ping.output();
            let received = output.split(", ").find_map(|part| part.strip_suffix(" received"));
            let received: u32 = received.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{output}"));
            PACKETS - received
        };
        lost.push(f64::from(pings.iter_mut().map(missing).sum::<u32>()));
        let (for_a, for_b) = (one_more(&a, false), one_more(&b, false));
        a.send(&for_a);
        b.send(&for_b);
        wait_until("one tunnel less", LIMIT, || a.established() == usize::from(TUNNELS));
    }
    let of_vm = |figure: Figure| Figure { place: Where::Vm, ..figure };
    of_vm(Figure::host("tunnel_loss", "packets", lost, Some(Floor::AtMost(0.0)))).print();
    of_vm(Figure::host("tunnel_added", "s", added, None)).print();
}
