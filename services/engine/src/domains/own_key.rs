//! A tenant's own key in AWS KMS: what names it, and what has to be true before it is taken.
use super::{DELEGATED, details_of_new, parse_algorithm, records};
use crate::delegation::slots;
use crate::rows::{DomainRow, KeyRow};
use crate::{Caller, Engine, Error, FieldError, Scope};
use async_trait::async_trait;
use signpost_dkim::{KeyAlgorithm, SigningDomain};
use signpost_keys::{CustodyError, CustodyKind, ExternalIds, OurIdentity, OwnKeyError, OwnKeyFault, OwnKmsCustody};
use signpost_store::{Store, StoreError};
use std::sync::Arc;

/// Known keys that are compared at a time.
const BATCH: u32 = 1_000;
/// Before the colon of references.
const SCHEME: &str = "awskms-role:";

/// POST /domains/{id}/keys with the ARN of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the JSON fields")]
pub struct NewOwnKey {
    pub kms_key_arn: Option<String>,
    pub role_arn: Option<String>,
    /// `aws-kms`.
    pub custody: Option<String>,
    /// What the tenant expects the key to be.
    pub algorithm: Option<String>,
}

/// The same, whole.
struct Named<'a> {
    key_arn: &'a str,
    role_arn: &'a str,
    algorithm: Option<KeyAlgorithm>,
}

/// What a tenant's trust policy needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsTrust {
    /// `sts:ExternalId` of the condition.
    pub external_id: String,
    /// Who we are, where AWS says so.
    pub us: Option<OurIdentity>,
}

/// From the store.
struct StoredExternalIds(Store);

#[async_trait]
impl ExternalIds for StoredExternalIds {
    async fn external_id(&self, tenant: &str) -> Result<String, CustodyError> {
        match self.0.external_id(tenant).await {
            Ok(Some(external_id)) => Ok(external_id),
            Ok(None) => Err(CustodyError::Refused("the tenant has no ExternalId; its row was removed".into())),
            Err(error) => Err(CustodyError::Unavailable(error.to_string())),
        }
    }
}

/// True if the key is its tenant's, in AWS KMS.
pub(crate) fn is_own(key: &KeyRow) -> bool {
    key.reference.starts_with(SCHEME)
}

fn named(new: &NewOwnKey) -> Result<Named<'_>, Error> {
    let mut faults = Vec::new();
    if new.kms_key_arn.is_none() {
        faults.push(FieldError::at("/kms_key_arn", "the ARN of the key is needed with `role_arn`"));
    }
    if new.role_arn.is_none() {
        let detail = "the ARN of a role that may use the key is needed; this service uses a key of yours only by a role of yours";
        faults.push(FieldError::at("/role_arn", detail));
    }
    if new.custody.as_deref() != Some(CustodyKind::AwsKms.as_str()) {
        faults.push(FieldError::at("/custody", "a key of yours in AWS KMS has the custody `aws-kms`; name it"));
    }
    let algorithm = new.algorithm.as_deref().map(|name| parse_algorithm(Some(name))).transpose();
    match (&new.kms_key_arn, &new.role_arn, algorithm) {
        (Some(key_arn), Some(role_arn), Ok(algorithm)) if faults.is_empty() => {
            Ok(Named { key_arn, role_arn, algorithm })
        }
        (_, _, algorithm) => Err(Error::Invalid(faults.into_iter().chain(algorithm.err()).collect())),
    }
}

/// Why the next key cannot be made here.
pub(super) fn only_its_tenant_makes_the_next() -> FieldError {
    FieldError::at(
        "/custody",
        "the key that signs is yours, in AWS KMS, and so is the next one to make: name it in POST /v1/domains/{id}/keys, or name another \
         custody here",
    )
}

impl Engine {
    /// Where custody asks for ExternalIds.
    pub fn external_ids(&self) -> Arc<dyn ExternalIds> {
        Arc::new(StoredExternalIds(self.inner.store.clone()))
    }

    /// Gives the engine its way to keys of tenants, once, at the start.
    pub fn attach_own_kms(&self, custody: Arc<OwnKmsCustody>) {
        if self.inner.own_kms.set(custody).is_err() {
            tracing::error!("a second way to keys of tenants was offered and is not used");
        }
    }

    /// What the trust policy of a role has to say. Scope domains:read.
    pub async fn kms_trust(&self, caller: &Caller) -> Result<KmsTrust, Error> {
        caller.require(Scope::DomainsRead)?;
        let external_id = self.external_id(&caller.tenant_id).await?;
        let us = match self.inner.own_kms.get() {
            Some(custody) => custody.identity().await,
            None => None,
        };
        Ok(KmsTrust { external_id, us })
    }

    /// Takes a key of the tenant's in AWS KMS, `pending`. Scope domains:write. `Invalid` if it is not proven to be the tenant's to give, or
    /// cannot sign; `KeyUnavailable` if AWS cannot be asked now.
    pub async fn take_domain_key(&self, caller: &Caller, id: &str, new: &NewOwnKey) -> Result<KeyRow, Error> {
        caller.require(Scope::DomainsWrite)?;
        let named = named(new)?;
        let domain = self.own_domain(caller, id).await?;
        self.room_for_a_key(&domain).await?;
        let name = records::stored_domain(&domain.name)?;
        // One at a time: each makes several calls to AWS.
        let _turn = self.turn_to_make(&caller.tenant_id).await;
        let key = self.taken_key(&domain, &name, &named).await?;
        let mut details = details_of_new(&key);
        details["kms_key_arn"] = named.key_arn.into();
        details["role_arn"] = named.role_arn.into();
        let audit = self.audit(caller, "key.created", &key.id, details).of_domain(&domain.id);
        match self.inner.store.insert_key(&caller.tenant_id, &key, &audit).await {
            Ok(()) => {}
            Err(StoreError::Conflict) if self.is_known_public_key(&key.public_key).await? => return Err(known()),
            Err(error) => return Err(error.into()),
        }
        if domain.dkim_mode == DELEGATED {
            self.publish_domain(&domain.tenant_id, id, slots::AT_ONCE).await;
        }
        Ok(key)
    }

    async fn external_id(&self, tenant: &str) -> Result<String, Error> {
        if let Some(known) = self.inner.store.external_id(tenant).await? {
            return Ok(known);
        }
        let fresh = signpost_keys::new_external_id(self.inner.random.as_ref());
        Ok(self.inner.store.external_id_or_insert(tenant, &fresh, self.now_ms()).await?)
    }

    /// The row of a tenant's key, once it is proven to be the tenant's to give.
    async fn taken_key(&self, domain: &DomainRow, name: &SigningDomain, named: &Named<'_>) -> Result<KeyRow, Error> {
        if self.is_sealed() {
            return Err(Error::Sealed);
        }
        let Some(custody) = self.inner.own_kms.get() else {
            let detail = "this server has no access to AWS KMS, so that it cannot use a key there";
            return Err(Error::Invalid(vec![FieldError::at("/kms_key_arn", detail)]));
        };
        self.external_id(&domain.tenant_id).await?;
        let (binding, other_data_until) = self.binding_of_new_key(domain, name).await?;
        let taken = custody.adopt(&binding, named.key_arn, named.role_arn, named.algorithm).await;
        let stored = taken.map_err(|error| match error {
            OwnKeyError::Fault(fault) => Error::Invalid(vec![FieldError::at(pointer(&fault), fault.to_string())]),
            OwnKeyError::Custody(error) => {
                tracing::warn!(tenant = %domain.tenant_id, %error, "a tenant's key could not be looked at");
                error.into()
            }
        })?;
        if self.is_known_public_key(&stored.public_key.to_p()).await? {
            return Err(known());
        }
        let mut key = self.pending_key(domain, binding, CustodyKind::AwsKms, stored);
        key.life.other_data_until = other_data_until;
        Ok(key)
    }

    /// Of any tenant, and whatever became of it.
    async fn is_known_public_key(&self, p: &str) -> Result<bool, Error> {
        let mut after: Option<String> = None;
        loop {
            let page = self.inner.store.public_keys(after.as_deref(), BATCH).await?;
            let Some(last) = page.last() else { return Ok(false) };
            if page.iter().any(|row| row.public_key == p) {
                return Ok(true);
            }
            after = Some(last.key_id.clone());
        }
    }
}

fn known() -> Error {
    let detail =
        "this key is, or was, used here already; a key signs for one domain, and does not come back: make another one";
    Error::Invalid(vec![FieldError::at("/kms_key_arn", detail)])
}

fn pointer(fault: &OwnKeyFault) -> &'static str {
    match fault {
        OwnKeyFault::RoleArn | OwnKeyFault::RoleRefuses(_) | OwnKeyFault::NoExternalId | OwnKeyFault::AnyExternalId => {
            "/role_arn"
        }
        OwnKeyFault::Algorithm(_) => "/algorithm",
        OwnKeyFault::KeyArn
        | OwnKeyFault::Ours
        | OwnKeyFault::KeyRefuses(_)
        | OwnKeyFault::Usage
        | OwnKeyFault::Spec(_)
        | OwnKeyFault::Weak(_) => "/kms_key_arn",
    }
}
