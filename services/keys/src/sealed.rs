//! Keys sealed with AES-256-GCM under the master key; signed with locally.
use crate::cache::KeyCache;
use crate::import::{ImportError, ImportedKey};
use crate::seal::SealingKey;
use crate::signing_key::{self, SigningKey};
use crate::{Custody, CustodyError, CustodyKind, KeyBinding, MasterKey, Random, StoredKey};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

/// Parsed keys kept; an RSA-2048 one takes about 10 KB.
const CACHED_KEYS: usize = 10_000;

/// The default custody.
pub struct SealedCustody {
    rng: Arc<dyn Random>,
    vault: RwLock<Vault>,
    /// To make or vet an RSA key is much work: as many at once as there are processors, the others wait.
    generations: Arc<Semaphore>,
}

struct Vault {
    sealing: Option<Arc<SealingKey>>,
    cache: KeyCache,
    /// Moves on `unseal` and `forget`. A key that was being opened meanwhile is used, but not cached.
    epoch: u64,
}

impl SealedCustody {
    /// Without a master key every call answers `Unavailable` until `unseal`.
    pub fn new(rng: Arc<dyn Random>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        Self {
            rng,
            vault: RwLock::new(Vault { sealing: None, cache: KeyCache::new(CACHED_KEYS), epoch: 0 }),
            generations: Arc::new(Semaphore::new(processors)),
        }
    }

    /// Gives it the master key, also later at run time. Replaces former ones, and drops what was opened with them.
    pub fn unseal(&self, master: &MasterKey) {
        self.unseal_with(master, []);
    }

    /// The same where keys were, or soon are, sealed under others too: from now on it seals under `current` and opens what any of them
    /// sealed.
    pub fn unseal_with<'m>(&self, current: &MasterKey, others: impl IntoIterator<Item = &'m MasterKey>) {
        let sealing = SealingKey::new(current, others);
        if let Err(error) = &sealing {
            tracing::error!(%error, "the master key cannot be used");
        }
        self.exchange(sealing.ok());
    }

    /// Takes the master key away: every call answers `Unavailable` until the next `unseal`.
    pub fn seal(&self) {
        self.exchange(None);
    }

    fn exchange(&self, sealing: Option<SealingKey>) {
        let mut vault = self.write();
        vault.sealing = sealing.map(Arc::new);
        vault.cache.clear();
        vault.epoch += 1;
    }

    /// Wipes the opened keys that were not used since the last call; they are opened again when they are needed.
    pub fn forget_unused(&self) {
        self.write().cache.drop_unused();
    }

    /// The key of this row sealed anew, under the master key that seals now; `None` if it is so already. What is returned has signed once
    /// from its new form. `Unavailable` while sealed, `Refused` if the row does not open.
    pub async fn reseal(&self, binding: &KeyBinding, stored: &StoredKey) -> Result<Option<Vec<u8>>, CustodyError> {
        let sealing = self.sealing()?;
        if sealing.is_current(&stored.sealed) {
            return Ok(None);
        }
        let (rng, binding, stored) = (Arc::clone(&self.rng), binding.clone(), stored.clone());
        off_worker(move || {
            let pkcs8 = open_octets(&sealing, &binding, &stored)?;
            // Held to the public half that stands beside it, before the old octets may go.
            SigningKey::of_row(&binding, &stored, &pkcs8)?;
            store(&*rng, &sealing, &binding, stored.algorithm, &pkcs8, stored.public_key).map(|new| Some(new.sealed))
        })
        .await
    }

    /// The subkey of the master key; `Unavailable` while sealed.
    pub(crate) fn sealing(&self) -> Result<Arc<SealingKey>, CustodyError> {
        self.read().unsealed()
    }

    pub(crate) fn rng(&self) -> &dyn Random {
        &*self.rng
    }

    /// Reads and vets a private key that was made elsewhere (custody `imported`), in any form of it: PEM or base64, PKCS#8, PKCS#1, or
    /// the octets of an Ed25519 key. Nothing is stored. `Fault` if the key is at fault.
    pub async fn read_import(&self, text: Zeroizing<String>) -> Result<ImportedKey, ImportError> {
        let permit = self.turn().await?;
        let read = move || {
            let _permit = permit;
            ImportedKey::read(&text)
        };
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| unfinished())??)
    }

    /// Seals an imported key for this binding, as one that was made here. `Unavailable` while sealed.
    pub async fn adopt(&self, binding: &KeyBinding, key: Arc<ImportedKey>) -> Result<StoredKey, CustodyError> {
        let sealing = self.sealing()?;
        let (rng, binding) = (Arc::clone(&self.rng), binding.clone());
        off_worker(move || store(&*rng, &sealing, &binding, key.algorithm(), &key.pkcs8, key.public_key().clone()))
            .await
    }

    /// Held by the work, not by the caller: a caller that goes away does not free the processor.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, CustodyError> {
        Arc::clone(&self.generations).acquire_owned().await.map_err(|_| unfinished())
    }

    /// The parsed key of this row: from the cache, or opened now and cached.
    async fn signing_key(&self, binding: &KeyBinding, stored: &StoredKey) -> Result<Arc<SigningKey>, CustodyError> {
        let (sealing, epoch) = {
            let vault = self.read();
            let sealing = vault.unsealed()?;
            if let Some(key) = vault.cache.get(binding, stored) {
                return Ok(key);
            }
            (sealing, vault.epoch)
        };
        let (row, place) = (stored.clone(), binding.clone());
        let opened = run(stored.algorithm, move || open(&sealing, &place, &row)).await;
        let key = Arc::new(opened.inspect_err(|error| warn_unopened(binding, error))?);
        self.keep(epoch, binding, stored, &key);
        Ok(key)
    }

    /// Caches a key whose opening began in `epoch`; not if a key was forgotten or the master key replaced meanwhile,
    /// for then it may be the very key that must not stay.
    fn keep(&self, epoch: u64, binding: &KeyBinding, stored: &StoredKey, key: &Arc<SigningKey>) {
        let mut vault = self.write();
        if vault.epoch == epoch {
            vault.cache.insert(binding, stored, Arc::clone(key));
        }
    }

    // A panic while the lock was held cannot leave the vault half-changed in a way that matters: at worst a key is not cached.
    fn read(&self) -> RwLockReadGuard<'_, Vault> {
        self.vault.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vault> {
        self.vault.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Custody for SealedCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Sealed
    }

    async fn create(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        let sealing = self.read().unsealed()?;
        let permit = self.turn().await?;
        let (rng, binding) = (Arc::clone(&self.rng), binding.clone());
        off_worker(move || {
            let _permit = permit;
            make(&*rng, &sealing, &binding, algorithm)
        })
        .await
    }

    async fn sign(&self, binding: &KeyBinding, key: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        let signing_key = self.signing_key(binding, key).await?;
        let digest = *digest;
        run(key.algorithm, move || signing_key.sign(&digest)).await
    }

    fn forget(&self, key_id: &str) {
        let mut vault = self.write();
        vault.cache.remove(key_id);
        vault.epoch += 1;
    }

    async fn withdraw(&self, binding: &KeyBinding, _key: &StoredKey) -> Result<(), CustodyError> {
        // The sealed octets are the store's; it wipes them with the row's new state.
        self.forget(&binding.key_id);
        Ok(())
    }
}

impl Vault {
    fn unsealed(&self) -> Result<Arc<SealingKey>, CustodyError> {
        self.sealing.clone().ok_or_else(|| {
            CustodyError::Unavailable(
                "there is no usable master key; put the right one where SIGNPOST_MASTER_KEY_FILE points \
                 (default: the data folder), from its backup; it is noticed within seconds"
                    .into(),
            )
        })
    }
}

impl fmt::Debug for SealedCustody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedCustody").field("unsealed", &self.read().sealing.is_some()).finish_non_exhaustive()
    }
}

/// Makes, seals, opens again and tries a key: what is returned has signed once from its stored form.
fn make(
    rng: &dyn Random,
    sealing: &SealingKey,
    binding: &KeyBinding,
    algorithm: KeyAlgorithm,
) -> Result<StoredKey, CustodyError> {
    let pkcs8 = signing_key::generate(rng, algorithm)?;
    let public_key = SigningKey::from_pkcs8(algorithm, &pkcs8)?.public_key()?;
    store(rng, sealing, binding, algorithm, &pkcs8, public_key)
}

/// The rest of it, for a key that is there.
fn store(
    rng: &dyn Random,
    sealing: &SealingKey,
    binding: &KeyBinding,
    algorithm: KeyAlgorithm,
    pkcs8: &[u8],
    public_key: PublicKey,
) -> Result<StoredKey, CustodyError> {
    let sealed = sealing.seal(rng, binding, algorithm, pkcs8)?;
    let stored = StoredKey { reference: reference(binding), sealed, public_key, algorithm };
    signing_key::prove(&open(sealing, binding, &stored)?, binding, &stored)?;
    Ok(stored)
}

/// Opens a row, and holds it to what stands beside the sealed octets: reference, algorithm and public half.
fn open(sealing: &SealingKey, binding: &KeyBinding, stored: &StoredKey) -> Result<SigningKey, CustodyError> {
    SigningKey::of_row(binding, stored, &open_octets(sealing, binding, stored)?)
}

/// The PKCS#8 octets of a row whose reference is its own.
fn open_octets(
    sealing: &SealingKey,
    binding: &KeyBinding,
    stored: &StoredKey,
) -> Result<Zeroizing<Vec<u8>>, CustodyError> {
    if stored.reference != reference(binding) {
        return Err(CustodyError::Refused(format!(
            "key {} has the reference {:?}, which is not its own in this custody",
            binding.key_id, stored.reference
        )));
    }
    sealing.open(binding, stored.algorithm, &stored.sealed)
}

fn reference(binding: &KeyBinding) -> String {
    format!("{}:{}", CustodyKind::Sealed.scheme(), binding.key_id)
}

/// RSA-2048 and Ed25519 inline, because handing such short work to another thread costs more than it spares
/// (measured); larger RSA off the async workers.
pub(crate) async fn run<T: Send + 'static>(
    algorithm: KeyAlgorithm,
    work: impl FnOnce() -> Result<T, CustodyError> + Send + 'static,
) -> Result<T, CustodyError> {
    match algorithm {
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Ed25519 => work(),
        KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => off_worker(work).await,
    }
}

pub(crate) async fn off_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CustodyError> + Send + 'static,
) -> Result<T, CustodyError> {
    // The join error is left out: a panic's text is not ours to show.
    tokio::task::spawn_blocking(work).await.map_err(|_| unfinished())?
}

pub(crate) fn unfinished() -> CustodyError {
    CustodyError::Unavailable("the work on the key was broken off; try again".into())
}

/// A row that does not open is damage or an attack on the database: the operator must hear of it.
pub(crate) fn warn_unopened(binding: &KeyBinding, error: &CustodyError) {
    tracing::warn!(tenant = %binding.tenant, domain = %binding.domain, selector = %binding.selector, key = %binding.key_id, %error, "a stored key does not open");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandom;
    use signpost_dkim::{Selector, SigningDomain};

    async fn custody_with_a_key() -> (SealedCustody, KeyBinding, StoredKey) {
        let custody = SealedCustody::new(Arc::new(SystemRandom));
        custody.unseal(&MasterKey::generate(&SystemRandom));
        let binding = KeyBinding {
            tenant: "t1".into(),
            domain: SigningDomain::parse("example.com").unwrap(),
            selector: Selector::parse("s1").unwrap(),
            key_id: "k1".into(),
        };
        let stored = custody.create(&binding, KeyAlgorithm::Ed25519).await.unwrap();
        (custody, binding, stored)
    }

    #[tokio::test]
    async fn a_key_is_opened_once_and_leaves_memory_when_forgotten_or_the_master_key_changes() {
        let (custody, binding, stored) = custody_with_a_key().await;
        let first = custody.signing_key(&binding, &stored).await.unwrap();
        let again = custody.signing_key(&binding, &stored).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again), "opened twice");
        drop(again);
        custody.forget("k1");
        assert_eq!(Arc::strong_count(&first), 1, "still held after forget");

        let second = custody.signing_key(&binding, &stored).await.unwrap();
        custody.unseal(&MasterKey::generate(&SystemRandom));
        assert_eq!(Arc::strong_count(&second), 1, "still held after unseal");
    }

    #[tokio::test]
    async fn a_key_forgotten_while_it_was_being_opened_does_not_stay() {
        let (custody, binding, stored) = custody_with_a_key().await;
        let began = custody.read().epoch;
        let key = custody.signing_key(&binding, &stored).await.unwrap();
        custody.forget("k1");
        custody.keep(began, &binding, &stored, &key);
        assert_eq!(Arc::strong_count(&key), 1, "cached after forget");
        let now = custody.read().epoch;
        custody.keep(now, &binding, &stored, &key);
        assert_eq!(Arc::strong_count(&key), 2, "not cached");
    }
}
