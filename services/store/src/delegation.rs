//! Delegated mode: the names (slots) that the CNAMEs of a domain lead to, what is to stand at each, and whether DNS has taken it.
//!
//! What a slot shows follows the states of its key in the same transaction, whoever changes them; the update of DNS is owed from
//! then on until [`Store::record_slot_published`] says that it was taken.
use crate::audit::insert_audit;
use crate::db::{page, page_probe};
use crate::domains::{insert_domain_row, insert_key_row};
use crate::statement::{Connection, Row, sql};
use crate::{AuditRow, DomainRow, KeyRow, Page, Store, StoreError};

/// What is to stand at a slot's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotShows {
    /// No record at all.
    Nothing,
    /// The record of the slot's key.
    Key {
        /// `rsa-2048`, ...
        algorithm: String,
        /// p= value.
        public_key: String,
    },
    /// A record that says that the key is revoked.
    Revoked,
}

/// One of the names that a claim's CNAMEs lead to. It stays that claim's for ever, also after its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    /// Full name, without trailing dot.
    pub target: String,
    /// Tenant.
    pub tenant_id: String,
    /// Domain.
    pub domain_id: String,
    /// 0, 1, 2.
    pub place: i64,
    /// Selector of the CNAME that leads here.
    pub selector: String,
    /// The key that it holds, or held last.
    pub key_id: Option<String>,
    /// What is to stand there.
    pub shows: SlotShows,
    /// +1 whenever that changes.
    pub version: i64,
    /// The version that DNS took last.
    pub published_version: i64,
    /// Without a key, and once DNS knows that: from then on it may be filled anew.
    pub free_at: Option<i64>,
}

impl SlotRow {
    /// An empty slot that never held a key.
    pub fn unused(domain: &DomainRow, place: i64, selector: &str, target: &str) -> Self {
        Self {
            target: target.to_owned(),
            tenant_id: domain.tenant_id.clone(),
            domain_id: domain.id.clone(),
            place,
            selector: selector.to_owned(),
            key_id: None,
            shows: SlotShows::Nothing,
            version: 0,
            published_version: 0,
            free_at: None,
        }
    }

    /// True while DNS has not yet taken what is to stand there.
    pub fn is_owed(&self) -> bool {
        self.published_version < self.version
    }

    /// True if it may be filled now: it never held a key, or that one is gone for long enough.
    pub fn is_free(&self, now: i64) -> bool {
        let gone = match self.shows {
            SlotShows::Nothing | SlotShows::Revoked => !self.is_owed() && self.free_at.is_some_and(|at| at <= now),
            SlotShows::Key { .. } => false,
        };
        self.key_id.is_none() || gone
    }
}

const SLOTS: &str = "SELECT delegation_slots.*, dkim_keys.algorithm, dkim_keys.public_key FROM delegation_slots
                     LEFT JOIN dkim_keys ON dkim_keys.id = delegation_slots.key_id";

impl Store {
    /// How many of the tenant's delegated domains are unproven.
    pub async fn count_unproven_delegated(&self, tenant: &str) -> Result<i64, StoreError> {
        let row = sql("SELECT COUNT(*) AS n FROM domains WHERE tenant_id = $1 AND deleted_at IS NULL
                       AND ownership = 'pending' AND dkim_mode = 'delegated'")
        .bind(tenant)
        .fetch_one(self.readers())
        .await?;
        Ok(row.try_get("n")?)
    }

    /// A delegated domain with its slots and its first key, which goes into the slot of its selector. `Conflict` if the tenant has
    /// that name already, or a target or selector was given out before.
    pub async fn insert_delegated_domain(
        &self,
        domain: &DomainRow,
        slots: &[SlotRow],
        key: &KeyRow,
        audit: &AuditRow,
    ) -> Result<(), StoreError> {
        let (domain, slots, key, audit) = (domain.clone(), slots.to_vec(), key.clone(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                insert_domain_row(conn, &domain).await?;
                for slot in &slots {
                    insert_slot_row(conn, slot).await?;
                }
                insert_key_row(conn, &domain.tenant_id, &key).await?;
                insert_audit(conn, &audit).await?;
                insert_audit(conn, &audit.of_first_key(&key)).await
            })
        })
        .await
    }

    /// Slots of a domain by their place, also of a deleted one; none if it is not delegated.
    pub async fn slots(&self, tenant: &str, domain_id: &str) -> Result<Vec<SlotRow>, StoreError> {
        let rows = sql(format!(
            "{SLOTS} WHERE delegation_slots.tenant_id = $1 AND delegation_slots.domain_id = $2 ORDER BY place"
        ))
        .bind(tenant)
        .bind(domain_id)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(slot).collect()
    }

    /// One slot by its target (system, for publishing).
    pub async fn slot(&self, target: &str) -> Result<Option<SlotRow>, StoreError> {
        let row = sql(format!("{SLOTS} WHERE target = $1")).bind(target).fetch_optional(self.readers()).await?;
        row.as_ref().map(slot).transpose()
    }

    /// Slots of all tenants whose update is owed to DNS (system), by target, those after `after` only.
    pub async fn owed_slots(&self, after: Option<&str>, limit: u32) -> Result<Vec<SlotRow>, StoreError> {
        let rows = sql(format!("{SLOTS} WHERE published_version < version AND target > $1 ORDER BY target LIMIT $2"))
            .bind(after.unwrap_or(""))
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(slot).collect()
    }

    /// Every slot that ever was (system, for the comparison with DNS), by target.
    pub async fn all_slots(&self, after: Option<&str>, limit: u32) -> Result<Page<SlotRow>, StoreError> {
        let rows = sql(format!("{SLOTS} WHERE target > $1 ORDER BY target LIMIT $2"))
            .bind(after.unwrap_or(""))
            .bind(page_probe(limit))
            .fetch_all(self.readers())
            .await?;
        let rows = rows.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        Ok(page(rows, limit, |row| &row.target))
    }

    /// DNS has taken `version` of what is to stand at a target (system); without a key it may be filled anew from `free_at` on.
    /// False if that is not what is to stand there any more: then it is to be published again.
    pub async fn record_slot_published(
        &self,
        target: &str,
        version: i64,
        at: i64,
        free_at: i64,
    ) -> Result<bool, StoreError> {
        let target = target.to_owned();
        self.write(move |conn| {
            Box::pin(async move {
                let updated = sql("UPDATE delegation_slots SET published_version = $2, published_at = $3, free_at = $4
                                   WHERE target = $1 AND version = $2")
                .bind(&target)
                .bind(version)
                .bind(at)
                .bind(free_at)
                .execute(conn)
                .await?;
                Ok(updated.rows_affected() == 1)
            })
        })
        .await
    }
}

/// What a new key means for the slots of its domain; to be called before its row is written. A selector whose slot is free passes
/// to it, and the key that had it before keeps its name aside. `Stale` if the slot is not free, or the domain's name is another's by
/// now. Nothing for a domain without slots.
pub(crate) async fn admit_key(conn: &mut Connection<'_>, key: &KeyRow) -> Result<(), StoreError> {
    let rows =
        sql("SELECT slots.selector, slots.key_id, slots.shows, slots.version, slots.published_version, slots.free_at,
                           domains.ownership
                    FROM delegation_slots AS slots JOIN domains ON domains.id = slots.domain_id
                    WHERE slots.domain_id = $1 ORDER BY slots.place")
        .bind(&key.domain_id)
        .fetch_all(&mut *conn)
        .await?;
    if rows.is_empty() {
        return Ok(());
    }
    for row in &rows {
        if row.try_get::<&str>("selector")? != key.selector {
            continue;
        }
        if row.try_get::<&str>("ownership")? == "lost" {
            return Err(StoreError::Stale);
        }
        let Some(former) = row.try_get::<Option<String>>("key_id")? else { return Ok(()) };
        let shows_key = row.try_get::<&str>("shows")? == "key";
        let owed = row.try_get::<i64>("published_version")? < row.try_get::<i64>("version")?;
        let free = row.try_get::<Option<i64>>("free_at")?.is_some_and(|at| at <= key.created_at);
        if shows_key || owed || !free {
            return Err(StoreError::Stale);
        }
        sql("UPDATE dkim_keys SET former_selector = selector, selector = selector || '/' || id
             WHERE id = $1 AND former_selector IS NULL")
        .bind(&former)
        .execute(conn)
        .await?;
        return Ok(());
    }
    // A selector that no CNAME of the tenant leads away from.
    Err(StoreError::Stale)
}

/// The slot of a key whose row was just written shows it.
pub(crate) async fn fill_slot(conn: &mut Connection<'_>, key: &KeyRow) -> Result<(), StoreError> {
    sql("UPDATE delegation_slots SET key_id = $3, shows = 'key', version = version + 1, free_at = NULL
         WHERE domain_id = $1 AND selector = $2")
    .bind(&key.domain_id)
    .bind(&key.selector)
    .bind(&key.id)
    .execute(conn)
    .await?;
    Ok(())
}

/// What the present states of a domain's keys mean for its slots: a retired key shows nothing any more, a revoked one that it is
/// revoked.
pub(crate) async fn follow_keys(conn: &mut Connection<'_>, domain_id: &str) -> Result<(), StoreError> {
    for (state, shows) in [("retired", "nothing"), ("revoked", "revoked")] {
        sql("UPDATE delegation_slots SET shows = $3, version = version + 1
             WHERE domain_id = $1 AND shows = 'key' AND key_id IN
                 (SELECT id FROM dkim_keys WHERE domain_id = $1 AND state = $2)")
        .bind(domain_id)
        .bind(state)
        .bind(shows)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// The domain is deleted, or its name another's: nothing stands at its targets any more.
pub(crate) async fn withdraw_slots(conn: &mut Connection<'_>, domain_id: &str) -> Result<(), StoreError> {
    sql("UPDATE delegation_slots SET shows = 'nothing', version = version + 1
         WHERE domain_id = $1 AND shows <> 'nothing'")
    .bind(domain_id)
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_slot_row(conn: &mut Connection<'_>, row: &SlotRow) -> Result<(), StoreError> {
    sql("INSERT INTO delegation_slots (target, tenant_id, domain_id, place, selector, shows, version, published_version)
         VALUES ($1, $2, $3, $4, $5, 'nothing', 0, 0)")
    .bind(&row.target)
    .bind(&row.tenant_id)
    .bind(&row.domain_id)
    .bind(row.place)
    .bind(&row.selector)
    .execute(conn)
    .await?;
    Ok(())
}

fn slot(row: &Row) -> Result<SlotRow, StoreError> {
    let damaged = || StoreError::Damaged("a slot that shows a key that is not there".into());
    let shows = match row.try_get::<&str>("shows")? {
        "nothing" => SlotShows::Nothing,
        "revoked" => SlotShows::Revoked,
        "key" => SlotShows::Key {
            algorithm: row.try_get::<Option<String>>("algorithm")?.ok_or_else(damaged)?,
            public_key: row.try_get::<Option<String>>("public_key")?.ok_or_else(damaged)?,
        },
        _ => return Err(StoreError::Damaged("a slot that shows what we do not know".into())),
    };
    Ok(SlotRow {
        target: row.try_get("target")?,
        tenant_id: row.try_get("tenant_id")?,
        domain_id: row.try_get("domain_id")?,
        place: row.try_get("place")?,
        selector: row.try_get("selector")?,
        key_id: row.try_get("key_id")?,
        shows,
        version: row.try_get("version")?,
        published_version: row.try_get("published_version")?,
        free_at: row.try_get("free_at")?,
    })
}
