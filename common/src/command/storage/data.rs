//! Transfer objects that name a template, a volume or a snapshot.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DataStoreTO;

/// Format of an image. Its lower-case name is its file extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ImageFormat {
    /// QEMU copy-on-write, version 2 or 3.
    #[serde(rename = "QCOW2")]
    Qcow2,
    /// Plain bytes of a disk.
    #[serde(rename = "RAW")]
    Raw,
    /// Virtual PC disk.
    #[serde(rename = "VHD")]
    Vhd,
    /// ISO 9660 image.
    #[serde(rename = "ISO")]
    Iso,
    /// Archive of an OVF package.
    #[serde(rename = "OVA")]
    Ova,
    /// Hyper-V disk.
    #[serde(rename = "VHDX")]
    Vhdx,
    /// VMware disk.
    #[serde(rename = "VMDK")]
    Vmdk,
    /// VirtualBox disk.
    #[serde(rename = "VDI")]
    Vdi,
    /// Tape archive.
    #[serde(rename = "TAR")]
    Tar,
    /// Zip archive; only a hint for names.
    #[serde(rename = "ZIP")]
    Zip,
    /// Any other format; never a file of a store.
    #[serde(other)]
    Other,
}

impl ImageFormat {
    /// Formats that can be files of a store.
    pub const FILES: [Self; 9] = [
        Self::Qcow2,
        Self::Raw,
        Self::Vhd,
        Self::Iso,
        Self::Ova,
        Self::Vhdx,
        Self::Vmdk,
        Self::Vdi,
        Self::Tar,
    ];

    /// File extension without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Iso => "iso",
            Self::Ova => "ova",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Tar => "tar",
            Self::Zip => "zip",
            Self::Other => "bin",
        }
    }

    /// The format whose extension `name` ends with, in any case.
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        Self::FILES.into_iter().find(|f| f.extension().eq_ignore_ascii_case(extension))
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.extension().to_ascii_uppercase())
    }
}

/// A template, volume or snapshot, tagged with its class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DataTO {
    /// A template or ISO.
    #[serde(rename = "org.apache.cloudstack.storage.to.TemplateObjectTO")]
    Template(Box<TemplateObjectTO>),
    /// A volume.
    #[serde(rename = "org.apache.cloudstack.storage.to.VolumeObjectTO")]
    Volume(Box<VolumeObjectTO>),
    /// A snapshot.
    #[serde(rename = "org.apache.cloudstack.storage.to.SnapshotObjectTO")]
    Snapshot(Box<SnapshotObjectTO>),
    /// Any other class, as it came.
    #[serde(untagged)]
    Other(Value),
}

impl DataTO {
    /// Path below the root of its store.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Template(t) => t.path.as_deref(),
            Self::Volume(v) => v.path.as_deref(),
            Self::Snapshot(s) => s.path.as_deref(),
            Self::Other(_) => None,
        }
    }

    /// The store that holds it.
    pub fn store(&self) -> Option<&DataStoreTO> {
        match self {
            Self::Template(t) => t.image_data_store.as_ref(),
            Self::Volume(v) => v.data_store.as_ref(),
            Self::Snapshot(s) => s.data_store.as_ref(),
            Self::Other(_) => None,
        }
    }
}

/// A template or ISO.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateObjectTO {
    /// Path below the root of the store: a folder or a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where it was registered from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orig_url: Option<String>,
    /// Identity at the management server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Number at the management server.
    pub id: i64,
    /// Format of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Number of the account that owns it.
    pub account_id: i64,
    /// `{ALGORITHM}hex` or bare hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Runs with full virtualisation.
    pub hvm: bool,
    /// Text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_text: Option<String>,
    /// The store that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_data_store: Option<DataStoreTO>,
    /// Unique name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Virtual size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_size: Option<i64>,
    /// Hypervisor by name: `KVM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor_type: Option<String>,
    /// Can be booted from.
    pub bootable: bool,
    /// Unique name once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_name: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeObjectTO {
    /// Identity at the management server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// `ROOT` or `DATADISK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// The store that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_store: Option<DataStoreTO>,
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Virtual size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Path below the root of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Number of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<i64>,
    /// VM that it is attached to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_name: Option<String>,
    /// Number of the account that owns it.
    pub account_id: i64,
    /// Format of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
    /// Number at the management server.
    pub id: i64,
    /// Hypervisor by name: `KVM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor_type: Option<String>,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotObjectTO {
    /// Path below the root of the store; as a destination the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The volume; without a class name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<Box<VolumeObjectTO>>,
    /// Path of the snapshot that this one builds on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_snapshot_path: Option<String>,
    /// The store that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_store: Option<DataStoreTO>,
    /// Holds a difference that hypervisors chain by checkpoints.
    pub kvm_incremental_snapshot: bool,
    /// VM of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_name: Option<String>,
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Hypervisor by name: `KVM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor_type: Option<String>,
    /// Number at the management server.
    pub id: i64,
    /// Paths of all that it builds on, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parents: Option<Vec<String>>,
    /// Path of the checkpoint's description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_path: Option<String>,
    /// Bytes of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_size: Option<i64>,
    /// Number of the account that owns it.
    pub account_id: i64,
}
