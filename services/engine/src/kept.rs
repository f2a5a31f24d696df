//! What requests ask the store for again and again, kept in memory for a moment.
//!
//! An answer counts until this process changes what it depends on (`Store::rights_version`), and for a bounded time, since on
//! PostgreSQL other processes change it too. "There is none" is never kept.
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

/// Entries of one kind; when full, all of them are dropped.
const ENTRIES: usize = 10_000;

/// Answers by what was asked.
pub(crate) struct Kept<K, V> {
    entries: RwLock<HashMap<K, Entry<V>>>,
    good_ms: i64,
}

struct Entry<V> {
    value: V,
    read: Reading,
}

/// When something was read. To be taken before the rows are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) version: u64,
    pub(crate) at_ms: i64,
}

impl<K: Hash + Eq, V: Clone> Kept<K, V> {
    /// Answers are good for so long.
    pub(crate) fn new(good_ms: i64) -> Self {
        Self { entries: RwLock::default(), good_ms }
    }

    /// The answer, if it still counts at this moment.
    pub(crate) fn get(&self, key: &K, now: Reading) -> Option<V> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(key)?;
        // A clock that was set back makes an answer old, not young.
        let age = now.at_ms - entry.read.at_ms;
        (entry.read.version == now.version && (0..self.good_ms).contains(&age)).then(|| entry.value.clone())
    }

    /// Keeps what was read.
    pub(crate) fn put(&self, key: K, value: V, read: Reading) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES {
            entries.clear();
        }
        entries.insert(key, Entry { value, read });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(version: u64, at_ms: i64) -> Reading {
        Reading { version, at_ms }
    }

    #[test]
    fn an_answer_counts_until_something_changes_and_not_for_long() {
        let kept = Kept::new(1_000);
        kept.put("a", 1, at(7, 10_000));
        for (now, expected) in [
            (at(7, 10_000), Some(1)),
            (at(7, 10_999), Some(1)),
            (at(7, 11_000), None),
            (at(7, 9_999), None),
            (at(8, 10_000), None),
            (at(6, 10_000), None),
        ] {
            assert_eq!(kept.get(&"a", now), expected, "{now:?}");
        }
        assert_eq!(kept.get(&"b", at(7, 10_000)), None);
        kept.put("a", 2, at(8, 10_500));
        assert_eq!(kept.get(&"a", at(8, 11_000)), Some(2));
    }

    #[test]
    fn memory_is_bounded() {
        let kept = Kept::new(1_000);
        for n in 0..3 * ENTRIES {
            kept.put(n, n, at(0, 0));
            assert!(kept.entries.read().unwrap().len() <= ENTRIES);
            assert_eq!(kept.get(&n, at(0, 0)), Some(n));
        }
    }
}
