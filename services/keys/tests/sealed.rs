//! Sealed custody: the contract, and what the seal must withstand.
#![expect(clippy::unwrap_used, reason = "outside of #[test] functions too, a failed step of a test must fail it")]
mod contract;
mod seeded;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::{binding, sha256};
use seeded::Seeded;
use signpost_dkim::KeyAlgorithm::{Ed25519, Rsa2048, Rsa3072, Rsa4096};
use signpost_keys::{
    Custody, CustodyError, KeyBinding, MasterKey, Random as _, SealedCustody, StoredKey, SystemRandom,
};
use std::sync::Arc;

fn unsealed(seed: u64) -> SealedCustody {
    let custody = SealedCustody::new(Arc::new(Seeded::new(seed)));
    custody.unseal(&master(1));
    custody
}

fn master(seed: u64) -> MasterKey {
    MasterKey::generate(&Seeded::new(1000 + seed))
}

fn place() -> KeyBinding {
    binding("tenant-1", "example.com", "s1", "key-1")
}

/// The same place with one component changed, once for each component; some changes only shift the border between two.
fn other_places() -> Vec<KeyBinding> {
    vec![
        binding("tenant-2", "example.com", "s1", "key-1"),
        binding("", "example.com", "s1", "key-1"),
        binding("tenant-1", "example.net", "s1", "key-1"),
        binding("tenant-1", "mail.example.com", "s1", "key-1"),
        binding("tenant-1", "example.com", "s2", "key-1"),
        binding("tenant-1", "example.com", "s1", "key-2"),
        binding("tenant-1e", "xample.com", "s1", "key-1"),
        binding("tenant-1", "example.com", "s1k", "ey-1"),
    ]
}

async fn refused(custody: &SealedCustody, binding: &KeyBinding, stored: &StoredKey) -> bool {
    matches!(custody.sign(binding, stored, &sha256(b"x")).await, Err(CustodyError::Refused(_)))
}

async fn signs(custody: &SealedCustody, binding: &KeyBinding, stored: &StoredKey) -> bool {
    let digest = sha256(b"x");
    custody.sign(binding, stored, &digest).await.is_ok_and(|s| stored.public_key.verify_digest(&digest, &s))
}

#[tokio::test]
async fn keeps_the_contract_of_custody() {
    contract::holds(&unsealed(1), &[Ed25519, Rsa2048, Rsa3072, Rsa4096]).await;
}

#[tokio::test]
async fn keeps_the_contract_with_the_system_s_rng() {
    let custody = SealedCustody::new(Arc::new(SystemRandom));
    custody.unseal(&MasterKey::generate(&SystemRandom));
    contract::holds(&custody, &[Ed25519, Rsa2048]).await;
}

#[tokio::test]
async fn a_row_moved_to_another_tenant_domain_selector_or_key_does_not_open() {
    let maker = unsealed(1);
    let stored = maker.create(&place(), Ed25519).await.unwrap();
    let warm = unsealed(2);
    assert!(signs(&warm, &place(), &stored).await);
    for other in other_places() {
        // The attacker who moves a row mends its reference too.
        let mended = StoredKey { reference: format!("sealed:{}", other.key_id), ..stored.clone() };
        for row in [&stored, &mended] {
            assert!(refused(&unsealed(3), &other, row).await, "cold: {other:?} {row:?}");
            assert!(refused(&warm, &other, row).await, "the cache leaked: {other:?} {row:?}");
        }
    }
    assert!(signs(&warm, &place(), &stored).await, "a refused row must not spoil the right one");
}

#[tokio::test]
async fn two_rows_of_one_tenant_swapped_do_not_open() {
    let custody = unsealed(1);
    let (place_a, place_b) = (place(), binding("tenant-1", "example.com", "s2", "key-2"));
    let a = custody.create(&place_a, Ed25519).await.unwrap();
    let b = custody.create(&place_b, Ed25519).await.unwrap();
    assert!(signs(&custody, &place_a, &a).await && signs(&custody, &place_b, &b).await);

    let blob = StoredKey { sealed: b.sealed.clone(), ..a.clone() };
    let blob_and_public = StoredKey { reference: a.reference.clone(), ..b.clone() };
    let public = StoredKey { public_key: b.public_key.clone(), ..a.clone() };
    let reference = StoredKey { reference: b.reference.clone(), ..a.clone() };
    let foreign_scheme = StoredKey { reference: "aws-kms:key-1".into(), ..a.clone() };
    for row in [blob, blob_and_public, public, reference, foreign_scheme, b.clone()] {
        assert!(refused(&custody, &place_a, &row).await, "warm: {row:?}");
        assert!(refused(&unsealed(2), &place_a, &row).await, "cold: {row:?}");
    }
    assert!(signs(&custody, &place_a, &a).await && signs(&custody, &place_b, &b).await);
}

#[tokio::test]
async fn another_algorithm_in_the_row_is_refused() {
    let custody = unsealed(1);
    let stored = custody.create(&place(), Rsa2048).await.unwrap();
    assert!(signs(&custody, &place(), &stored).await);
    for algorithm in [Rsa3072, Rsa4096, Ed25519] {
        assert!(refused(&custody, &place(), &StoredKey { algorithm, ..stored.clone() }).await, "{algorithm:?}");
    }
}

#[tokio::test]
async fn no_changed_octet_passes() {
    let custody = unsealed(1);
    for algorithm in [Ed25519, Rsa2048] {
        let stored = custody.create(&place(), algorithm).await.unwrap();
        assert!(signs(&custody, &place(), &stored).await);
        for octet in 0..stored.sealed.len() {
            for bit in 0..8 {
                let mut changed = stored.clone();
                changed.sealed[octet] ^= 1 << bit;
                let result = custody.sign(&place(), &changed, &sha256(b"x")).await;
                assert!(result.is_err(), "{algorithm:?}: octet {octet}, bit {bit}");
            }
        }
        for length in 0..stored.sealed.len() {
            let cut = StoredKey { sealed: stored.sealed[..length].to_vec(), ..stored.clone() };
            assert!(refused(&custody, &place(), &cut).await, "{algorithm:?}: cut to {length}");
        }
        let mut longer = stored.clone();
        longer.sealed.push(0);
        assert!(refused(&custody, &place(), &longer).await, "{algorithm:?}: one octet more");
        assert!(signs(&custody, &place(), &stored).await);
        custody.forget("key-1");
    }
}

#[tokio::test]
async fn without_a_master_key_everything_waits_and_says_what_to_do() {
    let stored = unsealed(1).create(&place(), Ed25519).await.unwrap();
    let custody = SealedCustody::new(Arc::new(Seeded::new(2)));
    let made = custody.create(&place(), Ed25519).await.map(|_| ());
    let signed = custody.sign(&place(), &stored, &sha256(b"x")).await.map(|_| ());
    for result in [made, signed] {
        let Err(CustodyError::Unavailable(text)) = result else { panic!("{result:?}") };
        assert!(text.contains("SIGNPOST_MASTER_KEY_FILE"), "{text}");
    }
    custody.unseal(&master(1));
    assert!(signs(&custody, &place(), &stored).await);
}

#[tokio::test]
async fn a_wrong_master_key_makes_mail_wait_and_the_right_one_mends_it() {
    let custody = unsealed(1);
    let stored = custody.create(&place(), Ed25519).await.unwrap();
    assert!(signs(&custody, &place(), &stored).await, "now cached");
    custody.unseal(&master(2));
    let result = custody.sign(&place(), &stored, &sha256(b"x")).await;
    let Err(CustodyError::Unavailable(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("another master key"), "{text}");
    custody.unseal(&master(1));
    assert!(signs(&custody, &place(), &stored).await);
}

#[tokio::test]
async fn a_key_moves_to_another_master_key_and_needs_the_old_one_no_more() {
    for algorithm in [Ed25519, Rsa2048, Rsa3072] {
        let old = unsealed(1);
        let stored = old.create(&place(), algorithm).await.unwrap();
        assert_eq!(old.reseal(&place(), &stored).await.unwrap(), None, "under the right one already");

        let moving = SealedCustody::new(Arc::new(Seeded::new(3)));
        moving.unseal_with(&master(2), [&master(3), &master(1)]);
        assert!(signs(&moving, &place(), &stored).await, "what the old one sealed opens meanwhile");
        let anew = StoredKey { sealed: moving.reseal(&place(), &stored).await.unwrap().unwrap(), ..stored.clone() };
        assert_eq!(anew.sealed.len(), stored.sealed.len());
        assert_ne!(anew.sealed[20..], stored.sealed[20..], "the octets themselves are others");
        assert_eq!(moving.reseal(&place(), &anew).await.unwrap(), None, "once only");
        assert!(signs(&moving, &place(), &anew).await);

        let new = SealedCustody::new(Arc::new(Seeded::new(4)));
        new.unseal(&master(2));
        assert!(signs(&new, &place(), &anew).await);
        assert!(!signs(&new, &place(), &stored).await);
        assert!(!signs(&old, &place(), &anew).await);
        for elsewhere in other_places() {
            let moved = StoredKey { reference: format!("sealed:{}", elsewhere.key_id), ..anew.clone() };
            assert!(refused(&new, &elsewhere, &moved).await, "{elsewhere:?}");
        }
    }
}

#[tokio::test]
async fn what_does_not_open_for_its_row_is_not_sealed_anew() {
    let stored = unsealed(1).create(&place(), Ed25519).await.unwrap();
    let other = unsealed(9).create(&binding("tenant-1", "example.com", "s1", "key-1"), Ed25519).await.unwrap();
    let moving = SealedCustody::new(Arc::new(Seeded::new(3)));
    moving.unseal_with(&master(2), [&master(1)]);
    for elsewhere in other_places() {
        let moved = StoredKey { reference: format!("sealed:{}", elsewhere.key_id), ..stored.clone() };
        assert!(matches!(moving.reseal(&elsewhere, &moved).await, Err(CustodyError::Refused(_))), "{elsewhere:?}");
    }
    let mut changed = stored.clone();
    *changed.sealed.last_mut().unwrap() ^= 1;
    // The new master key's name on what the old one sealed.
    let mut renamed = stored.clone();
    renamed.sealed[..8].copy_from_slice(&master(2).name());
    let anothers_half = StoredKey { public_key: other.public_key.clone(), ..stored.clone() };
    for wrong in [&changed, &anothers_half] {
        assert!(matches!(moving.reseal(&place(), wrong).await, Err(CustodyError::Refused(_))));
    }
    assert!(refused(&moving, &place(), &renamed).await);

    moving.unseal(&master(2));
    assert!(matches!(moving.reseal(&place(), &stored).await, Err(CustodyError::Unavailable(_))), "no old master key");
    moving.seal();
    assert!(matches!(moving.reseal(&place(), &stored).await, Err(CustodyError::Unavailable(_))), "none at all");
}

#[tokio::test]
async fn the_same_rng_makes_the_same_keys() {
    for algorithm in [Ed25519, Rsa2048] {
        let one = unsealed(7).create(&place(), algorithm).await.unwrap();
        let same = unsealed(7).create(&place(), algorithm).await.unwrap();
        let other = unsealed(8).create(&place(), algorithm).await.unwrap();
        assert_eq!(one, same);
        assert_ne!(one.public_key, other.public_key);
    }
}

#[tokio::test]
async fn each_seal_has_its_own_nonce() {
    let custody = unsealed(1);
    let one = custody.create(&place(), Ed25519).await.unwrap();
    let two = custody.create(&place(), Ed25519).await.unwrap();
    assert_eq!(one.sealed[..8], two.sealed[..8], "the name of the sealing key");
    assert_ne!(one.sealed[8..20], two.sealed[8..20], "the nonce");
}

/// Every way in which octets get into text.
fn shows(text: &str, secret: &[u8]) -> bool {
    let hex: String = secret.iter().map(|octet| format!("{octet:02x}")).collect();
    let list = format!("{secret:?}");
    let forms = [hex.clone(), hex.to_uppercase(), STANDARD.encode(secret), list[1..list.len() - 1].to_owned()];
    forms.iter().any(|form| text.contains(form.as_str()))
}

#[tokio::test]
async fn debug_and_errors_never_show_a_private_key() {
    let custody = unsealed(9);
    let stored = custody.create(&place(), Ed25519).await.unwrap();
    assert!(signs(&custody, &place(), &stored).await, "now cached");
    // The rng's first 32 octets are the Ed25519 seed: proven by the public half.
    let mut seed = [0; 32];
    Seeded::new(9).fill(&mut seed);
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref();
    assert_eq!(STANDARD.encode(public), stored.public_key.to_p());

    let mut texts = vec![format!("{custody:?} {custody:#?}"), format!("{stored:?} {stored:#?}")];
    let changed = StoredKey { sealed: vec![0; 84], ..stored.clone() };
    let moved = binding("tenant-2", "example.com", "s1", "key-1");
    for (at, row) in [(&place(), &changed), (&moved, &stored)] {
        let error = custody.sign(at, row, &sha256(b"x")).await.unwrap_err();
        texts.push(format!("{error} {error:?}"));
    }
    let master_octets = STANDARD.decode(master(1).to_base64().as_bytes()).unwrap();
    for text in texts {
        assert!(!shows(&text, &seed) && !shows(&text, &seed[..8]), "{text}");
        assert!(!shows(&text, &master_octets) && !shows(&text, &master_octets[..8]), "{text}");
        assert!(!shows(&text, &stored.sealed[20..28]), "{text}");
    }
    assert!(!stored.sealed.windows(8).any(|window| window == &seed[..8]), "the seed lies open in the row");
    assert!(shows(&format!("{seed:?}"), &seed), "the search itself finds nothing");
}
