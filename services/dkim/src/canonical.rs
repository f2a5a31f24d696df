//! Canonicalization (RFC 6376 3.4), streaming.

/// Algorithm for header or body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Canonicalization {
    /// RFC 6376 3.4.1 and 3.4.3.
    Simple,
    /// RFC 6376 3.4.2 and 3.4.4.
    #[default]
    Relaxed,
}

/// Hash of a canonical body. `canonical_length` counts all canonical octets, also those beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash {
    /// SHA-256.
    pub sha256: [u8; 32],
    /// Octets of the canonical body.
    pub canonical_length: u64,
}

/// Hashes a body that comes in chunks cut anywhere (between CR and LF too). Memory does not grow with the body.
pub struct BodyHasher;

impl BodyHasher {
    /// `limit` is l= (RFC 6376 3.5): only so many canonical octets are hashed.
    pub fn new(_canonicalization: Canonicalization, _limit: Option<u64>) -> Self {
        todo!()
    }
    /// Next octets of the body.
    pub fn update(&mut self, _chunk: &[u8]) {
        todo!()
    }
    /// End of the body.
    pub fn finish(self) -> BodyHash {
        todo!()
    }
}

/// Canonical form of one field, `raw` being all its octets with the final CRLF; the result ends in CRLF.
pub fn canonical_field(_canonicalization: Canonicalization, _raw: &[u8]) -> Vec<u8> {
    todo!()
}
