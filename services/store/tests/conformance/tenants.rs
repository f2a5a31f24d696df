//! Tenants and API keys.
use crate::support::{NOW, api_key, audit, id, tenant};
use signpost_store::{ApiKeyRow, Store, StoreError, TenantRow};

async fn a_key_finds_its_tenant(store: Store) {
    let row = TenantRow { id: id(), name: "Ann".into(), suspended_at: Some(5), created_at: NOW };
    let key = api_key(&row.id);
    store.create_tenant(&row, &key, &audit(&row.id, "tenant.created")).await.unwrap();
    let (found_key, found_tenant) = store.api_key_for_authentication(&key.id).await.unwrap().unwrap();
    assert_eq!((found_tenant.id, found_tenant.name), (row.id.clone(), row.name));
    assert_eq!((found_tenant.suspended_at, found_tenant.created_at), (Some(5), NOW));
    assert_eq!((found_key.tenant_id, found_key.mac, found_key.scopes), (row.id, key.mac, key.scopes));
    assert_eq!((found_key.expires_at, found_key.revoked_at), (Some(NOW + 1000), None));
    assert!(store.api_key_for_authentication("unknown").await.unwrap().is_none());
}

async fn a_tenant_whose_key_conflicts_is_not_created(store: Store) {
    let first = tenant(&store).await;
    let taken = store.api_keys(&first).await.unwrap().remove(0).id;
    let row = TenantRow { id: id(), name: "Bob".into(), suspended_at: None, created_at: NOW };
    let key = ApiKeyRow { id: taken, ..api_key(&row.id) };
    let result = store.create_tenant(&row, &key, &audit(&row.id, "tenant.created")).await;
    assert!(matches!(result, Err(StoreError::Conflict)));
    let again = store.create_tenant(&row, &api_key(&row.id), &audit(&row.id, "tenant.created")).await;
    again.expect("nothing of the first try is left");
}

async fn keys_are_listed_newest_first_and_only_the_tenants(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let newer = ApiKeyRow { created_at: NOW + 1, ..api_key(&ann) };
    store.create_api_key(&ann, &newer, &audit(&ann, "api_key.created")).await.unwrap();
    let keys = store.api_keys(&ann).await.unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0].id, newer.id);
    assert!(store.api_keys(&bob).await.unwrap().iter().all(|key| key.tenant_id == bob));
}

async fn a_key_for_an_unknown_tenant_is_refused(store: Store) {
    let ann = tenant(&store).await;
    let result = store.create_api_key("nobody", &api_key("nobody"), &audit(&ann, "api_key.created")).await;
    assert!(matches!(result, Err(StoreError::Stale)));
}

async fn revoking_is_the_tenants_own_and_keeps_the_first_time(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let key = store.api_keys(&ann).await.unwrap().remove(0).id;
    assert!(!store.revoke_api_key(&bob, &key, NOW, &audit(&bob, "api_key.revoked")).await.unwrap());
    assert_eq!(store.api_keys(&ann).await.unwrap()[0].revoked_at, None);
    assert!(store.revoke_api_key(&ann, &key, NOW, &audit(&ann, "api_key.revoked")).await.unwrap());
    assert!(store.revoke_api_key(&ann, &key, NOW + 9, &audit(&ann, "api_key.revoked")).await.unwrap());
    assert_eq!(store.api_keys(&ann).await.unwrap()[0].revoked_at, Some(NOW));
}

async fn last_use_only_moves_forward(store: Store) {
    let ann = tenant(&store).await;
    let key = store.api_keys(&ann).await.unwrap().remove(0).id;
    let uses = [(key.clone(), NOW + 5), (key.clone(), NOW + 3), ("unknown".to_owned(), NOW)];
    store.touch_api_keys(&uses).await.unwrap();
    assert_eq!(store.api_keys(&ann).await.unwrap()[0].last_used_at, Some(NOW + 5));
    store.touch_api_keys(&[]).await.unwrap();
}

crate::on_every_database!(
    a_key_finds_its_tenant,
    a_tenant_whose_key_conflicts_is_not_created,
    keys_are_listed_newest_first_and_only_the_tenants,
    a_key_for_an_unknown_tenant_is_refused,
    revoking_is_the_tenants_own_and_keeps_the_first_time,
    last_use_only_moves_forward,
);
