//! Signing (RFC 6376 5): header selection, `prepare`, `finish`.
use crate::canonical::{BodyHash, Canonicalization};
use crate::message::Message;
use crate::names::{KeyAlgorithm, Selector, SigningDomain};

/// Which fields are signed and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// c= for the header.
    pub header: Canonicalization,
    /// c= for the body.
    pub body: Canonicalization,
    /// Signed as often as present.
    pub signed: Vec<String>,
    /// Listed once more than present, so that none can be added (RFC 6376 8.15).
    pub oversigned: Vec<String>,
    /// x= is t= plus so many seconds; `None`: no x=.
    pub expires_after: Option<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        todo!()
    }
}

/// Why a policy or message cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// From is missing (RFC 6376 5.4: it must be signed).
    #[error("the message has no From field")]
    NoFrom,
    /// A policy names a field that a later hop adds or changes, or that is not a field name.
    #[error("field {0:?} cannot be signed: later hops add or change it")]
    UnsignableField(String),
    /// x= would end before the queue gives up.
    #[error("x= must be later than t= and longer than the queue lifetime")]
    Expiration,
}

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// d=
    pub domain: SigningDomain,
    /// s=
    pub selector: Selector,
    /// Decides a=.
    pub algorithm: KeyAlgorithm,
}

/// A signature field that lacks only b=.
#[derive(Debug, Clone)]
pub struct Draft {
    /// SHA-256 of the signing input; what RSA signs as DIGEST and Ed25519 signs as its message (RFC 8463 3).
    digest: [u8; 32],
    unsigned_field: String,
}

/// Builds everything but b=. `now` is seconds since the epoch (t=). The body hash may come from a `BodyHasher`
/// that saw the body in chunks, so `header` needs fields only.
pub fn prepare_streamed(
    _header: &Message<'_>,
    _body: &BodyHash,
    _signer: &Signer,
    _policy: &Policy,
    _now: u64,
) -> Result<Draft, SignError> {
    todo!()
}

/// `prepare_streamed` over a whole message.
pub fn prepare(_message: &Message<'_>, _signer: &Signer, _policy: &Policy, _now: u64) -> Result<Draft, SignError> {
    todo!()
}

impl Draft {
    /// The 32 octets that custody signs.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
    /// The finished field: `DKIM-Signature: ...` folded at 78 or less, with the final CRLF. To be put on top of the message.
    pub fn finish(self, _signature: &[u8]) -> String {
        todo!()
    }
}
