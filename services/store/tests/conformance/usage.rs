//! Counts of what was used.
use crate::support::tenant;
use signpost_store::{Store, StoreError, UsageRow};

fn row(tenant: &str, day: i64, kind: &str, count: i64) -> UsageRow {
    UsageRow { tenant_id: tenant.into(), day, kind: kind.into(), count }
}

async fn counts_of_a_day_add_up_and_are_the_tenants_own(store: Store) {
    let (ann, bob) = (tenant(&store).await, tenant(&store).await);
    let first = [row(&ann, 2, "signature", 3), row(&bob, 2, "signature", 50), row(&ann, 1, "message", 1)];
    store.add_usage(&first).await.unwrap();
    store.add_usage(&[row(&ann, 2, "signature", 4), row(&ann, 2, "message", 2)]).await.unwrap();
    store.add_usage(&[]).await.unwrap();
    let all = [row(&ann, 1, "message", 1), row(&ann, 2, "message", 2), row(&ann, 2, "signature", 7)];
    assert_eq!(store.usage(&ann, 0, 9).await.unwrap(), all);
    assert_eq!(store.usage(&ann, 2, 2).await.unwrap(), all[1..]);
    assert_eq!(store.usage(&bob, 0, 9).await.unwrap(), [row(&bob, 2, "signature", 50)]);
    assert!(store.usage("nobody", 0, 9).await.unwrap().is_empty());
}

async fn a_batch_is_added_whole_or_not_at_all(store: Store) {
    let ann = tenant(&store).await;
    let batch = [row(&ann, 1, "message", 1), row("nobody", 1, "message", 1)];
    assert!(matches!(store.add_usage(&batch).await, Err(StoreError::Stale)));
    assert!(store.usage(&ann, 0, 9).await.unwrap().is_empty());
}

async fn batches_of_several_processes_are_all_counted(store: Store) {
    let ann = tenant(&store).await;
    let batch: Vec<_> = (0..5).map(|day| row(&ann, day, "signature", 1)).collect();
    let reversed: Vec<_> = batch.iter().rev().cloned().collect();
    let adding = (0..10).map(|n| store.add_usage(if n % 2 == 0 { &batch } else { &reversed }));
    for result in futures_util::future::join_all(adding).await {
        result.unwrap();
    }
    assert_eq!(store.usage(&ann, 0, 9).await.unwrap().iter().map(|row| row.count).collect::<Vec<_>>(), [10; 5]);
}

crate::on_every_database!(
    counts_of_a_day_add_up_and_are_the_tenants_own,
    a_batch_is_added_whole_or_not_at_all,
    batches_of_several_processes_are_all_counted,
);
