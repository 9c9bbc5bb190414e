//! Files of a package, the disks in them, and where the machine has these.

use common::command::storage::{DatadiskTO, OVFVirtualHardwareItemTO};
use roxmltree::Document;

use super::{
    hardware::has,
    tree::{attribute, told, within},
};

/// Most files and disks of a package.
const FILES: usize = 1000;
const DISKS: usize = 256;

/// A file that a descriptor names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct File {
    /// Name in the descriptor.
    id: String,
    /// The member of the package, or what the members of a file in pieces begin with.
    pub(crate) href: String,
    /// In bytes, as the descriptor says: of the member or of all pieces together.
    pub(crate) size: Option<u64>,
    /// Bytes of a piece, where it comes in pieces.
    pub(crate) piece: Option<u64>,
    /// Whether it is compressed (gzip); pieces are of what is compressed.
    pub(crate) compressed: bool,
}

impl File {
    /// Its name once it lies beside the package, whole and plain.
    pub(crate) fn plain(&self) -> &str {
        let plain = self.href.strip_suffix(".gz").filter(|name| self.compressed && !name.is_empty());
        plain.unwrap_or(&self.href)
    }

    /// Whether it is a member as it is.
    pub(crate) fn is_plain(&self) -> bool {
        self.piece.is_none() && !self.compressed
    }

    /// The member with its piece of a number, from 0; of a file that is whole there is one.
    pub(crate) fn member(&self, piece: usize) -> Option<String> {
        match self.piece {
            Some(_) => Some(format!("{}.{piece:09}", self.href)),
            None => (piece == 0).then(|| self.href.clone()),
        }
    }

    fn ends(&self, extension: &str) -> bool {
        self.plain().to_ascii_lowercase().ends_with(extension)
    }
}

/// A disk that a descriptor tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    id: String,
    /// Name of the file with its content, once it is plain; `None` for an empty disk.
    pub(crate) file: Option<String>,
    /// In bytes.
    pub(crate) capacity: u64,
}

/// All files.
pub(super) fn files(document: &Document<'_>) -> Result<Vec<File>, String> {
    let mut files = Vec::new();
    for node in within(document, "References", "File", FILES)? {
        let href = told(node, "href")?.unwrap_or_default();
        let compressed = match attribute(node, "compression").unwrap_or_default() {
            "" | "identity" => false,
            "gzip" => true,
            other => return Err(format!("file {href:?} is compressed by {other:?}, which is not known")),
        };
        let number = |name: &str| attribute(node, name).map(|text| text.trim().parse::<u64>());
        let piece = match number("chunkSize") {
            None => None,
            Some(Ok(size)) if size > 0 => Some(size),
            Some(_) => return Err(format!("file {href:?} comes in pieces of no size")),
        };
        let size = number("size").and_then(Result::ok);
        files.push(File { id: told(node, "id")?.unwrap_or_default(), href, size, piece, compressed });
    }
    Ok(files)
}

/// All disks.
pub(super) fn disks(document: &Document<'_>, files: &[File]) -> Result<Vec<Disk>, String> {
    let mut disks = Vec::new();
    for node in within(document, "DiskSection", "Disk", DISKS)? {
        let file = match attribute(node, "fileRef") {
            Some(wanted) => {
                let found = files.iter().find(|file| file.id == wanted);
                Some(
                    found
                        .ok_or_else(|| format!("a disk has file {wanted:?}, which is none"))?
                        .plain()
                        .to_owned(),
                )
            }
            None => None,
        };
        // A capacity that is no number (a property's) counts as 1.
        let capacity = attribute(node, "capacity").and_then(|n| n.trim().parse().ok()).unwrap_or(1_u64);
        let unit = unit(attribute(node, "capacityAllocationUnits").unwrap_or_default());
        let capacity = capacity.checked_mul(unit).ok_or("a disk is too large")?;
        disks.push(Disk { id: told(node, "diskId")?.unwrap_or_default(), file, capacity });
    }
    Ok(disks)
}

/// Bytes of a unit.
fn unit(text: &str) -> u64 {
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    match plain.as_str() {
        "kb" | "kilobytes" | "byte*2^10" => 1 << 10,
        "mb" | "megabytes" | "byte*2^20" => 1 << 20,
        "gb" | "gigabytes" | "byte*2^30" => 1 << 30,
        _ => 1,
    }
}

/// The disks of a machine, in the order of its hardware, and its ISO images. Paths are names of files.
pub(super) fn of_machine(
    files: &[File],
    disks: &[Disk],
    items: &[OVFVirtualHardwareItemTO],
    configuration: Option<&str>,
) -> Result<Vec<DatadiskTO>, String> {
    let drives = || {
        items.iter().filter(|item| {
            item.resource_type.as_deref() == Some("DiskDrive")
                && item.host_resource.is_some()
                && has(configuration, item)
        })
    };
    let mut found = Vec::new();
    for item in drives() {
        let resource = item.host_resource.as_deref().unwrap_or_default();
        let id = resource.rsplit('/').next().unwrap_or_default();
        let controller =
            items.iter().find(|other| other.instance_id.is_some() && other.instance_id == item.parent);
        let file_of = |name: &str| files.iter().find(|file| file.plain() == name);
        let (file, capacity) = match disks.iter().find(|disk| disk.id == id) {
            Some(disk) => (disk.file.as_deref().and_then(file_of), disk.capacity),
            None => match files.iter().find(|file| file.id == id && resource.contains("/file/")) {
                Some(file) => (Some(file), file.size.unwrap_or(0)),
                None => return Err(format!("the machine has disk {id:?}, which is none")),
            },
        };
        let mut disk = disk_of(files, file, capacity, id);
        disk.disk_controller = controller.and_then(|c| c.element_name.clone()).unwrap_or_default();
        disk.disk_controller_sub_type =
            controller.and_then(|c| c.resource_subtype.clone()).unwrap_or_default();
        disk.configuration = item.configuration_ids.clone().unwrap_or_default();
        found.push(disk);
    }
    // Where no hardware is described, every disk is the machine's.
    if items.iter().all(|item| item.resource_type.as_deref() != Some("DiskDrive")) {
        for disk in disks {
            let file = files.iter().find(|file| Some(file.plain()) == disk.file.as_deref());
            found.push(disk_of(files, file, disk.capacity, &disk.id));
        }
    }
    for file in files.iter().filter(|file| file.ends(".iso")) {
        let iso = disk_of(files, Some(file), file.size.unwrap_or(0), &file.id);
        found.push(DatadiskTO { is_iso: true, ..iso });
    }
    for (disk, number) in found.iter_mut().zip(0..) {
        disk.disk_number = number;
    }
    Ok(found)
}

/// A disk by itself. The machine starts from the first file that is a disk.
fn disk_of(files: &[File], file: Option<&File>, capacity: u64, id: &str) -> DatadiskTO {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let first = files.iter().find(|file| file.ends(".vmdk"));
    DatadiskTO {
        path: file.map(|file| file.plain().to_owned()),
        virtual_size: bytes(capacity),
        file_size: bytes(file.and_then(|file| file.size).unwrap_or(0)),
        bootable: file.is_some() && file == first,
        disk_id: Some(id.to_owned()),
        ..DatadiskTO::default()
    }
}
