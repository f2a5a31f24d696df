//! Signing: draft, custody, self-check against the published key; again before delivery; release of what waits.
use super::raw;
use crate::domains::records::stored_public_key;
use crate::domains::states;
use crate::{Engine, Error, ids};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use signpost_dkim::canonical::{BodyHash, BodyHasher};
use signpost_dkim::message::Message;
use signpost_dkim::record::PublicKey;
use signpost_dkim::sign::{self, Policy, Signer};
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_keys::{CustodyKind, KeyBinding, StoredKey};
use signpost_store::{
    Delivery, DomainRow, EventRow, Fence, KeyRow, MessageBody, MessageRow, ReleaseChange, SignatureRow, StoreError,
    Waiting,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

/// What is signed and how; the same for every domain so far.
static POLICY: LazyLock<Policy> = LazyLock::new(Policy::default);

/// DESIGN "Published keys": while DNS gives no answer the last p= stays good for so long.
const PUBLISHED_GOOD_MS: i64 = 72 * 3600 * 1000;
/// A message that waits is looked at again after so long.
const WAIT_RETRY_MS: i64 = 30 * 1000;
/// One that could not be looked at because the database was away.
const AWAY_RETRY_MS: i64 = 2 * 1000;
/// A waiting message makes us read its key's record again, at most so often per key.
const REREAD_MS: i64 = 25 * 1000;
const RELEASE_BATCH: u32 = 50;
/// A domain whose key signs slowly keeps a pass for so long; what is left of its messages has its turn in the next one.
const PASS_SHARE_MS: i64 = 1_000;
/// A release that the database could not commit is tried again after this, and then less and less often.
const RELEASE_PAUSE: Duration = Duration::from_millis(100);
const RELEASE_PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// Why mail waits, in words for the tenant.
const NOT_PROVEN: &str = "the domain is no longer proven by this tenant";
const DISABLED: &str = "signing is disabled for the domain";

/// What the worker must know before an attempt.
#[derive(Debug)]
pub enum Readiness {
    /// Every signature's key is active or retiring: send as it is.
    Good,
    /// The signature was replaced by one of the active key: store (`Store::resign`), then send.
    Resigned {
        /// New prefix (Received and DKIM-Signature fields).
        prefix: Vec<u8>,
        /// New signatures.
        signatures: Vec<SignatureRow>,
    },
    /// No key can sign now: `Store::hold` with this status and reason.
    Wait {
        /// `held` or `awaiting_signature`.
        status: &'static str,
        /// Why.
        reason: String,
    },
    /// The domain was deleted: cancel.
    Cancelled,
}

/// A signature made and verified.
pub(super) struct Signed {
    /// The whole DKIM-Signature field with its final CRLF.
    pub(super) field: String,
    pub(super) row: SignatureRow,
}

/// Why there is no signature now. Mail waits; it is never sent without one.
#[derive(Debug)]
pub(super) enum NotSigned {
    /// `held`: the published record does not fit, or nothing is known of it any more.
    Held(String),
    /// `awaiting_signature`: custody cannot use the key now.
    Awaiting(String),
    /// The same, to be asked again at that time.
    Later(String, i64),
    /// The message itself cannot be signed, or the store is away.
    Failed(Error),
}

impl NotSigned {
    /// Status and reason of a message that waits for this, and until when if that is known; `Err` if it does not wait.
    pub(super) fn waiting(self) -> Result<(&'static str, String, Option<i64>), Error> {
        match self {
            Self::Held(reason) => Ok(("held", reason, None)),
            Self::Awaiting(reason) => Ok(("awaiting_signature", reason, None)),
            Self::Later(reason, at) => Ok(("awaiting_signature", reason, Some(at))),
            Self::Failed(error) => Err(error),
        }
    }
}

/// The key that signs for a domain, parsed: to do so anew for each message costs as much as a signature.
pub(super) struct ActiveKey {
    row: KeyRow,
    binding: KeyBinding,
    stored: StoredKey,
    signer: Signer,
    /// What DNS last served, if it is a key of this kind.
    published: Option<PublicKey>,
}

impl ActiveKey {
    /// `Held` if none is active.
    pub(super) fn among(keys: &[KeyRow]) -> Result<Self, NotSigned> {
        let Some(row) = keys.iter().find(|key| key.state == states::ACTIVE) else { return Err(none_active()) };
        let (binding, stored, signer) = key_parts(row).map_err(NotSigned::Failed)?;
        let kind = signer.algorithm.signature_algorithm();
        let published = row.published_p.as_ref().and_then(|p| PublicKey::from_p(kind, p).ok());
        Ok(Self { row: row.clone(), binding, stored, signer, published })
    }
}

fn none_active() -> NotSigned {
    NotSigned::Held("no key of this domain is active".into())
}

/// What must be known before a message of one domain is signed; kept for a moment.
pub(crate) struct Authority {
    /// What `authorize` gave.
    pub(super) domain: DomainRow,
    /// `None`: none is active.
    key: Option<ActiveKey>,
}

impl Authority {
    pub(super) fn new(domain: DomainRow, keys: &[KeyRow]) -> Result<Self, Error> {
        match ActiveKey::among(keys) {
            Ok(key) => Ok(Self { domain, key: Some(key) }),
            Err(NotSigned::Failed(error)) => Err(error),
            Err(NotSigned::Held(_) | NotSigned::Awaiting(_) | NotSigned::Later(..)) => Ok(Self { domain, key: None }),
        }
    }

    pub(super) fn key(&self) -> Result<&ActiveKey, NotSigned> {
        self.key.as_ref().ok_or_else(none_active)
    }
}

impl Engine {
    /// Signs `raw` with the active key of `keys`, and verifies the signature against the p= last read from DNS.
    pub(super) async fn sign_with_active_key(&self, keys: &[KeyRow], raw: &[u8]) -> Result<Signed, NotSigned> {
        self.sign_with(&ActiveKey::among(keys)?, raw, None).await
    }

    /// Signs `raw`, whose body hash may be known already, and verifies the signature against the p= last read from DNS.
    pub(super) async fn sign_with(
        &self,
        key: &ActiveKey,
        raw: &[u8],
        body: Option<&BodyHash>,
    ) -> Result<Signed, NotSigned> {
        let ActiveKey { row, binding, stored, signer, .. } = key;
        let published = self.published_key(key).map_err(NotSigned::Held)?;
        if let Some(reason) = self.inner.outages.reason(&row.id) {
            return Err(NotSigned::Awaiting(reason));
        }
        let internal = |error: &dyn std::fmt::Display| NotSigned::Failed(Error::Internal(error.to_string()));
        let message = Message::parse(raw).map_err(|error| internal(&error))?;
        let now = self.inner.clock.now_s();
        let draft = match body {
            Some(body) => sign::prepare_streamed(&message, body, signer, &POLICY, now),
            None => sign::prepare(&message, signer, &POLICY, now),
        };
        let draft = draft.map_err(|error| internal(&error))?;
        let signature = self.ask_custody(row, binding, stored, draft.digest()).await?;
        if !published.verify_digest(draft.digest(), &signature) {
            tracing::warn!(key = %row.id, domain = %row.domain_name, "signature does not verify against the published record");
            return Err(NotSigned::Held(format!(
                "a signature by {}._domainkey.{} does not verify against the record that DNS serves",
                row.selector, row.domain_name
            )));
        }
        let row = SignatureRow {
            key_id: row.id.clone(),
            domain: row.domain_name.clone(),
            selector: row.selector.clone(),
            algorithm: signer.algorithm.signature_algorithm().as_str().into(),
        };
        Ok(Signed { field: draft.finish(&signature), row })
    }

    /// The signature of a digest. A key that needs another machine and does not give one is asked for by probes only from now on.
    async fn ask_custody(
        &self,
        key: &KeyRow,
        binding: &KeyBinding,
        stored: &StoredKey,
        digest: &[u8; 32],
    ) -> Result<Vec<u8>, NotSigned> {
        let kind = CustodyKind::parse(&key.custody)
            .ok_or_else(|| NotSigned::Failed(Error::Internal(format!("stored custody {:?}", key.custody))))?;
        let signed = match self.custody(kind) {
            Ok(custody) => custody.sign(binding, stored, digest).await,
            Err(error) => Err(error),
        };
        match signed {
            Ok(signature) => {
                if kind.may_be_away() {
                    self.inner.outages.signed(&key.id);
                }
                Ok(signature)
            }
            Err(error) => Err(match self.key_failed(key, kind, error).await {
                (reason, Some(at)) => NotSigned::Later(reason, at),
                (reason, None) => NotSigned::Awaiting(reason),
            }),
        }
    }

    /// The key as DNS last served it, if that is recent enough to be relied on.
    fn published_key<'k>(&self, key: &'k ActiveKey) -> Result<&'k PublicKey, String> {
        let row = &key.row;
        let name = || format!("{}._domainkey.{}", row.selector, row.domain_name);
        let (Some(p), Some(read_at)) = (&row.published_p, row.published_read_at) else {
            return Err(format!("the record {} was never read from DNS; check the domain", name()));
        };
        if p.is_empty() {
            return Err(format!("DNS does not serve a usable record at {}", name()));
        }
        if read_at + PUBLISHED_GOOD_MS < self.now_ms() {
            return Err(format!("DNS has given no answer for {} for 72 hours", name()));
        }
        key.published.as_ref().ok_or_else(|| format!("DNS serves a key of another kind at {}", name()))
    }

    /// DESIGN "Revoked or replaced keys": looked at before every attempt.
    pub async fn ready_to_send(&self, delivery: &Delivery, body: &MessageBody) -> Result<Readiness, Error> {
        let message = &delivery.message;
        let Some(domain) = self.inner.store.domain(&message.tenant_id, &message.domain_id).await? else {
            return Ok(Readiness::Cancelled);
        };
        if domain.ownership != "verified" {
            return Ok(Readiness::Wait { status: "held", reason: NOT_PROVEN.into() });
        }
        let keys = self.inner.store.delivery_keys(&message.domain_id).await?;
        let is_good =
            |signature: &SignatureRow| keys.iter().any(|key| key.id == signature.key_id && states::still_stands(key));
        if !message.signatures.is_empty() && message.signatures.iter().all(is_good) {
            return Ok(Readiness::Good);
        }
        if domain.signing == "disabled" {
            return Ok(Readiness::Wait { status: "held", reason: DISABLED.into() });
        }
        match self.sign_with_active_key(&keys, &body.raw).await {
            Ok(signed) => {
                let mut prefix = without_signatures(&body.prefix)?;
                prefix.extend_from_slice(signed.field.as_bytes());
                Ok(Readiness::Resigned { prefix, signatures: vec![signed.row] })
            }
            Err(not_signed) => {
                let (status, reason, _) = not_signed.waiting()?;
                Ok(Readiness::Wait { status, reason })
            }
        }
    }

    /// One pass over messages that wait (scheduled and due, held, awaiting_signature): signs and queues what can go.
    /// Returns how many were looked at. What goes wrong with one message stops no other.
    ///
    /// Domains at the same time, so that the slow custody of one does not keep the others; the messages of a domain one after
    /// the other, so that the first one that finds the key unusable spares the others their call.
    pub async fn release_waiting(&self, fence: &Fence) -> Result<usize, Error> {
        let waiting = self.inner.store.claim_waiting(fence, self.now_ms(), RELEASE_BATCH).await?;
        let count = waiting.len();
        if let Err(error) = self.reread_for(&waiting).await {
            tracing::warn!(?error, "the records that mail waits for were not read again");
        }
        let mut domains: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
        for one in waiting {
            domains.entry(one.message.domain_id.clone()).or_default().push(one);
        }
        let mut released: FuturesUnordered<_> =
            domains.into_values().map(|messages| self.release_of_domain(fence, messages)).collect();
        while let Some(()) = released.next().await {}
        Ok(count)
    }

    async fn release_of_domain(&self, fence: &Fence, messages: Vec<Waiting>) {
        let outages_ended = self.inner.outages.ended();
        let began = self.now_ms();
        for one in &messages {
            let id = &one.message.id;
            if self.now_ms() - began > PASS_SHARE_MS {
                // As it was, so that it keeps its place.
                let message = &one.message;
                let change = unsigned(&message.status, message.waiting_reason.clone(), message.release_at);
                self.commit_release(fence, id, &change).await;
                continue;
            }
            let change = match self.release_one(one).await {
                Ok(change) => change,
                Err(error) => {
                    tracing::error!(message = %id, ?error, "a waiting message could not be looked at");
                    // Where the database is away, the release below waits until it is back.
                    let pause = if matches!(error, Error::StoreUnavailable) { AWAY_RETRY_MS } else { WAIT_RETRY_MS };
                    let reason = one.message.waiting_reason.clone();
                    unsigned(&one.message.status, reason, Some(self.now_ms() + pause))
                }
            };
            self.commit_release(fence, id, &change).await;
        }
        // A probe may have succeeded between the look at the key and the write that lets the message wait on.
        if let Some(first) = messages.first()
            && self.inner.outages.ended() != outages_ended
        {
            let (tenant, domain) = (&first.message.tenant_id, &first.message.domain_id);
            if let Err(error) = self.inner.store.hurry_waiting(tenant, domain, self.now_ms()).await {
                tracing::warn!(domain, ?error, "mail that waits for a key goes out at its next turn only");
            }
        }
    }

    /// Repeated while the database is away; whoever runs the pass ends it with the lease.
    async fn commit_release(&self, fence: &Fence, message: &str, change: &ReleaseChange) {
        let mut pause = RELEASE_PAUSE;
        loop {
            match self.inner.store.release(fence, message, change, self.now_ms()).await {
                Ok(()) => return,
                Err(StoreError::Unavailable(cause)) => {
                    tracing::warn!(message, %cause, "the database is away, the release is tried again");
                }
                // Cancelled, or the domain was deleted, since it was claimed.
                Err(StoreError::Stale) => return tracing::info!(message, "a waiting message changed meanwhile"),
                Err(
                    error @ (StoreError::InUse
                    | StoreError::Conflict
                    | StoreError::Contested
                    | StoreError::Refused(_)
                    | StoreError::Damaged(_)),
                ) => return tracing::error!(message, %error, "a waiting message could not be released"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RELEASE_PAUSE_AT_MOST);
        }
    }

    /// The records that held messages wait for are read again, each key's once and all at the same time.
    async fn reread_for(&self, waiting: &[Waiting]) -> Result<(), Error> {
        let held = waiting.iter().filter(|one| one.message.status == "held");
        let domains: BTreeSet<&str> = held.map(|one| one.message.domain_id.as_str()).collect();
        let mut due = Vec::new();
        for domain in domains {
            let keys = self.inner.store.delivery_keys(domain).await?;
            due.extend(keys.into_iter().filter(|key| {
                let rested = key.published_tried_at.is_none_or(|at| at + REREAD_MS <= self.now_ms());
                key.state == states::ACTIVE && rested
            }));
        }
        self.read_all_published(due).await;
        Ok(())
    }

    async fn release_one(&self, waiting: &Waiting) -> Result<ReleaseChange, Error> {
        let message = &waiting.message;
        let now = self.now_ms();
        let was_scheduled = message.status == "scheduled";
        let expires_at = if was_scheduled { now + self.inner.settings.queue_lifetime_ms } else { message.expires_at };
        if expires_at <= now {
            let reason = message.waiting_reason.clone().unwrap_or_default();
            let event = self.message_event(message, "message.expired", json!({"reason": reason}));
            return Ok(ReleaseChange { events: vec![event], ..unsigned("expired", Some(reason), None) });
        }
        let keep_waiting = |status: &str, reason: String, until: Option<i64>| {
            let mut change = unsigned(status, Some(reason.clone()), Some(until.unwrap_or(now + WAIT_RETRY_MS)));
            change.expires_at = Some(expires_at);
            if status != message.status {
                change.events.push(self.message_event(
                    message,
                    "message.held",
                    json!({"status": status, "reason": reason}),
                ));
            }
            change
        };
        let domain = self.inner.store.domain(&message.tenant_id, &message.domain_id).await?;
        match domain {
            None => return Ok(unsigned("cancelled", Some("the domain was deleted".into()), None)),
            Some(domain) if domain.ownership != "verified" => {
                return Ok(keep_waiting("held", NOT_PROVEN.into(), None));
            }
            Some(domain) if domain.signing == "disabled" => {
                return Ok(keep_waiting("held", DISABLED.into(), None));
            }
            Some(_) => {}
        }
        let keys = self.inner.store.delivery_keys(&message.domain_id).await?;
        // DESIGN: Date = release for scheduled and held mail; the same Date where only custody was away.
        let raw = match message.status.as_str() {
            "scheduled" | "held" => raw::redate(&waiting.body.raw, now),
            _ => waiting.body.raw.clone(),
        };
        match self.sign_with_active_key(&keys, &raw).await {
            Ok(signed) => Ok(self.released(waiting, raw, signed, expires_at)?),
            Err(not_signed) => match not_signed.waiting() {
                Ok((status, reason, until)) => {
                    let pause = keys.iter().filter_map(|key| self.inner.outages.pause(&key.id, now)).max();
                    Ok(keep_waiting(status, reason, until.or(pause.map(|pause| now + pause))))
                }
                Err(error) => {
                    // One message that cannot be signed must not stop the others.
                    tracing::error!(message = %message.id, ?error, "a waiting message could not be signed");
                    Ok(keep_waiting("held", "signing failed; the operator has to look".into(), None))
                }
            },
        }
    }

    fn released(
        &self,
        waiting: &Waiting,
        raw: Vec<u8>,
        signed: Signed,
        expires_at: i64,
    ) -> Result<ReleaseChange, Error> {
        let message = &waiting.message;
        let mut prefix = without_signatures(&waiting.body.prefix)?;
        prefix.extend_from_slice(signed.field.as_bytes());
        let size = i64::try_from(prefix.len() + raw.len()).unwrap_or(i64::MAX);
        let details = json!({"domain": signed.row.domain, "selector": signed.row.selector});
        let events = in_order(vec![
            self.message_event(message, "message.signed", details),
            self.message_event(message, "message.queued", json!({})),
        ]);
        Ok(ReleaseChange {
            status: "queued".into(),
            signatures: vec![signed.row],
            body: Some(MessageBody { prefix, raw }),
            size: Some(size),
            waiting_reason: None,
            release_at: None,
            expires_at: Some(expires_at),
            events,
        })
    }

    pub(crate) fn message_event(&self, message: &MessageRow, kind: &str, details: serde_json::Value) -> EventRow {
        EventRow {
            id: self.fresh_id(),
            tenant_id: message.tenant_id.clone(),
            kind: kind.to_owned(),
            at: self.now_ms(),
            message_id: Some(message.id.clone()),
            recipient_id: None,
            domain: None,
            details,
        }
    }
}

/// Events of the same millisecond are listed by id: the ids are dealt out anew so that they follow the given order.
pub(super) fn in_order(mut events: Vec<EventRow>) -> Vec<EventRow> {
    let mut ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    ids.sort_unstable();
    for (event, id) in events.iter_mut().zip(ids) {
        event.id = id;
    }
    events
}

fn unsigned(status: &str, reason: Option<String>, release_at: Option<i64>) -> ReleaseChange {
    ReleaseChange {
        status: status.to_owned(),
        signatures: Vec::new(),
        body: None,
        size: None,
        waiting_reason: reason,
        release_at,
        expires_at: None,
        events: Vec::new(),
    }
}

/// A key row as custody and the signer want it.
pub(crate) fn key_parts(key: &KeyRow) -> Result<(KeyBinding, StoredKey, Signer), Error> {
    let damaged = |what: &str| Error::Internal(format!("stored key {}: {what}", key.id));
    let domain = SigningDomain::parse(&key.domain_name).map_err(|_| damaged("domain name"))?;
    let selector = Selector::parse(&key.selector).map_err(|_| damaged("selector"))?;
    let algorithm = KeyAlgorithm::parse(&key.algorithm).ok_or_else(|| damaged("algorithm"))?;
    let binding = KeyBinding {
        tenant: key.tenant_id.clone(),
        domain: domain.clone(),
        selector: selector.clone(),
        key_id: key.id.clone(),
    };
    let stored = StoredKey {
        reference: key.reference.clone(),
        sealed: key.sealed.clone(),
        public_key: stored_public_key(key)?,
        algorithm,
    };
    Ok((binding, stored, Signer { domain, selector, algorithm }))
}

/// Hash of a message's body as it will be signed.
pub(super) fn body_hash(raw: &[u8]) -> Result<BodyHash, Error> {
    let message = Message::parse(raw).map_err(|error| Error::Internal(error.to_string()))?;
    let mut hasher = BodyHasher::new(POLICY.body, None);
    hasher.update(message.body);
    Ok(hasher.finish())
}

/// Our prefix without its DKIM-Signature fields: what is left is Received.
fn without_signatures(prefix: &[u8]) -> Result<Vec<u8>, Error> {
    if prefix.is_empty() {
        return Ok(Vec::new());
    }
    let fields = Message::parse(prefix).map_err(|error| Error::Internal(format!("stored prefix: {error}")))?.fields;
    Ok(fields.iter().filter(|field| !field.is("DKIM-Signature")).flat_map(|field| field.raw.iter().copied()).collect())
}

/// The time stamp of RFC 5321 4.4, without a `for` clause: it would show Bcc recipients.
pub(super) fn received_field(hostname: &str, message_id: &str, now_ms: i64) -> String {
    let id = ids::public("msg", message_id);
    format!("Received: by {hostname} ({PRODUCT}) with HTTP\r\n\tid {id}; {}\r\n", raw::date_field(now_ms))
}

/// How our own Received fields name the product; loops are counted by it.
pub(super) const PRODUCT: &str = "Signpost";
