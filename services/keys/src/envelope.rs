//! Custody `aws-kms-envelope`: keys made here and wrapped by a key in AWS KMS. Signed with locally, while the KMS lets them be unwrapped.
//!
//! A data key of the KMS (GenerateDataKey) seals the private key here. KMS's Encrypt would take a private key as it is, but then the
//! private key itself would go to another machine; so only the data key does, and a private key never leaves this process unsealed.
//!
//! Stored, version 1: an octet 1, two octets that say how long the wrapped data key is, the wrapped data key, 12 octets of nonce,
//! ciphertext, 16 octets of tag. The KMS binds the data key to tenant, domain and key id (its EncryptionContext, which its log
//! shows), the seal binds the private key to these and to selector and algorithm.
use crate::kms_fault::{self, Fault};
use crate::kms_gate::{Gate, Place};
use crate::sealed::{off_worker, run, warn_unopened};
use crate::signing_key::{self, SigningKey};
use crate::unwrapped::Unwrapped;
use crate::{Custody, CustodyError, CustodyKind, KeyBinding, Random, StoredKey, seal};
use aws_sdk_kms::Client;
use aws_sdk_kms::operation::decrypt::DecryptOutput;
use aws_sdk_kms::operation::generate_data_key::GenerateDataKeyOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeySpec, KeyUsageType, Tag};
use signpost_dkim::KeyAlgorithm;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// A signature waits for it.
const UNWRAP_BUDGET: Duration = Duration::from_secs(3);
const MANAGE_BUDGET: Duration = Duration::from_secs(10);
const VERSION: u8 = 1;
/// A new key may be unknown to other hosts of the KMS for a moment (AWS: eventual consistency); so often is it asked for again.
const NEW_KEY_TRIES: u32 = 6;
const NEW_KEY_PAUSE: Duration = Duration::from_millis(100);
/// Days until a wrapping key that was made for nothing is destroyed: the least that KMS offers.
const DELETION_WINDOW_DAYS: i32 = 7;

/// What the operator chose.
#[derive(Debug, Clone)]
pub struct EnvelopeSettings {
    /// ARN, id or alias of the key in the KMS that wraps new private keys. An alias that does not exist is made, with a key.
    pub wrapping_key: String,
    /// How long a private key stays in memory unwrapped.
    pub lifetime: Duration,
}

impl Default for EnvelopeSettings {
    fn default() -> Self {
        Self { wrapping_key: "alias/signpost-envelope".into(), lifetime: Duration::from_secs(300) }
    }
}

/// Custody `aws-kms-envelope`. References are `awskms-envelope:<key id>`.
pub struct EnvelopeCustody {
    client: Client,
    gate: Arc<Gate>,
    rng: Arc<dyn Random>,
    wrapping_key: String,
    unwrapped: Unwrapped,
    generations: Arc<Semaphore>,
}

/// A data key, open and wrapped.
struct DataKey {
    open: Zeroizing<Vec<u8>>,
    wrapped: Vec<u8>,
}

impl EnvelopeCustody {
    pub(crate) fn new(client: Client, gate: Arc<Gate>, rng: Arc<dyn Random>, settings: EnvelopeSettings) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let EnvelopeSettings { wrapping_key, lifetime } = settings;
        let (unwrapped, generations) = (Unwrapped::new(lifetime), Arc::new(Semaphore::new(processors)));
        Self { client, gate, rng, wrapping_key, unwrapped, generations }
    }

    async fn data_key(&self, binding: &KeyBinding) -> Result<DataKey, CustodyError> {
        let mut made = false;
        let mut pause = NEW_KEY_PAUSE;
        for _ in 1..NEW_KEY_TRIES {
            match self.ask_for_data_key(binding).await {
                Err(fault) if fault.may_be_too_early() && made => tokio::time::sleep(pause).await,
                Err(fault) if fault.is_not_found() && self.wrapping_key.starts_with("alias/") => {
                    self.make_wrapping_key().await?;
                    made = true;
                    continue;
                }
                settled => return Ok(settled?),
            }
            pause *= 2;
        }
        Ok(self.ask_for_data_key(binding).await?)
    }

    async fn ask_for_data_key(&self, binding: &KeyBinding) -> Result<DataKey, Fault> {
        let request = self
            .client
            .generate_data_key()
            .key_id(&self.wrapping_key)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(context(binding)));
        let call = || kms_fault::within("GenerateDataKey", MANAGE_BUDGET, request.clone().send());
        let answer: GenerateDataKeyOutput = self.gate.pass(&Place::unwrapping(), &binding.tenant, call).await?;
        let (Some(open), Some(wrapped)) = (answer.plaintext, answer.ciphertext_blob) else {
            return Err(Fault::Senseless("it gave no data key".into()));
        };
        Ok(DataKey { open: Zeroizing::new(open.into_inner()), wrapped: wrapped.into_inner() })
    }

    /// Of processes that do this at the same time one wins, and the others' key goes.
    async fn make_wrapping_key(&self) -> Result<(), CustodyError> {
        let tag = Tag::builder().tag_key("signpost:use").tag_value("wraps private keys").build();
        let tag = tag.map_err(|error| CustodyError::Refused(format!("tag of a new key: {error}")))?;
        let request = self
            .client
            .create_key()
            .key_spec(KeySpec::SymmetricDefault)
            .key_usage(KeyUsageType::EncryptDecrypt)
            .description("Signpost: wraps DKIM private keys. Without it none of them can be used any more")
            .tags(tag);
        let made = kms_fault::within("CreateKey", MANAGE_BUDGET, request.send()).await?;
        let Some(id) = made.key_metadata.map(|metadata| metadata.key_id) else {
            return Err(Fault::Senseless("it made a key without an id".into()).into());
        };
        let request = self.client.create_alias().alias_name(&self.wrapping_key).target_key_id(&id);
        let named = kms_fault::within("CreateAlias", MANAGE_BUDGET, request.send()).await;
        let Err(fault) = named else { return Ok(()) };
        let request = self.client.schedule_key_deletion().key_id(&id).pending_window_in_days(DELETION_WINDOW_DAYS);
        if kms_fault::within("ScheduleKeyDeletion", MANAGE_BUDGET, request.send()).await.is_err() {
            tracing::error!(key = id, "a KMS key that wraps nothing could not be given up; delete it by hand");
        }
        if fault.exists_already() { Ok(()) } else { Err(fault.into()) }
    }

    /// The data key of a row, back from the KMS.
    async fn unwrap_data_key(&self, binding: &KeyBinding, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let request =
            self.client.decrypt().ciphertext_blob(Blob::new(wrapped)).set_encryption_context(Some(context(binding)));
        let call = || kms_fault::within("Decrypt", UNWRAP_BUDGET, request.clone().send());
        let answer: DecryptOutput = self.gate.pass(&Place::unwrapping(), &binding.tenant, call).await?;
        match answer.plaintext {
            Some(open) => Ok(Zeroizing::new(open.into_inner())),
            None => Err(Fault::Senseless("it gave no data key".into())),
        }
    }

    async fn unwrap(&self, binding: &KeyBinding, stored: &StoredKey) -> Result<Arc<SigningKey>, CustodyError> {
        let (wrapped, sealed) = parts(&stored.sealed).ok_or_else(|| seal::does_not_open(&binding.key_id))?;
        let data_key = self.unwrap_data_key(binding, wrapped).await?;
        let (binding, stored, sealed) = (binding.clone(), stored.clone(), sealed.to_vec());
        run(stored.algorithm, move || {
            let pkcs8 = seal::open_with(&seal::data_key(&data_key)?, &binding, stored.algorithm, &sealed)?;
            SigningKey::of_row(&binding, &stored, &pkcs8).map(Arc::new)
        })
        .await
    }
}

#[async_trait::async_trait]
impl Custody for EnvelopeCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::AwsKmsEnvelope
    }

    async fn create(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        let DataKey { open, wrapped } = self.data_key(binding).await?;
        let head = head(&wrapped)?;
        let permit = Arc::clone(&self.generations).acquire_owned().await.map_err(|_| crate::sealed::unfinished())?;
        let (rng, place) = (Arc::clone(&self.rng), binding.clone());
        let stored = off_worker(move || {
            // Held by the work, not by the caller: a caller that goes away does not free the processor.
            let _permit = permit;
            let pkcs8 = signing_key::generate(&*rng, algorithm)?;
            let public_key = SigningKey::from_pkcs8(algorithm, &pkcs8)?.public_key()?;
            let sealed = seal::seal_with(&seal::data_key(&open)?, &*rng, &head, &place, algorithm, &pkcs8)?;
            Ok(StoredKey { reference: reference(&place), sealed, public_key, algorithm })
        })
        .await?;
        // From its stored form, by the way of every later use: a key that the KMS wraps and does not unwrap is of no use.
        let key = self.unwrap(binding, &stored).await?;
        let (place, made) = (binding.clone(), stored.clone());
        run(algorithm, move || signing_key::prove(&key, &place, &made)).await?;
        Ok(stored)
    }

    async fn sign(&self, binding: &KeyBinding, key: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        if key.reference != reference(binding) {
            return Err(CustodyError::Refused(format!(
                "key {} has the reference {:?}, which is not its own in this custody",
                binding.key_id, key.reference
            )));
        }
        let opened = self.unwrapped.key(binding, key, self.unwrap(binding, key)).await;
        let signing_key = opened.inspect_err(|error| {
            if let CustodyError::Refused(_) = error {
                warn_unopened(binding, error);
            }
        })?;
        let digest = *digest;
        run(key.algorithm, move || signing_key.sign(&digest)).await
    }

    fn forget(&self, key_id: &str) {
        self.unwrapped.forget(key_id);
    }

    async fn withdraw(&self, binding: &KeyBinding, _key: &StoredKey) -> Result<(), CustodyError> {
        // The wrapping key is for all; what it wrapped is the store's, which wipes it with the row's new state.
        self.forget(&binding.key_id);
        Ok(())
    }
}

impl fmt::Debug for EnvelopeCustody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client knows credentials.
        f.debug_struct("EnvelopeCustody").field("wrapping_key", &self.wrapping_key).finish_non_exhaustive()
    }
}

fn reference(binding: &KeyBinding) -> String {
    format!("{}:{}", CustodyKind::AwsKmsEnvelope.scheme(), binding.key_id)
}

fn context(binding: &KeyBinding) -> HashMap<String, String> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    HashMap::from([
        pair("signpost:tenant", &binding.tenant),
        pair("signpost:domain", binding.domain.as_str()),
        pair("signpost:key", &binding.key_id),
    ])
}

/// What stands before the nonce.
fn head(wrapped: &[u8]) -> Result<Vec<u8>, CustodyError> {
    let length = u16::try_from(wrapped.len())
        .map_err(|_| CustodyError::from(Fault::Senseless("it gave a wrapped data key that is too long".into())))?;
    let mut head = vec![VERSION];
    head.extend_from_slice(&length.to_be_bytes());
    head.extend_from_slice(wrapped);
    Ok(head)
}

/// Wrapped data key, and what is sealed with it. `None`: not of this format.
fn parts(sealed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (version, rest) = sealed.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    if *version != VERSION { None } else { rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_taken_apart_as_it_was_put_together_or_not_at_all() {
        let mut row = head(b"wrapped").unwrap();
        row.extend_from_slice(b"sealed");
        assert_eq!(parts(&row), Some((&b"wrapped"[..], &b"sealed"[..])));
        for wrong in [&b""[..], b"\x01", b"\x01\0", b"\x01\0\x02a", b"\x02\0\x01ab"] {
            assert_eq!(parts(wrong), None, "{wrong:?}");
        }
        assert!(head(&vec![0; 70_000]).is_err());
    }
}
