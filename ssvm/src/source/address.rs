//! Which addresses a tenant's URL may lead to. Checked for every connection that is made, after the
//! name has been resolved, so that neither a redirection nor a changing name gets around it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// What downloads may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Networks of the operator: the VM's own addresses, the management servers, the management network.
    pub(crate) internal: Vec<Ipv4Net>,
    /// Parts of them that downloads may reach all the same.
    pub(crate) allowed: Vec<Ipv4Net>,
    /// Tests serve images on this host.
    #[cfg(test)]
    #[serde(skip)]
    pub(crate) loopback: bool,
}

/// An address that is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// It never is a place for images, or is the operator's own.
    #[error("Illegal host specified in URL.")]
    Illegal(IpAddr),
    /// IPv6.
    #[error("IPv6 addresses are not supported ({0}).")]
    Version6(IpAddr),
    /// The name has no address.
    #[error("Unable to resolve {0}.")]
    Unresolved(String),
}

impl Policy {
    /// Downloads may reach everything but `internal`, and of that the `allowed` parts.
    pub(crate) fn new(internal: Vec<Ipv4Net>, allowed: Vec<Ipv4Net>) -> Self {
        Self {
            internal,
            allowed,
            #[cfg(test)]
            loopback: false,
        }
    }

    /// Whether a connection to `address` may be made.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), AddressError> {
        let v4 = match address {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(_) => return Err(AddressError::Illegal(address)),
                None => return Err(AddressError::Version6(address)),
            },
        };
        #[cfg(test)]
        if self.loopback && v4.is_loopback() {
            return Ok(());
        }
        let within = |nets: &[Ipv4Net]| nets.iter().any(|n| n.contains(&v4));
        if never(v4) || (within(&self.internal) && !within(&self.allowed)) {
            return Err(AddressError::Illegal(address));
        }
        Ok(())
    }

    /// Resolves `host`; all addresses that may be reached. IPv6 addresses of a name that has others
    /// are passed over.
    pub(crate) async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, AddressError> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            self.check(address)?;
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let found: io::Result<Vec<SocketAddr>> =
            tokio::net::lookup_host((host, port)).await.map(Iterator::collect);
        let found = found.map_err(|_| AddressError::Unresolved(host.to_owned()))?;
        let mut refused = AddressError::Unresolved(host.to_owned());
        let mut good = Vec::new();
        for address in found {
            match self.check(address.ip()) {
                Ok(()) => good.push(address),
                Err(AddressError::Version6(_)) if matches!(refused, AddressError::Illegal(_)) => {}
                Err(error) => refused = error,
            }
        }
        if good.is_empty() { Err(refused) } else { Ok(good) }
    }
}

/// Addresses that are never a place for images: this host, loopback, link-local, multicast,
/// broadcast, reserved, shared by carriers, and those for documentation of the protocol itself.
fn never(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    a == 0
        || a == 127
        || (a == 169 && b == 254)
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || a >= 224
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        let nets = |nets: &[&str]| nets.iter().map(|n| n.parse().unwrap()).collect();
        Policy::new(nets(&["10.1.1.0/24"]), nets(&["10.1.1.9/32", "127.0.0.0/8"]))
    }

    #[test]
    fn forbidden_and_allowed() {
        let check = |a: &str| policy().check(a.parse().unwrap()).map_err(|e| e.to_string());
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "100.64.0.1",
            "10.1.1.5",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(check(bad), Err("Illegal host specified in URL.".to_owned()), "{bad}");
        }
        for good in ["8.8.8.8", "10.1.1.9", "10.1.2.5", "192.168.1.1"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("::1"), Err("IPv6 addresses are not supported (::1).".to_owned()));
    }

    #[tokio::test]
    async fn names_are_judged_by_their_addresses() {
        let error = policy().resolve("localhost", 80).await.unwrap_err();
        assert!(matches!(error, AddressError::Illegal(_) | AddressError::Version6(_)), "{error}");
        let error = policy().resolve("no-such-host.invalid", 80).await.unwrap_err();
        assert_eq!(error.to_string(), "Unable to resolve no-such-host.invalid.");
        assert!(policy().resolve("[::1]", 80).await.is_err());
    }

    proptest! {
        #[test]
        fn this_host_is_never_reached(b in any::<u8>(), c in any::<u8>(), d in any::<u8>()) {
            for a in [0, 127, 224, 255] {
                prop_assert!(policy().check(Ipv4Addr::new(a, b, c, d).into()).is_err());
            }
        }
    }
}
