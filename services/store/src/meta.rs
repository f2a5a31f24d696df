//! Facts about the installation itself.
use crate::{Store, StoreError};

impl Store {
    /// A value, for example `master_key_check`.
    pub async fn meta(&self, _name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        todo!()
    }
    /// Stores it unless there is one; returns the value that is there afterwards.
    pub async fn meta_or_insert(&self, _name: &str, _value: &[u8]) -> Result<Vec<u8>, StoreError> {
        todo!()
    }
}
