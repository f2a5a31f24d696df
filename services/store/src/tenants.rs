//! Tenants and API keys.
use crate::audit::insert_audit;
use crate::statement::{Connection, Row, sql};
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
    /// Tenant and its first key. `Conflict` if one of the ids exists.
    pub async fn create_tenant(&self, tenant: &TenantRow, key: &ApiKeyRow, audit: &AuditRow) -> Result<(), StoreError> {
        let (tenant, key, audit) = (tenant.clone(), key.clone(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                sql("INSERT INTO tenants (id, name, suspended_at, created_at) VALUES ($1, $2, $3, $4)")
                    .bind(&tenant.id)
                    .bind(&tenant.name)
                    .bind(tenant.suspended_at)
                    .bind(tenant.created_at)
                    .execute(&mut *conn)
                    .await?;
                insert_api_key(conn, &tenant.id, &key).await?;
                insert_audit(conn, &audit).await
            })
        })
        .await
    }

    /// One more key. `Conflict` if its id exists, `Stale` if there is no such tenant.
    pub async fn create_api_key(&self, tenant: &str, key: &ApiKeyRow, audit: &AuditRow) -> Result<(), StoreError> {
        let (tenant, key, audit) = (tenant.to_owned(), key.clone(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                insert_api_key(conn, &tenant, &key).await?;
                insert_audit(conn, &audit).await
            })
        })
        .await
    }

    /// For all tenants: authentication starts from the key id.
    pub async fn api_key_for_authentication(&self, key_id: &str) -> Result<Option<(ApiKeyRow, TenantRow)>, StoreError> {
        let row = sql("SELECT api_keys.*, tenants.name AS tenant_name, tenants.suspended_at,
                              tenants.created_at AS tenant_created_at
                       FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id WHERE api_keys.id = $1")
        .bind(key_id)
        .fetch_optional(self.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let tenant = TenantRow {
            id: row.try_get("tenant_id")?,
            name: row.try_get("tenant_name")?,
            suspended_at: row.try_get("suspended_at")?,
            created_at: row.try_get("tenant_created_at")?,
        };
        Ok(Some((api_key(&row)?, tenant)))
    }

    /// All keys of a tenant, newest first.
    pub async fn api_keys(&self, tenant: &str) -> Result<Vec<ApiKeyRow>, StoreError> {
        let rows = sql("SELECT * FROM api_keys WHERE tenant_id = $1 ORDER BY created_at DESC, id DESC")
            .bind(tenant)
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(api_key).collect()
    }

    /// False if the tenant has no such key. A key that is revoked already stays as it is.
    pub async fn revoke_api_key(
        &self,
        tenant: &str,
        key_id: &str,
        at: i64,
        audit: &AuditRow,
    ) -> Result<bool, StoreError> {
        let _moves = self.moves_rights();
        let (tenant, key_id, audit) = (tenant.to_owned(), key_id.to_owned(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                let found = sql("SELECT revoked_at FROM api_keys WHERE tenant_id = $1 AND id = $2")
                    .bind(&tenant)
                    .bind(&key_id)
                    .for_update()
                    .fetch_optional(&mut *conn)
                    .await?;
                let Some(row) = found else { return Ok(false) };
                if row.try_get::<Option<i64>>("revoked_at")?.is_none() {
                    sql("UPDATE api_keys SET revoked_at = $3 WHERE tenant_id = $1 AND id = $2")
                        .bind(&tenant)
                        .bind(&key_id)
                        .bind(at)
                        .execute(&mut *conn)
                        .await?;
                    insert_audit(conn, &audit).await?;
                }
                Ok(true)
            })
        })
        .await
    }

    /// Batch of (key id, last use). A use older than the one that is known changes nothing.
    pub async fn touch_api_keys(&self, uses: &[(String, i64)]) -> Result<(), StoreError> {
        let mut uses = uses.to_vec();
        // One order for all processes, so that no two of them wait for each other.
        uses.sort_unstable();
        self.write(move |conn| {
            Box::pin(async move {
                for (key_id, at) in uses {
                    sql("UPDATE api_keys SET last_used_at = $2
                         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)")
                    .bind(key_id)
                    .bind(at)
                    .execute(&mut *conn)
                    .await?;
                }
                Ok(())
            })
        })
        .await
    }
}

async fn insert_api_key(conn: &mut Connection<'_>, tenant: &str, key: &ApiKeyRow) -> Result<(), StoreError> {
    sql("INSERT INTO api_keys (id, tenant_id, name, mac, scopes, created_at, expires_at, revoked_at, last_used_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
    .bind(&key.id)
    .bind(tenant)
    .bind(&key.name)
    .bind(&key.mac)
    .bind(&key.scopes)
    .bind(key.created_at)
    .bind(key.expires_at)
    .bind(key.revoked_at)
    .bind(key.last_used_at)
    .execute(conn)
    .await?;
    Ok(())
}

fn api_key(row: &Row) -> Result<ApiKeyRow, StoreError> {
    Ok(ApiKeyRow {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        mac: row.try_get("mac")?,
        scopes: row.try_get("scopes")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}
