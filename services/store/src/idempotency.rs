//! Idempotency-Key rows, kept for 7 days.
use crate::{Store, StoreError};

/// Scope of a key.
#[derive(Debug, Clone)]
pub struct IdempotencyScope {
    /// Tenant.
    pub tenant_id: String,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// The header's value.
    pub key: String,
}

/// A frozen answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status, never 5xx.
    pub status: u16,
    /// Content-Type.
    pub content_type: String,
    /// Body octets.
    pub body: Vec<u8>,
}

/// What the key says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// First time: go on.
    Started,
    /// The same request is being worked on.
    InFlight,
    /// Done before with the same body.
    Replay(StoredAnswer),
    /// Used before with another body.
    Mismatch,
}

impl Store {
    /// Starts a request. In-flight rows of an earlier boot, or older than `in_flight_until`'s distance, count as never begun.
    pub async fn begin_idempotent(
        &self,
        _scope: &IdempotencyScope,
        _body_hash: &[u8],
        _now: i64,
    ) -> Result<Begin, StoreError> {
        todo!()
    }
    /// Freezes an answer that wrote nothing else (4xx).
    pub async fn finish_idempotent(
        &self,
        _scope: &IdempotencyScope,
        _answer: &StoredAnswer,
        _now: i64,
    ) -> Result<(), StoreError> {
        todo!()
    }
    /// Forgets a request that ended in a 5xx.
    pub async fn abandon_idempotent(&self, _scope: &IdempotencyScope) -> Result<(), StoreError> {
        todo!()
    }
    /// Drops rows older than 7 days.
    pub async fn expire_idempotent(&self, _now: i64) -> Result<u64, StoreError> {
        todo!()
    }
}
