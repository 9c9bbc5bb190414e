//! What `manage` and `manage serve` say to each other over the control socket: one line of JSON
//! with a request, then lines with progress, then one with the outcome.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::db::Template;

/// Longest line in bytes.
pub(crate) const LIMIT: usize = 4 * 1024 * 1024;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// The state of everything: [`Status`].
    Status,
    /// Stops a VM and keeps it stopped.
    VmStop {
        /// Instance name, or name of a guest.
        vm: String,
        /// Cut the power at once.
        force: bool,
    },
    /// Starts a VM and keeps it running.
    VmStart {
        /// Instance name, or name of a guest.
        vm: String,
    },
    /// Stops a VM and starts it again.
    VmReboot {
        /// Instance name, or name of a guest.
        vm: String,
        /// Cut the power at once.
        force: bool,
    },
    /// Sends one document to a router: [`Script`].
    RouterPush {
        /// Instance name of the router.
        vm: String,
        /// The document's text.
        document: String,
    },
    /// What one document would change in a router: [`Script`].
    RouterDiff {
        /// Instance name of the router.
        vm: String,
        /// The document's text.
        document: String,
    },
    /// Runs one script of `/opt/cloud/bin` in a system VM: [`Script`].
    Run {
        /// Instance name of the VM.
        vm: String,
        /// Name of the script.
        script: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// Begins to download a template: [`Template`].
    TemplateRegister {
        /// Name.
        name: String,
        /// Source.
        url: String,
        /// `QCOW2`, `RAW` …
        format: String,
        /// `{ALG}hex`, or bare hex for MD5.
        checksum: Option<String>,
        /// Name of the store.
        store: String,
    },
    /// All templates: a list of [`Template`].
    TemplateList,
    /// Copies a snapshot from store to store: [`SnapshotCopied`].
    SnapshotCopy {
        /// Name of the store.
        from_store: String,
        /// Path of the file in it.
        from_path: String,
        /// Name of the store.
        to_store: String,
        /// Folder in it.
        to_folder: String,
    },
    /// A URL of a guest's console: [`ConsoleUrl`].
    ConsoleUrl {
        /// Name of the guest.
        vm: String,
        /// What the URL is good for.
        #[serde(default)]
        look: Look,
    },
    /// A new file for a host to join with: its path, a text.
    HostToken {
        /// Name of the host.
        host: String,
    },
    /// What happened after the event of that number: a list of [`Event`].
    Events {
        /// Number; 0 = all that are kept.
        after: i64,
    },
    /// What applying the zone file would change: a list of lines.
    Plan,
    /// Applies the zone file, where its plan is still this one: the same list.
    Apply {
        /// The plan that the operator has seen.
        plan: Vec<String>,
    },
    /// All security groups, or the one of that name: a list of [`GroupStatus`].
    Groups {
        /// Name.
        name: Option<String>,
    },
    /// The operator says that a host is powered off.
    HostOff {
        /// Name of the host.
        host: String,
    },
    /// Takes a host out of service.
    HostDrain {
        /// Name of the host.
        host: String,
    },
    /// Takes it into service again.
    HostResume {
        /// Name of the host.
        host: String,
    },
    /// Refuses the certificates of a host or system VM from now on.
    Revoke {
        /// Name of the host, or instance name.
        name: String,
    },
    /// Gives a host or system VM a new certificate.
    Renew {
        /// Name of the host, or instance name.
        name: String,
    },
}

impl Request {
    /// Whether it changes what the manager remembers.
    pub(crate) fn changes(&self) -> bool {
        match self {
            Self::VmStop { .. }
            | Self::VmStart { .. }
            | Self::TemplateRegister { .. }
            | Self::HostToken { .. }
            | Self::Apply { .. }
            | Self::HostOff { .. }
            | Self::HostDrain { .. }
            | Self::HostResume { .. }
            | Self::Revoke { .. }
            | Self::Renew { .. } => true,
            Self::Status
            | Self::VmReboot { .. }
            | Self::RouterPush { .. }
            | Self::RouterDiff { .. }
            | Self::Run { .. }
            | Self::TemplateList
            | Self::SnapshotCopy { .. }
            | Self::ConsoleUrl { .. }
            | Self::Events { .. }
            | Self::Groups { .. }
            | Self::Plan => false,
        }
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// Something that takes long goes on.
    Progress(String),
    /// It is done; what it gave, or null.
    Done(serde_json::Value),
    /// It failed; what was wrong and what to do.
    Failed(String),
}

/// The state of everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Name of the zone.
    pub(crate) zone: String,
    /// Everything that shall run is ready, and all stores are attached.
    pub(crate) ready: bool,
    /// What is wrong with the manager itself, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
    /// Hosts.
    pub(crate) hosts: Vec<HostStatus>,
    /// VMs.
    pub(crate) vms: Vec<VmStatus>,
    /// Stores.
    pub(crate) stores: Vec<StoreStatus>,
    /// Templates.
    pub(crate) templates: Vec<Template>,
    /// What happened last, oldest first.
    pub(crate) events: Vec<Event>,
}

/// The standing of a host of which there is nothing to say.
pub(crate) const IN_SERVICE: &str = "in service";

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostStatus {
    /// Name.
    pub(crate) name: String,
    /// Management address.
    pub(crate) address: String,
    /// Whether its agent is up.
    pub(crate) up: bool,
    /// Seconds since its last ping.
    pub(crate) last_ping: Option<u64>,
    /// `in service`, `drained`, `lost` (its system VMs were started elsewhere), or why nothing can be said of it.
    pub(crate) standing: String,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmStatus {
    /// Number.
    pub(crate) id: i64,
    /// Instance name.
    pub(crate) name: String,
    /// Name in the zone file: of a guest, or of a router's network.
    pub(crate) owner: String,
    /// `router`, `ssvm`, `cpvm`, `guest`.
    pub(crate) kind: String,
    /// `running`, `stopped`, `removed`.
    pub(crate) wanted: String,
    /// `ready`, `running` (not ready yet), `stopped`, `unknown`.
    pub(crate) state: String,
    /// What is being done to it: `starting`, `stopping`, `certifying`, `configuring`.
    pub(crate) doing: Option<String>,
    /// Host it runs on.
    pub(crate) host: Option<String>,
    /// Whether its agent is up; none where it has no agent.
    pub(crate) agent: Option<bool>,
    /// What went wrong last.
    pub(crate) error: Option<String>,
    /// NICs.
    pub(crate) nics: Vec<NicStatus>,
}

/// A NIC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NicStatus {
    /// `eth0` …
    pub(crate) device: String,
    /// `Control`, `Management`, `Public`, `Guest`, `Storage`.
    pub(crate) traffic: String,
    /// IPv4 address.
    pub(crate) address: String,
    /// MAC address.
    pub(crate) mac: String,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreStatus {
    /// Name.
    pub(crate) name: String,
    /// `nfs`, `s3`.
    pub(crate) kind: String,
    /// Why it cannot be attached.
    pub(crate) error: Option<String>,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupStatus {
    /// Name.
    pub(crate) name: String,
    /// What members may get.
    pub(crate) ingress: Vec<String>,
    /// What they may send.
    pub(crate) egress: Vec<String>,
    /// Guests and ports that are in it.
    pub(crate) members: Vec<Member>,
}

/// A member of a security group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Name of the guest or port.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Number; later ones have greater ones.
    pub(crate) id: i64,
    /// Seconds since 1970.
    pub(crate) at: i64,
    /// To what.
    pub(crate) subject: String,
    /// What.
    pub(crate) text: String,
}

/// What a script in a VM printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Script {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// A snapshot that was copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotCopied {
    /// Name of the store it is in now.
    pub(crate) store: String,
    /// Its path there.
    pub(crate) path: String,
}

/// What a console's URL is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Look {
    /// The whole console, in place of who has it.
    #[default]
    Console,
    /// Looking, beside others.
    ViewOnly,
    /// One picture.
    Picture,
}

/// A console's URL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConsoleUrl {
    /// Name of the guest.
    pub(crate) vm: String,
    /// Good for one connection, for about a minute.
    pub(crate) url: String,
    /// Its session.
    pub(crate) session: String,
}
