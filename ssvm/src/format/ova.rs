//! OVA packages: a tar archive with a descriptor and the disks that it names. Each member is looked at while it passes.

use common::command::storage::ImageFormat;

use super::{
    Inspector, ovf,
    tar::{Archive, Event},
};

/// Longest descriptor in bytes.
const DESCRIPTOR: u64 = 10 * 1024 * 1024;

/// A package being read.
#[derive(Debug, Default)]
pub(super) struct Package {
    archive: Archive,
    members: Vec<String>,
    descriptor: Option<Vec<u8>>,
    member: Member,
    /// What is wrong with it.
    wrong: Option<String>,
}

/// The member that passes.
#[derive(Debug, Default)]
enum Member {
    /// A descriptor; its bytes are kept.
    Descriptor,
    /// A disk.
    Disk(Box<Inspector>),
    #[default]
    Other,
}

impl Package {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        let fed = self.take(bytes);
        self.wrong = fed.as_ref().err().cloned();
        fed
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(event) = self.archive.next(&mut bytes)? {
            match event {
                Event::Member { name, size } => self.begin(name, size)?,
                Event::Data(data) => match &mut self.member {
                    Member::Descriptor => self.descriptor.get_or_insert_default().extend_from_slice(data),
                    Member::Disk(disk) => disk.feed(data).map_err(|e| e.reason())?,
                    Member::Other => {}
                },
                Event::End => {
                    if let Member::Disk(disk) = std::mem::take(&mut self.member) {
                        disk.finish().map_err(|e| e.reason())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, name: String, size: u64) -> Result<(), String> {
        let ends = |extension: &str| name.to_ascii_lowercase().ends_with(extension);
        self.member = if ends(".ovf") {
            if self.descriptor.is_some() {
                return Err("it has two descriptors".into());
            }
            if size > DESCRIPTOR {
                return Err(format!("a descriptor of {size} bytes"));
            }
            self.descriptor = Some(Vec::new());
            Member::Descriptor
        } else if ends(".vmdk") {
            Member::Disk(Box::new(Inspector::new(Some(ImageFormat::Vmdk))))
        } else {
            Member::Other
        };
        self.members.push(name);
        Ok(())
    }

    /// The bytes of all its disks, once it is whole.
    pub(super) fn size(mut self) -> Result<u64, String> {
        // The end of the last member.
        self.feed(&[])?;
        if !self.archive.is_whole() {
            return Err("the archive is cut".into());
        }
        let bytes = self.descriptor.ok_or("Unable to locate OVF file in template package")?;
        let descriptor = ovf::read(&bytes)?;
        if let Some(missing) = descriptor.files.iter().find(|file| !self.members.contains(file)) {
            return Err(format!("file {missing:?} of the descriptor is not in the package"));
        }
        let mut all = 0_u64;
        for disk in &descriptor.disks {
            if let Some(file) = disk.file.as_ref().filter(|f| !f.to_ascii_lowercase().ends_with(".vmdk")) {
                return Err(format!("disk {file:?} is no VMDK"));
            }
            all = all.checked_add(disk.capacity).ok_or("its disks are too large")?;
        }
        Ok(all)
    }
}
