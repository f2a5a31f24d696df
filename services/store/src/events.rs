//! Events (DESIGN: Event).
use crate::{Page, Store, StoreError};

/// One event.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// Id.
    pub id: String,
    /// Tenant.
    pub tenant_id: String,
    /// `message.accepted`, `domain.verified`, ...
    pub kind: String,
    /// When.
    pub at: i64,
    /// Message id.
    pub message_id: Option<String>,
    /// Recipient id.
    pub recipient_id: Option<String>,
    /// Domain name.
    pub domain: Option<String>,
    /// JSON object.
    pub details: serde_json::Value,
}

impl Store {
    /// Events of one message, oldest first. `Ok(None)` if the tenant has no such message.
    pub async fn message_events(
        &self,
        _tenant: &str,
        _message_id: &str,
        _after: Option<&str>,
        _limit: u32,
    ) -> Result<Option<Page<EventRow>>, StoreError> {
        todo!()
    }
}
