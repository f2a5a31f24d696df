//! Leases, claims, outcomes.
use crate::support::{
    Fresh, NOW, accepted, event, event_kinds, new_message, outcome, server, signature, statuses, tenant, worker,
};
use signpost_store::{Fence, Outcome, Store, StoreError};
use std::time::Duration;

const LEASE: i64 = 20_000;

async fn all_due_recipients_of_a_message_are_claimed_together(store: Store) {
    let (domain, new) = accepted(&store, &["bob@example.net", "cat@example.org"]).await;
    let mut later = new_message(&domain, &["dan@example.net", "eve@example.net"]);
    later.recipients[1].next_attempt_at = Some(NOW + 1);
    later.recipients[0].next_attempt_at = Some(NOW - 1);
    store.accept_message(later.clone()).await.unwrap();
    let fence = worker(&store).await;

    let claimed = store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    let addresses = |n: usize| claimed[n].recipients.iter().map(|row| row.address.as_str()).collect::<Vec<_>>();
    assert_eq!(claimed.len(), 2);
    assert_eq!(addresses(0), ["dan@example.net"], "oldest due first");
    assert_eq!(addresses(1), ["bob@example.net", "cat@example.org"]);
    assert_eq!(claimed[1].recipients[0].domain, "example.net");
    assert_eq!(
        (claimed[1].message.id.as_str(), claimed[1].message.status.as_str()),
        (new.message.id.as_str(), "sending")
    );
    assert_eq!(statuses(&store, &later).await, ("sending".into(), vec!["sending".into(), "queued".into()]));
    assert!(store.claim_deliveries(&fence, NOW, 10).await.unwrap().is_empty());
    assert_eq!(store.delivery_body(&new.message.id).await.unwrap().unwrap(), new.body);
    assert_eq!(store.delivery_body("unknown").await.unwrap(), None);
    assert_eq!(store.delivery_keys(&domain.id).await.unwrap().len(), 1);
}

async fn no_more_messages_than_the_limit_are_claimed(store: Store) {
    let (domain, _) = accepted(&store, &["a@example.net", "b@example.net", "c@example.net"]).await;
    for _ in 0..3 {
        store.accept_message(new_message(&domain, &["bob@example.net"])).await.unwrap();
    }
    let fence = worker(&store).await;
    let first = store.claim_deliveries(&fence, NOW, 2).await.unwrap();
    assert_eq!(first.iter().map(|delivery| delivery.recipients.len()).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(store.claim_deliveries(&fence, NOW, 10).await.unwrap().len(), 2);
    assert!(store.claim_deliveries(&fence, NOW, 0).await.unwrap().is_empty());
}

async fn a_message_is_in_the_hands_of_one_task_at_a_time(store: Store) {
    let (domain, _) = accepted(&store, &["bob@example.net"]).await;
    let mut two = new_message(&domain, &["cat@example.org", "dan@example.org"]);
    two.recipients[1].next_attempt_at = Some(NOW + 10);
    store.accept_message(two.clone()).await.unwrap();
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    // The second recipient is due now, but the first is still being sent to.
    assert!(store.claim_deliveries(&fence, NOW + 10, 10).await.unwrap().is_empty());
    assert_eq!(store.next_due().await.unwrap(), None, "else the worker would turn in a circle");
    let outcomes = [outcome(&two.recipients[0].id, "delivered", None)];
    store.settle(&fence, &two.message.id, &outcomes, NOW + 10).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 10));
    assert_eq!(store.claim_deliveries(&fence, NOW + 10, 10).await.unwrap()[0].recipients[0].address, "dan@example.org");
}

async fn outcome_event_and_status_commit_together(store: Store) {
    let (_, new) = accepted(&store, &["a@example.net", "b@example.net", "c@example.net"]).await;
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    let ids: Vec<&str> = new.recipients.iter().map(|row| row.id.as_str()).collect();
    let told = |kind: &str| Some(event(&new.message.tenant_id, kind, Some(&new.message.id)));
    let first = [
        outcome(ids[0], "delivered", told("message.delivered")),
        Outcome { uncertain: true, ..outcome(ids[1], "deferred", told("message.deferred")) },
    ];
    store.settle(&fence, &new.message.id, &first, NOW).await.unwrap();
    assert_eq!(statuses(&store, &new).await.0, "sending");
    let second = [Outcome { attempted: false, last_reply: None, ..outcome(ids[2], "queued", None) }];
    store.settle(&fence, &new.message.id, &second, NOW + 7).await.unwrap();

    let (message, recipients) = store.message(&new.message.tenant_id, &new.message.id).await.unwrap().unwrap();
    assert_eq!(message.status, "deferred");
    let found: Vec<_> =
        recipients.iter().map(|row| (row.status.as_str(), row.attempts, row.uncertain, row.next_attempt_at)).collect();
    let expected = [
        ("delivered", 1, false, None),
        ("deferred", 1, true, Some(NOW + 300_000)),
        ("queued", 0, false, Some(NOW + 7)),
    ];
    assert_eq!(found, expected);
    assert_eq!(recipients[0].last_reply.as_deref(), Some("250 2.0.0 ok"));
    assert_eq!(event_kinds(&store, &new).await, ["message.accepted", "message.delivered", "message.deferred"]);

    let again = store.claim_deliveries(&fence, NOW + 300_000, 10).await.unwrap();
    let claimed: Vec<_> = again[0].recipients.iter().map(|row| (row.attempts, row.uncertain)).collect();
    assert_eq!(claimed, [(1, true), (0, false)]);
    let last = [outcome(ids[1], "bounced", None), outcome(ids[2], "delivered", None)];
    store.settle(&fence, &new.message.id, &last, NOW).await.unwrap();
    assert_eq!(statuses(&store, &new).await.0, "partial");
    assert_eq!(store.next_due().await.unwrap(), None);
    store.settle(&fence, &new.message.id, &[], NOW).await.expect("nothing to say is no loss of the fence");
}

async fn a_recipient_past_its_lifetime_is_still_claimed(store: Store) {
    let (_, new) = accepted(&store, &["bob@example.net"]).await;
    let late = new.message.expires_at + 1;
    let fence = store.start_worker("w1", late).await.unwrap();
    assert_eq!(store.claim_deliveries(&fence, late, 10).await.unwrap().len(), 1);
    let outcomes = [Outcome { attempted: false, ..outcome(&new.recipients[0].id, "expired", None) }];
    store.settle(&fence, &new.message.id, &outcomes, late).await.unwrap();
    assert_eq!(statuses(&store, &new).await.0, "expired");
}

async fn under_a_lost_fence_nothing_is_written(store: Store) {
    let (_, new) = accepted(&store, &["bob@example.net"]).await;
    let old = worker(&store).await;
    store.claim_deliveries(&old, NOW, 10).await.unwrap();
    let new_fence = worker(&store).await;
    assert_eq!((new_fence.worker_id.as_str(), new_fence.epoch), ("w1", old.epoch + 1));
    assert_eq!(statuses(&store, &new).await.0, "queued");
    assert_eq!(store.claim_deliveries(&new_fence, NOW, 10).await.unwrap().len(), 1);

    let (id, recipient) = (&new.message.id, &new.recipients[0].id);
    let told = event(&new.message.tenant_id, "message.delivered", Some(id));
    let outcomes = [outcome(recipient, "delivered", Some(told))];
    let stranger = Fence { worker_id: "w2".into(), epoch: new_fence.epoch };
    for fence in [&old, &stranger] {
        let stale = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Stale)));
        stale(store.settle(fence, id, &outcomes, NOW).await);
        stale(store.resign(fence, id, b"other", &[signature("k2")], 1).await);
        stale(store.hold(fence, id, &crate::support::release_change("held", None), NOW).await);
        stale(store.heartbeat(fence, NOW).await);
        assert!(matches!(store.claim_deliveries(fence, NOW, 10).await, Err(StoreError::Stale)));
        assert!(matches!(store.claim_waiting(fence, NOW, 10).await, Err(StoreError::Stale)));
    }
    assert_eq!(statuses(&store, &new).await, ("sending".into(), vec!["sending".into()]));
    assert_eq!(event_kinds(&store, &new).await, ["message.accepted"]);
    assert_eq!(store.delivery_body(id).await.unwrap().unwrap(), new.body);
    store.settle(&new_fence, id, &outcomes, NOW).await.unwrap();
    assert_eq!(event_kinds(&store, &new).await, ["message.accepted", "message.delivered"]);
    // Settled once: a second outcome for it finds nothing.
    assert!(matches!(store.settle(&new_fence, id, &outcomes, NOW).await, Err(StoreError::Stale)));
}

async fn an_outcome_for_another_messages_recipient_is_left_out(store: Store) {
    let (domain, one) = accepted(&store, &["bob@example.net"]).await;
    let two = new_message(&domain, &["cat@example.org"]);
    store.accept_message(two.clone()).await.unwrap();
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    let told =
        |new: &signpost_store::NewMessage| Some(event(&domain.tenant_id, "message.delivered", Some(&new.message.id)));
    let outcomes = [
        outcome(&one.recipients[0].id, "delivered", told(&one)),
        outcome(&two.recipients[0].id, "delivered", told(&two)),
    ];
    store.settle(&fence, &one.message.id, &outcomes, NOW).await.unwrap();
    assert_eq!(statuses(&store, &one).await.0, "delivered");
    assert_eq!(statuses(&store, &two).await.0, "sending");
    assert_eq!(event_kinds(&store, &two).await, ["message.accepted"]);
}

/// `pass` lets that many ms go by for a database that goes by its own clock.
async fn what_a_silent_worker_had_is_given_to_the_next(store: Store, pass: impl Fn(i64)) {
    let (_, new) = accepted(&store, &["bob@example.net"]).await;
    let silent = worker(&store).await;
    store.claim_deliveries(&silent, NOW, 10).await.unwrap();
    let other = store.start_worker("w2", NOW).await.unwrap();
    let half = NOW + LEASE / 2;
    pass(LEASE / 2);
    assert!(store.claim_deliveries(&other, half, 10).await.unwrap().is_empty());
    store.heartbeat(&silent, half).await.unwrap();
    pass(LEASE / 2);
    assert!(store.claim_deliveries(&other, half + LEASE / 2, 10).await.unwrap().is_empty(), "its lease was prolonged");
    pass(LEASE / 2 + 1);
    let claimed = store.claim_deliveries(&other, half + LEASE + 1, 10).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert!(claimed[0].recipients[0].uncertain, "the silent worker may have delivered it");
    let outcomes = [outcome(&new.recipients[0].id, "delivered", None)];
    assert!(matches!(store.settle(&silent, &new.message.id, &outcomes, NOW).await, Err(StoreError::Stale)));
    assert!(matches!(store.heartbeat(&silent, NOW).await, Err(StoreError::Stale)));
}

#[tokio::test]
async fn what_a_silent_worker_had_is_given_to_the_next_by_the_time_of_the_caller() {
    let database = Fresh::sqlite().await;
    what_a_silent_worker_had_is_given_to_the_next(database.store.clone(), |_| ()).await;
}

#[tokio::test]
async fn what_a_silent_worker_had_is_given_to_the_next_by_the_time_of_the_server() {
    let database = Fresh::postgres().await;
    let pass = |ms: i64| {
        server().sql(&database.url, &format!("UPDATE workers SET lease_until = lease_until - {ms}"));
    };
    what_a_silent_worker_had_is_given_to_the_next(database.store.clone(), pass).await;
}

async fn a_lease_runs_out_exactly_after_its_time(store: Store) {
    accepted(&store, &["bob@example.net"]).await;
    let silent = worker(&store).await;
    store.claim_deliveries(&silent, NOW, 10).await.unwrap();
    let other = store.start_worker("w2", NOW).await.unwrap();
    assert!(store.claim_deliveries(&other, NOW + LEASE, 10).await.unwrap().is_empty());
    assert_eq!(store.claim_deliveries(&other, NOW + LEASE + 1, 10).await.unwrap().len(), 1);
}

/// Only where the time is the caller's can it be told to the millisecond.
#[tokio::test]
async fn on_sqlite_a_lease_runs_out_exactly_after_its_time() {
    a_lease_runs_out_exactly_after_its_time(Fresh::sqlite().await.store).await;
}

async fn a_worker_that_was_stopped_for_long_does_not_take_its_own_claims_away(store: Store) {
    let (_, new) = accepted(&store, &["bob@example.net"]).await;
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    let long_after = NOW + 100 * LEASE;
    assert!(store.claim_deliveries(&fence, long_after, 10).await.unwrap().is_empty());
    let outcomes = [outcome(&new.recipients[0].id, "delivered", None)];
    store.settle(&fence, &new.message.id, &outcomes, long_after).await.unwrap();
}

async fn a_claimed_message_gets_another_signature(store: Store) {
    let (_, new) = accepted(&store, &["bob@example.net"]).await;
    let fence = worker(&store).await;
    let early = store.resign(&fence, &new.message.id, b"other", &[signature("k2")], 1).await;
    assert!(matches!(early, Err(StoreError::Stale)), "it is not claimed");
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    store.resign(&fence, &new.message.id, b"DKIM-Signature: 2\r\n", &[signature("k2")], 77).await.unwrap();
    let (message, _) = store.message(&new.message.tenant_id, &new.message.id).await.unwrap().unwrap();
    assert_eq!((message.signatures, message.size), (vec![signature("k2")], 77));
    let body = store.delivery_body(&new.message.id).await.unwrap().unwrap();
    assert_eq!((body.prefix.as_slice(), body.raw), (b"DKIM-Signature: 2\r\n".as_slice(), new.body.raw));
}

async fn the_queue_is_woken_when_something_may_be_due(store: Store) {
    let tenant = tenant(&store).await;
    let (domain, _) = crate::support::domain(&store, &tenant, "example.com").await;
    let notify = store.queue_notify();
    // A permit is stored, so the order of waiting and waking does not matter; the limit only ends a failing test.
    let woken = async || tokio::time::timeout(Duration::from_secs(30), notify.notified()).await.expect("not woken");
    let new = new_message(&domain, &["bob@example.net"]);
    store.accept_message(new.clone()).await.unwrap();
    woken().await;
    let fence = worker(&store).await;
    woken().await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    store.settle(&fence, &new.message.id, &[outcome(&new.recipients[0].id, "deferred", None)], NOW).await.unwrap();
    woken().await;
    store.hurry_waiting(&tenant, &domain.id, NOW).await.unwrap();
    woken().await;
}

async fn next_due_is_the_earliest_of_attempts_and_releases(store: Store) {
    assert_eq!(store.next_due().await.unwrap(), None);
    let (domain, _) = accepted(&store, &["bob@example.net"]).await;
    assert_eq!(store.next_due().await.unwrap(), Some(NOW));
    store.accept_message(crate::support::waiting_message(&domain, "scheduled", Some(NOW - 5))).await.unwrap();
    store.accept_message(crate::support::waiting_message(&domain, "held", None)).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(NOW - 5));
    let fence = worker(&store).await;
    store.claim_waiting(&fence, NOW, 10).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(NOW), "one that is being released is not due");
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), None);
}

async fn of_racing_workers_each_message_has_one(store: Store) {
    let (domain, _) = accepted(&store, &["bob@example.net"]).await;
    for _ in 0..39 {
        store.accept_message(new_message(&domain, &["bob@example.net"])).await.unwrap();
    }
    let mut fences = Vec::new();
    for n in 0..8 {
        fences.push(store.start_worker(&format!("w{n}"), NOW).await.unwrap());
    }
    let claims = futures_util::future::join_all(fences.iter().map(|fence| store.claim_deliveries(fence, NOW, 7))).await;
    let mut ids: Vec<String> =
        claims.into_iter().flat_map(|claim| claim.unwrap()).map(|delivery| delivery.message.id).collect();
    assert_eq!(ids.len(), 40);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 40);
}

crate::on_every_database!(
    all_due_recipients_of_a_message_are_claimed_together,
    no_more_messages_than_the_limit_are_claimed,
    a_message_is_in_the_hands_of_one_task_at_a_time,
    outcome_event_and_status_commit_together,
    a_recipient_past_its_lifetime_is_still_claimed,
    under_a_lost_fence_nothing_is_written,
    an_outcome_for_another_messages_recipient_is_left_out,
    a_worker_that_was_stopped_for_long_does_not_take_its_own_claims_away,
    a_claimed_message_gets_another_signature,
    the_queue_is_woken_when_something_may_be_due,
    next_due_is_the_earliest_of_attempts_and_releases,
    of_racing_workers_each_message_has_one,
);
