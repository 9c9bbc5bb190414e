//! Header and table of a dynamic or differencing disk: where its blocks are, and which disk it builds on.

use super::{
    FOOTER, Footer, Kind, SECTOR, be32, be64,
    footer::{array, checksum},
};

/// Bytes of a header.
pub(crate) const HEADER: usize = 1024;
/// Sizes of blocks that are taken, in bytes.
const BLOCKS: std::ops::RangeInclusive<u64> = (512 << 10)..=(64 << 20);
/// Longest name of another disk, in bytes.
const LONGEST: u32 = 4096;
/// No block.
const NONE: u32 = u32::MAX;

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where the table is.
    table: u64,
    entries: u32,
    /// Bytes of a block.
    pub(crate) block: u64,
    /// The disk that it builds on.
    pub(crate) parent: [u8; 16],
    /// The name of that disk, as its maker knew it (UTF-16).
    name: Vec<u8>,
    /// Where other names of it are.
    pub(crate) locators: Vec<Locator>,
}

/// Where a name of the disk below stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Locator {
    platform: [u8; 4],
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) length: u32,
}

impl Locator {
    /// The name, if it is one of a file in the same folder.
    pub(crate) fn name(&self, bytes: &[u8]) -> Option<String> {
        match &self.platform {
            b"MACX" => {
                let url = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
                beside(url.strip_prefix("file://").unwrap_or(url))
            }
            b"W2ru" | b"W2ku" => beside(&utf16(bytes, u16::from_le_bytes)?),
            _ => None,
        }
    }
}

/// The name of a file in the same folder.
fn beside(path: &str) -> Option<String> {
    let name = path.strip_prefix("./").or_else(|| path.strip_prefix(".\\")).unwrap_or(path);
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0']);
    plain.then(|| name.to_owned())
}

fn utf16(bytes: &[u8], number: fn([u8; 2]) -> u16) -> Option<String> {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| number([pair[0], pair[1]])).take_while(|unit| *unit != 0).collect();
    String::from_utf16(&units).ok()
}

impl Header {
    /// Reads a header.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.get(..HEADER).ok_or("its header is cut")?;
        let cut = || "its header is cut".to_owned();
        let good = bytes.starts_with(b"cxsparse")
            && be32(bytes, 24) == Some(0x0001_0000)
            && be32(bytes, 36) == Some(checksum(bytes, 36));
        if !good {
            return Err("its header is damaged".into());
        }
        let block = u64::from(be32(bytes, 32).ok_or_else(cut)?);
        if !block.is_power_of_two() || !BLOCKS.contains(&block) {
            return Err(format!("it has blocks of {block} bytes"));
        }
        let locators = (576..768).step_by(24).filter_map(|at| {
            let locator = Locator {
                platform: array(bytes, at)?,
                length: be32(bytes, at + 8)?,
                offset: be64(bytes, at + 16)?,
            };
            (locator.platform != [0; 4] && (1..=LONGEST).contains(&locator.length)).then_some(locator)
        });
        Ok(Self {
            table: be64(bytes, 16).ok_or_else(cut)?,
            entries: be32(bytes, 28).ok_or_else(cut)?,
            block,
            parent: array(bytes, 40).ok_or_else(cut)?,
            name: bytes.get(64..576).ok_or_else(cut)?.to_vec(),
            locators: locators.collect(),
        })
    }

    /// The name in the header, if it is one of a file in the same folder.
    pub(crate) fn name(&self) -> Option<String> {
        beside(&utf16(&self.name, u16::from_be_bytes)?)
    }

    /// Where the table is that a disk of a size needs, and its bytes.
    pub(crate) fn table(&self, size: u64) -> Result<(u64, usize), String> {
        let needed = size.div_ceil(self.block);
        if needed > u64::from(self.entries) {
            return Err(format!("its table has {} entries, and {needed} are needed", self.entries));
        }
        usize::try_from(needed * 4).map(|length| (self.table, length)).map_err(|e| e.to_string())
    }

    /// Bytes of the bitmap of a block.
    fn bitmap(&self) -> u64 {
        (self.block / SECTOR / 8).next_multiple_of(SECTOR)
    }
}

/// Where the blocks of a disk are in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    starts: Vec<u32>,
    /// Bytes of a block.
    pub(crate) block: u64,
    bitmap: u64,
}

impl Table {
    /// Reads the table of a disk. Blocks that are not in its file, or lie over each other or over what describes the
    /// disk, are refused.
    pub(crate) fn parse(bytes: &[u8], footer: &Footer, header: &Header, file: u64) -> Result<Self, String> {
        if footer.kind == Kind::Fixed {
            return Err("a fixed disk has no table".into());
        }
        let (at, length) = header.table(footer.size)?;
        let bytes = bytes.get(..length).ok_or("its table is cut")?;
        let starts: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        let table = Self { starts, block: header.block, bitmap: header.bitmap() };
        let blocks = table.starts.iter().filter(|start| **start != NONE);
        let mut places: Vec<(u64, u64)> =
            blocks.map(|start| (u64::from(*start) * SECTOR, table.bitmap + table.block)).collect();
        places.extend([(0, FOOTER as u64), (footer.header, HEADER as u64), (at, length as u64)]);
        places.sort_unstable();
        let mut end = 0;
        for (start, length) in places {
            if start < end {
                return Err(format!("two of its parts lie over each other at {start}"));
            }
            end = start
                .checked_add(length)
                .filter(|end| *end <= file)
                .ok_or_else(|| format!("it has {file} bytes, and one of its parts ends behind them"))?;
        }
        Ok(table)
    }

    /// How many blocks the disk could have.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Where the bitmap of a block is and where its sectors are; `None` for a block that is not there.
    pub(crate) fn place(&self, block: u64) -> Option<(u64, u64)> {
        let start = self.starts.get(usize::try_from(block).ok()?).copied().filter(|start| *start != NONE)?;
        let start = u64::from(start) * SECTOR;
        Some((start, start + self.bitmap))
    }
}
