//! What every custody must do, whoever holds the key. A new kind of custody calls `holds` in its own test.
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::pkcs8::DecodePublicKey as _;
use signpost_dkim::record::PublicKey;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_keys::{Custody, CustodyError, CustodyKind, KeyBinding};

/// A binding as the store would give it.
pub(crate) fn binding(tenant: &str, domain: &str, selector: &str, key_id: &str) -> KeyBinding {
    KeyBinding {
        tenant: tenant.into(),
        domain: SigningDomain::parse(domain).unwrap(),
        selector: Selector::parse(selector).unwrap(),
        key_id: key_id.into(),
    }
}

/// SHA-256 of `message`.
pub(crate) fn sha256(message: &[u8]) -> [u8; 32] {
    digest(&SHA256, message).as_ref().try_into().unwrap()
}

/// Runs the contract for each of `algorithms`.
pub(crate) async fn holds(custody: &dyn Custody, algorithms: &[KeyAlgorithm]) {
    assert_eq!(CustodyKind::parse(custody.kind().as_str()), Some(custody.kind()));
    for &algorithm in algorithms {
        let place = binding("tenant-1", "example.com", "s1", &format!("contract-{}", algorithm.as_str()));
        a_new_key_signs_what_its_public_half_verifies(custody, &place, algorithm).await;
    }
    let smallest = algorithms[0];
    two_keys_differ(custody, smallest).await;
    a_foreign_public_half_is_refused(custody, smallest).await;
    many_sign_at_once(custody, smallest).await;
}

async fn a_new_key_signs_what_its_public_half_verifies(
    custody: &dyn Custody,
    place: &KeyBinding,
    algorithm: KeyAlgorithm,
) {
    let stored = custody.create(place, algorithm).await.unwrap();
    assert_eq!(stored.algorithm, algorithm);
    assert_eq!(stored.public_key.algorithm(), Some(algorithm));
    assert!(stored.reference.starts_with(&format!("{}:", custody.kind().scheme())), "{}", stored.reference);

    let message = format!("signing input for {}", algorithm.as_str());
    let digest = sha256(message.as_bytes());
    for round in ["opened", "cached", "forgotten and opened again"] {
        let signature = custody.sign(place, &stored, &digest).await.unwrap();
        assert!(stored.public_key.verify_digest(&digest, &signature), "{algorithm:?}, {round}");
        assert!(!stored.public_key.verify_digest(&sha256(b"another input"), &signature), "{algorithm:?}, {round}");
        verify_elsewhere(&stored.public_key, algorithm, message.as_bytes(), &signature);
        if round == "cached" {
            custody.forget(&place.key_id);
        }
    }
}

/// A second judge, from the published p= value and the whole signing input, not its digest.
fn verify_elsewhere(key: &PublicKey, algorithm: KeyAlgorithm, message: &[u8], signature: &[u8]) {
    let published = STANDARD.decode(key.to_p()).unwrap();
    match algorithm {
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
            let judge = rsa::PublicKey::from_public_key_der(&published).unwrap();
            judge.pkcs1v15_verify::<rsa::sha2::Sha256>(message, signature).unwrap();
        }
        KeyAlgorithm::Ed25519 => {
            // RFC 8463 3: the message of PureEdDSA is the SHA-256 of the signing input.
            let judge =
                aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, published.as_slice());
            judge.verify(&sha256(message), signature).unwrap();
        }
    }
}

async fn two_keys_differ(custody: &dyn Custody, algorithm: KeyAlgorithm) {
    let one = custody.create(&binding("tenant-1", "example.com", "s1", "one"), algorithm).await.unwrap();
    let two = custody.create(&binding("tenant-1", "example.com", "s2", "two"), algorithm).await.unwrap();
    assert_ne!(one.public_key, two.public_key);
    assert_ne!(one.reference, two.reference);
}

async fn a_foreign_public_half_is_refused(custody: &dyn Custody, algorithm: KeyAlgorithm) {
    let place = binding("tenant-1", "example.com", "s1", "public");
    let mut stored = custody.create(&place, algorithm).await.unwrap();
    let right = stored.public_key.clone();
    let other = binding("tenant-1", "example.com", "s2", "public-other");
    stored.public_key = custody.create(&other, algorithm).await.unwrap().public_key;
    let digest = sha256(b"x");
    assert!(matches!(custody.sign(&place, &stored, &digest).await, Err(CustodyError::Refused(_))));
    stored.public_key = right;
    custody.sign(&place, &stored, &digest).await.unwrap();
}

async fn many_sign_at_once(custody: &dyn Custody, algorithm: KeyAlgorithm) {
    let place = binding("tenant-1", "example.com", "s1", "many");
    let stored = custody.create(&place, algorithm).await.unwrap();
    let sign = async |n: u8| {
        let digest = sha256(&[n]);
        let signature = custody.sign(&place, &stored, &digest).await.unwrap();
        assert!(stored.public_key.verify_digest(&digest, &signature), "signature {n}");
    };
    tokio::join!(sign(1), sign(2), sign(3), sign(4), sign(5), sign(6), sign(7), sign(8));
}
