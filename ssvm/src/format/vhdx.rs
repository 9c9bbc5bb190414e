//! VHDX files (MS-VHDX): the headers, the region table, and the metadata of the disk.

use super::{le16, le32, le64};

/// Both copies of the header and of the region table lie below this.
const FRONT: usize = 512 * 1024;
const HEADERS: [usize; 2] = [64 * 1024, 128 * 1024];
const REGIONS: [usize; 2] = [192 * 1024, 256 * 1024];
/// Bytes of a region table, and of the table of a metadata region.
const TABLE: usize = 64 * 1024;
/// Furthest place of the metadata region: writers put it right behind log and block table.
const FURTHEST: u64 = 4 << 30;
/// Most bytes of the metadata region that are looked at; items of all writers lie in its first part.
const METADATA: u64 = 1 << 20;
/// Most entries of either table (MS-VHDX 2.2.3.2, 2.6.1.1).
const ENTRIES: u16 = 2047;

/// GUIDs as they lie in the file.
const REGION_OF_METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const FILE_PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const DISK_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const PARENT_LOCATOR: [u8; 16] = *b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c";
/// Flag of the file parameters: another file holds the blocks that are not here.
const HAS_PARENT: u32 = 2;

/// Where the metadata lie: offset and length in bytes, the length at most 1 MiB.
pub(super) fn metadata(head: &[u8]) -> Result<(u64, usize), String> {
    let front = head.get(..FRONT).ok_or("it is cut")?;
    for at in HEADERS {
        let log = front.get(at + 48..at + 64).ok_or("it is cut")?;
        // What a log holds would be written over that which is judged here.
        if front[at..].starts_with(b"head") && log.iter().any(|byte| *byte != 0) {
            return Err("it has a log that is still to be replayed".into());
        }
    }
    let [first, second] = REGIONS.map(|at| front.get(at..at + TABLE));
    let table = first.filter(|table| table.starts_with(b"regi")).ok_or("it has no region table")?;
    if first != second {
        return Err("its two region tables differ".into());
    }
    let count = le32(table, 8).and_then(|count| u16::try_from(count).ok()).filter(|count| *count <= ENTRIES);
    let mut found = None;
    for n in 0..usize::from(count.ok_or("a region table of too many entries")?) {
        let entry = table.get(16 + 32 * n..48 + 32 * n).ok_or("a region table of too many entries")?;
        if entry.starts_with(&REGION_OF_METADATA) {
            let (offset, length) = (le64(entry, 16), le32(entry, 24));
            if found.replace((offset.unwrap_or(0), length.unwrap_or(0))).is_some() {
                return Err("it has two metadata regions".into());
            }
        }
    }
    let (offset, length) = found.ok_or("it has no metadata region")?;
    if !(1 << 20..=FURTHEST).contains(&offset) || offset % (1 << 20) != 0 || (length as usize) < TABLE {
        return Err(format!("a metadata region of {length} bytes at {offset}"));
    }
    Ok((offset, usize::try_from(u64::from(length).min(METADATA)).unwrap_or(TABLE)))
}

/// The virtual size, from the metadata region of a disk that stands alone.
pub(super) fn virtual_size(region: &[u8]) -> Result<u64, String> {
    if !region.starts_with(b"metadata") {
        return Err("its metadata cannot be read".into());
    }
    let count = le16(region, 10).filter(|count| *count <= ENTRIES).ok_or("too many metadata")?;
    let (mut parameters, mut size) = (None, None);
    for n in 0..usize::from(count) {
        let entry = region.get(32 + 32 * n..64 + 32 * n).ok_or("its metadata are cut")?;
        let item = |length: usize| {
            let at = le32(entry, 16)? as usize;
            region.get(at..at.checked_add(length)?)
        };
        let twice = if entry.starts_with(&PARENT_LOCATOR) {
            return Err("it has a parent".into());
        } else if entry.starts_with(&FILE_PARAMETERS) {
            parameters.replace(item(8).and_then(|bytes| le32(bytes, 4))).is_some()
        } else if entry.starts_with(&DISK_SIZE) {
            size.replace(item(8).and_then(|bytes| le64(bytes, 0))).is_some()
        } else {
            false
        };
        if twice {
            return Err("it has the same metadata twice".into());
        }
    }
    match (parameters.flatten(), size.flatten()) {
        (Some(flags), _) if flags & HAS_PARENT != 0 => Err("it has a parent".into()),
        (Some(_), Some(size)) => Ok(size),
        _ => Err("its metadata do not tell its size".into()),
    }
}
