//! Ids: UUIDv7 as 32 hex digits inside, with a prefix outside (`dom_...`).
use crate::Clock;
use signpost_keys::Random;

/// A fresh UUIDv7 as 32 lower-case hex digits.
pub fn fresh(clock: &dyn Clock, random: &dyn Random) -> String {
    let mut octets = [0_u8; 10];
    random.fill(&mut octets);
    let millis = u64::try_from(clock.now_ms()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &octets).into_uuid().simple().to_string()
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
