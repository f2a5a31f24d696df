//! Custody `aws-kms-envelope` against a KMS server: the contract, what binds a key to its place, and a KMS that fails.
#![expect(clippy::unwrap_used, reason = "outside of #[test] functions too, a failed step of a test must fail it")]
mod contract;
mod kms_server;
mod localstack;
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use contract::{binding, sha256};
use kms_server::KmsServer;
use localstack::LocalStack;
use signpost_dkim::KeyAlgorithm::{Ed25519, Rsa2048, Rsa3072, Rsa4096};
use signpost_keys::{
    AwsKmsCustody, Custody, CustodyError, EnvelopeCustody, EnvelopeSettings, KeyBinding, StoredKey, SystemRandom,
};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3600);
/// So short that each signature unwraps anew: the timer of 1 ms has ended before the next call of the KMS has.
const NONE: Duration = Duration::ZERO;

fn place() -> KeyBinding {
    binding("tenant-1", "example.com", "s1", "key-1")
}

/// A custody whose keys are wrapped by this KMS, and kept unwrapped for so long.
async fn envelope(server: &KmsServer, lifetime: Duration) -> EnvelopeCustody {
    let settings = EnvelopeSettings { lifetime, ..EnvelopeSettings::default() };
    server.custody().await.envelope(Arc::new(SystemRandom), settings)
}

async fn signs(custody: &dyn Custody, place: &KeyBinding, key: &StoredKey) -> Result<(), CustodyError> {
    let digest = sha256(b"x");
    let signature = custody.sign(place, key, &digest).await?;
    assert!(key.public_key.verify_digest(&digest, &signature));
    Ok(())
}

#[tokio::test]
async fn keeps_the_contract_of_custody() {
    let server = KmsServer::start();
    contract::holds(&envelope(&server, LONG).await, &[Ed25519, Rsa2048, Rsa3072, Rsa4096]).await;
}

/// Under `tests/run --long`, as that of custody `aws-kms`.
#[tokio::test]
async fn keeps_the_contract_of_custody_against_localstack() {
    let is_long = std::env::var_os("SIGNPOST_LONG").is_some();
    let Some(server) = is_long.then(LocalStack::start).flatten() else {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!(is_long && is_ci), "CI leaves nothing out: tests/.venv-localstack is missing");
        eprintln!("NOT RUN: the contract of envelope custody against LocalStack (tests/run --long, with Python 3.13)");
        return;
    };
    let kms = AwsKmsCustody::with(&server.config().await);
    let custody = kms.envelope(Arc::new(SystemRandom), EnvelopeSettings::default());
    contract::holds(&custody, &[Ed25519, Rsa2048]).await;
    let key = custody.create(&place(), Ed25519).await.unwrap();
    let moved = KeyBinding { tenant: "tenant-2".into(), ..place() };
    assert!(signs(&custody, &moved, &key).await.is_err());
    signs(&custody, &place(), &key).await.unwrap();
}

#[tokio::test]
async fn the_kms_is_asked_once_a_lifetime_and_never_signs() {
    let server = KmsServer::start();
    let custody = envelope(&server, LONG).await;
    let key = custody.create(&place(), Rsa2048).await.unwrap();
    let before = server.calls("Decrypt");
    let here = place();
    let all = (0..50).map(|_| signs(&custody, &here, &key));
    for result in futures_util::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(
        (server.calls("Decrypt") - before, server.calls("Sign"), server.calls("GenerateDataKey")),
        (1, 0, 1 + 1)
    );
    // The alias was not there: asked for, made, asked for again.
    assert_eq!((server.calls("CreateKey"), server.calls("CreateAlias")), (1, 1));
    envelope(&server, LONG).await.create(&place(), Ed25519).await.unwrap();
    assert_eq!(server.calls("CreateKey"), 1, "one wrapping key for all");
}

#[tokio::test]
async fn a_row_moved_to_another_tenant_domain_selector_or_key_does_not_open() {
    let server = KmsServer::start();
    let custody = envelope(&server, LONG).await;
    let key = custody.create(&place(), Ed25519).await.unwrap();
    signs(&custody, &place(), &key).await.unwrap();
    let cold = envelope(&server, LONG).await;
    for other in [
        binding("tenant-2", "example.com", "s1", "key-1"),
        binding("tenant-1", "example.net", "s1", "key-1"),
        binding("tenant-1", "example.com", "s2", "key-1"),
        binding("tenant-1", "example.com", "s1", "key-2"),
    ] {
        // The attacker who moves a row mends its reference too.
        let mended = StoredKey { reference: format!("awskms-envelope:{}", other.key_id), ..key.clone() };
        for custody in [&custody, &cold] {
            let result = signs(custody, &other, &mended).await;
            assert!(matches!(result, Err(CustodyError::Refused(_))), "{other:?}: {result:?}");
        }
    }
    for reference in ["awskms-envelope:key-2", "sealed:key-1", "awskms:key-1", ""] {
        let row = StoredKey { reference: reference.into(), ..key.clone() };
        assert!(matches!(signs(&custody, &place(), &row).await, Err(CustodyError::Refused(_))), "{reference}");
    }
    signs(&custody, &place(), &key).await.unwrap();
    signs(&cold, &place(), &key).await.unwrap();
}

/// The KMS itself refuses the data key under another context, whatever we check beside it.
#[tokio::test]
async fn the_data_key_is_bound_by_the_encryption_context() {
    let server = KmsServer::start();
    let kms = Client::new(&server.config().await);
    let key = envelope(&server, LONG).await.create(&place(), Ed25519).await.unwrap();
    let length = usize::from(u16::from_be_bytes([key.sealed[1], key.sealed[2]]));
    let wrapped = &key.sealed[3..3 + length];
    let decrypt = |tenant: &str, domain: &str, id: &str| {
        kms.decrypt()
            .ciphertext_blob(Blob::new(wrapped))
            .encryption_context("signpost:tenant", tenant)
            .encryption_context("signpost:domain", domain)
            .encryption_context("signpost:key", id)
            .send()
    };
    let open = decrypt("tenant-1", "example.com", "key-1").await.unwrap().plaintext.unwrap();
    assert_eq!(open.as_ref().len(), 32);
    assert!(!key.sealed.windows(32).any(|window| window == open.as_ref()), "the data key lies open in the row");
    for (tenant, domain, id) in [
        ("tenant-2", "example.com", "key-1"),
        ("tenant-1", "example.net", "key-1"),
        ("tenant-1", "example.com", "key-2"),
    ] {
        assert!(decrypt(tenant, domain, id).await.is_err(), "{tenant} {domain} {id}");
    }
    assert!(kms.decrypt().ciphertext_blob(Blob::new(wrapped)).send().await.is_err(), "no context");
}

#[tokio::test]
async fn no_changed_octet_passes() {
    let server = KmsServer::start();
    let custody = envelope(&server, LONG).await;
    let key = custody.create(&place(), Ed25519).await.unwrap();
    let step = key.sealed.len() / 20;
    for octet in (0..key.sealed.len()).step_by(step).chain([key.sealed.len() - 1]) {
        let mut changed = key.clone();
        changed.sealed[octet] ^= 1;
        assert!(signs(&custody, &place(), &changed).await.is_err(), "octet {octet}");
    }
    for length in [0, 1, 3, 40, key.sealed.len() - 1] {
        let mut cut = key.clone();
        cut.sealed.truncate(length);
        assert!(matches!(signs(&custody, &place(), &cut).await, Err(CustodyError::Refused(_))), "{length} octets");
    }
}

#[tokio::test]
async fn while_the_kms_fails_an_unwrapped_key_signs_on_and_another_waits() {
    let server = KmsServer::start();
    let (warm, cold) = (envelope(&server, LONG).await, envelope(&server, LONG).await);
    let key = warm.create(&place(), Ed25519).await.unwrap();
    signs(&warm, &place(), &key).await.unwrap();
    for fault in ["throttled", "denied", "internal", "garbage", "silent"] {
        server.fault(fault);
        signs(&warm, &place(), &key).await.unwrap();
        let before = server.calls("Decrypt");
        let used = signs(&cold, &place(), &key).await;
        assert_eq!(server.calls("Decrypt"), before + 1, "{fault}: the SDK's retries are off");
        let made = cold.create(&binding("t", "example.com", "s2", "key-2"), Ed25519).await.map(|_| ());
        for result in [used, made] {
            let expected = match fault {
                "silent" => matches!(result, Err(CustodyError::Unavailable(_))),
                "denied" => matches!(result, Err(CustodyError::KeyUnavailable(_))),
                _ => matches!(result, Err(CustodyError::Transient(_))),
            };
            assert!(expected, "{fault}: {result:?}");
        }
    }
    server.fault("none");
    signs(&cold, &place(), &key).await.unwrap();
    warm.forget("key-1");
    server.fault("denied");
    assert!(matches!(signs(&warm, &place(), &key).await, Err(CustodyError::KeyUnavailable(_))), "after forget");
}

#[tokio::test]
async fn a_disabled_wrapping_key_stops_its_keys_when_their_lifetime_ends_and_an_enabled_one_lets_them_sign() {
    let server = KmsServer::start();
    let kms = Client::new(&server.config().await);
    let custody = envelope(&server, NONE).await;
    let key = custody.create(&place(), Ed25519).await.unwrap();
    signs(&custody, &place(), &key).await.unwrap();
    let aliases = kms.list_aliases().send().await.unwrap().aliases.unwrap();
    let alias = aliases.iter().find(|alias| alias.alias_name() == Some("alias/signpost-envelope")).unwrap();
    let wrapping = alias.target_key_id().unwrap();
    kms.disable_key().key_id(wrapping).send().await.unwrap();
    let error = signs(&custody, &place(), &key).await.unwrap_err();
    assert!(matches!(&error, CustodyError::KeyUnavailable(text) if text.contains("DisabledException")), "{error:?}");
    assert!(!error.to_string().contains("arn:"), "ARNs are not for tenants: {error}");
    kms.enable_key().key_id(wrapping).send().await.unwrap();
    signs(&custody, &place(), &key).await.unwrap();
}
