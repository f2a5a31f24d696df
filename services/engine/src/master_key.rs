//! The master key's life at run time, and the change from one to the next. docs/master-key.md is the page on it.
//!
//! The database says which master keys are needed: the one in use and, while something is sealed under it, the former one. A process that
//! does not know all that are needed is sealed. It hears of a change by looking every few seconds.
use crate::messages::signers::key_parts;
use crate::rows::KeyRow;
use crate::{Engine, Error};
use signpost_keys::{MasterKey, open_pepper, seal_pepper};
use signpost_store::{MasterKeyChange, MasterKeyRows, Resealed, StoreError};
use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// A key that is neither offered nor needed any more stays known for so long: rows that were read before the end of a change may be
/// in memory. Longer than any of them is kept.
const REMEMBERED_MS: i64 = 120_000;
/// A key that was not among those offered so often in a row is missing: two files are not looked at in one moment, and one of them may be
/// moved to the place of the other in between.
const MISSING_AFTER: u32 = 2;
/// Keys sealed anew in one transaction.
const BATCH: u32 = 100;
/// Between two passes over what could not be sealed anew.
const PASS_PAUSE_MS: i64 = 60_000;

/// What became of offering master keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterKeyState {
    /// All that are needed are known: unsealed.
    Unsealed,
    /// The store knows a master key and it was not offered: sealed.
    Sealed,
    /// The right one was offered, but not the former one, under which something is sealed still: sealed.
    FormerMissing,
    /// The store has never seen a master key and none was offered: the caller may make one.
    NeverMade,
}

/// Needed master keys that this process knows from before, while they are not among those offered to it any more: it goes on, but once it
/// ends they may be gone. Names in hex, as in [`SealedCounts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlyInMemory {
    /// The key in use.
    pub in_use: Option<String>,
    /// The former one, under which something is sealed still.
    pub former: Option<String>,
}

impl fmt::Display for OnlyInMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = match (&self.in_use, &self.former) {
            (Some(in_use), Some(former)) => format!("both master keys (in use {in_use}, former {former}) are"),
            (Some(in_use), None) => format!("the master key in use ({in_use}) is"),
            (None, Some(former)) => format!("the former master key ({former}), under which keys are still sealed, is"),
            (None, None) => "no master key is".to_owned(),
        };
        write!(
            f,
            "{which} known to this process only from memory: no file that SIGNPOST_MASTER_KEY_FILE and SIGNPOST_MASTER_KEY_NEXT_FILE \
             point to holds it any more. Put its file back, from the backup if need be, and stop no process before: after a restart \
             nothing that is sealed under it would open"
        )
    }
}

/// Whether a change of the master key was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeBegun {
    /// The next key is the one in use now.
    Begun,
    /// No next key was offered.
    NoNextKey,
    /// The next key is the one in use already.
    InUseAlready,
    /// Something is still sealed under the one before.
    UnderWay,
}

/// What is sealed under which master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCounts {
    /// Name of the key in use, in hex: what octets begin with that were sealed under it.
    pub in_use: String,
    /// Name of the former one, while a change is under way.
    pub former: Option<String>,
    /// Name of the next one, where it was offered.
    pub next: Option<String>,
    /// Keys of domains, and keys that sign access tokens, under the key in use.
    pub under_in_use: i64,
    /// Under the former one, still to be sealed anew.
    pub under_former: i64,
    /// Under any other: these cannot be opened with the keys at hand.
    pub under_others: i64,
}

/// Keys that are known to this process, and the work on a change.
#[derive(Default)]
pub(crate) struct MasterKeys {
    known: Vec<Known>,
    /// Of the known keys, by check value.
    in_use: Option<Needed>,
    next: Option<Vec<u8>>,
    /// Told by the last offer.
    only_in_memory: Option<OnlyInMemory>,
    pass: Pass,
}

struct Known {
    key: Arc<MasterKey>,
    check: Vec<u8>,
    /// When it was last offered or needed, in ms.
    wanted_at: i64,
    /// Offers in a row that it was not among.
    missed: u32,
}

/// Check values of the keys that the database needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needed {
    current: Vec<u8>,
    former: Option<Vec<u8>>,
}

/// A pass over what is sealed under the former key.
#[derive(Debug, Default)]
struct Pass {
    /// Id of the last key looked at.
    after: Option<String>,
    rest_until: i64,
}

impl MasterKeys {
    fn find(&self, check: &[u8]) -> Option<Arc<MasterKey>> {
        self.known.iter().find(|known| known.key.matches(check)).map(|known| Arc::clone(&known.key))
    }

    fn learn(&mut self, offered: Vec<MasterKey>, rows: &MasterKeyRows, now: i64) -> bool {
        let before: Vec<Vec<u8>> = self.known.iter().map(|known| known.check.clone()).collect();
        for known in &mut self.known {
            known.missed = known.missed.saturating_add(1);
        }
        for key in offered {
            let check = key.check_value();
            match self.known.iter_mut().find(|known| known.check == check) {
                Some(known) => (known.wanted_at, known.missed) = (now, 0),
                None => self.known.push(Known { key: Arc::new(key), check, wanted_at: now, missed: 0 }),
            }
        }
        for known in &mut self.known {
            if [&rows.check, &rows.former].into_iter().flatten().any(|check| known.key.matches(check)) {
                known.wanted_at = now;
            }
        }
        self.known.retain(|known| now - known.wanted_at < REMEMBERED_MS);
        !self.known.iter().map(|known| &known.check).eq(&before)
    }

    fn find_only_in_memory(&self) -> Option<OnlyInMemory> {
        let needed = self.in_use.as_ref()?;
        let missing = |check: &Vec<u8>| {
            let known = self.known.iter().find(|known| known.key.matches(check))?;
            (known.missed >= MISSING_AFTER).then(|| known.key.name_in_hex())
        };
        let found = OnlyInMemory { in_use: missing(&needed.current), former: needed.former.as_ref().and_then(missing) };
        (found.in_use.is_some() || found.former.is_some()).then_some(found)
    }

    /// The key in use and the former one, while a change is under way.
    fn change(&self) -> Option<(Arc<MasterKey>, Arc<MasterKey>, Vec<u8>)> {
        let needed = self.in_use.as_ref()?;
        let former = needed.former.clone()?;
        Some((self.find(&needed.current)?, self.find(&former)?, former))
    }
}

impl Engine {
    /// [`Self::offer_master_keys`] without a next key.
    pub async fn offer_master_key(&self, offered: Option<MasterKey>) -> Result<MasterKeyState, Error> {
        self.offer_master_keys(offered, None).await
    }

    /// DESIGN "Master key": holds the offered keys, and those known already, against what the store says is needed, and unseals if all of
    /// that is known; else it seals. A store that has never seen a key adopts `offered`, never `next`. Nothing is ever written over.
    /// To be called every few seconds: it is how a process hears of a change, and how [`Self::keys_only_in_memory`] notices that a file is
    /// gone. Errors: `StoreUnavailable`, `Internal`.
    pub async fn offer_master_keys(
        &self,
        offered: Option<MasterKey>,
        next: Option<MasterKey>,
    ) -> Result<MasterKeyState, Error> {
        let mut rows = self.inner.store.master_key_rows().await?;
        if rows.check.is_none() {
            let Some(first) = &offered else { return Ok(MasterKeyState::NeverMade) };
            rows.check = Some(self.inner.store.first_master_key(&first.check_value()).await?);
        }
        let mut keys = self.master_keys();
        keys.next = next.as_ref().map(MasterKey::check_value);
        let learned = keys.learn(offered.into_iter().chain(next).collect(), &rows, self.now_ms());
        let state = self.hold_against(&mut keys, &rows, learned);
        if state != MasterKeyState::Unsealed {
            keys.in_use = None;
            self.seal();
        }
        keys.only_in_memory = keys.find_only_in_memory();
        Ok(state)
    }

    /// The needed master keys that the last two offers lacked, if any. An unsealed process goes on with them until it ends.
    pub fn keys_only_in_memory(&self) -> Option<OnlyInMemory> {
        self.master_keys().only_in_memory.clone()
    }

    fn hold_against(&self, keys: &mut MasterKeys, rows: &MasterKeyRows, learned: bool) -> MasterKeyState {
        let Some(check) = &rows.check else { return MasterKeyState::NeverMade };
        let Some(current) = keys.find(check) else { return MasterKeyState::Sealed };
        if rows.former.as_ref().is_some_and(|former| keys.find(former).is_none()) {
            return MasterKeyState::FormerMissing;
        }
        let needed = Needed { current: check.clone(), former: rows.former.clone() };
        if keys.in_use.as_ref() == Some(&needed) && !learned {
            return MasterKeyState::Unsealed;
        }
        let pepper = match &rows.pepper {
            None => Ok(current.first_pepper()),
            Some(sealed) => open_pepper(&current, sealed),
        };
        let pepper = match pepper {
            Ok(pepper) => pepper,
            Err(error) => {
                tracing::error!(%error, "the secret that API keys are authenticated with does not open");
                return MasterKeyState::Sealed;
            }
        };
        // All that are known may open: rows that were read a moment ago, or were written by who heard of a change earlier.
        let others = keys.known.iter().map(|known| &*known.key).filter(|key| !key.matches(check));
        self.inner.sealed.unseal_with(&current, others);
        *self.pepper() = Some(pepper);
        keys.in_use = Some(needed);
        keys.pass = Pass::default();
        MasterKeyState::Unsealed
    }

    fn seal(&self) {
        let mut pepper = self.pepper();
        if pepper.take().is_some() {
            self.inner.sealed.seal();
        }
    }

    /// Makes the next key, offered before, the one in use. All that was sealed under the present one stays readable, and is sealed anew
    /// by [`Self::reseal`] of every worker. `Sealed`, `StoreUnavailable`, `Busy`.
    pub async fn begin_master_key_change(&self) -> Result<ChangeBegun, Error> {
        let pepper = self.pepper().clone().ok_or(Error::Sealed)?;
        let (needed, next) = {
            let keys = self.master_keys();
            (keys.in_use.clone().ok_or(Error::Sealed)?, keys.next.as_ref().and_then(|check| keys.find(check)))
        };
        let Some(next) = next else { return Ok(ChangeBegun::NoNextKey) };
        if needed.former.is_some() {
            return Ok(ChangeBegun::UnderWay);
        }
        if next.matches(&needed.current) {
            return Ok(ChangeBegun::InUseAlready);
        }
        let change = MasterKeyChange {
            seen_check: needed.current,
            check: next.check_value(),
            name: next.name(),
            pepper: seal_pepper(self.inner.random.as_ref(), &next, &pepper)?,
        };
        match self.inner.store.begin_master_key_change(&change).await {
            Ok(()) => Ok(ChangeBegun::Begun),
            Err(StoreError::Conflict) => Ok(ChangeBegun::UnderWay),
            Err(error) => Err(error.into()),
        }
    }

    /// How far it is. `Sealed`, `StoreUnavailable`.
    pub async fn sealed_counts(&self) -> Result<SealedCounts, Error> {
        let (in_use, former, next) = {
            let keys = self.master_keys();
            let needed = keys.in_use.as_ref().ok_or(Error::Sealed)?;
            let name = |check: &Vec<u8>| keys.find(check).map(|key| key.name());
            let next = keys.next.as_ref().filter(|next| **next != needed.current).and_then(name);
            (name(&needed.current).ok_or(Error::Sealed)?, needed.former.as_ref().and_then(name), next)
        };
        let mut counts = SealedCounts {
            in_use: hex(&in_use),
            former: former.as_ref().map(|name| hex(name)),
            next: next.as_ref().map(|name| hex(name)),
            under_in_use: 0,
            under_former: 0,
            under_others: 0,
        };
        for under in self.inner.store.sealed_under().await? {
            if under.name == in_use {
                counts.under_in_use += under.keys;
            } else if former.is_some_and(|former| under.name == former) {
                counts.under_former += under.keys;
            } else {
                counts.under_others += under.keys;
            }
        }
        Ok(counts)
    }

    /// One step of a change of the master key, if one is under way: seals a batch of keys anew, or ends the change once nothing is left.
    /// Each key is replaced by compare-and-swap, so that any number of processes may do it, and any of them may die. `StoreUnavailable`.
    pub async fn reseal(&self) -> Result<(), Error> {
        let (current, former, former_check, after) = {
            let keys = self.master_keys();
            let Some((current, former, check)) = keys.change() else { return Ok(()) };
            if keys.pass.rest_until > self.now_ms() {
                return Ok(());
            }
            (current, former, check, keys.pass.after.clone())
        };
        let store = &self.inner.store;
        let rows = store.keys_sealed_under(former.name(), after.as_deref(), BATCH).await?;
        if let Some(last) = rows.last() {
            let done = store.replace_sealed(self.sealed_anew(&rows).await).await?;
            self.master_keys().pass.after = Some(last.id.clone());
            let left = self.sealed_counts().await?.under_former;
            tracing::info!(keys = done, left, "keys were sealed anew, under the master key in use");
            return Ok(());
        }
        self.reseal_token_keys().await?;
        if store.end_master_key_change(&former_check, former.name()).await? {
            tracing::info!(
                in_use = current.name_in_hex(),
                former = former.name_in_hex(),
                "everything is sealed under the master key in use; once its file is where SIGNPOST_MASTER_KEY_FILE of every \
                 process points, the former one is needed no more"
            );
            return Ok(());
        }
        let counts = self.sealed_counts().await?;
        let mut keys = self.master_keys();
        keys.pass = Pass { after: None, rest_until: self.now_ms() + PASS_PAUSE_MS };
        if counts.under_former > 0 {
            tracing::warn!(
                left = counts.under_former,
                "some keys could not be sealed anew; the former master key is needed on, and they are tried again in a minute"
            );
        }
        Ok(())
    }

    async fn sealed_anew(&self, rows: &[KeyRow]) -> Vec<Resealed> {
        let mut anew = Vec::with_capacity(rows.len());
        for row in rows {
            match self.one_sealed_anew(row).await {
                Ok(Some(new)) => anew.push(Resealed {
                    tenant_id: row.tenant_id.clone(),
                    key_id: row.id.clone(),
                    old: row.sealed.clone(),
                    new,
                }),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(key = %row.id, domain = %row.domain_name, ?error,
                        "a key cannot be sealed anew; revoke it, or restore its row from a backup");
                }
            }
        }
        anew
    }

    async fn one_sealed_anew(&self, row: &KeyRow) -> Result<Option<Vec<u8>>, Error> {
        let (binding, stored, _) = key_parts(row)?;
        Ok(self.inner.sealed.reseal(&binding, &stored).await?)
    }

    async fn reseal_token_keys(&self) -> Result<(), Error> {
        for row in self.inner.store.token_keys().await? {
            match self.inner.sealed.reseal_token_key(&row.kid, &row.sealed, &row.public_key) {
                Ok(Some(new)) => {
                    self.inner.store.replace_sealed_token_key(&row.kid, &row.sealed, &new).await?;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(kid = %row.kid, %error, "a key that signs access tokens cannot be sealed anew");
                }
            }
        }
        Ok(())
    }

    // A panic while a lock was held leaves nothing half-changed that matters: the next offer sets all of it.
    fn master_keys(&self) -> MutexGuard<'_, MasterKeys> {
        self.inner.master_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pepper(&self) -> std::sync::RwLockWriteGuard<'_, Option<Zeroizing<[u8; 32]>>> {
        self.inner.pepper.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |text, octet| format!("{text}{octet:02x}"))
}

#[cfg(test)]
#[path = "master_key_tests.rs"]
mod tests;
