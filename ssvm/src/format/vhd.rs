//! VHD footers.

use super::{be32, be64};

const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;

/// The virtual size of a dynamic disk, whose first sector is a copy of its footer.
pub(super) fn dynamic(head: &[u8]) -> Result<u64, String> {
    match be32(head, 60) {
        Some(DYNAMIC) => be64(head, 48).ok_or_else(|| "the footer is cut".to_owned()),
        Some(4) => Err("it is a differencing disk".into()),
        Some(FIXED) => Err("a fixed disk does not start with its footer".into()),
        kind => Err(format!("disk type {}", kind.unwrap_or(0))),
    }
}

/// The virtual size of a fixed disk, from its last sector.
pub(super) fn fixed(tail: &[u8]) -> Option<u64> {
    let footer = tail.get(tail.len().checked_sub(512)?..)?;
    (footer.starts_with(b"conectix") && be32(footer, 60) == Some(FIXED)).then(|| be64(footer, 48)).flatten()
}
