//! The names of boot arguments (router contract 1.3, secondary storage contract 1.1, console proxy contract 1.1).

/// Arguments that hold one address.
pub(super) const ADDRESSES: &[&str] = &[
    "gateway",
    "ip6gateway",
    "dns1",
    "dns2",
    "ip6dns1",
    "ip6dns2",
    "internaldns1",
    "internaldns2",
    "localgw",
    "storageip",
    "storagenetmask",
    "storagegateway",
    "guestgw",
    "guestgw6",
    "guestbrd",
    "source_nat_ip",
];

/// Arguments that hold one number.
pub(super) const NUMBERS: &[&str] = &[
    "port",
    "workers",
    "proxy_vm",
    "mtu",
    "publicMtu",
    "privateMtu",
    "vncport",
    "cidrsize",
    "guestcidrsize",
    "guestcidr6size",
    "advert_int",
    "router_id",
    "extra_pubnics",
];

/// Arguments whose value must never reach a log.
pub(super) const SECRETS: &[&str] = &[
    "vmpassword",
    "keystore_password",
    "router_password",
    "privatekey",
    "userdata",
    "baremetalnotificationsecuritykey",
    "baremetalnotificationapikey",
];

/// All other names.
const REST: &[&str] = &[
    "template",
    "name",
    "type",
    "authorized_key",
    "domain",
    "dnssearchorder",
    "useextdns",
    "userouteripresolver",
    "exposedns",
    "dhcprange",
    "mgmtcidr",
    "sshonguest",
    "disable_rp_filter",
    "nic_macs",
    "is_routed",
    "ip6firewall",
    "vpccidr",
    "has_public_network",
    "redundant_router",
    "redundant_state",
    "logrotatefrequency",
    "host",
    "storagecidr",
    "bootproto",
    "defaultroute",
    "router_pr",
    "ntpserverlist",
    "validity",
    "certificate",
    "cacertificate",
    "useHttpsToUpload",
    "zone",
    "pod",
    "guid",
    "resource",
    "instance",
    "sslcopy",
    "role",
    "private.network.device",
    "public.network.device",
    "nfsVersion",
    "secondaryStorageServerAddress",
    "premium",
];

/// Whether some role knows an argument of this name.
pub(super) fn is_known(name: &str) -> bool {
    [ADDRESSES, NUMBERS, SECRETS, REST].iter().any(|names| names.contains(&name)) || nic_argument(name)
}

/// `eth<N>ip`, `eth<N>mask`, `eth<N>ip6`, `eth<N>ip6prelen`.
fn nic_argument(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("eth") else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && matches!(rest.get(digits..), Some("ip" | "mask" | "ip6" | "ip6prelen"))
}
