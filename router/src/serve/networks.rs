//! The networks of guests: who may ask at which of the router's addresses.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::snapshot::Dhcp;

/// All networks of guests; built from the DHCP snapshot, which names each of them.
#[derive(Debug, Default)]
pub struct Networks(Vec<Ipv4Net>);

impl Networks {
    /// The networks of a snapshot.
    pub fn new(snapshot: &Dhcp) -> Self {
        Self(snapshot.subnets.iter().map(|s| s.network).collect())
    }

    /// Whether the router's address and the guest are in one network.
    pub fn share(&self, router: Ipv4Addr, guest: Ipv4Addr) -> bool {
        self.0.iter().any(|n| n.contains(&router) && n.contains(&guest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_share() {
        let networks = Networks(vec!["10.9.1.0/24".parse().unwrap(), "10.9.2.0/24".parse().unwrap()]);
        let [one, two] = [[10, 9, 1, 1], [10, 9, 2, 1]].map(Ipv4Addr::from);
        assert!(networks.share(one, [10, 9, 1, 10].into()) && networks.share(two, [10, 9, 2, 10].into()));
        assert!(!networks.share(one, [10, 9, 2, 10].into()) && !networks.share(one, [192, 0, 2, 1].into()));
    }
}
