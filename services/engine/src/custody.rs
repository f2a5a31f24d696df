//! Which custody holds which key; and the keys that another machine holds, from the limit on them to their end there.
use crate::audit::Actor;
use crate::domains::{own_key, states};
use crate::messages::signers::key_parts;
use crate::rows::{DomainRow, KeyRow};
use crate::{Engine, Error, FieldError};
use serde_json::json;
use signpost_keys::{Custody, CustodyError, CustodyKind, NEW_KEY_FOR};
use signpost_store::StoreError;
use std::sync::{Arc, PoisonError};

/// A key in a KMS is costly: so many unproven domains of a tenant may have some.
const UNPROVEN_DOMAINS: i64 = 5;
/// So many of them an unproven domain may have: one of each kind, RSA and Ed25519.
const KEYS_OF_UNPROVEN: usize = 2;
/// An unproven domain whose remote key is older goes.
const UNPROVEN_KEPT_MS: i64 = 7 * 24 * 3600 * 1000;
/// Rows of one pass, or of one page of it.
const BATCH: u32 = 100;

/// The KMS of this process.
pub struct KmsAccess {
    /// Custody `aws-kms`.
    pub keys: Arc<dyn Custody>,
    /// Custody `aws-kms-envelope`.
    pub envelope: Arc<dyn Custody>,
    /// The custody of keys that are made without naming one.
    pub for_new_keys: CustodyKind,
}

impl Engine {
    /// Gives the engine its KMS, once, at the start.
    pub fn attach_kms(&self, kms: KmsAccess) {
        if self.inner.kms.set(kms).is_err() {
            tracing::error!("a second KMS was offered and is not used");
        }
    }

    /// The custody that holds keys of this kind; `Unavailable` if this process has no access to it.
    pub(crate) fn custody(&self, kind: CustodyKind) -> Result<Arc<dyn Custody>, CustodyError> {
        let kms = || {
            self.inner.kms.get().ok_or_else(|| {
                CustodyError::Unavailable(
                    "this server is not set up for AWS KMS any more; the operator has to look".into(),
                )
            })
        };
        match kind {
            CustodyKind::Sealed | CustodyKind::Imported => Ok(Arc::clone(&self.inner.sealed) as Arc<dyn Custody>),
            CustodyKind::AwsKms => kms().map(|kms| Arc::clone(&kms.keys)),
            CustodyKind::AwsKmsEnvelope => kms().map(|kms| Arc::clone(&kms.envelope)),
        }
    }

    /// The custody of a key that is to be made: the named one, or the server's default.
    pub(crate) fn custody_for_new_key(&self, named: Option<&str>) -> Result<CustodyKind, FieldError> {
        let kms = self.inner.kms.get();
        let Some(named) = named else { return Ok(kms.map_or(CustodyKind::Sealed, |kms| kms.for_new_keys)) };
        let offered = || match kms {
            Some(_) => "`sealed`, `aws-kms` and `aws-kms-envelope`",
            None => "`sealed`",
        };
        match CustodyKind::parse(named) {
            Some(CustodyKind::Sealed) => Ok(CustodyKind::Sealed),
            Some(kind @ (CustodyKind::AwsKms | CustodyKind::AwsKmsEnvelope)) if kms.is_some() => Ok(kind),
            Some(CustodyKind::Imported) => Err(FieldError::at(
                "/custody",
                "a key that was made elsewhere is imported: POST /v1/domains/{id}/keys/import",
            )),
            Some(CustodyKind::AwsKms | CustodyKind::AwsKmsEnvelope) | None => {
                let detail = format!("the custody that this server offers for keys made here is {}", offered());
                Err(FieldError::at("/custody", detail))
            }
        }
    }

    /// To be called now and then in every process: an opened private key that was not used since the last call leaves the memory. So
    /// does one that another process revoked.
    pub fn forget_unused_keys(&self) {
        self.inner.sealed.forget_unused();
    }

    /// A tenant's turn to make a remote key. Held until its row is stored, so that two requests cannot both be the last allowed.
    /// (Several processes on one database each have their own turns: there the limit may be passed by one for each process.)
    pub(crate) async fn turn_to_make(&self, tenant: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.inner.remote_turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(tenant.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// May this tenant have a remote key for one more unproven domain? `TooManyUnproven` if not.
    pub(crate) async fn admit_unproven(&self, tenant: &str) -> Result<(), Error> {
        let have = self.inner.store.count_unproven_with_remote_keys(tenant).await?;
        if have < UNPROVEN_DOMAINS { Ok(()) } else { Err(too_many_unproven()) }
    }

    /// May this domain, registered already, have one more remote key?
    pub(crate) async fn admit_further(&self, domain: &DomainRow) -> Result<(), Error> {
        if domain.ownership != "pending" {
            return Ok(());
        }
        let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
        let costs_us = |key: &&KeyRow| is_remote(key) && !own_key::is_own(key) && states::is_listed(&key.state);
        match keys.iter().filter(costs_us).count() {
            0 => self.admit_unproven(&domain.tenant_id).await,
            have if have < KEYS_OF_UNPROVEN => Ok(()),
            _ => Err(too_many_unproven()),
        }
    }

    /// A key was made and its row could not be stored. It is given up where it is held, if the row surely does not exist.
    pub(crate) async fn abandon(&self, key: &KeyRow, cause: &StoreError) {
        if !is_remote(key) {
            return;
        }
        let given_up = match cause {
            StoreError::Conflict | StoreError::Stale | StoreError::Contested => self.give_up(key).await,
            // The commit may have happened: then this is a key in use.
            StoreError::Unavailable(_) | StoreError::InUse | StoreError::Refused(_) | StoreError::Damaged(_) => {
                Err(Error::Internal("the database did not say whether the key was stored".into()))
            }
        };
        if let Err(error) = given_up {
            tracing::error!(key = %key.id, reference = %key.reference, ?error,
                "a key was made for nothing; if no domain has it, delete it in the KMS by hand");
        }
    }

    async fn give_up(&self, key: &KeyRow) -> Result<(), Error> {
        let (binding, stored, _) = key_parts(key)?;
        let kind = CustodyKind::parse(&key.custody)
            .ok_or_else(|| Error::Internal(format!("stored custody {:?}", key.custody)))?;
        self.custody(kind)?.withdraw(&binding, &stored).await?;
        Ok(())
    }

    /// One pass: gives up, where they are held, the remote keys that are retired or revoked (also by the deletion of their domain). What
    /// fails is tried again by the next pass, for as long as it takes. Returns how many were given up.
    pub async fn withdraw_keys(&self) -> Result<usize, Error> {
        let mut done = 0;
        let mut after: Option<String> = None;
        loop {
            let keys = self.inner.store.keys_to_withdraw(after.as_deref(), BATCH).await?;
            let Some(last) = keys.last() else { return Ok(done) };
            after = Some(last.id.clone());
            for key in &keys {
                match self.give_up(key).await {
                    Ok(()) => {
                        self.inner.store.record_withdrawn(&key.tenant_id, &key.id, self.now_ms()).await?;
                        tracing::info!(key = %key.id, domain = %key.domain_name, "a key was given up in the KMS");
                        done += 1;
                    }
                    Err(error) => {
                        tracing::warn!(key = %key.id, reference = %key.reference, ?error, "a key could not be given up in the KMS yet");
                    }
                }
            }
        }
    }

    /// One pass: deletes unproven domains whose remote key is older than 7 days; `withdraw_keys` then gives up their keys.
    /// Returns how many went.
    pub async fn expire_unproven_domains(&self) -> Result<usize, Error> {
        let now = self.now_ms();
        let mut gone = 0;
        for domain in self.inner.store.overdue_unproven(now - UNPROVEN_KEPT_MS, BATCH).await? {
            let details = json!({"name": domain.name, "reason": "not proven within 7 days of its key in the KMS"});
            let audit = self.audit_by(Actor::System, &domain.tenant_id, "domain.expired", &domain.id, details);
            let event_id = || self.fresh_id();
            if self.inner.store.delete_unproven_domain(&domain.tenant_id, &domain.id, now, &event_id, &audit).await? {
                tracing::info!(domain = %domain.name, "an unproven domain expired");
                gone += 1;
            }
        }
        Ok(gone)
    }
}

/// What it means for the mail of a key that it did not sign. The reasons are for tenants; the whole cause is in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It passes: a message asks again in so many ms. `answered`: the KMS was asked for it, and did not give it.
    Passing { reason: String, after_ms: i64, answered: bool },
    /// Whoever asks would wait in vain: nobody asks but a probe.
    Away(String),
    /// The same, and nobody but the key is at fault: its domain says so.
    OfTheKey(String),
}

impl Failure {
    /// What a message is told that waits because of this.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Passing { reason, .. } | Self::Away(reason) | Self::OfTheKey(reason) => reason,
        }
    }
}

/// What somebody is told whose signature failed because of this.
pub(crate) fn waiting_reason(key: &KeyRow, error: CustodyError) -> String {
    // The reason does not depend on the time.
    failure(key, error, key.created_at).reason().to_owned()
}

/// A message whose signature failed in a way that passes comes back no sooner.
const PASSING_MS: i64 = 1_000;

/// What this fault of its custody means for a key.
pub(crate) fn failure(key: &KeyRow, error: CustodyError, now: i64) -> Failure {
    let new_for = i64::try_from(NEW_KEY_FOR.as_millis()).unwrap_or(i64::MAX);
    match error {
        CustodyError::Unavailable(reason) => Failure::Away(reason),
        CustodyError::Transient(reason) => Failure::Passing { reason, after_ms: PASSING_MS, answered: true },
        CustodyError::Paced(after) => {
            let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX).max(PASSING_MS);
            let reason = "more signatures are asked of the KMS than it takes: it waits for its turn".into();
            Failure::Passing { reason, after_ms, answered: false }
        }
        CustodyError::KeyUnavailable(reason) => Failure::OfTheKey(reason),
        CustodyError::KeyNotFound(reason) if now - key.created_at < new_for => Failure::Away(reason),
        CustodyError::KeyNotFound(reason) => Failure::OfTheKey(reason),
        CustodyError::Refused(reason) => {
            tracing::error!(key = %key.id, domain = %key.domain_name, reason, "custody refuses to sign");
            Failure::OfTheKey("the signing key cannot be used; the operator has to look".into())
        }
    }
}

/// True if another machine holds the key.
pub(crate) fn is_remote(key: &KeyRow) -> bool {
    CustodyKind::parse(&key.custody).is_some_and(CustodyKind::is_remote)
}

fn too_many_unproven() -> Error {
    Error::TooManyUnproven { domains: UNPROVEN_DOMAINS, days: UNPROVEN_KEPT_MS / (24 * 3600 * 1000) }
}

#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
