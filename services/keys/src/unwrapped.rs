//! Private keys that were unwrapped, in memory for a bounded time and then wiped.
use crate::signing_key::SigningKey;
use crate::{CustodyError, KeyBinding, StoredKey};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Keys at most; the others' unwrapping waits for nobody, it only happens again.
const CAPACITY: usize = 10_000;

type Opened = Result<Arc<SigningKey>, CustodyError>;

/// One unwrapping, which all that need its key at the same time wait for.
#[derive(Clone)]
struct Unwrapping {
    binding: KeyBinding,
    stored: StoredKey,
    opened: Arc<OnceCell<Opened>>,
}

/// Key id -> its unwrapping, under way or done.
#[derive(Clone)]
pub(crate) struct Unwrapped {
    lifetime: Duration,
    keys: Arc<Mutex<HashMap<String, Unwrapping>>>,
}

impl Unwrapped {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, keys: Arc::default() }
    }

    /// The key of this row: unwrapped already, from exactly this row under exactly this binding, or by `unwrap` now. Whoever asks
    /// meanwhile waits for the same unwrapping and shares its outcome; a failed one is not kept.
    pub(crate) async fn key(
        &self,
        binding: &KeyBinding,
        stored: &StoredKey,
        unwrap: impl Future<Output = Opened>,
    ) -> Opened {
        let unwrapping = self.unwrapping(binding, stored);
        let opened = unwrapping
            .opened
            .get_or_init(|| async {
                let opened = unwrap.await;
                match &opened {
                    Ok(_) => self.wipe_later(&binding.key_id, &unwrapping),
                    Err(_) => self.remove(&binding.key_id, &unwrapping),
                }
                opened
            })
            .await;
        opened.clone()
    }

    /// At once.
    pub(crate) fn forget(&self, key_id: &str) {
        self.keys().remove(key_id);
    }

    fn unwrapping(&self, binding: &KeyBinding, stored: &StoredKey) -> Unwrapping {
        let mut keys = self.keys();
        if keys.len() >= CAPACITY && !keys.contains_key(&binding.key_id) {
            keys.retain(|_, unwrapping| !unwrapping.opened.initialized());
        }
        let new = || Unwrapping { binding: binding.clone(), stored: stored.clone(), opened: Arc::default() };
        match keys.entry(binding.key_id.clone()) {
            Entry::Vacant(place) => place.insert(new()).clone(),
            Entry::Occupied(mut place) => {
                // A row that was swapped or changed since must go through unwrapping, and fail there.
                if place.get().binding != *binding || place.get().stored != *stored {
                    place.insert(new());
                }
                place.get().clone()
            }
        }
    }

    /// The lifetime counts from the unwrapping, not from the last use: after it, only the KMS can give the key back.
    fn wipe_later(&self, key_id: &str, unwrapping: &Unwrapping) {
        let (keys, key_id, opened) =
            (Arc::downgrade(&self.keys), key_id.to_owned(), Arc::downgrade(&unwrapping.opened));
        let lifetime = self.lifetime;
        tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            let (Some(keys), Some(opened)) = (keys.upgrade(), opened.upgrade()) else { return };
            remove(&mut keys.lock().unwrap_or_else(PoisonError::into_inner), &key_id, &opened);
        });
    }

    fn remove(&self, key_id: &str, unwrapping: &Unwrapping) {
        remove(&mut self.keys(), key_id, &unwrapping.opened);
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Unwrapping>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only this unwrapping: a later one of the same key stays.
fn remove(keys: &mut HashMap<String, Unwrapping>, key_id: &str, opened: &Arc<OnceCell<Opened>>) {
    if keys.get(key_id).is_some_and(|kept| Arc::ptr_eq(&kept.opened, opened)) {
        keys.remove(key_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SystemRandom, signing_key};
    use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LIFETIME: Duration = Duration::from_secs(300);

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
        let reference = format!("awskms-envelope:{key_id}");
        let stored = StoredKey { reference, sealed: vec![7; 40], public_key: key.public_key().unwrap(), algorithm };
        (binding, stored, Arc::new(key))
    }

    async fn never() -> Opened {
        panic!("unwrapped again")
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_leaves_memory_when_its_lifetime_ends_however_often_it_is_used() {
        let unwrapped = Unwrapped::new(LIFETIME);
        let (binding, stored, key) = row("k1");
        unwrapped.key(&binding, &stored, async { Ok(Arc::clone(&key)) }).await.unwrap();
        for _ in 0..29 {
            tokio::time::sleep(LIFETIME / 30).await;
            unwrapped.key(&binding, &stored, never()).await.unwrap();
        }
        assert_eq!(Arc::strong_count(&key), 2);
        tokio::time::sleep(LIFETIME / 30 + Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&key), 1, "still held by somebody but the test");
        let away = unwrapped.key(&binding, &stored, async { Err(CustodyError::Unavailable("away".into())) }).await;
        assert!(away.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_wait_for_one_unwrapping_and_share_its_failure_which_is_not_kept() {
        let unwrapped = Unwrapped::new(LIFETIME);
        let (binding, stored, key) = row("k1");
        let calls = AtomicUsize::new(0);
        let ask = |fails: bool| {
            let (unwrapped, binding, stored, key, calls) = (&unwrapped, &binding, &stored, &key, &calls);
            unwrapped.key(binding, stored, async move {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                if fails { Err(CustodyError::Unavailable("away".into())) } else { Ok(Arc::clone(key)) }
            })
        };
        let (a, b, c) = tokio::join!(ask(true), ask(true), ask(true));
        assert!(a.is_err() && b.is_err() && c.is_err());
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let (a, b, c) = tokio::join!(ask(false), ask(false), ask(false));
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn any_difference_in_row_or_binding_is_unwrapped_anew_and_forget_wipes() {
        let unwrapped = Unwrapped::new(LIFETIME);
        let (binding, stored, key) = row("k1");
        let refused = || async { Err(CustodyError::Refused("not this one".into())) };
        unwrapped.key(&binding, &stored, async { Ok(Arc::clone(&key)) }).await.unwrap();
        let other = KeyBinding { tenant: "t2".into(), ..binding.clone() };
        assert!(unwrapped.key(&other, &stored, refused()).await.is_err());
        unwrapped.key(&binding, &stored, async { Ok(Arc::clone(&key)) }).await.unwrap();
        let changed = StoredKey { sealed: vec![8; 40], ..stored.clone() };
        assert!(unwrapped.key(&binding, &changed, refused()).await.is_err());
        unwrapped.key(&binding, &stored, async { Ok(Arc::clone(&key)) }).await.unwrap();
        unwrapped.forget("k1");
        assert_eq!(Arc::strong_count(&key), 1, "still held after forget");
    }
}
