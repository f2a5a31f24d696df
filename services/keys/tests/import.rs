//! Private keys that were made elsewhere: every form of a good one gives the same key, every bad one is told why.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "outside of #[test] functions too, a failed step of a test must fail it"
)]
mod seeded;
use seeded::Seeded;
use serde::Deserialize;
use signpost_dkim::{Selector, SigningDomain};
use signpost_keys::{
    Custody as _, CustodyError, ImportError, ImportFault, ImportedKey, KeyBinding, MasterKey, SealedCustody,
};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A line of tests/cases/keys/import.jsonl.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    rfc: String,
    private_key: String,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Expect {
    Taken { algorithm: String, public_key: String },
    Refused { refused: String },
}

fn cases() -> Vec<Case> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/keys/import.jsonl");
    let cases: Vec<Case> =
        std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(cases.len(), 81);
    assert!(cases.iter().all(|case| !case.rfc.is_empty() && !case.title.is_empty()));
    cases
}

fn key(id: &str) -> String {
    cases().into_iter().find(|case| case.id == id).unwrap().private_key
}

fn place(tenant: &str, key_id: &str) -> KeyBinding {
    KeyBinding {
        tenant: tenant.into(),
        domain: SigningDomain::parse("example.com").unwrap(),
        selector: Selector::parse("s1").unwrap(),
        key_id: key_id.into(),
    }
}

fn custody() -> SealedCustody {
    let custody = SealedCustody::new(Arc::new(Seeded::new(1)));
    custody.unseal(&MasterKey::generate(&Seeded::new(2)));
    custody
}

async fn read(custody: &SealedCustody, text: &str) -> Result<ImportedKey, ImportFault> {
    match custody.read_import(Zeroizing::new(text.to_owned())).await {
        Ok(key) => Ok(key),
        Err(ImportError::Fault(fault)) => Err(fault),
        Err(ImportError::Custody(error)) => panic!("{error}"),
    }
}

/// Pieces of a private key that would be found in a message that repeats it.
fn pieces(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|piece| piece.len() >= 12).collect()
}

#[tokio::test]
async fn every_form_of_a_key_gives_its_public_half_and_every_fault_its_reason() {
    let custody = custody();
    let mut wrong = Vec::new();
    for Case { id, private_key, expect, .. } in cases() {
        let (is_right, got) = match (read(&custody, &private_key).await, &expect) {
            (Ok(key), Expect::Taken { algorithm, public_key }) => {
                let got = (key.algorithm().as_str(), key.public_key().to_p());
                (got == (algorithm.as_str(), public_key.clone()), format!("{got:?}"))
            }
            (Err(fault), Expect::Refused { refused }) => {
                let text = fault.to_string();
                let repeats = id != "garbage" && pieces(&private_key).iter().any(|piece| text.contains(piece));
                (text.contains(refused) && !repeats, text)
            }
            (Ok(_), Expect::Refused { refused }) => (false, format!("taken; it should be refused: {refused}")),
            (Err(fault), Expect::Taken { .. }) => (false, format!("refused: {fault}")),
        };
        if !is_right {
            wrong.push(format!("{id}: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_imported_key_is_sealed_for_its_place_and_signs() {
    let custody = custody();
    for id in ["ed25519-pkcs8", "rsa-pkcs1", "rsa-e-3", "rsa-3072"] {
        let imported = Arc::new(read(&custody, &key(id)).await.unwrap());
        let ours = place("tenant-1", id);
        let stored = custody.adopt(&ours, Arc::clone(&imported)).await.unwrap();
        assert_eq!(stored.reference, format!("sealed:{id}"));
        assert_eq!(&stored.public_key, imported.public_key());
        let digest = [7; 32];
        let signature = custody.sign(&ours, &stored, &digest).await.unwrap();
        assert!(stored.public_key.verify_digest(&digest, &signature), "{id}");
        assert!(
            matches!(custody.sign(&place("tenant-2", id), &stored, &digest).await, Err(CustodyError::Refused(_))),
            "{id}"
        );
        let shown = format!("{imported:?} {stored:?}");
        assert!(pieces(&key(id)).iter().all(|piece| !shown.contains(piece)), "{shown}");
    }
}

#[tokio::test]
async fn without_a_master_key_nothing_is_sealed() {
    let custody = SealedCustody::new(Arc::new(Seeded::new(1)));
    let imported = Arc::new(read(&custody, &key("ed25519-seed")).await.unwrap());
    let stored = custody.adopt(&place("t", "k"), imported).await;
    assert!(matches!(stored, Err(CustodyError::Unavailable(_))));
}

#[tokio::test]
async fn a_shared_factor_is_found_and_only_that() {
    let custody = custody();
    let p = async |id: &str| read(&custody, &key(id)).await.unwrap().public_key().to_p();
    let (key_a, other) = (read(&custody, &key("rsa-pkcs8")).await.unwrap(), p("rsa-e-3").await);
    assert!(key_a.shares_a_factor_with(&p("rsa-pkcs1").await), "the whole modulus");
    assert!(!key_a.shares_a_factor_with(&other));
    assert!(!key_a.shares_a_factor_with(&p("ed25519-seed").await));
    for garbage in ["", "MIIB", "*", "AAAA"] {
        assert!(!key_a.shares_a_factor_with(garbage));
    }
    // One prime in common: the committed pair has the prime of `rsa-e-3`.
    let sharing = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/keys/shares-a-prime-with-rsa-e-3.p"),
    );
    let of_e_3 = read(&custody, &key("rsa-e-3")).await.unwrap();
    let sharing = sharing.unwrap();
    assert_ne!(sharing.trim(), other);
    assert!(of_e_3.shares_a_factor_with(sharing.trim()));
    assert!(!key_a.shares_a_factor_with(sharing.trim()));
}
