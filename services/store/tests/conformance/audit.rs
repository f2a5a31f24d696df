//! The audit log: complete, the tenant's own, in pages.
use crate::support::{NOW, accepted, audit, domain, event, id, key_row, proof, tenant};
use serde_json::json;
use signpost_store::{AuditFilter, AuditRow, DomainChange, Store};

async fn log(store: &Store, tenant: &str, filter: AuditFilter) -> Vec<AuditRow> {
    store.audit_log(tenant, &filter, None, 100).await.unwrap().rows
}

fn of(domain: Option<&str>, action: Option<&str>) -> AuditFilter {
    AuditFilter { domain_id: domain.map(str::to_owned), action: action.map(str::to_owned) }
}

async fn the_log_is_paged_newest_first_and_filtered(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (other, _) = domain(&store, &ann, "example.org").await;
    for (domain, action) in
        [(&row, "key.created"), (&other, "key.created"), (&row, "key.revoked"), (&row, "key.created")]
    {
        let entry = audit(&ann, action).of_domain(&domain.id);
        store.insert_key(&ann, &key_row(domain), &entry).await.unwrap();
    }
    let actions = |rows: Vec<AuditRow>| rows.into_iter().map(|row| row.action).collect::<Vec<_>>();
    let all = log(&store, &ann, AuditFilter::default()).await;
    assert!(all.windows(2).all(|two| two[0].id > two[1].id));
    assert_eq!(all.len(), 9);
    // The last is of the first key.
    let expected = ["key.created", "key.revoked", "key.created", "key.created"];
    assert_eq!(actions(log(&store, &ann, of(Some(&row.id), None)).await), expected);
    assert_eq!(log(&store, &ann, of(None, Some("key.created"))).await.len(), 5);
    assert_eq!(log(&store, &ann, of(Some(&other.id), Some("key.created"))).await.len(), 2);
    assert!(log(&store, &ann, of(Some(&other.id), Some("key.revoked"))).await.is_empty());
    assert!(log(&store, &bob, of(Some(&row.id), None)).await.is_empty(), "another tenant's");
    assert_eq!(actions(log(&store, &bob, AuditFilter::default()).await), ["tenant.created"]);

    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store.audit_log(&ann, &AuditFilter::default(), after.as_deref(), 2).await.unwrap();
        assert!(page.rows.len() <= 2);
        paged.extend(page.rows.into_iter().map(|row| row.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, all.into_iter().map(|row| row.id).collect::<Vec<_>>());
}

async fn an_entry_is_read_as_it_was_written(store: Store) {
    let (row, new) = accepted(&store, &["bob@example.net"]).await;
    let entry = AuditRow {
        actor: "k1".into(),
        object: "o1".into(),
        details: json!({"before": "pending", "after": "published", "n": 1}),
        request_id: Some("req_1".into()),
        ..audit(&row.tenant_id, "key.published").of_domain(&row.id)
    };
    let change = DomainChange { audit: vec![entry.clone()], ..DomainChange::default() };
    store.change_domain(&row.tenant_id, &row.id, 1, &change).await.unwrap();
    let found = log(&store, &row.tenant_id, of(Some(&row.id), None)).await.remove(0);
    assert_eq!(format!("{found:?}"), format!("{entry:?}"));
    drop(new);
}

async fn the_most_common_action_can_be_asked_for_too(store: Store) {
    let ann = tenant(&store).await;
    let (row, _) = domain(&store, &ann, "example.com").await;
    let mut new = crate::support::new_message(&row, &["bob@example.net"]);
    new.audit = Some(audit(&ann, "message.accepted"));
    store.accept_message(new).await.unwrap();
    let found = log(&store, &ann, of(None, Some("message.accepted"))).await;
    assert_eq!((found.len(), found[0].domain_id.as_deref()), (1, None));
    assert!(log(&store, &ann, of(Some(&row.id), Some("message.accepted"))).await.is_empty());
}

async fn deleting_a_domain_writes_the_end_of_each_key(store: Store) {
    let ann = tenant(&store).await;
    let (row, first) = domain(&store, &ann, "example.com").await;
    let keys: Vec<_> = (0..40).map(|_| key_row(&row)).collect();
    for key in &keys {
        store.insert_key(&ann, key, &audit(&ann, "key.created")).await.unwrap();
    }
    let deletion = AuditRow { actor: "k1".into(), request_id: Some("req_1".into()), ..audit(&ann, "domain.deleted") };
    assert!(store.delete_domain(&ann, &row.id, NOW + 3, &id, &deletion).await.unwrap());
    let revoked = log(&store, &ann, of(Some(&row.id), Some("key.revoked"))).await;
    let mut objects: Vec<_> = revoked.iter().map(|row| row.object.clone()).collect();
    objects.sort();
    let mut expected: Vec<_> = keys.iter().chain([&first]).map(|key| key.id.clone()).collect();
    expected.sort();
    assert_eq!(objects, expected);
    for entry in &revoked {
        assert_eq!((entry.actor.as_str(), entry.request_id.as_deref()), ("k1", Some("req_1")));
        assert_eq!(entry.details, json!({"before": "pending", "after": "revoked", "reason": "domain_deleted"}));
    }
    let ended = store.keys(&ann, &row.id).await.unwrap();
    assert!(ended.iter().all(|key| key.state == "revoked" && key.life.state_since == NOW + 3 && key.sealed.is_empty()));
}

async fn whoever_loses_a_name_finds_it_in_its_own_log(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let (row, _) = domain(&store, &ann, "example.com").await;
    let (bob_row, _) = domain(&store, &bob, "example.com").await;
    store.change_domain(&ann, &row.id, 1, &proof("example.com", 0, None)).await.unwrap();
    let told = event(&ann, "domain.ownership_lost", None);
    store.change_domain(&bob, &bob_row.id, 1, &proof("example.com", 1, Some(told))).await.unwrap();
    let found = log(&store, &ann, of(Some(&row.id), Some("domain.ownership_lost"))).await;
    assert_eq!((found.len(), found[0].actor.as_str(), found[0].object.as_str()), (1, "system", row.id.as_str()));
    assert_eq!(found[0].details["after"], json!({"ownership": "lost", "signing": "suspended"}));
    assert!(log(&store, &bob, of(None, Some("domain.ownership_lost"))).await.is_empty());
}

crate::on_every_database!(
    the_log_is_paged_newest_first_and_filtered,
    an_entry_is_read_as_it_was_written,
    the_most_common_action_can_be_asked_for_too,
    deleting_a_domain_writes_the_end_of_each_key,
    whoever_loses_a_name_finds_it_in_its_own_log,
);
