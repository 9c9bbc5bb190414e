//! Agents that have ever joined, so that each keeps its id, and the certificates that were issued to them.

use rusqlite::{OptionalExtension, params};

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
    /// Remembers for whom a certificate was issued, and until when (seconds since 1970) it is good. A certificate alone
    /// says too little: one of a system VM must not be good for a host.
    pub(crate) fn issued(&self, serial: &str, owner: &str, expires: i64) -> Result<(), DbError> {
        self.get().execute(
            "INSERT OR REPLACE INTO certificate (serial, owner, issued, expires) VALUES (?1, ?2, ?3, ?4)",
            (plain(serial), owner, now(), expires),
        )?;
        Ok(())
    }

    /// Whether a certificate was ever issued for `owner`.
    pub(crate) fn has_certificate(&self, owner: &str) -> Result<bool, DbError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM certificate WHERE owner = ?1)";
        Ok(self.get().prepare_cached(sql)?.query_row([owner], |row| row.get(0))?)
    }

    /// For whom the certificate with that serial number was issued.
    pub(crate) fn certificate_owner(&self, serial: &str) -> Result<Option<String>, DbError> {
        let connection = self.get();
        let mut statement = connection.prepare_cached("SELECT owner FROM certificate WHERE serial = ?1")?;
        Ok(statement.query_row([plain(serial)], |row| row.get(0)).optional()?)
    }

    /// Until when the last certificate of `owner` is good, in seconds since 1970; 0 for one of which that was not
    /// written down, `None` where there is none that is not revoked.
    pub(crate) fn certificate_end(&self, owner: &str) -> Result<Option<i64>, DbError> {
        let connection = self.get();
        let sql = "SELECT max(expires) FROM certificate WHERE owner = ?1 AND revoked IS NULL";
        Ok(connection.prepare_cached(sql)?.query_row([owner], |row| row.get(0))?)
    }

    /// Revokes all certificates of `owner`, voids its token, and has it given a new certificate where it is a system VM.
    /// Returns how many there were.
    pub(crate) fn revoke(&self, owner: &str) -> Result<usize, DbError> {
        let mut connection = self.get();
        let transaction = connection.transaction()?;
        let sql = "UPDATE certificate SET revoked = ?2 WHERE owner = ?1 AND revoked IS NULL";
        let count = transaction.execute(sql, params![owner, now()])?;
        transaction.execute("DELETE FROM join_token WHERE host = ?1", [owner])?;
        transaction.execute("UPDATE vm SET certificate_for = '' WHERE name = ?1", [owner])?;
        transaction.commit()?;
        Ok(count)
    }

    /// The serial numbers of all certificates that are revoked.
    pub(crate) fn revoked(&self) -> Result<Vec<String>, DbError> {
        let connection = self.get();
        let mut statement = connection.prepare("SELECT serial FROM certificate WHERE revoked IS NOT NULL")?;
        let serials = statement.query_map((), |row| row.get(0))?;
        Ok(serials.collect::<Result<_, _>>()?)
    }

    /// The record of the agent with that guid; made when it joins for the first time. One that is known is found
    /// without writing, so that it is let in also where the disk is full.
    pub(crate) fn peer(&self, guid: &str, name: &str, kind: &str) -> Result<Peer, DbError> {
        let connection = self.get();
        let mut find = connection.prepare_cached("SELECT id, uuid, name, kind FROM peer WHERE guid = ?1")?;
        let mut known = || {
            let read = |row: &rusqlite::Row<'_>| {
                let peer = Peer { id: row.get(0)?, uuid: row.get(1)?, name: row.get(2)? };
                Ok((peer, row.get::<_, String>(3)?))
            };
            find.query_row([guid], read).optional()
        };
        if let Some((peer, _)) = known()?.filter(|(peer, as_what)| peer.name == name && as_what == kind) {
            return Ok(peer);
        }
        connection.execute(
            "INSERT INTO peer (guid, uuid, name, kind) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (guid) DO UPDATE SET name = excluded.name, kind = excluded.kind",
            (guid, random_uuid(), name, kind),
        )?;
        let found = known()?.map(|(peer, _)| peer);
        found.ok_or(DbError::Value { what: "peer.guid", value: guid.to_owned() })
    }
}
