//! Questions about a store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DataStoreTO;
use crate::{
    channel::message::{AnswerBase, Base},
    command::wire,
};

wire! {
    ListTemplateCommand = "com.cloud.agent.api.storage.ListTemplateCommand",
    ListTemplateAnswer = "com.cloud.agent.api.storage.ListTemplateAnswer",
    ListVolumeCommand = "com.cloud.agent.api.storage.ListVolumeCommand",
    ListVolumeAnswer = "com.cloud.agent.api.storage.ListVolumeAnswer",
    GetStorageStatsCommand = "com.cloud.agent.api.GetStorageStatsCommand",
    GetStorageStatsAnswer = "com.cloud.agent.api.GetStorageStatsAnswer",
    ComputeChecksumCommand = "com.cloud.agent.api.ComputeChecksumCommand",
}

/// One entry of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateProp {
    /// Unique name of the template, name of the volume.
    pub template_name: String,
    /// File below the root of the store, or key of the object.
    pub install_path: String,
    /// Virtual size in bytes.
    pub size: i64,
    /// Bytes of the file.
    pub physical_size: i64,
    /// Number at the management server; 0 where it is not known.
    pub id: i64,
    /// Always true for what the secondary storage VM installed.
    pub is_public: bool,
    /// The entry cannot be used and should be fetched again.
    pub is_corrupted: bool,
}

/// List the templates of a store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListTemplateCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// Wanted version of NFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs_version: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Every complete template of a store by unique name; never a part of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListTemplateAnswer {
    /// URL of the store, or its bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sec_url: Option<String>,
    /// Entries by unique name.
    pub template_infos: BTreeMap<String, TemplateProp>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// List the volumes of a store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListVolumeCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// URL of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sec_url: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Every complete volume of a store by number; never a part of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListVolumeAnswer {
    /// URL of the store, or its bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sec_url: Option<String>,
    /// Entries by number.
    pub template_infos: BTreeMap<i64, TemplateProp>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// How full is a store?
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetStorageStatsCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// Wanted version of NFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs_version: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Size and use of a store in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetStorageStatsAnswer {
    /// Bytes in use.
    pub used_bytes: i64,
    /// Bytes that it holds in all.
    pub capacity_bytes: i64,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Compute a checksum over a file of a store; answered by a plain answer, `details` = `{ALG}hex`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComputeChecksumCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// File below the root of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_path: Option<String>,
    /// `MD5`, `SHA-256` …
    pub algorithm: String,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

impl Default for ComputeChecksumCommand {
    fn default() -> Self {
        Self { store: None, template_path: None, algorithm: "MD5".to_owned(), base: Base::default() }
    }
}
