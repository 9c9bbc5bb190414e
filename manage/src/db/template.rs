//! Templates: what was asked for, and how far each store is.

use rusqlite::{Row, types::Type};
use serde::{Deserialize, Serialize};

use super::{Db, DbError, now};

/// How far a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TemplateState {
    /// Not begun, or on its way.
    Downloading,
    /// In the store, checked.
    Ready,
    /// Refused or broken off; nothing was left in the store.
    Failed,
}

impl TemplateState {
    fn text(self) -> &'static str {
        match self {
            Self::Downloading => "downloading",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Downloading, Self::Ready, Self::Failed].into_iter().find(|s| s.text() == text)
    }
}

/// A template in one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Template {
    /// Number, part of its path.
    pub(crate) id: i64,
    /// Name.
    pub(crate) name: String,
    /// Name of the store.
    pub(crate) store: String,
    /// Source.
    pub(crate) url: String,
    /// `QCOW2`, `RAW` …
    pub(crate) format: String,
    /// `{ALG}hex`, or bare hex for MD5.
    pub(crate) checksum: Option<String>,
    /// How far it is.
    pub(crate) state: TemplateState,
    /// Instance name of the SSVM that brings it.
    #[serde(default)]
    pub(crate) ssvm: String,
    /// Job in the SSVM.
    pub(crate) job: Option<String>,
    /// 0 to 100.
    pub(crate) percent: i64,
    /// Virtual size in bytes.
    pub(crate) size: i64,
    /// Size of the file in bytes.
    pub(crate) physical_size: i64,
    /// Path in the store.
    pub(crate) path: Option<String>,
    /// Checksum that the SSVM found.
    pub(crate) stored_checksum: Option<String>,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

const COLUMNS: &str = "id, name, store, url, format, checksum, state, job, percent, size, physical_size, path, \
                       stored_checksum, error, ssvm";

fn read(row: &Row<'_>) -> rusqlite::Result<Template> {
    let state: String = row.get(6)?;
    let state = TemplateState::read(&state)
        .ok_or_else(|| rusqlite::Error::InvalidColumnType(6, state, Type::Text))?;
    Ok(Template {
        id: row.get(0)?,
        name: row.get(1)?,
        store: row.get(2)?,
        url: row.get(3)?,
        format: row.get(4)?,
        checksum: row.get(5)?,
        state,
        job: row.get(7)?,
        percent: row.get(8)?,
        size: row.get(9)?,
        physical_size: row.get(10)?,
        path: row.get(11)?,
        stored_checksum: row.get(12)?,
        error: row.get(13)?,
        ssvm: row.get(14)?,
    })
}

impl Db {
    /// Writes down a template that is wanted; one of the same name that failed is begun anew.
    /// `None` where one of that name is in the store or on its way.
    pub(crate) fn add_template(
        &self,
        name: &str,
        store: &str,
        url: &str,
        format: &str,
        checksum: Option<&str>,
        ssvm: &str,
    ) -> Result<Option<Template>, DbError> {
        let mut connection = self.get();
        let transaction = connection.transaction()?;
        transaction.execute(
            "DELETE FROM template WHERE name = ?1 AND store = ?2 AND state = 'failed'",
            (name, store),
        )?;
        let added = transaction.execute(
            "INSERT INTO template (name, store, url, format, checksum, state, created, ssvm)
             VALUES (?1, ?2, ?3, ?4, ?5, 'downloading', ?6, ?7) ON CONFLICT (name, store) DO NOTHING",
            (name, store, url, format, checksum, now(), ssvm),
        )?;
        if added == 0 {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM template WHERE name = ?1 AND store = ?2");
        let template = transaction.query_row(&sql, (name, store), read)?;
        transaction.commit()?;
        Ok(Some(template))
    }

    /// Replaces what is known of a template.
    pub(crate) fn put_template(&self, template: &Template) -> Result<(), DbError> {
        self.get().execute(
            "UPDATE template SET state = ?2, job = ?3, percent = ?4, size = ?5, physical_size = ?6, path = ?7,
             stored_checksum = ?8, error = ?9, ssvm = ?10 WHERE id = ?1",
            (
                template.id,
                template.state.text(),
                &template.job,
                template.percent,
                template.size,
                template.physical_size,
                &template.path,
                &template.stored_checksum,
                &template.error,
                &template.ssvm,
            ),
        )?;
        Ok(())
    }

    /// How many downloads an SSVM has under way.
    pub(crate) fn downloads_of(&self, ssvm: &str) -> Result<u32, DbError> {
        let sql = "SELECT count(*) FROM template WHERE state = 'downloading' AND ssvm = ?1";
        Ok(self.get().prepare_cached(sql)?.query_row([ssvm], |row| row.get(0))?)
    }

    /// All templates by number.
    pub(crate) fn templates(&self) -> Result<Vec<Template>, DbError> {
        let connection = self.get();
        let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM template ORDER BY id"))?;
        let rows = statement.query_map((), read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
