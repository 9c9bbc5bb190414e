//! What a secondary storage VM says when it joins, and how it is set up.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DataStoreTO, wire};
use crate::{
    channel::message::{AnswerBase, Base},
    command::Secret,
};

wire! {
    StartupSecondaryStorageCommand => "com.cloud.agent.api.StartupSecondaryStorageCommand",
    PingStorageCommand => "com.cloud.agent.api.PingStorageCommand",
    SecStorageSetupCommand => "com.cloud.agent.api.SecStorageSetupCommand",
    SecStorageSetupAnswer => "com.cloud.agent.api.SecStorageSetupAnswer",
    SecStorageVMSetupCommand => "com.cloud.agent.api.SecStorageVMSetupCommand",
    SecStorageFirewallCfgCommand => "com.cloud.agent.api.SecStorageFirewallCfgCommand",
}

/// The first command of a secondary storage VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartupSecondaryStorageCommand {
    /// Always `SecondaryStorage`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Number of the zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_center: Option<String>,
    /// Number of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `<VM name>-<resource>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// Name of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of the host, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Version of the software.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Always `NoIqn`.
    pub iqn: String,
    /// IPv4 address of the public NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_ip_address: Option<String>,
    /// Mask of the public NIC, dotted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_netmask: Option<String>,
    /// MAC address of the public NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_mac_address: Option<String>,
    /// IPv4 address of the management NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_ip_address: Option<String>,
    /// MAC address of the management NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_mac_address: Option<String>,
    /// Mask of the management NIC, dotted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_netmask: Option<String>,
    /// Repeats the management NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_ip_address: Option<String>,
    /// Repeats the management NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_netmask: Option<String>,
    /// Repeats the management NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_mac_address: Option<String>,
    /// Simple name of the resource class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Management servers that the VM knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_host_list: Option<String>,
    /// Whether the connection was handed over from another server.
    pub connection_transferred: bool,
    /// `x86_64` or `aarch64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Sign of life of a secondary storage VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingStorageCommand {
    /// Always empty.
    pub changes: Map<String, Value>,
    /// Always `Storage`.
    pub host_type: String,
    /// Number that the server gave to this agent.
    pub host_id: i64,
    /// Sent between the regular ones.
    pub out_of_band: bool,
    /// Always empty.
    pub command_infos: Vec<Value>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

impl Default for PingStorageCommand {
    fn default() -> Self {
        Self {
            changes: Map::new(),
            host_type: "Storage".to_owned(),
            host_id: 0,
            out_of_band: false,
            command_infos: Vec::new(),
            base: Base::default(),
        }
    }
}

/// Key and certificates for https, PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificates {
    /// Private key.
    #[serde(rename = "privKey", skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// Certificate of the key.
    #[serde(rename = "privCert", skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Certificates between it and the root.
    #[serde(rename = "certChain", skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// Root to trust for outgoing https.
    #[serde(rename = "rootCACert", skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// Mount a store. Sent once for each NFS store after every connect; S3 stores get none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecStorageSetupCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// URL of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sec_url: Option<String>,
    /// Certificates for https; absent = none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certs: Option<Certificates>,
    /// Key that signs upload tickets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_upload_key: Option<Secret>,
    /// Wanted version of NFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs_version: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Success of [`SecStorageSetupCommand`]; a failure is a plain answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecStorageSetupAnswer {
    /// Name of the mount folder.
    #[serde(rename = "_dir", skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Internal sites that downloads may reach, and credentials of the copy service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecStorageVMSetupCommand {
    /// CIDRs or single IPv4 addresses.
    pub allowed_internal_sites: Vec<String>,
    /// Always `cloud`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_user_name: Option<String>,
    /// Password of that user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_password: Option<Secret>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// One address that may copy from this VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortConfig {
    /// Only entries with `true` count.
    pub add: bool,
    /// IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<String>,
    /// `80` or `443`, informational.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// `eth1` or `eth2`, informational.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intf: Option<String>,
}

/// Who may copy from this VM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecStorageFirewallCfgCommand {
    /// The addresses; absent when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_configs: Vec<PortConfig>,
    /// Add to the list instead of replacing it.
    #[serde(rename = "isAppendAIp")]
    pub append: bool,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}
