//! VHD (Virtual Hard Disk 1.0): footers of single disks, and chains of disks that hold differences.

#[cfg(test)]
mod builder;
mod footer;
mod layer;
mod merged;

#[cfg(test)]
pub(crate) use builder::{Parent, build};
pub(crate) use footer::{FOOTER, Footer, Kind};
pub(crate) use layer::{HEADER, Header, Table};
pub(crate) use merged::{BLOCK, Merged};

use super::{be32, be64};

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;

/// The virtual size of a dynamic disk, whose first sector is a copy of its footer.
pub(super) fn dynamic(head: &[u8]) -> Result<u64, String> {
    match be32(head, 60) {
        Some(3) => be64(head, 48).ok_or_else(|| "the footer is cut".to_owned()),
        Some(4) => Err("it is a differencing disk".into()),
        Some(2) => Err("a fixed disk does not start with its footer".into()),
        kind => Err(format!("disk type {}", kind.unwrap_or(0))),
    }
}

/// The virtual size of a fixed disk, from its last sector.
pub(super) fn fixed(tail: &[u8]) -> Option<u64> {
    let footer = tail.get(tail.len().checked_sub(512)?..)?;
    (footer.starts_with(b"conectix") && be32(footer, 60) == Some(2)).then(|| be64(footer, 48)).flatten()
}
