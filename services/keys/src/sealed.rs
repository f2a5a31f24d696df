//! Keys sealed with AES-256-GCM under the master key; signed with locally.
use crate::{Custody, CustodyError, CustodyKind, KeyBinding, MasterKey, Random, StoredKey};
use signpost_dkim::KeyAlgorithm;
use std::sync::Arc;

/// The default custody.
pub struct SealedCustody;

impl SealedCustody {
    /// Without a master key every call answers `Unavailable` until `unseal`.
    pub fn new(_rng: Arc<dyn Random>) -> Self {
        todo!()
    }
    /// Gives it the master key, also later at run time.
    pub fn unseal(&self, _master: Arc<MasterKey>) {
        todo!()
    }
}

#[async_trait::async_trait]
impl Custody for SealedCustody {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Sealed
    }
    async fn create(&self, _binding: &KeyBinding, _algorithm: KeyAlgorithm) -> Result<StoredKey, CustodyError> {
        todo!()
    }
    async fn sign(&self, _binding: &KeyBinding, _key: &StoredKey, _digest: &[u8; 32]) -> Result<Vec<u8>, CustodyError> {
        todo!()
    }
    fn forget(&self, _key_id: &str) {
        todo!()
    }
}
