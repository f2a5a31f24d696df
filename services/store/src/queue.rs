//! The send queue: leases, claims under a fence, outcomes. `release` has the messages that wait as a whole.
//!
//! At most one task has a message at a time: while one of its recipients is `sending`, the others are not claimed.
use crate::claims::{
    ClaimKind, due_messages, give_back, lease_clock, lock_message, prolong, void_expired_leases, void_lease,
};
use crate::db::json_text;
use crate::events::insert_event;
use crate::messages::message;
use crate::postgres::Failure;
use crate::statement::{Connection, Row, sql};
use crate::status::{self, Phase, Status};
use crate::{EventRow, KeyRow, MessageBody, MessageRow, SignatureRow, Store, StoreError};
use futures_util::future::BoxFuture;

/// How long a worker's lease lives without a heartbeat, in ms.
pub(crate) const LEASE: i64 = 20_000;
/// A message whose rows cannot be read is looked at again after this, in ms, so that it does not stand in the others' way.
pub(crate) const UNREADABLE_PAUSE: i64 = 10 * 60_000;

/// Worker id and epoch; an outcome under an older fence is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Worker.
    pub worker_id: String,
    /// Epoch of its lease.
    pub epoch: i64,
}

/// A recipient claimed for one attempt; its status is `sending` now.
#[derive(Debug, Clone)]
pub struct ClaimedRecipient {
    /// Id.
    pub id: String,
    /// Address.
    pub address: String,
    /// Routing domain.
    pub domain: String,
    /// Attempts made before this one.
    pub attempts: i64,
    /// An earlier attempt is uncertain.
    pub uncertain: bool,
}

/// One message with the recipients that are due.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub message: MessageRow,
    /// Recipients claimed.
    pub recipients: Vec<ClaimedRecipient>,
}

/// The outcome for one recipient.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Recipient id.
    pub recipient_id: String,
    /// New status: `delivered`, `bounced`, `deferred`, `expired`, `queued` (given back unattempted), `cancelled`.
    pub status: String,
    /// True if this counts as an attempt.
    pub attempted: bool,
    /// New value of `uncertain`.
    pub uncertain: bool,
    /// Reply or error text.
    pub last_reply: Option<String>,
    /// When to try again.
    pub next_attempt_at: Option<i64>,
    /// Event, if it is one.
    pub event: Option<EventRow>,
}

/// A message that waits for a release: `scheduled` and due, `awaiting_signature`, or `held`.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The message.
    pub message: MessageRow,
    /// Its octets.
    pub body: MessageBody,
}

/// What a release attempt found.
#[derive(Debug, Clone)]
pub struct ReleaseChange {
    /// New message status: `queued`, or it goes on waiting (`held`, `awaiting_signature`), or `expired`.
    pub status: String,
    /// Signatures, if signed now.
    pub signatures: Vec<SignatureRow>,
    /// New octets, if signed now.
    pub body: Option<MessageBody>,
    /// New size, with `body`.
    pub size: Option<i64>,
    /// Why it waits.
    pub waiting_reason: Option<String>,
    /// Next try while it waits; ignored for `queued`.
    pub release_at: Option<i64>,
    /// Queue lifetime ends (a scheduled message lives from its release).
    pub expires_at: Option<i64>,
    /// Events.
    pub events: Vec<EventRow>,
}

impl Store {
    /// Registers this process as a worker and returns its fence. Lease and heartbeat: 20 s and 5 s.
    /// What an earlier worker of that id had claimed is given back.
    pub async fn start_worker(&self, worker_id: &str, now: i64) -> Result<Fence, StoreError> {
        let worker_id = worker_id.to_owned();
        let fence = self.write(move |conn| {
            Box::pin(async move {
                sql("SELECT 1 FROM workers WHERE id = $1").bind(&worker_id).lock_rows(conn).await?;
                void_lease(conn, &worker_id).await?;
                let now = lease_clock(conn, now).await?;
                let row = sql("INSERT INTO workers (id, epoch, lease_until) VALUES ($1, 1, $2)
                               ON CONFLICT (id) DO UPDATE SET epoch = workers.epoch + 1, lease_until = $2
                               RETURNING epoch")
                .bind(&worker_id)
                .bind(now + LEASE)
                .fetch_one(conn)
                .await?;
                Ok(Fence { worker_id, epoch: row.try_get("epoch")? })
            })
        });
        let fence = fence.await?;
        self.hear_of_others();
        self.wake_queue();
        Ok(fence)
    }

    /// Prolongs the lease; `Stale` if it was lost.
    pub async fn heartbeat(&self, fence: &Fence, now: i64) -> Result<(), StoreError> {
        let fence = fence.clone();
        self.write(move |conn| Box::pin(async move { prolong(conn, &fence, now).await })).await
    }

    /// Claims due recipients (`queued` or `deferred`, `next_attempt_at` <= now) of at most `limit` messages, oldest due first, all due recipients of a message together.
    /// Also a heartbeat; `Stale` if the lease was lost. What workers without a heartbeat had claimed becomes due again.
    /// A message that cannot be read is left out and put off.
    pub async fn claim_deliveries(&self, fence: &Fence, now: i64, limit: u32) -> Result<Vec<Delivery>, StoreError> {
        self.claim_under(
            fence,
            ClaimKind::Deliveries,
            |delivery: &Delivery| &delivery.message.id,
            move |conn, fence| {
                Box::pin(async move {
                    void_expired_leases(conn, now).await?;
                    let mut deliveries = Vec::new();
                    for message_id in due_messages(conn, now, limit).await? {
                        let (fence, id) = (fence.clone(), message_id.clone());
                        let part = unless_damaged(conn, move |conn| {
                            Box::pin(async move { claim(conn, &fence, &id, now).await })
                        });
                        match part.await? {
                            Ok(delivery) => deliveries.extend(delivery),
                            Err(cause) => put_off(conn, &message_id, &cause, now).await?,
                        }
                    }
                    Ok(deliveries)
                })
            },
            now,
        )
        .await
    }

    /// Runs a claim under a lease that it prolongs, after what an earlier one may have left claimed was given back.
    pub(crate) async fn claim_under<T, F>(
        &self,
        fence: &Fence,
        kind: ClaimKind,
        message_id: fn(&T) -> &String,
        claim: F,
        now: i64,
    ) -> Result<Vec<T>, StoreError>
    where
        T: Send + 'static,
        F: for<'a, 'c> FnOnce(&'a mut Connection<'c>, &'a Fence) -> BoxFuture<'a, Result<Vec<T>, StoreError>>
            + Send
            + 'static,
    {
        let left = self.unanswered().of(fence, kind);
        let ours = fence.clone();
        let claimed = self.try_write(move |conn| {
            Box::pin(async move {
                prolong(conn, &ours, now).await?;
                give_back(conn, &ours, left).await?;
                claim(conn, &ours).await
            })
        });
        match claimed.await {
            Ok(claimed) => {
                self.unanswered().settled(fence, kind);
                Ok(claimed)
            }
            Err(Failure::Undone(error)) => {
                // Under a lost lease everything was given back by whoever took it.
                if matches!(error, StoreError::Stale) {
                    self.unanswered().settled(fence, kind);
                }
                Err(error)
            }
            Err(Failure::Unknown(claimed, error)) => {
                self.unanswered().add(fence, kind, claimed.iter().map(|claimed| message_id(claimed).clone()));
                Err(error)
            }
        }
    }

    /// Keys of a claimed message's domain (system read).
    pub async fn delivery_keys(&self, domain_id: &str) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT * FROM dkim_keys WHERE domain_id = $1 ORDER BY id")
            .bind(domain_id)
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(crate::domains::key).collect()
    }

    /// Commits outcomes and their events, and recomputes the message's status. `Stale` if the fence was lost: nothing is written.
    /// An outcome for a recipient that is not claimed under the fence any more is left out with its event.
    pub async fn settle(
        &self,
        fence: &Fence,
        message_id: &str,
        outcomes: &[Outcome],
        now: i64,
    ) -> Result<(), StoreError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let (fence, message_id, outcomes) = (fence.clone(), message_id.to_owned(), outcomes.to_vec());
        self.write(move |conn| Box::pin(async move { settle(conn, &fence, &message_id, outcomes, now).await })).await?;
        self.wake_queue();
        Ok(())
    }

    /// Replaces the signature of a claimed message (key revoked or retired meanwhile). `Stale` if the fence was lost.
    pub async fn resign(
        &self,
        fence: &Fence,
        message_id: &str,
        prefix: &[u8],
        signatures: &[SignatureRow],
        size: i64,
    ) -> Result<(), StoreError> {
        let (fence, message_id, prefix) = (fence.clone(), message_id.to_owned(), prefix.to_vec());
        let signatures = json_text(&signatures)?;
        self.write(move |conn| {
            Box::pin(async move {
                lock_message(conn, &message_id).await?;
                assert_claimed(conn, &fence, &message_id).await?;
                sql("UPDATE bodies SET prefix = $2 WHERE message_id = $1")
                    .bind(&message_id)
                    .bind(prefix)
                    .execute(&mut *conn)
                    .await?;
                sql("UPDATE messages SET signatures = $2, size = $3 WHERE id = $1")
                    .bind(&message_id)
                    .bind(signatures)
                    .bind(size)
                    .execute(conn)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    /// Time of the next due recipient or release; what a worker has now is not counted.
    pub async fn next_due(&self) -> Result<Option<i64>, StoreError> {
        let mut snapshot = self.readers().snapshot().await?;
        let attempt = sql("SELECT next_attempt_at AS due FROM recipients WHERE status IN ('queued', 'deferred')
                           AND NOT EXISTS (SELECT 1 FROM recipients AS other
                                           WHERE other.message_id = recipients.message_id AND other.status = 'sending')
                           ORDER BY next_attempt_at LIMIT 1")
        .fetch_optional(&mut snapshot)
        .await?;
        let release = sql("SELECT release_at AS due FROM messages
                           WHERE status IN ('scheduled', 'awaiting_signature', 'held')
                           AND release_at IS NOT NULL AND worker_id IS NULL ORDER BY release_at LIMIT 1")
        .fetch_optional(&mut snapshot)
        .await?;
        let mut next: Option<i64> = None;
        for row in [attempt, release].into_iter().flatten() {
            let due: i64 = row.try_get("due")?;
            next = Some(next.map_or(due, |other| other.min(due)));
        }
        Ok(next)
    }
}

/// Runs a part of a claim that may find a damaged message; what it did is undone then, and the cause given back.
pub(crate) async fn unless_damaged<T>(
    conn: &mut Connection<'_>,
    part: impl for<'a, 'c> FnOnce(&'a mut Connection<'c>) -> BoxFuture<'a, Result<T, StoreError>>,
) -> Result<Result<T, StoreError>, StoreError> {
    sql("SAVEPOINT part").execute(&mut *conn).await?;
    match part(conn).await {
        Ok(done) => {
            sql("RELEASE SAVEPOINT part").execute(&mut *conn).await?;
            Ok(Ok(done))
        }
        Err(cause @ StoreError::Damaged(_)) => {
            sql("ROLLBACK TO SAVEPOINT part").execute(&mut *conn).await?;
            sql("RELEASE SAVEPOINT part").execute(&mut *conn).await?;
            Ok(Err(cause))
        }
        Err(cause) => Err(cause),
    }
}

async fn put_off(conn: &mut Connection<'_>, message_id: &str, cause: &StoreError, now: i64) -> Result<(), StoreError> {
    tracing::error!(message = message_id, %cause, "a queued message cannot be read; it is put off, the operator has to look");
    sql("UPDATE recipients SET next_attempt_at = $2
         WHERE message_id = $1 AND status IN ('queued', 'deferred') AND next_attempt_at <= $3")
    .bind(message_id)
    .bind(now + UNREADABLE_PAUSE)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// `None` if nothing of it is due any more: another worker was faster.
async fn claim(
    conn: &mut Connection<'_>,
    fence: &Fence,
    message_id: &str,
    now: i64,
) -> Result<Option<Delivery>, StoreError> {
    let rows = sql("UPDATE recipients SET status = 'sending', worker_id = $2, epoch = $3
                    WHERE message_id = $1 AND status IN ('queued', 'deferred') AND next_attempt_at <= $4
                    RETURNING id, address, domain, attempts, uncertain")
    .bind(message_id)
    .bind(&fence.worker_id)
    .bind(fence.epoch)
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    let mut recipients = rows.iter().map(claimed).collect::<Result<Vec<_>, _>>()?;
    if recipients.is_empty() {
        return Ok(None);
    }
    // RETURNING promises no order.
    recipients.sort_by(|a, b| a.id.cmp(&b.id));
    refresh_status(conn, message_id).await?;
    let row = sql("SELECT * FROM messages WHERE id = $1").bind(message_id).fetch_one(conn).await?;
    Ok(Some(Delivery { message: message(&row)?, recipients }))
}

fn claimed(row: &Row) -> Result<ClaimedRecipient, StoreError> {
    Ok(ClaimedRecipient {
        id: row.try_get("id")?,
        address: row.try_get("address")?,
        domain: row.try_get("domain")?,
        attempts: row.try_get("attempts")?,
        uncertain: row.try_get("uncertain")?,
    })
}

async fn settle(
    conn: &mut Connection<'_>,
    fence: &Fence,
    message_id: &str,
    outcomes: Vec<Outcome>,
    now: i64,
) -> Result<(), StoreError> {
    lock_message(conn, message_id).await?;
    let deleted = domain_is_deleted(conn, message_id).await?;
    let mut written = false;
    for mut outcome in outcomes {
        if deleted {
            cancel_if_it_would_wait(&mut outcome)?;
        }
        if settle_one(conn, fence, message_id, &outcome, now).await? {
            written = true;
            if let Some(event) = &outcome.event {
                insert_event(conn, event).await?;
            }
        }
    }
    if !written {
        return Err(StoreError::Stale);
    }
    refresh_status(conn, message_id).await
}

/// The domain was deleted while this recipient was being sent to: nothing goes out for it any more. Without an event in
/// hand (the recipient is given back unattempted) the next attempt finds the keys revoked and ends here or in `hold`.
fn cancel_if_it_would_wait(outcome: &mut Outcome) -> Result<(), StoreError> {
    match Status::parse(&outcome.status)?.phase() {
        Phase::ToSend | Phase::ToRelease => {
            if let Some(event) = &mut outcome.event {
                cancelled_with_its_domain(event);
                outcome.status = Status::Cancelled.as_str().into();
            }
        }
        Phase::Sending | Phase::Ended => {}
    }
    Ok(())
}

/// Turns an event that tells of waiting into one of the end.
pub(crate) fn cancelled_with_its_domain(event: &mut EventRow) {
    event.kind = "message.cancelled".into();
    event.details = serde_json::json!({ "reason": "domain_deleted" });
}

/// False if the recipient is not claimed under the fence.
async fn settle_one(
    conn: &mut Connection<'_>,
    fence: &Fence,
    message_id: &str,
    outcome: &Outcome,
    now: i64,
) -> Result<bool, StoreError> {
    let next_attempt_at = match Status::parse(&outcome.status)?.phase() {
        // One without a time is due at once, never never.
        Phase::ToSend => Some(outcome.next_attempt_at.unwrap_or(now)),
        Phase::Ended => None,
        Phase::ToRelease | Phase::Sending => {
            return Err(StoreError::Damaged("an attempt cannot end in that status".into()));
        }
    };
    let updated = sql("UPDATE recipients SET status = $5, attempts = attempts + $6, uncertain = $7,
                              last_reply = COALESCE($8, last_reply), next_attempt_at = $9, worker_id = NULL, epoch = NULL
                       WHERE message_id = $1 AND id = $2 AND status = 'sending' AND worker_id = $3 AND epoch = $4")
    .bind(message_id)
    .bind(&outcome.recipient_id)
    .bind(&fence.worker_id)
    .bind(fence.epoch)
    .bind(&outcome.status)
    .bind(i64::from(outcome.attempted))
    .bind(outcome.uncertain)
    .bind(&outcome.last_reply)
    .bind(next_attempt_at)
    .execute(conn)
    .await?;
    Ok(updated.rows_affected() > 0)
}

/// `Stale` unless a recipient of the message is being sent to under the fence.
pub(crate) async fn assert_claimed(
    conn: &mut Connection<'_>,
    fence: &Fence,
    message_id: &str,
) -> Result<(), StoreError> {
    let row = sql("SELECT 1 FROM recipients WHERE message_id = $1 AND worker_id = $2 AND epoch = $3 LIMIT 1")
        .bind(message_id)
        .bind(&fence.worker_id)
        .bind(fence.epoch)
        .fetch_optional(conn)
        .await?;
    row.map(|_| ()).ok_or(StoreError::Stale)
}

pub(crate) async fn domain_is_deleted(conn: &mut Connection<'_>, message_id: &str) -> Result<bool, StoreError> {
    let row = sql("SELECT domains.deleted_at FROM messages JOIN domains ON domains.id = messages.domain_id
                   WHERE messages.id = $1")
    .bind(message_id)
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::Stale)?;
    Ok(row.try_get::<Option<i64>>("deleted_at")?.is_some())
}

/// Gives the message the status that follows from its recipients.
pub(crate) async fn refresh_status(conn: &mut Connection<'_>, message_id: &str) -> Result<(), StoreError> {
    let rows = sql("SELECT DISTINCT status FROM recipients WHERE message_id = $1")
        .bind(message_id)
        .fetch_all(&mut *conn)
        .await?;
    let recipients =
        rows.iter().map(|row| Status::parse(row.try_get("status")?)).collect::<Result<Vec<_>, StoreError>>()?;
    if let Some(status) = status::of_message(&recipients) {
        sql("UPDATE messages SET status = $2 WHERE id = $1").bind(message_id).bind(status).execute(conn).await?;
    }
    Ok(())
}
