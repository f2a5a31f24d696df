//! Append-only audit rows; written inside the transaction of the change they tell of.

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
