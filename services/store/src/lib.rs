//! All SQL of Signpost. Nothing above this crate knows which database it is.
//!
//! Every method on tenant data takes the tenant first. A method is one transaction. Times are milliseconds since the epoch
//! and always come from the caller. Ids are UUIDv7 as 32 lower-case hex digits, without the prefixes shown outside.
mod audit;
mod db;
mod domain_change;
mod domains;
mod events;
mod idempotency;
mod messages;
mod meta;
mod queue;
mod release;
mod remote_keys;
mod sqlite;
mod status;
mod tenants;
mod writer;

pub use audit::AuditRow;
pub use db::{Store, StoreError, StoreSettings};
pub use domains::{CheckRow, Claim, DomainChange, DomainRow, KeyChange, KeyRow, NameOwner, NameVersion, OwnedName};
pub use events::EventRow;
pub use idempotency::{Begin, IdempotencyScope, StoredAnswer};
pub use messages::{MessageBody, MessageRow, NewMessage, Page, RecipientRow, SignatureRow};
pub use queue::{ClaimedRecipient, Delivery, Fence, Outcome, ReleaseChange, Waiting};
pub use tenants::{ApiKeyRow, TenantRow};
