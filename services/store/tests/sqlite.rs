//! What is SQLite's own: files, locks, restarts.
#![cfg(test)]

#[path = "conformance/support.rs"]
#[expect(dead_code, reason = "shared with the conformance suite, which uses the rest")]
mod support;

use signpost_store::{Begin, Fence, NewMessage, Store, StoreError, StoreSettings};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::{
    NOW, audit, domain, id, new_message, outcome, release_change, scope, statuses, tenant, waiting_message, worker,
};
use tempfile::TempDir;

fn settings(path: &Path, exclusive: bool) -> StoreSettings {
    StoreSettings { sqlite_path: path.to_owned(), exclusive }
}

async fn open(path: &Path, exclusive: bool) -> Result<Store, StoreError> {
    Store::open(settings(path, exclusive)).await
}

fn database(folder: &TempDir) -> PathBuf {
    folder.path().join("data").join("signpost.db")
}

async fn directly(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

#[tokio::test]
async fn files_are_for_their_owner_only() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    tenant(&store).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let data = path.parent().unwrap();
    assert_eq!(mode(data), 0o700);
    let names: Vec<PathBuf> = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.len() >= 4, "database, log, shared memory and lock: {names:?}");
    for name in names {
        assert_eq!(mode(&name), 0o600, "{name:?}");
    }
    store.close().await;
}

#[tokio::test]
async fn one_process_serves_a_folder_and_others_work_beside_it() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let serving = open(&path, true).await.unwrap();
    assert!(matches!(open(&path, true).await, Err(StoreError::InUse)));

    let beside = open(&path, false).await.unwrap();
    let ann = tenant(&beside).await;
    assert_eq!(serving.api_keys(&ann).await.unwrap().len(), 1);
    domain(&serving, &ann, "example.com").await;
    beside.close().await;
    assert!(matches!(open(&path, true).await, Err(StoreError::InUse)));

    serving.close().await;
    let next = open(&path, true).await.unwrap();
    assert_eq!(next.domains(&ann, None, 10).await.unwrap().rows.len(), 1);
    next.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn first_starts_that_race_all_find_a_whole_database() {
    for round in 0..20 {
        let folder = TempDir::new().unwrap();
        let path = database(&folder);
        let starts: Vec<_> = (0..24)
            .map(|_| {
                let path = path.clone();
                tokio::spawn(async move { open(&path, false).await })
            })
            .collect();
        for start in starts {
            let store = start.await.unwrap().unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            tenant(&store).await;
            store.close().await;
        }
    }
}

/// A claimed message, a message that is being released, and a request in flight.
async fn busy(store: &Store) -> (Fence, NewMessage, NewMessage) {
    let ann = tenant(store).await;
    let (row, _) = domain(store, &ann, "example.com").await;
    let sending = new_message(&row, &["bob@example.net", "cat@example.org"]);
    let held = waiting_message(&row, "held", Some(NOW));
    for new in [&sending, &held] {
        store.accept_message(new.clone()).await.unwrap();
    }
    let fence = worker(store).await;
    assert_eq!(store.claim_waiting(&fence, NOW, 10).await.unwrap().len(), 1);
    assert_eq!(store.claim_deliveries(&fence, NOW, 10).await.unwrap().len(), 1);
    assert_eq!(store.begin_idempotent(&scope(&ann, "k"), b"a", NOW).await.unwrap(), Begin::Started);
    (fence, sending, held)
}

#[tokio::test]
async fn a_restart_voids_the_leases_of_the_boot_before() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    let (old, sending, held) = busy(&store).await;
    let ann = sending.message.tenant_id.clone();
    store.close().await;

    let store = open(&path, true).await.unwrap();
    assert_eq!(statuses(&store, &sending).await, ("queued".into(), vec!["queued".into(); 2]));
    assert_eq!(statuses(&store, &held).await.0, "held");
    let late = [outcome(&sending.recipients[0].id, "delivered", None)];
    assert!(matches!(store.settle(&old, &sending.message.id, &late, NOW).await, Err(StoreError::Stale)));
    let late = store.release(&old, &held.message.id, &release_change("queued", None), NOW).await;
    assert!(matches!(late, Err(StoreError::Stale)));
    assert!(matches!(store.heartbeat(&old, NOW).await, Err(StoreError::Stale)));
    let fence = worker(&store).await;
    assert!(fence.epoch > old.epoch);
    let claimed = store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    assert_eq!(claimed[0].recipients.len(), 2);
    assert!(claimed[0].recipients.iter().all(|row| row.uncertain), "nobody knows what became of the attempts");
    assert_eq!(store.claim_waiting(&fence, NOW, 10).await.unwrap().len(), 1);
    assert_eq!(store.begin_idempotent(&scope(&ann, "k"), b"b", NOW).await.unwrap(), Begin::Started);
    store.close().await;
}

#[tokio::test]
async fn a_process_beside_the_serving_one_leaves_its_leases_alone() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let serving = open(&path, true).await.unwrap();
    let (fence, sending, held) = busy(&serving).await;
    let beside = open(&path, false).await.unwrap();
    beside.close().await;
    let outcomes = [outcome(&sending.recipients[0].id, "delivered", None)];
    serving.settle(&fence, &sending.message.id, &outcomes, NOW).await.unwrap();
    serving.release(&fence, &held.message.id, &release_change("queued", None), NOW).await.unwrap();
    let scope = scope(&sending.message.tenant_id, "k");
    assert_eq!(serving.begin_idempotent(&scope, b"a", NOW).await.unwrap(), Begin::InFlight);
    serving.close().await;
}

#[tokio::test]
async fn octets_of_withdrawn_keys_are_in_no_file() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    let ann = tenant(&store).await;
    let planted = b"planted-octets-of-a-sealed-key".repeat(60);
    let row = support::domain_row(&ann, "example.com");
    let mut key = support::key_row(&row);
    key.sealed = planted.clone();
    store.insert_domain(&row, &key, &audit(&ann, "domain.created")).await.unwrap();
    let needle = &planted[..30];
    let found = || {
        let files = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let octets: Vec<u8> = files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        octets.windows(needle.len()).any(|window| window == needle)
    };
    assert!(found(), "else this test could not fail");
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    assert!(!found());
    store.close().await;
    assert!(!found());
}

#[tokio::test]
async fn audit_rows_cannot_be_changed_or_deleted() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    tenant(&store).await;
    store.close().await;
    let mut conn = directly(&path).await;
    for statement in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"] {
        let error = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    // REPLACE deletes silently what is in its way.
    for replace in ["INSERT OR REPLACE", "REPLACE"] {
        let statement = format!(
            "{replace} INTO audit SELECT id, tenant_id, 'x', action, object, details, request_id, at, domain_id FROM audit"
        );
        let error = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    let rows: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM audit WHERE actor = 'system'").fetch_one(&mut conn).await.unwrap();
    assert_eq!(rows, 1);
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_target_that_was_given_out_stays_with_its_claim() {
    let folder = TempDir::new().unwrap();
    let store = open(&database(&folder), true).await.unwrap();
    let slot = support::delegated_domain(&store).await;
    let mut conn = directly(&database(&folder)).await;
    for statement in [
        "DELETE FROM delegation_slots",
        "UPDATE delegation_slots SET domain_id = 'another'",
        "UPDATE delegation_slots SET target = target || '.x'",
    ] {
        let error = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains("never given out again"), "{statement}: {error}");
    }
    assert_eq!(store.slot(&slot.target).await.unwrap().unwrap().domain_id, slot.domain_id);
    store.close().await;
}

#[tokio::test]
async fn every_change_that_names_an_actor_leaves_its_audit_row() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    store.insert_key(&ann, &support::key_row(&row), &audit(&ann, "key.created")).await.unwrap();
    store.create_api_key(&ann, &support::api_key(&ann), &audit(&ann, "api_key.created")).await.unwrap();
    let key = store.api_keys(&ann).await.unwrap().remove(0).id;
    store.revoke_api_key(&ann, &key, NOW, &audit(&ann, "api_key.revoked")).await.unwrap();
    let mut new = new_message(&row, &["bob@example.net"]);
    new.audit = Some(audit(&ann, "message.accepted"));
    store.accept_message(new.clone()).await.unwrap();
    let mut change = support::proof("example.com", 0, None);
    change.audit = vec![audit(&ann, "domain.verified")];
    store.change_domain(&ann, &row.id, 2, &change).await.unwrap();
    store.delete_domain(&ann, &row.id, NOW, &id, &audit(&ann, "domain.deleted")).await.unwrap();
    store.close().await;
    let mut conn = directly(&path).await;
    let actions: Vec<String> = sqlx::query_scalar("SELECT action FROM audit WHERE tenant_id = $1 ORDER BY id")
        .bind(&ann)
        .fetch_all(&mut conn)
        .await
        .unwrap();
    let expected = [
        "tenant.created",
        "key.created",
        "domain.created",
        "key.created",
        "api_key.created",
        "api_key.revoked",
        "message.accepted",
        "domain.verified",
        "domain.deleted",
        "key.revoked",
        "key.revoked",
    ];
    assert_eq!(actions, expected);
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_row_that_we_cannot_read_is_damage_and_its_error_shows_no_data() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let new = new_message(&row, &["bob@example.net"]);
    store.accept_message(new.clone()).await.unwrap();
    let mut conn = directly(&path).await;
    sqlx::query("UPDATE messages SET tags = 'secret-data'").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let error = store.message(&ann, &new.message.id).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)));
    assert!(!format!("{error} {error:?}").contains("secret-data"));
    store.close().await;
}

/// One bad row must not stop the queue: the others are claimed, and it is put off.
#[tokio::test]
async fn a_message_that_cannot_be_read_stops_no_other() {
    let folder = TempDir::new().unwrap();
    let path = database(&folder);
    let store = open(&path, true).await.unwrap();
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let queued = [(); 2].map(|()| new_message(&row, &["bob@example.net"]));
    let held = [(); 2].map(|()| waiting_message(&row, "held", Some(NOW)));
    for new in queued.iter().chain(&held) {
        store.accept_message(new.clone()).await.unwrap();
    }
    let mut conn = directly(&path).await;
    for bad in [&queued[0], &held[0]] {
        let spoilt = sqlx::query("UPDATE messages SET tags = 'no JSON' WHERE id = $1").bind(&bad.message.id);
        spoilt.execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    let fence = worker(&store).await;
    let claimed = store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    assert_eq!(claimed.iter().map(|delivery| &delivery.message.id).collect::<Vec<_>>(), [&queued[1].message.id]);
    let waiting = store.claim_waiting(&fence, NOW, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|waiting| &waiting.message.id).collect::<Vec<_>>(), [&held[1].message.id]);
    assert_eq!(store.next_due().await.unwrap(), Some(NOW + 600_000), "put off, not lost");
    store.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_and_a_newer_schema_are_damage() {
    let folder = TempDir::new().unwrap();
    let garbage = folder.path().join("garbage.db");
    std::fs::write(&garbage, [b'x'; 8192]).unwrap();
    assert!(matches!(open(&garbage, true).await, Err(StoreError::Damaged(_))));
    assert_eq!(std::fs::read(&garbage).unwrap(), [b'x'; 8192], "it was left as it is");

    let path = database(&folder);
    open(&path, true).await.unwrap().close().await;
    let mut conn = directly(&path).await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'newer', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    assert!(matches!(open(&path, true).await, Err(StoreError::Damaged(_))));
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_unavailable() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = open(&file.join("signpost.db"), true).await;
    assert!(matches!(error, Err(StoreError::Unavailable(_))));
}
