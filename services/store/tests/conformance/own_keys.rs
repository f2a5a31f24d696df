//! Tenants' own keys in AWS KMS: whose ExternalId is whose, and what is not done with keys that are not ours.
use crate::support::{NOW, audit, domain_row, id, key_row, tenant};
use signpost_store::{DomainRow, KeyRow, Store, StoreError};

async fn a_tenant_has_one_external_id_for_ever(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    assert_eq!(store.external_id(&ann).await.unwrap(), None);
    assert_eq!(store.external_id_or_insert(&ann, "one", NOW).await.unwrap(), "one");
    assert_eq!(store.external_id_or_insert(&ann, "two", NOW).await.unwrap(), "one");
    assert_eq!(store.external_id(&ann).await.unwrap().as_deref(), Some("one"));
    let taken = store.external_id_or_insert(&bob, "one", NOW).await;
    assert!(matches!(taken, Err(StoreError::Conflict)), "another tenant's: {taken:?}");
    assert_eq!(store.external_id_or_insert(&bob, "two", NOW).await.unwrap(), "two");
    let nobody = store.external_id_or_insert("nobody", "three", NOW).await;
    assert!(matches!(nobody, Err(StoreError::Stale)), "{nobody:?}");
}

async fn of_racing_first_external_ids_all_see_the_same_one(store: Store) {
    let ann = tenant(&store).await;
    let fresh: Vec<String> = (0..12).map(|n| format!("id{n}")).collect();
    let calls = fresh.iter().map(|fresh| store.external_id_or_insert(&ann, fresh, NOW));
    let seen: Vec<String> = futures_util::future::join_all(calls).await.into_iter().collect::<Result<_, _>>().unwrap();
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

fn own_key(domain: &DomainRow, key: &str, p: &str) -> KeyRow {
    KeyRow {
        custody: "aws-kms".into(),
        reference: format!("awskms-role:arn:aws:kms:{key} arn:aws:iam:role"),
        sealed: Vec::new(),
        public_key: p.into(),
        created_at: NOW - 1_000,
        ..key_row(domain)
    }
}

async fn stored(store: &Store, tenant: &str) -> DomainRow {
    let row = domain_row(tenant, &format!("{}.test", id()));
    store.insert_domain(&row, &key_row(&row), &audit(tenant, "domain.created")).await.unwrap();
    row
}

async fn a_tenants_own_key_is_taken_once_by_whatever_role(store: Store) {
    let ann = tenant(&store).await;
    let domain = stored(&store, &ann).await;
    let audit = audit(&ann, "key.created");
    store.insert_key(&ann, &own_key(&domain, "one", "p1"), &audit).await.unwrap();
    let again =
        KeyRow { reference: "awskms-role:arn:aws:kms:one arn:aws:iam:other".into(), ..own_key(&domain, "", "p1") };
    let again = store.insert_key(&ann, &again, &crate::support::audit(&ann, "key.created")).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    store.insert_key(&ann, &own_key(&domain, "two", "p2"), &crate::support::audit(&ann, "key.created")).await.unwrap();
}

async fn an_unproven_domain_does_not_expire_for_a_key_that_costs_its_tenant_only(store: Store) {
    let ann = tenant(&store).await;
    let domain = stored(&store, &ann).await;
    store.insert_key(&ann, &own_key(&domain, "one", "p1"), &audit(&ann, "key.created")).await.unwrap();
    assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 0);
    assert!(store.overdue_unproven(NOW, 10).await.unwrap().is_empty());
    let ours = KeyRow { reference: "awskms:arn:aws:kms:three".into(), ..own_key(&domain, "three", "p3") };
    store.insert_key(&ann, &ours, &audit(&ann, "key.created")).await.unwrap();
    assert_eq!(store.count_unproven_with_remote_keys(&ann).await.unwrap(), 1);
    assert_eq!(store.overdue_unproven(NOW, 10).await.unwrap().len(), 1);
}

crate::on_every_database!(
    a_tenant_has_one_external_id_for_ever,
    of_racing_first_external_ids_all_see_the_same_one,
    a_tenants_own_key_is_taken_once_by_whatever_role,
    an_unproven_domain_does_not_expire_for_a_key_that_costs_its_tenant_only,
);
