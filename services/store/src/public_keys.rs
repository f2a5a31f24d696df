//! The public halves of all keys, whoever has them: what a key that comes from elsewhere is compared with.
use crate::statement::{Row, sql};
use crate::{Store, StoreError};

/// A key's public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeyRow {
    /// Id of the key.
    pub key_id: String,
    /// Whose.
    pub tenant_id: String,
    /// `rsa-2048`, ...
    pub algorithm: String,
    /// p= value.
    pub public_key: String,
}

impl Store {
    /// Those of all tenants, also of revoked keys and deleted domains, by id, those after `after` only (system, for imports).
    pub async fn public_keys(&self, after: Option<&str>, limit: u32) -> Result<Vec<PublicKeyRow>, StoreError> {
        let rows = sql("SELECT id, tenant_id, algorithm, public_key FROM dkim_keys WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after.unwrap_or(""))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await?;
        let row = |row: &Row| {
            Ok(PublicKeyRow {
                key_id: row.try_get("id")?,
                tenant_id: row.try_get("tenant_id")?,
                algorithm: row.try_get("algorithm")?,
                public_key: row.try_get("public_key")?,
            })
        };
        rows.iter().map(row).collect()
    }
}
