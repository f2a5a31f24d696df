//! Tenants and API keys.
use crate::{AuditRow, Store, StoreError};

/// A tenant.
#[derive(Debug, Clone)]
pub struct TenantRow {
    /// Id.
    pub id: String,
    /// For people.
    pub name: String,
    /// Suspended since.
    pub suspended_at: Option<i64>,
    /// When.
    pub created_at: i64,
}

/// An API key. The secret is never stored.
#[derive(Debug, Clone)]
pub struct ApiKeyRow {
    /// Id, the middle part of `sp_<id>_<secret>`.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// For people.
    pub name: String,
    /// HMAC-SHA-256 of the secret under the pepper.
    pub mac: Vec<u8>,
    /// Space-separated scopes.
    pub scopes: String,
    /// When.
    pub created_at: i64,
    /// Not valid from then on.
    pub expires_at: Option<i64>,
    /// Not valid since.
    pub revoked_at: Option<i64>,
    /// Last use, at most a minute stale.
    pub last_used_at: Option<i64>,
}

impl Store {
    /// Tenant and its first key.
    pub async fn create_tenant(
        &self,
        _tenant: &TenantRow,
        _key: &ApiKeyRow,
        _audit: &AuditRow,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// One more key.
    pub async fn create_api_key(&self, _tenant: &str, _key: &ApiKeyRow, _audit: &AuditRow) -> Result<(), StoreError> {
        todo!()
    }
    /// The one unscoped read: authentication starts from the key id.
    pub async fn api_key_for_authentication(
        &self,
        _key_id: &str,
    ) -> Result<Option<(ApiKeyRow, TenantRow)>, StoreError> {
        todo!()
    }
    /// All keys of a tenant, newest first.
    pub async fn api_keys(&self, _tenant: &str) -> Result<Vec<ApiKeyRow>, StoreError> {
        todo!()
    }
    /// False if the tenant has no such key.
    pub async fn revoke_api_key(
        &self,
        _tenant: &str,
        _key_id: &str,
        _at: i64,
        _audit: &AuditRow,
    ) -> Result<bool, StoreError> {
        todo!()
    }
    /// Batch of (key id, last use).
    pub async fn touch_api_keys(&self, _uses: &[(String, i64)]) -> Result<(), StoreError> {
        todo!()
    }
}
