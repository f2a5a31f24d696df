//! From a claimed message to transactions: which recipients go where, and under which envelope sender.
use signpost_dkim::address::parse_single_mailbox;
use signpost_dkim::{Mailbox, SigningDomain};
use signpost_store::{ClaimedRecipient, Delivery, MessageRow};

/// Recipients of one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Domain whose MX is asked; `None` for the relay.
    pub(super) domain: Option<String>,
    pub(super) envelopes: Vec<Envelope>,
}

/// One transaction to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) mail_from: Mailbox,
    /// Index of the claimed recipient, and its mailbox.
    pub(super) recipients: Vec<(usize, Mailbox)>,
}

/// The plan for a claimed message.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) groups: Vec<Group>,
    /// Index of the recipient, and why it cannot be addressed at all.
    pub(super) unaddressable: Vec<(usize, String)>,
}

enum Sender {
    /// The same for all recipients.
    Shared(Mailbox),
    /// VERP below this domain.
    PerRecipient(SigningDomain),
}

/// Splits by route (the relay takes all, else one a domain) and by envelope sender.
pub(super) fn plan(delivery: &Delivery, relay: bool, service_domain: Option<&SigningDomain>) -> Result<Plan, String> {
    let sender = sender(&delivery.message, service_domain)?;
    let mut plan = Plan::default();
    for (index, recipient) in delivery.recipients.iter().enumerate() {
        let (mailbox, mail_from) = match addresses(&sender, recipient) {
            Ok(addresses) => addresses,
            Err(cause) => {
                plan.unaddressable.push((index, cause));
                continue;
            }
        };
        let domain = (!relay).then(|| mailbox.domain().as_str().to_owned());
        let group = match plan.groups.iter_mut().position(|group| group.domain == domain) {
            Some(at) => plan.groups.get_mut(at),
            None => {
                plan.groups.push(Group { domain, envelopes: Vec::new() });
                plan.groups.last_mut()
            }
        };
        if let Some(group) = group {
            match group.envelopes.iter_mut().find(|envelope| envelope.mail_from == mail_from) {
                Some(envelope) => envelope.recipients.push((index, mailbox)),
                None => group.envelopes.push(Envelope { mail_from, recipients: vec![(index, mailbox)] }),
            }
        }
    }
    Ok(plan)
}

/// DESIGN "Envelope": the one that the request named; else VERP under `bounce.<service domain>`; else the From address.
fn sender(message: &MessageRow, service_domain: Option<&SigningDomain>) -> Result<Sender, String> {
    if let Some(named) = &message.mail_from {
        return Mailbox::parse_address(named).map(Sender::Shared).map_err(|cause| format!("envelope sender: {cause}"));
    }
    match service_domain {
        Some(service) => SigningDomain::parse(&format!("bounce.{service}"))
            .map(Sender::PerRecipient)
            .map_err(|cause| format!("SIGNPOST_SERVICE_DOMAIN: {cause}")),
        None => bare(&message.from).map(Sender::Shared).map_err(|cause| format!("From address: {cause}")),
    }
}

/// The mailbox without its display name, so that equal senders compare equal.
fn bare(from: &str) -> Result<Mailbox, signpost_dkim::NameError> {
    let mailbox = parse_single_mailbox(from)?;
    Mailbox::new(None, mailbox.local(), mailbox.domain().clone())
}

/// The recipient's mailbox and its envelope sender. The VERP local part is `bounce+<recipient id>`, 39 octets of the 64 that
/// RFC 5321 4.5.3.1.1 allows; it is the same at every retry, as greylisting wants (RFC 6647 2).
fn addresses(sender: &Sender, recipient: &ClaimedRecipient) -> Result<(Mailbox, Mailbox), String> {
    let mailbox = Mailbox::parse_address(&recipient.address).map_err(|cause| cause.to_string())?;
    let mail_from = match sender {
        Sender::Shared(shared) => shared.clone(),
        Sender::PerRecipient(domain) => Mailbox::new(None, &format!("bounce+{}", recipient.id), domain.clone())
            .map_err(|cause| format!("envelope sender: {cause}"))?,
    };
    Ok((mailbox, mail_from))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A claimed message with these recipients; ids are `r0`, `r1`, ...
    pub(in super::super) fn delivery(mail_from: Option<&str>, addresses: &[&str]) -> Delivery {
        let message = MessageRow {
            id: "0190".repeat(8),
            tenant_id: "t".to_owned(),
            message_id: "<m@example.com>".to_owned(),
            status: "sending".to_owned(),
            from: "ann@example.com".to_owned(),
            subject: String::new(),
            size: 0,
            domain_id: "d".to_owned(),
            mail_from: mail_from.map(str::to_owned),
            signatures: Vec::new(),
            tags: serde_json::json!([]),
            metadata: serde_json::json!({}),
            warnings: serde_json::json!([]),
            waiting_reason: None,
            release_at: None,
            expires_at: 1_000_000_000,
            created_at: 0,
        };
        let claimed = |(index, address): (usize, &&str)| ClaimedRecipient {
            id: format!("r{index}"),
            address: (*address).to_owned(),
            domain: address.rsplit_once('@').map(|(_, domain)| domain.to_owned()).unwrap_or_default(),
            attempts: 0,
            uncertain: false,
        };
        Delivery { message, recipients: addresses.iter().enumerate().map(claimed).collect() }
    }

    fn shown(plan: &Plan) -> Vec<String> {
        let mut lines = Vec::new();
        for group in &plan.groups {
            for envelope in &group.envelopes {
                let to: Vec<String> =
                    envelope.recipients.iter().map(|(index, m)| format!("{index}:{}", m.address())).collect();
                let domain = group.domain.as_deref().unwrap_or("relay");
                lines.push(format!("{domain} | {} | {}", envelope.mail_from.address(), to.join(" ")));
            }
        }
        lines
    }

    const THREE: [&str; 3] = ["b@example.net", "c@example.org", "d@example.net"];

    #[test]
    fn by_domain_or_all_to_the_relay() {
        let direct = plan(&delivery(None, &THREE), false, None).expect("plan");
        assert_eq!(
            shown(&direct),
            [
                "example.net | ann@example.com | 0:b@example.net 2:d@example.net",
                "example.org | ann@example.com | 1:c@example.org"
            ]
        );
        let relay = plan(&delivery(None, &THREE), true, None).expect("plan");
        assert_eq!(shown(&relay), ["relay | ann@example.com | 0:b@example.net 1:c@example.org 2:d@example.net"]);
    }

    #[test]
    fn verp_gives_each_recipient_its_own_sender() {
        let service = SigningDomain::parse("mail.example").expect("domain");
        let plan = plan(&delivery(None, &THREE[..2]), true, Some(&service)).expect("plan");
        assert_eq!(
            shown(&plan),
            [
                "relay | bounce+r0@bounce.mail.example | 0:b@example.net",
                "relay | bounce+r1@bounce.mail.example | 1:c@example.org"
            ]
        );
        let long = Mailbox::new(None, &format!("bounce+{}", "f".repeat(32)), service);
        assert!(long.is_ok_and(|mailbox| mailbox.local().len() <= 64));
    }

    #[test]
    fn a_named_sender_wins() {
        let service = SigningDomain::parse("mail.example").expect("domain");
        let plan = plan(&delivery(Some("return@example.com"), &THREE[..1]), true, Some(&service)).expect("plan");
        assert_eq!(shown(&plan), ["relay | return@example.com | 0:b@example.net"]);
    }

    #[test]
    fn an_unreadable_recipient_does_not_stop_the_others() {
        let plan = plan(&delivery(None, &["b@example.net", "x\r\ny@example.net", "c@example.net"]), false, None)
            .expect("plan");
        assert_eq!(plan.unaddressable.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
        assert_eq!(shown(&plan), ["example.net | ann@example.com | 0:b@example.net 2:c@example.net"]);
    }
}
