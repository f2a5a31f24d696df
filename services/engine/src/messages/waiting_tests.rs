//! Mail that waits: scheduled, held, awaiting its signature; and what its domain and keys may go through meanwhile.
use super::bench::{Bench, HOUR_MS, LIFETIME_MS, NAME, START_MS, field};
use super::raw::date_field;
use super::signing::Readiness;
use crate::domains::states;
use crate::{Error, Scope};
use signpost_store::{Claim, DomainChange};

/// An hour after `START_MS`.
const IN_AN_HOUR: &str = "2026-11-25T02:00:00Z";

#[tokio::test]
async fn scheduled_mail_is_stored_unsigned_and_is_signed_dated_and_given_its_lifetime_at_its_release() {
    let bench = Bench::start().await;
    let id = bench.send_through(&bench.engine, Some(IN_AN_HOUR)).await;
    let accepted = bench.expect(&id, "scheduled").await;
    assert_eq!((accepted.release_at, accepted.signatures.len()), (Some(START_MS + HOUR_MS), 0));
    assert!(bench.verify(&bench.octets(&id).await, &bench.keys().await).is_empty(), "it is signed already");
    let message_id = field(&bench.octets(&id).await, "Message-ID");

    bench.advance(HOUR_MS - 1);
    assert_eq!(bench.release().await, 0, "a millisecond too early");
    bench.advance(1);
    let arrived = bench.work_until(&id, "delivered").await;
    assert_eq!(arrived.len(), 1);
    bench.assert_signed_by(&arrived[0], &bench.keys().await[0]);
    assert_eq!(field(&arrived[0], "Date"), date_field(START_MS + HOUR_MS));
    assert_eq!(field(&arrived[0], "Message-ID"), message_id);
    let released_s = (START_MS + HOUR_MS) / 1000;
    assert!(field(&arrived[0], "DKIM-Signature").contains(&format!("t={released_s};")), "signed at its release");
    let delivered = bench.message(&id).await;
    assert_eq!(delivered.expires_at, START_MS + HOUR_MS + LIFETIME_MS, "the lifetime runs from the release");
    assert_eq!(usize::try_from(delivered.size).unwrap(), arrived[0].len());
    // The clock stood still between the last two of the four.
    let mut events = bench.event_kinds(&id).await;
    events.retain(|kind| kind != "message.delivered");
    assert_eq!(events, ["message.accepted", "message.signed", "message.queued"]);
}

#[tokio::test]
async fn a_time_that_has_passed_already_is_now() {
    let bench = Bench::start().await;
    bench.advance(HOUR_MS);
    let id = bench.send_through(&bench.engine, Some(IN_AN_HOUR)).await;
    bench.expect(&id, "queued").await;
}

#[tokio::test]
async fn scheduled_mail_of_a_domain_disabled_meanwhile_is_held_until_it_is_enabled() {
    let bench = Bench::start().await;
    let id = bench.send_through(&bench.engine, Some(IN_AN_HOUR)).await;
    bench.engine.disable_signing(&bench.caller, &bench.domain).await.unwrap();
    bench.expect(&id, "scheduled").await;
    bench.advance(HOUR_MS);
    assert_eq!(bench.release().await, 1);
    let held = bench.expect(&id, "held").await;
    assert!(held.waiting_reason.as_deref().is_some_and(|reason| reason.contains("disabled")), "{held:?}");
    assert!(bench.verify(&bench.octets(&id).await, &bench.keys().await).is_empty());

    bench.advance(HOUR_MS);
    let key = bench.keys().await.remove(0);
    bench.change_key(&key.id, None, Some(&key.public_key)).await;
    bench.passed_check().await;
    bench.engine.enable_signing(&bench.caller, &bench.domain).await.unwrap();
    assert_eq!(bench.release().await, 1);
    let queued = bench.expect(&id, "queued").await;
    let octets = bench.octets(&id).await;
    bench.assert_signed_by(&octets, &key);
    assert_eq!(field(&octets, "Date"), date_field(START_MS + 2 * HOUR_MS));
    assert_eq!(queued.expires_at, START_MS + HOUR_MS + LIFETIME_MS, "being held does not prolong a lifetime");
    assert_eq!(bench.event_kinds(&id).await, ["message.accepted", "message.held", "message.signed", "message.queued"]);
}

/// Another tenant takes the name.
async fn lose_the_name(bench: &Bench) {
    let (tenant, issued) = bench.engine.create_tenant("Bert").await.unwrap();
    let bert = crate::Caller {
        tenant_id: tenant.id.clone(),
        key_id: issued.row.id,
        scopes: Scope::ALL.to_vec(),
        request_id: None,
    };
    let new = crate::domains::NewDomain { name: NAME.into(), dkim_mode: None, algorithm: Some("ed25519".into()) };
    let row = bench.engine.register_domain(&bert, &new).await.unwrap().row;
    let store = &bench.engine.inner.store;
    let seen_version = store.name_version(NAME).await.unwrap().version;
    let change = DomainChange {
        ownership: Some(("verified".into(), Some(bench.now()))),
        claim: Some(Claim { name: NAME.into(), seen_version, at: bench.now(), loser_event: None }),
        ..DomainChange::default()
    };
    store.change_domain(&tenant.id, &row.id, row.version, &change).await.unwrap();
}

#[tokio::test]
async fn nothing_leaves_for_a_name_that_was_lost_whether_it_waits_or_is_queued() {
    let bench = Bench::start().await;
    let scheduled = bench.send_through(&bench.engine, Some(IN_AN_HOUR)).await;
    let queued = bench.send().await;
    bench.expect(&queued, "queued").await;
    bench.advance(HOUR_MS);
    lose_the_name(&bench).await;
    assert!(bench.work_until(&queued, "held").await.is_empty());
    assert!(bench.work_until(&scheduled, "held").await.is_empty());
    for id in [&scheduled, &queued] {
        let message = bench.message(id).await;
        assert!(message.waiting_reason.as_deref().is_some_and(|r| r.contains("no longer proven")), "{message:?}");
    }
    // At the end of its lifetime it is expired: held mail does not stay for ever.
    bench.advance(LIFETIME_MS);
    for id in [&scheduled, &queued] {
        assert!(bench.work_until(id, "expired").await.is_empty());
    }
    let refused = bench.engine.send(&bench.caller, bench.request(None), None).await;
    assert!(matches!(refused, Err(Error::DomainNotAllowed(_))), "{refused:?}");
}

#[tokio::test]
async fn deleting_a_domain_cancels_its_mail_in_every_waiting_state_with_an_event_each() {
    let bench = Bench::start().await;
    let scheduled = bench.send_through(&bench.engine, Some(IN_AN_HOUR)).await;
    let awaiting = bench.send_through(&bench.sealed(), None).await;
    let queued = bench.send().await;
    let key = bench.keys().await.remove(0);
    bench.change_key(&key.id, None, Some("")).await;
    let held = bench.send().await;
    let all = [(&scheduled, "scheduled"), (&awaiting, "awaiting_signature"), (&queued, "queued"), (&held, "held")];
    for (id, status) in all {
        bench.expect(id, status).await;
    }
    bench.advance(1);
    bench.engine.delete_domain(&bench.caller, &bench.domain).await.unwrap();
    bench.advance(2 * HOUR_MS);
    assert_eq!(bench.release().await, 0);
    for (id, was) in all {
        bench.expect(id, "cancelled").await;
        assert_eq!(bench.event_kinds(id).await.last().map(String::as_str), Some("message.cancelled"), "was {was}");
    }
    assert!(bench.work_until(&queued, "cancelled").await.is_empty());
}

#[tokio::test]
async fn held_mail_is_signed_and_dated_when_the_record_is_right_again() {
    let bench = Bench::start().await;
    let key = bench.keys().await.remove(0);
    bench.change_key(&key.id, None, Some("")).await;
    let id = bench.send().await;
    bench.expect(&id, "held").await;
    assert!(bench.verify(&bench.octets(&id).await, &bench.keys().await).is_empty());
    bench.advance(HOUR_MS);
    assert_eq!(bench.release().await, 1);
    bench.expect(&id, "held").await;
    bench.advance(HOUR_MS);
    bench.change_key(&key.id, None, Some(&key.public_key)).await;
    let arrived = bench.work_until(&id, "delivered").await;
    bench.assert_signed_by(&arrived[0], &key);
    assert_eq!(field(&arrived[0], "Date"), date_field(START_MS + 2 * HOUR_MS));
    assert_eq!(bench.message(&id).await.expires_at, START_MS + LIFETIME_MS);
    let events = bench.event_kinds(&id).await;
    assert_eq!(
        events.iter().filter(|kind| *kind == "message.held").count(),
        1,
        "said once, not at each look: {events:?}"
    );
}

#[tokio::test]
async fn held_mail_expires_at_the_end_of_its_lifetime() {
    let bench = Bench::start().await;
    let key = bench.keys().await.remove(0);
    bench.change_key(&key.id, None, Some("")).await;
    let id = bench.send().await;
    bench.advance(LIFETIME_MS - 1);
    bench.release().await;
    bench.expect(&id, "held").await;
    bench.advance(60_000);
    bench.release().await;
    let expired = bench.expect(&id, "expired").await;
    assert_eq!((expired.waiting_reason, expired.release_at), (None, None));
    assert_eq!(bench.event_kinds(&id).await.last().map(String::as_str), Some("message.expired"));
    // What comes too late changes nothing.
    bench.change_key(&key.id, None, Some(&key.public_key)).await;
    bench.engine.inner.store.hurry_waiting(&bench.caller.tenant_id, &bench.domain, bench.now()).await.unwrap();
    assert_eq!(bench.release().await, 0);
    bench.expect(&id, "expired").await;
}

#[tokio::test]
async fn mail_accepted_while_custody_is_away_is_signed_later_with_the_same_message_id_and_date() {
    let bench = Bench::start().await;
    let sealed = bench.sealed();
    let id = bench.send_through(&sealed, None).await;
    let accepted = bench.expect(&id, "awaiting_signature").await;
    assert!(accepted.signatures.is_empty());
    let before = bench.octets(&id).await;
    // It stays while the key is away.
    bench.advance(HOUR_MS);
    let fence = bench.fence().await;
    assert_eq!(sealed.release_waiting(&fence).await.unwrap(), 1);
    bench.expect(&id, "awaiting_signature").await;

    bench.advance(HOUR_MS);
    bench.unseal(&sealed).await;
    let fence = bench.fence().await;
    assert_eq!(sealed.release_waiting(&fence).await.unwrap(), 1);
    bench.expect(&id, "queued").await;
    let arrived = bench.work_until(&id, "delivered").await;
    bench.assert_signed_by(&arrived[0], &bench.keys().await[0]);
    for name in ["Message-ID", "Date", "Received"] {
        assert_eq!(field(&arrived[0], name), field(&before, name));
    }
    assert_eq!(field(&arrived[0], "Date"), date_field(START_MS));
    assert_eq!(bench.message(&id).await.expires_at, START_MS + LIFETIME_MS);
}

#[tokio::test]
async fn queued_mail_of_a_retiring_key_leaves_as_it_is() {
    let bench = Bench::start().await;
    let id = bench.send().await;
    let before = bench.octets(&id).await;
    let next = bench.further_key().await;
    let first = bench.keys().await.remove(0);
    bench.change_key(&next.id, Some(states::ACTIVE), Some(&next.public_key)).await;
    bench.change_key(&first.id, Some(states::RETIRING), None).await;
    let newer = bench.send().await;
    let arrived = bench.work_until(&id, "delivered").await;
    assert!(arrived.contains(&before), "not an octet of it was changed");
    bench.assert_signed_by(&before, &first);
    bench.work_until(&newer, "delivered").await;
    bench.assert_signed_by(&bench.octets(&newer).await, &next);
}

#[tokio::test]
async fn queued_mail_of_a_revoked_key_is_signed_anew_by_the_active_one_before_it_leaves() {
    for gone in ["revoked", "retired"] {
        let bench = Bench::start().await;
        let id = bench.send().await;
        let before = bench.octets(&id).await;
        let next = bench.further_key().await;
        let first = bench.keys().await.remove(0);
        bench.change_key(&next.id, Some(states::ACTIVE), Some(&next.public_key)).await;
        bench.change_key(&first.id, Some(gone), None).await;
        bench.advance(60_000);
        let arrived = bench.work_until(&id, "delivered").await;
        assert_eq!(arrived.len(), 1);
        bench.assert_signed_by(&arrived[0], &next);
        for name in ["Message-ID", "Date", "Received"] {
            assert_eq!(field(&arrived[0], name), field(&before, name));
        }
        let message = bench.message(&id).await;
        assert_eq!(
            message.signatures.iter().map(|s| s.selector.as_str()).collect::<Vec<_>>(),
            [next.selector.as_str()]
        );
        assert_eq!(usize::try_from(message.size).unwrap(), arrived[0].len());
        assert_eq!(bench.octets(&id).await, arrived[0], "what is stored is what was sent");
    }
}

#[tokio::test]
async fn queued_mail_of_a_revoked_key_waits_where_no_other_key_signs() {
    let bench = Bench::start().await;
    let id = bench.send().await;
    let first = bench.keys().await.remove(0);
    bench.change_key(&first.id, Some("revoked"), None).await;
    let (_, readiness) = bench.readiness().await;
    assert!(matches!(readiness, Readiness::Wait { status: "awaiting_signature", .. }), "{readiness:?}");
    // The lease of that claim ends.
    bench.advance(60_000);
    assert!(bench.work_until(&id, "awaiting_signature").await.is_empty());
    // A key that signs again lets it go.
    let next = bench.further_key().await;
    bench.change_key(&next.id, Some(states::ACTIVE), Some(&next.public_key)).await;
    bench.advance(HOUR_MS);
    let arrived = bench.work_until(&id, "delivered").await;
    bench.assert_signed_by(&arrived[0], &next);
}

#[tokio::test]
async fn what_dns_said_last_is_good_for_72_hours_without_an_answer_and_not_longer() {
    let bench = Bench::start().await;
    let key = bench.keys().await.remove(0);
    // The first look is planned within 6 h.
    assert_eq!(bench.engine.watch_domains().await.unwrap(), 0);
    bench.advance(6 * HOUR_MS);
    assert_eq!(bench.engine.watch_domains().await.unwrap(), 1);
    let after = bench.keys().await.remove(0);
    assert_eq!(
        (after.published_p.as_deref(), after.published_read_at, after.published_tried_at),
        (Some(key.public_key.as_str()), Some(START_MS), Some(bench.now())),
        "no answer leaves what was read last, with its time"
    );
    // Not asked again at once.
    assert_eq!(bench.engine.watch_domains().await.unwrap(), 0);

    bench.advance(66 * HOUR_MS);
    assert_eq!(bench.now(), START_MS + 72 * HOUR_MS);
    let last = bench.send().await;
    bench.expect(&last, "queued").await;
    bench.advance(1);
    let late = bench.send().await;
    let held = bench.expect(&late, "held").await;
    assert!(held.waiting_reason.as_deref().is_some_and(|reason| reason.contains("72 hours")), "{held:?}");
    // What was signed while the record was known is sent all the same: its key is still active.
    let arrived = bench.work_until(&last, "delivered").await;
    bench.assert_signed_by(&arrived[0], &key);
}

#[tokio::test]
async fn a_record_of_another_key_holds_mail() {
    let bench = Bench::start().await;
    let other = bench.further_key().await;
    let key = bench.keys().await.remove(0);
    for wrong in [other.public_key.as_str(), "", "bm90IGEga2V5"] {
        bench.change_key(&key.id, None, Some(wrong)).await;
        let id = bench.send().await;
        bench.expect(&id, "held").await;
    }
}

#[tokio::test]
async fn enabling_uses_a_check_of_the_last_ten_minutes_and_no_older_one() {
    for (age, enough) in [(0, true), (10 * 60_000, true), (10 * 60_000 + 1, false)] {
        let bench = Bench::start().await;
        bench.engine.disable_signing(&bench.caller, &bench.domain).await.unwrap();
        bench.passed_check().await;
        bench.advance(age);
        let enabled = bench.engine.enable_signing(&bench.caller, &bench.domain).await;
        match enabled {
            Ok(view) if enough => assert_eq!(view.row.signing, "enabled"),
            // A check is run, and nobody answers it here.
            Err(Error::RecordsNotReady(_)) if !enough => {}
            other => panic!("{age}: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn enabling_uses_a_check_only_if_it_saw_the_present_key() {
    let bench = Bench::start().await;
    bench.engine.disable_signing(&bench.caller, &bench.domain).await.unwrap();
    bench.passed_check().await;
    let first = bench.keys().await.remove(0);
    let next = bench.further_key().await;
    bench.change_key(&first.id, Some("revoked"), None).await;
    bench.change_key(&next.id, Some(states::PUBLISHED), Some(&next.public_key)).await;
    let enabled = bench.engine.enable_signing(&bench.caller, &bench.domain).await;
    assert!(matches!(enabled, Err(Error::RecordsNotReady(_))), "{:?}", enabled.err());
}

#[tokio::test]
async fn checks_are_120_a_minute_for_each_tenant() {
    let bench = Bench::start().await;
    let limited = |result: Result<_, Error>| matches!(result, Err(Error::RateLimited { retry_after: 1..=61 }));
    // A domain of nobody is not counted, so that this goes fast and needs no DNS.
    let count = || bench.engine.count_check(&bench.caller.tenant_id);
    for _ in 0..60 {
        count().unwrap();
    }
    bench.advance(30_000);
    for _ in 0..60 {
        count().unwrap();
    }
    assert!(limited(count()));
    let refused = bench.engine.check_domain(&bench.caller, &bench.domain).await.map(|_| ());
    assert!(limited(refused), "the check itself is refused");
    bench.engine.count_check("somebody else").unwrap();
    bench.advance(29_999);
    assert!(limited(count()));
    bench.advance(1);
    count().unwrap();
    assert_eq!(bench.engine.inner.clock.now_ms(), START_MS + 60_000);
}

/// All three bear the same time, so that their ids decide.
#[tokio::test]
async fn the_events_of_an_acceptance_are_listed_in_their_order() {
    let bench = Bench::start().await;
    for _ in 0..8 {
        let id = bench.send().await;
        assert_eq!(bench.event_kinds(&id).await, ["message.accepted", "message.signed", "message.queued"]);
    }
}

async fn counted(bench: &Bench) -> Vec<(String, i64)> {
    let rows = bench.engine.inner.store.usage(&bench.caller.tenant_id, 0, i64::MAX).await.unwrap();
    rows.into_iter().map(|row| (row.kind, row.count)).collect()
}

#[tokio::test]
async fn what_was_used_is_written_in_batches_and_once() {
    let bench = Bench::start().await;
    let raw = || format!("From: ann@{NAME}\r\n\r\nHello\r\n").into_bytes();
    for _ in 0..3 {
        bench.engine.sign(&bench.caller, raw()).await.unwrap();
    }
    bench.send().await;
    assert!(bench.engine.sign(&bench.caller, b"From: ann@example.org\r\n\r\n".to_vec()).await.is_err());
    assert!(counted(&bench).await.is_empty(), "a row for each request");
    for _ in 0..2 {
        bench.engine.flush_usage().await.unwrap();
        assert_eq!(counted(&bench).await, [("message".to_owned(), 1), ("signature".to_owned(), 3)]);
    }
    bench.engine.sign(&bench.caller, raw()).await.unwrap();
    bench.advance(24 * HOUR_MS);
    bench.engine.sign(&bench.caller, raw()).await.unwrap();
    bench.engine.flush_usage().await.unwrap();
    let expected = [("message", 1), ("signature", 4), ("signature", 1)].map(|(kind, n)| (kind.to_owned(), n));
    assert_eq!(counted(&bench).await, expected);
}

#[tokio::test]
async fn counts_stay_while_the_database_does_not_take_them() {
    let bench = Bench::start().await;
    bench.send().await;
    bench.engine.inner.store.close().await;
    for _ in 0..2 {
        bench.engine.flush_usage().await.unwrap_err();
    }
    assert_eq!(bench.engine.inner.counts.total(), 1);
}

/// What the present keeps of the store is not older than the last change.
#[tokio::test]
async fn a_change_counts_for_the_next_signature() {
    let bench = Bench::start().await;
    let raw = || format!("From: ann@{NAME}\r\n\r\nHello\r\n").into_bytes();
    bench.engine.sign(&bench.caller, raw()).await.unwrap();
    bench.change(DomainChange { signing: Some(("disabled".into(), None)), ..DomainChange::default() }).await;
    assert!(matches!(bench.engine.sign(&bench.caller, raw()).await, Err(Error::SigningNotEnabled(_))));
    bench.change(DomainChange { signing: Some(("enabled".into(), None)), ..DomainChange::default() }).await;
    bench.engine.sign(&bench.caller, raw()).await.unwrap();
    let key = bench.keys().await.remove(0);
    bench.change_key(&key.id, None, Some("")).await;
    assert!(matches!(bench.engine.sign(&bench.caller, raw()).await, Err(Error::SigningSuspended(_))));
    bench.change_key(&key.id, Some("revoked"), Some(&key.public_key)).await;
    assert!(matches!(bench.engine.sign(&bench.caller, raw()).await, Err(Error::SigningSuspended(_))));
}
