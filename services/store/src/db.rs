//! The handle, what it is opened with, and the error.
//!
//! `Store` is where the choice of database is made: every method goes through [`Store::write`] or [`Store::readers`];
//! what a statement runs on is told apart in `statement`.
use crate::Page;
use crate::accept::GroupAccept;
use crate::claims::Unanswered;
use crate::hints::Hints;
use crate::postgres::{self, Failure, PostgresSettings};
use crate::sqlite::Sqlite;
use crate::statement::{Connection, Readers, Row, sql};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::error::DatabaseError;
use sqlx::error::ErrorKind;
use sqlx::postgres::{PgDatabaseError, PgPool};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Where the data lies, if it is SQLite.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// SQLite file.
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
    /// The database could be used but would not keep what it acknowledges.
    #[error("this database is not safe to use: {0}")]
    Refused(String),
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

/// What an error of the database means for the caller.
fn verdict(error: &dyn DatabaseError) -> Verdict {
    match error.kind() {
        ErrorKind::UniqueViolation => Verdict::Conflict,
        ErrorKind::ForeignKeyViolation => Verdict::Stale,
        ErrorKind::NotNullViolation | ErrorKind::CheckViolation | ErrorKind::ExclusionViolation => {
            Verdict::Damaged("a constraint of the schema refused the row".into())
        }
        // `ErrorKind` is non-exhaustive; `Other` and whatever joins it are told apart by the code.
        _ => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => verdict_of_sqlstate(error.code()),
            None => verdict_of_result_code(error.code().and_then(|code| code.parse().ok())),
        },
    }
}

/// Source: <https://www.sqlite.org/rescode.html>, primary result codes.
fn verdict_of_result_code(extended: Option<i64>) -> Verdict {
    match extended.map(|code| code & 0xff) {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
        Some(5..=10 | 13..=15) => Verdict::Unavailable,
        Some(code) => Verdict::Damaged(format!("SQLite result code {code}")),
        None => Verdict::Damaged("an error without a result code".into()),
    }
}

/// Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn verdict_of_sqlstate(code: &str) -> Verdict {
    // Connection, login, no such database, rollback (deadlock, serialization), resources (disk full, connections), lock
    // time-out, operator (shutdown, starting up, cancelled), I/O.
    let away = ["08", "28", "3D", "40", "53", "55", "57", "58"];
    // Idle in a transaction for too long; read-only (a standby); a prepared statement that does not fit the tables any more
    // or is gone: with a new connection it is made anew.
    let away_exactly = ["25P03", "25P04", "25006", "0A000", "26000"];
    if away.iter().any(|class| code.starts_with(class)) || away_exactly.contains(&code) {
        Verdict::Unavailable
    } else {
        Verdict::Damaged(format!("PostgreSQL error {code}"))
    }
}

/// Handle on the database, cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    readers: Readers,
    queue: Arc<Notify>,
    /// Between processes, on PostgreSQL.
    hints: Option<Hints>,
    /// Claims whose commit was not answered.
    unanswered: Unanswered,
    /// Counts the changes of what callers may do.
    rights: AtomicU64,
}

enum Database {
    Sqlite(Box<Sqlite>),
    Postgres { pool: PgPool, group: GroupAccept },
}

/// Dropped when a change of what callers may do is committed, or may be: what was read before counts as old.
pub(crate) struct RightsMoved<'s>(&'s AtomicU64);

impl Drop for RightsMoved<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Store {
    /// Opens (and creates) the SQLite database, runs migrations, asserts SQLite >= 3.51.3, WAL, synchronous=FULL, foreign_keys.
    ///
    /// # Errors
    /// `InUse` if `exclusive` and another process serves the folder; `Unavailable`; `Damaged`.
    pub async fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let database = Sqlite::open(settings).await?;
        let readers = Readers::Sqlite(database.readers.clone());
        Ok(Self::of(Database::Sqlite(Box::new(database)), readers, Arc::default(), None))
    }

    /// Connects to PostgreSQL and runs migrations. Any number of processes may do so; leases run out by the time of the server.
    ///
    /// # Errors
    /// `Refused` if the server runs with `fsync = off`; `Unavailable`; `Damaged`.
    pub async fn connect(settings: PostgresSettings) -> Result<Self, StoreError> {
        let pool = postgres::open(settings).await?;
        let readers = Readers::Postgres(pool.clone());
        let queue = Arc::new(Notify::new());
        let hints = Hints::new(pool.clone(), Arc::clone(&queue));
        let group = GroupAccept::start(&pool);
        Ok(Self::of(Database::Postgres { pool, group }, readers, queue, Some(hints)))
    }

    fn of(database: Database, readers: Readers, queue: Arc<Notify>, hints: Option<Hints>) -> Self {
        let (unanswered, rights) = (Unanswered::default(), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { database, readers, queue, hints, unanswered, rights }) }
    }

    /// Moves whenever this process changed something that decides what a caller may do, or with which key it is signed: API
    /// keys, owners of names, domains, their keys. Read it before the rows: while it stays, this process has not changed them.
    pub fn rights_version(&self) -> u64 {
        self.inner.rights.load(Ordering::SeqCst)
    }

    /// To be held while such a thing is changed.
    pub(crate) fn moves_rights(&self) -> RightsMoved<'_> {
        RightsMoved(&self.inner.rights)
    }

    /// How messages are accepted in groups; SQLite's writer does that for every write.
    pub(crate) fn group_accept(&self) -> Option<&GroupAccept> {
        match &self.inner.database {
            Database::Sqlite(_) => None,
            Database::Postgres { group, .. } => Some(group),
        }
    }

    /// One trivial read, for /readyz.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sql("SELECT COUNT(*) FROM meta").fetch_one(self.readers()).await?;
        Ok(())
    }

    /// Waits until what was written is committed and closes the database.
    pub async fn close(&self) {
        match &self.inner.database {
            Database::Sqlite(database) => database.close().await,
            Database::Postgres { .. } => self.inner.readers.close().await,
        }
    }

    /// Woken (coalesced) whenever something may have become due in this process or, once it has a worker, in one without.
    pub fn queue_notify(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.queue)
    }

    /// Runs `work` in a transaction; returns once it is committed. An `Err` undoes what `work` did.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        Ok(self.try_write(work).await?)
    }

    /// As `write`, for those who must know whether an unanswered COMMIT may have been done.
    pub(crate) async fn try_write<T, F>(&self, work: F) -> Result<T, Failure<T>>
    where
        T: Send + 'static,
        F: for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
    {
        match &self.inner.database {
            Database::Sqlite(database) => {
                let written = database
                    .writer
                    .write(move |conn| Box::pin(async move { work(&mut Connection::Sqlite(conn)).await }))
                    .await;
                written.map_err(Failure::Undone)
            }
            Database::Postgres { pool, .. } => postgres::write(pool.clone(), work).await,
        }
    }

    /// Connections that see committed data only and are not to write.
    pub(crate) fn readers(&self) -> &Readers {
        &self.inner.readers
    }

    pub(crate) fn unanswered(&self) -> &Unanswered {
        &self.inner.unanswered
    }

    /// See [`Sqlite::scrub_log`]. PostgreSQL overwrites deleted rows in its own time; what lies there is sealed.
    pub(crate) async fn scrub_log(&self) {
        match &self.inner.database {
            Database::Sqlite(database) => database.scrub_log().await,
            Database::Postgres { .. } => {}
        }
    }

    /// Something may have become due.
    pub(crate) fn wake_queue(&self) {
        self.inner.queue.notify_one();
        if let Some(hints) = &self.inner.hints {
            hints.tell();
        }
    }

    /// This process has a worker.
    pub(crate) fn hear_of_others(&self) {
        if let Some(hints) = &self.inner.hints {
            hints.hear();
        }
    }
}

/// Sorts after every id (hex digits): the cursor of the first page, newest first. The one of oldest first is the empty text.
pub(crate) const AFTER_EVERY_ID: &str = "~";

/// A JSON column.
pub(crate) fn json<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, StoreError> {
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
