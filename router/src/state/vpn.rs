//! Virtual private networks: other sites, clients and their users, and WireGuard (router contract 3.17, 3.18).

use std::{net::Ipv4Addr, sync::Arc};

use common::command::Secret;
use imbl::OrdMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{
    Changed, Setup, State,
    edits::{apply, changed},
};
use crate::document::{DocumentError, RemoteChange, SiteChange, UserChange, WireguardChange};

/// Most sites, and most WireGuard peers.
const SITES: usize = 1000;
/// Most users.
const USERS: usize = 10_000;

/// All of it. A copy shares everything with what it was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vpn {
    /// Other sites by the address of their gateway.
    pub sites: OrdMap<Ipv4Addr, Arc<Site>>,
    /// Where clients are let in, by the public address.
    pub remotes: OrdMap<Ipv4Addr, Arc<Remote>>,
    /// Passwords of clients by their names.
    pub users: OrdMap<String, Secret>,
    /// WireGuard.
    pub wireguard: Option<Arc<Wireguard>>,
}

/// Versions of IKE that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IkeVersion {
    /// Version 2 is offered, 1 is taken, too.
    Any,
    /// Version 1 alone.
    V1,
    /// Version 2 alone.
    V2,
}

/// Another site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The public address that this router speaks from, and its identity.
    pub local: Ipv4Addr,
    /// The network here.
    pub net: Ipv4Net,
    /// The networks there, in the order of the document.
    pub remote: Vec<Ipv4Net>,
    /// Versions of IKE.
    pub version: IkeVersion,
    /// Proposals for IKE as charon writes them, `aes256-sha256-modp2048`.
    pub ike: Vec<String>,
    /// The same for ESP; a group in one of them means perfect forward secrecy.
    pub esp: Vec<String>,
    /// Longest life of the IKE connection, seconds.
    pub ike_lifetime: u32,
    /// The same of its children.
    pub esp_lifetime: u32,
    /// The secret that both sites know.
    pub secret: Secret,
    /// Whether the other site is asked now and then if it is still there.
    pub dpd: bool,
    /// Whether this side only answers.
    pub passive: bool,
    /// Whether ESP is always wrapped in UDP.
    pub encap: bool,
    /// Whether each network there gets a child of its own.
    pub split: bool,
}

/// Where clients are let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// First and last address that clients get.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// The router's address towards them.
    pub local: Ipv4Addr,
    /// The network that they reach.
    pub net: Ipv4Net,
    /// The secret that all of them know.
    pub secret: Secret,
}

/// WireGuard, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wireguard {
    /// The router's key.
    pub key: Secret,
    /// UDP port.
    pub port: u16,
    /// The router's address in the network of clients, with the length of its prefix.
    pub address: Ipv4Net,
    /// Sites and clients by their public key, in base64.
    pub peers: Vec<WireguardPeer>,
}

/// A site or client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardPeer {
    /// Its public key in base64.
    pub key: String,
    /// A second secret, where both have one.
    pub shared: Option<Secret>,
    /// Networks and addresses behind it.
    pub nets: Vec<Ipv4Net>,
    /// Where it is, where this side is to begin: address and port.
    pub endpoint: Option<std::net::SocketAddrV4>,
    /// Every so many seconds it is told that this side is there; for peers behind NAT.
    pub keepalive: Option<u16>,
}

/// What differs between two of it; see [`super::Edits`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VpnEdits {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sites: Changed<Ipv4Addr, Arc<Site>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remotes: Changed<Ipv4Addr, Arc<Remote>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    users: Changed<String, Secret>,
    /// The list has what there is now, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    wireguard: Option<Vec<Arc<Wireguard>>>,
}

impl VpnEdits {
    /// What makes `new` out of `old`.
    pub fn between(old: &Vpn, new: &Vpn) -> Self {
        Self {
            sites: changed(&old.sites, &new.sites),
            remotes: changed(&old.remotes, &new.remotes),
            users: changed(&old.users, &new.users),
            wireguard: (old.wireguard != new.wireguard).then(|| new.wireguard.iter().cloned().collect()),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Vpn {
    /// Takes edits over.
    pub fn edit(&mut self, edits: VpnEdits) {
        apply(&mut self.sites, edits.sites);
        apply(&mut self.remotes, edits.remotes);
        apply(&mut self.users, edits.users);
        if let Some(wireguard) = edits.wireguard {
            self.wireguard = wireguard.into_iter().next();
        }
    }
}

fn room(path: &str, present: usize, limit: usize) -> Result<(), DocumentError> {
    if present < limit {
        return Ok(());
    }
    Err(DocumentError::new(path, format_args!("would make more than {limit} entries")))
}

fn must_forward(setup: &Setup, kind: &str) -> Result<(), DocumentError> {
    if setup.kind.forwards() {
        return Ok(());
    }
    Err(DocumentError::new("type", format_args!("{kind}: this router has no guests behind it")))
}

impl State {
    /// Merges a `site2sitevpn` document: it replaces or removes the site of that gateway. A removal of one that is not
    /// known asks for nothing.
    pub fn merge_site(&mut self, setup: &Setup, change: &SiteChange) -> Result<(), DocumentError> {
        must_forward(setup, "site2sitevpn")?;
        let Some(site) = &change.site else {
            self.vpn.sites.remove(&change.peer);
            return Ok(());
        };
        if site.local == change.peer {
            return Err(DocumentError::new("peer_gateway_ip", "is this router's own address"));
        }
        room("peer_gateway_ip", self.vpn.sites.len(), SITES)?;
        self.vpn.sites.insert(change.peer, Arc::new(site.clone()));
        Ok(())
    }

    /// Merges a `remoteaccessvpn` document, in the same way.
    pub fn merge_remote(&mut self, setup: &Setup, change: &RemoteChange) -> Result<(), DocumentError> {
        must_forward(setup, "remoteaccessvpn")?;
        let Some(remote) = &change.remote else {
            self.vpn.remotes.remove(&change.server);
            return Ok(());
        };
        // One server has one pool: the program behind it knows one range.
        self.vpn.remotes.clear();
        self.vpn.remotes.insert(change.server, Arc::new(remote.clone()));
        Ok(())
    }

    /// Merges a `vpnuserlist` document: each user gets a password, or goes.
    pub fn merge_users(&mut self, setup: &Setup, changes: &[UserChange]) -> Result<(), DocumentError> {
        must_forward(setup, "vpnuserlist")?;
        room("vpn_users", self.vpn.users.len() + changes.len(), USERS)?;
        for change in changes {
            match &change.password {
                Some(password) => drop(self.vpn.users.insert(change.user.clone(), password.clone())),
                None => drop(self.vpn.users.remove(&change.user)),
            }
        }
        Ok(())
    }

    /// Merges a `wireguard` document: it is all that there is of it.
    pub fn merge_wireguard(&mut self, setup: &Setup, change: &WireguardChange) -> Result<(), DocumentError> {
        must_forward(setup, "wireguard")?;
        if let Some(wireguard) = &change.wireguard {
            room("peers", wireguard.peers.len().saturating_sub(1), SITES)?;
        }
        self.vpn.wireguard = change.wireguard.clone().map(Arc::new);
        Ok(())
    }
}
