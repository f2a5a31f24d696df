//! DMARC over the results of DKIM and SPF: the author domain, the record that applies, alignment (RFC 9989 4.10, 4.11, 5.3), and what
//! receivers that still follow RFC 7489 would say.
use crate::discovery::{self, Answer, Lookups, Walk};
use crate::dmarc::{Alignment, Policy, PolicySource, Record};
use crate::dns::Dns;
use crate::evaluate::{DmarcResult, LegacyResult, SpfResult};
use crate::suffix::organizational_domain;
use signpost_dkim::SigningDomain;
use signpost_dkim::address::{Address, parse_address_list, parse_single_mailbox};
use signpost_dkim::message::Message;
use signpost_dkim::verify::{DkimResult, Verification};
use std::time::Duration;

/// Domains of several authors that are looked at for receivers that follow RFC 7489.
const AUTHORS_MAX: usize = 5;

/// Who the message says it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Author {
    /// One domain, of one or several mailboxes.
    Domain(SigningDomain),
    /// Mailboxes of different domains.
    Domains(Vec<SigningDomain>),
}

/// RFC 9989 5.3.1, RFC 7489 6.6.1: one From field; several mailboxes of one domain count as that domain.
pub(crate) fn author(message: &Message<'_>) -> Result<Author, String> {
    let fields: Vec<_> = message.all("From").collect();
    let [field] = fields.as_slice() else {
        let found =
            if fields.is_empty() { "no From field".to_owned() } else { format!("{} From fields", fields.len()) };
        return Err(format!("The message has {found}; DMARC needs exactly one (RFC 7489 6.6.1, RFC 5322 3.6)."));
    };
    let value = String::from_utf8_lossy(field.value);
    let error = match parse_single_mailbox(&value) {
        Ok(mailbox) => return Ok(Author::Domain(mailbox.domain().clone())),
        Err(error) => error,
    };
    match several_authors(&value).as_deref() {
        Some([only]) => Ok(Author::Domain(only.clone())),
        Some(several) => Ok(Author::Domains(several.to_vec())),
        None => Err(format!("From does not hold mailboxes that DMARC could be applied to (RFC 7489 6.6.1): {error}.")),
    }
}

/// The domains of a list of at least two mailboxes, each once.
fn several_authors(value: &str) -> Option<Vec<SigningDomain>> {
    let list = parse_address_list(value).ok().filter(|list| list.len() > 1)?;
    let domain = |address: &Address| match address {
        Address::Mailbox(mailbox) => Some(mailbox.domain().clone()),
        Address::Group { .. } => None,
    };
    let mut domains: Vec<SigningDomain> = list.iter().map(domain).collect::<Option<_>>()?;
    domains.sort();
    domains.dedup();
    Some(domains)
}

/// What DKIM and SPF said, as far as DMARC looks at it. A name that is no domain name is aligned with nothing.
pub(crate) struct Identifiers {
    dkim: Vec<(DkimResult, SigningDomain)>,
    spf: (SpfResult, Option<SigningDomain>),
}

impl Identifiers {
    /// Only results that count: pass, and temperror, which leaves it open.
    pub(crate) fn new(dkim: &[Verification], spf: SpfResult, spf_domain: &str) -> Self {
        let mut names: Vec<(DkimResult, SigningDomain)> = Vec::new();
        for verification in dkim.iter().filter(|v| matches!(v.result, DkimResult::Pass | DkimResult::Temperror)) {
            if let Some(domain) = verification.domain.as_deref().and_then(|domain| SigningDomain::parse(domain).ok()) {
                let entry = (verification.result, domain);
                if !names.contains(&entry) {
                    names.push(entry);
                }
            }
        }
        Self { dkim: names, spf: (spf, SigningDomain::parse(spf_domain).ok()) }
    }

    fn signers(&self, wanted: DkimResult) -> impl Iterator<Item = &SigningDomain> {
        self.dkim.iter().filter(move |(result, _)| *result == wanted).map(|(_, domain)| domain)
    }

    fn sender(&self, wanted: SpfResult) -> Option<&SigningDomain> {
        self.spf.1.as_ref().filter(|_| self.spf.0 == wanted)
    }
}

/// The policy and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundPolicy {
    pub(crate) policy: Policy,
    pub(crate) source: PolicySource,
    pub(crate) domain: String,
}

/// What DMARC says.
pub(crate) struct Dmarc {
    pub(crate) result: DmarcResult,
    pub(crate) from: Option<String>,
    pub(crate) policy: Option<FoundPolicy>,
    pub(crate) organizational_domain: Option<String>,
    pub(crate) reason: String,
    pub(crate) spf_aligned: bool,
    pub(crate) dkim_aligned: bool,
    pub(crate) legacy: LegacyResult,
}

impl Dmarc {
    /// Nothing to apply a record to.
    fn without_domain(result: DmarcResult, reason: String, legacy: LegacyResult) -> Self {
        Self {
            result,
            from: None,
            policy: None,
            organizational_domain: None,
            reason,
            spf_aligned: false,
            dkim_aligned: false,
            legacy,
        }
    }
}

/// RFC 9989 5.3. Everything that is still to be asked is asked at once; `time` bounds it.
pub(crate) async fn evaluate(
    lookups: &mut Lookups<'_>,
    dns: &Dns,
    author: Result<Author, String>,
    identifiers: &Identifiers,
    time: Duration,
) -> Dmarc {
    match author {
        Err(reason) => Dmarc::without_domain(DmarcResult::Permerror, reason, LegacyResult::None),
        Ok(Author::Domains(domains)) => several_domains(lookups, &domains, identifiers).await,
        Ok(Author::Domain(domain)) => {
            let walk = lookups.walk(&domain).await;
            let names = further_names(&walk, &domain, identifiers);
            let ((), exists) = tokio::join!(lookups.fetch(names), author_exists(&walk, dns, &domain, time));
            let mut dmarc = one_domain(lookups, &walk, &domain, identifiers, exists).await;
            dmarc.legacy = legacy_result(lookups, &domain, identifiers);
            dmarc.reason = with_legacy_note(dmarc.reason, dmarc.result, dmarc.legacy);
            dmarc
        }
    }
}

/// What alignment will ask about: the walks of the names that may be aligned, and where older receivers look.
fn further_names(walk: &Walk, from: &SigningDomain, identifiers: &Identifiers) -> Vec<String> {
    let named = identifiers.dkim.iter().map(|(_, domain)| domain).chain(&identifiers.spf.1);
    let mut names: Vec<String> = named
        .filter(|domain| is_at_or_below(domain.as_str(), walk.organizational_domain()))
        .flat_map(|domain| discovery::walk_names(domain.as_str()))
        .collect();
    names.extend(legacy_places(from).map(|place| place.as_str().to_owned()));
    names
}

/// Asked only where np= makes a difference; a domain of which nothing is known counts as one that exists.
async fn author_exists(walk: &Walk, dns: &Dns, from: &SigningDomain, time: Duration) -> bool {
    let matters = walk.policy_record().is_some_and(|(at, record)| at != from.as_str() && record.nonexistent.is_some());
    !matters || discovery::exists(dns, from.as_str(), time).await
}

fn is_at_or_below(name: &str, ancestor: &str) -> bool {
    name.strip_suffix(ancestor).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// RFC 9989 5.3.1 exempts mail of authors in several domains; RFC 7489 6.6.1 applies the strictest of their policies.
async fn several_domains(lookups: &mut Lookups<'_>, domains: &[SigningDomain], identifiers: &Identifiers) -> Dmarc {
    let considered = domains.iter().take(AUTHORS_MAX);
    lookups.fetch(considered.clone().flat_map(legacy_places).map(|place| place.as_str().to_owned())).await;
    let legacy: Vec<LegacyResult> = considered.map(|domain| legacy_result(lookups, domain, identifiers)).collect();
    let strictest =
        [LegacyResult::Fail, LegacyResult::None, LegacyResult::Pass].into_iter().find(|r| legacy.contains(r));
    let legacy = strictest.unwrap_or(LegacyResult::None);
    let shown: Vec<&str> = domains.iter().take(AUTHORS_MAX).map(SigningDomain::as_str).collect();
    let reason = format!(
        "From names authors of {} domains ({}), and DMARC is applied only where all are of one (RFC 9989 5.3.1).",
        domains.len(),
        shown.join(", ")
    );
    let reason = with_legacy_note(reason, DmarcResult::None, legacy);
    Dmarc::without_domain(DmarcResult::None, reason, legacy)
}

async fn one_domain(
    lookups: &mut Lookups<'_>,
    walk: &Walk,
    from: &SigningDomain,
    identifiers: &Identifiers,
    author_exists: bool,
) -> Dmarc {
    let modes = walk.policy_record().map_or((Alignment::Relaxed, Alignment::Relaxed), |(_, r)| (r.adkim, r.aspf));
    let aligned = align(lookups, walk, from, identifiers, modes).await;
    let mut dmarc = Dmarc {
        result: DmarcResult::None,
        from: Some(from.as_str().to_owned()),
        policy: None,
        organizational_domain: Some(walk.organizational_domain().to_owned()),
        reason: String::new(),
        spf_aligned: aligned.sender,
        dkim_aligned: aligned.signer.is_some(),
        legacy: LegacyResult::None,
    };
    match applicable(walk) {
        Applicable::Nothing(reason) => dmarc.reason = reason,
        Applicable::Unknown(reason) => (dmarc.result, dmarc.reason) = (DmarcResult::Temperror, reason),
        Applicable::Record(at, record) => {
            let (policy, source) = record.policy_for(at == from.as_str(), author_exists);
            dmarc.policy = Some(FoundPolicy { policy, source, domain: at.to_owned() });
            (dmarc.result, dmarc.reason) = verdict(&aligned, from, walk, identifiers, record);
        }
    }
    dmarc
}

/// What a walk leaves to apply.
enum Applicable<'a> {
    Record(&'a str, &'a Record),
    Nothing(String),
    Unknown(String),
}

/// RFC 9989 4.10.1. A record further up is not taken while a nearer name might have one.
fn applicable(walk: &Walk) -> Applicable<'_> {
    if let Some(why) = &walk.broken_at_start {
        return Applicable::Nothing(capitalized(&format!("{why}.")));
    }
    let start = walk.asked.first().map_or("", String::as_str);
    match (walk.policy_record(), &walk.unanswered) {
        (Some((at, record)), None) => Applicable::Record(at, record),
        (Some((at, record)), Some(_)) if at == start => Applicable::Record(at, record),
        (Some(_) | None, Some(why)) => Applicable::Unknown(format!("The DMARC record is not known: {why}.")),
        (None, None) if !walk.discarded.is_empty() => {
            Applicable::Nothing(capitalized(&format!("{}; no other record was found.", walk.discarded.join("; "))))
        }
        (None, None) => {
            let names: Vec<String> = walk.asked.iter().map(|name| format!("_dmarc.{name}")).collect();
            Applicable::Nothing(format!("There is no DMARC record at {}.", names.join(" or ")))
        }
    }
}

fn capitalized(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Which names are aligned.
struct Aligned {
    /// The first DKIM domain that passed and is aligned.
    signer: Option<SigningDomain>,
    /// SPF passed for an aligned name.
    sender: bool,
    /// A question without an answer might have made an aligned pass.
    undecided: bool,
}

async fn align(
    lookups: &mut Lookups<'_>,
    walk: &Walk,
    from: &SigningDomain,
    identifiers: &Identifiers,
    (adkim, aspf): (Alignment, Alignment),
) -> Aligned {
    let mut aligned = Aligned { signer: None, sender: false, undecided: false };
    for (result, domain) in &identifiers.dkim {
        match (is_aligned(lookups, walk, from, domain, adkim).await, result) {
            (Is::Yes, DkimResult::Pass) => aligned.signer = aligned.signer.take().or_else(|| Some(domain.clone())),
            (Is::Yes | Is::Open, _) => aligned.undecided = true,
            (Is::No, _) => {}
        }
    }
    if let (SpfResult::Pass | SpfResult::Temperror, Some(domain)) = &identifiers.spf {
        match (is_aligned(lookups, walk, from, domain, aspf).await, identifiers.spf.0 == SpfResult::Pass) {
            (Is::Yes, true) => aligned.sender = true,
            (Is::Yes | Is::Open, _) => aligned.undecided = true,
            (Is::No, _) => {}
        }
    }
    aligned
}

enum Is {
    Yes,
    No,
    /// A name gave no answer.
    Open,
}

/// RFC 9989 4.10.2, 4.11: strict is equality, relaxed is the same organizational domain. Only a name at or below the author's
/// organizational domain can have the same one, so no other is asked for.
async fn is_aligned(
    lookups: &mut Lookups<'_>,
    walk: &Walk,
    from: &SigningDomain,
    identifier: &SigningDomain,
    mode: Alignment,
) -> Is {
    if identifier == from {
        return Is::Yes;
    }
    let organizational = match mode {
        Alignment::Strict => return Is::No,
        Alignment::Relaxed => walk.organizational_domain(),
    };
    if !is_at_or_below(identifier.as_str(), organizational) {
        // The true organizational domain may lie further up.
        let related = suffix_domain(from) == suffix_domain(identifier);
        return if walk.unanswered.is_some() && related { Is::Open } else { Is::No };
    }
    let other = lookups.walk(identifier).await;
    match (other.organizational_domain() == organizational, &other.unanswered) {
        (true, _) => Is::Yes,
        (false, Some(_)) => Is::Open,
        (false, None) => Is::No,
    }
}

fn verdict(
    aligned: &Aligned,
    from: &SigningDomain,
    walk: &Walk,
    identifiers: &Identifiers,
    record: &Record,
) -> (DmarcResult, String) {
    let (adkim, aspf) = (record.adkim.as_str(), record.aspf.as_str());
    if let Some(signer) = &aligned.signer {
        return (DmarcResult::Pass, format!("DKIM passed for {signer}, which is aligned ({adkim}) with From {from}."));
    }
    if let (true, Some(sender)) = (aligned.sender, identifiers.sender(SpfResult::Pass)) {
        return (DmarcResult::Pass, format!("SPF passed for {sender}, which is aligned ({aspf}) with From {from}."));
    }
    if aligned.undecided {
        let reason = format!("A DNS lookup for a name aligned with From {from} got no answer; try again later.");
        return (DmarcResult::Temperror, reason);
    }
    (DmarcResult::Fail, failure_reason(from, walk.organizational_domain(), identifiers, record))
}

/// Speaks of alignment, and names both sides of it.
fn failure_reason(from: &SigningDomain, organizational: &str, identifiers: &Identifiers, record: &Record) -> String {
    let mut passed: Vec<String> =
        identifiers.signers(DkimResult::Pass).map(|domain| format!("DKIM passed for {domain}")).collect();
    passed.extend(identifiers.sender(SpfResult::Pass).map(|domain| format!("SPF passed for {domain}")));
    if passed.is_empty() {
        return format!(
            "Neither DKIM nor SPF passed, so there is no name whose alignment with From {from} could count."
        );
    }
    let needs = |mode: Alignment| match mode {
        Alignment::Relaxed => format!("a name of the organizational domain {organizational} (relaxed alignment)"),
        Alignment::Strict => format!("{from} itself (strict alignment)"),
    };
    let needed = match (record.adkim, record.aspf) {
        (adkim, aspf) if adkim == aspf => format!("DMARC needs {}", needs(adkim)),
        (adkim, aspf) => format!("DMARC needs for DKIM {} and for SPF {}", needs(adkim), needs(aspf)),
    };
    format!("No alignment with From {from}: {}, but {needed}.", passed.join(" and "))
}

/// RFC 7489 3.2: by the Public Suffix List; a public suffix is its own.
fn suffix_domain(domain: &SigningDomain) -> SigningDomain {
    organizational_domain(domain).unwrap_or_else(|| domain.clone())
}

/// RFC 7489 6.6.3: at the author domain, else at its organizational domain by the Public Suffix List.
fn legacy_places(from: &SigningDomain) -> impl Iterator<Item = SigningDomain> {
    [from.clone(), suffix_domain(from)].into_iter()
}

/// RFC 7489 6.6.3 and 3.1, over `legacy_places`, which were fetched. What gives neither pass nor fail is `none`.
fn legacy_result(lookups: &Lookups<'_>, from: &SigningDomain, identifiers: &Identifiers) -> LegacyResult {
    for place in legacy_places(from) {
        match lookups.get(place.as_str()) {
            Answer::Absent => {}
            Answer::Several(_) | Answer::Broken(_) | Answer::Unanswered(_) => return LegacyResult::None,
            Answer::Record(record) => return legacy_verdict(from, identifiers, &record),
        }
    }
    LegacyResult::None
}

fn legacy_verdict(from: &SigningDomain, identifiers: &Identifiers, record: &Record) -> LegacyResult {
    let aligned = |identifier: &SigningDomain, mode: Alignment| match mode {
        Alignment::Strict => identifier == from,
        Alignment::Relaxed => suffix_domain(identifier) == suffix_domain(from),
    };
    let signed = |wanted| identifiers.signers(wanted).any(|domain| aligned(domain, record.adkim));
    let sent = |wanted| identifiers.sender(wanted).is_some_and(|domain| aligned(domain, record.aspf));
    if signed(DkimResult::Pass) || sent(SpfResult::Pass) {
        LegacyResult::Pass
    } else if signed(DkimResult::Temperror) || sent(SpfResult::Temperror) {
        LegacyResult::None
    } else {
        LegacyResult::Fail
    }
}

/// Says so where receivers of the older kind decide otherwise.
fn with_legacy_note(reason: String, result: DmarcResult, legacy: LegacyResult) -> String {
    let same = match result {
        DmarcResult::Pass => legacy == LegacyResult::Pass,
        DmarcResult::Fail => legacy == LegacyResult::Fail,
        DmarcResult::None => legacy == LegacyResult::None,
        DmarcResult::Temperror | DmarcResult::Permerror => true,
    };
    if same {
        return reason;
    }
    let (reason, legacy) = (reason.trim_end_matches('.'), legacy.as_str());
    format!("{reason}; receivers that still follow RFC 7489 and the Public Suffix List say {legacy}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domains_of(raw: &str) -> Result<Vec<String>, String> {
        let text = |domain: &SigningDomain| domain.as_str().to_owned();
        author(&Message::parse(raw.as_bytes()).unwrap()).map(|author| match author {
            Author::Domain(domain) => vec![text(&domain)],
            Author::Domains(domains) => domains.iter().map(text).collect(),
        })
    }

    #[test]
    fn the_author_domain_is_that_of_the_one_from_field() {
        for (from, expected) in [
            ("Ann <ann@Example.com>", vec!["example.com"]),
            ("a@example.com, b@example.com", vec!["example.com"]),
            ("a@example.com, b@example.net", vec!["example.com", "example.net"]),
            ("a@b\u{fc}cher.example", vec!["xn--bcher-kva.example"]),
        ] {
            assert_eq!(domains_of(&format!("From: {from}\r\n\r\n")).unwrap(), expected, "{from}");
        }
        for raw in [
            "Subject: x\r\n\r\n",
            "From: a@example.com\r\nFrom: b@example.com\r\n\r\n",
            "From: friends: a@example.com;\r\n\r\n",
            "From: friends: a@example.com;, b@example.com\r\n\r\n",
            "From: a@example.com (b@example.net)\r\n\r\n",
            "From: nobody\r\n\r\n",
            "From:\r\n\r\n",
        ] {
            assert!(domains_of(raw).unwrap_err().ends_with('.'), "{raw}");
        }
    }

    #[test]
    fn older_receivers_align_by_the_public_suffix_list() {
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
            let spf = Identifiers::new(&[], SpfResult::Pass, identifier);
            let says = |record: &str| legacy_verdict(&from, &spf, &crate::dmarc::parse(record).unwrap());
            let word = |pass: bool| if pass { LegacyResult::Pass } else { LegacyResult::Fail };
            assert_eq!(says("v=DMARC1; p=none"), word(relaxed), "{identifier}");
            assert_eq!(says("v=DMARC1; p=none; aspf=s"), word(strict), "{identifier}");
        }
    }
}
