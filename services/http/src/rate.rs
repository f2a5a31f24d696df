//! SIGNPOST_RATE_LIMIT: so many requests a second for each tenant. Counted after authentication, so that nobody spends another's
//! share with a wrong key.
//!
//! The generic cell rate algorithm (ITU-T I.371): one instant a tenant says when its whole burst is there again. A tenant whose
//! instant has passed needs no entry, so that memory is bounded by the tenants that called within the last seconds.
use crate::problem::Problem;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use signpost_engine::Error;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What a tenant may send at once, in seconds' worth.
const BURST_SECONDS: u32 = 2;
/// Entries below this are not worth a sweep.
const SWEEP_FROM: usize = 1_024;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// The limit of this process.
pub(crate) struct RateLimit {
    /// Time that one request takes of a tenant's share.
    interval: Duration,
    /// How many may come at once.
    burst: u32,
    tenants: Mutex<Tenants>,
}

#[derive(Default)]
struct Tenants {
    /// Tenant id -> when its whole burst is there again.
    full_at: HashMap<String, Instant>,
    /// At so many entries those that say nothing any more go.
    sweep_at: usize,
}

/// Where a tenant stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// How many may come at once.
    limit: u32,
    /// How many may still come now.
    remaining: u64,
    /// Seconds until all may come again.
    reset: u64,
    /// Seconds until one may come again, where this one may not.
    refused_for: Option<u64>,
}

/// Where the layers find the standing that the handler's extractor noted.
#[derive(Clone, Default)]
pub(crate) struct StandingSlot(Arc<OnceLock<Standing>>);

impl RateLimit {
    /// `None`: off.
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Option<Arc<Self>> {
        let per_second = per_second?.get();
        let interval = Duration::from_secs(1) / per_second;
        Some(Arc::new(Self { interval, burst: per_second.saturating_mul(BURST_SECONDS), tenants: Mutex::default() }))
    }

    /// Counts a request of this tenant.
    fn count(&self, tenant: &str, now: Instant) -> Standing {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let known = tenants.full_at.get(tenant).copied();
        let missing = known.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let window = self.interval * self.burst;
        let standing = |missing: Duration, refused_for| Standing {
            limit: self.burst,
            remaining: u64::try_from(window.saturating_sub(missing).as_nanos() / self.interval.as_nanos().max(1))
                .unwrap_or(u64::MAX),
            reset: whole_seconds(missing),
            refused_for,
        };
        let after = missing + self.interval;
        if let Some(too_much) = after.checked_sub(window).filter(|excess| !excess.is_zero()) {
            return standing(missing, Some(whole_seconds(too_much)));
        }
        if known.is_none() {
            tenants.make_room(now);
        }
        match tenants.full_at.get_mut(tenant) {
            Some(full_at) => *full_at = now + after,
            None => drop(tenants.full_at.insert(tenant.to_owned(), now + after)),
        }
        standing(after, None)
    }
}

impl Tenants {
    fn make_room(&mut self, now: Instant) {
        if self.full_at.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = self.full_at.len() * 2;
        }
    }
}

/// RFC 9110 10.2.3 knows whole seconds; rounded up, so that who waits that long is not refused again.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Counts a request of an authenticated tenant; 429 beyond its limit.
pub(crate) fn admit(limit: Option<&Arc<RateLimit>>, tenant: &str, parts: &Parts) -> Result<(), Problem> {
    let Some(limit) = limit else { return Ok(()) };
    let standing = limit.count(tenant, Instant::now());
    if let Some(slot) = parts.extensions.get::<StandingSlot>() {
        // A second count of the same request would not be the first one's standing; there is one extractor.
        let _ = slot.0.set(standing);
    }
    match standing.refused_for {
        Some(retry_after) => Err(Error::RateLimited { retry_after }.into()),
        None => Ok(()),
    }
}

impl StandingSlot {
    /// The fields of draft-ietf-httpapi-ratelimit-headers-03, where a limit was counted.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let Some(standing) = self.0.get() else { return };
        headers.insert(LIMIT, HeaderValue::from(standing.limit));
        headers.insert(REMAINING, HeaderValue::from(standing.remaining));
        headers.insert(RESET, HeaderValue::from(standing.reset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32) -> Arc<RateLimit> {
        RateLimit::new(NonZeroU32::new(per_second)).unwrap()
    }

    #[test]
    fn a_burst_then_the_rate_and_an_exact_retry_after() {
        let limit = limit(5);
        let begun = Instant::now();
        let (open, refused) = (None, Some(1));
        // (milliseconds, how many, remaining after the last, reset, refused for)
        for (at, requests, remaining, reset, refused_for) in [
            (0, 1, 9, 1, open),
            (0, 9, 0, 2, open),
            (0, 5, 0, 2, refused),
            (199, 1, 0, 2, refused),
            (200, 1, 0, 2, open),
            (200, 1, 0, 2, refused),
            (1_000, 4, 0, 2, open),
            (1_000, 1, 0, 2, refused),
            // Idle for longer than the burst: it does not grow beyond itself.
            (60_000, 10, 0, 2, open),
            (60_000, 1, 0, 2, refused),
            (62_000, 1, 9, 1, open),
        ] {
            let now = begun + Duration::from_millis(at);
            let last = (0..requests).map(|_| limit.count("ten", now)).last().unwrap();
            assert_eq!(last, Standing { limit: 10, remaining, reset, refused_for }, "at {at} ms");
        }
    }

    #[test]
    fn who_waits_for_retry_after_is_let_in() {
        for per_second in [1, 3, 7, 1_000] {
            let limit = limit(per_second);
            let begun = Instant::now();
            let refused = (0..10_000).map(|_| limit.count("ten", begun)).find(|s| s.refused_for.is_some()).unwrap();
            let wait = Duration::from_secs(refused.refused_for.unwrap());
            assert!(limit.count("ten", begun + wait).refused_for.is_none(), "{per_second} a second");
        }
    }

    #[test]
    fn refused_requests_cost_nothing_and_tenants_do_not_feel_each_other() {
        let limit = limit(1);
        let now = Instant::now();
        for _ in 0..1_000 {
            limit.count("loud", now);
        }
        assert!(limit.count("quiet", now).refused_for.is_none());
        assert!(limit.count("loud", now + Duration::from_secs(1)).refused_for.is_none());
        assert_eq!(limit.count("loud", now + Duration::from_secs(1)).refused_for, Some(1));
    }

    #[test]
    fn memory_follows_the_tenants_of_the_last_seconds() {
        let limit = limit(1);
        let begun = Instant::now();
        for n in 0..100_000_u64 {
            limit.count(&format!("ten_{n}"), begun + Duration::from_millis(n * 10));
        }
        let kept = limit.tenants.lock().unwrap().full_at.len();
        assert!(kept <= 2 * SWEEP_FROM, "{kept} tenants are remembered");
    }

    #[test]
    fn without_a_setting_nothing_is_counted() {
        assert!(RateLimit::new(None).is_none());
        let (parts, ()) = axum::http::Request::new(()).into_parts();
        assert!(admit(None, "ten", &parts).is_ok());
    }
}
