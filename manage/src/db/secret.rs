//! Secrets of the zone: made once, kept as long as the database.

use rand::RngExt;
use rusqlite::OptionalExtension;

use super::{Db, DbError, now};

const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789";

/// A random word of letters and digits that cannot be mistaken for each other.
pub(crate) fn random_word(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

impl Db {
    /// The secret of that name; made by `make` the first time.
    pub(crate) fn secret(&self, name: &str, make: impl FnOnce() -> String) -> Result<String, DbError> {
        let connection = self.get();
        let found = connection
            .query_row("SELECT value FROM secret WHERE name = ?1", [name], |row| row.get(0))
            .optional()?;
        if let Some(value) = found {
            return Ok(value);
        }
        let value = make();
        connection.execute("INSERT INTO secret (name, value) VALUES (?1, ?2)", (name, &value))?;
        Ok(value)
    }

    /// Remembers the hash of a host's one-time token until `expires`; an older one is void.
    pub(crate) fn put_join_token(&self, host: &str, hash: &[u8], expires: i64) -> Result<(), DbError> {
        self.get().execute(
            "INSERT INTO join_token (host, hash, expires) VALUES (?1, ?2, ?3)
             ON CONFLICT (host) DO UPDATE SET hash = excluded.hash, expires = excluded.expires",
            (host, hash, expires),
        )?;
        Ok(())
    }

    /// The hash of a host's token, if there is one that has not expired.
    pub(crate) fn join_token(&self, host: &str) -> Result<Option<Vec<u8>>, DbError> {
        Ok(self
            .get()
            .query_row("SELECT hash FROM join_token WHERE host = ?1 AND expires > ?2", (host, now()), |row| {
                row.get(0)
            })
            .optional()?)
    }

    /// Voids a host's token; false where somebody else was faster.
    pub(crate) fn use_join_token(&self, host: &str) -> Result<bool, DbError> {
        Ok(self.get().execute("DELETE FROM join_token WHERE host = ?1", [host])? == 1)
    }
}
