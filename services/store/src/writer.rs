//! Group commit: one task owns the one writing connection and commits many callers' work with one fsync.
use crate::StoreError;
use futures_util::future::{BoxFuture, FutureExt};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Jobs of one transaction, at most.
const BATCH: usize = 64;
/// Jobs that may wait; callers beyond wait in `write`, so that memory stays bounded.
const WAITING: usize = 256;

/// Why a whole transaction was lost; shared by all its callers.
type Lost = Arc<sqlx::Error>;

/// One caller's work, its result, and where the result goes.
trait Job: Send {
    /// Does the work; true if it may be committed.
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, bool>;
    /// Tells the caller; only called after COMMIT, or when the transaction was lost.
    fn answer(self: Box<Self>, lost: Option<&Lost>);
}

struct Pending<T, F> {
    work: Option<F>,
    result: Result<T, StoreError>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send,
{
    fn run<'a>(&'a mut self, conn: &'a mut SqliteConnection) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Some(work) = self.work.take() else { return false };
            // The call stands inside the guarded future, so that a panic while the future is being made is caught as well.
            match AssertUnwindSafe(async { work(conn).await }).catch_unwind().await {
                Ok(result) => self.result = result,
                Err(_) => tracing::error!("a database write panicked; it was rolled back"),
            }
            self.result.is_ok()
        })
    }

    fn answer(self: Box<Self>, lost: Option<&Lost>) {
        // What a job found in a lost transaction (also a conflict) never happened: it must not be told.
        let result = match lost {
            Some(cause) => Err(StoreError::Unavailable(sqlx::Error::Io(std::io::Error::other(Arc::clone(cause))))),
            None => self.result,
        };
        // The caller may have gone; its work is committed or not as a whole either way.
        let _ = self.reply.send(result);
    }
}

/// Handle on the writing task.
pub(crate) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the task on `first`; `options` are for a new connection after a failure.
    pub(crate) fn start(options: SqliteConnectOptions, first: SqliteConnection) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let task = tokio::spawn(serve(receiver, options, first));
        Self { jobs: Mutex::new(Some(sender)), task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Runs `work` in a transaction and returns once that is committed. An `Err` of `work` undoes what `work` did, nothing else.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T, StoreError>> + Send + 'static,
    {
        let closed = || StoreError::Unavailable(sqlx::Error::PoolClosed);
        let sender = self.sender().clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        // This result stands only if the work panics.
        let result = Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed));
        sender.send(Box::new(Pending { work: Some(work), result, reply })).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Takes no more work, commits what waits, closes the connection.
    pub(crate) async fn close(&self) {
        drop(self.sender().take());
        // Held while waiting, so that a second caller waits too.
        let mut task = self.task.lock().await;
        if let Some(task) = task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the database writer did not end properly");
        }
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Box<dyn Job>>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(mut jobs: mpsc::Receiver<Box<dyn Job>>, options: SqliteConnectOptions, first: SqliteConnection) {
    let mut connection = Some(first);
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let committed = match connection.take() {
            Some(conn) => Ok(conn),
            None => options.connect().await,
        };
        let lost = match committed {
            Ok(mut conn) => match commit(&mut conn, &mut batch).await {
                Ok(()) => {
                    connection = Some(conn);
                    None
                }
                // SQLite may or may not have rolled back by itself (disk full, I/O error): only a new connection is surely clean.
                Err(error) => {
                    let _ = conn.close().await;
                    Some(Arc::new(error))
                }
            },
            Err(error) => Some(Arc::new(error)),
        };
        if let Some(error) = &lost {
            tracing::error!(%error, writes = batch.len(), "a database transaction was lost");
        }
        for job in batch.drain(..) {
            job.answer(lost.as_ref());
        }
    }
    if let Some(conn) = connection
        && let Err(error) = conn.close().await
    {
        tracing::warn!(%error, "the database connection did not close properly");
    }
}

/// All jobs in one transaction, each in its own savepoint.
async fn commit(conn: &mut SqliteConnection, batch: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
    // IMMEDIATE: the write lock is waited for here, where waiting is possible; a later upgrade would fail at once.
    let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
    for job in batch {
        let mut savepoint = transaction.begin().await?;
        if job.run(&mut savepoint).await {
            savepoint.commit().await?;
        } else {
            savepoint.rollback().await?;
        }
    }
    transaction.commit().await
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
