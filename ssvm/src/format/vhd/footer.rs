//! The footer of a disk, which dynamic and differencing disks begin with, too.

use super::{SECTOR, be32, be64};

/// Bytes of a footer.
pub(crate) const FOOTER: usize = 512;
/// Largest disk of the format: 2040 GiB.
const LARGEST: u64 = 2040 << 30;
const COOKIE: &[u8; 8] = b"conectix";
const VERSION: u32 = 0x0001_0000;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All sectors, one after the other.
    Fixed,
    /// The blocks that were written to.
    Dynamic,
    /// The sectors that differ from another disk.
    Differencing,
}

/// A footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) kind: Kind,
    /// Bytes of the disk.
    pub(crate) size: u64,
    pub(crate) uuid: [u8; 16],
    /// Where the header is, in the file.
    pub(crate) header: u64,
    /// When the disk was made, in seconds since 2000.
    made: [u8; 4],
    /// Cylinders, heads, sectors.
    geometry: [u8; 4],
}

impl Footer {
    /// Whether bytes are meant to be a footer.
    pub(crate) fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(COOKIE)
    }

    /// Reads a footer.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.get(..FOOTER).ok_or("the footer is cut")?;
        let cut = || "the footer is cut".to_owned();
        if !Self::is(bytes) {
            return Err("it is no VHD".into());
        }
        if be32(bytes, 12) != Some(VERSION) || be32(bytes, 64) != Some(checksum(bytes, 64)) {
            return Err("its footer is damaged".into());
        }
        // The first writer of XenServer had another order of bits.
        if bytes.get(28..31) == Some(b"tap") && be32(bytes, 32) == Some(1) {
            return Err("it was written by tapdisk 0.1, whose order of bits is another one".into());
        }
        let kind = match be32(bytes, 60) {
            Some(2) => Kind::Fixed,
            Some(3) => Kind::Dynamic,
            Some(4) => Kind::Differencing,
            kind => return Err(format!("it is of disk type {}", kind.unwrap_or(0))),
        };
        let size = be64(bytes, 48).ok_or_else(cut)?;
        if size == 0 || size % SECTOR != 0 || size > LARGEST {
            return Err(format!("a disk of {size} bytes"));
        }
        Ok(Self {
            kind,
            size,
            uuid: array(bytes, 68).ok_or_else(cut)?,
            header: be64(bytes, 16).ok_or_else(cut)?,
            made: array(bytes, 24).ok_or_else(cut)?,
            geometry: array(bytes, 56).ok_or_else(cut)?,
        })
    }

    /// The footer of a dynamic disk of the same size, whose header follows it.
    pub(crate) fn alone(&self, uuid: [u8; 16]) -> [u8; FOOTER] {
        let mut out = [0; FOOTER];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, COOKIE);
        put(8, &2_u32.to_be_bytes());
        put(12, &VERSION.to_be_bytes());
        put(16, &(FOOTER as u64).to_be_bytes());
        put(24, &self.made);
        // QEMU's sign for disks whose size is what is written here, not what the geometry makes it.
        put(28, b"qem2");
        put(32, &0x0005_0003_u32.to_be_bytes());
        put(36, b"Wi2k");
        put(40, &self.size.to_be_bytes());
        put(48, &self.size.to_be_bytes());
        put(56, &self.geometry);
        put(60, &3_u32.to_be_bytes());
        put(68, &uuid);
        let sum = checksum(&out, 64);
        out[64..68].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

/// The sum over bytes, of which those of the sum itself do not count.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let others = bytes.iter().enumerate().filter(|(n, _)| !(at..at + 4).contains(n));
    !others.fold(0_u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

/// Some bytes at an offset.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
