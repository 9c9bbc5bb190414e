//! Downloads: the order, its poll, and their one answer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DataStoreTO, ImageFormat, OVFInformationTO};
use crate::{
    channel::message::{AnswerBase, Base},
    command::{Secret, wire},
};

wire! {
    DownloadCommand = "org.apache.cloudstack.storage.command.DownloadCommand",
    DownloadProgressCommand = "org.apache.cloudstack.storage.command.DownloadProgressCommand",
    DownloadAnswer = "com.cloud.agent.api.storage.DownloadAnswer",
}

/// What is downloaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ResourceType {
    /// A template or ISO.
    #[default]
    Template,
    /// A volume.
    Volume,
    /// A snapshot from another zone; its bytes are not inspected.
    Snapshot,
}

/// Credentials for the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PasswordAuth {
    /// User name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// An HTTP proxy on the way to the source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxy {
    /// Host of the proxy.
    #[serde(rename = "_host", skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Port of the proxy.
    #[serde(rename = "_port")]
    pub port: u16,
    /// User name at the proxy.
    #[serde(rename = "_userName", skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Password at the proxy.
    #[serde(rename = "_password", skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// Fetch a URL into a store.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadCommand {
    /// Runs with full virtualisation.
    pub hvm: bool,
    /// Text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `{ALGORITHM}hex` or bare hex over the bytes as served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Credentials for the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<PasswordAuth>,
    /// Proxy on the way to the source.
    #[serde(rename = "_proxy", skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Limit for the installed file in bytes; absent = 50 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_download_size_in_bytes: Option<i64>,
    /// Number of the template, volume or snapshot.
    pub id: i64,
    /// What it is; absent = template.
    pub resource_type: ResourceType,
    /// Folder below the root of the store, `template/tmpl/<account>/<id>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_path: Option<String>,
    /// The store.
    #[serde(rename = "_store", skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// Whether redirections are followed.
    pub follow_redirects: bool,
    /// Where to fetch from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Format that the image must have; absent for snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Number of the account that owns it.
    pub account_id: i64,
    /// Unique name of a template, name of a volume or snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// URL of the store, informational.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sec_url: Option<String>,
    /// Wanted version of NFS, informational.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs_version: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

impl fmt::Debug for DownloadCommand {
    /// Shows what identifies the order; the URL may carry credentials and stays out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DownloadCommand")
            .field("id", &self.id)
            .field("resource_type", &self.resource_type)
            .field("install_path", &self.install_path)
            .field("format", &self.format)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// Ask for the state of a download, or change its course.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadProgressCommand {
    /// The job that the first answer named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// `GET_STATUS`, `ABORT`, `RESTART`, `PURGE` or `GET_OR_RESTART`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The order once more, with the members that every command carries.
    #[serde(flatten)]
    pub download: DownloadCommand,
}

/// State of a download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DownloadStatus {
    /// The job is not known.
    #[default]
    Unknown,
    /// Waits, was aborted, or will be tried again.
    NotDownloaded,
    /// Bytes arrive or are being installed.
    DownloadInProgress,
    /// Installed.
    Downloaded,
    /// Failed for good.
    DownloadError,
    /// Given up by the server.
    Abandoned,
}

/// State of a download job. `result` is true even where the download failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadAnswer {
    /// The job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// 0 to 100.
    pub download_pct: u8,
    /// What went wrong; one space where nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_string: Option<String>,
    /// State.
    pub download_status: DownloadStatus,
    /// Absolute path of the temporary file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_path: Option<String>,
    /// Folder, and once installed the file, below the root of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_path: Option<String>,
    /// Virtual size in bytes.
    pub template_size: i64,
    /// Bytes of the installed file.
    #[serde(rename = "templatePhySicalSize")]
    pub template_physical_size: i64,
    /// `{ALGORITHM}hex` over the bytes as served.
    #[serde(rename = "checkSum", skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// What the descriptor of a package says, in the answer to `PURGE`.
    #[serde(rename = "ovfInformationTO", skip_serializing_if = "Option::is_none")]
    pub ovf_information: Option<Box<OVFInformationTO>>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}
