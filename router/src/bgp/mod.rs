//! Routes of guests' networks to the routers outside, by BGP (router behaviour 3.10).
//!
//! The state names peers; [`plan`] says what this router should tell whom, [`config`] puts it, or what has changed of
//! it, into words of FRR's, and [`keeper`] runs `zebra` and `bgpd` and gives them those words. A session that is not
//! named by a change stays up.

pub mod config;
pub mod keeper;
pub mod plan;

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    firewall::six,
    nft::{Action, Match, Table},
    types::{Nets, Ports, Transport},
    view::View,
};

/// TCP port of BGP.
pub const PORT: u16 = 179;

/// One peer, for one network of guests.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    /// Where it is.
    pub address: IpAddr,
    /// Number of its autonomous system.
    pub their: u32,
    /// Number of ours.
    pub our: u32,
    /// By which both know each other.
    pub password: Option<String>,
    /// How many routers away it may be, where it is not a neighbour.
    pub hops: Option<u8>,
    /// What it is to hear of, in its own family.
    pub network: Option<IpNet>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, their, our, hops, network, .. } = self;
        write!(f, "Peer {{ {address} AS {their}, our AS {our}, hops {hops:?}, {network:?} }}")
    }
}

/// Lets peers in: they may begin a session, too.
pub fn filter(view: &View<'_>, table: &mut Table) {
    for (is_six, chain) in [(false, "input"), (true, six::INPUT)] {
        let peers = view.state.peers.iter().filter(|peer| peer.address.is_ipv6() == is_six);
        let peers = Nets::new(peers.map(|peer| IpNet::from(peer.address)));
        if peers.is_any() || !table.chains.contains_key(chain) {
            continue;
        }
        let from = Match::From(peers.as_slice().to_vec());
        for nic in view.outer() {
            let matches =
                [Match::In(nic.name.clone()), from.clone(), Match::Ports(Transport::Tcp, Ports::one(PORT))];
            table.chain(chain).add(matches, Action::Accept);
        }
    }
}

#[cfg(test)]
mod tests;
