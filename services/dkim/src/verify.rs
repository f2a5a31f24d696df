//! Verification (RFC 6376 6), results as in RFC 8601 2.7.1.
//!
//! What the RFCs leave open, decided here:
//! - Expired (x= before `now`) is `fail` where the signature would otherwise pass, and it is checked all the same: a forged
//!   mail that has also expired must not come out milder than `fail`.
//! - t= more than `CLOCK_SKEW` ahead of `now` is `policy` (RFC 6376 3.5: such signatures may be ignored).
//! - l= that leaves octets unsigned is `policy`: anybody can append to such a body (RFC 6376 8.2).
//! - Several TXT records at one name (RFC 6376 3.6.2.2: undefined): used if exactly one key among them is usable, else `permerror`.
//! - Key before body before signature, as RFC 6376 6.1.2 and 6.1.3 have it: without a key nothing is said about the rest.
use std::collections::{HashMap, HashSet};

use crate::canonical::{BodyHash, BodyHasher, Canonicalization, append_canonical_field, sha256};
use crate::message::Message;
use crate::record::{self, KeyRecord, RecordFault};
use crate::sign::{FieldIndex, append_own_field};
use crate::signature::{self, Labels, Signature};

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
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Neutral => "neutral",
            Self::None => "none",
            Self::Policy => "policy",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
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
    /// i= as written; `None` where it is absent or has unusual characters.
    pub agent: Option<String>,
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

/// Seconds that t= may lie ahead of `now`.
pub const CLOCK_SKEW: u64 = 3_600;

/// Parsed signatures of a message, waiting for their keys.
pub struct Verifier<'a> {
    message: &'a Message<'a>,
    candidates: Vec<Candidate<'a>>,
    /// DKIM-Signature fields beyond `MAX_SIGNATURES`.
    ignored: usize,
    bodies: HashMap<(Canonicalization, Option<u64>), BodyHash>,
}

struct Candidate<'a> {
    labels: Labels,
    signature: Result<Signature<'a>, String>,
}

/// A result with its reason.
type Outcome = (DkimResult, Option<String>);

fn outcome(result: DkimResult, reason: impl Into<String>) -> Outcome {
    (result, Some(reason.into()))
}

impl<'a> Verifier<'a> {
    /// Reads the DKIM-Signature fields and hashes the body once per distinct (canonicalization, l=).
    pub fn new(message: &'a Message<'a>) -> Self {
        let mut candidates = Vec::new();
        let mut ignored = 0;
        for field in message.all("DKIM-Signature") {
            if candidates.len() == MAX_SIGNATURES {
                ignored += 1;
                continue;
            }
            let (labels, signature) = signature::parse(field);
            candidates.push(Candidate { labels, signature });
        }
        let mut bodies = HashMap::new();
        for signature in candidates.iter().filter_map(|c| c.signature.as_ref().ok()) {
            bodies.entry((signature.body, signature.body_limit)).or_insert_with(|| {
                let mut hasher = BodyHasher::new(signature.body, signature.body_limit);
                hasher.update(message.body);
                hasher.finish()
            });
        }
        Self { message, candidates, ignored, bodies }
    }

    /// Record names to ask TXT for, without duplicates, in order.
    pub fn record_names(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        self.candidates
            .iter()
            .filter_map(|c| c.signature.as_ref().ok())
            .map(|s| signature::record_name(&s.selector, &s.domain))
            .filter(|name| seen.insert(name.clone()))
            .collect()
    }

    /// One result per DKIM-Signature field, top to bottom; empty iff the message has none. `now` is seconds since the epoch.
    pub fn verify(&self, answer: &dyn Fn(&str) -> KeyAnswer, now: u64) -> Vec<Verification> {
        let prefixes = self.prefixes();
        let mut results: Vec<Verification> = self
            .candidates
            .iter()
            .zip(prefixes)
            .map(|(candidate, signature_prefix)| {
                let (result, reason) = match &candidate.signature {
                    Ok(signature) => self.verify_one(signature, answer, now),
                    Err(why) => outcome(DkimResult::Permerror, why.as_str()),
                };
                let labels = candidate.labels.clone();
                Verification {
                    result,
                    domain: labels.domain,
                    agent: labels.agent,
                    selector: labels.selector,
                    algorithm: labels.algorithm,
                    signature_prefix,
                    reason,
                }
            })
            .collect();
        results.extend(std::iter::repeat_n(too_many(), self.ignored));
        results
    }

    /// RFC 6008: as many characters of b= as tell the signatures of this message apart, 8 or more.
    fn prefixes(&self) -> Vec<Option<String>> {
        let all: Vec<&str> = self.candidates.iter().filter_map(|c| c.labels.b.as_deref()).collect();
        let shared = |b: &str, other: &str| b.chars().zip(other.chars()).take_while(|(x, y)| x == y).count();
        self.candidates
            .iter()
            .map(|candidate| {
                let b = candidate.labels.b.as_deref()?;
                let same = all.iter().filter(|&&other| other != b).map(|other| shared(b, other)).max().unwrap_or(0);
                Some(b.chars().take(8.max(same + 1)).collect())
            })
            .collect()
    }

    /// RFC 6376 6.1.2, 6.1.3.
    fn verify_one(&self, signature: &Signature<'_>, answer: &dyn Fn(&str) -> KeyAnswer, now: u64) -> Outcome {
        let name = signature::record_name(&signature.selector, &signature.domain);
        let found = match answer(&name) {
            KeyAnswer::Unavailable(why) => {
                return outcome(DkimResult::Temperror, format!("the key could not be fetched: {why}"));
            }
            KeyAnswer::Absent => {
                return outcome(DkimResult::Permerror, format!("no key for signature: there is no record {name}"));
            }
            KeyAnswer::Text(records) => choose_key(&records).and_then(|key| check_key(&key, signature).map(|()| key)),
        };
        let key = match found {
            Ok(key) => key,
            Err(why) => return outcome(DkimResult::Permerror, why),
        };
        let (result, reason) = time_bound(signature, self.check_hashes(signature, &key), now);
        let mut notes: Vec<String> = reason.into_iter().collect();
        if key.testing {
            notes.push("the key is in test mode (t=y)".to_owned());
        }
        if signature.selector.contains('_') {
            notes.push("the selector has an underscore, which strict receivers refuse (RFC 6376 3.1)".to_owned());
        }
        (result, (!notes.is_empty()).then(|| notes.join("; ")))
    }

    /// RFC 6376 6.1.3 steps 2 to 4.
    fn check_hashes(&self, signature: &Signature<'_>, key: &KeyRecord) -> Outcome {
        let Some(body) = self.bodies.get(&(signature.body, signature.body_limit)) else {
            return outcome(DkimResult::Neutral, "the body was not hashed");
        };
        if body.sha256 != signature.body_hash {
            return outcome(DkimResult::Fail, "body hash did not verify: the body was changed after signing");
        }
        if !key.key.verify_digest(&self.header_digest(signature), &signature.signature) {
            return outcome(
                DkimResult::Fail,
                "signature did not verify: a signed field was changed after signing, or another key signed",
            );
        }
        match signature.body_limit {
            // RFC 6376 3.5 l=.
            Some(limit) if limit > body.canonical_length => {
                outcome(DkimResult::Permerror, "l= is larger than the body (RFC 6376 3.5)")
            }
            Some(limit) if limit < body.canonical_length => outcome(
                DkimResult::Policy,
                format!(
                    "l= leaves the last {} octets of the body unsigned (RFC 6376 8.2)",
                    body.canonical_length - limit
                ),
            ),
            Some(_) | None => (DkimResult::Pass, None),
        }
    }

    /// RFC 6376 3.7, 5.4.2: each name of h= takes the lowest instance that is left; one that is missing counts as nothing.
    /// h= may name other DKIM-Signature fields, never its own (RFC 6376 3.5 h=).
    fn header_digest(&self, signature: &Signature<'_>) -> [u8; 32] {
        let mut index = FieldIndex::new(self.message);
        let mut input = Vec::new();
        for name in &signature.signed_names {
            let mut found = index.next_from_below(name);
            if found.is_some_and(|raw| std::ptr::eq(raw, signature.raw)) {
                found = index.next_from_below(name);
            }
            if let Some(raw) = found {
                append_canonical_field(signature.header, raw, &mut input);
            }
        }
        append_own_field(signature.header, &signature.without_b, &mut input);
        sha256(&input)
    }
}

fn too_many() -> Verification {
    Verification {
        result: DkimResult::Neutral,
        domain: None,
        agent: None,
        selector: None,
        algorithm: None,
        signature_prefix: None,
        reason: Some(format!("not looked at: a message has at most {MAX_SIGNATURES} signatures that count")),
    }
}

/// RFC 6376 6.1.2 step 3, 3.6.2.2. Text that is no key record does not disturb the one that is.
fn choose_key(records: &[String]) -> Result<KeyRecord, String> {
    let mut usable: Vec<KeyRecord> = Vec::new();
    let mut faults: Vec<RecordFault> = Vec::new();
    for text in records {
        match record::parse(text) {
            Ok(key) if usable.contains(&key) => {}
            Ok(key) => usable.push(key),
            Err(fault) => faults.push(fault),
        }
    }
    match (usable.pop(), usable.is_empty()) {
        (Some(key), true) => Ok(key),
        (Some(_), false) => Err("several different key records at one name (RFC 6376 3.6.2.2)".to_owned()),
        (None, _) => Err(faults
            .iter()
            .find(|fault| !matches!(fault, RecordFault::NotAKeyRecord(_)))
            .or(faults.first())
            .map_or_else(|| "no key for signature: the DNS answer is empty".to_owned(), key_fault)),
    }
}

fn key_fault(fault: &RecordFault) -> String {
    match fault {
        RecordFault::Revoked => "the key is revoked: p= is empty (RFC 6376 6.1.2)".to_owned(),
        RecordFault::NotAKeyRecord(_)
        | RecordFault::Malformed(_)
        | RecordFault::Truncated(_)
        | RecordFault::Unusable(_) => format!("no usable key for signature: {fault}"),
    }
}

/// RFC 6376 6.1.2 steps 6 to 8 and 3.6.1 t=s. `record::parse` has looked at h=, s= and the size.
fn check_key(key: &KeyRecord, signature: &Signature<'_>) -> Result<(), String> {
    if key.key.kind() != signature.algorithm {
        return Err(format!(
            "inappropriate key algorithm: a={} but the key is {} (RFC 6376 6.1.2)",
            signature.algorithm.as_str(),
            key.key.kind().key_type()
        ));
    }
    match key.strict && signature.agent_domain != signature.domain {
        true => {
            Err("domain mismatch: the key has t=s, so the domain of i= must be d= itself (RFC 6376 3.6.1)".to_owned())
        }
        false => Ok(()),
    }
}

/// RFC 6376 3.5 t=, x=.
fn time_bound(signature: &Signature<'_>, (result, reason): Outcome, now: u64) -> Outcome {
    let verified = matches!(result, DkimResult::Pass | DkimResult::Policy);
    if signature.expires_at.is_some_and(|x| now > x) {
        let expired = "signature expired (x=)";
        return match (verified, reason) {
            (true, _) | (false, None) => outcome(if verified { DkimResult::Fail } else { result }, expired),
            (false, Some(reason)) => outcome(result, format!("{reason}; {expired}")),
        };
    }
    if verified && signature.signed_at.is_some_and(|t| t > now.saturating_add(CLOCK_SKEW)) {
        return outcome(DkimResult::Policy, "t= lies in the future (RFC 6376 3.5)");
    }
    (result, reason)
}
