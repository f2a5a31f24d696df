//! Idempotency-Key rows.
use crate::support::{NOW, accepted, domain, event_kinds, new_message, scope, tenant};
use signpost_store::{Begin, IdempotencyScope, Store, StoreError, StoredAnswer};

const DAY: i64 = 86_400_000;
const LAPSE: i64 = 20_000;

fn answer(status: u16) -> StoredAnswer {
    StoredAnswer { status, content_type: "application/json".into(), body: b"{\"id\":\"msg_1\"}".to_vec() }
}

#[derive(Debug, Clone, Copy)]
enum Earlier {
    Nothing,
    InFlight,
    Done,
    Abandoned,
    DoneThenAbandoned,
}

async fn the_matrix_of_an_earlier_request_and_a_later_one(store: Store) {
    let ann = tenant(&store).await;
    let replay = Begin::Replay(answer(422));
    let table = [
        (Earlier::Nothing, "a", 0, Begin::Started),
        (Earlier::InFlight, "a", 0, Begin::InFlight),
        (Earlier::InFlight, "b", 0, Begin::Mismatch),
        (Earlier::InFlight, "a", LAPSE, Begin::InFlight),
        (Earlier::InFlight, "b", LAPSE, Begin::Mismatch),
        (Earlier::InFlight, "a", LAPSE + 1, Begin::Started),
        (Earlier::InFlight, "b", LAPSE + 1, Begin::Started),
        (Earlier::Done, "a", 0, replay.clone()),
        (Earlier::Done, "b", 0, Begin::Mismatch),
        (Earlier::Done, "a", 7 * DAY, replay.clone()),
        (Earlier::Done, "b", 7 * DAY, Begin::Mismatch),
        (Earlier::Done, "a", 7 * DAY + 1, Begin::Started),
        (Earlier::Abandoned, "a", 0, Begin::Started),
        (Earlier::Abandoned, "b", 0, Begin::Started),
        (Earlier::DoneThenAbandoned, "a", 0, replay),
    ];
    for (n, (earlier, body, later, expected)) in table.into_iter().enumerate() {
        let scope = scope(&ann, &format!("key {n}"));
        if !matches!(earlier, Earlier::Nothing) {
            assert_eq!(store.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::Started);
        }
        if matches!(earlier, Earlier::Done | Earlier::DoneThenAbandoned) {
            store.finish_idempotent(&scope, &answer(422), NOW).await.unwrap();
        }
        if matches!(earlier, Earlier::Abandoned | Earlier::DoneThenAbandoned) {
            store.abandon_idempotent(&scope).await.unwrap();
        }
        let begin = store.begin_idempotent(&scope, body.as_bytes(), NOW + later).await.unwrap();
        assert_eq!(begin, expected, "{earlier:?}, body {body}, {later} ms later");
    }
}

async fn a_request_that_says_that_it_is_worked_on_does_not_lapse(store: Store) {
    let ann = tenant(&store).await;
    let scope = scope(&ann, "k");
    assert_eq!(store.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::Started);
    for beat in 1..5 {
        let at = NOW + beat * LAPSE;
        store.renew_idempotent(&scope, at).await.unwrap();
        assert_eq!(store.begin_idempotent(&scope, b"a", at + LAPSE).await.unwrap(), Begin::InFlight, "{beat}");
    }
    assert_eq!(store.begin_idempotent(&scope, b"a", NOW + 5 * LAPSE + 1).await.unwrap(), Begin::Started);
    store.finish_idempotent(&scope, &answer(422), NOW + 5 * LAPSE + 1).await.unwrap();
    store.renew_idempotent(&scope, NOW + 6 * LAPSE).await.unwrap();
    assert_eq!(store.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::Replay(answer(422)));
}

async fn tenant_method_path_and_key_make_the_scope(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let first = scope(&ann, "k");
    store.begin_idempotent(&first, b"a", NOW).await.unwrap();
    for other in [
        scope(&bob, "k"),
        scope(&ann, "l"),
        IdempotencyScope { method: "PUT".into(), ..first.clone() },
        IdempotencyScope { path: "/v1/messages?x=1".into(), ..first.clone() },
    ] {
        assert_eq!(store.begin_idempotent(&other, b"b", NOW).await.unwrap(), Begin::Started, "{other:?}");
    }
}

async fn of_racing_requests_one_starts(store: Store) {
    let ann = tenant(&store).await;
    let scope = scope(&ann, "k");
    let begins = futures_util::future::join_all((0..30).map(|_| store.begin_idempotent(&scope, b"a", NOW))).await;
    let started = begins.into_iter().filter(|begin| *begin.as_ref().unwrap() == Begin::Started).count();
    assert_eq!(started, 1);
}

async fn the_answer_commits_with_the_message(store: Store) {
    let ann = tenant(&store).await;
    let (domain, _) = domain(&store, &ann, "example.com").await;
    let scope = scope(&ann, "k");
    store.begin_idempotent(&scope, b"a", NOW).await.unwrap();
    let mut new = new_message(&domain, &["bob@example.net"]);
    new.idempotency = Some((scope.clone(), answer(202)));
    store.accept_message(new.clone()).await.unwrap();
    assert_eq!(store.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::Replay(answer(202)));
    assert_eq!(store.begin_idempotent(&scope, b"b", NOW).await.unwrap(), Begin::Mismatch);
}

async fn a_message_that_commits_after_its_request_was_given_up_is_still_answered_by_its_key(store: Store) {
    let ann = tenant(&store).await;
    let (domain, _) = domain(&store, &ann, "example.com").await;
    let scope = scope(&ann, "k");
    store.begin_idempotent(&scope, b"a", NOW).await.unwrap();
    store.abandon_idempotent(&scope).await.unwrap();
    let mut new = new_message(&domain, &["bob@example.net"]);
    new.idempotency = Some((scope.clone(), answer(202)));
    store.accept_message(new.clone()).await.unwrap();
    assert_eq!(store.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::Replay(answer(202)));
}

async fn a_second_acceptance_under_one_key_is_refused_whole(store: Store) {
    let (domain, _) = accepted(&store, &["bob@example.net"]).await;
    let ann = domain.tenant_id.clone();
    let scope = scope(&ann, "k");
    let mut first = new_message(&domain, &["bob@example.net"]);
    first.idempotency = Some((scope.clone(), answer(202)));
    store.accept_message(first.clone()).await.unwrap();
    let mut second = new_message(&domain, &["bob@example.net"]);
    second.idempotency = Some((scope.clone(), answer(202)));
    assert!(matches!(store.accept_message(second.clone()).await, Err(StoreError::Conflict)));
    assert!(store.message(&ann, &second.message.id).await.unwrap().is_none());
    assert_eq!(event_kinds(&store, &first).await, ["message.accepted"]);
    // Without a begun row no body is known: the key is spent, but nothing is replayed to just anybody.
    assert_eq!(store.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::Mismatch);
}

async fn rows_older_than_seven_days_are_dropped(store: Store) {
    let ann = tenant(&store).await;
    for (key, at) in [("old", NOW - 7 * DAY - 1), ("kept", NOW - 7 * DAY)] {
        store.begin_idempotent(&scope(&ann, key), b"a", at).await.unwrap();
        store.finish_idempotent(&scope(&ann, key), &answer(422), at).await.unwrap();
    }
    assert_eq!(store.expire_idempotent(NOW).await.unwrap(), 1);
    assert_eq!(store.expire_idempotent(NOW).await.unwrap(), 0);
    let kept = store.begin_idempotent(&scope(&ann, "kept"), b"a", NOW).await.unwrap();
    assert_eq!(kept, Begin::Replay(answer(422)));
}

crate::on_every_database!(
    the_matrix_of_an_earlier_request_and_a_later_one,
    a_request_that_says_that_it_is_worked_on_does_not_lapse,
    tenant_method_path_and_key_make_the_scope,
    of_racing_requests_one_starts,
    the_answer_commits_with_the_message,
    a_message_that_commits_after_its_request_was_given_up_is_still_answered_by_its_key,
    a_second_acceptance_under_one_key_is_refused_whole,
    rows_older_than_seven_days_are_dropped,
);
