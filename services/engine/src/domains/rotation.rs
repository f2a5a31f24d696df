//! Rotation: a new key on demand or by schedule, what waits for the tenant's DNS, the end of old keys; and revocation.
use super::key_steps::Turn;
use super::policy::{self, PolicyChange, SigningPolicyView};
use super::states::{self, Circumstances, Place, Sighting, Step};
use super::{DELEGATED, KEYS_PER_DOMAIN, NewKey, details_of_new, own_key, parse_algorithm, records};
use crate::audit::Actor;
use crate::custody::is_remote;
use crate::delegation::slots;
use crate::rows::{AuditRow, DomainRow, EventRow, KeyRow, SigningPolicyRow};
use crate::{Caller, Engine, Error, FieldError, Scope, ids};
use futures_util::StreamExt;
use serde_json::json;
use signpost_diagnosis::check;
use signpost_dkim::KeyAlgorithm;
use signpost_keys::CustodyKind;
use signpost_store::{DomainChange, KeyChange, StoreError};
use std::time::Duration;

/// Rows of one pass.
const BATCH: u32 = 200;
/// Names looked at a time: dead servers of some tenants must not hold up the others.
const AT_A_TIME: usize = 16;
const LOOK_DEADLINE: Duration = Duration::from_secs(8);
const TTL_DEADLINE: Duration = Duration::from_secs(5);
/// A tenant is asked again for the record of a waiting rotation after so long.
const REMIND_AFTER_MS: i64 = 7 * 24 * 3600 * 1000;
/// A change that lost against another one is planned anew so many times: of parallel ones at least one wins each round.
const CHANGE_TRIES: usize = 64;
const DAY_MS: i64 = 24 * 3600 * 1000;
const TESTS_AT_A_REVOCATION: Duration = Duration::from_secs(1);
/// Days between rotations that a policy may name.
const ROTATION_DAYS: std::ops::RangeInclusive<i64> = 1..=3650;

impl Engine {
    /// Makes the key that is to replace the one that signs, `pending`; of the same algorithm and custody unless named.
    /// `RotationUnderWay` while there is one already. With dual signing the algorithm tells which of the two is to be replaced, its
    /// RSA or its Ed25519 key; unless named, the one that signs longer and has no successor yet. Scope domains:write.
    pub async fn rotate_key(&self, caller: &Caller, id: &str, new: &NewKey) -> Result<KeyRow, Error> {
        caller.require(Scope::DomainsWrite)?;
        let algorithm = new.algorithm.as_deref().map(|name| parse_algorithm(Some(name))).transpose();
        let custody = new.custody.as_deref().map(|name| self.custody_for_new_key(Some(name))).transpose();
        let (algorithm, custody) = match (algorithm, custody) {
            (Ok(algorithm), Ok(custody)) => (algorithm, custody),
            (algorithm, custody) => {
                return Err(Error::Invalid(algorithm.err().into_iter().chain(custody.err()).collect()));
            }
        };
        let domain = self.own_domain(caller, id).await?;
        self.prepare_rotation(Actor::Caller(caller), domain, algorithm, custody).await
    }

    /// Scope domains:read.
    pub async fn signing_policy(&self, caller: &Caller, id: &str) -> Result<SigningPolicyView, Error> {
        caller.require(Scope::DomainsRead)?;
        let row = self.inner.store.signing_policy(&caller.tenant_id, id).await?.ok_or(Error::NotFound("domain"))?;
        self.policy_view(&caller.tenant_id, id, row).await
    }

    /// Scope domains:write.
    pub async fn change_signing_policy(
        &self,
        caller: &Caller,
        id: &str,
        wanted: &PolicyChange,
    ) -> Result<SigningPolicyView, Error> {
        caller.require(Scope::DomainsWrite)?;
        if wanted.rotation_days.flatten().is_some_and(|days| !ROTATION_DAYS.contains(&days)) {
            let (least, most) = (ROTATION_DAYS.start(), ROTATION_DAYS.end());
            let detail =
                format!("a whole number of days from {least} to {most} is needed, or null for no rotation by itself");
            return Err(Error::Invalid(vec![FieldError::at("/rotation_days", detail)]));
        }
        for _ in 0..CHANGE_TRIES {
            let domain = self.own_domain(caller, id).await?;
            if wanted.dual_signing == Some(true) {
                policy::refuse_if_delegated(&domain)?;
            }
            let before = self.signing_policy_of(&domain).await?;
            let after = wanted.applied_to(&before);
            if after == before {
                return self.policy_view(&domain.tenant_id, id, after).await;
            }
            let details = json!({"before": policy::told(&before), "after": policy::told(&after)});
            let mut change = DomainChange {
                policy: Some(after.clone()),
                audit: vec![self.audit(caller, "signing_policy.changed", id, details)],
                ..DomainChange::default()
            };
            let keys = self.inner.store.keys(&domain.tenant_id, id).await?;
            let steps = self.turn_for_policy(caller, &domain, &keys, after.dual_signing, &mut change).await;
            match self.inner.store.change_domain(&domain.tenant_id, id, domain.version, &change).await {
                Ok(()) => {
                    self.after_steps(&domain, &keys, &steps).await?;
                    return self.policy_view(&domain.tenant_id, id, after).await;
                }
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    async fn signing_policy_of(&self, domain: &DomainRow) -> Result<SigningPolicyRow, Error> {
        self.inner.store.signing_policy(&domain.tenant_id, &domain.id).await?.ok_or(Error::NotFound("domain"))
    }

    /// From now on nothing is signed with the key and nothing leaves that it signed: what waits is signed anew by the active key.
    /// If it was that, the newest published one takes its place, else the domain's mail waits. Idempotent. Scope domains:write.
    pub async fn revoke_key(&self, caller: &Caller, key_id: &str) -> Result<KeyRow, Error> {
        caller.require(Scope::DomainsWrite)?;
        for _ in 0..CHANGE_TRIES {
            let key = self.own_key(caller, key_id).await?;
            if key.state == states::REVOKED {
                return Ok(key);
            }
            let domain = self.own_domain(caller, &key.domain_id).await?;
            let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
            let revoke = [key_id.to_owned()];
            let circumstances = Circumstances { revoke: &revoke, ..self.circumstances(&domain, &[]) };
            let because = json!({"reason": "revoked"});
            if self.change_keys(Actor::Caller(caller), &domain, &keys, circumstances, because).await? {
                if domain.dkim_mode == DELEGATED {
                    self.publish_domain(&domain.tenant_id, &domain.id, slots::AT_ONCE).await;
                }
                return self.own_key(caller, key_id).await;
            }
        }
        Err(Error::Busy)
    }

    async fn own_key(&self, caller: &Caller, key_id: &str) -> Result<KeyRow, Error> {
        self.inner.store.key(&caller.tenant_id, key_id).await?.ok_or(Error::NotFound("key"))
    }

    pub(super) fn circumstances<'a>(&self, domain: &DomainRow, sightings: &'a [Sighting]) -> Circumstances<'a> {
        let signs = domain.signing != "disabled";
        let dual = domain.dual_signing;
        Circumstances { sightings, signs, dual, barred: &[], revoke: &[], now: self.now_ms() }
    }

    /// Applies the next steps of a domain's keys. False if the domain changed meanwhile: nothing was done.
    async fn change_keys(
        &self,
        actor: Actor<'_>,
        domain: &DomainRow,
        keys: &[KeyRow],
        circumstances: Circumstances<'_>,
        because: serde_json::Value,
    ) -> Result<bool, Error> {
        let barred = match circumstances.revoke {
            [] => self.barred(keys, circumstances).await,
            // A revocation waits for nobody: a successor that is not tested in time is activated by the next pass.
            [_, ..] => match tokio::time::timeout(TESTS_AT_A_REVOCATION, self.barred(keys, circumstances)).await {
                Ok(barred) => barred,
                Err(_) => keys.iter().map(|key| key.id.clone()).collect(),
            },
        };
        let circumstances = Circumstances { barred: &barred, ..circumstances };
        let mut change = DomainChange::default();
        let steps = self.turn(&Turn { actor, domain, keys, circumstances, because }, &mut change);
        let store = &self.inner.store;
        if steps.is_empty() && change.keys.iter().all(|key| key.life.is_none()) {
            for key in change.keys {
                let Some((p, at)) = key.published else { continue };
                store.record_published(&domain.tenant_id, &key.key_id, Some(&p), at).await?;
            }
            return Ok(true);
        }
        match store.change_domain(&domain.tenant_id, &domain.id, domain.version, &change).await {
            Ok(()) => {}
            Err(StoreError::Stale) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.after_steps(domain, keys, &steps).await?;
        Ok(true)
    }

    /// What follows from steps that are committed.
    pub(super) async fn after_steps(&self, domain: &DomainRow, keys: &[KeyRow], steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            tracing::info!(key = %step.key_id, domain = %domain.name, from = %step.from, to = step.to, "a key changed its state");
        }
        self.forget_ended(keys, steps);
        let revoked = |key: &&KeyRow| steps.iter().any(|step| step.to == states::REVOKED && step.key_id == key.id);
        if keys.iter().filter(revoked).any(is_remote) {
            self.withdraw_soon();
        }
        if steps.iter().any(|step| step.to == states::ACTIVE) {
            self.inner.store.hurry_waiting(&domain.tenant_id, &domain.id, self.now_ms()).await?;
        }
        Ok(())
    }

    /// Gives up, where they are held, the keys that are not to be used again: at once, in the background. What fails, or ends
    /// with this process, is done by the passes.
    pub(super) fn withdraw_soon(&self) {
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.withdraw_keys().await {
                tracing::warn!(?error, "keys that are not to be used again are given up later");
            }
        });
    }

    /// Keys that these steps ended leave this process's memory.
    pub(super) fn forget_ended(&self, keys: &[KeyRow], steps: &[Step]) {
        for step in steps.iter().filter(|step| step.to == states::RETIRED || step.to == states::REVOKED) {
            self.forget(keys.iter().find(|key| key.id == step.key_id));
        }
    }

    /// Its private half leaves this process's memory.
    fn forget(&self, key: Option<&KeyRow>) {
        let kind = key.and_then(|key| CustodyKind::parse(&key.custody));
        if let (Some(key), Some(Ok(custody))) = (key, kind.map(|kind| self.custody(kind))) {
            custody.forget(&key.id);
        }
    }

    async fn prepare_rotation(
        &self,
        actor: Actor<'_>,
        mut domain: DomainRow,
        algorithm: Option<KeyAlgorithm>,
        custody: Option<CustodyKind>,
    ) -> Result<KeyRow, Error> {
        let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
        let place = place_to_rotate(&keys, domain.dual_signing, algorithm);
        refuse_if_under_way(&keys, place)?;
        let algorithm = algorithm.or_else(|| model(&keys, place).and_then(|key| KeyAlgorithm::parse(&key.algorithm)));
        let custody = match custody {
            Some(custody) => custody,
            None => self.custody_of_next(&keys, place).map_err(|error| Error::Invalid(vec![error]))?,
        };
        let _turn = if custody.is_remote() { Some(self.turn_to_make(&domain.tenant_id).await) } else { None };
        if custody.is_remote() {
            self.admit_further(&domain).await?;
        }
        let name = records::stored_domain(&domain.name)?;
        let algorithm = algorithm.unwrap_or(KeyAlgorithm::Rsa2048);
        let mut key = self.make_key(&domain, &name, algorithm, custody).await?;
        key.life.reminded_at = Some(key.created_at);
        let audit = self.rotation_audit(actor, &domain, place.active(&keys), &key);
        // A delegated domain has published all that it needs.
        let events =
            if domain.dkim_mode == DELEGATED { Vec::new() } else { vec![self.waiting_event(&domain, &key).await?] };
        for _ in 0..CHANGE_TRIES {
            let audit = std::slice::from_ref(&audit);
            match self.inner.store.insert_next_key(&domain.tenant_id, domain.version, &key, &events, audit).await {
                Ok(()) => {
                    if domain.dkim_mode == DELEGATED {
                        self.publish_domain(&domain.tenant_id, &domain.id, slots::AT_ONCE).await;
                    }
                    return Ok(key);
                }
                // Something else of the domain changed; or another rotation came first.
                Err(StoreError::Stale) => {
                    let again = self.inner.store.domain(&domain.tenant_id, &domain.id).await?;
                    let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
                    let lost = match again {
                        Some(again) => {
                            domain = again;
                            refuse_if_under_way(&keys, Place::of(algorithm, domain.dual_signing)).err()
                        }
                        None => Some(Error::NotFound("domain")),
                    };
                    if let Some(error) = lost {
                        self.abandon(&key, &StoreError::Stale).await;
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.abandon(&key, &error).await;
                    return Err(error.into());
                }
            }
        }
        self.abandon(&key, &StoreError::Stale).await;
        Err(Error::Busy)
    }

    /// That of the present key, if keys of that kind can still be made here.
    fn custody_of_next(&self, keys: &[KeyRow], place: Place) -> Result<CustodyKind, FieldError> {
        if model(keys, place).is_some_and(own_key::is_own) {
            return Err(own_key::only_its_tenant_makes_the_next());
        }
        let present = model(keys, place).and_then(|key| self.custody_for_new_key(Some(&key.custody)).ok());
        present.map_or_else(|| self.custody_for_new_key(None), Ok)
    }

    fn rotation_audit(&self, actor: Actor<'_>, domain: &DomainRow, former: Option<&KeyRow>, key: &KeyRow) -> AuditRow {
        let mut details = details_of_new(key);
        details["reason"] = "rotation".into();
        details["replaces"] = former.map(|key| ids::public("key", &key.id)).into();
        self.audit_by(actor, &domain.tenant_id, "key.created", &key.id, details).of_domain(&domain.id)
    }

    /// Asks the tenant for the record that a rotation waits for.
    async fn waiting_event(&self, domain: &DomainRow, key: &KeyRow) -> Result<EventRow, Error> {
        let listed = self.listed_records(domain, std::slice::from_ref(key)).await?;
        let record =
            listed.into_iter().find(|listed| listed.key_id.as_ref() == Some(&key.id)).map(|listed| listed.view);
        let details = json!({
            "key": ids::public("key", &key.id),
            "selector": key.selector,
            "record": record.map(|view| json!({"type": view.kind, "name": view.name, "value": view.value})),
        });
        Ok(self.domain_event(domain, "key.rotation_waiting", details))
    }

    /// One pass over the keys that may be due for a step: those whose time is over retire, those that are to come are looked for
    /// in DNS. On any process: what two of them do at once is done once. What goes wrong with one is logged and stops no other.
    pub async fn tend_keys(&self) -> Result<(), Error> {
        if self.is_sealed() {
            return Ok(());
        }
        let store = &self.inner.store;
        for key in store.keys_to_retire(self.now_ms(), BATCH).await? {
            let retired = self.step_by_itself(&key, &[], json!({"reason": "nothing needs its record any more"})).await;
            log_failure(&key.domain_name, "a key could not be retired yet", retired);
        }
        let waiting = store.keys_to_look_for(self.now_ms(), BATCH).await?;
        futures_util::stream::iter(waiting)
            .for_each_concurrent(AT_A_TIME, |key| async move {
                log_failure(&key.domain_name, "a key's record could not be looked for", self.look_for(&key).await);
            })
            .await;
        Ok(())
    }

    /// One pass: makes the next key where a policy says so, and asks again for records that rotations wait for.
    pub async fn prepare_due_rotations(&self) -> Result<(), Error> {
        if self.is_sealed() {
            return Ok(());
        }
        let store = &self.inner.store;
        let (mut after, mut away) = (None, Vec::new());
        loop {
            let due = store.domains_to_rotate(self.now_ms(), after.as_deref(), BATCH).await?;
            let Some(last) = due.last() else { break };
            after = Some(last.id.clone());
            for domain in due {
                self.prepare_due_rotation(&domain, &mut away).await?;
            }
        }
        for key in store.keys_to_remind_of(self.now_ms() - REMIND_AFTER_MS, BATCH).await? {
            log_failure(&key.domain_name, "a tenant could not be reminded yet", self.remind_of(&key).await);
        }
        Ok(())
    }

    /// `away`: custodies that make no keys now. Each further one of theirs would take its time to fail.
    async fn prepare_due_rotation(&self, domain: &DomainRow, away: &mut Vec<CustodyKind>) -> Result<(), Error> {
        let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
        let policy = self.inner.store.signing_policy(&domain.tenant_id, &domain.id).await?;
        // Deleted, or switched off meanwhile.
        let Some(days) = policy.and_then(|policy| policy.rotation_days) else { return Ok(()) };
        let since = self.now_ms() - days * DAY_MS;
        for place in Place::all(domain.dual_signing) {
            let is_due = |key: &&KeyRow| key.life.state_since <= since && place.next(&keys).is_none();
            let Some(key) = place.active(&keys).filter(is_due) else { continue };
            let custody = match self.custody_of_next(&keys, *place) {
                Ok(custody) => custody,
                Err(fault) => {
                    tracing::warn!(domain = %domain.name, ?fault, "a rotation could not be prepared yet");
                    continue;
                }
            };
            if !away.contains(&custody) {
                self.prepare_by_schedule(domain, KeyAlgorithm::parse(&key.algorithm), custody, away).await;
            }
        }
        Ok(())
    }

    async fn prepare_by_schedule(
        &self,
        domain: &DomainRow,
        algorithm: Option<KeyAlgorithm>,
        custody: CustodyKind,
        away: &mut Vec<CustodyKind>,
    ) {
        let name = &domain.name;
        match self.prepare_rotation(Actor::System, domain.clone(), algorithm, Some(custody)).await {
            Ok(key) => tracing::info!(domain = %name, key = %key.id, "a rotation was prepared by schedule"),
            // Another process was faster.
            Err(Error::RotationUnderWay | Error::Busy | Error::NotFound(_)) => {}
            Err(error @ (Error::KeyUnavailable | Error::Sealed)) => {
                tracing::warn!(domain = %name, ?error, "rotations that are due wait until keys can be made again");
                away.push(custody);
            }
            Err(error) => tracing::warn!(domain = %name, ?error, "a rotation could not be prepared yet"),
        }
    }

    /// Asks the authoritative servers for the record of a key that is to come, and takes the steps that follow.
    async fn look_for(&self, key: &KeyRow) -> Result<(), Error> {
        let Some(domain) = self.inner.store.domain(&key.tenant_id, &key.domain_id).await? else { return Ok(()) };
        let name = records::stored_domain(&domain.name)?;
        if domain.dkim_mode == DELEGATED {
            self.publish_domain(&domain.tenant_id, &domain.id, slots::BEFORE_A_CHECK).await;
        }
        let mut listed = self.listed_records(&domain, std::slice::from_ref(key)).await?;
        listed.retain(|listed| listed.key_id.is_some());
        let expected: Vec<_> = listed.iter().map(|listed| listed.expected.clone()).collect();
        let asked_at = self.now_ms();
        let findings = check::check(&self.inner.dns, &name, &expected, LOOK_DEADLINE).await;
        let keys = std::slice::from_ref(key);
        let sightings = self.sightings(&name, keys, listed.iter().zip(&findings), TTL_DEADLINE).await;
        if sightings.iter().any(|sighting| sighting.answer.is_some() || sighting.other) {
            self.step_by_itself(key, &sightings, json!({"reason": "its record was looked for"})).await?;
        }
        // Also where servers disagree: such a key is looked for no more often than others.
        if sightings.iter().all(|sighting| sighting.answer.is_none()) {
            self.inner.store.record_published(&key.tenant_id, &key.id, None, asked_at).await?;
        }
        Ok(())
    }

    pub(super) async fn step_by_itself(
        &self,
        key: &KeyRow,
        sightings: &[Sighting],
        because: serde_json::Value,
    ) -> Result<(), Error> {
        for _ in 0..CHANGE_TRIES {
            let store = &self.inner.store;
            let Some(domain) = store.domain(&key.tenant_id, &key.domain_id).await? else { return Ok(()) };
            let keys = store.keys(&domain.tenant_id, &domain.id).await?;
            let circumstances = self.circumstances(&domain, sightings);
            if self.change_keys(Actor::System, &domain, &keys, circumstances, because.clone()).await? {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    async fn remind_of(&self, key: &KeyRow) -> Result<(), Error> {
        let store = &self.inner.store;
        let Some(domain) = store.domain(&key.tenant_id, &key.domain_id).await? else { return Ok(()) };
        let keys = store.keys(&domain.tenant_id, &domain.id).await?;
        let still = keys.iter().find(|other| other.id == key.id && other.life == key.life && other.state == key.state);
        let Some(key) = still else { return Ok(()) };
        let life = signpost_store::KeyLife { reminded_at: Some(self.now_ms()), ..key.life.clone() };
        let change = DomainChange {
            keys: vec![KeyChange { key_id: key.id.clone(), life: Some(life), ..KeyChange::default() }],
            events: vec![self.waiting_event(&domain, key).await?],
            ..DomainChange::default()
        };
        match store.change_domain(&domain.tenant_id, &domain.id, domain.version, &change).await {
            // The next pass looks again.
            Ok(()) | Err(StoreError::Stale) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where the next key is to sign: where the named algorithm does, else where a key has signed longest and has no successor yet.
fn place_to_rotate(keys: &[KeyRow], dual: bool, algorithm: Option<KeyAlgorithm>) -> Place {
    let without_successor = Place::all(dual).iter().filter(|place| place.next(keys).is_none());
    let since = |place: &Place| place.active(keys).map(|key| (key.life.state_since, *place));
    let longest = || without_successor.filter_map(since).min_by_key(|(since, _)| *since).map(|(_, place)| place);
    let like_any =
        || states::signing_keys(keys).next().or(keys.last()).and_then(|key| KeyAlgorithm::parse(&key.algorithm));
    algorithm
        .map(|algorithm| Place::of(algorithm, dual))
        .or_else(longest)
        .unwrap_or_else(|| Place::of(like_any().unwrap_or(KeyAlgorithm::Rsa2048), dual))
}

/// The key that the next one is to be like.
fn model(keys: &[KeyRow], place: Place) -> Option<&KeyRow> {
    place.active(keys).or_else(|| keys.iter().rfind(|key| place.takes(key)))
}

fn refuse_if_under_way(keys: &[KeyRow], place: Place) -> Result<(), Error> {
    if place.next(keys).is_some() {
        return Err(Error::RotationUnderWay);
    }
    if keys.iter().filter(|key| states::is_listed(&key.state)).count() >= KEYS_PER_DOMAIN {
        let detail =
            format!("this domain has {KEYS_PER_DOMAIN} keys already; wait until one is retired, or revoke one");
        return Err(Error::Invalid(vec![FieldError::at("", detail)]));
    }
    Ok(())
}

fn log_failure(domain: &str, what: &str, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::warn!(domain, ?error, "{what}");
    }
}

#[cfg(test)]
#[path = "dual_tests.rs"]
mod dual_tests;
#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
