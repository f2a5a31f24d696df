//! What the steps of `states` bring about: rows, events and audit rows of one change, and the test before a key's first use.
use super::check::key_observation;
use super::records::Listed;
use super::states::{self, Circumstances, Sighting, Step};
use crate::audit::Actor;
use crate::messages::signers::key_parts;
use crate::rows::{DomainRow, EventRow, KeyRow};
use crate::{Engine, Error, ids};
use futures_util::future::join_all;
use serde_json::{Value, json};
use signpost_diagnosis::check::{Finding, Status};
use signpost_diagnosis::ttl::served_ttl;
use signpost_dkim::SigningDomain;
use signpost_dkim::record::PublicKey;
use signpost_keys::CustodyKind;
use signpost_store::{DomainChange, KeyChange};
use std::time::Duration;

/// What a key signs before its first use; any 32 octets serve.
const TEST_DIGEST: [u8; 32] = *b"signpost: first use of a new key";

/// Keys of a domain at a moment that may move them.
pub(super) struct Turn<'a> {
    pub(super) actor: Actor<'a>,
    pub(super) domain: &'a DomainRow,
    pub(super) keys: &'a [KeyRow],
    pub(super) circumstances: Circumstances<'a>,
    /// A JSON object that events and audit rows repeat: the check, the reason.
    pub(super) because: Value,
}

impl Engine {
    /// What a check found, as far as it concerns keys. TTLs are asked for where a state depends on them.
    pub(super) async fn sightings(
        &self,
        domain: &SigningDomain,
        keys: &[KeyRow],
        found: impl Iterator<Item = (&Listed, &Finding)>,
        ttl_deadline: Duration,
    ) -> Vec<Sighting> {
        let sightings = found.filter_map(|(listed, finding)| {
            let key = keys.iter().find(|key| Some(&key.id) == listed.key_id.as_ref())?;
            let answer = key_observation((listed, finding)).map(|(_, right, p)| (right, p));
            let right = answer.as_ref().is_some_and(|(right, _)| *right);
            let other = holds_other_data(finding);
            let asks = (right && key.life.record_ttl.is_none()) || other;
            Some(async move {
                let ttl_ms = if asks {
                    let ttl = served_ttl(&self.inner.dns, domain, &listed.expected.name, ttl_deadline).await;
                    ttl.map(|seconds| i64::from(seconds) * 1000)
                } else {
                    None
                };
                Sighting { key_id: key.id.clone(), answer, other, ttl_ms }
            })
        });
        join_all(sightings).await
    }

    /// Adds the next steps to a change of the domain: new states, times and p= of its keys, the octets of private halves that
    /// are not to be used again, what follows for the domain, events and audit rows.
    pub(super) fn turn(&self, turn: &Turn<'_>, change: &mut DomainChange) -> Vec<Step> {
        let steps = states::steps(turn.keys, &turn.circumstances);
        change.keys.extend(turn.keys.iter().filter_map(|key| self.key_change(turn, key, &steps)));
        for step in &steps {
            change.events.extend(self.step_event(turn, step, &steps));
            let action = format!("key.{}", action(step.to));
            let mut details = turn.because.clone();
            details["before"] = step.from.clone().into();
            details["after"] = step.to.into();
            let row = self.audit_by(turn.actor, &turn.domain.tenant_id, &action, &step.key_id, details);
            change.audit.push(row.of_domain(&turn.domain.id));
        }
        self.signing_after(turn, &steps, change);
        steps
    }

    fn key_change(&self, turn: &Turn<'_>, key: &KeyRow, steps: &[Step]) -> Option<KeyChange> {
        let now = turn.circumstances.now;
        let sighting = turn.circumstances.sightings.iter().find(|sighting| sighting.key_id == key.id);
        let steps: Vec<&Step> = steps.iter().filter(|step| step.key_id == key.id).collect();
        let mut life = match sighting {
            Some(sighting) => states::life_after_sighting(key, sighting, now),
            None => key.life.clone(),
        };
        for step in &steps {
            life = states::life_after_step(life, step.to, self.inner.settings.queue_lifetime_ms, now);
        }
        let published = sighting.and_then(|sighting| sighting.answer.as_ref()).map(|(_, p)| (p.clone(), now));
        let state = steps.last().map(|step| step.to);
        if state.is_none() && published.is_none() && life == key.life {
            return None;
        }
        Some(KeyChange {
            key_id: key.id.clone(),
            state: state.map(str::to_owned),
            published,
            wipe: state == Some(states::RETIRED) || state == Some(states::REVOKED),
            life: (life != key.life).then_some(life),
        })
    }

    /// What a tenant is told of a step. That a key retires is told with the one that took over, or was asked for.
    fn step_event(&self, turn: &Turn<'_>, step: &Step, steps: &[Step]) -> Option<EventRow> {
        if step.to == states::RETIRING {
            return None;
        }
        let key = turn.keys.iter().find(|key| key.id == step.key_id)?;
        let mut details = turn.because.clone();
        details["key"] = ids::public("key", &key.id).into();
        details["record"] = format!("{}._domainkey.{}", key.selector, turn.domain.name).into();
        details["selector"] = key.selector.clone().into();
        if step.to == states::ACTIVE {
            let retires = |other: &KeyRow| steps.iter().any(|s| s.to == states::RETIRING && s.key_id == other.id);
            let replaced = turn.keys.iter().filter(|other| retires(other) && turn.circumstances.compete(key, other));
            details["replaces"] = replaced.map(|other| other.selector.clone()).collect::<Vec<_>>().into();
        }
        Some(self.domain_event(turn.domain, &format!("key.{}", action(step.to)), details))
    }

    /// A domain whose only active key was revoked holds its mail and says so. One whose mail needs another key from now on goes on: it was
    /// suspended for the former one. (Of two keys that sign, mail needs the RSA key.)
    fn signing_after(&self, turn: &Turn<'_>, steps: &[Step], change: &mut DomainChange) {
        let domain = turn.domain;
        let mut after = turn.keys.to_vec();
        for key in &mut after {
            if let Some(step) = steps.iter().rev().find(|step| step.key_id == key.id) {
                key.state = step.to.to_owned();
            }
        }
        let needed = |keys: &[KeyRow]| states::signing_keys(keys).next().map(|key| key.id.clone());
        let (before, after) = (needed(turn.keys), needed(&after));
        change.needs_another_key = after.is_some() && after != before;
        let revoked = |step: &Step| step.from == states::ACTIVE && step.to == states::REVOKED;
        let lost = after.is_none() && steps.iter().any(revoked);
        let for_the_former = matches!(domain.signing_reason.as_deref(), Some("key_unavailable" | "record_wrong"));
        let record_wrong = domain.signing_reason.as_deref() == Some("record_wrong");
        let (action, signing, reason) = if change.needs_another_key && domain.signing == "suspended" && for_the_former {
            ("resumed", "enabled", None)
        } else if lost && (domain.signing == "enabled" || record_wrong) {
            ("suspended", "suspended", Some("key_unavailable"))
        } else {
            return;
        };
        change.signing = Some((signing.to_owned(), reason.map(str::to_owned)));
        let mut details = turn.because.clone();
        details["reason"] = reason.into();
        change.events.push(self.domain_event(domain, &format!("domain.signing_{action}"), details));
        let details = json!({"before": domain.signing, "after": signing, "reason": reason});
        change.audit.push(self.audit_by(
            turn.actor,
            &domain.tenant_id,
            &format!("signing.{action}"),
            &domain.id,
            details,
        ));
    }

    /// Keys that would be activated and do not sign what their public half, and the one in DNS, verifies.
    pub(super) async fn barred(&self, keys: &[KeyRow], circumstances: Circumstances<'_>) -> Vec<String> {
        let (mut barred, mut passed): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        loop {
            let steps = states::steps(keys, &Circumstances { barred: &barred, ..circumstances });
            let next = steps.into_iter().find(|step| step.to == states::ACTIVE && !passed.contains(&step.key_id));
            let Some(key) = next.and_then(|step| keys.iter().find(|key| key.id == step.key_id)) else { return barred };
            let sighting = circumstances.sightings.iter().find(|sighting| sighting.key_id == key.id);
            let seen = sighting.and_then(|sighting| sighting.answer.as_ref()).map(|(_, p)| p.as_str());
            match self.test_before_first_use(key, seen.or(key.published_p.as_deref()).unwrap_or_default()).await {
                Ok(()) => passed.push(key.id.clone()),
                Err(error) => {
                    tracing::error!(key = %key.id, domain = %key.domain_name, ?error, "a key fails its test and is not activated");
                    barred.push(key.id.clone());
                }
            }
        }
    }

    pub(super) async fn test_before_first_use(&self, key: &KeyRow, published_p: &str) -> Result<(), Error> {
        let (binding, stored, signer) = key_parts(key)?;
        let kind = CustodyKind::parse(&key.custody)
            .ok_or_else(|| Error::Internal(format!("stored custody {:?}", key.custody)))?;
        let signature = self.custody(kind)?.sign(&binding, &stored, &TEST_DIGEST).await?;
        let published = PublicKey::from_p(signer.algorithm.signature_algorithm(), published_p)
            .map_err(|fault| Error::Internal(format!("the published key: {fault}")))?;
        if stored.public_key.verify_digest(&TEST_DIGEST, &signature)
            && published.verify_digest(&TEST_DIGEST, &signature)
        {
            Ok(())
        } else {
            Err(Error::Internal("its signature does not verify".into()))
        }
    }
}

/// The last part of the names of events and audit actions.
fn action(state: &str) -> &str {
    if state == states::ACTIVE { "activated" } else { state }
}

/// True if a server serves something at the name that is not the record. Broken DNSSEC says nothing about what stands there.
fn holds_other_data(finding: &Finding) -> bool {
    let is_other = |status: Status| {
        !matches!(status, Status::Ok | Status::Missing | Status::Misplaced | Status::Unreachable | Status::DnssecBogus)
    };
    finding.servers.iter().any(|server| is_other(server.status))
}
