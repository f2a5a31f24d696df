//! An engine on a real store with a clock that the test moves, one tenant and one enabled domain. DNS is out of reach: what it
//! would have said is written into the store.
use super::request::{AddressInput, MessageRequest};
use super::signing::Readiness;
use crate::delivery::{DeliverySettings, Relay, RelayTls};
use crate::domains::states;
use crate::inbound::session::{Envelope, Handler, ServerSettings, TryLater};
use crate::{Caller, Clock, Engine, Scope, Settings};
use async_trait::async_trait;
use signpost_diagnosis::dns::{Dns, DnsSettings};
use signpost_diagnosis::guard::Guard;
use signpost_dkim::message::Message;
use signpost_dkim::record;
use signpost_dkim::verify::{KeyAnswer, Verification, Verifier};
use signpost_keys::{MasterKey, SystemRandom};
use signpost_store::{
    CheckRow, Claim, Delivery, DomainChange, Fence, KeyChange, KeyRow, MessageRow, Store, StoreSettings,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use super::cases::NOW_MS as START_MS;
pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const LIFETIME_MS: i64 = 5 * 24 * HOUR_MS;
pub(crate) const NAME: &str = "example.com";

pub(crate) struct Steered(AtomicI64);

impl Clock for Steered {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Steered {
    pub(crate) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

/// An unsealed engine with one tenant that reaches nothing: no DNS, no relay.
pub(crate) struct Idle {
    pub(crate) engine: Engine,
    pub(crate) caller: Caller,
    pub(crate) clock: Arc<Steered>,
    pub(crate) folder: tempfile::TempDir,
}

impl Idle {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open(StoreSettings { sqlite_path: folder.path().join("db"), exclusive: true }).await.unwrap();
        let clock = Arc::new(Steered(AtomicI64::new(START_MS)));
        let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let shared = Arc::<Steered>::clone(&clock);
        let engine = Engine::new(store, dns(nowhere), shared, Arc::new(SystemRandom), settings(nowhere));
        engine.offer_master_key(Some(MasterKey::generate(&SystemRandom))).await.unwrap();
        let caller = first_caller(&engine).await;
        Self { engine, caller, clock, folder }
    }
}

/// A new tenant, by its first API key.
async fn first_caller(engine: &Engine) -> Caller {
    let (tenant, issued) = engine.create_tenant("Ann").await.unwrap();
    Caller { tenant_id: tenant.id, key_id: issued.row.id, scopes: Scope::ALL.to_vec(), request_id: None }
}

/// Takes everything and keeps it.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Vec<Vec<u8>>>);

#[async_trait]
impl Handler for Inbox {
    async fn message(&self, _envelope: Envelope, octets: Vec<u8>) -> Result<String, TryLater> {
        self.0.lock().unwrap().push(octets);
        Ok("stored".to_owned())
    }
}

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) caller: Caller,
    /// Id of the domain `NAME`.
    pub(crate) domain: String,
    clock: Arc<Steered>,
    inbox: Arc<Inbox>,
    relay: SocketAddr,
    name_server: SocketAddr,
    master: String,
    _folder: tempfile::TempDir,
}

fn settings(relay: SocketAddr) -> Settings {
    let relay =
        Relay { host: relay.ip().to_string(), port: relay.port(), tls: RelayTls::Opportunistic, credentials: None };
    Settings {
        hostname: "out.example.org".to_owned(),
        service_domain: None,
        egress_ips: Vec::new(),
        max_message: 25_000_000,
        queue_lifetime_ms: LIFETIME_MS,
        watch_every_ms: 6 * 3_600_000,
        delivery: DeliverySettings { relay: Some(relay), smtp_port: 25, in_flight: 4, guard: Guard::default() },
    }
}

/// A server that says SERVFAIL to every question (RFC 1035 4.1.1): no answer, and without a wait for it.
async fn failing_dns() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut octets = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut octets).await {
            octets[2] |= 0x80;
            octets[3] = 2;
            let _ = socket.send_to(&octets[..length], from).await;
        }
    });
    address
}

fn dns(server: SocketAddr) -> Dns {
    Dns::new(DnsSettings { resolvers: vec![server], authority_port: server.port(), guard: Guard::default() }).unwrap()
}

impl Bench {
    /// Unsealed; the domain is proven and enabled, its first key active, the record of it read at `START_MS`.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open(StoreSettings { sqlite_path: folder.path().join("db"), exclusive: true }).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = listener.local_addr().unwrap();
        let inbox = Arc::new(Inbox::default());
        let server = ServerSettings { hostname: "mx.test".into(), max_size: 1_000_000, tls: None, max_sessions: 10 };
        let handler = Arc::clone(&inbox) as Arc<dyn Handler>;
        tokio::spawn(crate::inbound::serve(listener, server, handler, CancellationToken::new()));
        let clock = Arc::new(Steered(AtomicI64::new(START_MS)));
        let name_server = failing_dns().await;
        let shared = Arc::<Steered>::clone(&clock);
        let engine = Engine::new(store, dns(name_server), shared, Arc::new(SystemRandom), settings(relay));
        let key = MasterKey::generate(&SystemRandom);
        let master = key.to_base64().to_string();
        engine.offer_master_key(Some(key)).await.unwrap();
        let caller = first_caller(&engine).await;
        let new = crate::domains::NewDomain { name: NAME.into(), dkim_mode: None, algorithm: Some("ed25519".into()) };
        let domain = engine.register_domain(&caller, &new).await.unwrap().row.id;
        let bench = Self { engine, caller, domain, clock, inbox, relay, name_server, master, _folder: folder };
        bench.prove().await;
        let key = bench.keys().await.remove(0);
        bench.change_key(&key.id, Some(states::ACTIVE), Some(&key.public_key)).await;
        bench.change(DomainChange { signing: Some(("enabled".into(), None)), ..DomainChange::default() }).await;
        bench
    }

    /// As after a check that saw the token.
    pub(crate) async fn prove(&self) {
        let store = &self.engine.inner.store;
        let claim = Claim {
            name: NAME.into(),
            seen_version: store.name_version(NAME).await.unwrap().version,
            at: self.now(),
            loser_event: None,
        };
        let ownership = Some(("verified".into(), Some(self.now())));
        self.change(DomainChange { ownership, claim: Some(claim), ..DomainChange::default() }).await;
    }

    /// A change of the domain as it is now.
    pub(crate) async fn change(&self, change: DomainChange) {
        let store = &self.engine.inner.store;
        let row = store.domain(&self.caller.tenant_id, &self.domain).await.unwrap().unwrap();
        store.change_domain(&self.caller.tenant_id, &self.domain, row.version, &change).await.unwrap();
    }

    /// New state of a key, and what DNS says of it from now on (empty: no usable record).
    pub(crate) async fn change_key(&self, key_id: &str, state: Option<&str>, published: Option<&str>) {
        let change = KeyChange {
            key_id: key_id.to_owned(),
            state: state.map(str::to_owned),
            published: published.map(|p| (p.to_owned(), self.now())),
            ..KeyChange::default()
        };
        self.change(DomainChange { keys: vec![change], ..DomainChange::default() }).await;
    }

    /// A check that passed now, of the records as they are now.
    pub(crate) async fn passed_check(&self) {
        let view = self.engine.domain(&self.caller, &self.domain).await.unwrap();
        let records: Vec<_> = view
            .records
            .into_iter()
            .map(|record| crate::domains::CheckedRecord {
                record: crate::domains::RecordView { status: "ok".into(), ..record },
                found: Vec::new(),
                servers: Vec::new(),
                explanation: String::new(),
            })
            .collect();
        let row = CheckRow {
            id: self.engine.fresh_id(),
            domain_id: self.domain.clone(),
            verdict: "pass".into(),
            checked_at: self.now(),
            records: serde_json::to_value(records).unwrap(),
        };
        self.change(DomainChange { check: Some(row), ..DomainChange::default() }).await;
    }

    /// A further key, `pending`, a millisecond younger than any other.
    pub(crate) async fn further_key(&self) -> KeyRow {
        self.further_key_of("ed25519").await
    }

    pub(crate) async fn further_key_of(&self, algorithm: &str) -> KeyRow {
        self.advance(1);
        let new = crate::domains::NewKey { algorithm: Some(algorithm.into()), custody: None };
        self.engine.create_domain_key(&self.caller, &self.domain, &new).await.unwrap()
    }

    /// Oldest first.
    pub(crate) async fn keys(&self) -> Vec<KeyRow> {
        self.engine.domain_keys(&self.caller, &self.domain).await.unwrap()
    }

    /// The same store without the master key, as after a start in which its file was missing.
    pub(crate) fn sealed(&self) -> Engine {
        let store = self.engine.inner.store.clone();
        let clock = Arc::<Steered>::clone(&self.clock);
        Engine::new(store, dns(self.name_server), clock, Arc::new(SystemRandom), settings(self.relay))
    }

    /// The file's text of the right key.
    pub(crate) fn master_key(&self) -> String {
        self.master.clone()
    }

    /// The right key for it.
    pub(crate) async fn unseal(&self, engine: &Engine) {
        engine.offer_master_key(Some(MasterKey::from_base64(&self.master).unwrap())).await.unwrap();
        assert!(!engine.is_sealed());
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.now_ms()
    }

    pub(crate) fn advance(&self, millis: i64) {
        self.clock.advance(millis);
    }

    pub(crate) fn clock(&self) -> Arc<Steered> {
        Arc::clone(&self.clock)
    }

    /// A fence that is good at this hour, however far the clock was moved.
    pub(crate) async fn fence(&self) -> Fence {
        self.engine.inner.store.start_worker(&self.engine.fresh_id(), self.now()).await.unwrap()
    }

    /// One pass over what waits; gives how many messages were looked at.
    pub(crate) async fn release(&self) -> usize {
        let fence = self.fence().await;
        self.engine.release_waiting(&fence).await.unwrap()
    }

    /// What the worker is told before its attempt at the one message that is due.
    pub(crate) async fn readiness(&self) -> (Delivery, Readiness) {
        let fence = self.fence().await;
        let mut due = self.engine.inner.store.claim_deliveries(&fence, self.now(), 10).await.unwrap();
        assert_eq!(due.len(), 1, "{due:?}");
        let delivery = due.remove(0);
        let body = self.engine.inner.store.delivery_body(&delivery.message.id).await.unwrap().unwrap();
        let readiness = self.engine.ready_to_send(&delivery, &body).await.unwrap();
        (delivery, readiness)
    }

    /// A small message from `NAME`.
    pub(crate) fn request(&self, send_at: Option<&str>) -> MessageRequest {
        MessageRequest {
            from: AddressInput::Text(format!("ann@{NAME}")),
            to: vec![AddressInput::Text("bob@example.net".into())],
            cc: Vec::new(),
            bcc: Vec::new(),
            reply_to: Vec::new(),
            subject: "Hello".into(),
            text: Some("Hello there.\n".into()),
            html: None,
            headers: Vec::new(),
            attachments: Vec::new(),
            list_unsubscribe: None,
            tags: Vec::new(),
            metadata: Vec::new(),
            send_at: send_at.map(str::to_owned),
            mail_from: None,
        }
    }

    /// Sends it through `engine`; gives its id.
    pub(crate) async fn send_through(&self, engine: &Engine, send_at: Option<&str>) -> String {
        engine.send(&self.caller, self.request(send_at), None).await.unwrap().0.id
    }

    pub(crate) async fn send(&self) -> String {
        self.send_through(&self.engine, None).await
    }

    pub(crate) async fn message(&self, id: &str) -> MessageRow {
        let (message, recipients) = self.engine.message(&self.caller, id).await.unwrap();
        assert!(recipients.iter().all(|r| r.status == message.status), "{message:?} {recipients:?}");
        message
    }

    /// Fails unless it has that status.
    #[track_caller]
    pub(crate) fn expect(&self, id: &str, status: &str) -> impl Future<Output = MessageRow> {
        let at = std::panic::Location::caller();
        async move {
            let message = self.message(id).await;
            assert_eq!(message.status, status, "at {at}: {:?}", message.waiting_reason);
            message
        }
    }

    /// The octets as they would leave now.
    pub(crate) async fn octets(&self, id: &str) -> Vec<u8> {
        self.engine.message_raw(&self.caller, id).await.unwrap()
    }

    pub(crate) async fn event_kinds(&self, id: &str) -> Vec<String> {
        let page = self.engine.message_events(&self.caller, id, None, 100).await.unwrap();
        page.rows.into_iter().map(|event| event.kind).collect()
    }

    /// Lets the worker run until the message has that status; gives what the inbox got by then.
    pub(crate) async fn work_until(&self, id: &str, status: &str) -> Vec<Vec<u8>> {
        let stop = CancellationToken::new();
        let tls = crate::delivery::tls::ClientTls::for_delivery(&self.engine.settings().delivery).unwrap();
        let worker = tokio::spawn(crate::delivery::worker::run(self.engine.clone(), tls, stop.clone()));
        let look = async {
            while self.message(id).await.status != status {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), look).await.unwrap();
        stop.cancel();
        worker.await.unwrap();
        self.arrived()
    }

    pub(crate) fn arrived(&self) -> Vec<Vec<u8>> {
        self.inbox.0.lock().unwrap().clone()
    }

    /// What our verifier says now, for a DNS that serves the records of these keys.
    pub(crate) fn verify(&self, octets: &[u8], keys: &[KeyRow]) -> Vec<Verification> {
        let message = Message::parse(octets).unwrap();
        let answer = |name: &str| {
            let key = keys.iter().find(|key| name == format!("{}._domainkey.{}", key.selector, key.domain_name));
            key.map_or(KeyAnswer::Absent, |key| {
                let key = crate::domains::records::stored_public_key(key).unwrap();
                KeyAnswer::Text(vec![record::build(&key)])
            })
        };
        Verifier::new(&message).verify(&answer, self.clock.now_s())
    }

    /// Fails unless there is exactly one signature, by this key, and it passes.
    #[track_caller]
    pub(crate) fn assert_signed_by(&self, octets: &[u8], key: &KeyRow) {
        self.assert_signed_by_each(octets, &[key]);
    }

    /// Fails unless the signatures are by these keys, from the top, and all pass.
    #[track_caller]
    pub(crate) fn assert_signed_by_each(&self, octets: &[u8], keys: &[&KeyRow]) {
        let known: Vec<KeyRow> = keys.iter().map(|key| (*key).clone()).collect();
        let results = self.verify(octets, &known);
        let found: Vec<_> = results.iter().map(|one| (one.selector.as_deref().unwrap(), one.result.as_str())).collect();
        let expected: Vec<_> = keys.iter().map(|key| (key.selector.as_str(), "pass")).collect();
        assert_eq!(found, expected, "{results:?}\n{}", String::from_utf8_lossy(octets));
    }
}

/// The unfolded value of the one field of that name.
#[track_caller]
pub(crate) fn field(octets: &[u8], name: &str) -> String {
    let message = Message::parse(octets).unwrap();
    let found: Vec<_> = message.all(name).collect();
    assert_eq!(found.len(), 1, "{name} in {}", String::from_utf8_lossy(octets));
    String::from_utf8_lossy(found[0].value).replace("\r\n", "").trim().to_owned()
}
