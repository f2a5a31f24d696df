//! The life of a key: the times that its states depend on, which keys are due for a step, and the policy of rotations.
use crate::audit::insert_audit;
use crate::domains::{domain, insert_key_row, key};
use crate::events::insert_event;
use crate::statement::{Connection, Row, sql};
use crate::{AuditRow, DomainRow, EventRow, KeyRow, Store, StoreError};

/// What only the state machine of keys writes. Times in ms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyLife {
    /// When the key came into its state.
    pub state_since: i64,
    /// Since when every server that answers serves its record.
    pub first_seen_at: Option<i64>,
    /// TTL of its record, as last seen, in ms.
    pub record_ttl: Option<i64>,
    /// Until then caches may hold other data that stood at its name.
    pub other_data_until: Option<i64>,
    /// When another key took over.
    pub retiring_since: Option<i64>,
    /// From then on nothing needs its record any more.
    pub safe_to_remove_at: Option<i64>,
    /// When the tenant was last asked to publish its record; `None` unless a rotation made it.
    pub reminded_at: Option<i64>,
}

/// How a domain signs and when its keys are rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningPolicyRow {
    /// Days that a key signs before the next is prepared; `None`: none is by itself.
    pub rotation_days: Option<i64>,
    /// An RSA and an Ed25519 key sign beside each other (RFC 8463 5). `DomainRow::dual_signing` is the same.
    pub dual_signing: bool,
    /// What becomes of new mail while the record of the key that signs is wrong.
    pub suspended_mail: SuspendedMail,
}

/// What becomes of new mail of a domain whose signing is suspended because its record is wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SuspendedMail {
    /// It is accepted and waits.
    #[default]
    Hold,
    /// It is not accepted.
    Refuse,
}

impl SuspendedMail {
    /// As stored and shown: `hold`, `refuse`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Refuse => "refuse",
        }
    }

    /// The reverse of `as_str`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Hold, Self::Refuse].into_iter().find(|choice| choice.as_str() == text)
    }
}

impl Store {
    /// A key of a domain that is not deleted.
    pub async fn key(&self, tenant: &str, key_id: &str) -> Result<Option<KeyRow>, StoreError> {
        let row = sql("SELECT dkim_keys.* FROM dkim_keys JOIN domains ON domains.id = dkim_keys.domain_id
                       WHERE dkim_keys.tenant_id = $1 AND dkim_keys.id = $2 AND domains.deleted_at IS NULL")
        .bind(tenant)
        .bind(key_id)
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(key).transpose()
    }

    /// One more key, if the domain still has `seen_version` (`Stale` otherwise), with events and audit rows; `Conflict` on the
    /// selector. The domain's version moves.
    pub async fn insert_next_key(
        &self,
        tenant: &str,
        seen_version: i64,
        key: &KeyRow,
        events: &[EventRow],
        audit: &[AuditRow],
    ) -> Result<(), StoreError> {
        let _moves = self.moves_rights();
        let (tenant, key, events, audit) = (tenant.to_owned(), key.clone(), events.to_vec(), audit.to_vec());
        self.write(move |conn| {
            Box::pin(async move {
                let moved = sql("UPDATE domains SET version = version + 1
                                 WHERE tenant_id = $1 AND id = $2 AND name = $3 AND version = $4 AND deleted_at IS NULL")
                .bind(&tenant)
                .bind(&key.domain_id)
                .bind(&key.domain_name)
                .bind(seen_version)
                .execute(&mut *conn)
                .await?;
                if moved.rows_affected() == 0 {
                    return Err(StoreError::Stale);
                }
                insert_key_row(conn, &tenant, &key).await?;
                for event in &events {
                    insert_event(conn, event).await?;
                }
                for row in &audit {
                    insert_audit(conn, row).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Keys that may be about to sign and whose record is to be looked for now (system): `pending` or `published`, newer than any
    /// key that signs (with dual signing: and makes the same kind of signature), of proven domains that sign, and not asked for in the last 30 s (from an hour after their making: 5 min,
    /// from a day after it: an hour). One that waits for caches is left until they are clean. Longest untried first.
    pub async fn keys_to_look_for(&self, now: i64, limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT dkim_keys.* FROM dkim_keys JOIN domains ON domains.id = dkim_keys.domain_id
                        WHERE dkim_keys.state IN ('pending', 'published') AND domains.deleted_at IS NULL
                        AND domains.ownership = 'verified' AND domains.signing IN ('enabled', 'suspended')
                        AND (dkim_keys.state = 'pending' OR dkim_keys.other_data_until IS NULL
                             OR dkim_keys.other_data_until <= $1)
                        AND COALESCE(dkim_keys.published_tried_at, 0) <= $1 -
                            CASE WHEN dkim_keys.created_at > $1 - 3600000 THEN 30000
                                 WHEN dkim_keys.created_at > $1 - 86400000 THEN 300000 ELSE 3600000 END
                        AND NOT EXISTS (SELECT 1 FROM dkim_keys AS signing WHERE signing.domain_id = dkim_keys.domain_id
                                        AND signing.state = 'active'
                                        AND (NOT domains.dual_signing OR
                                             (signing.algorithm = 'ed25519') = (dkim_keys.algorithm = 'ed25519'))
                                        AND (signing.created_at, signing.id) > (dkim_keys.created_at, dkim_keys.id))
                        ORDER BY COALESCE(dkim_keys.published_tried_at, 0), dkim_keys.id LIMIT $2")
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(key).collect()
    }

    /// Records what DNS said about a key outside a check: `Some(p)`: answered (empty: no usable record); `None`: no answer.
    /// What was asked before the latest question that is recorded changes nothing.
    pub async fn record_published(
        &self,
        tenant: &str,
        key_id: &str,
        p: Option<&str>,
        at: i64,
    ) -> Result<(), StoreError> {
        let _moves = self.moves_rights();
        let (tenant, key_id, p) = (tenant.to_owned(), key_id.to_owned(), p.map(str::to_owned));
        self.write(move |conn| {
            Box::pin(async move {
                let read_at = p.as_ref().map(|_| at);
                sql("UPDATE dkim_keys SET published_p = COALESCE($3, published_p),
                            published_read_at = COALESCE($4, published_read_at), published_tried_at = $5
                     WHERE tenant_id = $1 AND id = $2 AND (published_tried_at IS NULL OR published_tried_at <= $5)")
                .bind(&tenant)
                .bind(&key_id)
                .bind(p)
                .bind(read_at)
                .bind(at)
                .execute(conn)
                .await?;
                Ok(())
            })
        })
        .await
    }

    /// `retiring` keys whose record nothing needs any more (system), the longest due first.
    pub async fn keys_to_retire(&self, now: i64, limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT dkim_keys.* FROM dkim_keys JOIN domains ON domains.id = dkim_keys.domain_id
                        WHERE dkim_keys.state = 'retiring' AND dkim_keys.safe_to_remove_at <= $1
                        AND domains.deleted_at IS NULL
                        ORDER BY dkim_keys.safe_to_remove_at, dkim_keys.id LIMIT $2")
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(key).collect()
    }

    /// `pending` keys of rotations whose tenant was last asked for their record at `before` or earlier (system).
    pub async fn keys_to_remind_of(&self, before: i64, limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT dkim_keys.* FROM dkim_keys JOIN domains ON domains.id = dkim_keys.domain_id
                        WHERE dkim_keys.state = 'pending' AND dkim_keys.reminded_at <= $1 AND domains.deleted_at IS NULL
                        AND domains.ownership = 'verified' AND domains.signing IN ('enabled', 'suspended')
                        ORDER BY dkim_keys.reminded_at, dkim_keys.id LIMIT $2")
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(key).collect()
    }

    /// Domains with a key that has signed for as long as their policy says, and no newer one that is to replace it (system): with
    /// dual signing one of the same kind. Those of suspended tenants wait; keys that are their tenants' own are left, whose successors only
    /// the tenants can make. By id, those after `after` only.
    pub async fn domains_to_rotate(
        &self,
        now: i64,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DomainRow>, StoreError> {
        let rows = sql("SELECT domains.* FROM domains JOIN tenants ON tenants.id = domains.tenant_id
                        WHERE domains.deleted_at IS NULL AND domains.ownership = 'verified'
                        AND domains.signing IN ('enabled', 'suspended') AND tenants.suspended_at IS NULL
                        AND EXISTS (SELECT 1 FROM dkim_keys AS due WHERE due.domain_id = domains.id
                                    AND due.state = 'active' AND substr(due.reference, 1, 12) <> 'awskms-role:'
                                    AND due.state_since + domains.rotation_days * 86400000 <= $1
                                    AND NOT EXISTS (SELECT 1 FROM dkim_keys AS next WHERE next.domain_id = domains.id
                                        AND next.state IN ('pending', 'published')
                                        AND (NOT domains.dual_signing OR
                                             (next.algorithm = 'ed25519') = (due.algorithm = 'ed25519'))
                                        AND (next.created_at, next.id) > (due.created_at, due.id)))
                        AND domains.id > $2 ORDER BY domains.id LIMIT $3")
        .bind(now)
        .bind(after.unwrap_or(""))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(domain).collect()
    }

    /// Of a domain that is not deleted.
    pub async fn signing_policy(&self, tenant: &str, domain_id: &str) -> Result<Option<SigningPolicyRow>, StoreError> {
        let row = sql("SELECT rotation_days, dual_signing, suspended_mail FROM domains
                       WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(tenant)
        .bind(domain_id)
        .fetch_optional(self.readers())
        .await?;
        let policy = |row: Row| {
            let suspended_mail = SuspendedMail::parse(row.try_get("suspended_mail")?)
                .ok_or_else(|| StoreError::Damaged("a policy of suspended mail that we do not know".into()))?;
            Ok(SigningPolicyRow {
                rotation_days: row.try_get("rotation_days")?,
                dual_signing: row.try_get("dual_signing")?,
                suspended_mail,
            })
        };
        row.map(policy).transpose()
    }
}

/// The times of a key's row.
pub(crate) fn key_life(row: &Row) -> Result<KeyLife, StoreError> {
    Ok(KeyLife {
        state_since: row.try_get("state_since")?,
        first_seen_at: row.try_get("first_seen_at")?,
        record_ttl: row.try_get("record_ttl")?,
        other_data_until: row.try_get("other_data_until")?,
        retiring_since: row.try_get("retiring_since")?,
        safe_to_remove_at: row.try_get("safe_to_remove_at")?,
        reminded_at: row.try_get("reminded_at")?,
    })
}

/// Writes all times of a key. A key that was never changed is in its state since it was made.
pub(crate) async fn write_life(
    conn: &mut Connection<'_>,
    tenant: &str,
    key_id: &str,
    life: &KeyLife,
) -> Result<(), StoreError> {
    sql("UPDATE dkim_keys SET state_since = CASE WHEN $3 = 0 THEN created_at ELSE $3 END, first_seen_at = $4, record_ttl = $5,
                other_data_until = $6, retiring_since = $7, safe_to_remove_at = $8, reminded_at = $9
         WHERE tenant_id = $1 AND id = $2")
    .bind(tenant)
    .bind(key_id)
    .bind(life.state_since)
    .bind(life.first_seen_at)
    .bind(life.record_ttl)
    .bind(life.other_data_until)
    .bind(life.retiring_since)
    .bind(life.safe_to_remove_at)
    .bind(life.reminded_at)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn write_policy(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
    policy: &SigningPolicyRow,
) -> Result<(), StoreError> {
    sql("UPDATE domains SET rotation_days = $3, dual_signing = $4, suspended_mail = $5 WHERE tenant_id = $1 AND id = $2")
        .bind(tenant)
        .bind(domain_id)
        .bind(policy.rotation_days)
        .bind(policy.dual_signing)
        .bind(policy.suspended_mail.as_str())
        .execute(conn)
        .await?;
    Ok(())
}
