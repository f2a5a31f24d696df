//! The worker on a real store: attempts, outcomes, events, the end of the lifetime, the stop.
use super::tls::ClientTls;
use super::worker::Worker;
use super::{DeliverySettings, Relay, RelayTls};
use crate::{Clock, Engine, Settings};
use async_trait::async_trait;
use signpost_diagnosis::dns::{Dns, DnsSettings};
use signpost_diagnosis::guard::Guard;
use signpost_keys::SystemRandom;
use signpost_store::{
    ApiKeyRow, AuditRow, Delivery, DomainRow, EventRow, KeyRow, MessageBody, MessageRow, NewMessage, Outcome,
    RecipientRow, SignatureRow, Store, StoreSettings, TenantRow,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::inbound::session::{Envelope, Handler, ServerSettings, TryLater};

const MINUTE: i64 = 60_000;
const LIFETIME: i64 = 5 * 24 * 60 * MINUTE;

struct Steered(AtomicI64);
impl Clock for Steered {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// An inbox that holds each message until it is let through.
struct Gate {
    reached: Notify,
    open: Notify,
    held: bool,
}

#[async_trait]
impl Handler for Gate {
    async fn message(&self, _envelope: Envelope, _octets: Vec<u8>) -> Result<String, TryLater> {
        self.reached.notify_one();
        if self.held {
            self.open.notified().await;
        }
        Ok("stored".to_owned())
    }
}

struct Bench {
    engine: Engine,
    clock: Arc<Steered>,
    stop: CancellationToken,
    worker: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

fn audit(id: &str) -> AuditRow {
    AuditRow {
        id: id.to_owned(),
        tenant_id: "t".to_owned(),
        actor: "system".to_owned(),
        action: "made".to_owned(),
        object: "o".to_owned(),
        domain_id: None,
        details: serde_json::json!({}),
        request_id: None,
        at: 0,
    }
}

fn settings(relay: SocketAddr) -> Settings {
    let relay =
        Relay { host: relay.ip().to_string(), port: relay.port(), tls: RelayTls::Opportunistic, credentials: None };
    Settings {
        hostname: "out.example.com".to_owned(),
        service_domain: None,
        egress_ips: Vec::new(),
        max_message: 25_000_000,
        queue_lifetime_ms: LIFETIME,
        watch_every_ms: 6 * 3_600_000,
        delivery: DeliverySettings { relay: Some(relay), smtp_port: 25, in_flight: 4, guard: Guard::default() },
    }
}

impl Bench {
    /// An engine with tenant `t`, domain `d` and its active key `k`; the worker does not run yet.
    async fn new(relay: SocketAddr) -> Self {
        Self::with(settings(relay)).await
    }

    async fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(StoreSettings { sqlite_path: folder.path().join("db"), exclusive: true }).await;
        let store = store.expect("store");
        let tenant = TenantRow { id: "t".to_owned(), name: "Ann".to_owned(), suspended_at: None, created_at: 0 };
        let key = ApiKeyRow {
            id: "a".to_owned(),
            tenant_id: "t".to_owned(),
            name: "first".to_owned(),
            mac: vec![0; 32],
            scopes: String::new(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            created_at: 0,
        };
        store.create_tenant(&tenant, &key, &audit("a1")).await.expect("tenant");
        store.insert_domain(&domain(), &active_key(), &audit("a2")).await.expect("domain");
        let clock = Arc::new(Steered(AtomicI64::new(0)));
        let nowhere = "127.0.0.1:1".parse().expect("address");
        let dns = DnsSettings { resolvers: vec![nowhere], authority_port: 1, guard: Guard::default() };
        let dns = Dns::new(dns).expect("dns");
        let engine = Engine::new(store, dns, Arc::<Steered>::clone(&clock), Arc::new(SystemRandom), settings);
        Self { engine, clock, stop: CancellationToken::new(), worker: None, _folder: folder }
    }

    fn start(&mut self) {
        let tls = ClientTls::for_delivery(&self.engine.inner.settings.delivery).expect("TLS");
        self.worker = Some(tokio::spawn(super::worker::run(self.engine.clone(), tls, self.stop.clone())));
    }

    /// One lease's worker, for its parts, and the message that it has claimed.
    async fn claimed(&self) -> (Worker, Delivery) {
        let store = &self.engine.inner.store;
        let fence = store.start_worker("w", 0).await.expect("lease");
        let delivery = store.claim_deliveries(&fence, 0, 1).await.expect("claim").pop().expect("delivery");
        let tls = ClientTls::new(false).expect("TLS");
        (Worker::new(self.engine.clone(), fence, CancellationToken::new(), tls, Arc::default()), delivery)
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(worker) = self.worker.take() {
            worker.await.expect("worker");
        }
    }

    async fn accept(&self, raw: &str) {
        let new = NewMessage {
            message: message(),
            body: MessageBody { prefix: b"Received: by us\r\n".to_vec(), raw: raw.as_bytes().to_vec() },
            recipients: vec![recipient()],
            events: Vec::new(),
            audit: None,
            idempotency: None,
        };
        self.engine.inner.store.accept_message(new.clone()).await.expect("accepted");
    }

    /// Waits until the recipient's state satisfies `wanted`.
    async fn until(&self, wanted: impl Fn(&RecipientRow) -> bool) -> RecipientRow {
        let look = async {
            loop {
                let found = self.engine.inner.store.message("t", "m").await.expect("store").expect("message");
                let recipient = found.1.into_iter().next().expect("recipient");
                if wanted(&recipient) {
                    return recipient;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look).await.expect("the state that the test waits for")
    }

    async fn events(&self) -> Vec<String> {
        let page = self.engine.inner.store.message_events("t", "m", None, 100).await.expect("store").expect("message");
        page.rows.into_iter().map(|event| event.kind).collect()
    }

    fn advance(&self, millis: i64) {
        self.clock.0.fetch_add(millis, Ordering::SeqCst);
    }
}

fn domain() -> DomainRow {
    DomainRow {
        id: "d".to_owned(),
        tenant_id: "t".to_owned(),
        name: "example.com".to_owned(),
        dkim_mode: "txt".to_owned(),
        ownership: "verified".to_owned(),
        ownership_token: "x".to_owned(),
        token_issued_at: 0,
        proven_at: Some(0),
        signing: "enabled".to_owned(),
        signing_reason: None,
        dual_signing: false,
        version: 1,
        created_at: 0,
    }
}

fn active_key() -> KeyRow {
    KeyRow {
        id: "k".to_owned(),
        tenant_id: "t".to_owned(),
        domain_id: "d".to_owned(),
        domain_name: "example.com".to_owned(),
        selector: "s1".to_owned(),
        algorithm: "ed25519".to_owned(),
        custody: "sealed".to_owned(),
        reference: "sealed:k".to_owned(),
        sealed: vec![0],
        public_key: "p".to_owned(),
        state: "active".to_owned(),
        published_p: None,
        published_read_at: None,
        published_tried_at: None,
        life: signpost_store::KeyLife::default(),
        created_at: 0,
    }
}

fn message() -> MessageRow {
    let signature = SignatureRow {
        key_id: "k".to_owned(),
        domain: "example.com".to_owned(),
        selector: "s1".to_owned(),
        algorithm: "ed25519-sha256".to_owned(),
    };
    MessageRow {
        id: "m".to_owned(),
        tenant_id: "t".to_owned(),
        message_id: "<m@example.com>".to_owned(),
        status: "queued".to_owned(),
        from: "ann@example.com".to_owned(),
        subject: String::new(),
        size: 1,
        domain_id: "d".to_owned(),
        mail_from: None,
        signatures: vec![signature],
        tags: serde_json::json!([]),
        metadata: serde_json::json!({}),
        warnings: serde_json::json!([]),
        waiting_reason: None,
        release_at: None,
        expires_at: LIFETIME,
        created_at: 0,
    }
}

fn recipient() -> RecipientRow {
    RecipientRow {
        id: "r".to_owned(),
        message_id: "m".to_owned(),
        address: "b@example.net".to_owned(),
        domain: "example.net".to_owned(),
        status: "queued".to_owned(),
        attempts: 0,
        uncertain: false,
        last_reply: None,
        next_attempt_at: Some(0),
    }
}

const GOOD: &str = "From: ann@example.com\r\n\r\nhi\r\n";

/// Serves at `listener` for the rest of the test.
fn inbox(listener: TcpListener, held: bool) -> Arc<Gate> {
    let gate = Arc::new(Gate { reached: Notify::new(), open: Notify::new(), held });
    let settings = ServerSettings { hostname: "mx.test".to_owned(), max_size: 1_000_000, tls: None, max_sessions: 10 };
    let handler = Arc::clone(&gate) as Arc<dyn Handler>;
    tokio::spawn(crate::inbound::serve(listener, settings, handler, CancellationToken::new()));
    gate
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

#[tokio::test]
async fn a_message_is_delivered_and_its_event_is_committed_with_it() {
    let (listener, address) = listener().await;
    let _gate = inbox(listener, false);
    let mut bench = Bench::new(address).await;
    bench.start();
    bench.accept(GOOD).await;
    let recipient = bench.until(|r| r.status == "delivered").await;
    assert_eq!((recipient.attempts, recipient.uncertain, recipient.next_attempt_at), (1, false, None));
    assert_eq!(recipient.last_reply.as_deref(), Some("250 2.0.0 stored"));
    assert_eq!(bench.events().await, ["message.delivered"]);
    bench.stop().await;
}

/// Nobody listens, then somebody does: deferred, and tried again when it is due and not before.
#[tokio::test]
async fn a_dead_relay_defers_until_it_is_back() {
    let (listener, address) = listener().await;
    drop(listener);
    let mut bench = Bench::new(address).await;
    bench.start();
    bench.accept(GOOD).await;
    let recipient = bench.until(|r| r.status == "deferred").await;
    let next = recipient.next_attempt_at.expect("next attempt");
    assert!((MINUTE..=MINUTE * 6 / 5).contains(&next), "{next}");
    assert!(!recipient.uncertain);
    bench.advance(next);
    let recipient = bench.until(|r| r.attempts == 2 && r.status == "deferred").await;
    let next = recipient.next_attempt_at.expect("next attempt");
    let _gate = inbox(TcpListener::bind(address).await.expect("the port is still free"), false);
    bench.advance(next);
    bench.until(|r| r.status == "delivered").await;
    assert_eq!(bench.events().await, ["message.deferred", "message.deferred", "message.delivered"]);
    bench.stop().await;
}

/// G04: the last try is at the end of the lifetime, and then it is expired, with the last error.
#[tokio::test]
async fn the_lifetime_ends_in_expired_and_not_in_a_bounce() {
    let (listener, address) = listener().await;
    drop(listener);
    let mut bench = Bench::new(address).await;
    bench.advance(LIFETIME);
    bench.start();
    bench.accept(GOOD).await;
    let recipient = bench.until(|r| r.status == "expired").await;
    assert!(recipient.last_reply.is_some_and(|text| text.contains("cannot connect")));
    assert_eq!((recipient.attempts, bench.events().await), (1, vec!["message.expired".to_owned()]));
    bench.stop().await;
}

#[tokio::test]
async fn long_after_the_lifetime_no_attempt_is_made() {
    let (listener, address) = listener().await;
    let _gate = inbox(listener, false);
    let mut bench = Bench::new(address).await;
    bench.advance(LIFETIME + 11 * MINUTE);
    bench.start();
    bench.accept(GOOD).await;
    assert_eq!(bench.until(|r| r.status == "expired").await.attempts, 0);
    bench.stop().await;
}

/// What cannot be sent as it is (here a bare LF) is never repaired, as the signature would not survive it.
#[tokio::test]
async fn a_message_unfit_to_send_bounces_unsent() {
    let (listener, address) = listener().await;
    let _gate = inbox(listener, false);
    let mut bench = Bench::new(address).await;
    bench.start();
    bench.accept("From: ann@example.com\r\n\r\nx\n.\r\nMAIL\r\n").await;
    let recipient = bench.until(|r| r.status == "bounced").await;
    assert!(recipient.last_reply.is_some_and(|text| text.starts_with("554 5.6.0")));
    bench.stop().await;
}

/// SIGTERM: the worker ends only after what was in flight, with its outcome.
#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight() {
    let (listener, address) = listener().await;
    let gate = inbox(listener, true);
    let mut bench = Bench::new(address).await;
    bench.start();
    bench.accept(GOOD).await;
    gate.reached.notified().await;
    bench.stop.cancel();
    assert_eq!(bench.until(|_| true).await.status, "sending");
    gate.open.notify_one();
    bench.stop().await;
    assert_eq!(bench.until(|_| true).await.status, "delivered");
}

/// It may have come after the final dot: the attempt counts, the backoff applies, and `uncertain` says it.
#[tokio::test]
async fn a_panic_is_an_uncertain_attempt() {
    let (_listener, address) = listener().await;
    let bench = Bench::new(address).await;
    bench.accept(GOOD).await;
    let (worker, delivery) = bench.claimed().await;
    worker.guarded(&delivery, async { panic!("on purpose") }).await;
    let recipient = bench.until(|_| true).await;
    assert_eq!((recipient.status.as_str(), recipient.attempts, recipient.uncertain), ("deferred", 1, true));
    assert!(recipient.next_attempt_at.is_some_and(|at| at >= MINUTE), "{recipient:?}");
    assert_eq!(bench.events().await, ["message.deferred"]);

    bench.advance(LIFETIME);
    let store = &bench.engine.inner.store;
    let fence = store.start_worker("w2", LIFETIME).await.expect("lease");
    let delivery = store.claim_deliveries(&fence, LIFETIME, 1).await.expect("claim").pop().expect("delivery");
    let tls = ClientTls::new(false).expect("TLS");
    let worker = Worker::new(bench.engine.clone(), fence, CancellationToken::new(), tls, Arc::default());
    worker.guarded(&delivery, async { panic!("on purpose") }).await;
    assert_eq!(bench.until(|_| true).await.status, "expired", "not for ever");
}

/// Here its event's id is taken. The recipient must not stay `sending`, and above all not be sent to again.
#[tokio::test]
async fn an_outcome_that_the_store_refuses_is_committed_without_its_event() {
    let (_listener, address) = listener().await;
    let bench = Bench::new(address).await;
    bench.accept(GOOD).await;
    let (worker, delivery) = bench.claimed().await;
    let event = |kind: &str| EventRow {
        id: "e".to_owned(),
        tenant_id: "t".to_owned(),
        kind: kind.to_owned(),
        at: 0,
        message_id: Some("m".to_owned()),
        recipient_id: None,
        domain: None,
        details: serde_json::json!({}),
    };
    let outcome = |status: &str, kind: &str| Outcome {
        recipient_id: "r".to_owned(),
        status: status.to_owned(),
        attempted: true,
        uncertain: false,
        last_reply: None,
        next_attempt_at: Some(0),
        event: Some(event(kind)),
    };
    worker.settle(&delivery, &[outcome("deferred", "message.deferred")]).await;
    let (worker, delivery) = bench.claimed().await;
    worker.settle(&delivery, &[outcome("delivered", "message.delivered")]).await;
    assert_eq!(bench.until(|_| true).await.status, "delivered");
    assert_eq!(bench.events().await, ["message.deferred"]);
}

/// Slow servers may fill the room: scheduled and held mail is looked at all the same.
#[tokio::test]
async fn releases_go_on_while_the_room_is_full() {
    let (listener, address) = listener().await;
    let gate = inbox(listener, true);
    let mut settings = settings(address);
    settings.delivery.in_flight = 1;
    let mut bench = Bench::with(settings).await;
    bench.start();
    bench.accept(GOOD).await;
    gate.reached.notified().await;
    let waits = |row: MessageRow| MessageRow {
        id: "w".to_owned(),
        status: "held".to_owned(),
        waiting_reason: None,
        release_at: Some(0),
        ..row
    };
    let new = NewMessage {
        message: waits(message()),
        body: MessageBody { prefix: Vec::new(), raw: GOOD.as_bytes().to_vec() },
        recipients: vec![RecipientRow {
            id: "wr".to_owned(),
            message_id: "w".to_owned(),
            status: "held".to_owned(),
            next_attempt_at: None,
            ..recipient()
        }],
        events: Vec::new(),
        audit: None,
        idempotency: None,
    };
    bench.engine.inner.store.accept_message(new.clone()).await.expect("accepted");
    let looked_at = async {
        loop {
            let (found, _) = bench.engine.inner.store.message("t", "w").await.expect("store").expect("message");
            if found.waiting_reason.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looked_at).await.expect("a release pass");
    assert_eq!(bench.until(|_| true).await.status, "sending", "the room is still full");
    gate.open.notify_one();
    bench.stop().await;
}
