//! Kernel settings of the router's role (router behaviour 1.5), set at the start.

use std::{fs, io};

use crate::{state::Setup, view::View};

/// Settings that do not depend on the boot arguments.
const FIXED: [(&str, &str); 23] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/default/accept_source_route", "0"),
    // ARP is answered for addresses of the NIC that is asked only.
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/default/arp_announce", "2"),
    ("ipv4/conf/all/arp_ignore", "2"),
    ("ipv4/conf/default/arp_ignore", "2"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/secure_redirects", "0"),
    ("ipv4/conf/default/secure_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    // Without the first address of a NIC the others stay.
    ("ipv4/conf/all/promote_secondaries", "1"),
    ("ipv4/conf/default/promote_secondaries", "1"),
    ("ipv4/ip_nonlocal_bind", "1"),
    ("ipv4/tcp_syncookies", "1"),
    ("ipv4/tcp_timestamps", "0"),
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/tcp_max_tw_buckets", "1000000"),
    ("core/somaxconn", "65535"),
    // Where there is IPv6, its NIC has it.
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];

/// Bytes that the kernel keeps for one connection, its place in the table included.
const CONNECTION: u64 = 384;

/// How many connections there may be: a quarter of the memory (bytes), from 16 thousand to a million.
fn connections(memory: u64) -> u64 {
    (memory / 4 / CONNECTION).clamp(16_384, 1_000_000)
}

/// Bytes of memory of this machine; 0 where that cannot be read.
pub fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// The settings of a router with so much memory (bytes), NICs left out.
pub fn plan(setup: &Setup, memory: u64) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> =
        FIXED.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut set = |key: &str, value: &str| settings.push((key.to_owned(), value.to_owned()));
    set("ipv4/ip_forward", if setup.kind.forwards() { "1" } else { "0" });
    set("netfilter/nf_conntrack_max", &connections(memory).to_string());
    set("ipv4/conf/default/rp_filter", if setup.strict_reverse_path { "1" } else { "0" });
    settings
}

/// The settings of the NICs that are used.
pub fn nics(view: &View<'_>) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut reverse_path = |nic: &str, strict: bool| {
        let value = if strict { "1" } else { "0" };
        settings.push((format!("ipv4/conf/{nic}/rp_filter"), value.to_owned()));
        settings.push((format!("ipv4/conf/{nic}/send_redirects"), "0".to_owned()));
    };
    reverse_path(&view.control(), true);
    for nic in view.guests.values().filter(|nic| nic.name != view.control()) {
        // Guests cannot use addresses that are not theirs; but a tier may be the way out of a VPC.
        reverse_path(&nic.name, !view.setup.vpc.without_public);
    }
    for nic in view.outer() {
        reverse_path(&nic.name, view.setup.strict_reverse_path);
    }
    six(view, &mut settings);
    settings
}

/// IPv6 (router behaviour 1.5): on where it is asked for. A router makes no address for itself, believes no other
/// router, and has its addresses at once.
fn six(view: &View<'_>, settings: &mut Vec<(String, String)>) {
    let mut set = |nic: &str, key: &str, value: bool| {
        settings.push((format!("ipv6/conf/{nic}/{key}"), u8::from(value).to_string()));
    };
    if view.has_six() {
        set("all", "forwarding", view.setup.kind.forwards());
        set("all", "accept_dad", false);
        set("all", "accept_redirects", false);
    }
    let guests = view.guests.values().map(|nic| (&nic.name, nic.six.is_some()));
    let outer = view.outer().map(|nic| (&nic.name, !nic.six.is_empty()));
    for (nic, has) in guests.chain(outer) {
        if has {
            for key in ["accept_ra", "accept_redirects", "autoconf", "accept_dad", "use_tempaddr"] {
                set(nic, key, false);
            }
        }
        set(nic, "disable_ipv6", !has);
    }
}

/// Sets what differs. A setting that this kernel does not have, or that may not be changed here, is logged.
pub fn apply(settings: &[(String, String)]) {
    for (key, value) in settings {
        let path = format!("/proc/sys/net/{key}");
        let outcome = fs::read_to_string(&path).and_then(|now| match now.trim() == value {
            true => io::Result::Ok(()),
            false => fs::write(&path, value),
        });
        if let Err(error) = outcome {
            tracing::warn!(%error, key, "a kernel setting cannot be set");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{
        Kind,
        tests::{devices, setup},
    };

    #[test]
    fn guests_are_checked_strictly_and_public_nics_as_asked() {
        let of = |setup: &Setup, key: &str| {
            let (state, devices) = (setup.first_state(), devices());
            let settings =
                plan(setup, 256 << 20).into_iter().chain(nics(&View::new(setup, &state, &devices)));
            settings.into_iter().find(|(k, _)| k == key).unwrap().1
        };
        let mut setup = setup();
        assert_eq!(of(&setup, "ipv4/conf/eth0/rp_filter"), "1");
        assert_eq!(of(&setup, "ipv4/conf/eth2/rp_filter"), "0");
        setup.strict_reverse_path = true;
        assert_eq!(of(&setup, "ipv4/conf/eth2/rp_filter"), "1");
        assert_eq!(of(&setup, "ipv4/ip_forward"), "1");
        assert_eq!(of(&setup, "netfilter/nf_conntrack_max"), "174762");
        assert_eq!((connections(0), connections(64 << 30)), (16_384, 1_000_000));
        setup.kind = Kind::Shared;
        assert_eq!(of(&setup, "ipv4/ip_forward"), "0");
    }
}
