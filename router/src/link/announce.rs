//! Tells neighbours at once where a new address is, so that an upstream router with an old entry does not send to the
//! former owner: unsolicited ARP replies (RFC 5227, 3), and neighbour advertisements for IPv6 (RFC 4861, 7.2.6).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::mac::Mac;

/// How often each address is told, and how long apart.
const TIMES: u32 = 3;
const APART: Duration = Duration::from_secs(1);

/// All nodes of a link, and their Ethernet address (RFC 2464, 7).
const NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Number of ICMPv6 in an IP header.
const ICMP: u8 = 58;

/// Tells about new addresses of a NIC, three times a second apart; the first time at once. What cannot be
/// told is logged: neighbours then find out by asking.
pub async fn announce(nic: String, mac: Mac, addresses: Vec<IpAddr>) {
    for n in 0..TIMES {
        if n > 0 {
            tokio::time::sleep(APART).await;
        }
        for address in &addresses {
            let frame = match address {
                IpAddr::V4(address) => reply(mac, *address),
                IpAddr::V6(address) => advertisement(mac, *address),
            };
            if let Err(error) = send(&nic, &frame) {
                tracing::warn!(%error, nic, %address, "cannot tell neighbours about an address");
            }
        }
    }
}

/// An Ethernet frame with an ARP reply, sender and target both the address itself.
pub fn reply(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let parts: [&[u8]; 8] = [
        &[0xff; 6],
        &mac.0,
        // ARP; Ethernet, IPv4, lengths of their addresses; reply.
        &[8, 6],
        &[0, 1, 8, 0, 6, 4, 0, 2],
        &mac.0,
        &address.octets(),
        // The kernel of a neighbour takes a reply for an announcement only where both addresses are its sender's.
        &mac.0,
        &address.octets(),
    ];
    parts.concat()
}

/// An Ethernet frame with a neighbour advertisement of a router, which takes the place of what neighbours knew.
pub fn advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let body = |sum: [u8; 2]| -> Vec<u8> {
        // Type, code; router, override; the target; its Ethernet address as an option of 8 bytes.
        [&[136, 0][..], &sum, &[0xa0, 0, 0, 0], &address.octets(), &[2, 1], &mac.0].concat()
    };
    let sum = checksum(address, NODES, &body([0, 0]));
    let body = body(sum.to_be_bytes());
    let length = u16::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let parts: [&[u8]; 9] = [
        &NODES_MAC,
        &mac.0,
        &[0x86, 0xdd],
        &[0x60, 0, 0, 0],
        &length,
        &[ICMP, 255],
        &address.octets(),
        &NODES.octets(),
        &body,
    ];
    parts.concat()
}

/// The checksum of ICMPv6 (RFC 4443, 2.3), of a message of an even number of bytes.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let all = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMP], message].concat();
    let words = all.chunks(2).map(|pair| pair.iter().fold(0, |word, byte| (word << 8) | u32::from(*byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn send(nic: &str, frame: &[u8]) -> io::Result<()> {
    let to = link_address(nic)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty())?;
    Ok(())
}

/// The NIC's own address of the packet family: names the NIC to the kernel.
fn link_address(nic: &str) -> io::Result<LinkAddr> {
    let mut all = nix::ifaddrs::getifaddrs()?.filter(|a| a.interface_name == nic);
    let found = all.find_map(|a| a.address.and_then(|s| s.as_link_addr().copied()));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such NIC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 1, 0, 0xcc, 0, 9]);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_frame_is_an_arp_reply_to_everyone() {
        let expected = "ffffffffffff020100cc000908060001080006040002020100cc0009cb00710b020100cc0009cb00710b";
        assert_eq!(hex(&reply(MAC, Ipv4Addr::new(203, 0, 113, 11))), expected);
    }

    #[test]
    fn the_frame_is_an_advertisement_to_everyone_whose_sum_is_right() {
        let address = "2001:db8:1::1".parse().unwrap();
        let frame = advertisement(MAC, address);
        assert!(
            hex(&frame)
                .starts_with("333300000001020100cc000986dd6000000000203aff20010db8000100000000000000000001")
        );
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(checksum(address, NODES, &frame[54..]), 0, "over its own sum nothing is left");
    }
}
