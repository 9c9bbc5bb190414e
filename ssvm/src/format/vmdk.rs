//! Sparse VMDK files with an embedded descriptor.

use super::{be32, le64};

/// Longest descriptor in sectors.
const LONGEST: u64 = 1024;

/// The virtual size of a disk that is one file, or why it is not taken.
pub(super) fn virtual_size(head: &[u8]) -> Result<u64, String> {
    let short = || "the header is cut".to_owned();
    let version = be32(head, 4).ok_or_else(short)?.swap_bytes();
    if !(1..=3).contains(&version) {
        return Err(format!("version {version}"));
    }
    let capacity = le64(head, 12).ok_or_else(short)?;
    let (offset, size) = (le64(head, 28).ok_or_else(short)?, le64(head, 36).ok_or_else(short)?);
    if offset == 0 || size == 0 || size > LONGEST {
        return Err("it has no embedded descriptor".into());
    }
    let bytes = offset
        .checked_mul(512)
        .and_then(|start| usize::try_from(start).ok())
        .and_then(|start| head.get(start..start.checked_add(usize::try_from(size).ok()? * 512)?))
        .ok_or("its descriptor lies too far behind")?;
    let text: String = bytes.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
    descriptor(&text)?;
    capacity.checked_mul(512).ok_or_else(|| format!("a disk of {capacity} sectors"))
}

fn descriptor(text: &str) -> Result<(), String> {
    let mut kind = None;
    let mut extents = 0;
    for line in text.lines().map(str::trim) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "createtype" => kind = Some(value.to_ascii_lowercase()),
            "parentfilenamehint" => return Err("it has a parent".into()),
            "parentcid" if !value.eq_ignore_ascii_case("ffffffff") => return Err("it has a parent".into()),
            _ if line.starts_with("RW ") || line.starts_with("RDONLY ") || line.starts_with("NOACCESS ") => {
                if line.split_whitespace().nth(2) != Some("SPARSE") {
                    return Err("it has an extent that is not its own".into());
                }
                extents += 1;
            }
            _ => {}
        }
    }
    match kind.as_deref() {
        Some("monolithicsparse" | "streamoptimized") if extents == 1 => Ok(()),
        Some("monolithicsparse" | "streamoptimized") => Err(format!("it has {extents} extents")),
        other => Err(format!("it is of type {}", other.unwrap_or("none"))),
    }
}
