//! Keys in a KMS that a test steers: the limit under concurrency, the expiry by the clock, and keys that are owed to be given up.
use super::{KEYS_OF_UNPROVEN, KmsAccess, UNPROVEN_DOMAINS, UNPROVEN_KEPT_MS};
use crate::domains::{NewDomain, NewKey};
use crate::messages::bench::{Idle, Steered};
use crate::{Caller, Clock, Engine, Error};
use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use signpost_keys::{Custody, CustodyError, CustodyKind, KeyBinding, StoredKey};
use signpost_store::{Claim, DomainChange};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Makes keys slowly enough for others to come in between; fails while `away`.
#[derive(Default)]
struct SteeredKms {
    away: AtomicBool,
    made: Mutex<Vec<String>>,
    withdrawn: Mutex<Vec<String>>,
}

impl SteeredKms {
    fn reach(&self) -> Result<(), CustodyError> {
        if self.away.load(Ordering::SeqCst) { Err(CustodyError::Unavailable("away".into())) } else { Ok(()) }
    }
    fn made(&self) -> Vec<String> {
        self.made.lock().unwrap().clone()
    }
    fn withdrawn(&self) -> Vec<String> {
        self.withdrawn.lock().unwrap().clone()
    }
}

#[async_trait]
impl Custody for SteeredKms {
    fn kind(&self) -> CustodyKind {
        CustodyKind::AwsKms
    }
    async fn create(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        self.reach()?;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let reference = format!("awskms:arn:{}", binding.key_id);
        self.made.lock().unwrap().push(reference.clone());
        let pair = Ed25519KeyPair::generate().unwrap();
        let public_key = PublicKey::from_ed25519(pair.public_key().as_ref()).unwrap();
        Ok(StoredKey { reference, sealed: Vec::new(), public_key, algorithm })
    }
    async fn sign(&self, _: &KeyBinding, _: &StoredKey, _: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        Err(CustodyError::Unavailable("this one never signs".into()))
    }
    fn forget(&self, _key_id: &str) {}
    async fn withdraw(&self, _: &KeyBinding, key: &StoredKey) -> Result<(), CustodyError> {
        self.reach()?;
        self.withdrawn.lock().unwrap().push(key.reference.clone());
        Ok(())
    }
}

struct Bench {
    engine: Engine,
    caller: Caller,
    kms: Arc<SteeredKms>,
    clock: Arc<Steered>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// An unsealed engine with one tenant, whose new keys go to the KMS.
    async fn new() -> Self {
        let Idle { engine, caller, clock, folder } = Idle::start().await;
        let kms = Arc::new(SteeredKms::default());
        engine.attach_kms(KmsAccess {
            keys: Arc::<SteeredKms>::clone(&kms),
            envelope: Arc::<SteeredKms>::clone(&kms),
            for_new_keys: CustodyKind::AwsKms,
        });
        Self { engine, caller, kms, clock, _folder: folder }
    }

    async fn register(&self, name: &str) -> Result<String, Error> {
        let new = NewDomain { name: name.into(), dkim_mode: None, algorithm: Some("ed25519".into()) };
        self.engine.register_domain(&self.caller, &new).await.map(|view| view.row.id)
    }

    async fn further_key(&self, domain: &str) -> Result<String, Error> {
        let new = NewKey { algorithm: Some("ed25519".into()), custody: None };
        self.engine.create_domain_key(&self.caller, domain, &new).await.map(|key| key.id)
    }

    async fn prove(&self, domain: &str, name: &str) {
        let store = &self.engine.inner.store;
        let version = store.domain(&self.caller.tenant_id, domain).await.unwrap().unwrap().version;
        let at = self.clock.now_ms();
        let change = DomainChange {
            ownership: Some(("verified".into(), Some(at))),
            claim: Some(Claim { name: name.into(), seen_version: 0, at, loser_event: None }),
            ..DomainChange::default()
        };
        store.change_domain(&self.caller.tenant_id, domain, version, &change).await.unwrap();
    }

    fn pass_time(&self, ms: i64) {
        self.clock.advance(ms);
    }
}

#[tokio::test]
async fn of_many_registrations_at_once_only_the_allowed_ones_make_a_key() {
    let bench = Bench::new().await;
    let names: Vec<String> = (0..20).map(|n| format!("d{n}.example")).collect();
    let results = futures_util::future::join_all(names.iter().map(|name| bench.register(name))).await;
    let allowed = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(i64::try_from(allowed).unwrap(), UNPROVEN_DOMAINS);
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::TooManyUnproven { domains: 5, days: 7 }))));
    assert_eq!(bench.kms.made().len(), allowed, "a key was made for a registration that was refused");
    assert!(bench.engine.inner.remote_turns.lock().unwrap().len() <= 1, "turns pile up");
}

#[tokio::test]
async fn an_unproven_domain_has_one_key_of_each_kind_at_most_and_a_proven_one_what_it_needs() {
    let bench = Bench::new().await;
    let id = bench.register("one.example").await.unwrap();
    let results = futures_util::future::join_all((0..6).map(|_| bench.further_key(&id))).await;
    assert_eq!(1 + results.iter().filter(|result| result.is_ok()).count(), KEYS_OF_UNPROVEN);
    bench.prove(&id, "one.example").await;
    bench.further_key(&id).await.unwrap();
    assert_eq!(bench.kms.made().len(), KEYS_OF_UNPROVEN + 1);
}

#[tokio::test]
async fn the_same_name_twice_makes_one_key() {
    let bench = Bench::new().await;
    let results = futures_util::future::join_all((0..4).map(|_| bench.register("one.example"))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::DomainExists))));
    assert_eq!((bench.kms.made().len(), bench.kms.withdrawn().len()), (1, 0));
}

#[tokio::test]
async fn an_unproven_domain_goes_after_7_days_and_its_key_with_it_once_the_kms_is_there() {
    let bench = Bench::new().await;
    let unproven = bench.register("unproven.example").await.unwrap();
    let proven = bench.register("proven.example").await.unwrap();
    bench.prove(&proven, "proven.example").await;
    let owed = bench.kms.made()[0].clone();

    bench.pass_time(UNPROVEN_KEPT_MS);
    assert_eq!(bench.engine.expire_unproven_domains().await.unwrap(), 0);
    bench.pass_time(1);
    assert_eq!(bench.engine.expire_unproven_domains().await.unwrap(), 1);
    let store = &bench.engine.inner.store;
    assert!(store.domain(&bench.caller.tenant_id, &unproven).await.unwrap().is_none());
    assert!(store.domain(&bench.caller.tenant_id, &proven).await.unwrap().is_some());

    bench.kms.away.store(true, Ordering::SeqCst);
    assert_eq!(bench.engine.withdraw_keys().await.unwrap(), 0);
    bench.kms.away.store(false, Ordering::SeqCst);
    assert_eq!(bench.engine.withdraw_keys().await.unwrap(), 1);
    assert_eq!(bench.engine.withdraw_keys().await.unwrap(), 0, "given up once");
    assert_eq!(bench.kms.withdrawn(), [owed]);
}

#[tokio::test]
async fn a_key_whose_domain_went_while_it_was_made_is_given_up() {
    let bench = Bench::new().await;
    let id = bench.register("one.example").await.unwrap();
    let (made, deleted) =
        tokio::join!(bench.further_key(&id), async { bench.engine.delete_domain(&bench.caller, &id).await });
    deleted.unwrap();
    bench.engine.withdraw_keys().await.unwrap();
    let (mut all, mut given_up) = (bench.kms.made(), bench.kms.withdrawn());
    all.sort();
    given_up.sort();
    given_up.dedup();
    assert_eq!(all, given_up, "{made:?}");
}

#[tokio::test]
async fn a_kms_that_is_away_registers_nothing() {
    let bench = Bench::new().await;
    bench.kms.away.store(true, Ordering::SeqCst);
    assert!(matches!(bench.register("one.example").await, Err(Error::KeyUnavailable)));
    bench.kms.away.store(false, Ordering::SeqCst);
    bench.register("one.example").await.unwrap();
}
