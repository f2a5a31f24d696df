//! The public-key TXT record (RFC 6376 3.6.1, RFC 8463 4).
use crate::names::{KeyAlgorithm, SignatureAlgorithm};

/// A public key, parsed. Equality is equality of the key, not of its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: SignatureAlgorithm,
    der: Vec<u8>,
    bits: u32,
}

impl PublicKey {
    /// SubjectPublicKeyInfo DER of an RSA key.
    pub fn from_rsa_spki(_der: &[u8]) -> Result<Self, RecordFault> {
        todo!()
    }
    /// The raw 32 octets of an Ed25519 key.
    pub fn from_ed25519(_raw: &[u8]) -> Result<Self, RecordFault> {
        todo!()
    }
    /// The p= value, base64 (RSA: SPKI; Ed25519: raw).
    pub fn to_p(&self) -> String {
        todo!()
    }
    /// Parses a p= value of that kind; for RSA a bare RSAPublicKey is accepted too (erratum 3017).
    pub fn from_p(_kind: SignatureAlgorithm, _p: &str) -> Result<Self, RecordFault> {
        todo!()
    }
    /// rsa-sha256 or ed25519-sha256.
    pub fn kind(&self) -> SignatureAlgorithm {
        self.kind
    }
    /// Modulus size, or 256 for Ed25519.
    pub fn bits(&self) -> u32 {
        self.bits
    }
    /// Which of our algorithms this is; `None` for sizes that we do not make.
    pub fn algorithm(&self) -> Option<KeyAlgorithm> {
        todo!()
    }
    /// True iff `signature` is this key's over `digest` (the SHA-256 of the signing input). RSA below 1024 or above 8192 bits is false.
    pub fn verify_digest(&self, _digest: &[u8; 32], _signature: &[u8]) -> bool {
        todo!()
    }
}

/// The text to publish: `v=DKIM1; k=rsa; p=...`.
pub fn build(_key: &PublicKey) -> String {
    todo!()
}

/// Cuts a TXT value into character-strings of at most 255 octets (RFC 1035 3.3). Never empty.
pub fn chunk(_value: &str) -> Vec<String> {
    todo!()
}

/// Zone-file form of a TXT value: quoted strings, `"` and `\` escaped (RFC 1035 5.1).
pub fn zone_text(_value: &str) -> String {
    todo!()
}

/// A key record as others publish it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key.
    pub key: PublicKey,
    /// h=, lower-case; `None`: all hashes.
    pub hashes: Option<Vec<String>>,
    /// s=; `None`: all services.
    pub services: Option<Vec<String>>,
    /// t=y.
    pub testing: bool,
    /// t=s.
    pub strict: bool,
    /// n=.
    pub notes: Option<String>,
    /// Harmless oddities, one sentence each (spelling that differs from what `build` gives is not listed unless worth a warning).
    pub warnings: Vec<String>,
}

/// What is wrong with a record. Display is a full sentence with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Not a key record at all (no p=, for example another TXT at the name, or a wildcard's answer).
    #[error("this is not a DKIM key record: {0}")]
    NotAKeyRecord(String),
    /// Syntax: literal quotes or backslashes, v= not first or not DKIM1, upper-case tag names, duplicate tags, bad base64, not a key.
    #[error("{0}")]
    Malformed(String),
    /// p= is the beginning of a key.
    #[error("p= is cut: {0}")]
    Truncated(String),
    /// p= is empty.
    #[error("p= is empty: this key is revoked (RFC 6376 3.6.1)")]
    Revoked,
    /// h=, k= or s= forbid our use.
    #[error("{0}")]
    Unusable(String),
}

/// Parses the joined strings of one TXT record. Strict: what a strict verifier refuses is a fault.
pub fn parse(_text: &str) -> Result<KeyRecord, RecordFault> {
    todo!()
}
