//! Keys that were made in AWS KMS and never leave it; it signs digests. Only this module speaks to it.
use crate::kms_fault::{self, Fault};
use crate::kms_gate::{Gate, Place};
use crate::{
    Custody, CustodyError, CustodyKind, EnvelopeCustody, EnvelopeSettings, ExternalIds, KeyBinding, OwnKmsCustody,
    Random, StoredKey,
};
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{Credentials, Region};
use aws_sdk_kms::error::BuildError;
use aws_sdk_kms::operation::create_key::CreateKeyOutput;
use aws_sdk_kms::operation::get_public_key::GetPublicKeyOutput;
use aws_sdk_kms::operation::sign::SignOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec, Tag};
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::record::PublicKey;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Calls a second for signatures, of one account and region: with what a burst adds it stays within AWS's quota of 1,000 for RSA keys.
pub const DEFAULT_KMS_RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(799);

/// A signature is waited for by a request: a KMS that is slower counts as away, and the mail waits instead.
const SIGN_BUDGET: Duration = Duration::from_secs(3);
/// Making and withdrawing keys is rare and slower.
const MANAGE_BUDGET: Duration = Duration::from_secs(10);
const CONNECT_BUDGET: Duration = Duration::from_secs(1);
/// A new key may be unknown to other hosts of the KMS for a moment (AWS: eventual consistency); so often is it asked for again.
const NEW_KEY_TRIES: u32 = 6;
const NEW_KEY_PAUSE: Duration = Duration::from_millis(100);
/// Days until a withdrawn key is destroyed, the most that KMS offers: until then the operator can take it back.
const DELETION_WINDOW_DAYS: i32 = 30;
/// What the test signature of a fresh key is over; any 32 octets serve.
pub(crate) const TEST_DIGEST: [u8; 32] = *b"signpost: test of a new key pair";
/// SubjectPublicKeyInfo of an Ed25519 key up to its 32 octets (RFC 8410 4).
const ED25519_SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Custody `aws-kms`. References are `awskms:<ARN>`; a key belongs to the tenant and domain of the row that holds its reference.
pub struct AwsKmsCustody {
    client: Client,
    /// For clients of other regions, or with other credentials.
    config: SdkConfig,
    gate: Arc<Gate>,
}

impl AwsKmsCustody {
    /// From the standard AWS settings (environment, profile, instance role). `Unavailable` if no region is known.
    pub async fn from_environment() -> Result<Self, CustodyError> {
        let config = aws_config::defaults(BehaviorVersion::latest()).load().await;
        if config.region().is_none() {
            return Err(CustodyError::Unavailable(
                "no AWS region is known; set AWS_REGION, and AWS credentials that may use the KMS there".into(),
            ));
        }
        Ok(Self::with(&config))
    }

    /// The same where the environment or a profile names a region; `None` where none does, so that a machine that has nothing
    /// to do with AWS is never asked for its instance metadata.
    pub async fn if_configured() -> Result<Option<Self>, CustodyError> {
        let named = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new());
        match named.region().await {
            Some(_) => Self::from_environment().await.map(Some),
            None => Ok(None),
        }
    }

    /// From these settings.
    pub fn with(config: &SdkConfig) -> Self {
        let gate = Arc::new(Gate::new(DEFAULT_KMS_RATE));
        Self { client: Client::from_conf(settings(config).build()), config: config.clone(), gate }
    }

    /// The same KMS in that region, as the bearer of these credentials sees it, or as we do.
    pub(crate) fn acting_as(&self, credentials: Option<Credentials>, region: &str) -> Self {
        let settings = settings(&self.config).region(Region::new(region.to_owned()));
        let settings = match credentials {
            Some(credentials) => settings.credentials_provider(credentials),
            None => settings,
        };
        let (config, gate) = (self.config.clone(), Arc::clone(&self.gate));
        Self { client: Client::from_conf(settings.build()), config, gate }
    }

    /// This custody, and with it keys of tenants, reached by their roles.
    pub fn with_own_keys(self, external_ids: Arc<dyn ExternalIds>, random: Arc<dyn Random>) -> OwnKmsCustody {
        let timeouts = aws_sdk_sts::config::timeout::TimeoutConfig::builder().connect_timeout(CONNECT_BUDGET).build();
        let settings = aws_sdk_sts::config::Builder::from(&self.config)
            .retry_config(aws_sdk_sts::config::retry::RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        OwnKmsCustody::new(self, aws_sdk_sts::Client::from_conf(settings), external_ids, random)
    }

    /// With another rate than `DEFAULT_KMS_RATE`.
    pub fn at_rate(self, calls_a_second: NonZeroU32) -> Self {
        Self { gate: Arc::new(Gate::new(calls_a_second)), ..self }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Custody `aws-kms-envelope` in the same KMS.
    pub fn envelope(&self, rng: Arc<dyn Random>, settings: EnvelopeSettings) -> EnvelopeCustody {
        EnvelopeCustody::new(self.client.clone(), Arc::clone(&self.gate), rng, settings)
    }

    async fn create_key(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<String, CustodyError> {
        let tags = tags(binding).map_err(|error| CustodyError::Refused(format!("tags of a new key: {error}")))?;
        let request = self
            .client
            .create_key()
            .key_spec(key_spec(algorithm))
            .key_usage(KeyUsageType::SignVerify)
            .description(format!("DKIM key {} of {}", binding.selector, binding.domain))
            .set_tags(Some(tags));
        let made: CreateKeyOutput = kms_fault::within("CreateKey", MANAGE_BUDGET, request.send()).await?;
        made.key_metadata.and_then(|metadata| metadata.arn).ok_or_else(|| unusable("it made a key without an ARN"))
    }

    /// Reads the public half and lets the key sign, once each. Tried again for a moment, as the key is new.
    async fn prove(&self, tenant: &str, arn: &str, algorithm: KeyAlgorithm) -> Result<PublicKey, CustodyError> {
        let mut pause = NEW_KEY_PAUSE;
        let mut tries = 1;
        let (public_key, signature) = loop {
            match self.first_use(tenant, arn, algorithm).await {
                Err(fault) if fault.may_be_too_early() && tries < NEW_KEY_TRIES => {}
                settled => break settled?,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            tries += 1;
        };
        if !public_key.verify_digest(&TEST_DIGEST, &signature) {
            return Err(CustodyError::Refused("the test signature of the new key does not verify".into()));
        }
        Ok(public_key)
    }

    async fn first_use(&self, tenant: &str, arn: &str, algorithm: KeyAlgorithm) -> Result<(PublicKey, Vec<u8>), Fault> {
        let public_key = self.public_key(arn, algorithm).await?;
        Ok((public_key, self.ask_to_sign(tenant, arn, algorithm, &TEST_DIGEST).await?))
    }

    async fn public_key(&self, arn: &str, algorithm: KeyAlgorithm) -> Result<PublicKey, Fault> {
        let answer = self.get_public_key(arn).await?;
        public_key_in(&answer.public_key.map(Blob::into_inner).unwrap_or_default(), algorithm)
    }

    pub(crate) async fn get_public_key(&self, arn: &str) -> Result<GetPublicKeyOutput, Fault> {
        kms_fault::within("GetPublicKey", MANAGE_BUDGET, self.client.get_public_key().key_id(arn).send()).await
    }

    /// A signature by the key of this row, which has that ARN; it is the right one.
    pub(crate) async fn sign_as(
        &self,
        binding: &KeyBinding,
        key: &StoredKey,
        arn: &str,
        digest: &[u8; 32],
    ) -> Result<Vec<u8>, CustodyError> {
        if key.public_key.algorithm() != Some(key.algorithm) {
            return Err(CustodyError::Refused(format!(
                "the row of key {} says {}, its public key is another kind; restore the row from a backup",
                binding.key_id,
                key.algorithm.as_str()
            )));
        }
        let signature = self.ask_to_sign(&binding.tenant, arn, key.algorithm, digest).await?;
        if !key.public_key.verify_digest(digest, &signature) {
            return Err(CustodyError::Refused(format!(
                "the KMS answered with a signature that the public half of key {} does not verify: it signed with another key",
                binding.key_id
            )));
        }
        Ok(signature)
    }

    /// One call, when this tenant may make one.
    pub(crate) async fn ask_to_sign(
        &self,
        tenant: &str,
        arn: &str,
        algorithm: KeyAlgorithm,
        digest: &[u8; 32],
    ) -> Result<Vec<u8>, Fault> {
        let (how, kind) = match algorithm {
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
                (SigningAlgorithmSpec::RsassaPkcs1V15Sha256, MessageType::Digest)
            }
            // RFC 8463 3: the message of PureEdDSA is the hash.
            KeyAlgorithm::Ed25519 => (SigningAlgorithmSpec::Ed25519Sha512, MessageType::Raw),
        };
        let message = Blob::new(digest.as_slice());
        let request = self.client.sign().key_id(arn).signing_algorithm(how).message_type(kind).message(message);
        let call = || kms_fault::within("Sign", SIGN_BUDGET, request.clone().send());
        let answer: SignOutput = self.gate.pass(&Place::signing(arn), tenant, call).await?;
        let signature = answer.signature.map(Blob::into_inner).unwrap_or_default();
        if signature.is_empty() { Err(Fault::Senseless("it gave no signature".into())) } else { Ok(signature) }
    }

    /// Disabled at once, destroyed after the window. What is done already counts as done.
    async fn give_up(&self, arn: &str) -> Result<(), CustodyError> {
        // Keys are managed in their own account only, where the bare id names them.
        let id = arn.rsplit_once(":key/").map_or(arn, |(_, id)| id);
        let disable = self.client.disable_key().key_id(id).send();
        done_or_gone(kms_fault::within("DisableKey", MANAGE_BUDGET, disable).await)?;
        let delete = self.client.schedule_key_deletion().key_id(id).pending_window_in_days(DELETION_WINDOW_DAYS).send();
        done_or_gone(kms_fault::within("ScheduleKeyDeletion", MANAGE_BUDGET, delete).await)
    }
}

#[async_trait::async_trait]
impl Custody for AwsKmsCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::AwsKms
    }

    async fn create(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        let arn = self.create_key(binding, algorithm).await?;
        match self.prove(&binding.tenant, &arn, algorithm).await {
            Ok(public_key) => Ok(StoredKey { reference: reference(&arn), sealed: Vec::new(), public_key, algorithm }),
            Err(error) => {
                // No row will name it: it would cost money for ever.
                if let Err(left) = self.give_up(&arn).await {
                    tracing::error!(arn, error = %left, "a new KMS key that is of no use could not be given up; delete it by hand");
                }
                Err(error)
            }
        }
    }

    async fn sign(&self, binding: &KeyBinding, key: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        self.sign_as(binding, key, arn_of(binding, key)?, digest).await
    }

    fn forget(&self, _key_id: &str) {
        // Nothing of a private key was ever here.
    }

    async fn withdraw(&self, binding: &KeyBinding, key: &StoredKey) -> Result<(), CustodyError> {
        self.give_up(arn_of(binding, key)?).await
    }
}

impl fmt::Debug for AwsKmsCustody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client knows credentials.
        f.debug_struct("AwsKmsCustody").finish_non_exhaustive()
    }
}

/// The SDK's retries are switched off: who waits for a signature decides when to ask again.
fn settings(config: &SdkConfig) -> aws_sdk_kms::config::Builder {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_BUDGET).build();
    aws_sdk_kms::config::Builder::from(config).retry_config(RetryConfig::disabled()).timeout_config(timeouts)
}

/// A SubjectPublicKeyInfo (RFC 5280 4.1.2.7), as the KMS gives it, of a key of this kind and size.
pub(crate) fn public_key_in(spki: &[u8], algorithm: KeyAlgorithm) -> Result<PublicKey, Fault> {
    let key = match algorithm {
        KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => PublicKey::from_rsa_spki(spki),
        KeyAlgorithm::Ed25519 => {
            PublicKey::from_ed25519(spki.strip_prefix(ED25519_SPKI_HEAD.as_slice()).unwrap_or_default())
        }
    };
    match key {
        Ok(key) if key.algorithm() == Some(algorithm) => Ok(key),
        Ok(_) | Err(_) => Err(Fault::Senseless(format!("its public key is no {} key", algorithm.as_str()))),
    }
}

fn reference(arn: &str) -> String {
    format!("{}:{arn}", CustodyKind::AwsKms.scheme())
}

fn arn_of<'a>(binding: &KeyBinding, key: &'a StoredKey) -> Result<&'a str, CustodyError> {
    let scheme = CustodyKind::AwsKms.scheme();
    let arn = key.reference.strip_prefix(scheme).and_then(|rest| rest.strip_prefix(':'));
    arn.filter(|arn| arn.starts_with("arn:")).ok_or_else(|| {
        CustodyError::Refused(format!(
            "key {} has the reference {:?}, which is not one of this custody (`{scheme}:<ARN>`)",
            binding.key_id, key.reference
        ))
    })
}

fn key_spec(algorithm: KeyAlgorithm) -> KeySpec {
    match algorithm {
        KeyAlgorithm::Rsa2048 => KeySpec::Rsa2048,
        KeyAlgorithm::Rsa3072 => KeySpec::Rsa3072,
        KeyAlgorithm::Rsa4096 => KeySpec::Rsa4096,
        KeyAlgorithm::Ed25519 => KeySpec::EccNistEdwards25519,
    }
}

/// By these the operator finds the keys of a tenant, also those of a process that died before it stored them.
fn tags(binding: &KeyBinding) -> Result<Vec<Tag>, BuildError> {
    let tag = |name: &str, value: &str| Tag::builder().tag_key(name).tag_value(value).build();
    Ok(vec![
        tag("signpost:tenant", &binding.tenant)?,
        tag("signpost:domain", binding.domain.as_str())?,
        tag("signpost:key", &binding.key_id)?,
    ])
}

fn done_or_gone<T>(result: Result<T, Fault>) -> Result<(), CustodyError> {
    match result {
        Ok(_) => Ok(()),
        Err(fault) if fault.is_gone_or_going() => Ok(()),
        Err(fault) => Err(fault.into()),
    }
}

fn unusable(what: &str) -> CustodyError {
    Fault::Senseless(what.to_owned()).into()
}
