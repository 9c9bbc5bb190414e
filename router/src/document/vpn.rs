//! `site2sitevpn`, `remoteaccessvpn`, `vpnuserlist` (router contract 3.17, 3.18), and `wireguard`, which is no document
//! of the contract.

use std::net::{Ipv4Addr, SocketAddrV4};

use base64::Engine as _;
use common::command::Secret;
use ipnet::Ipv4Net;

use super::{DocumentError, Node, node::shorten};
use crate::state::{IkeVersion, Remote, Site, Wireguard, WireguardPeer};

/// Most networks behind one peer.
const NETS: usize = 256;
/// Longest secret or password, bytes.
const SECRET: usize = 256;
/// Shortest life of a connection, seconds.
const LIFE: u32 = 60;
/// What charon does where a document says nothing: a day, and an hour.
const IKE_LIFE: u32 = 86_400;
const ESP_LIFE: u32 = 3600;

/// A `site2sitevpn` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteChange {
    /// The gateway of the other site.
    pub peer: Ipv4Addr,
    /// The site; `None` takes it away.
    pub site: Option<Site>,
}

impl SiteChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let peer = root.required("peer_gateway_ip")?;
        if !root.flag("create", true)? {
            return Ok(Self { peer, site: None });
        }
        let (remote, net) =
            (nets(root, "peer_guest_cidr_list")?, root.required::<Ipv4Net>("local_guest_cidr")?);
        let version = match root.text("ike_version")?.as_deref() {
            None | Some("ike") => IkeVersion::Any,
            Some("ikev1") => IkeVersion::V1,
            Some("ikev2") => IkeVersion::V2,
            Some(other) => {
                let reason = format_args!("{:?} is none of ike, ikev1, ikev2", shorten(other)).to_string();
                return Err(root.error("ike_version", reason));
            }
        };
        let site = Site {
            local: root.required("local_public_ip")?,
            net: net.trunc(),
            remote,
            version,
            ike: proposals(root, "ike_policy", true)?,
            esp: proposals(root, "esp_policy", false)?,
            ike_lifetime: life(root, "ike_lifetime", IKE_LIFE)?,
            esp_lifetime: life(root, "esp_lifetime", ESP_LIFE)?,
            secret: secret(root, "ipsec_psk")?,
            dpd: root.flag("dpd", false)?,
            passive: root.flag("passive", false)?,
            encap: root.flag("encap", false)?,
            split: root.flag("split_connections", false)?,
        };
        Ok(Self { peer, site: Some(site) })
    }
}

/// A `remoteaccessvpn` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteChange {
    /// The public address that clients come to.
    pub server: Ipv4Addr,
    /// What they get there; `None` lets nobody in any more.
    pub remote: Option<Remote>,
}

impl RemoteChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        let server = root.required("vpn_server_ip")?;
        if !root.flag("create", true)? {
            return Ok(Self { server, remote: None });
        }
        let range = root.required::<String>("ip_range")?;
        let address = |text: Option<&str>| text.and_then(|text| text.trim().parse::<Ipv4Addr>().ok());
        let mut ends = range.splitn(2, '-');
        let (first, last) = (address(ends.next()), address(ends.next()));
        let bad = |reason| root.error("ip_range", format_args!("{:?} {reason}", shorten(&range)));
        let (Some(first), Some(last)) = (first, last) else {
            return Err(bad("is no range of addresses, first-last"));
        };
        if first > last || u32::from(last) - u32::from(first) >= 65_536 {
            return Err(bad("ends before it begins, or is larger than 65536 addresses"));
        }
        let local = root.required("local_ip")?;
        if (first..=last).contains(&local) {
            return Err(root.error("local_ip", "is one of the addresses that clients get"));
        }
        let net = root.required::<Ipv4Net>("local_cidr")?.trunc();
        let remote = Remote { range: (first, last), local, net, secret: secret(root, "preshared_key")? };
        Ok(Self { server, remote: Some(remote) })
    }
}

/// One item of a `vpnuserlist` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserChange {
    /// The user's name.
    pub user: String,
    /// The password; `None` takes the user away.
    pub password: Option<Secret>,
}

impl UserChange {
    pub(super) fn read(node: &Node<'_>) -> Result<Self, DocumentError> {
        let user = node.required::<String>("user")?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"@._-+".contains(&b);
        if user.len() > 64 || user.starts_with('-') || !user.bytes().all(plain) {
            return Err(node.error("user", "is no name of up to 64 letters, digits and @._-+"));
        }
        let password = if node.flag("add", true)? { Some(secret(node, "password")?) } else { None };
        Ok(Self { user, password })
    }
}

/// A `wireguard` document: all there is to be of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardChange {
    /// What there is to be; `None` takes it away.
    pub wireguard: Option<Wireguard>,
}

impl WireguardChange {
    pub(super) fn read(root: &Node<'_>) -> Result<Self, DocumentError> {
        if !root.flag("create", true)? {
            return Ok(Self { wireguard: None });
        }
        let peers = root.objects("peers")?.iter().map(wireguard_peer).collect::<Result<_, _>>()?;
        let wireguard = Wireguard {
            key: Secret::new(key(root, "private_key")?),
            port: root.required("port")?,
            address: root.required("address")?,
            peers,
        };
        if wireguard.port == 0 {
            return Err(root.error("port", "is 0"));
        }
        Ok(Self { wireguard: Some(wireguard) })
    }
}

fn wireguard_peer(node: &Node<'_>) -> Result<WireguardPeer, DocumentError> {
    let shared = match node.get("preshared_key") {
        None => None,
        Some(_) => Some(Secret::new(key(node, "preshared_key")?)),
    };
    Ok(WireguardPeer {
        key: key(node, "public_key")?,
        shared,
        nets: nets(node, "allowed")?,
        endpoint: node.optional::<SocketAddrV4>("endpoint")?,
        keepalive: node.optional("keepalive")?,
    })
}

/// A key of WireGuard: 32 bytes in base64.
fn key(node: &Node<'_>, name: &str) -> Result<String, DocumentError> {
    let text = node.required::<String>(name)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim());
    if bytes.is_ok_and(|bytes| bytes.len() == 32) {
        return Ok(text.trim().to_owned());
    }
    Err(node.error(name, "is no key of 32 bytes in base64"))
}

fn nets(node: &Node<'_>, name: &str) -> Result<Vec<Ipv4Net>, DocumentError> {
    let list = node.required::<String>(name)?;
    let texts = list.split([',', ' ']).map(str::trim).filter(|text| !text.is_empty());
    let mut nets: Vec<Ipv4Net> = Vec::new();
    for text in texts {
        let net = text.parse().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from));
        let net: Ipv4Net =
            net.ok_or_else(|| node.error(name, format_args!("{:?} is no IPv4 network", shorten(text))))?;
        if !nets.contains(&net.trunc()) {
            nets.push(net.trunc());
        }
    }
    match nets.len() {
        0 => Err(node.error(name, "names no network")),
        1..=NETS => Ok(nets),
        _ => Err(node.error(name, format_args!("names more than {NETS} networks"))),
    }
}

fn secret(node: &Node<'_>, name: &str) -> Result<Secret, DocumentError> {
    let text = node.text(name)?.ok_or_else(|| node.error(name, "is missing"))?;
    if text.len() > SECRET || text.chars().any(char::is_control) {
        let reason = format_args!("is longer than {SECRET} bytes, or has control characters").to_string();
        return Err(node.error(name, reason));
    }
    Ok(Secret::new(text))
}

/// Seconds, rounded down to minutes.
fn life(node: &Node<'_>, name: &str, default: u32) -> Result<u32, DocumentError> {
    let seconds = node.optional(name)?.unwrap_or(default);
    if seconds < LIFE {
        return Err(node.error(name, format_args!("is below {LIFE} s")));
    }
    Ok(seconds - seconds % 60)
}

/// What an algorithm is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Cipher,
    Hash,
    Group,
}

fn part(word: &str) -> Option<Part> {
    const CIPHERS: [&str; 4] = ["3des", "cast128", "chacha20poly1305", "null"];
    const HASHES: [&str; 8] = ["md5", "sha", "sha1", "sha256", "sha384", "sha512", "aesxcbc", "aescmac"];
    const GROUPS: [&str; 4] = ["curve25519", "x25519", "curve448", "x448"];
    const SIZED: [&str; 4] = ["aes", "camellia", "blowfish", "serpent"];
    let sized = |prefix: &&str| {
        word.strip_prefix(*prefix).is_some_and(|rest| {
            let rest = ["ctr", "gcm", "ccm", "gmac"]
                .iter()
                .find_map(|mode| rest.split_once(mode))
                .map_or(rest, |(size, _)| size);
            rest.is_empty() || matches!(rest, "128" | "192" | "256")
        })
    };
    let numbered = |prefix: &str| {
        word.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    if HASHES.contains(&word) {
        Some(Part::Hash)
    } else if CIPHERS.contains(&word) || SIZED.iter().any(sized) {
        Some(Part::Cipher)
    } else if GROUPS.contains(&word) || numbered("modp") || numbered("ecp") {
        Some(Part::Group)
    } else {
        None
    }
}

/// `aes256-sha256;modp2048,aes128-sha1;modp1536`: proposals as charon writes them.
fn proposals(node: &Node<'_>, name: &str, group: bool) -> Result<Vec<String>, DocumentError> {
    let list = node.required::<String>(name)?;
    let mut proposals = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let text = text.to_ascii_lowercase().replace(';', "-");
        let mut parts = Vec::new();
        for word in text.split('-').filter(|word| !word.is_empty()) {
            let known = part(word);
            parts.push(known.ok_or_else(|| {
                node.error(name, format_args!("{:?} is no algorithm that is known here", shorten(word)))
            })?);
        }
        for (wanted, what) in [(Part::Cipher, "cipher"), (Part::Group, "group of Diffie-Hellman")] {
            if !parts.contains(&wanted) && (wanted == Part::Cipher || group) {
                return Err(node.error(name, format_args!("{:?} names no {what}", shorten(&text))));
            }
        }
        proposals.push(text.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-"));
    }
    match proposals.len() {
        0 => Err(node.error(name, "names no algorithms")),
        1..=32 => Ok(proposals),
        _ => Err(node.error(name, "names more than 32 proposals")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    const SITE: &str = r#"{"local_public_ip":"203.0.113.20","local_guest_cidr":"10.10.0.0/16","local_public_gateway":"203.0.113.1",
        "peer_gateway_ip":"198.51.100.9","peer_guest_cidr_list":"192.168.50.0/24,192.168.51.0/24",
        "esp_policy":"aes256-sha256;modp2048","ike_policy":"aes256-sha256;modp2048,3des-md5;modp1024","ipsec_psk":"s2s-Example",
        "ike_version":"ikev2","ike_lifetime":86400,"esp_lifetime":3599,"create":true,"dpd":true,"passive":false,
        "encap":false,"split_connections":false,"type":"site2sitevpn","delete_from_processed_cache":false}"#;

    #[test]
    fn a_site_is_read_and_its_secret_is_not_shown() {
        let Document::Site(change) = Document::read(SITE.as_bytes()).unwrap() else { panic!() };
        assert!(!format!("{change:?}").contains("s2s-Example"));
        let site = change.site.unwrap();
        assert_eq!(site.ike, ["aes256-sha256-modp2048", "3des-md5-modp1024"]);
        assert_eq!((site.remote.len(), site.esp_lifetime, site.version), (2, 3540, IkeVersion::V2));
        assert_eq!(site.secret.expose(), "s2s-Example");
        let gone = SITE.replace(r#""create":true"#, r#""create":false"#);
        let Document::Site(change) = Document::read(gone.as_bytes()).unwrap() else { panic!() };
        assert_eq!(change.site, None);
    }

    #[test]
    fn an_error_names_the_place() {
        for (from, to, message) in [
            (
                "aes256-sha256;modp2048\",\"ike",
                "aes257-sha256\",\"ike",
                "esp_policy: \"aes257\" is no algorithm",
            ),
            (",3des-md5;modp1024", ",3des-md5", "ike_policy: \"3des-md5\" names no group"),
            (
                "192.168.51.0/24",
                "192.168.51.0/33",
                "peer_guest_cidr_list: \"192.168.51.0/33\" is no IPv4 network",
            ),
            ("ikev2", "ikev3", "ike_version: \"ikev3\" is none of"),
            ("s2s-Example", "", "ipsec_psk: is missing"),
            ("3599", "59", "esp_lifetime: is below 60 s"),
            ("198.51.100.9", "peer.example", "peer_gateway_ip: \"peer.example\": invalid IPv4"),
        ] {
            let error = Document::read(SITE.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let remote = r#"{"create":true,"ip_range":"10.1.2.9-10.1.2.8","preshared_key":"k","vpn_server_ip":"203.0.113.10",
            "local_ip":"10.1.2.1","local_cidr":"10.1.1.0/24","public_interface":"eth2","type":"remoteaccessvpn"}"#;
        let error = Document::read(remote.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("ip_range: \"10.1.2.9-10.1.2.8\" ends before it begins"), "{error}");
        let users = r#"{"vpn_users":[{"user":"a b","password":"x","add":true}],"type":"vpnuserlist"}"#;
        let error = Document::read(users.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("vpn_users[0].user: is no name"), "{error}");
    }

    #[test]
    fn algorithms_are_told_apart() {
        for word in ["aes", "aes128", "aes256gcm16", "3des", "chacha20poly1305", "camellia192"] {
            assert_eq!(part(word), Some(Part::Cipher), "{word}");
        }
        for word in ["modp1024", "modp1024s160", "ecp384", "curve25519"] {
            assert_eq!(part(word), Some(Part::Group), "{word}");
        }
        for word in ["aes129", "sha3", "modp", "", "x"] {
            assert_eq!(part(word), None, "{word}");
        }
    }
}
