//! Facts about the installation itself.
use crate::statement::sql;
use crate::{Store, StoreError};

impl Store {
    /// A value, for example `master_key_check`.
    pub async fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sql("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(self.readers()).await?;
        Ok(row.map(|row| row.try_get("value")).transpose()?)
    }

    /// Stores it unless there is one; returns the value that is there afterwards.
    pub async fn meta_or_insert(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (name, value) = (name.to_owned(), value.to_vec());
        self.write(move |conn| {
            Box::pin(async move {
                sql("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                    .bind(&name)
                    .bind(value)
                    .execute(&mut *conn)
                    .await?;
                let row = sql("SELECT value FROM meta WHERE name = $1").bind(&name).fetch_one(&mut *conn).await?;
                Ok(row.try_get("value")?)
            })
        })
        .await
    }
}
