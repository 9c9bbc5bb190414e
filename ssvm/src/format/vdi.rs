//! VDI headers, version 1.1.

use super::{le32, le64};

const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;

/// The virtual size of a disk that stands alone, or why it is not taken.
pub(super) fn virtual_size(head: &[u8]) -> Result<u64, String> {
    let short = || "the header is cut".to_owned();
    match le32(head, 0x44).ok_or_else(short)? {
        0x0001_0001 => {}
        version => return Err(format!("version {}.{}", version >> 16, version & 0xffff)),
    }
    match le32(head, 0x4c).ok_or_else(short)? {
        DYNAMIC | FIXED => {}
        3 | 4 => return Err("it is a differencing disk".into()),
        kind => return Err(format!("disk type {kind}")),
    }
    // The identities of the disk below and of its state.
    let links = head.get(0x1a8..0x1c8).ok_or_else(short)?;
    if links.iter().any(|byte| *byte != 0) {
        return Err("it has a parent".into());
    }
    le64(head, 0x170).ok_or_else(short)
}

/// The length that the file has at least: its blocks lie behind its data offset.
pub(super) fn least(head: &[u8]) -> Option<u64> {
    let block = u64::from(le32(head, 0x178)?) + u64::from(le32(head, 0x17c)?);
    u64::from(le32(head, 0x184)?).checked_mul(block)?.checked_add(u64::from(le32(head, 0x158)?))
}
