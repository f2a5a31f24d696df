//! Verification (RFC 6376 6), results as in RFC 8601 2.7.1.
use crate::message::Message;

/// RFC 8601 2.7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DkimResult {
    /// Verified.
    Pass,
    /// The signature or the body hash does not match, or it has expired.
    Fail,
    /// Present but could not be processed, for example too many signatures.
    Neutral,
    /// The message is not signed.
    None,
    /// Verified but not acceptable by local policy (for example l= leaves body octets unsigned).
    Policy,
    /// The key could not be fetched now.
    Temperror,
    /// The signature or the key record can never be used.
    Permerror,
}

impl DkimResult {
    /// As written in Authentication-Results.
    pub fn as_str(self) -> &'static str {
        todo!()
    }
}

/// What DNS said about a key record's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAnswer {
    /// TXT records, strings of each joined with nothing between.
    Text(Vec<String>),
    /// No such name or no TXT.
    Absent,
    /// No answer: time-out, SERVFAIL, ...; the text is the reason.
    Unavailable(String),
}

/// The result for one signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The result.
    pub result: DkimResult,
    /// d=, lower-case; `None` where it could not be read.
    pub domain: Option<String>,
    /// s=.
    pub selector: Option<String>,
    /// a=, as written.
    pub algorithm: Option<String>,
    /// First characters of b= for header.b (RFC 8601 2.7.1, RFC 6008): at least 8.
    pub signature_prefix: Option<String>,
    /// Why not pass, or a warning beside pass.
    pub reason: Option<String>,
}

/// At most so many signatures are looked at; the others are `neutral`.
pub const MAX_SIGNATURES: usize = 10;

/// Parsed signatures of a message, waiting for their keys.
pub struct Verifier<'a> {
    message: &'a Message<'a>,
}

impl<'a> Verifier<'a> {
    /// Reads the DKIM-Signature fields and hashes the body once per distinct (canonicalization, l=).
    pub fn new(message: &'a Message<'a>) -> Self {
        let _ = &message;
        Self { message }
    }
    /// Record names to ask TXT for, without duplicates, in order.
    pub fn record_names(&self) -> Vec<String> {
        let _ = self.message;
        todo!()
    }
    /// One result per DKIM-Signature field, top to bottom; empty iff the message has none. `now` is seconds since the epoch.
    pub fn verify(&self, _answer: &dyn Fn(&str) -> KeyAnswer, _now: u64) -> Vec<Verification> {
        todo!()
    }
}
