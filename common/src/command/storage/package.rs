//! What the descriptor of a package (OVF) tells, and the disks of a package as templates of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{DataTO, TemplateObjectTO};
use crate::{
    channel::message::{AnswerBase, Base},
    command::wire,
};

wire! {
    GetDatadisksCommand = "com.cloud.agent.api.storage.GetDatadisksCommand",
    GetDatadisksAnswer = "com.cloud.agent.api.storage.GetDatadisksAnswer",
    CreateDatadiskTemplateCommand = "com.cloud.agent.api.storage.CreateDatadiskTemplateCommand",
    CreateDatadiskTemplateAnswer = "com.cloud.agent.api.storage.CreateDatadiskTemplateAnswer",
}

/// What a descriptor tells of the machine that it describes. Values of properties may be passwords: it is never shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OVFInformationTO {
    /// What a user is asked for.
    pub properties: Vec<OVFPropertyTO>,
    /// Networks, with the NIC in each.
    pub networks: Vec<OVFNetworkTO>,
    /// Disks, then ISO images.
    pub disks: Vec<DatadiskTO>,
    /// Hardware; absent where nothing is said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware_section: Option<OVFVirtualHardwareSectionTO>,
    /// Licenses that a user has to agree to.
    pub eula_sections: Vec<OVFEulaSectionTO>,
    /// Operating system; absent where nothing is said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_os_info: Option<GuestOs>,
}

impl fmt::Debug for OVFInformationTO {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OVFInformationTO").finish_non_exhaustive()
    }
}

/// An operating system; the other end names its members so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestOs {
    /// VMware's name of it: `debian10_64Guest`.
    #[serde(rename = "t", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Text for users.
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A property that a user may set.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OVFPropertyTO {
    /// Name.
    pub key: String,
    /// `string`, `boolean`, `uint32` …
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it is where the user says nothing; may be a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What values it can have: `MinLen(1) MaxLen(8)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qualifiers: Option<String>,
    /// Always true for what is told.
    pub user_configurable: bool,
    /// Short text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Not to be shown.
    pub password: bool,
    /// Place in the descriptor.
    pub index: i32,
    /// Heading that it stands below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
}

impl fmt::Debug for OVFPropertyTO {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OVFPropertyTO").field("key", &self.key).finish_non_exhaustive()
    }
}

/// A network, with the NIC that is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OVFNetworkTO {
    /// Name.
    pub name: String,
    /// Text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_description: Option<String>,
    /// Place of the NIC among the NICs.
    pub address_on_parent: i32,
    /// Whether the NIC is plugged in.
    pub automatic_allocation: bool,
    /// Text about the NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic_description: Option<String>,
    /// Name of the NIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element_name: Option<String>,
    /// Number of the NIC in the hardware section.
    #[serde(rename = "InstanceID")]
    pub instance_id: i32,
    /// `VmxNet3`, `E1000` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_sub_type: Option<String>,
    /// `10`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
}

/// A disk or ISO image of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DatadiskTO {
    /// Absolute path on the secondary storage VM; absent for a disk without content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes of the disk.
    pub virtual_size: i64,
    /// Bytes of the file.
    pub file_size: i64,
    /// Whether the machine starts from it.
    pub bootable: bool,
    /// Name in the descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
    /// An ISO image.
    pub is_iso: bool,
    /// Name of its controller: `SCSI Controller 0`.
    pub disk_controller: String,
    /// Kind of its controller: `lsilogic`.
    pub disk_controller_sub_type: String,
    /// Counts from 0.
    pub disk_number: i32,
    /// Configurations that have it; empty for all.
    pub configuration: String,
}

/// The hardware that a descriptor asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OVFVirtualHardwareSectionTO {
    /// Oldest virtual hardware that will do: `vmx-13`. The name is the other end's.
    #[serde(rename = "minimiumHardwareVersion", skip_serializing_if = "Option::is_none")]
    pub minimum_hardware_version: Option<String>,
    /// What a user may choose from.
    pub configurations: Vec<OVFConfigurationTO>,
    /// What every configuration has.
    pub common_hardware_items: Vec<OVFVirtualHardwareItemTO>,
}

/// A configuration, for instance a size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OVFConfigurationTO {
    /// Name in the descriptor.
    pub id: String,
    /// Short text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Text for users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it has of its own.
    pub hardware_items: Vec<OVFVirtualHardwareItemTO>,
    /// Place in the descriptor.
    pub index: i32,
}

/// One piece of hardware (CIM_ResourceAllocationSettingData).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the members are those of the standard, in its words")]
pub struct OVFVirtualHardwareItemTO {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_on_parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation_units: Option<String>,
    pub automatic_allocation: bool,
    pub automatic_deallocation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changeable_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_resource_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_subtype: Option<String>,
    /// Name of the kind, not its number: `Processor`, `DiskDrive` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_quantity: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_quantity_units: Option<String>,
    pub weight: i32,
    /// Configurations that have it, with blanks between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_ids: Option<String>,
}

/// A license.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OVFEulaSectionTO {
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// Its text, gzip (RFC 1952). Bytes of the other end have a sign.
    pub compressed_license: Vec<i8>,
    /// Place in the descriptor.
    pub index: i32,
}

/// Which disks has a package?
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetDatadisksCommand {
    /// The template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataTO>,
    /// The configuration that counts; absent = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_id: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// The disks of a package.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetDatadisksAnswer {
    /// Disks, then ISO images.
    pub data_disk_details: Vec<DatadiskTO>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}

/// Make a template of one disk of a package.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateDatadiskTemplateCommand {
    /// The template that is to be; for the disk that is started from the template of the package itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_disk_template: Option<DataTO>,
    /// Absolute path of the disk on the secondary storage VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes of the file.
    pub file_size: i64,
    /// The disk that is started from, which stays where it is.
    pub bootable: bool,
    /// Name in the descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
    /// What every command carries.
    #[serde(flatten)]
    pub base: Base,
}

/// The template of a disk, or why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateDatadiskTemplateAnswer {
    /// The template; without a class name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_disk_template: Option<Box<TemplateObjectTO>>,
    /// What every answer carries.
    #[serde(flatten)]
    pub answer: AnswerBase,
}
