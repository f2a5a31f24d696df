//! Messages that wait as a whole: claims, release, hold.
use crate::support::{
    NOW, accepted, domain, event, event_kinds, outcome, release_change, signature, statuses, tenant, waiting_message,
    worker,
};
use signpost_store::{MessageBody, ReleaseChange, Store, StoreError};

async fn waiting_messages_are_claimed_when_due_by_one_worker(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let due = waiting_message(&row, "awaiting_signature", Some(NOW));
    for new in [&due, &waiting_message(&row, "scheduled", Some(NOW + 1)), &waiting_message(&row, "held", None)] {
        store.accept_message(new.clone()).await.unwrap();
    }
    let fence = worker(&store).await;
    let claimed = store.claim_waiting(&fence, NOW, 10).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!((&claimed[0].message.id, &claimed[0].body), (&due.message.id, &due.body));
    assert_eq!(claimed[0].message.status, "awaiting_signature");
    let other = store.start_worker("w2", NOW).await.unwrap();
    assert!(store.claim_waiting(&other, NOW, 10).await.unwrap().is_empty());
    assert!(store.claim_deliveries(&fence, NOW, 10).await.unwrap().is_empty());
}

async fn a_release_signs_and_queues(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let new = waiting_message(&row, "scheduled", Some(NOW));
    store.accept_message(new.clone()).await.unwrap();
    let fence = worker(&store).await;
    store.claim_waiting(&fence, NOW, 10).await.unwrap();
    let body = MessageBody { prefix: b"DKIM-Signature: 2\r\n".to_vec(), raw: b"Date: now\r\n".to_vec() };
    let change = ReleaseChange {
        signatures: vec![signature("k2")],
        body: Some(body.clone()),
        size: Some(30),
        expires_at: Some(NOW + 9),
        events: vec![event(&ann, "message.signed", Some(&new.message.id))],
        ..release_change("queued", Some(NOW + 5))
    };
    store.release(&fence, &new.message.id, &change, NOW).await.unwrap();
    let (message, recipients) = store.message(&ann, &new.message.id).await.unwrap().unwrap();
    assert_eq!((message.status.as_str(), message.size, message.expires_at), ("queued", 30, NOW + 9));
    assert_eq!((message.signatures, message.waiting_reason, message.release_at), (vec![signature("k2")], None, None));
    assert!(recipients.iter().all(|row| row.status == "queued" && row.next_attempt_at == Some(NOW)));
    assert_eq!(store.message_body(&ann, &new.message.id).await.unwrap(), Some(body));
    assert_eq!(event_kinds(&store, &new).await, ["message.accepted", "message.signed"]);
    let again = store.release(&fence, &new.message.id, &change, NOW).await;
    assert!(matches!(again, Err(StoreError::Stale)));
    assert_eq!(store.claim_deliveries(&fence, NOW, 10).await.unwrap()[0].recipients.len(), 2);
}

async fn a_release_that_cannot_sign_waits_on(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let new = waiting_message(&row, "awaiting_signature", Some(NOW));
    store.accept_message(new.clone()).await.unwrap();
    let fence = worker(&store).await;
    store.claim_waiting(&fence, NOW, 10).await.unwrap();
    let change =
        ReleaseChange { waiting_reason: Some("record wrong".into()), ..release_change("held", Some(NOW + 50)) };
    store.release(&fence, &new.message.id, &change, NOW).await.unwrap();
    let (message, recipients) = store.message(&ann, &new.message.id).await.unwrap().unwrap();
    assert_eq!((message.status.as_str(), message.release_at), ("held", Some(NOW + 50)));
    assert_eq!(message.waiting_reason.as_deref(), Some("record wrong"));
    assert_eq!(message.expires_at, new.message.expires_at);
    assert!(recipients.iter().all(|row| row.status == "held" && row.next_attempt_at.is_none()));
    assert_eq!(store.message_body(&ann, &new.message.id).await.unwrap(), Some(new.body.clone()));
    assert!(store.claim_waiting(&fence, NOW + 49, 10).await.unwrap().is_empty());
    assert_eq!(store.claim_waiting(&fence, NOW + 50, 10).await.unwrap().len(), 1);
    store.release(&fence, &new.message.id, &release_change("expired", None), NOW).await.unwrap();
    assert_eq!(statuses(&store, &new).await, ("expired".into(), vec!["expired".into(); 2]));
}

async fn a_release_under_a_lost_fence_writes_nothing(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let new = waiting_message(&row, "held", Some(NOW));
    store.accept_message(new.clone()).await.unwrap();
    let old = worker(&store).await;
    let unclaimed = store.release(&old, &new.message.id, &release_change("queued", None), NOW).await;
    assert!(matches!(unclaimed, Err(StoreError::Stale)));
    store.claim_waiting(&old, NOW, 10).await.unwrap();
    let fresh = worker(&store).await;
    let late = store.release(&old, &new.message.id, &release_change("queued", None), NOW).await;
    assert!(matches!(late, Err(StoreError::Stale)));
    assert_eq!(statuses(&store, &new).await.0, "held");
    assert_eq!(store.claim_waiting(&fresh, NOW, 10).await.unwrap().len(), 1);
}

async fn what_a_release_pass_left_behind_is_due_again_under_the_same_fence(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (left, others) = (waiting_message(&row, "held", Some(NOW)), waiting_message(&row, "held", Some(NOW)));
    store.accept_message(left.clone()).await.unwrap();
    store.accept_message(others.clone()).await.unwrap();
    let (fence, other) = (worker(&store).await, store.start_worker("w2", NOW).await.unwrap());
    assert_eq!(store.claim_waiting(&fence, NOW, 1).await.unwrap()[0].message.id, left.message.id);
    assert_eq!(store.claim_waiting(&other, NOW, 1).await.unwrap()[0].message.id, others.message.id);
    assert!(store.claim_waiting(&fence, NOW, 10).await.unwrap().is_empty(), "not at once, and never another worker's");
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 30_000));
    store.heartbeat(&other, NOW + 20_000).await.unwrap();
    let again = store.claim_waiting(&fence, NOW + 30_000, 10).await.unwrap();
    assert_eq!(again.iter().map(|waiting| &waiting.message.id).collect::<Vec<_>>(), [&left.message.id]);
}

async fn holding_takes_all_that_is_not_at_its_end(store: Store) {
    let (_, new) = accepted(&store, &["a@example.net", "b@example.net", "c@example.net"]).await;
    let ids: Vec<&str> = new.recipients.iter().map(|row| row.id.as_str()).collect();
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    let first = [outcome(ids[0], "delivered", None), outcome(ids[1], "deferred", None)];
    store.settle(&fence, &new.message.id, &first, NOW).await.unwrap();
    let change = ReleaseChange {
        events: vec![event(&new.message.tenant_id, "message.held", Some(&new.message.id))],
        ..release_change("held", Some(NOW + 60))
    };
    store.hold(&fence, &new.message.id, &change, NOW).await.unwrap();
    let expected = ["delivered", "held", "held"].map(str::to_owned).to_vec();
    assert_eq!(statuses(&store, &new).await, ("held".into(), expected));
    assert_eq!(event_kinds(&store, &new).await, ["message.accepted", "message.held"]);
    let (message, recipients) = store.message(&new.message.tenant_id, &new.message.id).await.unwrap().unwrap();
    assert_eq!(message.signatures, new.message.signatures, "nothing was signed");
    assert_eq!(recipients.iter().map(|row| row.attempts).collect::<Vec<_>>(), [1, 1, 0], "holding is no attempt");
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 60));

    assert_eq!(store.claim_waiting(&fence, NOW + 60, 10).await.unwrap().len(), 1);
    store.release(&fence, &new.message.id, &release_change("queued", None), NOW + 61).await.unwrap();
    let expected = ["delivered", "queued", "queued"].map(str::to_owned).to_vec();
    assert_eq!(statuses(&store, &new).await, ("queued".into(), expected));
}

async fn hurrying_makes_waiting_messages_due_but_not_scheduled_ones(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (other, _) = domain(&store, &ann, "example.org").await;
    let held = waiting_message(&row, "held", None);
    let unsigned = waiting_message(&row, "awaiting_signature", Some(NOW + 900));
    for new in
        [&held, &unsigned, &waiting_message(&row, "scheduled", Some(NOW + 900)), &waiting_message(&other, "held", None)]
    {
        store.accept_message(new.clone()).await.unwrap();
    }
    let fence = worker(&store).await;
    let eve = tenant(&store).await;
    store.hurry_waiting(&eve, &row.id, NOW).await.unwrap();
    assert!(store.claim_waiting(&fence, NOW, 10).await.unwrap().is_empty());
    store.hurry_waiting(&ann, &row.id, NOW).await.unwrap();
    let claimed = store.claim_waiting(&fence, NOW, 10).await.unwrap();
    let ids: Vec<&String> = claimed.iter().map(|waiting| &waiting.message.id).collect();
    assert_eq!(ids, [&held.message.id, &unsigned.message.id]);
}

crate::on_every_database!(
    waiting_messages_are_claimed_when_due_by_one_worker,
    a_release_signs_and_queues,
    a_release_that_cannot_sign_waits_on,
    a_release_under_a_lost_fence_writes_nothing,
    what_a_release_pass_left_behind_is_due_again_under_the_same_fence,
    holding_takes_all_that_is_not_at_its_end,
    hurrying_makes_waiting_messages_due_but_not_scheduled_ones,
);
