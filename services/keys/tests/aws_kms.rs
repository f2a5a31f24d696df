//! Custody `aws-kms` against a KMS server: the contract, the key as the KMS sees it, and a KMS that fails.
#![expect(clippy::unwrap_used, reason = "outside of #[test] functions too, a failed step of a test must fail it")]
mod contract;
mod kms_server;
mod localstack;
use aws_sdk_kms::Client;
use aws_sdk_kms::types::{KeySpec, KeyState, KeyUsageType};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{binding, sha256};
use kms_server::KmsServer;
use localstack::LocalStack;
use signpost_dkim::KeyAlgorithm::{Ed25519, Rsa2048, Rsa3072, Rsa4096};
use signpost_keys::{AwsKmsCustody, Custody, CustodyError, KeyBinding, StoredKey};
use std::net::TcpListener;
use std::num::NonZeroU32;

fn place() -> KeyBinding {
    binding("tenant-1", "example.com", "s1", "key-1")
}

fn arn(key: &StoredKey) -> &str {
    key.reference.strip_prefix("awskms:").unwrap()
}

async fn sign(custody: &AwsKmsCustody, key: &StoredKey) -> Result<Vec<u8>, CustodyError> {
    custody.sign(&place(), key, &sha256(b"x")).await
}

/// moto knows keys by their bare id only where it enables and disables them.
fn id(key: &StoredKey) -> &str {
    key.reference.rsplit_once('/').unwrap().1
}

async fn state(kms: &Client, key: &StoredKey) -> KeyState {
    let described = kms.describe_key().key_id(arn(key)).send().await.unwrap();
    described.key_metadata.unwrap().key_state.unwrap()
}

#[tokio::test]
async fn keeps_the_contract_of_custody() {
    let server = KmsServer::start();
    contract::holds(&server.custody().await, &[Ed25519, Rsa2048, Rsa3072, Rsa4096]).await;
}

/// Under `tests/run --long`, which installs it where there is a Python 3.13 and says loudly where there is none.
#[tokio::test]
async fn keeps_the_contract_of_custody_against_localstack() {
    let is_long = std::env::var_os("SIGNPOST_LONG").is_some();
    let Some(server) = is_long.then(LocalStack::start).flatten() else {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!(is_long && is_ci), "CI leaves nothing out: tests/.venv-localstack is missing");
        eprintln!("NOT RUN: the contract of custody against LocalStack (tests/run --long, with Python 3.13)");
        return;
    };
    let (custody, kms) = (AwsKmsCustody::with(&server.config().await), Client::new(&server.config().await));
    contract::holds(&custody, &[Rsa2048, Rsa3072, Rsa4096]).await;

    let key = custody.create(&place(), Rsa2048).await.unwrap();
    kms.disable_key().key_id(arn(&key)).send().await.unwrap();
    assert!(matches!(sign(&custody, &key).await, Err(CustodyError::KeyUnavailable(_))));
    kms.enable_key().key_id(arn(&key)).send().await.unwrap();
    sign(&custody, &key).await.unwrap();
    custody.withdraw(&place(), &key).await.unwrap();
    assert_eq!(state(&kms, &key).await, KeyState::PendingDeletion);
    assert!(matches!(sign(&custody, &key).await, Err(CustodyError::KeyNotFound(_))));
}

#[tokio::test]
async fn a_key_is_made_in_the_kms_with_its_owner_in_the_tags() {
    let server = KmsServer::start();
    let (custody, kms) = (server.custody().await, Client::new(&server.config().await));
    for (algorithm, spec) in [(Rsa2048, KeySpec::Rsa2048), (Ed25519, KeySpec::EccNistEdwards25519)] {
        let key = custody.create(&place(), algorithm).await.unwrap();
        assert!(key.sealed.is_empty());
        let described = kms.describe_key().key_id(arn(&key)).send().await.unwrap().key_metadata.unwrap();
        assert_eq!(described.key_usage, Some(KeyUsageType::SignVerify));
        assert_eq!(described.key_spec, Some(spec));
        let spki = kms.get_public_key().key_id(arn(&key)).send().await.unwrap().public_key.unwrap().into_inner();
        // RFC 8463 4.2: p= of an Ed25519 key is its bare 32 octets.
        let published = if algorithm == Ed25519 { &spki[spki.len() - 32..] } else { &spki[..] };
        assert_eq!(key.public_key.to_p(), STANDARD.encode(published));

        let listed = kms.list_resource_tags().key_id(arn(&key)).send().await.unwrap();
        let mut tags: Vec<_> =
            listed.tags().iter().map(|tag| (tag.tag_key().to_owned(), tag.tag_value().to_owned())).collect();
        tags.sort();
        let expected = [("signpost:domain", "example.com"), ("signpost:key", "key-1"), ("signpost:tenant", "tenant-1")];
        assert_eq!(tags, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    // GetPublicKey once a key: what is published later comes from the row.
    assert_eq!(server.calls("GetPublicKey"), 2 + 2, "two of them are this test's");
}

#[tokio::test]
async fn a_disabled_key_makes_mail_wait_and_an_enabled_one_signs_again() {
    let server = KmsServer::start();
    let (custody, kms) = (server.custody().await, Client::new(&server.config().await));
    let key = custody.create(&place(), Ed25519).await.unwrap();
    kms.disable_key().key_id(id(&key)).send().await.unwrap();
    let error = sign(&custody, &key).await.unwrap_err();
    assert!(matches!(&error, CustodyError::KeyUnavailable(text) if text.contains("DisabledException")), "{error:?}");
    assert!(!error.to_string().contains("arn:"), "ARNs are not for tenants: {error}");
    kms.enable_key().key_id(id(&key)).send().await.unwrap();
    sign(&custody, &key).await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_key_signs_no_more_and_is_destroyed_after_the_window() {
    let server = KmsServer::start();
    let (custody, kms) = (server.custody().await, Client::new(&server.config().await));
    let key = custody.create(&place(), Ed25519).await.unwrap();
    for _ in ["once", "repeated"] {
        custody.withdraw(&place(), &key).await.unwrap();
        assert_eq!(state(&kms, &key).await, KeyState::PendingDeletion);
        assert!(matches!(sign(&custody, &key).await, Err(CustodyError::KeyNotFound(_))));
    }
    let unknown = StoredKey { reference: format!("{}0", key.reference), ..key.clone() };
    assert!(matches!(sign(&custody, &unknown).await, Err(CustodyError::KeyNotFound(_))));
    custody.withdraw(&place(), &unknown).await.unwrap();
}

#[tokio::test]
async fn a_kms_that_fails_is_asked_once_and_mail_waits() {
    let server = KmsServer::start();
    for algorithm in [Ed25519, Rsa2048] {
        // So few calls that none may be made again at once.
        let custody = server.custody().await;
        let key = custody.create(&place(), algorithm).await.unwrap();
        for fault in ["throttled", "denied", "internal", "reset", "garbage", "silent"] {
            server.fault(fault);
            let before = server.calls("Sign");
            let result = sign(&custody, &key).await;
            let expected = match fault {
                "silent" => matches!(result, Err(CustodyError::Unavailable(_))),
                "denied" => matches!(result, Err(CustodyError::KeyUnavailable(_))),
                _ => matches!(result, Err(CustodyError::Transient(_))),
            };
            assert!(expected, "{fault}: {result:?}");
            assert_eq!(server.calls("Sign"), before + 1, "{fault}: neither the SDK nor we ask again");
        }
        server.fault("none");
        sign(&custody, &key).await.unwrap();
    }
}

#[tokio::test]
async fn what_comes_too_fast_is_not_asked_for_and_what_failed_inside_of_the_kms_is_asked_for_once_more() {
    let server = KmsServer::start();
    let custody = server.custody().await.at_rate(NonZeroU32::new(4).unwrap());
    let key = custody.create(&place(), Ed25519).await.unwrap();
    let before = server.calls("Sign");
    let results = futures_util::future::join_all((0..40).map(|_| sign(&custody, &key))).await;
    let made = results.iter().filter(|result| result.is_ok()).count();
    assert!((1..=2).contains(&made), "{made} in a quarter of a second");
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(CustodyError::Paced(_)))), "{results:?}");
    assert_eq!(server.calls("Sign") - before, u64::try_from(made).unwrap());

    let custody = server.custody().await;
    for _ in 0..20 {
        sign(&custody, &key).await.unwrap();
    }
    for fault in ["internal", "reset"] {
        server.fault(fault);
        let before = server.calls("Sign");
        sign(&custody, &key).await.unwrap_err();
        assert_eq!(server.calls("Sign"), before + 2, "{fault}: at once, and once");
    }
    let before = server.calls("Sign");
    sign(&custody, &key).await.unwrap_err();
    assert_eq!(server.calls("Sign"), before + 1, "not more than one in ten");
}

#[tokio::test]
async fn a_signature_by_another_key_is_refused() {
    let server = KmsServer::start();
    let custody = server.custody().await;
    for algorithm in [Ed25519, Rsa2048] {
        let key = custody.create(&place(), algorithm).await.unwrap();
        server.fault("other_key");
        let result = sign(&custody, &key).await;
        assert!(matches!(result, Err(CustodyError::Refused(_))), "{algorithm:?}: {result:?}");
        let made = custody.create(&place(), algorithm).await;
        assert!(matches!(made, Err(CustodyError::Refused(_))), "{algorithm:?}: {made:?}");
        server.fault("none");
    }
    // What was made and did not prove itself is given up.
    assert_eq!(server.calls("ScheduleKeyDeletion"), 2);
}

#[tokio::test]
async fn a_kms_that_is_away_makes_mail_wait() {
    let server = KmsServer::start();
    let key = server.custody().await.create(&place(), Ed25519).await.unwrap();
    // Bound, and let go again: nobody listens.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = AwsKmsCustody::with(&kms_server::config(&format!("http://{nobody}")).await);
    for result in [sign(&away, &key).await.map(|_| ()), away.create(&place(), Ed25519).await.map(|_| ())] {
        assert!(matches!(result, Err(CustodyError::Transient(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_row_that_is_not_its_own_is_refused() {
    let server = KmsServer::start();
    let custody = server.custody().await;
    let key = custody.create(&place(), Ed25519).await.unwrap();
    let other = custody.create(&place(), Ed25519).await.unwrap();
    let before = server.calls("Sign");
    for reference in ["sealed:key-1", "awskms:", "awskms:key-1", "arn:aws:kms:us-east-1:1:key/1", ""] {
        let row = StoredKey { reference: reference.into(), ..key.clone() };
        assert!(matches!(sign(&custody, &row).await, Err(CustodyError::Refused(_))), "{reference}");
        assert!(matches!(custody.withdraw(&place(), &row).await, Err(CustodyError::Refused(_))), "{reference}");
    }
    let mislabelled = StoredKey { algorithm: Rsa2048, ..key.clone() };
    assert!(matches!(sign(&custody, &mislabelled).await, Err(CustodyError::Refused(_))));
    assert_eq!(server.calls("Sign"), before, "refused before the KMS is asked");
    let swapped = StoredKey { reference: other.reference.clone(), ..key.clone() };
    assert!(matches!(sign(&custody, &swapped).await, Err(CustodyError::Refused(_))));
}
