//! POST /verify and `signpost verify`: what a receiver would conclude about a message. Nothing is stored.
use crate::messages::raw::field_error;
use crate::{Caller, Engine, Error, FieldError, Scope};
use signpost_diagnosis::dns::Dns;
use signpost_diagnosis::evaluate::{Transaction, evaluate, is_spf_name};
use signpost_dkim::message::Message;
use signpost_dkim::verify::MAX_SIGNATURES;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

pub use signpost_diagnosis::evaluate::{DmarcResult, Evaluation, LegacyResult, Policy, PolicySource, SpfResult};
pub use signpost_dkim::verify::{DkimResult, Verification};

/// Verifications under way in one process.
pub(crate) const AT_ONCE: usize = 32;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// A message above this many octets is hashed off the async workers.
const INLINE: usize = 256 * 1024;
/// Signatures that the answer lists; every one beyond `MAX_SIGNATURES` says the same.
const LISTED: usize = 100;
/// Octets of MAIL FROM without its angle brackets (RFC 5321 4.5.3.1.3).
const PATH_MAX: usize = 254;
/// Octets of an EHLO argument (RFC 5321 4.5.3.1.2).
const HELO_MAX: usize = 255;

/// A parameter that cannot be used; Display says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {detail}")]
pub struct ParameterFault {
    /// `ip`, `helo` or `mail_from`.
    pub name: &'static str,
    /// What is wrong and how to mend it.
    pub detail: &'static str,
}

/// What the SMTP session had that brought the message; each part may be unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    ip: Option<IpAddr>,
    helo: String,
    mail_from: String,
}

impl Session {
    /// An absent or empty value is an unknown one; an empty `mail_from` (also `<>`) is the null reverse-path, for which SPF looks at
    /// `helo` (RFC 7208 2.4). `mail_from` may stand in angle brackets.
    pub fn parse(ip: Option<&str>, helo: Option<&str>, mail_from: Option<&str>) -> Result<Self, ParameterFault> {
        let given = |value: Option<&str>| value.map(str::trim).unwrap_or_default().to_owned();
        let (ip, helo, mail_from) = (given(ip), given(helo), given(mail_from));
        let ip = match ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| ParameterFault {
                name: "ip",
                detail: "not an IP address; give the address of the SMTP client, for example 192.0.2.1 or 2001:db8::1",
            })?),
        };
        if !(helo.is_empty() || is_helo(&helo)) {
            let detail = "not an EHLO argument; give a host name, or an address literal in brackets (RFC 5321 4.1.1.1)";
            return Err(ParameterFault { name: "helo", detail });
        }
        let mail_from = mail_from.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(&mail_from).to_owned();
        if !(mail_from.is_empty() || is_reverse_path(&mail_from)) {
            let detail =
                "not an envelope sender; give local-part@domain, or nothing for the null reverse-path (RFC 5321 4.1.2)";
            return Err(ParameterFault { name: "mail_from", detail });
        }
        Ok(Self { ip, helo, mail_from })
    }

    fn transaction(&self) -> Transaction<'_> {
        Transaction { ip: self.ip, helo: &self.helo, mail_from: &self.mail_from }
    }
}

/// RFC 5321 4.1.3; brackets around either family.
fn is_address_literal(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else { return false };
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).and_then(|_| inner.get(5..));
    v6.map_or_else(|| inner.parse::<IpAddr>().is_ok(), |v6| v6.parse::<Ipv6Addr>().is_ok())
}

/// RFC 5321 4.1.1.1, and what clients really say: single labels, underscores, bare addresses.
fn is_helo(text: &str) -> bool {
    let label = |label: &str| label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    text.len() <= HELO_MAX
        && (is_address_literal(text)
            || text.parse::<IpAddr>().is_ok()
            || is_spf_name(text)
            || text.strip_suffix('.').unwrap_or(text).split('.').all(|part| !part.is_empty() && label(part)))
}

/// RFC 5321 4.1.2: dot-string or quoted string, then a domain or an address literal.
fn is_reverse_path(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let domain_fits = is_spf_name(domain) || is_address_literal(domain);
    // The local part is judged with a domain that always fits.
    let local_fits = signpost_dkim::Mailbox::parse_address(&format!("{local}@example.com")).is_ok();
    text.len() <= PATH_MAX && domain_fits && local_fits
}

impl Engine {
    /// POST /verify. Scope messages:read. `RateLimited` where too many verifications are under way.
    pub async fn verify(&self, caller: &Caller, raw: Vec<u8>, session: Session) -> Result<VerifiedMessage, Error> {
        caller.require(Scope::MessagesRead)?;
        let turn = tokio::time::timeout(TURN, self.inner.verifications.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Error::RateLimited { retry_after: TURN.as_secs() }) };
        let (dns, hostname) = (self.inner.dns.clone(), self.inner.settings.hostname.clone());
        let now = self.inner.clock.now_s();
        if raw.len() <= INLINE {
            return verify_message(&dns, &hostname, raw, &session, now).await;
        }
        let runtime = tokio::runtime::Handle::current();
        let work = move || runtime.block_on(verify_message(&dns, &hostname, raw, &session, now));
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
    }
}

/// What was concluded, with the Authentication-Results value.
#[derive(Debug, Clone)]
pub struct VerifiedMessage {
    /// The results; of DKIM at most 100.
    pub evaluation: Evaluation,
    /// The value of the Authentication-Results field (RFC 8601 2.2), on one line.
    pub authentication_results: String,
}

/// Evaluates a message as it was stored or received: LF line ends are read as CRLF, the `From ` line of a mailbox file and a
/// byte order mark before the header are left out, everything else is judged as it is. `authserv_id` names the judge; `now` is
/// seconds since the epoch. `Invalid` if it is no message.
pub async fn verify_message(
    dns: &Dns,
    authserv_id: &str,
    raw: Vec<u8>,
    session: &Session,
    now: u64,
) -> Result<VerifiedMessage, Error> {
    if raw.iter().all(u8::is_ascii_whitespace) {
        let detail = "the message is empty: send its header and body as they were received";
        return Err(Error::Invalid(vec![FieldError::in_message(None, detail)]));
    }
    let (raw, had_bare_lf) = as_transmitted(raw);
    Message::parse(&raw).map_err(|error| Error::Invalid(vec![field_error(&error)]))?;
    let mut evaluation = evaluate(dns, &raw, &session.transaction(), now).await;
    limit(&mut evaluation);
    if had_bare_lf {
        note_line_ends(&mut evaluation);
    }
    let authentication_results = evaluation.authentication_results(authserv_id);
    Ok(VerifiedMessage { evaluation, authentication_results })
}

/// The octets as SMTP would have carried them (RFC 5321 2.3.8); true if there was an LF without CR.
fn as_transmitted(raw: Vec<u8>) -> (Vec<u8>, bool) {
    let kept = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&raw);
    let kept = without_mailbox_line(kept);
    let bare = bare_line_feeds(kept);
    if bare == 0 {
        return if kept.len() == raw.len() { (raw, false) } else { (kept.to_vec(), false) };
    }
    let mut out = Vec::with_capacity(kept.len() + bare);
    for line in kept.split_inclusive(|&b| b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(content) if !content.ends_with(b"\r") => {
                out.extend_from_slice(content);
                out.extend_from_slice(b"\r\n");
            }
            Some(_) | None => out.extend_from_slice(line),
        }
    }
    (out, true)
}

fn bare_line_feeds(raw: &[u8]) -> usize {
    let mut previous = 0;
    raw.iter()
        .filter(|&&b| {
            let bare = b == b'\n' && previous != b'\r';
            previous = b;
            bare
        })
        .count()
}

/// RFC 4155: the line before a message in a mailbox file; a field named `From` with white space before its colon is none.
fn without_mailbox_line(raw: &[u8]) -> &[u8] {
    match raw.strip_prefix(b"From ") {
        Some(rest) if !rest.trim_ascii_start().starts_with(b":") => {
            let end = raw.iter().position(|&b| b == b'\n').map_or(raw.len(), |at| at + 1);
            raw.get(end..).unwrap_or_default()
        }
        Some(_) | None => raw,
    }
}

/// A message may have any number of DKIM-Signature fields.
fn limit(evaluation: &mut Evaluation) {
    let more = evaluation.dkim.len().saturating_sub(LISTED);
    evaluation.dkim.truncate(LISTED);
    if let Some(last) = evaluation.dkim.last_mut().filter(|_| more > 0) {
        last.reason = Some(format!(
            "not looked at: a message has at most {MAX_SIGNATURES} signatures that count; {more} more are not listed"
        ));
    }
}

/// Where the assumption about line ends may be why.
fn note_line_ends(evaluation: &mut Evaluation) {
    for verification in &mut evaluation.dkim {
        if let (DkimResult::Fail, Some(reason)) = (verification.result, &mut verification.reason) {
            reason.push_str("; line ends without CR were read as CRLF");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_taken_or_the_parameter_is_named() {
        for (ip, helo, mail_from) in [
            ("192.0.2.1", "mail.example.com", "ann@example.com"),
            ("2001:db8::1", "[192.0.2.1]", "<ann@example.com>"),
            ("::ffff:192.0.2.1", "[IPv6:2001:db8::1]", "<>"),
            ("", "localhost", ""),
            ("", "my_host", "\"a b\"@example.com"),
            ("", "192.0.2.1", "x@[192.0.2.1]"),
            ("", "", "bounce+1=bob=x.example@_b.example.com"),
            ("", "b\u{fc}cher.example", "a@b\u{fc}cher.example"),
        ] {
            let session = Session::parse(Some(ip), Some(helo), Some(mail_from));
            assert!(session.is_ok(), "{ip} {helo} {mail_from}: {session:?}");
        }
        let long = format!("{}@example.com", "a.".repeat(200));
        for (name, value) in [
            ("ip", "192.0.2"),
            ("ip", "192.0.2.1/24"),
            ("ip", "192.0.2.1:25"),
            ("ip", "example.com"),
            ("helo", "a b"),
            ("helo", "a\r\nX: y"),
            ("helo", "[300.0.2.1]"),
            ("helo", "a..b"),
            ("helo", "a;b"),
            ("mail_from", "ann"),
            ("mail_from", "@example.com"),
            ("mail_from", "ann@"),
            ("mail_from", "a b@example.com"),
            ("mail_from", "ann@example.com, bob@example.com"),
            ("mail_from", "Ann <ann@example.com>"),
            ("mail_from", "ann@exa\r\nmple.com"),
            ("mail_from", "ann@[here]"),
            ("mail_from", long.as_str()),
        ] {
            let part = |wanted: &str| (name == wanted).then_some(value);
            let fault = Session::parse(part("ip"), part("helo"), part("mail_from")).expect_err(value);
            assert_eq!(fault.name, name, "{value}");
        }
        assert_eq!(Session::parse(None, None, Some("<>")), Ok(Session::default()));
    }

    #[test]
    fn line_ends_mailbox_line_and_mark_are_not_part_of_the_message() {
        for (raw, expected, bare) in [
            ("A: b\r\n\r\nc\r\n", "A: b\r\n\r\nc\r\n", false),
            ("A: b\n\nc\n", "A: b\r\n\r\nc\r\n", true),
            ("A: b\r\n\r\nc\nd\r\n", "A: b\r\n\r\nc\r\nd\r\n", true),
            ("From ann Mon Jan  1 00:00:00 2024\nA: b\n\nc", "A: b\r\n\r\nc", true),
            ("From ann Mon Jan  1 00:00:00 2024\r\nA: b\r\n", "A: b\r\n", false),
            ("From : a@example.com\r\n", "From : a@example.com\r\n", false),
            ("\u{feff}A: b\r\n", "A: b\r\n", false),
            ("A: b\r\n\r\nc\rd\0\r\n", "A: b\r\n\r\nc\rd\0\r\n", false),
            ("From ann", "", false),
        ] {
            let (octets, had_bare) = as_transmitted(raw.as_bytes().to_vec());
            assert_eq!((String::from_utf8(octets).unwrap().as_str(), had_bare), (expected, bare), "{raw:?}");
        }
    }
}
