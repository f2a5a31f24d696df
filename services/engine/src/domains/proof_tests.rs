//! What a trial signature finds, with a custody that a test steers and findings as a check gives them.
use super::*;
use crate::KmsAccess;
use crate::domains::NewDomain;
use crate::messages::bench::Idle;
use async_trait::async_trait;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use signpost_keys::{Custody, CustodyError, KeyBinding, StoredKey};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Copy)]
enum Mood {
    Signs,
    SignsWithAnother,
    Away,
    Hangs,
}

/// Holds one key, and another one that it should never use.
struct SteeredKms {
    right: Ed25519KeyPair,
    other: Ed25519KeyPair,
    mood: Mutex<Mood>,
}

#[async_trait]
impl Custody for SteeredKms {
    fn kind(&self) -> CustodyKind {
        CustodyKind::AwsKms
    }
    async fn create(&self, _: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        let public_key = PublicKey::from_ed25519(self.right.public_key().as_ref()).unwrap();
        Ok(StoredKey { reference: "awskms:arn:1".into(), sealed: Vec::new(), public_key, algorithm })
    }
    async fn sign(&self, _: &KeyBinding, _: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Signs => Ok(self.right.sign(digest).as_ref().to_vec()),
            Mood::SignsWithAnother => Ok(self.other.sign(digest).as_ref().to_vec()),
            Mood::Away => Err(CustodyError::Unavailable("the KMS is away".into())),
            Mood::Hangs => std::future::pending().await,
        }
    }
    fn forget(&self, _key_id: &str) {}
    async fn withdraw(&self, _: &KeyBinding, _: &StoredKey) -> Result<(), CustodyError> {
        Ok(())
    }
}

struct Bench {
    engine: Engine,
    kms: Arc<SteeredKms>,
    keys: Vec<KeyRow>,
    listed: Vec<Listed>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A tenant with one domain, whose key is in the KMS.
    async fn new() -> Self {
        let Idle { engine, caller, folder, .. } = Idle::start().await;
        let pair = || Ed25519KeyPair::generate().unwrap();
        let kms = Arc::new(SteeredKms { right: pair(), other: pair(), mood: Mutex::new(Mood::Signs) });
        engine.attach_kms(KmsAccess {
            keys: Arc::<SteeredKms>::clone(&kms),
            envelope: Arc::<SteeredKms>::clone(&kms),
            for_new_keys: CustodyKind::AwsKms,
        });
        let new = NewDomain { name: "example.com".into(), dkim_mode: None, algorithm: Some("ed25519".into()) };
        let view = engine.register_domain(&caller, &new).await.unwrap();
        let listed = engine.listed_records(&view.row, &view.keys).await.unwrap();
        Self { engine, kms, keys: view.keys, listed, _folder: folder }
    }

    /// What becomes of findings of this status, where DNS gave these texts for the key.
    async fn finding(&self, mood: Mood, status: Status, texts: &[String]) -> Finding {
        *self.kms.mood.lock().unwrap() = mood;
        let finding = |found: &[String]| Finding {
            status,
            warnings: Vec::new(),
            found: found.to_vec(),
            servers: Vec::new(),
            explanation: "As it was.".into(),
            publish: None,
        };
        let is_key = |listed: &Listed| listed.key_id.is_some();
        let mut findings: Vec<Finding> =
            self.listed.iter().map(|listed| finding(if is_key(listed) { texts } else { &[] })).collect();
        let until = Instant::now() + Duration::from_millis(50);
        self.engine.prove_keys(&self.keys, &self.listed, &mut findings, until).await.unwrap();
        let at = self.listed.iter().position(is_key).unwrap();
        assert!(findings.iter().enumerate().all(|(i, f)| i == at || f.explanation == "As it was."));
        findings.swap_remove(at)
    }

    fn record(&self) -> Vec<String> {
        vec![format!("v=DKIM1; k=ed25519; p={}", self.keys[0].public_key)]
    }
}

#[tokio::test]
async fn a_signature_that_verifies_leaves_the_record_ok() {
    let bench = Bench::new().await;
    let finding = bench.finding(Mood::Signs, Status::Ok, &bench.record()).await;
    assert_eq!((finding.status, finding.warnings.len()), (Status::Ok, 0), "{finding:?}");
    assert_eq!(finding.explanation, "As it was.");
}

#[tokio::test]
async fn a_custody_that_signs_with_another_key_makes_the_right_record_a_mismatch() {
    let bench = Bench::new().await;
    let finding = bench.finding(Mood::SignsWithAnother, Status::Ok, &bench.record()).await;
    assert_eq!(finding.status, Status::Mismatch, "{finding:?}");
    assert!(finding.explanation.contains("does not verify"), "{finding:?}");
    assert!(finding.explanation.contains("aws-kms"), "{finding:?}");
}

#[tokio::test]
async fn the_signature_is_verified_with_every_text_that_dns_returned() {
    let bench = Bench::new().await;
    let stranger = PublicKey::from_ed25519(bench.kms.other.public_key().as_ref()).unwrap();
    let texts = [bench.record(), vec![record::build(&stranger)]].concat();
    let finding = bench.finding(Mood::Signs, Status::Ok, &texts).await;
    assert_eq!(finding.status, Status::Mismatch, "{finding:?}");
}

#[tokio::test]
async fn a_custody_that_is_away_or_hangs_is_a_warning_and_no_fault_of_dns() {
    let bench = Bench::new().await;
    for (mood, reason) in [(Mood::Away, "the KMS is away"), (Mood::Hangs, "did not answer in time")] {
        let finding = bench.finding(mood, Status::Ok, &bench.record()).await;
        assert_eq!(finding.status, Status::Ok, "{finding:?}");
        assert!(finding.warnings.iter().any(|warning| warning.contains(reason)), "{finding:?}");
    }
}

#[tokio::test]
async fn nothing_is_signed_for_a_record_that_is_wrong() {
    let bench = Bench::new().await;
    for status in [Status::Missing, Status::Lagging, Status::DnssecBogus, Status::Unreachable] {
        let finding = bench.finding(Mood::SignsWithAnother, status, &bench.record()).await;
        assert_eq!((finding.status, finding.explanation.as_str()), (status, "As it was."));
    }
}
