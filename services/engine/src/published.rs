//! Published keys: the p= bytes last read from DNS, refreshed in the background. A request never waits for DNS.
use crate::{Engine, Error};
use signpost_diagnosis::check::read_published_key;
use signpost_dkim::SigningDomain;
use signpost_store::KeyRow;
use std::time::Duration;

/// DESIGN: read again once older than 6 h.
const REFRESH_MS: i64 = 6 * 3600 * 1000;
/// After no answer it is tried again so much later.
const RETRY_MS: i64 = 10 * 60 * 1000;
const READ_DEADLINE: Duration = Duration::from_secs(8);
const BATCH: u32 = 50;

impl Engine {
    /// One pass: reads the records of signing keys that were last read more than 6 h ago. Returns how many were tried.
    pub async fn refresh_published_keys(&self) -> Result<usize, Error> {
        let keys = self.inner.store.keys_to_refresh(self.now_ms() - REFRESH_MS, BATCH).await?;
        for key in &keys {
            self.read_published(key).await?;
        }
        Ok(keys.len())
    }

    /// Asks DNS for one key's record and stores what it said. True if it answered.
    pub(crate) async fn read_published(&self, key: &KeyRow) -> Result<bool, Error> {
        let domain = SigningDomain::parse(&key.domain_name)
            .map_err(|error| Error::Internal(format!("stored domain name: {error}")))?;
        let name = format!("{}._domainkey.{}", key.selector, key.domain_name);
        let store = &self.inner.store;
        match read_published_key(&self.inner.dns, &domain, &name, READ_DEADLINE).await {
            Ok(p) => {
                store
                    .record_published(&key.tenant_id, &key.id, Some(p.as_deref().unwrap_or("")), self.now_ms())
                    .await?;
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(%name, %error, "the key record could not be read");
                // Tried long enough ago to be due again after RETRY_MS.
                store.record_published(&key.tenant_id, &key.id, None, self.now_ms() - REFRESH_MS + RETRY_MS).await?;
                Ok(false)
            }
        }
    }
}
