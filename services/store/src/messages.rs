//! Messages, recipients and their octets.
use crate::{AuditRow, EventRow, IdempotencyScope, Store, StoreError, StoredAnswer};

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

/// Octets of a message: what is sent is `prefix` + `raw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageBody {
    /// Received and our DKIM-Signature fields; no signature while unsigned.
    pub prefix: Vec<u8>,
    /// The message as built or accepted.
    pub raw: Vec<u8>,
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
    /// One transaction; when this returns Ok it is durable.
    pub async fn accept_message(&self, _new: &NewMessage) -> Result<(), StoreError> {
        todo!()
    }
    /// With recipients.
    pub async fn message(
        &self,
        _tenant: &str,
        _id: &str,
    ) -> Result<Option<(MessageRow, Vec<RecipientRow>)>, StoreError> {
        todo!()
    }
    /// Newest first, with recipients; optional status filter.
    pub async fn messages(
        &self,
        _tenant: &str,
        _status: Option<&str>,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<(MessageRow, Vec<RecipientRow>)>, StoreError> {
        todo!()
    }
    /// Octets.
    pub async fn message_body(&self, _tenant: &str, _id: &str) -> Result<Option<MessageBody>, StoreError> {
        todo!()
    }
}
