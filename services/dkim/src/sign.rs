//! Signing (RFC 6376 5): header selection, `prepare`, `finish`.
use std::collections::HashMap;

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
    let lower = name.to_ascii_lowercase();
    is_field_name(name)
        && !name.contains(';')
        && !UNSIGNABLE.iter().any(|unsignable| unsignable.eq_ignore_ascii_case(name))
        && !UNSIGNABLE_PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
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
    let mut index = FieldIndex::new(header);
    if index.count("From") == 0 {
        return Err(SignError::NoFrom);
    }
    let names = select(policy, &index);
    let unsigned_field = unsigned_field(signer, policy, body, now, expires, &names);

    let mut input = Vec::new();
    for name in &names {
        if let Some(raw) = index.next_from_below(name) {
            append_canonical_field(policy.header, raw, &mut input);
        }
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
    fields: HashMap<String, Vec<&'m [u8]>>,
}

impl<'m> FieldIndex<'m> {
    pub(crate) fn new(message: &Message<'m>) -> Self {
        let mut fields: HashMap<String, Vec<&'m [u8]>> = HashMap::new();
        for field in &message.fields {
            fields.entry(field.name.to_ascii_lowercase()).or_default().push(field.raw);
        }
        Self { fields }
    }

    /// Instances that are left.
    fn count(&self, name: &str) -> usize {
        self.fields.get(&name.to_ascii_lowercase()).map_or(0, Vec::len)
    }

    /// The lowest instance that was not taken yet.
    pub(crate) fn next_from_below(&mut self, name: &str) -> Option<&'m [u8]> {
        self.fields.get_mut(&name.to_ascii_lowercase())?.pop()
    }
}

/// Entries of h=: each oversigned name once more than present, each signed one as often as present. From is always there
/// (RFC 6376 5.4). A name counts once, however often the policy has it: n+1 entries, not n+2.
fn select<'p>(policy: &'p Policy, index: &FieldIndex<'_>) -> Vec<&'p str> {
    let mut seen = std::collections::HashSet::new();
    let oversigned = policy.oversigned.iter().map(|name| (name.as_str(), 1));
    let signed = policy.signed.iter().map(|name| (name.as_str(), 0));
    let mut names = Vec::new();
    for (name, extra) in oversigned.chain(signed).chain([("From", 1)]) {
        if seen.insert(name.to_ascii_lowercase()) {
            names.extend(std::iter::repeat_n(name, index.count(name) + extra));
        }
    }
    names
}

/// The field up to `b=`. i= and q= have the values that they would have by default (RFC 6376 3.5); some receivers want to see them.
fn unsigned_field(
    signer: &Signer,
    policy: &Policy,
    body: &BodyHash,
    now: u64,
    expires: Option<u64>,
    names: &[&str],
) -> String {
    let mut field = Folded::new("DKIM-Signature:");
    let (domain, selector) = (&signer.domain, &signer.selector);
    field.word(" ", "v=1;");
    field.word(" ", &format!("a={};", signer.algorithm.signature_algorithm().as_str()));
    field.word(" ", &format!("c={}/{};", policy.header.as_str(), policy.body.as_str()));
    field.word(" ", &format!("d={domain};"));
    field.word(" ", &format!("i=@{domain};"));
    field.word(" ", &format!("s={selector};"));
    field.word(" ", "q=dns/txt;");
    field.word(" ", &format!("t={now};"));
    if let Some(expires) = expires {
        field.word(" ", &format!("x={expires};"));
    }
    for (i, name) in names.iter().enumerate() {
        let (gap, tag) = if i == 0 { (" ", "h=") } else { ("", "") };
        let end = if i + 1 == names.len() { ';' } else { ':' };
        field.word(gap, &format!("{tag}{name}{end}"));
    }
    field.word(" ", &format!("bh={};", STANDARD.encode(body.sha256)));
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
}

impl Folded {
    fn new(start: &str) -> Self {
        Self { text: start.to_owned() }
    }

    /// Octets of the last line so far.
    fn column(text: &str) -> usize {
        text.rfind('\n').map_or(text.len(), |at| text.len() - at - 1)
    }

    /// Puts `gap` here, or a fold where `length` octets more would not fit.
    fn reserve(&mut self, gap: &str, length: usize) {
        let fits = Self::column(&self.text) + gap.len() + length <= LINE;
        self.text.push_str(if fits { gap } else { FOLD });
    }

    fn word(&mut self, gap: &str, word: &str) {
        self.reserve(gap, word.len());
        self.text.push_str(word);
    }
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
            let room = LINE.saturating_sub(Folded::column(&field)).max(1);
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
