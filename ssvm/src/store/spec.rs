//! Which store is meant: what the core tells a worker.

use common::command::Secret;
use serde::{Deserialize, Serialize};

use super::{FolderStore, S3Store, Store, StoreResult};

/// A store, with everything needed to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreSpec {
    /// A mounted folder, absolute.
    Folder(String),
    /// A bucket.
    Bucket(Box<BucketSpec>),
}

/// A bucket of an S3 service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BucketSpec {
    /// URL of the service, `http://10.0.0.9:9000`; empty means AWS.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) access_key: Secret,
    pub(crate) secret_key: Secret,
    pub(crate) region: String,
    /// The bucket is named in the path of a URL and not in its host.
    pub(crate) path_style: bool,
    /// Signed as S3 did before 2012, for services that know nothing else.
    pub(crate) old_signature: bool,
    /// Limit for a connection attempt in milliseconds.
    pub(crate) connect_limit: u64,
    /// Limit for silence in milliseconds.
    pub(crate) silence_limit: u64,
    /// Attempts for each request.
    pub(crate) attempts: u32,
    /// Certificates to trust beside those of the system, PEM.
    pub(crate) trust: Vec<String>,
}

impl StoreSpec {
    /// Opens the store. `job` names temporary files.
    pub(crate) async fn open(&self, job: &str) -> StoreResult<Box<dyn Store>> {
        Ok(match self {
            Self::Folder(path) => Box::new(FolderStore::open(path, job).await?),
            Self::Bucket(bucket) => Box::new(S3Store::new(bucket)?),
        })
    }
}
