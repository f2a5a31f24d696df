//! Rotations and revocations on a real store, with what DNS says given by the test and a clock that it moves.
use super::*;
use crate::messages::bench::{Bench, HOUR_MS, LIFETIME_MS};
use crate::rows::AuditFilter;
use futures_util::future::join_all;

const DAY_MS: i64 = 24 * HOUR_MS;
const MINUTE_MS: i64 = 60_000;

fn like_the_present() -> NewKey {
    NewKey { algorithm: None, custody: None }
}

async fn rotate(bench: &Bench) -> KeyRow {
    bench.advance(1);
    bench.engine.rotate_key(&bench.caller, &bench.domain, &like_the_present()).await.unwrap()
}

/// What DNS serves at the key's name: its record with this TTL, or other data, or nothing.
pub(super) enum Served {
    Right,
    Other { ttl_ms: i64 },
    Nothing,
}

fn sighting(key: &KeyRow, served: &Served) -> Sighting {
    let (right, other, ttl_ms) = match served {
        Served::Right => (true, false, Some(HOUR_MS)),
        Served::Other { ttl_ms } => (false, true, Some(*ttl_ms)),
        Served::Nothing => (false, false, None),
    };
    let p = if right { key.public_key.clone() } else { String::new() };
    Sighting { key_id: key.id.clone(), answer: Some((right, p)), other, ttl_ms }
}

pub(super) async fn look(engine: &Engine, key: &KeyRow, served: Served) {
    engine.step_by_itself(key, &[sighting(key, &served)], json!({"reason": "test"})).await.unwrap();
}

pub(super) async fn states(bench: &Bench) -> Vec<String> {
    bench.keys().await.into_iter().map(|key| key.state).collect()
}

pub(super) async fn key(bench: &Bench, id: &str) -> KeyRow {
    bench.keys().await.into_iter().find(|key| key.id == id).unwrap()
}

/// `before>after by actor` of each row about this key, oldest first.
async fn told(bench: &Bench, key_id: &str) -> Vec<String> {
    let log = bench.engine.audit_log(&bench.caller, &AuditFilter::default(), None, 100).await.unwrap().rows;
    let of_key = log.iter().rev().filter(|row| row.object == key_id);
    of_key
        .map(|row| {
            assert_eq!(row.domain_id.as_ref(), Some(&bench.domain), "{row:?}");
            let text = |name: &str| row.details[name].as_str().unwrap_or("-").to_owned();
            let actor = if row.actor == bench.caller.key_id { "caller" } else { row.actor.as_str() };
            format!("{} {}>{} by {actor}", row.action, text("before"), text("after"))
        })
        .collect()
}

pub(super) async fn signing(bench: &Bench) -> (String, Option<String>) {
    let row = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row;
    (row.signing, row.signing_reason)
}

#[tokio::test]
async fn the_next_key_signs_once_its_record_is_seen_and_the_former_one_retires_when_nothing_needs_it() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    let next = rotate(&bench).await;
    assert_eq!((next.state.as_str(), &next.algorithm, &next.custody), ("pending", &first.algorithm, &first.custody));
    look(&bench.engine, &next, Served::Nothing).await;
    assert_eq!(states(&bench).await, ["active", "pending"]);
    let early = bench.send().await;
    bench.assert_signed_by(&bench.octets(&early).await, &first);

    bench.advance(HOUR_MS);
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "active"]);
    let late = bench.send().await;
    bench.assert_signed_by(&bench.octets(&late).await, &next);
    bench.assert_signed_by(&bench.octets(&early).await, &first);
    let retiring = key(&bench, &first.id).await;
    let until = bench.now() + 2 * LIFETIME_MS + DAY_MS;
    assert_eq!(retiring.life.retiring_since, Some(bench.now()));
    assert_eq!(retiring.life.safe_to_remove_at, Some(until), "its TTL was never learned");
    assert_eq!(key(&bench, &next.id).await.life.record_ttl, Some(HOUR_MS));

    bench.advance(2 * LIFETIME_MS + DAY_MS - 1);
    bench.engine.tend_keys().await.unwrap();
    assert_eq!(states(&bench).await, ["retiring", "active"]);
    assert!(!key(&bench, &first.id).await.sealed.is_empty());
    bench.advance(1);
    for _ in 0..2 {
        bench.engine.tend_keys().await.unwrap();
    }
    assert_eq!(states(&bench).await, ["retired", "active"]);
    let retired = key(&bench, &first.id).await;
    assert!(retired.sealed.is_empty(), "its private half is still there");
    assert_eq!((retired.life.safe_to_remove_at, retired.life.state_since), (Some(until), until));
    assert_eq!(
        told(&bench, &first.id).await,
        [
            "key.created ->pending by caller",
            "key.retiring active>retiring by system",
            "key.retired retiring>retired by system"
        ]
    );
    assert_eq!(
        told(&bench, &next.id).await,
        [
            "key.created ->pending by caller",
            "key.published pending>published by system",
            "key.activated published>active by system"
        ]
    );
}

#[tokio::test]
async fn the_records_say_what_must_stay_and_what_is_revoked() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    let next = rotate(&bench).await;
    look(&bench.engine, &next, Served::Right).await;
    let records = || async { bench.engine.domain_records(&bench.caller, &bench.domain).await.unwrap() };
    let of = |records: Vec<super::super::RecordView>, key: &KeyRow| {
        let name = format!("{}._domainkey.{}", key.selector, key.domain_name);
        records.into_iter().find(|record| record.name == name)
    };
    let kept = of(records().await, &first).unwrap();
    assert!(kept.warnings.iter().any(|text| text.contains("Keep this record until")), "{kept:?}");
    assert!(of(records().await, &next).unwrap().warnings.is_empty());
    bench.engine.revoke_key(&bench.caller, &first.id).await.unwrap();
    let revoked = of(records().await, &first).unwrap();
    assert_eq!((revoked.value.as_str(), revoked.required), ("v=DKIM1; p=", false));
    // What never stood in DNS needs no record.
    let unseen = rotate(&bench).await;
    bench.engine.revoke_key(&bench.caller, &unseen.id).await.unwrap();
    assert!(of(records().await, &unseen).is_none());
}

#[tokio::test]
async fn of_many_rotations_at_once_one_makes_a_key() {
    let bench = Bench::start().await;
    bench.advance(1);
    let new = like_the_present();
    let results = join_all((0..8).map(|_| bench.engine.rotate_key(&bench.caller, &bench.domain, &new))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::RotationUnderWay))));
    assert_eq!(states(&bench).await, ["active", "pending"]);
    let again = bench.engine.rotate_key(&bench.caller, &bench.domain, &new).await;
    assert!(matches!(again, Err(Error::RotationUnderWay)));
    let next = bench.keys().await.pop().unwrap();
    bench.engine.revoke_key(&bench.caller, &next.id).await.unwrap();
    rotate(&bench).await;
}

#[tokio::test]
async fn a_rotation_may_name_another_algorithm_and_nothing_that_is_not_offered() {
    let bench = Bench::start().await;
    let rotate = |algorithm: Option<&str>, custody: Option<&str>| {
        let new = NewKey { algorithm: algorithm.map(str::to_owned), custody: custody.map(str::to_owned) };
        let bench = &bench;
        async move { bench.engine.rotate_key(&bench.caller, &bench.domain, &new).await }
    };
    for (algorithm, custody, expected) in [
        (Some("rsa-1024"), None, vec!["/algorithm"]),
        (None, Some("aws-kms"), vec!["/custody"]),
        (Some(""), Some("paper"), vec!["/algorithm", "/custody"]),
    ] {
        let Err(Error::Invalid(faults)) = rotate(algorithm, custody).await else { panic!("{algorithm:?} {custody:?}") };
        let pointers: Vec<_> = faults.iter().filter_map(|fault| fault.pointer.as_deref()).collect();
        assert_eq!(pointers, expected);
    }
    assert_eq!(states(&bench).await, ["active"]);
    bench.advance(1);
    assert_eq!(rotate(Some("rsa-2048"), Some("sealed")).await.unwrap().algorithm, "rsa-2048");
}

#[tokio::test]
async fn a_name_that_held_other_data_delays_the_first_signature_by_its_ttl() {
    let bench = Bench::start().await;
    let next = rotate(&bench).await;
    look(&bench.engine, &next, Served::Other { ttl_ms: HOUR_MS }).await;
    bench.advance(MINUTE_MS);
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["active", "published"]);
    bench.advance(HOUR_MS - MINUTE_MS - 1);
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["active", "published"]);
    bench.advance(1);
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "active"]);
}

#[tokio::test]
async fn a_key_that_cannot_sign_a_test_is_not_activated() {
    let bench = Bench::start().await;
    let next = rotate(&bench).await;
    let sealed = bench.sealed();
    look(&sealed, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["active", "published"], "it was not tested");
    // A row whose public half is another key's: H04, the key shown is not the one that signs.
    let other = bench.further_key().await;
    let mixed = KeyRow { public_key: other.public_key.clone(), ..next.clone() };
    bench.engine.test_before_first_use(&next, &next.public_key).await.unwrap();
    for (key, published) in [(&mixed, &mixed.public_key), (&next, &other.public_key), (&next, &String::new())] {
        bench.engine.test_before_first_use(key, published).await.unwrap_err();
    }
    bench.engine.revoke_key(&bench.caller, &other.id).await.unwrap();
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "active", "revoked"]);
}

/// H04
#[tokio::test]
async fn keys_made_at_the_same_time_each_sign_for_their_own_public_half() {
    let bench = Bench::start().await;
    let new = NewKey { algorithm: Some("ed25519".into()), custody: None };
    let made = join_all((0..6).map(|_| bench.engine.create_domain_key(&bench.caller, &bench.domain, &new))).await;
    let made: Vec<KeyRow> = made.into_iter().map(|key| key.unwrap()).collect();
    let mut selectors: Vec<_> = made.iter().map(|key| key.selector.clone()).collect();
    selectors.sort();
    selectors.dedup();
    assert_eq!(selectors.len(), made.len());
    let stored = bench.keys().await;
    for (number, shown) in made.iter().enumerate() {
        let key = stored.iter().find(|key| key.id == shown.id).unwrap();
        assert_eq!(key.public_key, shown.public_key, "what is shown is what is stored");
        bench.engine.test_before_first_use(key, &shown.public_key).await.unwrap();
        let other = &made[(number + 1) % made.len()];
        bench.engine.test_before_first_use(key, &other.public_key).await.unwrap_err();
    }
}

#[tokio::test]
async fn mail_of_a_revoked_key_waits_without_another_and_goes_on_with_the_next() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    let queued = bench.send().await;
    let revoked = bench.engine.revoke_key(&bench.caller, &first.id).await.unwrap();
    assert_eq!((revoked.state.as_str(), revoked.sealed.len()), ("revoked", 0));
    assert_eq!(signing(&bench).await, ("suspended".to_owned(), Some("key_unavailable".to_owned())));
    let later = bench.send().await;
    bench.expect(&later, "awaiting_signature").await;
    assert!(bench.work_until(&queued, "awaiting_signature").await.is_empty());
    for _ in 0..2 {
        bench.engine.revoke_key(&bench.caller, &first.id).await.unwrap();
    }
    assert_eq!(told(&bench, &first.id).await.last().map(String::as_str), Some("key.revoked active>revoked by caller"));
    assert_eq!(told(&bench, &first.id).await.len(), 2, "told once");

    let next = rotate(&bench).await;
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(signing(&bench).await, ("enabled".to_owned(), None));
    bench.work_until(&queued, "delivered").await;
    let arrived = bench.work_until(&later, "delivered").await;
    assert_eq!(arrived.len(), 2);
    for octets in &arrived {
        bench.assert_signed_by(octets, &next);
    }
}

#[tokio::test]
async fn the_published_key_takes_the_place_of_a_revoked_one_at_once() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    let queued = bench.send().await;
    let next = rotate(&bench).await;
    // Published while it could not be tested.
    look(&bench.sealed(), &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["active", "published"]);
    bench.engine.revoke_key(&bench.caller, &first.id).await.unwrap();
    assert_eq!(states(&bench).await, ["revoked", "active"]);
    assert_eq!(signing(&bench).await.0, "enabled");
    let arrived = bench.work_until(&queued, "delivered").await;
    bench.assert_signed_by(&arrived[0], &next);
}

#[tokio::test]
async fn a_key_of_nobody_or_of_another_tenant_cannot_be_revoked() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    let (tenant, issued) = bench.engine.create_tenant("Bert").await.unwrap();
    let bert = Caller { tenant_id: tenant.id, key_id: issued.row.id, scopes: Scope::ALL.to_vec(), request_id: None };
    assert!(matches!(bench.engine.revoke_key(&bert, &first.id).await, Err(Error::NotFound("key"))));
    let absent = bench.engine.revoke_key(&bench.caller, &"0".repeat(32)).await;
    assert!(matches!(absent, Err(Error::NotFound("key"))));
    let narrow = Caller { scopes: vec![Scope::DomainsRead], ..bench.caller.clone() };
    assert!(matches!(bench.engine.revoke_key(&narrow, &first.id).await, Err(Error::MissingScope(_))));
    assert_eq!(states(&bench).await, ["active"]);
}

#[tokio::test]
async fn mail_of_a_retiring_key_whose_record_was_removed_too_early_is_signed_anew() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    let queued = bench.send().await;
    let next = rotate(&bench).await;
    look(&bench.engine, &next, Served::Right).await;
    bench.change_key(&first.id, None, Some("")).await;
    let arrived = bench.work_until(&queued, "delivered").await;
    bench.assert_signed_by(&arrived[0], &next);
}

#[tokio::test]
async fn a_rotation_comes_by_schedule_once_and_asks_for_its_record_every_week() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    look(&bench.engine, &first, Served::Right).await;
    let since = key(&bench, &first.id).await.life.state_since;
    bench.advance(since + 180 * DAY_MS - 1 - bench.now());
    bench.engine.prepare_due_rotations().await.unwrap();
    assert_eq!(states(&bench).await, ["active"]);
    bench.advance(1);
    for _ in 0..2 {
        bench.engine.prepare_due_rotations().await.unwrap();
    }
    assert_eq!(states(&bench).await, ["active", "pending"]);
    let next = bench.keys().await.pop().unwrap();
    assert_eq!((&next.algorithm, &next.custody), (&first.algorithm, &first.custody));
    assert_eq!(told(&bench, &next.id).await, ["key.created ->pending by system"]);
    let made = bench.now();
    for (wait, reminded) in [(7 * DAY_MS - 1, made), (1, made + 7 * DAY_MS), (DAY_MS, made + 7 * DAY_MS)] {
        bench.advance(wait);
        bench.engine.prepare_due_rotations().await.unwrap();
        assert_eq!(key(&bench, &next.id).await.life.reminded_at, Some(reminded), "{wait}");
    }
    look(&bench.engine, &next, Served::Right).await;
    assert_eq!(states(&bench).await, ["retiring", "active"]);
}

#[tokio::test]
async fn processes_that_look_at_the_same_time_take_each_step_once() {
    let bench = Bench::start().await;
    let first = bench.keys().await.remove(0);
    bench.advance(181 * DAY_MS);
    join_all((0..4).map(|_| bench.engine.prepare_due_rotations())).await;
    assert_eq!(states(&bench).await, ["active", "pending"]);
    let next = bench.keys().await.pop().unwrap();
    join_all((0..4).map(|_| look(&bench.engine, &next, Served::Right))).await;
    assert_eq!(states(&bench).await, ["retiring", "active"]);
    bench.advance(2 * LIFETIME_MS + DAY_MS);
    join_all((0..4).map(|_| bench.engine.tend_keys())).await;
    assert_eq!(told(&bench, &first.id).await.len(), 3);
    assert_eq!(told(&bench, &next.id).await.len(), 3);
}

#[tokio::test]
async fn the_policy_is_bounded_and_can_switch_the_schedule_off() {
    let bench = Bench::start().await;
    let days = |rotation_days| PolicyChange { rotation_days, ..PolicyChange::default() };
    let change = async |wanted| {
        bench.engine.change_signing_policy(&bench.caller, &bench.domain, &days(wanted)).await.map(|policy| policy.row)
    };
    assert_eq!(change(None).await.unwrap().rotation_days, Some(180));
    for wrong in [0, -1, 3651, i64::MAX, i64::MIN] {
        assert!(matches!(change(Some(Some(wrong))).await, Err(Error::Invalid(_))), "{wrong}");
    }
    assert_eq!(change(Some(Some(1))).await.unwrap().rotation_days, Some(1));
    assert_eq!(change(Some(None)).await.unwrap().rotation_days, None);
    bench.advance(9999 * DAY_MS);
    bench.engine.prepare_due_rotations().await.unwrap();
    assert_eq!(states(&bench).await, ["active"]);
    let filter = AuditFilter { action: Some("signing_policy.changed".into()), ..AuditFilter::default() };
    let log = bench.engine.audit_log(&bench.caller, &filter, None, 10).await.unwrap().rows;
    assert_eq!(log.len(), 2, "what changes nothing is not told");
    let told = |days: Option<i64>| json!({"rotation_days": days, "dual_signing": false, "suspended_mail": "hold"});
    assert_eq!(log[0].details, json!({"before": told(Some(1)), "after": told(None)}));
    let absent = bench.engine.change_signing_policy(&bench.caller, &"0".repeat(32), &days(Some(None))).await;
    assert!(matches!(absent, Err(Error::NotFound("domain"))));
}
