//! Messages: compose or accept raw, authorize, sign, commit.
mod authorize;
#[cfg(test)]
pub(crate) mod bench;
#[cfg(test)]
mod cases;
pub mod compose;
pub(crate) mod left_out;
pub mod raw;
mod release;
pub mod request;
pub(crate) mod signers;
pub mod signing;
#[cfg(test)]
mod waiting_tests;

use crate::domains::CheckView;
use crate::rows::{
    Begin, DomainRow, EventRow, IdempotencyScope, MessageBody, MessageRow, Page, RecipientRow, SignatureRow,
    StoredAnswer,
};
use crate::usage::Used;
use crate::{Caller, Engine, Error, FieldError, Scope};
use authorize::{Speech, Spoken};
use aws_lc_rs::digest;
use raw::RawEnvelope;
use request::{ComposeContext, MessageRequest, Prepared};
use serde_json::json;
use signers::Authority;
use signing::{NotSigned, Signed};
use signpost_diagnosis::evaluate::wants_strict_dkim;
use signpost_dkim::canonical::BodyHash;
use signpost_dkim::message::{Field, Message};
use signpost_dkim::{Mailbox, SigningDomain};
use signpost_store::NewMessage;
use std::sync::Arc;

/// A message with its recipients.
pub type MessageView = (MessageRow, Vec<RecipientRow>);

/// The idempotency row that acceptance completes in its own transaction. `render` gives the answer that is frozen and sent.
pub struct Idempotency<'a> {
    /// Tenant, method, path, key.
    pub scope: IdempotencyScope,
    /// The 202 for a message.
    pub render: &'a (dyn Fn(&MessageView) -> StoredAnswer + Send + Sync),
}

/// POST /sign.
#[derive(Debug, Clone)]
pub struct SignedMessage {
    /// Fields to prepend, each with folds and final CRLF.
    pub prepend: Vec<String>,
    /// The same as data.
    pub signatures: Vec<SignatureRow>,
    /// The message as it came in.
    pub raw: Vec<u8>,
}

/// A message of more octets is built, checked and hashed off the async workers.
const WORKED_INLINE: usize = 1_000_000;

/// A mail loop: so many Received fields of our own (RFC 5321 6.3 leaves the number open for a single host).
const OWN_RECEIVED_LIMIT: usize = 5;

impl Engine {
    /// POST /messages. Scope messages:send.
    pub async fn send(
        &self,
        caller: &Caller,
        request: MessageRequest,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<MessageView, Error> {
        caller.require(Scope::MessagesSend)?;
        let places = Places {
            from: FieldError::at("/from", ALLOWED_DETAIL),
            sender: FieldError::at("/headers/Sender", ALLOWED_DETAIL),
            mail_from: FieldError::at("/mail_from", ALLOWED_DETAIL),
        };
        let extras = Extras { tags: json!(request.tags), metadata: metadata_object(&request.metadata) };
        let composed = self.prepare(request.octets(), move |context| compose::compose(request, context));
        let prepared = composed.await?;
        self.accept(caller, prepared, places, extras, idempotency).await
    }

    /// POST /messages/raw. Scope messages:send.
    pub async fn send_raw(
        &self,
        caller: &Caller,
        raw: Vec<u8>,
        envelope: RawEnvelope,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<MessageView, Error> {
        caller.require(Scope::MessagesSend)?;
        let prepared = self.prepare(raw.len(), move |context| raw::prepare_raw(raw, &envelope, context)).await?;
        self.refuse_loop(&prepared.raw)?;
        let places = raw_places();
        let extras = Extras { tags: json!([]), metadata: json!({}) };
        self.accept(caller, prepared, places, extras, idempotency).await
    }

    /// POST /sign. Nothing is stored but a count, in batches. Scope sign.
    pub async fn sign(&self, caller: &Caller, raw: Vec<u8>) -> Result<SignedMessage, Error> {
        caller.require(Scope::Sign)?;
        let prepared = self.prepare(raw.len(), move |context| raw::prepare_for_sign(raw, context)).await?;
        let authority = self.authority(caller, &prepared, raw_places()).await?;
        match self.sign_prepared(&authority, &prepared).await {
            Ok(signed) => {
                self.count(&caller.tenant_id, Used::Signature);
                let signed = signed.into_signatures().map(|signature| (signature.field, signature.row));
                let (prepend, signatures) = signed.unzip();
                Ok(SignedMessage { prepend, signatures, raw: prepared.message.raw })
            }
            Err(NotSigned::Held(reason) | NotSigned::NoKey(reason)) => Err(Error::SigningSuspended(reason)),
            Err(NotSigned::Awaiting(reason) | NotSigned::Later(reason, _)) => {
                tracing::warn!(domain = %authority.domain.name, reason, "no signature for /sign");
                Err(if self.is_sealed() { Error::Sealed } else { Error::KeyUnavailable })
            }
            Err(NotSigned::Failed(error)) => Err(error),
        }
    }

    /// Scope messages:read.
    pub async fn message(&self, caller: &Caller, id: &str) -> Result<MessageView, Error> {
        caller.require(Scope::MessagesRead)?;
        self.inner.store.message(&caller.tenant_id, id).await?.ok_or(Error::NotFound("message"))
    }

    /// Newest first, optional status. Scope messages:read.
    pub async fn messages(
        &self,
        caller: &Caller,
        status: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<MessageView>, Error> {
        caller.require(Scope::MessagesRead)?;
        Ok(self.inner.store.messages(&caller.tenant_id, status, after, limit).await?)
    }

    /// The octets as sent; unsigned while the message waits for its signature. Scope messages:read.
    pub async fn message_raw(&self, caller: &Caller, id: &str) -> Result<Vec<u8>, Error> {
        caller.require(Scope::MessagesRead)?;
        let body = self.inner.store.message_body(&caller.tenant_id, id).await?.ok_or(Error::NotFound("message"))?;
        let mut octets = body.prefix;
        octets.extend_from_slice(&body.raw);
        Ok(octets)
    }

    /// Oldest first. Scope messages:read.
    pub async fn message_events(
        &self,
        caller: &Caller,
        id: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<EventRow>, Error> {
        caller.require(Scope::MessagesRead)?;
        let events = self.inner.store.message_events(&caller.tenant_id, id, after, limit).await?;
        events.ok_or(Error::NotFound("message"))
    }

    /// Starts an idempotent request; `body` is the raw request body.
    pub async fn begin_idempotent(&self, scope: &IdempotencyScope, body: &[u8]) -> Result<Begin, Error> {
        let hash = digest::digest(&digest::SHA256, body);
        Ok(self.inner.store.begin_idempotent(scope, hash.as_ref(), self.now_ms()).await?)
    }

    /// While an idempotent request is being worked on, every 5 s: one that is not renewed belongs to a process that died.
    pub async fn renew_idempotent(&self, scope: &IdempotencyScope) -> Result<(), Error> {
        Ok(self.inner.store.renew_idempotent(scope, self.now_ms()).await?)
    }

    /// Freezes a 4xx.
    pub async fn finish_idempotent(&self, scope: &IdempotencyScope, answer: &StoredAnswer) -> Result<(), Error> {
        Ok(self.inner.store.finish_idempotent(scope, answer, self.now_ms()).await?)
    }

    /// After a 5xx.
    pub async fn abandon_idempotent(&self, scope: &IdempotencyScope) -> Result<(), Error> {
        Ok(self.inner.store.abandon_idempotent(scope).await?)
    }

    /// Drops idempotency rows older than 7 days. Called every hour.
    pub async fn expire_idempotent(&self) -> Result<u64, Error> {
        Ok(self.inner.store.expire_idempotent(self.now_ms()).await?)
    }

    fn compose_context(&self) -> ComposeContext<'_> {
        ComposeContext {
            now_ms: self.now_ms(),
            random: self.inner.random.as_ref(),
            max_message: self.inner.settings.max_message,
        }
    }

    /// Makes a message ready, and hashes its body if that takes long: both off the async workers then. `octets` is about what
    /// is to be worked on.
    async fn prepare(
        &self,
        octets: usize,
        work: impl FnOnce(&ComposeContext<'_>) -> Result<Prepared, Error> + Send + 'static,
    ) -> Result<Hashed, Error> {
        if octets <= WORKED_INLINE {
            return Ok(Hashed { message: work(&self.compose_context())?, body: None });
        }
        let engine = self.clone();
        let working = tokio::task::spawn_blocking(move || {
            let message = work(&engine.compose_context())?;
            let body = Some(signing::body_hash(&message.raw)?);
            Ok(Hashed { message, body })
        });
        // The join error is left out: a panic's text is not ours to show.
        working.await.map_err(|_| Error::Internal("the work on a large message was broken off".to_owned()))?
    }

    /// What `authorize` says of a message, and the keys of the domain that sign. For a message that speaks for its From only,
    /// which is nearly every one, the answer is kept for a moment.
    async fn authority(&self, caller: &Caller, prepared: &Prepared, places: Places) -> Result<Arc<Authority>, Error> {
        let reading = self.reading();
        let speaks_for = (caller.tenant_id.clone(), prepared.from.domain().clone());
        let for_from_only = prepared.sender.is_none() && prepared.mail_from.is_none();
        if for_from_only && let Some(known) = self.inner.authorities.get(&speaks_for, reading) {
            return Ok(known);
        }
        let mut others = Vec::new();
        if let Some(sender) = &prepared.sender {
            others.push(Spoken { domain: sender.domain(), place: places.sender });
        }
        if let Some(mail_from) = &prepared.mail_from {
            others.push(Spoken { domain: mail_from.domain(), place: places.mail_from });
        }
        let from = Spoken { domain: prepared.from.domain(), place: places.from };
        let domain = self.authorize(&caller.tenant_id, Speech { from, others }).await?;
        let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
        let mut authority = Authority::new(domain, &keys)?;
        authority.warnings.extend(self.warn_of_alignment(&authority.domain, prepared.from.domain()).await?);
        let authority = Arc::new(authority);
        if for_from_only {
            self.inner.authorities.put(speaks_for, Arc::clone(&authority), reading);
        }
        Ok(authority)
    }

    /// RFC 7489 3.1.1: with adkim=s a signature by the domain above that of From counts for nothing. As the last check found the policy:
    /// a request does not wait for DNS.
    async fn warn_of_alignment(&self, domain: &DomainRow, from: &SigningDomain) -> Result<Option<String>, Error> {
        if from.as_str() == domain.name {
            return Ok(None);
        }
        let Some(check) = self.inner.store.last_check(&domain.tenant_id, &domain.id).await? else { return Ok(None) };
        let is_strict = CheckView::from_row(&check)?.policies().any(wants_strict_dkim);
        Ok(is_strict.then(|| {
            let name = &domain.name;
            format!(
                "the DMARC record of {name} wants strict alignment (adkim=s): the signature d={name} does not align with From {from}, and \
                 DMARC fails unless {from} has a policy of its own; register {from} as a domain, or publish adkim=r"
            )
        }))
    }

    async fn sign_prepared(&self, authority: &Authority, prepared: &Hashed) -> Result<Signed, NotSigned> {
        self.sign_with(authority.signers()?, &prepared.message.raw, prepared.body.as_ref()).await
    }

    /// Authorize, sign, commit: the spine. What cannot be signed now is committed as waiting.
    async fn accept(
        &self,
        caller: &Caller,
        prepared: Hashed,
        places: Places,
        extras: Extras,
        idempotency: Option<Idempotency<'_>>,
    ) -> Result<MessageView, Error> {
        let authority = self.authority(caller, &prepared, places).await?;
        let now = self.now_ms();
        let id = self.fresh_id();
        let mut prefix = signing::received_field(&self.inner.settings.hostname, &id, now).into_bytes();
        let (mut signatures, mut signed_details) = (Vec::new(), None);
        let scheduled_for = prepared.send_at_ms.filter(|at| *at > now);
        let (status, waiting_reason, release_at) = if let Some(at) = scheduled_for {
            ("scheduled", None, Some(at))
        } else {
            match self.sign_prepared(&authority, &prepared).await {
                Ok(signed) => {
                    signed_details = Some(signed.told());
                    signatures = signed.add_to(&mut prefix);
                    ("queued", None, None)
                }
                Err(not_signed) => {
                    let (status, reason, until) = not_signed.waiting()?;
                    (status, Some(reason), Some(until.unwrap_or(now)))
                }
            }
        };
        let mut prepared = prepared.message;
        prepared.warnings.extend(authority.warnings.iter().cloned());
        let message = MessageRow {
            tenant_id: caller.tenant_id.clone(),
            message_id: prepared.message_id,
            status: status.into(),
            from: prepared.from.address(),
            subject: prepared.subject,
            size: i64::try_from(prefix.len() + prepared.raw.len()).unwrap_or(i64::MAX),
            domain_id: authority.domain.id.clone(),
            mail_from: prepared.mail_from.map(|mailbox| mailbox.address()),
            signatures,
            tags: extras.tags,
            metadata: extras.metadata,
            warnings: json!(prepared.warnings),
            waiting_reason,
            release_at,
            expires_at: now + self.inner.settings.queue_lifetime_ms,
            created_at: now,
            id,
        };
        let recipients: Vec<_> =
            prepared.recipients.iter().map(|mailbox| self.recipient(&message, mailbox, now)).collect();
        let events = self.acceptance_events(&message, signed_details);
        let view = (message, recipients);
        let idempotency = idempotency.map(|idempotency| {
            let answer = (idempotency.render)(&view);
            (idempotency.scope, answer)
        });
        let (message, recipients) = view.clone();
        let details = json!({"status": message.status, "recipients": recipients.len()});
        let new = NewMessage {
            audit: Some(self.audit(caller, "message.accepted", &message.id, details)),
            body: MessageBody { prefix, raw: prepared.raw },
            message,
            recipients,
            events,
            idempotency,
        };
        self.inner.store.accept_message(new).await?;
        self.count(&caller.tenant_id, Used::Message);
        Ok(view)
    }

    fn recipient(&self, message: &MessageRow, mailbox: &Mailbox, now: i64) -> RecipientRow {
        RecipientRow {
            id: self.fresh_id(),
            message_id: message.id.clone(),
            address: mailbox.address(),
            domain: mailbox.domain().to_string(),
            status: message.status.clone(),
            attempts: 0,
            uncertain: false,
            last_reply: None,
            next_attempt_at: (message.status == "queued").then_some(now),
        }
    }

    /// `signed`: the details of its signatures, if it was signed.
    fn acceptance_events(&self, message: &MessageRow, signed: Option<serde_json::Value>) -> Vec<EventRow> {
        let mut events = vec![self.message_event(message, "message.accepted", json!({"size": message.size}))];
        if let Some(details) = signed {
            events.push(self.message_event(message, "message.signed", details));
            events.push(self.message_event(message, "message.queued", json!({})));
        } else if let Some(reason) = &message.waiting_reason {
            let details = json!({"status": message.status, "reason": reason});
            events.push(self.message_event(message, "message.held", details));
        }
        signing::in_order(events)
    }

    fn refuse_loop(&self, raw: &[u8]) -> Result<(), Error> {
        let message = Message::parse(raw).map_err(|error| Error::Internal(format!("prepared message: {error}")))?;
        let ours = format!("by {} ({})", self.inner.settings.hostname, signing::PRODUCT);
        let is_ours = |field: &&Field<'_>| String::from_utf8_lossy(field.value).contains(&ours);
        let passes: Vec<_> = message.all("Received").filter(is_ours).collect();
        match passes.first() {
            Some(first) if passes.len() >= OWN_RECEIVED_LIMIT => Err(Error::Invalid(vec![FieldError::in_header(
                "Received",
                first.line,
                format!(
                    "this message went through this server {} times already: a mail loop (RFC 5321 6.3)",
                    passes.len()
                ),
            )])),
            _ => Ok(()),
        }
    }
}

/// Where a request names the domains that it speaks for.
struct Places {
    from: FieldError,
    sender: FieldError,
    mail_from: FieldError,
}

/// A message that is ready to be signed.
struct Hashed {
    message: Prepared,
    /// Of a large message.
    body: Option<BodyHash>,
}

impl std::ops::Deref for Hashed {
    type Target = Prepared;
    fn deref(&self) -> &Prepared {
        &self.message
    }
}

/// What is kept beside the message.
struct Extras {
    tags: serde_json::Value,
    metadata: serde_json::Value,
}

/// The same text for every cause, and without the domain (DESIGN "authorize").
const ALLOWED_DETAIL: &str =
    "the domain of this address must be one that this tenant has registered, verified and enabled";

fn metadata_object(pairs: &[(String, String)]) -> serde_json::Value {
    pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

/// Without line numbers: fields were taken out of `Prepared::raw`, its lines are not those of the request.
fn raw_places() -> Places {
    let place = |name: &str| FieldError {
        pointer: None,
        header: Some(name.to_owned()),
        line: None,
        detail: ALLOWED_DETAIL.to_owned(),
    };
    Places { from: place("From"), sender: place("Sender"), mail_from: FieldError::at("/mail_from", ALLOWED_DETAIL) }
}
