//! Keys that another machine holds (custody `aws-kms`): they cost there until they are given up. (Not those of tenants, `awskms-role:`,
//! which cost us nothing.) And domains whose key cannot be used.
use crate::domains::{domain, key};
use crate::statement::sql;
use crate::{DomainRow, KeyRow, Store, StoreError};

impl Store {
    /// How many of the tenant's domains are unproven and have remote keys.
    pub async fn count_unproven_with_remote_keys(&self, tenant: &str) -> Result<i64, StoreError> {
        let row = sql("SELECT COUNT(*) AS n FROM domains
                       WHERE tenant_id = $1 AND deleted_at IS NULL AND ownership = 'pending'
                       AND EXISTS (SELECT 1 FROM dkim_keys WHERE dkim_keys.domain_id = domains.id
                                   AND dkim_keys.custody = 'aws-kms' AND dkim_keys.state <> 'revoked'
                                    AND substr(dkim_keys.reference, 1, 12) <> 'awskms-role:')")
        .bind(tenant)
        .fetch_one(self.readers())
        .await?;
        Ok(row.try_get("n")?)
    }

    /// Unproven domains with a remote key made before `before` (system, for their expiry), oldest first.
    pub async fn overdue_unproven(&self, before: i64, limit: u32) -> Result<Vec<DomainRow>, StoreError> {
        let rows = sql("SELECT * FROM domains
                        WHERE deleted_at IS NULL AND ownership = 'pending'
                        AND EXISTS (SELECT 1 FROM dkim_keys WHERE dkim_keys.domain_id = domains.id
                                    AND dkim_keys.custody = 'aws-kms' AND dkim_keys.state <> 'revoked'
                                    AND substr(dkim_keys.reference, 1, 12) <> 'awskms-role:'
                                    AND dkim_keys.created_at < $1)
                        ORDER BY id LIMIT $2")
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(domain).collect()
    }

    /// Retired and revoked remote keys that were not yet given up where they are held (system), by id, those after `after` only.
    pub async fn keys_to_withdraw(&self, after: Option<&str>, limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT * FROM dkim_keys
                        WHERE custody = 'aws-kms' AND state IN ('retired', 'revoked') AND withdrawn_at IS NULL
                        AND id > $1
                        ORDER BY id LIMIT $2")
        .bind(after.unwrap_or(""))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(key).collect()
    }

    /// The keys that mail needs of domains that are suspended with the reason `key_unavailable` (system), by id, those after `after` only:
    /// of two active ones the RSA key.
    pub async fn keys_of_suspended_domains(&self, after: Option<&str>, limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT dkim_keys.* FROM domains JOIN dkim_keys ON dkim_keys.domain_id = domains.id
                        WHERE domains.signing = 'suspended' AND domains.signing_reason = 'key_unavailable'
                        AND domains.deleted_at IS NULL AND dkim_keys.state = 'active' AND dkim_keys.id > $1
                        AND (dkim_keys.algorithm <> 'ed25519' OR NOT EXISTS
                             (SELECT 1 FROM dkim_keys AS other WHERE other.domain_id = domains.id
                              AND other.state = 'active' AND other.algorithm <> 'ed25519'))
                        ORDER BY dkim_keys.id LIMIT $2")
        .bind(after.unwrap_or(""))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(key).collect()
    }

    /// The key was given up where it was held.
    pub async fn record_withdrawn(&self, tenant: &str, key_id: &str, at: i64) -> Result<(), StoreError> {
        let (tenant, key_id) = (tenant.to_owned(), key_id.to_owned());
        self.write(move |conn| {
            Box::pin(async move {
                sql("UPDATE dkim_keys SET withdrawn_at = $3
                     WHERE tenant_id = $1 AND id = $2 AND state IN ('retired', 'revoked') AND withdrawn_at IS NULL")
                .bind(&tenant)
                .bind(&key_id)
                .bind(at)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }
}
