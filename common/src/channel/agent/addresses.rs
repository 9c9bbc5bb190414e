//! The addresses of this machine, for certificate requests.

use std::net::IpAddr;

/// Kernel's list of routes, which marks local addresses.
const V4: &str = "/proc/net/fib_trie";
/// Kernel's list of IPv6 addresses.
const V6: &str = "/proc/net/if_inet6";

/// Every address that is neither loopback nor link-local.
pub(super) fn own() -> Vec<IpAddr> {
    let mut list = v4(&std::fs::read_to_string(V4).unwrap_or_default());
    list.extend(v6(&std::fs::read_to_string(V6).unwrap_or_default()));
    list
}

fn v4(trie: &str) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some(text) = line.trim().strip_prefix("|-- ") {
            last = text.parse::<std::net::Ipv4Addr>().ok();
        } else if line.trim() == "/32 host LOCAL"
            && let Some(address) = last.filter(|address| !address.is_loopback() && !address.is_link_local())
            && !list.contains(&IpAddr::V4(address))
        {
            list.push(IpAddr::V4(address));
        }
    }
    list
}

fn v6(table: &str) -> Vec<IpAddr> {
    table
        .lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(std::net::Ipv6Addr::from)
        .filter(|address| !address.is_loopback() && !address.is_unicast_link_local())
        .map(IpAddr::V6)
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_local_addresses_only() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.1.21\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 169.254.1.11\n        /32 host LOCAL\n     |-- 10.1.1.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.1.1.21\n        /32 host LOCAL\n";
        assert_eq!(super::v4(trie), ["10.1.1.21".parse::<std::net::IpAddr>().unwrap()]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\nfe80000000000000505400fffe123456 02 40 20 80     eth0\n20010db8000000000000000000000021 02 40 00 80     eth0\n";
        assert_eq!(super::v6(table), ["2001:db8::21".parse::<std::net::IpAddr>().unwrap()]);
    }
}
