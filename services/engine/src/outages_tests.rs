//! Keys in a KMS that a test steers: what each fault means for the key, its domain and its mail.
use super::*;
use crate::KmsAccess;
use crate::domains::NewKey;
use crate::domains::states::{ACTIVE, RETIRED};
use crate::messages::bench::{Bench, HOUR_MS, Steered};
use crate::rows::AuditFilter;
use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use signpost_keys::{Custody, KeyBinding, StoredKey};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

const FIVE_MINUTES_MS: i64 = 300_000;

/// Holds one key; counts how often it is asked for it.
struct SteeredKms {
    pair: Ed25519KeyPair,
    fault: Mutex<Option<CustodyError>>,
    asked: AtomicUsize,
    clock: Arc<Steered>,
    takes_ms: AtomicI64,
}

#[async_trait]
impl Custody for SteeredKms {
    fn kind(&self) -> CustodyKind {
        CustodyKind::AwsKms
    }
    async fn create(&self, _: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        let public_key = PublicKey::from_ed25519(self.pair.public_key().as_ref()).unwrap();
        Ok(StoredKey { reference: "awskms:arn:1".into(), sealed: Vec::new(), public_key, algorithm })
    }
    async fn sign(&self, _: &KeyBinding, _: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.clock.advance(self.takes_ms.load(Ordering::SeqCst));
        match self.fault.lock().unwrap().clone() {
            Some(fault) => Err(fault),
            None => Ok(self.pair.sign(digest).as_ref().to_vec()),
        }
    }
    fn forget(&self, _key_id: &str) {}
    async fn withdraw(&self, _: &KeyBinding, _: &StoredKey) -> Result<(), CustodyError> {
        Ok(())
    }
}

fn access(kms: &Arc<SteeredKms>) -> KmsAccess {
    KmsAccess {
        keys: Arc::<SteeredKms>::clone(kms),
        envelope: Arc::<SteeredKms>::clone(kms),
        for_new_keys: CustodyKind::AwsKms,
    }
}

/// An enabled domain whose only key is in the KMS, and older than five minutes.
struct Kms {
    bench: Bench,
    kms: Arc<SteeredKms>,
    key: KeyRow,
}

impl Kms {
    async fn start() -> Self {
        let this = Self::with_a_new_key().await;
        this.bench.advance(FIVE_MINUTES_MS);
        this
    }

    async fn with_a_new_key() -> Self {
        let bench = Bench::start().await;
        let kms = Arc::new(SteeredKms {
            pair: Ed25519KeyPair::generate().unwrap(),
            fault: Mutex::new(None),
            asked: AtomicUsize::new(0),
            clock: bench.clock(),
            takes_ms: AtomicI64::new(0),
        });
        bench.engine.attach_kms(access(&kms));
        let first = bench.keys().await.remove(0);
        bench.advance(1);
        let new = NewKey { algorithm: Some("ed25519".into()), custody: Some("aws-kms".into()) };
        let key = bench.engine.create_domain_key(&bench.caller, &bench.domain, &new).await.unwrap();
        bench.change_key(&first.id, Some(RETIRED), None).await;
        bench.change_key(&key.id, Some(ACTIVE), Some(&key.public_key)).await;
        Self { bench, kms, key }
    }

    fn fails(&self, fault: CustodyError) {
        *self.kms.fault.lock().unwrap() = Some(fault);
    }

    fn works(&self) {
        *self.kms.fault.lock().unwrap() = None;
    }

    fn asked(&self) -> usize {
        self.kms.asked.swap(0, Ordering::SeqCst)
    }

    async fn signing(&self) -> (String, Option<String>) {
        let row = self.bench.engine.domain(&self.bench.caller, &self.bench.domain).await.unwrap().row;
        (row.signing, row.signing_reason)
    }

    /// Audit rows of the domain's signing, oldest first.
    async fn told(&self) -> Vec<String> {
        let log = self.bench.engine.audit_log(&self.bench.caller, &AuditFilter::default(), None, 100).await.unwrap();
        let rows = log.rows.into_iter().rev().filter(|row| row.action.starts_with("signing."));
        rows.map(|row| {
            assert_eq!((row.actor.as_str(), row.domain_id.as_ref()), ("system", Some(&self.bench.domain)), "{row:?}");
            row.action
        })
        .collect()
    }

    /// Seconds pass, each with its probes, as the server has them.
    async fn seconds(&self, engine: &Engine, seconds: usize) {
        for _ in 0..seconds {
            self.bench.advance(1000);
            engine.probe_unavailable_keys().await;
        }
    }

    /// A message is accepted and waits; when it asks again, after so many ms.
    async fn send_and_wait(&self) -> (String, i64) {
        let id = self.bench.send().await;
        let message = self.bench.expect(&id, "awaiting_signature").await;
        (id, message.release_at.unwrap() - self.bench.now())
    }
}

fn suspended() -> (String, Option<String>) {
    ("suspended".into(), Some("key_unavailable".into()))
}

fn enabled() -> (String, Option<String>) {
    ("enabled".into(), None)
}

/// One reason is shown at a time, and the other one when that has ended.
#[tokio::test]
async fn a_key_that_signs_again_does_not_resume_what_its_record_keeps_suspended() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::KeyUnavailable("disabled".into()));
    kms.bench.send().await;
    assert_eq!(kms.signing().await, suspended());
    let wrong = signpost_store::WrongAnswers { looks: 3, since: Some(kms.bench.now()) };
    let watch = signpost_store::WatchState { record: wrong, ..signpost_store::WatchState::default() };
    kms.bench.change(signpost_store::DomainChange { watch: Some(watch), ..Default::default() }).await;
    kms.works();
    kms.seconds(&kms.bench.engine, 20).await;
    assert_eq!(kms.signing().await, ("suspended".to_owned(), Some("record_wrong".to_owned())));
    assert_eq!(kms.told().await, ["signing.suspended", "signing.suspended"]);
}

/// Another process, to which the KMS gives the key, takes the suspension back: this one does not insist.
#[tokio::test]
async fn processes_that_disagree_about_a_key_do_not_suspend_and_resume_by_turns() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::KeyUnavailable("no permission".into()));
    kms.bench.send().await;
    assert_eq!(kms.signing().await, suspended());
    for _ in 0..5 {
        let enabled = Some(("enabled".to_owned(), None));
        kms.bench.change(signpost_store::DomainChange { signing: enabled, ..Default::default() }).await;
        kms.seconds(&kms.bench.engine, 30).await;
        assert_eq!(kms.signing().await, ("enabled".to_owned(), None));
    }
    assert_eq!(kms.told().await, ["signing.suspended"]);
    kms.bench.advance(SUSPENDED_AGAIN_MS);
    kms.seconds(&kms.bench.engine, 30).await;
    assert_eq!(kms.signing().await, suspended());
}

#[tokio::test]
async fn a_key_at_fault_suspends_its_domain_once_and_its_mail_goes_when_it_signs_again() {
    for fault in [
        CustodyError::KeyUnavailable("the KMS answers DisabledException".into()),
        CustodyError::KeyNotFound("the KMS answers NotFoundException".into()),
        CustodyError::Refused("another key signed".into()),
    ] {
        let kms = Kms::start().await;
        kms.fails(fault.clone());
        let (first, _) = kms.send_and_wait().await;
        assert_eq!(kms.signing().await, suspended(), "{fault}");
        for _ in 0..20 {
            kms.send_and_wait().await;
        }
        let sign = kms.bench.engine.sign(&kms.bench.caller, b"From: a@example.com\r\n\r\nx\r\n".to_vec()).await;
        assert!(matches!(sign, Err(Error::KeyUnavailable)), "{sign:?}");
        assert_eq!(kms.asked(), 1, "{fault}: one call, not one a message");
        kms.seconds(&kms.bench.engine, 60).await;
        assert!((5..=8).contains(&kms.asked()), "{fault}: a probe now and then");
        assert_eq!(kms.told().await, ["signing.suspended"], "{fault}");

        kms.works();
        kms.seconds(&kms.bench.engine, 15).await;
        assert_eq!(kms.signing().await, enabled());
        assert_eq!(kms.told().await, ["signing.suspended", "signing.resumed"]);
        let arrived = kms.bench.work_until(&first, "delivered").await;
        kms.bench.assert_signed_by(&arrived[0], &kms.key);
    }
}

#[tokio::test]
async fn what_is_no_fault_of_the_key_changes_no_state() {
    for (fault, after) in [
        (CustodyError::Unavailable("the KMS gives no answer".into()), 0..=0),
        (CustodyError::Transient("the KMS answers ThrottlingException".into()), 1000..=1500),
        (CustodyError::Paced(Duration::from_secs(20)), 20_000..=30_000),
    ] {
        let kms = Kms::start().await;
        kms.fails(fault.clone());
        let (id, pause) = kms.send_and_wait().await;
        assert!(after.contains(&pause), "{fault}: {pause}");
        kms.seconds(&kms.bench.engine, 3).await;
        assert_eq!((kms.signing().await, kms.told().await.len()), (enabled(), 0), "{fault}");
        kms.works();
        kms.bench.advance(30_000);
        kms.seconds(&kms.bench.engine, 1).await;
        let arrived = kms.bench.work_until(&id, "delivered").await;
        kms.bench.assert_signed_by(&arrived[0], &kms.key);
        assert_eq!((kms.signing().await, kms.told().await.len()), (enabled(), 0), "{fault}");
    }
}

#[tokio::test]
async fn a_kms_that_gives_no_answer_is_asked_by_probes_only_and_one_that_falters_after_five_faults_in_a_row() {
    for (fault, calls) in [
        (CustodyError::Unavailable("the KMS gives no answer".into()), 1),
        (CustodyError::Transient("the KMS answers KMSInternalException".into()), 5),
    ] {
        let kms = Kms::start().await;
        kms.fails(fault.clone());
        for _ in 0..30 {
            kms.send_and_wait().await;
        }
        assert_eq!(kms.asked(), calls, "{fault}");
    }
}

#[tokio::test]
async fn a_signature_between_faults_begins_the_row_anew() {
    let kms = Kms::start().await;
    for _ in 0..4 {
        kms.fails(CustodyError::Transient("the KMS answers ThrottlingException".into()));
        for _ in 0..4 {
            kms.send_and_wait().await;
        }
        kms.works();
        let id = kms.bench.send().await;
        kms.bench.expect(&id, "queued").await;
    }
    assert_eq!(kms.asked(), 20, "each message asked");
}

#[tokio::test]
async fn what_is_not_asked_for_to_keep_the_pace_says_nothing_of_the_key() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::Paced(Duration::from_secs(1)));
    for _ in 0..20 {
        kms.send_and_wait().await;
    }
    assert_eq!(kms.asked(), 20);
    kms.works();
    let id = kms.bench.send().await;
    kms.bench.expect(&id, "queued").await;
}

#[tokio::test]
async fn a_new_key_that_is_not_found_is_no_fault_of_it_for_five_minutes() {
    let kms = Kms::with_a_new_key().await;
    kms.fails(CustodyError::KeyNotFound("the KMS answers NotFoundException".into()));
    kms.send_and_wait().await;
    let age = kms.bench.now() - kms.key.created_at;
    let until_old = usize::try_from((FIVE_MINUTES_MS - age) / 1000).unwrap();
    kms.seconds(&kms.bench.engine, until_old - 1).await;
    assert_eq!((kms.signing().await, kms.told().await.len()), (enabled(), 0));
    kms.seconds(&kms.bench.engine, 20).await;
    assert_eq!((kms.signing().await, kms.told().await), (suspended(), vec!["signing.suspended".to_owned()]));
}

/// The list of outages is in memory; what it led to is not.
#[tokio::test]
async fn a_process_that_knows_nothing_of_the_fault_finds_out_when_the_key_is_back() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::KeyUnavailable("the KMS answers AccessDeniedException".into()));
    let (id, _) = kms.send_and_wait().await;
    kms.asked();
    let other = kms.bench.sealed();
    other.attach_kms(access(&kms.kms));
    kms.bench.unseal(&other).await;
    kms.seconds(&other, 4).await;
    assert!((1..=3).contains(&kms.asked()));
    assert_eq!(kms.told().await, ["signing.suspended"], "told once, by whoever was first");
    kms.works();
    kms.seconds(&other, 15).await;
    assert_eq!(kms.signing().await, enabled());
    // The first process still believes the key to be away; its next probe finds nothing left to tell.
    kms.seconds(&kms.bench.engine, 1).await;
    assert_eq!(kms.told().await, ["signing.suspended", "signing.resumed"]);
    kms.bench.work_until(&id, "delivered").await;
}

#[tokio::test]
async fn a_domain_that_was_disabled_meanwhile_stays_disabled() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::KeyUnavailable("the KMS answers DisabledException".into()));
    kms.send_and_wait().await;
    kms.bench.engine.disable_signing(&kms.bench.caller, &kms.bench.domain).await.unwrap();
    kms.works();
    kms.seconds(&kms.bench.engine, 20).await;
    assert_eq!(kms.signing().await, ("disabled".into(), None));
}

#[tokio::test]
async fn a_key_that_was_replaced_is_probed_no_more_and_the_mail_that_waited_for_it_goes_with_the_new_one() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::KeyUnavailable("the KMS answers DisabledException".into()));
    let (id, _) = kms.send_and_wait().await;
    let new = NewKey { algorithm: Some("ed25519".into()), custody: Some("sealed".into()) };
    let next = kms.bench.engine.create_domain_key(&kms.bench.caller, &kms.bench.domain, &new).await.unwrap();
    kms.bench.change_key(&kms.key.id, Some("retiring"), None).await;
    kms.bench.change_key(&next.id, Some(ACTIVE), Some(&next.public_key)).await;
    kms.asked();
    kms.seconds(&kms.bench.engine, 20).await;
    assert_eq!(kms.asked(), 0);
    let arrived = kms.bench.work_until(&id, "delivered").await;
    kms.bench.assert_signed_by(&arrived[0], &next);
}

/// A pass ends with the last of its domains: a slow one must not keep the scheduled mail of the others.
#[tokio::test]
async fn a_key_that_signs_slowly_takes_a_second_of_a_pass_and_the_rest_keeps_its_place() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::Unavailable("the KMS gives no answer".into()));
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(kms.send_and_wait().await.0);
    }
    kms.works();
    kms.seconds(&kms.bench.engine, 2).await;
    kms.kms.takes_ms.store(600, Ordering::SeqCst);
    for queued in [2, 4, 6] {
        let due = kms.bench.message(&ids[5]).await.release_at;
        assert!(kms.bench.release().await > 0);
        for (n, id) in ids.iter().enumerate() {
            let message = kms.bench.message(id).await;
            assert_eq!(message.status, if n < queued { "queued" } else { "awaiting_signature" }, "{n} of {queued}");
            assert!(n < queued || message.release_at == due);
        }
    }
}

#[tokio::test]
async fn in_a_long_outage_what_waits_is_looked_at_less_often_and_goes_all_the_same_when_it_ends() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::Unavailable("the KMS gives no answer".into()));
    let (id, _) = kms.send_and_wait().await;
    let look = async || {
        assert_eq!(kms.bench.release().await, 1);
        kms.bench.message(&id).await.release_at.unwrap() - kms.bench.now()
    };
    assert_eq!(look().await, 30_000);
    kms.bench.advance(120_000);
    assert_eq!(look().await, 120_000);
    kms.bench.advance(HOUR_MS);
    assert_eq!(look().await, 300_000);
    kms.works();
    kms.seconds(&kms.bench.engine, 1).await;
    assert_eq!(kms.bench.release().await, 1);
    kms.bench.expect(&id, "queued").await;
}

#[tokio::test]
async fn the_lifetime_of_mail_ends_also_while_its_key_is_at_fault() {
    let kms = Kms::start().await;
    kms.fails(CustodyError::KeyUnavailable("the KMS answers DisabledException".into()));
    let (id, _) = kms.send_and_wait().await;
    kms.bench.advance(6 * 24 * HOUR_MS);
    assert!(kms.bench.work_until(&id, "expired").await.is_empty());
}

fn key(id: &str) -> KeyRow {
    KeyRow {
        id: id.into(),
        tenant_id: "t".into(),
        domain_id: "d".into(),
        domain_name: "example.com".into(),
        selector: "s1".into(),
        algorithm: "ed25519".into(),
        custody: "aws-kms".into(),
        reference: "awskms:arn:1".into(),
        sealed: vec![],
        public_key: String::new(),
        state: ACTIVE.into(),
        published_p: None,
        published_read_at: None,
        published_tried_at: None,
        life: signpost_store::KeyLife::default(),
        created_at: 0,
    }
}

#[test]
fn one_probe_a_key_at_growing_intervals_of_at_most_15_seconds() {
    let outages = Outages::default();
    for _ in 0..100 {
        outages.begin(&key("a"), "away", false, 0);
    }
    let mut at = 0;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let due = (at..).find(|now| {
            let probes = outages.take_due(*now);
            assert!(probes.len() <= 1);
            probes.len() == 1
        });
        let due = due.unwrap();
        assert!(outages.take_due(due).is_empty(), "taken twice");
        outages.goes_on("a", None, due);
        pauses.push(due - at);
        at = due;
    }
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
    assert_eq!(outages.reason("a").as_deref(), Some("away"));
    outages.end("a");
    assert_eq!((outages.reason("a"), outages.ended()), (None, 1));
    outages.end("a");
    assert_eq!(outages.ended(), 1);
}

#[test]
fn that_the_key_itself_is_at_fault_is_news_once() {
    let outages = Outages::default();
    assert!(!outages.begin(&key("a"), "away", false, 0));
    assert!(outages.begin(&key("a"), "disabled", true, 0));
    assert!(!outages.begin(&key("a"), "disabled", true, 0));
    assert!(!outages.begin(&key("a"), "away", false, 0));
    assert!(outages.begin(&key("b"), "disabled", true, 0));
}

#[test]
fn a_probe_that_never_ended_is_due_again() {
    let outages = Outages::default();
    outages.begin(&key("a"), "away", false, 0);
    assert_eq!(outages.take_due(1000).len(), 1);
    assert!(outages.take_due(1000 + PROBE_TAKES_MS - 1).is_empty());
    assert_eq!(outages.take_due(1000 + PROBE_TAKES_MS).len(), 1);
}
