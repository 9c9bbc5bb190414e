//! Agents that have ever joined, so that each keeps its id.

use rusqlite::OptionalExtension;

use super::{Db, DbError, now};
use crate::ids::random_uuid;

/// An agent as the wire knows it: a host record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Host id on the wire.
    pub(crate) id: i64,
    /// Its uuid.
    pub(crate) uuid: String,
    /// Name it joined by.
    pub(crate) name: String,
}

/// A serial number in hex as it is stored: a certificate may write it with leading zeros.
fn plain(serial: &str) -> String {
    serial.trim_start_matches('0').to_ascii_lowercase()
}

impl Db {
    /// Remembers for whom a certificate was issued. A certificate alone says too little: one of a
    /// system VM must not be good for a host.
    pub(crate) fn issued(&self, serial: &str, owner: &str) -> Result<(), DbError> {
        self.get().execute(
            "INSERT OR REPLACE INTO certificate (serial, owner, issued) VALUES (?1, ?2, ?3)",
            (plain(serial), owner, now()),
        )?;
        Ok(())
    }

    /// Whether a certificate was ever issued for `owner`.
    pub(crate) fn has_certificate(&self, owner: &str) -> Result<bool, DbError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM certificate WHERE owner = ?1)";
        Ok(self.get().query_row(sql, [owner], |row| row.get(0))?)
    }

    /// For whom the certificate with that serial number was issued.
    pub(crate) fn certificate_owner(&self, serial: &str) -> Result<Option<String>, DbError> {
        Ok(self
            .get()
            .query_row("SELECT owner FROM certificate WHERE serial = ?1", [plain(serial)], |row| row.get(0))
            .optional()?)
    }

    /// The record of the agent with that guid; made when it joins for the first time.
    pub(crate) fn peer(&self, guid: &str, name: &str, kind: &str) -> Result<Peer, DbError> {
        let connection = self.get();
        connection.execute(
            "INSERT INTO peer (guid, uuid, name, kind) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (guid) DO UPDATE SET name = excluded.name, kind = excluded.kind",
            (guid, random_uuid(), name, kind),
        )?;
        let found = connection
            .query_row("SELECT id, uuid, name FROM peer WHERE guid = ?1", [guid], |row| {
                Ok(Peer { id: row.get(0)?, uuid: row.get(1)?, name: row.get(2)? })
            })
            .optional()?;
        found.ok_or(DbError::Value { what: "peer.guid", value: guid.to_owned() })
    }
}
