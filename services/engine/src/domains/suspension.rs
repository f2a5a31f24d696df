//! Domains whose key cannot be used, through no fault of the KMS: they say so, and go on when it can.
use crate::audit::Actor;
use crate::domains::{states, watch_rules};
use crate::rows::{DomainRow, KeyRow};
use crate::{Engine, Error, ids};
use serde_json::json;
use signpost_store::{DomainChange, StoreError};

/// Why signing is suspended (DESIGN: Domain.signing_reason).
const KEY_UNAVAILABLE: &str = "key_unavailable";
/// A change that lost against another one is planned anew so many times: of parallel ones at least one wins each round.
const CHANGE_TRIES: usize = 64;

impl Engine {
    /// The domain of a key that signs and cannot be used becomes suspended, if it is enabled; with the events and the audit row in the same
    /// transaction. Repeatable: whoever finds it done does nothing.
    pub(crate) async fn suspend_for_key(&self, key: &KeyRow, reason: &str) -> Result<(), Error> {
        let is_enabled = |domain: &DomainRow| domain.signing == "enabled";
        self.change_for_key(key, is_enabled, |domain| {
            let about = json!({"key": ids::public("key", &key.id), "selector": key.selector, "cause": reason});
            let mut suspended = about.clone();
            suspended["reason"] = KEY_UNAVAILABLE.into();
            DomainChange {
                signing: Some(("suspended".into(), Some(KEY_UNAVAILABLE.into()))),
                events: vec![
                    self.domain_event(domain, "key.unavailable", about),
                    self.domain_event(domain, "domain.signing_suspended", suspended),
                ],
                audit: vec![self.audit_by(
                    Actor::System,
                    &domain.tenant_id,
                    "signing.suspended",
                    &domain.id,
                    json!({"before": domain.signing, "after": "suspended", "reason": KEY_UNAVAILABLE, "cause": reason, "key": ids::public("key", &key.id)}),
                )],
                ..DomainChange::default()
            }
        })
        .await
    }

    /// The key signs again: what was suspended for it goes on.
    pub(crate) async fn resume_after_key(&self, key: &KeyRow) -> Result<(), Error> {
        let is_suspended = |domain: &DomainRow| {
            domain.signing == "suspended" && domain.signing_reason.as_deref() == Some(KEY_UNAVAILABLE)
        };
        let watch = self.inner.store.watch_state(&key.tenant_id, &key.domain_id).await?.unwrap_or_default();
        // Another reason may have come up meanwhile: it is shown now.
        let (action, signing, reason) = if watch_rules::is_settled(&watch.record) {
            ("suspended", "suspended", Some("record_wrong"))
        } else {
            ("resumed", "enabled", None)
        };
        self.change_for_key(key, is_suspended, |domain| {
            let about = json!({"key": ids::public("key", &key.id), "selector": key.selector, "reason": reason});
            let details =
                json!({"before": domain.signing, "after": signing, "reason": reason, "key": ids::public("key", &key.id)});
            let action_name = format!("signing.{action}");
            DomainChange {
                signing: Some((signing.into(), reason.map(str::to_owned))),
                events: vec![self.domain_event(domain, &format!("domain.signing_{action}"), about)],
                audit: vec![self.audit_by(Actor::System, &domain.tenant_id, &action_name, &domain.id, details)],
                ..DomainChange::default()
            }
        })
        .await
    }

    /// Applies the change while the domain is as `applies` wants it and the key is the one that mail needs: of two that sign, the RSA key
    /// (docs/key-states.md).
    async fn change_for_key(
        &self,
        key: &KeyRow,
        applies: impl Fn(&DomainRow) -> bool,
        change: impl Fn(&DomainRow) -> DomainChange,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        for _ in 0..CHANGE_TRIES {
            let Some(domain) = store.domain(&key.tenant_id, &key.domain_id).await? else { return Ok(()) };
            let keys = store.keys(&key.tenant_id, &key.domain_id).await?;
            let is_needed = states::signing_keys(&keys).next().is_some_and(|first| first.id == key.id);
            if !is_needed || !applies(&domain) {
                return Ok(());
            }
            match store.change_domain(&domain.tenant_id, &domain.id, domain.version, &change(&domain)).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }
}
