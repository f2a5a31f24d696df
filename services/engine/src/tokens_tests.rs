//! Token keys and their bearers through the engine, by a clock that a test moves.
use super::{HOUR_MS, KEPT_MS, LEAD_MS, LIFE_MS};
use crate::delivery::DeliverySettings;
use crate::{Caller, Clock, Engine, Error, Scope, Settings};
use signpost_diagnosis::dns::{Dns, DnsSettings};
use signpost_diagnosis::guard::Guard;
use signpost_keys::{MasterKey, SystemRandom};
use signpost_store::{Store, StoreSettings};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

struct Steered(AtomicI64);
impl Clock for Steered {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Bench {
    engine: Engine,
    caller: Caller,
    clock: Arc<Steered>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open(StoreSettings { sqlite_path: folder.path().join("db"), exclusive: true }).await.unwrap();
        let clock = Arc::new(Steered(AtomicI64::new(1_700_000_000_000)));
        let nowhere = vec!["127.0.0.1:1".parse().unwrap()];
        let dns = Dns::new(DnsSettings { resolvers: nowhere, authority_port: 1, guard: Guard::default() }).unwrap();
        let settings = Settings {
            hostname: "out.example.com".into(),
            service_domain: None,
            egress_ips: Vec::new(),
            max_message: 1000,
            queue_lifetime_ms: 1000,
            delivery: DeliverySettings { relay: None, smtp_port: 25, in_flight: 1, guard: Guard::default() },
        };
        let engine = Engine::new(store, dns, Arc::<Steered>::clone(&clock), Arc::new(SystemRandom), settings);
        engine.offer_master_key(Some(MasterKey::generate(&SystemRandom))).await.unwrap();
        let (tenant, key) = engine.create_tenant("Ann").await.unwrap();
        let caller = Caller { tenant_id: tenant.id, key_id: key.row.id, scopes: Scope::ALL.to_vec(), request_id: None };
        Self { engine, caller, clock, _folder: folder }
    }

    fn pass_time(&self, ms: i64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    async fn signer(&self) -> String {
        self.engine.token_signing_key().await.unwrap().0
    }

    async fn published(&self) -> Vec<String> {
        self.engine.token_public_keys().await.unwrap().into_iter().map(|key| key.kid).collect()
    }
}

#[tokio::test]
async fn a_successor_is_published_a_day_before_it_signs_and_the_old_key_for_an_hour_after() {
    let bench = Bench::new().await;
    let first = bench.signer().await;
    bench.pass_time(LIFE_MS - LEAD_MS - 1);
    assert_eq!((bench.signer().await, bench.published().await), (first.clone(), vec![first.clone()]));
    bench.pass_time(1);
    assert_eq!(bench.signer().await, first, "the successor is made, and does not sign yet");
    let both = bench.published().await;
    assert_eq!((both.len(), &both[0]), (2, &first));
    bench.pass_time(LEAD_MS - 1);
    assert_eq!(bench.signer().await, first);
    bench.pass_time(1);
    assert_eq!((bench.signer().await, bench.published().await), (both[1].clone(), both.clone()));
    // A token of the old key's last moment.
    assert!(bench.engine.token_public_key(&first).await.unwrap().is_some());
    bench.pass_time(KEPT_MS);
    assert_eq!((bench.signer().await, bench.published().await), (both[1].clone(), vec![both[1].clone()]));
    bench.pass_time(60_000);
    assert!(bench.engine.token_public_key(&first).await.unwrap().is_none());
}

#[tokio::test]
async fn the_bearer_of_a_token_may_do_what_the_token_says_while_its_api_key_may() {
    let bench = Bench::new().await;
    let ends = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(bench.clock.now_ms() + HOUR_MS) * 1_000_000)
        .unwrap()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    let scopes = ["sign".to_owned(), "admin".to_owned()];
    let made = bench.engine.create_api_key(&bench.caller, "short", &scopes, Some(&ends)).await.unwrap();
    let bearer = |scopes: &'static [Scope]| bench.engine.authenticate_bearer(&made.row.id, scopes);

    assert_eq!(bearer(&[Scope::Sign]).await.unwrap().scopes, [Scope::Sign]);
    assert_eq!(
        bearer(&[Scope::Sign, Scope::MessagesSend]).await.unwrap().scopes,
        [Scope::Sign],
        "no more than the key"
    );

    let admin = bearer(&[Scope::Admin, Scope::Sign]).await.unwrap();
    let longer = ["sign".to_owned()];
    let refused = bench.engine.create_api_key(&admin, "for ever", &longer, None).await;
    assert!(
        matches!(&refused, Err(Error::Invalid(faults)) if faults[0].pointer.as_deref() == Some("/expires_at")),
        "outlives its maker"
    );
    bench.engine.create_api_key(&admin, "as long", &longer, Some(&ends)).await.unwrap();

    bench.pass_time(HOUR_MS);
    assert!(matches!(bearer(&[Scope::Sign]).await, Err(Error::Unauthenticated)), "the API key has expired");
}
