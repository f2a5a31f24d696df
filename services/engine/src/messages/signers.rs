//! The keys that sign for a domain, parsed, and the p= that DNS serves for each.
use super::signing::{NotSigned, RECORD_WRONG, is_record_wrong};
use crate::Error;
use crate::domains::records::stored_public_key;
use crate::domains::states;
use signpost_dkim::record::PublicKey;
use signpost_dkim::sign::Signer;
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_keys::{KeyBinding, StoredKey};
use signpost_store::{DomainRow, KeyRow};

/// A key that signs, parsed: to do so anew for each message costs as much as a signature.
pub(super) struct ActiveKey {
    pub(super) row: KeyRow,
    pub(super) binding: KeyBinding,
    pub(super) stored: StoredKey,
    pub(super) signer: Signer,
    /// What DNS last served, if it is a key of this kind.
    pub(super) published: Option<PublicKey>,
}

impl ActiveKey {
    fn parse(row: &KeyRow) -> Result<Self, NotSigned> {
        let (binding, stored, signer) = key_parts(row).map_err(NotSigned::Failed)?;
        let kind = signer.algorithm.signature_algorithm();
        let published = row.published_p.as_ref().and_then(|p| PublicKey::from_p(kind, p).ok());
        Ok(Self { row: row.clone(), binding, stored, signer, published })
    }
}

/// The keys that sign for a domain: one, or with dual signing an RSA and an Ed25519 key (RFC 8463 5).
pub(super) struct Signers {
    /// The RSA key where there are two.
    pub(super) first: ActiveKey,
    pub(super) second: Option<ActiveKey>,
}

impl Signers {
    /// `Held` if none is active.
    pub(super) fn among(keys: &[KeyRow]) -> Result<Self, NotSigned> {
        let mut signing = states::signing_keys(keys);
        let first = signing.next().ok_or_else(none_active)?;
        let second = signing.next().map(ActiveKey::parse).transpose()?;
        Ok(Self { first: ActiveKey::parse(first)?, second })
    }
}

/// DESIGN "authorize": with `key_unavailable` mail awaits its signature.
fn none_active() -> NotSigned {
    NotSigned::NoKey("no key of this domain is active".into())
}

/// What must be known before a message of one domain is signed; kept for a moment.
pub(crate) struct Authority {
    /// What `authorize` gave.
    pub(super) domain: DomainRow,
    /// `None`: no key is active.
    signers: Option<Signers>,
    /// What the author should know of a signature by this domain; sentences.
    pub(super) warnings: Vec<String>,
}

impl Authority {
    pub(super) fn new(domain: DomainRow, keys: &[KeyRow]) -> Result<Self, Error> {
        match Signers::among(keys) {
            Ok(signers) => Ok(Self { domain, signers: Some(signers), warnings: Vec::new() }),
            Err(NotSigned::Failed(error)) => Err(error),
            Err(NotSigned::Held(_) | NotSigned::NoKey(_) | NotSigned::Awaiting(_) | NotSigned::Later(..)) => {
                Ok(Self { domain, signers: None, warnings: Vec::new() })
            }
        }
    }

    pub(super) fn signers(&self) -> Result<&Signers, NotSigned> {
        if is_record_wrong(&self.domain) {
            return Err(NotSigned::Held(RECORD_WRONG.into()));
        }
        self.signers.as_ref().ok_or_else(none_active)
    }
}

/// A key row as custody and the signer want it.
pub(crate) fn key_parts(key: &KeyRow) -> Result<(KeyBinding, StoredKey, Signer), Error> {
    let damaged = |what: &str| Error::Internal(format!("stored key {}: {what}", key.id));
    let domain = SigningDomain::parse(&key.domain_name).map_err(|_| damaged("domain name"))?;
    let selector = Selector::parse(&key.selector).map_err(|_| damaged("selector"))?;
    let algorithm = KeyAlgorithm::parse(&key.algorithm).ok_or_else(|| damaged("algorithm"))?;
    let binding = KeyBinding {
        tenant: key.tenant_id.clone(),
        domain: domain.clone(),
        selector: selector.clone(),
        key_id: key.id.clone(),
    };
    let stored = StoredKey {
        reference: key.reference.clone(),
        sealed: key.sealed.clone(),
        public_key: stored_public_key(key)?,
        algorithm,
    };
    Ok((binding, stored, Signer { domain, selector, algorithm }))
}
