//! Second keys that could not sign: with dual signing mail goes without their signature, which the log says now and then.
use signpost_store::KeyRow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A key is named again only after so long, and not for each of its messages.
const SAID_EVERY_MS: i64 = 3600 * 1000;

/// Key id -> when the log named it last.
#[derive(Default)]
pub(crate) struct LeftOut(Mutex<HashMap<String, i64>>);

impl LeftOut {
    /// A message goes without the signature of this key.
    pub(super) fn tell(&self, key: &KeyRow, reason: &str, now: i64) {
        if self.is_news(&key.id, now) {
            tracing::warn!(key = %key.id, domain = %key.domain_name, reason,
                "mail goes without the second signature, with the first one alone");
        }
    }

    fn is_news(&self, key_id: &str, now: i64) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &i64| at.saturating_add(SAID_EVERY_MS) > now;
        if said.get(key_id).is_some_and(recent) {
            return false;
        }
        said.retain(|_, at| recent(at));
        said.insert(key_id.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_once_an_hour_however_much_mail_it_has() {
        let left_out = LeftOut::default();
        for now in [0, 1, SAID_EVERY_MS - 1, SAID_EVERY_MS, SAID_EVERY_MS + 1] {
            assert_eq!(left_out.is_news("a", now), now == 0 || now == SAID_EVERY_MS, "{now}");
        }
        assert!(left_out.is_news("b", 1), "another key has its own hour");
        assert!(left_out.is_news("c", 10 * SAID_EVERY_MS));
        assert_eq!(left_out.0.lock().unwrap().len(), 1, "what is old is forgotten");
    }
}
