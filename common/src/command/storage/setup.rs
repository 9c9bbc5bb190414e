//! How a secondary storage VM is set up.

use serde::{Deserialize, Serialize};

use super::DataStoreTO;
use crate::{
    channel::message::{AnswerBase, Base},
    command::{Secret, wire},
};

wire! {
    SecStorageSetupCommand = "com.cloud.agent.api.SecStorageSetupCommand",
    SecStorageSetupAnswer = "com.cloud.agent.api.SecStorageSetupAnswer",
    SecStorageVMSetupCommand = "com.cloud.agent.api.SecStorageVMSetupCommand",
    SecStorageFirewallCfgCommand = "com.cloud.agent.api.SecStorageFirewallCfgCommand",
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
