//! Parsed private keys, kept because parsing RSA PKCS#8 costs about half a signature.
use crate::signing_key::SigningKey;
use crate::{KeyBinding, StoredKey};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// At most `capacity` keys; when full, the least recently used eighth is dropped (and wiped, once no signature needs it).
#[derive(Debug)]
pub(crate) struct KeyCache {
    capacity: usize,
    entries: HashMap<String, Entry>,
    /// Counts uses; an entry's last one tells its age. Atomic, so that hits need only a shared lock.
    uses: AtomicU64,
    /// The count when `drop_unused` was last called.
    seen_uses: u64,
}

#[derive(Debug)]
struct Entry {
    binding: KeyBinding,
    stored: StoredKey,
    key: Arc<SigningKey>,
    last_used: AtomicU64,
}

impl KeyCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), entries: HashMap::new(), uses: AtomicU64::new(0), seen_uses: 0 }
    }

    /// The parsed key, only if it was opened from exactly this row under exactly this binding: a row that was
    /// swapped or changed since must go through opening, and fail there.
    pub(crate) fn get(&self, binding: &KeyBinding, stored: &StoredKey) -> Option<Arc<SigningKey>> {
        let entry = self.entries.get(&binding.key_id)?;
        if entry.binding != *binding || entry.stored != *stored {
            return None;
        }
        entry.last_used.store(self.next_use(), Ordering::Relaxed);
        Some(Arc::clone(&entry.key))
    }

    /// Keeps a key that was opened from `stored` under `binding`.
    pub(crate) fn insert(&mut self, binding: &KeyBinding, stored: &StoredKey, key: Arc<SigningKey>) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&binding.key_id) {
            self.drop_oldest();
        }
        let last_used = AtomicU64::new(self.next_use());
        let entry = Entry { binding: binding.clone(), stored: stored.clone(), key, last_used };
        self.entries.insert(binding.key_id.clone(), entry);
    }

    pub(crate) fn remove(&mut self, key_id: &str) {
        self.entries.remove(key_id);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Drops what was not used since the last call: a key that was revoked by another process, or of a domain that sends no more.
    pub(crate) fn drop_unused(&mut self) {
        let since = std::mem::replace(&mut self.seen_uses, self.uses.load(Ordering::Relaxed));
        self.entries.retain(|_, entry| entry.last_used.load(Ordering::Relaxed) >= since);
    }

    /// An eighth at a time: finding the oldest walks all entries, so it must not happen at every insertion.
    fn drop_oldest(&mut self) {
        let mut ages: Vec<u64> = self.entries.values().map(|entry| entry.last_used.load(Ordering::Relaxed)).collect();
        let position = self.capacity.div_ceil(8).min(ages.len()).saturating_sub(1);
        let (_, newest_to_drop, _) = ages.select_nth_unstable(position);
        let newest_to_drop = *newest_to_drop;
        self.entries.retain(|_, entry| entry.last_used.load(Ordering::Relaxed) > newest_to_drop);
    }

    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SystemRandom, signing_key};
    use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};

    fn row(key_id: &str) -> (KeyBinding, StoredKey, Arc<SigningKey>) {
        let algorithm = KeyAlgorithm::Ed25519;
        let pkcs8 = signing_key::generate(&SystemRandom, algorithm).unwrap();
        let key = SigningKey::from_pkcs8(algorithm, &pkcs8).unwrap();
        let binding = KeyBinding {
            tenant: "t1".into(),
            domain: SigningDomain::parse("example.com").unwrap(),
            selector: Selector::parse("s1").unwrap(),
            key_id: key_id.into(),
        };
        let reference = format!("sealed:{key_id}");
        let stored = StoredKey { reference, sealed: vec![7; 40], public_key: key.public_key().unwrap(), algorithm };
        (binding, stored, Arc::new(key))
    }

    #[test]
    fn the_least_recently_used_leave_and_the_bound_holds() {
        let mut cache = KeyCache::new(16);
        let rows: Vec<_> = (0..40).map(|n| row(&format!("k{n}"))).collect();
        let (first_binding, first_stored, first_key) = &rows[0];
        cache.insert(first_binding, first_stored, Arc::clone(first_key));
        for (binding, stored, key) in &rows[1..] {
            cache.insert(binding, stored, Arc::clone(key));
            assert!(cache.entries.len() <= 16, "{} entries", cache.entries.len());
            assert!(cache.get(first_binding, first_stored).is_some(), "the key in constant use was dropped");
        }
        assert!(cache.get(&rows[1].0, &rows[1].1).is_none(), "an old unused key stayed");
        assert!(cache.get(&rows[39].0, &rows[39].1).is_some(), "the newest key is missing");
        // The dropped private keys are really gone: nobody but the test holds them.
        assert_eq!(Arc::strong_count(&rows[1].2), 1);
    }

    #[test]
    fn what_is_not_used_between_two_turns_leaves() {
        let mut cache = KeyCache::new(16);
        let [used, unused] = ["used", "unused"].map(row);
        for (binding, stored, key) in [&used, &unused] {
            cache.insert(binding, stored, Arc::clone(key));
        }
        cache.drop_unused();
        assert_eq!(cache.entries.len(), 2, "both were used since the start");
        assert!(cache.get(&used.0, &used.1).is_some());
        cache.drop_unused();
        assert!(cache.get(&used.0, &used.1).is_some());
        assert!(cache.get(&unused.0, &unused.1).is_none());
        assert_eq!(Arc::strong_count(&unused.2), 1, "the private key is gone");
    }

    #[test]
    fn any_difference_in_row_or_binding_is_a_miss() {
        let mut cache = KeyCache::new(16);
        let (binding, stored, key) = row("k1");
        cache.insert(&binding, &stored, key);
        assert!(cache.get(&binding, &stored).is_some());

        let tenant = KeyBinding { tenant: "t2".into(), ..binding.clone() };
        let domain = KeyBinding { domain: SigningDomain::parse("example.net").unwrap(), ..binding.clone() };
        let selector = KeyBinding { selector: Selector::parse("s2").unwrap(), ..binding.clone() };
        let key_id = KeyBinding { key_id: "k2".into(), ..binding.clone() };
        for other in [tenant, domain, selector, key_id] {
            assert!(cache.get(&other, &stored).is_none(), "{other:?}");
        }
        let octets = StoredKey { sealed: vec![8; 40], ..stored.clone() };
        let public_key = StoredKey { public_key: row("k1").1.public_key, ..stored.clone() };
        let algorithm = StoredKey { algorithm: KeyAlgorithm::Rsa2048, ..stored.clone() };
        let reference = StoredKey { reference: "sealed:k2".into(), ..stored.clone() };
        for other in [octets, public_key, algorithm, reference] {
            assert!(cache.get(&binding, &other).is_none(), "{other:?}");
        }
    }
}
