//! The sandbox's inbox: an SMTP server that verifies what it receives and keeps it, judged by us and by mail-auth.
use crate::Outcome;
use signpost_diagnosis::dns::Dns;
use signpost_diagnosis::evaluate::{self, Transaction};
use signpost_engine::Clock;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Our name in Authentication-Results (RFC 8601 2.5).
const AUTHSERV_ID: &str = "mx.inbox.test";

/// A message as received, and what was found.
#[derive(Clone)]
pub(super) struct Received {
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
    mails: Mutex<Vec<Received>>,
    arrived: Notify,
}

impl Inbox {
    /// `tamper`: a body octet of each message changes on its way in.
    pub(super) fn new(folder: PathBuf, dns: Dns, clock: Arc<dyn Clock>, tamper: bool) -> Outcome<Arc<Self>> {
        std::fs::create_dir_all(&folder)?;
        Ok(Arc::new(Self { folder, dns, clock, tamper, mails: Mutex::new(Vec::new()), arrived: Notify::new() }))
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

/// Flips the case of the last letter of the body: a change that no canonicalization forgives.
fn change_a_body_octet(raw: &mut [u8]) {
    let body = raw.windows(4).position(|w| w == b"\r\n\r\n").map_or(raw.len(), |at| at + 4);
    if let Some(octet) = raw.get_mut(body..).and_then(|body| body.iter_mut().rev().find(|octet| octet.is_ascii_alphabetic())) {
        *octet ^= 0x20;
    }
}
