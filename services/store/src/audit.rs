//! Append-only audit rows; written inside the transaction of the change they tell of.
use crate::StoreError;
use crate::db::json_text;
use crate::statement::{Connection, sql};

/// Who did what.
#[derive(Debug, Clone)]
pub struct AuditRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// API-key id, or `system`.
    pub actor: String,
    /// For example `domain.created`, `key.activated`.
    pub action: String,
    /// Id of the thing.
    pub object: String,
    /// JSON object with before, after, ...
    pub details: serde_json::Value,
    /// X-Request-Id, if a request did it.
    pub request_id: Option<String>,
    /// When.
    pub at: i64,
}

pub(crate) async fn insert_audit(conn: &mut Connection<'_>, row: &AuditRow) -> Result<(), StoreError> {
    sql("INSERT INTO audit (id, tenant_id, actor, action, object, details, request_id, at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
    .bind(&row.id)
    .bind(&row.tenant_id)
    .bind(&row.actor)
    .bind(&row.action)
    .bind(&row.object)
    .bind(json_text(&row.details)?)
    .bind(&row.request_id)
    .bind(row.at)
    .execute(conn)
    .await?;
    Ok(())
}
