//! What core and serve say to each other about the web service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use common::command::{Secret, storage::ImageFormat};
use serde::{Deserialize, Serialize};

use super::Ticket;
use crate::{
    layout::StorePath,
    order::{Label, Stored},
    store::StoreSpec,
    transfer::Checksum,
};

/// Snapshot: [`Site`].
pub(crate) const SITE: &str = "site";
/// Question: [`Begin`], answered by [`Verdict`].
pub(crate) const BEGIN: &str = "upload begin";
/// Event: [`Advance`].
pub(crate) const ADVANCE: &str = "upload advance";
/// Question: [`End`], answered once it is on the disk.
pub(crate) const END: &str = "upload end";

/// What is served to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    /// Without it there is no https.
    pub(crate) tls: Option<Tls>,
    /// Addresses that may copy.
    pub(crate) peers: BTreeSet<Ipv4Addr>,
    /// User and password of the part of the copy service that asks for them.
    pub(crate) copy_login: Option<(String, Secret)>,
    /// Folder below which exports are mounted.
    pub(crate) parent: String,
    /// Names of the mount folders that may be copied from.
    pub(crate) mounts: BTreeSet<String>,
    /// Files by what follows `/userdata/` in their URL.
    pub(crate) links: BTreeMap<String, Link>,
    /// Key of the upload tickets; without it there are no uploads.
    pub(crate) upload_key: Option<Secret>,
    /// Whether uploads come by https; else by http.
    pub(crate) upload_by_https: bool,
}

/// A file that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// Name of the mount folder.
    pub(crate) mount: String,
    pub(crate) path: StorePath,
    /// Seconds since 1970.
    pub(crate) made: u64,
}

/// A certificate chain and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tls {
    /// The VM's own certificate first.
    pub(crate) chain: String,
    pub(crate) key: Secret,
}

/// An upload whose ticket is good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) uuid: String,
    pub(crate) ticket: Ticket,
    /// Bytes of the request's body.
    pub(crate) length: u64,
}

/// Whether an upload is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Receive(Box<Receive>),
    /// HTTP status and text for the user.
    Refuse(u16, String),
}

/// Where an upload goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Receive {
    pub(crate) job: String,
    pub(crate) store: StoreSpec,
    pub(crate) folder: StorePath,
    pub(crate) file: String,
    pub(crate) format: ImageFormat,
    pub(crate) checksum: Option<Checksum>,
    /// Most bytes of the installed image.
    pub(crate) limit: u64,
    pub(crate) label: Label,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Advance {
    pub(crate) uuid: String,
    pub(crate) received: u64,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) uuid: String,
    /// The image, or why there is none.
    pub(crate) result: Result<Stored, String>,
}
