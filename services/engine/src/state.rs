//! The engine's state and settings.
use crate::Clock;
use crate::delivery::DeliverySettings;
use signpost_diagnosis::dns::Dns;
use signpost_dkim::SigningDomain;
use signpost_keys::{Random, SealedCustody};
use signpost_store::Store;
use std::net::IpAddr;
use std::sync::Arc;

/// What the operator chose. One field per variable of DESIGN's table that the engine needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// SIGNPOST_HOSTNAME: EHLO name, Received by.
    pub hostname: String,
    /// SIGNPOST_SERVICE_DOMAIN.
    pub service_domain: Option<SigningDomain>,
    /// SIGNPOST_EGRESS_IPS.
    pub egress_ips: Vec<IpAddr>,
    /// SIGNPOST_MAX_MESSAGE in octets.
    pub max_message: u64,
    /// SIGNPOST_QUEUE_LIFETIME in milliseconds.
    pub queue_lifetime_ms: i64,
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
    pub(crate) settings: Settings,
}
