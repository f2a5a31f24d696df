//! The life of keys: their times, what is due, the next key by compare-and-swap, the policy.
use crate::support::{NOW, audit, domain, event, id, key_row, proof, tenant};
use futures_util::future::join_all;
use signpost_store::{
    AuditFilter, DomainChange, DomainRow, KeyChange, KeyLife, KeyRow, SigningPolicyRow, Store, StoreError,
    SuspendedMail,
};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A proven domain that signs, with its first key active since `NOW`.
async fn signing(store: &Store, tenant: &str, name: &str) -> (DomainRow, KeyRow) {
    let (row, key) = domain(store, tenant, name).await;
    let active = KeyChange { key_id: key.id.clone(), state: Some("active".into()), ..KeyChange::default() };
    let change = DomainChange { signing: Some(("enabled".into(), None)), keys: vec![active], ..proof(name, 0, None) };
    store.change_domain(tenant, &row.id, 1, &change).await.unwrap();
    (store.domain(tenant, &row.id).await.unwrap().unwrap(), key)
}

/// One more, made at `made_at`.
async fn further(store: &Store, domain: &DomainRow, made_at: i64, life: KeyLife) -> KeyRow {
    let key = KeyRow { created_at: made_at, life, ..key_row(domain) };
    store.insert_key(&domain.tenant_id, &key, &audit(&domain.tenant_id, "key.created")).await.unwrap();
    key
}

async fn change_key(store: &Store, key: &KeyRow, change: KeyChange) {
    let version = store.domain(&key.tenant_id, &key.domain_id).await.unwrap().unwrap().version;
    let change = DomainChange { keys: vec![KeyChange { key_id: key.id.clone(), ..change }], ..DomainChange::default() };
    store.change_domain(&key.tenant_id, &key.domain_id, version, &change).await.unwrap();
}

fn ids(keys: Vec<KeyRow>) -> Vec<String> {
    keys.into_iter().map(|key| key.id).collect()
}

async fn the_times_of_a_key_are_kept(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain(&store, &ann, "example.com").await;
    let read = || async { store.key(&ann, &key.id).await.unwrap().unwrap().life };
    assert_eq!(read().await, KeyLife { state_since: NOW, ..KeyLife::default() });
    let life = KeyLife {
        state_since: NOW + 1,
        first_seen_at: Some(NOW + 2),
        record_ttl: Some(3),
        other_data_until: Some(NOW + 4),
        retiring_since: Some(NOW + 5),
        safe_to_remove_at: Some(NOW + 6),
        reminded_at: Some(NOW + 7),
    };
    change_key(&store, &key, KeyChange { life: Some(life.clone()), ..KeyChange::default() }).await;
    assert_eq!(read().await, life);
    change_key(&store, &key, KeyChange { state: Some("published".into()), ..KeyChange::default() }).await;
    assert_eq!(read().await, life, "a change that names no times changes none");
    // A row that says nothing is in its state since it was made.
    let other = further(&store, &row, NOW + 9, KeyLife::default()).await;
    assert_eq!(store.key(&ann, &other.id).await.unwrap().unwrap().life.state_since, NOW + 9);
    assert!(store.key("another", &key.id).await.unwrap().is_none());
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    assert!(store.key(&ann, &key.id).await.unwrap().is_none());
}

async fn the_next_key_comes_only_to_the_domain_as_it_was_seen(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, key) = signing(&store, &ann, "example.com").await;
    let rights = store.rights_version();
    let insert = |tenant: String, version: i64, key: KeyRow| {
        let store = store.clone();
        async move {
            let (events, audit) = ([event(&tenant, "key.rotation_waiting", None)], [audit(&tenant, "key.created")]);
            store.insert_next_key(&tenant, version, &key, &events, &audit).await
        }
    };
    let next = || key_row(&row);
    assert!(matches!(insert(ann.clone(), row.version + 1, next()).await, Err(StoreError::Stale)));
    assert!(matches!(insert(bob, row.version, next()).await, Err(StoreError::Stale)));
    let same = KeyRow { selector: key.selector.clone(), ..next() };
    assert!(matches!(insert(ann.clone(), row.version, same).await, Err(StoreError::Conflict)));
    assert_eq!(store.keys(&ann, &row.id).await.unwrap().len(), 1);
    // Of many at once one comes first.
    let results = join_all((0..20).map(|_| insert(ann.clone(), row.version, next()))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(StoreError::Stale))), "{results:?}");
    assert_eq!(store.keys(&ann, &row.id).await.unwrap().len(), 2);
    let filter = AuditFilter { action: Some("key.created".into()), ..AuditFilter::default() };
    assert_eq!(store.audit_log(&ann, &filter, None, 10).await.unwrap().rows.len(), 2, "a row without its key");
    assert!(store.rights_version() > rights);
}

async fn keys_to_come_of_domains_that_sign_are_looked_for_ever_less_often(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = signing(&store, &ann, "example.com").await;
    let (idle, _) = domain(&store, &ann, "idle.example").await;
    further(&store, &idle, NOW + 1, KeyLife::default()).await;
    let key = further(&store, &row, NOW, KeyLife::default()).await;
    let due = |now: i64| {
        let store = store.clone();
        async move { ids(store.keys_to_look_for(now, 10).await.unwrap()) }
    };
    let one = [key.id.clone()];
    assert_eq!(due(NOW).await, one, "never asked for");
    for (asked, pause) in [(NOW, 30_000), (NOW + 2 * HOUR, 5 * MINUTE), (NOW + 2 * DAY, HOUR)] {
        store.record_published(&ann, &key.id, None, asked).await.unwrap();
        assert!(due(asked + pause - 1).await.is_empty(), "{asked}");
        assert_eq!(due(asked + pause).await, one, "{asked}");
    }
    let late = NOW + 9 * DAY;
    let life = KeyLife { other_data_until: Some(late + 1), ..KeyLife::default() };
    change_key(&store, &key, KeyChange { state: Some("published".into()), life: Some(life), ..KeyChange::default() })
        .await;
    assert!(due(late).await.is_empty(), "caches may hold other data");
    assert_eq!(due(late + 1).await, one);
    // A newer key signs: this one never will.
    let newer = further(&store, &row, NOW + 1, KeyLife::default()).await;
    change_key(&store, &newer, KeyChange { state: Some("active".into()), ..KeyChange::default() }).await;
    assert!(due(late + 1).await.is_empty());
}

async fn a_key_retires_when_its_record_is_not_needed_any_more(store: Store) {
    let ann = tenant(&store).await;
    let (row, first) = signing(&store, &ann, "example.com").await;
    let (_, other) = signing(&store, &ann, "example.org").await;
    let retiring = |at| KeyChange {
        state: Some("retiring".into()),
        life: Some(KeyLife { safe_to_remove_at: Some(at), ..KeyLife::default() }),
        ..KeyChange::default()
    };
    change_key(&store, &first, retiring(NOW + 10)).await;
    change_key(&store, &other, retiring(NOW + 5)).await;
    assert!(store.keys_to_retire(NOW + 4, 10).await.unwrap().is_empty());
    assert_eq!(ids(store.keys_to_retire(NOW + 9, 10).await.unwrap()), std::slice::from_ref(&other.id));
    assert_eq!(ids(store.keys_to_retire(NOW + 10, 10).await.unwrap()), [other.id.clone(), first.id.clone()]);
    change_key(&store, &other, KeyChange { state: Some("retired".into()), wipe: true, ..KeyChange::default() }).await;
    assert_eq!(ids(store.keys_to_retire(NOW + 10, 10).await.unwrap()), [first.id]);
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    assert!(store.keys_to_retire(NOW + 10, 10).await.unwrap().is_empty());
}

async fn a_rotation_is_due_by_the_policy_and_only_if_none_is_under_way(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = signing(&store, &ann, "example.com").await;
    let due = |now: i64| {
        let store = store.clone();
        async move {
            store.domains_to_rotate(now, None, 10).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>()
        }
    };
    let one = [row.id.clone()];
    let stored = || async { store.signing_policy(&ann, &row.id).await.unwrap() };
    let days =
        |days| SigningPolicyRow { rotation_days: days, dual_signing: false, suspended_mail: SuspendedMail::Hold };
    assert_eq!(stored().await, Some(days(Some(180))));
    assert!(store.signing_policy("another", &row.id).await.unwrap().is_none());
    assert!(due(NOW + 180 * DAY - 1).await.is_empty());
    assert_eq!(due(NOW + 180 * DAY).await, one);
    let policy = |wanted| DomainChange { policy: Some(days(wanted)), ..DomainChange::default() };
    store.change_domain(&ann, &row.id, 2, &policy(Some(30))).await.unwrap();
    assert_eq!(due(NOW + 30 * DAY).await, one);
    store.change_domain(&ann, &row.id, 3, &policy(None)).await.unwrap();
    assert_eq!(stored().await, Some(days(None)));
    assert!(due(NOW + 9999 * DAY).await.is_empty(), "switched off");
    store.change_domain(&ann, &row.id, 4, &policy(Some(30))).await.unwrap();
    let next = further(&store, &row, NOW + 1, KeyLife::default()).await;
    assert!(due(NOW + 30 * DAY).await.is_empty(), "the next key is there");
    change_key(&store, &next, KeyChange { state: Some("revoked".into()), ..KeyChange::default() }).await;
    assert_eq!(due(NOW + 30 * DAY).await, one);
    further(&store, &row, NOW - 1, KeyLife::default()).await;
    assert_eq!(due(NOW + 30 * DAY).await, one, "an older key never replaces it");
    change_key(&store, &key, KeyChange { state: Some("retiring".into()), ..KeyChange::default() }).await;
    assert!(due(NOW + 30 * DAY).await.is_empty(), "nothing signs");
}

/// One more that makes signatures of this kind, in this state.
async fn of_kind(store: &Store, domain: &DomainRow, algorithm: &str, state: &str, made_at: i64) -> KeyRow {
    let life = KeyLife { state_since: made_at, ..KeyLife::default() };
    let key = KeyRow { algorithm: algorithm.into(), created_at: made_at, life, ..key_row(domain) };
    store.insert_key(&domain.tenant_id, &key, &audit(&domain.tenant_id, "key.created")).await.unwrap();
    change_key(store, &key, KeyChange { state: Some(state.into()), ..KeyChange::default() }).await;
    key
}

async fn switch_dual_signing(store: &Store, domain: &DomainRow, on: bool) {
    let before = store.domain(&domain.tenant_id, &domain.id).await.unwrap().unwrap();
    let policy = SigningPolicyRow { rotation_days: Some(30), dual_signing: on, suspended_mail: SuspendedMail::Hold };
    let change = DomainChange { policy: Some(policy.clone()), ..DomainChange::default() };
    store.change_domain(&domain.tenant_id, &domain.id, before.version, &change).await.unwrap();
    let after = store.domain(&domain.tenant_id, &domain.id).await.unwrap().unwrap();
    assert_eq!((after.dual_signing, after.version), (on, before.version + 1));
    assert_eq!(store.signing_policy(&domain.tenant_id, &domain.id).await.unwrap(), Some(policy));
}

async fn with_dual_signing_a_key_to_come_is_looked_for_unless_a_newer_one_of_its_kind_signs(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = signing(&store, &ann, "example.com").await;
    let (other, _) = signing(&store, &ann, "example.org").await;
    assert!(!row.dual_signing, "off unless switched on");
    let ed25519 = of_kind(&store, &row, "ed25519", "pending", NOW - 1).await;
    let rsa = of_kind(&store, &row, "rsa-4096", "published", NOW - 1).await;
    let elsewhere = of_kind(&store, &other, "ed25519", "pending", NOW - 1).await;
    let due = || async {
        let mut due = ids(store.keys_to_look_for(NOW, 10).await.unwrap());
        due.sort();
        due
    };
    assert_eq!(due().await, [""; 0], "a newer key signs");
    switch_dual_signing(&store, &row, true).await;
    assert_eq!(due().await, std::slice::from_ref(&ed25519.id), "and not {} or {}", rsa.id, elsewhere.id);
    let newer = of_kind(&store, &row, "ed25519", "active", NOW).await;
    assert_eq!(due().await, [""; 0]);
    change_key(&store, &newer, KeyChange { state: Some("revoked".into()), ..KeyChange::default() }).await;
    assert_eq!(due().await, std::slice::from_ref(&ed25519.id));
    switch_dual_signing(&store, &row, false).await;
    assert_eq!(due().await, [""; 0]);
}

async fn with_dual_signing_the_key_of_each_kind_is_due_by_its_own_age(store: Store) {
    let ann = tenant(&store).await;
    let (row, rsa) = signing(&store, &ann, "example.com").await;
    switch_dual_signing(&store, &row, true).await;
    let ed25519 = of_kind(&store, &row, "ed25519", "active", NOW + 5 * DAY).await;
    let due = |now: i64| {
        let store = store.clone();
        async move {
            store.domains_to_rotate(now, None, 10).await.unwrap().into_iter().map(|row| row.id).collect::<Vec<_>>()
        }
    };
    let one = [row.id.clone()];
    assert!(due(NOW + 30 * DAY - 1).await.is_empty());
    assert_eq!(due(NOW + 30 * DAY).await, one, "the RSA key");
    let next = of_kind(&store, &row, "rsa-3072", "pending", NOW + 30 * DAY).await;
    assert!(due(NOW + 35 * DAY - 1).await.is_empty(), "its successor is there");
    assert_eq!(due(NOW + 35 * DAY).await, one, "the Ed25519 key, whatever the other one does");
    let next_ed25519 = of_kind(&store, &row, "ed25519", "published", NOW + 35 * DAY).await;
    assert!(due(NOW + 35 * DAY).await.is_empty());
    // One change moves both kinds, or neither.
    let to = |key: &KeyRow, state: &str| KeyChange {
        key_id: key.id.clone(),
        state: Some(state.into()),
        life: Some(KeyLife { state_since: NOW + 40 * DAY, ..KeyLife::default() }),
        ..KeyChange::default()
    };
    let version = store.domain(&ann, &row.id).await.unwrap().unwrap().version;
    let keys = vec![to(&rsa, "retiring"), to(&ed25519, "retiring"), to(&next, "active"), to(&next_ed25519, "active")];
    let change = DomainChange { keys, ..DomainChange::default() };
    assert!(matches!(store.change_domain(&ann, &row.id, version + 1, &change).await, Err(StoreError::Stale)));
    store.change_domain(&ann, &row.id, version, &change).await.unwrap();
    let states: Vec<_> = store.keys(&ann, &row.id).await.unwrap().into_iter().map(|key| (key.id, key.state)).collect();
    for (key, state) in [(&rsa, "retiring"), (&ed25519, "retiring"), (&next, "active"), (&next_ed25519, "active")] {
        assert!(states.contains(&(key.id.clone(), state.to_owned())), "{states:?}");
    }
    assert!(due(NOW + 70 * DAY - 1).await.is_empty());
    assert_eq!(due(NOW + 70 * DAY).await, one);
}

async fn the_policy_for_mail_of_a_suspended_domain_is_kept(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = signing(&store, &ann, "example.com").await;
    for (version, suspended_mail) in (row.version..).zip([SuspendedMail::Refuse, SuspendedMail::Hold]) {
        let policy = SigningPolicyRow { rotation_days: Some(7), dual_signing: false, suspended_mail };
        let change = DomainChange { policy: Some(policy.clone()), ..DomainChange::default() };
        store.change_domain(&ann, &row.id, version, &change).await.unwrap();
        assert_eq!(store.signing_policy(&ann, &row.id).await.unwrap(), Some(policy));
        assert_eq!(SuspendedMail::parse(suspended_mail.as_str()), Some(suspended_mail));
    }
    assert_eq!(SuspendedMail::parse("drop"), None);
}

async fn only_waiting_rotations_are_reminded_of(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = signing(&store, &ann, "example.com").await;
    further(&store, &row, NOW + 1, KeyLife::default()).await;
    let rotation = further(&store, &row, NOW + 2, KeyLife { reminded_at: Some(NOW), ..KeyLife::default() }).await;
    assert!(store.keys_to_remind_of(NOW - 1, 10).await.unwrap().is_empty());
    assert_eq!(ids(store.keys_to_remind_of(NOW, 10).await.unwrap()), std::slice::from_ref(&rotation.id));
    change_key(&store, &rotation, KeyChange { state: Some("published".into()), ..KeyChange::default() }).await;
    assert!(store.keys_to_remind_of(NOW, 10).await.unwrap().is_empty());
}

async fn a_retired_remote_key_is_owed_to_be_given_up(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let key = KeyRow { custody: "aws-kms".into(), reference: "awskms:arn:1".into(), ..key_row(&row) };
    store.insert_key(&ann, &key, &audit(&ann, "key.created")).await.unwrap();
    for state in ["published", "active", "retiring"] {
        change_key(&store, &key, KeyChange { state: Some(state.into()), ..KeyChange::default() }).await;
        assert!(store.keys_to_withdraw(None, 10).await.unwrap().is_empty(), "{state}");
    }
    change_key(&store, &key, KeyChange { state: Some("retired".into()), wipe: true, ..KeyChange::default() }).await;
    assert_eq!(ids(store.keys_to_withdraw(None, 10).await.unwrap()), std::slice::from_ref(&key.id));
    store.record_withdrawn(&ann, &key.id, NOW).await.unwrap();
    change_key(&store, &key, KeyChange { state: Some("revoked".into()), wipe: true, ..KeyChange::default() }).await;
    assert!(store.keys_to_withdraw(None, 10).await.unwrap().is_empty(), "given up once");
}

crate::on_every_database!(
    the_times_of_a_key_are_kept,
    the_next_key_comes_only_to_the_domain_as_it_was_seen,
    keys_to_come_of_domains_that_sign_are_looked_for_ever_less_often,
    a_key_retires_when_its_record_is_not_needed_any_more,
    a_rotation_is_due_by_the_policy_and_only_if_none_is_under_way,
    with_dual_signing_a_key_to_come_is_looked_for_unless_a_newer_one_of_its_kind_signs,
    with_dual_signing_the_key_of_each_kind_is_due_by_its_own_age,
    the_policy_for_mail_of_a_suspended_domain_is_kept,
    only_waiting_rotations_are_reminded_of,
    a_retired_remote_key_is_owed_to_be_given_up,
);
