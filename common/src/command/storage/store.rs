//! Transfer objects that name a store.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::Secret;

/// A store, tagged with its class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DataStoreTO {
    /// An NFS export.
    #[serde(rename = "com.cloud.agent.api.to.NfsTO")]
    Nfs(NfsTO),
    /// A bucket of an S3 service.
    #[serde(rename = "com.cloud.agent.api.to.S3TO")]
    S3(Box<S3TO>),
    /// Any other class, as it came.
    #[serde(untagged)]
    Other(Value),
}

impl DataStoreTO {
    /// The class name, for messages about stores that are not supported.
    pub fn class(&self) -> &str {
        match self {
            Self::Nfs(_) => "com.cloud.agent.api.to.NfsTO",
            Self::S3(_) => "com.cloud.agent.api.to.S3TO",
            Self::Other(value) => {
                value.as_object().and_then(|o| o.keys().next()).map_or("no class", String::as_str)
            }
        }
    }
}

/// What a store is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreRole {
    /// Holds templates, volumes and snapshots.
    Image,
    /// Staging area in front of an object store.
    ImageCache,
    /// Any other role; never handled by a secondary storage VM.
    #[serde(other)]
    Primary,
}

/// An NFS export, `nfs://<host>/<path>`, or a CIFS share, `cifs://<host>/<share>?user=…&password=…`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NfsTO {
    /// URL of the export.
    #[serde(rename = "_url", skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Role of the store; absent counts as [`StoreRole::Image`].
    #[serde(rename = "_role", skip_serializing_if = "Option::is_none")]
    pub role: Option<StoreRole>,
    /// Identity of the store at the management server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Wanted protocol version, for instance `4.1`.
    #[serde(rename = "nfsVersion", skip_serializing_if = "Option::is_none")]
    pub nfs_version: Option<String>,
}

impl fmt::Debug for NfsTO {
    /// Shows the URL without its query, which carries the password of a share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_deref().map(|u| u.split('?').next().unwrap_or_default());
        f.debug_struct("NfsTO").field("url", &url).field("role", &self.role).finish_non_exhaustive()
    }
}

/// A bucket of an S3 service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct S3TO {
    /// Number of the store.
    pub id: i64,
    /// Identity of the store at the management server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Access key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<Secret>,
    /// Secret key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<Secret>,
    /// `host[:port]` or URL; absent or blank means AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_point: Option<String>,
    /// Name of the bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket_name: Option<String>,
    /// `AWSS3V4SignerType`, `S3SignerType` or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// https if true or absent, http if false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_flag: Option<bool>,
    /// Keep-alive of the transport.
    #[serde(rename = "useTCPKeepAlive", skip_serializing_if = "Option::is_none")]
    pub use_tcp_keep_alive: Option<bool>,
    /// Limit for a connection attempt in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_timeout: Option<i64>,
    /// Attempts after the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_retry: Option<i64>,
    /// Limit for silence on a connection in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_timeout: Option<i64>,
    /// Longest age of a pooled connection in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_ttl: Option<i64>,
    /// Date in the style of the sender's locale; opaque.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Store with reduced redundancy.
    #[serde(rename = "enableRRS", skip_serializing_if = "Option::is_none")]
    pub enable_rrs: Option<bool>,
    /// Not used by the secondary storage VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_single_upload_size_in_bytes: Option<i64>,
}
