//! Keys that were made elsewhere: read, vetted, compared with all that are known here, sealed.
use super::{details_of_new, records, states};
use crate::audit::Actor;
use crate::rows::{DomainRow, EventRow, KeyRow};
use crate::{Caller, Engine, Error, FieldError, Scope, ids};
use serde_json::json;
use signpost_dkim::{Selector, SigningDomain};
use signpost_keys::{CustodyKind, ImportError, ImportFault, ImportedKey};
use signpost_store::{PublicKeyRow, StoreError};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Known keys that are compared in one piece of work off the async workers.
const BATCH: u32 = 1_000;
/// Octets of a name in DNS (RFC 1035 2.3.4, in text form).
const NAME_MAX: usize = 253;
const REUSED: &str = "this selector was used for this domain before; a selector is used once, because caches and old mail remember its \
                      key: choose another, and leave the field out for a random one";

/// POST /domains/{id}/keys/import.
pub struct KeyImport {
    /// PEM, or base64: PKCS#8, PKCS#1, the octets of an Ed25519 key.
    pub private_key: Zeroizing<String>,
    /// A random one unless said.
    pub selector: Option<String>,
}

impl fmt::Debug for KeyImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyImport(hidden)")
    }
}

impl Engine {
    /// Takes a key that was made elsewhere, `pending`, custody `imported`. Scope domains:write. `Invalid` if the key or the selector is
    /// not good; then nothing is stored, and nothing of the key is in what is said or logged.
    pub async fn import_domain_key(&self, caller: &Caller, id: &str, import: KeyImport) -> Result<KeyRow, Error> {
        caller.require(Scope::DomainsWrite)?;
        let domain = self.own_domain(caller, id).await?;
        let name = records::stored_domain(&domain.name)?;
        let KeyImport { private_key, selector } = import;
        let chosen = selector.as_deref().map(|text| chosen_selector(text, &name)).transpose();
        let read = self.inner.sealed.read_import(private_key).await;
        let (chosen, imported) = match (chosen, read) {
            (Ok(chosen), Ok(imported)) => (chosen, imported),
            (_, Err(ImportError::Custody(error))) => return Err(error.into()),
            (Ok(_), Err(ImportError::Fault(fault))) => return Err(refused(fault)),
            (Err(error), Ok(_)) => return Err(Error::Invalid(vec![error])),
            (Err(error), Err(ImportError::Fault(fault))) => {
                return Err(Error::Invalid(vec![at_key(fault), error]));
            }
        };
        if domain.dkim_mode == "delegated" {
            let detail = "the records of a delegated domain are Signpost's, and so are its keys; import into a domain of mode `txt`";
            return Err(Error::Invalid(vec![FieldError::at("", detail)]));
        }
        self.room_for_a_key(&domain).await?;
        let imported = Arc::new(imported);
        // One at a time for a tenant: the comparison with every stored key is much work.
        let _turn = self.turn_to_make(&caller.tenant_id).await;
        if self.is_known(&caller.tenant_id, &imported).await? {
            return Err(refused(ImportFault::Known));
        }
        let selector = match &chosen {
            Some(selector) => selector.clone(),
            None => self.fresh_selector()?,
        };
        if self.is_sealed() {
            return Err(Error::Sealed);
        }
        let binding = self.new_binding(&domain, &name, selector);
        let stored = self.inner.sealed.adopt(&binding, Arc::clone(&imported)).await?;
        let key = self.pending_key(&domain, binding, CustodyKind::Imported, stored);
        let audit = self.audit(caller, "key.imported", &key.id, details_of_new(&key)).of_domain(&domain.id);
        let mut stored = self.inner.store.insert_key(&caller.tenant_id, &key, &audit).await;
        if matches!(stored, Err(StoreError::Conflict)) && chosen.is_some() && self.free_selector(&domain, &key).await? {
            stored = self.inner.store.insert_key(&caller.tenant_id, &key, &audit).await;
        }
        match stored {
            Ok(()) => Ok(key),
            // The same key at the same moment, or a selector that once was used.
            Err(StoreError::Conflict) if self.is_known(&caller.tenant_id, &imported).await? => {
                Err(refused(ImportFault::Known))
            }
            Err(StoreError::Conflict) if chosen.is_some() => {
                Err(Error::Invalid(vec![FieldError::at("/selector", REUSED)]))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A claim without proof keeps no selector from the owner of the name: its key, which never was in DNS, is revoked. True if the
    /// selector is free now.
    async fn free_selector(&self, domain: &DomainRow, wanted: &KeyRow) -> Result<bool, Error> {
        let store = &self.inner.store;
        let held = store.selector_without_proof(&domain.tenant_id, &domain.name, &wanted.selector).await?;
        let Some(held) = held.filter(|_| domain.ownership == "verified") else { return Ok(false) };
        let details = json!({
            "key": ids::public("key", &held.id),
            "selector": held.selector,
            "before": held.state,
            "after": states::REVOKED,
            "reason": "the owner of the name uses this selector",
        });
        let event = EventRow {
            id: self.fresh_id(),
            tenant_id: held.tenant_id.clone(),
            kind: "key.revoked".into(),
            at: self.now_ms(),
            message_id: None,
            recipient_id: None,
            domain: Some(held.domain_name.clone()),
            details: details.clone(),
        };
        let audit =
            self.audit_by(Actor::System, &held.tenant_id, "key.revoked", &held.id, details).of_domain(&held.domain_id);
        match store.free_selector(&domain.tenant_id, &held, self.now_ms(), &event, &audit).await {
            Ok(()) => Ok(true),
            Err(StoreError::Stale) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Is the key, or a factor of it, one of any key that is or was here? An Ed25519 key has no factors: a tenant may use one for several
    /// domains, but what two tenants hold is neither's.
    async fn is_known(&self, tenant: &str, imported: &Arc<ImportedKey>) -> Result<bool, Error> {
        let mut after: Option<String> = None;
        loop {
            let page = self.inner.store.public_keys(after.as_deref(), BATCH).await?;
            let Some(last) = page.last() else { return Ok(false) };
            after = Some(last.key_id.clone());
            let (imported, tenant) = (Arc::clone(imported), tenant.to_owned());
            let compare = move || page.iter().any(|row| is_the_same(&imported, &tenant, row));
            let found = tokio::task::spawn_blocking(compare).await;
            if found.map_err(|_| Error::Internal("the comparison with known keys was broken off".into()))? {
                return Ok(true);
            }
        }
    }
}

fn is_the_same(imported: &ImportedKey, tenant: &str, row: &PublicKeyRow) -> bool {
    let is_foreign_twin = row.tenant_id != tenant && row.public_key == imported.public_key().to_p();
    is_foreign_twin || imported.shares_a_factor_with(&row.public_key)
}

/// RFC 6376 3.1.
fn chosen_selector(text: &str, domain: &SigningDomain) -> Result<Selector, FieldError> {
    let selector = Selector::parse(text).map_err(|error| FieldError::at("/selector", error.to_string()))?;
    if selector.record_name(domain).len() > NAME_MAX {
        let detail =
            "with this selector the name of the key record would be longer than 253 octets; choose a shorter one";
        return Err(FieldError::at("/selector", detail));
    }
    Ok(selector)
}

fn at_key(fault: ImportFault) -> FieldError {
    FieldError::at("/private_key", fault.to_string())
}

fn refused(fault: ImportFault) -> Error {
    Error::Invalid(vec![at_key(fault)])
}
