//! From the line of boot arguments to the [`Identity`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use base64::{Engine as _, alphabet, engine};
use ipnet::{IpNet, Ipv4Net};

/// Longest line of boot arguments in bytes. `userdata` may make it tens of KiB.
pub const LIMIT: usize = 1024 * 1024;

/// Base64 with or without its padding: the host loses `=` signs on some roads.
const BASE64: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What the VM is to be, from `type=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `router`, `vpcrouter`, `dhcpsrvr`, `ilbvm`, `elbvm`; the exact word stays in [`Identity::kind`].
    Router,
    /// `secstorage`.
    SecondaryStorage,
    /// `consoleproxy`.
    ConsoleProxy,
}

impl Role {
    /// The short name that folders, sockets and binaries of the role carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::SecondaryStorage => "ssvm",
            Self::ConsoleProxy => "cpvm",
        }
    }

    /// The role of a word behind `type=`; `None` for one that is not known.
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "router" | "vpcrouter" | "dhcpsrvr" | "ilbvm" | "elbvm" => Some(Self::Router),
            "secstorage" => Some(Self::SecondaryStorage),
            "consoleproxy" => Some(Self::ConsoleProxy),
            _ => None,
        }
    }
}

/// One NIC named by `eth<N>ip` and `eth<N>mask`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// N of `eth<N>`.
    pub index: u32,
    /// `None` when the argument was `0.0.0.0`.
    pub address: Option<Ipv4Addr>,
    /// Length of the prefix, 0 to 32.
    pub prefix: u8,
    /// From `eth<N>ip6` and `eth<N>ip6prelen` (64 where that is absent): address and length of its prefix.
    pub ipv6: Option<(Ipv6Addr, u8)>,
}

impl Nic {
    /// The kernel's name of the NIC.
    pub fn device(&self) -> String {
        format!("eth{}", self.index)
    }

    /// IPv4 address and prefix, where it has one.
    pub fn ipv4(&self) -> Option<Ipv4Net> {
        self.address.and_then(|a| Ipv4Net::new(a, self.prefix).ok())
    }
}

/// Everything that the boot arguments say. Values that are the text `null` count as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The role that decides which services run.
    pub role: Role,
    /// The word behind `type=`.
    pub kind: String,
    /// `name=`: instance and host name; the word behind `type=` where that argument is missing.
    pub name: String,
    /// NICs in order of their index. One whose arguments are malformed is left out and is among `problems`.
    pub nics: Vec<Nic>,
    /// Index of the NIC on which SSH is answered.
    pub control_nic: u32,
    /// All arguments as they came, last one of a name wins.
    pub arguments: BTreeMap<String, String>,
    /// Arguments that were refused; everything else stays in force.
    pub problems: Vec<ArgumentError>,
}

/// A boot argument that cannot be right. It counts as absent; all others stay in force.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// A needed argument is missing.
    #[error("boot argument {0} is missing")]
    Missing(&'static str),
    /// An argument has a value that cannot be read.
    #[error("boot argument {name}={value}: {reason}")]
    Malformed {
        /// Its name.
        name: String,
        /// Its value, shortened, secrets left out.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ArgumentError {
    fn malformed(name: &str, value: &str, reason: impl ToString) -> Self {
        Self::Malformed { name: name.to_owned(), value: shorten(name, value), reason: reason.to_string() }
    }
}

impl Identity {
    /// Reads a line of boot arguments (router contract 1.2): blanks or, where a hypervisor had to
    /// hide them, `%` part the words; each splits at its first `=`; a word without one is its own
    /// value; of several with one name the last wins.
    ///
    /// # Errors
    /// Where `type` is missing or unknown, since nothing can be decided then. Any other bad argument
    /// is left out and named in [`Identity::problems`].
    pub fn parse(line: &str) -> Result<Self, ArgumentError> {
        let arguments = arguments(line);
        let kind = value(&arguments, "type").ok_or(ArgumentError::Missing("type"))?.to_owned();
        let role = Role::of(&kind).ok_or_else(|| {
            ArgumentError::malformed(
                "type",
                &kind,
                "is none of router, vpcrouter, dhcpsrvr, ilbvm, elbvm, secstorage, consoleproxy",
            )
        })?;
        let mut problems = Vec::new();
        let name = match value(&arguments, "name") {
            None => {
                problems.push(ArgumentError::Missing("name"));
                kind.clone()
            }
            Some(name) if host_name(name) => name.to_owned(),
            Some(name) => {
                problems.push(ArgumentError::malformed("name", name, "is not a host name"));
                kind.clone()
            }
        };
        let nics = nics(&arguments, &mut problems);
        let control_nic = control_nic(&kind, role, &nics, value(&arguments, "sshonguest") == Some("true"));
        let mut identity = Self { role, kind, name, nics, control_nic, arguments, problems };
        identity.check();
        Ok(identity)
    }

    /// The value of an argument, `None` where it is absent, empty or `null`.
    pub fn get(&self, name: &str) -> Option<&str> {
        value(&self.arguments, name)
    }

    /// Whether an argument is `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The NIC `eth<index>`, if the arguments name it.
    pub fn nic(&self, index: u32) -> Option<&Nic> {
        self.nics.iter().find(|n| n.index == index)
    }

    /// The NIC on which SSH is answered, if the arguments name it.
    pub fn control(&self) -> Option<&Nic> {
        self.nic(self.control_nic)
    }

    /// An argument as a number, an address or another type; `None` where it is absent or cannot be read.
    pub fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).and_then(|v| v.parse().ok())
    }

    /// The items of a comma list, blanks and empty items left out.
    pub fn list(&self, name: &str) -> Vec<&str> {
        self.get(name)
            .map(|v| v.split(',').map(str::trim).filter(|v| !v.is_empty()).collect())
            .unwrap_or_default()
    }

    /// The CIDRs of a comma list; a bare address is one whole address. Items that cannot be read are left out.
    pub fn cidrs(&self, name: &str) -> Vec<IpNet> {
        self.list(name).into_iter().filter_map(cidr).collect()
    }

    /// An argument in base64 (padded or not) as bytes; `None` where it is absent or cannot be read.
    pub fn base64(&self, name: &str) -> Option<Vec<u8>> {
        self.get(name).and_then(|v| BASE64.decode(v).ok())
    }

    /// The public key line of `authorized_key`, without its line end.
    pub fn authorized_key(&self) -> Option<String> {
        let text = String::from_utf8(self.base64("authorized_key")?).ok()?;
        key_line(&text).map(str::to_owned)
    }

    /// Resolvers in the order of the contract: internaldns1, internaldns2, dns1, dns2, ip6dns1, ip6dns2, each once.
    pub fn resolvers(&self) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for name in ["internaldns1", "internaldns2", "dns1", "dns2", "ip6dns1", "ip6dns2"] {
            if let Some(address) = self.parsed::<IpAddr>(name)
                && !all.contains(&address)
            {
                all.push(address);
            }
        }
        all
    }

    /// Names of arguments that no role knows; they are kept, and worth a line in the log.
    pub fn unknown(&self) -> Vec<&str> {
        self.arguments.keys().map(String::as_str).filter(|n| !super::known::is_known(n)).collect()
    }

    /// Looks at the arguments whose shape the contract fixes, and notes those that are malformed.
    fn check(&mut self) {
        let mut found = Vec::new();
        for name in super::known::ADDRESSES {
            if let Some(v) = self.get(name)
                && v.parse::<IpAddr>().is_err()
            {
                found.push(ArgumentError::malformed(name, v, "is not an address"));
            }
        }
        for name in super::known::NUMBERS {
            if let Some(v) = self.get(name)
                && v.parse::<u32>().is_err()
            {
                found.push(ArgumentError::malformed(name, v, "is not a number"));
            }
        }
        for item in self.list("mgmtcidr") {
            if cidr(item).is_none() {
                found.push(ArgumentError::malformed("mgmtcidr", item, "is not a CIDR"));
            }
        }
        if let Some(v) = self.get("authorized_key")
            && self.authorized_key().is_none()
        {
            found.push(ArgumentError::malformed(
                "authorized_key",
                v,
                "is not base64 of one line with a public key",
            ));
        }
        self.problems.extend(found);
    }
}

/// Splits a line of boot arguments into names and values; the last one of a name wins.
pub fn arguments(line: &str) -> BTreeMap<String, String> {
    let hidden = line.contains("%type=");
    line.split(|c: char| c.is_ascii_whitespace() || c == '\0' || (hidden && c == '%'))
        .filter(|word| !word.is_empty())
        .map(|word| word.split_once('=').unwrap_or((word, word)))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The value of an argument, `None` where it is absent, empty or `null`.
fn value<'a>(arguments: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    arguments.get(name).map(String::as_str).filter(|v| !v.is_empty() && *v != "null")
}

/// The one line with a public key in a text; `None` where there is none or something else.
fn key_line(text: &str) -> Option<&str> {
    let line = text.trim();
    let printable = line.chars().all(|c| !c.is_control());
    (printable && line.split(' ').count() >= 2).then_some(line)
}

/// A CIDR or a bare address.
fn cidr(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|n| n.trunc())
}

/// Whether a text may be a host name (RFC 1123 2.1).
fn host_name(text: &str) -> bool {
    text.len() <= 64
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn nics(arguments: &BTreeMap<String, String>, problems: &mut Vec<ArgumentError>) -> Vec<Nic> {
    let mut nics = Vec::new();
    for index in 0..64 {
        let name = format!("eth{index}ip");
        let ipv4 = value(arguments, &name).map(|v| (v, value(arguments, &format!("eth{index}mask"))));
        let ipv6 = value(arguments, &format!("eth{index}ip6"))
            .map(|v| (v, value(arguments, &format!("eth{index}ip6prelen"))));
        if ipv4.is_none() && ipv6.is_none() {
            continue;
        }
        match nic(index, ipv4, ipv6) {
            Ok(nic) => nics.push(nic),
            Err(problem) => problems.push(problem),
        }
    }
    nics
}

/// An address and what its mask or length says, both as text.
type Texts<'a> = Option<(&'a str, Option<&'a str>)>;

fn nic(index: u32, ipv4: Texts<'_>, ipv6: Texts<'_>) -> Result<Nic, ArgumentError> {
    let mut nic = Nic { index, address: None, prefix: 0, ipv6: None };
    if let Some((address, mask)) = ipv4 {
        let parsed: Ipv4Addr =
            address.parse().map_err(|e| ArgumentError::malformed(&format!("eth{index}ip"), address, e))?;
        let name = format!("eth{index}mask");
        if !parsed.is_unspecified() {
            let mask =
                mask.ok_or_else(|| ArgumentError::malformed(&name, "", "is missing for an address"))?;
            nic.address = Some(parsed);
            nic.prefix = prefix(mask).map_err(|e| ArgumentError::malformed(&name, mask, e))?;
        }
    }
    if let Some((address, length)) = ipv6 {
        let parsed =
            address.parse().map_err(|e| ArgumentError::malformed(&format!("eth{index}ip6"), address, e))?;
        let length = length.unwrap_or("64");
        let bits = length.parse().ok().filter(|bits| *bits <= 128).ok_or_else(|| {
            ArgumentError::malformed(&format!("eth{index}ip6prelen"), length, "is not a length from 0 to 128")
        })?;
        nic.ipv6 = Some((parsed, bits));
    }
    Ok(nic)
}

/// Length of a prefix from a dotted mask (`255.255.0.0`) or the bare length (`16`).
fn prefix(mask: &str) -> Result<u8, &'static str> {
    if let Ok(bits) = mask.parse::<u8>() {
        return if bits <= 32 { Ok(bits) } else { Err("is longer than 32 bits") };
    }
    let mask: Ipv4Addr = mask.parse().map_err(|_| "is not a mask")?;
    ipnet::ipv4_mask_to_prefix(mask).map_err(|_| "is a mask with gaps")
}

/// The NIC on which SSH is answered (router contract 1.6, console proxy contract 1.2).
fn control_nic(kind: &str, role: Role, nics: &[Nic], ssh_on_guest: bool) -> u32 {
    let has_address = |index| nics.iter().any(|n| n.index == index && n.address.is_some());
    match (role, kind) {
        (Role::Router, "vpcrouter") => 0,
        (Role::Router, "dhcpsrvr" | "elbvm") if ssh_on_guest => 0,
        (Role::Router, _) => 1,
        _ if !has_address(0) && has_address(1) => 1,
        _ => 0,
    }
}

/// A value fit for a message: secrets left out, the rest cut.
fn shorten(name: &str, value: &str) -> String {
    if super::known::SECRETS.contains(&name) {
        return "(secret)".to_owned();
    }
    let mut text: String = value.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect();
    if value.chars().nth(60).is_some() {
        text.push('…');
    }
    text
}
