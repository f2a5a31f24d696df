//! The master key: 32 octets from which everything sealed hangs.

/// Why a master key was refused. Never shows key octets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MasterKeyError(pub String);

/// 32 octets, wiped on drop; Debug shows nothing.
pub struct MasterKey;

impl MasterKey {
    /// A fresh one.
    pub fn generate(_rng: &dyn crate::Random) -> Self {
        todo!()
    }
    /// From the file's text: 32 octets, base64, surrounding whitespace ignored.
    pub fn from_base64(_text: &str) -> Result<Self, MasterKeyError> {
        todo!()
    }
    /// The file's text.
    pub fn to_base64(&self) -> zeroize::Zeroizing<String> {
        todo!()
    }
    /// Key-check value for the store: tells whether a key is the right one, and nothing else about it.
    pub fn check_value(&self) -> Vec<u8> {
        todo!()
    }
    /// Compares in constant time.
    pub fn matches(&self, _check_value: &[u8]) -> bool {
        todo!()
    }
    /// HKDF-SHA-256 subkey for one purpose, for example `api-key pepper`.
    pub fn derive(&self, _purpose: &str) -> zeroize::Zeroizing<[u8; 32]> {
        todo!()
    }
}
