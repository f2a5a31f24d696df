//! Watching: every domain that signs is looked at again and again, so that a record that is gone stops signing before receivers notice
//! for long, and one that is back resumes it without anybody. The rules are in [`super::watch_rules`]; docs/watching.md tells them.
use super::check::{Observation, not_ready, public_check};
use super::key_steps::Turn;
use super::states::{self, Circumstances, Step};
use super::watch_rules::{self, Opinion, Opinions, Signing};
use super::{DELEGATED, records};
use crate::audit::Actor;
use crate::delegation::slots;
use crate::rows::{CheckRow, DomainRow, KeyRow};
use crate::{Engine, Error};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use signpost_diagnosis::check::{self, Status};
use signpost_dkim::KeyAlgorithm;
use signpost_store::{DomainChange, DueLook, StoreError, WatchState};
use std::collections::HashMap;
use std::time::Duration;

/// Looks under way at a time in one process, and of them for one tenant: servers that do not answer hold up a look for seconds.
const AT_A_TIME: usize = 8;
const OF_ONE_TENANT: u32 = 4;
/// Looks begin no faster than this, also where many are due: after a long standstill, for example.
const PACE: Duration = Duration::from_millis(100);
/// Rows among which the next look is chosen.
const CHOICE: u32 = 64;
/// Nobody else looks meanwhile. Longer than a look can take.
const CLAIM_MS: i64 = 60_000;
/// A look that failed here (not in DNS) is tried again after so long.
const RETRY_MS: i64 = 15 * 60_000;
/// First looks that are planned at a time.
const PLANNED: u32 = 500;
/// How long a resolver is asked for a second opinion.
const SECOND_OPINION: Duration = Duration::from_secs(4);
/// A change that lost against another one is planned anew so many times.
const CHANGE_TRIES: usize = 64;

/// One look, and what it saw.
pub(super) struct Look<'a> {
    pub(super) seen: &'a Observation,
    /// Of each record of the observation.
    pub(super) opinions: &'a [Opinion],
}

/// What a look leads to.
struct Outcome {
    change: DomainChange,
    steps: Vec<Step>,
    watch: WatchState,
}

impl Engine {
    /// One pass: looks at every domain that is due, and ends when none is. On any process: a look is claimed, so that several do not
    /// look twice. What goes wrong with one domain is logged and stops no other. Returns how many looks were made.
    pub async fn watch_domains(&self) -> Result<usize, Error> {
        self.plan_first_looks().await?;
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = FuturesUnordered::new();
        let mut busy: HashMap<String, usize> = HashMap::new();
        let mut candidates = Vec::new();
        let (mut done, mut idle, mut failure) = (0, false, None);
        loop {
            let may_begin = !idle && failure.is_none() && looks.len() < AT_A_TIME;
            tokio::select! {
                Some(tenant) = looks.next() => {
                    done += 1;
                    busy.retain(|busy, count| {
                        *count -= usize::from(*busy == tenant);
                        *count > 0
                    });
                    idle = false;
                }
                _ = pace.tick(), if may_begin => match self.claim_next_look(&busy, &mut candidates).await {
                    Ok(Some((due, until))) => {
                        *busy.entry(due.tenant_id.clone()).or_default() += 1;
                        looks.push(self.look_at(due, until));
                    }
                    Ok(None) => idle = true,
                    Err(error) => failure = Some(error),
                },
                else => return failure.map_or(Ok(done), Err),
            }
        }
    }

    /// Domains that began to sign since the last pass: their first looks are spread over the whole interval.
    async fn plan_first_looks(&self) -> Result<(), Error> {
        loop {
            let unplanned = self.inner.store.unplanned_looks(PLANNED).await?;
            if unplanned.is_empty() {
                return Ok(());
            }
            let now = self.now_ms();
            let interval = self.inner.settings.watch_every_ms;
            let planned: Vec<_> =
                unplanned.into_iter().map(|id| (id, now + watch_rules::share(interval, self.dice()))).collect();
            self.inner.store.plan_looks(&planned).await?;
        }
    }

    /// The look that is due and whose tenant has the fewest under way, and until when it is claimed. `candidates` are what the store named
    /// last; it is asked again once none of them can be taken, since it ranks all that is due for it.
    async fn claim_next_look(
        &self,
        busy: &HashMap<String, usize>,
        candidates: &mut Vec<DueLook>,
    ) -> Result<Option<(DueLook, i64)>, Error> {
        let now = self.now_ms();
        let under_way = |due: &DueLook| busy.get(&due.tenant_id).copied().unwrap_or(0);
        for asks in [false, true] {
            if asks {
                *candidates = self.inner.store.due_looks(now, OF_ONE_TENANT, CHOICE).await?;
            }
            // The best is the last.
            candidates.sort_by_key(|due| std::cmp::Reverse((under_way(due), due.at)));
            while let Some(due) = candidates.pop_if(|due| under_way(due) < OF_ONE_TENANT as usize) {
                let until = now + CLAIM_MS;
                if self.inner.store.claim_look(&due, until).await? {
                    return Ok(Some((due, until)));
                }
            }
        }
        Ok(None)
    }

    /// Returns the tenant.
    async fn look_at(&self, due: DueLook, claimed_until: i64) -> String {
        if let Err(error) = self.look(&due, claimed_until).await {
            tracing::warn!(domain = %due.domain_id, ?error, "a domain could not be looked at; it is tried again");
            self.put_off(&due, claimed_until).await;
        }
        due.tenant_id
    }

    /// Without this the claim would end in a moment, and what cannot be looked at would be tried all the time.
    async fn put_off(&self, due: &DueLook, claimed_until: i64) {
        let store = &self.inner.store;
        let put_off = async {
            let Some(state) = store.watch_state(&due.tenant_id, &due.domain_id).await? else { return Ok(false) };
            let state = WatchState { next_look_at: Some(self.now_ms() + RETRY_MS), ..state };
            store.record_look(&due.tenant_id, &due.domain_id, claimed_until, &state).await
        };
        let put_off: Result<bool, StoreError> = put_off.await;
        if let Err(error) = put_off {
            tracing::warn!(domain = %due.domain_id, %error, "a look could not be put off");
        }
    }

    async fn look(&self, due: &DueLook, claimed_until: i64) -> Result<(), Error> {
        let Some(domain) = self.inner.store.domain(&due.tenant_id, &due.domain_id).await? else { return Ok(()) };
        if domain.dkim_mode == DELEGATED {
            self.publish_domain(&domain.tenant_id, &domain.id, slots::BEFORE_A_CHECK).await;
        }
        let seen = self.observe(&domain).await?;
        let opinions = self.second_opinions(&domain, &seen).await?;
        self.conclude(due, claimed_until, &Look { seen: &seen, opinions: &opinions }).await
    }

    /// What each record is worth, once a resolver was asked about those that the authoritative servers have wrong.
    async fn second_opinions(&self, domain: &DomainRow, seen: &Observation) -> Result<Vec<Opinion>, Error> {
        let name = records::stored_domain(&domain.name)?;
        let name = &name;
        let opinions = seen.records.iter().zip(&seen.asked).map(|(record, asked)| async move {
            let first = watch_rules::authoritative(record);
            if first != Opinion::Wrong {
                return first;
            }
            if !record.record.required {
                return Opinion::Unsure;
            }
            match check::resolvers_word(&self.inner.dns, name, &asked.expected, SECOND_OPINION).await {
                Some(status) if status != Status::Ok => Opinion::Wrong,
                Some(_) | None => Opinion::Unsure,
            }
        });
        Ok(join_all(opinions).await)
    }

    /// Writes what a look leads to; planned anew where the domain changed meanwhile. Nothing if it was deleted or disabled.
    pub(super) async fn conclude(&self, due: &DueLook, claimed_until: i64, look: &Look<'_>) -> Result<(), Error> {
        let store = &self.inner.store;
        let (tenant, id) = (&due.tenant_id, &due.domain_id);
        for _ in 0..CHANGE_TRIES {
            let Some(domain) = store.domain(tenant, id).await? else { return Ok(()) };
            if domain.signing == "disabled" {
                return Ok(());
            }
            let keys = store.keys(tenant, id).await?;
            let outcome = self.outcome(&domain, &keys, look).await?;
            if changes_nothing(&outcome.change) {
                for key in keys.iter().filter(|key| states::is_listed(&key.state)) {
                    let p = outcome.change.keys.iter().find(|change| change.key_id == key.id);
                    let p = p.and_then(|change| change.published.as_ref()).map(|(p, _)| p.as_str());
                    store.record_published(tenant, &key.id, p, look.seen.row.checked_at).await?;
                }
                if !store.record_look(tenant, id, claimed_until, &outcome.watch).await? {
                    tracing::debug!(domain = %domain.name, "somebody else looked meanwhile");
                }
                return Ok(());
            }
            match store.change_domain(tenant, id, domain.version, &outcome.change).await {
                Ok(()) => return self.after_change(&domain, &keys, &outcome).await,
                Err(StoreError::Stale) => {}
                // The name was given to another claim since the look began: nothing that it saw counts.
                Err(StoreError::Contested) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    async fn after_change(&self, domain: &DomainRow, keys: &[KeyRow], outcome: &Outcome) -> Result<(), Error> {
        if let Some((signing, reason)) = &outcome.change.signing {
            tracing::info!(domain = %domain.name, signing, reason, "what a look saw changed whether a domain signs");
        }
        self.forget_ended(keys, &outcome.steps);
        let signs_again = outcome.change.signing.as_ref().is_some_and(|(signing, _)| signing == "enabled");
        if signs_again || outcome.steps.iter().any(|step| step.to == states::ACTIVE) {
            self.inner.store.hurry_waiting(&domain.tenant_id, &domain.id, self.now_ms()).await?;
        }
        Ok(())
    }

    async fn outcome(&self, domain: &DomainRow, keys: &[KeyRow], look: &Look<'_>) -> Result<Outcome, Error> {
        let store = &self.inner.store;
        let (tenant, id) = (&domain.tenant_id, &domain.id);
        let before = store.watch_state(tenant, id).await?.unwrap_or_default();
        let previous = store.last_check(tenant, id).await?;
        let seen = look.seen;
        let circumstances = Circumstances { now: seen.row.checked_at, ..self.circumstances(domain, &seen.keys) };
        let barred = self.barred(keys, circumstances).await;
        let circumstances = Circumstances { barred: &barred, ..circumstances };
        let because = json!({"reason": "the domain was looked at"});
        let turn = Turn { actor: Actor::System, domain, keys, circumstances, because };
        let mut change = DomainChange::default();
        self.prove_again(&turn, seen, &mut change);
        let steps = self.turn(&turn, &mut change);
        let now = self.now_ms();
        let opinions = opinions(look, keys, &steps);
        let mut watch = watch_rules::after_look(&before, opinions, now);
        watch.next_look_at = Some(watch_rules::next_look(&watch, now, self.inner.settings.watch_every_ms, self.dice()));
        self.follow_watch(&turn, look.seen, &steps, &watch, &mut change);
        change.check = kept_check(&seen.row, previous.as_ref(), !change.events.is_empty());
        change.watch = Some(watch);
        Ok(Outcome { change, steps, watch })
    }

    /// What a check that somebody asked for means for watching, added to its change.
    pub(super) async fn watch_after_check(
        &self,
        turn: &Turn<'_>,
        seen: &Observation,
        steps: &[Step],
        change: &mut DomainChange,
    ) -> Result<(), Error> {
        let domain = turn.domain;
        let before = self.inner.store.watch_state(&domain.tenant_id, &domain.id).await?.unwrap_or_default();
        let first: Vec<Opinion> = seen.records.iter().map(watch_rules::authoritative).collect();
        let opinions = opinions(&Look { seen, opinions: &first }, turn.keys, steps);
        let interval = self.inner.settings.watch_every_ms;
        let after = watch_rules::after_check(&before, opinions, self.now_ms(), interval, self.dice());
        self.follow_watch(turn, seen, steps, &after, change);
        if after != before {
            change.watch = Some(after);
        }
        Ok(())
    }

    /// Ownership and signing after a look or a check, with an event and an audit row where they change. Called once the steps of the keys
    /// are in the change.
    fn follow_watch(
        &self,
        turn: &Turn<'_>,
        seen: &Observation,
        steps: &[Step],
        watch: &WatchState,
        change: &mut DomainChange,
    ) {
        let domain = turn.domain;
        let ownership = change.ownership.as_ref().map_or(domain.ownership.as_str(), |(ownership, _)| ownership);
        let owned = ownership == "verified";
        let loses = owned && watch_rules::is_settled(&watch.ownership) && domain.signing != "disabled";
        if loses {
            change.ownership = Some(("lost".to_owned(), None));
        }
        let owns = owned && !loses;
        let was: Signing = (domain.signing.clone(), domain.signing_reason.clone());
        let present = change.signing.clone().unwrap_or_else(|| was.clone());
        let has_key = turn.keys.iter().any(|key| state_after(key, steps) == states::ACTIVE);
        let after = watch_rules::signing_after(&present, owns, has_key, watch_rules::is_settled(&watch.record));
        if after != present {
            self.tell_signing(turn, seen, &was, &after, loses, change);
        }
    }

    fn tell_signing(
        &self,
        turn: &Turn<'_>,
        seen: &Observation,
        was: &Signing,
        after: &Signing,
        loses: bool,
        change: &mut DomainChange,
    ) {
        let domain = turn.domain;
        let mut details = turn.because.clone();
        details["reason"] = after.1.clone().into();
        details["check"] = public_check(&seen.row).into();
        if after.0 == "suspended" {
            details["records"] =
                not_ready(&seen.records).into_iter().map(|fault| fault.detail).collect::<Vec<_>>().into();
        }
        let (event, action) = match (loses, after.0.as_str()) {
            (true, _) => ("domain.ownership_lost", "domain.ownership_lost"),
            (false, "enabled") => ("domain.signing_resumed", "signing.resumed"),
            (false, _) => ("domain.signing_suspended", "signing.suspended"),
        };
        change.events.push(self.domain_event(domain, event, details));
        let details = if loses {
            json!({"before": {"ownership": domain.ownership, "signing": was.0},
                   "after": {"ownership": "lost", "signing": after.0}, "reason": "record_wrong"})
        } else {
            json!({"before": was.0, "after": after.0, "reason": after.1})
        };
        change.audit.push(self.audit_by(turn.actor, &domain.tenant_id, action, &domain.id, details));
        change.signing = Some(after.clone());
    }

    fn dice(&self) -> u32 {
        let mut octets = [0; 4];
        self.inner.random.fill(&mut octets);
        u32::from_be_bytes(octets)
    }
}

fn state_after<'a>(key: &'a KeyRow, steps: &'a [Step]) -> &'a str {
    steps.iter().rev().find(|step| step.key_id == key.id).map_or(key.state.as_str(), |step| step.to)
}

/// What the look says of the key that mail needs, and of ownership. A key that it made active was seen right. Of two keys that sign, mail
/// needs the RSA key: where the record of the other one is wrong, it goes without that signature (docs/key-states.md).
fn opinions(look: &Look<'_>, keys: &[KeyRow], steps: &[Step]) -> Opinions {
    let asked = || look.seen.asked.iter().zip(look.opinions);
    let active = keys.iter().filter(|key| state_after(key, steps) == states::ACTIVE);
    let needed = active.min_by_key(|key| key.algorithm == KeyAlgorithm::Ed25519.as_str());
    let record = needed.map(|key| {
        if steps.iter().any(|step| step.key_id == key.id && step.to == states::ACTIVE) {
            return Opinion::Right;
        }
        let of_key = asked().find(|(asked, _)| asked.key_id.as_ref() == Some(&key.id));
        of_key.map_or(Opinion::Unsure, |(_, opinion)| *opinion)
    });
    let ownership = asked().find(|(asked, _)| asked.proves_ownership).map_or(Opinion::Unsure, |(_, opinion)| *opinion);
    Opinions { record, ownership }
}

/// True if all of it is known already, but for what DNS was read.
fn changes_nothing(change: &DomainChange) -> bool {
    let same_keys = change.keys.iter().all(|key| key.state.is_none() && key.life.is_none());
    same_keys
        && change.ownership.is_none()
        && change.signing.is_none()
        && change.check.is_none()
        && change.events.is_empty()
        && change.audit.is_empty()
}

/// The history keeps a look that is told of, and one that shows that what the last check found is mended.
fn kept_check(row: &CheckRow, previous: Option<&CheckRow>, told: bool) -> Option<CheckRow> {
    let mended = row.verdict == "pass" && previous.is_some_and(|check| check.verdict != "pass");
    (told || mended).then(|| row.clone())
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
