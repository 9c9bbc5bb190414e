//! Tells neighbours at once where a new address is: unsolicited ARP replies (RFC 5227, 3), so that an
//! upstream router with an old entry does not send to the former owner.

use std::{io, net::Ipv4Addr, os::fd::AsRawFd as _, time::Duration};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::mac::Mac;

/// How often each address is told, and how long apart.
const TIMES: u32 = 3;
const APART: Duration = Duration::from_secs(1);

/// Tells about new addresses of a NIC, three times a second apart; the first time at once. What cannot be
/// told is logged: neighbours then find out by asking.
pub async fn announce(nic: String, mac: Mac, addresses: Vec<Ipv4Addr>) {
    for n in 0..TIMES {
        if n > 0 {
            tokio::time::sleep(APART).await;
        }
        for address in &addresses {
            if let Err(error) = send(&nic, &frame(mac, *address)) {
                tracing::warn!(%error, nic, %address, "cannot tell neighbours about an address");
            }
        }
    }
}

/// An Ethernet frame with an ARP reply, sender and target both the address itself.
pub fn frame(mac: Mac, address: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
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
    let mut rest = frame.as_mut_slice();
    for part in parts {
        let (here, behind) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = behind;
    }
    frame
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

    #[test]
    fn the_frame_is_an_arp_reply_to_everyone() {
        let frame = frame(Mac([2, 1, 0, 0xcc, 0, 9]), Ipv4Addr::new(203, 0, 113, 11));
        let expected = "ffffffffffff020100cc000908060001080006040002020100cc0009cb00710b020100cc0009cb00710b";
        let text: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, expected);
    }
}
