//! DKIM: canonicalize, sign, verify, and the public-key record. RFC 6376, 8301, 8463.
//!
//! Pure: no I/O, no clock, no rng. Times come in as seconds since the epoch,
//! keys come in as record text, signatures come in as bytes.
pub mod address;
pub mod canonical;
mod der;
mod encoded_word;
pub mod message;
pub mod names;
pub mod public_key;
pub mod record;
pub mod sign;

mod signature;
mod spelling;
mod tags;
pub mod verify;
mod white_space;

pub use names::{KeyAlgorithm, Mailbox, NameError, Selector, SigningDomain};
