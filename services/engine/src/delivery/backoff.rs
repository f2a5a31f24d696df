//! Hosts that closed the door with 421 rest for a while, for all queued mail (RFC 5321 3.8).
use super::retry::jitter;
use signpost_keys::Random;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const FIRST_REST: i64 = 60_000;
const LONGEST_REST: i64 = 30 * 60_000;
/// Hosts remembered; beyond it those whose rest is over are forgotten, and then the one whose rest ends first.
const MAX_HOSTS: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: i64,
    length: i64,
}

/// Resting hosts of this process. Not durable: after a restart one connection finds out again.
#[derive(Debug, Default)]
pub struct HostBackoff {
    hosts: Mutex<HashMap<String, Rest>>,
}

impl HostBackoff {
    /// When the host may be asked again, if it rests at `now`.
    pub fn resting_until(&self, host: &str, now: i64) -> Option<i64> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).map(|rest| rest.until).filter(|until| *until > now)
    }

    /// After a 421: one minute at first, twice as long each time, at most 30.
    pub fn rest(&self, host: &str, now: i64, random: &dyn Random) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_HOSTS {
            hosts.retain(|_, rest| rest.until > now);
        }
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(host) {
            let first = hosts.iter().min_by_key(|(_, rest)| rest.until).map(|(host, _)| host.clone());
            first.and_then(|host| hosts.remove(&host));
        }
        let length = hosts.get(host).map_or(FIRST_REST, |rest| (rest.length * 2).min(LONGEST_REST));
        hosts.insert(host.to_owned(), Rest { until: now + jitter(length, random), length });
    }

    /// After a message was taken.
    pub fn recovered(&self, host: &str) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zero;
    impl Random for Zero {
        fn fill(&self, dest: &mut [u8]) {
            dest.fill(0);
        }
    }

    #[test]
    fn no_more_hosts_are_remembered_than_the_limit() {
        let backoff = HostBackoff::default();
        for n in 0..MAX_HOSTS + 3 {
            backoff.rest(&format!("mx{n}.example.net"), i64::try_from(n).expect("time"), &Zero);
        }
        assert_eq!(backoff.hosts.lock().expect("lock").len(), MAX_HOSTS);
        let now = i64::try_from(MAX_HOSTS).expect("time");
        assert_eq!(backoff.resting_until("mx0.example.net", now), None, "the one whose rest ends first is forgotten");
        assert!(backoff.resting_until("mx3.example.net", now).is_some());
    }

    /// G03.
    #[test]
    fn a_host_rests_longer_each_time_until_it_takes_a_message() {
        let backoff = HostBackoff::default();
        let mut now = 0;
        let mut rests = Vec::new();
        for _ in 0..7 {
            backoff.rest("mx.example.net", now, &Zero);
            let until = backoff.resting_until("mx.example.net", now).expect("rests");
            rests.push((until - now) / 60_000);
            now = until;
            assert_eq!(backoff.resting_until("mx.example.net", now), None);
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.resting_until("other.example.net", 0), None);
        backoff.recovered("mx.example.net");
        backoff.rest("mx.example.net", now, &Zero);
        assert_eq!(backoff.resting_until("mx.example.net", now), Some(now + 60_000));
    }
}
