//! Domains: register, records, check, enable, keys.
mod check;
pub(crate) mod formats;
mod import;
mod key_steps;
pub(crate) mod own_key;
mod policy;
mod proof;
pub(crate) mod publication;
pub(crate) mod records;
mod rotation;
pub(crate) mod states;
mod suspension;
mod watch;
mod watch_rules;

pub use formats::Format;
pub use import::KeyImport;
pub use own_key::{KmsTrust, NewOwnKey};
pub use policy::{PolicyChange, SigningPolicyView};

use crate::custody::is_remote;
use crate::delegation::slots;
use crate::rows::{CheckRow, DomainRow, KeyRow, Page};
use crate::{Caller, Engine, Error, FieldError, Scope, ids};
use serde::{Deserialize, Serialize};
use serde_json::json;
use signpost_diagnosis::suffix::is_icann_suffix;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_keys::{CustodyKind, KeyBinding, Random, StoredKey};
use signpost_store::{KeyLife, StoreError};

/// Symbols of 5 bits: 130 random bits.
const OWNERSHIP_TOKEN_LENGTH: usize = 26;
/// Mode of a domain whose keys the service publishes.
pub(crate) const DELEGATED: &str = "delegated";
/// Symbols of 5 bits: no two keys of a name meet by chance; the store refuses the case.
const SELECTOR_LENGTH: usize = 10;
/// Keys of a domain that are neither retired nor revoked.
const KEYS_PER_DOMAIN: usize = 10;

/// Purpose of a record (DESIGN: Record.purpose).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the JSON values")]
pub enum Purpose {
    Ownership,
    Dkim,
    Spf,
    ReturnPath,
    Dmarc,
}

/// Where a record's zone is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZoneSource {
    /// The zone's servers said so.
    Dns,
    /// It is the organizational domain, since DNS was not asked yet or did not answer.
    #[default]
    Assumed,
}

/// A record to publish. `status` is a value of `diagnosis::check::Status`, or `unchecked`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN: Record")]
pub struct RecordView {
    pub purpose: Purpose,
    /// `TXT`, `CNAME`, `MX`.
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    /// The name below `zone`; `@` for the zone itself.
    pub relative_name: String,
    /// The zone that the record belongs into.
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub zone_source: ZoneSource,
    pub value: String,
    pub chunks: Vec<String>,
    pub required: bool,
    pub status: String,
    pub warnings: Vec<String>,
}

/// One server's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN: Check")]
pub struct ServerView {
    pub server: String,
    pub status: String,
}

/// A record in a check.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the JSON fields of DESIGN: Check")]
pub struct CheckedRecord {
    #[serde(flatten)]
    pub record: RecordView,
    pub found: Vec<String>,
    pub servers: Vec<ServerView>,
    pub explanation: String,
}

/// A check.
#[derive(Debug, Clone)]
pub struct CheckView {
    /// Id without prefix.
    pub id: String,
    /// `pass`, `fail`, `indeterminate`.
    pub verdict: String,
    /// Milliseconds.
    pub checked_at: i64,
    /// Same order as the domain's records.
    pub records: Vec<CheckedRecord>,
}

/// A domain with all that belongs to it.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DomainView {
    pub row: DomainRow,
    pub keys: Vec<KeyRow>,
    pub records: Vec<RecordView>,
    pub last_check: Option<CheckView>,
}

/// POST /domains.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// As typed; U-labels welcome.
    pub name: String,
    /// `txt` unless said; `delegated` where the operator set it up.
    pub dkim_mode: Option<String>,
    /// `rsa-2048` unless said.
    pub algorithm: Option<String>,
}

/// POST /domains/{id}/keys.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// `rsa-2048`, `rsa-3072`, `rsa-4096`, `ed25519`.
    pub algorithm: Option<String>,
    /// `sealed`, or `aws-kms` and `aws-kms-envelope` where the server has a KMS; the server's default unless said.
    pub custody: Option<String>,
}

impl Engine {
    /// Registers a domain and makes its first key. Scope domains:write.
    pub async fn register_domain(&self, caller: &Caller, new: &NewDomain) -> Result<DomainView, Error> {
        caller.require(Scope::DomainsWrite)?;
        let (name, algorithm, delegated) = validate_new_domain(new, self.offers_delegation())?;
        let custody = self.custody_for_new_key(None).map_err(|error| Error::Invalid(vec![error]))?;
        let counted = custody.is_remote() || delegated;
        let _turn = if counted { Some(self.turn_to_make(&caller.tenant_id).await) } else { None };
        if self.inner.store.domain_by_name(&caller.tenant_id, name.as_str()).await?.is_some() {
            return Err(Error::DomainExists);
        }
        if custody.is_remote() {
            self.admit_unproven(&caller.tenant_id).await?;
        }
        if delegated {
            self.admit_delegated(&caller.tenant_id).await?;
        }
        let now = self.now_ms();
        let row = DomainRow {
            id: self.fresh_id(),
            tenant_id: caller.tenant_id.clone(),
            name: name.to_string(),
            dkim_mode: if delegated { DELEGATED } else { "txt" }.into(),
            ownership: "pending".into(),
            ownership_token: ids::random_text(self.inner.random.as_ref(), OWNERSHIP_TOKEN_LENGTH),
            token_issued_at: now,
            proven_at: None,
            signing: "disabled".into(),
            signing_reason: None,
            dual_signing: false,
            version: 0,
            created_at: now,
        };
        let key = self.make_key(&row, &name, algorithm, custody).await?;
        let details = json!({"name": row.name, "key": ids::public("key", &key.id), "selector": key.selector, "algorithm": key.algorithm});
        let audit = self.audit(caller, "domain.created", &row.id, details);
        let inserted = if delegated {
            let made = self.new_slots(&row, &key.selector)?;
            self.inner.store.insert_delegated_domain(&row, &made, &key, &audit).await
        } else {
            self.inner.store.insert_domain(&row, &key, &audit).await
        };
        match inserted {
            Ok(()) => {
                if delegated {
                    self.publish_domain(&row.tenant_id, &row.id, slots::AT_ONCE).await;
                }
                self.view(row).await
            }
            Err(error) => {
                self.abandon(&key, &error).await;
                Err(if matches!(error, StoreError::Conflict) { Error::DomainExists } else { error.into() })
            }
        }
    }

    /// Scope domains:read.
    pub async fn domain(&self, caller: &Caller, id: &str) -> Result<DomainView, Error> {
        caller.require(Scope::DomainsRead)?;
        let row = self.own_domain(caller, id).await?;
        self.view(row).await
    }

    /// Oldest first. Scope domains:read.
    pub async fn domains(&self, caller: &Caller, after: Option<&str>, limit: u32) -> Result<Page<DomainView>, Error> {
        caller.require(Scope::DomainsRead)?;
        let page = self.inner.store.domains(&caller.tenant_id, after, limit).await?;
        let mut rows = Vec::with_capacity(page.rows.len());
        for row in page.rows {
            rows.push(self.view(row).await?);
        }
        Ok(Page { rows, next: page.next })
    }

    /// Cancels waiting mail with an event each, withdraws the keys. Scope domains:write.
    pub async fn delete_domain(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        caller.require(Scope::DomainsWrite)?;
        let row = self.own_domain(caller, id).await?;
        let keys = self.inner.store.keys(&caller.tenant_id, id).await?;
        let audit = self.audit(caller, "domain.deleted", id, json!({"name": row.name}));
        let engine = self.clone();
        let event_id = move || engine.fresh_id();
        if !self.inner.store.delete_domain(&caller.tenant_id, id, self.now_ms(), &event_id, &audit).await? {
            return Err(Error::NotFound("domain"));
        }
        if row.dkim_mode == DELEGATED {
            self.publish_domain(&row.tenant_id, id, slots::AT_ONCE).await;
        }
        for key in &keys {
            if let Some(Ok(custody)) = CustodyKind::parse(&key.custody).map(|kind| self.custody(kind)) {
                custody.forget(&key.id);
            }
        }
        if keys.iter().any(is_remote) {
            self.withdraw_soon();
        }
        Ok(())
    }

    /// History, newest first. Scope domains:read.
    pub async fn checks(
        &self,
        caller: &Caller,
        id: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<CheckView>, Error> {
        caller.require(Scope::DomainsRead)?;
        self.own_domain(caller, id).await?;
        let page = self.inner.store.checks(&caller.tenant_id, id, after, limit).await?;
        let rows = page.rows.iter().map(CheckView::from_row).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: page.next })
    }

    /// Oldest first. Scope domains:read.
    pub async fn domain_keys(&self, caller: &Caller, id: &str) -> Result<Vec<KeyRow>, Error> {
        caller.require(Scope::DomainsRead)?;
        self.own_domain(caller, id).await?;
        Ok(self.inner.store.keys(&caller.tenant_id, id).await?)
    }

    /// Makes a further key, `pending`. Scope domains:write.
    pub async fn create_domain_key(&self, caller: &Caller, id: &str, new: &NewKey) -> Result<KeyRow, Error> {
        caller.require(Scope::DomainsWrite)?;
        let algorithm = parse_algorithm(new.algorithm.as_deref());
        let custody = self.custody_for_new_key(new.custody.as_deref());
        let (algorithm, custody) = match (algorithm, custody) {
            (Ok(algorithm), Ok(custody)) => (algorithm, custody),
            (algorithm, custody) => {
                return Err(Error::Invalid(algorithm.err().into_iter().chain(custody.err()).collect()));
            }
        };
        let domain = self.own_domain(caller, id).await?;
        self.room_for_a_key(&domain).await?;
        let name = records::stored_domain(&domain.name)?;
        let _turn = if custody.is_remote() { Some(self.turn_to_make(&caller.tenant_id).await) } else { None };
        if custody.is_remote() {
            self.admit_further(&domain).await?;
        }
        let key = self.make_key(&domain, &name, algorithm, custody).await?;
        let audit = self.audit(caller, "key.created", &key.id, details_of_new(&key)).of_domain(&domain.id);
        if let Err(error) = self.inner.store.insert_key(&caller.tenant_id, &key, &audit).await {
            self.abandon(&key, &error).await;
            return Err(error.into());
        }
        if domain.dkim_mode == DELEGATED {
            self.publish_domain(&domain.tenant_id, id, slots::AT_ONCE).await;
        }
        Ok(key)
    }

    /// May the domain have one more key? `Invalid` if not.
    async fn room_for_a_key(&self, domain: &DomainRow) -> Result<(), Error> {
        let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
        if keys.iter().filter(|key| states::is_listed(&key.state)).count() < KEYS_PER_DOMAIN {
            return Ok(());
        }
        let detail = format!("this domain has {KEYS_PER_DOMAIN} keys already; each is asked for at every check");
        Err(Error::Invalid(vec![FieldError::at("", detail)]))
    }

    /// A foreign or deleted domain is `NotFound`.
    async fn own_domain(&self, caller: &Caller, id: &str) -> Result<DomainRow, Error> {
        self.inner.store.domain(&caller.tenant_id, id).await?.ok_or(Error::NotFound("domain"))
    }

    async fn view(&self, row: DomainRow) -> Result<DomainView, Error> {
        let keys = self.inner.store.keys(&row.tenant_id, &row.id).await?;
        let last_check = match self.inner.store.last_check(&row.tenant_id, &row.id).await? {
            None => None,
            Some(check) => Some(CheckView::from_row(&check)?),
        };
        let listed = self.listed_records(&row, &keys).await?;
        let checked = last_check.as_ref().map_or(&[][..], |check| check.records.as_slice());
        let mut records = records::with_statuses(listed, checked);
        if row.dkim_mode != DELEGATED {
            records::warn_of_retiring(&mut records, &keys);
            records.extend(records::of_revoked(&row, &keys, self.now_ms())?);
        }
        Ok(DomainView { row, keys, records, last_check })
    }

    /// What a new key is bound to.
    fn new_binding(&self, domain: &DomainRow, name: &SigningDomain, selector: Selector) -> KeyBinding {
        KeyBinding { tenant: domain.tenant_id.clone(), domain: name.clone(), selector, key_id: self.fresh_id() }
    }

    /// A random one.
    fn fresh_selector(&self) -> Result<Selector, Error> {
        Selector::parse(&random_selector(self.inner.random.as_ref()))
            .map_err(|error| Error::Internal(format!("selector: {error}")))
    }

    /// With a random selector or, of a delegated domain, that of a free slot; and until when its name may be remembered for other data.
    async fn binding_of_new_key(
        &self,
        domain: &DomainRow,
        name: &SigningDomain,
    ) -> Result<(KeyBinding, Option<i64>), Error> {
        let of_slot = if domain.dkim_mode == DELEGATED { self.slot_for_key(domain).await? } else { None };
        let (selector, other_data_until) = match of_slot {
            Some(slot) => slot,
            None => (self.fresh_selector()?, None),
        };
        Ok((self.new_binding(domain, name, selector), other_data_until))
    }

    /// A key with a random selector, never used before for this name; of a delegated domain, with that of a free slot.
    async fn make_key(
        &self,
        domain: &DomainRow,
        name: &SigningDomain,
        algorithm: KeyAlgorithm,
        custody: CustodyKind,
    ) -> Result<KeyRow, Error> {
        let (binding, other_data_until) = self.binding_of_new_key(domain, name).await?;
        if self.is_sealed() {
            return Err(Error::Sealed);
        }
        let custody = self.custody(custody)?;
        let made = custody.create(&binding, algorithm).await?;
        let mut key = self.pending_key(domain, binding, custody.kind(), made);
        key.life.other_data_until = other_data_until;
        Ok(key)
    }

    /// The row of a key that custody has just stored.
    fn pending_key(&self, domain: &DomainRow, binding: KeyBinding, custody: CustodyKind, made: StoredKey) -> KeyRow {
        let now = self.now_ms();
        KeyRow {
            id: binding.key_id,
            tenant_id: domain.tenant_id.clone(),
            domain_id: domain.id.clone(),
            domain_name: domain.name.clone(),
            selector: binding.selector.to_string(),
            algorithm: made.algorithm.as_str().into(),
            custody: custody.as_str().into(),
            reference: made.reference,
            sealed: made.sealed,
            public_key: made.public_key.to_p(),
            state: states::PENDING.into(),
            published_p: None,
            published_read_at: None,
            published_tried_at: None,
            life: KeyLife { state_since: now, ..KeyLife::default() },
            created_at: now,
        }
    }
}

impl CheckView {
    /// From the stored row. `Internal` if its JSON is not ours.
    pub fn from_row(row: &CheckRow) -> Result<Self, Error> {
        let records = Vec::<CheckedRecord>::deserialize(&row.records)
            .map_err(|error| Error::Internal(format!("stored check {}: {error}", row.id)))?;
        Ok(Self { id: row.id.clone(), verdict: row.verdict.clone(), checked_at: row.checked_at, records })
    }

    /// The texts at the place of the domain's DMARC record.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &str> {
        let records = self.records.iter().filter(|checked| checked.record.purpose == Purpose::Dmarc);
        records.flat_map(|checked| checked.found.iter().map(String::as_str))
    }
}

/// What the audit log tells of a key that came.
fn details_of_new(key: &KeyRow) -> serde_json::Value {
    json!({
        "before": null,
        "after": states::PENDING,
        "selector": key.selector,
        "algorithm": key.algorithm,
        "custody": key.custody,
    })
}

/// A selector that was never used.
pub(crate) fn random_selector(random: &dyn Random) -> String {
    format!("sp{}", ids::random_text(random, SELECTOR_LENGTH))
}

/// `offered`: the operator set delegated mode up. The last value: whether it was asked for.
fn validate_new_domain(new: &NewDomain, offered: bool) -> Result<(SigningDomain, KeyAlgorithm, bool), Error> {
    let name =
        SigningDomain::parse(&new.name).map_err(|error| FieldError::at("/name", error.to_string())).and_then(|name| {
            if is_icann_suffix(&name) {
                let detail =
                    "this is a public suffix, under which others register their names; register a domain below it";
                return Err(FieldError::at("/name", detail));
            }
            Ok(name)
        });
    let mode = match new.dkim_mode.as_deref() {
        None | Some("txt") => Ok(false),
        Some(DELEGATED) if offered => Ok(true),
        Some(DELEGATED) => Err(FieldError::at(
            "/dkim_mode",
            "`delegated` is not offered by this server, since its operator set no DNS server to publish keys on \
             (SIGNPOST_DNS_UPDATE and SIGNPOST_SERVICE_DOMAIN); use `txt`",
        )),
        Some(_) => Err(FieldError::at("/dkim_mode", "one of `txt`, `delegated` is needed")),
    };
    match (name, parse_algorithm(new.algorithm.as_deref()), mode) {
        (Ok(name), Ok(algorithm), Ok(delegated)) => Ok((name, algorithm, delegated)),
        (name, algorithm, mode) => {
            Err(Error::Invalid(name.err().into_iter().chain(algorithm.err()).chain(mode.err()).collect()))
        }
    }
}

fn parse_algorithm(text: Option<&str>) -> Result<KeyAlgorithm, FieldError> {
    let Some(text) = text else { return Ok(KeyAlgorithm::Rsa2048) };
    KeyAlgorithm::parse(text)
        .ok_or_else(|| FieldError::at("/algorithm", "one of rsa-2048, rsa-3072, rsa-4096, ed25519 is needed"))
}
