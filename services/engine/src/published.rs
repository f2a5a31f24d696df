//! Published keys: the p= bytes last read from DNS. Looks at the domain read them (`domains/watch.rs`), and mail that waits for them
//! does. A request never waits for DNS.
use crate::{Engine, Error};
use futures_util::StreamExt;
use signpost_diagnosis::check::read_published_key;
use signpost_dkim::SigningDomain;
use signpost_store::KeyRow;
use std::time::Duration;

const READ_DEADLINE: Duration = Duration::from_secs(8);
/// Names asked for at a time: dead servers of some tenants must not hold up the others.
const AT_A_TIME: usize = 16;

impl Engine {
    /// Reads several keys' records at the same time. What goes wrong with one is logged and stops no other.
    pub(crate) async fn read_all_published(&self, keys: Vec<KeyRow>) {
        let engine = self.clone();
        let reads = futures_util::stream::iter(keys).for_each_concurrent(AT_A_TIME, move |key| {
            let engine = engine.clone();
            async move {
                if let Err(error) = engine.read_published(&key).await {
                    tracing::warn!(key = %key.id, ?error, "what DNS said of a key could not be stored");
                }
            }
        });
        reads.await;
    }

    /// Asks DNS for one key's record and stores what it said.
    async fn read_published(&self, key: &KeyRow) -> Result<(), Error> {
        let domain = SigningDomain::parse(&key.domain_name)
            .map_err(|error| Error::Internal(format!("stored domain name: {error}")))?;
        let name = format!("{}._domainkey.{}", key.selector, key.domain_name);
        let answer = read_published_key(&self.inner.dns, &domain, &name, READ_DEADLINE).await;
        let p = match &answer {
            Ok(found) => Some(found.as_deref().unwrap_or("")),
            Err(error) => {
                tracing::warn!(%name, %error, "the key record could not be read; what was read last stays good for 72 h");
                None
            }
        };
        let (store, now) = (&self.inner.store, self.now_ms());
        store.record_published(&key.tenant_id, &key.id, p, now).await?;
        let is_right = p == Some(key.public_key.as_str());
        if is_right && key.published_p.as_deref() != p {
            // Mail waits for it: whether the domain signs again is decided at once, by a look.
            store.hurry_look(&key.tenant_id, &key.domain_id, now).await?;
        }
        Ok(())
    }
}
