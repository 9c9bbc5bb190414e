//! QCOW2 headers, versions 2 and 3.

use super::{be32, be64};

/// Incompatible features that are accepted: dirty, corrupt, compression type.
const ACCEPTED: u64 = 0b1011;
/// Header extension that names an external data file.
const DATA_FILE: u32 = 0x4441_5441;
/// Header extension of an encrypted image.
const ENCRYPTED: u32 = 0x0537_be77;

/// The virtual size of an image that stands alone, or why it is not taken.
pub(super) fn virtual_size(head: &[u8]) -> Result<u64, String> {
    let short = || "the header is cut".to_owned();
    let u32_at = |at| be32(head, at).ok_or_else(short);
    let u64_at = |at| be64(head, at).ok_or_else(short);
    let version = u32_at(4)?;
    if version != 2 && version != 3 {
        return Err(format!("version {version}"));
    }
    if u64_at(8)? != 0 || u32_at(16)? != 0 {
        return Err("it has a backing file".into());
    }
    let cluster_bits = u32_at(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(format!("clusters of 2^{cluster_bits} bytes"));
    }
    if u32_at(32)? != 0 {
        return Err("it is encrypted".into());
    }
    let header = if version == 3 {
        let incompatible = u64_at(72)?;
        if incompatible & 0b100 != 0 {
            return Err("it has an external data file".into());
        }
        if incompatible & !ACCEPTED != 0 {
            return Err(format!("incompatible features {incompatible:#x}"));
        }
        if u64_at(88)? & 0b10 != 0 {
            return Err("it has a raw external data file".into());
        }
        let length = u32_at(100)? as usize;
        if !(104..=1 << cluster_bits).contains(&length) || !length.is_multiple_of(8) {
            return Err(format!("a header of {length} bytes"));
        }
        length
    } else {
        72
    };
    extensions(head, header, 1 << cluster_bits)?;
    match u64_at(24)? {
        0 => Err("a disk of 0 bytes".into()),
        size => Ok(size),
    }
}

/// Whether a file of `total` bytes with this head is cut: the last cluster that its reference counts name lies
/// more than a cluster behind its end. Counts that lie behind `head` are not looked at.
pub(super) fn is_cut(head: &[u8], total: u64) -> bool {
    last_cluster(head).is_some_and(|(end, cluster)| end > total.saturating_add(cluster))
}

/// The end of the last cluster in use, and the size of one.
fn last_cluster(head: &[u8]) -> Option<(u64, u64)> {
    let bits = be32(head, 20).filter(|bits| (9..=21).contains(bits))?;
    let cluster = 1_u64 << bits;
    let width = if be32(head, 4)? == 3 { be32(head, 96).filter(|order| *order <= 6)? } else { 4 };
    let per_block = (cluster * 8) >> width;
    let table = usize::try_from(be64(head, 48)?).ok()?;
    let entries = u64::from(be32(head, 56)?) * cluster / 8;
    let mut end = 0;
    for entry in 0..entries {
        let at = usize::try_from(entry).ok().and_then(|e| table.checked_add(e.checked_mul(8)?))?;
        let Some(block) = be64(head, at) else { break };
        if block == 0 {
            continue;
        }
        end = end.max(block.saturating_add(cluster));
        let start = usize::try_from(block).ok()?;
        let Some(counts) = start.checked_add(1 << bits).and_then(|stop| head.get(start..stop)) else {
            continue;
        };
        if let Some(last) = counts.iter().rposition(|byte| *byte != 0) {
            // Counts of less than a byte share one; the first of them is enough to tell.
            let index = ((last as u64) * 8) >> width;
            end = end.max((entry * per_block + index + 1).saturating_mul(cluster));
        }
    }
    Some((end, cluster))
}

/// Walks the header extensions, which end with one of type 0 or with the first cluster.
fn extensions(head: &[u8], mut at: usize, end: usize) -> Result<(), String> {
    let end = end.min(head.len());
    while at + 8 <= end {
        let (Some(kind), Some(length)) = (be32(head, at), be32(head, at + 4)) else { break };
        match kind {
            0 => return Ok(()),
            DATA_FILE => return Err("it names an external data file".into()),
            ENCRYPTED => return Err("it is encrypted".into()),
            _ => {}
        }
        let length = length as usize;
        at = match length.checked_next_multiple_of(8).and_then(|l| at.checked_add(8 + l)) {
            Some(next) if next <= end => next,
            _ => return Err(format!("a header extension of {length} bytes")),
        };
    }
    Ok(())
}
