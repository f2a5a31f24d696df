//! Keys that need another machine and could not be used: known in memory, so that only a probe asks for them until one succeeds.
//!
//! A message that finds its key here waits without a call. Each process keeps its own list and probes for itself; what is lost
//! with a process is learned again by the first signature that fails.
use crate::domains::states;
use crate::messages::signers::key_parts;
use crate::{Engine, Error};
use futures_util::StreamExt;
use signpost_keys::CustodyKind;
use signpost_store::KeyRow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Until the first probe; doubled after each that fails.
const FIRST_PAUSE_MS: i64 = 1_000;
/// DESIGN: a probe at least every 30 s; what a probe itself takes fits in between.
const LONGEST_PAUSE_MS: i64 = 15_000;
/// A probe that never ends (its process is stopping) does not keep the key from the next one for longer.
const PROBE_TAKES_MS: i64 = 30_000;
/// Probes under way at once.
const PROBES: usize = 128;
/// What a probe signs; any 32 octets serve.
const PROBE_DIGEST: [u8; 32] = *b"signpost: is this key usable now";

struct Outage {
    tenant_id: String,
    domain_id: String,
    reason: String,
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
    ended: AtomicU64,
}

impl Outages {
    /// Why the key cannot be used, while it is known that it cannot.
    pub(crate) fn reason(&self, key_id: &str) -> Option<String> {
        self.keys().get(key_id).map(|outage| outage.reason.clone())
    }

    /// A signature failed. Many fail at once when a KMS goes; only the first begins the outage.
    pub(crate) fn begin(&self, key: &KeyRow, reason: &str, now: i64) {
        self.keys().entry(key.id.clone()).or_insert_with(|| {
            tracing::warn!(key = %key.id, domain = %key.domain_name, reason, "a signing key cannot be used: what needs its signature waits");
            Outage {
                tenant_id: key.tenant_id.clone(),
                domain_id: key.domain_id.clone(),
                reason: reason.to_owned(),
                failures: 0,
                probe_at: now + FIRST_PAUSE_MS,
            }
        });
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

    fn goes_on(&self, key_id: &str, reason: Option<String>, now: i64) {
        if let Some(outage) = self.keys().get_mut(key_id) {
            outage.failures = outage.failures.saturating_add(1);
            let pause = FIRST_PAUSE_MS.saturating_mul(1_i64.checked_shl(outage.failures.min(16)).unwrap_or(i64::MAX));
            outage.probe_at = now + pause.min(LONGEST_PAUSE_MS);
            outage.reason = reason.unwrap_or_else(|| outage.reason.clone());
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
    /// Lets each key that could not be used, and whose probe is due, sign once; what waits for one that does becomes due at once.
    /// Called every second; returns how many were tried.
    pub async fn probe_unavailable_keys(&self) -> usize {
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

    async fn probe(&self, probe: &Probe) -> Result<(), Error> {
        let keys = self.inner.store.keys(&probe.tenant_id, &probe.domain_id).await?;
        let key = keys.iter().find(|key| key.id == probe.key_id && states::may_be_sent(&key.state));
        let Some(key) = key else {
            // Revoked or deleted meanwhile: nothing will be signed with it, and what waits finds its new key.
            self.inner.outages.end(&probe.key_id);
            return Ok(());
        };
        let (binding, stored, _) = key_parts(key)?;
        let kind = CustodyKind::parse(&key.custody)
            .ok_or_else(|| Error::Internal(format!("stored custody {:?}", key.custody)))?;
        let signed = match self.custody(kind) {
            Ok(custody) => custody.sign(&binding, &stored, &PROBE_DIGEST).await,
            Err(error) => Err(error),
        };
        match signed {
            Ok(_) => {
                tracing::info!(key = %key.id, domain = %key.domain_name, "a signing key can be used again: its mail goes on");
                self.inner.outages.end(&key.id);
                Ok(self.inner.store.hurry_waiting(&key.tenant_id, &key.domain_id, self.now_ms()).await?)
            }
            Err(error) => {
                self.inner.outages.goes_on(&key.id, Some(super::custody::waiting_reason(key, error)), self.now_ms());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::states::ACTIVE;

    fn key(id: &str) -> KeyRow {
        KeyRow {
            id: id.into(),
            tenant_id: "t".into(),
            domain_id: "d".into(),
            domain_name: "example.com".into(),
            selector: "s1".into(),
            algorithm: "ed25519".into(),
            custody: "aws-kms".into(),
            reference: "awskms:arn:1".into(),
            sealed: vec![],
            public_key: String::new(),
            state: ACTIVE.into(),
            published_p: None,
            published_read_at: None,
            published_tried_at: None,
            life: signpost_store::KeyLife::default(),
            created_at: 0,
        }
    }

    #[test]
    fn one_probe_a_key_at_growing_intervals_of_at_most_15_seconds() {
        let outages = Outages::default();
        for _ in 0..100 {
            outages.begin(&key("a"), "away", 0);
        }
        let mut at = 0;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let due = (at..).find(|now| {
                let probes = outages.take_due(*now);
                assert!(probes.len() <= 1);
                probes.len() == 1
            });
            let due = due.unwrap();
            assert!(outages.take_due(due).is_empty(), "taken twice");
            outages.goes_on("a", None, due);
            pauses.push(due - at);
            at = due;
        }
        assert_eq!(pauses, [1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        assert_eq!(outages.reason("a").as_deref(), Some("away"));
        outages.end("a");
        assert_eq!((outages.reason("a"), outages.ended()), (None, 1));
        outages.end("a");
        assert_eq!(outages.ended(), 1);
    }

    #[test]
    fn a_probe_that_never_ended_is_due_again() {
        let outages = Outages::default();
        outages.begin(&key("a"), "away", 0);
        assert_eq!(outages.take_due(1000).len(), 1);
        assert!(outages.take_due(1000 + PROBE_TAKES_MS - 1).is_empty());
        assert_eq!(outages.take_due(1000 + PROBE_TAKES_MS).len(), 1);
    }
}
