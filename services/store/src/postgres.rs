//! PostgreSQL: connecting, what a server must offer, migrations, transactions that end in time.
//!
//! Work is written for READ COMMITTED: what a transaction decides on it locks first (messages before their recipients, names
//! before domains, workers before messages), so that what SQLite gets from its single writer holds here as well.
use crate::StoreError;
use crate::statement::Connection;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection as _, Postgres, Row};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::timeout;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// How long a call waits for a connection, be it of the pool or a new one.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a transaction or a read may take; a server that froze or went off the network says nothing for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any process should need: several processes may start at once, and one of them migrates.
const MIGRATING: Duration = Duration::from_secs(300);
const CONNECTIONS: u32 = 20;
/// A connection that lay idle for longer is asked whether it still lives: after a restart of the server none does.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// An answer to COMMIT means that it is on the disk. Nobody waits for a lock for ever, nor for one that a frozen process holds.
const SESSION: [(&str, &str); 3] = [
    ("synchronous_commit", "SET synchronous_commit = on"),
    ("lock_timeout", "SET lock_timeout = '8s'"),
    ("idle_in_transaction_session_timeout", "SET idle_in_transaction_session_timeout = '15s'"),
];

/// Where the PostgreSQL database is.
#[derive(Clone)]
pub struct PostgresSettings {
    options: Box<PgConnectOptions>,
}

impl std::fmt::Debug for PostgresSettings {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .finish_non_exhaustive()
    }
}

impl PostgresSettings {
    /// From `postgres://user:password@host:port/database?sslmode=...`; what is left out is taken from libpq's `PG*` variables
    /// and password file. `None` if that cannot be read; why is not told, since the text may hold a password.
    pub fn from_url(url: &str) -> Option<Self> {
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return None;
        }
        let options = PgConnectOptions::from_str(url).ok()?;
        Some(Self { options: Box::new(options.application_name("signpost").disable_statement_logging()) })
    }
}

/// Connects, looks whether the server keeps what it commits, and migrates.
pub(crate) async fn open(settings: PostgresSettings) -> Result<PgPool, StoreError> {
    let connecting = timeout(CONNECT, settings.options.connect());
    let mut conn = connecting.await.map_err(|_| late()).and_then(|conn| conn).map_err(told)?;
    assert_durable(&mut conn).await.map_err(told)??;
    timeout(MIGRATING, migrate(&mut conn)).await.map_err(|_| told(late()))??;
    // The connection was for this alone.
    let _ = conn.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT)
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for < TRUSTED_IDLE {
                    return Ok(true);
                }
                Ok(timeout(Duration::from_secs(1), conn.ping()).await.is_ok_and(|ping| ping.is_ok()))
            })
        })
        .after_connect(|conn, _| Box::pin(prepare_session(conn)))
        .connect_lazy_with(*settings.options))
}

/// The log may know the reason, which the error does not show; it holds no data yet.
fn told(error: sqlx::Error) -> StoreError {
    tracing::error!(%error, "PostgreSQL cannot be used");
    error.into()
}

/// A server with `fsync = off` loses acknowledged mail at a power cut. `Ok(Err)`: refused.
async fn assert_durable(conn: &mut PgConnection) -> Result<Result<(), StoreError>, sqlx::Error> {
    match setting(conn, "fsync").await? {
        Some(value) if value == "off" => Ok(Err(StoreError::Refused(
            "PostgreSQL runs with fsync = off and would lose acknowledged mail at a power cut; set fsync = on and restart it"
                .into(),
        ))),
        Some(_) => Ok(Ok(())),
        None => {
            tracing::warn!("this database has no setting fsync; that it keeps what it commits is believed");
            Ok(Ok(()))
        }
    }
}

/// Each session on its own: a role or a database may have another default.
async fn prepare_session(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    if setting(conn, "fsync").await?.as_deref() == Some("off") {
        return Err(sqlx::Error::Configuration("PostgreSQL runs with fsync = off".into()));
    }
    for (name, set) in SESSION {
        if setting(conn, name).await?.is_some() {
            sqlx::raw_sql(set).execute(&mut *conn).await?;
        } else {
            tracing::warn!(setting = name, "this database lacks a setting that Signpost asks for; it is used as it is");
        }
    }
    Ok(())
}

/// `None`: the engine has no such setting, or no way to ask for one.
async fn setting(conn: &mut PgConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    let asked = sqlx::query("SELECT current_setting($1, TRUE)").bind(name).fetch_one(&mut *conn).await;
    match asked {
        Ok(row) => row.try_get(0),
        Err(sqlx::Error::Database(cause)) if cause.code().is_some_and(|code| code.starts_with("42")) => Ok(None),
        Err(other) => Err(other),
    }
}

async fn migrate(conn: &mut PgConnection) -> Result<(), StoreError> {
    // Not `run`: its future cannot be proven `Send`. It locks, so that of processes that start together one migrates.
    MIGRATIONS.run_direct(None, conn, false).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => told(error),
        // Non-exhaustive; what is left tells of migrations that do not fit the database.
        other => StoreError::Damaged(format!("the migrations do not apply: {other}")),
    })
}

/// How a transaction failed.
pub(crate) enum Failure<T> {
    /// Nothing was committed.
    Undone(StoreError),
    /// COMMIT was sent and not answered. It may be committed; this is what it did.
    Unknown(T, StoreError),
}

impl<T> From<Failure<T>> for StoreError {
    fn from(failure: Failure<T>) -> Self {
        match failure {
            Failure::Undone(error) | Failure::Unknown(_, error) => error,
        }
    }
}

/// Runs `work` in a transaction of its own task: it is done or undone as a whole, also if the caller goes.
pub(crate) async fn write<T, F>(pool: PgPool, work: F) -> Result<T, Failure<T>>
where
    T: Send + 'static,
    F: for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    let task = tokio::spawn(async move {
        let mut conn = pool.acquire().await.map_err(|error| Failure::Undone(error.into()))?;
        let done = transact(&mut conn, work).await;
        match &done {
            Ok(_) => {}
            Err(Failure::Undone(StoreError::Unavailable(error)))
            | Err(Failure::Unknown(_, StoreError::Unavailable(error))) => {
                tracing::error!(%error, "a database transaction was lost");
                discard(conn);
            }
            Err(Failure::Undone(_) | Failure::Unknown(..)) => {}
        }
        done
    });
    task.await.unwrap_or_else(|_| Err(Failure::Undone(StoreError::Unavailable(sqlx::Error::WorkerCrashed))))
}

/// Nobody knows what state it is in: no question is put to it any more, the socket is closed.
fn discard(conn: PoolConnection<Postgres>) {
    drop(conn.detach());
}

async fn transact<T, F>(conn: &mut PgConnection, work: F) -> Result<T, Failure<T>>
where
    T: Send + 'static,
    F: for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static,
{
    let undone = |error: sqlx::Error| Failure::Undone(StoreError::from(error));
    let begin = sqlx::raw_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").execute(&mut *conn);
    in_time(begin).await.map_err(undone)?;
    let worked = {
        let mut conn = Connection::Postgres(&mut *conn);
        // The call stands inside the guarded future, so that a panic while the future is being made is caught as well.
        timeout(PATIENCE, AssertUnwindSafe(async { work(&mut conn).await }).catch_unwind()).await
    };
    let value = match worked {
        Ok(Ok(Ok(value))) => value,
        // Lost with the connection, which ends the transaction.
        Ok(Ok(Err(error @ StoreError::Unavailable(_)))) => return Err(Failure::Undone(error)),
        Ok(Ok(Err(error))) => {
            in_time(sqlx::raw_sql("ROLLBACK").execute(&mut *conn)).await.map_err(undone)?;
            return Err(Failure::Undone(error));
        }
        Ok(Err(_panic)) => {
            tracing::error!("a database write panicked; it was rolled back");
            return Err(undone(sqlx::Error::WorkerCrashed));
        }
        Err(_) => return Err(undone(late())),
    };
    match in_time(sqlx::raw_sql("COMMIT").execute(&mut *conn)).await {
        Ok(_) => Ok(value),
        // Whatever the error says: what was found in a transaction that may not have happened must not be told.
        Err(error) => Err(Failure::Unknown(value, StoreError::Unavailable(error))),
    }
}

/// The error of what takes too long.
fn late() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database did not answer in time"))
}

pub(crate) async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(late()))
}

/// Waits for what is under way, but not for a server that is away.
pub(crate) async fn close(pool: &PgPool) {
    if timeout(PATIENCE, pool.close()).await.is_err() {
        tracing::warn!("connections to PostgreSQL did not close in time");
    }
}

#[cfg(test)]
mod tests {
    use super::PostgresSettings;

    #[test]
    fn addresses_are_read_and_no_password_is_shown() {
        let settings = PostgresSettings::from_url("postgres://ann:s3cret@db.example:5433/mail").unwrap();
        let shown = format!("{settings:?}");
        assert!(shown.contains("db.example") && shown.contains("5433") && shown.contains("mail"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(PostgresSettings::from_url("postgresql://h/d").is_some());
        for bad in ["", "mysql://h/d", "postgres:", "postgres://h:port/d", "postgres://u:s3cret@h:1:2/d", "sqlite:x"] {
            assert!(PostgresSettings::from_url(bad).is_none(), "{bad}");
        }
    }
}
