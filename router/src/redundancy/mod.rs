//! Two routers for one network: one is in force, the other has everything and is silent (router behaviour 8).
//!
//! keepalived elects, conntrackd carries connections over. Who is in force is read from the kernel: it is the router
//! whose NIC has the guests' gateway, which keepalived brings and takes away. So a core that starts again knows it
//! at once, and what it follows cannot differ from what guests see. [`plan`] says what the two programs should do,
//! [`config`] writes it down for them, [`keeper`] sees to it that they do it.

pub mod config;
pub mod keeper;
pub mod plan;

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use common::boot::Identity;
use ipnet::Ipv4Net;
use md5::{Digest as _, Md5};

use crate::{
    nft::{Action, Chain, Match},
    state::{SetupError, setup_value},
    types::{Nets, Ports, Transport},
    view::GuestNic,
};

/// Where VRRP and conntrackd talk to their like.
pub const GROUPS: [Ipv4Addr; 2] = [Ipv4Addr::new(224, 0, 0, 18), Ipv4Addr::new(225, 0, 0, 50)];

/// Port of conntrackd.
pub const SYNC: u16 = 3780;

/// Protocols of VRRP: with authentication headers, and bare.
const VRRP: [u8; 2] = [51, 112];

/// Letters of the secret that count.
const SECRET: usize = 8;

/// What a router of a pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is in force: it has the gateways of all guests.
    Primary,
    /// It is silent: the other one is, or nobody is yet.
    Backup,
    /// There is nobody who would elect it.
    Fault,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "PRIMARY",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
        })
    }
}

/// What boot arguments say of a pair, and which of its two this one is.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// Seconds between two advertisements.
    pub interval: u8,
    /// By which the two know each other.
    secret: String,
    /// The guests' gateway in an isolated network; tiers bring theirs along.
    pub gateway: Option<Ipv4Net>,
    /// The same of IPv6, with the length of its prefix.
    pub gateway6: Option<(Ipv6Addr, u8)>,
    /// Found in the kernel, not said by anybody: what boot arguments say of it is often wrong.
    pub role: Role,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interval, gateway, role, .. } = self;
        write!(f, "Pair {{ every {interval} s, gateway {gateway:?}, {role} }}")
    }
}

impl Pair {
    /// What boot arguments say of it; `None` where there is no pair.
    ///
    /// # Errors
    /// Where they cannot be understood.
    pub fn read(identity: &Identity) -> Result<Option<Self>, SetupError> {
        if identity.get("redundant_router").is_none_or(|value| value == "false" || value == "0") {
            return Ok(None);
        }
        let is_vpc = identity.kind == "vpcrouter";
        let prefix = setup_value(identity, "guestcidrsize")?;
        let prefix = prefix.or_else(|| identity.nic(0).map(|nic| nic.prefix)).unwrap_or(24);
        let gateway: Option<Ipv4Addr> = setup_value(identity, "guestgw")?;
        let gateway = gateway.and_then(|gateway| Ipv4Net::new(gateway, prefix).ok());
        if gateway.is_none() && !is_vpc {
            return Err(SetupError::Missing("guestgw"));
        }
        let gateway6: Option<Ipv6Addr> = setup_value(identity, "guestgw6")?;
        let prefix6 = setup_value(identity, "guestcidr6size")?.unwrap_or(64);
        Ok(Some(Self {
            interval: setup_value(identity, "advert_int")?.unwrap_or(1).max(1),
            secret: secret(identity, is_vpc)?,
            gateway: gateway.filter(|_| !is_vpc),
            gateway6: gateway6.map(|address| (address, prefix6)),
            role: Role::Backup,
        }))
    }

    /// By which the two know each other.
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

/// What the partner makes of its own boot arguments, too.
fn secret(identity: &Identity, is_vpc: bool) -> Result<String, SetupError> {
    let given = identity.get("router_password").map(str::to_owned);
    let text = given.unwrap_or_else(|| {
        let of = identity.get(if is_vpc { "vpccidr" } else { "eth2ip" }).unwrap_or_default();
        let group = identity.get("router_id").unwrap_or("1");
        hex(&Md5::digest(format!("{of}-{group}")))
    });
    let secret: String = text.chars().take(SECRET).collect();
    if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let reason = "holds other than letters and digits".to_owned();
        return Err(SetupError::Malformed { name: "router_password", value: "…".to_owned(), reason });
    }
    Ok(secret)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lets in what the partner says, which is in the network of the guests.
pub fn input(nic: &GuestNic<'_>, chain: &mut Chain) {
    let from = Match::From(Nets::new(nic.networks()).as_slice().to_vec());
    let [vrrp, sync] = GROUPS.map(|group| Match::to([Ipv4Net::from(group)]));
    for protocol in VRRP {
        chain.add([from.clone(), vrrp.clone(), Match::Number(protocol)], Action::Accept);
    }
    chain.add([from, sync, Match::Ports(Transport::Udp, Ports::one(SYNC))], Action::Accept);
}

#[cfg(test)]
mod tests;
