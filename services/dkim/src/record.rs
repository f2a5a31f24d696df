//! The public-key TXT record (RFC 6376 3.6.1, RFC 8463 4).
use crate::names::SignatureAlgorithm;
pub use crate::public_key::PublicKey;
use crate::public_key::private_key_published;
pub use crate::spelling::spelling;
use crate::tags::{self, TagError, TagList, colon_list};

/// Octets of one character-string (RFC 1035 3.3).
const STRING_MAX: usize = 255;
/// RFC 8301 3.2: signatures by smaller keys are never valid.
const RSA_BITS_MIN: u32 = 1024;
/// RFC 8301 3.2: signers should not use less.
const RSA_BITS_GOOD: u32 = 2048;
const RSA_BITS_MAX: u32 = 8192;

/// What to publish for a key that must not be trusted any more (RFC 6376 3.6.1: an empty p= says that the key is revoked).
pub const REVOKED: &str = "v=DKIM1; p=";

/// The text to publish: `v=DKIM1; k=rsa; p=...`.
pub fn build(key: &PublicKey) -> String {
    format!("v=DKIM1; k={}; p={}", key.kind().key_type(), key.to_p())
}

/// Cuts a TXT value into character-strings of at most 255 octets (RFC 1035 3.3). Never empty.
pub fn chunk(value: &str) -> Vec<String> {
    let mut chunks = Vec::new();
    let mut rest = value;
    while rest.len() > STRING_MAX {
        let cut = (0..=STRING_MAX).rev().find(|&i| rest.is_char_boundary(i)).unwrap_or(STRING_MAX);
        let (head, tail) = rest.split_at(cut);
        chunks.push(head.to_owned());
        rest = tail;
    }
    chunks.push(rest.to_owned());
    chunks
}

/// Zone-file form of a TXT value: quoted strings, `"` and `\` escaped (RFC 1035 5.1).
pub fn zone_text(value: &str) -> String {
    let strings: Vec<String> = chunk(value).iter().map(|string| zone_string(string.as_bytes())).collect();
    strings.join(" ")
}

/// One character-string, quoted; octets that are not printable as `\DDD`, decimal (RFC 1035 5.1).
pub fn zone_string(string: &[u8]) -> String {
    let mut out = String::with_capacity(string.len() + 2);
    out.push('"');
    for &b in string {
        match b {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(b));
            }
            b' '..=b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("\\{b:03}")),
        }
    }
    out.push('"');
    out
}

/// A key record as others publish it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key.
    pub key: PublicKey,
    /// h=, as written: values are case-sensitive (RFC 6376 3.2); `None`: all hashes.
    pub hashes: Option<Vec<String>>,
    /// s=; `None`: all services.
    pub services: Option<Vec<String>>,
    /// t=y.
    pub testing: bool,
    /// t=s.
    pub strict: bool,
    /// n=.
    pub notes: Option<String>,
    /// Harmless oddities, one sentence each (spelling that differs from what `build` gives is not listed unless worth a warning).
    pub warnings: Vec<String>,
}

/// What is wrong with a record. Display is a full sentence with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Not a key record at all (no p=, for example another TXT at the name, or a wildcard's answer).
    #[error("this is not a DKIM key record: {0}")]
    NotAKeyRecord(String),
    /// Syntax: literal quotes or backslashes, v= not first or not DKIM1, upper-case tag names, duplicate tags, bad base64, not a key.
    #[error("{0}")]
    Malformed(String),
    /// p= is the beginning of a key.
    #[error("p= is cut: {0}")]
    Truncated(String),
    /// p= is empty.
    #[error("p= is empty: this key is revoked (RFC 6376 3.6.1)")]
    Revoked,
    /// h=, k= or s= forbid our use.
    #[error("{0}")]
    Unusable(String),
}

/// Parses the joined strings of one TXT record. Strict: what a strict verifier refuses is a fault.
/// RFC 6376 3.2, 3.6.1; RFC 8301; RFC 8463 4. No text of the record is repeated in a fault: it may hold a private key.
pub fn parse(text: &str) -> Result<KeyRecord, RecordFault> {
    if text.to_ascii_uppercase().contains("PRIVATE KEY-----") {
        return Err(private_key_published());
    }
    if !looks_like_key_record(text) {
        return Err(RecordFault::NotAKeyRecord(
            "it has neither v=DKIM1 nor p=; publish the key record under exactly this name".to_owned(),
        ));
    }
    if let Some(artifact) = Artifact::find(text) {
        return Err(artifact.fault(text));
    }
    parse_strict(text).map_err(|fault| explain_cut(text, fault))
}

/// What a copy through a zone file, a shell or a web form leaves in a value.
#[derive(Clone, Copy)]
enum Artifact {
    Quote,
    Backslash,
    NotAscii,
}

/// Quote characters of keyboards and word processors.
const QUOTES: [char; 7] = ['"', '\'', '\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}'];

impl Artifact {
    /// Looks outside n=, where both characters are allowed (RFC 6376 3.6.1, 2.11).
    fn find(text: &str) -> Option<Self> {
        let tags = || text.split(';').filter(|tag| !tag.trim_start_matches([' ', '\t', '"']).starts_with("n="));
        let found = |artifact: Self, is: &dyn Fn(char) -> bool| tags().any(|tag| tag.contains(is)).then_some(artifact);
        found(Self::Quote, &|c| QUOTES.contains(&c))
            .or_else(|| found(Self::Backslash, &|c| c == '\\'))
            .or_else(|| found(Self::NotAscii, &|c| !c.is_ascii()))
    }

    /// Names the artifact, and what the record would be without it.
    fn fault(self, text: &str) -> RecordFault {
        let what = match self {
            Self::Quote => {
                "the value contains literal quote characters (such as \"): DNS itself adds the quotes that tools show, so remove them"
            }
            Self::NotAscii => {
                "the value contains a character outside of ASCII, such as the no-break space that web pages and word processors use: \
                 type the blanks and signs anew, or copy the value from here"
            }
            Self::Backslash => "the value contains a literal backslash (\\), often before a semicolon: remove it",
        };
        let verdict = match normalized(text).as_deref().map(parse_strict) {
            Some(Ok(record)) => {
                format!(
                    "without them it would be a valid {} key of {} bits, and some lenient receivers read it so",
                    record.key.kind().key_type(),
                    record.key.bits()
                )
            }
            Some(Err(fault)) => format!("there is more wrong with it: {fault}"),
            None => "nothing is left without them".to_owned(),
        };
        RecordFault::Malformed(format!("{what}; {verdict}"))
    }
}

/// The value without literal quotes and backslashes, other signs made blanks, strings joined: what was probably meant. `None` if that changes nothing.
pub fn normalized(text: &str) -> Option<String> {
    let joined = text.replace("\\\"", "\"").replace("\" \"", "").replace('\\', "").replace(QUOTES, "");
    let joined = joined.replace(|c: char| !c.is_ascii(), " ");
    (joined != text && !joined.is_empty()).then_some(joined)
}

/// True where someone meant a key record: p= or v=DKIM in any case and behind stray quotes. Other records at a name (SPF, DMARC,
/// site verification) say so by v= or have neither.
fn looks_like_key_record(text: &str) -> bool {
    let mut has_p = false;
    for (i, tag) in text.split(';').enumerate() {
        let Some((name, value)) = tag.split_once('=') else { continue };
        let stray = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n' | '"' | '\\' | '\'');
        match name.trim_matches(stray).to_ascii_lowercase().as_str() {
            "v" => {
                let value = value.trim_matches(stray).to_ascii_lowercase();
                if value.starts_with("dkim") {
                    return true;
                }
                // Another kind of record that happens to have p=, such as DMARC.
                if i == 0 && ["spf", "dmarc", "sts", "tlsrpt", "bimi"].iter().any(|kind| value.starts_with(kind)) {
                    return false;
                }
            }
            "p" => has_p = true,
            _ => {}
        }
    }
    has_p
}

fn parse_strict(text: &str) -> Result<KeyRecord, RecordFault> {
    let list = TagList::parse(text).map_err(|e| syntax_fault(text, &e))?;
    check_version(&list)?;
    let p = list.get("p").ok_or_else(|| missing_p(&list))?;
    if p.is_empty() {
        return Err(RecordFault::Revoked);
    }
    let hashes = list.get("h").map(|h| colon_list(h).map(str::to_owned).collect::<Vec<_>>());
    let services = list.get("s").map(|s| colon_list(s).map(str::to_owned).collect::<Vec<_>>());
    let key = PublicKey::from_p(key_type(&list)?, p)?;
    check_usable(&key, hashes.as_deref(), services.as_deref())?;
    let flags: Vec<&str> = list.get("t").map(|t| colon_list(t).collect()).unwrap_or_default();
    let testing = flags.contains(&"y");
    Ok(KeyRecord {
        warnings: warnings(&list, &key, testing),
        key,
        hashes,
        services,
        testing,
        strict: flags.contains(&"s"),
        notes: list.get("n").map(str::to_owned),
    })
}

fn syntax_fault(text: &str, error: &TagError) -> RecordFault {
    if text.find("v=DKIM1").is_some_and(|at| at > 0 && !tags::trim(&text[..at]).is_empty() && !text[..at].contains(';'))
    {
        return RecordFault::Malformed("other text stands before v=DKIM1; publish the value alone".to_owned());
    }
    RecordFault::Malformed(format!(
        "the record is not a list of name=value separated by semicolons (RFC 6376 3.2): {error}"
    ))
}

/// RFC 6376 3.6.1 v=: optional; if present it is first and exactly DKIM1.
fn check_version(list: &TagList<'_>) -> Result<(), RecordFault> {
    let Some(version) = list.get("v") else { return Ok(()) };
    if version.starts_with("DKIM1") && holds_further_tag(version) {
        return Err(semicolon_missing());
    }
    if version != "DKIM1" {
        return Err(RecordFault::Malformed("v= must be exactly DKIM1, in capitals (RFC 6376 3.6.1)".to_owned()));
    }
    match list.iter().next() {
        Some(first) if first.name == "v" => Ok(()),
        Some(_) | None => {
            Err(RecordFault::Malformed("v=DKIM1 must be the first tag of the record (RFC 6376 3.6.1)".to_owned()))
        }
    }
}

/// RFC 6376 3.2: tag names are case-sensitive.
fn missing_p(list: &TagList<'_>) -> RecordFault {
    if list.iter().any(|tag| tag.name == "P") {
        return RecordFault::Malformed(
            "there is no p= tag: tag names and values are case-sensitive (RFC 6376 3.2), write v=, k= and p= in small letters".to_owned(),
        );
    }
    match list.iter().any(|tag| tag.name != "n" && holds_further_tag(tag.value)) {
        true => semicolon_missing(),
        false => RecordFault::Malformed("there is no p= tag; publish the whole record".to_owned()),
    }
}

/// True where the value of a tag runs on into another tag.
fn holds_further_tag(value: &str) -> bool {
    let mut words = value.split([' ', '\t', ',', '\r', '\n']).skip(1);
    words.any(|word| ["p=", "k=", "h=", "s=", "t="].iter().any(|tag| word.starts_with(tag)))
}

fn semicolon_missing() -> RecordFault {
    RecordFault::Malformed(
        "a semicolon is missing between two tags (RFC 6376 3.2); write `v=DKIM1; k=...; p=...`".to_owned(),
    )
}

/// RFC 6376 3.6.1 k=, RFC 8463 4.1. A record of an unknown type is as if absent.
fn key_type(list: &TagList<'_>) -> Result<SignatureAlgorithm, RecordFault> {
    match list.get("k") {
        None | Some("rsa") => Ok(SignatureAlgorithm::RsaSha256),
        Some("ed25519") => Ok(SignatureAlgorithm::Ed25519Sha256),
        Some(_) => Err(RecordFault::Unusable(
            "k= names a key type that is not known; use k=rsa or k=ed25519, in small letters".to_owned(),
        )),
    }
}

/// RFC 6376 3.6.1 h= and s=, RFC 8301 3.1 and 3.2.
fn check_usable(key: &PublicKey, hashes: Option<&[String]>, services: Option<&[String]>) -> Result<(), RecordFault> {
    if hashes.is_some_and(|h| !h.iter().any(|hash| hash == "sha256")) {
        return Err(RecordFault::Unusable(
            "h= does not allow sha256, written in small letters, the only hash that is accepted (RFC 8301 3.1); remove h=".to_owned(),
        ));
    }
    if services.is_some_and(|s| !s.iter().any(|service| service == "*" || service == "email")) {
        return Err(RecordFault::Unusable(
            "s= does not allow email; write s=email, or remove s= (RFC 6376 3.6.1)".to_owned(),
        ));
    }
    match (key.kind(), key.bits()) {
        (SignatureAlgorithm::RsaSha256, bits @ ..RSA_BITS_MIN) => Err(RecordFault::Unusable(format!(
            "the RSA key has {bits} bits; keys below 1024 bits are not accepted (RFC 8301 3.2), use 2048"
        ))),
        (SignatureAlgorithm::RsaSha256, bits) if bits > RSA_BITS_MAX => Err(RecordFault::Unusable(format!(
            "the RSA key has {bits} bits; receivers do not accept more than 4096, use 2048"
        ))),
        (SignatureAlgorithm::RsaSha256 | SignatureAlgorithm::Ed25519Sha256, _) => Ok(()),
    }
}

fn warnings(list: &TagList<'_>, key: &PublicKey, testing: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if testing {
        warnings
            .push("t=y is test mode: receivers may ignore failures and passes; remove t=y (RFC 6376 3.6.1)".to_owned());
    }
    if key.kind() == SignatureAlgorithm::RsaSha256 && key.bits() < RSA_BITS_GOOD {
        warnings.push(format!("the RSA key has {} bits; use 2048 (RFC 8301 3.2)", key.bits()));
    }
    if list.get("g").is_some() {
        warnings
            .push("g= is obsolete and ignored (RFC 6376 C.2); some old receivers still apply it, remove it".to_owned());
    }
    for tag in list.iter().filter(|tag| tag.name.len() == 1 && "VKPHSTNG".contains(tag.name)) {
        warnings.push(format!("the tag {}= is ignored: tag names are case-sensitive, write it small", tag.name));
    }
    warnings
}

/// Adds what a cut at 255 characters comes from; tells lost + signs from a cut.
fn explain_cut(text: &str, fault: RecordFault) -> RecordFault {
    match fault {
        RecordFault::Truncated(why) if text.len() == STRING_MAX => {
            RecordFault::Truncated(format!("the record ends after 255 characters, the provider truncated it; {why}"))
        }
        RecordFault::Truncated(_) | RecordFault::Malformed(_) if plus_signs_lost(text) => RecordFault::Malformed(
            "p= has spaces where its + signs were: a form has decoded them; publish the value with its + signs"
                .to_owned(),
        ),
        other => other,
    }
}

/// True if p= is a key as soon as its inner spaces are + signs again.
fn plus_signs_lost(text: &str) -> bool {
    let p = text.split(';').filter_map(|tag| tag.split_once('=')).find(|(name, _)| tags::trim(name) == "p");
    let repaired = p.map(|(_, p)| tags::trim(p)).filter(|p| p.contains(' ')).map(|p| p.replace(' ', "+"));
    let is_key = |kind| repaired.as_deref().is_some_and(|p| PublicKey::from_p(kind, p).is_ok());
    is_key(SignatureAlgorithm::RsaSha256) || is_key(SignatureAlgorithm::Ed25519Sha256)
}
