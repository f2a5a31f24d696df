//! Delegated mode: the tenant publishes three CNAMEs once; the keys behind them are published, replaced and withdrawn by us, below
//! `dkim.<service domain>`, through dynamic updates of the operator's DNS server.
//!
//! - [`slots`]: which selectors and targets a claim gets, and which slot the next key goes into.
//! - [`publisher`]: brings DNS to what the store says, and tells the store so.
//! - [`reconciler`]: compares all of it, also what is not to be there.
mod publisher;
mod reconciler;
pub(crate) mod slots;

use crate::{Engine, Error};
use reconciler::Rounds;
use signpost_diagnosis::update::{DnsUpdate, UpdateError};
use signpost_dkim::SigningDomain;
use signpost_store::StoreError;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// After a failure the passes ask again so much later, twice as much after each further one, up to the longest.
const RETRY_MS: i64 = 1_000;
const LONGEST_RETRY_MS: i64 = 60_000;
/// A longer negative TTL of the zone is warned of, in seconds: for so long a receiver that asked too early may not see a key.
const LONG_NEGATIVE_TTL: u32 = 3_600;

/// What delegated mode needs, given once at the start.
pub(crate) struct Delegation {
    update: DnsUpdate,
    /// `dkim.<service domain>`.
    suffix: String,
    pace: Mutex<Pace>,
}

/// When the next pass may ask, and what the last ones met.
#[derive(Default)]
struct Pace {
    failures: u32,
    not_before: i64,
    rounds: Rounds,
    /// Suffixes of an earlier service domain that the server takes no updates for; each is told once.
    earlier: BTreeSet<String>,
}

/// Why a pass could not be done; the next one tries again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Dns(#[from] UpdateError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a stored key cannot be shown: {0:?}")]
    Key(#[from] Error),
}

impl Delegation {
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        let mut pace = self.pace();
        if std::mem::take(&mut pace.failures) > 0 {
            tracing::info!("the DNS update server takes updates again");
        }
    }

    fn tell_of_earlier(&self, suffix: &str, reason: &str) {
        if self.pace().earlier.insert(suffix.to_owned()) {
            tracing::warn!(
                suffix,
                reason,
                "below an earlier service domain nothing can be published or withdrawn; while its keys are in use, its zone is needed"
            );
        }
    }

    /// Told when it begins, and then once for each pass with the longest pause.
    fn failed(&self, failure: &Failure, now: i64) {
        let mut pace = self.pace();
        let pause = (RETRY_MS << pace.failures.min(10)).min(LONGEST_RETRY_MS);
        if pace.failures == 0 || pause == LONGEST_RETRY_MS {
            tracing::warn!(%failure, "keys of delegated domains cannot be published or withdrawn now; it is tried again");
        }
        pace.failures = pace.failures.saturating_add(1);
        pace.not_before = now + pause;
    }
}

impl Engine {
    /// Offers delegated mode: keys go below `dkim.<service domain>`, which that server is primary for. Once, at the start.
    pub fn attach_dns_update(&self, update: DnsUpdate, service_domain: &SigningDomain) {
        let delegation =
            Delegation { update, suffix: format!("dkim.{service_domain}"), pace: Mutex::new(Pace::default()) };
        if self.inner.delegation.set(delegation).is_err() {
            tracing::error!("a second DNS update server was offered and is not used");
        }
    }

    /// One pass, by any process, at least every few seconds: publishes what is owed to DNS and, where the zone changed since the
    /// last look, compares all of it with the store. Does nothing without delegated mode. Trouble is logged; the next pass tries
    /// again, for as long as it takes.
    pub async fn tend_delegation(&self) {
        let Some(delegation) = self.inner.delegation.get() else { return };
        // A longer pause is one of a clock that was set back.
        let pause = delegation.pace().not_before - self.now_ms();
        if (1..=LONGEST_RETRY_MS).contains(&pause) {
            return;
        }
        let published = self.publish_owed(delegation).await;
        let done = match published {
            Err(Failure::Dns(UpdateError::Unavailable(_)) | Failure::Store(_)) => published,
            // What one zone refuses, perhaps for ever, keeps nothing else from being put right.
            Ok(()) | Err(Failure::Dns(_) | Failure::Key(_)) => self.reconcile(delegation).await.and(published),
        };
        match done {
            Ok(()) => delegation.succeeded(),
            Err(failure) => delegation.failed(&failure, self.now_ms()),
        }
    }
}
