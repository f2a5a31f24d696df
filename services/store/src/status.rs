//! The states of a recipient, and what they make of their message.
use crate::StoreError;

/// Status of a recipient. A message has one of these, or `partial`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Scheduled,
    AwaitingSignature,
    Held,
    Queued,
    Sending,
    Deferred,
    Delivered,
    Bounced,
    Expired,
    Suppressed,
    Cancelled,
}

impl Status {
    pub(crate) const ALL: [Self; 11] = [
        Self::Scheduled,
        Self::AwaitingSignature,
        Self::Held,
        Self::Queued,
        Self::Sending,
        Self::Deferred,
        Self::Delivered,
        Self::Bounced,
        Self::Expired,
        Self::Suppressed,
        Self::Cancelled,
    ];

    /// As stored and as the API shows it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::AwaitingSignature => "awaiting_signature",
            Self::Held => "held",
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Deferred => "deferred",
            Self::Delivered => "delivered",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
            Self::Suppressed => "suppressed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, StoreError> {
        let known = Self::ALL.into_iter().find(|status| status.as_str() == text);
        known.ok_or_else(|| StoreError::Damaged("a status that we do not know".into()))
    }

    /// What becomes of it from here.
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Scheduled | Self::AwaitingSignature | Self::Held => Phase::ToRelease,
            Self::Queued | Self::Deferred => Phase::ToSend,
            Self::Sending => Phase::Sending,
            Self::Delivered | Self::Bounced | Self::Expired | Self::Suppressed | Self::Cancelled => Phase::Ended,
        }
    }
}

/// Who moves a recipient next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `claim_waiting`.
    ToRelease,
    /// `claim_deliveries`.
    ToSend,
    /// The worker that has it.
    Sending,
    /// Nobody: it is over.
    Ended,
}

/// The status that a message has from those of its recipients; `None` without recipients.
///
/// While any recipient is not at its end, the message is in the state of those that are under way: `sending`, else what it waits for
/// as a whole, else `deferred`, else `queued`. At the end it has the one status of all, or is `partial`.
pub(crate) fn of_message(recipients: &[Status]) -> Option<&'static str> {
    let under_way =
        [Status::Sending, Status::Held, Status::AwaitingSignature, Status::Scheduled, Status::Deferred, Status::Queued];
    if let Some(status) = under_way.into_iter().find(|status| recipients.contains(status)) {
        return Some(status.as_str());
    }
    let first = recipients.first()?;
    Some(if recipients.iter().all(|status| status == first) { first.as_str() } else { "partial" })
}

#[cfg(test)]
mod tests {
    use super::{Phase, Status, of_message};

    #[test]
    fn a_messages_status_follows_from_its_recipients() {
        let table = [
            ("", None),
            ("queued", Some("queued")),
            ("delivered", Some("delivered")),
            ("delivered delivered", Some("delivered")),
            ("bounced bounced", Some("bounced")),
            ("expired", Some("expired")),
            ("cancelled cancelled", Some("cancelled")),
            ("suppressed", Some("suppressed")),
            ("delivered bounced", Some("partial")),
            ("bounced delivered", Some("partial")),
            ("cancelled delivered", Some("partial")),
            ("suppressed delivered", Some("partial")),
            ("delivered queued", Some("queued")),
            ("delivered deferred", Some("deferred")),
            ("queued deferred", Some("deferred")),
            ("deferred queued", Some("deferred")),
            ("queued sending", Some("sending")),
            ("deferred sending bounced", Some("sending")),
            ("sending delivered", Some("sending")),
            ("held held", Some("held")),
            ("delivered held", Some("held")),
            ("awaiting_signature bounced", Some("awaiting_signature")),
            ("scheduled scheduled", Some("scheduled")),
            ("bounced expired deferred", Some("deferred")),
        ];
        for (recipients, expected) in table {
            let parsed: Vec<Status> = recipients.split_whitespace().map(|text| Status::parse(text).unwrap()).collect();
            assert_eq!(of_message(&parsed), expected, "{recipients}");
        }
    }

    #[test]
    fn a_message_is_at_its_end_exactly_when_all_its_recipients_are() {
        let under_way = |status: &str| Status::parse(status).is_ok_and(|status| status.phase() != Phase::Ended);
        for a in Status::ALL {
            for b in Status::ALL {
                let message = of_message(&[a, b]).unwrap();
                let any = a.phase() != Phase::Ended || b.phase() != Phase::Ended;
                assert_eq!(under_way(message), any, "{a:?} {b:?}");
                assert_eq!(of_message(&[b, a]), Some(message), "the order of recipients says nothing: {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn an_unknown_status_is_damage() {
        assert!(Status::parse("partial").is_err());
        assert!(Status::parse("").is_err());
        assert!(Status::parse("Queued").is_err());
    }
}
