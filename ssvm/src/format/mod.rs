//! Looks at images while they pass by: is it what it was declared to be, does it stand alone, and
//! how big a disk does it hold? Nothing is opened and no header value decides how much is read.

mod detect;
mod named;
mod ova;
mod ovf;
mod qcow2;
mod tar;
mod vdi;
pub(crate) mod vhd;
mod vhdx;
mod vmdk;

use common::command::storage::{ImageFormat, OVFInformationTO};
use ova::Package;

pub(crate) use detect::{Kind, detect};
pub(crate) use named::named;
pub(crate) use ovf::{
    File, LONGEST as LONGEST_DESCRIPTOR, data_disks, plain as plain_descriptor, read as read_descriptor,
    single as single_descriptor,
};
pub(crate) use tar::{Archive, Event};

/// Bytes from the start of an image that the checks may look at.
pub(crate) const HEAD: usize = 1024 * 1024;
/// Bytes from its end.
const TAIL: usize = 512;
/// Largest virtual size: 64 TiB.
const LARGEST: u64 = 64 << 40;

/// Why an image is not taken. The text is for users; [`Refusal::reason`] is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The content is of another kind than declared.
    #[error(
        "Failed to install: Template content is unsupported, or mismatch between selected format and \
         template content. Found  : {found}"
    )]
    Mismatch {
        /// What it is.
        found: Kind,
    },
    /// A QCOW2 image that leans on other files or cannot be right.
    #[error(
        "The downloaded file is not a valid QCOW2. Ask the administrator to check the logs for more details."
    )]
    Qcow2(String),
    /// An image of another format that leans on other files or cannot be right.
    #[error("The downloaded file is not a valid {format}: {reason}")]
    Invalid {
        /// Declared format.
        format: ImageFormat,
        /// What is wrong with it.
        reason: String,
    },
    /// A package that cannot be taken apart, or holds what cannot be taken.
    #[error("Failed post download script: the OVA is refused: {0}")]
    Package(String),
    /// The format is known but not handled.
    #[error("Images of format {0} are not supported")]
    Unsupported(ImageFormat),
}

impl Refusal {
    /// What exactly was found, for the administrator.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Qcow2(reason) => reason.clone(),
            other => other.to_string(),
        }
    }
}

/// Sizes of an image in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Of the disk that it holds.
    pub(crate) virtual_size: u64,
    /// Of the file.
    pub(crate) physical_size: u64,
    /// What a package tells of its machine.
    pub(crate) package: Option<Box<OVFInformationTO>>,
}

/// Judges an image from the bytes that pass by.
#[derive(Debug)]
pub(crate) struct Inspector {
    declared: Option<ImageFormat>,
    strict: bool,
    head: Vec<u8>,
    tail: Vec<u8>,
    total: u64,
    judged: bool,
    later: Option<Window>,
    package: Option<Package>,
}

/// Bytes behind the head that the checks want to see.
#[derive(Debug)]
struct Window {
    /// Offset of the first of them.
    start: u64,
    /// How many.
    length: usize,
    /// Those that have passed.
    bytes: Vec<u8>,
}

impl Window {
    /// Takes what it wants of `bytes`, which begin at `offset`.
    fn feed(&mut self, bytes: &[u8], offset: u64) {
        let next = self.start + self.bytes.len() as u64;
        let Some(skip) = next.checked_sub(offset).and_then(|skip| usize::try_from(skip).ok()) else { return };
        let wanted = self.length - self.bytes.len();
        let there = bytes.get(skip..).unwrap_or_default();
        self.bytes.extend_from_slice(&there[..there.len().min(wanted)]);
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() == self.length
    }
}

impl Inspector {
    /// `declared`: the format that the image must have; `None` takes any bytes and only counts.
    pub(crate) fn new(declared: Option<ImageFormat>) -> Self {
        let (head, tail) = (Vec::new(), Vec::new());
        let package = (declared == Some(ImageFormat::Ova)).then(Package::default);
        Self { declared, strict: true, head, tail, total: 0, judged: false, later: None, package }
    }

    /// Refuses nothing: an image that cannot be judged counts as a disk of its own length. For images
    /// that are in a store already.
    pub(crate) fn lenient(declared: Option<ImageFormat>) -> Self {
        Self { strict: false, ..Self::new(declared) }
    }

    /// The first bytes, as far as they have come.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether it needs to see no more than the beginning and the end of an image.
    pub(crate) fn can_skip(&self) -> bool {
        !matches!(self.declared, None | Some(ImageFormat::Vhdx | ImageFormat::Ova))
    }

    /// Goes on behind so many bytes, of which `head` are the first.
    pub(crate) fn skip(&mut self, head: &[u8], bytes: u64) -> Result<(), Refusal> {
        self.feed(head)?;
        self.total = bytes;
        Ok(())
    }

    /// Takes the next bytes; fails as soon as it is certain that the image cannot be taken.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let offset = self.total;
        self.total += bytes.len() as u64;
        if self.declared.is_none() {
            return Ok(());
        }
        if let Some(package) = &mut self.package
            && let Err(reason) = package.feed(bytes)
            && self.strict
        {
            let kind = detect(if self.head.is_empty() { bytes } else { &self.head });
            return Err(match kind {
                Kind::Tar => Refusal::Package(reason),
                kind => Refusal::Mismatch { found: kind },
            });
        }
        if self.head.len() < HEAD {
            let room = HEAD - self.head.len();
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let last = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.tail.drain(..(self.tail.len() + last.len()).saturating_sub(TAIL));
        self.tail.extend_from_slice(last);
        let mut news = false;
        if self.head.len() >= HEAD && !self.judged {
            (self.judged, news) = (true, true);
            if self.declared == Some(ImageFormat::Vhdx)
                && let Ok((start, length)) = vhdx::metadata(&self.head)
            {
                self.later = Some(Window { start, length, bytes: Vec::new() });
            }
        }
        if let Some(later) = self.later.as_mut().filter(|later| !later.is_whole()) {
            later.feed(bytes, offset);
            news |= later.is_whole();
        }
        match news.then(|| self.judge()) {
            Some(Err(refusal)) if self.strict => Err(refusal),
            _ => Ok(()),
        }
    }

    /// The verdict once all bytes have passed.
    pub(crate) fn finish(mut self) -> Result<Sizes, Refusal> {
        let package = self.package.take();
        match self.sizes(package) {
            Err(_) if !self.strict => Ok(self.as_it_is()),
            other => other,
        }
    }

    fn sizes(&self, package: Option<Package>) -> Result<Sizes, Refusal> {
        let Some(format) = self.declared else {
            return Ok(self.as_it_is());
        };
        let mut told = None;
        let virtual_size = match (format, self.judge()?) {
            (_, Some(size)) => size,
            (ImageFormat::Ova, None) => {
                let contents = package.unwrap_or_default().contents().map_err(Refusal::Package)?;
                told = Some(contents.information);
                contents.size
            }
            // The footer of a fixed disk is its last sector.
            (ImageFormat::Vhd, None) => {
                vhd::fixed(&self.tail).ok_or_else(|| Refusal::Mismatch { found: detect(&self.head) })?
            }
            (ImageFormat::Vhdx, None) => {
                return Err(invalid(format, format!("it is cut after {} bytes", self.total)));
            }
            (_, None) => self.total,
        };
        let cut = match format {
            ImageFormat::Qcow2 => qcow2::is_cut(&self.head, self.total),
            // A dynamic disk ends with the footer that it starts with.
            ImageFormat::Vhd => !self.tail.starts_with(b"conectix"),
            ImageFormat::Vdi => vdi::least(&self.head).is_none_or(|least| self.total < least),
            _ => false,
        };
        if cut {
            return Err(invalid(format, format!("it is cut after {} bytes", self.total)));
        }
        if virtual_size == 0 || virtual_size > LARGEST {
            return Err(invalid(format, format!("a disk of {virtual_size} bytes")));
        }
        Ok(Sizes { virtual_size, physical_size: self.total, package: told })
    }

    /// Bytes of which nothing is known.
    fn as_it_is(&self) -> Sizes {
        Sizes { virtual_size: self.total, physical_size: self.total, package: None }
    }

    /// Virtual size where the head tells it.
    fn judge(&self) -> Result<Option<u64>, Refusal> {
        let Some(format) = self.declared else { return Ok(None) };
        let kind = detect(&self.head);
        let mismatch = || Refusal::Mismatch { found: kind };
        match (format, kind) {
            (ImageFormat::Qcow2, Kind::Qcow2) => {
                qcow2::virtual_size(&self.head).map(Some).map_err(Refusal::Qcow2)
            }
            (ImageFormat::Vhd, Kind::Vhd) => {
                vhd::dynamic(&self.head).map(Some).map_err(|reason| invalid(format, reason))
            }
            (ImageFormat::Vmdk, Kind::Vmdk) => {
                vmdk::virtual_size(&self.head).map(Some).map_err(|reason| invalid(format, reason))
            }
            (ImageFormat::Vhdx, Kind::Vhdx) => {
                let verdict = match self.later.as_ref().filter(|later| later.is_whole()) {
                    Some(later) => vhdx::virtual_size(&later.bytes).map(Some),
                    None => vhdx::metadata(&self.head).map(|_| None),
                };
                verdict.map_err(|reason| invalid(format, reason))
            }
            (ImageFormat::Vdi, Kind::Vdi) => {
                vdi::virtual_size(&self.head).map(Some).map_err(|reason| invalid(format, reason))
            }
            (ImageFormat::Raw, Kind::Unknown | Kind::BootSector | Kind::Iso | Kind::Luks)
            | (ImageFormat::Vhd, Kind::Unknown | Kind::BootSector)
            | (ImageFormat::Iso, Kind::Iso | Kind::BootSector)
            | (ImageFormat::Tar | ImageFormat::Ova, Kind::Tar) => Ok(None),
            (ImageFormat::Zip | ImageFormat::Other, _) => Err(Refusal::Unsupported(format)),
            _ => Err(mismatch()),
        }
    }
}

fn invalid(format: ImageFormat, reason: String) -> Refusal {
    match format {
        ImageFormat::Qcow2 => Refusal::Qcow2(reason),
        _ => Refusal::Invalid { format, reason },
    }
}

/// Big-endian number at an offset, `None` behind the end.
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes)
}

/// Big-endian number at an offset, `None` behind the end.
fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes)
}

/// Little-endian number at an offset, `None` behind the end.
fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_le_bytes)
}

/// Little-endian number at an offset, `None` behind the end.
fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

/// Little-endian number at an offset, `None` behind the end.
fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
