//! The spoof that DKIM alone does not stop: MAIL FROM and d= of the attacker's domain, From of another. SPF and DKIM pass, DMARC does not.
use crate::Outcome;
use serde_json::{Value, json};
use signpost_dkim::message::Message;
use signpost_dkim::sign::{self, Policy, Signer};
use signpost_dkim::{KeyAlgorithm, Mailbox, Selector, SigningDomain, record};
use signpost_engine::delivery::Limits;
use signpost_engine::delivery::payload::Payload;
use signpost_engine::delivery::session::{Opening, RecipientResult, Session, Transaction};
use signpost_engine::delivery::tls::{ClientTls, Security};
use signpost_engine::messages::raw::date_field;
use signpost_engine::{Clock as _, SystemClock};
use signpost_keys::{Custody as _, KeyBinding, MasterKey, SealedCustody, SystemRandom};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The attacker's domain, which has its own good SPF and DKIM records.
pub(super) const ATTACKER: &str = "spoofing.test";
const SELECTOR: &str = "brisbane";

/// A spoofed message and what its sender publishes.
pub(super) struct Spoof {
    octets: Vec<u8>,
    mail_from: Mailbox,
    recipient: Mailbox,
    /// The attacker's key record in master-file form.
    pub(super) zone: String,
    /// The same as the API would list it.
    pub(super) record: Value,
}

/// Writes and signs it. `victim` is the domain in From.
pub(super) async fn make(victim: &str) -> Outcome<Spoof> {
    let domain = SigningDomain::parse(ATTACKER)?;
    let selector = Selector::parse(SELECTOR)?;
    let custody = SealedCustody::new(Arc::new(SystemRandom));
    custody.unseal(&MasterKey::generate(&SystemRandom));
    let binding = KeyBinding {
        tenant: "attacker".into(),
        domain: domain.clone(),
        selector: selector.clone(),
        key_id: "attacker".into(),
    };
    let key = custody.create(&binding, KeyAlgorithm::Rsa2048).await?;
    let raw = format!(
        "From: \"Bob Example\" <bob@{victim}>\r\nTo: Reader <reader@inbox.test>\r\nSubject: Urgent payment\r\n\
         Date: {}\r\nMessage-ID: <spoof@{ATTACKER}>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
         Please pay the attached invoice today.\r\n",
        date_field(SystemClock.now_ms())
    );
    let message = Message::parse(raw.as_bytes())?;
    let signer = Signer { domain: domain.clone(), selector: selector.clone(), algorithm: KeyAlgorithm::Rsa2048 };
    let draft = sign::prepare(&message, &signer, &Policy::default(), SystemClock.now_s())?;
    let signature = custody.sign(&binding, &key, draft.digest()).await?;
    let octets = [draft.finish(&signature).as_bytes(), raw.as_bytes()].concat();
    let (name, value) = (selector.record_name(&domain), record::build(&key.public_key));
    Ok(Spoof {
        octets,
        mail_from: Mailbox::parse_address(&format!("bob@{ATTACKER}"))?,
        recipient: Mailbox::parse_address("reader@inbox.test")?,
        zone: format!("{name}. 60 IN TXT {}\n", record::zone_text(&value)),
        record: json!({
            "purpose": "dkim", "type": "TXT", "name": name, "relative_name": format!("{SELECTOR}._domainkey"),
            "zone": ATTACKER, "zone_source": "assumed", "instruction": "The attacker publishes this for a domain of its own.",
            "chunks": record::chunk(&value), "value": value, "required": true, "status": "unchecked", "warnings": [],
        }),
    })
}

/// Straight to the inbox, as an attacker's server would.
pub(super) async fn send(spoof: &Spoof, smtp: SocketAddr) -> Outcome<()> {
    let payload = Payload::new(Vec::new(), spoof.octets.as_slice())?;
    let limits = Limits { abort: CancellationToken::new(), deadline: Instant::now() + Duration::from_secs(30) };
    let opening = Opening {
        helo: "relay.spoofing.test",
        host: "mx.inbox.test",
        address: smtp,
        security: Security::Opportunistic,
        without_tls: true,
        credentials: None,
        tls: &ClientTls::new(false)?,
        relay: false,
        limits: &limits,
    };
    let opened = Session::open(TcpStream::connect(smtp).await?, &opening).await;
    let mut session = opened.map_err(|error| format!("the inbox does not talk: {error:?}"))?;
    let transaction =
        Transaction { mail_from: &spoof.mail_from, recipients: vec![&spoof.recipient], payload: &payload };
    let results = session.send(&transaction).await;
    session.quit().await;
    match results.first() {
        Some(RecipientResult::Accepted { .. }) => Ok(()),
        other => Err(format!("the inbox did not take the spoofed message: {other:?}").into()),
    }
}
