//! What tenants used, by day. Counted above, added here in batches.
use crate::statement::sql;
use crate::{Store, StoreError};

/// How much of one kind a tenant used on one day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageRow {
    /// Tenant.
    pub tenant_id: String,
    /// Start of the day, UTC.
    pub day: i64,
    /// `signature` (POST /sign) or `message`.
    pub kind: String,
    /// How many.
    pub count: i64,
}

impl Store {
    /// Adds a batch of counts, in one transaction (system). `Stale` if one of the tenants does not exist.
    pub async fn add_usage(&self, counts: &[UsageRow]) -> Result<(), StoreError> {
        let mut counts = counts.to_vec();
        // One order for all processes, so that no two of them wait for each other.
        counts.sort_unstable();
        self.write(move |conn| {
            Box::pin(async move {
                for row in counts {
                    sql("INSERT INTO usage (tenant_id, day, kind, count) VALUES ($1, $2, $3, $4)
                         ON CONFLICT (tenant_id, day, kind) DO UPDATE SET count = usage.count + $4")
                    .bind(row.tenant_id)
                    .bind(row.day)
                    .bind(row.kind)
                    .bind(row.count)
                    .execute(&mut *conn)
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Days from `first` to `last`, both included, oldest first, kinds in order of their names.
    pub async fn usage(&self, tenant: &str, first: i64, last: i64) -> Result<Vec<UsageRow>, StoreError> {
        let rows = sql("SELECT * FROM usage WHERE tenant_id = $1 AND day >= $2 AND day <= $3 ORDER BY day, kind")
            .bind(tenant)
            .bind(first)
            .bind(last)
            .fetch_all(self.readers())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(UsageRow {
                    tenant_id: row.try_get("tenant_id")?,
                    day: row.try_get("day")?,
                    kind: row.try_get("kind")?,
                    count: row.try_get("count")?,
                })
            })
            .collect()
    }
}
