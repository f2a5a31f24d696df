//! What the installation knows of its master keys, and the moving of everything sealed from one to the next.
//!
//! `sealed` octets begin with the 8 octets that name the master key they were sealed under; more of them is not known here.
use crate::domains::key;
use crate::statement::{Connection, Row, sql};
use crate::{KeyRow, Store, StoreError};

const CHECK: &str = "master_key_check";
const FORMER: &str = "former_master_key_check";
const PEPPER: &str = "api_key_pepper";
/// Before the name in hex: nothing is stored any more that was sealed under that master key.
const RETIRED: &str = "retired_master_key:";
const NAME_LENGTH: usize = 8;

/// The rows that say which master keys are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MasterKeyRows {
    /// Check value of the key in use; `None`: this database has never seen one.
    pub check: Option<Vec<u8>>,
    /// Check value of the one before, while something is sealed under it.
    pub former: Option<Vec<u8>>,
    /// What API keys are authenticated with, sealed under the key in use; `None` before the first rotation.
    pub pepper: Option<Vec<u8>>,
}

/// A change of the master key, to be begun.
#[derive(Debug, Clone)]
pub struct MasterKeyChange {
    /// Check value of the key in use.
    pub seen_check: Vec<u8>,
    /// Check value of the next one.
    pub check: Vec<u8>,
    /// Name of the next one, as sealed octets begin with.
    pub name: [u8; NAME_LENGTH],
    /// What API keys are authenticated with, sealed under the next one.
    pub pepper: Vec<u8>,
}

/// Sealed octets, and the same sealed anew.
#[derive(Debug, Clone)]
pub struct Resealed {
    /// Tenant of the key.
    pub tenant_id: String,
    /// The key.
    pub key_id: String,
    /// What was read.
    pub old: Vec<u8>,
    /// What takes its place.
    pub new: Vec<u8>,
}

/// How much is sealed under a master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedUnder {
    /// Its name, as sealed octets begin with.
    pub name: Vec<u8>,
    /// Keys of domains and keys that sign access tokens.
    pub keys: i64,
}

/// Rows that hold a private key sealed under a master key. (What the KMS wraps lies in the same column.) The index
/// `dkim_keys_master_key` has the same condition: both are to be changed together.
const SEALED_KEYS: &str = "dkim_keys WHERE custody IN ('sealed', 'imported') AND length(sealed) > 0";

impl Store {
    /// Which master keys are needed (system); all of it of one moment.
    pub async fn master_key_rows(&self) -> Result<MasterKeyRows, StoreError> {
        let rows = sql("SELECT name, value FROM meta WHERE name IN ($1, $2, $3)")
            .bind(CHECK)
            .bind(FORMER)
            .bind(PEPPER)
            .fetch_all(self.readers())
            .await?;
        let mut found = MasterKeyRows::default();
        for row in &rows {
            let (name, value): (String, Vec<u8>) = (row.try_get("name")?, row.try_get("value")?);
            match name.as_str() {
                CHECK => found.check = Some(value),
                FORMER => found.former = Some(value),
                PEPPER => found.pepper = Some(value),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Stores the check value of the first master key unless there is one; returns the one that is there afterwards.
    pub async fn first_master_key(&self, check: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.meta_or_insert(CHECK, check).await
    }

    /// From now on the next master key is the one in use, and the present one the former. `Stale` if the present one is another by now,
    /// `Conflict` if something is still sealed under the one before.
    pub async fn begin_master_key_change(&self, change: &MasterKeyChange) -> Result<(), StoreError> {
        let change = change.clone();
        self.write(move |conn| {
            Box::pin(async move {
                let moved = sql("UPDATE meta SET value = $3 WHERE name = $1 AND value = $2")
                    .bind(CHECK)
                    .bind(&change.seen_check)
                    .bind(&change.check)
                    .execute(&mut *conn)
                    .await?;
                if moved.rows_affected() == 0 {
                    return Err(StoreError::Stale);
                }
                sql("INSERT INTO meta (name, value) VALUES ($1, $2)")
                    .bind(FORMER)
                    .bind(&change.seen_check)
                    .execute(&mut *conn)
                    .await?;
                sql("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
                    .bind(PEPPER)
                    .bind(&change.pepper)
                    .execute(&mut *conn)
                    .await?;
                // One that comes back into use.
                sql("DELETE FROM meta WHERE name = $1").bind(retired(&change.name)).execute(conn).await?;
                Ok(())
            })
        })
        .await
    }

    /// Keys of domains sealed under the master key of this name (system), by id, those after `after` only.
    pub async fn keys_sealed_under(
        &self,
        name: [u8; NAME_LENGTH],
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql(keys_under())
            .bind(name.to_vec())
            .bind(after.unwrap_or(""))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(key).collect()
    }

    /// Puts octets that were sealed anew in the place of those that were read, where these are still there; returns where they were.
    /// `Unavailable`, and none of it, if they were sealed under a master key that was taken out of use by now: a worker may have slept
    /// through the end of a change.
    pub async fn replace_sealed(&self, keys: Vec<Resealed>) -> Result<u64, StoreError> {
        if keys.is_empty() {
            return Ok(0);
        }
        self.write(move |conn| {
            Box::pin(async move {
                let mut admitted = Vec::new();
                let mut replaced = 0;
                for key in keys {
                    // All of a batch are sealed under the same one.
                    let name = key.new.first_chunk::<NAME_LENGTH>().copied();
                    if !admitted.contains(&name) {
                        admit_sealed(conn, &key.new).await?;
                        admitted.push(name);
                    }
                    replaced += sql("UPDATE dkim_keys SET sealed = $4
                                     WHERE tenant_id = $1 AND id = $2 AND sealed = $3")
                    .bind(&key.tenant_id)
                    .bind(&key.key_id)
                    .bind(&key.old)
                    .bind(&key.new)
                    .execute(&mut *conn)
                    .await?
                    .rows_affected();
                }
                Ok(replaced)
            })
        })
        .await
    }

    /// The same for a key that signs access tokens; true if it was still there.
    pub async fn replace_sealed_token_key(&self, kid: &str, old: &[u8], new: &[u8]) -> Result<bool, StoreError> {
        let (kid, old, new) = (kid.to_owned(), old.to_vec(), new.to_vec());
        self.write(move |conn| {
            Box::pin(async move {
                admit_sealed(conn, &new).await?;
                let replaced = sql("UPDATE token_keys SET sealed = $3 WHERE kid = $1 AND sealed = $2")
                    .bind(&kid)
                    .bind(&old)
                    .bind(&new)
                    .execute(conn)
                    .await?;
                Ok(replaced.rows_affected() > 0)
            })
        })
        .await
    }

    /// How much is sealed under which master key (system).
    pub async fn sealed_under(&self) -> Result<Vec<SealedUnder>, StoreError> {
        let text = format!(
            "SELECT name, COUNT(*) AS keys FROM (SELECT substr(sealed, 1, 8) AS name FROM {SEALED_KEYS}
             UNION ALL SELECT substr(sealed, 1, 8) AS name FROM token_keys) AS seals GROUP BY name ORDER BY name"
        );
        let rows = sql(text).fetch_all(self.readers()).await?;
        let under = |row: &Row| Ok(SealedUnder { name: row.try_get("name")?, keys: row.try_get("keys")? });
        rows.iter().map(under).collect()
    }

    /// Ends the change, if nothing is sealed under the former master key of this check value and name; from then on nothing that is
    /// will be stored. The replaced octets go from the files of the database. False, and no change, if something still is.
    pub async fn end_master_key_change(&self, former: &[u8], name: [u8; NAME_LENGTH]) -> Result<bool, StoreError> {
        let former = former.to_vec();
        let ended = self
            .write(move |conn| {
                Box::pin(async move {
                    // What is being stored now is there, or not allowed any more, once this row is locked.
                    sql("SELECT name FROM meta WHERE name = $1").bind(CHECK).lock_rows(conn).await?;
                    if sql(anything_under()).bind(name.to_vec()).fetch_optional(&mut *conn).await?.is_some() {
                        return Ok(false);
                    }
                    let deleted = sql("DELETE FROM meta WHERE name = $1 AND value = $2")
                        .bind(FORMER)
                        .bind(&former)
                        .execute(&mut *conn)
                        .await?;
                    if deleted.rows_affected() == 0 {
                        return Ok(false);
                    }
                    sql("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                        .bind(retired(&name))
                        .bind(former)
                        .execute(conn)
                        .await?;
                    Ok(true)
                })
            })
            .await?;
        if ended {
            self.scrub_log().await;
        }
        Ok(ended)
    }
}

fn keys_under() -> String {
    format!("SELECT * FROM {SEALED_KEYS} AND substr(sealed, 1, 8) = $1 AND id > $2 ORDER BY id LIMIT $3")
}

/// Answered from an index, however many keys there are; of keys for access tokens there are a handful.
fn anything_under() -> String {
    format!(
        "SELECT 1 AS one FROM {SEALED_KEYS} AND substr(sealed, 1, 8) = $1
         UNION ALL SELECT 1 AS one FROM token_keys WHERE substr(sealed, 1, 8) = $1 LIMIT 1"
    )
}

/// Refuses octets that were sealed under a master key that was taken out of use: a process that has not heard of the change would store
/// what nobody can open. It hears of it within seconds, so that the error is a temporary one.
pub(crate) async fn admit_sealed(conn: &mut Connection<'_>, sealed: &[u8]) -> Result<(), StoreError> {
    let Some(name) = sealed.first_chunk::<NAME_LENGTH>() else { return Ok(()) };
    sql("SELECT name FROM meta WHERE name = $1").bind(CHECK).for_share().fetch_optional(&mut *conn).await?;
    let found = sql("SELECT 1 AS one FROM meta WHERE name = $1").bind(retired(name)).fetch_optional(conn).await?;
    match found {
        None => Ok(()),
        Some(_) => Err(StoreError::Unavailable(sqlx::Error::Configuration(
            "this process seals under a master key that was taken out of use".into(),
        ))),
    }
}

fn retired(name: &[u8; NAME_LENGTH]) -> String {
    name.iter().fold(RETIRED.to_owned(), |text, octet| format!("{text}{octet:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreSettings;

    #[tokio::test]
    async fn what_is_left_of_a_change_is_found_without_reading_all_keys() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings { sqlite_path: folder.path().join("signpost.db"), exclusive: true };
        let store = Store::open(settings).await.unwrap();
        for text in [keys_under(), anything_under()] {
            let plan = sql(format!("EXPLAIN QUERY PLAN {text}")).fetch_all(store.readers()).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.try_get("detail").unwrap()).collect();
            let found = steps.iter().any(|step| {
                step.starts_with("SEARCH dkim_keys USING") && step.contains("INDEX dkim_keys_master_key (<expr>=?")
            });
            let sorts = steps.iter().any(|step| step.contains("TEMP B-TREE"));
            assert!(found && !sorts, "{text}: {steps:?}");
        }
    }
}
