//! Domains, their DKIM keys, their checks, and who owns a name.
use crate::audit::insert_audit;
use crate::db::{json, json_text, page, page_probe};
use crate::delegation::{admit_key, fill_slot};
use crate::key_life::{key_life, write_life};
use crate::master_key::admit_sealed;
use crate::statement::{Connection, On, Row, sql, sql_in};
use crate::{AuditRow, EventRow, KeyLife, Page, SigningPolicyRow, Store, StoreError, WatchState};

/// Newest checks of a domain that are kept.
const CHECKS_KEPT: i64 = 100;

/// A tenant's domain. Unique per (tenant, name) among those not deleted.
#[derive(Debug, Clone)]
pub struct DomainRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// A-label name.
    pub name: String,
    /// `txt` or `delegated`.
    pub dkim_mode: String,
    /// `pending`, `verified`, `lost`.
    pub ownership: String,
    /// Token of the ownership record.
    pub ownership_token: String,
    /// When the token was made.
    pub token_issued_at: i64,
    /// When ownership was first proven by this row.
    pub proven_at: Option<i64>,
    /// `disabled`, `enabled`, `suspended`.
    pub signing: String,
    /// Reason while suspended.
    pub signing_reason: Option<String>,
    /// An RSA and an Ed25519 key sign beside each other; changed by its policy only.
    pub dual_signing: bool,
    /// Optimistic lock, +1 on each change.
    pub version: i64,
    /// When.
    pub created_at: i64,
}

/// A DKIM key of a domain. (domain name, selector) is unique for ever, also after deletion; of a delegated domain the keys of one
/// slot have its selector one after the other.
#[derive(Clone)]
pub struct KeyRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// Domain id.
    pub domain_id: String,
    /// A-label name of the domain.
    pub domain_name: String,
    /// s=
    pub selector: String,
    /// `rsa-2048`, ...
    pub algorithm: String,
    /// `sealed`, ...
    pub custody: String,
    /// `sealed:...`
    pub reference: String,
    /// Sealed octets; empty for remote custody or after withdrawal.
    pub sealed: Vec<u8>,
    /// p= value of our key.
    pub public_key: String,
    /// `pending`, `published`, `active`, `retiring`, `retired`, `revoked`.
    pub state: String,
    /// p= value last read from DNS; empty string: DNS answered that there is no usable record.
    pub published_p: Option<String>,
    /// When DNS last gave an answer for it.
    pub published_read_at: Option<i64>,
    /// When it was last asked, answered or not.
    pub published_tried_at: Option<i64>,
    /// What its states depend on.
    pub life: KeyLife,
    /// When.
    pub created_at: i64,
}

/// A stored check; `records` is the JSON that the API shows.
#[derive(Debug, Clone)]
pub struct CheckRow {
    /// Id.
    pub id: String,
    /// Domain.
    pub domain_id: String,
    /// `pass`, `fail`, `indeterminate`.
    pub verdict: String,
    /// When.
    pub checked_at: i64,
    /// JSON array.
    pub records: serde_json::Value,
}

/// Who owns a name now.
#[derive(Debug, Clone)]
pub struct NameOwner {
    /// Domain id of the owner.
    pub domain_id: String,
    /// Tenant of the owner.
    pub tenant_id: String,
    /// Proof time of the owner.
    pub proven_at: i64,
}

/// A name's owner and version, for compare-and-swap. Version 0: never owned.
#[derive(Debug, Clone, Default)]
pub struct NameVersion {
    /// +1 at every change of owner.
    pub version: i64,
    /// The owner, if any.
    pub owner: Option<NameOwner>,
}

/// A verified name, for `authorize`.
#[derive(Debug, Clone)]
pub struct OwnedName {
    /// The name.
    pub name: String,
    /// Whose.
    pub tenant_id: String,
    /// Which domain row.
    pub domain_id: String,
}

/// Takes a name by compare-and-swap on `seen_version`.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Name.
    pub name: String,
    /// Version read at the check's start.
    pub seen_version: i64,
    /// Proof time.
    pub at: i64,
    /// Event for the previous owner's tenant, if there is one (its domain row becomes ownership `lost`, signing `suspended`/`ownership_lost`).
    pub loser_event: Option<EventRow>,
}

/// New state of one key; `None` leaves a column alone.
#[derive(Debug, Clone, Default)]
pub struct KeyChange {
    /// Key id.
    pub key_id: String,
    /// New state.
    pub state: Option<String>,
    /// What DNS said: (p= or empty, when).
    pub published: Option<(String, i64)>,
    /// True: drop the sealed octets.
    pub wipe: bool,
    /// New times, all of them.
    pub life: Option<KeyLife>,
}

/// A change of a domain and all that belongs to it, in one transaction.
#[derive(Debug, Clone, Default)]
pub struct DomainChange {
    /// New ownership with proof time.
    pub ownership: Option<(String, Option<i64>)>,
    /// New signing state and reason.
    pub signing: Option<(String, Option<String>)>,
    /// Keys.
    pub keys: Vec<KeyChange>,
    /// A check to record.
    pub check: Option<CheckRow>,
    /// A name to take.
    pub claim: Option<Claim>,
    /// A new policy.
    pub policy: Option<SigningPolicyRow>,
    /// What watching knows from now on.
    pub watch: Option<WatchState>,
    /// From now on mail needs another key than before: what was wrong with the record of that one says nothing any more.
    pub needs_another_key: bool,
    /// Events.
    pub events: Vec<EventRow>,
    /// Audit rows.
    pub audit: Vec<AuditRow>,
}

impl Store {
    /// Domain with its first key, and an audit row of each by the same actor. `Conflict` if the tenant has that name already, or the name has had that selector.
    pub async fn insert_domain(&self, domain: &DomainRow, key: &KeyRow, audit: &AuditRow) -> Result<(), StoreError> {
        let (domain, key, audit) = (domain.clone(), key.clone(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                insert_domain_row(conn, &domain).await?;
                insert_key_row(conn, &domain.tenant_id, &key).await?;
                insert_audit(conn, &audit).await?;
                insert_audit(conn, &audit.of_first_key(&key)).await
            })
        })
        .await
    }

    /// One more key; `Conflict` on the selector, `Stale` if the tenant has no such domain. The domain's version moves.
    pub async fn insert_key(&self, tenant: &str, key: &KeyRow, audit: &AuditRow) -> Result<(), StoreError> {
        let _moves = self.moves_rights();
        let (tenant, key, audit) = (tenant.to_owned(), key.clone(), audit.clone());
        self.write(move |conn| {
            Box::pin(async move {
                let moved = sql("UPDATE domains SET version = version + 1
                                 WHERE tenant_id = $1 AND id = $2 AND name = $3 AND deleted_at IS NULL")
                .bind(&tenant)
                .bind(&key.domain_id)
                .bind(&key.domain_name)
                .execute(&mut *conn)
                .await?;
                if moved.rows_affected() == 0 {
                    return Err(StoreError::Stale);
                }
                insert_key_row(conn, &tenant, &key).await?;
                insert_audit(conn, &audit).await
            })
        })
        .await
    }

    /// A domain that is not deleted.
    pub async fn domain(&self, tenant: &str, id: &str) -> Result<Option<DomainRow>, StoreError> {
        let row = sql("SELECT * FROM domains WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL")
            .bind(tenant)
            .bind(id)
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(domain).transpose()
    }

    /// By name.
    pub async fn domain_by_name(&self, tenant: &str, name: &str) -> Result<Option<DomainRow>, StoreError> {
        let row = sql("SELECT * FROM domains WHERE tenant_id = $1 AND name = $2 AND deleted_at IS NULL")
            .bind(tenant)
            .bind(name)
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(domain).transpose()
    }

    /// Oldest first.
    pub async fn domains(&self, tenant: &str, after: Option<&str>, limit: u32) -> Result<Page<DomainRow>, StoreError> {
        let rows = sql("SELECT * FROM domains WHERE tenant_id = $1 AND id > $2 AND deleted_at IS NULL
                        ORDER BY id LIMIT $3")
        .bind(tenant)
        .bind(after.unwrap_or(""))
        .bind(page_probe(limit))
        .fetch_all(self.readers())
        .await?;
        let rows = rows.iter().map(domain).collect::<Result<Vec<_>, _>>()?;
        Ok(page(rows, limit, |row| &row.id))
    }

    /// Keys of a domain, oldest first; also those of a deleted domain, which are all revoked.
    pub async fn keys(&self, tenant: &str, domain_id: &str) -> Result<Vec<KeyRow>, StoreError> {
        let rows = sql("SELECT * FROM dkim_keys WHERE tenant_id = $1 AND domain_id = $2 ORDER BY id")
            .bind(tenant)
            .bind(domain_id)
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(key).collect()
    }

    /// Newest check.
    pub async fn last_check(&self, tenant: &str, domain_id: &str) -> Result<Option<CheckRow>, StoreError> {
        let row = sql("SELECT * FROM checks WHERE tenant_id = $1 AND domain_id = $2
                       ORDER BY checked_at DESC, id DESC LIMIT 1")
        .bind(tenant)
        .bind(domain_id)
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(check).transpose()
    }

    /// Newest first.
    pub async fn checks(
        &self,
        tenant: &str,
        domain_id: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<CheckRow>, StoreError> {
        let rows = sql("SELECT * FROM checks WHERE tenant_id = $1 AND domain_id = $2 AND id < $3
                        ORDER BY id DESC LIMIT $4")
        .bind(tenant)
        .bind(domain_id)
        .bind(after.unwrap_or(crate::db::AFTER_EVERY_ID))
        .bind(page_probe(limit))
        .fetch_all(self.readers())
        .await?;
        let rows = rows.iter().map(check).collect::<Result<Vec<_>, _>>()?;
        Ok(page(rows, limit, |row| &row.id))
    }

    /// Owner and version of a name.
    pub async fn name_version(&self, name: &str) -> Result<NameVersion, StoreError> {
        name_version(self.readers(), name).await
    }

    /// Which of these names are verified, by any tenant (system read for `authorize`); also those whose proof is gone from DNS and that
    /// nobody else has proven since: nobody speaks for them, the owner of the name above neither.
    pub async fn verified_owners(&self, names: &[String]) -> Result<Vec<OwnedName>, StoreError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let query = sql_in(
            "SELECT names.name, domains.tenant_id, domains.id FROM names
             JOIN domains ON domains.id = names.owner_domain_id
             WHERE domains.ownership IN ('verified', 'lost') AND domains.deleted_at IS NULL AND names.name IN",
            names.iter(),
            "",
        );
        let rows = query.fetch_all(self.readers()).await?;
        rows.iter()
            .map(|row| {
                Ok(OwnedName {
                    name: row.try_get("name")?,
                    tenant_id: row.try_get("tenant_id")?,
                    domain_id: row.try_get("id")?,
                })
            })
            .collect()
    }
}

/// Reads a name's owner and version, inside a transaction or not.
pub(crate) async fn name_version<'a>(on: impl Into<On<'a>>, name: &str) -> Result<NameVersion, StoreError> {
    let row = sql("SELECT names.version, names.proven_at, domains.id, domains.tenant_id FROM names
                   LEFT JOIN domains ON domains.id = names.owner_domain_id WHERE names.name = $1")
    .bind(name)
    .fetch_optional(on)
    .await?;
    let Some(row) = row else { return Ok(NameVersion::default()) };
    let domain_id: Option<String> = row.try_get("id")?;
    let owner = match domain_id {
        Some(domain_id) => {
            Some(NameOwner { domain_id, tenant_id: row.try_get("tenant_id")?, proven_at: row.try_get("proven_at")? })
        }
        None => None,
    };
    Ok(NameVersion { version: row.try_get("version")?, owner })
}

pub(crate) async fn insert_domain_row(conn: &mut Connection<'_>, row: &DomainRow) -> Result<(), StoreError> {
    sql("INSERT INTO domains (id, tenant_id, name, dkim_mode, ownership, ownership_token, token_issued_at, proven_at,
                              signing, signing_reason, dual_signing, version, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)")
    .bind(&row.id)
    .bind(&row.tenant_id)
    .bind(&row.name)
    .bind(&row.dkim_mode)
    .bind(&row.ownership)
    .bind(&row.ownership_token)
    .bind(row.token_issued_at)
    .bind(row.proven_at)
    .bind(&row.signing)
    .bind(&row.signing_reason)
    .bind(row.dual_signing)
    .bind(row.version)
    .bind(row.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn insert_key_row(conn: &mut Connection<'_>, tenant: &str, row: &KeyRow) -> Result<(), StoreError> {
    admit_key(conn, row).await?;
    if matches!(row.custody.as_str(), "sealed" | "imported") {
        admit_sealed(conn, &row.sealed).await?;
    }
    sql(
        "INSERT INTO dkim_keys (id, tenant_id, domain_id, domain_name, selector, algorithm, custody, reference, sealed,
                                public_key, state, published_p, published_read_at, published_tried_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(&row.id)
    .bind(tenant)
    .bind(&row.domain_id)
    .bind(&row.domain_name)
    .bind(&row.selector)
    .bind(&row.algorithm)
    .bind(&row.custody)
    .bind(&row.reference)
    .bind(&row.sealed)
    .bind(&row.public_key)
    .bind(&row.state)
    .bind(&row.published_p)
    .bind(row.published_read_at)
    .bind(row.published_tried_at)
    .bind(row.created_at)
    .execute(&mut *conn)
    .await?;
    write_life(conn, tenant, &row.id, &row.life).await?;
    fill_slot(conn, row).await
}

pub(crate) async fn insert_check(
    conn: &mut Connection<'_>,
    tenant: &str,
    domain_id: &str,
    row: &CheckRow,
) -> Result<(), StoreError> {
    sql("INSERT INTO checks (id, tenant_id, domain_id, verdict, checked_at, records) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(&row.id)
        .bind(tenant)
        .bind(domain_id)
        .bind(&row.verdict)
        .bind(row.checked_at)
        .bind(json_text(&row.records)?)
        .execute(&mut *conn)
        .await?;
    // The history is for people; what a check leads to is in the domain, its keys and its events.
    sql("DELETE FROM checks WHERE domain_id = $1 AND id NOT IN
         (SELECT id FROM checks WHERE domain_id = $1 ORDER BY id DESC LIMIT $2)")
    .bind(domain_id)
    .bind(CHECKS_KEPT)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) fn domain(row: &Row) -> Result<DomainRow, StoreError> {
    Ok(DomainRow {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        dkim_mode: row.try_get("dkim_mode")?,
        ownership: row.try_get("ownership")?,
        ownership_token: row.try_get("ownership_token")?,
        token_issued_at: row.try_get("token_issued_at")?,
        proven_at: row.try_get("proven_at")?,
        signing: row.try_get("signing")?,
        signing_reason: row.try_get("signing_reason")?,
        dual_signing: row.try_get("dual_signing")?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(crate) fn key(row: &Row) -> Result<KeyRow, StoreError> {
    let selector = match row.try_get("former_selector")? {
        Some(former) => former,
        None => row.try_get("selector")?,
    };
    Ok(KeyRow {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        domain_id: row.try_get("domain_id")?,
        domain_name: row.try_get("domain_name")?,
        selector,
        algorithm: row.try_get("algorithm")?,
        custody: row.try_get("custody")?,
        reference: row.try_get("reference")?,
        sealed: row.try_get("sealed")?,
        public_key: row.try_get("public_key")?,
        state: row.try_get("state")?,
        published_p: row.try_get("published_p")?,
        published_read_at: row.try_get("published_read_at")?,
        published_tried_at: row.try_get("published_tried_at")?,
        life: key_life(row)?,
        created_at: row.try_get("created_at")?,
    })
}

fn check(row: &Row) -> Result<CheckRow, StoreError> {
    Ok(CheckRow {
        id: row.try_get("id")?,
        domain_id: row.try_get("domain_id")?,
        verdict: row.try_get("verdict")?,
        checked_at: row.try_get("checked_at")?,
        records: json(row, "records")?,
    })
}
