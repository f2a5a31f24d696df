//! Why the evaluation of a well-formed SPF record ended in permerror (RFC 7208 2.6.7): mail-auth does not say.
use crate::dns::{Dns, LookupError};
use crate::spf;
use std::collections::VecDeque;

/// RFC 7208 4.6.4.
const LOOKUPS_MAX: usize = 10;

/// A record that is being evaluated: its domain, and the terms that are still to come.
struct Frame {
    domain: String,
    terms: VecDeque<String>,
}

impl Frame {
    /// In the order of evaluation: redirect= comes last, and not at all where there is `all` (RFC 7208 6.1).
    fn new(domain: &str, record: &str) -> Self {
        let (redirects, mut terms): (VecDeque<String>, VecDeque<String>) =
            spf::terms(record).into_iter().map(str::to_owned).partition(|term| spf::redirect_target(term).is_some());
        if !terms.iter().any(|term| spf::is_all(term)) {
            terms.extend(redirects);
        }
        Self { domain: domain.to_owned(), terms }
    }
}

/// Goes the way of the evaluation, in which nothing can have matched before the fault. `None` where the fault is not on that way
/// (macros, too many void lookups, ...). A sentence.
pub(crate) async fn cause(dns: &Dns, domain: &str, record: &str) -> Option<String> {
    let mut frames = vec![Frame::new(domain, record)];
    let mut lookups = 0;
    while let Some(frame) = frames.last_mut() {
        let (Some(term), domain) = (frame.terms.pop_front(), frame.domain.clone()) else {
            frames.pop();
            continue;
        };
        if spf::is_all(&term) {
            frames.pop();
            continue;
        }
        let target = spf::record_target(&term);
        lookups += usize::from(target.is_some() || spf::asks_addresses(&term));
        if lookups > LOOKUPS_MAX {
            let first = frames.first().map_or(domain.as_str(), |frame| frame.domain.as_str());
            return Some(format!(
                "the SPF record of {first} needs more than {LOOKUPS_MAX} DNS lookups (RFC 7208 4.6.4); `{term}` of {domain} is one too many"
            ));
        }
        if let Some(target) = target {
            match fetch(dns, target).await? {
                Ok(record) => frames.push(Frame::new(target, &record)),
                Err(fault) => return Some(format!("`{term}` in the SPF record of {domain}: {target} {fault}")),
            }
        }
    }
    None
}

/// The one record of an included domain, or what is wrong there. `None` without an answer, or where the name has macros.
async fn fetch(dns: &Dns, domain: &str) -> Option<Result<String, String>> {
    if domain.contains('%') {
        return None;
    }
    let texts = match dns.txt(domain).await {
        Ok(texts) => texts,
        Err(LookupError::NoName | LookupError::NoData) => Vec::new(),
        Err(LookupError::Temporary(_)) => return None,
    };
    let mut records: Vec<String> = texts.into_iter().filter(|text| spf::is_spf(text)).collect();
    Some(match (records.pop(), records.len()) {
        (None, _) => Err("has no SPF record (RFC 7208 5.2)".to_owned()),
        (Some(record), 0) => match spf::syntax_fault(&record) {
            None => Ok(record),
            Some(fault) => Err(format!("has an SPF record that is wrong: {fault}")),
        },
        (Some(_), more) => Err(format!("has {} SPF records, only one is allowed (RFC 7208 4.5)", more + 1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_come_in_the_order_of_evaluation() {
        for (record, expected) in [
            ("v=spf1 redirect=b.example include:a.example mx", vec!["include:a.example", "mx", "redirect=b.example"]),
            ("v=spf1 redirect=b.example a -all", vec!["a", "-all"]),
            ("v=spf1", vec![]),
        ] {
            assert_eq!(Frame::new("example.com", record).terms, expected, "{record}");
        }
        for (term, target, asks) in [
            ("include:a.example", Some("a.example"), false),
            ("?INCLUDE:a.example", Some("a.example"), false),
            ("redirect=a.example", Some("a.example"), false),
            ("a", None, true),
            ("-MX/24", None, true),
            ("a:a.example", None, true),
            ("exists:%{i}.example", None, true),
            ("ptr", None, true),
            ("ip4:192.0.2.1", None, false),
            ("all", None, false),
            ("exp=a.example", None, false),
        ] {
            assert_eq!((spf::record_target(term), spf::asks_addresses(term)), (target, asks), "{term}");
        }
    }
}
