//! What is due and whose it becomes: the part of the queue that differs between the databases.
//!
//! SQLite has one writer, so nobody else claims meanwhile. On PostgreSQL a claim locks the message (`FOR UPDATE SKIP LOCKED`),
//! so that workers pass each other by; everything that moves recipients locks their message first.
use crate::queue::{LEASE, refresh_status};
use crate::statement::{Connection, sql};
use crate::{Fence, StoreError};
use futures_util::TryStreamExt;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// When a lease that is prolonged now runs out, and what has run out by now. On PostgreSQL by the server's clock: those of
/// the processes may differ.
pub(crate) async fn lease_clock(conn: &mut Connection<'_>, now: i64) -> Result<i64, StoreError> {
    match conn {
        Connection::Sqlite(_) => Ok(now),
        Connection::Postgres(_) => {
            let row = sql("SELECT CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT) AS now")
                .fetch_one(&mut *conn)
                .await?;
            Ok(row.try_get("now")?)
        }
    }
}

/// Up to `limit` messages with due recipients and none in the hands of a worker, oldest due first.
pub(crate) async fn due_messages(conn: &mut Connection<'_>, now: i64, limit: u32) -> Result<Vec<String>, StoreError> {
    match conn {
        Connection::Sqlite(conn) => due_on_sqlite(conn, now, limit).await,
        Connection::Postgres(_) => lock_due(conn, now, limit).await,
    }
}

async fn due_on_sqlite(conn: &mut SqliteConnection, now: i64, limit: u32) -> Result<Vec<String>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut messages: Vec<String> = Vec::new();
    // A stream along the index that is left once there is enough: a long queue costs nothing.
    let mut rows = sql("SELECT message_id FROM recipients
                        WHERE status IN ('queued', 'deferred') AND next_attempt_at <= $1
                        AND NOT EXISTS (SELECT 1 FROM recipients AS other
                                        WHERE other.message_id = recipients.message_id AND other.status = 'sending')
                        ORDER BY next_attempt_at, id")
    .bind(now)
    .sqlite()
    .fetch(conn);
    while messages.len() < limit
        && let Some(row) = rows.try_next().await?
    {
        let message_id: String = row.try_get("message_id")?;
        if !messages.contains(&message_id) {
            messages.push(message_id);
        }
    }
    Ok(messages)
}

/// One row per message, that of its recipient due first, so that the limit counts messages. A message that another worker
/// claimed after this statement began is looked at as it is then (READ COMMITTED, EvalPlanQual): it is `sending`, and left.
async fn lock_due(conn: &mut Connection<'_>, now: i64, limit: u32) -> Result<Vec<String>, StoreError> {
    let rows = sql("SELECT messages.id FROM recipients JOIN messages ON messages.id = recipients.message_id
                    WHERE recipients.status IN ('queued', 'deferred') AND recipients.next_attempt_at <= $1
                    AND messages.status <> 'sending'
                    AND NOT EXISTS (SELECT 1 FROM recipients AS other WHERE other.message_id = recipients.message_id
                                    AND (other.status = 'sending'
                                         OR (other.status IN ('queued', 'deferred')
                                             AND (other.next_attempt_at, other.id)
                                                 < (recipients.next_attempt_at, recipients.id))))
                    ORDER BY recipients.next_attempt_at, recipients.id LIMIT $2 FOR UPDATE OF messages SKIP LOCKED")
    .bind(now)
    .bind(i64::from(limit))
    .fetch_all(&mut *conn)
    .await?;
    rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
}

/// Leases that ran out are void.
pub(crate) async fn void_expired_leases(conn: &mut Connection<'_>, now: i64) -> Result<(), StoreError> {
    let now = lease_clock(conn, now).await?;
    // One that is locked is being prolonged, or voided by another worker.
    let expired = sql("SELECT id FROM workers WHERE lease_until < $1").bind(now).skip_locked();
    for row in expired.fetch_all(&mut *conn).await? {
        let worker_id: &str = row.try_get("id")?;
        tracing::warn!(worker_id, "a worker lost its lease; what it had claimed is given back");
        void_lease(conn, worker_id).await?;
    }
    Ok(())
}

/// At an exclusive open of SQLite: no worker of an earlier boot is alive.
pub(crate) async fn void_all_leases(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let mut conn = Connection::Sqlite(conn);
    let workers = sql("SELECT id FROM workers WHERE lease_until IS NOT NULL").fetch_all(&mut conn).await?;
    for row in workers {
        void_lease(&mut conn, row.try_get("id")?).await?;
    }
    Ok(())
}

/// Gives back what a worker has claimed. Whether its attempts reached the other side is not known. They are due at once,
/// since a claim leaves `next_attempt_at` in place. The worker's row is locked by the caller.
pub(crate) async fn void_lease(conn: &mut Connection<'_>, worker_id: &str) -> Result<(), StoreError> {
    sql("SELECT 1 FROM messages WHERE worker_id = $1
         OR id IN (SELECT message_id FROM recipients WHERE recipients.worker_id = $1) ORDER BY id")
    .bind(worker_id)
    .lock_rows(conn)
    .await?;
    let messages = sql("SELECT DISTINCT message_id FROM recipients WHERE worker_id = $1")
        .bind(worker_id)
        .fetch_all(&mut *conn)
        .await?;
    sql("UPDATE recipients SET status = CASE WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END, uncertain = TRUE,
                worker_id = NULL, epoch = NULL WHERE worker_id = $1")
    .bind(worker_id)
    .execute(&mut *conn)
    .await?;
    for row in messages {
        refresh_status(conn, row.try_get("message_id")?).await?;
    }
    sql("UPDATE messages SET worker_id = NULL, epoch = NULL WHERE worker_id = $1")
        .bind(worker_id)
        .execute(&mut *conn)
        .await?;
    sql("UPDATE workers SET lease_until = NULL WHERE id = $1").bind(worker_id).execute(&mut *conn).await?;
    Ok(())
}

/// Prolongs a lease that is not void. One that ran out but was not taken is prolonged as well: nobody else acted on it.
pub(crate) async fn prolong(conn: &mut Connection<'_>, fence: &Fence, now: i64) -> Result<(), StoreError> {
    let now = lease_clock(conn, now).await?;
    let prolonged = sql("UPDATE workers SET lease_until = $3 WHERE id = $1 AND epoch = $2 AND lease_until IS NOT NULL")
        .bind(&fence.worker_id)
        .bind(fence.epoch)
        .bind(now + LEASE)
        .execute(conn)
        .await?;
    if prolonged.rows_affected() == 0 { Err(StoreError::Stale) } else { Ok(()) }
}

/// The message and its recipients stay as they are, but for this transaction.
pub(crate) async fn lock_message(conn: &mut Connection<'_>, message_id: &str) -> Result<(), StoreError> {
    sql("SELECT 1 FROM messages WHERE id = $1").bind(message_id).lock_rows(conn).await
}

/// Which claims a transaction makes. Each kind is claimed by one task of a worker at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClaimKind {
    Deliveries,
    Waiting,
}

/// Messages of claims whose COMMIT was not answered. They may be claimed under a lease that lives on, and nobody works on
/// them: the worker's next claim of that kind gives them back first.
#[derive(Default)]
pub(crate) struct Unanswered {
    messages: Mutex<HashMap<(String, i64, ClaimKind), Vec<String>>>,
}

impl Unanswered {
    pub(crate) fn of(&self, fence: &Fence, kind: ClaimKind) -> Vec<String> {
        self.lock().get(&key(fence, kind)).cloned().unwrap_or_default()
    }

    pub(crate) fn add(&self, fence: &Fence, kind: ClaimKind, messages: impl Iterator<Item = String>) {
        self.lock().entry(key(fence, kind)).or_default().extend(messages);
    }

    pub(crate) fn settled(&self, fence: &Fence, kind: ClaimKind) {
        self.lock().remove(&key(fence, kind));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, i64, ClaimKind), Vec<String>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(fence: &Fence, kind: ClaimKind) -> (String, i64, ClaimKind) {
    (fence.worker_id.clone(), fence.epoch, kind)
}

/// Gives back what was claimed under the fence and reached no task: nothing was attempted.
pub(crate) async fn give_back(
    conn: &mut Connection<'_>,
    fence: &Fence,
    messages: Vec<String>,
) -> Result<(), StoreError> {
    for message_id in messages {
        lock_message(conn, &message_id).await?;
        sql(
            "UPDATE recipients SET status = CASE WHEN attempts > 0 THEN 'deferred' ELSE 'queued' END, worker_id = NULL,
                    epoch = NULL WHERE message_id = $1 AND worker_id = $2 AND epoch = $3",
        )
        .bind(&message_id)
        .bind(&fence.worker_id)
        .bind(fence.epoch)
        .execute(&mut *conn)
        .await?;
        sql("UPDATE messages SET worker_id = NULL, epoch = NULL WHERE id = $1 AND worker_id = $2 AND epoch = $3")
            .bind(&message_id)
            .bind(&fence.worker_id)
            .bind(fence.epoch)
            .execute(&mut *conn)
            .await?;
        refresh_status(conn, &message_id).await?;
    }
    Ok(())
}
