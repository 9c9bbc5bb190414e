//! What arrives: the JSON documents of the management server, each read into one typed [`Document`].
//!
//! Reading is permissive where senders are sloppy and strict about what a rule means. An error names
//! the place in the document (`rules[3].source_ip_address`) and what is wrong there; nothing of such a
//! document is applied and the state before stays in force.

mod address;
mod balance;
mod bgp;
mod firewall;
mod forward;
mod guest;
mod monitor;
mod node;
mod vpc;
mod vpn;

#[cfg(test)]
mod tests;

use std::fmt::Display;

use serde_json::Value;

pub use address::AddressChange;
pub use balance::{BalanceChange, Refusal};
pub use bgp::BgpChange;
pub use firewall::FirewallChange;
pub use forward::{ForwardChange, StaticNatChange};
pub use guest::{DhcpChange, MetadataChange, PasswordChange};
pub use monitor::MonitorChange;
use node::Node;
pub use vpc::{AclChange, AliasChange, RouteChange, TierChange};
pub use vpn::{RemoteChange, SiteChange, UserChange, WireguardChange};

use crate::types::Family;

/// Largest document in bytes.
pub const LIMIT: usize = 32 * 1024 * 1024;

/// A document that cannot be right. Nothing of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}; nothing of this document was applied", place(path))]
pub struct DocumentError {
    /// Where in the document, `rules[3].protocol`; empty for the document itself.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

fn place(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl DocumentError {
    /// An error at a place.
    pub fn new(path: impl Into<String>, reason: impl Display) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

/// One document, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// `ips`: public addresses come and go.
    Addresses(Vec<AddressChange>),
    /// `forwardrules`: port forwards come and go.
    Forwards(Vec<ForwardChange>),
    /// `staticnatrules`: static NAT comes and goes.
    StaticNat(Vec<StaticNatChange>),
    /// `firewallrules`: ingress and egress rules come and go.
    Firewall(Vec<FirewallChange>),
    /// `ipv6firewallrules`: the same of IPv6.
    Firewall6(Vec<FirewallChange>),
    /// `dhcpentry`: one reservation.
    Dhcp(DhcpChange),
    /// `vmdata`: user data and metadata of one guest.
    Metadata(MetadataChange),
    /// `vmpassword`: a new password of one guest.
    Password(PasswordChange),
    /// `loadbalancer`: all load balancing.
    Balance(BalanceChange),
    /// `monitorservice`: what to watch.
    Monitor(MonitorChange),
    /// `guestnetwork`: one tier.
    Tier(TierChange),
    /// `networkacl`: the rules of one tier or private gateway.
    Acl(AclChange),
    /// `staticroutes`: routes come and go.
    Routes(Vec<RouteChange>),
    /// `ipaliases`: more addresses of a shared network's router.
    Aliases(Vec<AliasChange>),
    /// `bgppeers`: all peers.
    Bgp(BgpChange),
    /// `site2sitevpn`: another site.
    Site(SiteChange),
    /// `remoteaccessvpn`: where clients are let in.
    Remote(RemoteChange),
    /// `vpnuserlist`: clients' names come and go.
    Users(Vec<UserChange>),
    /// `wireguard`: all of it.
    Wireguard(WireguardChange),
    /// A type that asks for nothing here (`dhcpconfig`, `cmdline`), or that nobody knows.
    Nothing(String),
}

impl Document {
    /// Whether it has passwords or keys in it.
    pub const fn is_secret(&self) -> bool {
        matches!(
            self,
            Self::Password(_) | Self::Site(_) | Self::Remote(_) | Self::Users(_) | Self::Wireguard(_)
        )
    }

    /// Reads the bytes of a document. Bytes that are not UTF-8 (senders in other locales) are replaced,
    /// not refused.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        if bytes.len() > LIMIT {
            return Err(DocumentError::new("", format_args!("longer than {LIMIT} bytes")));
        }
        let text = String::from_utf8_lossy(bytes);
        let value: Value =
            serde_json::from_str(&text).map_err(|e| DocumentError::new("", format_args!("no JSON: {e}")))?;
        let root = Node::root(&value)?;
        let kind = root.text("type")?.ok_or_else(|| root.error("type", "is missing"))?;
        Ok(match kind.as_str() {
            "ips" => Self::Addresses(each(&root, "ip_address", AddressChange::read)?),
            "forwardrules" => Self::Forwards(each(&root, "rules", ForwardChange::read)?),
            "staticnatrules" => Self::StaticNat(each(&root, "rules", StaticNatChange::read)?),
            "firewallrules" => {
                Self::Firewall(each(&root, "rules", |n| FirewallChange::read(n, Family::Four))?)
            }
            "ipv6firewallrules" => {
                Self::Firewall6(each(&root, "rules", |n| FirewallChange::read(n, Family::Six))?)
            }
            "dhcpentry" => match DhcpChange::read(&root)? {
                Some(change) => Self::Dhcp(change),
                None => Self::Nothing("dhcpentry without an IPv4 address".to_owned()),
            },
            "vmdata" => Self::Metadata(MetadataChange::read(&root)?),
            "vmpassword" => Self::Password(PasswordChange::read(&root)?),
            "monitorservice" => Self::Monitor(MonitorChange::read(&root)?),
            "guestnetwork" => Self::Tier(TierChange::read(&root)?),
            "networkacl" => Self::Acl(AclChange::read(&root)?),
            "staticroutes" => Self::Routes(each(&root, "routes", RouteChange::read)?),
            "ipaliases" => Self::Aliases(each(&root, "aliases", AliasChange::read)?),
            "loadbalancer" => Self::Balance(BalanceChange::read(&root)?),
            "bgppeers" => Self::Bgp(BgpChange::read(&root)?),
            "site2sitevpn" => Self::Site(SiteChange::read(&root)?),
            "remoteaccessvpn" => Self::Remote(RemoteChange::read(&root)?),
            "vpnuserlist" => Self::Users(each(&root, "vpn_users", UserChange::read)?),
            "wireguard" => Self::Wireguard(WireguardChange::read(&root)?),
            _ => Self::Nothing(kind),
        })
    }
}

fn each<'a, T>(
    root: &Node<'a>,
    name: &str,
    read: impl Fn(&Node<'a>) -> Result<T, DocumentError>,
) -> Result<Vec<T>, DocumentError> {
    root.objects(name)?.iter().map(read).collect()
}
