//! Where a DMARC record is found, and which domain is the organizational one: the tree walk of RFC 9989 4.10, and beside it what
//! receivers that still follow RFC 7489 do with the Public Suffix List.
use crate::dmarc::{self, Record};
use crate::dns::{Dns, LookupError};
use futures_util::future::join_all;
use signpost_dkim::SigningDomain;
use std::collections::HashMap;
use std::time::Duration;

/// RFC 9989 4.10: queries of one walk, and the labels from which a longer name goes on.
const LABELS: usize = 8;

/// What is at `_dmarc.<name>`.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Exactly one record, and it applies.
    Record(Record),
    /// No DMARC record.
    Absent,
    /// So many; all are discarded.
    Several(usize),
    /// One that does not apply, and why.
    Broken(String),
    /// The DNS gave no answer, and why.
    Unanswered(String),
}

/// Answers so far, so that no name is asked for twice.
pub(crate) struct Lookups<'a> {
    dns: &'a Dns,
    time: Duration,
    answers: HashMap<String, Answer>,
}

impl<'a> Lookups<'a> {
    /// `time` bounds each question.
    pub(crate) fn new(dns: &'a Dns, time: Duration) -> Self {
        Self { dns, time, answers: HashMap::new() }
    }

    /// Asks for all of these names at once, but for those that were asked before.
    pub(crate) async fn fetch(&mut self, names: impl IntoIterator<Item = String>) {
        let mut wanted: Vec<String> = names.into_iter().filter(|name| !self.answers.contains_key(name)).collect();
        wanted.sort();
        wanted.dedup();
        let answers = join_all(wanted.iter().map(|name| ask(self.dns, name, self.time))).await;
        self.answers.extend(wanted.into_iter().zip(answers));
    }

    /// The answer for a name that was fetched.
    pub(crate) fn get(&self, name: &str) -> Answer {
        let never = || Answer::Unanswered(format!("_dmarc.{name} was not asked for"));
        self.answers.get(name).cloned().unwrap_or_else(never)
    }

    /// RFC 9989 4.10, upwards from `start`.
    pub(crate) async fn walk(&mut self, start: &SigningDomain) -> Walk {
        let names = walk_names(start.as_str());
        self.fetch(names.iter().cloned()).await;
        let answers = names.into_iter().map(|name| {
            let answer = self.get(&name);
            (name, answer)
        });
        Walk::over(start, answers)
    }
}

/// RFC 9989 4.10 steps 1, 2: records of another version are discarded, and so are several at one name.
async fn ask(dns: &Dns, name: &str, time: Duration) -> Answer {
    let texts = match tokio::time::timeout(time, dns.txt(&format!("_dmarc.{name}"))).await {
        Ok(Ok(texts)) => texts,
        Ok(Err(LookupError::NoName | LookupError::NoData)) => return Answer::Absent,
        Ok(Err(LookupError::Temporary(reason))) => return Answer::Unanswered(format!("_dmarc.{name}: {reason}")),
        Err(_elapsed) => return Answer::Unanswered(format!("_dmarc.{name}: no answer in time")),
    };
    let records: Vec<&String> = texts.iter().filter(|text| dmarc::is_dmarc(text)).collect();
    match records.as_slice() {
        [] => Answer::Absent,
        [record] => dmarc::parse(record).map_or_else(Answer::Broken, Answer::Record),
        several => Answer::Several(several.len()),
    }
}

/// RFC 9989 4.10 steps 3, 4, 7: the name, then its ancestors; of a name of more than eight labels first the last seven.
pub(crate) fn walk_names(start: &str) -> Vec<String> {
    let labels: Vec<&str> = start.split('.').collect();
    let first_ancestor = labels.len().saturating_sub(LABELS - 1).max(1);
    let ancestors = (first_ancestor..labels.len()).map(|skipped| labels[skipped..].join("."));
    std::iter::once(start.to_owned()).chain(ancestors).collect()
}

/// What a walk found on its way up.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    start: String,
    /// Names asked, up to where the walk stopped.
    pub(crate) asked: Vec<String>,
    /// Names with a record that applies, longest first.
    found: Vec<(String, Record)>,
    /// What was discarded on the way, a sentence each.
    pub(crate) discarded: Vec<String>,
    /// The record at the start applies to nothing, and why: DMARC ends there (RFC 9989 4.10.1).
    pub(crate) broken_at_start: Option<String>,
    /// A name on the way gave no answer.
    pub(crate) unanswered: Option<String>,
}

impl Walk {
    fn over(start: &SigningDomain, answers: impl Iterator<Item = (String, Answer)>) -> Self {
        let start = start.as_str().to_owned();
        let mut walk = Self {
            start,
            asked: Vec::new(),
            found: Vec::new(),
            discarded: Vec::new(),
            broken_at_start: None,
            unanswered: None,
        };
        for (name, answer) in answers {
            walk.asked.push(name.clone());
            match answer {
                Answer::Absent => {}
                Answer::Several(count) => walk
                    .discarded
                    .push(format!("_dmarc.{name} has {count} DMARC records, so all are discarded (RFC 9989 4.10)")),
                Answer::Broken(why) => {
                    let sentence = format!("the DMARC record at _dmarc.{name} does not apply: {why}");
                    if name == walk.start {
                        walk.broken_at_start = Some(sentence);
                    } else {
                        walk.discarded.push(sentence);
                    }
                }
                Answer::Unanswered(why) => walk.unanswered = walk.unanswered.take().or(Some(why)),
                Answer::Record(record) => {
                    let stops = record.public_suffix.is_some();
                    walk.found.push((name, record));
                    if stops {
                        break;
                    }
                }
            }
        }
        walk
    }

    /// RFC 9989 4.10.2.
    pub(crate) fn organizational_domain(&self) -> &str {
        match self.found.last() {
            None => &self.start,
            Some((name, record)) if record.public_suffix == Some(true) && *name != self.start => {
                one_label_below(name, &self.start)
            }
            Some((name, _)) => name,
        }
    }

    /// RFC 9989 4.10.1: at the author domain, else at its organizational domain, else at its public suffix domain.
    pub(crate) fn policy_record(&self) -> Option<(&str, &Record)> {
        let at = |wanted: &str| self.found.iter().find(|(name, _)| name == wanted);
        let suffix = || self.found.last().filter(|(_, record)| record.public_suffix == Some(true));
        at(&self.start).or_else(|| at(self.organizational_domain())).or_else(suffix).map(|(n, r)| (n.as_str(), r))
    }
}

/// `org.psd.example` for `psd.example` and `a.b.org.psd.example`.
fn one_label_below<'a>(suffix: &str, start: &'a str) -> &'a str {
    let above = start.len().saturating_sub(suffix.len() + 1);
    let from = start.get(..above).and_then(|head| head.rfind('.')).map_or(0, |dot| dot + 1);
    start.get(from..).unwrap_or(start)
}

/// RFC 9989 3.2.13: a domain does not exist if there is neither an address nor an MX record. Silence is no proof.
pub(crate) async fn exists(dns: &Dns, domain: &str, time: Duration) -> bool {
    let absent = |error: &LookupError| matches!(error, LookupError::NoName | LookupError::NoData);
    let asked = tokio::time::timeout(time, async { tokio::join!(dns.addresses(domain), dns.mx(domain)) }).await;
    match asked {
        Ok((addresses, mx)) => !(addresses.is_err_and(|e| absent(&e)) && mx.is_err_and(|e| absent(&e))),
        Err(_elapsed) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(start: &str, records: &[(&str, &str)]) -> Walk {
        let start = SigningDomain::parse(start).unwrap();
        let answers = walk_names(start.as_str()).into_iter().map(|name| {
            let texts: Vec<&str> = records.iter().filter(|(at, _)| *at == name).map(|(_, text)| *text).collect();
            let answer = match texts.as_slice() {
                [] => Answer::Absent,
                ["away"] => Answer::Unanswered("away".to_owned()),
                [text] => dmarc::parse(text).map_or_else(Answer::Broken, Answer::Record),
                several => Answer::Several(several.len()),
            };
            (name, answer)
        });
        Walk::over(&start, answers)
    }

    #[test]
    fn a_walk_asks_at_most_eight_names() {
        assert_eq!(walk_names("example.com"), ["example.com", "com"]);
        assert_eq!(walk_names("a.b.c.d.e.f.g.h").len(), 8);
        let names = walk_names("a.b.c.d.e.f.g.h.org.psd.example");
        assert_eq!(names.len(), 8);
        assert_eq!(
            &names[..3],
            ["a.b.c.d.e.f.g.h.org.psd.example", "e.f.g.h.org.psd.example", "f.g.h.org.psd.example"]
        );
        assert_eq!(names.last().map(String::as_str), Some("example"));
    }

    #[test]
    fn organizational_domain_and_record_are_chosen_as_rfc_9989_says() {
        let (none, reject, suffix) = ("v=DMARC1; p=none", "v=DMARC1; p=reject", "v=DMARC1; p=none; psd=y");
        let own = "v=DMARC1; p=none; psd=n";
        type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, &'a str, Option<&'a str>);
        let table: Vec<Case<'_>> = vec![
            ("example.com", vec![], "example.com", None),
            ("example.com", vec![("example.com", none)], "example.com", Some("example.com")),
            (
                "a.mail.example.com",
                vec![("mail.example.com", none), ("example.com", reject)],
                "example.com",
                Some("example.com"),
            ),
            (
                "a.example.com",
                vec![("a.example.com", none), ("example.com", reject)],
                "example.com",
                Some("a.example.com"),
            ),
            (
                "a.mail.example.com",
                vec![("mail.example.com", own), ("example.com", none)],
                "mail.example.com",
                Some("mail.example.com"),
            ),
            ("a.b.c.d.e.f.g.h.org.psd.example", vec![("psd.example", suffix)], "org.psd.example", Some("psd.example")),
            (
                "x.example.gov.example",
                vec![("example.gov.example", reject), ("gov.example", suffix)],
                "example.gov.example",
                Some("example.gov.example"),
            ),
            ("gov.example", vec![("gov.example", suffix), ("example", none)], "gov.example", Some("gov.example")),
            // Above a psd= tag nothing counts.
            ("x.gov.example", vec![("gov.example", suffix), ("example", reject)], "x.gov.example", Some("gov.example")),
            // Two records at one name are none, and the walk goes on.
            (
                "a.example.com",
                vec![("a.example.com", none), ("a.example.com", reject), ("example.com", reject)],
                "example.com",
                Some("example.com"),
            ),
        ];
        for (start, records, organizational, at) in table {
            let walk = walk(start, &records);
            assert_eq!(walk.organizational_domain(), organizational, "{start} {records:?}");
            assert_eq!(walk.policy_record().map(|(name, _)| name), at, "{start} {records:?}");
        }
    }

    #[test]
    fn what_gave_no_answer_or_does_not_apply_is_remembered() {
        let silent = walk("a.example.com", &[("example.com", "away")]);
        assert!(silent.unanswered.is_some() && silent.policy_record().is_none());
        let beyond = walk("example.com", &[("example.com", "v=DMARC1; p=none; psd=n"), ("com", "away")]);
        assert!(beyond.unanswered.is_none(), "the walk had stopped before");
        assert!(walk("example.com", &[("example.com", "v=DMARC1; p=maybe")]).broken_at_start.is_some());
    }
}
