//! Facts about the installation, readiness, closing.
use signpost_store::{Store, StoreError};

async fn a_value_is_stored_once(store: Store) {
    assert_eq!(store.meta("master_key_check").await.unwrap(), None);
    assert_eq!(store.meta_or_insert("master_key_check", b"one").await.unwrap(), b"one");
    assert_eq!(store.meta_or_insert("master_key_check", b"two").await.unwrap(), b"one");
    assert_eq!(store.meta("master_key_check").await.unwrap().as_deref(), Some(b"one".as_slice()));
    assert_eq!(store.meta("other").await.unwrap(), None);
}

async fn of_racing_first_values_all_see_the_same_one(store: Store) {
    let values: Vec<[u8; 1]> = (0..20).map(|n| [n]).collect();
    let seen =
        futures_util::future::join_all(values.iter().map(|value| store.meta_or_insert("master_key_check", value)))
            .await;
    let first = seen[0].as_ref().unwrap().clone();
    assert!(seen.into_iter().all(|value| value.unwrap() == first));
}

async fn a_closed_store_is_unavailable(store: Store) {
    store.ping().await.unwrap();
    store.close().await;
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.meta_or_insert("a", b"b").await, Err(StoreError::Unavailable(_))));
    store.close().await;
}

crate::on_every_database!(
    a_value_is_stored_once,
    of_racing_first_values_all_see_the_same_one,
    a_closed_store_is_unavailable,
);
