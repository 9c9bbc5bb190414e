//! What browsers take from a secondary storage VM and bring to it.

use serde::{Deserialize, Serialize};

use super::{DataTO, OVFInformationTO};
use crate::{
    channel::message::{AnswerBase, Base},
    command::wire,
};

wire! {
    CreateEntityDownloadURLCommand = "com.cloud.agent.api.storage.CreateEntityDownloadURLCommand",
    CreateEntityDownloadURLAnswer = "com.cloud.agent.api.storage.CreateEntityDownloadURLAnswer",
    DeleteEntityDownloadURLCommand = "com.cloud.agent.api.storage.DeleteEntityDownloadURLCommand",
    UploadStatusCommand = "org.apache.cloudstack.storage.command.UploadStatusCommand",
    UploadStatusAnswer = "org.apache.cloudstack.storage.command.UploadStatusAnswer",
}

/// Offer a file of a store to whoever knows its URL.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateEntityDownloadURLCommand {
    /// Name of the store's mount folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// File below the root of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_path: Option<String>,
    /// Last component of the URL.
    #[serde(rename = "filenameInExtractURL", skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// The component before it, which nobody can guess.
    #[serde(rename = "filepathInExtractURL", skip_serializing_if = "Option::is_none")]
    pub file_path: Option<String>,
    /// What the file is, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataTO>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Whether the URL is good.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateEntityDownloadURLAnswer {
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Offer a file no longer; answered by a plain answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteEntityDownloadURLCommand {
    /// File below the root of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The URL, whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract_url: Option<String>,
    /// `VOLUME`, `SNAPSHOT`, `TEMPLATE` or `ISO`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name of the store's mount folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_path: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// How far is an upload?
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UploadStatusCommand {
    /// Identity of the template or volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_uuid: Option<String>,
    /// `Volume` or `Template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_type: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// State of an upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UploadStatus {
    /// Nothing has come yet.
    #[default]
    Unknown,
    /// Bytes arrive.
    InProgress,
    /// Installed.
    Completed,
    /// Failed for good.
    Error,
}

/// State of an upload; `result` is false where it failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UploadStatusAnswer {
    /// State.
    pub status: UploadStatus,
    /// Virtual size in bytes.
    pub virtual_size: i64,
    /// Bytes of the installed file.
    pub physical_size: i64,
    /// File below the root of the store, once installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_path: Option<String>,
    /// 0 to 100.
    pub download_percent: u8,
    /// What the descriptor of a package says, once installed.
    #[serde(rename = "ovfInformationTO", skip_serializing_if = "Option::is_none")]
    pub ovf_information: Option<Box<OVFInformationTO>>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}
