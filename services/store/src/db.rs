//! The connection, group commit, and the error.
use std::path::PathBuf;

/// Where the data lies.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// SQLite file. (PostgreSQL joins with its issue; `Store` is where the choice is made.)
    pub sqlite_path: PathBuf,
    /// True for `serve` and `sandbox`: takes the exclusive file lock beside the database and voids leases of earlier boots.
    /// False for `tenant create`, which must work beside a running `serve`.
    pub exclusive: bool,
}

/// Why the store did not do it.
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
    /// The row changed since it was read (optimistic concurrency); read again.
    #[error("it changed meanwhile")]
    Stale,
    /// The claim on a name was decided otherwise meanwhile.
    #[error("the claim is contested")]
    Contested,
    /// A row that does not fit our types, a wrong SQLite version, a failed migration.
    #[error("the database is damaged or too old: {0}")]
    Damaged(String),
}

/// Handle on the database, cheap to clone.
#[derive(Clone)]
pub struct Store;

impl Store {
    /// Opens (and creates) the database, runs migrations, asserts SQLite >= 3.51.3, WAL, synchronous=FULL, foreign_keys.
    pub async fn open(_settings: StoreSettings) -> Result<Self, StoreError> {
        todo!()
    }
    /// One trivial read, for /readyz.
    pub async fn ping(&self) -> Result<(), StoreError> {
        todo!()
    }
    /// Waits until what was written is committed and closes the database.
    pub async fn close(&self) {
        todo!()
    }
}
