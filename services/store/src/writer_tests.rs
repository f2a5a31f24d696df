//! Group commit: what stands and what falls together.
use super::{Job, Pending, Writer, commit};
use crate::StoreError;
use futures_util::future::{BoxFuture, join_all};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

struct Database {
    _folder: TempDir,
    options: SqliteConnectOptions,
}

impl Database {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join("test.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::ZERO);
        let mut conn = options.connect().await.unwrap();
        sqlx::query("CREATE TABLE t (n INTEGER NOT NULL PRIMARY KEY) STRICT").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        Self { _folder: folder, options }
    }

    async fn writer(&self) -> Writer {
        Writer::start(self.options.clone(), self.options.connect().await.unwrap())
    }

    async fn numbers(&self) -> Vec<i64> {
        let mut conn = self.options.connect().await.unwrap();
        sqlx::query_scalar("SELECT n FROM t ORDER BY n").fetch_all(&mut conn).await.unwrap()
    }
}

async fn insert(conn: &mut SqliteConnection, n: i64) -> Result<i64, StoreError> {
    sqlx::query("INSERT INTO t (n) VALUES ($1)").bind(n).execute(conn).await?;
    Ok(n)
}

type Answer = oneshot::Receiver<Result<i64, StoreError>>;

/// A job that inserts `n` and then does what `end` says.
fn job(n: i64, end: fn() -> Result<(), StoreError>) -> (Box<dyn Job>, Answer) {
    pending(move |conn| {
        Box::pin(async move {
            insert(conn, n).await?;
            end()?;
            Ok(n)
        })
    })
}

fn pending<F>(work: F) -> (Box<dyn Job>, Answer)
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<i64, StoreError>> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let result = Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed));
    (Box::new(Pending { work: Some(work), result, reply }), answer)
}

#[tokio::test]
async fn a_failing_job_and_a_panicking_job_undo_only_themselves() {
    let database = Database::new().await;
    let mut conn = database.options.connect().await.unwrap();
    let (first, first_answer) = job(1, || Ok(()));
    let (failing, failing_answer) = job(2, || Err(StoreError::Stale));
    let (panicking, panicking_answer) = job(3, || panic!("a bug in a job"));
    let (twice, twice_answer) = job(1, || Ok(()));
    let (last, last_answer) = job(4, || Ok(()));
    let mut batch = vec![first, failing, panicking, twice, last];

    commit(&mut conn, &mut batch).await.unwrap();
    batch.into_iter().for_each(|job| job.answer(None));

    assert_eq!(database.numbers().await, [1, 4]);
    assert!(matches!(first_answer.await.unwrap(), Ok(1)));
    assert!(matches!(failing_answer.await.unwrap(), Err(StoreError::Stale)));
    assert!(matches!(panicking_answer.await.unwrap(), Err(StoreError::Unavailable(_))));
    assert!(matches!(twice_answer.await.unwrap(), Err(StoreError::Conflict)));
    assert!(matches!(last_answer.await.unwrap(), Ok(4)));
}

#[tokio::test]
async fn nobody_is_answered_before_the_commit() {
    let database = Database::new().await;
    let mut conn = database.options.connect().await.unwrap();
    let (first, mut answer) = job(1, || Ok(()));
    let mut batch = vec![first];
    commit(&mut conn, &mut batch).await.unwrap();
    assert!(answer.try_recv().is_err(), "answered by the commit itself, so also before a commit that fails");
    batch.into_iter().for_each(|job| job.answer(None));
    assert!(answer.try_recv().is_ok());
}

#[tokio::test]
async fn when_the_commit_is_lost_every_caller_is_told_so_also_those_whose_job_had_failed() {
    let database = Database::new().await;
    let mut conn = database.options.connect().await.unwrap();
    // A deferred foreign key is checked by COMMIT: the jobs succeed, the transaction does not.
    for statement in [
        "CREATE TABLE parent (n INTEGER PRIMARY KEY) STRICT",
        "CREATE TABLE child (n INTEGER REFERENCES parent (n) DEFERRABLE INITIALLY DEFERRED) STRICT",
    ] {
        sqlx::query(statement).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    let writer = database.writer().await;
    let orphan = writer.write(|conn| {
        Box::pin(async move {
            sqlx::query("INSERT INTO child (n) VALUES (7)").execute(conn).await?;
            Ok(())
        })
    });
    let innocent = writer.write(|conn| Box::pin(insert(conn, 1)));
    let failing = writer.write(|_| Box::pin(async { Err::<(), _>(StoreError::Conflict) }));
    // On this single thread all three wait before the task that owns the writer runs: they are one transaction.
    let (orphan, innocent, failing) = tokio::join!(orphan, innocent, failing);
    assert!(matches!(orphan, Err(StoreError::Unavailable(_))));
    assert!(matches!(innocent, Err(StoreError::Unavailable(_))));
    assert!(matches!(failing, Err(StoreError::Unavailable(_))));
    assert!(database.numbers().await.is_empty());

    // The writer goes on with a fresh connection.
    assert_eq!(writer.write(|conn| Box::pin(insert(conn, 2))).await.unwrap(), 2);
    assert_eq!(database.numbers().await, [2]);
    writer.close().await;
}

#[tokio::test]
async fn a_locked_database_is_unavailable_and_the_writer_recovers() {
    let database = Database::new().await;
    let writer = database.writer().await;
    let mut other = database.options.connect().await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    assert!(matches!(writer.write(|conn| Box::pin(insert(conn, 1))).await, Err(StoreError::Unavailable(_))));
    lock.rollback().await.unwrap();
    assert_eq!(writer.write(|conn| Box::pin(insert(conn, 2))).await.unwrap(), 2);
    assert_eq!(database.numbers().await, [2]);
}

#[tokio::test]
async fn a_panic_does_not_end_the_writer() {
    let database = Database::new().await;
    let writer = database.writer().await;
    let outside: Result<(), _> = writer.write(|_| panic!("while the future is made")).await;
    assert!(matches!(outside, Err(StoreError::Unavailable(_))));
    let inside: Result<(), _> = writer
        .write(|conn| {
            Box::pin(async move {
                insert(conn, 1).await?;
                panic!("while the future runs")
            })
        })
        .await;
    assert!(matches!(inside, Err(StoreError::Unavailable(_))));
    assert_eq!(writer.write(|conn| Box::pin(insert(conn, 2))).await.unwrap(), 2);
    assert_eq!(database.numbers().await, [2]);
}

#[tokio::test]
async fn a_job_whose_caller_is_gone_is_done_whole() {
    let database = Database::new().await;
    let writer = database.writer().await;
    let (started, has_started) = oneshot::channel();
    let (proceed, may_proceed) = oneshot::channel::<()>();
    let mut call = Box::pin(writer.write(move |conn| {
        Box::pin(async move {
            insert(conn, 1).await?;
            started.send(()).unwrap();
            may_proceed.await.unwrap();
            insert(conn, 2).await
        })
    }));
    tokio::select! {
        _ = &mut call => panic!("it waits for us"),
        started = has_started => started.unwrap(),
    }
    drop(call);
    proceed.send(()).unwrap();
    writer.close().await;
    assert_eq!(database.numbers().await, [1, 2]);
}

#[tokio::test]
async fn close_commits_what_waits_and_takes_nothing_more() {
    let database = Database::new().await;
    let writer = database.writer().await;
    let writes = join_all((0..200).map(|n| writer.write(move |conn| Box::pin(insert(conn, n)))));
    let (results, ()) = tokio::join!(writes, writer.close());
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(database.numbers().await.len(), 200);
    assert!(matches!(writer.write(|conn| Box::pin(insert(conn, 999))).await, Err(StoreError::Unavailable(_))));
    writer.close().await;
}
