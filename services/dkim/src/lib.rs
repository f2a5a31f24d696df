//! DKIM: canonicalize, sign, verify, and the public-key record. RFC 6376, 8301, 8463.
//!
//! Pure: no I/O, no clock, no rng. Times come in as seconds since the epoch,
//! keys come in as record text, signatures come in as bytes.
pub mod address;
pub mod canonical;
pub mod message;
pub mod names;
pub mod record;
pub mod sign;
pub mod verify;

pub use names::{KeyAlgorithm, Mailbox, NameError, Selector, SigningDomain};
