//! Messages that wait as a whole (`scheduled`, `awaiting_signature`, `held`): claims, release, and how they get there.
use crate::claims::{ClaimKind, lock_message, void_expired_leases};
use crate::db::json_text;
use crate::events::insert_event;
use crate::messages::message;
use crate::queue::{
    UNREADABLE_PAUSE, assert_claimed, cancelled_with_its_domain, domain_is_deleted, refresh_status, unless_damaged,
};
use crate::statement::{Connection, sql};
use crate::status::{Phase, Status};
use crate::{Fence, ReleaseChange, Store, StoreError, Waiting, bodies};

/// What a release pass left behind is tried again after this, in ms.
const LEFT_BEHIND_PAUSE: i64 = 30_000;

impl Store {
    /// Puts a claimed message back to waiting (`held` or `awaiting_signature`), unattempted. `Stale` if the fence was lost.
    pub async fn hold(
        &self,
        fence: &Fence,
        message_id: &str,
        change: &ReleaseChange,
        now: i64,
    ) -> Result<(), StoreError> {
        let (fence, message_id, change) = (fence.clone(), message_id.to_owned(), change.clone());
        self.write(move |conn| {
            Box::pin(async move {
                lock_message(conn, &message_id).await?;
                assert_claimed(conn, &fence, &message_id).await?;
                apply(conn, &message_id, change, now).await
            })
        })
        .await?;
        self.wake_queue();
        Ok(())
    }

    /// Messages whose release is due, with octets, claimed under the fence so that no other process releases them too.
    /// Also a heartbeat; `Stale` if the lease was lost. A message that cannot be read is left out and put off.
    ///
    /// Under one fence one pass runs at a time: what an earlier one claimed and did not release (it broke off) is given
    /// back and due in half a minute, so that the same message does not stop each pass.
    pub async fn claim_waiting(&self, fence: &Fence, now: i64, limit: u32) -> Result<Vec<Waiting>, StoreError> {
        self.claim_under(
            fence,
            ClaimKind::Waiting,
            |waiting: &Waiting| &waiting.message.id,
            move |conn, fence| {
                Box::pin(async move {
                    void_expired_leases(conn, now).await?;
                    give_back_left_behind(conn, fence, now).await?;
                    let due = sql("SELECT id FROM messages WHERE status IN ('scheduled', 'awaiting_signature', 'held')
                               AND release_at <= $1 AND worker_id IS NULL ORDER BY release_at, id LIMIT $2")
                    .bind(now)
                    .bind(i64::from(limit))
                    .skip_locked()
                    .fetch_all(&mut *conn)
                    .await?;
                    let mut waiting = Vec::new();
                    for row in due {
                        let message_id: String = row.try_get("id")?;
                        let (fence, id) = (fence.clone(), message_id.clone());
                        let part = unless_damaged(conn, move |conn| {
                            Box::pin(async move { claim(conn, &fence, &id).await })
                        });
                        match part.await? {
                            Ok(claimed) => waiting.push(claimed),
                            Err(cause) => {
                                tracing::error!(message = message_id, %cause, "a waiting message cannot be read; it is put off, the operator has to look");
                                set_release_at(conn, &message_id, now + UNREADABLE_PAUSE).await?;
                            }
                        }
                    }
                    Ok(waiting)
                })
            },
            now,
        )
        .await
    }

    /// Ends a release attempt. `Stale` if the fence was lost: nothing is written.
    pub async fn release(
        &self,
        fence: &Fence,
        message_id: &str,
        change: &ReleaseChange,
        now: i64,
    ) -> Result<(), StoreError> {
        let (fence, message_id, change) = (fence.clone(), message_id.to_owned(), change.clone());
        self.write(move |conn| {
            Box::pin(async move {
                let freed = sql("UPDATE messages SET worker_id = NULL, epoch = NULL
                                 WHERE id = $1 AND worker_id = $2 AND epoch = $3")
                .bind(&message_id)
                .bind(&fence.worker_id)
                .bind(fence.epoch)
                .execute(&mut *conn)
                .await?;
                if freed.rows_affected() == 0 {
                    return Err(StoreError::Stale);
                }
                apply(conn, &message_id, change, now).await
            })
        })
        .await?;
        self.wake_queue();
        Ok(())
    }

    /// Makes waiting messages of a domain due at once (its key or record became good). Scheduled ones keep their time.
    pub async fn hurry_waiting(&self, tenant: &str, domain_id: &str, now: i64) -> Result<(), StoreError> {
        let (tenant, domain_id) = (tenant.to_owned(), domain_id.to_owned());
        self.write(move |conn| {
            Box::pin(async move {
                sql("SELECT 1 FROM messages WHERE tenant_id = $1 AND domain_id = $2
                     AND status IN ('awaiting_signature', 'held') ORDER BY id")
                .bind(&tenant)
                .bind(&domain_id)
                .lock_rows(conn)
                .await?;
                sql("UPDATE messages SET release_at = $3 WHERE tenant_id = $1 AND domain_id = $2
                     AND status IN ('awaiting_signature', 'held') AND (release_at IS NULL OR release_at > $3)")
                .bind(&tenant)
                .bind(&domain_id)
                .bind(now)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await?;
        self.wake_queue();
        Ok(())
    }
}

async fn give_back_left_behind(conn: &mut Connection<'_>, fence: &Fence, now: i64) -> Result<(), StoreError> {
    let left = sql("UPDATE messages SET worker_id = NULL, epoch = NULL, release_at = $3
                    WHERE worker_id = $1 AND epoch = $2 AND status IN ('scheduled', 'awaiting_signature', 'held')")
    .bind(&fence.worker_id)
    .bind(fence.epoch)
    .bind(now + LEFT_BEHIND_PAUSE)
    .execute(conn)
    .await?;
    if left.rows_affected() > 0 {
        tracing::warn!(
            messages = left.rows_affected(),
            "a release pass broke off; what it had claimed is due again soon"
        );
    }
    Ok(())
}

async fn set_release_at(conn: &mut Connection<'_>, message_id: &str, at: i64) -> Result<(), StoreError> {
    sql("UPDATE messages SET release_at = $2 WHERE id = $1").bind(message_id).bind(at).execute(conn).await?;
    Ok(())
}

async fn claim(conn: &mut Connection<'_>, fence: &Fence, message_id: &str) -> Result<Waiting, StoreError> {
    let row = sql("UPDATE messages SET worker_id = $2, epoch = $3 WHERE id = $1 RETURNING *")
        .bind(message_id)
        .bind(&fence.worker_id)
        .bind(fence.epoch)
        .fetch_one(&mut *conn)
        .await?;
    Ok(Waiting { message: message(&row)?, body: bodies::read(conn, message_id).await? })
}

/// Writes what a release attempt (or a hold) found; all recipients that are not at their end go along.
async fn apply(
    conn: &mut Connection<'_>,
    message_id: &str,
    mut change: ReleaseChange,
    now: i64,
) -> Result<(), StoreError> {
    if domain_is_deleted(conn, message_id).await? {
        // Its domain went away meanwhile: neither sent nor kept waiting.
        change.status = Status::Cancelled.as_str().into();
        change.events.iter_mut().for_each(cancelled_with_its_domain);
        change.events.dedup_by(|a, b| a.recipient_id == b.recipient_id);
    }
    let (next_attempt_at, waits) = match Status::parse(&change.status)?.phase() {
        Phase::ToSend => (Some(now), false),
        Phase::ToRelease => (None, true),
        Phase::Ended => (None, false),
        Phase::Sending => return Err(StoreError::Damaged("a release cannot end in that status".into())),
    };
    sql("UPDATE recipients SET status = $2, next_attempt_at = $3, worker_id = NULL, epoch = NULL
         WHERE message_id = $1 AND status IN
         ('scheduled', 'awaiting_signature', 'held', 'queued', 'deferred', 'sending')")
    .bind(message_id)
    .bind(&change.status)
    .bind(next_attempt_at)
    .execute(&mut *conn)
    .await?;
    write_signed(conn, message_id, &mut change).await?;
    sql(
        "UPDATE messages SET waiting_reason = $2, release_at = $3, expires_at = COALESCE($4, expires_at) WHERE id = $1",
    )
    .bind(message_id)
    .bind(if waits { change.waiting_reason } else { None })
    .bind(if waits { change.release_at } else { None })
    .bind(change.expires_at)
    .execute(&mut *conn)
    .await?;
    for event in &change.events {
        insert_event(conn, event).await?;
    }
    refresh_status(conn, message_id).await
}

/// What was signed now; nothing otherwise.
async fn write_signed(
    conn: &mut Connection<'_>,
    message_id: &str,
    change: &mut ReleaseChange,
) -> Result<(), StoreError> {
    if let Some(body) = change.body.take() {
        bodies::replace(conn, message_id, body).await?;
    }
    let signatures = if change.signatures.is_empty() { None } else { Some(json_text(&change.signatures)?) };
    sql("UPDATE messages SET signatures = COALESCE($2, signatures), size = COALESCE($3, size) WHERE id = $1")
        .bind(message_id)
        .bind(signatures)
        .bind(change.size)
        .execute(conn)
        .await?;
    Ok(())
}
