//! What a receiver concludes: SPF (RFC 7208), DMARC (RFC 9989, RFC 7489), Authentication-Results (RFC 8601).
//!
//! DKIM is judged by `signpost_dkim`. mail-auth evaluates SPF; alignment and the choice of the DMARC record are our own, in
//! `alignment.rs` and `discovery.rs`, since mail-auth takes only its own DKIM results, which have known faults.
use crate::alignment::{self, Author, Identifiers};
use crate::discovery::Lookups;
use crate::dns::{Dns, LookupError, fqdn};
use crate::spf;
use futures_util::future::join_all;
use signpost_dkim::SigningDomain;
use signpost_dkim::message::Message;
use signpost_dkim::verify::{KeyAnswer, Verification, Verifier};
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

pub use crate::dmarc::{Policy, PolicySource, wants_strict_dkim};

/// How long each of the two rounds of questions may take (keys, SPF and the author's DMARC record; then what alignment needs): a
/// receiver holds a connection open meanwhile.
const ROUND: Duration = Duration::from_secs(5);

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

/// RFC 9989 9.1, RFC 7489 11.2.
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

/// What receivers say that follow RFC 7489 and the Public Suffix List.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyResult {
    /// An aligned name passed.
    Pass,
    /// None did.
    Fail,
    /// No record applies, or it cannot be told.
    None,
}

impl LegacyResult {
    /// As in Authentication-Results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::None => "none",
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
    /// Client address; without it SPF is not evaluated.
    pub ip: Option<IpAddr>,
    /// EHLO name, empty if unknown.
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
    /// The policy that applies.
    pub dmarc_policy: Option<Policy>,
    /// The tag it comes from.
    pub dmarc_policy_source: Option<PolicySource>,
    /// The domain whose record it is.
    pub dmarc_policy_domain: Option<String>,
    /// Organizational domain of From by the tree walk (RFC 9989 4.10.2).
    pub organizational_domain: Option<String>,
    /// What receivers of the older kind say.
    pub legacy_result: LegacyResult,
    /// One sentence; speaks of alignment where that decided.
    pub dmarc_reason: String,
    /// SPF alignment.
    pub spf_aligned: bool,
    /// DKIM alignment.
    pub dkim_aligned: bool,
}

/// Verifies DKIM with `signpost_dkim`, SPF through mail-auth, DMARC over both. `now` is seconds since the epoch.
/// `raw` has CRLF line ends; a message that cannot be parsed has no DKIM results and a DMARC permerror that says why.
/// Takes at most twice `ROUND`; what has no answer by then is a temperror.
pub async fn evaluate(dns: &Dns, raw: &[u8], transaction: &Transaction<'_>, now: u64) -> Evaluation {
    let parsed = Message::parse(raw).map_err(|error| format!("The message cannot be read: {error}."));
    let author = parsed.as_ref().map_err(Clone::clone).and_then(alignment::author);
    let mut lookups = Lookups::new(dns, ROUND);
    let (dkim, spf, ()) = tokio::join!(
        async {
            match &parsed {
                Ok(message) => verify_dkim(dns, message, now).await,
                Err(_) => Vec::new(),
            }
        },
        evaluate_spf(dns, transaction),
        async {
            if let Ok(Author::Domain(domain)) = &author {
                lookups.walk(domain).await;
            }
        }
    );
    let identifiers = Identifiers::new(&dkim, spf.result, &spf.domain);
    let dmarc = alignment::evaluate(&mut lookups, dns, author, &identifiers, ROUND).await;
    Evaluation {
        dkim,
        spf: spf.result,
        spf_domain: spf.domain,
        spf_identity: spf.identity,
        spf_reason: spf.reason,
        dmarc: dmarc.result,
        from_domain: dmarc.from,
        dmarc_policy: dmarc.policy.as_ref().map(|found| found.policy),
        dmarc_policy_source: dmarc.policy.as_ref().map(|found| found.source),
        dmarc_policy_domain: dmarc.policy.map(|found| found.domain),
        organizational_domain: dmarc.organizational_domain,
        legacy_result: dmarc.legacy,
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
        let answer = match tokio::time::timeout(ROUND, dns.txt(&name)).await {
            Ok(Ok(texts)) => KeyAnswer::Text(texts),
            Ok(Err(LookupError::NoName | LookupError::NoData)) => KeyAnswer::Absent,
            Ok(Err(LookupError::Temporary(reason))) => KeyAnswer::Unavailable(format!("{name}: {reason}")),
            Err(_elapsed) => KeyAnswer::Unavailable(format!("{name}: no answer in time")),
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

/// The name that SPF looks at (RFC 7208 2.3, 2.4): the domain of the envelope sender or, where that is null, the EHLO name.
fn spf_identity<'a>(transaction: &Transaction<'a>) -> (SpfIdentity, &'a str) {
    match transaction.mail_from.rsplit_once('@') {
        Some((_, domain)) => (SpfIdentity::MailFrom, domain),
        None => (SpfIdentity::Helo, transaction.helo),
    }
}

/// RFC 7208 2.4, 4.3 to 4.5.
async fn evaluate_spf(dns: &Dns, transaction: &Transaction<'_>) -> Spf {
    let (identity, written) = spf_identity(transaction);
    let domain = spf_name(written);
    let shown = domain.clone().unwrap_or_else(|| written.to_owned());
    let none = |reason: &str| (SpfResult::None, Some(reason.to_owned()));
    let (result, reason) = match (transaction.ip, domain) {
        (None, _) => none("SPF was not evaluated: the address of the client that sent the message was not given"),
        (Some(_), None) if written.is_empty() => {
            none("the envelope sender is null and the EHLO name is not known, so there is no name with an SPF record")
        }
        (Some(_), None) => none("not a domain name that could have an SPF record"),
        (Some(ip), Some(domain)) => {
            tokio::time::timeout(ROUND, check_host(dns, &domain, ip, transaction)).await.unwrap_or_else(|_| {
                (SpfResult::Temperror, Some(format!("the SPF record of {domain} took too long to evaluate")))
            })
        }
    };
    Spf { result, domain: shown, identity, reason }
}

/// RFC 7208 4.4, 4.5: the record of `domain`, and what it says.
async fn check_host(dns: &Dns, domain: &str, ip: IpAddr, transaction: &Transaction<'_>) -> (SpfResult, Option<String>) {
    let texts = match dns.txt(domain).await {
        Ok(texts) => texts,
        Err(LookupError::NoName | LookupError::NoData) => Vec::new(),
        Err(LookupError::Temporary(reason)) => {
            return (SpfResult::Temperror, Some(format!("the SPF record of {domain} could not be fetched: {reason}")));
        }
    };
    let records: Vec<&String> = texts.iter().filter(|text| spf::is_spf(text)).collect();
    match records.as_slice() {
        [] => (SpfResult::None, Some(format!("{domain} has no SPF record"))),
        [record] => spf::evaluate_record(dns, domain, record, ip, transaction).await,
        several => (
            SpfResult::Permerror,
            Some(format!("{domain} has {} SPF records, only one is allowed (RFC 7208 4.5)", several.len())),
        ),
    }
}

/// True for what SPF can look at as a domain name (RFC 7208 4.3).
pub fn is_spf_name(text: &str) -> bool {
    spf_name(text).is_some()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_domain_names_are_asked_for_spf() {
        assert_eq!(spf_name("Bounce.Example.com.").as_deref(), Some("bounce.example.com"));
        assert_eq!(spf_name("_x.example.com").as_deref(), Some("_x.example.com"));
        assert_eq!(spf_name("b\u{fc}cher.example").as_deref(), Some("xn--bcher-kva.example"));
        for text in ["", "localhost", "[192.0.2.1]", "192.0.2.1", "a b.example", "a..example", "example.com\r\nX: y"] {
            assert_eq!(spf_name(text), None, "{text:?}");
        }
    }
}
