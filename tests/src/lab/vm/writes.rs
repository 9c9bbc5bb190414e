//! What a machine has written to its disk, in order, as QEMU's `blklogwrites` keeps it (the format of the kernel's
//! dm-log-writes), and what the disk is after a power cut at a moment of that.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Bytes of a sector of the record.
const SECTOR: u64 = 512;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// The words by which QEMU gives a machine `disk` (qcow2) and keeps the record.
pub(super) fn options(disk: &str, record: &Path) -> [String; 4] {
    File::create(record).expect("file of the record");
    [
        "-blockdev".to_owned(),
        format!(
            "driver=blklogwrites,node-name=recorded,file.driver=qcow2,file.file.driver=file,\
             file.file.filename={disk},log.driver=file,log.filename={},log-sector-size={SECTOR},\
             log-super-update-interval=1",
            record.display()
        ),
        "-device".to_owned(),
        "virtio-blk-pci,drive=recorded".to_owned(),
    ]
}

/// One thing that was asked of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First byte on the disk.
    pub at: u64,
    /// Bytes that were written there, and where they stand in the record; none for a flush or a discard.
    pub length: u64,
    data: u64,
    /// All that was written before is durable from here on.
    pub flush: bool,
}

/// How many entries a record has by now.
///
/// # Panics
/// When it is none.
pub fn count(record: &Path) -> u64 {
    let mut head = [0; 24];
    File::open(record).and_then(|file| file.read_exact_at(&mut head, 0)).expect("head of the record");
    assert_eq!(number(&head, 0), MAGIC, "a record of writes");
    number(&head, 2)
}

/// The entries of a record.
///
/// # Panics
/// When it is none.
pub fn entries(record: &Path) -> Vec<Entry> {
    let count = count(record);
    let file = File::open(record).expect("record");
    let mut place = SECTOR;
    (0..count)
        .map(|_| {
            let mut head = [0; 32];
            file.read_exact_at(&mut head, place).expect("entry of the record");
            let flags = number(&head, 2);
            let length = if flags & DISCARD == 0 { number(&head, 1) * SECTOR } else { 0 };
            let entry = Entry {
                at: number(&head, 0) * SECTOR,
                length,
                data: place + SECTOR,
                flush: flags & FLUSH != 0,
            };
            place += SECTOR + length;
            entry
        })
        .collect()
}

fn number(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

/// A part of a disk as it grows out of a record; blank where nothing was written.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    record: File,
    start: u64,
    length: u64,
}

impl Part {
    /// The blank part of `length` bytes that begins at byte `start` of the disk.
    pub fn blank(path: &Path, record: &Path, start: u64, length: u64) -> io::Result<Self> {
        let file = File::create(path)?;
        file.set_len(length)?;
        Ok(Self { file, path: path.to_owned(), record: File::open(record)?, start, length })
    }

    /// A copy at another path, from which this one does not change.
    pub fn copy(&self, path: &Path) -> io::Result<Self> {
        super::run(
            std::process::Command::new("cp").arg("--sparse=always").args([&self.path, &path.to_owned()]),
        );
        Ok(Self {
            file: File::options().write(true).open(path)?,
            path: path.to_owned(),
            record: self.record.try_clone()?,
            ..*self
        })
    }

    /// Does what an entry did, where it concerns this part.
    pub fn apply(&self, entry: &Entry) -> io::Result<()> {
        if entry.length == 0 || entry.at < self.start || entry.at + entry.length > self.start + self.length {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(entry.length).map_err(io::Error::other)?];
        self.record.read_exact_at(&mut bytes, entry.data)?;
        self.file.write_all_at(&bytes, entry.at - self.start)
    }
}
