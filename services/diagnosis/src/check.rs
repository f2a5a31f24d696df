//! The check: ask every authoritative server for each record and say exactly what is wrong.
use crate::authority::{self, Outcome, Replies, Reply, SERVERS_MAX, Zone};
use crate::bounds::bounded;
use crate::delegated;
use crate::dns::{Dns, LookupError, fqdn, name_text};
use crate::judge::{self, Verdict};
use crate::misplaced;
use crate::questions::Questions;
use crate::spf_check::SpfCheck;
use crate::suffix::organizational_domain;
use futures_util::future::join_all;
use hickory_proto::rr::Name;
use signpost_dkim::{SigningDomain, record, record::PublicKey};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Questions for the records of one check, and for those of them that may stand at another name.
const QUESTIONS_MAX: usize = 600;
const PROBES_MAX: usize = 200;
/// Servers of the zone that are asked for a record at a wrong name: a hint needs no more.
const PROBED_SERVERS: usize = 4;
/// Questions for one key before sending.
const KEY_QUESTIONS_MAX: usize = 100;
/// Warnings of one verdict.
const VERDICT_WARNINGS: usize = 20;
/// Servers that an explanation names where they do not agree.
const NAMED_SERVERS: usize = 12;

/// Kept back from the deadline, so that what was answered until then is still judged.
const JUDGING_TIME: Duration = Duration::from_millis(200);

/// Status of one record (DESIGN: Record.status). `Unchecked` is not a result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Right on at least one server, wrong on none.
    Ok,
    /// Nothing at the name.
    Missing,
    /// Well-formed, but another value or another key.
    Mismatch,
    /// Not parseable.
    Malformed,
    /// More than one record at the name.
    Duplicate,
    /// The beginning of the right value.
    Truncated,
    /// Found at another name.
    Misplaced,
    /// A CNAME that dangles, forms a loop or leads elsewhere.
    CnameBroken,
    /// p= is empty.
    Revoked,
    /// h=, k= or s= forbid our use.
    Unusable,
    /// No authoritative server answered.
    Unreachable,
}

impl Status {
    const ALL: [Self; 11] = [
        Self::Ok,
        Self::Missing,
        Self::Mismatch,
        Self::Malformed,
        Self::Duplicate,
        Self::Truncated,
        Self::Misplaced,
        Self::CnameBroken,
        Self::Revoked,
        Self::Unusable,
        Self::Unreachable,
    ];

    /// As in JSON: `ok`, `missing`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Mismatch => "mismatch",
            Self::Malformed => "malformed",
            Self::Duplicate => "duplicate",
            Self::Truncated => "truncated",
            Self::Misplaced => "misplaced",
            Self::CnameBroken => "cname_broken",
            Self::Revoked => "revoked",
            Self::Unusable => "unusable",
            Self::Unreachable => "unreachable",
        }
    }

    /// The reverse of `as_str`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Where servers disagree the highest is the overall status: what was published wrongly goes before what is not there yet.
    fn weight(self) -> u8 {
        match self {
            Self::Unreachable => 0,
            Self::Ok => 1,
            Self::Missing => 2,
            Self::Misplaced => 3,
            Self::Truncated => 4,
            Self::Malformed => 5,
            Self::Mismatch => 6,
            Self::CnameBroken => 7,
            Self::Unusable => 8,
            Self::Duplicate => 9,
            Self::Revoked => 10,
        }
    }
}

/// What must be found.
#[derive(Debug, Clone)]
pub enum Want {
    /// This exact TXT value (ownership token).
    Ownership {
        /// `signpost-verification=<token>`.
        value: String,
    },
    /// This key, in any harmless spelling.
    DkimKey {
        /// The key that signs.
        key: PublicKey,
    },
    /// A CNAME to the service (delegated mode).
    Delegated {
        /// Where it must lead, without trailing dot.
        target: String,
        /// The key that must stand there; without one nothing has to.
        key: Option<PublicKey>,
    },
    /// An SPF record that authorizes all of these addresses (evaluated, not compared).
    Spf {
        /// SIGNPOST_EGRESS_IPS.
        egress: Vec<IpAddr>,
    },
    /// Any valid DMARC record that applies to the domain (at the name or, without one, at the organizational domain).
    Dmarc,
}

/// A record to check.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Full owner name without trailing dot.
    pub name: String,
    /// What must be there.
    pub want: Want,
}

/// One server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAnswer {
    /// Server name and address, for people.
    pub server: String,
    /// Its status.
    pub status: Status,
}

/// The finding for one record, same order as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Overall status.
    pub status: Status,
    /// Warnings beside it.
    pub warnings: Vec<String>,
    /// Record texts found (TXT joined). A text that holds a private key is named, not repeated.
    pub found: Vec<String>,
    /// Per server.
    pub servers: Vec<ServerAnswer>,
    /// What is wrong and what to do, or why it is fine. Never empty.
    pub explanation: String,
    /// The value to publish instead of the standard one (SPF merged with the record found), if that differs.
    pub publish: Option<String>,
}

impl Finding {
    fn unreachable(explanation: String) -> Self {
        Self {
            status: Status::Unreachable,
            warnings: Vec::new(),
            found: Vec::new(),
            servers: Vec::new(),
            explanation,
            publish: None,
        }
    }
}

/// Asks all authoritative servers of the zone of each name, within `deadline`. Never fails: trouble is a status.
pub async fn check(dns: &Dns, domain: &SigningDomain, expected: &[Expected], deadline: Duration) -> Vec<Finding> {
    let until = Instant::now() + deadline;
    let answers_until = Instant::now() + deadline.saturating_sub(JUDGING_TIME);
    let questions = Questions::new(dns, answers_until, QUESTIONS_MAX, SERVERS_MAX);
    let probes = Questions::new(dns, answers_until, PROBES_MAX, PROBED_SERVERS);
    let located = authority::locate_domain(&questions, domain).await;
    let findings = join_all(expected.iter().map(|expected| async {
        let zone = match &located {
            Ok(zone) => zone,
            Err(reason) => return Finding::unreachable(unreachable_text(&expected.name, reason)),
        };
        let check = Check { questions: &questions, probes: &probes, domain, zone };
        timeout_at(until, check.run(expected)).await.unwrap_or_else(|_| {
            Finding::unreachable(unreachable_text(
                &expected.name,
                "The servers did not answer within the time for this check.",
            ))
        })
    }));
    findings.await.into_iter().zip(expected).map(|(finding, expected)| bounded(finding, &expected.want)).collect()
}

/// The p= value now served for a key record, for the self-check before sending: asks authoritative servers, then the recursive resolver.
/// `Ok(None)`: DNS answered and there is no usable key record. `Err`: no answer, nothing is known; also while servers disagree.
/// The value is in the form that `PublicKey::to_p` gives.
pub async fn read_published_key(
    dns: &Dns,
    domain: &SigningDomain,
    name: &str,
    deadline: Duration,
) -> Result<Option<String>, LookupError> {
    let until = Instant::now() + deadline;
    let Some(owner) = fqdn(name) else { return Err(LookupError::NoName) };
    let questions = Questions::new(dns, until, KEY_QUESTIONS_MAX, SERVERS_MAX);
    let replies = match authority::locate_domain(&questions, domain).await {
        Ok(zone) if zone.holds(&owner) => authority::txt(&questions, &zone, &owner).await,
        Ok(_) | Err(_) => Replies::default(),
    };
    let mut keys: Vec<Option<String>> = replies
        .list
        .iter()
        .filter_map(|reply| match &reply.outcome {
            Outcome::Texts(texts) => Some(usable_key(texts)),
            Outcome::Nothing | Outcome::BrokenAlias(_) => Some(None),
            Outcome::Failed(_) => None,
        })
        .collect();
    keys.sort();
    keys.dedup();
    match keys.as_slice() {
        [key] => Ok(key.clone()),
        [] => match timeout_at(until, dns.txt(name)).await {
            Ok(Ok(texts)) => Ok(usable_key(&texts)),
            Ok(Err(LookupError::NoName | LookupError::NoData)) => Ok(None),
            Ok(Err(temporary)) => Err(temporary),
            Err(_) => Err(LookupError::Temporary("no answer in time".to_owned())),
        },
        _ => Err(LookupError::Temporary(format!("the servers for {name} do not agree"))),
    }
}

/// RFC 6376 3.6.2.2: several records are undefined, so no key.
fn usable_key(texts: &[String]) -> Option<String> {
    match texts {
        [text] => record::parse(text).ok().map(|found| found.key.to_p()),
        _ => None,
    }
}

fn unreachable_text(name: &str, reason: &str) -> String {
    format!("Nothing is known about {name}: {reason} This says nothing about the record; check again later.")
}

struct Check<'a> {
    questions: &'a Questions<'a>,
    probes: &'a Questions<'a>,
    domain: &'a SigningDomain,
    zone: &'a Zone,
}

impl Check<'_> {
    async fn run(&self, expected: &Expected) -> Finding {
        let Some(owner) = fqdn(&expected.name) else {
            let reason = format!(
                "{} cannot be a name in the DNS: a label is over 63 or the whole over 253 characters.",
                expected.name
            );
            return Finding::unreachable(reason);
        };
        let finding = self.at(&owner, &expected.want).await;
        if finding.status != Status::Missing {
            return finding;
        }
        if let (Want::Dmarc, Some(inherited)) = (&expected.want, self.inherited_dmarc(&owner).await) {
            return inherited;
        }
        self.misplaced(&expected.name, &expected.want, finding).await
    }

    /// The finding for one name.
    async fn at(&self, owner: &Name, want: &Want) -> Finding {
        let replies = self.ask(self.questions, owner).await;
        let name = name_text(owner);
        let mut judged: BTreeMap<(&Outcome, &[Name]), Verdict> = BTreeMap::new();
        for reply in &replies.list {
            let answer = (&reply.outcome, reply.aliases.as_slice());
            if !judged.contains_key(&answer) {
                let verdict = self.verdict(&name, want, reply).await;
                judged.insert(answer, verdict);
            }
        }
        let verdicts: Vec<(&Reply, &Verdict)> = replies
            .list
            .iter()
            .filter_map(|reply| Some((reply, judged.get(&(&reply.outcome, reply.aliases.as_slice()))?)))
            .collect();
        combine(&name, &replies, &verdicts)
    }

    /// The authoritative answers for a name, from the tenant's zone or, for a name outside of it, from the zone where it lives.
    async fn ask(&self, questions: &Questions<'_>, owner: &Name) -> Replies {
        if self.zone.holds(owner) {
            return authority::txt(questions, self.zone, owner).await;
        }
        match authority::locate_target(questions, owner).await {
            Ok(zone) => authority::txt(questions, &zone, owner).await,
            Err(reason) => Replies { warnings: [reason].into(), ..Replies::default() },
        }
    }

    async fn verdict(&self, name: &str, want: &Want, reply: &Reply) -> Verdict {
        if let Want::Delegated { target, key } = want {
            return delegated::verdict(name, target, key.as_ref(), reply);
        }
        let texts: &[String] = match &reply.outcome {
            Outcome::Texts(texts) => texts,
            Outcome::Nothing => &[],
            Outcome::BrokenAlias(reason) => {
                return Verdict::new(
                    Status::Missing,
                    format!("No record can be reached from {name}: {reason}. Correct the CNAME."),
                );
            }
            Outcome::Failed(reason) => return Verdict::new(Status::Unreachable, reason.clone()),
        };
        match want {
            Want::Ownership { value } => judge::ownership(name, value, texts),
            Want::DkimKey { key } | Want::Delegated { key: Some(key), .. } => judge::dkim(name, key, texts),
            Want::Delegated { key: None, .. } => Verdict::new(Status::Ok, "Nothing has to stand here."),
            Want::Dmarc => judge::dmarc(name, texts),
            Want::Spf { egress } => SpfCheck { questions: self.questions }.verdict(name, egress, texts).await,
        }
    }

    /// RFC 7489 6.6.3: without a record at the domain itself the organizational domain's applies.
    async fn inherited_dmarc(&self, owner: &Name) -> Option<Finding> {
        let organizational = organizational_domain(self.domain)?;
        let inherited = fqdn(&format!("_dmarc.{organizational}"))?;
        if inherited == *owner {
            return None;
        }
        let mut finding = self.at(&inherited, &Want::Dmarc).await;
        finding.explanation.push_str(&format!(" It applies to {} too, which has none of its own.", self.domain));
        (finding.status == Status::Ok).then_some(finding)
    }

    /// Looks for the record at the names where people put it by mistake.
    async fn misplaced(&self, name: &str, want: &Want, missing: Finding) -> Finding {
        let candidates = misplaced::candidates(name, want, self.domain, &self.zone.apex_text());
        let texts = join_all(candidates.iter().map(|candidate| self.ours_at(&candidate.name, want))).await;
        let found = candidates.iter().zip(texts).find_map(|(candidate, texts)| Some((candidate, texts?)));
        let Some((candidate, texts)) = found else { return missing };
        Finding {
            status: Status::Misplaced,
            found: shown(&texts),
            explanation: format!(
                "There is no such record at {name}, but it was found at {}: {}.",
                candidate.name, candidate.mend
            ),
            ..missing
        }
    }

    /// The records at a name of this zone, if they are what was wanted or nearly.
    async fn ours_at(&self, name: &str, want: &Want) -> Option<Vec<String>> {
        let owner = fqdn(name).filter(|owner| self.zone.holds(owner))?;
        self.ask(self.probes, &owner).await.list.into_iter().find_map(|reply| match reply.outcome {
            Outcome::Texts(texts) if misplaced::is_ours(want, &texts) => Some(texts),
            Outcome::Texts(_) | Outcome::Nothing | Outcome::BrokenAlias(_) | Outcome::Failed(_) => None,
        })
    }
}

/// DESIGN: ok if at least one server is right and none wrong; else the worst wrong one; unreachable only if none answered.
fn combine(name: &str, replies: &Replies, verdicts: &[(&Reply, &Verdict)]) -> Finding {
    let servers = verdicts
        .iter()
        .map(|(reply, verdict)| ServerAnswer { server: reply.server.clone(), status: verdict.status })
        .collect();
    let mut warnings: Vec<String> = replies.warnings.iter().cloned().collect();
    for (reply, verdict) in verdicts {
        if verdict.status == Status::Unreachable {
            push_new(&mut warnings, format!("{}: {}.", reply.server, verdict.explanation));
        }
        for warning in verdict.warnings.iter().take(VERDICT_WARNINGS) {
            push_new(&mut warnings, warning.clone());
        }
    }
    let answered: Vec<&(&Reply, &Verdict)> =
        verdicts.iter().filter(|(_, verdict)| verdict.status != Status::Unreachable).collect();
    let Some((reply, worst)) = answered.iter().max_by_key(|(_, verdict)| verdict.status.weight()) else {
        let explanation = unreachable_text(name, &no_answer_text(&warnings));
        return Finding { warnings, servers, ..Finding::unreachable(explanation) };
    };
    let mut explanation = worst.explanation.clone();
    if !reply.aliases.is_empty() {
        let chain: Vec<String> = reply.aliases.iter().map(name_text).collect();
        explanation.push_str(&format!(" ({name} is a CNAME to {}.)", chain.join(", then ")));
    }
    if answered.iter().any(|(_, verdict)| verdict.status != worst.status) {
        let said: Vec<String> = answered
            .iter()
            .take(NAMED_SERVERS)
            .map(|(reply, verdict)| format!("{} says {}", reply.server, verdict.status.as_str()))
            .collect();
        explanation = format!("The servers do not agree: {}. {explanation}", said.join(", "));
    }
    let mut found = Vec::new();
    for (reply, _) in &answered {
        if let Outcome::Texts(texts) = &reply.outcome {
            shown(texts).into_iter().for_each(|text| push_new(&mut found, text));
        }
    }
    Finding { status: worst.status, warnings, found, servers, explanation, publish: worst.publish.clone() }
}

fn no_answer_text(warnings: &[String]) -> String {
    if warnings.is_empty() {
        "no authoritative server was found.".to_owned()
    } else {
        format!("no authoritative server answered. {}", warnings.join(" "))
    }
}

fn push_new(list: &mut Vec<String>, text: String) {
    if !list.contains(&text) {
        list.push(text);
    }
}

/// What may be shown of a record.
fn shown(texts: &[String]) -> Vec<String> {
    texts
        .iter()
        .map(|text| {
            if judge::holds_private_key(text) {
                "(a record with a private key, not repeated here)".to_owned()
            } else {
                text.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_names_and_distinct_weights() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        let mut weights: Vec<u8> = Status::ALL.into_iter().map(Status::weight).collect();
        weights.sort_unstable();
        weights.dedup();
        assert_eq!(weights.len(), Status::ALL.len());
        assert_eq!(Status::parse("unchecked"), None);
    }

    #[test]
    fn the_worst_wrong_server_decides_and_silent_ones_are_warnings() {
        let reply = |server: &str, outcome: Outcome| Reply { server: server.to_owned(), outcome, aliases: Vec::new() };
        let list = vec![
            reply("ns1 (192.0.2.1)", Outcome::Texts(vec!["right".to_owned()])),
            reply("ns2 (192.0.2.2)", Outcome::Nothing),
            reply("ns3 (192.0.2.3)", Outcome::Failed("no answer in time".to_owned())),
        ];
        let replies = Replies { list, ..Replies::default() };
        let verdicts = [
            Verdict::new(Status::Ok, "Fine."),
            Verdict::new(Status::Missing, "Nothing there."),
            Verdict::new(Status::Unreachable, "no answer in time"),
        ];
        let finding = combine("x.example.com", &replies, &replies.list.iter().zip(&verdicts).collect::<Vec<_>>());
        assert_eq!(finding.status, Status::Missing);
        assert!(
            finding.explanation.contains("ns1 (192.0.2.1) says ok, ns2 (192.0.2.2) says missing"),
            "{}",
            finding.explanation
        );
        assert_eq!(finding.warnings, ["ns3 (192.0.2.3): no answer in time."]);
        assert_eq!(finding.found, ["right"]);
        let silent = combine("x.example.com", &replies, &[(&replies.list[2], &verdicts[2])]);
        assert_eq!(silent.status, Status::Unreachable);
        assert!(silent.explanation.contains("no answer in time"));
    }
}
