//! The handle, what it is opened with, and the error.
//!
//! `Store` is where the choice of database is made: every method goes through [`Store::write`] or [`Store::readers`].
use crate::Page;
use crate::sqlite::Sqlite;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::error::ErrorKind;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Row, error::DatabaseError};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Notify;

/// Where the data lies.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// SQLite file. (PostgreSQL joins with its issue; `Store` is where the choice is made.)
    pub sqlite_path: PathBuf,
    /// True for `serve` and `sandbox`: takes the exclusive file lock beside the database and voids leases of earlier boots.
    /// False for `tenant create`, which must work beside a running `serve`.
    pub exclusive: bool,
}

/// Why the store did not do it. Only `Unavailable` is temporary; `Stale` and `Contested` ask for a fresh read.
/// No text of these errors holds SQL or data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Database away, disk full, locked for too long: nothing was committed, try again.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// Another `serve` has this data folder.
    #[error("another process already serves this data folder")]
    InUse,
    /// A unique name is taken.
    #[error("it exists already")]
    Conflict,
    /// The row changed since it was read (optimistic concurrency), or what it belongs to is gone; read again.
    #[error("it changed meanwhile")]
    Stale,
    /// The claim on a name was decided otherwise meanwhile.
    #[error("the claim is contested")]
    Contested,
    /// A row that does not fit our types, a wrong SQLite version, a failed migration.
    #[error("the database is damaged or too old: {0}")]
    Damaged(String),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(cause) => match verdict(cause.as_ref()) {
                Verdict::Unavailable => Self::Unavailable(error),
                Verdict::Conflict => Self::Conflict,
                Verdict::Stale => Self::Stale,
                Verdict::Damaged(text) => Self::Damaged(text),
            },
            sqlx::Error::ColumnDecode { index, .. } => {
                Self::Damaged(format!("column {index} holds what we cannot read"))
            }
            sqlx::Error::ColumnNotFound(name) => Self::Damaged(format!("column {name} is missing")),
            sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Migrate(_) => Self::Damaged("a row or a table is not as expected".into()),
            // `sqlx::Error` is non-exhaustive. What is left tells of the connection or the pool.
            _ => Self::Unavailable(error),
        }
    }
}

enum Verdict {
    Unavailable,
    Conflict,
    Stale,
    Damaged(String),
}

/// What an error of SQLite means for the caller. Source: <https://www.sqlite.org/rescode.html>, primary result codes.
fn verdict(error: &dyn DatabaseError) -> Verdict {
    match error.kind() {
        ErrorKind::UniqueViolation => Verdict::Conflict,
        ErrorKind::ForeignKeyViolation => Verdict::Stale,
        ErrorKind::NotNullViolation | ErrorKind::CheckViolation | ErrorKind::ExclusionViolation => {
            Verdict::Damaged("a constraint of the schema refused the row".into())
        }
        // `ErrorKind` is non-exhaustive; `Other` and whatever joins it are told apart by the result code.
        _ => {
            let extended: Option<i64> = error.code().and_then(|code| code.parse().ok());
            match extended.map(|code| code & 0xff) {
                // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
                Some(5..=10 | 13..=15) => Verdict::Unavailable,
                Some(code) => Verdict::Damaged(format!("SQLite result code {code}")),
                None => Verdict::Damaged("an error without a result code".into()),
            }
        }
    }
}

/// Handle on the database, cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Sqlite,
    queue: Arc<Notify>,
}

impl Store {
    /// Opens (and creates) the database, runs migrations, asserts SQLite >= 3.51.3, WAL, synchronous=FULL, foreign_keys.
    ///
    /// # Errors
    /// `InUse` if `exclusive` and another process serves the folder; `Unavailable`; `Damaged`.
    pub async fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let database = Sqlite::open(&settings).await?;
        Ok(Self { inner: Arc::new(Inner { database, queue: Arc::new(Notify::new()) }) })
    }

    /// One trivial read, for /readyz.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sql("SELECT COUNT(*) FROM meta").fetch_one(self.readers()).await?;
        Ok(())
    }

    /// Waits until what was written is committed and closes the database.
    pub async fn close(&self) {
        self.inner.database.close().await;
    }

    /// Woken (coalesced) whenever something may have become due in this process.
    pub fn queue_notify(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.queue)
    }

    /// Runs `work` in a transaction; returns once it is committed. An `Err` undoes what `work` did.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        self.inner.database.writer.write(work).await
    }

    /// Connections that see committed data only and cannot write.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.inner.database.readers
    }

    /// See [`Sqlite::scrub_log`].
    pub(crate) async fn scrub_log(&self) {
        self.inner.database.scrub_log().await;
    }

    /// Something may have become due.
    pub(crate) fn wake_queue(&self) {
        self.inner.queue.notify_one();
    }
}

/// Sorts after every id (hex digits): the cursor of the first page, newest first. The one of oldest first is the empty text.
pub(crate) const AFTER_EVERY_ID: &str = "~";

/// A statement on the one database there is yet.
pub(crate) fn sql(text: &'static str) -> Query<'static, sqlx::Sqlite, SqliteArguments> {
    sqlx::query(text)
}

/// A JSON column.
pub(crate) fn json<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text)
        .map_err(|_| StoreError::Damaged(format!("column {column} holds JSON that we cannot read")))
}

/// The text of a JSON column.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Damaged("a value that is no JSON was to be written".into()))
}

/// How many rows to ask for: one more than the page shows tells whether there is a next one.
pub(crate) fn page_probe(limit: u32) -> i64 {
    i64::from(limit.max(1)) + 1
}

/// Cuts the probe row off.
pub(crate) fn page<T>(mut rows: Vec<T>, limit: u32, id: impl Fn(&T) -> &str) -> Page<T> {
    let limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more { rows.last().map(|row| id(row).to_owned()) } else { None };
    Page { rows, next }
}
