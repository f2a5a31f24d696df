//! Domains, keys, checks, and who owns a name.
use crate::support::{NOW, audit, domain, domain_row, event, id, key_row, proof, tenant};
use futures_util::future::join_all;
use serde_json::json;
use signpost_store::{CheckRow, DomainChange, DomainRow, KeyChange, KeyRow, NameVersion, OwnedName, Store, StoreError};

async fn a_domain_is_found_by_id_and_name(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain(&store, &ann, "example.com").await;
    let found = store.domain(&ann, &row.id).await.unwrap().unwrap();
    assert_eq!(format!("{found:?}"), format!("{row:?}"));
    let by_name = store.domain_by_name(&ann, "example.com").await.unwrap().unwrap();
    assert_eq!(by_name.id, row.id);
    let keys = store.keys(&ann, &row.id).await.unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!((&keys[0].id, &keys[0].sealed, &keys[0].selector), (&key.id, &key.sealed, &key.selector));
    assert!(store.domain_by_name(&ann, "example.org").await.unwrap().is_none());
}

async fn a_foreign_tenant_sees_nothing_of_a_domain(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, key) = domain(&store, &ann, "example.com").await;
    let check =
        CheckRow { id: id(), domain_id: row.id.clone(), verdict: "fail".into(), checked_at: NOW, records: json!([]) };
    let change = DomainChange { check: Some(check), ..DomainChange::default() };
    store.change_domain(&ann, &row.id, 1, &change).await.unwrap();

    assert!(store.domain(&bob, &row.id).await.unwrap().is_none());
    assert!(store.domain_by_name(&bob, "example.com").await.unwrap().is_none());
    assert!(store.domains(&bob, None, 10).await.unwrap().rows.is_empty());
    assert!(store.keys(&bob, &row.id).await.unwrap().is_empty());
    assert!(store.last_check(&bob, &row.id).await.unwrap().is_none());
    assert!(store.checks(&bob, &row.id, None, 10).await.unwrap().rows.is_empty());
    store.record_published(&bob, &key.id, Some("x"), NOW).await.unwrap();
    assert_eq!(store.keys(&ann, &row.id).await.unwrap()[0].published_p, None);
    let stale = store.change_domain(&bob, &row.id, 2, &DomainChange::default()).await;
    assert!(matches!(stale, Err(StoreError::Stale)));
    let foreign_key = KeyRow { id: id(), selector: "other".into(), ..key };
    let stale = store.insert_key(&bob, &foreign_key, &audit(&bob, "key.created")).await;
    assert!(matches!(stale, Err(StoreError::Stale)));
    assert!(!store.delete_domain(&bob, &row.id, NOW, &id, &audit(&bob, "domain.deleted")).await.unwrap());
    assert_eq!(store.domain(&ann, &row.id).await.unwrap().unwrap().version, 2);
}

async fn a_name_is_unique_per_tenant_only(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    domain(&store, &ann, "example.com").await;
    domain(&store, &bob, "example.com").await;
    let again = domain_row(&ann, "example.com");
    let result = store.insert_domain(&again, &key_row(&again), &audit(&ann, "domain.created")).await;
    assert!(matches!(result, Err(StoreError::Conflict)));
}

async fn a_selector_is_never_given_out_twice_for_a_name(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, key) = domain(&store, &ann, "example.com").await;
    let same = KeyRow { id: id(), ..key.clone() };
    let result = store.insert_key(&ann, &same, &audit(&ann, "key.created")).await;
    assert!(matches!(result, Err(StoreError::Conflict)));
    assert_eq!(store.domain(&ann, &row.id).await.unwrap().unwrap().version, 1, "the version moved with a lost key");
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    for owner in [&ann, &bob] {
        let next = domain_row(owner, "example.com");
        let same = KeyRow { selector: key.selector.clone(), ..key_row(&next) };
        let result = store.insert_domain(&next, &same, &audit(owner, "domain.created")).await;
        assert!(matches!(result, Err(StoreError::Conflict)));
    }
    let other = domain_row(&bob, "example.org");
    let same = KeyRow { selector: key.selector.clone(), ..key_row(&other) };
    store.insert_domain(&other, &same, &audit(&bob, "domain.created")).await.expect("another name may have it");
}

async fn a_further_key_moves_the_version(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    store.insert_key(&ann, &key_row(&row), &audit(&ann, "key.created")).await.unwrap();
    assert_eq!(store.keys(&ann, &row.id).await.unwrap().len(), 2);
    assert_eq!(store.domain(&ann, &row.id).await.unwrap().unwrap().version, 2);
    let result = store.change_domain(&ann, &row.id, 1, &DomainChange::default()).await;
    assert!(matches!(result, Err(StoreError::Stale)));
}

async fn domains_are_paged_oldest_first(store: Store) {
    let ann = tenant(&store).await;
    let mut ids = Vec::new();
    for name in ["c.example", "a.example", "b.example"] {
        ids.push(domain(&store, &ann, name).await.0.id);
    }
    let first = store.domains(&ann, None, 2).await.unwrap();
    assert_eq!(first.rows.iter().map(|row| &row.id).collect::<Vec<_>>(), [&ids[0], &ids[1]]);
    assert_eq!(first.next.as_ref(), Some(&ids[1]));
    let second = store.domains(&ann, first.next.as_deref(), 2).await.unwrap();
    assert_eq!((second.rows.len(), &second.rows[0].id, second.next), (1, &ids[2], None));
    assert_eq!(store.domains(&ann, None, 3).await.unwrap().next, None, "a full last page has no next one");
}

async fn checks_are_paged_newest_first(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let check = CheckRow {
            id: id(),
            domain_id: row.id.clone(),
            verdict: "indeterminate".into(),
            checked_at: NOW + n,
            records: json!([{"n": n}]),
        };
        ids.push(check.id.clone());
        let change = DomainChange { check: Some(check), ..DomainChange::default() };
        store.change_domain(&ann, &row.id, 1 + n, &change).await.unwrap();
    }
    let last = store.last_check(&ann, &row.id).await.unwrap().unwrap();
    assert_eq!((&last.id, last.records), (&ids[2], json!([{"n": 2}])));
    let first = store.checks(&ann, &row.id, None, 2).await.unwrap();
    assert_eq!(first.rows.iter().map(|row| &row.id).collect::<Vec<_>>(), [&ids[2], &ids[1]]);
    let second = store.checks(&ann, &row.id, first.next.as_deref(), 2).await.unwrap();
    assert_eq!((second.rows.len(), &second.rows[0].id, second.next), (1, &ids[0], None));
}

async fn a_change_that_is_refused_writes_nothing(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain(&store, &ann, "example.com").await;
    let unknown_key = KeyChange { key_id: "unknown".into(), ..KeyChange::default() };
    let refused = [
        (9, DomainChange { signing: Some(("enabled".into(), None)), ..proof("example.com", 0, None) }, "Stale"),
        (1, DomainChange { signing: Some(("enabled".into(), None)), ..proof("example.com", 1, None) }, "Contested"),
        (1, proof("example.org", 0, None), "Contested"),
        (1, DomainChange { keys: vec![unknown_key], ..proof("example.com", 0, None) }, "Stale"),
        (1, DomainChange { ownership: Some(("mine".into(), None)), ..DomainChange::default() }, "Damaged"),
    ];
    for (version, change, expected) in refused {
        let error = store.change_domain(&ann, &row.id, version, &change).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{error:?} for {change:?}");
        let after = store.domain(&ann, &row.id).await.unwrap().unwrap();
        assert_eq!(format!("{after:?}"), format!("{row:?}"));
        assert_eq!(store.name_version("example.com").await.unwrap().version, 0);
        assert_eq!(store.keys(&ann, &row.id).await.unwrap()[0].state, key.state);
    }
}

async fn a_check_changes_all_that_belongs_to_it(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain(&store, &ann, "example.com").await;
    let key_change = KeyChange {
        key_id: key.id.clone(),
        state: Some("active".into()),
        published: Some(("MIIB".into(), NOW + 1)),
        ..KeyChange::default()
    };
    let change = DomainChange {
        signing: Some(("enabled".into(), None)),
        keys: vec![key_change],
        events: vec![event(&ann, "domain.verified", None)],
        audit: vec![audit(&ann, "domain.verified")],
        ..proof("example.com", 0, None)
    };
    store.change_domain(&ann, &row.id, 1, &change).await.unwrap();
    let after = store.domain(&ann, &row.id).await.unwrap().unwrap();
    assert_eq!((after.ownership.as_str(), after.proven_at), ("verified", Some(NOW)));
    assert_eq!((after.signing.as_str(), after.version), ("enabled", 2));
    let key = store.keys(&ann, &row.id).await.unwrap().remove(0);
    assert_eq!((key.state.as_str(), key.published_p.as_deref()), ("active", Some("MIIB")));
    assert_eq!((key.published_read_at, key.published_tried_at), (Some(NOW + 1), Some(NOW + 1)));
    assert_eq!(key.sealed, b"sealed octets");

    let suspended = DomainChange {
        signing: Some(("suspended".into(), Some("record_wrong".into()))),
        keys: vec![KeyChange {
            key_id: key.id.clone(),
            state: Some("revoked".into()),
            wipe: true,
            ..KeyChange::default()
        }],
        ..DomainChange::default()
    };
    store.change_domain(&ann, &row.id, 2, &suspended).await.unwrap();
    let after = store.domain(&ann, &row.id).await.unwrap().unwrap();
    assert_eq!((after.signing.as_str(), after.signing_reason.as_deref()), ("suspended", Some("record_wrong")));
    assert_eq!(after.proven_at, Some(NOW));
    let key = store.keys(&ann, &row.id).await.unwrap().remove(0);
    assert!(key.sealed.is_empty());
    assert_eq!(key.published_p.as_deref(), Some("MIIB"));
}

async fn a_verified_name_has_one_owner(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (ann_row, _) = domain(&store, &ann, "example.com").await;
    domain(&store, &bob, "example.com").await;
    let names = ["example.com".to_owned(), "com".to_owned()];
    assert!(store.verified_owners(&names).await.unwrap().is_empty());
    assert!(store.verified_owners(&[]).await.unwrap().is_empty());
    store.change_domain(&ann, &ann_row.id, 1, &proof("example.com", 0, None)).await.unwrap();
    let owners: Vec<OwnedName> = store.verified_owners(&names).await.unwrap();
    assert_eq!(owners.len(), 1);
    assert_eq!((&owners[0].tenant_id, &owners[0].domain_id), (&ann, &ann_row.id));
    assert_eq!(owners[0].name, "example.com");
    let NameVersion { version, owner } = store.name_version("example.com").await.unwrap();
    let owner = owner.unwrap();
    assert_eq!((version, owner.domain_id, owner.tenant_id, owner.proven_at), (1, ann_row.id.clone(), ann.clone(), NOW));

    store.change_domain(&ann, &ann_row.id, 2, &proof("example.com", 1, None)).await.unwrap();
    let again = store.name_version("example.com").await.unwrap();
    assert_eq!(again.version, 1, "proving it again is no change of owner");
}

async fn the_loser_of_a_name_is_suspended_and_told(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (ann_row, _) = domain(&store, &ann, "example.com").await;
    let (bob_row, _) = domain(&store, &bob, "example.com").await;
    let enabled = DomainChange { signing: Some(("enabled".into(), None)), ..proof("example.com", 0, None) };
    store.change_domain(&ann, &ann_row.id, 1, &enabled).await.unwrap();

    let told = event(&ann, "domain.ownership_lost", None);
    store.change_domain(&bob, &bob_row.id, 1, &proof("example.com", 1, Some(told))).await.unwrap();
    let lost = store.domain(&ann, &ann_row.id).await.unwrap().unwrap();
    assert_eq!((lost.ownership.as_str(), lost.signing.as_str()), ("lost", "suspended"));
    assert_eq!((lost.signing_reason.as_deref(), lost.version), (Some("ownership_lost"), 3));
    assert_eq!(store.verified_owners(&["example.com".into()]).await.unwrap()[0].tenant_id, bob);
    // What the old owner had under way on the old version comes too late.
    let late = store.change_domain(&ann, &ann_row.id, 2, &proof("example.com", 2, None)).await;
    assert!(matches!(late, Err(StoreError::Stale)));
    let late = store.change_domain(&ann, &ann_row.id, 3, &proof("example.com", 1, None)).await;
    assert!(matches!(late, Err(StoreError::Contested)));
}

async fn of_a_hundred_claims_racing_for_a_name_one_wins(store: Store) {
    let mut claimants: Vec<(String, DomainRow)> = Vec::new();
    for _ in 0..100 {
        let tenant = tenant(&store).await;
        let (row, _) = domain(&store, &tenant, "example.com").await;
        claimants.push((tenant, row));
    }
    let change = proof("example.com", 0, None);
    let results =
        join_all(claimants.iter().map(|(tenant, row)| store.change_domain(tenant, &row.id, 1, &change))).await;
    let winners: Vec<usize> = (0..100).filter(|&n| results[n].is_ok()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(results.iter().filter(|result| matches!(result, Err(StoreError::Contested))).count(), 99);
    let owners = store.verified_owners(&["example.com".into()]).await.unwrap();
    assert_eq!((owners.len(), &owners[0].tenant_id), (1, &claimants[winners[0]].0));
    for (n, (tenant, row)) in claimants.iter().enumerate() {
        let ownership = store.domain(tenant, &row.id).await.unwrap().unwrap().ownership;
        assert_eq!(ownership, if n == winners[0] { "verified" } else { "pending" });
    }
}

async fn what_dns_said_is_kept_while_dns_is_silent(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain(&store, &ann, "example.com").await;
    let steps = [
        (Some("MIIB"), 10, (Some("MIIB"), Some(10), Some(10))),
        (None, 20, (Some("MIIB"), Some(10), Some(20))),
        (Some("late"), 15, (Some("MIIB"), Some(10), Some(20))),
        (Some(""), 30, (Some(""), Some(30), Some(30))),
    ];
    for (p, at, expected) in steps {
        store.record_published(&ann, &key.id, p, at).await.unwrap();
        let key = store.keys(&ann, &row.id).await.unwrap().remove(0);
        let found = (key.published_p.as_deref(), key.published_read_at, key.published_tried_at);
        assert_eq!(found, expected, "after {p:?} at {at}");
    }
}

async fn the_newest_hundred_checks_are_kept(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "a.example").await;
    for version in 1_i64..=105 {
        let check = CheckRow {
            id: format!("{version:032x}"),
            domain_id: row.id.clone(),
            verdict: "pass".into(),
            checked_at: version,
            records: serde_json::json!([]),
        };
        let change = DomainChange { check: Some(check), ..DomainChange::default() };
        store.change_domain(&ann, &row.id, version, &change).await.unwrap();
    }
    let page = store.checks(&ann, &row.id, None, 200).await.unwrap();
    assert_eq!((page.rows.len(), page.rows[0].checked_at, page.rows[99].checked_at), (100, 105, 6));
}

async fn what_decides_about_a_request_moves_the_version_of_rights(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain(&store, &ann, "example.com").await;
    let api_key = store.api_keys(&ann).await.unwrap().remove(0).id;
    let mut seen = store.rights_version();
    let mut has_moved = |what: &str| {
        let now = store.rights_version();
        assert!(now > seen, "{what}");
        seen = now;
    };
    store.insert_key(&ann, &key_row(&row), &audit(&ann, "key.created")).await.unwrap();
    has_moved("a new key");
    store.change_domain(&ann, &row.id, 2, &DomainChange::default()).await.unwrap();
    has_moved("a change of the domain");
    store.record_published(&ann, &key.id, Some("MIIB"), NOW).await.unwrap();
    has_moved("what DNS says");
    store.revoke_api_key(&ann, &api_key, NOW, &audit(&ann, "api_key.revoked")).await.unwrap();
    has_moved("a revoked API key");
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    has_moved("a deleted domain");
    let before = store.rights_version();
    crate::support::accepted(&store, &["bob@example.net"]).await;
    store.touch_api_keys(&[(api_key, NOW)]).await.unwrap();
    assert_eq!(store.rights_version(), before, "mail alone does not");
}

crate::on_every_database!(
    what_decides_about_a_request_moves_the_version_of_rights,
    the_newest_hundred_checks_are_kept,
    a_domain_is_found_by_id_and_name,
    a_foreign_tenant_sees_nothing_of_a_domain,
    a_name_is_unique_per_tenant_only,
    a_selector_is_never_given_out_twice_for_a_name,
    a_further_key_moves_the_version,
    domains_are_paged_oldest_first,
    checks_are_paged_newest_first,
    a_change_that_is_refused_writes_nothing,
    a_check_changes_all_that_belongs_to_it,
    a_verified_name_has_one_owner,
    the_loser_of_a_name_is_suspended_and_told,
    of_a_hundred_claims_racing_for_a_name_one_wins,
    what_dns_said_is_kept_while_dns_is_silent,
);
