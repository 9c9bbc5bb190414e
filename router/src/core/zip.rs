//! Zip archives (PKWARE APPNOTE 6.3, without extensions): written whole, for the host to fetch.

use std::io::{self, Write as _};

use flate2::{Compression, Crc, write::DeflateEncoder};

/// Flag: names are UTF-8. Then the method: deflate.
const FLAGS_AND_METHOD: [u8; 4] = [0, 8, 8, 0];
/// Time and date of every entry: noon of 1 January 1980, the archive's own name has the time.
const TIME: [u8; 4] = [0, 0x60, 0x21, 0];
/// Version needed: 2.0.
const VERSION: [u8; 2] = [20, 0];

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    entries: u16,
}

impl Zip {
    /// Adds a file.
    ///
    /// # Errors
    /// Where it, or the archive, grows beyond what the form can hold.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut crc = Crc::new();
        crc.update(content);
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(content)?;
        let packed = packed.finish()?;
        let length = u16::try_from(name.len()).map_err(io::Error::other)?;
        let offset = number(self.bytes.len())?;
        let common = [
            &VERSION[..],
            &FLAGS_AND_METHOD,
            &TIME,
            &crc.sum().to_le_bytes(),
            &number(packed.len())?,
            &number(content.len())?,
            &length.to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        self.entries = self.entries.checked_add(1).ok_or_else(|| io::Error::other("too many files"))?;
        self.bytes.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), &packed].concat());
        // Made by version 2.0 of Unix; no comment, disk 0, no attributes but those of a readable file.
        self.directory.extend([&b"PK\x01\x02"[..], &[20, 3], &common, &[0; 6], &[0, 0, 0xa4, 0x81]].concat());
        self.directory.extend([&offset[..], name.as_bytes()].concat());
        Ok(())
    }

    /// The archive.
    ///
    /// # Errors
    /// Where it is larger than what the form can hold.
    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        let (at, length, entries) =
            (number(self.bytes.len())?, number(self.directory.len())?, self.entries.to_le_bytes());
        self.bytes.append(&mut self.directory);
        let end = [&b"PK\x05\x06"[..], &[0; 4], &entries, &entries, &length, &at, &[0, 0]].concat();
        self.bytes.extend(end);
        Ok(self.bytes)
    }
}

fn number(length: usize) -> io::Result<[u8; 4]> {
    u32::try_from(length).map(u32::to_le_bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_reads_it() {
        let mut zip = Zip::default();
        let long = "rule\n".repeat(10_000);
        zip.add("iptables.log", long.as_bytes()).unwrap();
        zip.add("fileinfo.txt", b"").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), zip.finish().unwrap()).unwrap();
        let script = "import sys,zipfile; z=zipfile.ZipFile(sys.argv[1]); print(z.testzip(), z.namelist(), \
            len(z.read('iptables.log')))";
        let out =
            std::process::Command::new("python3").args(["-c", script]).arg(file.path()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(text.trim(), "None ['iptables.log', 'fileinfo.txt'] 50000", "{out:?}");
    }
}
