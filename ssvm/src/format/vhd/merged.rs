//! One dynamic disk for what a chain of disks holds.

use super::{FOOTER, Footer, HEADER, SECTOR, footer::checksum};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 2 << 20;
/// Bytes of the bitmap before it.
const BITMAP: u64 = SECTOR;

/// How the disk lies in its file: what describes it, its blocks in their order, the footer once more.
#[derive(Debug)]
pub(crate) struct Merged {
    footer: [u8; FOOTER],
    head: Vec<u8>,
    /// Those that have content.
    pub(crate) blocks: Vec<u32>,
}

impl Merged {
    /// A disk as large as the newest of the chain; `holds` says which blocks (of [`BLOCK`] bytes) have content.
    pub(crate) fn new(newest: &Footer, uuid: [u8; 16], holds: impl Fn(u64) -> bool) -> Result<Self, String> {
        let count = u32::try_from(newest.size.div_ceil(BLOCK)).map_err(|e| e.to_string())?;
        let blocks: Vec<u32> = (0..count).filter(|block| holds(u64::from(*block))).collect();
        let mut table = vec![0xff; (count as usize * 4).next_multiple_of(SECTOR as usize)];
        let first = (FOOTER + HEADER + table.len()) as u64;
        for (number, block) in (0_u64..).zip(&blocks) {
            let start = (first + number * (BITMAP + BLOCK)) / SECTOR;
            let start = u32::try_from(start).map_err(|_| "the disk is too large for a VHD")?;
            let at = *block as usize * 4;
            table[at..at + 4].copy_from_slice(&start.to_be_bytes());
        }
        let footer = newest.alone(uuid);
        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"cxsparse");
        put(8, &[0xff; 8]);
        put(16, &((FOOTER + HEADER) as u64).to_be_bytes());
        put(24, &0x0001_0000_u32.to_be_bytes());
        put(28, &count.to_be_bytes());
        put(32, &(BLOCK as u32).to_be_bytes());
        let sum = checksum(&header, 36);
        header[36..40].copy_from_slice(&sum.to_be_bytes());
        let head = [&footer[..], &header, &table].concat();
        Ok(Self { footer, head, blocks })
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        (self.head.len() + FOOTER) as u64 + self.blocks.len() as u64 * (BITMAP + BLOCK)
    }

    /// What stands before the blocks.
    pub(crate) fn head(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head)
    }

    /// What stands behind them.
    pub(crate) fn tail(&self) -> Vec<u8> {
        self.footer.to_vec()
    }
}
