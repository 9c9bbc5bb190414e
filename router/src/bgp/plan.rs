//! What this router tells whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::state::{Kind, Setup, State};

/// All that is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaker {
    /// By which others know this router.
    pub id: Ipv4Addr,
    /// Number of its autonomous system: the lowest one where networks have several.
    pub number: u32,
    /// To whom.
    pub neighbors: BTreeMap<IpAddr, Neighbor>,
    /// Networks of guests.
    pub networks: BTreeSet<IpNet>,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Number of its autonomous system.
    pub their: u32,
    /// As whom it knows us, where that is another number than the router's.
    pub known_as: Option<u32>,
    /// By which both know each other.
    pub password: Option<String>,
    /// How many routers away it may be.
    pub hops: Option<u8>,
    /// What it hears of.
    pub networks: BTreeSet<IpNet>,
}

impl std::fmt::Debug for Neighbor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Neighbor {{ AS {}, {:?} }}", self.their, self.networks)
    }
}

/// What should be said; `None` where nobody is to hear anything. Of several items about one peer the first one says
/// how it is reached.
pub fn plan(setup: &Setup, state: &State) -> Option<Speaker> {
    let number = state.peers.iter().map(|peer| peer.our).min()?;
    let own = match setup.kind {
        Kind::Vpc => setup.vpc.source_nat,
        _ => setup.public.as_ref().map(|nic| nic.address),
    };
    let mut speaker = Speaker {
        id: own.or_else(|| state.addresses.keys().next().copied()).unwrap_or(setup.control.address),
        number,
        neighbors: BTreeMap::new(),
        networks: BTreeSet::new(),
    };
    for peer in state.peers.iter() {
        let neighbor = speaker.neighbors.entry(peer.address).or_insert_with(|| Neighbor {
            their: peer.their,
            known_as: Some(peer.our).filter(|our| *our != number),
            password: peer.password.clone(),
            hops: peer.hops,
            networks: BTreeSet::new(),
        });
        neighbor.networks.extend(peer.network);
        speaker.networks.extend(peer.network);
    }
    Some(speaker)
}
