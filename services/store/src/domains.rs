//! Domains, their DKIM keys, their checks, and who owns a name.
use crate::{AuditRow, EventRow, Page, Store, StoreError};

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
    /// Optimistic lock, +1 on each change.
    pub version: i64,
    /// When.
    pub created_at: i64,
}

/// A DKIM key of a domain. (domain name, selector) is unique for ever, also after deletion.
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
#[derive(Debug, Clone)]
pub struct KeyChange {
    /// Key id.
    pub key_id: String,
    /// New state.
    pub state: Option<String>,
    /// What DNS said: (p= or empty, when).
    pub published: Option<(String, i64)>,
    /// True: drop the sealed octets.
    pub wipe: bool,
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
    /// Events.
    pub events: Vec<EventRow>,
    /// Audit rows.
    pub audit: Vec<AuditRow>,
}

impl Store {
    /// Domain with its first key. `Conflict` if the tenant has that name already.
    pub async fn insert_domain(&self, _domain: &DomainRow, _key: &KeyRow, _audit: &AuditRow) -> Result<(), StoreError> {
        todo!()
    }
    /// One more key; `Conflict` on the selector. The domain's version moves.
    pub async fn insert_key(&self, _tenant: &str, _key: &KeyRow, _audit: &AuditRow) -> Result<(), StoreError> {
        todo!()
    }
    /// A domain that is not deleted.
    pub async fn domain(&self, _tenant: &str, _id: &str) -> Result<Option<DomainRow>, StoreError> {
        todo!()
    }
    /// By name.
    pub async fn domain_by_name(&self, _tenant: &str, _name: &str) -> Result<Option<DomainRow>, StoreError> {
        todo!()
    }
    /// Oldest first.
    pub async fn domains(
        &self,
        _tenant: &str,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<DomainRow>, StoreError> {
        todo!()
    }
    /// Keys of a domain, oldest first.
    pub async fn keys(&self, _tenant: &str, _domain_id: &str) -> Result<Vec<KeyRow>, StoreError> {
        todo!()
    }
    /// Newest check.
    pub async fn last_check(&self, _tenant: &str, _domain_id: &str) -> Result<Option<CheckRow>, StoreError> {
        todo!()
    }
    /// Newest first.
    pub async fn checks(
        &self,
        _tenant: &str,
        _domain_id: &str,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Page<CheckRow>, StoreError> {
        todo!()
    }
    /// Owner and version of a name.
    pub async fn name_version(&self, _name: &str) -> Result<NameVersion, StoreError> {
        todo!()
    }
    /// Which of these names are verified, by any tenant (system read for `authorize`).
    pub async fn verified_owners(&self, _names: &[String]) -> Result<Vec<OwnedName>, StoreError> {
        todo!()
    }
    /// Applies a change if the domain still has `seen_version` (`Stale` otherwise; `Contested` if the claim's version moved).
    pub async fn change_domain(
        &self,
        _tenant: &str,
        _domain_id: &str,
        _seen_version: i64,
        _change: &DomainChange,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Deletes: the row is marked, the name given up, keys `revoked` and wiped, waiting recipients and messages signed by or waiting for this
    /// domain `cancelled` with an event each. False if there is none. `event_id` makes ids for those events.
    pub async fn delete_domain(
        &self,
        _tenant: &str,
        _domain_id: &str,
        _at: i64,
        _event_id: &(dyn Fn() -> String + Send + Sync),
        _audit: &AuditRow,
    ) -> Result<bool, StoreError> {
        todo!()
    }
    /// Keys `active` or `retiring` of domains with signing enabled or suspended whose published p= was last tried before `before` (system, for the refresh).
    pub async fn keys_to_refresh(&self, _before: i64, _limit: u32) -> Result<Vec<KeyRow>, StoreError> {
        todo!()
    }
    /// Records what DNS said about a key outside a check: `Some(p)`: answered (empty: no usable record); `None`: no answer.
    pub async fn record_published(
        &self,
        _tenant: &str,
        _key_id: &str,
        _p: Option<&str>,
        _at: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
}
