//! Use cases of Signpost: domains, keys, messages, delivery. No HTTP and no SQL here.
mod audit;
pub mod caller;
pub mod clock;
mod custody;
mod delegation;
pub mod delivery;
pub mod domains;
pub mod error;
pub mod ids;
pub mod inbound;
mod kept;
pub mod master_key;
pub mod messages;
mod outages;
mod published;
pub mod service_zone;
mod state;
pub mod tokens;
mod usage;
pub mod verify;

pub use caller::{Caller, Scope};
pub use clock::{Clock, SystemClock};
pub use custody::KmsAccess;
pub use error::{Error, FieldError};
pub use master_key::MasterKeyState;
pub use state::{Engine, Settings};

/// Seconds that an access token is good for.
pub const TOKEN_LIFETIME_S: i64 = 900;
/// Seconds that clocks of two machines may differ by.
pub const TOKEN_LEEWAY_S: i64 = 30;

/// Rows that the API shows, so that upper floors need not know the store.
pub mod rows {
    pub use signpost_store::{
        ApiKeyRow, AuditFilter, AuditRow, Begin, CheckRow, DomainRow, EventRow, IdempotencyScope, KeyRow, MessageBody,
        MessageRow, Page, RecipientRow, SignatureRow, SigningPolicyRow, StoredAnswer, SuspendedMail, TenantRow,
        UsageRow,
    };
}
