//! LISTEN/NOTIFY between processes on one PostgreSQL database: a process that has no worker tells those that have one that
//! something may be due.
//!
//! It is only a hint. Workers look at the queue by themselves as well, so that one that is lost (with a connection, or on an
//! engine that has no LISTEN) costs a moment and nothing else. Hence it is told beside the transaction that it is about and
//! not in it: commits with a NOTIFY wait for each other.
use crate::postgres::in_time;
use sqlx::postgres::{PgListener, PgPool};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const CHANNEL: &str = "signpost_queue";
/// One hint tells of all that came since the last one.
const GATHER: Duration = Duration::from_millis(50);
/// A listener that cannot listen tries again after this, and then less and less often.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);

/// The hints of one process. Dropped: it neither tells nor hears any more.
pub(crate) struct Hints {
    pool: PgPool,
    /// The local workers' wake-up.
    queue: Arc<Notify>,
    /// There is something to tell.
    due: Arc<Notify>,
    task: Mutex<Task>,
}

enum Task {
    Tells(JoinHandle<()>),
    Hears(JoinHandle<()>),
}

impl Hints {
    /// Of a process that has no worker yet.
    pub(crate) fn new(pool: PgPool, queue: Arc<Notify>) -> Self {
        let due = Arc::new(Notify::new());
        let task = Mutex::new(Task::Tells(tokio::spawn(tell(pool.clone(), Arc::clone(&due)))));
        Self { pool, queue, due, task }
    }

    /// Something may have become due.
    pub(crate) fn tell(&self) {
        self.due.notify_one();
    }

    /// This process has a worker: it hears from the others, and what it accepts it wakes its own worker for.
    pub(crate) fn hear(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Task::Tells(telling) = &*task {
            telling.abort();
            *task = Task::Hears(tokio::spawn(hear(self.pool.clone(), Arc::clone(&self.queue))));
        }
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        match self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Task::Tells(task) | Task::Hears(task) => task.abort(),
        }
    }
}

async fn tell(pool: PgPool, due: Arc<Notify>) {
    while !pool.is_closed() {
        due.notified().await;
        let told = in_time(sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&pool)).await;
        if let Err(error) = told {
            tracing::debug!(%error, "no worker was told that something is due; it will find it by itself");
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn hear(pool: PgPool, queue: Arc<Notify>) {
    let mut pause = AGAIN;
    loop {
        match listen(&pool, &queue, &mut pause).await {
            Ok(never) => match never {},
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) => tracing::info!(%error, "not told of what other processes accept; it is found a little later"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = pool.close_event() => return,
        }
        pause = (pause * 2).min(AGAIN_AT_MOST);
    }
}

async fn listen(pool: &PgPool, queue: &Notify, pause: &mut Duration) -> Result<Infallible, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    *pause = AGAIN;
    loop {
        // After each hint, and whenever one may have been missed: at first, and after a lost connection (`None`).
        queue.notify_one();
        listener.try_recv().await?;
    }
}
