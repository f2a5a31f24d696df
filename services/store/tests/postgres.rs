//! What is PostgreSQL's own: settings, several processes, a server that goes away.
#![cfg(test)]

#[path = "conformance/support.rs"]
#[expect(dead_code, reason = "shared with the conformance suite, which uses the rest")]
mod support;

use futures_util::future::join_all;
use signpost_store::{Store, StoreError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{
    Fresh, NOW, PostgresServer, accepted, connect, domain, new_message, outcome, release_change, server, statuses,
    tenant, waiting_message,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

#[tokio::test]
async fn a_server_that_does_not_flush_is_refused() {
    let lazy = PostgresServer::start_with(&["fsync=off"]);
    match connect(&lazy.database()).await {
        Err(StoreError::Refused(why)) => assert!(why.contains("fsync"), "{why}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was taken"),
    }
}

#[tokio::test]
async fn every_commit_waits_for_the_disk_whatever_the_default_is() {
    let fresh = Fresh::postgres().await;
    assert_eq!(server().sql(&fresh.url, "SHOW synchronous_commit"), "off", "else this test could not fail");
    let spy = "CREATE TABLE seen (setting TEXT);
               CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;
               CREATE TRIGGER looks BEFORE INSERT ON meta FOR EACH ROW EXECUTE FUNCTION look();";
    server().sql(&fresh.url, spy);
    let names: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
    for stored in join_all(names.iter().map(|name| fresh.store.meta_or_insert(name, b"x"))).await {
        stored.unwrap();
    }
    assert_eq!(server().sql(&fresh.url, "SELECT setting, COUNT(*) FROM seen GROUP BY 1"), "on|40");
}

#[tokio::test]
async fn a_target_that_was_given_out_stays_with_its_claim() {
    let fresh = Fresh::postgres().await;
    let slot = support::delegated_domain(&fresh.store).await;
    for statement in [
        "DELETE FROM delegation_slots",
        "TRUNCATE delegation_slots",
        "UPDATE delegation_slots SET domain_id = 'another'",
        "UPDATE delegation_slots SET target = target || '.x'",
    ] {
        let tried = format!(
            "DO $$ BEGIN {statement}; RAISE EXCEPTION 'it was done' USING ERRCODE = 'XX000';
                   EXCEPTION WHEN raise_exception THEN
                       IF SQLERRM NOT LIKE '%never given out again%' THEN RAISE; END IF; END $$"
        );
        server().sql(&fresh.url, &tried);
    }
    assert_eq!(fresh.store.slot(&slot.target).await.unwrap().unwrap().domain_id, slot.domain_id);
}

#[tokio::test]
async fn an_engine_without_these_settings_is_taken() {
    let url = server().database();
    // As seen by a session of ours, the server knows no setting.
    let blind = "CREATE SCHEMA blind;
                 CREATE FUNCTION blind.current_setting(TEXT, BOOLEAN) RETURNS TEXT LANGUAGE sql AS 'SELECT NULL::TEXT';
                 DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = blind, pg_catalog, public',
                                            current_database()); END $$;
                 CREATE SCHEMA IF NOT EXISTS public;";
    server().sql(&url, blind);
    let store = connect(&url).await.unwrap();
    tenant(&store).await;
    store.close().await;
}

#[tokio::test]
async fn first_starts_that_race_all_find_a_whole_database() {
    let url = server().database();
    for store in join_all((0..8).map(|_| connect(&url))).await {
        let store = store.unwrap();
        tenant(&store).await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_damage() {
    let fresh = Fresh::postgres().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'newer', TRUE, '\\x00', 0)";
    server().sql(&fresh.url, newer);
    assert!(matches!(connect(&fresh.url).await, Err(StoreError::Damaged(_))));
}

#[tokio::test]
async fn audit_rows_cannot_be_changed_or_deleted() {
    let fresh = Fresh::postgres().await;
    tenant(&fresh.store).await;
    for statement in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"] {
        let guarded = format!(
            "DO $$ BEGIN {statement}; EXCEPTION WHEN raise_exception THEN
             IF SQLERRM LIKE '%append-only%' THEN RETURN; END IF; RAISE; END $$"
        );
        server().sql(&fresh.url, &guarded);
    }
    assert_eq!(server().sql(&fresh.url, "SELECT COUNT(*) FROM audit WHERE actor = 'system'"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_send_to_each_recipient_once() {
    let fresh = Fresh::postgres().await;
    let (row, first) = accepted(&fresh.store, &["a@example.net", "b@example.net"]).await;
    let mut messages = vec![first];
    for n in 0..60_i64 {
        let mut new = new_message(&row, &["a@example.net", "b@example.net", "c@example.net"]);
        // Due at different times: the recipients of a message are to be found apart from each other, too.
        for (recipient, at) in new.recipients.iter_mut().zip([0, n % 7, 3]) {
            recipient.next_attempt_at = Some(NOW + at);
        }
        fresh.store.accept_message(new.clone()).await.unwrap();
        messages.push(new);
    }
    let workers = (0..4).map(|n| {
        let url = fresh.url.clone();
        tokio::spawn(async move {
            let store = connect(&url).await.unwrap();
            let fence = store.start_worker(&format!("w{n}"), NOW).await.unwrap();
            let mut sent: Vec<String> = Vec::new();
            let mut now = NOW;
            while now <= NOW + 10 {
                let claimed = store.claim_deliveries(&fence, now, 5).await.unwrap();
                if claimed.is_empty() {
                    now += 1;
                }
                for delivery in claimed {
                    assert!(!delivery.recipients.is_empty());
                    let outcomes: Vec<_> =
                        delivery.recipients.iter().map(|row| outcome(&row.id, "delivered", None)).collect();
                    store.settle(&fence, &delivery.message.id, &outcomes, now).await.unwrap();
                    sent.extend(delivery.recipients.into_iter().map(|row| row.id));
                }
            }
            store.close().await;
            sent
        })
    });
    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for worker in join_all(workers).await {
        for id in worker.unwrap() {
            *times.entry(id).or_default() += 1;
        }
    }
    let recipients = messages.iter().flat_map(|new| &new.recipients);
    assert_eq!(times, recipients.map(|row| (row.id.clone(), 1)).collect());
    for new in &messages {
        assert_eq!(statuses(&fresh.store, new).await.0, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_mail_is_left_behind_by_a_deletion_that_races_with_its_acceptance() {
    for _ in 0..5 {
        let fresh = Fresh::postgres().await;
        let (row, first) = accepted(&fresh.store, &["bob@example.net"]).await;
        let accepts = (0..30).map(|_| {
            let (store, new) = (fresh.store.clone(), new_message(&row, &["bob@example.net"]));
            tokio::spawn(async move { store.accept_message(new.clone()).await.map(|()| new) })
        });
        let accepts: Vec<_> = accepts.collect();
        let audit = support::audit(&row.tenant_id, "domain.deleted");
        assert!(fresh.store.delete_domain(&row.tenant_id, &row.id, NOW, &support::id, &audit).await.unwrap());
        let mut accepted = vec![first];
        for accept in accepts {
            match accept.await.unwrap() {
                Ok(new) => accepted.push(new),
                Err(error) => assert!(matches!(error, StoreError::Stale), "{error:?}"),
            }
        }
        for new in &accepted {
            assert_eq!(statuses(&fresh.store, new).await, ("cancelled".into(), vec!["cancelled".into()]));
        }
        fresh.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_owners_that_take_a_name_from_each_other_never_wait_for_each_other() {
    let fresh = Fresh::postgres().await;
    let store = &fresh.store;
    let mut rows = Vec::new();
    for _ in 0..4 {
        rows.push(domain(store, &tenant(store).await, "example.com").await.0);
    }
    let mut taken = 0;
    for _ in 0..25 {
        let seen = store.name_version("example.com").await.unwrap().version;
        let change = support::proof("example.com", seen, None);
        let mut claims = Vec::new();
        for row in &rows {
            let version = store.domain(&row.tenant_id, &row.id).await.unwrap().unwrap().version;
            let (store, row, change) = (store.clone(), row.clone(), change.clone());
            claims.push(tokio::spawn(
                async move { store.change_domain(&row.tenant_id, &row.id, version, &change).await },
            ));
        }
        for claim in claims {
            match claim.await.unwrap() {
                Ok(()) => taken += 1,
                Err(error) => assert!(matches!(error, StoreError::Contested | StoreError::Stale), "{error:?}"),
            }
        }
    }
    assert!(taken >= 25, "{taken}");
}

#[tokio::test]
async fn while_the_server_is_away_nothing_is_accepted_and_it_recovers_by_itself() {
    let mut own = PostgresServer::start();
    let store = connect(&own.database()).await.unwrap();
    let (row, first) = accepted(&store, &["bob@example.net"]).await;
    own.stop();
    let lost = new_message(&row, &["bob@example.net"]);
    for _ in 0..2 {
        assert!(matches!(store.accept_message(lost.clone()).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(store.message(&row.tenant_id, &first.message.id).await, Err(StoreError::Unavailable(_))));
    }
    own.start_again();
    // What the pool held is dead; it is found out one by one at the worst.
    tokio::time::timeout(Duration::from_secs(60), async { while store.ping().await.is_err() {} }).await.unwrap();
    assert!(store.message(&row.tenant_id, &first.message.id).await.unwrap().is_some(), "it was acknowledged");
    assert!(store.message(&row.tenant_id, &lost.message.id).await.unwrap().is_none());
    store.accept_message(lost.clone()).await.unwrap();
    store.close().await;
    own.stop();
    assert!(matches!(connect(&own.url("test0")).await, Err(StoreError::Unavailable(_))));
}

/// Stands between a store and the server; once told, it lets a COMMIT through and swallows the answer with the connection.
struct Swallower {
    _folder: tempfile::TempDir,
    url: String,
    armed: Arc<AtomicBool>,
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Swallower {
    fn before(url: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let (server, ours) = (server().folder().to_owned(), armed.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, server.clone(), ours.clone()));
            }
        });
        let url = url.replace(&server_folder(), &folder.path().display().to_string());
        Self { _folder: folder, url, armed }
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

fn server_folder() -> String {
    server().folder().display().to_string()
}

async fn pass_on(client: UnixStream, server: PathBuf, armed: Arc<AtomicBool>) {
    let server = UnixStream::connect(server.join(SOCKET)).await.unwrap();
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let swallow = Arc::new(AtomicBool::new(false));
    let mut answers = tokio::spawn(pass_back(from_server, to_client, swallow.clone()));
    let mut octets = [0; 8192];
    while let Ok(count @ 1..) = from_client.read(&mut octets).await {
        let commits = octets[..count].windows(7).any(|word| word == b"COMMIT\0");
        if commits && armed.swap(false, Ordering::SeqCst) {
            swallow.store(true, Ordering::SeqCst);
            to_server.write_all(&octets[..count]).await.unwrap();
            (&mut answers).await.unwrap();
            return;
        }
        if to_server.write_all(&octets[..count]).await.is_err() {
            return;
        }
    }
}

/// Until the answer that is to be swallowed: that one is read, so the server has done what it was asked.
async fn pass_back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallow: Arc<AtomicBool>) {
    let mut octets = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut octets).await {
        if swallow.load(Ordering::SeqCst) || to.write_all(&octets[..count]).await.is_err() {
            return;
        }
    }
}

async fn through_a_swallower() -> (Swallower, Store, Store) {
    let fresh = Fresh::postgres().await;
    let swallower = Swallower::before(&fresh.url);
    let store = connect(&swallower.url).await.unwrap();
    (swallower, store, fresh.store)
}

#[tokio::test]
async fn a_commit_that_was_not_answered_is_unavailable_though_it_was_done() {
    let (swallower, store, beside) = through_a_swallower().await;
    let (row, _) = accepted(&store, &["bob@example.net"]).await;
    let new = new_message(&row, &["bob@example.net"]);
    swallower.arm();
    assert!(matches!(store.accept_message(new.clone()).await, Err(StoreError::Unavailable(_))));
    assert!(beside.message(&row.tenant_id, &new.message.id).await.unwrap().is_some(), "else this test could not fail");
    store.accept_message(new_message(&row, &["bob@example.net"])).await.expect("on another connection");
}

#[tokio::test]
async fn what_a_claim_took_whose_commit_was_not_answered_is_claimed_again() {
    let (swallower, store, beside) = through_a_swallower().await;
    let (row, sent) = accepted(&store, &["bob@example.net", "cat@example.net"]).await;
    let held = waiting_message(&row, "held", Some(NOW));
    store.accept_message(held.clone()).await.unwrap();
    let fence = store.start_worker("w1", NOW).await.unwrap();

    swallower.arm();
    assert!(matches!(store.claim_deliveries(&fence, NOW, 10).await, Err(StoreError::Unavailable(_))));
    assert_eq!(statuses(&beside, &sent).await.0, "sending", "else this test could not fail");
    let again = store.claim_deliveries(&fence, NOW, 10).await.unwrap();
    assert_eq!(again.len(), 1, "nobody would ever have sent it: the lease lives");
    assert_eq!(again[0].recipients.len(), 2);
    assert!(again[0].recipients.iter().all(|row| !row.uncertain), "nothing was attempted");
    assert!(store.claim_deliveries(&fence, NOW, 10).await.unwrap().is_empty(), "given back once");
    let outcomes: Vec<_> = again[0].recipients.iter().map(|row| outcome(&row.id, "delivered", None)).collect();
    store.settle(&fence, &sent.message.id, &outcomes, NOW).await.unwrap();

    swallower.arm();
    assert!(matches!(store.claim_waiting(&fence, NOW, 10).await, Err(StoreError::Unavailable(_))));
    assert_eq!(store.claim_waiting(&fence, NOW, 10).await.unwrap().len(), 1);
    store.release(&fence, &held.message.id, &release_change("queued", None), NOW).await.unwrap();
    assert_eq!(statuses(&store, &held).await.0, "queued");
}

/// What goes on without a caller ends when it ends.
async fn eventually(store: &Store, tenant: &str, id: &str) -> bool {
    tokio::time::timeout(Duration::from_secs(30), async {
        while store.message(tenant, id).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .is_ok()
}

#[tokio::test]
async fn a_write_whose_caller_is_gone_is_done_whole() {
    let fresh = Fresh::postgres().await;
    let (row, _) = accepted(&fresh.store, &["bob@example.net"]).await;
    let new = new_message(&row, &["bob@example.net"]);
    let mut call = Box::pin(fresh.store.accept_message(new.clone()));
    let begun = std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
    assert!(begun.is_pending());
    drop(call);
    assert!(eventually(&fresh.store, &row.tenant_id, &new.message.id).await);
    assert_eq!(statuses(&fresh.store, &new).await, ("queued".into(), vec!["queued".into()]));
}

/// Takes wake-ups that are there already.
fn drain(notify: &tokio::sync::Notify) {
    use futures_util::FutureExt;
    while notify.notified().now_or_never().is_some() {}
}

/// The process of a worker is woken for what another process accepted, many times, also after its listening connection was
/// lost. What the listener says by itself (when it begins to listen, when it does again) explains at most one of them each.
#[tokio::test]
async fn a_worker_hears_of_what_other_processes_accept() {
    let fresh = Fresh::postgres().await;
    let (domain, _) = accepted(&fresh.store, &["bob@example.net"]).await;
    let worker = connect(&fresh.url).await.unwrap();
    worker.start_worker("w", NOW).await.unwrap();
    let queue = worker.queue_notify();
    let listeners = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    let patience = Duration::from_secs(30);
    for round in 0..3 {
        let listening = async {
            while server().sql(&fresh.url, listeners).is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, listening).await.expect("it listens");
        for n in 0..10 {
            drain(&queue);
            fresh.store.accept_message(new_message(&domain, &["bob@example.net"])).await.unwrap();
            let woken = tokio::time::timeout(patience, queue.notified()).await;
            assert!(woken.is_ok(), "round {round}, message {n}: the worker was not told");
        }
        let lost = format!("SELECT pg_terminate_backend(pid, 10000) FROM ({listeners}) AS listeners");
        assert_eq!(server().sql(&fresh.url, &lost), "t");
    }
    worker.close().await;
}

/// The conditions are those of `keys_sealed_under` and `end_master_key_change`. An empty table is read as a whole unless that is made dear.
#[tokio::test]
async fn what_is_left_of_a_change_of_the_master_key_is_found_by_an_index() {
    let fresh = Fresh::postgres().await;
    let keys = "FROM dkim_keys WHERE custody IN ('sealed', 'imported') AND length(sealed) > 0
                AND substr(sealed, 1, 8) = 'oldoldol'::bytea";
    for rest in [format!("SELECT 1 {keys} LIMIT 1"), format!("SELECT * {keys} AND id > '' ORDER BY id LIMIT 100")] {
        let plan = server().sql(&fresh.url, &format!("SET enable_seqscan = off; EXPLAIN {rest}"));
        assert!(plan.contains("dkim_keys_master_key") && plan.contains("Index Cond"), "{plan}");
    }
}
