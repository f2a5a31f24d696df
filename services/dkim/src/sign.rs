//! Signing (RFC 6376 5): header selection, `prepare`, `finish`.
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::canonical::{BodyHash, BodyHasher, Canonicalization, append_canonical_field, sha256};
use crate::message::{Message, is_field_name};
use crate::names::{KeyAlgorithm, Selector, SigningDomain};

/// Which fields are signed and how.
///
/// l= is never emitted: with it anybody can append to the body, in MIME so that nothing but the appended part is shown,
/// and the signature still verifies (RFC 6376 8.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// c= for the header.
    pub header: Canonicalization,
    /// c= for the body.
    pub body: Canonicalization,
    /// Signed as often as present.
    pub signed: Vec<String>,
    /// Listed once more than present, so that none can be added (RFC 6376 8.15).
    pub oversigned: Vec<String>,
    /// x= is t= plus so many seconds; `None`: no x=.
    pub expires_after: Option<u64>,
}

/// Fields that say who writes to whom about what, and how the body is to be read: one more of them would mislead.
const OVERSIGNED: [&str; 12] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Worth signing where present (RFC 6376 5.4.1), harmless where a later hop adds one (RFC 9477 3.1 asks for the CFBL fields).
const SIGNED: [&str; 18] = [
    "Sender",
    "In-Reply-To",
    "References",
    "Content-ID",
    "Content-Description",
    "Content-Disposition",
    "Content-Language",
    "Auto-Submitted",
    "Importance",
    "List-Id",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Feedback-ID",
    "CFBL-Address",
    "CFBL-Feedback-ID",
];

/// Fields that later hops add, change or remove; a signature over them would break in transit (RFC 6376 5.4).
const UNSIGNABLE: [&str; 10] = [
    "Return-Path",
    "Received",
    "Received-SPF",
    "DKIM-Signature",
    "DomainKey-Signature",
    "Authentication-Results",
    "Bcc",
    "Delivered-To",
    "X-Original-To",
    "Envelope-To",
];
/// The same for whole families.
const UNSIGNABLE_PREFIXES: [&str; 2] = ["arc-", "resent-"];

/// Seconds by which x= must outlast the queue: the receiver needs time after the last attempt, and clocks differ.
pub const EXPIRATION_MARGIN: u64 = 3_600;

impl Default for Policy {
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            header: Canonicalization::Relaxed,
            body: Canonicalization::Relaxed,
            signed: owned(&SIGNED),
            oversigned: owned(&OVERSIGNED),
            expires_after: None,
        }
    }
}

impl Policy {
    /// Checks a policy before it is stored: every name can be signed, and x= outlasts the queue by `EXPIRATION_MARGIN`, since
    /// a message that waits must not arrive expired (RFC 6376 3.5 x=). `queue_lifetime` is in seconds.
    pub fn validate(&self, queue_lifetime: u64) -> Result<(), SignError> {
        self.check_names()?;
        match self.expires_after {
            Some(after) if after < queue_lifetime.saturating_add(EXPIRATION_MARGIN) => Err(SignError::Expiration),
            Some(_) | None => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), SignError> {
        match self.signed.iter().chain(&self.oversigned).find(|name| !is_signable(name)) {
            Some(name) => Err(SignError::UnsignableField(name.clone())),
            None => Ok(()),
        }
    }
}

/// A field name of RFC 5322 3.6.8 that no later hop adds or changes. A semicolon, though part of a field name there, cannot stand in h=.
fn is_signable(name: &str) -> bool {
    let begins_with = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    is_field_name(name)
        && !name.contains(';')
        && !UNSIGNABLE.iter().any(|unsignable| unsignable.eq_ignore_ascii_case(name))
        && !UNSIGNABLE_PREFIXES.iter().any(|prefix| begins_with(prefix))
}

/// Why a policy or message cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// From is missing (RFC 6376 5.4: it must be signed).
    #[error("the message has no From field")]
    NoFrom,
    /// A policy names a field that a later hop adds or changes, or that is not a field name.
    #[error("field {0:?} cannot be signed: later hops add or change it")]
    UnsignableField(String),
    /// x= would end before the queue gives up.
    #[error("x= must be later than t= and longer than the queue lifetime")]
    Expiration,
}

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// d=
    pub domain: SigningDomain,
    /// s=
    pub selector: Selector,
    /// Decides a=.
    pub algorithm: KeyAlgorithm,
}

/// A signature field that lacks only b=.
#[derive(Debug, Clone)]
pub struct Draft {
    /// SHA-256 of the signing input; what RSA signs as DIGEST and Ed25519 signs as its message (RFC 8463 3).
    digest: [u8; 32],
    /// Up to and with `b=`.
    unsigned_field: String,
}

/// Builds everything but b=. `now` is seconds since the epoch (t=). The body hash may come from a `BodyHasher`
/// that saw the body in chunks, so `header` needs fields only; it must be of `policy.body` without a limit.
/// RFC 6376 5.4, 5.5, 3.7.
pub fn prepare_streamed(
    header: &Message<'_>,
    body: &BodyHash,
    signer: &Signer,
    policy: &Policy,
    now: u64,
) -> Result<Draft, SignError> {
    policy.check_names()?;
    let expires = match policy.expires_after {
        None => None,
        Some(0) => return Err(SignError::Expiration),
        Some(after) => Some(now.checked_add(after).ok_or(SignError::Expiration)?),
    };
    let index = FieldIndex::new(header);
    if index.places("From").is_empty() {
        return Err(SignError::NoFrom);
    }
    let entries = select(policy, &index);
    let unsigned_field = unsigned_field(signer, policy, body, now, expires, &entries);

    let mut input = Vec::with_capacity(2_048);
    for raw in entries.iter().filter_map(|(_, raw)| *raw) {
        append_canonical_field(policy.header, raw, &mut input);
    }
    append_own_field(policy.header, unsigned_field.as_bytes(), &mut input);
    Ok(Draft { digest: sha256(&input), unsigned_field })
}

/// `prepare_streamed` over a whole message.
pub fn prepare(message: &Message<'_>, signer: &Signer, policy: &Policy, now: u64) -> Result<Draft, SignError> {
    let mut hasher = BodyHasher::new(policy.body, None);
    hasher.update(message.body);
    prepare_streamed(message, &hasher.finish(), signer, policy, now)
}

/// RFC 6376 3.7: the signature field itself, b= being empty already, goes last and without its final CRLF.
pub(crate) fn append_own_field(canonicalization: Canonicalization, field: &[u8], input: &mut Vec<u8>) {
    append_canonical_field(canonicalization, field, input);
    input.truncate(input.len() - 2);
}

/// Fields of a message by name, each to be taken once, from the bottom up (RFC 6376 5.4.2).
pub(crate) struct FieldIndex<'m> {
    /// Sorted by `compare_names`, fields of one name as in the message.
    fields: Vec<(&'m str, &'m [u8])>,
    /// Beside the first field of each name: how many of that name were taken.
    taken: Vec<usize>,
}

impl<'m> FieldIndex<'m> {
    pub(crate) fn new(message: &Message<'m>) -> Self {
        let mut fields: Vec<_> = message.fields.iter().map(|field| (field.name, field.raw)).collect();
        fields.sort_by(|(a, _), (b, _)| compare_names(a, b));
        let taken = vec![0; fields.len()];
        Self { fields, taken }
    }

    /// Places of the fields of that name, the highest of the message first.
    fn places(&self, name: &str) -> Range<usize> {
        let first = self.fields.partition_point(|(other, _)| compare_names(other, name).is_lt());
        let count = self.fields[first..].partition_point(|(other, _)| other.eq_ignore_ascii_case(name));
        first..first + count
    }

    /// All fields of that name, the lowest of the message first.
    fn lowest_first(&self, name: &str) -> impl Iterator<Item = &'m [u8]> {
        self.fields[self.places(name)].iter().rev().map(|(_, raw)| *raw)
    }

    /// The lowest instance that was not taken yet.
    pub(crate) fn next_from_below(&mut self, name: &str) -> Option<&'m [u8]> {
        let places = self.places(name);
        let taken = self.taken.get_mut(places.start)?;
        let (_, raw) = self.fields[places].iter().rev().nth(*taken)?;
        *taken += 1;
        Some(raw)
    }
}

/// Some order in which names are equal that differ in case only; mostly the length decides, which is quick.
fn compare_names(a: &str, b: &str) -> std::cmp::Ordering {
    fn lower(name: &str) -> impl Iterator<Item = u8> {
        name.bytes().map(|b| b.to_ascii_lowercase())
    }
    a.len().cmp(&b.len()).then_with(|| lower(a).cmp(lower(b)))
}

/// Entry of h=, and the field that it stands for, if there is one.
type Entry<'p, 'm> = (&'p str, Option<&'m [u8]>);

/// Entries of h=: each oversigned name once more than present, each signed one as often as present. From is always there
/// (RFC 6376 5.4). A name counts once, however often the policy has it: n+1 entries, not n+2.
fn select<'p, 'm>(policy: &'p Policy, index: &FieldIndex<'m>) -> Vec<Entry<'p, 'm>> {
    let oversigned = policy.oversigned.iter().map(|name| (name.as_str(), 1));
    let signed = policy.signed.iter().map(|name| (name.as_str(), 0));
    let mut seen: Vec<&str> = Vec::with_capacity(policy.oversigned.len() + policy.signed.len() + 1);
    let mut entries = Vec::with_capacity(2 * seen.capacity());
    for (name, extra) in oversigned.chain(signed).chain([("From", 1)]) {
        if !seen.iter().any(|before| before.eq_ignore_ascii_case(name)) {
            seen.push(name);
            entries.extend(index.lowest_first(name).map(|raw| (name, Some(raw))));
            entries.extend(std::iter::repeat_n((name, None), extra));
        }
    }
    entries
}

/// The field up to `b=`. i= and q= have the values that they would have by default (RFC 6376 3.5); some receivers want to see them.
fn unsigned_field(
    signer: &Signer,
    policy: &Policy,
    body: &BodyHash,
    now: u64,
    expires: Option<u64>,
    entries: &[Entry<'_, '_>],
) -> String {
    let mut field = Folded::new("DKIM-Signature:");
    let (domain, selector) = (signer.domain.as_str(), signer.selector.as_str());
    field.word(" ", &["v=1;"]);
    field.word(" ", &["a=", signer.algorithm.signature_algorithm().as_str(), ";"]);
    field.word(" ", &["c=", policy.header.as_str(), "/", policy.body.as_str(), ";"]);
    field.word(" ", &["d=", domain, ";"]);
    field.word(" ", &["i=@", domain, ";"]);
    field.word(" ", &["s=", selector, ";"]);
    field.word(" ", &["q=dns/txt;"]);
    field.word(" ", &["t=", &now.to_string(), ";"]);
    if let Some(expires) = expires {
        field.word(" ", &["x=", &expires.to_string(), ";"]);
    }
    for (i, (name, _)) in entries.iter().enumerate() {
        let (gap, tag) = if i == 0 { (" ", "h=") } else { ("", "") };
        let end = if i + 1 == entries.len() { ";" } else { ":" };
        field.word(gap, &[tag, name, end]);
    }
    field.word(" ", &["bh=", &STANDARD.encode(body.sha256), ";"]);
    // Never a line with `b=` alone at its end: at least these few digits go with it.
    field.reserve(" ", "b=".len() + 8);
    field.text.push_str("b=");
    field.text
}

/// Octets of an emitted line (RFC 5322 2.1.1), white space at its start included.
const LINE: usize = 78;
const FOLD: &str = "\r\n ";

/// A field that is folded between words only, never inside one (RFC 6376 3.2). A word that is longer than a line stays whole.
struct Folded {
    text: String,
    /// Where the last line begins.
    line: usize,
}

impl Folded {
    fn new(start: &str) -> Self {
        let mut text = String::with_capacity(1_024);
        text.push_str(start);
        Self { text, line: 0 }
    }

    /// Puts `gap` here, or a fold where `length` octets more would not fit.
    fn reserve(&mut self, gap: &str, length: usize) {
        if self.text.len() - self.line + gap.len() + length <= LINE {
            self.text.push_str(gap);
        } else {
            self.text.push_str(FOLD);
            self.line = self.text.len() - 1;
        }
    }

    /// A word in parts.
    fn word(&mut self, gap: &str, parts: &[&str]) {
        self.reserve(gap, parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.text.push_str(part);
        }
    }
}

/// Octets of the last line.
fn last_line(text: &str) -> usize {
    text.rfind('\n').map_or(text.len(), |at| text.len() - at - 1)
}

impl Draft {
    /// The 32 octets that custody signs.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The finished field: `DKIM-Signature: ...` folded at 78 or less, with the final CRLF. To be put on top of the message.
    /// What is added here, base64 and folds inside it, is what verification takes out again (RFC 6376 3.5 b=, 3.7).
    pub fn finish(self, signature: &[u8]) -> String {
        let mut field = self.unsigned_field;
        let b = STANDARD.encode(signature);
        let mut rest = b.as_str();
        loop {
            let room = LINE.saturating_sub(last_line(&field)).max(1);
            // Base64 is ASCII, so every offset is a boundary.
            let (line, after) = rest.split_at(room.min(rest.len()));
            field.push_str(line);
            if after.is_empty() {
                field.push_str("\r\n");
                return field;
            }
            field.push_str(FOLD);
            rest = after;
        }
    }
}
