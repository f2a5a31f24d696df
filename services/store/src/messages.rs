//! Messages, recipients and their octets.
use crate::audit::insert_audit;
use crate::db::{AFTER_EVERY_ID, json, json_text, page, page_probe};
use crate::events::insert_event;
use crate::statement::{Connection, Row, sql, sql_in};
use crate::{AuditRow, EventRow, IdempotencyScope, MessageBody, Store, StoreError, StoredAnswer, bodies};
use std::collections::HashMap;

/// A page; `next` is the id to give as `after`.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// Rows.
    pub rows: Vec<T>,
    /// More after this id.
    pub next: Option<String>,
}

/// A signature on a message, as stored (JSON array in the row).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SignatureRow {
    /// Key id.
    pub key_id: String,
    /// d=
    pub domain: String,
    /// s=
    pub selector: String,
    /// a=
    pub algorithm: String,
}

/// A message.
#[derive(Debug, Clone)]
pub struct MessageRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// Message-ID with angle brackets.
    pub message_id: String,
    /// DESIGN: Message.status.
    pub status: String,
    /// From as shown.
    pub from: String,
    /// Subject, decoded.
    pub subject: String,
    /// Octets sent (without what a later attempt may prepend).
    pub size: i64,
    /// Domain row that signs.
    pub domain_id: String,
    /// Envelope sender that the request named.
    pub mail_from: Option<String>,
    /// Signatures; empty while unsigned.
    pub signatures: Vec<SignatureRow>,
    /// JSON array of strings.
    pub tags: serde_json::Value,
    /// JSON object.
    pub metadata: serde_json::Value,
    /// JSON array of strings.
    pub warnings: serde_json::Value,
    /// Why it waits, while `held` or `awaiting_signature`.
    pub waiting_reason: Option<String>,
    /// Release time while `scheduled`; next try while `held` or `awaiting_signature`.
    pub release_at: Option<i64>,
    /// Queue lifetime ends.
    pub expires_at: i64,
    /// When.
    pub created_at: i64,
}

/// A recipient.
#[derive(Debug, Clone)]
pub struct RecipientRow {
    /// Id.
    pub id: String,
    /// Message.
    pub message_id: String,
    /// Address.
    pub address: String,
    /// Domain part, A-label, lower-case (routing).
    pub domain: String,
    /// As Message.status, without `partial`.
    pub status: String,
    /// Attempts made.
    pub attempts: i64,
    /// An attempt ended without a reply to the final dot: it may have been delivered.
    pub uncertain: bool,
    /// Last SMTP reply or error.
    pub last_reply: Option<String>,
    /// Next attempt.
    pub next_attempt_at: Option<i64>,
}

/// All that one accepted message writes.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Row.
    pub message: MessageRow,
    /// Octets.
    pub body: MessageBody,
    /// Recipients; status `queued` with `next_attempt_at` = now, or the message's waiting status.
    pub recipients: Vec<RecipientRow>,
    /// Events.
    pub events: Vec<EventRow>,
    /// Audit.
    pub audit: Option<AuditRow>,
    /// The idempotency row to complete, with the answer.
    pub idempotency: Option<(IdempotencyScope, StoredAnswer)>,
}

impl Store {
    /// One transaction; when this returns Ok it is durable. `Conflict` if the idempotency row has an answer already
    /// (the request was in flight for so long that another one was let in): nothing is accepted twice.
    pub async fn accept_message(&self, new: NewMessage) -> Result<(), StoreError> {
        match self.group_accept() {
            Some(group) if group.takes(&new) => group.accept(new).await?,
            Some(_) | None => self.write(move |conn| Box::pin(accept(conn, new))).await?,
        }
        self.wake_queue();
        Ok(())
    }

    /// With recipients.
    pub async fn message(&self, tenant: &str, id: &str) -> Result<Option<(MessageRow, Vec<RecipientRow>)>, StoreError> {
        let mut snapshot = self.readers().snapshot().await?;
        let row = sql("SELECT * FROM messages WHERE tenant_id = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut snapshot)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let rows = with_recipients(&mut snapshot.connection(), vec![message(&row)?]).await?;
        Ok(rows.into_iter().next())
    }

    /// Newest first, with recipients; optional status filter.
    pub async fn messages(
        &self,
        tenant: &str,
        status: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<(MessageRow, Vec<RecipientRow>)>, StoreError> {
        let mut snapshot = self.readers().snapshot().await?;
        let query = match status {
            Some(_) => sql("SELECT * FROM messages WHERE tenant_id = $1 AND id < $2 AND status = $4
                            ORDER BY id DESC LIMIT $3"),
            None => sql("SELECT * FROM messages WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"),
        };
        let query = query.bind(tenant).bind(after.unwrap_or(AFTER_EVERY_ID)).bind(page_probe(limit));
        let query = match status {
            Some(status) => query.bind(status),
            None => query,
        };
        let rows = query.fetch_all(&mut snapshot).await?;
        let rows = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let page = page(rows, limit, |row| &row.id);
        Ok(Page { rows: with_recipients(&mut snapshot.connection(), page.rows).await?, next: page.next })
    }
}

pub(crate) async fn accept(conn: &mut Connection<'_>, new: NewMessage) -> Result<(), StoreError> {
    let NewMessage { message, body, recipients, events, audit, idempotency } = new;
    insert_message(conn, &message).await?;
    bodies::insert(conn, &message.id, body).await?;
    for recipient in &recipients {
        insert_recipient(conn, &message.id, recipient).await?;
    }
    for event in &events {
        insert_event(conn, event).await?;
    }
    if let Some(audit) = &audit {
        insert_audit(conn, audit).await?;
    }
    if let Some((scope, answer)) = &idempotency
        && !crate::idempotency::complete(conn, scope, answer, message.created_at).await?
    {
        return Err(StoreError::Conflict);
    }
    Ok(())
}

/// The domain must be the tenant's and not deleted: a message accepted against a domain that is deleted meanwhile would wait for ever.
async fn insert_message(conn: &mut Connection<'_>, row: &MessageRow) -> Result<(), StoreError> {
    sql("SELECT 1 FROM domains WHERE id = $1 AND tenant_id = $2 AND deleted_at IS NULL")
        .bind(&row.domain_id)
        .bind(&row.tenant_id)
        .for_share()
        .fetch_optional(&mut *conn)
        .await?
        .ok_or(StoreError::Stale)?;
    sql("INSERT INTO messages (id, tenant_id, message_id, status, from_header, subject, size, domain_id,
                               mail_from, signatures, tags, metadata, warnings, waiting_reason, release_at, expires_at,
                               created_at)
                        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)")
    .bind(&row.id)
    .bind(&row.tenant_id)
    .bind(&row.message_id)
    .bind(&row.status)
    .bind(&row.from)
    .bind(&row.subject)
    .bind(row.size)
    .bind(&row.domain_id)
    .bind(&row.mail_from)
    .bind(json_text(&row.signatures)?)
    .bind(json_text(&row.tags)?)
    .bind(json_text(&row.metadata)?)
    .bind(json_text(&row.warnings)?)
    .bind(&row.waiting_reason)
    .bind(row.release_at)
    .bind(row.expires_at)
    .bind(row.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_recipient(conn: &mut Connection<'_>, message_id: &str, row: &RecipientRow) -> Result<(), StoreError> {
    sql("INSERT INTO recipients (id, message_id, address, domain, status, attempts, uncertain, last_reply, next_attempt_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
    .bind(&row.id)
    .bind(message_id)
    .bind(&row.address)
    .bind(&row.domain)
    .bind(&row.status)
    .bind(row.attempts)
    .bind(row.uncertain)
    .bind(&row.last_reply)
    .bind(row.next_attempt_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Recipients of messages that were found through their tenant, in the order of their ids.
async fn with_recipients(
    conn: &mut Connection<'_>,
    messages: Vec<MessageRow>,
) -> Result<Vec<(MessageRow, Vec<RecipientRow>)>, StoreError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let ids = messages.iter().map(|message| &message.id);
    let query = sql_in("SELECT * FROM recipients WHERE message_id IN", ids, "ORDER BY id");
    let mut of_message: HashMap<String, Vec<RecipientRow>> = HashMap::new();
    for row in query.fetch_all(conn).await? {
        let row = recipient(&row)?;
        of_message.entry(row.message_id.clone()).or_default().push(row);
    }
    Ok(messages
        .into_iter()
        .map(|message| {
            let recipients = of_message.remove(&message.id).unwrap_or_default();
            (message, recipients)
        })
        .collect())
}

pub(crate) fn message(row: &Row) -> Result<MessageRow, StoreError> {
    Ok(MessageRow {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        message_id: row.try_get("message_id")?,
        status: row.try_get("status")?,
        from: row.try_get("from_header")?,
        subject: row.try_get("subject")?,
        size: row.try_get("size")?,
        domain_id: row.try_get("domain_id")?,
        mail_from: row.try_get("mail_from")?,
        signatures: json(row, "signatures")?,
        tags: json(row, "tags")?,
        metadata: json(row, "metadata")?,
        warnings: json(row, "warnings")?,
        waiting_reason: row.try_get("waiting_reason")?,
        release_at: row.try_get("release_at")?,
        expires_at: row.try_get("expires_at")?,
        created_at: row.try_get("created_at")?,
    })
}

fn recipient(row: &Row) -> Result<RecipientRow, StoreError> {
    Ok(RecipientRow {
        id: row.try_get("id")?,
        message_id: row.try_get("message_id")?,
        address: row.try_get("address")?,
        domain: row.try_get("domain")?,
        status: row.try_get("status")?,
        attempts: row.try_get("attempts")?,
        uncertain: row.try_get("uncertain")?,
        last_reply: row.try_get("last_reply")?,
        next_attempt_at: row.try_get("next_attempt_at")?,
    })
}
