//! What a tenant's roles in AWS know us by: one ExternalId a tenant, made once and never changed, since trust policies name it.
use crate::statement::sql;
use crate::{Store, StoreError};

impl Store {
    /// Of this tenant.
    pub async fn external_id(&self, tenant: &str) -> Result<Option<String>, StoreError> {
        let row = sql("SELECT external_id FROM external_ids WHERE tenant_id = $1")
            .bind(tenant)
            .fetch_optional(self.readers())
            .await?;
        Ok(row.map(|row| row.try_get("external_id")).transpose()?)
    }

    /// Stores it unless the tenant has one; returns the one that is there afterwards.
    pub async fn external_id_or_insert(&self, tenant: &str, fresh: &str, at: i64) -> Result<String, StoreError> {
        let (tenant, fresh) = (tenant.to_owned(), fresh.to_owned());
        self.write(move |conn| {
            Box::pin(async move {
                sql("INSERT INTO external_ids (tenant_id, external_id, created_at) VALUES ($1, $2, $3)
                     ON CONFLICT (tenant_id) DO NOTHING")
                .bind(&tenant)
                .bind(&fresh)
                .bind(at)
                .execute(&mut *conn)
                .await?;
                let row = sql("SELECT external_id FROM external_ids WHERE tenant_id = $1")
                    .bind(&tenant)
                    .fetch_one(conn)
                    .await?;
                Ok(row.try_get("external_id")?)
            })
        })
        .await
    }
}
