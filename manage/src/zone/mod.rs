//! The zone: what the operator wants, read from one TOML file.
//!
//! `wire` is the file as it is written, this module is the model that cannot be wrong, `check`
//! turns one into the other and names the key of whatever is not right.

mod check;
mod diff;
mod groups;
mod wire;

pub(crate) use diff::diff;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::groups::Rule;

/// Why a zone file was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZoneError {
    /// The file cannot be read.
    #[error("Zone file {path} cannot be read: {source}")]
    Read {
        /// Path as given.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// It is not TOML, or has a key that is unknown, missing, or of the wrong type.
    #[error("Zone file: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A value that cannot be right.
    #[error("Zone file, key {key}: {value:?}: {reason}")]
    Value {
        /// Path of the key, such as `network[0].cidr`.
        key: String,
        /// The value as it was written; a secret shows as `***`.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A zone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Zone {
    /// Zone id on the wire, 1 and above.
    pub(crate) id: u64,
    /// Its name, shown to guests as availability zone.
    pub(crate) name: String,
    /// Pod id on the wire.
    pub(crate) pod: u64,
    /// Public resolvers.
    pub(crate) dns: Vec<Ipv4Addr>,
    /// Resolvers that SSVM and CPVM ask first.
    pub(crate) internal_dns: Vec<Ipv4Addr>,
    /// NTP servers of SSVM and CPVM.
    pub(crate) ntp: Vec<String>,
    /// Time between two pings of an agent.
    pub(crate) ping_interval: Duration,
    /// After how long a host that is cut off ends its system VMs.
    pub(crate) fence_after: Duration,
    /// What system VMs boot from, and how large they are.
    pub(crate) system: System,
    /// Network of hosts and agents.
    pub(crate) management: Management,
    /// Bridge of the link-local control network.
    pub(crate) control_bridge: String,
    /// Public network.
    pub(crate) public: Segment,
    /// Hosts by name.
    pub(crate) hosts: Vec<Host>,
    /// Networks; each has a router.
    pub(crate) networks: Vec<Network>,
    /// Secondary stores.
    pub(crate) stores: Vec<Store>,
    /// Guest VMs.
    pub(crate) guests: Vec<Guest>,
    /// NICs of VMs that the operator runs.
    pub(crate) ports: Vec<Port>,
    /// Security groups.
    pub(crate) groups: Vec<SecurityGroup>,
    /// CIDRs of internal sites from which the SSVM may download.
    pub(crate) internal_sites: Vec<Ipv4Net>,
}

/// Image and size of system VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// qcow2 image on every host.
    pub(crate) image: PathBuf,
    /// Kernel with which a host finds out whether KVM works.
    pub(crate) kernel: Option<PathBuf>,
    /// Memory in MiB of router, SSVM and CPVM.
    pub(crate) memory_mib: u64,
    /// How hosts are chosen.
    pub(crate) placement: Placement,
    /// Whether to run an SSVM.
    pub(crate) ssvm: bool,
    /// Whether to run a CPVM.
    pub(crate) cpvm: bool,
    /// SSVMs that run at most.
    pub(crate) ssvm_max: u32,
    /// Transfers that an SSVM should have at most.
    pub(crate) ssvm_transfers: u32,
    /// CPVMs that run at most.
    pub(crate) cpvm_max: u32,
    /// Sessions that a CPVM should have at most.
    pub(crate) cpvm_sessions: u32,
    /// How long fewer must have been enough before one is stopped.
    pub(crate) spare_after: Duration,
}

/// How a host is chosen for a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Placement {
    /// The one with the fewest VMs.
    #[default]
    Spread,
    /// The one with the most VMs that has room.
    Pack,
}

/// The management network, and where `manage serve` listens on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Management {
    /// Address of `manage serve`.
    pub(crate) address: Ipv4Addr,
    /// Port of the channel, 8250.
    pub(crate) port: u16,
    /// Port on which a host exchanges its token for a certificate, 8251.
    pub(crate) join_port: u16,
    /// Bridge, subnet and the range for system VMs.
    pub(crate) segment: Segment,
    /// Where the status page is served.
    pub(crate) page: Option<SocketAddr>,
}

/// A subnet on a bridge with a range of addresses to give out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bridge on the hosts.
    pub(crate) bridge: String,
    /// Subnet.
    pub(crate) net: Ipv4Net,
    /// Its gateway; inside `net`.
    pub(crate) gateway: Ipv4Addr,
    /// First and last address to give out; inside `net`.
    pub(crate) range: (Ipv4Addr, Ipv4Addr),
}

/// MiB of memory that a host keeps for itself.
pub(crate) const HOST_MIB: u64 = 1024;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Name by which it joins.
    pub(crate) name: String,
    /// Its management address, on which consoles listen.
    pub(crate) address: Ipv4Addr,
    /// Command and arguments that cut its power; empty where there is none.
    pub(crate) fence: Vec<String>,
    /// What it is good for.
    pub(crate) tags: Vec<String>,
    /// MiB of memory for VMs; `None` = all but [`HOST_MIB`].
    pub(crate) memory_mib: Option<u64>,
}

/// What a network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkKind {
    /// Behind its router.
    Isolated,
    /// On a segment that the operator routes; security groups guard its guests.
    Basic {
        /// Address of the router, which gives addresses, names and metadata.
        router: Ipv4Addr,
    },
}

/// A network with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    /// Name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: NetworkKind,
    /// Bridge on the hosts.
    pub(crate) bridge: String,
    /// Guest subnet.
    pub(crate) net: Ipv4Net,
    /// Gateway of its guests.
    pub(crate) gateway: Ipv4Addr,
    /// DNS domain.
    pub(crate) domain: String,
    /// Tag of the hosts on which its router may run.
    pub(crate) host_tag: Option<String>,
    /// Source NAT address, `None` = the next free one of the public range.
    pub(crate) source_nat: Option<Ipv4Addr>,
    /// Whether guests may reach out where no egress rule says otherwise.
    pub(crate) egress_allowed: bool,
    /// Exceptions to [`Self::egress_allowed`].
    pub(crate) egress: Vec<Filter>,
    /// What may come in from the internet.
    pub(crate) ingress: Vec<Ingress>,
    /// Port forwards.
    pub(crate) forwards: Vec<Forward>,
    /// Static NAT.
    pub(crate) static_nats: Vec<StaticNat>,
}

/// Protocol of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// Every protocol.
    All,
}

/// Ports from first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// First port.
    pub(crate) first: u16,
    /// Last port, not below the first.
    pub(crate) last: u16,
}

/// Protocol, ports and addresses of a firewall rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Protocol.
    pub(crate) protocol: Protocol,
    /// Ports, for TCP and UDP.
    pub(crate) ports: Option<Ports>,
    /// Sources; for an egress rule guests.
    pub(crate) sources: Vec<Ipv4Net>,
    /// Destinations of an egress rule.
    pub(crate) destinations: Vec<Ipv4Net>,
}

/// A firewall rule for what comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ingress {
    /// Public address, `None` = the source NAT address.
    pub(crate) address: Option<Ipv4Addr>,
    /// What it lets in.
    pub(crate) filter: Filter,
}

/// A port forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Public address, `None` = the source NAT address.
    pub(crate) address: Option<Ipv4Addr>,
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// Public ports.
    pub(crate) ports: Ports,
    /// Guest address.
    pub(crate) to: Ipv4Addr,
    /// Guest ports, as many as public ones.
    pub(crate) to_ports: Ports,
}

/// A public address that is one guest's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StaticNat {
    /// Public address.
    pub(crate) address: Ipv4Addr,
    /// Guest address.
    pub(crate) to: Ipv4Addr,
}

/// A secondary store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    /// Name.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) kind: StoreKind,
}

/// The kinds of secondary stores. The Debug form has no secret key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// NFS.
    Nfs {
        /// `nfs://host/path`.
        url: String,
        /// NFS version, where it must be a certain one.
        version: Option<String>,
    },
    /// S3.
    S3 {
        /// Host and port.
        endpoint: String,
        /// Bucket.
        bucket: String,
        /// Access key.
        access_key: String,
        /// Secret key.
        secret_key: String,
        /// TLS.
        https: bool,
    },
}

impl fmt::Debug for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nfs { url, .. } => write!(f, "Nfs({url})"),
            Self::S3 { endpoint, bucket, .. } => write!(f, "S3({endpoint}/{bucket})"),
        }
    }
}

/// A guest VM. The Debug form has no password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    /// Name of the VM and its host name.
    pub(crate) name: String,
    /// Name of its network.
    pub(crate) network: String,
    /// MAC address; `None` = made from its number.
    pub(crate) mac: Option<String>,
    /// Address in its network.
    pub(crate) address: Ipv4Addr,
    /// More addresses that it may have.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Its security groups.
    pub(crate) groups: BTreeSet<String>,
    /// What it boots.
    pub(crate) boot: GuestBoot,
    /// Tag of the hosts on which it may run.
    pub(crate) host_tag: Option<String>,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// User data, as text.
    pub(crate) user_data: Option<String>,
    /// SSH public key.
    pub(crate) public_key: Option<String>,
    /// Password that the router hands out once.
    pub(crate) password: Option<String>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guest({} {})", self.name, self.address)
    }
}

/// The NIC of a VM that the operator runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Name.
    pub(crate) name: String,
    /// Name of its network.
    pub(crate) network: String,
    /// Name of the host it is on.
    pub(crate) host: String,
    /// Interface there.
    pub(crate) tap: String,
    /// MAC address.
    pub(crate) mac: String,
    /// Address in its network.
    pub(crate) address: Ipv4Addr,
    /// More addresses that it may have.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Its security groups.
    pub(crate) groups: BTreeSet<String>,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecurityGroup {
    /// Name.
    pub(crate) name: String,
    /// What its members may get.
    pub(crate) ingress: Vec<Rule>,
    /// What they may send.
    pub(crate) egress: Vec<Rule>,
}

/// What a guest boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GuestBoot {
    /// An own overlay above this disk image.
    Disk(PathBuf),
    /// A kernel.
    Kernel {
        /// Kernel file.
        kernel: PathBuf,
        /// Initrd file.
        initrd: Option<PathBuf>,
        /// Kernel command line.
        append: String,
    },
}

impl Zone {
    /// Reads a zone file. Relative paths in it count from its own folder.
    pub(crate) fn load(path: &Path) -> Result<Self, ZoneError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ZoneError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder)
            .map_err(|source| ZoneError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &folder)
    }

    /// Reads the text of a zone file; relative paths in it count from `folder`.
    pub(crate) fn parse(text: &str, folder: &Path) -> Result<Self, ZoneError> {
        check::zone(toml::from_str(text)?, folder)
    }

    /// The network of that name.
    pub(crate) fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|n| n.name == name)
    }

    /// The store of that name.
    pub(crate) fn store(&self, name: &str) -> Option<&Store> {
        self.stores.iter().find(|s| s.name == name)
    }

    /// Public addresses that the file names, with the network they belong to.
    pub(crate) fn named_public(&self) -> BTreeMap<Ipv4Addr, &str> {
        let mut named = BTreeMap::new();
        for network in &self.networks {
            for address in network.named_public() {
                named.insert(address, network.name.as_str());
            }
        }
        named
    }
}

impl Network {
    /// Address of its router among the guests.
    pub(crate) fn router(&self) -> Ipv4Addr {
        match self.kind {
            NetworkKind::Isolated => self.gateway,
            NetworkKind::Basic { router } => router,
        }
    }

    /// Whether security groups guard its guests.
    pub(crate) fn is_guarded(&self) -> bool {
        matches!(self.kind, NetworkKind::Basic { .. })
    }

    /// Public addresses that the rules of this network name.
    pub(crate) fn named_public(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let nats = self.static_nats.iter().map(|n| n.address);
        let forwards = self.forwards.iter().filter_map(|f| f.address);
        let ingress = self.ingress.iter().filter_map(|i| i.address);
        self.source_nat.into_iter().chain(nats).chain(forwards).chain(ingress)
    }
}

#[cfg(test)]
pub(crate) mod tests;
