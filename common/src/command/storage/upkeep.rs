//! Work on what a store holds already: volumes that change their owner, snapshots of an account that goes,
//! what an operator browses, what another zone copies, configuration drives.

use serde::{Deserialize, Serialize};

use super::{DataStoreTO, SnapshotObjectTO};
use crate::{
    channel::message::{AnswerBase, Base},
    command::{Secret, wire},
};

wire! {
    DeleteSnapshotsDirCommand = "com.cloud.agent.api.DeleteSnapshotsDirCommand",
    MoveVolumeCommand = "org.apache.cloudstack.storage.command.MoveVolumeCommand",
    ListDataStoreObjectsCommand =
        "org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsCommand",
    ListDataStoreObjectsAnswer = "org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsAnswer",
    QuerySnapshotZoneCopyCommand = "org.apache.cloudstack.storage.command.QuerySnapshotZoneCopyCommand",
    QuerySnapshotZoneCopyAnswer = "org.apache.cloudstack.storage.command.QuerySnapshotZoneCopyAnswer",
    HandleConfigDriveIsoCommand = "com.cloud.agent.api.HandleConfigDriveIsoCommand",
    HandleConfigDriveIsoAnswer = "com.cloud.agent.api.HandleConfigDriveIsoAnswer",
}

/// Remove all snapshots of a volume; answered by a plain answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteSnapshotsDirCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// `snapshots/<account>/<volume>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Move a volume to the folder of another account; answered by a plain answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoveVolumeCommand {
    /// Folder of the volume, `volumes/<account>/<volume>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_path: Option<String>,
    /// Folder that it gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest_path: Option<String>,
    /// Name of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    /// Identity of the volume at the management server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_uuid: Option<String>,
    /// URL of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datastore_uri: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Show a page of a folder of a store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListDataStoreObjectsCommand {
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<DataStoreTO>,
    /// Folder or file below the root of the store; empty for the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// First entry of the page.
    pub start_index: i64,
    /// Entries of the page at most.
    pub page_size: i64,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// A page of a folder; the lists run side by side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListDataStoreObjectsAnswer {
    /// Whether there is anything at the path.
    pub path_exists: bool,
    /// Entries in all.
    pub count: i64,
    /// Last components.
    pub names: Vec<String>,
    /// Paths below the root of the store, with a slash before.
    pub paths: Vec<String>,
    /// Paths on the secondary storage VM.
    pub abs_paths: Vec<String>,
    /// Which of them are folders.
    pub is_dirs: Vec<bool>,
    /// Sizes in bytes.
    pub sizes: Vec<i64>,
    /// Milliseconds since 1970.
    pub last_modified: Vec<i64>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Which files make up a snapshot, for a copy to another zone?
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuerySnapshotZoneCopyCommand {
    /// The snapshot; without a class name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Box<SnapshotObjectTO>>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// The files of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuerySnapshotZoneCopyAnswer {
    /// Paths below the root of the store.
    pub files: Vec<String>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Put a configuration drive into a store, or take it away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HandleConfigDriveIsoCommand {
    /// `configdrive/<VM>.iso`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iso_file: Option<String>,
    /// The image in base64; holds passwords of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iso_data: Option<Secret>,
    /// Put it there; else take it away.
    pub create: bool,
    /// The store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest_store: Option<DataStoreTO>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// Where a configuration drive is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HandleConfigDriveIsoAnswer {
    /// Always `SECONDARY`; the other end does not bear its absence.
    pub location: String,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

impl Default for HandleConfigDriveIsoAnswer {
    fn default() -> Self {
        Self { location: "SECONDARY".to_owned(), answer: AnswerBase::default() }
    }
}
