//! The IPv4 and UDP headers (RFC 791, RFC 768) of frames to and from a client that has no address yet.

use std::net::Ipv4Addr;

/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Where servers and relay agents listen.
pub const SERVER_PORT: u16 = 67;

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// A datagram to a DHCP server.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Whom the sender meant.
    pub destination: Ipv4Addr,
    /// The DHCP message.
    pub payload: &'a [u8],
}

/// Takes an IPv4 packet apart. `None` for all but whole UDP datagrams to port 67. Checksums are not
/// looked at: between guests of one host nobody fills them in.
pub fn read(packet: &[u8]) -> Option<Datagram<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    if packet[0] >> 4 != 4 || header < IP_HEADER || fragment != 0 || *packet.get(9)? != UDP {
        return None;
    }
    let destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
    let udp = packet.get(header..total)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    if port != SERVER_PORT {
        return None;
    }
    Some(Datagram { destination, payload: udp.get(UDP_HEADER..length)? })
}

/// An IPv4 packet with a DHCP message from the server at `source` to the client at `destination`.
/// `None` for a payload that no packet takes.
pub fn write(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Option<Vec<u8>> {
    let total = u16::try_from(IP_HEADER + UDP_HEADER + payload.len()).ok()?;
    let udp_length = total - IP_HEADER as u16;
    let mut packet = Vec::with_capacity(usize::from(total));
    packet.extend([0x45, 0xc0]);
    packet.extend(total.to_be_bytes());
    // No identification, "don't fragment", 64 hops.
    packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(0, &packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());

    packet.extend(SERVER_PORT.to_be_bytes());
    packet.extend(CLIENT_PORT.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let pseudo = u32::from(UDP) + u32::from(udp_length);
    let sum = checksum(pseudo, &packet[12..]);
    // 0 would mean "no checksum" (RFC 768).
    let sum = if sum == 0 { 0xffff } else { sum };
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}

/// The Internet checksum (RFC 1071) of `bytes`, begun with `start`.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid(packet: &[u8]) -> bool {
        let udp_length = (packet.len() - IP_HEADER) as u32;
        checksum(0, &packet[..20]) == 0 && checksum(u32::from(UDP) + udp_length, &packet[12..]) == 0
    }

    #[test]
    fn checksums_follow_the_example_of_rfc_1071() {
        assert_eq!(checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn takes_only_whole_datagrams_to_the_server_port() {
        let mut packet = write(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"hello").unwrap();
        assert_eq!(read(&packet), None, "to port 68");
        packet[23] = 67;
        let whole = Datagram { destination: Ipv4Addr::BROADCAST, payload: b"hello" };
        assert_eq!(read(&packet), Some(whole));
        assert_eq!(read(&packet[..packet.len() - 1]), None, "cut short");
        let mut fragment = packet.clone();
        fragment[6] = 0x20;
        assert_eq!(read(&fragment), None, "more fragments to come");
        let mut tcp = packet.clone();
        tcp[9] = 6;
        assert_eq!(read(&tcp), None, "TCP");
        let mut six = packet;
        six[0] = 0x65;
        assert_eq!(read(&six), None, "IPv6");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn checksums_of_what_is_written_are_right(payload in proptest::collection::vec(any::<u8>(), 0..1473)) {
            let packet = write([10, 1, 1, 1].into(), [10, 1, 1, 10].into(), &payload).unwrap();
            prop_assert!(valid(&packet));
            prop_assert_eq!(&packet[28..], &payload[..]);
        }
    }
}
