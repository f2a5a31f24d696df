//! All SQL of Signpost. Nothing above this crate knows which database it is.
//!
//! Every method that acts for a caller takes the tenant first. What the system does for all tenants (authentication, `authorize`,
//! the worker, watching) says so in its first line. A method is one transaction. Times are milliseconds since the epoch
//! and come from the caller; only the leases of workers on PostgreSQL go by the server's clock, which all processes share.
//! Ids are UUIDv7 as 32 lower-case hex digits, without the prefixes shown outside.
mod accept;
mod audit;
mod bodies;
mod claims;
mod db;
mod delegation;
mod domain_change;
mod domains;
mod events;
mod external_ids;
mod hints;
mod idempotency;
mod key_life;
mod master_key;
mod messages;
mod meta;
mod postgres;
mod public_keys;
mod queue;
mod release;
mod remote_keys;
mod selectors;
mod sqlite;
mod statement;
mod status;
mod tenants;
mod token_keys;
mod usage;
mod watch;
mod writer;

pub use audit::{AuditFilter, AuditRow};
pub use bodies::MessageBody;
pub use db::{Store, StoreError, StoreSettings};
pub use delegation::{SlotRow, SlotShows};
pub use domains::{CheckRow, Claim, DomainChange, DomainRow, KeyChange, KeyRow, NameOwner, NameVersion, OwnedName};
pub use events::EventRow;
pub use idempotency::{Begin, IdempotencyScope, StoredAnswer};
pub use key_life::{KeyLife, SigningPolicyRow, SuspendedMail};
pub use master_key::{MasterKeyChange, MasterKeyRows, Resealed, SealedUnder};
pub use messages::{MessageRow, NewMessage, Page, RecipientRow, SignatureRow};
pub use postgres::PostgresSettings;
pub use public_keys::PublicKeyRow;
pub use queue::{ClaimedRecipient, Delivery, Fence, Outcome, ReleaseChange, Waiting};
pub use tenants::{ApiKeyRow, TenantRow};
pub use token_keys::TokenKeyRow;
pub use usage::UsageRow;
pub use watch::{DueLook, WatchState, WrongAnswers};
