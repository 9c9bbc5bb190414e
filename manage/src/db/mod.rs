//! What the manager remembers: an embedded SQLite database below the state folder.
//!
//! One manager at a time works on it (a lock file sees to that). A change is one transaction; a
//! newer program brings an older database up to date when it opens it.

mod care;
mod console;
mod host;
mod migrate;
mod peer;
mod secret;
mod template;
mod vm;

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, ErrorCode};

use crate::api::Event;

pub(crate) use console::{ConsoleSession, Redeem};
pub(crate) use secret::random_word;
pub(crate) use template::{Template, TemplateState};
pub(crate) use vm::{Kind, NicRow, Owner, Vm, Wanted};

/// How many events are kept.
pub(crate) const EVENTS: u32 = 500;

/// Why the database could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// Another manager works on this folder.
    #[error("Another `manage serve` works on {0}; stop it first or give another --state")]
    Locked(String),
    /// The folder or file cannot be made.
    #[error("State folder {path}: {source}")]
    Folder {
        /// Path.
        path: String,
        /// Cause.
        source: std::io::Error,
    },
    /// SQLite said no.
    #[error("Database: {0}")]
    Sql(rusqlite::Error),
    /// There is no room for a change.
    #[error(
        "The disk with manage.db, in the manager's state folder, is full ({0}): nothing was changed. VMs run on as they \
         are; make room there, and the manager goes on by itself"
    )]
    Full(String),
    /// The file is not as SQLite left it.
    #[error(
        "manage.db, in the manager's state folder, is damaged ({0}): nothing was changed. VMs run on as they are; start \
         `manage serve` again, and it takes the copy beside it"
    )]
    Damaged(String),
    /// There is no whole database to start with.
    #[error(
        "{path} is damaged ({wrong}), and {advice}. Nothing was changed; VMs run on as they are, and hosts try to reach \
         the manager. Put back a copy of the state folder, or what `sqlite3 {path} .recover` finds"
    )]
    Lost {
        /// The file.
        path: String,
        /// What is wrong with it.
        wrong: String,
        /// What is wrong with its copy.
        advice: String,
    },
    /// A newer program wrote it.
    #[error("Database has version {found}, this program knows up to {known}; use the newer program")]
    Newer {
        /// Version of the file.
        found: u32,
        /// Last version known here.
        known: u32,
    },
    /// A stored value cannot be read.
    #[error("Database, {what}: {value:?} cannot be read")]
    Value {
        /// Table and column.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// All addresses of a range are taken.
    #[error("No free address left in {0}; make the range in the zone file larger")]
    Exhausted(String),
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Sql(error),
        }
    }
}

/// The open database.
pub(crate) struct Db {
    connection: Mutex<Connection>,
    /// Where it lies; none in memory.
    file: Option<PathBuf>,
    /// One copy at a time.
    copying: Mutex<()>,
    /// What was done when it was found damaged.
    mended: Option<String>,
    /// Held while the manager runs.
    _lock: Option<File>,
}

impl Db {
    /// Opens `manage.db` below `state`, makes it if need be, and brings it up to date.
    pub(crate) fn open(state: &Path) -> Result<Self, DbError> {
        let fail = |source| DbError::Folder { path: state.display().to_string(), source };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state.join("serve.lock"))
            .map_err(fail)?;
        if lock.try_lock().is_err() {
            return Err(DbError::Locked(state.display().to_string()));
        }
        let path = care::file(state);
        let mended = care::look(state)?;
        // The file holds keys: nobody else may read it, from its first byte on.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(fail)?;
        let connection = Connection::open(&path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Self { file: Some(path), mended, ..Self::prepare(connection, Some(lock))? })
    }

    /// What was done about a damaged database when this one was opened.
    pub(crate) fn mended(&self) -> Option<&str> {
        self.mended.as_deref()
    }

    /// A database that lives as long as the value, for tests.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Result<Self, DbError> {
        Self::prepare(Connection::open_in_memory()?, None)
    }

    fn prepare(mut connection: Connection, lock: Option<File>) -> Result<Self, DbError> {
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate::run(&mut connection)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self {
            connection: Mutex::new(connection),
            file: None,
            copying: Mutex::new(()),
            mended: None,
            _lock: lock,
        })
    }

    /// The connection; every statement is short.
    fn get(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that something happened; the last [`EVENTS`] are kept.
    pub(crate) fn event(&self, subject: &str, text: &str) -> Result<(), DbError> {
        let mut connection = self.get();
        let transaction = connection.transaction()?;
        let sql = "INSERT INTO event (at, subject, text) VALUES (?1, ?2, ?3)";
        transaction.prepare_cached(sql)?.execute((now(), subject, text))?;
        let sql = "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?1";
        transaction.prepare_cached(sql)?.execute([EVENTS])?;
        transaction.commit()?;
        Ok(())
    }

    /// The last `count` events after the one of that number, oldest first.
    pub(crate) fn events(&self, count: u32, after: i64) -> Result<Vec<Event>, DbError> {
        let connection = self.get();
        let mut statement = connection.prepare(
            "SELECT id, at, subject, text FROM (SELECT * FROM event WHERE id > ?2 ORDER BY id DESC LIMIT ?1)
             ORDER BY id",
        )?;
        let rows = statement.query_map((count, after), |row| {
            Ok(Event { id: row.get(0)?, at: row.get(1)?, subject: row.get(2)?, text: row.get(3)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
