//! Looks at the master-key files and at what the database needs, so that the right key, and a change of it, need no restart.
use crate::master_key::{self, KeyFiles, former_missing};
use signpost_engine::{Engine, MasterKeyState};
use signpost_keys::MasterKey;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Files that are read again and again.
pub(crate) struct KeyWatch {
    files: KeyFiles,
    /// Check value of the next key that the log told of.
    told: Mutex<Option<Vec<u8>>>,
    /// What was wrong with a file when it was last read; said once.
    faults: Mutex<HashMap<PathBuf, String>>,
    /// Looks since a key that is needed was in no file.
    missing: AtomicU32,
}

/// Looks after which that is said again: ten minutes.
const SAID_AGAIN: u32 = 300;

impl KeyWatch {
    pub(crate) fn new(files: KeyFiles) -> Self {
        Self { files, told: Mutex::default(), faults: Mutex::default(), missing: AtomicU32::new(0) }
    }

    /// Offers what the files hold. Never makes one. A file that cannot be read is as one that is absent: a process that has its keys
    /// already keeps them.
    pub(crate) async fn look(&self, engine: &Engine) {
        let was_sealed = engine.is_sealed();
        let (current, next) = (self.read(&self.files.current), self.read(&self.files.next));
        let offered_next = next.as_ref().map(MasterKey::check_value);
        let offered: Vec<Vec<u8>> =
            current.as_ref().map(MasterKey::check_value).into_iter().chain(offered_next.clone()).collect();
        match engine.offer_master_keys(current, next).await {
            Ok(MasterKeyState::Unsealed) => {
                if was_sealed {
                    tracing::info!("unsealed: the right master key is there");
                }
                self.tell_of_next(offered_next);
                self.tell_of_missing(engine.needs_other_master_keys(&offered));
            }
            Ok(MasterKeyState::Sealed) if !was_sealed => {
                tracing::error!(
                    "sealed: the master key was changed, and the one in use now is not known to this process; put its file where \
                     SIGNPOST_MASTER_KEY_FILE or SIGNPOST_MASTER_KEY_NEXT_FILE points"
                );
            }
            Ok(MasterKeyState::FormerMissing) if !was_sealed => tracing::error!("{}", former_missing(&self.files)),
            Ok(MasterKeyState::Sealed | MasterKeyState::FormerMissing | MasterKeyState::NeverMade) => {}
            Err(error) if was_sealed => tracing::warn!(%error, "the master key could not be compared"),
            // The database is away; who needs it says so.
            Err(error) => tracing::debug!(%error, "no look at the master key"),
        }
    }

    fn read(&self, path: &Path) -> Option<MasterKey> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        match master_key::read(path) {
            Ok(key) => {
                faults.remove(path);
                key
            }
            Err(error) => {
                let text = error.to_string();
                if faults.get(path) != Some(&text) {
                    tracing::warn!(%error, "a master key cannot be read");
                    faults.insert(path.to_owned(), text);
                }
                None
            }
        }
    }

    /// A process that has its keys goes on; the next start would find none.
    fn tell_of_missing(&self, missing: bool) {
        if !missing {
            if self.missing.swap(0, Ordering::SeqCst) > 0 {
                tracing::info!("the master key that is needed is in its file again");
            }
        } else if self.missing.fetch_add(1, Ordering::SeqCst) % SAID_AGAIN == 0 {
            tracing::error!(
                current = %self.files.current.display(),
                next = %self.files.next.display(),
                "a master key that is needed is in neither file any more: this process still has it, and loses it when it ends; put it \
                 back from its backup before that"
            );
        }
    }

    fn tell_of_next(&self, offered: Option<Vec<u8>>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != offered {
            if offered.is_some() {
                tracing::info!(file = %self.files.next.display(), "the next master key is known to this process");
            }
            *told = offered;
        }
    }
}
