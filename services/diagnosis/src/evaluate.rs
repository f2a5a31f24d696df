//! What a receiver concludes: SPF (RFC 7208), DMARC (RFC 7489, 9989), Authentication-Results (RFC 8601).
//!
//! DKIM is judged by `signpost_dkim`. mail-auth evaluates SPF; alignment and the choice of the DMARC record are computed here from our
//! DKIM results, since mail-auth takes only its own, which have known faults. The organizational domain comes from the Public Suffix
//! List (RFC 7489 3.2).
use crate::dmarc::{self, Alignment};
use crate::dns::{Dns, LookupError, fqdn};
use crate::spf;
use crate::suffix::organizational_domain;
use futures_util::future::join_all;
use signpost_dkim::SigningDomain;
use signpost_dkim::address::parse_single_mailbox;
use signpost_dkim::message::Message;
use signpost_dkim::verify::{DkimResult, KeyAnswer, Verification, Verifier};
use std::collections::HashMap;
use std::net::IpAddr;

/// RFC 8601 2.7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum SpfResult {
    Pass,
    Fail,
    Softfail,
    Neutral,
    None,
    Temperror,
    Permerror,
}

impl SpfResult {
    /// As written in Authentication-Results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Softfail => "softfail",
            Self::Neutral => "neutral",
            Self::None => "none",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }
}

/// RFC 7489 11.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum DmarcResult {
    Pass,
    Fail,
    None,
    Temperror,
    Permerror,
}

impl DmarcResult {
    /// As written in Authentication-Results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::None => "none",
            Self::Temperror => "temperror",
            Self::Permerror => "permerror",
        }
    }
}

/// Which name SPF looked at (RFC 7208 2.3, 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfIdentity {
    /// The domain of the envelope sender.
    MailFrom,
    /// The EHLO name, because the envelope sender is null.
    Helo,
}

/// Facts of an SMTP transaction.
#[derive(Debug, Clone)]
pub struct Transaction<'a> {
    /// Client address.
    pub ip: IpAddr,
    /// EHLO name.
    pub helo: &'a str,
    /// Envelope sender, empty for the null one.
    pub mail_from: &'a str,
}

/// Everything about one message.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Our DKIM results.
    pub dkim: Vec<Verification>,
    /// SPF.
    pub spf: SpfResult,
    /// Domain that SPF looked at.
    pub spf_domain: String,
    /// Where that domain stood.
    pub spf_identity: SpfIdentity,
    /// Why.
    pub spf_reason: Option<String>,
    /// DMARC.
    pub dmarc: DmarcResult,
    /// RFC5322.From domain.
    pub from_domain: Option<String>,
    /// p= that applies: none, quarantine, reject.
    pub dmarc_policy: Option<String>,
    /// One sentence; speaks of alignment where that decided.
    pub dmarc_reason: String,
    /// SPF alignment.
    pub spf_aligned: bool,
    /// DKIM alignment.
    pub dkim_aligned: bool,
}

/// Verifies DKIM with `signpost_dkim`, SPF through mail-auth, DMARC over both. `now` is seconds since the epoch.
/// `raw` has CRLF line ends; a message that cannot be parsed has no DKIM results and a DMARC permerror that says why.
pub async fn evaluate(dns: &Dns, raw: &[u8], transaction: &Transaction<'_>, now: u64) -> Evaluation {
    let parsed = Message::parse(raw).map_err(|error| error.to_string());
    let (dkim, spf) = tokio::join!(
        async {
            match &parsed {
                Ok(message) => verify_dkim(dns, message, now).await,
                Err(_) => Vec::new(),
            }
        },
        evaluate_spf(dns, transaction)
    );
    let from = parsed.as_ref().map_err(Clone::clone).and_then(author_domain);
    let dmarc = evaluate_dmarc(dns, from, &dkim, &spf).await;
    Evaluation {
        dkim,
        spf: spf.result,
        spf_domain: spf.domain,
        spf_identity: spf.identity,
        spf_reason: spf.reason,
        dmarc: dmarc.result,
        from_domain: dmarc.from,
        dmarc_policy: dmarc.policy,
        dmarc_reason: dmarc.reason,
        spf_aligned: dmarc.spf_aligned,
        dkim_aligned: dmarc.dkim_aligned,
    }
}

/// A second opinion on DKIM: mail-auth's results, one word per signature field (`pass`, `fail`, ...), malformed fields first, the others
/// top to bottom. For the sandbox and tests. mail-auth judges x= by the system's clock.
pub async fn second_opinion(dns: &Dns, raw: &[u8]) -> Vec<String> {
    let Some(message) = mail_auth::AuthenticatedMessage::parse(raw) else { return Vec::new() };
    let outputs = mail_auth::MessageAuthenticator(dns.resolver().clone()).verify_dkim(&message).await;
    outputs.iter().map(|output| their_word(output.result()).to_owned()).collect()
}

fn their_word(result: &mail_auth::DkimResult) -> &'static str {
    use mail_auth::DkimResult as Theirs;
    match result {
        Theirs::Pass => "pass",
        Theirs::Neutral(_) => "neutral",
        Theirs::Fail(_) => "fail",
        Theirs::PermError(_) => "permerror",
        Theirs::TempError(_) => "temperror",
        Theirs::None => "none",
    }
}

/// RFC 6376 6.1.2: a name that does not exist is final, no answer is not.
async fn verify_dkim(dns: &Dns, message: &Message<'_>, now: u64) -> Vec<Verification> {
    let verifier = Verifier::new(message);
    let names = verifier.record_names();
    let lookups = names.into_iter().map(|name| async move {
        let answer = match dns.txt(&name).await {
            Ok(texts) => KeyAnswer::Text(texts),
            Err(LookupError::NoName | LookupError::NoData) => KeyAnswer::Absent,
            Err(LookupError::Temporary(reason)) => KeyAnswer::Unavailable(reason),
        };
        (name, answer)
    });
    let answers: HashMap<String, KeyAnswer> = join_all(lookups).await.into_iter().collect();
    let answer = |name: &str| {
        answers.get(name).cloned().unwrap_or_else(|| KeyAnswer::Unavailable(format!("{name} was not asked for")))
    };
    verifier.verify(&answer, now)
}

struct Spf {
    result: SpfResult,
    domain: String,
    identity: SpfIdentity,
    reason: Option<String>,
}

/// RFC 7208 2.4, 4.3 to 4.5.
async fn evaluate_spf(dns: &Dns, transaction: &Transaction<'_>) -> Spf {
    let (identity, written) = match transaction.mail_from.rsplit_once('@') {
        Some((_, domain)) => (SpfIdentity::MailFrom, domain),
        None => (SpfIdentity::Helo, transaction.helo),
    };
    let done = |domain: String, result: SpfResult, reason: Option<String>| Spf { result, domain, identity, reason };
    let Some(domain) = spf_name(written) else {
        return done(
            written.to_owned(),
            SpfResult::None,
            Some("not a domain name that could have an SPF record".to_owned()),
        );
    };
    let texts = match dns.txt(&domain).await {
        Ok(texts) => texts,
        Err(LookupError::NoName | LookupError::NoData) => Vec::new(),
        Err(LookupError::Temporary(reason)) => return done(domain, SpfResult::Temperror, Some(reason)),
    };
    let records: Vec<&String> = texts.iter().filter(|text| spf::is_spf(text)).collect();
    match records.as_slice() {
        [] => {
            let reason = format!("{domain} has no SPF record");
            done(domain, SpfResult::None, Some(reason))
        }
        [record] => {
            let (result, reason) = spf::evaluate_record(dns, &domain, record, transaction).await;
            done(domain, result, reason)
        }
        several => {
            let reason = format!("{domain} has {} SPF records, only one is allowed (RFC 7208 4.5)", several.len());
            done(domain, SpfResult::Permerror, Some(reason))
        }
    }
}

/// The name to ask for, lower-case A-labels; underscores are allowed (RFC 7208 4.3 asks only for a multi-label domain name).
fn spf_name(text: &str) -> Option<String> {
    if text.is_ascii() {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_name =
            text.contains('.') && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        return (is_name && fqdn(&text).is_some() && text.parse::<IpAddr>().is_err()).then_some(text);
    }
    SigningDomain::parse(text).ok().map(|domain| domain.as_str().to_owned())
}

/// RFC 7489 6.6.1: exactly one From field with exactly one mailbox.
fn author_domain(message: &Message<'_>) -> Result<SigningDomain, String> {
    let fields: Vec<_> = message.all("From").collect();
    let [field] = fields.as_slice() else {
        return Err(format!("the message has {} From fields; DMARC needs exactly one (RFC 7489 6.6.1)", fields.len()));
    };
    let value = String::from_utf8_lossy(field.value);
    match parse_single_mailbox(&value) {
        Ok(mailbox) => Ok(mailbox.domain().clone()),
        Err(error) => Err(format!("From does not hold exactly one mailbox (RFC 7489 6.6.1): {error}")),
    }
}

struct Dmarc {
    result: DmarcResult,
    from: Option<String>,
    policy: Option<String>,
    reason: String,
    spf_aligned: bool,
    dkim_aligned: bool,
}

/// What DMARC policy discovery gave (RFC 7489 6.6.3).
enum Found {
    /// The record, and whether it stands at the author domain itself.
    Record(dmarc::Record, bool),
    /// No DMARC for this domain; why.
    Nothing(String),
    /// No answer.
    Unavailable(String),
}

async fn evaluate_dmarc(dns: &Dns, from: Result<SigningDomain, String>, dkim: &[Verification], spf: &Spf) -> Dmarc {
    let from = match from {
        Ok(domain) => domain,
        Err(reason) => {
            return Dmarc {
                result: DmarcResult::Permerror,
                from: None,
                policy: None,
                reason,
                spf_aligned: false,
                dkim_aligned: false,
            };
        }
    };
    let found = discover(dns, &from).await;
    let (adkim, aspf) = match &found {
        Found::Record(record, _) => (record.adkim, record.aspf),
        Found::Nothing(_) | Found::Unavailable(_) => (Alignment::Relaxed, Alignment::Relaxed),
    };
    let aligned_signer = |wanted: DkimResult| {
        dkim.iter()
            .filter(|verification| verification.result == wanted)
            .filter_map(|verification| verification.domain.as_deref())
            .find(|domain| is_aligned(domain, &from, adkim))
    };
    let spf_name_aligned = is_aligned(&spf.domain, &from, aspf);
    let signer = aligned_signer(DkimResult::Pass);
    let spf_aligned = spf.result == SpfResult::Pass && spf_name_aligned;
    let undecided =
        aligned_signer(DkimResult::Temperror).is_some() || (spf.result == SpfResult::Temperror && spf_name_aligned);
    let (result, policy, reason) = match found {
        Found::Nothing(reason) => (DmarcResult::None, None, reason),
        Found::Unavailable(reason) => (DmarcResult::Temperror, None, reason),
        Found::Record(record, at_author) => {
            let policy = if at_author { record.policy } else { record.subdomain_policy };
            let (result, reason) = match signer {
                Some(signer) => (
                    DmarcResult::Pass,
                    format!("DKIM passed for {signer}, which is aligned ({}) with From {from}.", adkim.as_str()),
                ),
                None if spf_aligned => (
                    DmarcResult::Pass,
                    format!("SPF passed for {}, which is aligned ({}) with From {from}.", spf.domain, aspf.as_str()),
                ),
                None if undecided => (
                    DmarcResult::Temperror,
                    format!("A DNS lookup for a name aligned with From {from} got no answer; try again later."),
                ),
                None => (DmarcResult::Fail, failure_reason(&from, dkim, spf, adkim, aspf)),
            };
            (result, Some(policy.as_str().to_owned()), reason)
        }
    };
    Dmarc { result, from: Some(from.as_str().to_owned()), policy, reason, spf_aligned, dkim_aligned: signer.is_some() }
}

/// RFC 7489 6.6.3: at the author domain; only if there is no DMARC record at all, at the organizational domain.
async fn discover(dns: &Dns, from: &SigningDomain) -> Found {
    let organizational = organizational_domain(from).filter(|organizational| organizational != from);
    let mut asked = Vec::new();
    for domain in std::iter::once(from).chain(organizational.as_ref()) {
        let name = format!("_dmarc.{domain}");
        let texts = match dns.txt(&name).await {
            Ok(texts) => texts,
            Err(LookupError::NoName | LookupError::NoData) => Vec::new(),
            Err(LookupError::Temporary(reason)) => return Found::Unavailable(format!("{name}: {reason}.")),
        };
        let records: Vec<&String> = texts.iter().filter(|text| dmarc::is_dmarc(text)).collect();
        match records.as_slice() {
            [] => asked.push(name),
            [record] => {
                return match dmarc::parse(record) {
                    Ok(record) => Found::Record(record, domain == from),
                    Err(fault) => Found::Nothing(format!("The DMARC record at {name} does not apply: {fault}.")),
                };
            }
            several => {
                return Found::Nothing(format!(
                    "{name} has {} DMARC records, so none applies (RFC 7489 6.6.3).",
                    several.len()
                ));
            }
        }
    }
    Found::Nothing(format!("There is no DMARC record at {}.", asked.join(" or ")))
}

/// RFC 7489 3.1: strict is equality, relaxed is the same organizational domain. A public suffix is its own.
fn is_aligned(identifier: &str, from: &SigningDomain, mode: Alignment) -> bool {
    let Ok(identifier) = SigningDomain::parse(identifier) else { return false };
    let organizational = |domain: &SigningDomain| organizational_domain(domain).unwrap_or_else(|| domain.clone());
    match mode {
        Alignment::Strict => identifier == *from,
        Alignment::Relaxed => organizational(&identifier) == organizational(from),
    }
}

fn failure_reason(from: &SigningDomain, dkim: &[Verification], spf: &Spf, adkim: Alignment, aspf: Alignment) -> String {
    let mut passed: Vec<String> = dkim
        .iter()
        .filter(|verification| verification.result == DkimResult::Pass)
        .filter_map(|verification| verification.domain.as_deref())
        .map(|domain| format!("DKIM passed for {domain} ({} alignment)", adkim.as_str()))
        .collect();
    passed.dedup();
    if spf.result == SpfResult::Pass {
        passed.push(format!("SPF passed for {} ({} alignment)", spf.domain, aspf.as_str()));
    }
    if passed.is_empty() {
        return format!(
            "Neither DKIM nor SPF passed, so there is no name whose alignment with From {from} could count."
        );
    }
    format!("No alignment with From {from}: {}, but that is another domain.", passed.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_by_organizational_domain_or_by_name() {
        let from = SigningDomain::parse("sub.example.com").unwrap();
        for (identifier, relaxed, strict) in [
            ("sub.example.com", true, true),
            ("SUB.Example.COM", true, true),
            ("example.com", true, false),
            ("other.example.com", true, false),
            ("badexample.com", false, false),
            ("example.net", false, false),
            ("com", false, false),
            ("", false, false),
        ] {
            assert_eq!(is_aligned(identifier, &from, Alignment::Relaxed), relaxed, "{identifier}");
            assert_eq!(is_aligned(identifier, &from, Alignment::Strict), strict, "{identifier}");
        }
    }

    #[test]
    fn only_domain_names_are_asked_for_spf() {
        assert_eq!(spf_name("Bounce.Example.com.").as_deref(), Some("bounce.example.com"));
        assert_eq!(spf_name("_x.example.com").as_deref(), Some("_x.example.com"));
        assert_eq!(spf_name("b\u{fc}cher.example").as_deref(), Some("xn--bcher-kva.example"));
        for text in ["", "localhost", "[192.0.2.1]", "192.0.2.1", "a b.example", "a..example", "example.com\r\nX: y"] {
            assert_eq!(spf_name(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_author_is_exactly_one_mailbox() {
        let domain = |raw: &str| author_domain(&Message::parse(raw.as_bytes()).unwrap()).map(|d| d.as_str().to_owned());
        assert_eq!(domain("From: Ann <ann@example.com>\r\n\r\n"), Ok("example.com".to_owned()));
        for raw in [
            "Subject: x\r\n\r\n",
            "From: a@example.com\r\nFrom: b@example.com\r\n\r\n",
            "From: a@example.com, b@example.com\r\n\r\n",
            "From: friends: a@example.com;\r\n\r\n",
            "From: nobody\r\n\r\n",
        ] {
            assert!(domain(raw).is_err(), "{raw}");
        }
    }
}
