//! Hosts that closed the door with 421 rest for a while, for all queued mail (RFC 5321 3.8).
use super::retry::jitter;
use signpost_keys::Random;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const FIRST_REST: i64 = 60_000;
const LONGEST_REST: i64 = 30 * 60_000;
/// Hosts remembered; beyond it those whose rest is over are forgotten.
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
