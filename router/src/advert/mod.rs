//! Guests hear of their router (RFC 4861, 6.2): every few seconds, and when they ask. They make their addresses
//! themselves from what it says (RFC 4862), and learn of resolvers (RFC 8106).
//!
//! Only a router that is the way out says so, and of a pair only the one that is in force: for as long as it has the
//! socket.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until},
};

use crate::{
    dhcp::task::Server as Guests,
    serve::limit::Limiter,
    snapshot::{DhcpSubnet, Subnet6},
};

/// Types of messages.
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Longest message that is looked at, bytes.
const LONGEST: usize = 1500;

/// All nodes of a link.
const NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Milliseconds between two messages to everyone, at random; and the least.
const INTERVAL: (u64, u64) = (5_000, 15_000);
const LEAST: Duration = Duration::from_secs(3);
/// After a failure, or where nothing is known yet, how long until the next try.
const RETRY: Duration = Duration::from_millis(250);
/// Seconds that the router, the network's addresses, whether they are still to be chosen, and resolvers are good for.
const ROUTER: u16 = 45;
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
const RESOLVERS: u32 = 30;
/// Resolvers that are told of at most.
const MOST: usize = 8;
/// Smallest MTU of IPv6 (RFC 8200, 5).
const SMALLEST: u16 = 1280;
/// The length of a prefix with which guests make addresses (RFC 4862, RFC 4291 2.5.1).
const WHOLE: u8 = 64;

/// Answers to one guest: so many at once, and so many in a second after that; guests that are watched at a time.
const BURST: (u32, u32, usize) = (4, 1, 1024);

/// The message, without its checksum, which the kernel adds.
pub fn message(subnet: &DhcpSubnet, six: &Subnet6) -> Vec<u8> {
    // Hop limit for guests; neither addresses nor more to be had by DHCPv6.
    let mut bytes = vec![ADVERTISEMENT, 0, 0, 0, 64, 0];
    bytes.extend(ROUTER.to_be_bytes());
    // How long neighbours are reachable is up to guests.
    bytes.extend([0; 8]);
    let own = if six.network.prefix_len() == WHOLE { 0x40 } else { 0 };
    bytes.extend([3, 4, six.network.prefix_len(), 0x80 | own]);
    bytes.extend(VALID.to_be_bytes());
    bytes.extend(PREFERRED.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(six.network.network().octets());
    bytes.extend([5, 1, 0, 0]);
    bytes.extend(u32::from(subnet.mtu.max(SMALLEST)).to_be_bytes());
    let resolvers = six.resolvers.get(..MOST).unwrap_or(&six.resolvers);
    if let Some(count) = u8::try_from(resolvers.len()).ok().filter(|count| *count > 0) {
        bytes.extend([25, 1 + 2 * count, 0, 0]);
        bytes.extend(RESOLVERS.to_be_bytes());
        resolvers.iter().for_each(|resolver| bytes.extend(resolver.octets()));
    }
    bytes
}

/// Whether somebody looks for a router (RFC 4861, 6.1.1; the packet filter has seen to the hop limit).
pub fn is_solicitation(bytes: &[u8]) -> bool {
    bytes.len() >= 8 && bytes.starts_with(&[SOLICITATION, 0])
}

/// Tells guests on `nic`, until the socket breaks.
pub async fn serve(guests: Arc<Guests>, nic: String, socket: UdpSocket) -> io::Result<()> {
    let everyone = SocketAddr::V6(SocketAddrV6::new(NODES, 0, 0, 0));
    let mut buffer = vec![0; LONGEST];
    let mut limiter = Limiter::new(BURST.0, BURST.1, BURST.2);
    let (mut next, mut last): (Instant, Option<Instant>) = (Instant::now(), None);
    let text = || {
        let table = guests.table.load();
        let mut subnets = table.subnets(&nic);
        subnets.find_map(|subnet| {
            let six = subnet.six.as_ref().filter(|six| six.advertised)?;
            Some(message(subnet, six))
        })
    };
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                let told = match text() {
                    None => false,
                    Some(text) => match socket.send_to(&text, everyone).await {
                        Ok(_) => true,
                        Err(error) => {
                            // Its address may not be there yet, or its link is down.
                            tracing::debug!(%error, nic, "guests are not told of their router");
                            false
                        }
                    },
                };
                let now = Instant::now();
                if told {
                    last = Some(now);
                }
                let pause = Duration::from_millis(rand::random_range(INTERVAL.0..=INTERVAL.1));
                next = now + if told { pause } else { RETRY };
            }
            received = socket.recv_from(&mut buffer) => {
                let (length, from) = match received {
                    Ok(received) => received,
                    Err(error) if is_passing(&error) => continue,
                    Err(error) => return Err(error),
                };
                let IpAddr::V6(guest) = from.ip() else { continue };
                if !is_solicitation(buffer.get(..length).unwrap_or_default()) {
                    continue;
                }
                let now = Instant::now();
                let known = !guest.is_unspecified() && limiter.allows(guest, now.into_std());
                match text().filter(|_| known) {
                    Some(text) => {
                        if let Err(error) = socket.send_to(&text, from).await {
                            tracing::debug!(%error, nic, "a guest is not told of its router");
                        }
                    }
                    // It has no address yet: everyone is told, though not too often.
                    None => next = next.min(last.map_or(now, |last| last + LEAST)).max(now),
                }
            }
        }
    }
}

/// The link went down, or an earlier message did not arrive.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::NetworkDown | Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_network_and_resolvers() {
        let (subnet, six) = crate::dhcp::stateless::tests::subnet();
        let subnet = DhcpSubnet { mtu: 1450, ..subnet };
        let six = Subnet6 { resolvers: vec!["2001:db8:53::53".parse().unwrap()], ..six };
        let text: String = message(&subnet, &six).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "860000004000002d0000000000000000",
            "030440c0000151800000384000000000",
            "20010db8000100000000000000000000",
            "05010000000005aa",
            "190300000000001e20010db8005300000000000000000053",
        ];
        assert_eq!(text, expected.concat());
        let wide = Subnet6 { network: "2001:db8::/56".parse().unwrap(), resolvers: vec![], ..six };
        let bytes = message(&subnet, &wide);
        assert_eq!(
            (bytes[18], bytes[19], bytes.len()),
            (56, 0x80, 56),
            "no addresses of their own, no resolvers"
        );
    }

    #[test]
    fn only_who_looks_for_a_router_is_answered() {
        assert!(is_solicitation(&[133, 0, 0, 0, 0, 0, 0, 0]));
        for other in [
            &[][..],
            &[133],
            &[133, 0, 0, 0, 0, 0, 0],
            &[133, 1, 0, 0, 0, 0, 0, 0],
            &[135, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(!is_solicitation(other), "{other:?}");
        }
    }
}
