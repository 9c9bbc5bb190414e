//! What the boot arguments make of the proxy: where it listens, and with what.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::boot::Identity;

use crate::wire::{Listener, Purpose};

/// Port for status and metrics.
pub const STATUS_PORT: u16 = 8001;

/// The port for streams that the boot arguments name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VncPort {
    /// 8080.
    Plain,
    /// 8443.
    Tls,
}

impl VncPort {
    /// Any value but 8443 means 8080.
    pub fn of(identity: &Identity) -> Self {
        if identity.get("vncport") == Some("8443") { Self::Tls } else { Self::Plain }
    }

    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Self::Plain => 8080,
            Self::Tls => 8443,
        }
    }
}

/// Port for the page: 443 with `premium=true`, else 80.
pub fn page_port(identity: &Identity) -> u16 {
    if identity.get("premium").is_some_and(|value| value.eq_ignore_ascii_case("true")) { 443 } else { 80 }
}

/// The address that browsers reach; all of them where the public NIC has none.
pub fn public_address(identity: &Identity) -> IpAddr {
    identity.nic(2).and_then(|nic| nic.address).unwrap_or(Ipv4Addr::UNSPECIFIED).into()
}

/// All listeners. Pages and streams are public, status is for the control and management NICs only.
pub fn listeners(identity: &Identity) -> Vec<Listener> {
    let public = |port, tls| {
        let address = SocketAddr::new(public_address(identity), port);
        Listener { purpose: Purpose::Public, address, tls }
    };
    let (page, stream) = (page_port(identity), VncPort::of(identity));
    let mut all = vec![public(page, page == 443), public(stream.number(), stream == VncPort::Tls)];
    let inner = [0, 1].into_iter().filter_map(|index| identity.nic(index)?.address);
    all.extend(inner.map(|address| Listener {
        purpose: Purpose::Status,
        address: SocketAddr::new(address.into(), STATUS_PORT),
        tls: false,
    }));
    all
}

/// The route to a hypervisor: through the gateway of the management network, unless that network
/// holds the address. `None` where none is needed.
pub fn route(identity: &Identity, host: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let host: Ipv4Addr = host.parse().ok()?;
    let gateway: Ipv4Addr = identity.parsed("localgw")?;
    let near = identity.nic(1).and_then(|nic| nic.ipv4()).is_some_and(|network| network.contains(&host));
    let own = identity.nics.iter().any(|nic| nic.address == Some(host));
    (!near && !own && !host.is_loopback()).then_some((host, gateway))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "type=consoleproxy name=v-2-VM eth0ip=169.254.3.4 eth0mask=255.255.0.0 \
        eth1ip=10.1.1.22 eth1mask=255.255.255.0 eth2ip=203.0.113.5 eth2mask=255.255.255.0 localgw=10.1.1.1";

    fn identity(more: &str) -> Identity {
        Identity::parse(&format!("{LINE} {more}")).unwrap()
    }

    fn names(identity: &Identity) -> Vec<String> {
        listeners(identity).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn listeners_follow_the_boot_arguments() {
        assert_eq!(
            names(&identity("vncport=8080")),
            [
                "public 203.0.113.5:80 plain",
                "public 203.0.113.5:8080 plain",
                "status 169.254.3.4:8001 plain",
                "status 10.1.1.22:8001 plain"
            ]
        );
        let secure = names(&identity("vncport=8443 premium=True"));
        assert_eq!(secure[..2], ["public 203.0.113.5:443 tls", "public 203.0.113.5:8443 tls"]);
        assert_eq!(names(&identity("premium=premium"))[0], "public 203.0.113.5:80 plain");
        let bare = Identity::parse("type=consoleproxy name=v-2-VM eth2ip=0.0.0.0 eth2mask=0.0.0.0").unwrap();
        assert_eq!(names(&bare), ["public 0.0.0.0:80 plain", "public 0.0.0.0:8080 plain"]);
    }

    #[test]
    fn distant_hypervisors_are_reached_through_the_management_gateway() {
        let identity = identity("");
        let gateway = Ipv4Addr::new(10, 1, 1, 1);
        assert_eq!(route(&identity, "10.9.0.7"), Some((Ipv4Addr::new(10, 9, 0, 7), gateway)));
        for near in ["10.1.1.9", "203.0.113.5", "127.0.0.1", "host.example", "10.9.0.0/16", ""] {
            assert_eq!(route(&identity, near), None, "{near}");
        }
    }
}
