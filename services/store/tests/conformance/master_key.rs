//! Which master keys are needed, and the moving of what is sealed from one to the next.
use crate::support::{NOW, audit, domain_row, id, key_row, tenant};
use signpost_store::{KeyRow, MasterKeyChange, MasterKeyRows, Resealed, SealedUnder, Store, StoreError, TokenKeyRow};

const OLD: [u8; 8] = *b"oldoldol";
const NEW: [u8; 8] = *b"newnewne";

fn sealed(name: [u8; 8], rest: &[u8]) -> Vec<u8> {
    [&name, rest].concat()
}

fn change(seen: &[u8], check: &[u8], name: [u8; 8]) -> MasterKeyChange {
    MasterKeyChange { seen_check: seen.to_vec(), check: check.to_vec(), name, pepper: [check, b" pepper"].concat() }
}

/// A domain with one key, sealed so.
async fn stored(store: &Store, custody: &str, octets: Vec<u8>) -> Result<KeyRow, StoreError> {
    let row = domain_row(&tenant(store).await, &format!("{}.test", id()));
    let key = KeyRow {
        custody: custody.into(),
        sealed: octets,
        reference: format!("{custody}:{}", id()),
        public_key: id(),
        ..key_row(&row)
    };
    store.insert_domain(&row, &key, &audit(&row.tenant_id, "domain.created")).await.map(|()| key)
}

fn token_key(number: i64, octets: Vec<u8>) -> TokenKeyRow {
    TokenKeyRow { number, kid: id(), public_key: vec![7; 32], sealed: octets, signs_from: NOW }
}

async fn a_change_begins_once_and_from_the_key_that_was_seen(store: Store) {
    assert_eq!(store.master_key_rows().await.unwrap(), MasterKeyRows::default());
    let early = store.begin_master_key_change(&change(b"one", b"two", NEW)).await;
    assert!(matches!(early, Err(StoreError::Stale)), "{early:?}");
    assert_eq!(store.first_master_key(b"one").await.unwrap(), b"one");
    assert_eq!(store.first_master_key(b"two").await.unwrap(), b"one");
    let wrong = store.begin_master_key_change(&change(b"two", b"three", NEW)).await;
    assert!(matches!(wrong, Err(StoreError::Stale)), "{wrong:?}");
    store.begin_master_key_change(&change(b"one", b"two", NEW)).await.unwrap();
    let begun = MasterKeyRows {
        check: Some(b"two".to_vec()),
        former: Some(b"one".to_vec()),
        pepper: Some(b"two pepper".to_vec()),
    };
    assert_eq!(store.master_key_rows().await.unwrap(), begun);
    let third = store.begin_master_key_change(&change(b"two", b"three", *b"threethr")).await;
    assert!(matches!(third, Err(StoreError::Conflict)), "{third:?}");
    assert_eq!(store.master_key_rows().await.unwrap(), begun);
}

async fn of_racing_changes_one_begins(store: Store) {
    store.first_master_key(b"one").await.unwrap();
    let changes: Vec<_> = (0..8u8).map(|n| change(b"one", &[n], [n; 8])).collect();
    let begun = futures_util::future::join_all(changes.iter().map(|c| store.begin_master_key_change(c))).await;
    let winners: Vec<usize> = begun.iter().enumerate().filter(|(_, b)| b.is_ok()).map(|(n, _)| n).collect();
    assert_eq!(winners.len(), 1, "{begun:?}");
    let rows = store.master_key_rows().await.unwrap();
    assert_eq!(rows.check, Some(changes[winners[0]].check.clone()));
    assert_eq!(rows.pepper, Some(changes[winners[0]].pepper.clone()));
}

async fn what_is_sealed_is_found_by_its_master_key_and_replaced_if_unchanged(store: Store) {
    store.first_master_key(b"one").await.unwrap();
    let mut keys = Vec::new();
    for n in 0..5 {
        keys.push(stored(&store, if n == 4 { "imported" } else { "sealed" }, sealed(OLD, &[n])).await.unwrap());
    }
    stored(&store, "aws-kms-envelope", sealed(OLD, b"wrapped elsewhere")).await.unwrap();
    stored(&store, "aws-kms", Vec::new()).await.unwrap();
    stored(&store, "sealed", sealed(NEW, b"x")).await.unwrap();
    let token = token_key(1, sealed(OLD, b"token"));
    store.insert_token_key(&token).await.unwrap();
    let under = |name: [u8; 8], keys| SealedUnder { name: name.to_vec(), keys };
    assert_eq!(store.sealed_under().await.unwrap(), [under(NEW, 1), under(OLD, 6)]);

    let page = store.keys_sealed_under(OLD, None, 3).await.unwrap();
    let ids = |rows: &[KeyRow]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&page), ids(&keys[..3]));
    let rest = store.keys_sealed_under(OLD, Some(&page[2].id), 3).await.unwrap();
    assert_eq!(ids(&rest), ids(&keys[3..]));
    assert_eq!(rest[1].sealed, sealed(OLD, &[4]));

    let anew = |key: &KeyRow, old: Vec<u8>| Resealed {
        tenant_id: key.tenant_id.clone(),
        key_id: key.id.clone(),
        old,
        new: sealed(NEW, b"anew"),
    };
    let foreign = Resealed { tenant_id: keys[1].tenant_id.clone(), ..anew(&keys[0], keys[0].sealed.clone()) };
    let outdated = anew(&keys[2], sealed(OLD, b"something else"));
    let changes = vec![anew(&keys[1], keys[1].sealed.clone()), foreign, outdated];
    assert_eq!(store.replace_sealed(changes.clone()).await.unwrap(), 1);
    assert_eq!(store.replace_sealed(changes).await.unwrap(), 0, "once only");
    assert_eq!(store.replace_sealed(Vec::new()).await.unwrap(), 0);
    let moved = store.key(&keys[1].tenant_id, &keys[1].id).await.unwrap().unwrap();
    assert_eq!(moved.sealed, sealed(NEW, b"anew"));

    assert!(!store.replace_sealed_token_key(&token.kid, b"other", b"x").await.unwrap());
    assert!(store.replace_sealed_token_key(&token.kid, &token.sealed, &sealed(NEW, b"t")).await.unwrap());
    assert_eq!(store.sealed_under().await.unwrap(), [under(NEW, 3), under(OLD, 4)]);
}

async fn a_change_ends_when_nothing_is_left_and_nothing_comes_after(store: Store) {
    store.first_master_key(b"one").await.unwrap();
    let key = stored(&store, "sealed", sealed(OLD, b"k")).await.unwrap();
    let token = token_key(1, sealed(OLD, b"t"));
    store.insert_token_key(&token).await.unwrap();
    assert!(!store.end_master_key_change(b"one", OLD).await.unwrap(), "none was begun");
    store.begin_master_key_change(&change(b"one", b"two", NEW)).await.unwrap();
    let late = stored(&store, "imported", sealed(OLD, b"late")).await.unwrap();
    for row in [&key, &late] {
        assert!(!store.end_master_key_change(b"one", OLD).await.unwrap());
        let anew = Resealed {
            tenant_id: row.tenant_id.clone(),
            key_id: row.id.clone(),
            old: row.sealed.clone(),
            new: sealed(NEW, b"anew"),
        };
        store.replace_sealed(vec![anew]).await.unwrap();
    }
    assert!(!store.end_master_key_change(b"one", OLD).await.unwrap(), "a key of tokens is left");
    store.replace_sealed_token_key(&token.kid, &token.sealed, &sealed(NEW, b"t")).await.unwrap();
    assert!(!store.end_master_key_change(b"other", OLD).await.unwrap(), "another change");
    assert!(store.end_master_key_change(b"one", OLD).await.unwrap());
    assert!(!store.end_master_key_change(b"one", OLD).await.unwrap(), "once only");
    let rows = store.master_key_rows().await.unwrap();
    assert_eq!((rows.check.as_deref(), rows.former), (Some(b"two".as_slice()), None));

    for custody in ["sealed", "imported"] {
        let refused = stored(&store, custody, sealed(OLD, b"too late")).await.map(|_| ());
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    let refused = store.insert_token_key(&token_key(2, sealed(OLD, b"too late"))).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    // Nor does one come back by a worker that slept.
    let slept = Resealed {
        tenant_id: key.tenant_id.clone(),
        key_id: key.id.clone(),
        old: sealed(NEW, b"anew"),
        new: sealed(OLD, b"slept"),
    };
    assert!(matches!(store.replace_sealed(vec![slept]).await, Err(StoreError::Unavailable(_))));
    let token_slept = store.replace_sealed_token_key(&token.kid, &sealed(NEW, b"t"), &sealed(OLD, b"slept")).await;
    assert!(matches!(token_slept, Err(StoreError::Unavailable(_))));
    stored(&store, "sealed", sealed(NEW, b"in time")).await.unwrap();
    // Back again.
    store.begin_master_key_change(&change(b"two", b"one", OLD)).await.unwrap();
    stored(&store, "sealed", sealed(OLD, b"good again")).await.unwrap();
}

async fn a_worker_that_slept_through_a_change_seals_nothing_under_a_key_taken_out_of_use(store: Store) {
    store.first_master_key(b"one").await.unwrap();
    // There and back: what the sleeper would move is under the key in use now, and its target is retired.
    store.begin_master_key_change(&change(b"one", b"two", NEW)).await.unwrap();
    assert!(store.end_master_key_change(b"one", OLD).await.unwrap());
    store.begin_master_key_change(&change(b"two", b"one", OLD)).await.unwrap();
    assert!(store.end_master_key_change(b"two", NEW).await.unwrap());
    let mut keys = Vec::new();
    for n in 0..2 {
        keys.push(stored(&store, "sealed", sealed(OLD, &[n])).await.unwrap());
    }
    let token = token_key(1, sealed(OLD, b"t"));
    store.insert_token_key(&token).await.unwrap();

    let anew = |key: &KeyRow, name: [u8; 8]| Resealed {
        tenant_id: key.tenant_id.clone(),
        key_id: key.id.clone(),
        old: key.sealed.clone(),
        new: sealed(name, b"anew"),
    };
    for batch in [vec![anew(&keys[0], NEW)], vec![anew(&keys[0], OLD), anew(&keys[1], NEW)]] {
        let refused = store.replace_sealed(batch).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    }
    let refused = store.replace_sealed_token_key(&token.kid, &token.sealed, &sealed(NEW, b"t")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let still = store.key(&keys[0].tenant_id, &keys[0].id).await.unwrap().unwrap();
    assert_eq!(still.sealed, keys[0].sealed, "a batch is replaced whole or not at all");
    assert_eq!(store.sealed_under().await.unwrap(), [SealedUnder { name: OLD.to_vec(), keys: 3 }]);
    assert_eq!(store.replace_sealed(vec![anew(&keys[0], OLD)]).await.unwrap(), 1);
}

async fn what_is_being_stored_while_a_change_ends_is_moved_or_refused(store: Store) {
    store.first_master_key(b"one").await.unwrap();
    store.begin_master_key_change(&change(b"one", b"two", NEW)).await.unwrap();
    let adding = async {
        let mut stored_keys = Vec::new();
        for n in 0..40 {
            match stored(&store, "sealed", sealed(OLD, &[n])).await {
                Ok(key) => stored_keys.push(key),
                Err(error) => {
                    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                    break;
                }
            }
        }
        stored_keys.len()
    };
    let ending = async {
        let mut moved = 0;
        loop {
            let rows = store.keys_sealed_under(OLD, None, 100).await.unwrap();
            let anew = rows.into_iter().map(|row| Resealed {
                new: sealed(NEW, b"anew"),
                tenant_id: row.tenant_id,
                key_id: row.id,
                old: row.sealed,
            });
            moved += store.replace_sealed(anew.collect()).await.unwrap();
            if store.end_master_key_change(b"one", OLD).await.unwrap() {
                return moved;
            }
        }
    };
    let (stored_keys, moved) = futures_util::future::join(adding, ending).await;
    assert_eq!(stored_keys as u64, moved);
    assert_eq!(store.keys_sealed_under(OLD, None, 100).await.unwrap().len(), 0);
}

crate::on_every_database!(
    a_change_begins_once_and_from_the_key_that_was_seen,
    of_racing_changes_one_begins,
    what_is_sealed_is_found_by_its_master_key_and_replaced_if_unchanged,
    a_change_ends_when_nothing_is_left_and_nothing_comes_after,
    a_worker_that_slept_through_a_change_seals_nothing_under_a_key_taken_out_of_use,
    what_is_being_stored_while_a_change_ends_is_moved_or_refused,
);
