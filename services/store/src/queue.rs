//! The send queue: claims under a fence, outcomes, release of messages that wait.
use crate::{EventRow, MessageBody, MessageRow, SignatureRow, Store, StoreError};

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
    pub async fn start_worker(&self, _worker_id: &str, _now: i64) -> Result<Fence, StoreError> {
        todo!()
    }
    /// Prolongs the lease; `Stale` if it was lost.
    pub async fn heartbeat(&self, _fence: &Fence, _now: i64) -> Result<(), StoreError> {
        todo!()
    }
    /// Claims due recipients (`queued` or `deferred`, `next_attempt_at` <= now) of at most `limit` messages, oldest due first, all due recipients of a message together.
    pub async fn claim_deliveries(&self, _fence: &Fence, _now: i64, _limit: u32) -> Result<Vec<Delivery>, StoreError> {
        todo!()
    }
    /// Octets of a claimed message.
    pub async fn delivery_body(&self, _message_id: &str) -> Result<Option<MessageBody>, StoreError> {
        todo!()
    }
    /// Keys of a claimed message's domain (system read).
    pub async fn delivery_keys(&self, _domain_id: &str) -> Result<Vec<crate::KeyRow>, StoreError> {
        todo!()
    }
    /// Commits outcomes and their events, and recomputes the message's status. `Stale` if the fence was lost: nothing is written.
    pub async fn settle(
        &self,
        _fence: &Fence,
        _message_id: &str,
        _outcomes: &[Outcome],
        _now: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Replaces the signature of a claimed message (key revoked or retired meanwhile).
    pub async fn resign(
        &self,
        _fence: &Fence,
        _message_id: &str,
        _prefix: &[u8],
        _signatures: &[SignatureRow],
        _size: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Puts a claimed message back to waiting (`held` or `awaiting_signature`), unattempted.
    pub async fn hold(
        &self,
        _fence: &Fence,
        _message_id: &str,
        _change: &ReleaseChange,
        _now: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Messages whose release is due, with octets, claimed under the fence so that no other process releases them too.
    pub async fn claim_waiting(&self, _fence: &Fence, _now: i64, _limit: u32) -> Result<Vec<Waiting>, StoreError> {
        todo!()
    }
    /// Ends a release attempt.
    pub async fn release(
        &self,
        _fence: &Fence,
        _message_id: &str,
        _change: &ReleaseChange,
        _now: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Makes waiting messages of a domain due at once (its key or record became good).
    pub async fn hurry_waiting(&self, _tenant: &str, _domain_id: &str, _now: i64) -> Result<(), StoreError> {
        todo!()
    }
    /// Time of the next due recipient or release.
    pub async fn next_due(&self) -> Result<Option<i64>, StoreError> {
        todo!()
    }
    /// Woken (coalesced) whenever something may have become due in this process.
    pub fn queue_notify(&self) -> std::sync::Arc<tokio::sync::Notify> {
        todo!()
    }
}
