//! What charon is to have: a connection for each site and two for clients, and the secrets of each.
//!
//! The name of a connection ends in a digest of all that it says, secrets left out. So a core that finds a charon which
//! runs knows by the names alone which of its connections are as they should be, and leaves those as they are.

use std::{collections::BTreeMap, net::Ipv4Addr};

use sha2::{Digest as _, Sha256};

use super::{authority::Leaf, filter::own_address, machine::halves, vici::Message};
use crate::{
    state::{IkeVersion, Remote, Site},
    view::View,
};

/// How often the other side is asked whether it is there, seconds, and when IKEv1 gives up.
const DPD: (&str, &str) = ("30s", "120s");
/// What of its life a connection has behind it when it is renewed, percent.
const RENEWAL: u64 = 90;

/// What identities of users' passwords begin with.
pub(super) const USER: &str = "remote-user-";

/// What clients of today and of yesterday can do.
const CLIENT_IKE: [&str; 10] = [
    "aes256gcm16-prfsha384-ecp384",
    "aes256-sha384-ecp384",
    "aes256-sha256-ecp256",
    "aes256-sha256-modp2048",
    "aes256-sha1-modp2048",
    "aes128-sha256-modp2048",
    "aes128-sha1-modp2048",
    "aes256-sha1-modp1024",
    "aes128-sha1-modp1024",
    "3des-sha1-modp1024",
];
const CLIENT_ESP: [&str; 6] =
    ["aes256gcm16", "aes256-sha256", "aes256-sha1", "aes128-sha256", "aes128-sha1", "3des-sha1"];

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Connections by name.
    pub connections: BTreeMap<String, Connection>,
    /// Secrets by identity, as charon is given them.
    pub secrets: BTreeMap<String, Message>,
    /// Addresses for clients with IKEv2, by the name of the pool.
    pub pools: BTreeMap<String, Message>,
    /// The key of the certificate that those check.
    pub key: Option<Message>,
    /// Sites that wait for this router's address.
    pub waiting: Vec<Ipv4Addr>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The other gateway; `None` for clients.
    pub peer: Option<Ipv4Addr>,
    /// All of it, as charon is given it.
    pub config: Message,
    /// Names of its children.
    pub children: Vec<String>,
    /// Identity of its secret.
    pub secret: String,
    /// Whether this side begins.
    pub begins: Begins,
}

/// Who begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// This side, at once.
    AtOnce,
    /// This side, where the other one does not: both at once would make two of everything.
    Later,
    /// The other side.
    Never,
}

impl Wanted {
    /// Says what charon is to have; `leaf` is the certificate that clients check. Pure.
    pub fn new(view: &View<'_>, leaf: Option<&Leaf>) -> Self {
        let mut wanted = Self::default();
        if !view.setup.kind.forwards() || view.setup.is_silent() {
            return wanted;
        }
        for (peer, site) in &view.state.vpn.sites {
            let Some(own) = own_address(view, site.local) else {
                wanted.waiting.push(*peer);
                continue;
            };
            wanted.site(own, *peer, site);
        }
        for (server, remote) in &view.state.vpn.remotes {
            if let Some(own) = own_address(view, *server) {
                wanted.clients(view, own, *server, remote, leaf);
            }
        }
        wanted
    }

    /// Whether charon has anything to do.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    fn site(&mut self, own: Ipv4Addr, peer: Ipv4Addr, site: &Site) {
        let secret = format!("site-{peer}");
        // The other side's name alone, or clients at the same address of this router would be asked for it.
        let shared = shared(&secret, "IKE", site.secret.expose(), vec![peer.to_string()]);
        let (config, children) = site_config(own, peer, site);
        let begins = match (site.passive, own < peer) {
            (true, _) => Begins::Never,
            (false, true) => Begins::AtOnce,
            (false, false) => Begins::Later,
        };
        let name = sealed(&format!("site-{peer}"), &config);
        self.connections
            .insert(name, Connection { peer: Some(peer), config, children, secret: secret.clone(), begins });
        self.secrets.insert(secret, shared);
    }
}

impl Wanted {
    /// Clients: with L2TP inside IPsec, who know a secret and then each a password; and with IKEv2, who check a
    /// certificate and then each know a password.
    fn clients(
        &mut self,
        view: &View<'_>,
        own: Ipv4Addr,
        server: Ipv4Addr,
        remote: &Remote,
        leaf: Option<&Leaf>,
    ) {
        let secret = format!("remote-{server}");
        let owners: Vec<String> = [Some(server), (own != server).then_some(own)]
            .into_iter()
            .flatten()
            .map(|a| a.to_string())
            .collect();
        self.secrets.insert(secret.clone(), shared(&secret, "IKE", remote.secret.expose(), owners));
        let end = |auth: &str| Message::default().text("auth", auth);
        let both = |version: &str| {
            Message::default()
                .text("version", version)
                .list("local_addrs", [own.to_string()])
                .list("remote_addrs", ["%any"])
                .list("proposals", CLIENT_IKE)
                .text("dpd_delay", DPD.0)
                .text("dpd_timeout", DPD.1)
                .text("unique", "never")
        };
        let child = Message::default()
            .text("mode", "transport")
            .list("local_ts", ["dynamic[udp/1701]"])
            .list("remote_ts", ["dynamic[udp]"])
            .list("esp_proposals", CLIENT_ESP)
            .text("rekey_time", "0s")
            .text("dpd_action", "clear");
        let l2tp = both("1")
            .text("rekey_time", "0s")
            .section("local", end("psk").text("id", server.to_string()))
            .section("remote", end("psk"))
            .section("children", Message::default().section("l2tp", child));
        self.answering("l2tp", server, l2tp, &secret);

        let Some(leaf) = leaf else { return };
        let [_, (first, last)] = halves(remote.range);
        let pool = Message::default()
            .text("addrs", format!("{first}-{last}"))
            .list("dns", [remote.local.to_string()]);
        let name = sealed("remote-pool", &pool);
        let child = Message::default()
            .list("local_ts", [remote.net.to_string(), format!("{}/32", remote.local)])
            .list("esp_proposals", CLIENT_ESP)
            .text("dpd_action", "clear");
        let local = end("pubkey").text("id", server.to_string()).list("certs", [leaf.certificate.as_str()]);
        let ikev2 = both("2")
            .list("pools", [name.as_str()])
            .text("send_cert", "always")
            .section("local", local)
            .section("remote", end("eap-mschapv2").text("eap_id", "%any"))
            .section("children", Message::default().section("net", child));
        self.answering("ikev2", server, ikev2, &secret);
        self.pools.insert(name, pool);
        self.key = Some(Message::default().text("type", "any").text("data", leaf.key.expose()));
        for (user, password) in &view.state.vpn.users {
            let id = format!("{USER}{user}");
            let secret = shared(&id, "EAP", password.expose(), vec![user.clone()]);
            self.secrets.insert(id, secret);
        }
    }

    fn answering(&mut self, kind: &str, server: Ipv4Addr, config: Message, secret: &str) {
        let name = sealed(&format!("remote-{kind}-{server}"), &config);
        let (secret, begins) = (secret.to_owned(), Begins::Never);
        self.connections
            .insert(name, Connection { peer: None, config, children: Vec::new(), secret, begins });
    }
}

fn shared(id: &str, kind: &str, data: &str, owners: Vec<String>) -> Message {
    Message::default().text("id", id).text("type", kind).text("data", data).list("owners", owners)
}

/// A name that says by its end what it stands for.
fn sealed(name: &str, config: &Message) -> String {
    // A document that is too long to be written was refused before.
    let digest = Sha256::digest(config.write().unwrap_or_default());
    let seal = digest.iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    format!("{name}-{seal:08x}")
}

/// A connection to another site, and the names of its children.
fn site_config(own: Ipv4Addr, peer: Ipv4Addr, site: &Site) -> (Message, Vec<String>) {
    let version = match site.version {
        IkeVersion::Any => "0",
        IkeVersion::V1 => "1",
        IkeVersion::V2 => "2",
    };
    let identity = |address: Ipv4Addr| Message::default().text("auth", "psk").text("id", address.to_string());
    // A child of IKEv1 has one network on each side, whatever the document says.
    let split = site.split || site.version == IkeVersion::V1;
    let all: Vec<String> = site.remote.iter().map(ToString::to_string).collect();
    let groups: Vec<&[String]> = if split { all.chunks(1).collect() } else { vec![all.as_slice()] };
    let mut children = (Message::default(), Vec::new());
    for (n, nets) in groups.into_iter().enumerate() {
        let name = if n == 0 { "net".to_owned() } else { format!("net-{}", n + 1) };
        let mut child = Message::default()
            .list("local_ts", [site.net.to_string()])
            .list("remote_ts", nets.to_vec())
            .list("esp_proposals", site.esp.clone())
            .text("mode", "tunnel")
            .text("life_time", format!("{}s", site.esp_lifetime))
            .text("rekey_time", renewal(site.esp_lifetime));
        if !site.passive {
            // What guests send has charon begin, too.
            child = child.text("start_action", "trap");
        }
        if site.dpd {
            child = child.text("dpd_action", if site.passive { "clear" } else { "restart" });
        }
        children = (children.0.section(&name, child), [children.1, vec![name]].concat());
    }
    let mut config = Message::default()
        .text("version", version)
        .list("local_addrs", [own.to_string()])
        .list("remote_addrs", [peer.to_string()])
        .list("proposals", site.ike.clone())
        .text("rekey_time", renewal(site.ike_lifetime))
        .text("over_time", format!("{}s", u64::from(site.ike_lifetime) * (100 - RENEWAL) / 100))
        .text("keyingtries", "1")
        .text("unique", "replace")
        .flag("encap", site.encap)
        .flag("mobike", false);
    if site.dpd {
        config = config.text("dpd_delay", DPD.0).text("dpd_timeout", DPD.1);
    }
    // Where the router is behind another address, its identity is the one that everybody knows.
    let config = config
        .section("local", identity(site.local))
        .section("remote", identity(peer))
        .section("children", children.0);
    (config, children.1)
}

fn renewal(seconds: u32) -> String {
    format!("{}s", u64::from(seconds) * RENEWAL / 100)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        link::Devices,
        redundancy::Role,
        state::tests::{LINE, VPC, address, after_at, devices, setup_of},
        vpn::Machine,
    };

    pub(crate) fn document(peer: &str, more: &str) -> String {
        format!(
            r#"{{"local_public_ip":"203.0.113.20","local_guest_cidr":"10.9.0.0/16","peer_gateway_ip":"{peer}",
            "peer_guest_cidr_list":"192.168.50.0/24,192.168.51.0/24","esp_policy":"aes256-sha256;modp2048",
            "ike_policy":"aes256-sha256;modp2048","ipsec_psk":"secret of {peer}","ike_version":"ikev2",
            "ike_lifetime":86400,"esp_lifetime":3600,"dpd":true,"passive":false,"encap":false{more},"type":"site2sitevpn"}}"#
        )
    }

    fn wanted(devices: &Devices, documents: &[String]) -> Wanted {
        let setup = setup_of(VPC);
        let ours = address("203.0.113.20", 1, true, true);
        let documents: Vec<&str> =
            [ours.as_str()].into_iter().chain(documents.iter().map(String::as_str)).collect();
        let state = after_at(&setup, &documents);
        Wanted::new(&View::new(&setup, &state, devices), None)
    }

    fn texts(message: &Message, path: &[&str], list: &str) -> Vec<String> {
        let place = path.iter().try_fold(message, |place, name| place.sub(name));
        place.unwrap().strs(list).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn a_site_becomes_a_connection_with_all_that_its_document_says() {
        let all = wanted(&devices(), &[document("198.51.100.9", "")]);
        let (name, connection) = all.connections.iter().next().unwrap();
        assert!(name.starts_with("site-198.51.100.9-"), "{name}");
        let config = &connection.config;
        assert_eq!(config.str("version"), Some("2"));
        assert_eq!((config.str("rekey_time"), config.str("over_time")), (Some("77760s"), Some("8640s")));
        assert_eq!((config.str("dpd_delay"), config.str("encap")), (Some("30s"), Some("no")));
        assert_eq!(texts(config, &[], "proposals"), ["aes256-sha256-modp2048"]);
        assert_eq!(texts(config, &["children", "net"], "remote_ts"), ["192.168.50.0/24", "192.168.51.0/24"]);
        let child = config.sub("children").unwrap().sub("net").unwrap();
        assert_eq!((child.str("start_action"), child.str("dpd_action")), (Some("trap"), Some("restart")));
        assert_eq!(connection.begins, Begins::Later, "the other address is the lower one");
        let secret = &all.secrets["site-198.51.100.9"];
        assert_eq!(
            (secret.str("data"), secret.strs("owners")),
            (Some("secret of 198.51.100.9"), vec!["198.51.100.9"])
        );
        assert!(!format!("{all:?}").contains("secret of"));
    }

    #[test]
    fn networks_are_split_where_asked_and_always_with_the_old_version() {
        for (more, children) in
            [(r#","split_connections":true"#, 2), (r#","ike_version":"ikev1""#, 2), (r#","passive":true"#, 1)]
        {
            // The last of two members of one name counts.
            let text = document("198.51.100.9", more);
            let all = wanted(&devices(), &[text]);
            let connection = all.connections.values().next().unwrap();
            assert_eq!(connection.children.len(), children, "{more}");
        }
        let all = wanted(&devices(), &[document("198.51.100.9", r#","passive":true"#)]);
        let connection = all.connections.values().next().unwrap();
        assert_eq!(connection.begins, Begins::Never);
        assert_eq!(connection.config.sub("children").unwrap().sub("net").unwrap().str("start_action"), None);
    }

    #[test]
    fn a_change_of_one_site_leaves_the_names_of_the_others() {
        let two = [document("198.51.100.9", ""), document("198.51.100.10", "")];
        let before = wanted(&devices(), &two);
        let after = wanted(&devices(), &[two[0].clone(), document("198.51.100.10", r#","encap":true"#)]);
        let names = |wanted: &Wanted| wanted.connections.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&before)[1], names(&after)[1], "{:?}", names(&before));
        assert_ne!(names(&before)[0], names(&after)[0]);
    }

    #[test]
    fn a_site_waits_for_the_address_that_it_is_reached_from() {
        let all = wanted(&Devices::default(), &[document("198.51.100.9", "")]);
        assert!(all.is_empty());
        assert_eq!(all.waiting, [Ipv4Addr::new(198, 51, 100, 9)]);
    }

    #[test]
    fn clients_at_the_address_of_a_site_are_asked_for_their_own_secret() {
        let remote = r#"{"create":true,"ip_range":"10.1.2.2-10.1.2.8","preshared_key":"of clients",
            "vpn_server_ip":"203.0.113.20","local_ip":"10.1.2.1","local_cidr":"10.9.0.0/16","type":"remoteaccessvpn"}"#;
        let all = wanted(&devices(), &[document("198.51.100.9", ""), remote.to_owned()]);
        // charon prefers who is named as the other side, then who is named as this one.
        assert_eq!(all.secrets["site-198.51.100.9"].strs("owners"), ["198.51.100.9"]);
        assert_eq!(all.secrets["remote-203.0.113.20"].strs("owners"), ["203.0.113.20"]);
    }

    #[test]
    fn of_two_routers_for_one_network_the_one_in_force_has_tunnels() {
        let line = LINE.to_owned()
            + " redundant_router=1 advert_int=1 guestgw=10.1.1.1 guestbrd=10.1.1.255 \
            guestcidrsize=24 router_pr=100 router_password=x";
        let mut setup = setup_of(&line);
        let site = document("198.51.100.9", "").replace("203.0.113.20", "203.0.113.10");
        let wireguard = r#"{"private_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","port":51820,
            "address":"10.3.0.1/24","peers":[],"type":"wireguard"}"#;
        let state = after_at(&setup, &[site.as_str(), wireguard]);
        for (role, connections) in [(Role::Backup, 0), (Role::Fault, 0), (Role::Primary, 1)] {
            setup.pair.as_mut().unwrap().role = role;
            let (devices, force) = (devices(), role == Role::Primary);
            let view = View::new(&setup, &state, &devices);
            assert_eq!(Wanted::new(&view, None).connections.len(), connections, "{role:?}");
            assert_eq!(Machine::new(&view) != Machine::default(), force, "{role:?}");
        }
    }
}
