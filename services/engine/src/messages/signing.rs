//! Signing: draft, custody, self-check against the published key; again before delivery.
use super::raw;
use super::signers::{ActiveKey, Signers};
use crate::domains::states;
use crate::{Engine, Error, ids};
use futures_util::future::join;
use serde_json::json;
use signpost_dkim::canonical::{BodyHash, BodyHasher};
use signpost_dkim::message::Message;
use signpost_dkim::record::PublicKey;
use signpost_dkim::sign::{self, Policy};
use signpost_keys::{CustodyKind, KeyBinding, StoredKey};
use signpost_store::{Delivery, DomainRow, EventRow, KeyRow, MessageBody, MessageRow, SignatureRow};
use std::sync::LazyLock;

/// What is signed and how; the same for every domain so far.
static POLICY: LazyLock<Policy> = LazyLock::new(Policy::default);

/// DESIGN "Published keys": while DNS gives no answer the last p= stays good for so long.
const PUBLISHED_GOOD_MS: i64 = 72 * 3600 * 1000;
/// Why mail waits, in words for the tenant.
pub(super) const NOT_PROVEN: &str = "the domain is no longer proven by this tenant";
pub(super) const DISABLED: &str = "signing is disabled for the domain";
pub(super) const RECORD_WRONG: &str =
    "DNS does not serve the right record of the key that signs; signing goes on as soon as it does";

/// What the worker must know before an attempt.
#[derive(Debug)]
pub enum Readiness {
    /// Every signature's key is active or retiring: send as it is.
    Good,
    /// The signatures were replaced by those of the active keys: store (`Store::resign`), then send.
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
pub(super) struct Signature {
    /// The whole DKIM-Signature field with its final CRLF.
    pub(super) field: String,
    pub(super) row: SignatureRow,
}

/// The signatures of a message.
pub(super) struct Signed {
    first: Signature,
    beside: Beside,
}

/// What became of the signature by the second key.
enum Beside {
    /// One key signs.
    None,
    Signature(Signature),
    /// It could not be made now. Mail goes with the first one all the same.
    LeftOut {
        selector: String,
        reason: String,
    },
}

impl Signed {
    /// From the top of the message on: the RSA signature comes before the other, as some receivers look at the first one only.
    pub(super) fn into_signatures(self) -> impl Iterator<Item = Signature> {
        let second = match self.beside {
            Beside::Signature(second) => Some(second),
            Beside::None | Beside::LeftOut { .. } => None,
        };
        std::iter::once(self.first).chain(second)
    }

    /// Puts the fields behind what stands there already.
    pub(super) fn add_to(self, prefix: &mut Vec<u8>) -> Vec<SignatureRow> {
        let add = |signature: Signature| {
            prefix.extend_from_slice(signature.field.as_bytes());
            signature.row
        };
        self.into_signatures().map(add).collect()
    }

    /// The details of `message.signed`.
    pub(super) fn told(&self) -> serde_json::Value {
        let SignatureRow { domain, selector, .. } = &self.first.row;
        match &self.beside {
            Beside::None => json!({"domain": domain, "selector": selector}),
            Beside::Signature(second) => {
                json!({"domain": domain, "selector": selector, "selectors": [selector, second.row.selector]})
            }
            Beside::LeftOut { selector: other, reason } => {
                let left_out = json!({"selector": other, "reason": reason});
                json!({"domain": domain, "selector": selector, "selectors": [selector], "left_out": left_out})
            }
        }
    }
}

/// What all signatures of a message have in common.
struct Work<'a> {
    message: &'a Message<'a>,
    body: &'a BodyHash,
    /// Seconds.
    now: u64,
}

/// Why there is no signature now. Mail waits; it is never sent without one.
#[derive(Debug)]
pub(super) enum NotSigned {
    /// `held`: the published record does not fit, or nothing is known of it any more.
    Held(String),
    /// `awaiting_signature`: no key of the domain signs.
    NoKey(String),
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
            Self::NoKey(reason) | Self::Awaiting(reason) => Ok(("awaiting_signature", reason, None)),
            Self::Later(reason, at) => Ok(("awaiting_signature", reason, Some(at))),
            Self::Failed(error) => Err(error),
        }
    }
}

/// docs/watching.md: nothing is signed, and nothing leaves, while receivers would not find the key.
pub(super) fn is_record_wrong(domain: &DomainRow) -> bool {
    domain.signing == "suspended" && domain.signing_reason.as_deref() == Some("record_wrong")
}

impl Engine {
    /// Signs `raw` with the active keys of `keys`, and verifies the signatures against the p= last read from DNS.
    pub(super) async fn sign_with_active_keys(&self, keys: &[KeyRow], raw: &[u8]) -> Result<Signed, NotSigned> {
        self.sign_with(&Signers::among(keys)?, raw, None).await
    }

    /// Signs `raw`, whose body hash may be known already, and verifies each signature against the p= last read from DNS.
    ///
    /// With two keys (RFC 8463 5) the first one decides: mail waits for it as if it were alone, since with the other signature alone
    /// it would be unsigned to receivers that do not know Ed25519. The second signature is a gain where it can be made, and nothing is
    /// kept waiting for it.
    pub(super) async fn sign_with(
        &self,
        signers: &Signers,
        raw: &[u8],
        body: Option<&BodyHash>,
    ) -> Result<Signed, NotSigned> {
        let published = self.usable(&signers.first)?;
        let message = Message::parse(raw).map_err(|error| internal(&error))?;
        let hashed;
        let body = match body {
            Some(body) => body,
            None => {
                hashed = hash(&message);
                &hashed
            }
        };
        let work = Work { message: &message, body, now: self.inner.clock.now_s() };
        match &signers.second {
            None => Ok(Signed { first: self.signature(&signers.first, published, &work).await?, beside: Beside::None }),
            // On the heap, so that signing with one key takes no room for two.
            Some(second) => Box::pin(self.signatures(&signers.first, published, second, &work)).await,
        }
    }

    /// Both at the same time: each may be a call to a KMS.
    async fn signatures(
        &self,
        first: &ActiveKey,
        published: &PublicKey,
        second: &ActiveKey,
        work: &Work<'_>,
    ) -> Result<Signed, NotSigned> {
        let beside = async { self.signature(second, self.usable(second)?, work).await };
        let (first, beside) = join(self.signature(first, published, work), beside).await;
        let first = first?;
        let beside = match beside {
            Ok(signature) => Beside::Signature(signature),
            Err(
                NotSigned::Held(reason)
                | NotSigned::NoKey(reason)
                | NotSigned::Awaiting(reason)
                | NotSigned::Later(reason, _),
            ) => {
                self.inner.left_out.tell(&second.row, &reason, self.now_ms());
                Beside::LeftOut { selector: second.row.selector.clone(), reason }
            }
            Err(failed @ NotSigned::Failed(_)) => return Err(failed),
        };
        Ok(Signed { first, beside })
    }

    /// The published key that a signature is verified with, if the key can be asked for one now.
    fn usable<'k>(&self, key: &'k ActiveKey) -> Result<&'k PublicKey, NotSigned> {
        let published = self.published_key(key).map_err(NotSigned::Held)?;
        match self.inner.outages.reason(&key.row.id) {
            Some(reason) => Err(NotSigned::Awaiting(reason)),
            None => Ok(published),
        }
    }

    async fn signature(&self, key: &ActiveKey, published: &PublicKey, work: &Work<'_>) -> Result<Signature, NotSigned> {
        let ActiveKey { row, binding, stored, signer, .. } = key;
        let draft = sign::prepare_streamed(work.message, work.body, signer, &POLICY, work.now);
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
        Ok(Signature { field: draft.finish(&signature), row })
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
            return Err(not_usable(row));
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
        if is_record_wrong(&domain) {
            return Ok(Readiness::Wait { status: "held", reason: RECORD_WRONG.into() });
        }
        let keys = self.inner.store.delivery_keys(&message.domain_id).await?;
        let is_good =
            |signature: &SignatureRow| keys.iter().any(|key| key.id == signature.key_id && states::still_stands(key));
        if !message.signatures.is_empty() && message.signatures.iter().all(is_good) {
            // What is known of its record may change before the domain is suspended for it.
            let needed = states::signing_keys(&keys).next();
            let gone = needed.filter(|key| key.published_p.as_deref() == Some(""));
            let signed_by = |key: &KeyRow| message.signatures.iter().any(|signature| signature.key_id == key.id);
            return Ok(match gone.filter(|key| signed_by(key)) {
                Some(key) => Readiness::Wait { status: "held", reason: not_usable(key) },
                None => Readiness::Good,
            });
        }
        if domain.signing == "disabled" {
            return Ok(Readiness::Wait { status: "held", reason: DISABLED.into() });
        }
        match self.sign_with_active_keys(&keys, &body.raw).await {
            Ok(signed) => {
                let mut prefix = without_signatures(&body.prefix)?;
                let signatures = signed.add_to(&mut prefix);
                Ok(Readiness::Resigned { prefix, signatures })
            }
            Err(not_signed) => {
                let (status, reason, _) = not_signed.waiting()?;
                Ok(Readiness::Wait { status, reason })
            }
        }
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

fn not_usable(key: &KeyRow) -> String {
    format!("DNS does not serve a usable record at {}._domainkey.{}", key.selector, key.domain_name)
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

/// Hash of a message's body as it will be signed.
pub(super) fn body_hash(raw: &[u8]) -> Result<BodyHash, Error> {
    let message = Message::parse(raw).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(hash(&message))
}

fn hash(message: &Message<'_>) -> BodyHash {
    let mut hasher = BodyHasher::new(POLICY.body, None);
    hasher.update(message.body);
    hasher.finish()
}

fn internal(error: &dyn std::fmt::Display) -> NotSigned {
    NotSigned::Failed(Error::Internal(error.to_string()))
}

/// Our prefix without its DKIM-Signature fields: what is left is Received.
pub(super) fn without_signatures(prefix: &[u8]) -> Result<Vec<u8>, Error> {
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
