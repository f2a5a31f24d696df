//! One claimed message: is its signature still good, where does it go, the dialogue, and the outcome committed with its event.
use super::carrier::{Report, Route, Verdict};
use super::envelope::{Group, Plan, plan};
use super::mx::{Routing, Unroutable, relay_targets};
use super::outcome::Settling;
use super::payload::Payload;
use super::reply::{EnhancedCode, Reply};
use super::session::{RecipientResult, Transaction};
use super::tls::Security;
use super::wire::Trouble;
use super::worker::{HEARTBEAT, Worker};
use crate::Error;
use crate::messages::signing::Readiness;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use signpost_store::{ClaimedRecipient, Delivery, MessageBody, Outcome, ReleaseChange, StoreError};
use std::time::Duration;
use tokio::time::sleep;

/// A write that the database refuses for other reasons than being away is repeated after this.
const REFUSED: Duration = Duration::from_secs(60);
/// The last try is at `expires_at`; a claim that comes later than this behind it is no try any more.
const EXPIRY_GRACE_MS: i64 = 10 * 60_000;
/// An attempt that could not begin (signing, a message without octets) is repeated after this. A database that is away is waited for.
const NOT_BEGUN_MS: i64 = 60_000;
/// RFC 5321 6.3: at least 100 Received fields before a loop is assumed. Acceptance lets 100 pass, and then comes ours.
const MAX_HOPS: usize = 101;
/// A database that is away is asked again after this, and then less and less often (up to the time of a heartbeat).
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// One claimed message, from the claim to its settled outcomes.
    pub(super) async fn deliver(&self, delivery: &Delivery) {
        let now = self.engine.inner.clock.now_ms();
        if now > delivery.message.expires_at.saturating_add(EXPIRY_GRACE_MS) {
            return self.settle_all(delivery, |settling, recipient| settling.expired(recipient)).await;
        }
        let body = tokio::select! {
            body = self.ready_body(delivery) => body,
            // Custody may be slow to answer; what it says then comes too late.
            () = self.carrier.abort.cancelled() => {
                return self.settle_all(delivery, |settling, recipient| settling.give_back(recipient, now)).await;
            }
        };
        let Some(body) = body else { return };
        let payload = match checked(body) {
            Ok(payload) => payload,
            Err(reply) => return self.reject_all(delivery, &reply).await,
        };
        let settings = &self.engine.inner.settings;
        match plan(delivery, settings.delivery.relay.is_some(), settings.service_domain.as_ref()) {
            Ok(plan) => self.carry_out(delivery, &payload, plan).await,
            Err(cause) => {
                tracing::error!(message = %delivery.message.id, %cause, "no envelope sender");
                self.not_begun(delivery).await;
            }
        }
    }

    /// The octets to send, signed by keys that are still good; `None` if nothing is sent now (that is settled then).
    async fn ready_body(&self, delivery: &Delivery) -> Option<MessageBody> {
        let id = &delivery.message.id;
        let store = &self.engine.inner.store;
        let mut body = match self.persist(id, || store.delivery_body(id)).await {
            Ok(Some(body)) => body,
            Ok(None) => {
                tracing::error!(message = %id, "a claimed message has no body");
                self.not_begun(delivery).await;
                return None;
            }
            Err(cause) => {
                tracing::warn!(message = %id, %cause, "cannot read a message");
                self.not_begun(delivery).await;
                return None;
            }
        };
        match self.readiness(delivery, &body).await {
            Ok(Readiness::Good) => Some(body),
            Ok(Readiness::Resigned { prefix, signatures }) => {
                let size = i64::try_from(prefix.len() + body.raw.len()).unwrap_or(i64::MAX);
                match self.persist(id, || store.resign(&self.fence, id, &prefix, &signatures, size)).await {
                    Ok(()) => {
                        body.prefix = prefix;
                        Some(body)
                    }
                    Err(cause) => {
                        tracing::warn!(message = %id, %cause, "cannot store a new signature");
                        self.not_begun(delivery).await;
                        None
                    }
                }
            }
            Ok(Readiness::Wait { status, reason }) => {
                self.hold(delivery, status, reason).await;
                None
            }
            Ok(Readiness::Cancelled) => {
                self.settle_all(delivery, |settling, recipient| settling.cancelled(recipient)).await;
                None
            }
            Err(cause) => {
                tracing::warn!(message = %id, %cause, "cannot tell whether the signature is still good");
                self.not_begun(delivery).await;
                None
            }
        }
    }

    /// Asked again while the database is away.
    async fn readiness(&self, delivery: &Delivery, body: &MessageBody) -> Result<Readiness, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.engine.ready_to_send(delivery, body).await {
                Err(Error::StoreUnavailable) => self.pause(&mut pause).await.ok_or(Error::StoreUnavailable)?,
                other => return other,
            }
        }
    }

    async fn hold(&self, delivery: &Delivery, status: &'static str, reason: String) {
        let inner = &self.engine.inner;
        let now = inner.clock.now_ms();
        let details = serde_json::json!({ "status": status, "reason": reason });
        let change = ReleaseChange {
            status: status.to_owned(),
            signatures: Vec::new(),
            body: None,
            size: None,
            waiting_reason: Some(reason),
            release_at: Some(now + NOT_BEGUN_MS),
            expires_at: None,
            events: vec![self.settling(delivery).event("message.held", None, details)],
        };
        let id = &delivery.message.id;
        match self.persist(id, || inner.store.hold(&self.fence, id, &change, now)).await {
            Ok(()) => {}
            Err(cause @ (StoreError::Stale | StoreError::Unavailable(_))) => {
                tracing::warn!(message = %id, %cause, "a message was not put on hold; it becomes due again with the lease");
            }
            Err(
                cause @ (StoreError::InUse
                | StoreError::Conflict
                | StoreError::Contested
                | StoreError::Refused(_)
                | StoreError::Damaged(_)),
            ) => {
                tracing::error!(message = %id, %cause, "a message cannot be put on hold; it is given back");
                self.not_begun(delivery).await;
            }
        }
    }

    /// All groups at the same time; each is settled as soon as it has ended.
    async fn carry_out(&self, delivery: &Delivery, payload: &Payload, plan: Plan) {
        let unaddressable = plan.unaddressable.iter().filter_map(|(index, cause)| {
            let recipient = delivery.recipients.get(*index)?;
            let reply = Reply::ours(553, EnhancedCode::new(5, 1, 3), cause.clone());
            let report = Report::unrouted(RecipientResult::Rejected { reply, permanent: true });
            Some(self.settling(delivery).outcome(recipient, &report))
        });
        let outcomes: Vec<Outcome> = unaddressable.collect();
        if !outcomes.is_empty() {
            self.settle(delivery, &outcomes).await;
        }
        let mut under_way: FuturesUnordered<_> =
            plan.groups.iter().map(|group| self.carry_group(delivery, payload, group)).collect();
        while under_way.next().await.is_some() {}
    }

    async fn carry_group(&self, delivery: &Delivery, payload: &Payload, group: &Group) {
        let transactions: Vec<Transaction<'_>> = group
            .envelopes
            .iter()
            .map(|envelope| Transaction {
                mail_from: &envelope.mail_from,
                recipients: envelope.recipients.iter().map(|(_, mailbox)| mailbox).collect(),
                payload,
            })
            .collect();
        let for_all = |report| vec![report; group.envelopes.iter().map(|e| e.recipients.len()).sum()];
        let now = self.engine.inner.clock.now_ms();
        let place = group.domain.as_deref().map(|domain| self.carrier.crowd.enter(domain, now)).transpose();
        let reports = match place {
            Ok(_place) => {
                // The place is held while the message is carried.
                let route = tokio::select! {
                    route = self.route(group.domain.as_deref()) => route.map_err(unrouted),
                    () = self.carrier.abort.cancelled() => Err(aborted()),
                };
                match route {
                    Ok(route) => self.carrier.carry(&route, &transactions).await.into_iter().flatten().collect(),
                    Err(report) => for_all(report),
                }
            }
            Err(until) => for_all(Report { verdict: Verdict::Resting { until }, host: None, tls: None }),
        };
        let settling = self.settling(delivery);
        let recipients = group.envelopes.iter().flat_map(|envelope| &envelope.recipients);
        let outcomes: Vec<Outcome> = recipients
            .zip(&reports)
            .filter_map(|((index, _), report)| Some(settling.outcome(delivery.recipients.get(*index)?, report)))
            .collect();
        self.settle(delivery, &outcomes).await;
    }

    async fn route(&self, domain: Option<&str>) -> Result<Route, Unroutable> {
        let inner = &self.engine.inner;
        let settings = &inner.settings;
        match (&settings.delivery.relay, domain) {
            (Some(relay), _) => Ok(Route {
                targets: relay_targets(relay).await?,
                security: relay.tls.into(),
                credentials: relay.credentials.clone(),
                relay: true,
            }),
            (None, Some(domain)) => {
                let routing = Routing {
                    dns: &inner.dns,
                    guard: &settings.delivery.guard,
                    own_name: &settings.hostname,
                    port: settings.delivery.smtp_port,
                    random: inner.random.as_ref(),
                };
                let targets = routing.targets(domain).await?;
                Ok(Route { targets, security: Security::Opportunistic, credentials: None, relay: false })
            }
            (None, None) => Err(Unroutable::Temporary("no relay is set".to_owned())),
        }
    }

    fn settling<'a>(&'a self, delivery: &'a Delivery) -> Settling<'a> {
        let inner = &self.engine.inner;
        Settling { message: &delivery.message, clock: inner.clock.as_ref(), random: inner.random.as_ref() }
    }

    async fn not_begun(&self, delivery: &Delivery) {
        let at = self.engine.inner.clock.now_ms() + NOT_BEGUN_MS;
        self.settle_all(delivery, |settling, recipient| settling.give_back(recipient, at)).await;
    }

    async fn reject_all(&self, delivery: &Delivery, reply: &Reply) {
        let report = Report::unrouted(RecipientResult::Rejected { reply: reply.clone(), permanent: true });
        self.settle_all(delivery, |settling, recipient| settling.outcome(recipient, &report)).await;
    }

    pub(super) async fn settle_all(
        &self,
        delivery: &Delivery,
        outcome: impl Fn(&Settling<'_>, &ClaimedRecipient) -> Outcome,
    ) {
        let settling = self.settling(delivery);
        let outcomes: Vec<Outcome> =
            delivery.recipients.iter().map(|recipient| outcome(&settling, recipient)).collect();
        self.settle(delivery, &outcomes).await;
    }

    /// Commits outcomes with their events. Under a lost lease the store refuses them: whoever has the message now decides.
    /// Outcomes that it refuses for another reason are tried without their events, which are all that it can object to, and
    /// in the end again and again, so that no recipient stays `sending` unnoticed.
    pub(super) async fn settle(&self, delivery: &Delivery, outcomes: &[Outcome]) {
        let inner = &self.engine.inner;
        let id = &delivery.message.id;
        let mut outcomes = outcomes.to_vec();
        loop {
            let settled =
                self.persist(id, || inner.store.settle(&self.fence, id, &outcomes, inner.clock.now_ms())).await;
            let bare = outcomes.iter().all(|outcome| outcome.event.is_none());
            match settled {
                Ok(()) => return log(id, &outcomes),
                Err(StoreError::Stale) => {
                    return tracing::warn!(message = %id, "outcome dropped: the lease was lost, another worker has the message");
                }
                Err(StoreError::Unavailable(cause)) => {
                    return tracing::error!(message = %id, %cause, "outcome not committed before the stop; the message may be sent again");
                }
                Err(
                    cause @ (StoreError::InUse
                    | StoreError::Conflict
                    | StoreError::Contested
                    | StoreError::Refused(_)
                    | StoreError::Damaged(_)),
                ) => {
                    tracing::error!(message = %id, %cause, without_event = bare, "outcome refused; it is tried again without its event");
                }
            }
            outcomes.iter_mut().for_each(|outcome| outcome.event = None);
            if bare {
                tokio::select! {
                    () = self.given_up.cancelled() => return,
                    () = sleep(REFUSED) => {}
                }
            }
        }
    }

    /// Repeats a read or a write while the database is away, until this process ends.
    async fn persist<T, F>(&self, message: &str, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            let cause = match work().await {
                Err(StoreError::Unavailable(cause)) => cause,
                other => return other,
            };
            tracing::warn!(message, %cause, "the database is away, trying again");
            if self.pause(&mut pause).await.is_none() {
                return Err(StoreError::Unavailable(cause));
            }
        }
    }

    /// Ever longer pauses; `None` if nothing more is to be tried.
    async fn pause(&self, pause: &mut Duration) -> Option<()> {
        tokio::select! {
            () = self.given_up.cancelled() => None,
            () = sleep(*pause) => {
                *pause = (*pause * 2).min(HEARTBEAT);
                Some(())
            }
        }
    }
}

fn log(message: &str, outcomes: &[Outcome]) {
    for outcome in outcomes {
        tracing::info!(message, recipient = %outcome.recipient_id, status = %outcome.status, "delivery attempt settled");
    }
}

/// The sending rules once more, and loops (RFC 5321 6.3).
fn checked(body: MessageBody) -> Result<Payload, Reply> {
    let payload = Payload::new(body.prefix, body.raw).map_err(|cause| {
        Reply::ours(554, EnhancedCode::new(5, 6, 0), format!("the message cannot be sent: {cause}"))
    })?;
    if payload.hops() > MAX_HOPS {
        let text = format!("the message has more than {MAX_HOPS} Received fields: it is in a loop");
        return Err(Reply::ours(554, EnhancedCode::new(5, 4, 6), text));
    }
    Ok(payload)
}

fn aborted() -> Report {
    Report::unrouted(RecipientResult::ConnectionTrouble { trouble: Trouble::Aborted, uncertain: false })
}

fn unrouted(unroutable: Unroutable) -> Report {
    Report::unrouted(match unroutable {
        Unroutable::Permanent(reply) => RecipientResult::Rejected { reply, permanent: true },
        Unroutable::Temporary(cause) => {
            RecipientResult::ConnectionTrouble { trouble: Trouble::Route(cause), uncertain: false }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_in_a_loop_or_unfit_to_send_is_never_offered() {
        let message = |hops: usize, body: &str| MessageBody {
            prefix: b"Received: by us\r\n".to_vec(),
            raw: format!("{}From: a@example.com\r\n\r\n{body}", "Received: by x\r\n".repeat(hops)).into_bytes(),
        };
        assert!(checked(message(100, "x\r\n")).is_ok(), "what was accepted with 100 can leave with ours");
        let code = |body| checked(body).err().and_then(|reply| reply.enhanced).map(|code| code.to_string());
        assert_eq!(code(message(101, "x\r\n")).as_deref(), Some("5.4.6"));
        assert_eq!(code(message(1, "x\n.\r\n")).as_deref(), Some("5.6.0"));
    }
}
