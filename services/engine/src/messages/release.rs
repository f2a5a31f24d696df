//! Release of what waits: messages that are scheduled and due, held, or awaiting their signature.
use super::raw;
use super::signing::{DISABLED, NOT_PROVEN, RECORD_WRONG, Signed, in_order, is_record_wrong, without_signatures};
use crate::domains::states;
use crate::{Engine, Error};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use signpost_store::{Fence, MessageBody, ReleaseChange, StoreError, Waiting};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A message that waits is looked at again after so long.
const WAIT_RETRY_MS: i64 = 30 * 1000;
/// One that could not be looked at because the database was away.
const AWAY_RETRY_MS: i64 = 2 * 1000;
/// A waiting message makes us read its key's record again, at most so often per key.
const REREAD_MS: i64 = 25 * 1000;
/// One that waits for a change of its domain's state, the longer it waits.
const SELDOM_MS: i64 = 300 * 1000;
const RELEASE_BATCH: u32 = 50;
/// A domain whose key signs slowly keeps a pass for so long; what is left of its messages has its turn in the next one.
const PASS_SHARE_MS: i64 = 1_000;
/// A release that the database could not commit is tried again after this, and then less and less often.
const RELEASE_PAUSE: Duration = Duration::from_millis(100);
const RELEASE_PAUSE_AT_MOST: Duration = Duration::from_secs(5);

impl Engine {
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
        // Whoever changes the state of a domain hurries its mail; until then there is other mail to look at.
        let seldom = Some(now + (now - message.created_at).clamp(WAIT_RETRY_MS, SELDOM_MS));
        let domain = self.inner.store.domain(&message.tenant_id, &message.domain_id).await?;
        match domain {
            None => return Ok(unsigned("cancelled", Some("the domain was deleted".into()), None)),
            Some(domain) if domain.ownership != "verified" => {
                return Ok(keep_waiting("held", NOT_PROVEN.into(), seldom));
            }
            Some(domain) if domain.signing == "disabled" => {
                return Ok(keep_waiting("held", DISABLED.into(), seldom));
            }
            Some(domain) if is_record_wrong(&domain) => {
                return Ok(keep_waiting("held", RECORD_WRONG.into(), seldom));
            }
            Some(_) => {}
        }
        let keys = self.inner.store.delivery_keys(&message.domain_id).await?;
        // DESIGN: Date = release for scheduled and held mail; the same Date where only custody was away.
        let raw = match message.status.as_str() {
            "scheduled" | "held" => raw::redate(&waiting.body.raw, now),
            _ => waiting.body.raw.clone(),
        };
        match self.sign_with_active_keys(&keys, &raw).await {
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
        let details = signed.told();
        let mut prefix = without_signatures(&waiting.body.prefix)?;
        let signatures = signed.add_to(&mut prefix);
        let size = i64::try_from(prefix.len() + raw.len()).unwrap_or(i64::MAX);
        let events = in_order(vec![
            self.message_event(message, "message.signed", details),
            self.message_event(message, "message.queued", json!({})),
        ]);
        Ok(ReleaseChange {
            status: "queued".into(),
            signatures,
            body: Some(MessageBody { prefix, raw }),
            size: Some(size),
            waiting_reason: None,
            release_at: None,
            expires_at: Some(expires_at),
            events,
        })
    }
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
