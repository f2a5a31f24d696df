//! Looks at the master-key files and at what the database needs, so that the right key, and a change of it, need no restart.
use crate::master_key::{self, KeyFiles, former_missing};
use signpost_engine::master_key::OnlyInMemory;
use signpost_engine::{Engine, MasterKeyState};
use signpost_keys::MasterKey;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A fault that costs all keys at the next restart is said again so often.
const SAID_AGAIN_AFTER_S: i64 = 600;

/// Files that are read again and again.
pub(crate) struct KeyWatch {
    files: KeyFiles,
    /// Name of the next key that the log told of.
    told: Mutex<Option<String>>,
    missing: Mutex<Missing>,
    /// What was wrong with a file when it was last read; said once.
    faults: Mutex<HashMap<PathBuf, String>>,
}

impl KeyWatch {
    pub(crate) fn new(files: KeyFiles) -> Self {
        Self { files, told: Mutex::default(), missing: Mutex::default(), faults: Mutex::default() }
    }

    /// Offers what the files hold. Never makes one. A file that cannot be read is as one that is absent: a process that has its keys
    /// already keeps them.
    pub(crate) async fn look(&self, engine: &Engine) {
        let was_sealed = engine.is_sealed();
        let (current, next) = (self.read(&self.files.current), self.read(&self.files.next));
        let offered_next = next.as_ref().map(MasterKey::name_in_hex);
        match engine.offer_master_keys(current, next).await {
            Ok(MasterKeyState::Unsealed) => {
                if was_sealed {
                    tracing::info!("unsealed: the right master key is there");
                }
                self.tell_of_next(offered_next);
                self.tell_of_missing(engine);
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

    fn tell_of_next(&self, offered: Option<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != offered {
            if let Some(name) = &offered {
                tracing::info!(name, file = %self.files.next.display(), "the next master key is known to this process");
            }
            *told = offered;
        }
    }
    fn tell_of_missing(&self, engine: &Engine) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, next_file) = (self.files.current.display(), self.files.next.display());
        match missing.look(engine.keys_only_in_memory(), engine.now_s()) {
            Say::Nothing => {}
            Say::Missing(keys) => tracing::error!(%file, %next_file, "{keys}"),
            Say::Mended => tracing::info!(%file, %next_file, "the files hold every master key that is needed again"),
        }
    }
}

/// What the log told of keys whose file is gone.
#[derive(Default)]
struct Missing {
    /// What was missing, and when that was said, in s.
    told: Option<(OnlyInMemory, i64)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Missing(OnlyInMemory),
    Mended,
}

impl Missing {
    fn look(&mut self, found: Option<OnlyInMemory>, now: i64) -> Say {
        match (found, &self.told) {
            (None, None) => Say::Nothing,
            (None, Some(_)) => {
                self.told = None;
                Say::Mended
            }
            (Some(keys), Some((told, at))) if keys == *told && now - at < SAID_AGAIN_AFTER_S => Say::Nothing,
            (Some(keys), _) => {
                self.told = Some((keys.clone(), now));
                Say::Missing(keys)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_file_is_gone_is_told_of_at_once_then_every_ten_minutes_and_when_it_is_back() {
        let gone = |name: &str| OnlyInMemory { in_use: Some(name.to_owned()), former: None };
        let mut missing = Missing::default();
        let looks = [
            (0, None, Say::Nothing),
            (2, Some("a"), Say::Missing(gone("a"))),
            (4, Some("a"), Say::Nothing),
            (601, Some("a"), Say::Nothing),
            (602, Some("a"), Say::Missing(gone("a"))),
            (604, Some("a"), Say::Nothing),
            (606, Some("b"), Say::Missing(gone("b"))),
            (608, None, Say::Mended),
            (610, None, Say::Nothing),
            (612, Some("b"), Say::Missing(gone("b"))),
        ];
        for (now, found, said) in looks {
            assert_eq!(missing.look(found.map(gone), now), said, "at {now} s");
        }
    }
}
