//! Stores that get mounted, from their URLs: `nfs://host/path`, or a CIFS share as
//! `cifs://host/share?user=…&password=…[&domain=…]`, whose further parameters are options of its mount.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use common::command::Secret;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::mount::MountError;

/// Longest wait for the address of a server.
const LOOKUP: Duration = Duration::from_secs(15);
/// Longest value of an option that the kernel takes, in bytes.
const LONGEST: usize = 255;

/// An export or share that a command has named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Its URL without what is secret in it.
    pub(crate) url: String,
    pub(crate) address: IpAddr,
    /// The path of the URL, with its first slash.
    pub(crate) path: String,
    /// Version of NFS, where one is asked for.
    pub(crate) version: Option<String>,
    /// Of a CIFS share: what it is mounted with. `None` is NFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<Share>,
}

/// What a CIFS share is mounted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) user: String,
    pub(crate) password: Secret,
    /// Further options by name; without a value where the option is a word of its own.
    pub(crate) options: BTreeMap<String, String>,
}

/// What a URL says without its query, where passwords are.
pub(crate) fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

impl Export {
    /// Reads a URL and looks its host up.
    pub(crate) async fn parse(url: &str, version: Option<&str>) -> Result<Self, MountError> {
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
        let share = match scheme.to_ascii_lowercase().as_str() {
            "nfs" => None,
            "cifs" => Some(Share::parse(query)?),
            _ => return Err(MountError::Scheme { scheme: scheme.to_owned(), uri: place.to_owned() }),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() && !host.ends_with(':') => host,
            _ => authority,
        };
        let host = host.trim_matches(['[', ']']);
        let odd = |c: char| c.is_control() || c == ',' || c == '\\';
        if host.is_empty() || path.is_empty() || path.contains(odd) || host.contains('@') {
            return Err(MountError::Uri { uri: place.to_owned() });
        }
        let address = match host.parse() {
            Ok(address) => address,
            Err(_) => resolve(host).await.ok_or_else(|| MountError::Host(host.to_owned()))?,
        };
        let version = version.filter(|v| !v.is_empty() && *v != "null" && share.is_none()).map(str::to_owned);
        Ok(Self { url: shown(url).to_owned(), address, path: format!("/{path}"), version, share })
    }

    /// What is mounted, as the table of mounts shows it.
    pub(crate) fn device(&self) -> String {
        let host = match self.address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) if self.share.is_none() => format!("[{v6}]"),
            IpAddr::V6(v6) => Ipv6Addr::to_string(&v6),
        };
        if self.share.is_some() { format!("//{host}{}", self.path) } else { format!("{host}:{}", self.path) }
    }

    /// Whether it is to be mounted anew where `before` is mounted: another user or password came for the share.
    pub(crate) fn differs(&self, before: &Self) -> bool {
        self.share.is_some() && before.share.is_some() && self.share != before.share
    }
}

async fn resolve(host: &str) -> Option<IpAddr> {
    let found: Vec<IpAddr> =
        timeout(LOOKUP, tokio::net::lookup_host((host, 0))).await.ok()?.ok()?.map(|a| a.ip()).collect();
    found.iter().find(|a| a.is_ipv4()).or(found.first()).copied()
}

impl Share {
    /// Reads the parameters of a URL. What could lead out of the share, or weaken what protects the VM, is refused.
    fn parse(query: &str) -> Result<Self, MountError> {
        let (mut user, mut password, mut options) = (None, None, BTreeMap::new());
        for pair in query.split('#').next().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let refused = |why: &str| MountError::Option { name: plain(name), why: why.to_owned() };
            let value = decode(value).ok_or_else(|| refused("its value is no text"))?;
            if value.contains(char::is_control) {
                return Err(refused("its value has control characters"));
            }
            if value.len() > LONGEST {
                return Err(refused("its value is longer than 255 bytes"));
            }
            match name {
                "user" => user = Some(value),
                "password" => password = Some(Secret::new(value)),
                _ => match kind(name) {
                    Some(kind) if kind.fits(&value) => {
                        options.insert(name.to_owned(), value);
                    }
                    Some(_) => return Err(refused("it has another kind of value")),
                    None => return Err(refused("it is none that a store may have")),
                },
            }
        }
        match (user.filter(|u| !u.is_empty()), password.filter(|p| !p.is_empty())) {
            (Some(user), Some(password)) => Ok(Self { user, password, options }),
            _ => Err(MountError::Login),
        }
    }
}

/// What an option of a mount takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: it is there or not.
    Word,
    Number,
    Text,
    /// One of these.
    Of(&'static [&'static str]),
}

/// The options that a URL may name beside user and password.
fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "domain" => Kind::Text,
        "vers" => Kind::Of(&["1.0", "2.0", "2.1", "3", "3.0", "3.02", "3.1.1", "default"]),
        "sec" => Kind::Of(&["ntlmv2", "ntlmssp", "ntlmv2i", "ntlmsspi"]),
        "port" | "rsize" | "wsize" | "echo_interval" | "uid" | "gid" | "file_mode" | "dir_mode" => {
            Kind::Number
        }
        "seal" | "sign" | "nobrl" | "serverino" | "noserverino" | "mapposix" | "mapchars" => Kind::Word,
        _ => return None,
    })
}

impl Kind {
    fn fits(self, value: &str) -> bool {
        match self {
            Self::Word => value.is_empty(),
            Self::Number => (1..=9).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()),
            Self::Text => !value.is_empty(),
            Self::Of(values) => values.contains(&value),
        }
    }
}

/// A name as a message may show it.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-').take(32).collect()
}

/// A value of a query: `%` with two digits is a byte, `+` a space. `None` where the bytes are no text.
fn decode(value: &str) -> Option<String> {
    let bytes = value.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let hex = digits.and_then(|d| std::str::from_utf8(d).ok()).filter(|d| !d.starts_with('+'));
        match hex.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn error(url: &str) -> String {
        Export::parse(url, None).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn urls_of_exports() {
        let good = Export::parse("nfs://10.1.1.5/export/sec", Some("null")).await.unwrap();
        assert_eq!((good.path.as_str(), good.version.as_ref()), ("/export/sec", None));
        assert_eq!(good.device(), "10.1.1.5:/export/sec");
        let good = Export::parse("nfs://10.1.1.5:2049/e", Some("4.1")).await.unwrap();
        assert_eq!(good.version.unwrap(), "4.1");
        assert_eq!(Export::parse("nfs://[fd00::1]/e", None).await.unwrap().device(), "[fd00::1]:/e");
        let text = error("smb://h/s?user=u&password=hunter2").await;
        assert_eq!(text, "Unsupported storage device scheme smb in uri smb://h/s");
        for bad in [
            "nfs://",
            "nfs:///x",
            "nfs://h",
            "nfs://10.0.0.1/a,vers=3",
            "cifs://u@h/s?user=u&password=hunter2",
        ] {
            assert!(!error(bad).await.contains("hunter2"), "{bad}");
        }
    }

    #[tokio::test]
    async fn urls_of_shares() {
        let url = "cifs://10.1.1.8/share?user=store&password=a%2Cb%26c%20100%&domain=ZONE&vers=3.0&seal";
        let export = Export::parse(url, Some("4.1")).await.unwrap();
        assert_eq!((export.device().as_str(), export.version.as_ref()), ("//10.1.1.8/share", None));
        assert_eq!(export.url, "cifs://10.1.1.8/share");
        assert!(!format!("{export:?}").contains("100%"));
        let share = export.share.clone().unwrap();
        assert_eq!((share.user.as_str(), share.password.expose()), ("store", "a,b&c 100%"));
        let options: Vec<_> =
            share.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(options, [("domain", "ZONE"), ("seal", ""), ("vers", "3.0")]);
        let other = Export::parse("cifs://10.1.1.8/share?user=store&password=x", None).await.unwrap();
        assert!(other.differs(&export) && !export.differs(&export.clone()));
        let v6 = Export::parse("cifs://[fd00::1]/s/t?user=u&password=p", None).await.unwrap();
        assert_eq!(v6.device(), "//fd00::1/s/t");
    }

    #[tokio::test]
    async fn what_is_refused_of_a_share() {
        for query in ["", "?user=u", "?password=p", "?user=&password=p", "?user=u&password="] {
            let text = error(&format!("cifs://10.1.1.8/s{query}")).await;
            assert!(text.starts_with("Missing user and password from URI."), "{text}");
        }
        for (more, name) in [
            ("credentials=/etc/shadow", "credentials"),
            ("exec", "exec"),
            ("suid=", "suid"),
            ("unc=//other/share", "unc"),
            ("ip=10.1.1.9", "ip"),
            ("source=//other/share", "source"),
            ("hard", "hard"),
            ("vers=3.0,exec", "vers"),
            ("sec=krb5", "sec"),
            ("domain=a%0ab", "domain"),
            ("port=1e3", "port"),
            ("seal=1", "seal"),
            ("domain=%ff", "domain"),
            ("a%0ab=1", "a0ab"),
        ] {
            let text = error(&format!("cifs://10.1.1.8/s?user=u&password=hunter2&{more}")).await;
            assert!(text.starts_with(&format!("The option {name} of the store is refused: ")), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        let long = format!("cifs://10.1.1.8/s?user=u&password={}", "x".repeat(256));
        assert!(error(&long).await.contains("longer than 255 bytes"));
    }

    proptest! {
        #[test]
        fn a_share_is_read_without_failure_and_has_no_harmful_options(query in "[ -~]{0,60}") {
            if let Ok(share) = Share::parse(&format!("user=u&password=p&{query}")) {
                prop_assert!(share.options.keys().all(|name| kind(name).is_some()));
                prop_assert!(share.options.values().all(|v| !v.contains(char::is_control)));
            }
        }

        #[test]
        fn encoded_values_come_back(value in "\\PC{0,40}") {
            let encoded: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
            prop_assert_eq!(decode(&encoded), Some(value));
        }
    }
}
