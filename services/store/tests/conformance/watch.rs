//! Watching: what is due, claims of looks, what they found.
use crate::support::{NOW, audit, domain, event, id, proof, tenant};
use futures_util::future::join_all;
use signpost_store::{DomainChange, DomainRow, DueLook, Store, WatchState, WrongAnswers};

const HOUR: i64 = 3_600_000;

/// A proven domain that signs, its look planned at that time.
async fn watched(store: &Store, tenant: &str, name: &str, next_look_at: i64) -> DomainRow {
    let (row, _) = domain(store, tenant, name).await;
    let state = WatchState { next_look_at: Some(next_look_at), ..WatchState::default() };
    let change = DomainChange { signing: Some(("enabled".into(), None)), watch: Some(state), ..proof(name, 0, None) };
    store.change_domain(tenant, &row.id, 1, &change).await.unwrap();
    store.domain(tenant, &row.id).await.unwrap().unwrap()
}

async fn change(store: &Store, row: &DomainRow, change: DomainChange) {
    let version = store.domain(&row.tenant_id, &row.id).await.unwrap().unwrap().version;
    store.change_domain(&row.tenant_id, &row.id, version, &change).await.unwrap();
}

async fn state(store: &Store, row: &DomainRow) -> WatchState {
    store.watch_state(&row.tenant_id, &row.id).await.unwrap().unwrap()
}

fn look(row: &DomainRow, at: i64) -> DueLook {
    DueLook { tenant_id: row.tenant_id.clone(), domain_id: row.id.clone(), at }
}

async fn first_looks_are_planned_once_and_only_for_domains_that_sign(store: Store) {
    let ann = tenant(&store).await;
    domain(&store, &ann, "idle.example").await;
    let row = watched(&store, &ann, "a.example", NOW).await;
    assert!(store.unplanned_looks(10).await.unwrap().is_empty());
    change(&store, &row, DomainChange { watch: Some(WatchState::default()), ..DomainChange::default() }).await;
    assert_eq!(store.unplanned_looks(10).await.unwrap(), std::slice::from_ref(&row.id));
    assert!(store.due_looks(i64::MAX, 10, 10).await.unwrap().is_empty());
    for at in [NOW + 5, NOW + 9] {
        store.plan_looks(&[(row.id.clone(), at)]).await.unwrap();
        assert_eq!(state(&store, &row).await.next_look_at, Some(NOW + 5), "another process planned it already");
    }
    assert!(store.unplanned_looks(10).await.unwrap().is_empty());
    assert!(store.due_looks(NOW + 4, 10, 10).await.unwrap().is_empty());
    assert_eq!(store.due_looks(NOW + 5, 10, 10).await.unwrap(), [look(&row, NOW + 5)]);
}

async fn of_many_that_claim_a_look_one_gets_it(store: Store) {
    let ann = tenant(&store).await;
    let row = watched(&store, &ann, "a.example", NOW).await;
    let due = store.due_looks(NOW, 10, 10).await.unwrap().remove(0);
    let claims = join_all((0..16).map(|n| {
        let (store, due) = (store.clone(), due.clone());
        async move { store.claim_look(&due, NOW + HOUR + n).await.unwrap() }
    }))
    .await;
    assert_eq!(claims.iter().filter(|claimed| **claimed).count(), 1, "{claims:?}");
    assert!(store.due_looks(NOW, 10, 10).await.unwrap().is_empty());
    assert!(!store.claim_look(&due, NOW + 2 * HOUR).await.unwrap());
    let rights = store.rights_version();
    let until = state(&store, &row).await.next_look_at.unwrap();
    let found = WatchState {
        next_look_at: Some(NOW + 7),
        unsure_since: Some(NOW + 1),
        record: WrongAnswers { looks: 2, since: Some(NOW + 2) },
        ownership: WrongAnswers { looks: 1, since: Some(NOW + 3) },
    };
    assert!(!store.record_look(&ann, &row.id, until + 100, &found).await.unwrap(), "the claim of somebody else");
    assert!(!store.record_look("another", &row.id, until, &found).await.unwrap());
    assert!(store.record_look(&ann, &row.id, until, &found).await.unwrap());
    assert_eq!(state(&store, &row).await, found);
    assert!(!store.record_look(&ann, &row.id, until, &WatchState::default()).await.unwrap(), "recorded twice");
    assert_eq!(store.domain(&ann, &row.id).await.unwrap().unwrap().version, row.version, "nothing of it is a change");
    assert_eq!(store.rights_version(), rights);
    assert!(store.watch_state("another", &row.id).await.unwrap().is_none());
}

async fn every_tenant_has_its_turn_before_one_has_a_second(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let mut anns = Vec::new();
    for n in 0..4 {
        anns.push(watched(&store, &ann, &format!("a{n}.example"), NOW - HOUR + n).await.id);
    }
    let bobs = watched(&store, &bob, "b.example", NOW).await.id;
    let due = async |of_each, limit| {
        let due = store.due_looks(NOW, of_each, limit).await.unwrap();
        due.into_iter().map(|due| due.domain_id).collect::<Vec<_>>()
    };
    assert_eq!(due(2, 10).await, [anns[0].clone(), bobs.clone(), anns[1].clone()]);
    assert_eq!(due(10, 2).await, [anns[0].clone(), bobs]);
}

async fn what_does_not_sign_is_not_looked_at(store: Store) {
    let ann = tenant(&store).await;
    let row = watched(&store, &ann, "a.example", NOW).await;
    let due = || async { store.due_looks(NOW, 10, 10).await.unwrap().len() };
    for (signing, reason, expected) in
        [("suspended", Some("record_wrong"), 1), ("disabled", None, 0), ("suspended", Some("key_unavailable"), 1)]
    {
        let signing = Some((signing.to_owned(), reason.map(str::to_owned)));
        change(&store, &row, DomainChange { signing, ..DomainChange::default() }).await;
        assert_eq!(due().await, expected, "{reason:?}");
    }
    let claimed = store.due_looks(NOW, 10, 10).await.unwrap().remove(0);
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    assert_eq!(due().await, 0);
    assert!(!store.claim_look(&claimed, NOW + HOUR).await.unwrap());
    assert!(!store.record_look(&ann, &row.id, NOW, &WatchState::default()).await.unwrap(), "deleted during the look");
    assert!(store.watch_state(&ann, &row.id).await.unwrap().is_none());
}

async fn a_lost_name_is_watched_until_somebody_else_has_it(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let row = watched(&store, &ann, "a.example", NOW).await;
    let lost = DomainChange {
        ownership: Some(("lost".into(), None)),
        signing: Some(("suspended".into(), Some("ownership_lost".into()))),
        ..DomainChange::default()
    };
    change(&store, &row, lost).await;
    assert_eq!(store.due_looks(NOW, 10, 10).await.unwrap(), [look(&row, NOW)]);
    // The name is still its own, so that the owner of the one above does not speak for it.
    let owners = store.verified_owners(&["a.example".to_owned(), "example".to_owned()]).await.unwrap();
    assert_eq!(owners.iter().map(|owner| owner.domain_id.as_str()).collect::<Vec<_>>(), [row.id.as_str()]);
    // Its owner proves it again: the proof and the version of the name stay what they were.
    let before = store.name_version("a.example").await.unwrap();
    change(&store, &row, proof("a.example", before.version, None)).await;
    let after = store.name_version("a.example").await.unwrap();
    assert_eq!((after.version, after.owner.unwrap().domain_id), (before.version, row.id.clone()));
    let (theirs, _) = domain(&store, &bob, "a.example").await;
    let told = event(&ann, "domain.ownership_lost", None);
    store.change_domain(&bob, &theirs.id, 1, &proof("a.example", before.version, Some(told))).await.unwrap();
    assert!(store.due_looks(NOW, 10, 10).await.unwrap().is_empty(), "it is another's now");
}

async fn a_suspended_domain_can_be_looked_at_now(store: Store) {
    let ann = tenant(&store).await;
    let row = watched(&store, &ann, "a.example", NOW + HOUR).await;
    store.hurry_look(&ann, &row.id, NOW).await.unwrap();
    assert_eq!(state(&store, &row).await.next_look_at, Some(NOW + HOUR), "it signs: there is no hurry");
    let signing = Some(("suspended".to_owned(), Some("record_wrong".to_owned())));
    change(&store, &row, DomainChange { signing, ..DomainChange::default() }).await;
    for now in [NOW, NOW + 5] {
        store.hurry_look(&ann, &row.id, now).await.unwrap();
        assert_eq!(state(&store, &row).await.next_look_at, Some(NOW));
    }
}

async fn another_key_that_signs_ends_the_wrong_answers_about_its_forerunner(store: Store) {
    let ann = tenant(&store).await;
    let row = watched(&store, &ann, "a.example", NOW).await;
    let wrong = WrongAnswers { looks: 3, since: Some(NOW) };
    let found = WatchState { record: wrong, ownership: wrong, ..WatchState::default() };
    change(&store, &row, DomainChange { watch: Some(found), ..DomainChange::default() }).await;
    for (needs_another_key, expected) in [(false, wrong), (true, WrongAnswers::default())] {
        change(&store, &row, DomainChange { needs_another_key, ..DomainChange::default() }).await;
        let now = state(&store, &row).await;
        assert_eq!((now.record, now.ownership), (expected, wrong), "{needs_another_key}");
    }
}

crate::on_every_database!(
    first_looks_are_planned_once_and_only_for_domains_that_sign,
    of_many_that_claim_a_look_one_gets_it,
    every_tenant_has_its_turn_before_one_has_a_second,
    what_does_not_sign_is_not_looked_at,
    a_lost_name_is_watched_until_somebody_else_has_it,
    a_suspended_domain_can_be_looked_at_now,
    another_key_that_signs_ends_the_wrong_answers_about_its_forerunner,
);
