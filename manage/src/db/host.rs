//! Hosts: whether one is lost or drained, and by which list of votes it has held.

use std::collections::BTreeMap;

use rusqlite::OptionalExtension;

use super::{Db, DbError, now};

/// What is remembered of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostRow {
    /// The list of votes by which its guard was heard last; empty where it never was.
    pub(crate) generation: String,
    /// Its system VMs were given away, since then, in seconds since 1970.
    pub(crate) lost: Option<i64>,
    /// It is out of service.
    pub(crate) drained: bool,
}

impl Db {
    /// What is remembered of the host of that name.
    pub(crate) fn host(&self, name: &str) -> Result<HostRow, DbError> {
        let connection = self.get();
        let row = connection
            .query_row("SELECT generation, lost, drained FROM host WHERE name = ?1", [name], |row| {
                Ok(HostRow { generation: row.get(0)?, lost: row.get(1)?, drained: row.get(2)? })
            })
            .optional()?;
        Ok(row.unwrap_or_default())
    }

    /// What is remembered of all hosts, by name.
    pub(crate) fn hosts(&self) -> Result<BTreeMap<String, HostRow>, DbError> {
        let connection = self.get();
        let mut statement = connection.prepare_cached("SELECT name, generation, lost, drained FROM host")?;
        let rows = statement.query_map((), |row| {
            Ok((row.get(0)?, HostRow { generation: row.get(1)?, lost: row.get(2)?, drained: row.get(3)? }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Remembers by which list of votes a host's guard was heard.
    pub(crate) fn host_agrees(&self, name: &str, generation: &str) -> Result<(), DbError> {
        self.get().execute(
            "INSERT INTO host (name, generation) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET generation = excluded.generation",
            (name, generation),
        )?;
        Ok(())
    }

    /// Takes the system VMs of a host from it: each is started anew, elsewhere, and told everything. Returns how many.
    pub(crate) fn host_lost(&self, name: &str) -> Result<usize, DbError> {
        let mut connection = self.get();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT INTO host (name, lost) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET lost = coalesce(lost, excluded.lost)",
            (name, now()),
        )?;
        let moved = transaction.execute(
            "UPDATE vm SET host = NULL, certificate_for = '', configured_for = '', applied = ''
             WHERE host = ?1 AND kind <> 'guest'",
            [name],
        )?;
        transaction.commit()?;
        Ok(moved)
    }

    /// The number of the manager's next run: greater than that of any before, also where the clock was set back.
    pub(crate) fn next_run(&self) -> Result<u64, DbError> {
        let sql = "INSERT INTO counter (name, value) VALUES ('run', ?1)
                   ON CONFLICT (name) DO UPDATE SET value = max(value + 1, excluded.value) RETURNING value";
        let run: i64 = self.get().query_row(sql, [now()], |row| row.get(0))?;
        Ok(run.unsigned_abs())
    }

    /// A lost host is back; true where it was lost.
    pub(crate) fn host_back(&self, name: &str) -> Result<bool, DbError> {
        let sql = "UPDATE host SET lost = NULL WHERE name = ?1 AND lost IS NOT NULL";
        Ok(self.get().execute(sql, [name])? == 1)
    }

    /// Takes a host out of service, or into it again.
    pub(crate) fn host_drained(&self, name: &str, drained: bool) -> Result<(), DbError> {
        self.get().execute(
            "INSERT INTO host (name, drained) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET drained = excluded.drained",
            (name, drained),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::example;

    #[test]
    fn a_lost_host_keeps_its_guests_and_nothing_else() {
        let db = Db::in_memory().unwrap();
        db.take_zone(&example()).unwrap();
        for id in 1..=4 {
            db.place(id, "h1").unwrap();
        }
        db.configured(1, "start", "rules", &[]).unwrap();
        assert_eq!(db.host_lost("h1").unwrap(), 3);
        let hosts: Vec<_> = db.vms().unwrap().into_iter().map(|vm| vm.host).collect();
        assert_eq!(hosts, [None, None, None, Some("h1".to_owned())]);
        assert_eq!(db.vms().unwrap()[0].applied, "", "the new router is told everything");
        assert!(db.host("h1").unwrap().lost.is_some());
        assert!(db.host_back("h1").unwrap() && !db.host_back("h1").unwrap());
    }

    #[test]
    fn a_drained_host_stays_so_while_it_is_lost() {
        let db = Db::in_memory().unwrap();
        db.host_drained("h1", true).unwrap();
        db.host_agrees("h1", "g").unwrap();
        db.host_lost("h1").unwrap();
        db.host_back("h1").unwrap();
        assert_eq!(db.host("h1").unwrap(), HostRow { generation: "g".into(), lost: None, drained: true });
    }

    #[test]
    fn each_run_has_a_greater_number() {
        let db = Db::in_memory().unwrap();
        let first = db.next_run().unwrap();
        assert!(db.next_run().unwrap() > first);
    }
}
