//! Custody: who holds a private key. Digest in, signature out; the private key never leaves.
mod aws_kms;
mod cache;
mod envelope;
mod import;
mod kms_budget;
mod kms_fault;
mod kms_gate;
mod master;
mod own_kms;
mod own_kms_session;
mod pepper;
mod random;
mod seal;
mod sealed;
mod signing_key;
mod token_key;
mod unwrapped;
mod vet;

pub use aws_kms::{AwsKmsCustody, DEFAULT_KMS_RATE};
pub use envelope::{EnvelopeCustody, EnvelopeSettings};
pub use import::{ImportError, ImportFault, ImportedKey};
pub use master::{MasterKey, MasterKeyError};
pub use own_kms::{ExternalIds, OurIdentity, OwnKeyError, OwnKeyFault, OwnKmsCustody, new_external_id};
pub use pepper::{open_pepper, seal_pepper};
pub use random::{Random, SystemRandom};
pub use sealed::SealedCustody;
pub use token_key::{NewTokenKey, TokenKey};

use signpost_dkim::record::PublicKey;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use std::fmt;
use std::time::Duration;

/// To whom a key is bound. All of it is associated data of the seal: a sealed key moved to another row does not open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyBinding {
    /// Tenant id, as in the store.
    pub tenant: String,
    /// d=
    pub domain: SigningDomain,
    /// s=
    pub selector: Selector,
    /// Key id, as in the store.
    pub key_id: String,
}

/// Which custody holds a key; the value stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CustodyKind {
    /// Made here, PKCS#8 sealed under the master key.
    Sealed,
    /// Made elsewhere, vetted, and sealed as those that were made here.
    Imported,
    /// Made in AWS KMS, which never gives it out.
    AwsKms,
    /// Made here, wrapped by a key in AWS KMS, without which it does not open.
    AwsKmsEnvelope,
}

impl CustodyKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Sealed, Self::Imported, Self::AwsKms, Self::AwsKmsEnvelope];

    /// `sealed`, `imported`, `aws-kms`, `aws-kms-envelope`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Imported => "imported",
            Self::AwsKms => "aws-kms",
            Self::AwsKmsEnvelope => "aws-kms-envelope",
        }
    }
    /// The reverse of `as_str`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
    /// The scheme of its references, before the first colon. (A tenant's own key in AWS KMS has another: `awskms-role`.)
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Sealed | Self::Imported => "sealed",
            Self::AwsKms => "awskms",
            Self::AwsKmsEnvelope => "awskms-envelope",
        }
    }
    /// True if each key is another machine's, where it costs until it is withdrawn.
    pub fn is_remote(self) -> bool {
        match self {
            Self::Sealed | Self::Imported | Self::AwsKmsEnvelope => false,
            Self::AwsKms => true,
        }
    }
    /// True if another machine is needed to sign, which may be away.
    pub fn may_be_away(self) -> bool {
        match self {
            Self::Sealed | Self::Imported => false,
            Self::AwsKms | Self::AwsKmsEnvelope => true,
        }
    }
}

/// What the store keeps of a private key: a reference with its scheme, and for `sealed:` the sealed octets.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// `sealed:<key id>`, `awskms:<ARN>`, `awskms-role:<key ARN> <role ARN>`, `awskms-envelope:<key id>`.
    pub reference: String,
    /// The sealed private key; empty where another machine holds it. Opaque to everybody but its custody.
    pub sealed: Vec<u8>,
    /// The public half, compared with the opened private key before first use.
    pub public_key: PublicKey,
    /// Kind and size.
    pub algorithm: KeyAlgorithm,
}

impl fmt::Debug for StoredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The sealed octets are ciphertext, but have no business in a log either.
        f.debug_struct("StoredKey")
            .field("reference", &self.reference)
            .field("sealed", &format_args!("{} octets", self.sealed.len()))
            .field("public_key", &self.public_key)
            .field("algorithm", &self.algorithm)
            .finish()
    }
}

/// Why custody did not do it. Whoever asked acts differently on each.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CustodyError {
    /// Try later; mail waits: what holds the key is away, or the master key is. No fault of the key. Whoever asks waits for it each time, so
    /// ask seldom.
    #[error("the key cannot be used now: {0}")]
    Unavailable(String),
    /// The KMS answered, and not with a signature: it was asked too often, or something inside of it failed. Passes by itself; ask again from the
    /// queue.
    #[error("the key cannot be used now: {0}")]
    Transient(String),
    /// The KMS was not asked, to keep the pace that it takes. There may be room after so long.
    #[error("the key cannot be used now: too many signatures are asked of the KMS at a time")]
    Paced(Duration),
    /// The key itself: disabled, or we may not use it. Until somebody changes that.
    #[error("the key cannot be used now: {0}")]
    KeyUnavailable(String),
    /// As `KeyUnavailable`; but a key that was made less than `NEW_KEY_FOR` ago may only not be known everywhere yet.
    #[error("the key cannot be used now: {0}")]
    KeyNotFound(String),
    /// Never works as it is: the sealed octets do not open under this binding, the algorithm is not offered, another key signed.
    #[error("the key cannot be used: {0}")]
    Refused(String),
}

/// AWS KMS is eventually consistent: so long a new key may seem not to be there.
pub const NEW_KEY_FOR: Duration = Duration::from_secs(300);

/// Makes keys and signs with them.
#[async_trait::async_trait]
pub trait Custody: Send + Sync {
    /// Which kind this is.
    fn kind(&self) -> CustodyKind;
    /// Makes a key; the public half is derived from the stored private one, and a test signature is verified with it.
    async fn create(&self, binding: &KeyBinding, algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError>;
    /// Signs the SHA-256 `digest` of a signing input: RSASSA-PKCS1-v1_5 over the digest, or Ed25519 with the 32 octets as message (RFC 8463 3).
    async fn sign(&self, binding: &KeyBinding, key: &StoredKey, digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError>;
    /// Drops cached private material of a key (after revocation or deletion).
    fn forget(&self, key_id: &str);
    /// Gives a key up for good: it signs no more, and is destroyed where it is held. Repeatable; a key that is gone is no error.
    async fn withdraw(&self, binding: &KeyBinding, key: &StoredKey) -> Result<(), CustodyError>;
}
