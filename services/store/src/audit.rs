//! Append-only audit rows; written inside the transaction of the change they tell of.
use crate::db::{self, AFTER_EVERY_ID, json_text, page, page_probe};
use crate::statement::{Connection, Row, sql};
use crate::{KeyRow, Page, Store, StoreError};
use serde_json::json;

/// By far the most rows have this action; the index by action leaves them out.
const COMMON_ACTION: &str = "message.accepted";

/// Who did what.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// API-key id, `operator` or `system`.
    pub actor: String,
    /// For example `domain.created`, `key.activated`.
    pub action: String,
    /// Id of the thing.
    pub object: String,
    /// The domain that it belongs to, where it does; also after its deletion. `None` for messages.
    pub domain_id: Option<String>,
    /// JSON object with before, after, ...
    pub details: serde_json::Value,
    /// X-Request-Id, if a request did it.
    pub request_id: Option<String>,
    /// When.
    pub at: i64,
}

impl AuditRow {
    /// The same, as a row of that domain.
    pub fn of_domain(self, domain_id: &str) -> Self {
        Self { domain_id: Some(domain_id.to_owned()), ..self }
    }

    /// From the row of a new domain that of its first key. Its id is that of the key, which is made once, too.
    pub(crate) fn of_first_key(&self, key: &KeyRow) -> Self {
        Self {
            id: key.id.clone(),
            action: "key.created".into(),
            object: key.id.clone(),
            domain_id: Some(key.domain_id.clone()),
            details: json!({
                "before": null,
                "after": key.state,
                "selector": key.selector,
                "algorithm": key.algorithm,
                "custody": key.custody,
            }),
            ..self.clone()
        }
    }
}

/// Which rows; all that are given must fit.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this domain.
    pub domain_id: Option<String>,
    /// With this action.
    pub action: Option<String>,
}

impl Store {
    /// Newest first.
    pub async fn audit_log(
        &self,
        tenant: &str,
        filter: &AuditFilter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<AuditRow>, StoreError> {
        let after = after.unwrap_or(AFTER_EVERY_ID);
        let query = match (&filter.domain_id, filter.action.as_deref()) {
            (None, None) => sql("SELECT * FROM audit WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"),
            (None, Some(COMMON_ACTION)) => {
                sql("SELECT * FROM audit WHERE tenant_id = $1 AND id < $2 AND action = 'message.accepted'
                     ORDER BY id DESC LIMIT $3")
            }
            (None, Some(_)) => sql("SELECT * FROM audit WHERE tenant_id = $1 AND id < $2 AND action = $4
                                    AND action <> 'message.accepted' ORDER BY id DESC LIMIT $3"),
            (Some(_), None) => sql("SELECT * FROM audit WHERE tenant_id = $1 AND id < $2 AND domain_id = $4
                                    ORDER BY id DESC LIMIT $3"),
            (Some(_), Some(_)) => sql("SELECT * FROM audit WHERE tenant_id = $1 AND id < $2 AND domain_id = $4
                                       AND action = $5 ORDER BY id DESC LIMIT $3"),
        };
        let mut query = query.bind(tenant).bind(after).bind(page_probe(limit));
        if let Some(domain_id) = &filter.domain_id {
            query = query.bind(domain_id);
        }
        if let Some(action) = &filter.action
            && (filter.domain_id.is_some() || action != COMMON_ACTION)
        {
            query = query.bind(action);
        }
        let rows = query.fetch_all(self.readers()).await?;
        let rows = rows.iter().map(audit).collect::<Result<Vec<_>, _>>()?;
        Ok(page(rows, limit, |row| &row.id))
    }
}

pub(crate) async fn insert_audit(conn: &mut Connection<'_>, row: &AuditRow) -> Result<(), StoreError> {
    sql("INSERT INTO audit (id, tenant_id, actor, action, object, details, request_id, at, domain_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
    .bind(&row.id)
    .bind(&row.tenant_id)
    .bind(&row.actor)
    .bind(&row.action)
    .bind(&row.object)
    .bind(json_text(&row.details)?)
    .bind(&row.request_id)
    .bind(row.at)
    .bind(&row.domain_id)
    .execute(conn)
    .await?;
    Ok(())
}

fn audit(row: &Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        domain_id: row.try_get("domain_id")?,
        details: db::json(row, "details")?,
        request_id: row.try_get("request_id")?,
        at: row.try_get("at")?,
    })
}
