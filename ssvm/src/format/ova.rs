//! OVA packages: a tar archive with a descriptor and the disks that it names. Each member is looked at while it passes,
//! those that come in pieces or compressed when they are taken apart.

use std::collections::HashMap;

use common::command::storage::{ImageFormat, OVFInformationTO};

use super::{
    Inspector,
    ovf::{self, Descriptor},
    tar::{Archive, Event},
};

/// A package being read.
#[derive(Debug, Default)]
pub(super) struct Package {
    archive: Archive,
    /// Names and bytes.
    members: Vec<(String, u64)>,
    text: Vec<u8>,
    descriptor: Option<Descriptor>,
    /// Members before the descriptor.
    before: usize,
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

/// What a whole package holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// Bytes of all its disks.
    pub(super) size: u64,
    pub(super) information: Box<OVFInformationTO>,
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
                    Member::Descriptor => self.text.extend_from_slice(data),
                    Member::Disk(disk) => disk.feed(data).map_err(|e| e.reason())?,
                    Member::Other => {}
                },
                Event::End => match std::mem::take(&mut self.member) {
                    Member::Descriptor => self.descriptor = Some(ovf::read(&std::mem::take(&mut self.text))?),
                    Member::Disk(disk) => {
                        disk.finish().map_err(|e| e.reason())?;
                    }
                    Member::Other => {}
                },
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
            if size > ovf::LONGEST {
                return Err(format!("a descriptor of {size} bytes"));
            }
            self.before = self.members.len();
            Member::Descriptor
        } else if ends(".vmdk") && !self.is_packed(&name) {
            Member::Disk(Box::new(Inspector::new(Some(ImageFormat::Vmdk))))
        } else {
            Member::Other
        };
        self.members.push((name, size));
        Ok(())
    }

    /// Whether a member is a compressed file, as the descriptor says that came before it.
    fn is_packed(&self, name: &str) -> bool {
        let files = self.descriptor.iter().flat_map(|descriptor| &descriptor.files);
        files.into_iter().any(|file| file.compressed && file.href == name)
    }

    /// What it holds, once it is whole.
    pub(super) fn contents(mut self) -> Result<Contents, String> {
        // The end of the last member.
        self.feed(&[])?;
        if !self.archive.is_whole() {
            return Err("the archive is cut".into());
        }
        let mut descriptor = self.descriptor.take().ok_or("Unable to locate OVF file in template package")?;
        let places: HashMap<&str, usize> =
            self.members.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
        let place = |name: &str| places.get(name).copied();
        for file in &descriptor.files {
            let mut members = (0..).map_while(|piece| place(file.member(piece)?.as_str())).peekable();
            let Some(first) = members.peek().copied() else {
                return Err(format!("file {:?} of the descriptor is not in the package", file.href));
            };
            let bytes = members.map(|at| self.members.get(at).map_or(0, |(_, size)| *size)).sum::<u64>();
            if file.is_plain() {
                let disks = descriptor.information.disks.iter_mut();
                for disk in disks.filter(|disk| disk.path.as_deref() == Some(&file.href)) {
                    disk.file_size = i64::try_from(bytes).unwrap_or(i64::MAX);
                }
                continue;
            }
            if first < self.before {
                let text = "comes before the descriptor, which has to be first where files are packed";
                return Err(format!("file {:?} {text}", file.href));
            }
            if file.piece.is_some() && file.size.is_some_and(|size| size != bytes) {
                return Err(format!("the pieces of file {:?} have {bytes} bytes", file.href));
            }
            if file.plain() != file.href && place(file.plain()).is_some() {
                return Err(format!("file {:?} would replace another one", file.href));
            }
        }
        let mut size = 0_u64;
        for disk in &descriptor.disks {
            if let Some(file) = disk.file.as_ref().filter(|f| !f.to_ascii_lowercase().ends_with(".vmdk")) {
                return Err(format!("disk {file:?} is no VMDK"));
            }
            size = size.checked_add(disk.capacity).ok_or("its disks are too large")?;
        }
        Ok(Contents { size, information: descriptor.information })
    }
}
