//! Ids: UUIDv7 as 32 hex digits inside, with a prefix outside (`dom_...`).
use crate::Clock;
use signpost_keys::Random;
use std::sync::{Mutex, PoisonError};

/// The last id of this process: ids of one millisecond go upwards (RFC 9562 6.2 method 2), so that events and recipients keep
/// the order in which they were made.
static LAST: Mutex<u128> = Mutex::new(0);

/// The random octets of a UUIDv7 that are free: the low 62 bits (RFC 9562 5.7).
const FREE: u128 = (1 << 62) - 1;

/// A fresh UUIDv7 as 32 lower-case hex digits.
pub fn fresh(clock: &dyn Clock, random: &dyn Random) -> String {
    let mut octets = [0_u8; 10];
    random.fill(&mut octets);
    let millis = u64::try_from(clock.now_ms()).unwrap_or(0);
    let mut id = uuid::Builder::from_unix_timestamp_millis(millis, &octets).into_uuid().as_u128();
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if *last >> 80 == id >> 80 && *last & FREE < FREE - u128::from(u32::MAX) {
        // A random step, so that the next id cannot be told from this one.
        let step = u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]);
        id = *last + 1 + u128::from(step);
    }
    *last = id;
    uuid::Uuid::from_u128(id).simple().to_string()
}

/// `dom` + id -> `dom_<id>`.
pub fn public(prefix: &str, id: &str) -> String {
    format!("{prefix}_{id}")
}

/// `dom_<id>` -> id; `None` if it is not of that kind (then it cannot exist: a 404).
pub fn parse<'a>(prefix: &str, text: &'a str) -> Option<&'a str> {
    let id = text.strip_prefix(prefix)?.strip_prefix('_')?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then_some(id)
}

/// A random text of `length` letters and digits (lower-case, no look-alikes: 32 symbols, 5 bits each).
pub fn random_text(random: &dyn Random, length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut octets = vec![0_u8; length];
    random.fill(&mut octets);
    octets.iter().map(|o| char::from(ALPHABET[usize::from(o & 31)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use signpost_keys::SystemRandom;

    struct Stopped;
    impl Clock for Stopped {
        fn now_ms(&self) -> i64 {
            1_793_613_600_000
        }
    }

    #[test]
    fn ids_of_one_millisecond_keep_their_order_and_are_uuids_of_version_7() {
        let ids: Vec<_> = (0..2000).map(|_| fresh(&Stopped, &SystemRandom)).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|two| two[0] != two[1]));
        for id in &ids {
            let id = uuid::Uuid::parse_str(id).unwrap();
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        }
        assert_eq!(parse("dom", &public("dom", &ids[0])), Some(ids[0].as_str()));
        assert_eq!(parse("dom", &public("msg", &ids[0])), None);
    }
}
