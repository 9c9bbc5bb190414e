//! Care for the file of the database: whether it is whole, and a whole copy beside it.
//!
//! `manage.db.copy` follows the database within seconds, and at once where an operator was told that something is done.
//! A database that is damaged is put aside when the manager starts, and the copy takes its place; never is one begun
//! anew where there was one.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{Db, DbError, now};

/// The database below the state folder.
pub(super) fn file(state: &Path) -> PathBuf {
    state.join("manage.db")
}

/// Its copy.
fn copy(file: &Path) -> PathBuf {
    file.with_extension("db.copy")
}

/// Sees to it that there is a whole database, or none at all and no copy of one. Returns what was done about one that
/// was damaged.
pub(super) fn look(state: &Path) -> Result<Option<String>, DbError> {
    let (file, copy) = (file(state), copy(&file(state)));
    let has_copy = copy.exists();
    let wrong = match fs::metadata(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound && !has_copy => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => "it is not there".to_owned(),
        Err(source) => return Err(DbError::Folder { path: file.display().to_string(), source }),
        Ok(found) if found.len() == 0 && !has_copy => return Ok(None),
        Ok(found) if found.len() == 0 => "it is empty".to_owned(),
        Ok(_) => match check(&file)? {
            None => return Ok(None),
            Some(wrong) => wrong,
        },
    };
    let damaged =
        |advice: String| DbError::Lost { path: file.display().to_string(), wrong: wrong.clone(), advice };
    if !has_copy {
        return Err(damaged("there is no copy of it".to_owned()));
    }
    if let Some(wrong) = check(&copy)? {
        return Err(damaged(format!("its copy {} is damaged, too: {wrong}", copy.display())));
    }
    put_in_place(&file, &copy, &wrong).map(Some)
}

fn put_in_place(file: &Path, copy: &Path, wrong: &str) -> Result<String, DbError> {
    let fail = |source| DbError::Folder { path: file.display().to_string(), source };
    let aside = file.with_extension(format!("db.damaged-{}", now()));
    for end in ["", "-wal", "-shm"] {
        let with = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        match fs::rename(with(file), with(&aside)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
    }
    let beside = file.with_extension("db.new");
    fs::copy(copy, &beside).and_then(|_| File::open(&beside)?.sync_all()).map_err(fail)?;
    fs::rename(&beside, file).map_err(fail)?;
    let text = format!(
        "{} was damaged ({wrong}) and lies in {} now; its copy has taken its place. Nothing is started before all \
         hosts have said what they run",
        file.display(),
        aside.display()
    );
    let connection = Connection::open(file)?;
    connection.execute("INSERT OR REPLACE INTO counter (name, value) VALUES ('unsure', ?1)", [now()])?;
    Ok(text)
}

/// What is wrong with a database; `None` where it is whole.
fn check(path: &Path) -> Result<Option<String>, DbError> {
    let whole = || -> Result<String, rusqlite::Error> {
        Connection::open(path)?.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
    };
    match whole().map_err(DbError::from) {
        Ok(said) if said == "ok" => Ok(None),
        Ok(said) => Ok(Some(said)),
        Err(DbError::Damaged(said)) => Ok(Some(said)),
        Err(error) => Err(error),
    }
}

impl Db {
    /// Brings the copy up to date. Where that fails the one before stays.
    pub(crate) fn copy(&self) -> Result<(), DbError> {
        let Some(file) = &self.file else { return Ok(()) };
        let _turn = self.copying.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (copy, beside) = (copy(file), file.with_extension("db.copying"));
        let fail = |source| DbError::Folder { path: copy.display().to_string(), source };
        let _ = fs::remove_file(&beside);
        let made = || -> Result<(), DbError> {
            let source = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            // Nobody else may read it, from its first byte on.
            use std::os::unix::fs::OpenOptionsExt;
            File::options().create_new(true).write(true).mode(0o600).open(&beside).map_err(fail)?;
            source.execute("VACUUM INTO ?1", [beside.to_string_lossy()])?;
            if let Some(wrong) = check(&beside)? {
                return Err(DbError::Damaged(wrong));
            }
            File::open(&beside).and_then(|made| made.sync_all()).map_err(fail)?;
            fs::rename(&beside, &copy).map_err(fail)
        };
        made().inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
    }

    /// How many rows this program has changed; differs where a copy is old.
    pub(crate) fn changes(&self) -> Result<i64, DbError> {
        Ok(self.get().query_row("SELECT total_changes()", (), |row| row.get(0))?)
    }

    /// Whether a copy has taken the database's place, and it is not known since what runs where.
    pub(crate) fn is_unsure(&self) -> Result<bool, DbError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM counter WHERE name = 'unsure')";
        Ok(self.get().query_row(sql, (), |row| row.get(0))?)
    }

    /// All hosts have said what they run.
    pub(crate) fn is_sure(&self) -> Result<(), DbError> {
        self.get().execute("DELETE FROM counter WHERE name = 'unsure'", ())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::zone::tests::example;

    /// A database with a zone and its copy.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).unwrap();
        db.take_zone(&example()).unwrap();
        db.copy().unwrap();
        folder
    }

    fn opened(folder: &tempfile::TempDir) -> Result<Db, DbError> {
        Db::open(folder.path())
    }

    #[test]
    fn a_damaged_database_is_put_aside_for_its_copy() {
        let wounds: [fn(&File); 4] = [
            |file| file.set_len(0).unwrap(),
            |file| file.set_len(5000).unwrap(),
            |file| file.write_all_at(&[0x5a; 8192], 4096).unwrap(),
            |file| file.write_all_at(b"no database", 0).unwrap(),
        ];
        for wound in wounds {
            let folder = folder();
            let before = opened(&folder).unwrap().vms().unwrap();
            wound(&File::options().write(true).open(file(folder.path())).unwrap());
            let db = opened(&folder).unwrap();
            assert_eq!(db.vms().unwrap(), before);
            assert!(db.is_unsure().unwrap());
            assert!(db.mended().unwrap().contains("was damaged"));
            let aside = fs::read_dir(folder.path()).unwrap().flatten();
            assert!(aside.into_iter().any(|e| e.file_name().to_string_lossy().contains("damaged-")));
            db.is_sure().unwrap();
            assert!(!db.is_unsure().unwrap());
            drop(db);
            assert!(opened(&folder).unwrap().mended().is_none(), "the next start finds all well");
        }
    }

    #[test]
    fn without_a_whole_copy_nothing_is_begun_anew() {
        let folder = folder();
        for name in ["manage.db", "manage.db.copy"] {
            let file = File::options().write(true).open(folder.path().join(name)).unwrap();
            file.write_all_at(&[0x5a; 8192], 4096).unwrap();
        }
        let before = fs::read(file(folder.path())).unwrap();
        let error = opened(&folder).err().unwrap().to_string();
        assert!(error.contains("manage.db is damaged") && error.contains("is damaged, too"), "{error}");
        assert!(error.contains("VMs run on"), "{error}");
        fs::remove_file(folder.path().join("manage.db.copy")).unwrap();
        let error = opened(&folder).err().unwrap().to_string();
        assert!(error.contains("there is no copy of it"), "{error}");
        assert_eq!(fs::read(file(folder.path())).unwrap(), before, "it is left as it is");
    }

    #[test]
    fn a_copy_that_cannot_be_made_leaves_the_one_before() {
        let folder = folder();
        let copy = folder.path().join("manage.db.copy");
        let before = fs::read(&copy).unwrap();
        let db = opened(&folder).unwrap();
        let changes = db.changes().unwrap();
        db.event("zone", "something").unwrap();
        assert_ne!(db.changes().unwrap(), changes);
        fs::create_dir(folder.path().join("manage.db.copying")).unwrap();
        assert!(db.copy().is_err());
        assert_eq!(fs::read(&copy).unwrap(), before);
        fs::remove_dir(folder.path().join("manage.db.copying")).unwrap();
        db.copy().unwrap();
        assert_ne!(fs::read(&copy).unwrap(), before);
    }
}
