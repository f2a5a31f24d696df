//! The engine's state and its settings.
use crate::custody::KmsAccess;
use crate::delegation::Delegation;
use crate::delivery::DeliverySettings;
use crate::kept::{Kept, Reading};
use crate::master_key::{MasterKeys, OnlyInMemory};
use crate::messages::left_out::LeftOut;
use crate::messages::signers::Authority;
use crate::outages::Outages;
use crate::rows::{ApiKeyRow, TenantRow};
use crate::tokens::KnownTokenKeys;
use crate::usage::Counts;
use crate::{Clock, Error, ids};
use signpost_diagnosis::dns::Dns;
use signpost_dkim::SigningDomain;
use signpost_keys::{OwnKmsCustody, Random, SealedCustody};
use signpost_store::Store;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use zeroize::Zeroizing;

/// What the operator chose. One field per variable of the settings table that the engine needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// SIGNPOST_HOSTNAME: EHLO name, `by` of Received.
    pub hostname: String,
    /// SIGNPOST_SERVICE_DOMAIN.
    pub service_domain: Option<SigningDomain>,
    /// SIGNPOST_EGRESS_IPS.
    pub egress_ips: Vec<IpAddr>,
    /// SIGNPOST_MAX_MESSAGE in octets.
    pub max_message: u64,
    /// SIGNPOST_QUEUE_LIFETIME in milliseconds.
    pub queue_lifetime_ms: i64,
    /// SIGNPOST_WATCH_EVERY in milliseconds.
    pub watch_every_ms: i64,
    /// Delivery.
    pub delivery: DeliverySettings,
}

/// All use cases; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// Everything that use cases share.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) dns: Dns,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) sealed: Arc<SealedCustody>,
    /// Set once at the start, if at all.
    pub(crate) kms: OnceLock<KmsAccess>,
    /// Set once at the start, if at all: the way to keys of tenants in AWS KMS.
    pub(crate) own_kms: OnceLock<Arc<OwnKmsCustody>>,
    /// Set once at the start, if at all.
    pub(crate) delegation: OnceLock<Delegation>,
    pub(crate) outages: Outages,
    pub(crate) left_out: LeftOut,
    /// Tenant id -> its turn to make a key in the KMS.
    pub(crate) remote_turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) settings: Settings,
    /// The master keys that are known, and how far their contents were moved.
    pub(crate) master_keys: Mutex<MasterKeys>,
    /// The secret under which API-key secrets are authenticated; `None` while sealed.
    pub(crate) pepper: RwLock<Option<Zeroizing<[u8; 32]>>>,
    /// API-key id -> last use, flushed in batches.
    pub(crate) last_uses: Mutex<HashMap<String, i64>>,
    pub(crate) token_keys: KnownTokenKeys,
    /// API-key id -> the key and its tenant.
    pub(crate) api_keys: Kept<String, Arc<(ApiKeyRow, TenantRow)>>,
    /// Tenant id and domain of From -> what `authorize` said, and the keys that sign.
    pub(crate) authorities: Kept<(String, SigningDomain), Arc<Authority>>,
    /// What was used and is not written yet.
    pub(crate) counts: Counts,
    /// Tenant id -> start times of its checks in the last minute.
    pub(crate) recent_checks: Mutex<HashMap<String, Vec<i64>>>,
    /// Room for POST /verify: each hashes a body up to ten times and asks dozens of DNS questions.
    pub(crate) verifications: tokio::sync::Semaphore,
}

/// How old a key's and its tenant's row may be that a caller is known by. DESIGN allows 5 s; the time of reading is in it.
const API_KEY_GOOD_MS: i64 = 4_000;
/// How old what another process changed in a domain or its keys may be for a request. What was accepted on that is looked at
/// again before delivery.
const AUTHORITY_GOOD_MS: i64 = 1_000;

impl Engine {
    /// An engine that is sealed until `offer_master_key`.
    pub fn new(store: Store, dns: Dns, clock: Arc<dyn Clock>, random: Arc<dyn Random>, settings: Settings) -> Self {
        let sealed = Arc::new(SealedCustody::new(Arc::clone(&random)));
        Self {
            inner: Arc::new(Inner {
                store,
                dns,
                clock,
                random,
                sealed,
                kms: OnceLock::new(),
                own_kms: OnceLock::new(),
                delegation: OnceLock::new(),
                outages: Outages::default(),
                left_out: LeftOut::default(),
                remote_turns: Mutex::new(HashMap::new()),
                settings,
                master_keys: Mutex::default(),
                pepper: RwLock::new(None),
                last_uses: Mutex::new(HashMap::new()),
                token_keys: KnownTokenKeys::default(),
                api_keys: Kept::new(API_KEY_GOOD_MS),
                authorities: Kept::new(AUTHORITY_GOOD_MS),
                counts: Counts::default(),
                recent_checks: Mutex::new(HashMap::new()),
                verifications: tokio::sync::Semaphore::new(crate::verify::AT_ONCE),
            }),
        }
    }

    /// True while no right master key was offered.
    pub fn is_sealed(&self) -> bool {
        self.inner.pepper.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// /readyz: `Ok`, with what would be missing after a restart; `Sealed`, or `StoreUnavailable`.
    pub async fn readiness(&self) -> Result<Option<OnlyInMemory>, Error> {
        self.inner.store.ping().await?;
        if self.is_sealed() { Err(Error::Sealed) } else { Ok(self.keys_only_in_memory()) }
    }

    /// The operator's settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// A fresh id (UUIDv7, 32 hex digits).
    pub fn fresh_id(&self) -> String {
        ids::fresh(self.inner.clock.as_ref(), self.inner.random.as_ref())
    }

    /// Seconds since the epoch, by the engine's clock.
    pub fn now_s(&self) -> i64 {
        self.now_ms().div_euclid(1_000)
    }

    /// The present, for what is kept of the store.
    pub(crate) fn reading(&self) -> Reading {
        Reading { version: self.inner.store.rights_version(), at_ms: self.now_ms() }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }
}
