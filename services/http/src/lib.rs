//! The HTTP API: routes, extractors, the map from errors to problems, the OpenAPI document, and the sandbox's inbox pages.
//!
//! `router.rs` shows every call. A handler extracts (caller first, body last), makes one call to the engine and answers; its request and
//! response types stand beside it. Errors: see `problem.rs`.
mod answer;
mod api_keys;
mod arriving;
mod audit;
mod body;
mod caller;
mod docs;
mod domains;
mod health;
mod html;
mod idempotency;
mod inbox;
mod json;
mod jwt;
mod keys;
mod keys_import;
mod kms_access;
mod messages;
mod openapi;
mod pace;
mod page;
mod path;
mod problem;
mod query;
mod rate;
mod raw;
mod records;
mod router;
mod serve;
mod sign;
mod signing_policy;
mod token;
mod verify;

pub use inbox::{InboxItem, InboxSource, inbox_router};
pub use openapi::openapi_json;
pub use records::{checked_records_json, records_json};
pub use router::router;
pub use serve::{Door, serve};
pub use verify::verification_json;
