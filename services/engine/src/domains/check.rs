//! Check, enable, disable: what DNS says becomes state, by the rules of DESIGN and nowhere else.
use super::key_steps::Turn;
use super::records::Listed;
use super::states::{Circumstances, Sighting};
use super::{CheckView, CheckedRecord, DELEGATED, DomainView, Purpose, ServerView, states};
use crate::audit::Actor;
use crate::delegation::slots;
use crate::{Caller, Engine, Error, FieldError, Scope};
use serde_json::json;
use signpost_diagnosis::check::{self, Expected, Finding, Status};
use signpost_dkim::record;
use signpost_store::{CheckRow, Claim, DomainChange, DomainRow, EventRow, NameVersion, StoreError, WatchState};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::Instant;

/// DESIGN: POST /domains/{id}/check has a deadline of 10 s; what is left is for the answer.
const CHECK_DEADLINE: Duration = Duration::from_millis(9_000);
/// By then the trial signatures are made, too.
const PROOF_DEADLINE: Duration = Duration::from_millis(9_500);
/// DESIGN "Enable": a passed check is good for so long.
const CHECK_FRESH_MS: i64 = 10 * 60 * 1000;
/// A check with what it asks for afterwards.
const WHOLE_DEADLINE: Duration = Duration::from_millis(9_800);
const CHECKS_PER_MINUTE: usize = 120;
/// A change that lost against another one is planned anew so many times: of parallel ones at least one wins each round.
const CHANGE_TRIES: usize = 64;

/// What DNS said, not yet applied.
pub(super) struct Observation {
    pub(super) row: CheckRow,
    pub(super) records: Vec<CheckedRecord>,
    /// What was asked for, record by record.
    pub(super) asked: Vec<Asked>,
    pub(super) ownership_ok: bool,
    pub(super) keys: Vec<Sighting>,
    pub(super) name: NameVersion,
}

/// What a record of an observation was asked for.
pub(super) struct Asked {
    pub(super) expected: Expected,
    /// The key whose record it is.
    pub(super) key_id: Option<String>,
    pub(super) proves_ownership: bool,
}

impl Engine {
    /// Asks DNS now; 120 a minute per tenant. Scope domains:write.
    pub async fn check_domain(&self, caller: &Caller, id: &str) -> Result<CheckView, Error> {
        caller.require(Scope::DomainsWrite)?;
        let domain = self.own_domain(caller, id).await?;
        self.count_check(&caller.tenant_id)?;
        self.run_check(caller, domain).await
    }

    /// DESIGN "Enable": uses the latest check if it passed, is fresh and covers the present keys; else runs one. Idempotent.
    /// `RecordsNotReady` names each required record that is not ok. Scope domains:write.
    pub async fn enable_signing(&self, caller: &Caller, id: &str) -> Result<DomainView, Error> {
        caller.require(Scope::DomainsWrite)?;
        let domain = self.own_domain(caller, id).await?;
        if domain.signing == "enabled" {
            return self.view(domain).await;
        }
        if !self.latest_check_suffices(&domain).await? {
            self.count_check(&caller.tenant_id)?;
            let check = self.run_check(caller, domain).await?;
            if check.verdict != "pass" {
                return Err(Error::RecordsNotReady(not_ready(&check.records)));
            }
        }
        for _ in 0..CHANGE_TRIES {
            let domain = self.own_domain(caller, id).await?;
            if domain.ownership != "verified" {
                return Err(Error::ClaimContested);
            }
            if domain.signing == "enabled" {
                // The check has found right what it was suspended for.
                return self.view(domain).await;
            }
            let keys = self.inner.store.keys(&domain.tenant_id, id).await?;
            if states::required_keys(&keys, domain.dual_signing).is_empty() {
                let detail = "the domain has no key that could sign; make one with POST /v1/domains/{id}/keys/rotate";
                return Err(Error::RecordsNotReady(vec![FieldError::at("", detail)]));
            }
            let circumstances = Circumstances { signs: true, ..self.circumstances(&domain, &[]) };
            let barred = self.barred(&keys, circumstances).await;
            let details = json!({"before": domain.signing, "after": "enabled"});
            let mut change = DomainChange {
                audit: vec![self.audit(caller, "signing.enabled", id, details)],
                ..DomainChange::default()
            };
            let turn = Turn {
                actor: Actor::Caller(caller),
                domain: &domain,
                keys: &keys,
                circumstances: Circumstances { barred: &barred, ..circumstances },
                because: json!({"reason": "signing was enabled"}),
            };
            self.turn(&turn, &mut change);
            change.signing = Some(("enabled".into(), None));
            change.watch = Some(WatchState::default());
            match self.inner.store.change_domain(&domain.tenant_id, id, domain.version, &change).await {
                Ok(()) => {
                    self.inner.store.hurry_waiting(&domain.tenant_id, id, self.now_ms()).await?;
                    return self.domain_after(caller, id).await;
                }
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    /// Idempotent. Scope domains:write.
    pub async fn disable_signing(&self, caller: &Caller, id: &str) -> Result<DomainView, Error> {
        caller.require(Scope::DomainsWrite)?;
        for _ in 0..CHANGE_TRIES {
            let domain = self.own_domain(caller, id).await?;
            if domain.signing == "disabled" {
                return self.view(domain).await;
            }
            let change = DomainChange {
                signing: Some(("disabled".into(), None)),
                audit: vec![self.audit(
                    caller,
                    "signing.disabled",
                    id,
                    json!({"before": domain.signing, "after": "disabled"}),
                )],
                ..DomainChange::default()
            };
            match self.inner.store.change_domain(&domain.tenant_id, id, domain.version, &change).await {
                Ok(()) => return self.domain_after(caller, id).await,
                Err(StoreError::Stale) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    async fn domain_after(&self, caller: &Caller, id: &str) -> Result<DomainView, Error> {
        let row = self.own_domain(caller, id).await?;
        self.view(row).await
    }

    /// True if the newest check passed, is at most 10 minutes old and looked at the records that are required now.
    async fn latest_check_suffices(&self, domain: &DomainRow) -> Result<bool, Error> {
        if domain.ownership != "verified" {
            return Ok(false);
        }
        let Some(row) = self.inner.store.last_check(&domain.tenant_id, &domain.id).await? else { return Ok(false) };
        let check = CheckView::from_row(&row)?;
        if check.verdict != "pass" || check.checked_at + CHECK_FRESH_MS < self.now_ms() {
            return Ok(false);
        }
        let keys = self.inner.store.keys(&domain.tenant_id, &domain.id).await?;
        let required = states::required_keys(&keys, domain.dual_signing);
        if domain.dkim_mode == DELEGATED && required.iter().all(|key| key.state == states::PENDING) {
            // The CNAME that was right then says nothing of a key that came behind it since.
            return Ok(false);
        }
        let listed = self.listed_records(domain, &keys).await?;
        Ok(listed.iter().filter(|l| l.view.required).all(|l| {
            check
                .records
                .iter()
                .any(|c| c.record.name == l.view.name && c.record.value == l.view.value && c.record.status == "ok")
        }))
    }

    /// Asks, records, applies. What DNS said is kept while a concurrent change makes us plan again.
    async fn run_check(&self, caller: &Caller, domain: DomainRow) -> Result<CheckView, Error> {
        let id = domain.id.clone();
        if domain.dkim_mode == DELEGATED {
            self.publish_domain(&domain.tenant_id, &id, slots::BEFORE_A_CHECK).await;
        }
        let observation = self.observe(&domain).await?;
        let mut domain = domain;
        for _ in 0..CHANGE_TRIES {
            let keys = self.inner.store.keys(&domain.tenant_id, &id).await?;
            let previous = self.inner.store.last_check(&domain.tenant_id, &id).await?;
            let circumstances =
                Circumstances { now: observation.row.checked_at, ..self.circumstances(&domain, &observation.keys) };
            let barred = self.barred(&keys, circumstances).await;
            let circumstances = Circumstances { barred: &barred, ..circumstances };
            let because = json!({"check": public_check(&observation.row)});
            let turn = Turn { actor: Actor::Caller(caller), domain: &domain, keys: &keys, circumstances, because };
            let change = self.plan(&turn, &observation, previous.as_ref()).await?;
            match self.inner.store.change_domain(&domain.tenant_id, &id, domain.version, &change).await {
                Ok(()) => {
                    self.inner.store.hurry_waiting(&domain.tenant_id, &id, self.now_ms()).await?;
                    return CheckView::from_row(&observation.row);
                }
                Err(StoreError::Stale) => domain = self.own_domain(caller, &id).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy)
    }

    pub(super) async fn observe(&self, domain: &DomainRow) -> Result<Observation, Error> {
        let store = &self.inner.store;
        let began = Instant::now();
        // Before DNS is asked: a claim decided while we look must make ours fail.
        let name = store.name_version(&domain.name).await?;
        let keys = store.keys(&domain.tenant_id, &domain.id).await?;
        let mut listed = self.listed_records(domain, &keys).await?;
        let expected: Vec<Expected> = listed.iter().map(|l| l.expected.clone()).collect();
        let signing_domain = super::records::stored_domain(&domain.name)?;
        let until = Instant::now() + PROOF_DEADLINE;
        let asked = check::check(&self.inner.dns, &signing_domain, &expected, CHECK_DEADLINE);
        let (mut findings, zones) = tokio::join!(asked, self.zones(&signing_domain, &listed));
        super::records::place_all(listed.iter_mut().map(|l| &mut l.view), &zones?);
        self.prove_keys(&keys, &listed, &mut findings, until).await?;
        let ttl_deadline = WHOLE_DEADLINE.saturating_sub(began.elapsed());
        let found_keys = self.sightings(&signing_domain, &keys, listed.iter().zip(&findings), ttl_deadline).await;
        let too_old = !token_can_win(domain, &name);
        let asked = listed.iter().map(Asked::from).collect();
        let mut records: Vec<_> = listed.into_iter().zip(findings).map(|(l, f)| checked_record(l, f)).collect();
        if let Some(ownership) = records.iter_mut().find(|r| r.record.purpose == Purpose::Ownership)
            && ownership.record.status == Status::Ok.as_str()
            && too_old
        {
            ownership.record.status = Status::Mismatch.as_str().into();
            ownership.explanation = "The token is published, but this name was proven by another account after the token was \
                issued, so this token can no longer prove it. If the name is yours, delete this domain, register it anew and \
                publish the new token."
                .into();
        }
        let ownership_ok = records.iter().any(|r| r.record.purpose == Purpose::Ownership && r.record.status == "ok");
        let row = CheckRow {
            id: self.fresh_id(),
            domain_id: domain.id.clone(),
            verdict: verdict(&records).into(),
            checked_at: self.now_ms(),
            records: serde_json::to_value(&records).map_err(|error| Error::Internal(error.to_string()))?,
        };
        Ok(Observation { row, records, asked, ownership_ok, keys: found_keys, name })
    }

    /// The change that a check makes of a domain as it is now.
    async fn plan(
        &self,
        turn: &Turn<'_>,
        seen: &Observation,
        previous: Option<&CheckRow>,
    ) -> Result<DomainChange, Error> {
        let mut change = DomainChange { check: Some(seen.row.clone()), ..DomainChange::default() };
        self.prove_again(turn, seen, &mut change);
        let steps = self.turn(turn, &mut change);
        self.watch_after_check(turn, seen, &steps, &mut change).await?;
        if seen.row.verdict == "fail" && previous.is_none_or(|p| p.verdict != "fail") {
            let wrong: Vec<_> = not_ready(&seen.records).into_iter().map(|e| e.detail).collect();
            change.events.push(self.domain_event(
                turn.domain,
                "domain.check_failed",
                json!({"check": public_check(&seen.row), "records": wrong}),
            ));
        }
        Ok(change)
    }

    /// Ownership, where the record proves it and it is not proven, or lost since that record was gone for a while.
    pub(super) fn prove_again(&self, turn: &Turn<'_>, seen: &Observation, change: &mut DomainChange) {
        let (domain, at) = (turn.domain, seen.row.checked_at);
        if !seen.ownership_ok || domain.ownership == "verified" || !token_can_win(domain, &seen.name) {
            return;
        }
        change.ownership = Some(("verified".into(), domain.proven_at.is_none().then_some(at)));
        change.claim = Some(Claim {
            name: domain.name.clone(),
            seen_version: seen.name.version,
            at,
            loser_event: self.loser_event(domain, &seen.name),
        });
        change.events.push(self.domain_event(domain, "domain.verified", json!({"check": public_check(&seen.row)})));
        let details = json!({"before": domain.ownership, "after": "verified"});
        change.audit.push(self.audit_by(turn.actor, &domain.tenant_id, "domain.verified", &domain.id, details));
    }

    fn loser_event(&self, domain: &DomainRow, name: &NameVersion) -> Option<EventRow> {
        let owner = name.owner.as_ref().filter(|owner| owner.domain_id != domain.id)?;
        let details = json!({"reason": "another account proved this name with a newer token"});
        Some(EventRow {
            tenant_id: owner.tenant_id.clone(),
            ..self.domain_event(domain, "domain.ownership_lost", details)
        })
    }

    pub(super) fn domain_event(&self, domain: &DomainRow, kind: &str, details: serde_json::Value) -> EventRow {
        EventRow {
            id: self.fresh_id(),
            tenant_id: domain.tenant_id.clone(),
            kind: kind.to_owned(),
            at: self.now_ms(),
            message_id: None,
            recipient_id: None,
            domain: Some(domain.name.clone()),
            details,
        }
    }

    /// DESIGN: checks are at most 120 a minute per tenant.
    pub(crate) fn count_check(&self, tenant: &str) -> Result<(), Error> {
        let now = self.now_ms();
        let mut recent = self.inner.recent_checks.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, starts| starts.iter().any(|at| at + 60_000 > now));
        let starts = recent.entry(tenant.to_owned()).or_default();
        starts.retain(|at| at + 60_000 > now);
        if starts.len() >= CHECKS_PER_MINUTE {
            let wait = starts.first().map_or(60_000, |oldest| oldest + 60_000 - now);
            return Err(Error::RateLimited { retry_after: u64::try_from((wait + 999) / 1000).unwrap_or(60) });
        }
        starts.push(now);
        Ok(())
    }
}

pub(super) fn public_check(row: &CheckRow) -> String {
    crate::ids::public("chk", &row.id)
}

/// DESIGN "Claims": a proven name passes to another domain row only by a token issued after the owner's proof, and the token of a
/// row that lost the name to another never wins it back, also when nobody owns it now. A row that lost it because its record was gone
/// is the owner until somebody else proves the name.
pub(super) fn token_can_win(domain: &DomainRow, name: &NameVersion) -> bool {
    match &name.owner {
        Some(owner) if owner.domain_id == domain.id => true,
        Some(owner) => domain.ownership != "lost" && domain.token_issued_at > owner.proven_at,
        None => domain.ownership != "lost",
    }
}

impl From<&Listed> for Asked {
    fn from(listed: &Listed) -> Self {
        Self {
            expected: listed.expected.clone(),
            key_id: listed.key_id.clone(),
            proves_ownership: listed.view.purpose == Purpose::Ownership,
        }
    }
}

/// (key id, right?, p= found or empty) of a DKIM record, unless no server answered or they disagree: while a change spreads over
/// the servers what was read last stays good. So it does where all serve the right record and it is not ok all the same: because it
/// does not validate, or because the trial signature failed.
pub(super) fn key_observation((listed, finding): (&Listed, &Finding)) -> Option<(String, bool, String)> {
    let key_id = listed.key_id.clone()?;
    if finding.status != Status::Ok && finding.servers.iter().any(|server| server.status == Status::Ok) {
        return None;
    }
    match finding.status {
        Status::Unreachable => None,
        Status::Ok => {
            let p = finding.found.iter().find_map(|text| record::parse(text).ok()).map(|found| found.key.to_p())?;
            Some((key_id, true, p))
        }
        Status::Missing
        | Status::Mismatch
        | Status::Malformed
        | Status::Duplicate
        | Status::Truncated
        | Status::Misplaced
        | Status::Revoked
        | Status::Unusable
        | Status::Wildcard
        | Status::CnameBroken
        | Status::Lagging
        | Status::DnssecBogus => Some((key_id, false, String::new())),
    }
}

fn checked_record(listed: Listed, finding: Finding) -> CheckedRecord {
    let mut record = listed.view;
    record.status = finding.status.as_str().into();
    record.warnings = finding.warnings;
    if let Some(value) = finding.publish {
        record.chunks = record::chunk(&value);
        record.value = value;
    }
    let servers = finding
        .servers
        .into_iter()
        .map(|s| ServerView { server: s.server, status: s.status.as_str().into() })
        .collect();
    CheckedRecord { record, found: finding.found, servers, explanation: finding.explanation }
}

/// DESIGN "Verdict of a check".
fn verdict(records: &[CheckedRecord]) -> &'static str {
    let mut required = records.iter().filter(|r| r.record.required).map(|r| r.record.status.as_str()).peekable();
    if required.peek().is_none() {
        return "indeterminate";
    }
    let (mut all_ok, mut wrong) = (true, false);
    for status in required {
        all_ok &= status == "ok";
        wrong |= status != "ok" && status != "unreachable";
    }
    match (all_ok, wrong) {
        (true, _) => "pass",
        (false, true) => "fail",
        (false, false) => "indeterminate",
    }
}

/// One entry for each required record that is not ok.
pub(super) fn not_ready(records: &[CheckedRecord]) -> Vec<FieldError> {
    records
        .iter()
        .enumerate()
        .filter(|(_, r)| r.record.required && r.record.status != "ok")
        .map(|(index, r)| {
            FieldError::at(
                format!("/records/{index}"),
                format!("{} {}: {}. {}", r.record.kind, r.record.name, r.record.status, r.explanation),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_decided_by_required_records_only() {
        let record = |required: bool, status: &str| CheckedRecord {
            record: super::super::RecordView {
                purpose: Purpose::Dkim,
                kind: "TXT".into(),
                name: "n".into(),
                relative_name: "n".into(),
                zone: "n".into(),
                zone_source: super::super::ZoneSource::Assumed,
                value: "v".into(),
                chunks: vec![],
                required,
                status: status.into(),
                warnings: vec![],
            },
            found: vec![],
            servers: vec![],
            explanation: "e".into(),
        };
        for (records, expected) in [
            (vec![record(true, "ok"), record(true, "ok"), record(false, "missing")], "pass"),
            (vec![record(true, "ok"), record(true, "mismatch")], "fail"),
            (vec![record(true, "unreachable"), record(true, "missing")], "fail"),
            (vec![record(true, "ok"), record(true, "unreachable")], "indeterminate"),
            (vec![record(true, "unreachable"), record(true, "unreachable")], "indeterminate"),
            (vec![record(false, "ok")], "indeterminate"),
        ] {
            assert_eq!(verdict(&records), expected);
        }
    }
}
