//! Keys that sign access tokens.
use crate::support::{NOW, id};
use signpost_store::{Store, TokenKeyRow};

fn key(number: i64) -> TokenKeyRow {
    TokenKeyRow { number, kid: id(), public_key: vec![7; 32], sealed: vec![0, 1, 255], signs_from: NOW + number }
}

async fn of_two_successors_the_first_one_stays(store: Store) {
    assert_eq!(store.token_keys().await.unwrap(), []);
    let (second, first, late) = (key(2), key(1), key(2));
    for row in [&second, &first, &late] {
        store.insert_token_key(row).await.unwrap();
    }
    assert_eq!(store.token_keys().await.unwrap(), [first, second]);
}

async fn only_older_keys_are_deleted(store: Store) {
    let rows: Vec<TokenKeyRow> = (1..=3).map(key).collect();
    for row in &rows {
        store.insert_token_key(row).await.unwrap();
    }
    store.delete_token_keys_before(1).await.unwrap();
    assert_eq!(store.token_keys().await.unwrap(), rows);
    store.delete_token_keys_before(3).await.unwrap();
    assert_eq!(store.token_keys().await.unwrap(), rows[2..]);
}

async fn racing_processes_end_up_with_one_key(store: Store) {
    let races = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            store.insert_token_key(&key(1)).await.unwrap();
            store.token_keys().await.unwrap()
        })
    });
    let races: Vec<_> = races.collect();
    let mut seen = Vec::new();
    for race in races {
        seen.extend(race.await.unwrap());
    }
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(|row| *row == seen[0]), "each sees the winner's");
}

crate::on_every_database! {
    of_two_successors_the_first_one_stays,
    only_older_keys_are_deleted,
    racing_processes_end_up_with_one_key,
}
