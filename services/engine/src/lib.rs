//! Use cases of Signpost: domains, keys, messages, delivery. No HTTP and no SQL here.
pub mod caller;
pub mod clock;
mod custody;
pub mod delivery;
pub mod domains;
pub mod error;
pub mod ids;
pub mod inbound;
mod kept;
pub mod messages;
mod outages;
mod published;
mod state;
mod usage;
pub mod verify;

pub use caller::{Caller, Scope};
pub use clock::{Clock, SystemClock};
pub use error::{Error, FieldError};
pub use state::{Engine, MasterKeyState, Settings};

/// Rows that the API shows, so that upper floors need not know the store.
pub mod rows {
    pub use signpost_store::{
        ApiKeyRow, Begin, CheckRow, DomainRow, EventRow, IdempotencyScope, KeyRow, MessageBody, MessageRow, Page,
        RecipientRow, SignatureRow, StoredAnswer, TenantRow, UsageRow,
    };
}
