//! The tables, as the steps that lead to them. A step that was released is never changed.

use rusqlite::Connection;

use super::DbError;

const STEPS: &[&str] = &[
    "
CREATE TABLE vm (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    uuid TEXT NOT NULL UNIQUE,
    vnc_password TEXT NOT NULL,
    keystore_password TEXT NOT NULL,
    wanted TEXT NOT NULL,
    host TEXT,
    certificate_for TEXT NOT NULL DEFAULT '',
    configured_for TEXT NOT NULL DEFAULT '',
    applied TEXT NOT NULL DEFAULT '',
    password_sent TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE nic (
    vm INTEGER NOT NULL REFERENCES vm (id) ON DELETE CASCADE,
    device INTEGER NOT NULL,
    traffic TEXT NOT NULL,
    segment TEXT NOT NULL,
    mac TEXT NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (vm, device),
    UNIQUE (segment, address),
    UNIQUE (segment, mac)
) STRICT;
CREATE TABLE peer (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    guid TEXT NOT NULL UNIQUE,
    uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL
) STRICT;
CREATE TABLE certificate (
    serial TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    issued INTEGER NOT NULL
) STRICT;
CREATE TABLE join_token (
    host TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    expires INTEGER NOT NULL
) STRICT;
CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
CREATE TABLE console_session (
    uuid TEXT PRIMARY KEY,
    vm TEXT NOT NULL,
    created INTEGER NOT NULL,
    acquired INTEGER,
    client TEXT,
    removed INTEGER
) STRICT;
CREATE TABLE template (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    store TEXT NOT NULL,
    url TEXT NOT NULL,
    format TEXT NOT NULL,
    checksum TEXT,
    state TEXT NOT NULL,
    job TEXT,
    percent INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    physical_size INTEGER NOT NULL DEFAULT 0,
    path TEXT,
    stored_checksum TEXT,
    error TEXT,
    created INTEGER NOT NULL,
    UNIQUE (name, store)
) STRICT;
CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    subject TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
",
    "
CREATE TABLE host (
    name TEXT PRIMARY KEY,
    generation TEXT NOT NULL DEFAULT '',
    lost INTEGER,
    drained INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
",
    "
ALTER TABLE certificate ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
ALTER TABLE certificate ADD COLUMN revoked INTEGER;
CREATE INDEX certificate_owner ON certificate (owner);
",
    "
ALTER TABLE template ADD COLUMN ssvm TEXT NOT NULL DEFAULT '';
UPDATE template SET ssvm = coalesce((SELECT name FROM vm WHERE owner = 'ssvm'), '');
",
];

/// Runs the steps that this database has not seen, each in its own transaction.
pub(super) fn run(connection: &mut Connection) -> Result<(), DbError> {
    let known = u32::try_from(STEPS.len()).unwrap_or(u32::MAX);
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(DbError::Newer { found, known });
    }
    for (version, step) in (1..=known).zip(STEPS).skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}
