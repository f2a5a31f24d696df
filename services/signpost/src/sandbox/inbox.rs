//! The sandbox's inbox: an SMTP server that verifies what it receives and keeps it, judged by us and by mail-auth.
use crate::Outcome;
use signpost_diagnosis::dns::Dns;
use signpost_diagnosis::evaluate::{self, Transaction};
use signpost_engine::Clock;
use signpost_engine::inbound;
use signpost_engine::inbound::session::{Envelope, Handler, ServerSettings, TryLater};
use signpost_http::{InboxItem, InboxSource};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Our name in Authentication-Results (RFC 8601 2.5).
const AUTHSERV_ID: &str = "mx.inbox.test";

/// A message as received, and what was found.
#[derive(Clone)]
pub(super) struct Received {
    number: usize,
    pub(super) path: PathBuf,
    pub(super) received_at: i64,
    pub(super) mail_from: String,
    pub(super) recipients: Vec<String>,
    pub(super) authentication_results: String,
    pub(super) second_opinion: Vec<String>,
    pub(super) disagreement: Option<String>,
    pub(super) raw: Arc<Vec<u8>>,
}

/// All received messages.
pub(super) struct Inbox {
    folder: PathBuf,
    dns: Dns,
    clock: Arc<dyn Clock>,
    tamper: bool,
    /// Numbers of files given out.
    taken: AtomicUsize,
    mails: Mutex<Vec<Received>>,
    arrived: Notify,
}

impl Inbox {
    /// `tamper`: a body octet of each message changes on its way in.
    pub(super) fn new(folder: PathBuf, dns: Dns, clock: Arc<dyn Clock>, tamper: bool) -> Outcome<Arc<Self>> {
        std::fs::create_dir_all(&folder)?;
        Ok(Arc::new(Self {
            folder,
            dns,
            clock,
            tamper,
            taken: AtomicUsize::new(0),
            mails: Mutex::new(Vec::new()),
            arrived: Notify::new(),
        }))
    }

    /// The first message, if it arrives in time.
    pub(super) async fn first(&self, deadline: Duration) -> Option<Received> {
        let wait = async {
            loop {
                let arrived = self.arrived.notified();
                if let Some(first) = self.mails().first() {
                    return first.clone();
                }
                arrived.await;
            }
        };
        tokio::time::timeout(deadline, wait).await.ok()
    }

    fn mails(&self) -> std::sync::MutexGuard<'_, Vec<Received>> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InboxSource for Inbox {
    fn list(&self) -> Vec<InboxItem> {
        self.mails().iter().rev().map(item).collect()
    }

    fn get(&self, id: &str) -> Option<InboxItem> {
        self.mails().iter().find(|mail| mail.id() == id).map(item)
    }
}

impl Received {
    fn id(&self) -> String {
        self.number.to_string()
    }
}

fn item(mail: &Received) -> InboxItem {
    let parsed = mail_parser::MessageParser::default().parse_headers(mail.raw.as_slice());
    let parsed = parsed.as_ref();
    InboxItem {
        id: mail.id(),
        received_at_ms: mail.received_at,
        mail_from: mail.mail_from.clone(),
        rcpts: mail.recipients.clone(),
        from: parsed.and_then(|m| m.from()).map(addresses).unwrap_or_default(),
        to: parsed.and_then(|m| m.to()).map(addresses).unwrap_or_default(),
        subject: parsed.and_then(|m| m.subject()).unwrap_or_default().to_owned(),
        authentication_results: vec![
            mail.authentication_results.clone(),
            format!("second judge (mail-auth): dkim={}", mail.second_opinion.join(", dkim=")),
        ],
        disagreement: mail.disagreement.clone(),
        raw: Arc::clone(&mail.raw),
    }
}

/// `Ann <ann@example.com>, bob@example.net`.
fn addresses(list: &mail_parser::Address<'_>) -> String {
    let one = |address: &mail_parser::Addr<'_>| match (address.name(), address.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (None, Some(address)) => address.to_owned(),
        (name, None) => name.unwrap_or_default().to_owned(),
    };
    list.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Serves the inbox on a free port of 127.0.0.1 until `shutdown`.
pub(super) async fn listen(inbox: &Arc<Inbox>, shutdown: &CancellationToken) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let settings = ServerSettings { hostname: AUTHSERV_ID.into(), max_size: 30_000_000, tls: None, max_sessions: 100 };
    tokio::spawn(inbound::serve(listener, settings, Arc::clone(inbox) as Arc<dyn Handler>, shutdown.clone()));
    Ok(address)
}

#[async_trait::async_trait]
impl Handler for Inbox {
    async fn message(&self, envelope: Envelope, mut octets: Vec<u8>) -> Result<String, TryLater> {
        if self.tamper {
            change_a_body_octet(&mut octets);
        }
        let transaction =
            Transaction { ip: Some(envelope.client_ip), helo: &envelope.helo, mail_from: &envelope.mail_from };
        let evaluation = evaluate::evaluate(&self.dns, &octets, &transaction, self.clock.now_s()).await;
        let second_opinion = evaluate::second_opinion(&self.dns, &octets).await;
        let ours: Vec<_> = evaluation.dkim.iter().map(|v| v.result.as_str().to_owned()).collect();
        // mail-auth 0.13 calls a changed body `neutral` where RFC 8601 has `fail`: only pass against not-pass counts.
        let passes = |results: &[String]| results.iter().map(|r| r == "pass").collect::<Vec<_>>();
        let disagreement = (passes(&ours) != passes(&second_opinion)).then(|| {
            format!("the judges disagree on DKIM: ours {}, mail-auth {}", ours.join(", "), second_opinion.join(", "))
        });
        let received_at = self.clock.now_ms();
        let number = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.folder.join(format!("{number:04}.eml"));
        if let Err(error) = std::fs::write(&path, &octets) {
            tracing::error!(%error, path = %path.display(), "the inbox cannot keep a message");
            return Err(TryLater);
        }
        self.mails().push(Received {
            number,
            path,
            received_at,
            mail_from: envelope.mail_from,
            recipients: envelope.rcpts,
            authentication_results: evaluation.authentication_results(AUTHSERV_ID),
            second_opinion,
            disagreement,
            raw: Arc::new(octets),
        });
        self.arrived.notify_waiters();
        Ok(format!("kept as {number}"))
    }
}

/// Flips the case of the last letter of the body: a change that no canonicalization forgives.
fn change_a_body_octet(raw: &mut [u8]) {
    let body = raw.windows(4).position(|w| w == b"\r\n\r\n").map_or(raw.len(), |at| at + 4);
    if let Some(octet) =
        raw.get_mut(body..).and_then(|body| body.iter_mut().rev().find(|octet| octet.is_ascii_alphabetic()))
    {
        *octet ^= 0x20;
    }
}
