//! Every call can be made in a spawned task and in a request handler.
use crate::support::{
    NOW, api_key, audit, domain_row, id, key_row, new_message, outcome, release_change, scope, signature,
};
use signpost_store::{
    AuditFilter, DomainChange, Fence, Store, StoreError, StoreSettings, StoredAnswer, TenantRow, WatchState,
};
use std::path::PathBuf;

fn assert_send<F: Future<Output = Result<(), StoreError>> + Send>(_: F) {}

/// That it compiles is the proof: none of these futures is run.
#[test]
fn all_futures_are_send() {
    let settings = StoreSettings { sqlite_path: PathBuf::new(), exclusive: true };
    assert_send(async move { Store::open(settings).await?.ping().await });
    assert_send(async { tenants_and_domains(&Store::open(anywhere()).await?).await });
    assert_send(async { messages(&Store::open(anywhere()).await?).await });
    assert_send(async { queue(&Store::open(anywhere()).await?).await });
}

fn anywhere() -> StoreSettings {
    StoreSettings { sqlite_path: PathBuf::new(), exclusive: true }
}

async fn tenants_and_domains(store: &Store) -> Result<(), StoreError> {
    let tenant = TenantRow { id: id(), name: "Ann".into(), suspended_at: None, created_at: NOW };
    let (ann, audit) = (tenant.id.clone(), audit(&tenant.id, "x"));
    let (domain, key) = (domain_row(&ann, "example.com"), api_key(&ann));
    let dkim_key = key_row(&domain);
    store.meta("a").await?;
    store.meta_or_insert("a", b"b").await?;
    store.create_tenant(&tenant, &key, &audit).await?;
    store.create_api_key(&ann, &key, &audit).await?;
    store.api_key_for_authentication(&key.id).await?;
    store.api_keys(&ann).await?;
    store.revoke_api_key(&ann, &key.id, NOW, &audit).await?;
    store.touch_api_keys(&[(key.id.clone(), NOW)]).await?;
    store.insert_domain(&domain, &dkim_key, &audit).await?;
    store.insert_key(&ann, &dkim_key, &audit).await?;
    store.domain(&ann, &domain.id).await?;
    store.domain_by_name(&ann, &domain.name).await?;
    store.domains(&ann, None, 1).await?;
    store.keys(&ann, &domain.id).await?;
    store.last_check(&ann, &domain.id).await?;
    store.checks(&ann, &domain.id, None, 1).await?;
    store.name_version(&domain.name).await?;
    store.verified_owners(std::slice::from_ref(&domain.name)).await?;
    store.change_domain(&ann, &domain.id, 1, &DomainChange::default()).await?;
    store.delete_domain(&ann, &domain.id, NOW, &id, &audit).await?;
    store.watch_state(&ann, &domain.id).await?;
    store.unplanned_looks(1).await?;
    store.plan_looks(&[(domain.id.clone(), NOW)]).await?;
    let due = store.due_looks(NOW, 1, 1).await?.remove(0);
    store.claim_look(&due, NOW).await?;
    store.record_look(&ann, &domain.id, NOW, &WatchState::default()).await?;
    store.hurry_look(&ann, &domain.id, NOW).await?;
    store.record_published(&ann, &dkim_key.id, None, NOW).await?;
    store.key(&ann, &dkim_key.id).await?;
    store.insert_next_key(&ann, 1, &dkim_key, &[], &[]).await?;
    store.keys_to_look_for(NOW, 1).await?;
    store.keys_to_retire(NOW, 1).await?;
    store.keys_to_remind_of(NOW, 1).await?;
    store.domains_to_rotate(NOW, None, 1).await?;
    store.signing_policy(&ann, &domain.id).await?;
    store.audit_log(&ann, &AuditFilter::default(), None, 1).await?;
    store.close().await;
    Ok(())
}

async fn messages(store: &Store) -> Result<(), StoreError> {
    let new = new_message(&domain_row("ann", "example.com"), &["bob@example.net"]);
    let (scope, id) = (scope("ann", "k"), &new.message.id);
    let answer = StoredAnswer { status: 202, content_type: String::new(), body: Vec::new() };
    store.accept_message(new.clone()).await?;
    store.message("ann", id).await?;
    store.messages("ann", None, None, 1).await?;
    store.message_body("ann", id).await?;
    store.message_events("ann", id, None, 1).await?;
    store.begin_idempotent(&scope, b"a", NOW).await?;
    store.finish_idempotent(&scope, &answer, NOW).await?;
    store.abandon_idempotent(&scope).await?;
    store.expire_idempotent(NOW).await?;
    Ok(())
}

async fn queue(store: &Store) -> Result<(), StoreError> {
    let fence: Fence = store.start_worker("w1", NOW).await?;
    let change = release_change("held", None);
    store.heartbeat(&fence, NOW).await?;
    store.claim_deliveries(&fence, NOW, 1).await?;
    store.delivery_body("m").await?;
    store.delivery_keys("d").await?;
    store.settle(&fence, "m", &[outcome("r", "delivered", None)], NOW).await?;
    store.resign(&fence, "m", b"", &[signature("k")], 1).await?;
    store.hold(&fence, "m", &change, NOW).await?;
    store.claim_waiting(&fence, NOW, 1).await?;
    store.release(&fence, "m", &change, NOW).await?;
    store.hurry_waiting("ann", "d", NOW).await?;
    store.next_due().await?;
    Ok(())
}
