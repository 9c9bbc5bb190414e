//! Joining: the agent says who it is, the server says who it shall be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::channel::lenient;
use crate::channel::message::{AnswerBase, Base};
use crate::command::wire;

/// Address, netmask and MAC of one NIC. All three are text because that is what the wire carries;
/// absent members stay absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nic {
    /// Address, for instance `10.1.1.21`.
    pub address: Option<String>,
    /// Netmask, for instance `255.255.255.0`.
    pub netmask: Option<String>,
    /// MAC, for instance `1e:00:0b:00:00:0b`.
    pub mac: Option<String>,
}

/// The members that every start-up command carries (management channel 3.3).
/// `id`, `msHostList` and `connectionTransferred` are filled in by the channel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupBase {
    /// Host type: `SecondaryStorage`, `ConsoleProxy`, `Routing` or `Storage`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Zone: database id or name.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub data_center: Option<String>,
    /// Pod: database id or name.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Cluster: database id or name; hypervisor hosts only.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Who this is, for ever: `<guid>-<resource name>`.
    pub guid: String,
    /// Name of the machine; for a system VM its instance name.
    pub name: String,
    /// Host id of the last time.
    #[serde(deserialize_with = "lenient::optional_integer", skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Version shown to the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// iSCSI initiator; `NoIqn` in system VMs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iqn: Option<String>,
    /// Public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_ip_address: Option<String>,
    /// Netmask of the public address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_netmask: Option<String>,
    /// MAC of the public NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_mac_address: Option<String>,
    /// Management address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_ip_address: Option<String>,
    /// MAC of the management NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_mac_address: Option<String>,
    /// Netmask of the management address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_netmask: Option<String>,
    /// Storage address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_ip_address: Option<String>,
    /// Netmask of the storage address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_netmask: Option<String>,
    /// MAC of the storage NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_mac_address: Option<String>,
    /// Simple class name of the resource, the suffix of the guid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Default gateway of a hypervisor host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_ip_address: Option<String>,
    /// The list of servers that the agent has, with `@<algorithm>` where it knows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_host_list: Option<String>,
    /// This connection was moved here by `MigrateAgentConnectionCommand`.
    #[serde(deserialize_with = "lenient::boolean")]
    pub connection_transferred: bool,
    /// Machine architecture: `x86_64` or `aarch64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

impl StartupBase {
    /// Sets the management NIC.
    pub fn with_private(mut self, nic: Nic) -> Self {
        (self.private_ip_address, self.private_netmask, self.private_mac_address) =
            (nic.address, nic.netmask, nic.mac);
        self
    }

    /// Sets the storage NIC; a system VM without one repeats its management NIC here.
    pub fn with_storage(mut self, nic: Nic) -> Self {
        (self.storage_ip_address, self.storage_netmask, self.storage_mac_address) =
            (nic.address, nic.netmask, nic.mac);
        self
    }

    /// Sets the public NIC.
    pub fn with_public(mut self, nic: Nic) -> Self {
        (self.public_ip_address, self.public_netmask, self.public_mac_address) =
            (nic.address, nic.netmask, nic.mac);
        self
    }
}

/// A secondary storage VM joins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StartupSecondaryStorageCommand {
    /// Who it is.
    #[serde(flatten)]
    pub startup: StartupBase,
}

/// A console proxy VM joins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupProxyCommand {
    /// Port of the console pages, 80.
    #[serde(deserialize_with = "lenient::integer")]
    pub proxy_port: i64,
    /// Database id of the VM, from the boot argument `proxy_vm`.
    #[serde(deserialize_with = "lenient::integer")]
    pub proxy_vm_id: i64,
    /// Who it is.
    #[serde(flatten)]
    pub startup: StartupBase,
}

/// A hypervisor host joins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupRoutingCommand {
    /// Sockets with a CPU.
    #[serde(deserialize_with = "lenient::optional_integer", skip_serializing_if = "Option::is_none")]
    pub cpu_sockets: Option<i64>,
    /// Logical CPUs.
    #[serde(deserialize_with = "lenient::integer")]
    pub cpus: i64,
    /// MHz of one CPU.
    #[serde(deserialize_with = "lenient::integer")]
    pub speed: i64,
    /// `x86_64` or `aarch64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_arch: Option<String>,
    /// Bytes of memory in all.
    #[serde(deserialize_with = "lenient::integer")]
    pub memory: i64,
    /// Bytes of memory kept for the host itself.
    #[serde(rename = "dom0MinMemory", deserialize_with = "lenient::integer")]
    pub dom0_min_memory: i64,
    /// Always false on KVM.
    #[serde(deserialize_with = "lenient::boolean")]
    pub pool_sync: bool,
    /// Always false on KVM.
    #[serde(deserialize_with = "lenient::boolean")]
    pub supports_cloned_volumes: bool,
    /// Capabilities: `hvm,snapshot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caps: Option<String>,
    /// Resource pool of the hypervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// `KVM` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor_type: Option<String>,
    /// Facts on the host such as `Host.OS` and `secured`.
    pub host_details: BTreeMap<String, String>,
    /// Tags that the operator gave the host.
    pub host_tags: Vec<String>,
    /// Version of the hypervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor_version: Option<String>,
    /// Groups of virtual GPUs.
    pub group_details: Map<String, Value>,
    /// GPUs.
    pub gpu_devices: Vec<Value>,
    /// Outcome of the operator's health script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_health_check_result: Option<bool>,
    /// Who it is.
    #[serde(flatten)]
    pub startup: StartupBase,
}

/// A storage pool that exists on one host only; follows a [`StartupRoutingCommand`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupStorageCommand {
    /// Path of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Templates in the pool.
    pub template_info: Map<String, Value>,
    /// Bytes.
    #[serde(deserialize_with = "lenient::integer")]
    pub total_size: i64,
    /// Name, place and size of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_info: Option<StoragePoolInfo>,
    /// `STORAGE_POOL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// `Filesystem` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// Facts on the pool.
    pub host_details: BTreeMap<String, String>,
    /// Who it is.
    #[serde(flatten)]
    pub startup: StartupBase,
}

/// A storage pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoragePoolInfo {
    /// UUID of the pool.
    pub uuid: String,
    /// Address of the host.
    pub host: String,
    /// Path as the hypervisor sees it.
    pub local_path: String,
    /// Path as the host sees it.
    pub host_path: String,
    /// `Filesystem` …
    pub pool_type: String,
    /// Bytes in all.
    #[serde(deserialize_with = "lenient::integer")]
    pub capacity_bytes: i64,
    /// Bytes free.
    #[serde(deserialize_with = "lenient::integer")]
    pub available_bytes: i64,
}

/// The server has taken note; sent before any check, so `hostId` may be 0 and the names empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupAnswer {
    /// Host id, 0 = not known yet.
    #[serde(deserialize_with = "lenient::integer")]
    pub host_id: i64,
    /// Name of the host record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// UUID of the host record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_uuid: Option<String>,
    /// Seconds between two pings.
    #[serde(deserialize_with = "lenient::integer")]
    pub ping_interval: i64,
    /// Result and details; a refusal has `result` false.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// The agent is in (or, with `_details`, refused).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadyCommand {
    /// Why the agent is refused; absent when it is welcome.
    #[serde(rename = "_details", skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// Zone.
    #[serde(deserialize_with = "lenient::optional_integer", skip_serializing_if = "Option::is_none")]
    pub dc_id: Option<i64>,
    /// Host id.
    #[serde(deserialize_with = "lenient::optional_integer", skip_serializing_if = "Option::is_none")]
    pub host_id: Option<i64>,
    /// UUID of the host record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_uuid: Option<String>,
    /// Name of the host record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Servers in order of preference; absent when the agent's own list is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_host_list: Option<Vec<String>>,
    /// Servers to turn to last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avoid_ms_host_list: Option<Vec<String>>,
    /// `static`, `roundrobin` or `shuffle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lb_algorithm: Option<String>,
    /// Seconds between two looks at the preferred server, 0 = none.
    #[serde(deserialize_with = "lenient::optional_integer", skip_serializing_if = "Option::is_none")]
    pub lb_check_interval: Option<i64>,
    /// Whether sizes in messages are for people.
    #[serde(deserialize_with = "lenient::optional_boolean", skip_serializing_if = "Option::is_none")]
    pub enable_human_readable_sizes: Option<bool>,
    /// Architecture of the host record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Common members.
    #[serde(flatten)]
    pub base: Base,
}

/// The agent has taken its place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadyAnswer {
    /// Facts that a hypervisor host adds, such as `host.uefi.enable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details_map: Option<BTreeMap<String, String>>,
    /// Result and details.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

wire! {
    StartupSecondaryStorageCommand = "com.cloud.agent.api.StartupSecondaryStorageCommand",
    StartupProxyCommand = "com.cloud.agent.api.StartupProxyCommand",
    StartupRoutingCommand = "com.cloud.agent.api.StartupRoutingCommand",
    StartupStorageCommand = "com.cloud.agent.api.StartupStorageCommand",
    StartupAnswer = "com.cloud.agent.api.StartupAnswer",
    ReadyCommand = "com.cloud.agent.api.ReadyCommand",
    ReadyAnswer = "com.cloud.agent.api.ReadyAnswer",
}
