//! Accepting and reading messages and their events.
use crate::support::{
    NOW, accepted, audit, domain, event, event_kinds, id, new_message, release_change, scope, statuses, tenant,
    waiting_message,
};
use signpost_store::{EventRow, MessageBody, NewMessage, ReleaseChange, Store, StoreError, StoredAnswer};

async fn what_is_accepted_is_read_back(store: Store) {
    let (domain, new) = accepted(&store, &["bob@example.net", "cat@example.org"]).await;
    let (row, recipients) = store.message(&domain.tenant_id, &new.message.id).await.unwrap().unwrap();
    assert_eq!(format!("{row:?}"), format!("{:?}", new.message));
    assert_eq!(format!("{recipients:?}"), format!("{:?}", new.recipients));
    let body = store.message_body(&domain.tenant_id, &new.message.id).await.unwrap().unwrap();
    assert_eq!(body, new.body);
    let events = store.message_events(&domain.tenant_id, &new.message.id, None, 10).await.unwrap().unwrap();
    assert_eq!(format!("{:?}", events.rows), format!("{:?}", new.events));
}

async fn a_foreign_tenant_sees_nothing_of_a_message(store: Store) {
    let (_, new) = accepted(&store, &["bob@example.net"]).await;
    let eve = tenant(&store).await;
    let id = &new.message.id;
    assert!(store.message(&eve, id).await.unwrap().is_none());
    assert!(store.messages(&eve, None, None, 10).await.unwrap().rows.is_empty());
    assert!(store.messages(&eve, Some("queued"), None, 10).await.unwrap().rows.is_empty());
    assert!(store.message_body(&eve, id).await.unwrap().is_none());
    assert!(store.message_events(&eve, id, None, 10).await.unwrap().is_none());
}

async fn a_message_is_accepted_whole_or_not_at_all(store: Store) {
    let (domain, first) = accepted(&store, &["bob@example.net"]).await;
    let spoil: [fn(&mut NewMessage, &NewMessage); 5] = [
        |new, first| new.recipients[1].id = first.recipients[0].id.clone(),
        |new, first| new.events[0].id = first.events[0].id.clone(),
        |new, _| new.recipients[0].status = "lost".into(),
        |new, _| new.recipients[1].next_attempt_at = None,
        |new, first| {
            let twice = audit(&first.message.tenant_id, "message.accepted");
            new.audit = Some(twice);
            new.events.push(new.events[0].clone());
        },
    ];
    for (n, spoil) in spoil.into_iter().enumerate() {
        let mut new = new_message(&domain, &["bob@example.net", "cat@example.org"]);
        spoil(&mut new, &first);
        assert!(store.accept_message(new.clone()).await.is_err(), "case {n}");
        assert!(store.message(&domain.tenant_id, &new.message.id).await.unwrap().is_none(), "case {n}");
        new = NewMessage { audit: None, ..new_message(&domain, &["bob@example.net"]) };
        store.accept_message(new.clone()).await.unwrap();
    }
    assert_eq!(store.messages(&domain.tenant_id, None, None, 100).await.unwrap().rows.len(), 6);
    assert_eq!(event_kinds(&store, &first).await, ["message.accepted"]);
}

async fn a_message_for_a_foreign_or_deleted_domain_is_refused(store: Store) {
    let (ann, eve) = (tenant(&store).await, tenant(&store).await);
    let (row, _) = domain(&store, &ann, "example.com").await;
    let mut foreign = new_message(&row, &["bob@example.net"]);
    foreign.message.tenant_id = eve;
    assert!(matches!(store.accept_message(foreign.clone()).await, Err(StoreError::Stale)));
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    let late = new_message(&row, &["bob@example.net"]);
    assert!(matches!(store.accept_message(late.clone()).await, Err(StoreError::Stale)));
}

async fn messages_are_paged_newest_first_and_filtered_by_status(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let new =
            if n % 2 == 0 { new_message(&row, &["bob@example.net"]) } else { waiting_message(&row, "held", Some(NOW)) };
        store.accept_message(new.clone()).await.unwrap();
        ids.push(new.message.id);
    }
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.messages(&ann, None, after.as_deref(), 2).await.unwrap();
        for (message, recipients) in page.rows {
            assert!(!recipients.is_empty() && recipients.iter().all(|recipient| recipient.message_id == message.id));
            seen.push(message.id);
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, newest_first);
    let held = store.messages(&ann, Some("held"), None, 10).await.unwrap().rows;
    assert_eq!(held.iter().map(|(row, _)| &row.id).collect::<Vec<_>>(), [&ids[3], &ids[1]]);
    assert_eq!(held[0].1.len(), 2);
    assert!(store.messages(&ann, Some("no such status"), None, 10).await.unwrap().rows.is_empty());
    assert!(store.messages(&ann, Some("held"), Some(&ids[1]), 10).await.unwrap().rows.is_empty());
}

async fn events_are_paged_by_time_then_id(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let mut new = new_message(&row, &["bob@example.net"]);
    let kinds = ["message.signed", "message.queued", "message.deferred", "message.delivered"];
    // The last comes first by time; those of one time keep the order of their ids.
    new.events = kinds
        .iter()
        .enumerate()
        .map(|(n, kind)| EventRow {
            at: if n == 3 { NOW - 1 } else { NOW },
            ..event(&ann, kind, Some(&new.message.id))
        })
        .collect();
    store.accept_message(new.clone()).await.unwrap();
    let expected = [kinds[3], kinds[0], kinds[1], kinds[2]];
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.message_events(&ann, &new.message.id, after.as_deref(), 1).await.unwrap().unwrap();
        seen.extend(page.rows.into_iter().map(|event| event.kind));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, expected);
}

async fn many_messages_accepted_at_once_are_all_there(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let news: Vec<NewMessage> = (0..200).map(|_| new_message(&row, &["bob@example.net"])).collect();
    let results = futures_util::future::join_all(news.iter().map(|new| store.accept_message(new.clone()))).await;
    assert!(results.iter().all(Result::is_ok));
    for new in &news {
        assert_eq!(statuses(&store, new).await, ("queued".into(), vec!["queued".into()]));
    }
}

async fn a_nul_in_a_text_is_no_error(store: Store) {
    let tenant = tenant(&store).await;
    let (row, _) = domain(&store, &tenant, "example.com").await;
    let mut new = new_message(&row, &["bob@example.net"]);
    new.message.subject = "a\0b".into();
    store.accept_message(new.clone()).await.unwrap();
    let (message, _) = store.message(&tenant, &new.message.id).await.unwrap().unwrap();
    assert!(["a\0b", "a\u{fffd}b"].contains(&message.subject.as_str()), "{:?}", message.subject);
    assert!(store.message(&tenant, "a\0b").await.unwrap().is_none());
    let fence = crate::support::worker(&store).await;
    store.claim_deliveries(&fence, NOW, 1).await.unwrap();
    let mut outcome = crate::support::outcome(&new.recipients[0].id, "bounced", None);
    outcome.last_reply = Some("550 no\0body".into());
    store.settle(&fence, &new.message.id, &[outcome], NOW).await.unwrap();
}

/// Octets are kept in pieces of a MiB.
async fn long_messages_are_read_back_whole_and_replaced_whole(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let octets = |length: usize| (0..length).map(|n| (n % 251) as u8).collect::<Vec<u8>>();
    const PIECE: usize = 1 << 20;
    for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE - 1] {
        let mut new = waiting_message(&row, "held", Some(NOW));
        new.body.raw = octets(length);
        store.accept_message(new.clone()).await.unwrap();
        let id = &new.message.id;
        assert!(store.message_body(&ann, id).await.unwrap().unwrap() == new.body, "{length}");
        assert!(store.delivery_body(id).await.unwrap().unwrap() == new.body, "{length}");
        let fence = crate::support::worker(&store).await;
        let waiting = store.claim_waiting(&fence, NOW, 1).await.unwrap().remove(0);
        assert!(waiting.body == new.body, "{length}");
        let other = MessageBody { prefix: b"Received: x\r\n".to_vec(), raw: octets(3 * PIECE - length) };
        let change = ReleaseChange { body: Some(other.clone()), ..release_change("queued", None) };
        store.release(&fence, id, &change, NOW).await.unwrap();
        assert!(store.message_body(&ann, id).await.unwrap().unwrap() == other, "{length}");
    }
}

/// However messages are grouped: each is accepted or refused by itself, and refused ones leave nothing.
async fn of_messages_at_the_same_moment_only_the_wrong_ones_are_refused(store: Store) {
    let (ann, eve) = (tenant(&store).await, tenant(&store).await);
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (gone, _) = domain(&store, &ann, "gone.example").await;
    store.delete_domain(&ann, &gone.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    let answer = StoredAnswer { status: 202, content_type: "text/plain".into(), body: b"done".to_vec() };
    let done = scope(&ann, "done");
    store.finish_idempotent(&done, &answer, NOW).await.unwrap();
    let news: Vec<NewMessage> = (0..100)
        .map(|n| {
            let mut new = new_message(&row, &["bob@example.net", "cat@example.org"]);
            new.audit = Some(audit(&ann, "message.accepted"));
            match n % 10 {
                2 => new.message.tenant_id = eve.clone(),
                4 => new.message.domain_id = gone.id.clone(),
                6 => new.recipients[0].status = "lost".into(),
                7 => new.idempotency = Some((scope(&ann, &format!("k{n}")), answer.clone())),
                8 => new.idempotency = Some((done.clone(), answer.clone())),
                9 => new.message.subject = "with \0 in it".into(),
                _ => {}
            }
            new
        })
        .collect();
    let results = futures_util::future::join_all(news.iter().map(|new| store.accept_message(new.clone()))).await;
    for (n, (new, result)) in news.iter().zip(results).enumerate() {
        let stored = store.message(&ann, &new.message.id).await.unwrap();
        let as_expected = match n % 10 {
            2 | 4 => matches!(result, Err(StoreError::Stale)),
            6 => matches!(result, Err(StoreError::Damaged(_))),
            8 => matches!(result, Err(StoreError::Conflict)),
            _ => result.is_ok(),
        };
        assert!(as_expected, "{n}: {result:?}");
        assert_eq!(stored.is_some(), result.is_ok(), "{n}");
        let Some((_, recipients)) = stored else { continue };
        assert_eq!(format!("{recipients:?}"), format!("{:?}", new.recipients), "{n}");
        assert_eq!(store.message_body(&ann, &new.message.id).await.unwrap().unwrap(), new.body, "{n}");
        assert_eq!(event_kinds(&store, new).await, ["message.accepted"], "{n}");
    }
}

crate::on_every_database!(
    a_nul_in_a_text_is_no_error,
    what_is_accepted_is_read_back,
    a_foreign_tenant_sees_nothing_of_a_message,
    a_message_is_accepted_whole_or_not_at_all,
    a_message_for_a_foreign_or_deleted_domain_is_refused,
    messages_are_paged_newest_first_and_filtered_by_status,
    events_are_paged_by_time_then_id,
    many_messages_accepted_at_once_are_all_there,
    long_messages_are_read_back_whole_and_replaced_whole,
    of_messages_at_the_same_moment_only_the_wrong_ones_are_refused,
);
