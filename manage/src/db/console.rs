//! Console sessions: each is good for one connection.

use rusqlite::OptionalExtension;

use super::{Db, DbError, now};

/// A session that was handed out with a console URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsoleSession {
    /// Its uuid, part of the token.
    pub(crate) uuid: String,
    /// uuid of the VM it is for.
    pub(crate) vm: String,
}

/// What came of using a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redeem {
    /// It is this client's now.
    Granted(ConsoleSession),
    /// Nobody made it, or it ended.
    Unknown,
    /// It was used before.
    Used,
}

impl Db {
    /// Writes down a new session; the ones older than a day are dropped.
    pub(crate) fn add_console_session(&self, session: &ConsoleSession) -> Result<(), DbError> {
        let connection = self.get();
        connection.execute("DELETE FROM console_session WHERE created < ?1", [now() - 86_400])?;
        connection.execute(
            "INSERT INTO console_session (uuid, vm, created) VALUES (?1, ?2, ?3)",
            (&session.uuid, &session.vm, now()),
        )?;
        Ok(())
    }

    /// Takes the session for `client`, at most once.
    pub(crate) fn redeem_console_session(&self, uuid: &str, client: &str) -> Result<Redeem, DbError> {
        let connection = self.get();
        let taken = connection.execute(
            "UPDATE console_session SET acquired = ?2, client = ?3
             WHERE uuid = ?1 AND acquired IS NULL AND removed IS NULL",
            (uuid, now(), client),
        )?;
        let found = connection
            .query_row(
                "SELECT uuid, vm, removed IS NULL FROM console_session WHERE uuid = ?1",
                [uuid],
                |row| Ok((ConsoleSession { uuid: row.get(0)?, vm: row.get(1)? }, row.get::<_, bool>(2)?)),
            )
            .optional()?;
        Ok(match found {
            Some((session, _)) if taken == 1 => Redeem::Granted(session),
            Some((_, true)) => Redeem::Used,
            _ => Redeem::Unknown,
        })
    }

    /// The session has ended; unknown ones are passed over.
    pub(crate) fn end_console_session(&self, uuid: &str) -> Result<(), DbError> {
        self.get().execute("UPDATE console_session SET removed = ?2 WHERE uuid = ?1", (uuid, now()))?;
        Ok(())
    }
}
