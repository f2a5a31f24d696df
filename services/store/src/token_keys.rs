//! Keys that sign access tokens, shared by all processes on a database.
use crate::master_key::admit_sealed;
use crate::statement::{Row, sql};
use crate::{Store, StoreError};

/// An Ed25519 key that signs access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKeyRow {
    /// 1, 2, 3, ...: the successor of a key has the next number, so that there is only one.
    pub number: i64,
    /// `kid` of the tokens.
    pub kid: String,
    /// 32 octets (RFC 8032 5.1.5).
    pub public_key: Vec<u8>,
    /// PKCS#8, sealed.
    pub sealed: Vec<u8>,
    /// It signs from then on, until its successor does.
    pub signs_from: i64,
}

impl Store {
    /// All keys, oldest first.
    pub async fn token_keys(&self) -> Result<Vec<TokenKeyRow>, StoreError> {
        let rows = sql("SELECT * FROM token_keys ORDER BY number").fetch_all(self.readers()).await?;
        let key = |row: &Row| {
            Ok(TokenKeyRow {
                number: row.try_get("number")?,
                kid: row.try_get("kid")?,
                public_key: row.try_get("public_key")?,
                sealed: row.try_get("sealed")?,
                signs_from: row.try_get("signs_from")?,
            })
        };
        rows.iter().map(key).collect()
    }

    /// Adds a key unless there is one of its number: of processes that make the same successor, one wins.
    pub async fn insert_token_key(&self, key: &TokenKeyRow) -> Result<(), StoreError> {
        let key = key.clone();
        self.write(move |conn| {
            Box::pin(async move {
                admit_sealed(conn, &key.sealed).await?;
                sql("INSERT INTO token_keys (number, kid, public_key, sealed, signs_from) VALUES ($1, $2, $3, $4, $5)
                     ON CONFLICT (number) DO NOTHING")
                .bind(key.number)
                .bind(&key.kid)
                .bind(&key.public_key)
                .bind(&key.sealed)
                .bind(key.signs_from)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// Deletes the keys before this number, and their sealed octets from the files of the database.
    pub async fn delete_token_keys_before(&self, number: i64) -> Result<(), StoreError> {
        self.write(move |conn| {
            Box::pin(async move {
                sql("DELETE FROM token_keys WHERE number < $1").bind(number).execute(conn).await?;
                Ok(())
            })
        })
        .await?;
        self.scrub_log().await;
        Ok(())
    }
}
