//! From a report to what the store commits: the recipient's new state and its event.
use super::carrier::{Report, Verdict};
use super::reply::Reply;
use super::retry::{Cause, Next, next};
use super::session::RecipientResult;
use super::wire::Trouble;
use crate::{Clock, ids};
use serde_json::{Map, Value, json};
use signpost_keys::Random;
use signpost_store::{ClaimedRecipient, EventRow, MessageRow, Outcome};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What outcomes of one message have in common.
pub(super) struct Settling<'a> {
    pub(super) message: &'a MessageRow,
    pub(super) clock: &'a dyn Clock,
    pub(super) random: &'a dyn Random,
}

impl Settling<'_> {
    /// The outcome of an attempt.
    pub(super) fn outcome(&self, recipient: &ClaimedRecipient, report: &Report) -> Outcome {
        match &report.verdict {
            Verdict::Resting { until } => self.give_back(recipient, *until),
            Verdict::Tried(RecipientResult::Accepted { reply }) => {
                let details = self.details(recipient, report, Some(reply));
                self.last(recipient, "delivered", reply.to_string(), false, details)
            }
            Verdict::Tried(RecipientResult::Rejected { reply, permanent: true }) => {
                let details = self.details(recipient, report, Some(reply));
                self.last(recipient, "bounced", reply.to_string(), false, details)
            }
            Verdict::Tried(RecipientResult::Rejected { reply, permanent: false }) => {
                let details = self.details(recipient, report, Some(reply));
                self.again(recipient, Cause::Reply, reply.to_string(), false, details)
            }
            Verdict::Tried(RecipientResult::ConnectionTrouble { trouble: Trouble::Aborted, uncertain: false }) => {
                self.give_back(recipient, self.clock.now_ms())
            }
            Verdict::Tried(RecipientResult::ConnectionTrouble { trouble, uncertain }) => {
                let mut details = self.details(recipient, report, None);
                details.insert("error".to_owned(), json!(trouble.to_string()));
                details.insert("uncertain".to_owned(), json!(uncertain));
                self.again(recipient, Cause::Trouble, trouble.to_string(), *uncertain, details)
            }
        }
    }

    /// Unattempted: nothing happened to the recipient.
    pub(super) fn give_back(&self, recipient: &ClaimedRecipient, at: i64) -> Outcome {
        Outcome {
            recipient_id: recipient.id.clone(),
            status: if recipient.attempts > 0 { "deferred" } else { "queued" }.to_owned(),
            attempted: false,
            uncertain: recipient.uncertain,
            last_reply: None,
            next_attempt_at: Some(at),
            event: None,
        }
    }

    /// The lifetime ended while no worker ran: no attempt is made so late.
    pub(super) fn expired(&self, recipient: &ClaimedRecipient) -> Outcome {
        let text = "the queue lifetime ended before an attempt could be made".to_owned();
        let mut details = Map::new();
        details.insert("attempt".to_owned(), json!(recipient.attempts));
        Outcome { attempted: false, ..self.expire(recipient, text, recipient.uncertain, details) }
    }

    /// The domain was deleted.
    pub(super) fn cancelled(&self, recipient: &ClaimedRecipient) -> Outcome {
        let mut details = Map::new();
        details.insert("reason".to_owned(), json!("the sending domain was deleted"));
        let text = "cancelled: the sending domain was deleted".to_owned();
        Outcome { attempted: false, ..self.last(recipient, "cancelled", text, recipient.uncertain, details) }
    }

    fn again(
        &self,
        recipient: &ClaimedRecipient,
        cause: Cause,
        text: String,
        uncertain: bool,
        mut details: Map<String, Value>,
    ) -> Outcome {
        let uncertain = uncertain || recipient.uncertain;
        let now = self.clock.now_ms();
        match next(cause, recipient.attempts, now, self.message.expires_at, self.random) {
            Next::Expired => self.expire(recipient, text, uncertain, details),
            Next::At(at) => {
                details.insert("next_attempt_at".to_owned(), json!(rfc3339(at)));
                let next_attempt_at = Some(at);
                Outcome { next_attempt_at, ..self.last(recipient, "deferred", text, uncertain, details) }
            }
        }
    }

    /// RFC 3463 3.5 (X.4.7): says nothing about the address, so that nobody suppresses it.
    fn expire(
        &self,
        recipient: &ClaimedRecipient,
        text: String,
        uncertain: bool,
        mut details: Map<String, Value>,
    ) -> Outcome {
        details.insert("reason".to_owned(), json!("expired"));
        details.insert("enhanced_code".to_owned(), json!("4.4.7"));
        details.insert("bounce_type".to_owned(), json!("soft"));
        details.insert("last_error".to_owned(), json!(text));
        self.last(recipient, "expired", text, uncertain, details)
    }

    /// An attempted outcome without a next attempt.
    fn last(
        &self,
        recipient: &ClaimedRecipient,
        status: &str,
        text: String,
        uncertain: bool,
        details: Map<String, Value>,
    ) -> Outcome {
        Outcome {
            recipient_id: recipient.id.clone(),
            status: status.to_owned(),
            attempted: true,
            uncertain,
            last_reply: Some(text),
            next_attempt_at: None,
            event: Some(self.event(&format!("message.{status}"), Some(&recipient.id), Value::Object(details))),
        }
    }

    fn details(&self, recipient: &ClaimedRecipient, report: &Report, reply: Option<&Reply>) -> Map<String, Value> {
        let mut details = Map::new();
        details.insert("attempt".to_owned(), json!(recipient.attempts + 1));
        details.insert("host".to_owned(), json!(report.host));
        details.insert("tls".to_owned(), json!(report.tls.map(super::session::TlsState::as_str)));
        if let Some(reply) = reply {
            details.insert("reply".to_owned(), json!(reply.to_string()));
            details.insert("code".to_owned(), json!(reply.code));
            details.insert("enhanced_code".to_owned(), json!(reply.enhanced.map(|code| code.to_string())));
        }
        details
    }

    /// An event of this message.
    pub(super) fn event(&self, kind: &str, recipient_id: Option<&str>, details: Value) -> EventRow {
        EventRow {
            id: ids::fresh(self.clock, self.random),
            tenant_id: self.message.tenant_id.clone(),
            kind: kind.to_owned(),
            at: self.clock.now_ms(),
            message_id: Some(self.message.id.clone()),
            recipient_id: recipient_id.map(str::to_owned),
            domain: None,
            details,
        }
    }
}

fn rfc3339(millis: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?;
    time.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::super::envelope::tests::delivery;
    use super::super::reply::EnhancedCode;
    use super::super::session::TlsState;
    use super::*;

    struct At(i64);
    impl Clock for At {
        fn now_ms(&self) -> i64 {
            self.0
        }
    }
    struct Zero;
    impl Random for Zero {
        fn fill(&self, dest: &mut [u8]) {
            dest.fill(0);
        }
    }

    /// The outcome for a recipient with `attempts` earlier ones, at `now` of a message that expires at 1,000,000,000.
    fn outcome(now: i64, attempts: i64, verdict: Verdict) -> Outcome {
        let delivery = delivery(None, &["b@example.net"]);
        let recipient = ClaimedRecipient { attempts, ..delivery.recipients[0].clone() };
        let report = Report { verdict, host: Some("mx [192.0.2.1]".to_owned()), tls: Some(TlsState::FailedFallback) };
        Settling { message: &delivery.message, clock: &At(now), random: &Zero }.outcome(&recipient, &report)
    }

    fn rejected(code: u16, enhanced: (u16, u16, u16), permanent: bool) -> Verdict {
        let enhanced = Some(EnhancedCode::new(enhanced.0, enhanced.1, enhanced.2));
        Verdict::Tried(RecipientResult::Rejected { reply: Reply { code, enhanced, text: "why".to_owned() }, permanent })
    }

    fn lost(uncertain: bool) -> Verdict {
        let trouble = Trouble::Lost { awaiting: "the greeting", cause: "reset".to_owned() };
        Verdict::Tried(RecipientResult::ConnectionTrouble { trouble, uncertain })
    }

    fn aborted(uncertain: bool) -> Verdict {
        Verdict::Tried(RecipientResult::ConnectionTrouble { trouble: Trouble::Aborted, uncertain })
    }

    #[test]
    fn statuses_attempts_and_next_tries() {
        const MINUTE: i64 = 60_000;
        let accepted =
            Verdict::Tried(RecipientResult::Accepted { reply: Reply::ours(250, EnhancedCode::new(2, 0, 0), "ok") });
        let table = [
            (accepted, "delivered", true, false, None),
            (rejected(550, (5, 1, 1), true), "bounced", true, false, None),
            (rejected(451, (4, 7, 1), false), "deferred", true, false, Some(5 * MINUTE)),
            (lost(false), "deferred", true, false, Some(MINUTE)),
            (lost(true), "deferred", true, true, Some(MINUTE)),
            (aborted(false), "queued", false, false, Some(0)),
            (aborted(true), "deferred", true, true, Some(MINUTE)),
            (Verdict::Resting { until: 77 }, "queued", false, false, Some(77)),
        ];
        for (verdict, status, attempted, uncertain, next_attempt_at) in table {
            let outcome = outcome(0, 0, verdict.clone());
            assert_eq!(
                (outcome.status.as_str(), outcome.attempted, outcome.uncertain, outcome.next_attempt_at),
                (status, attempted, uncertain, next_attempt_at),
                "{verdict:?}"
            );
            let kind = outcome.event.as_ref().map(|event| event.kind.clone());
            assert_eq!(kind, attempted.then(|| format!("message.{status}")), "{verdict:?}");
        }
    }

    #[test]
    fn details_of_a_deferral() {
        let event = outcome(0, 2, rejected(451, (4, 7, 1), false)).event.expect("event");
        assert_eq!(
            event.details,
            json!({"attempt": 3, "host": "mx [192.0.2.1]", "tls": "failed_fallback", "reply": "451 4.7.1 why", "code": 451,
                   "enhanced_code": "4.7.1", "next_attempt_at": "1970-01-01T00:30:00Z"})
        );
        assert_eq!((event.recipient_id.as_deref(), event.at), (Some("r0"), 0));
    }

    /// G04: only 4yz until the lifetime ends is `expired`, never `bounced`, and says what the last error was.
    #[test]
    fn retries_used_up_are_no_bounce() {
        for verdict in [rejected(421, (4, 7, 0), false), lost(false)] {
            let outcome = outcome(1_000_000_000, 30, verdict);
            assert_eq!((outcome.status.as_str(), outcome.next_attempt_at), ("expired", None));
            let event = outcome.event.expect("event");
            assert_eq!((event.kind.as_str(), &event.details["bounce_type"]), ("message.expired", &json!("soft")));
            assert_eq!(event.details["last_error"], json!(outcome.last_reply.expect("text")));
        }
    }
}
