//! The packet filter of the role: one table, replaced whole in one transaction.

use std::{net::Ipv4Addr, time::Duration};

use common::{boot::Identity, program};

use super::state::Settings;

/// Port of SSH.
const SSH: u16 = common::boot::SSH_PORT;
/// Longest time for a change.
const LIMIT: Duration = Duration::from_secs(20);

/// The table for these settings, as input of `nft -f -`.
pub(crate) fn render(control_nic: u32, servers: &[Ipv4Addr], port: u16, settings: &Settings) -> String {
    let join = |items: Vec<String>| items.join(", ");
    let set = |kind: &str, flags: &str, items: Vec<String>| {
        let elements =
            if items.is_empty() { String::new() } else { format!(" elements = {{ {} }};", join(items)) };
        format!("type {kind};{flags}{elements}")
    };
    let sites = set(
        "ipv4_addr",
        " flags interval; auto-merge;",
        settings.sites.iter().map(ToString::to_string).collect(),
    );
    let services = servers
        .iter()
        .map(|s| format!("{s} . {port}"))
        .chain(settings.endpoints.iter().map(|(address, port)| format!("{address} . {port}")));
    let services = set("ipv4_addr . inet_service", "", services.collect());
    let mut ssh = vec![format!("\"eth{control_nic}\"")];
    if control_nic != 1 {
        ssh.push("\"eth1\"".into());
    }
    let ssh = join(ssh);
    format!(
        "table inet trivium
delete table inet trivium
table inet trivium {{
  set sites {{ {sites} }}
  set services {{ {services} }}
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname \"lo\" accept
    icmp type timestamp-request drop
    meta l4proto icmp accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, echo-request }} accept
    iifname {{ {ssh} }} tcp dport {SSH} ct state new accept
    iifname \"eth2\" tcp dport {{ 80, 443 }} ct state new accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    ct state established,related accept
    oifname \"eth1\" ip daddr @sites tcp dport 1-65535 ct state new accept
    oifname \"eth1\" ip daddr . tcp dport @services accept
    oifname \"eth1\" tcp dport {{ 80, 443 }} ct state new reject with tcp reset
  }}
}}
"
    )
}

/// Puts the filter in force. On failure the one before stays.
pub(crate) fn load(identity: &Identity, settings: &Settings) -> Result<(), program::ProgramError> {
    let servers: Vec<Ipv4Addr> = identity.list("host").iter().filter_map(|h| h.parse().ok()).collect();
    let port = identity.parsed("port").unwrap_or(8250);
    let text = render(identity.control_nic, &servers, port, settings);
    program::run("nft", ["-f", "-"], text.as_bytes(), LIMIT).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_and_services_are_elements_of_sets() {
        let settings = Settings {
            sites: vec!["10.1.1.0/24".parse().unwrap()],
            endpoints: [("10.1.1.7".parse().unwrap(), 9000)].into(),
            ..Settings::default()
        };
        let text = render(0, &["10.1.1.5".parse().unwrap()], 8250, &settings);
        assert!(text.contains("elements = { 10.1.1.0/24 };"), "{text}");
        assert!(text.contains("elements = { 10.1.1.5 . 8250, 10.1.1.7 . 9000 };"), "{text}");
        assert!(text.contains("iifname { \"eth0\", \"eth1\" } tcp dport 3922"), "{text}");
        assert!(render(1, &[], 8250, &Settings::default()).contains("iifname { \"eth1\" } tcp dport 3922"));
    }

    #[test]
    fn nft_takes_it() {
        let text = render(0, &["10.1.1.5".parse().unwrap()], 8250, &Settings::default());
        match program::run("unshare", ["--net", "nft", "-c", "-f", "-"], text.as_bytes(), LIMIT) {
            Ok(_) => {}
            Err(program::ProgramError::Start { .. }) => {}
            Err(error) if error.to_string().contains("Operation not permitted") => {}
            Err(error) => panic!("{error}"),
        }
    }
}
