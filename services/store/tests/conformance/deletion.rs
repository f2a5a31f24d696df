//! What deleting a domain does to its name, keys and mail.
use crate::support::{
    NOW, audit, domain, event, event_kinds, id, new_message, outcome, proof, release_change, statuses, tenant,
    waiting_message, worker,
};
use serde_json::json;
use signpost_store::{DomainRow, NewMessage, ReleaseChange, Store, StoreError};

async fn delete(store: &Store, row: &DomainRow) -> bool {
    let audit = audit(&row.tenant_id, "domain.deleted");
    store.delete_domain(&row.tenant_id, &row.id, NOW + 1, &id, &audit).await.unwrap()
}

async fn accept(store: &Store, new: NewMessage) -> NewMessage {
    store.accept_message(new.clone()).await.unwrap();
    new
}

async fn a_deleted_domain_is_gone_and_its_name_free(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (bob_row, _) = domain(&store, &bob, "example.com").await;
    store.change_domain(&ann, &row.id, 1, &proof("example.com", 0, None)).await.unwrap();
    assert!(delete(&store, &row).await);
    assert!(!delete(&store, &row).await);

    assert!(store.domain(&ann, &row.id).await.unwrap().is_none());
    assert!(store.domain_by_name(&ann, "example.com").await.unwrap().is_none());
    assert!(store.domains(&ann, None, 10).await.unwrap().rows.is_empty());
    assert!(store.verified_owners(&["example.com".into()]).await.unwrap().is_empty());
    let keys = store.delivery_keys(&row.id).await.unwrap();
    assert!(keys.iter().all(|key| key.state == "revoked" && key.sealed.is_empty()));
    assert_eq!(keys.len(), 1);
    let name = store.name_version("example.com").await.unwrap();
    assert!(name.owner.is_none());
    assert_eq!(name.version, 2);
    // A claim that began before the deletion is contested; one that began after it wins.
    let late = store.change_domain(&bob, &bob_row.id, 1, &proof("example.com", 1, None)).await;
    assert!(matches!(late, Err(StoreError::Contested)));
    store.change_domain(&bob, &bob_row.id, 1, &proof("example.com", 2, None)).await.unwrap();
    domain(&store, &ann, "example.com").await;
    let stale = store.change_domain(&ann, &row.id, 3, &proof("example.com", 3, None)).await;
    assert!(matches!(stale, Err(StoreError::Stale)));
}

async fn deleting_a_lost_domain_leaves_the_new_owner_alone(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (bob_row, _) = domain(&store, &bob, "example.com").await;
    store.change_domain(&ann, &row.id, 1, &proof("example.com", 0, None)).await.unwrap();
    store.change_domain(&bob, &bob_row.id, 1, &proof("example.com", 1, None)).await.unwrap();
    assert!(delete(&store, &row).await);
    assert_eq!(store.verified_owners(&["example.com".into()]).await.unwrap()[0].domain_id, bob_row.id);
    assert_eq!(store.name_version("example.com").await.unwrap().version, 2);
}

async fn waiting_mail_is_cancelled_with_an_event_for_each_recipient(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (other, _) = domain(&store, &ann, "example.org").await;
    let queued = accept(&store, new_message(&row, &["a@example.net", "b@example.net"])).await;
    let spared = accept(&store, new_message(&other, &["a@example.net"])).await;
    let mut waiting = Vec::new();
    for status in ["scheduled", "held", "awaiting_signature"] {
        waiting.push(accept(&store, waiting_message(&row, status, Some(NOW + 5))).await);
    }
    assert!(delete(&store, &row).await);

    for new in waiting.iter().chain([&queued]) {
        assert_eq!(statuses(&store, new).await, ("cancelled".into(), vec!["cancelled".into(); 2]));
        let events = store.message_events(&ann, &new.message.id, None, 10).await.unwrap().unwrap().rows;
        assert_eq!(events.len(), 3);
        for (event, recipient) in events[1..].iter().zip(&new.recipients) {
            assert_eq!((event.kind.as_str(), event.at), ("message.cancelled", NOW + 1));
            assert_eq!(event.recipient_id.as_ref(), Some(&recipient.id));
            assert_eq!(event.domain.as_deref(), Some("example.com"));
            assert_eq!(event.details, json!({"reason": "domain_deleted"}));
        }
    }
    assert_eq!(statuses(&store, &spared).await.0, "queued");
    let fence = worker(&store).await;
    assert_eq!(store.claim_deliveries(&fence, NOW + 10, 10).await.unwrap().len(), 1);
    assert!(store.claim_waiting(&fence, NOW + 10, 10).await.unwrap().is_empty());
}

async fn more_mail_than_ids_were_foreseen_for_is_cancelled_too(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    // Mail comes in while the domain is being deleted: all of it is either refused or cancelled, none is left waiting.
    let news: Vec<NewMessage> = (0..100).map(|_| new_message(&row, &["a@example.net", "b@example.net"])).collect();
    let accepting = futures_util::future::join_all(news.iter().map(|new| store.accept_message(new.clone())));
    let (accepted, deleted) = tokio::join!(accepting, delete(&store, &row));
    assert!(deleted);
    for (new, accepted) in news.iter().zip(accepted) {
        match accepted {
            Ok(()) => assert_eq!(statuses(&store, new).await.0, "cancelled"),
            Err(error) => assert!(matches!(error, StoreError::Stale), "{error:?}"),
        }
    }
    assert_eq!(store.next_due().await.unwrap(), None);
}

async fn a_recipient_being_sent_to_is_left_to_its_worker(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let mut new = new_message(&row, &["a@example.net", "b@example.net", "c@example.net"]);
    new.recipients[2].next_attempt_at = Some(NOW + 5);
    store.accept_message(new.clone()).await.unwrap();
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    assert!(delete(&store, &row).await);
    let expected = ["sending", "sending", "cancelled"].map(str::to_owned).to_vec();
    assert_eq!(statuses(&store, &new).await, ("sending".into(), expected));

    let told = |kind: &str| Some(event(&ann, kind, Some(&new.message.id)));
    let outcomes = [
        outcome(&new.recipients[0].id, "delivered", told("message.delivered")),
        outcome(&new.recipients[1].id, "deferred", told("message.deferred")),
    ];
    store.settle(&fence, &new.message.id, &outcomes, NOW).await.unwrap();
    let expected = ["delivered", "cancelled", "cancelled"].map(str::to_owned).to_vec();
    assert_eq!(statuses(&store, &new).await, ("partial".into(), expected));
    let kinds = event_kinds(&store, &new).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "message.cancelled").count(), 2);
    assert!(!kinds.contains(&"message.deferred".to_owned()));
    assert_eq!(store.next_due().await.unwrap(), None);
}

async fn a_recipient_given_back_after_the_deletion_ends_at_the_next_hold(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let new = accept(&store, new_message(&row, &["a@example.net"])).await;
    let fence = worker(&store).await;
    store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    assert!(delete(&store, &row).await);
    store.settle(&fence, &new.message.id, &[outcome(&new.recipients[0].id, "queued", None)], NOW).await.unwrap();
    assert_eq!(store.claim_deliveries(&fence, NOW, 10).await.unwrap().len(), 1);
    let change = ReleaseChange {
        events: vec![event(&ann, "message.held", Some(&new.message.id))],
        ..release_change("held", Some(NOW + 60))
    };
    store.hold(&fence, &new.message.id, &change, NOW).await.unwrap();
    assert_eq!(statuses(&store, &new).await.0, "cancelled");
    assert_eq!(event_kinds(&store, &new).await, ["message.accepted", "message.cancelled"]);
    assert_eq!(store.next_due().await.unwrap(), None);
}

async fn a_release_under_way_finds_its_message_gone(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let new = accept(&store, waiting_message(&row, "held", Some(NOW))).await;
    let fence = worker(&store).await;
    store.claim_waiting(&fence, NOW, 10).await.unwrap();
    assert!(delete(&store, &row).await);
    let late = store.release(&fence, &new.message.id, &release_change("queued", None), NOW).await;
    assert!(matches!(late, Err(StoreError::Stale)));
    assert_eq!(statuses(&store, &new).await.0, "cancelled");
}

crate::on_every_database!(
    a_deleted_domain_is_gone_and_its_name_free,
    deleting_a_lost_domain_leaves_the_new_owner_alone,
    waiting_mail_is_cancelled_with_an_event_for_each_recipient,
    more_mail_than_ids_were_foreseen_for_is_cancelled_too,
    a_recipient_being_sent_to_is_left_to_its_worker,
    a_recipient_given_back_after_the_deletion_ends_at_the_next_hold,
    a_release_under_way_finds_its_message_gone,
);
