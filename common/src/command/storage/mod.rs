//! Commands and answers of the secondary storage VM: set-up, downloads, uploads, copies, deletions and
//! listings of stores, and the transfer objects that they carry.
//!
//! Fields declared as an interface by the other end ([`DataTO`], [`DataStoreTO`]) travel as an
//! object with one key, the class name; all others are plain objects. Members that are absent
//! read as nothing, unknown members are ignored.

mod copy;
mod data;
mod download;
mod package;
mod query;
mod setup;
mod store;
mod upkeep;
mod web;

pub use copy::{CopyCmdAnswer, CopyCommand, DeleteCommand};
pub use data::{DataTO, ImageFormat, SnapshotObjectTO, TemplateObjectTO, VolumeObjectTO};
pub use download::{
    DownloadAnswer, DownloadCommand, DownloadProgressCommand, DownloadStatus, PasswordAuth, Proxy,
    ResourceType,
};
pub use package::{
    CreateDatadiskTemplateAnswer, CreateDatadiskTemplateCommand, DatadiskTO, GetDatadisksAnswer,
    GetDatadisksCommand, GuestOs, OVFConfigurationTO, OVFEulaSectionTO, OVFInformationTO, OVFNetworkTO,
    OVFPropertyTO, OVFVirtualHardwareItemTO, OVFVirtualHardwareSectionTO,
};
pub use query::{
    ComputeChecksumCommand, GetStorageStatsAnswer, GetStorageStatsCommand, ListTemplateAnswer,
    ListTemplateCommand, ListVolumeAnswer, ListVolumeCommand, TemplateProp,
};

pub use setup::{
    Certificates, PortConfig, SecStorageFirewallCfgCommand, SecStorageSetupAnswer, SecStorageSetupCommand,
    SecStorageVMSetupCommand,
};
pub use store::{DataStoreTO, NfsTO, S3TO, StoreRole};
pub use upkeep::{
    DeleteSnapshotsDirCommand, HandleConfigDriveIsoAnswer, HandleConfigDriveIsoCommand,
    ListDataStoreObjectsAnswer, ListDataStoreObjectsCommand, MoveVolumeCommand, QuerySnapshotZoneCopyAnswer,
    QuerySnapshotZoneCopyCommand,
};
pub use web::{
    CreateEntityDownloadURLAnswer, CreateEntityDownloadURLCommand, DeleteEntityDownloadURLCommand,
    UploadStatus, UploadStatusAnswer, UploadStatusCommand,
};

#[cfg(test)]
mod tests;
