//! A journal: state that changes a little at a time, where each change costs the disk what changed.
//!
//! The file begins with a line that names its version; each record is a line of its own, a checksum and JSON. Room
//! for records is laid out ahead as zeros, so that a record only overwrites: the disk writes the record and
//! nothing else. Where the room is used up the file is written anew, whole, as one that [`super::save`] makes;
//! the one before is kept.
//!
//! A power cut leaves the last record whole, or torn: then it never happened. A record that is not whole while a
//! later one is means that the file is damaged.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{Fault, LIMIT, Loaded, PersistError, io_error, keep_previous, previous, replace};

const MAGIC: &str = "trivium-journal";

/// Least room for records in a new file, in bytes.
const ROOM: u64 = 256 * 1024;

/// Digits of a record's checksum.
const SUM: usize = 16;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    version: u32,
    /// The file, where a record can be added to it.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Where the next record goes.
    end: u64,
    /// Where the room ends.
    length: u64,
}

impl Journal {
    /// Reads a journal: the value that its records make, one after the other. A damaged file falls back to the one
    /// before, and the answer says so; the caller logs it.
    ///
    /// # Errors
    /// Where there is a file but neither it nor the one before can be used.
    pub fn load<T: Default, R: DeserializeOwned>(
        path: &Path,
        version: u32,
        apply: impl Fn(&mut T, R),
    ) -> Result<(Self, Loaded<T>), PersistError> {
        let journal = |open| Self { path: path.to_owned(), version, open };
        let newest = match read(path, version, &apply) {
            Ok((value, open)) => return Ok((journal(open), Loaded { value: Some(value), fallback: None })),
            Err(fault) => fault,
        };
        match (newest, read(&previous(path), version, &apply)) {
            (newest, Ok((value, _))) => {
                let reason = format!("{}: {newest}; the generation before it is in force", path.display());
                Ok((
                    journal(None),
                    Loaded { value: Some(value), fallback: Some(format!("state file {reason}")) },
                ))
            }
            (Fault::Absent, Err(Fault::Absent)) => {
                Ok((journal(None), Loaded { value: None, fallback: None }))
            }
            (newest, Err(_)) => {
                Err(PersistError::Damaged { path: path.display().to_string(), reason: newest.to_string() })
            }
        }
    }

    /// Makes a change durable: adds its record, or, where there is no room, writes the records of `whole`, which
    /// make the value with the change. After an error nothing of the change is left.
    ///
    /// # Errors
    /// Where the disk says no, or a record cannot be put into JSON.
    pub fn save<R: Serialize, W: Serialize>(
        &mut self,
        record: &R,
        whole: impl IntoIterator<Item = W>,
    ) -> Result<(), PersistError> {
        let line = line(record).map_err(|error| self.encode(error))?;
        if let Some(open) = self.open.as_mut().filter(|open| open.end + line.len() as u64 <= open.length) {
            match open.file.write_all_at(&line, open.end).and_then(|()| open.file.sync_data()) {
                Ok(()) => {
                    open.end += line.len() as u64;
                    return Ok(());
                }
                // What part of it is on the disk is not known: the file is written anew.
                Err(error) => tracing::warn!(%error, path = %self.path.display(), "a record was not written"),
            }
        }
        self.open = None;
        self.rewrite(whole)
    }

    fn rewrite<W: Serialize>(&mut self, whole: impl IntoIterator<Item = W>) -> Result<(), PersistError> {
        let mut encoding = None;
        let mut end = 0;
        let written = keep_previous(&self.path).and_then(|()| {
            replace(&self.path, 0o600, |file| {
                let mut put = |bytes: &[u8]| {
                    end += bytes.len() as u64;
                    file.write_all(bytes)
                };
                put(format!("{MAGIC} {}\n", self.version).as_bytes())?;
                for record in whole {
                    match line(&record) {
                        Ok(line) => put(&line)?,
                        Err(error) => {
                            encoding = Some(error);
                            return Err(io::ErrorKind::InvalidData.into());
                        }
                    }
                }
                io::copy(&mut io::repeat(0).take(end.max(ROOM)), file).map(drop)
            })
        });
        if let Some(error) = encoding {
            return Err(self.encode(error));
        }
        written.map_err(|error| io_error(&self.path, error))?;
        let file = OpenOptions::new().write(true).open(&self.path);
        // Without it the next change writes the file anew.
        self.open = file.ok().map(|file| Open { file, end, length: end + end.max(ROOM) });
        Ok(())
    }

    fn encode(&self, source: serde_json::Error) -> PersistError {
        PersistError::Encode { path: self.path.display().to_string(), source }
    }
}

fn sum(body: &[u8]) -> String {
    let mut sum = hex::encode(Sha256::digest(body));
    sum.truncate(SUM);
    sum
}

fn line<R: Serialize>(record: &R) -> Result<Vec<u8>, serde_json::Error> {
    let body = serde_json::to_vec(record)?;
    let mut line = sum(&body).into_bytes();
    line.push(b' ');
    line.extend(body);
    line.push(b'\n');
    Ok(line)
}

/// The JSON of a line without its end, where the checksum fits.
fn record(line: &[u8]) -> Option<&[u8]> {
    let (head, body) = (line.get(..SUM)?, line.get(SUM + 1..)?);
    (line[SUM] == b' ' && head == sum(body).as_bytes()).then_some(body)
}

fn read<T: Default, R: DeserializeOwned>(
    path: &Path,
    version: u32,
    apply: impl Fn(&mut T, R),
) -> Result<(T, Option<Open>), Fault> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Absent,
        _ => Fault::Io(error),
    })?;
    let length = file.metadata().map_err(Fault::Io)?.len();
    let mut lines = BufReader::new(&file);
    let (mut value, mut line, mut end, mut number) = (T::default(), Vec::new(), 0, 0);
    let mut torn = false;
    loop {
        line.clear();
        let read = lines.by_ref().take(LIMIT).read_until(b'\n', &mut line).map_err(Fault::Io)?;
        if read == 0 {
            break;
        }
        let whole = line.strip_suffix(b"\n");
        if number == 0 {
            head(whole.unwrap_or(&line), version)?;
        } else {
            match whole.and_then(record) {
                Some(_) if torn => {
                    return Err(Fault::Content(format!(
                        "has a damaged record, the one behind {} bytes",
                        end
                    )));
                }
                Some(body) => {
                    let bad =
                        |e| Fault::Content(format!("record {number} does not hold what it should: {e}"));
                    apply(&mut value, serde_json::from_slice(body).map_err(bad)?);
                }
                None => torn |= line.iter().any(|byte| *byte != 0),
            }
        }
        if !torn && whole.is_some() {
            end += read as u64;
            number += 1;
        }
    }
    if number == 0 {
        return Err(Fault::Content("has no first line".into()));
    }
    // Behind a torn record nothing is added: the next change writes the file anew.
    Ok((value, (!torn).then_some(Open { file, end, length })))
}

fn head(line: &[u8], version: u32) -> Result<(), Fault> {
    let words = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' '));
    match words {
        Some((MAGIC, found)) if found == version.to_string() => Ok(()),
        Some((MAGIC, found)) => {
            Err(Fault::Content(format!("has version {found:.20} where {version} is known")))
        }
        _ => Err(Fault::Content("has a garbled first line".into())),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;

    type Value = BTreeMap<u8, String>;
    type Record = (u8, Option<String>);

    fn apply(value: &mut Value, (key, change): Record) {
        match change {
            Some(text) => drop(value.insert(key, text)),
            None => drop(value.remove(&key)),
        }
    }

    fn load(path: &Path) -> Result<(Journal, Loaded<Value>), PersistError> {
        Journal::load(path, 1, apply)
    }

    fn whole(value: &Value) -> Vec<Record> {
        value.iter().map(|(key, text)| (*key, Some(text.clone()))).collect()
    }

    /// A change of a journal that is open, as its owners make it.
    fn change(journal: &mut Journal, value: &mut Value, record: Record) {
        apply(value, record.clone());
        journal.save(&record, whole(value)).unwrap();
    }

    fn filled(path: &Path, changes: u8) -> (Journal, Value) {
        let (mut journal, loaded) = load(path).unwrap();
        let mut value = loaded.value.unwrap_or_default();
        for n in 0..changes {
            change(&mut journal, &mut value, (n % 5, (n % 7 != 3).then(|| format!("text {n}\n\0"))));
        }
        (journal, value)
    }

    #[test]
    fn what_was_saved_is_loaded_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/journal");
        let (_, value) = filled(&path, 20);
        let length = fs::metadata(&path).unwrap().len();
        let (mut journal, loaded) = load(&path).unwrap();
        let mut value = value;
        assert_eq!(loaded, Loaded { value: Some(value.clone()), fallback: None });
        change(&mut journal, &mut value, (9, Some("more".into())));
        assert_eq!(load(&path).unwrap().1.value.unwrap(), value);
        assert_eq!(fs::metadata(&path).unwrap().len(), length, "records only overwrite");
    }

    #[test]
    fn a_file_without_room_is_written_anew_and_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, mut value) = filled(&path, 1);
        for n in 0..100 {
            change(&mut journal, &mut value, (n % 3, Some("x".repeat(20_000))));
        }
        assert_eq!(load(&path).unwrap().1.value.unwrap(), value);
        assert!(fs::metadata(&path).unwrap().len() < 2 * ROOM);
        fs::write(&path, "junk").unwrap();
        let (_, loaded) = load(&path).unwrap();
        assert!(
            loaded.fallback.unwrap().contains("garbled first line; the generation before it is in force")
        );
    }

    #[test]
    fn a_cut_at_any_byte_leaves_what_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, _) = filled(&path, 6);
        let end = usize::try_from(journal.open.unwrap().end).unwrap();
        let bytes = fs::read(&path).unwrap();
        let head = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let expected = |cut: usize| {
            let mut value = Value::new();
            for line in bytes[head..cut].split_inclusive(|byte| *byte == b'\n') {
                if let Some(body) = line.strip_suffix(b"\n").and_then(record) {
                    apply(&mut value, serde_json::from_slice(body).unwrap());
                }
            }
            value
        };
        for cut in head..=end {
            // The file is cut there, or what is behind was never written.
            for tail in [0, 700] {
                fs::write(&path, [&bytes[..cut], &vec![0; tail]].concat()).unwrap();
                let (mut journal, loaded) = load(&path).unwrap();
                let mut value = loaded.value.unwrap();
                assert_eq!((&value, loaded.fallback), (&expected(cut), None), "cut at {cut}");
                change(&mut journal, &mut value, (1, Some("after".into())));
                assert_eq!(load(&path).unwrap().1.value.unwrap(), value, "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_damaged_record_among_others_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        filled(&path, 6);
        let bytes = fs::read(&path).unwrap();
        let lines: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
        for at in lines[0] + 1..=lines[4] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("has a damaged record"), "{at}: {error}");
        }
        fs::write(&path, String::from_utf8(bytes).unwrap().replace("journal 1", "journal 2")).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("has version 2 where 1 is known"));
    }

    #[test]
    fn a_disk_that_says_no_leaves_the_value_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, value) = filled(&path, 6);
        // Neither a record nor a new file can be written.
        journal.open.as_mut().unwrap().file = File::open(&path).unwrap();
        journal.path = folder.path().join("journal/none");
        let mut next = value.clone();
        apply(&mut next, (8, Some("lost".into())));
        journal.save(&(8, Some("lost".to_owned())), whole(&next)).unwrap_err();
        assert_eq!(load(&path).unwrap().1.value.unwrap(), value);
        // The disk is well again.
        journal.path.clone_from(&path);
        journal.save(&(8, Some("lost".to_owned())), whole(&next)).unwrap();
        assert_eq!(load(&path).unwrap().1.value.unwrap(), next);
    }
}
