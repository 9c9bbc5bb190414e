//! What a load balancer is to do: rules that cannot be wrong in themselves. Documents are read into them
//! ([`crate::document::BalanceChange`]), the state holds them, [`super::config`] turns them into HAProxy's language.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::types::{Nets, Transport};

/// Everything that is balanced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// Limits for all rules.
    pub limits: Limits,
    /// Pages with statistics.
    pub pages: BTreeMap<SocketAddrV4, Page>,
    /// The rules by what clients connect to.
    #[serde(with = "crate::state::pairs")]
    pub rules: BTreeMap<Front, Rule>,
}

/// What clients connect to; written `203.0.113.10:80`, or `udp 203.0.113.10:53`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Front {
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Transport.
    pub transport: Transport,
}

impl Front {
    /// The name that the management server knows it by: `203_0_113_10-80`.
    pub fn pool(&self) -> String {
        pool(self.address, self.port)
    }

    /// Address and port.
    pub const fn socket(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, self.port)
    }

    /// Reads the name of a pool, as of a TCP rule.
    pub fn of_pool(name: &str) -> Option<Self> {
        let (address, port) = name.split_once('-')?;
        let address = address.replace('_', ".").parse().ok()?;
        Some(Self { address, port: port.parse().ok()?, transport: Transport::Tcp })
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}:{}", self.address, self.port),
            Transport::Udp => write!(f, "udp {}:{}", self.address, self.port),
        }
    }
}

/// `203_0_113_10-80`.
pub fn pool(address: Ipv4Addr, port: u16) -> String {
    format!("{}-{port}", address.to_string().replace('.', "_"))
}

/// Limits for all rules; `None` leaves it to what [`super::config`] takes otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Connections at once.
    pub connections: Option<u32>,
    /// How often a server is tried again.
    pub retries: Option<u8>,
    /// Whether each connection of HTTP carries one request.
    pub close: bool,
    /// Times.
    pub timeouts: Timeouts,
    /// A page with statistics at the address of every rule that understands HTTP.
    pub page: Option<PageView>,
}

/// Times in milliseconds, by HAProxy's names (`client`, `server`, `connect` …).
pub type Timeouts = BTreeMap<String, Millis>;

/// Names of times that are known.
pub const TIMEOUTS: [&str; 10] = [
    "connect",
    "client",
    "server",
    "tunnel",
    "queue",
    "check",
    "client-fin",
    "server-fin",
    "http-request",
    "http-keep-alive",
];

/// A time in milliseconds, as HAProxy takes it: at most 24 days. Read as `5000`, `5s`, `30m`, `3h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u32);

impl Millis {
    /// Reads a time whose unit is `unit` milliseconds where none is written.
    pub fn read(text: &str, unit: u64) -> Option<Self> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, word) = text.split_at(digits);
        let unit = match word {
            "" => unit,
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let all = number.parse::<u64>().ok()?.checked_mul(unit)?;
        u32::try_from(all).ok().filter(|ms| *ms <= 24 * 86_400_000).map(Self)
    }
}

/// A page with statistics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Its name, `stats_on_public`.
    pub name: Word,
    /// Where it is found.
    pub view: PageView,
}

/// How a page with statistics is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageView {
    /// Path and query.
    pub uri: Option<Text>,
    /// What a browser shows when it asks for the password.
    pub realm: Option<Text>,
    /// `user:password`.
    pub auth: Vec<Text>,
}

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// HTTP is understood, not only passed on.
    pub http: bool,
    /// Whether each connection of HTTP carries one request; `None` leaves it to the limits.
    pub close: Option<bool>,
    /// TLS ends here.
    pub tls: Option<Tls>,
    /// The header `X-Forwarded-Proto: https` is added.
    pub forwarded_proto: bool,
    /// Who may connect.
    pub sources: Nets,
    /// Which server is next.
    pub algorithm: Algorithm,
    /// What keeps a client at a server.
    pub stickiness: Option<Stickiness>,
    /// The servers are asked whether they are well.
    pub check: bool,
    /// The servers are told the client's address by the PROXY protocol, version 1.
    pub proxy_protocol: bool,
    /// Connections at once.
    pub connections: Option<u32>,
    /// Times of this rule.
    pub timeouts: Timeouts,
    /// A page with statistics at the rule's own address.
    pub page: Option<PageView>,
    /// The servers.
    pub servers: BTreeSet<SocketAddrV4>,
}

/// Which server is next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// By turns.
    #[default]
    RoundRobin,
    /// The one with the fewest connections.
    LeastConn,
    /// The same for the same client address.
    Source,
}

impl Algorithm {
    /// Its word in a configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "roundrobin",
            Self::LeastConn => "leastconn",
            Self::Source => "source",
        }
    }
}

/// TLS that ends at the balancer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Certificate, chain and key in PEM.
    pub pem: String,
    /// Protocols that are offered above TLS, `h2,http/1.1`.
    pub alpn: Option<Word>,
    /// Oldest version, `TLSv1.2`.
    pub version: Option<Word>,
    /// Ciphers up to TLS 1.2.
    pub ciphers: Option<Word>,
    /// Ciphers of TLS 1.3.
    pub suites: Option<Word>,
    /// Sessions are resumed by tickets.
    pub tickets: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key does not get into logs.
        f.debug_struct("Tls")
            .field("alpn", &self.alpn)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What keeps a client at a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stickiness {
    /// A cookie of the balancer.
    Cookie {
        /// Its name.
        name: Word,
        /// `insert`, `rewrite` or `prefix`.
        mode: CookieMode,
        /// The server does not see it.
        indirect: bool,
        /// Caches do not keep it.
        nocache: bool,
        /// Set in answers to POST only.
        postonly: bool,
        /// Domains that it is for.
        domains: Vec<Word>,
    },
    /// A cookie of the application.
    Application {
        /// Its name.
        name: Word,
        /// Characters of it that count.
        length: u16,
        /// For how long it is remembered.
        hold: Millis,
        /// The name is the beginning of the cookie's name; the rest of it belongs to the value.
        prefix: bool,
        /// It is learnt from requests too.
        request_learn: bool,
        /// It is also looked for in the query string, else among the path's parameters.
        query: bool,
    },
    /// The client's address.
    Source {
        /// Most addresses.
        size: u32,
        /// For how long an address is remembered after its last connection.
        expire: Millis,
    },
}

/// What the balancer's cookie is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CookieMode {
    /// Its own.
    Insert,
    /// The server's, whose value is replaced.
    Rewrite,
    /// The server's, whose value is prefixed.
    Prefix,
}

impl CookieMode {
    /// Its word in a configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Rewrite => "rewrite",
            Self::Prefix => "prefix",
        }
    }
}

/// A text that is one word of a configuration as it stands: nothing in it ends the word or means
/// something else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Word(String);

/// Longest word or text, in bytes.
const LONGEST: usize = 4096;

/// A text that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be part of a configuration")]
pub struct WordError(String);

impl WordError {
    fn new(text: &str) -> Self {
        Self(text.chars().take(60).collect())
    }
}

impl FromStr for Word {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"_-.:/+@!=,*~^&|<>?%".contains(&b);
        if !text.is_empty() && text.len() <= LONGEST && text.bytes().all(fine) {
            Ok(Self(text.to_owned()))
        } else {
            Err(WordError::new(text))
        }
    }
}

impl TryFrom<String> for Word {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A printable text on one line; written with what could mean something else escaped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Text(String);

impl FromStr for Text {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let printable = text.chars().all(|c| !c.is_control());
        if !text.is_empty() && text.len() <= LONGEST && printable {
            Ok(Self(text.to_owned()))
        } else {
            Err(WordError::new(text))
        }
    }
}

impl TryFrom<String> for Text {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if matches!(c, ' ' | '\\' | '"' | '\'' | '#') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}
