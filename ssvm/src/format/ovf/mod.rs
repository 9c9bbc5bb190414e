//! Descriptors of OVA packages (DMTF DSP0243, "OVF"): which files and disks there are, and what users and hypervisors
//! are to know of the machine.

mod disks;
mod hardware;
mod product;
mod rewrite;
#[cfg(test)]
mod tests;
mod tree;

use common::command::storage::{DatadiskTO, OVFInformationTO};

pub(crate) use disks::{Disk, File};
pub(crate) use rewrite::{plain, single};
use tree::{parse, text_of};

/// Longest descriptor in bytes.
pub(crate) const LONGEST: u64 = 10 * 1024 * 1024;
/// Most bytes of what is told of a machine, in the form in which it is told.
const LARGEST: usize = 1024 * 1024;

/// What a descriptor says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) files: Vec<File>,
    pub(crate) disks: Vec<Disk>,
    /// What is told of the machine; the paths of its disks are names of files.
    pub(crate) information: Box<OVFInformationTO>,
}

/// Reads a descriptor of one machine.
pub(crate) fn read(bytes: &[u8]) -> Result<Descriptor, String> {
    let document = parse(text_of(bytes)?)?;
    let systems = document.descendants().filter(|node| node.tag_name().name() == "VirtualSystem").count();
    if systems != 1 {
        return Err(format!("found {systems} system definitions in OVA, can only handle exactly one."));
    }
    let files = disks::files(&document)?;
    let disks = disks::disks(&document, &files)?;
    let items = hardware::items(&document)?;
    let information = Box::new(OVFInformationTO {
        properties: product::properties(&document)?,
        networks: hardware::networks(&document, &items)?,
        disks: disks::of_machine(&files, &disks, &items, None)?,
        hardware_section: hardware::section(&document, &items)?,
        eula_sections: product::licenses(&document)?,
        guest_os_info: product::system(&document)?,
    });
    let bytes = serde_json::to_vec(&information).map_err(|e| e.to_string())?.len();
    if bytes > LARGEST {
        return Err(format!("the descriptor tells {bytes} bytes of its machine, more than {LARGEST}"));
    }
    Ok(Descriptor { files, disks, information })
}

/// The disks that the machine has in a configuration, `None` for all; paths are names of files.
pub(crate) fn data_disks(bytes: &[u8], configuration: Option<&str>) -> Result<Vec<DatadiskTO>, String> {
    let document = parse(text_of(bytes)?)?;
    let configuration = configuration.filter(|id| !id.is_empty());
    let files = disks::files(&document)?;
    let disks = disks::disks(&document, &files)?;
    disks::of_machine(&files, &disks, &hardware::items(&document)?, configuration)
}
