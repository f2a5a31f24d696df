//! The master-key files: read, or made on the very first start; never written over.
use crate::config::{ConfigError, Database};
use signpost_engine::{Engine, MasterKeyState};
use signpost_keys::{MasterKey, Random};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where the master key lies, and the one to change to.
#[derive(Debug, Clone)]
pub(crate) struct KeyFiles {
    /// SIGNPOST_MASTER_KEY_FILE.
    pub(crate) current: PathBuf,
    /// SIGNPOST_MASTER_KEY_NEXT_FILE.
    pub(crate) next: PathBuf,
}

impl KeyFiles {
    /// With the next key beside the present one.
    pub(crate) fn at(current: PathBuf) -> Self {
        let mut next = current.clone().into_os_string();
        next.push(".next");
        Self { current, next: next.into() }
    }
}

/// Reads the file. `Ok(None)`: there is none. The error text never holds key octets.
pub(crate) fn read(path: &Path) -> Result<Option<MasterKey>, ConfigError> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ConfigError(format!("master key {shown}: {error}"))),
    };
    // systemd lets the service in by an access list, which shows as group bits (systemd.exec(5), LoadCredential=).
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|folder| !folder.is_empty());
    let foreign = if credentials.is_some_and(|folder| path.starts_with(folder)) { 0o037 } else { 0o077 };
    if metadata.permissions().mode() & foreign != 0 {
        return Err(ConfigError(format!("master key {shown}: others can read it; `chmod 600` it")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError(format!("master key {shown}: {error}")))?;
    let text = Zeroizing::new(text);
    MasterKey::from_base64(&text).map(Some).map_err(|error| ConfigError(format!("master key {shown}: {error}")))
}

/// What happens where a database has never seen a master key and none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstKey {
    /// One is made.
    IsMade,
    /// The process ends.
    MustBeGiven,
}

impl FirstKey {
    /// Of several processes on one database each would make its own.
    pub(crate) fn on(database: &Database) -> Self {
        match database {
            Database::Sqlite(_) => Self::IsMade,
            Database::Postgres(_) => Self::MustBeGiven,
        }
    }
}

/// DESIGN "Master key": offers the file's key to the engine; makes one where an SQLite database has never seen any.
/// A wrong, absent or unreadable key leaves the engine sealed and is logged.
///
/// # Errors
/// The database has never seen a key, none is given, and none is to be made.
pub(crate) async fn establish(
    engine: &Engine,
    files: &KeyFiles,
    first: FirstKey,
    random: &dyn Random,
) -> Result<MasterKeyState, Box<dyn std::error::Error>> {
    let path = files.current.as_path();
    let found = match read(path) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "sealed: the master key cannot be read");
            return Ok(MasterKeyState::Sealed);
        }
    };
    // It may not be needed; where it is, that is said below.
    let next = read(&files.next).unwrap_or_else(|error| {
        tracing::error!(%error, "the next master key cannot be read");
        None
    });
    let absent = found.is_none();
    match engine.offer_master_keys(found, next).await? {
        MasterKeyState::NeverMade => {
            if first == FirstKey::MustBeGiven {
                return Err(Box::new(ConfigError(format!(
                    "SIGNPOST_MASTER_KEY_FILE: {} is absent. On PostgreSQL no key is made: put 32 random octets in base64 \
                     there (`(umask 077; head -c 32 /dev/urandom | base64 > FILE)`), back the file up, and give the same \
                     one to every process",
                    path.display()
                ))));
            }
            make(path, random)?;
            // Whatever the log filter is: this is said once and must be seen.
            writeln!(
                std::io::stderr(),
                "signpost: made the master key {}. BACK THIS FILE UP: without it no key in the database can be opened again.",
                path.display()
            )?;
            // Read back: what counts is what is on the disk, also if another process was first.
            Ok(engine.offer_master_key(read(path)?).await?)
        }
        MasterKeyState::Sealed => {
            let what = if absent { "is absent" } else { "is not the one this database was sealed with" };
            tracing::error!("sealed: the master key {} {what}; put the right file there", path.display());
            Ok(MasterKeyState::Sealed)
        }
        MasterKeyState::FormerMissing => {
            tracing::error!("{}", former_missing(files));
            Ok(MasterKeyState::FormerMissing)
        }
        MasterKeyState::Unsealed => Ok(MasterKeyState::Unsealed),
    }
}

/// What to do where the former key went too early.
pub(crate) fn former_missing(files: &KeyFiles) -> String {
    format!(
        "sealed: keys are still sealed under the former master key, which is missing; put both files back, one as {} and one as {} \
         (which is which does not matter), until `signpost master-key status` says that the former one is needed no more",
        files.current.display(),
        files.next.display()
    )
}

/// Writes a fresh key under another name, flushes it, and links it into place: never half a file, never over another one.
fn make(path: &Path, random: &dyn Random) -> Result<(), ConfigError> {
    let shown = path.display();
    let failed = |error: std::io::Error| ConfigError(format!("master key {shown}: {error}"));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut draft_name = path.file_name().map(std::ffi::OsStr::to_os_string).unwrap_or_default();
    draft_name.push(format!(".{}.new", std::process::id()));
    let draft = folder.join(draft_name);
    let key = MasterKey::generate(random);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(key.to_base64().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        match std::fs::hard_link(&draft, path) {
            // Another process made one at the same moment: that one counts.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let removed = std::fs::remove_file(&draft);
    written.and(removed).map_err(failed)?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
