//! Keys that need another machine and could not be used: known in memory, so that only a probe asks for them until one succeeds.
//!
//! A message that finds its key here waits without a call. Each process keeps its own list and probes for itself; what is lost
//! with a process is learned again by the first signature that fails, or from the store where the domain was suspended for it.
//! docs/kms.md says which fault leads to what.
use crate::custody::{Failure, failure};
use crate::domains::states;
use crate::messages::signers::key_parts;
use crate::{Engine, Error};
use futures_util::StreamExt;
use signpost_keys::{CustodyError, CustodyKind};
use signpost_store::KeyRow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Until the first probe; doubled after each that fails.
const FIRST_PAUSE_MS: i64 = 1_000;
/// DESIGN: a probe at least every 30 s; what a probe itself takes fits in between.
const LONGEST_PAUSE_MS: i64 = 15_000;
/// A probe that never ends (its process is stopping) does not keep the key from the next one for longer.
const PROBE_TAKES_MS: i64 = 30_000;
/// Probes under way at once.
const PROBES: usize = 128;
/// Faults in a row, of those that pass, after which a key counts as away.
const FAULTS_IN_A_ROW: u32 = 5;
/// How often the store is asked which domains are suspended for their key.
const SUSPENDED_EVERY_MS: i64 = 15_000;
/// A message that waits for a key that is away is looked at after so long ...
const LOOK_AGAIN_MS: i64 = 30_000;
/// ... and in a long outage after so long.
const LOOK_AGAIN_AT_MOST_MS: i64 = 300_000;
/// Rows of one page.
const BATCH: u32 = 200;
/// A process that finds a key at fault suspends its domain again only after so long: another one, to which the KMS gives the key, takes
/// that back.
const SUSPENDED_AGAIN_MS: i64 = 30 * 60 * 1000;
/// Keys with a few faults that are remembered.
const FAULTS_KEPT: usize = 10_000;

struct Outage {
    tenant_id: String,
    domain_id: String,
    reason: String,
    /// The key itself is at fault, so that its domain is suspended.
    of_key: bool,
    /// When this process last suspended the domain for it.
    suspended_at: Option<i64>,
    since: i64,
    failures: u32,
    probe_at: i64,
}

/// A probe that is due.
struct Probe {
    key_id: String,
    tenant_id: String,
    domain_id: String,
}

/// Key id -> outage.
#[derive(Default)]
pub(crate) struct Outages {
    keys: Mutex<HashMap<String, Outage>>,
    /// Key id -> faults since its last signature, of keys that are not known to be away.
    faults: Mutex<HashMap<String, u32>>,
    ended: AtomicU64,
    /// When the store was asked last.
    suspended_read_at: AtomicI64,
}

impl Outages {
    /// Why the key cannot be used, while it is known that it cannot.
    pub(crate) fn reason(&self, key_id: &str) -> Option<String> {
        self.keys().get(key_id).map(|outage| outage.reason.clone())
    }

    /// How long, in ms, a message that waits for the key need not be looked at: the longer the longer the outage is. A probe that succeeds
    /// hurries it, and meanwhile there are others to look at.
    pub(crate) fn pause(&self, key_id: &str, now: i64) -> Option<i64> {
        self.keys().get(key_id).map(|outage| (now - outage.since).clamp(LOOK_AGAIN_MS, LOOK_AGAIN_AT_MOST_MS))
    }

    /// A signature failed. Many fail at once when a KMS goes; only the first begins the outage. True if it is news that the key itself
    /// is at fault.
    pub(crate) fn begin(&self, key: &KeyRow, reason: &str, of_key: bool, now: i64) -> bool {
        self.signed(&key.id);
        let mut keys = self.keys();
        if let Some(outage) = keys.get_mut(&key.id) {
            let news = of_key && !outage.of_key;
            outage.of_key |= of_key;
            return news;
        }
        tracing::warn!(key = %key.id, domain = %key.domain_name, reason, "a signing key cannot be used: what needs its signature waits");
        let outage = Outage {
            tenant_id: key.tenant_id.clone(),
            domain_id: key.domain_id.clone(),
            reason: reason.to_owned(),
            of_key,
            suspended_at: None,
            since: now,
            failures: 0,
            probe_at: now + FIRST_PAUSE_MS,
        };
        keys.insert(key.id.clone(), outage);
        of_key
    }

    /// The key signed: what failed before it says nothing any more.
    pub(crate) fn signed(&self, key_id: &str) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).remove(key_id);
    }

    /// A fault that passes; true if it is one of too many in a row.
    fn is_too_many(&self, key_id: &str) -> bool {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() >= FAULTS_KEPT {
            faults.clear();
        }
        let count = faults.entry(key_id.to_owned()).or_default();
        *count += 1;
        *count >= FAULTS_IN_A_ROW
    }

    /// How many outages have ended so far: whoever sees this move may have left mail waiting for a key that is usable again.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Takes the probes that are due; nobody else gets them meanwhile.
    fn take_due(&self, now: i64) -> Vec<Probe> {
        let mut keys = self.keys();
        let due = keys.iter_mut().filter(|(_, outage)| outage.probe_at <= now);
        due.map(|(key_id, outage)| {
            outage.probe_at = now + PROBE_TAKES_MS;
            Probe { key_id: key_id.clone(), tenant_id: outage.tenant_id.clone(), domain_id: outage.domain_id.clone() }
        })
        .collect()
    }

    fn goes_on(&self, key_id: &str, reason: Option<&str>, now: i64) {
        if let Some(outage) = self.keys().get_mut(key_id) {
            outage.failures = outage.failures.saturating_add(1);
            let pause = FIRST_PAUSE_MS.saturating_mul(1_i64.checked_shl(outage.failures.min(16)).unwrap_or(i64::MAX));
            outage.probe_at = now + pause.min(LONGEST_PAUSE_MS);
            if let Some(reason) = reason {
                outage.reason = reason.to_owned();
            }
        }
    }

    /// A probe had no turn: that says nothing of the key.
    fn comes_later(&self, key_id: &str, at: i64) {
        if let Some(outage) = self.keys().get_mut(key_id) {
            outage.probe_at = at;
        }
    }

    fn may_suspend(&self, key_id: &str, now: i64) -> bool {
        let long_ago = |at: i64| now < at || now >= at + SUSPENDED_AGAIN_MS;
        self.keys().get(key_id).is_none_or(|outage| outage.suspended_at.is_none_or(long_ago))
    }

    fn suspended(&self, key_id: &str, now: i64) {
        if let Some(outage) = self.keys().get_mut(key_id) {
            outage.suspended_at = Some(now);
        }
    }

    /// From now on the key itself is at fault.
    fn is_the_keys(&self, key_id: &str) {
        if let Some(outage) = self.keys().get_mut(key_id) {
            outage.of_key = true;
        }
    }

    fn end(&self, key_id: &str) {
        if self.keys().remove(key_id).is_some() {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Outage>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// A signature by this key failed: what a message is told that waits because of it, and when it may ask again. `None`: a probe
    /// finds out when it can, and hurries it.
    pub(crate) async fn key_failed(
        &self,
        key: &KeyRow,
        kind: CustodyKind,
        error: CustodyError,
    ) -> (String, Option<i64>) {
        let now = self.now_ms();
        let failure = failure(key, error, now);
        let reason = failure.reason().to_owned();
        if !kind.may_be_away() {
            return (reason, None);
        }
        let outages = &self.inner.outages;
        match failure {
            Failure::Passing { after_ms, answered, .. } => {
                if !(answered && outages.is_too_many(&key.id)) {
                    return (reason, Some(now + self.spread(after_ms)));
                }
                outages.begin(key, &reason, false, now);
            }
            Failure::Away(_) => {
                outages.begin(key, &reason, false, now);
            }
            Failure::OfTheKey(_) => {
                if outages.begin(key, &reason, true, now) {
                    self.tell_that_key_is_unavailable(key, &reason).await;
                }
            }
        }
        (reason, None)
    }

    /// This long and up to half as long again, so that what failed together does not come back together.
    fn spread(&self, ms: i64) -> i64 {
        let mut octets = [0_u8; 2];
        self.inner.random.fill(&mut octets);
        ms + ms / 2 * i64::from(u16::from_le_bytes(octets)) / i64::from(u16::MAX)
    }

    /// What fails here is done by the next probe.
    async fn tell_that_key_is_unavailable(&self, key: &KeyRow, reason: &str) {
        let (now, outages) = (self.now_ms(), &self.inner.outages);
        if !outages.may_suspend(&key.id, now) {
            return;
        }
        match self.suspend_for_key(key, reason).await {
            Ok(()) => outages.suspended(&key.id, now),
            Err(error) => {
                tracing::warn!(key = %key.id, domain = %key.domain_name, ?error, "a domain could not be suspended yet");
            }
        }
    }

    /// Lets each key that could not be used, and whose probe is due, sign once; what waits for one that does becomes due at once.
    /// Called every second; returns how many were tried.
    pub async fn probe_unavailable_keys(&self) -> usize {
        if let Err(error) = self.learn_suspended_keys().await {
            tracing::warn!(?error, "which domains are suspended for their key could not be read");
        }
        let due = self.inner.outages.take_due(self.now_ms());
        let count = due.len();
        futures_util::stream::iter(due)
            .for_each_concurrent(PROBES, |probe| async move {
                if let Err(error) = self.probe(&probe).await {
                    tracing::warn!(key = %probe.key_id, ?error, "a signing key could not be probed");
                    self.inner.outages.goes_on(&probe.key_id, None, self.now_ms());
                }
            })
            .await;
        count
    }

    /// Keys that another process found, or this one before it was started anew: somebody must find out when they can be used again.
    async fn learn_suspended_keys(&self) -> Result<(), Error> {
        let (now, outages) = (self.now_ms(), &self.inner.outages);
        if now < outages.suspended_read_at.load(Ordering::SeqCst) + SUSPENDED_EVERY_MS {
            return Ok(());
        }
        outages.suspended_read_at.store(now, Ordering::SeqCst);
        let mut after: Option<String> = None;
        loop {
            let keys = self.inner.store.keys_of_suspended_domains(after.as_deref(), BATCH).await?;
            let Some(last) = keys.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for key in &keys {
                outages.begin(key, "its domain is suspended since the key could not be used", true, now);
            }
        }
    }

    async fn probe(&self, probe: &Probe) -> Result<(), Error> {
        let (store, outages) = (&self.inner.store, &self.inner.outages);
        let keys = store.keys(&probe.tenant_id, &probe.domain_id).await?;
        let Some(key) = keys.iter().find(|key| key.id == probe.key_id && key.state == states::ACTIVE) else {
            // Replaced, revoked or deleted meanwhile: nothing will be signed with it, and what waits finds its new key.
            store.hurry_waiting(&probe.tenant_id, &probe.domain_id, self.now_ms()).await?;
            outages.end(&probe.key_id);
            return Ok(());
        };
        match self.let_sign(key).await? {
            Ok(()) => {
                tracing::info!(key = %key.id, domain = %key.domain_name, "a signing key can be used again: its mail goes on");
                self.resume_after_key(key).await?;
                outages.end(&key.id);
                let hurried = store.hurry_waiting(&key.tenant_id, &key.domain_id, self.now_ms()).await;
                if hurried.is_err() {
                    // Else nobody would hurry it any more.
                    outages.begin(key, "its mail could not be hurried", false, self.now_ms());
                }
                Ok(hurried?)
            }
            Err(Failure::Passing { after_ms, answered: false, .. }) => {
                outages.comes_later(&key.id, self.now_ms() + after_ms);
                Ok(())
            }
            Err(failure) => {
                outages.goes_on(&key.id, Some(failure.reason()), self.now_ms());
                if let Failure::OfTheKey(reason) = failure {
                    outages.is_the_keys(&key.id);
                    self.tell_that_key_is_unavailable(key, &reason).await;
                }
                Ok(())
            }
        }
    }

    /// One signature, each time over other octets.
    async fn let_sign(&self, key: &KeyRow) -> Result<Result<(), Failure>, Error> {
        let (binding, stored, _) = key_parts(key)?;
        let kind = CustodyKind::parse(&key.custody)
            .ok_or_else(|| Error::Internal(format!("stored custody {:?}", key.custody)))?;
        let mut digest = [0_u8; 32];
        self.inner.random.fill(&mut digest);
        let signed = match self.custody(kind) {
            Ok(custody) => custody.sign(&binding, &stored, &digest).await,
            Err(error) => Err(error),
        };
        Ok(signed.map(drop).map_err(|error| failure(key, error, self.now_ms())))
    }
}

#[cfg(test)]
#[path = "outages_tests.rs"]
mod tests;
