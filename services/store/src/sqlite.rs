//! Opening the SQLite database: file modes, the lock of the serving process, pragmas, version, migrations.
use crate::StoreError;
use crate::StoreSettings;
use crate::writer::Writer;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// Before it, a WAL reset that races with a checkpoint can corrupt the database.
const OLDEST_SQLITE: [u32; 3] = [3, 51, 3];
/// How long a write or read waits for a lock of another process, and for a connection of the pool.
const PATIENCE: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

/// An open SQLite database: one writer, a pool of readers that see committed data only.
pub(crate) struct Sqlite {
    pub(crate) writer: Writer,
    pub(crate) readers: SqlitePool,
    options: SqliteConnectOptions,
    /// Held while this process serves the folder.
    lock: Mutex<Option<File>>,
}

impl Sqlite {
    pub(crate) async fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        let StoreSettings { sqlite_path: path, exclusive } = settings;
        let folder = create_folder(&path).map_err(unavailable)?;
        let lock = if exclusive { Some(lock_for_serving(&path)?) } else { None };
        let options = options(&path);

        let opening = lock_for_opening(folder).await?;
        create_private(&path).map_err(unavailable)?;
        let conn = prepare(&options, exclusive).await?;
        drop(opening);

        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(PATIENCE)
            .test_before_acquire(false)
            .connect_with(options.clone().pragma("query_only", "ON"))
            .await?;
        let writer = Writer::start(options.clone(), conn);
        Ok(Self { writer, readers, options, lock: Mutex::new(lock) })
    }

    pub(crate) async fn close(&self) {
        self.writer.close().await;
        self.readers.close().await;
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Empties the write-ahead log, so that octets deleted from the database (`secure_delete`) do not live on in it.
    /// Best effort: what is left is overwritten by later writes.
    pub(crate) async fn scrub_log(&self) {
        let scrub = async {
            let mut conn = self.options.connect().await?;
            let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut conn).await?;
            let busy: i64 = row.try_get(0)?;
            conn.close().await?;
            Ok::<bool, sqlx::Error>(busy == 0)
        };
        match scrub.await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!("the write-ahead log could not be emptied after key octets were deleted: it is in use")
            }
            Err(error) => {
                tracing::warn!(%error, "the write-ahead log could not be emptied after key octets were deleted")
            }
        }
    }
}

fn unavailable(error: io::Error) -> StoreError {
    StoreError::Unavailable(sqlx::Error::Io(error))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(PATIENCE)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL loses acknowledged commits at a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Deleted octets (sealed keys) are overwritten with zeros.
        .pragma("secure_delete", "ON")
        .disable_statement_logging()
}

/// Creates the folder (mode 0700) where it is missing.
fn create_folder(path: &Path) -> io::Result<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Opens a file, created with mode 0600; SQLite gives its `-wal` and `-shm` the mode of the database.
fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The lock that says "this process serves the folder"; the kernel drops it when the process ends, however it ends.
fn lock_for_serving(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = create_private(Path::new(&name)).map_err(unavailable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse),
        Err(TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

/// One process at a time opens: the switch to WAL is refused at once, not waited for, while another process is at it
/// ("database is locked" at first starts that race).
async fn lock_for_opening(folder: PathBuf) -> Result<File, StoreError> {
    let locked = tokio::task::spawn_blocking(move || {
        let folder = File::open(folder)?;
        folder.lock()?;
        Ok(folder)
    });
    locked.await.map_err(io::Error::other).and_then(|result| result).map_err(unavailable)
}

/// The writing connection to a database that is as it must be.
async fn prepare(options: &SqliteConnectOptions, exclusive: bool) -> Result<SqliteConnection, StoreError> {
    let mut conn = options.connect().await?;
    assert_version(&mut conn).await?;
    assert_pragmas(&mut conn).await?;
    migrate(&mut conn).await?;
    if exclusive {
        let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
        crate::claims::void_all_leases(&mut transaction).await?;
        crate::idempotency::forget_in_flight(&mut transaction).await?;
        transaction.commit().await?;
    }
    Ok(conn)
}

async fn assert_version(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let text: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?;
    if is_new_enough(&text) {
        return Ok(());
    }
    let [major, minor, patch] = OLDEST_SQLITE;
    Err(StoreError::Damaged(format!(
        "SQLite {text} is too old, {major}.{minor}.{patch} is needed: build with the bundled SQLite"
    )))
}

fn is_new_enough(version: &str) -> bool {
    let parts: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    parts.is_ok_and(|parts| parts.len() >= OLDEST_SQLITE.len() && parts.as_slice() >= OLDEST_SQLITE.as_slice())
}

/// A pragma that the file system or the build cannot honour is ignored silently by SQLite; not by us.
async fn assert_pragmas(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await?;
    let foreign_keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *conn).await?;
    if mode == "wal" && synchronous == 2 && foreign_keys == 1 {
        return Ok(());
    }
    Err(StoreError::Damaged(
        "SQLite did not take journal_mode=WAL, synchronous=FULL, foreign_keys=ON: put the data folder on a local file system"
            .into(),
    ))
}

async fn migrate(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
    // Not `run`: its future cannot be proven `Send`.
    MIGRATIONS.run_direct(None, &mut *transaction, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => StoreError::from(error),
        // Non-exhaustive; what is left tells of migrations that do not fit the database.
        other => StoreError::Damaged(format!("the migrations do not apply: {other}")),
    })?;
    Ok(transaction.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn sqlite_versions_before_the_wal_reset_repair_are_refused() {
        let table = [
            ("3.51.3", true),
            ("3.51.4", true),
            ("3.52.0", true),
            ("4.0.0", true),
            ("3.51.2", false),
            ("3.9.9", false),
            ("3.100.0", true),
            ("2.99.99", false),
            ("3.51", false),
            ("", false),
            ("3.x.3", false),
        ];
        for (version, expected) in table {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }
}
