//! Selectors that stand in the way of a name's owner: taken by a claim that never proved the name.
use crate::audit::insert_audit;
use crate::domains::key;
use crate::events::insert_event;
use crate::statement::sql;
use crate::{AuditRow, EventRow, KeyRow, Store, StoreError};

/// `$1` name, `$2` selector, `$3` owner: the key of another tenant that never was seen in DNS, nor signed, nor was proven.
/// In the delegated mode a selector belongs to a CNAME and is random; nobody chooses it.
const IN_THE_WAY: &str = "domain_name = $1 AND selector = $2 AND tenant_id <> $3 AND state IN ('pending', 'revoked')
     AND first_seen_at IS NULL AND retiring_since IS NULL
     AND domain_id IN (SELECT id FROM domains WHERE name = $1 AND proven_at IS NULL AND dkim_mode = 'txt')";

impl Store {
    /// The key that has this selector of `name` without any proof, for the tenant that owns the name (system: it is another tenant's).
    pub async fn selector_without_proof(
        &self,
        owner: &str,
        name: &str,
        selector: &str,
    ) -> Result<Option<KeyRow>, StoreError> {
        let row = sql(format!("SELECT * FROM dkim_keys WHERE {IN_THE_WAY}"))
            .bind(name)
            .bind(selector)
            .bind(owner)
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(key).transpose()
    }

    /// Revokes that key and frees its selector, with an event and an audit row of its tenant. `Stale` if it is not so any more, or
    /// `owner` does not own the name.
    pub async fn free_selector(
        &self,
        owner: &str,
        held: &KeyRow,
        at: i64,
        event: &EventRow,
        audit: &AuditRow,
    ) -> Result<(), StoreError> {
        let _moves = self.moves_rights();
        let (owner, held, event, audit) = (owner.to_owned(), held.clone(), event.clone(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                // The version moves, so that a check which is about to prove that claim, or to turn its key, sees what it did not know.
                let moved = sql("UPDATE domains SET version = version + 1 WHERE id = $1 AND proven_at IS NULL
                                 AND EXISTS (SELECT 1 FROM names JOIN domains AS owning ON owning.id = names.owner_domain_id
                                             WHERE names.name = $2 AND owning.tenant_id = $3)")
                .bind(&held.domain_id)
                .bind(&held.domain_name)
                .bind(&owner)
                .execute(&mut *conn)
                .await?;
                if moved.rows_affected() == 0 {
                    return Err(StoreError::Stale);
                }
                let freed = sql(format!(
                    "UPDATE dkim_keys SET state = 'revoked', sealed = $4, former_selector = selector, selector = selector || '/' || id,
                            state_since = CASE WHEN state = 'revoked' THEN state_since ELSE $5 END
                     WHERE id = $6 AND {IN_THE_WAY}"
                ))
                .bind(&held.domain_name)
                .bind(&held.selector)
                .bind(&owner)
                .bind(Vec::<u8>::new())
                .bind(at)
                .bind(&held.id)
                .execute(&mut *conn)
                .await?;
                if freed.rows_affected() == 0 {
                    return Err(StoreError::Stale);
                }
                if held.state != "revoked" {
                    insert_event(conn, &event).await?;
                    insert_audit(conn, &audit).await?;
                }
                Ok(())
            })
        })
        .await
    }
}
