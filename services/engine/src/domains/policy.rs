//! The signing policy of a domain, and what dual signing means for its keys: where a domain asks for it, each message gets a signature
//! by an RSA key and one by an Ed25519 key (RFC 8463 5). Which keys those are is decided in `states`.
use super::DELEGATED;
use super::key_steps::Turn;
use super::states::{self, Circumstances, Place, Step};
use crate::audit::Actor;
use crate::rows::{DomainRow, KeyRow, SigningPolicyRow, SuspendedMail};
use crate::{Caller, Engine, Error, FieldError, ids};
use serde_json::json;
use signpost_dkim::KeyAlgorithm;
use signpost_store::DomainChange;

/// To be said wherever it is switched on.
const REPORTED_AS_FAILED: &str = "Some receivers do not know Ed25519 (RFC 8463) and report that signature as failed, in \
     Authentication-Results and in DMARC reports. The RSA signature beside it passes there, and DKIM and DMARC with it; if the failures \
     in reports disturb you, switch dual signing off.";

/// What of a policy shall be another; `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyChange {
    /// `Some(None)` switches rotation by schedule off.
    pub rotation_days: Option<Option<i64>>,
    /// RFC 8463 5: an RSA and an Ed25519 signature in each message.
    pub dual_signing: Option<bool>,
    /// What becomes of new mail while the record is wrong.
    pub suspended_mail: Option<SuspendedMail>,
}

impl PolicyChange {
    pub(super) fn applied_to(&self, before: &SigningPolicyRow) -> SigningPolicyRow {
        SigningPolicyRow {
            rotation_days: self.rotation_days.unwrap_or(before.rotation_days),
            dual_signing: self.dual_signing.unwrap_or(before.dual_signing),
            suspended_mail: self.suspended_mail.unwrap_or(before.suspended_mail),
        }
    }
}

/// A policy with what its owner should know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningPolicyView {
    /// As stored.
    pub row: SigningPolicyRow,
    /// Sentences for people: what to expect, what is to be done.
    pub warnings: Vec<String>,
}

impl Engine {
    pub(super) async fn policy_view(
        &self,
        tenant: &str,
        domain_id: &str,
        row: SigningPolicyRow,
    ) -> Result<SigningPolicyView, Error> {
        let warnings = if row.dual_signing {
            let keys = self.inner.store.keys(tenant, domain_id).await?;
            let missing = [KeyAlgorithm::Rsa2048, KeyAlgorithm::Ed25519];
            let missing = missing.into_iter().filter_map(|algorithm| what_is_missing(domain_id, algorithm, &keys));
            std::iter::once(REPORTED_AS_FAILED.to_owned()).chain(missing).collect()
        } else {
            Vec::new()
        };
        Ok(SigningPolicyView { row, warnings })
    }

    /// Adds to a change of the policy what it means for keys. Switched on: a published key whose kind does not sign yet does so at once;
    /// none is made. Switched off: of two keys that sign the Ed25519 one retires, and one that was to come is revoked.
    pub(super) async fn turn_for_policy(
        &self,
        caller: &Caller,
        domain: &DomainRow,
        keys: &[KeyRow],
        dual: bool,
        change: &mut DomainChange,
    ) -> Vec<Step> {
        if dual == domain.dual_signing {
            return Vec::new();
        }
        let revoke = if dual { Vec::new() } else { states::without_a_place(keys) };
        let circumstances = Circumstances { dual, revoke: &revoke, ..self.circumstances(domain, &[]) };
        let barred = self.barred(keys, circumstances).await;
        let circumstances = Circumstances { barred: &barred, ..circumstances };
        let because =
            json!({"reason": if dual { "dual signing was switched on" } else { "dual signing was switched off" }});
        self.turn(&Turn { actor: Actor::Caller(caller), domain, keys, circumstances, because }, change)
    }
}

/// As the audit log tells of a policy.
pub(super) fn told(policy: &SigningPolicyRow) -> serde_json::Value {
    json!({
        "rotation_days": policy.rotation_days,
        "dual_signing": policy.dual_signing,
        "suspended_mail": policy.suspended_mail.as_str(),
    })
}

/// Three names are published for a delegated domain: one for the key that signs, one for the key that replaces it, and one that stays
/// free for the day on which a key must be revoked.
pub(super) fn refuse_if_delegated(domain: &DomainRow) -> Result<(), Error> {
    if domain.dkim_mode != DELEGATED {
        return Ok(());
    }
    let detail = "a delegated domain has three names for keys: one for the key that signs, one for the next, one for an emergency; that \
         leaves no room for a second key that signs. Dual signing needs a domain in `txt` mode";
    Err(Error::Invalid(vec![FieldError::at("/dual_signing", detail)]))
}

/// What is to be done until a key of this kind signs; `None` if one does.
fn what_is_missing(domain_id: &str, algorithm: KeyAlgorithm, keys: &[KeyRow]) -> Option<String> {
    let place = Place::of(algorithm, true);
    if place.active(keys).is_some() {
        return None;
    }
    let name = match algorithm {
        KeyAlgorithm::Ed25519 => "Ed25519",
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => "RSA",
    };
    let domain = ids::public("dom", domain_id);
    Some(match place.next(keys) {
        Some(key) => format!(
            "The {name} key of the domain does not sign yet: publish the record {}._domainkey.{} and check the domain \
             (POST /v1/domains/{domain}/check); it signs while signing is enabled.",
            key.selector, key.domain_name
        ),
        None => format!(
            "The domain has no {name} key, so its mail has no such signature. Make one with POST /v1/domains/{domain}/keys \
             {{\"algorithm\": \"{}\"}}, publish its record, and check the domain.",
            algorithm.as_str()
        ),
    })
}
