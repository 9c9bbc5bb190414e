//! A snapshot that holds differences, and all disks that it builds on, as one disk: a chain of VHDs in one folder is read
//! sector by sector, the newest disk that has one wins.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    format::vhd::{BLOCK, FOOTER, Footer, HEADER, Header, Kind, Merged, SECTOR, Table},
    layout::StorePath,
    order::Failure,
    store::{FolderStore, Source, SourceError},
};

/// Most disks of a chain; XenServer makes no more than 30.
const DEEPEST: usize = 64;
/// Most blocks that the tables of a chain may tell of.
const BLOCKS: usize = 20_000_000;
/// Sectors of a block.
const SECTORS: usize = (BLOCK / SECTOR) as usize;

/// One disk of a chain.
struct Layer {
    path: StorePath,
    /// Bytes of the file, and when it was changed last.
    file: (u64, u64),
    footer: Footer,
    /// `None` for a fixed disk, whose sectors lie one after the other.
    table: Option<Table>,
    /// The disk below, and the names that it may have.
    below: Option<([u8; 16], Vec<String>)>,
}

/// A chain as one dynamic disk, to be read.
pub(super) struct Flattened {
    store: FolderStore,
    /// The newest first.
    layers: Vec<Layer>,
    merged: Merged,
    size: u64,
    /// Parts that have been read: what describes the disk, each block, the end.
    next: usize,
}

impl Flattened {
    /// Opens the chain that begins with the snapshot `path`. Nothing is read but what describes the disks.
    pub(super) async fn open(store: FolderStore, path: &StorePath, uuid: [u8; 16]) -> Result<Self, Failure> {
        let folder = path.parent().ok_or_else(|| Failure::end(format!("{path} has no folder")))?;
        let mut layers = vec![Layer::open(&store, path.clone()).await?];
        let mut blocks = 0;
        while let Some(newest) = layers.last() {
            blocks += newest.table.as_ref().map_or(0, Table::len);
            if layers.len() > DEEPEST || blocks > BLOCKS {
                return Err(Failure::end(format!("the chain of {path} is too long")));
            }
            let Some((uuid, names)) = &newest.below else { break };
            let below = Layer::below(&store, &folder, newest, names, *uuid).await?;
            if layers.iter().any(|layer| layer.path == below.path) {
                return Err(Failure::end(format!("{} builds on itself", below.path)));
            }
            layers.push(below);
        }
        let newest = layers.first().ok_or_else(|| Failure::end("no disk"))?;
        let holds = |block: u64| layers.iter().any(|layer| layer.holds(block * BLOCK));
        let merged = Merged::new(&newest.footer, uuid, holds).map_err(Failure::end)?;
        let size = merged.size();
        Ok(Self { store, layers, merged, size, next: 0 })
    }

    /// A block with its bitmap.
    async fn block(&self, number: u32) -> Result<Bytes, SourceError> {
        let mut out = vec![0; SECTOR as usize + SECTORS * SECTOR as usize];
        let (bitmap, data) = out.split_at_mut(SECTOR as usize);
        let mut missing = vec![true; SECTORS];
        let offset = u64::from(number) * BLOCK;
        // A disk may be smaller than those below it.
        let end = self.layers.first().map_or(0, |newest| newest.footer.size).min(offset + BLOCK);
        for layer in &self.layers {
            layer.fill(&self.store, offset..end, data, &mut missing).await?;
            if !missing.contains(&true) {
                break;
            }
        }
        for (at, _) in missing.iter().enumerate().filter(|(_, missing)| !**missing) {
            bitmap[at / 8] |= 0x80 >> (at % 8);
        }
        Ok(out.into())
    }
}

impl Source for Flattened {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            self.next += 1;
            match self.next - 1 {
                0 => Ok(Some(self.merged.head().into())),
                n => match self.merged.blocks.get(n - 1) {
                    Some(block) => self.block(*block).await.map(Some),
                    None if n == self.merged.blocks.len() + 1 => Ok(Some(self.merged.tail().into())),
                    None => Ok(None),
                },
            }
        })
    }
}

impl Layer {
    async fn open(store: &FolderStore, path: StorePath) -> Result<Self, Failure> {
        let wrong = |reason: String| Failure::end(format!("the VHD {path} is refused: {reason}"));
        let served = store.served(&path).await?;
        let file = (served.size, served.modified);
        if file.0 < FOOTER as u64 {
            return Err(wrong("it is cut".into()));
        }
        let first = read(store, &path, file, 0, FOOTER).await?;
        if !Footer::is(&first) {
            let last = read(store, &path, file, file.0 - FOOTER as u64, FOOTER).await?;
            let footer = Footer::parse(&last).map_err(wrong)?;
            if footer.kind != Kind::Fixed || footer.size > file.0 - FOOTER as u64 {
                return Err(wrong("it is cut".into()));
            }
            return Ok(Self { path, file, footer, table: None, below: None });
        }
        let footer = Footer::parse(&first).map_err(wrong)?;
        let bytes = read(store, &path, file, footer.header, HEADER).await?;
        let header = Header::parse(&bytes).map_err(wrong)?;
        let (at, length) = header.table(footer.size).map_err(wrong)?;
        let bytes = read(store, &path, file, at, length).await?;
        let table = Table::parse(&bytes, &footer, &header, file.0).map_err(wrong)?;
        let mut below = None;
        if footer.kind == Kind::Differencing {
            let mut names = Vec::new();
            for locator in &header.locators {
                let bytes = read(store, &path, file, locator.offset, locator.length as usize).await?;
                names.extend(locator.name(&bytes));
            }
            names.extend(header.name());
            below = Some((header.parent, names));
        }
        Ok(Self { path, file, footer, table: Some(table), below })
    }

    /// Opens the disk that another one builds on.
    async fn below(
        store: &FolderStore,
        folder: &StorePath,
        above: &Self,
        names: &[String],
        uuid: [u8; 16],
    ) -> Result<Self, Failure> {
        for name in names {
            let path = folder.join(name)?;
            match store.served(&path).await {
                Ok(_) => {}
                Err(crate::store::StoreError::Missing(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            let below = Self::open(store, path).await?;
            if below.footer.uuid != uuid {
                let text = "is another disk than the one that";
                return Err(Failure::end(format!("{} {text} {} builds on", below.path, above.path)));
            }
            return Ok(below);
        }
        let text = "builds on a disk that is not in its folder";
        Err(Failure::end(format!("{} {text}: {}", above.path, names.join(", "))))
    }

    /// Whether any of the [`BLOCK`] bytes from an offset on may be in it.
    fn holds(&self, offset: u64) -> bool {
        let end = self.footer.size.min(offset + BLOCK);
        match &self.table {
            None => offset < end,
            Some(table) => (offset..end)
                .step_by(table.block.min(BLOCK) as usize)
                .any(|at| table.place(at / table.block).is_some()),
        }
    }

    /// Puts into `data`, which is the disk in this range, the sectors that are missing and that it has.
    async fn fill(
        &self,
        store: &FolderStore,
        range: Range<u64>,
        data: &mut [u8],
        missing: &mut [bool],
    ) -> Result<(), SourceError> {
        let (offset, end) = (range.start, range.end.min(self.footer.size));
        let mut at = offset;
        while at < end {
            let step = self.table.as_ref().map_or(BLOCK, |table| table.block - at % table.block);
            let until = end.min(at + step);
            let sectors = (at - offset) / SECTOR..(until - offset) / SECTOR;
            let (first, last) = (sectors.start as usize, sectors.end as usize);
            let mut wanted = missing[first..last].to_vec();
            let place = match &self.table {
                None => Some(at),
                Some(table) => match table.place(at / table.block) {
                    Some((bitmap, start)) => {
                        let inside = (at % table.block) / SECTOR;
                        let from = bitmap + inside / 8;
                        let bits = read(
                            store,
                            &self.path,
                            self.file,
                            from,
                            (inside as usize % 8 + wanted.len()).div_ceil(8),
                        );
                        let bits = bits.await?;
                        for (n, wanted) in wanted.iter_mut().enumerate() {
                            let bit = inside as usize % 8 + n;
                            *wanted &= bits[bit / 8] & (0x80 >> (bit % 8)) != 0;
                        }
                        Some(start + at % table.block)
                    }
                    None => None,
                },
            };
            let run = (wanted.iter().position(|w| *w), wanted.iter().rposition(|w| *w));
            if let (Some(place), (Some(begin), Some(finish))) = (place, run) {
                let bytes = (finish + 1 - begin) * SECTOR as usize;
                let from = place + begin as u64 * SECTOR;
                let found = read(store, &self.path, self.file, from, bytes).await?;
                for (n, sector) in found.chunks_exact(SECTOR as usize).enumerate() {
                    if wanted[begin + n] {
                        let to = (first + begin + n) * SECTOR as usize;
                        data[to..to + SECTOR as usize].copy_from_slice(sector);
                        missing[first + begin + n] = false;
                    }
                }
            }
            at = until;
        }
        Ok(())
    }
}

/// So many bytes of a file from an offset on. A file that has changed meanwhile is not the one that was looked at.
async fn read(
    store: &FolderStore,
    path: &StorePath,
    file: (u64, u64),
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, SourceError> {
    let served = store.served(path).await?;
    if (served.size, served.modified) != file {
        return Err(SourceError::Remote(format!("{path} has changed while it was read")));
    }
    if offset.checked_add(length as u64).is_none_or(|end| end > file.0) {
        return Err(SourceError::Remote(format!("{path} is cut after {} bytes", file.0)));
    }
    let mut source = served.into_source(offset, length as u64)?;
    let mut bytes = Vec::with_capacity(length);
    while let Some(chunk) = source.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
