//! Keys that another machine holds: the limit on unproven domains, their expiry, and what is still to be given up.
use crate::support::{NOW, audit, domain_row, id, key_row, proof, tenant};
use signpost_store::{DomainChange, DomainRow, KeyChange, KeyRow, Store, StoreError};

async fn domain_with(store: &Store, tenant: &str, name: &str, custody: &str, made_at: i64) -> (DomainRow, KeyRow) {
    let row = domain_row(tenant, name);
    let key =
        KeyRow { custody: custody.into(), reference: format!("ref:{}", id()), created_at: made_at, ..key_row(&row) };
    store.insert_domain(&row, &key, &audit(tenant, "domain.created")).await.unwrap();
    (row, key)
}

async fn delete_unproven(store: &Store, row: &DomainRow) -> bool {
    let audit = audit(&row.tenant_id, "domain.expired");
    store.delete_unproven_domain(&row.tenant_id, &row.id, NOW + 1, &id, &audit).await.unwrap()
}

async fn ids_to_withdraw(store: &Store) -> Vec<String> {
    store.keys_to_withdraw(None, 100).await.unwrap().into_iter().map(|key| key.id).collect()
}

async fn only_unproven_domains_with_remote_keys_of_that_tenant_count(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 0);
    let (first, _) = domain_with(&store, &ann, "one.example", "aws-kms", NOW).await;
    let (second, _) = domain_with(&store, &ann, "two.example", "aws-kms", NOW).await;
    domain_with(&store, &ann, "three.example", "sealed", NOW).await;
    domain_with(&store, &bob, "one.example", "aws-kms", NOW).await;
    // A second key of a domain makes no second domain of it.
    let further = KeyRow { custody: "aws-kms".into(), reference: "ref:further".into(), ..key_row(&first) };
    store.insert_key(&ann, &further, &audit(&ann, "key.created")).await.unwrap();
    assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 2);
    store.change_domain(&ann, &first.id, 2, &proof("one.example", 0, None)).await.unwrap();
    assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 1);
    assert!(delete_unproven(&store, &second).await);
    assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 0);
}

async fn what_is_overdue_is_unproven_and_its_remote_key_old(store: Store) {
    let ann = tenant(&store).await;
    let (old, _) = domain_with(&store, &ann, "old.example", "aws-kms", NOW - 10).await;
    let (proven, _) = domain_with(&store, &ann, "proven.example", "aws-kms", NOW - 10).await;
    store.change_domain(&ann, &proven.id, 1, &proof("proven.example", 0, None)).await.unwrap();
    domain_with(&store, &ann, "sealed.example", "sealed", NOW - 10).await;
    domain_with(&store, &ann, "new.example", "aws-kms", NOW).await;
    let overdue = store.overdue_unproven(NOW, 10).await.unwrap();
    assert_eq!(overdue.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), [old.id.as_str()]);

    assert!(!delete_unproven(&store, &proven).await, "proven meanwhile");
    assert!(store.domain(&ann, &proven.id).await.unwrap().is_some());
    assert!(delete_unproven(&store, &old).await);
    assert!(store.domain(&ann, &old.id).await.unwrap().is_none());
    assert!(store.overdue_unproven(NOW, 10).await.unwrap().is_empty());
}

async fn remote_keys_of_a_deleted_domain_are_owed_until_they_are_given_up(store: Store) {
    let ann = tenant(&store).await;
    let (row, key) = domain_with(&store, &ann, "one.example", "aws-kms", NOW).await;
    let (other, other_key) = domain_with(&store, &ann, "two.example", "aws-kms", NOW).await;
    let (sealed, _) = domain_with(&store, &ann, "three.example", "sealed", NOW).await;
    assert!(ids_to_withdraw(&store).await.is_empty());
    store.record_withdrawn(&ann, &key.id, NOW).await.unwrap();
    for domain in [&row, &other, &sealed] {
        assert!(delete_unproven(&store, domain).await);
    }
    assert_eq!(ids_to_withdraw(&store).await, [key.id.clone(), other_key.id.clone()], "still owed: it was in use then");
    let after = store.keys_to_withdraw(Some(&key.id), 100).await.unwrap();
    assert_eq!(after.iter().map(|key| key.reference.as_str()).collect::<Vec<_>>(), [other_key.reference.as_str()]);
    store.record_withdrawn("another", &key.id, NOW).await.unwrap();
    store.record_withdrawn(&ann, &key.id, NOW).await.unwrap();
    assert_eq!(ids_to_withdraw(&store).await, [other_key.id]);
}

async fn active_keys_of_domains_that_are_suspended_for_their_key_are_found(store: Store) {
    let ann = tenant(&store).await;
    let mut found = Vec::new();
    for (name, signing, reason, state) in [
        ("a.example", "suspended", Some("key_unavailable"), "active"),
        ("b.example", "suspended", Some("record_wrong"), "active"),
        ("c.example", "suspended", Some("key_unavailable"), "revoked"),
        ("d.example", "enabled", None, "active"),
        ("e.example", "suspended", Some("key_unavailable"), "active"),
        ("f.example", "suspended", Some("key_unavailable"), "active"),
    ] {
        let (row, key) = domain_with(&store, &ann, name, "aws-kms", NOW).await;
        let change = DomainChange {
            signing: Some((signing.into(), reason.map(str::to_owned))),
            keys: vec![KeyChange { key_id: key.id.clone(), state: Some(state.into()), ..KeyChange::default() }],
            ..DomainChange::default()
        };
        store.change_domain(&ann, &row.id, 1, &change).await.unwrap();
        if name == "f.example" {
            store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
        }
        found.push(key.id);
    }
    let ids = |rows: Vec<KeyRow>| rows.into_iter().map(|key| key.id).collect::<Vec<_>>();
    let (first, last) = (found[0].clone(), found[4].clone());
    let page = async |after: Option<&str>, limit| ids(store.keys_of_suspended_domains(after, limit).await.unwrap());
    assert_eq!(page(None, 10).await, [first.clone(), last.clone()]);
    assert_eq!(page(None, 1).await, [first.as_str()]);
    assert_eq!(page(Some(&first), 10).await, [last]);
}

async fn a_remote_key_belongs_to_one_row(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (_, key) = domain_with(&store, &ann, "one.example", "aws-kms", NOW).await;
    let row = domain_row(&bob, "two.example");
    let stolen = KeyRow { custody: "aws-kms".into(), reference: key.reference, ..key_row(&row) };
    let result = store.insert_domain(&row, &stolen, &audit(&bob, "domain.created")).await;
    assert!(matches!(result, Err(StoreError::Conflict)), "{result:?}");
}

async fn keys_that_lie_here_are_nobody_else_s_whatever_their_custody(store: Store) {
    let ann = tenant(&store).await;
    for custody in ["imported", "aws-kms-envelope"] {
        let (row, _) = domain_with(&store, &ann, &format!("{custody}.example"), custody, NOW - 10).await;
        assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 0, "{custody}");
        assert!(store.overdue_unproven(NOW, 10).await.unwrap().is_empty(), "{custody}");
        store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
        assert!(ids_to_withdraw(&store).await.is_empty(), "{custody}");
    }
}

async fn an_rsa_key_is_imported_once_and_an_ed25519_key_into_several_domains(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let import = async |tenant: &str, name: &str, algorithm: &str, custody: &str| {
        let row = domain_row(tenant, name);
        let key = KeyRow {
            custody: custody.into(),
            algorithm: algorithm.into(),
            public_key: format!("p of {algorithm}"),
            ..key_row(&row)
        };
        store.insert_domain(&row, &key, &audit(tenant, "domain.created")).await
    };
    import(&ann, "one.example", "rsa-2048", "imported").await.unwrap();
    let again = import(&bob, "two.example", "rsa-2048", "imported").await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    import(&bob, "three.example", "rsa-2048", "sealed").await.unwrap();
    import(&ann, "four.example", "ed25519", "imported").await.unwrap();
    import(&ann, "five.example", "ed25519", "imported").await.unwrap();
}

async fn the_public_halves_of_all_keys_are_listed_also_of_deleted_domains(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, first) = domain_with(&store, &ann, "one.example", "sealed", NOW).await;
    let (_, second) = domain_with(&store, &bob, "two.example", "imported", NOW).await;
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    let ids =
        |rows: Vec<signpost_store::PublicKeyRow>| rows.into_iter().map(|r| (r.key_id, r.tenant_id)).collect::<Vec<_>>();
    let both = store.public_keys(None, 10).await.unwrap();
    assert_eq!((both[0].algorithm.as_str(), both[0].public_key.as_str()), ("rsa-2048", "MIIB"));
    assert_eq!(ids(both), [(first.id.clone(), ann.clone()), (second.id.clone(), bob.clone())]);
    assert_eq!(ids(store.public_keys(None, 1).await.unwrap()), [(first.id.clone(), ann)]);
    assert_eq!(ids(store.public_keys(Some(&first.id), 1).await.unwrap()), [(second.id, bob)]);
}

crate::on_every_database! {
    active_keys_of_domains_that_are_suspended_for_their_key_are_found,
    keys_that_lie_here_are_nobody_else_s_whatever_their_custody,
    an_rsa_key_is_imported_once_and_an_ed25519_key_into_several_domains,
    the_public_halves_of_all_keys_are_listed_also_of_deleted_domains,
    only_unproven_domains_with_remote_keys_of_that_tenant_count,
    what_is_overdue_is_unproven_and_its_remote_key_old,
    remote_keys_of_a_deleted_domain_are_owed_until_they_are_given_up,
    a_remote_key_belongs_to_one_row,
}
