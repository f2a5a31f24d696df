//! The DKIM-Signature field, read (RFC 6376 3.5, 6.1.1).
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::canonical::Canonicalization;
use crate::encoded_word::hex;
use crate::message::{Field, is_field_name};
use crate::names::{SignatureAlgorithm, SigningDomain};
use crate::tags::{self, TagList};

/// A signature whose field can be processed.
#[derive(Debug)]
pub(crate) struct Signature<'a> {
    pub(crate) algorithm: SignatureAlgorithm,
    pub(crate) header: Canonicalization,
    pub(crate) body: Canonicalization,
    pub(crate) domain: SigningDomain,
    /// s= in lower-case A-labels, for the lookup.
    pub(crate) selector: String,
    /// The domain of i=.
    pub(crate) agent_domain: SigningDomain,
    pub(crate) signed_names: Vec<&'a str>,
    pub(crate) body_hash: [u8; 32],
    pub(crate) signature: Vec<u8>,
    pub(crate) body_limit: Option<u64>,
    pub(crate) signed_at: Option<u64>,
    pub(crate) expires_at: Option<u64>,
    /// All octets of the field.
    pub(crate) raw: &'a [u8],
    /// The same without the value of b= (RFC 6376 3.7).
    pub(crate) without_b: Vec<u8>,
}

/// What a result says about a field, whether or not it can be processed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) domain: Option<String>,
    /// i= as written.
    pub(crate) agent: Option<String>,
    pub(crate) selector: Option<String>,
    pub(crate) algorithm: Option<String>,
    /// The beginning of b= without white space.
    pub(crate) b: Option<String>,
}

/// Tags without which a signature means nothing (RFC 6376 3.5).
const REQUIRED: [&str; 7] = ["v", "a", "b", "bh", "d", "h", "s"];
/// RFC 6376 3.5 t=, x=: up to 12 digits; more is taken as this, which is beyond every clock.
const TIME_MAX: u64 = 999_999_999_999;

/// Reads a field; the second part is why it can never verify.
pub(crate) fn parse<'a>(field: &Field<'a>) -> (Labels, Result<Signature<'a>, String>) {
    let list = std::str::from_utf8(field.value)
        .map_err(|_| "it has octets that are not UTF-8".to_owned())
        .and_then(|value| TagList::parse(value).map_err(|e| e.to_string()));
    match list {
        Err(why) => (Labels::default(), Err(format!("bad signature syntax (RFC 6376 3.2): {why}"))),
        Ok(list) => (labels(&list), read(field, &list)),
    }
}

/// Characters of b= that are kept to tell signatures apart.
const PREFIX_MAX: usize = 64;

/// Only text that may stand in another header field as it is.
fn labels(list: &TagList<'_>) -> Labels {
    let plain = |name, also: &str| {
        let value = list.get(name)?;
        (value.chars().all(|c| c.is_alphanumeric() || also.contains(c)) && !value.is_empty()).then(|| value.to_owned())
    };
    Labels {
        domain: list.get("d").and_then(|d| SigningDomain::parse(d).ok()).map(|d| d.as_str().to_owned()),
        agent: plain("i", "@-_.+"),
        selector: plain("s", "-_."),
        algorithm: plain("a", "-_"),
        b: list
            .get("b")
            .map(|b| tags::without_fws(b).chars().take(PREFIX_MAX).collect::<String>())
            .filter(|b| !b.is_empty() && b.bytes().all(|c| c.is_ascii_alphanumeric() || b"+/=".contains(&c))),
    }
}

/// RFC 6376 6.1.1, in the order of 3.5.
fn read<'a>(field: &Field<'a>, list: &TagList<'a>) -> Result<Signature<'a>, String> {
    if let Some(missing) = REQUIRED.iter().find(|name| list.get(name).is_none()) {
        return Err(format!("the required tag {missing}= is missing (RFC 6376 3.5)"));
    }
    let get = |name| list.get(name).unwrap_or_default();
    if get("v") != "1" {
        return Err("v= is not 1 (RFC 6376 3.5)".to_owned());
    }
    let algorithm = algorithm(get("a"))?;
    let signature = decode_base64("b", get("b"))?;
    let body_hash = decode_base64("bh", get("bh"))?
        .try_into()
        .map_err(|_| "bh= is not a SHA-256 hash of 32 octets (RFC 6376 3.5)".to_owned())?;
    let (header, body) = canonicalizations(list.get("c"))?;
    let domain = SigningDomain::parse(get("d")).map_err(|e| format!("d= is not a domain: {e}"))?;
    let signed_names = signed_names(get("h"))?;
    let agent_domain = agent_domain(list.get("i"), &domain)?;
    check_query_methods(list.get("q"))?;
    let selector = selector(get("s"), &domain)?;
    let signed_at = list.get("t").map(|t| number("t", t, 12)).transpose()?;
    let expires_at = list.get("x").map(|x| number("x", x, 12)).transpose()?;
    if let (Some(t), Some(x)) = (signed_at, expires_at)
        && x <= t
    {
        return Err("x= is not later than t= (RFC 6376 3.5)".to_owned());
    }
    Ok(Signature {
        algorithm,
        header,
        body,
        domain,
        selector,
        agent_domain,
        signed_names,
        body_hash,
        signature,
        body_limit: list.get("l").map(|l| number("l", l, 76)).transpose()?,
        signed_at: signed_at.map(|t| t.min(TIME_MAX)),
        expires_at: expires_at.map(|x| x.min(TIME_MAX)),
        raw: field.raw,
        without_b: without_b(field, list),
    })
}

/// RFC 8301 3.1: rsa-sha1 must not be verified any more.
fn algorithm(a: &str) -> Result<SignatureAlgorithm, String> {
    match a {
        "rsa-sha256" => Ok(SignatureAlgorithm::RsaSha256),
        "ed25519-sha256" => Ok(SignatureAlgorithm::Ed25519Sha256),
        "rsa-sha1" => Err("a=rsa-sha1 is historic and never accepted (RFC 8301 3.1)".to_owned()),
        _ => Err("a= names an algorithm that is not known".to_owned()),
    }
}

/// RFC 6376 2.10: white space inside is ignored.
fn decode_base64(name: &str, value: &str) -> Result<Vec<u8>, String> {
    let octets = STANDARD.decode(tags::without_fws(value)).map_err(|_| format!("{name}= is not base64"))?;
    match octets.is_empty() {
        true => Err(format!("{name}= is empty")),
        false => Ok(octets),
    }
}

/// RFC 6376 3.5 c=: simple/simple by default, and simple for the body where only one is named.
fn canonicalizations(c: Option<&str>) -> Result<(Canonicalization, Canonicalization), String> {
    let Some(c) = c else { return Ok((Canonicalization::Simple, Canonicalization::Simple)) };
    let (header, body) = c.split_once('/').unwrap_or((c, "simple"));
    match (Canonicalization::parse(tags::trim(header)), Canonicalization::parse(tags::trim(body))) {
        (Some(header), Some(body)) => Ok((header, body)),
        (None, _) | (_, None) => Err("c= names a canonicalization that is not known (RFC 6376 3.5)".to_owned()),
    }
}

/// RFC 6376 3.5 h=, 6.1.1: From must be among them. FWS may stand around the colons.
fn signed_names(h: &str) -> Result<Vec<&str>, String> {
    let names: Vec<&str> = tags::colon_list(h).collect();
    if !names.iter().all(|name| is_field_name(name)) {
        return Err("h= is not a list of field names (RFC 6376 3.5)".to_owned());
    }
    match names.iter().any(|name| name.eq_ignore_ascii_case("from")) {
        true => Ok(names),
        false => Err("From is not signed: h= does not name it (RFC 6376 6.1.1)".to_owned()),
    }
}

/// RFC 6376 3.5 i=, 6.1.1: its domain is d= or lies below it, compared label by label; absent, it is `@` and d=.
fn agent_domain(i: Option<&str>, domain: &SigningDomain) -> Result<SigningDomain, String> {
    let Some(i) = i else { return Ok(domain.clone()) };
    let decoded =
        decode_quoted_printable(i).ok_or_else(|| "i= is not dkim-quoted-printable (RFC 6376 2.11)".to_owned())?;
    let (_, agent) = decoded.rsplit_once('@').ok_or_else(|| "i= has no @ (RFC 6376 3.5)".to_owned())?;
    let agent = SigningDomain::parse(agent).map_err(|e| format!("the domain of i= is not valid: {e}"))?;
    match agent.is_at_or_below(domain) {
        true => Ok(agent),
        false => Err("domain mismatch: the domain of i= is not d= or below it (RFC 6376 6.1.1)".to_owned()),
    }
}

/// RFC 6376 2.11.
fn decode_quoted_printable(text: &str) -> Option<String> {
    let text = tags::without_fws(text);
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        octets.push(match b {
            b'=' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            _ => b,
        });
    }
    String::from_utf8(octets).ok()
}

/// RFC 6376 3.5 q=: unknown methods are ignored; dns/txt must be among the known ones.
fn check_query_methods(q: Option<&str>) -> Result<(), String> {
    match q {
        Some(q) if !tags::colon_list(q).any(|method| method == "dns/txt") => {
            Err("q= does not offer dns/txt (RFC 6376 3.5)".to_owned())
        }
        Some(_) | None => Ok(()),
    }
}

/// RFC 6376 3.1. Lenient where DNS can still answer: underscores and hyphens at an edge are looked up. U-labels: RFC 8616 5.
fn selector(s: &str, domain: &SigningDomain) -> Result<String, String> {
    let bad = || "s= is not a selector: labels of 1 to 63 letters, digits, hyphens (RFC 6376 3.1)".to_owned();
    if s.len() > 1024 {
        return Err(bad());
    }
    let ascii = Uts46::new()
        .to_ascii(s.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Verify)
        .map_err(|_| bad())?
        .to_ascii_lowercase();
    if !ascii.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(bad());
    }
    // RFC 1035 2.3.4.
    match record_name(&ascii, domain).len() <= 253 {
        true => Ok(ascii),
        false => Err("s= and d= together are too long for a DNS name".to_owned()),
    }
}

/// RFC 6376 3.6.2.1.
pub(crate) fn record_name(selector: &str, domain: &SigningDomain) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// A decimal of at most so many digits (RFC 6376 3.5 l=, t=, x=); one too large for us is the largest that we have.
fn number(name: &str, text: &str, digits: usize) -> Result<u64, String> {
    if text.is_empty() || text.len() > digits || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{name}= is not a number of 1 to {digits} digits (RFC 6376 3.5)"));
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

/// RFC 6376 3.5 b=, 3.7: the value goes, with all white space around it.
fn without_b(field: &Field<'_>, list: &TagList<'_>) -> Vec<u8> {
    let span = list.tag("b").map(|b| b.span.clone()).unwrap_or_default();
    let start = field.raw.iter().position(|&b| b == b':').map_or(0, |colon| colon + 1);
    let mut octets = Vec::with_capacity(field.raw.len());
    octets.extend_from_slice(&field.raw[..start + span.start]);
    octets.extend_from_slice(&field.raw[start + span.end..]);
    octets
}
