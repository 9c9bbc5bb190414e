//! Kernel settings of each role (router behaviour 1.5, secondary storage contract 1.3, console proxy contract 1.3).

use super::{Identity, Role, plan::Facts};

/// Settings of every role. Those of an interface are for `all` and `default`.
const COMMON: &[(&str, &str)] = &[
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    // A process that is not root learns nothing of the kernel, and finds none of its larger doors open.
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/unprivileged_userns_clone", "0"),
    ("kernel/yama/ptrace_scope", "2"),
    ("kernel/kexec_load_disabled", "1"),
    ("net/core/bpf_jit_harden", "2"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("net/core/somaxconn", "65535"),
    ("net/ipv4/tcp_syncookies", "1"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/secure_redirects", "0"),
    ("net/ipv4/conf/default/secure_redirects", "0"),
    ("net/ipv4/conf/all/promote_secondaries", "1"),
    ("net/ipv4/conf/default/promote_secondaries", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    ("net/ipv4/conf/all/arp_ignore", "2"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// All settings for an identity, in order.
pub(super) fn settings(identity: &Identity, facts: &Facts) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        COMMON.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut set = |key: String, value: &str| all.push((key, value.to_owned()));
    let forwards = matches!(identity.kind.as_str(), "router" | "vpcrouter");
    set("net/ipv4/ip_forward".into(), if forwards { "1" } else { "0" });
    if identity.role == Role::Router {
        // How many connections there may be is for the core to say, by the memory there is.
        set("net/ipv4/ip_nonlocal_bind".into(), "1");
    }
    // The stricter of `all` and the interface's own counts: `all` stays open, each interface says its own.
    let loose = identity.role != Role::Router || identity.flag("disable_rp_filter");
    let default = if loose { "0" } else { "1" };
    set("net/ipv4/conf/all/rp_filter".into(), "0");
    set("net/ipv4/conf/default/rp_filter".into(), default);
    for device in &facts.devices {
        let strict = identity.role == Role::Router && matches!(device.as_str(), "eth0" | "eth1" | "lo");
        set(format!("net/ipv4/conf/{device}/rp_filter"), if strict { "1" } else { default });
    }
    all
}
