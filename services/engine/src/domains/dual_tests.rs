//! Dual signing on a real store: an RSA and an Ed25519 key, what becomes of mail when one of them cannot sign, and how each of them comes
//! and goes without the other.
use super::tests::{Served, key, look, signing, states};
use super::*;
use crate::domains::SigningPolicyView;
use crate::messages::bench::{Bench, HOUR_MS};
use crate::rows::AuditFilter;

const DAY_MS: i64 = 24 * HOUR_MS;

async fn switch(bench: &Bench, on: bool) -> SigningPolicyView {
    let wanted = PolicyChange { dual_signing: Some(on), ..PolicyChange::default() };
    bench.engine.change_signing_policy(&bench.caller, &bench.domain, &wanted).await.unwrap()
}

/// The Ed25519 key that signed already, and an RSA key that signs beside it.
async fn dual() -> (Bench, KeyRow, KeyRow) {
    let bench = Bench::start().await;
    switch(&bench, true).await;
    let rsa = bench.further_key_of("rsa-2048").await;
    look(&bench.engine, &rsa, Served::Right).await;
    assert_eq!(states(&bench).await, ["active", "active"]);
    let ed25519 = bench.keys().await.remove(0);
    (bench, ed25519, rsa)
}

async fn rotate(bench: &Bench, algorithm: Option<&str>) -> Result<KeyRow, Error> {
    bench.advance(1);
    let new = NewKey { algorithm: algorithm.map(str::to_owned), custody: None };
    bench.engine.rotate_key(&bench.caller, &bench.domain, &new).await
}

/// The details of its `message.signed`.
async fn told_of_signing(bench: &Bench, message: &str) -> serde_json::Value {
    let events = bench.engine.message_events(&bench.caller, message, None, 100).await.unwrap().rows;
    events.into_iter().find(|event| event.kind == "message.signed").unwrap().details
}

#[tokio::test]
async fn switched_on_it_makes_no_key_and_says_what_to_expect_and_what_to_do() {
    let bench = Bench::start().await;
    let read = || async { bench.engine.signing_policy(&bench.caller, &bench.domain).await.unwrap() };
    assert_eq!((read().await.row.dual_signing, read().await.warnings), (false, vec![]));
    let on = switch(&bench, true).await;
    assert_eq!(on, read().await);
    assert_eq!(states(&bench).await, ["active"]);
    let [expect, todo] = on.warnings.as_slice() else { panic!("{on:?}") };
    assert!(expect.contains("report that signature as failed"), "{expect}");
    assert!(todo.contains("no RSA key") && todo.contains(r#"/keys {"algorithm": "rsa-2048"}"#), "{todo}");

    let rsa = bench.further_key_of("rsa-2048").await;
    let [_, todo] = read().await.warnings.try_into().unwrap();
    assert!(todo.contains(&format!("{}._domainkey.example.com", rsa.selector)), "{todo}");
    let early = bench.send().await;
    bench.assert_signed_by(&bench.octets(&early).await, &bench.keys().await[0]);
    let required = || async {
        let view = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap();
        view.records.iter().filter(|record| record.required && record.name.contains("._domainkey.")).count()
    };
    assert_eq!(required().await, 2, "one record of each kind");
    look(&bench.engine, &rsa, Served::Right).await;
    assert_eq!(states(&bench).await, ["active", "active"]);
    assert_eq!((required().await, read().await.warnings.len()), (2, 1));
}

#[tokio::test]
async fn each_message_has_a_signature_by_each_key_and_rsa_is_on_top() {
    let (bench, ed25519, rsa) = dual().await;
    let id = bench.send().await;
    let shown = bench.message(&id).await;
    let listed: Vec<_> = shown.signatures.iter().map(|s| (s.key_id.as_str(), s.algorithm.as_str())).collect();
    assert_eq!(listed, [(rsa.id.as_str(), "rsa-sha256"), (ed25519.id.as_str(), "ed25519-sha256")]);
    let both = [rsa.selector.as_str(), ed25519.selector.as_str()];
    assert_eq!(told_of_signing(&bench, &id).await["selectors"], json!(both));
    let arrived = bench.work_until(&id, "delivered").await;
    assert_eq!(arrived.len(), 1);
    bench.assert_signed_by_each(&arrived[0], &[&rsa, &ed25519]);
    assert_eq!(usize::try_from(shown.size).unwrap(), arrived[0].len());

    // A body that is hashed beforehand gives both the same bh=.
    for body in ["x\r\n".to_owned(), "0123456789abcdef\r\n".repeat(60_000)] {
        let raw = format!("From: ann@example.com\r\n\r\n{body}").into_bytes();
        let signed = bench.engine.sign(&bench.caller, raw).await.unwrap();
        let selectors: Vec<_> = signed.signatures.iter().map(|s| s.selector.as_str()).collect();
        assert_eq!((selectors.as_slice(), signed.prepend.len()), (both.as_slice(), 2));
        let mut octets = signed.prepend.concat().into_bytes();
        octets.extend_from_slice(&signed.raw);
        bench.assert_signed_by_each(&octets, &[&rsa, &ed25519]);
    }
}

/// Held: DNS serves something else than the record. Awaiting: custody is away.
#[tokio::test]
async fn mail_waits_for_its_rsa_signature_and_not_for_the_other() {
    for (of_rsa, is_away, status) in
        [(false, false, "queued"), (false, true, "queued"), (true, false, "held"), (true, true, "awaiting_signature")]
    {
        let (bench, ed25519, rsa) = dual().await;
        let broken = if of_rsa { &rsa } else { &ed25519 };
        if is_away {
            bench.engine.inner.outages.begin(broken, "the KMS is away", false, bench.now());
        } else {
            bench.change_key(&broken.id, None, Some("")).await;
        }
        let id = bench.send().await;
        let message = bench.expect(&id, status).await;
        if of_rsa {
            assert!(message.signatures.is_empty(), "to most receivers it would be unsigned");
            continue;
        }
        bench.assert_signed_by(&bench.octets(&id).await, &rsa);
        let told = told_of_signing(&bench, &id).await;
        assert_eq!(told["left_out"]["selector"], ed25519.selector.as_str(), "{told:#}");
        assert!(told["left_out"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{told:#}");
        assert_eq!(bench.work_until(&id, "delivered").await.len(), 1);
    }
}

#[tokio::test]
async fn held_mail_goes_with_both_signatures_once_the_rsa_key_signs_again() {
    let (bench, ed25519, rsa) = dual().await;
    bench.change_key(&rsa.id, None, Some("")).await;
    let id = bench.send().await;
    bench.expect(&id, "held").await;
    bench.change_key(&rsa.id, None, Some(&rsa.public_key)).await;
    bench.advance(HOUR_MS);
    let arrived = bench.work_until(&id, "delivered").await;
    bench.assert_signed_by_each(&arrived[0], &[&rsa, &ed25519]);
    assert_eq!(bench.message(&id).await.signatures.len(), 2);
}

#[tokio::test]
async fn a_revoked_key_of_two_leaves_the_other_and_the_last_one_suspends() {
    for rsa_first in [true, false] {
        let (bench, ed25519, rsa) = dual().await;
        let (revoked, left) = if rsa_first { (&rsa, &ed25519) } else { (&ed25519, &rsa) };
        let queued = bench.send().await;
        bench.engine.revoke_key(&bench.caller, &revoked.id).await.unwrap();
        assert_eq!(signing(&bench).await, ("enabled".to_owned(), None));
        let arrived = bench.work_until(&queued, "delivered").await;
        assert_eq!(arrived.len(), 1);
        bench.assert_signed_by(&arrived[0], left);
        let later = bench.send().await;
        bench.assert_signed_by(&bench.octets(&later).await, left);

        bench.engine.revoke_key(&bench.caller, &left.id).await.unwrap();
        assert_eq!(signing(&bench).await, ("suspended".to_owned(), Some("key_unavailable".to_owned())));
        assert_eq!(bench.work_until(&later, "awaiting_signature").await.len(), 1, "nothing leaves unsigned");
    }
}

#[tokio::test]
async fn a_rotation_replaces_the_key_of_its_own_kind_and_leaves_the_other() {
    let (bench, ed25519, rsa) = dual().await;
    let queued = bench.send().await;
    // The Ed25519 key signs longer.
    let next = rotate(&bench, None).await.unwrap();
    assert_eq!(next.algorithm, "ed25519");
    assert!(matches!(rotate(&bench, Some("ed25519")).await, Err(Error::RotationUnderWay)));
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "active", "active"]);
    let later = bench.send().await;
    bench.assert_signed_by_each(&bench.octets(&later).await, &[&rsa, &next]);
    let arrived = bench.work_until(&queued, "delivered").await;
    assert!(
        arrived.iter().any(|octets| bench.verify(octets, std::slice::from_ref(&ed25519)).len() == 2),
        "mail of a retiring key leaves as it is"
    );

    let stronger = rotate(&bench, Some("rsa-3072")).await.unwrap();
    assert_eq!(rotate(&bench, None).await.unwrap().algorithm, "ed25519", "that of the other kind is not under way");
    for algorithm in [None, Some("rsa-2048"), Some("ed25519")] {
        assert!(matches!(rotate(&bench, algorithm).await, Err(Error::RotationUnderWay)), "{algorithm:?}");
    }
    look(&bench.engine, &stronger, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "retiring", "active", "active", "pending"]);
    let last = bench.send().await;
    bench.assert_signed_by_each(&bench.octets(&last).await, &[&stronger, &next]);
}

#[tokio::test]
async fn each_kind_is_rotated_by_schedule_when_its_own_key_is_due() {
    let bench = Bench::start().await;
    let ed25519 = bench.keys().await.remove(0);
    let due = key(&bench, &ed25519.id).await.life.state_since + 180 * DAY_MS;
    switch(&bench, true).await;
    bench.advance(10 * DAY_MS);
    let rsa = bench.further_key_of("rsa-2048").await;
    look(&bench.engine, &rsa, Served::Right).await;
    let rsa_due = key(&bench, &rsa.id).await.life.state_since + 180 * DAY_MS;
    for (at, expected) in [
        (due - 1, vec!["active", "active"]),
        (due, vec!["active", "active", "pending"]),
        (rsa_due - 1, vec!["active", "active", "pending"]),
        (rsa_due, vec!["active", "active", "pending", "pending"]),
    ] {
        bench.advance(at - bench.now());
        for _ in 0..2 {
            bench.engine.prepare_due_rotations().await.unwrap();
        }
        assert_eq!(states(&bench).await, expected);
    }
    let made: Vec<_> = bench.keys().await.into_iter().skip(2).map(|key| key.algorithm).collect();
    assert_eq!(made, ["ed25519", "rsa-2048"]);
}

#[tokio::test]
async fn switched_off_the_ed25519_key_retires_and_what_it_signed_leaves_as_it_is() {
    let (bench, ed25519, rsa) = dual().await;
    let queued = bench.send().await;
    let before = bench.octets(&queued).await;
    let next = rotate(&bench, Some("ed25519")).await.unwrap();
    let off = switch(&bench, false).await;
    assert_eq!((off.row.dual_signing, off.warnings), (false, vec![]));
    assert_eq!(states(&bench).await, ["retiring", "active", "revoked"]);
    assert!(key(&bench, &ed25519.id).await.life.safe_to_remove_at.is_some());
    assert!(key(&bench, &next.id).await.sealed.is_empty(), "its private half is still there");
    let later = bench.send().await;
    bench.assert_signed_by(&bench.octets(&later).await, &rsa);
    let arrived = bench.work_until(&queued, "delivered").await;
    assert!(arrived.contains(&before), "not an octet of it was changed");
    // Without dual signing a further key replaces the one that signs, as ever.
    let further = bench.further_key().await;
    look(&bench.engine, &further, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "retiring", "revoked", "active"]);
    let filter = AuditFilter { action: Some("signing_policy.changed".into()), ..AuditFilter::default() };
    let log = bench.engine.audit_log(&bench.caller, &filter, None, 10).await.unwrap().rows;
    let told = |dual: bool| json!({"rotation_days": 180, "dual_signing": dual, "suspended_mail": "hold"});
    assert_eq!(log.len(), 2);
    assert_eq!(log[0].details, json!({"before": told(true), "after": told(false)}));
}

#[tokio::test]
async fn switched_off_with_one_key_that_one_stays() {
    let bench = Bench::start().await;
    switch(&bench, true).await;
    let rsa = bench.further_key_of("rsa-2048").await;
    switch(&bench, false).await;
    assert_eq!(states(&bench).await, ["active", "pending"], "the RSA key is to replace it, as ever");
    look(&bench.engine, &rsa, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "active"]);
}

/// Published while it had no place of its own.
#[tokio::test]
async fn switched_on_a_published_key_of_the_other_kind_signs_at_once() {
    let bench = Bench::start().await;
    let rsa = bench.further_key_of("rsa-2048").await;
    let newest = bench.further_key().await;
    bench.change_key(&rsa.id, Some(states::PUBLISHED), Some(&rsa.public_key)).await;
    look(&bench.engine, &newest, Served::Right).await;
    // One step, in which the newest published key takes the only place.
    assert_eq!(states(&bench).await, ["retiring", "published", "active"]);
    switch(&bench, true).await;
    assert_eq!(states(&bench).await, ["retiring", "active", "active"]);
    let id = bench.send().await;
    bench.assert_signed_by_each(&bench.octets(&id).await, &[&rsa, &newest]);
}
