//! SPF records: which text is one, what is wrong with it, what it says for an address, how to add an address (RFC 7208).
use crate::dns::Dns;
use crate::evaluate::{SpfResult, Transaction};
use crate::spf_permerror;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::spf::{Spf, verify::SpfParameters};
use mail_auth::{MX, MessageAuthenticator, Parameters, RecordSet, ResolverCache, Txt, common::cache::NoCache};
use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// RFC 7208 4.6.4: at least 20 seconds for the whole evaluation.
const EVALUATION_TIME: Duration = Duration::from_secs(20);

/// How long the search for the cause of a permerror may take.
const EXPLANATION_TIME: Duration = Duration::from_secs(2);

/// RFC 7208 4.5: `v=spf1` (any case, RFC 5234 2.3), then a space or the end.
pub(crate) fn is_spf(text: &str) -> bool {
    version_and_rest(text).is_some()
}

fn version_and_rest(text: &str) -> Option<&str> {
    let (version, rest) = text.split_at_checked(6)?;
    (version.eq_ignore_ascii_case("v=spf1") && (rest.is_empty() || rest.starts_with(' '))).then_some(rest)
}

/// The terms after the version (RFC 7208 4.6.1).
pub(crate) fn terms(record: &str) -> Vec<&str> {
    version_and_rest(record).unwrap_or_default().split(' ').filter(|term| !term.is_empty()).collect()
}

/// A term without its qualifier, lower-cased for comparison of names.
fn bare(term: &str) -> &str {
    term.strip_prefix(['+', '-', '?', '~']).unwrap_or(term)
}

pub(crate) fn is_all(term: &str) -> bool {
    bare(term).eq_ignore_ascii_case("all")
}

pub(crate) fn redirect_target(term: &str) -> Option<&str> {
    let (name, target) = term.split_once('=')?;
    name.eq_ignore_ascii_case("redirect").then_some(target)
}

/// The domain whose SPF record a term takes in: of an include or a redirect.
pub(crate) fn record_target(term: &str) -> Option<&str> {
    let include = || {
        let (name, target) = bare(term).split_once(':')?;
        name.eq_ignore_ascii_case("include").then_some(target)
    };
    redirect_target(term).or_else(include)
}

/// The other mechanisms that count as lookups (RFC 7208 4.6.4).
pub(crate) fn asks_addresses(term: &str) -> bool {
    let name = bare(term).split([':', '/']).next().unwrap_or_default();
    ["a", "mx", "ptr", "exists"].iter().any(|mechanism| name.eq_ignore_ascii_case(mechanism))
}

/// What makes a record a permerror by its syntax alone (RFC 7208 4.6, 12), as a sentence.
pub(crate) fn syntax_fault(record: &str) -> Option<String> {
    let (mut redirects, mut explanations) = (0, 0);
    for term in terms(record) {
        if let Err(fault) = check_term(term) {
            return Some(format!("`{term}`: {fault}"));
        }
        redirects += usize::from(redirect_target(term).is_some());
        explanations += usize::from(term.to_ascii_lowercase().starts_with("exp="));
    }
    // RFC 7208 6: each at most once.
    if redirects > 1 || explanations > 1 {
        return Some("redirect= and exp= may each stand only once (RFC 7208 6)".to_owned());
    }
    Spf::parse(for_mail_auth(record).as_bytes()).is_err().then(|| "this cannot be parsed as SPF".to_owned())
}

fn check_term(term: &str) -> Result<(), String> {
    if !term.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("terms are separated by spaces and consist of visible ASCII (RFC 7208 4.6.1)".to_owned());
    }
    let end = term.find([':', '/', '=']).unwrap_or(term.len());
    let (name, rest) = term.split_at_checked(end).unwrap_or((term, ""));
    if let Some(value) = rest.strip_prefix('=') {
        return check_modifier(name, value);
    }
    let name = bare(name).to_ascii_lowercase();
    match name.as_str() {
        "all" if rest.is_empty() => Ok(()),
        "all" => Err("`all` takes no argument (RFC 7208 5.1)".to_owned()),
        "include" | "exists" => {
            let domain = rest.strip_prefix(':').ok_or("a domain is required after `:` (RFC 7208 5.2, 5.7)")?;
            check_domain(domain)
        }
        "ptr" if rest.is_empty() => Ok(()),
        "ptr" => check_domain(rest.strip_prefix(':').ok_or("expected `:` and a domain (RFC 7208 5.5)")?),
        "a" | "mx" => check_address_mechanism(rest),
        "ip4" => check_network::<Ipv4Addr>(rest, 32),
        "ip6" => check_network::<Ipv6Addr>(rest, 128),
        _ => Err(format!("`{name}` is not a mechanism (RFC 7208 4.6.1)")),
    }
}

/// RFC 7208 6: unknown modifiers are ignored; redirect and exp need a domain.
fn check_modifier(name: &str, value: &str) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    if lower == "redirect" || lower == "exp" {
        return check_domain(value);
    }
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !well_formed {
        return Err("not a modifier name (RFC 7208 4.6.1)".to_owned());
    }
    check_macros(value)
}

/// RFC 7208 7.1 domain-spec: it ends in a top-level label or a macro.
fn check_domain(domain: &str) -> Result<(), String> {
    if domain.is_empty() {
        return Err("a domain is required here (RFC 7208 7.1)".to_owned());
    }
    check_macros(domain)?;
    if domain.contains('%') {
        return Ok(());
    }
    if domain.contains(':') {
        return Err("`:` inside a domain; strings of one record are joined without a space, so end the first string with one (RFC 7208 3.3)".to_owned());
    }
    let last = domain.strip_suffix('.').unwrap_or(domain).rsplit('.').next().unwrap_or_default();
    let top_label = domain.contains('.')
        && last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && last.bytes().any(|b| !b.is_ascii_digit())
        && !last.starts_with('-')
        && !last.ends_with('-');
    if top_label { Ok(()) } else { Err(format!("`{domain}` is not a full domain name (RFC 7208 7.1)")) }
}

/// RFC 7208 7.1: `%{letter digits r delimiters}`, `%%`, `%_`, `%-`.
fn check_macros(text: &str) -> Result<(), String> {
    let fault = || Err("`%` begins a macro: `%{d}`, `%%`, `%_` or `%-` (RFC 7208 7.1)".to_owned());
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(plain) = after.strip_prefix(['%', '_', '-']) {
            rest = plain;
            continue;
        }
        let Some((body, following)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
            return fault();
        };
        let mut letters = body.chars();
        if !letters.next().is_some_and(|c| "slodiphcrtv".contains(c.to_ascii_lowercase())) {
            return fault();
        }
        let transformers = letters.as_str().trim_start_matches(|c: char| c.is_ascii_digit());
        let delimiters = transformers.strip_prefix(['r', 'R']).unwrap_or(transformers);
        if !delimiters.chars().all(|c| ".-+,/_=".contains(c)) {
            return fault();
        }
        rest = following;
    }
    Ok(())
}

/// RFC 7208 5.3, 5.4, 5.6: `[:domain] [/n] [//n]`.
fn check_address_mechanism(rest: &str) -> Result<(), String> {
    let rest = strip_prefix_length(rest, "//", 128)?;
    let rest = strip_prefix_length(rest, "/", 32)?;
    match rest.strip_prefix(':') {
        Some(domain) => check_domain(domain),
        None if rest.is_empty() => Ok(()),
        None => Err("expected `:` and a domain, or a prefix length (RFC 7208 5.3)".to_owned()),
    }
}

fn strip_prefix_length<'a>(text: &'a str, separator: &str, max: u8) -> Result<&'a str, String> {
    match text.rsplit_once(separator) {
        Some((before, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            prefix_length(digits, max)?;
            Ok(before)
        }
        Some(_) | None => Ok(text),
    }
}

fn prefix_length(digits: &str, max: u8) -> Result<(), String> {
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    match digits.parse::<u8>() {
        Ok(length) if length <= max && !leading_zero => Ok(()),
        Ok(_) | Err(_) => Err(format!("the prefix length is 0 to {max} (RFC 7208 5.6)")),
    }
}

fn check_network<A: std::str::FromStr>(rest: &str, max: u8) -> Result<(), String> {
    let value = rest.strip_prefix(':').ok_or("an address is required after `:` (RFC 7208 5.6)")?;
    let (address, length) = value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
    if address.parse::<A>().is_err() {
        return Err(format!("`{address}` is not an address of this family (RFC 7208 5.6)"));
    }
    length.map_or(Ok(()), |digits| prefix_length(digits, max))
}

/// Hints on one record.
const MAX_HINTS: usize = 10;

/// A hint on terms that are no fault by the letter but rarely what was meant.
pub(crate) fn suspicious_terms(record: &str) -> Vec<String> {
    terms(record)
        .into_iter()
        .filter_map(|term| {
            let (name, value) = term.split_once('=')?;
            ["include", "a", "mx", "ptr", "ip4", "ip6", "exists"]
                .contains(&bare(name).to_ascii_lowercase().as_str())
                .then(|| format!("`{term}` is an unknown modifier and ignored; write `{name}:{value}`"))
        })
        .take(MAX_HINTS)
        .collect()
}

/// `ip4:192.0.2.1` or `ip6:2001:db8::1`.
fn mechanism(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("ip4:{v4}"),
        IpAddr::V6(v6) => format!("ip6:{v6}"),
    }
}

/// The record with a mechanism for each address before the first `all` or `redirect=`, everything else as it is.
pub(crate) fn authorize(record: &str, addresses: &[IpAddr]) -> String {
    let existing = terms(record);
    let place =
        existing.iter().position(|term| is_all(term) || redirect_target(term).is_some()).unwrap_or(existing.len());
    let (before, after) = existing.split_at_checked(place).unwrap_or((&existing, &[]));
    let added: Vec<String> = addresses.iter().map(|address| mechanism(*address)).collect();
    join(before.iter().copied().chain(added.iter().map(String::as_str)).chain(after.iter().copied()))
}

/// The record with the mechanisms in front of everything: what helps where an earlier term ends the evaluation.
pub(crate) fn authorize_first(record: &str, addresses: &[IpAddr]) -> String {
    let added: Vec<String> = addresses.iter().map(|address| mechanism(*address)).collect();
    join(added.iter().map(String::as_str).chain(terms(record)))
}

fn join<'a>(terms: impl Iterator<Item = &'a str>) -> String {
    std::iter::once("v=spf1").chain(terms).collect::<Vec<_>>().join(" ")
}

/// One record instead of several (RFC 7208 3.2 allows one): all mechanisms in order, each once, a redirect turned into an include,
/// and the mildest `all` that was there, because a stricter one could refuse mail that is delivered today. `+all` is never taken over.
pub(crate) fn merge(records: &[String]) -> String {
    let mut merged: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    let mut end: Option<&str> = None;
    let mildness = |term: &str| match term.chars().next() {
        Some('?') => 2,
        Some('~') => 1,
        _ => 0,
    };
    for term in records.iter().flat_map(|record| terms(record)) {
        if is_all(term) {
            let term = if term.starts_with(['-', '~', '?']) { term } else { "~all" };
            if end.is_none_or(|chosen| mildness(term) > mildness(chosen)) {
                end = Some(term);
            }
            continue;
        }
        let term = redirect_target(term).map_or_else(|| term.to_owned(), |target| format!("include:{target}"));
        // RFC 7208 6: exp= at most once.
        let key = if term.starts_with("exp=") { "exp=".to_owned() } else { term.to_ascii_lowercase() };
        if seen.insert(key) {
            merged.push(term);
        }
    }
    join(merged.iter().map(String::as_str).chain(end))
}

/// mail-auth asks its cache before the DNS: so the record text that was found is evaluated, not one that a resolver still remembers.
struct Found(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Found {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: Instant) {}
}

/// The record as mail-auth reads it right: the version in lower case, and without the unknown modifiers, which say nothing
/// (RFC 7208 6) but of which it refuses some.
fn for_mail_auth(record: &str) -> String {
    join(terms(record).into_iter().filter(|term| match term.split_once('=') {
        Some((name, _)) => {
            name.contains([':', '/']) || name.eq_ignore_ascii_case("redirect") || name.eq_ignore_ascii_case("exp")
        }
        None => true,
    }))
}

/// check_host() of RFC 7208 4 for this record text at `domain`; includes and the like are asked of the recursive resolver.
/// The sentence is the reason for everything but pass.
pub(crate) async fn evaluate_record(
    dns: &Dns,
    domain: &str,
    record: &str,
    ip: IpAddr,
    transaction: &Transaction<'_>,
) -> (SpfResult, Option<String>) {
    if let Some(fault) = syntax_fault(record) {
        return (SpfResult::Permerror, Some(format!("the SPF record of {domain} is wrong: {fault}")));
    }
    let Ok(parsed) = Spf::parse(for_mail_auth(record).as_bytes()) else {
        return (SpfResult::Permerror, Some(format!("the SPF record of {domain} cannot be parsed")));
    };
    let known = Found(HashMap::from([(format!("{domain}.").into_boxed_str(), Txt::Spf(Arc::new(parsed)))]));
    let sender = if transaction.mail_from.is_empty() {
        format!("postmaster@{domain}")
    } else {
        // The local part for macros; the domain in the form that is asked for.
        let local = transaction.mail_from.rsplit_once('@').map_or("postmaster", |(local, _)| local);
        format!("{local}@{domain}")
    };
    // RFC 7208 7.3 has "unknown" where a name for a macro is missing.
    let helo = if transaction.helo.is_empty() { "unknown" } else { transaction.helo };
    let parameters = SpfParameters::verify_mail_from(ip.to_canonical(), helo, "unknown", &sender);
    let parameters: Parameters<'_, _, NoTxt, NoMx, NoV4, NoV6, NoPtr> = Parameters::new(parameters);
    let authenticator = MessageAuthenticator(dns.resolver().clone());
    let evaluation = authenticator.check_host(parameters.with_txt_cache(&known));
    let Ok(output) = tokio::time::timeout(EVALUATION_TIME, evaluation).await else {
        return (SpfResult::Temperror, Some("the SPF evaluation took over 20 seconds".to_owned()));
    };
    let (result, reason) = explain(domain, ip, output.result());
    if result != SpfResult::Permerror {
        return (result, reason);
    }
    let cause = tokio::time::timeout(EXPLANATION_TIME, spf_permerror::cause(dns, domain, record)).await;
    (result, cause.ok().flatten().or(reason))
}

type NoTxt = NoCache<Box<str>, Txt>;
type NoMx = NoCache<Box<str>, RecordSet<MX>>;
type NoV4 = NoCache<Box<str>, RecordSet<Ipv4Addr>>;
type NoV6 = NoCache<Box<str>, RecordSet<Ipv6Addr>>;
type NoPtr = NoCache<IpAddr, RecordSet<Box<str>>>;

fn explain(domain: &str, ip: IpAddr, result: mail_auth::SpfResult) -> (SpfResult, Option<String>) {
    use mail_auth::SpfResult as Theirs;
    match result {
        Theirs::Pass => (SpfResult::Pass, None),
        Theirs::Fail => {
            (SpfResult::Fail, Some(format!("the SPF record of {domain} forbids {ip} (-all or another `-` term)")))
        }
        Theirs::SoftFail => {
            (SpfResult::Softfail, Some(format!("the SPF record of {domain} does not name {ip} (~all)")))
        }
        Theirs::Neutral => (SpfResult::Neutral, Some(format!("the SPF record of {domain} says nothing about {ip}"))),
        Theirs::TempError => {
            (SpfResult::Temperror, Some(format!("a DNS lookup for the SPF record of {domain} got no answer")))
        }
        Theirs::PermError => (
            SpfResult::Permerror,
            Some(format!(
                "the SPF record of {domain} cannot be evaluated: more than 10 terms that need DNS lookups (RFC 7208 4.6.4), or an include or redirect to a domain without a valid SPF record"
            )),
        ),
        Theirs::None => (SpfResult::None, Some(format!("{domain} has no SPF record"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_matched_as_the_grammar_says() {
        for (text, expected) in [
            ("v=spf1 -all", true),
            ("V=SPF1 -all", true),
            ("v=spf1", true),
            ("v=spf10 -all", false),
            ("v=spf1;-all", false),
            ("v=spf1foo -all", false),
            (" v=spf1 -all", false),
            ("v=spf2.0/pra -all", false),
            ("ü=spf1", false),
        ] {
            assert_eq!(is_spf(text), expected, "{text}");
        }
    }

    #[test]
    fn faults_of_syntax_are_found() {
        for record in [
            "v=spf1 redirect=a.example redirect=b.example",
            "v=spf1 exp=a.example exp=b.example -all",
            "v=spf1 exists -all",
            "v=spf1 include: -all",
            "v=spf1 include -all",
            "v=spf1 include:a.exampleinclude:b.example -all",
            "v=spf1 ip4:192.0.2.300 -all",
            "v=spf1 ip4:192.0.2.0/33 -all",
            "v=spf1 ip4:192.0.2.0/08 -all",
            "v=spf1 ip6:192.0.2.1 -all",
            "v=spf1 ip4 -all",
            "v=spf1 a/33 -all",
            "v=spf1 a//129 -all",
            "v=spf1 all:example.com",
            "v=spf1 foo -all",
            "v=spf1 include:%{x} -all",
            "v=spf1 include:%a -all",
            "v=spf1 mx\t-all",
            "v=spf1 include:localhost -all",
            "v=spf1 redirect=",
            "v=spf1 include:192.0.2.1 -all",
        ] {
            assert!(is_spf(record) && syntax_fault(record).is_some(), "{record}");
        }
    }

    #[test]
    fn valid_records_have_no_fault() {
        for record in [
            "v=spf1",
            "v=spf1 -all",
            "V=SPF1 A MX -ALL",
            "v=spf1 a -all ra=postmaster",
            "v=spf1 a/24 mx//64 a:example.com/24//64 ptr ptr:example.com -all",
            "v=spf1 exists:%{ir}.%{v}._spf.%{d2} include:%{d}.example ?all",
            "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all",
            "v=spf1 include:foo.all ~all mx -all",
            "v=spf1  mx   -all ",
            "v=spf1 include=spf.svc.example -all",
            "v=spf1 redirect=_spf.example.com exp=explain._spf.%{d}",
        ] {
            assert_eq!(syntax_fault(record), None, "{record}");
        }
    }

    #[test]
    fn an_address_is_added_before_the_first_all_or_redirect() {
        let v4: IpAddr = "192.0.2.9".parse().unwrap();
        let v6: IpAddr = "2001:db8::9".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.9".parse().unwrap();
        for (record, addresses, expected) in [
            ("v=spf1 mx -all", vec![v4], "v=spf1 mx ip4:192.0.2.9 -all"),
            ("v=spf1 mx ~all", vec![v4, v6], "v=spf1 mx ip4:192.0.2.9 ip6:2001:db8::9 ~all"),
            ("v=spf1 include:foo.all ~all mx -all", vec![v4], "v=spf1 include:foo.all ip4:192.0.2.9 ~all mx -all"),
            ("v=spf1 redirect=_spf.example.com", vec![v4], "v=spf1 ip4:192.0.2.9 redirect=_spf.example.com"),
            ("v=spf1", vec![mapped], "v=spf1 ip4:192.0.2.9"),
            ("V=SPF1 MX +ALL", vec![v4], "v=spf1 MX ip4:192.0.2.9 +ALL"),
        ] {
            assert_eq!(authorize(record, &addresses), expected);
        }
        assert_eq!(
            authorize_first("v=spf1 -ip4:192.0.2.0/24 -all", &[v4]),
            "v=spf1 ip4:192.0.2.9 -ip4:192.0.2.0/24 -all"
        );
    }

    #[test]
    fn several_records_become_one() {
        for (records, expected) in [
            (vec!["v=spf1 mx -all", "v=spf1 a -all"], "v=spf1 mx a -all"),
            (vec!["v=spf1 mx -all", "v=spf1 MX ~all"], "v=spf1 mx ~all"),
            (vec!["v=spf1 redirect=a.example", "v=spf1 mx ?all"], "v=spf1 include:a.example mx ?all"),
            (vec!["v=spf1 mx all", "v=spf1 a"], "v=spf1 mx a ~all"),
        ] {
            let records: Vec<String> = records.into_iter().map(str::to_owned).collect();
            assert_eq!(merge(&records), expected);
        }
    }

    #[test]
    fn an_equals_sign_for_a_colon_is_pointed_out() {
        assert_eq!(suspicious_terms("v=spf1 include=spf.svc.example x=y -all").len(), 1);
        assert!(suspicious_terms("v=spf1 include:spf.svc.example -all").is_empty());
    }
}
