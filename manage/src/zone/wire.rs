//! The zone file as it is written. Every section and key is described here; `check` says what
//! values they may have.

use serde::Deserialize;

/// The whole file. It and the sections with secrets have no Debug form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ZoneFile {
    pub zone: ZoneSection,
    pub system: SystemSection,
    pub management: ManagementSection,
    pub control: ControlSection,
    pub public: SegmentSection,
    #[serde(default)]
    pub host: Vec<HostSection>,
    #[serde(default)]
    pub network: Vec<NetworkSection>,
    #[serde(default)]
    pub store: Vec<StoreSection>,
    #[serde(default)]
    pub guest: Vec<GuestSection>,
    #[serde(default)]
    pub port: Vec<PortSection>,
    #[serde(default)]
    pub security_group: Vec<SecurityGroupSection>,
}

/// `[zone]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ZoneSection {
    /// Zone id on the wire; 1.
    #[serde(default = "one")]
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Pod id on the wire; 1.
    #[serde(default = "one")]
    pub pod: u64,
    /// Resolvers that routers forward to and system VMs ask: one or two addresses.
    pub dns: Vec<String>,
    /// Resolvers that SSVM and CPVM ask first: one or two addresses; as `dns` when absent.
    #[serde(default)]
    pub internal_dns: Vec<String>,
    /// NTP servers, names or addresses.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// Seconds between two pings of an agent, 1 to 3600; 60. After two and a half intervals
    /// without a ping the agent counts as gone.
    #[serde(default = "sixty")]
    pub ping_interval: u64,
    /// Seconds after which a host that hears neither the manager nor more than half of all votes ends its system
    /// VMs, 5 to 600; 15. The manager starts them elsewhere 12 seconds later.
    #[serde(default = "fifteen")]
    pub fence_after: u64,
    /// CIDRs of internal sites from which templates may be downloaded.
    #[serde(default)]
    pub internal_sites: Vec<String>,
}

/// `[system]`: the system VMs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SystemSection {
    /// qcow2 image that every host has at this path.
    pub image: String,
    /// Kernel file with which a host finds out whether KVM works; a kernel of the host's own when
    /// absent.
    pub kernel: Option<String>,
    /// MiB of memory of each; 512.
    #[serde(default = "memory")]
    pub memory: u64,
    /// How hosts are chosen: `spread` (the one with the fewest VMs) or `pack` (the one with the most that has room);
    /// `spread`.
    #[serde(default = "spread")]
    pub placement: String,
    /// Run an SSVM; true.
    #[serde(default = "yes")]
    pub ssvm: bool,
    /// Run a CPVM; true.
    #[serde(default = "yes")]
    pub cpvm: bool,
    /// SSVMs that run at most, 1 to 16; 1. Another one is started while each that runs has `ssvm_transfers` under way.
    #[serde(default = "single")]
    pub ssvm_max: u32,
    /// Transfers that an SSVM should have at most; 5.
    #[serde(default = "five")]
    pub ssvm_transfers: u32,
    /// CPVMs that run at most, 1 to 16; 1. Another one is started while each that runs has `cpvm_sessions`.
    #[serde(default = "single")]
    pub cpvm_max: u32,
    /// Sessions that a CPVM should have at most; 50.
    #[serde(default = "fifty")]
    pub cpvm_sessions: u32,
    /// Seconds, 5 to 86400, for which half of what the others can do must have been enough before one of several that
    /// has nothing to do is stopped; 300.
    #[serde(default = "spare_after")]
    pub spare_after: u64,
}

/// `[management]`: network of hosts, agents and `manage serve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ManagementSection {
    /// Address on which `manage serve` listens.
    pub address: String,
    /// Port of the channel; 8250.
    #[serde(default = "channel_port")]
    pub port: u16,
    /// Port on which a new host gets its certificate; 8251.
    #[serde(default = "join_port")]
    pub join_port: u16,
    /// Bridge on the hosts.
    pub bridge: String,
    /// Subnet.
    pub cidr: String,
    /// Next hop to other internal networks.
    pub gateway: String,
    /// Addresses for system VMs: `first-last`.
    pub range: String,
    /// Where the status page is served, for reading only, to whoever reaches it: `ADDRESS:PORT`; 127.0.0.1:8254. Empty:
    /// there is none.
    #[serde(default = "page")]
    pub page: String,
}

/// `[control]`: the link-local network 169.254.0.0/16 between a host and its system VMs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlSection {
    /// Bridge on the hosts; it gets 169.254.0.1/16.
    pub bridge: String,
}

/// `[public]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentSection {
    /// Bridge on the hosts.
    pub bridge: String,
    /// Subnet.
    pub cidr: String,
    /// Gateway to the internet.
    pub gateway: String,
    /// Addresses to give out: `first-last`.
    pub range: String,
}

/// `[[host]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostSection {
    /// Name by which it joins.
    pub name: String,
    /// Its management address; consoles of guests listen there.
    pub address: String,
    /// Command that the manager runs where the host is not heard, without a shell: it cuts the host's power for
    /// certain, or ends with another code than 0. Its system VMs are then started elsewhere without waiting.
    #[serde(default)]
    pub fence: Vec<String>,
    /// What it is good for, in words of the operator.
    #[serde(default)]
    pub tags: Vec<String>,
    /// MiB of memory for VMs; all but 1024 of what it has when absent.
    pub memory: Option<u64>,
}

/// `[[network]]`: a network of guests with a router.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkSection {
    /// Name.
    pub name: String,
    /// `isolated`: behind its router, which translates addresses. `basic`: on a segment of the operator's, who routes it;
    /// its router gives addresses, names and metadata, and security groups guard its guests. `isolated`.
    #[serde(default = "isolated")]
    pub kind: String,
    /// Bridge on the hosts.
    pub bridge: String,
    /// Guest subnet.
    pub cidr: String,
    /// Gateway of the guests: address of the router in an isolated network, of the operator's router in a basic one.
    pub gateway: String,
    /// Address of the router, in a basic network.
    pub router: Option<String>,
    /// DNS domain of the guests.
    pub domain: String,
    /// Its router runs on hosts with this tag only.
    pub host_tag: Option<String>,
    /// Source NAT address; the next free one of the public range when absent.
    pub source_nat: Option<String>,
    /// `allow` or `deny`: what holds for traffic to the outside that no egress rule names; `deny`.
    #[serde(default = "deny")]
    pub egress_default: String,
    /// `[[network.egress]]`: exceptions to `egress_default`.
    #[serde(default)]
    pub egress: Vec<FilterSection>,
    /// `[[network.ingress]]`: what may come in.
    #[serde(default)]
    pub ingress: Vec<FilterSection>,
    /// `[[network.forward]]`: port forwards. What they forward must be let in by an ingress rule.
    #[serde(default)]
    pub forward: Vec<ForwardSection>,
    /// `[[network.static_nat]]`
    #[serde(default)]
    pub static_nat: Vec<StaticNatSection>,
}

/// A firewall rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilterSection {
    /// Public address of an ingress rule; the source NAT address when absent.
    pub address: Option<String>,
    /// `tcp`, `udp`, `icmp` or `all`.
    pub protocol: String,
    /// `80` or `8000-8080`, for tcp and udp; all when absent.
    pub ports: Option<String>,
    /// Source CIDRs; anywhere (ingress) or the whole network (egress) when absent.
    pub from: Option<Vec<String>>,
    /// Destination CIDRs of an egress rule; anywhere when absent.
    pub to: Option<Vec<String>>,
}

/// A port forward.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardSection {
    /// Public address; the source NAT address when absent.
    pub address: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Public port or ports.
    pub ports: String,
    /// Guest address.
    pub to: String,
    /// Guest port or ports; as `ports` when absent.
    pub to_ports: Option<String>,
}

/// A static NAT.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StaticNatSection {
    /// Public address.
    pub address: String,
    /// Guest address.
    pub to: String,
}

/// `[[store]]`: a secondary store.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreSection {
    /// Name.
    pub name: String,
    /// `nfs` or `s3`.
    pub kind: String,
    /// `nfs://host/path`, for nfs.
    pub url: Option<String>,
    /// Version such as `4.1`, for nfs; the client's choice when absent.
    pub version: Option<String>,
    /// `host:port`, for s3.
    pub endpoint: Option<String>,
    /// Bucket, for s3.
    pub bucket: Option<String>,
    /// Access key, for s3.
    pub access_key: Option<String>,
    /// Secret key, for s3.
    pub secret_key: Option<String>,
    /// TLS, for s3; true.
    #[serde(default = "yes")]
    pub https: bool,
}

/// `[[guest]]`: a guest VM.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestSection {
    /// Name and host name.
    pub name: String,
    /// Name of its network.
    pub network: String,
    /// MAC address; made from its number when absent.
    pub mac: Option<String>,
    /// Its address.
    pub address: String,
    /// More addresses that it may have, IPv4 and IPv6, in a basic network.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Names of its security groups, in a basic network; nothing reaches a guest without any.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Disk image below its own overlay; or `kernel`.
    pub disk: Option<String>,
    /// Kernel file; or `disk`.
    pub kernel: Option<String>,
    /// Initrd file, with `kernel`.
    pub initrd: Option<String>,
    /// Kernel command line, with `kernel`.
    #[serde(default)]
    pub append: String,
    /// It runs on hosts with this tag only.
    pub host_tag: Option<String>,
    /// MiB of memory; 256.
    #[serde(default = "guest_memory")]
    pub memory: u64,
    /// User data, as text.
    pub user_data: Option<String>,
    /// SSH public key.
    pub public_key: Option<String>,
    /// Password that the router hands out once.
    pub password: Option<String>,
}

/// `[[port]]`: the NIC of a VM in a basic network that the operator runs himself. Its security groups hold at the tap as
/// long as it is in the file, whether the tap is there or not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortSection {
    /// Name, and host name that the network's router gives it.
    pub name: String,
    /// Name of its network.
    pub network: String,
    /// Name of the host it is on.
    pub host: String,
    /// Interface on that host, which the operator puts under the network's bridge.
    pub tap: String,
    /// MAC address of the NIC.
    pub mac: String,
    /// Its address, which the network's router gives it.
    pub address: String,
    /// More addresses that it may have, IPv4 and IPv6.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Names of its security groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// `[[security_group]]`: what guests of basic networks may get and send. Replies always pass.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecurityGroupSection {
    /// Name.
    pub name: String,
    /// `[[security_group.ingress]]`: what members may get; nothing else reaches them.
    #[serde(default)]
    pub ingress: Vec<GroupRuleSection>,
    /// `[[security_group.egress]]`: what members may send; everything where none of a guest's groups has such a rule.
    #[serde(default)]
    pub egress: Vec<GroupRuleSection>,
}

/// A rule of a security group.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupRuleSection {
    /// `tcp`, `udp`, `icmp` (of IPv4), `icmpv6` or `all`.
    pub protocol: String,
    /// `80` or `8000-8080`, for tcp and udp; all when absent.
    pub ports: Option<String>,
    /// Type, for icmp and icmpv6; all when absent.
    #[serde(rename = "type")]
    pub kind: Option<u8>,
    /// Code, with a type; all when absent.
    pub code: Option<u8>,
    /// Source CIDRs of an ingress rule, IPv4 or IPv6. With no `groups` either: anywhere.
    pub from: Option<Vec<String>>,
    /// Destination CIDRs of an egress rule.
    pub to: Option<Vec<String>>,
    /// Names of groups whose members are meant, besides the CIDRs.
    #[serde(default)]
    pub groups: Vec<String>,
}

fn isolated() -> String {
    "isolated".to_owned()
}

fn single() -> u32 {
    1
}

fn five() -> u32 {
    5
}

fn fifty() -> u32 {
    50
}

fn spare_after() -> u64 {
    300
}

fn one() -> u64 {
    1
}

fn fifteen() -> u64 {
    15
}

fn sixty() -> u64 {
    60
}

fn memory() -> u64 {
    512
}

fn guest_memory() -> u64 {
    256
}

fn yes() -> bool {
    true
}

fn channel_port() -> u16 {
    8250
}

fn join_port() -> u16 {
    8251
}

fn spread() -> String {
    "spread".to_owned()
}

fn page() -> String {
    "127.0.0.1:8254".to_owned()
}

fn deny() -> String {
    "deny".to_owned()
}
