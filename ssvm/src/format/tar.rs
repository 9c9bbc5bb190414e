//! Tar archives as they pass by: members that are plain files with plain names, and nothing else.

/// Bytes of a block.
const BLOCK: usize = 512;
/// Most members of an archive.
const MOST: usize = 1000;
/// Longest extended header in bytes.
const LONGEST_HEADER: u64 = 64 * 1024;
/// Words of an extended header that would change which file is meant, or what is in it.
const MEANINGFUL: [&str; 3] = ["path", "size", "linkpath"];

/// What the next bytes of an archive are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// A member begins; its content follows.
    Member {
        /// One component of a path.
        name: String,
        /// In bytes.
        size: u64,
    },
    /// Content of the member.
    Data(&'a [u8]),
    /// The member is whole.
    End,
}

/// An archive being read. It never holds more than a header.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    block: Vec<u8>,
    /// Bytes of the member, or of an extended header, that are still to come.
    left: u64,
    /// Bytes behind it up to the next block.
    padding: u64,
    place: Place,
    names: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Place {
    /// A header comes.
    #[default]
    Header,
    Content,
    /// An extended header comes.
    Extended,
    /// What is behind the end does not count.
    Behind,
}

impl Archive {
    /// Takes the first of `bytes` that belong together; they are gone from `bytes` then. `None` where there are no
    /// more.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>, String> {
        loop {
            match self.place {
                Place::Behind => {
                    *bytes = &[];
                    return Ok(None);
                }
                Place::Content if self.left > 0 => {
                    let data = split(bytes, self.left);
                    self.left -= data.len() as u64;
                    return Ok((!data.is_empty()).then_some(Event::Data(data)));
                }
                Place::Content => {
                    self.place = Place::Header;
                    return Ok(Some(Event::End));
                }
                Place::Extended if self.left > 0 => {
                    let data = split(bytes, self.left);
                    if data.is_empty() {
                        return Ok(None);
                    }
                    self.left -= data.len() as u64;
                    self.block.extend_from_slice(data);
                }
                Place::Extended => {
                    harmless(&std::mem::take(&mut self.block))?;
                    self.place = Place::Header;
                }
                Place::Header if self.padding > 0 => {
                    let skipped = split(bytes, self.padding).len() as u64;
                    self.padding -= skipped;
                    if skipped == 0 {
                        return Ok(None);
                    }
                }
                Place::Header => {
                    self.block.extend_from_slice(split(bytes, (BLOCK - self.block.len()) as u64));
                    if self.block.len() < BLOCK {
                        return Ok(None);
                    }
                    let block = std::mem::take(&mut self.block);
                    if let Some(member) = self.header(&block)? {
                        return Ok(Some(member));
                    }
                }
            }
        }
    }

    /// Whether it has come to its end, or could end here.
    pub(crate) fn is_whole(&self) -> bool {
        let between = self.place == Place::Header && self.padding == 0 && self.block.is_empty();
        self.place == Place::Behind || (between && !self.names.is_empty())
    }

    fn header(&mut self, block: &[u8]) -> Result<Option<Event<'static>>, String> {
        if block.iter().all(|b| *b == 0) {
            self.place = Place::Behind;
            return Ok(None);
        }
        let told = number(field(block, 148, 8)).ok_or("a header is damaged")?;
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, b)| u64::from(if (148..156).contains(&at) { b' ' } else { *b }))
            .sum();
        if told != sum {
            return Err("a header is damaged".into());
        }
        let size = number(field(block, 124, 12)).ok_or("a member has no size")?;
        (self.left, self.padding) = (size, (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64);
        let name = text(field(block, 0, 100))?;
        match block[156] {
            b'0' | 0 => {}
            b'x' if size <= LONGEST_HEADER => {
                self.place = Place::Extended;
                return Ok(None);
            }
            // The folder in which all others lie.
            b'5' if matches!(name, "." | "./") && size == 0 => return Ok(None),
            kind => return Err(format!("member {name:?} is no plain file (kind {:?})", char::from(kind))),
        }
        let plain = name.strip_prefix("./").unwrap_or(name).to_owned();
        let prefixed = block.get(257..262) == Some(b"ustar") && !text(field(block, 345, 155))?.is_empty();
        let fits = !plain.is_empty()
            && !plain.starts_with('.')
            && !prefixed
            && plain.chars().all(|c| !c.is_control() && c != '/' && c != '\\');
        if !fits {
            return Err(format!("member {name:?} does not lie in the folder of its archive"));
        }
        if self.names.contains(&plain) {
            return Err(format!("there are two members {name:?}"));
        }
        if self.names.len() >= MOST {
            return Err(format!("it has more than {MOST} members"));
        }
        self.names.push(plain.clone());
        self.place = Place::Content;
        Ok(Some(Event::Member { name: plain, size }))
    }
}

/// Up to so many bytes, which are gone from `bytes` then.
fn split<'a>(bytes: &mut &'a [u8], most: u64) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)));
    *bytes = rest;
    taken
}

fn field(block: &[u8], at: usize, length: usize) -> &[u8] {
    block.get(at..at + length).unwrap_or_default()
}

/// Text up to the first zero.
fn text(field: &[u8]) -> Result<&str, String> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).map_err(|_| "a name is not UTF-8".into())
}

/// An octal number, or a binary one where the first bit says so.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        return high.iter().all(|b| *b == 0).then(|| low.iter().fold(0, |n, b| n << 8 | u64::from(*b)));
    }
    let digits: &str = text(field).ok()?.trim_matches(' ');
    u64::from_str_radix(digits, 8).ok()
}

/// An extended header may tell times and the like.
fn harmless(records: &[u8]) -> Result<(), String> {
    let records = std::str::from_utf8(records).map_err(|_| "an extended header is not UTF-8")?;
    for record in records.split('\n') {
        let key =
            record.split_once(' ').and_then(|(_, rest)| rest.split_once('=')).map_or("", |(key, _)| key);
        if MEANINGFUL.contains(&key) || key.starts_with("GNU.sparse") {
            return Err(format!("an extended header tells another {key}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// The members of an archive that comes in pieces of a length.
    fn read(archive: &[u8], piece: usize) -> Result<Vec<(String, Vec<u8>)>, String> {
        let (mut reader, mut members, mut ends) = (Archive::default(), Vec::new(), 0);
        for mut bytes in archive.chunks(piece.max(1)) {
            while let Some(event) = reader.next(&mut bytes)? {
                match event {
                    Event::Member { name, .. } => members.push((name, Vec::new())),
                    Event::Data(data) => members.last_mut().unwrap().1.extend_from_slice(data),
                    Event::End => ends += 1,
                }
            }
        }
        // The last member's end may need one look more.
        while let Some(event) = reader.next(&mut &[][..])? {
            ends += usize::from(event == Event::End);
        }
        if reader.is_whole() && ends == members.len() { Ok(members) } else { Err("it is cut".into()) }
    }

    /// An archive by tar itself.
    fn made(script: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let out = Command::new("sh").args(["-ec", script]).current_dir(&folder).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    #[test]
    fn members_of_real_archives() {
        for how in ["--format=ustar", "--format=gnu", "--format=pax"] {
            let archive = made(&format!(
                "printf abc >x.ovf; head -c 1000 /dev/zero >y.vmdk; tar -cf - {how} x.ovf y.vmdk"
            ));
            for piece in [1, 511, 512, 70_000] {
                let members = read(&archive, piece).unwrap();
                assert_eq!(
                    members,
                    [("x.ovf".into(), b"abc".to_vec()), ("y.vmdk".into(), vec![0; 1000])],
                    "{how}"
                );
            }
            assert!(read(&archive[..archive.len() - 10_000], 512).is_err() || archive.len() < 10_000);
        }
        let whole = made("printf abc >x.ovf; tar -cf - -C . .");
        assert_eq!(read(&whole, 512).unwrap().len(), 1);
    }

    #[test]
    fn members_that_escape_are_refused() {
        for script in [
            "ln -s /etc/passwd d.vmdk; tar -cf - d.vmdk",
            "mkdir d; touch d/x; tar -cf - d/x",
            "touch ../x-$$; tar -cPf - ../x-$$; rm ../x-$$",
            "touch x; tar -cPf - --transform='s,x,/etc/x,' x",
            "touch x; tar --hard-dereference -cf - x x",
            "touch x; ln x y; tar -cf - x y",
            "touch .htaccess; tar -cf - .htaccess",
            "mkfifo x; tar -cf - x",
            "n=$(printf 'n%.0s' $(seq 150)); touch $n; tar --format=gnu -cf - $n",
            "n=$(printf 'n%.0s' $(seq 150)); touch $n; tar --format=pax -cf - $n",
        ] {
            assert!(read(&made(script), 512).is_err(), "{script}");
        }
        assert!(read(&[0; 2048], 512).is_ok_and(|members| members.is_empty()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048), piece in 1_usize..600) {
            let _ = read(&bytes, piece);
        }

        #[test]
        fn a_damaged_archive_gives_no_other_names(at in 0_usize..1024, value: u8) {
            let mut archive = made("printf abc >x.ovf; tar --format=ustar -cf - x.ovf");
            archive[at] = value;
            if let Ok(members) = read(&archive, 512) {
                prop_assert!(members.iter().all(|(name, _)| name == "x.ovf"));
            }
        }
    }
}
