//! What core and serve say to each other over the hand-over.

use std::{fmt, net::IpAddr, net::SocketAddr};

use common::command::console::Connection;
use serde::{Deserialize, Serialize};

use crate::end::End;

/// Snapshot: [`Settings`].
pub const SETTINGS: &str = "settings";
/// Snapshot: [`Trust`].
pub const TRUST: &str = "trust";
/// Snapshot: keys of the sessions that an operator wants gone.
pub const CUT: &str = "cut";
/// Question: [`Open`], answered by [`Verdict`] and, where granted, the connection to the hypervisor.
pub const OPEN: &str = "open";
/// Question: key of a session that is [`Verdict::Recorded`]; answered by the bytes that its recording may take (absent
/// where there is none after all) and the file.
pub const TAPE: &str = "tape";
/// Event: [`Ended`].
pub const ENDED: &str = "ended";
/// Event: list of all [`Alive`] sessions.
pub const ALIVE: &str = "alive";

/// What serve works by. Absent until management has started the listeners.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The text that the token's key is read from; a secret.
    pub encryptor_password: String,
    /// Whether a session is bound to the address that asked for it.
    pub source_check: bool,
    /// The browsers' certificate, where there is one.
    pub tls: Option<Tls>,
}

/// A certificate chain and its key, DER in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The proxy's own certificate first.
    pub chain: Vec<String>,
    /// PKCS#8; a secret.
    pub key: String,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a chain of {}", self.chain.len())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("source_check", &self.source_check).finish_non_exhaustive()
    }
}

/// Certificates towards hypervisors, PEM; empty where there is none.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Who vouches for VNC servers.
    pub authorities: String,
    /// The proxy's own certificate, for servers that ask for one.
    pub chain: String,
    /// Its key; a secret.
    pub key: String,
    /// Who vouches for XenServer and VMware; where it is empty, any certificate of theirs will do.
    pub web: String,
    /// Whether a screen is shown only where TLS leads to it.
    pub required: bool,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

/// A session that serve has checked as far as it can.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Key of the session between core and serve, never used twice.
    pub key: u64,
    /// Address or name of the hypervisor, as management knows it.
    pub host: String,
    /// Its VNC port, as management knows it; -1 where a tunnel leads to the screen.
    pub port: i32,
    /// Where to connect to: address or name, and port.
    pub to: (String, u16),
    /// Whether management has to agree; VMware's tickets stand for that.
    pub ask: bool,
    /// UUID of the VM.
    pub vm: String,
    /// Its VNC password; a secret.
    pub password: String,
    /// Management's proof that the URL is fresh; a secret.
    pub ticket: Option<String>,
    /// The session.
    pub session: String,
    /// Address of the browser.
    pub client: IpAddr,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("vm", &self.vm)
            .field("session", &self.session)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Open {
    /// Whether `other` is the same viewer of the same screen.
    pub fn is_same_viewer(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.to, &self.vm, &self.password, &self.session, self.client)
            == (&other.host, other.port, &other.to, &other.vm, &other.password, &other.session, other.client)
    }

    /// What a load report says of the session; `id` counts from 1, `now` is in milliseconds since 1970.
    pub fn connection(&self, id: u64, now: i64) -> Connection {
        Connection {
            id,
            client_info: String::new(),
            host: self.host.clone(),
            port: self.port,
            tag: self.vm.clone(),
            create_time: now,
            last_used_time: now,
            session_uuid: Some(self.session.clone()),
        }
    }
}

/// The core's answer to [`Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The session may be opened; the socket that comes along is connected to the hypervisor.
    Granted,
    /// The same, and what it shows is recorded: serve asks for the file ([`TAPE`]).
    Recorded,
    /// It may not.
    Denied(Denial),
}

/// Why the core does not open a session. The text is for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// Management has not announced the session, or it has been used.
    #[error("console session expired or already used, open the console again")]
    Unknown,
    /// Management says no.
    #[error("console session expired or not allowed, open the console again")]
    Denied,
    /// Management did not answer.
    #[error("the management server does not answer, try again later")]
    Silent,
    /// The hypervisor did not answer.
    #[error("the hypervisor of this virtual machine cannot be reached")]
    Unreachable,
}

impl Denial {
    /// One word for logs and counters.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Denied => "denied",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether the browser may be guessing.
    pub fn is_suspicious(self) -> bool {
        matches!(self, Self::Unknown | Self::Denied)
    }
}

/// A session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its key.
    pub key: u64,
    /// Why.
    pub end: End,
    /// Bytes from the hypervisor to the browser.
    pub down: u64,
    /// Bytes from the browser to the hypervisor.
    pub up: u64,
}

/// A session that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Its key.
    pub key: u64,
    /// What a load report says of it; the report's own `id` is the core's.
    pub connection: Connection,
    /// Address of the browser.
    pub client: IpAddr,
    /// Bytes from the hypervisor to the browser.
    pub down: u64,
    /// Bytes from the browser to the hypervisor.
    pub up: u64,
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pages and streams for browsers.
    Public,
    /// Status and metrics for operators.
    Status,
}

/// A listening socket; its text names it in the hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// What it is for.
    pub purpose: Purpose,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether TLS is spoken on it.
    pub tls: bool,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let purpose = match self.purpose {
            Purpose::Public => "public",
            Purpose::Status => "status",
        };
        write!(f, "{purpose} {} {}", self.address, if self.tls { "tls" } else { "plain" })
    }
}

impl Listener {
    /// Reads a name back.
    pub fn parse(name: &str) -> Option<Self> {
        let mut words = name.split(' ');
        let (purpose, address, tls) = (words.next()?, words.next()?, words.next()?);
        let purpose = match purpose {
            "public" => Purpose::Public,
            "status" => Purpose::Status,
            _ => return None,
        };
        Some(Self { purpose, address: address.parse().ok()?, tls: tls == "tls" })
    }
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_listeners_read_back() {
        for (name, tls) in [("public 203.0.113.5:80 plain", false), ("status [::1]:8001 tls", true)] {
            let listener = Listener::parse(name).unwrap();
            assert_eq!((listener.to_string().as_str(), listener.tls), (name, tls));
        }
        for name in ["", "public", "public x plain", "other 1.2.3.4:5 plain"] {
            assert_eq!(Listener::parse(name), None, "{name}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let settings = Settings { encryptor_password: "hidden".into(), source_check: true, tls: None };
        assert!(!format!("{settings:?}").contains("hidden"));
    }
}
