//! Slots of delegated domains: what they show follows the keys, what is owed to DNS is not forgotten, and nothing is given out twice.
use crate::support::{NOW, audit, domain, domain_row, event, id, key_row, proof, tenant};
use signpost_store::{AuditFilter, DomainChange, DomainRow, KeyChange, KeyRow, SlotRow, SlotShows, Store, StoreError};

/// When a key that is withdrawn at NOW makes room.
const FREE_AT: i64 = NOW + 1_000;

fn slots_of(domain: &DomainRow) -> Vec<SlotRow> {
    (0..3)
        .map(|place| {
            SlotRow::unused(domain, place, &format!("sel{place}{}", domain.id), &format!("{}.dkim.test", id()))
        })
        .collect()
}

/// A delegated domain whose first key is in its first slot.
async fn delegated(store: &Store, tenant: &str, name: &str) -> (DomainRow, Vec<SlotRow>, KeyRow) {
    let row = DomainRow { dkim_mode: "delegated".into(), ..domain_row(tenant, name) };
    let slots = slots_of(&row);
    let key = KeyRow { selector: slots[0].selector.clone(), ..key_row(&row) };
    store.insert_delegated_domain(&row, &slots, &key, &audit(tenant, "domain.created")).await.unwrap();
    let log = store.audit_log(tenant, &AuditFilter::default(), None, 10).await.unwrap().rows;
    assert!(log.iter().any(|row| row.action == "key.created" && row.object == key.id), "its first key is told of");
    (row, slots, key)
}

async fn slot(store: &Store, row: &DomainRow, place: usize) -> SlotRow {
    store.slots(&row.tenant_id, &row.id).await.unwrap()[place].clone()
}

/// A further key, made at `at`, with the selector of that slot.
async fn further(store: &Store, row: &DomainRow, selector: &str, at: i64) -> Result<KeyRow, StoreError> {
    let key = KeyRow { selector: selector.into(), created_at: at, ..key_row(row) };
    store.insert_key(&row.tenant_id, &key, &audit(&row.tenant_id, "key.created")).await?;
    Ok(key)
}

async fn change_state(store: &Store, row: &DomainRow, key: &KeyRow, state: &str) {
    let version = store.domain(&row.tenant_id, &row.id).await.unwrap().unwrap().version;
    let changed = KeyChange { key_id: key.id.clone(), state: Some(state.into()), ..KeyChange::default() };
    let change = DomainChange { keys: vec![changed], ..DomainChange::default() };
    store.change_domain(&row.tenant_id, &row.id, version, &change).await.unwrap();
}

async fn owed(store: &Store) -> Vec<String> {
    store.owed_slots(None, 100).await.unwrap().into_iter().map(|slot| slot.target).collect()
}

async fn publish(store: &Store, slot: &SlotRow) -> bool {
    store.record_slot_published(&slot.target, slot.version, NOW, FREE_AT).await.unwrap()
}

async fn the_first_slot_shows_the_first_key_and_its_update_is_owed(store: Store) {
    let ann = tenant(&store).await;
    let (row, made, key) = delegated(&store, &ann, "example.com").await;
    let slots = store.slots(&ann, &row.id).await.unwrap();
    assert_eq!(
        slots.iter().map(|slot| &slot.target).collect::<Vec<_>>(),
        made.iter().map(|slot| &slot.target).collect::<Vec<_>>()
    );
    assert_eq!(slots[0].key_id.as_ref(), Some(&key.id));
    assert_eq!(slots[0].shows, SlotShows::Key { algorithm: "rsa-2048".into(), public_key: "MIIB".into() });
    assert_eq!(slots.iter().map(|slot| slot.is_free(NOW)).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(slots.iter().map(SlotRow::is_owed).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(owed(&store).await, [slots[0].target.clone()]);
    assert!(store.slots("another", &row.id).await.unwrap().is_empty());

    assert!(publish(&store, &slots[0]).await);
    assert!(owed(&store).await.is_empty());
    assert!(!slot(&store, &row, 0).await.is_free(FREE_AT + 1), "a slot with a key is not free");
}

async fn a_publication_of_what_is_outdated_does_not_count(store: Store) {
    let ann = tenant(&store).await;
    let (row, _, key) = delegated(&store, &ann, "example.com").await;
    let before = slot(&store, &row, 0).await;
    change_state(&store, &row, &key, "revoked").await;
    assert!(!publish(&store, &before).await, "the key was revoked meanwhile");
    let now = slot(&store, &row, 0).await;
    assert_eq!((now.shows.clone(), now.is_owed()), (SlotShows::Revoked, true));
    assert!(publish(&store, &now).await);
    // Told twice, by two processes, it is the same.
    assert!(publish(&store, &now).await);
    assert!(!slot(&store, &row, 0).await.is_owed());
}

async fn a_retired_key_leaves_its_slot_empty_and_the_slot_rests(store: Store) {
    let ann = tenant(&store).await;
    let (row, made, first) = delegated(&store, &ann, "example.com").await;
    publish(&store, &slot(&store, &row, 0).await).await;
    for state in ["published", "active", "retiring"] {
        change_state(&store, &row, &first, state).await;
        assert!(matches!(slot(&store, &row, 0).await.shows, SlotShows::Key { .. }), "{state}");
    }
    assert!(owed(&store).await.is_empty(), "nothing changed for DNS");
    change_state(&store, &row, &first, "retired").await;
    let empty = slot(&store, &row, 0).await;
    assert_eq!((empty.shows.clone(), empty.key_id.as_ref()), (SlotShows::Nothing, Some(&first.id)));
    assert_eq!(owed(&store).await, std::slice::from_ref(&empty.target));
    assert!(
        matches!(further(&store, &row, &made[0].selector, FREE_AT).await, Err(StoreError::Stale)),
        "DNS has it still"
    );
    publish(&store, &empty).await;
    assert!(matches!(further(&store, &row, &made[0].selector, FREE_AT - 1).await, Err(StoreError::Stale)), "it rests");
    assert!(!slot(&store, &row, 0).await.is_free(FREE_AT - 1));

    let second = further(&store, &row, &made[0].selector, FREE_AT).await.unwrap();
    let keys = store.keys(&ann, &row.id).await.unwrap();
    let told: Vec<(&str, &str)> = keys.iter().map(|key| (key.selector.as_str(), key.state.as_str())).collect();
    let selector = made[0].selector.as_str();
    assert_eq!(told, [(selector, "retired"), (selector, "pending")], "both are told with the selector they sign with");
    let filled = slot(&store, &row, 0).await;
    assert_eq!((filled.key_id.as_ref(), filled.is_owed(), filled.free_at), (Some(&second.id), true, None));
    // A revocation of the former key does not touch what the slot shows now.
    change_state(&store, &row, &first, "revoked").await;
    assert!(matches!(slot(&store, &row, 0).await.shows, SlotShows::Key { .. }));
}

async fn a_key_of_a_delegated_domain_needs_a_slot_of_it(store: Store) {
    let ann = tenant(&store).await;
    let (row, made, _) = delegated(&store, &ann, "example.com").await;
    let (other, foreign, _) = delegated(&store, &ann, "example.org").await;
    for selector in ["made-up", &foreign[1].selector, &made[0].selector] {
        let refused = further(&store, &row, selector, NOW).await;
        assert!(matches!(refused, Err(StoreError::Stale)), "{selector}");
    }
    further(&store, &row, &made[1].selector, NOW).await.unwrap();
    assert!(matches!(further(&store, &row, &made[1].selector, NOW).await, Err(StoreError::Stale)), "taken");
    assert_eq!(store.keys(&ann, &other.id).await.unwrap().len(), 1);
    // A domain without slots is none of this.
    let (plain, _) = domain(&store, &ann, "example.net").await;
    further(&store, &plain, "made-up", NOW).await.unwrap();
    assert!(store.slots(&ann, &plain.id).await.unwrap().is_empty());
}

async fn deleting_a_domain_empties_all_its_slots_and_they_stay_its_own(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, made, first) = delegated(&store, &ann, "example.com").await;
    let second = further(&store, &row, &made[1].selector, NOW).await.unwrap();
    for slot in &store.slots(&ann, &row.id).await.unwrap() {
        publish(&store, slot).await;
    }
    change_state(&store, &row, &first, "revoked").await;
    publish(&store, &slot(&store, &row, 0).await).await;
    assert!(owed(&store).await.is_empty());
    let audit_row = audit(&ann, "domain.deleted");
    assert!(store.delete_domain(&ann, &row.id, NOW + 1, &id, &audit_row).await.unwrap());

    let slots = store.slots(&ann, &row.id).await.unwrap();
    assert!(slots.iter().all(|slot| slot.shows == SlotShows::Nothing), "{slots:?}");
    assert_eq!(
        slots.iter().map(|slot| slot.key_id.clone()).collect::<Vec<_>>(),
        [Some(first.id), Some(second.id), None]
    );
    let mut both = vec![slots[0].target.clone(), slots[1].target.clone()];
    both.sort();
    assert_eq!(owed(&store).await, both, "a record that says `revoked` is withdrawn as well");

    // The same target, or the same selector, for somebody else.
    let theirs = DomainRow { dkim_mode: "delegated".into(), ..domain_row(&bob, "example.com") };
    let mut slots = slots_of(&theirs);
    let key = KeyRow { selector: slots[0].selector.clone(), ..key_row(&theirs) };
    slots[2].target.clone_from(&made[2].target);
    let refused = store.insert_delegated_domain(&theirs, &slots, &key, &audit(&bob, "domain.created")).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    assert!(store.domain_by_name(&bob, "example.com").await.unwrap().is_none(), "all or nothing");
    let reused = KeyRow { selector: made[0].selector.clone(), ..key.clone() };
    let mut slots = slots_of(&theirs);
    slots[0].selector.clone_from(&made[0].selector);
    let refused = store.insert_delegated_domain(&theirs, &slots, &reused, &audit(&bob, "domain.created")).await;
    assert!(matches!(refused, Err(StoreError::Conflict)), "{refused:?}");
    let slots = slots_of(&theirs);
    let key = KeyRow { selector: slots[0].selector.clone(), ..key };
    store.insert_delegated_domain(&theirs, &slots, &key, &audit(&bob, "domain.created")).await.unwrap();
}

async fn who_loses_the_name_loses_what_stands_at_the_targets(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, made, _) = delegated(&store, &ann, "example.com").await;
    let (theirs, _, _) = delegated(&store, &bob, "example.com").await;
    store.change_domain(&ann, &row.id, 1, &proof("example.com", 0, None)).await.unwrap();
    publish(&store, &slot(&store, &row, 0).await).await;
    let told = Some(event(&ann, "domain.ownership_lost", None));
    store.change_domain(&bob, &theirs.id, 1, &proof("example.com", 1, told)).await.unwrap();
    let lost = slot(&store, &row, 0).await;
    assert_eq!((lost.shows.clone(), lost.is_owed()), (SlotShows::Nothing, true));
    assert!(matches!(slot(&store, &theirs, 0).await.shows, SlotShows::Key { .. }));
    // Nor is anything new shown for a name that is another's.
    publish(&store, &lost).await;
    for selector in [&made[0].selector, &made[1].selector] {
        let refused = further(&store, &row, selector, FREE_AT).await;
        assert!(matches!(refused, Err(StoreError::Stale)), "{refused:?}", refused = refused.map(|key| key.id));
    }
}

async fn all_slots_are_told_in_pages_also_those_of_deleted_domains(store: Store) {
    let ann = tenant(&store).await;
    let (row, made, _) = delegated(&store, &ann, "example.com").await;
    let (_, others, _) = delegated(&store, &ann, "example.org").await;
    store.delete_domain(&ann, &row.id, NOW + 1, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    let mut expected: Vec<String> = made.iter().chain(&others).map(|slot| slot.target.clone()).collect();
    expected.sort();
    let (mut told, mut after) = (Vec::new(), None);
    loop {
        let page = store.all_slots(after.as_deref(), 4).await.unwrap();
        told.extend(page.rows.into_iter().map(|slot| slot.target));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(told, expected);
    assert_eq!(store.slot(&expected[3]).await.unwrap().unwrap().target, expected[3]);
    assert!(store.slot("nowhere.dkim.test").await.unwrap().is_none());
    assert_eq!(store.owed_slots(None, 1).await.unwrap().len(), 1);
    let first = store.owed_slots(None, 1).await.unwrap().remove(0).target;
    assert!(store.owed_slots(Some(&first), 10).await.unwrap().iter().all(|slot| slot.target > first));
}

async fn unproven_delegated_domains_of_that_tenant_are_counted(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let count = || async { store.count_unproven_delegated(&ann).await.unwrap() };
    assert_eq!(count().await, 0);
    let (first, ..) = delegated(&store, &ann, "example.com").await;
    let (second, ..) = delegated(&store, &ann, "example.org").await;
    delegated(&store, &bob, "example.net").await;
    domain(&store, &ann, "example.net").await;
    assert_eq!(count().await, 2);
    store.change_domain(&ann, &first.id, 1, &proof("example.com", 0, None)).await.unwrap();
    assert_eq!(count().await, 1);
    store.delete_domain(&ann, &second.id, NOW + 1, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    assert_eq!(count().await, 0);
}

crate::on_every_database! {
    unproven_delegated_domains_of_that_tenant_are_counted,
    the_first_slot_shows_the_first_key_and_its_update_is_owed,
    a_publication_of_what_is_outdated_does_not_count,
    a_retired_key_leaves_its_slot_empty_and_the_slot_rests,
    a_key_of_a_delegated_domain_needs_a_slot_of_it,
    deleting_a_domain_empties_all_its_slots_and_they_stay_its_own,
    who_loses_the_name_loses_what_stands_at_the_targets,
    all_slots_are_told_in_pages_also_those_of_deleted_domains,
}
