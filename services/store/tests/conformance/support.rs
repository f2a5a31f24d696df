//! Fresh databases and rows that fit our schema.
#[path = "../../../../tests/it/src/postgres.rs"]
#[expect(unreachable_pub, reason = "shared with the end-to-end tests, where it is public")]
mod postgres_server;

pub(crate) use postgres_server::PostgresServer;
use serde_json::json;
use signpost_store::{
    ApiKeyRow, AuditRow, Claim, DomainChange, DomainRow, EventRow, Fence, IdempotencyScope, KeyLife, KeyRow,
    MessageBody, MessageRow, NewMessage, Outcome, PostgresSettings, RecipientRow, ReleaseChange, SignatureRow, SlotRow,
    Store, StoreError, StoreSettings, TenantRow,
};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Some time.
pub(crate) const NOW: i64 = 1_700_000_000_000;

/// Runs each behaviour (`async fn(Store)`) on a fresh database of each kind.
#[macro_export]
macro_rules! on_every_database {
    ($($behaviour:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $behaviour() {
                    let database = $crate::support::Fresh::sqlite().await;
                    super::$behaviour(database.store.clone()).await;
                    database.store.close().await;
                }
            )*
        }
        mod postgres {
            $(
                #[tokio::test]
                async fn $behaviour() {
                    let database = $crate::support::Fresh::postgres().await;
                    super::$behaviour(database.store.clone()).await;
                    database.store.close().await;
                }
            )*
        }
    };
}

/// An empty database that goes with the value.
pub(crate) struct Fresh {
    pub(crate) store: Store,
    /// For SQL beside the store, where it is on PostgreSQL.
    pub(crate) url: String,
    _folder: Option<TempDir>,
}

impl Fresh {
    pub(crate) async fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        let sqlite_path = folder.path().join("signpost.db");
        let store = Store::open(StoreSettings { sqlite_path, exclusive: true }).await.unwrap();
        Self { store, url: String::new(), _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        let url = server().database();
        let store = connect(&url).await.unwrap();
        Self { store, url, _folder: None }
    }
}

/// The server of this test process.
pub(crate) fn server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(PostgresServer::start)
}

pub(crate) async fn connect(url: &str) -> Result<Store, StoreError> {
    Store::connect(PostgresSettings::from_url(url).unwrap()).await
}

/// A fresh id, greater than all before it in the order of text, as UUIDv7 are.
pub(crate) fn id() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("{:032x}", LAST.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn audit(tenant: &str, action: &str) -> AuditRow {
    AuditRow {
        id: id(),
        tenant_id: tenant.into(),
        actor: "system".into(),
        action: action.into(),
        object: "thing".into(),
        domain_id: None,
        details: json!({"before": null}),
        request_id: None,
        at: NOW,
    }
}

pub(crate) fn event(tenant: &str, kind: &str, message_id: Option<&str>) -> EventRow {
    EventRow {
        id: id(),
        tenant_id: tenant.into(),
        kind: kind.into(),
        at: NOW,
        message_id: message_id.map(str::to_owned),
        recipient_id: None,
        domain: None,
        details: json!({}),
    }
}

pub(crate) fn api_key(tenant: &str) -> ApiKeyRow {
    ApiKeyRow {
        id: id(),
        tenant_id: tenant.into(),
        name: "first".into(),
        mac: vec![7; 32],
        scopes: "domains:read sign".into(),
        created_at: NOW,
        expires_at: Some(NOW + 1000),
        revoked_at: None,
        last_used_at: None,
    }
}

/// A tenant with a key; returns its id.
pub(crate) async fn tenant(store: &Store) -> String {
    let row = TenantRow { id: id(), name: "Ann's shop".into(), suspended_at: None, created_at: NOW };
    store.create_tenant(&row, &api_key(&row.id), &audit(&row.id, "tenant.created")).await.unwrap();
    row.id
}

pub(crate) fn domain_row(tenant: &str, name: &str) -> DomainRow {
    DomainRow {
        id: id(),
        tenant_id: tenant.into(),
        name: name.into(),
        dkim_mode: "txt".into(),
        ownership: "pending".into(),
        ownership_token: id(),
        token_issued_at: NOW,
        proven_at: None,
        signing: "disabled".into(),
        signing_reason: None,
        dual_signing: false,
        version: 1,
        created_at: NOW,
    }
}

pub(crate) fn key_row(domain: &DomainRow) -> KeyRow {
    KeyRow {
        id: id(),
        tenant_id: domain.tenant_id.clone(),
        domain_id: domain.id.clone(),
        domain_name: domain.name.clone(),
        selector: format!("sp{}", id()),
        algorithm: "rsa-2048".into(),
        custody: "sealed".into(),
        reference: "sealed:1".into(),
        sealed: b"sealed octets".to_vec(),
        public_key: "MIIB".into(),
        state: "pending".into(),
        published_p: None,
        published_read_at: None,
        published_tried_at: None,
        life: KeyLife { state_since: NOW, ..KeyLife::default() },
        created_at: NOW,
    }
}

/// A domain with its first key.
pub(crate) async fn domain(store: &Store, tenant: &str, name: &str) -> (DomainRow, KeyRow) {
    let row = domain_row(tenant, name);
    let key = key_row(&row);
    store.insert_domain(&row, &key, &audit(tenant, "domain.created")).await.unwrap();
    (row, key)
}

/// The first slot of a new delegated domain.
pub(crate) async fn delegated_domain(store: &Store) -> SlotRow {
    let ann = tenant(store).await;
    let row = DomainRow { dkim_mode: "delegated".into(), ..domain_row(&ann, "example.com") };
    let slot = SlotRow::unused(&row, 0, "sel0", "label.dkim.test");
    let key = KeyRow { selector: "sel0".into(), ..key_row(&row) };
    store.insert_delegated_domain(&row, &[slot], &key, &audit(&ann, "domain.created")).await.unwrap();
    store.slot("label.dkim.test").await.unwrap().unwrap()
}

/// What a check that proves ownership writes.
pub(crate) fn proof(name: &str, seen_version: i64, loser_event: Option<EventRow>) -> DomainChange {
    DomainChange {
        ownership: Some(("verified".into(), Some(NOW))),
        claim: Some(Claim { name: name.into(), seen_version, at: NOW, loser_event }),
        ..DomainChange::default()
    }
}

/// A message of that domain with one queued recipient per address.
pub(crate) fn new_message(domain: &DomainRow, addresses: &[&str]) -> NewMessage {
    let message_id = id();
    let recipient = |address: &&str| RecipientRow {
        id: id(),
        message_id: message_id.clone(),
        address: (*address).into(),
        domain: address.rsplit('@').next().unwrap().into(),
        status: "queued".into(),
        attempts: 0,
        uncertain: false,
        last_reply: None,
        next_attempt_at: Some(NOW),
    };
    NewMessage {
        message: MessageRow {
            id: message_id.clone(),
            tenant_id: domain.tenant_id.clone(),
            message_id: format!("<{message_id}@{}>", domain.name),
            status: "queued".into(),
            from: format!("Ann <ann@{}>", domain.name),
            subject: "Grüße".into(),
            size: 10,
            domain_id: domain.id.clone(),
            mail_from: None,
            signatures: vec![signature("k1")],
            tags: json!(["welcome"]),
            metadata: json!({"user": "42"}),
            warnings: json!([]),
            waiting_reason: None,
            release_at: None,
            expires_at: NOW + 5 * 86_400_000,
            created_at: NOW,
        },
        body: MessageBody { prefix: b"DKIM-Signature: 1\r\n".to_vec(), raw: b"\0raw\xff".to_vec() },
        recipients: addresses.iter().map(recipient).collect(),
        events: vec![event(&domain.tenant_id, "message.accepted", Some(&message_id))],
        audit: None,
        idempotency: None,
    }
}

/// The same message, waiting as a whole.
pub(crate) fn waiting_message(domain: &DomainRow, status: &str, release_at: Option<i64>) -> NewMessage {
    let mut new = new_message(domain, &["bob@example.net", "cat@example.org"]);
    new.message.status = status.into();
    new.message.release_at = release_at;
    new.message.waiting_reason = Some("no key".into());
    new.message.signatures.clear();
    for recipient in &mut new.recipients {
        recipient.status = status.into();
        recipient.next_attempt_at = None;
    }
    new
}

pub(crate) fn signature(key_id: &str) -> SignatureRow {
    SignatureRow {
        key_id: key_id.into(),
        domain: "example.com".into(),
        selector: "s1".into(),
        algorithm: "rsa-sha256".into(),
    }
}

/// Tenant, domain, and a message accepted for it.
pub(crate) async fn accepted(store: &Store, addresses: &[&str]) -> (DomainRow, NewMessage) {
    let tenant = tenant(store).await;
    let (domain, _) = domain(store, &tenant, "example.com").await;
    let new = new_message(&domain, addresses);
    store.accept_message(new.clone()).await.unwrap();
    (domain, new)
}

pub(crate) async fn worker(store: &Store) -> Fence {
    store.start_worker("w1", NOW).await.unwrap()
}

pub(crate) fn outcome(recipient_id: &str, status: &str, event: Option<EventRow>) -> Outcome {
    Outcome {
        recipient_id: recipient_id.into(),
        status: status.into(),
        attempted: true,
        uncertain: false,
        last_reply: Some("250 2.0.0 ok".into()),
        next_attempt_at: (status == "deferred").then_some(NOW + 300_000),
        event,
    }
}

pub(crate) fn release_change(status: &str, release_at: Option<i64>) -> ReleaseChange {
    ReleaseChange {
        status: status.into(),
        signatures: Vec::new(),
        body: None,
        size: None,
        waiting_reason: Some("no key".into()),
        release_at,
        expires_at: None,
        events: Vec::new(),
    }
}

pub(crate) fn scope(tenant: &str, key: &str) -> IdempotencyScope {
    IdempotencyScope { tenant_id: tenant.into(), method: "POST".into(), path: "/v1/messages".into(), key: key.into() }
}

/// Status of the message, then those of its recipients.
pub(crate) async fn statuses(store: &Store, new: &NewMessage) -> (String, Vec<String>) {
    let (message, recipients) = store.message(&new.message.tenant_id, &new.message.id).await.unwrap().unwrap();
    (message.status, recipients.into_iter().map(|recipient| recipient.status).collect())
}

/// Kinds of all events of the message, oldest first.
pub(crate) async fn event_kinds(store: &Store, new: &NewMessage) -> Vec<String> {
    let page = store.message_events(&new.message.tenant_id, &new.message.id, None, 1000).await.unwrap().unwrap();
    page.rows.into_iter().map(|event| event.kind).collect()
}
