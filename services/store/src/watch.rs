//! Watching: when each domain that signs is looked at next, and what the looks so far found.
use crate::statement::{Connection, Row, sql};
use crate::{Store, StoreError};

/// Wrong answers in a row about one thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WrongAnswers {
    /// How many looks found it wrong.
    pub looks: i64,
    /// When the first of them did, in ms.
    pub since: Option<i64>,
}

/// What is known of a watched domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchState {
    /// When it is looked at next, in ms; `None`: not planned yet. While somebody looks: when another one may.
    pub next_look_at: Option<i64>,
    /// Since when looks have come to no answer that counts, in ms.
    pub unsure_since: Option<i64>,
    /// The records of the keys that sign.
    pub record: WrongAnswers,
    /// The record of ownership.
    pub ownership: WrongAnswers,
}

/// A domain whose look is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueLook {
    /// Tenant.
    pub tenant_id: String,
    /// Domain.
    pub domain_id: String,
    /// Since when, in ms.
    pub at: i64,
}

/// Domains that are watched: those that sign, or would if nothing were wrong. One whose ownership was lost is watched for as long as
/// nobody else has proven the name: `names` then still says that it is its.
const WATCHED: &str = "domains.deleted_at IS NULL AND domains.signing <> 'disabled'
    AND (domains.ownership = 'verified' OR (domains.ownership = 'lost'
         AND EXISTS (SELECT 1 FROM names WHERE names.owner_domain_id = domains.id)))";

impl Store {
    /// Of a domain that is not deleted.
    pub async fn watch_state(&self, tenant: &str, domain_id: &str) -> Result<Option<WatchState>, StoreError> {
        let row = sql("SELECT * FROM domains WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(tenant)
            .bind(domain_id)
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(watch_state).transpose()
    }

    /// Ids of watched domains whose next look is not planned (system).
    pub async fn unplanned_looks(&self, limit: u32) -> Result<Vec<String>, StoreError> {
        let text = format!("SELECT id FROM domains WHERE {WATCHED} AND next_look_at IS NULL ORDER BY id LIMIT $1");
        let rows = sql(text).bind(i64::from(limit)).fetch_all(self.readers()).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// Plans first looks, each at its time, where none is planned yet (system).
    pub async fn plan_looks(&self, looks: &[(String, i64)]) -> Result<(), StoreError> {
        let looks = looks.to_vec();
        self.write(move |conn| {
            Box::pin(async move {
                for (domain_id, at) in &looks {
                    sql("UPDATE domains SET next_look_at = $2 WHERE id = $1 AND next_look_at IS NULL")
                        .bind(domain_id)
                        .bind(*at)
                        .execute(&mut *conn)
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Watched domains that are due (system), of each tenant at most so many: first one of every tenant, then a second one, and so
    /// on, the longest due first.
    pub async fn due_looks(&self, now: i64, of_each_tenant: u32, limit: u32) -> Result<Vec<DueLook>, StoreError> {
        let text = format!(
            "SELECT tenant_id, id, next_look_at FROM
                 (SELECT tenant_id, id, next_look_at,
                         ROW_NUMBER() OVER (PARTITION BY tenant_id ORDER BY next_look_at, id) AS place
                  FROM domains WHERE {WATCHED} AND next_look_at <= $1) AS due
             WHERE place <= $2 ORDER BY place, next_look_at, id LIMIT $3"
        );
        let rows = sql(text)
            .bind(now)
            .bind(i64::from(of_each_tenant))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(DueLook {
                    tenant_id: row.try_get("tenant_id")?,
                    domain_id: row.try_get("id")?,
                    at: row.try_get("next_look_at")?,
                })
            })
            .collect()
    }

    /// Takes a look that is due, by compare-and-swap on its time: until then nobody else looks. False if somebody else was faster.
    pub async fn claim_look(&self, due: &DueLook, until: i64) -> Result<bool, StoreError> {
        let due = due.clone();
        self.write(move |conn| {
            Box::pin(async move {
                let claimed = sql("UPDATE domains SET next_look_at = $4 WHERE tenant_id = $1 AND id = $2
                                   AND next_look_at = $3 AND deleted_at IS NULL AND signing <> 'disabled'")
                .bind(&due.tenant_id)
                .bind(&due.domain_id)
                .bind(due.at)
                .bind(until)
                .execute(conn)
                .await?;
                Ok(claimed.rows_affected() == 1)
            })
        })
        .await
    }

    /// What a look found that changed no state of the domain, if its claim until `claimed_until` still holds; false if not: then
    /// nothing is written.
    pub async fn record_look(
        &self,
        tenant: &str,
        domain_id: &str,
        claimed_until: i64,
        state: &WatchState,
    ) -> Result<bool, StoreError> {
        let (tenant, domain_id, state) = (tenant.to_owned(), domain_id.to_owned(), *state);
        self.write(move |conn| {
            Box::pin(async move {
                let held = sql("UPDATE domains SET next_look_at = NULL
                                WHERE tenant_id = $1 AND id = $2 AND next_look_at = $3 AND deleted_at IS NULL")
                .bind(&tenant)
                .bind(&domain_id)
                .bind(claimed_until)
                .execute(&mut *conn)
                .await?;
                if held.rows_affected() == 0 {
                    return Ok(false);
                }
                write_watch(conn, &tenant, &domain_id, &state).await?;
                Ok(true)
            })
        })
        .await
    }

    /// A suspended domain is looked at now: there are signs that it is well again.
    pub async fn hurry_look(&self, tenant: &str, domain_id: &str, now: i64) -> Result<(), StoreError> {
        let (tenant, domain_id) = (tenant.to_owned(), domain_id.to_owned());
        self.write(move |conn| {
            Box::pin(async move {
                sql("UPDATE domains SET next_look_at = $3 WHERE tenant_id = $1 AND id = $2 AND next_look_at > $3
                     AND deleted_at IS NULL AND signing = 'suspended'")
                .bind(&tenant)
                .bind(&domain_id)
                .bind(now)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }
}

fn watch_state(row: &Row) -> Result<WatchState, StoreError> {
    Ok(WatchState {
        next_look_at: row.try_get("next_look_at")?,
        unsure_since: row.try_get("unsure_since")?,
        record: WrongAnswers { looks: row.try_get("record_wrong_looks")?, since: row.try_get("record_wrong_since")? },
        ownership: WrongAnswers {
            looks: row.try_get("ownership_wrong_looks")?,
            since: row.try_get("ownership_wrong_since")?,
        },
    })
}

/// Writes all of it.
pub(crate) async fn write_watch(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
    state: &WatchState,
) -> Result<(), StoreError> {
    sql("UPDATE domains SET next_look_at = $3, unsure_since = $4, record_wrong_looks = $5, record_wrong_since = $6,
                ownership_wrong_looks = $7, ownership_wrong_since = $8
         WHERE tenant_id = $1 AND id = $2")
    .bind(tenant)
    .bind(domain_id)
    .bind(state.next_look_at)
    .bind(state.unsure_since)
    .bind(state.record.looks)
    .bind(state.record.since)
    .bind(state.ownership.looks)
    .bind(state.ownership.since)
    .execute(conn)
    .await?;
    Ok(())
}

/// Another key signs from now on: what was wrong was the record of its forerunner.
pub(crate) async fn forget_wrong_record(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
) -> Result<(), StoreError> {
    sql("UPDATE domains SET record_wrong_looks = 0, record_wrong_since = NULL WHERE tenant_id = $1 AND id = $2")
        .bind(tenant)
        .bind(domain_id)
        .execute(conn)
        .await?;
    Ok(())
}
