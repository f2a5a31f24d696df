//! The check: ask every authoritative server for each record, then a recursive resolver, and say exactly what is wrong.
use crate::alias;
use crate::authority::{self, Outcome, Replies, Reply, SERVERS_MAX, Zone};
use crate::bounds::bounded;
use crate::combine::{Judged, combine, shown};
use crate::confirm;
use crate::dns::{Dns, LookupError, fqdn, name_text};
use crate::judge::{self, Verdict};
use crate::misplaced;
use crate::questions::Questions;
use crate::recursive::{self, Told, Word};
use crate::spf_check::SpfCheck;
use crate::suffix::organizational_domain;
use crate::wildcard;
use futures_util::future::join_all;
use hickory_proto::rr::{Name, RData, RecordType};
use signpost_dkim::{SigningDomain, record, record::PublicKey};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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

/// Kept back from the deadline, so that what was answered until then is still judged.
const JUDGING_TIME: Duration = Duration::from_millis(200);

pub use crate::status::Status;

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
    /// A CNAME that leads straight to `target`, a name of the operator's zone, and there, if one is to be there, this key.
    DkimAlias {
        /// In lower case, without trailing dot.
        target: String,
        /// `None`: only the CNAME is judged.
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

/// One server's answer; the last one is a resolver's where one was asked.
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
    pub(crate) fn unreachable(explanation: String) -> Self {
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

/// Asks all authoritative servers of the zone of each name and, about what is right there, a recursive resolver, within `deadline`.
/// Never fails: trouble is a status.
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

/// What the first recursive resolver that answers says of a record, judged as an authoritative answer is: the second opinion on a record
/// that stood there once and is wrong now. `None`: none answered, or it refuses what does not validate, which says nothing of the content.
/// Not for records that are still to come: asking would plant "does not exist" in its cache (RFC 2308 5).
pub async fn resolvers_word(
    dns: &Dns,
    domain: &SigningDomain,
    expected: &Expected,
    deadline: Duration,
) -> Option<Status> {
    let owner = fqdn(&expected.name)?;
    let questions = Questions::new(dns, Instant::now() + deadline, KEY_QUESTIONS_MAX, SERVERS_MAX);
    let zone = authority::locate_domain(&questions, domain).await.ok()?;
    let check = Check { questions: &questions, probes: &questions, domain, zone: &zone };
    let status = match recursive::txt(&questions, &owner).await.ok()?.word {
        Word::Answer { reply, .. } => check.verdict(&name_text(&owner), &expected.want, &reply).await.status,
        Word::Bogus => return None,
    };
    (status != Status::Unreachable).then_some(status)
}

/// RFC 6376 3.6.2.2: several records are undefined, so no key.
fn usable_key(texts: &[String]) -> Option<String> {
    match texts {
        [text] => record::parse(text).ok().map(|found| found.key.to_p()),
        _ => None,
    }
}

pub(crate) fn unreachable_text(name: &str, reason: &str) -> String {
    format!("Nothing is known about {name}: {reason} This says nothing about the record; check again later.")
}

/// The content of a reply: equal ones get equal verdicts.
type Said<'a> = (&'a Outcome, &'a [Name]);

fn said(reply: &Reply) -> Said<'_> {
    (&reply.outcome, &reply.aliases)
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
        let want = &expected.want;
        let finding = self.at(&owner, want).await;
        let is_absent = match finding.status {
            Status::Missing | Status::Wildcard => true,
            Status::CnameBroken => matches!(want, Want::Dmarc),
            Status::Ok
            | Status::Mismatch
            | Status::Malformed
            | Status::Duplicate
            | Status::Truncated
            | Status::Misplaced
            | Status::Revoked
            | Status::Unusable
            | Status::Lagging
            | Status::DnssecBogus
            | Status::Unreachable => false,
        };
        if !is_absent {
            return finding;
        }
        if let (Want::Dmarc, Some(inherited)) = (want, self.inherited_dmarc(&owner).await) {
            return inherited;
        }
        self.misplaced(&expected.name, want, finding).await
    }

    /// The finding for one name.
    async fn at(&self, owner: &Name, want: &Want) -> Finding {
        let replies = self.ask(self.questions, owner).await;
        let verdicts = self.verdicts(owner, want, &replies).await;
        let serials = self.serials(&replies, &verdicts).await;
        let judged: Vec<Judged<'_>> = replies
            .list
            .iter()
            .zip(&verdicts)
            .zip(serials)
            .map(|((reply, verdict), serial)| Judged { reply, verdict, serial })
            .collect();
        let mut finding = combine(&name_text(owner), &replies.warnings, &judged);
        if finding.status == Status::Ok {
            self.confirm(owner, want, &judged, &mut finding).await;
        }
        finding
    }

    /// One verdict for each reply.
    async fn verdicts(&self, owner: &Name, want: &Want, replies: &Replies) -> Vec<Verdict> {
        let name = name_text(owner);
        let mut judged: BTreeMap<Said<'_>, Verdict> = BTreeMap::new();
        for reply in &replies.list {
            if let Entry::Vacant(unjudged) = judged.entry(said(reply)) {
                unjudged.insert(self.verdict(&name, want, reply).await);
            }
        }
        self.expose_wildcards(owner, want, &mut judged).await;
        let unjudged = || Verdict::new(Status::Unreachable, "its reply was not judged");
        replies.list.iter().map(|reply| judged.get(&said(reply)).cloned().unwrap_or_else(unjudged)).collect()
    }

    /// RFC 4592: what a name beside this one gets too stands at neither. (An SPF record of a wildcard is one of the name all the same.)
    async fn expose_wildcards(&self, owner: &Name, want: &Want, judged: &mut BTreeMap<Said<'_>, Verdict>) {
        let suspects = |(outcome, aliases): &Said<'_>, verdict: &Verdict| {
            let holds_data = matches!(outcome, Outcome::Texts(_)) || !aliases.is_empty();
            holds_data && !matches!(verdict.status, Status::Ok | Status::Unreachable)
        };
        if matches!(want, Want::Spf { .. }) || !judged.iter().any(|(said, verdict)| suspects(said, verdict)) {
            return;
        }
        let Some((sibling, replies)) = self.beside(owner).await else { return };
        for (one, verdict) in judged.iter_mut().filter(|(one, verdict)| suspects(one, verdict)) {
            if replies.list.iter().any(|reply| said(reply) == *one) {
                *verdict = wildcard::verdict(&name_text(owner), &sibling);
            }
        }
    }

    /// What a name beside this one gets, which nobody publishes.
    async fn beside(&self, owner: &Name) -> Option<(Name, Replies)> {
        let sibling = wildcard::sibling(owner).filter(|sibling| self.zone.holds(sibling))?;
        let replies = self.ask(self.probes, &sibling).await;
        Some((sibling, replies))
    }

    /// Where servers disagree, the serial of the zone that each answered from (RFC 1035 3.3.13); else `None` for all.
    async fn serials(&self, replies: &Replies, verdicts: &[Verdict]) -> Vec<Option<u32>> {
        let has =
            |right: bool| verdicts.iter().any(|v| v.status != Status::Unreachable && (v.status == Status::Ok) == right);
        if !has(true) || !has(false) {
            return vec![None; replies.list.len()];
        }
        join_all(replies.list.iter().map(|reply| async {
            let (server, apex) = reply.origin.as_ref()?;
            let answer = self.questions.direct(*server, apex, RecordType::SOA).await.ok()?;
            answer.answers.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.serial),
                _ => None,
            })
        }))
        .await
    }

    /// The authoritative servers are right: what does a resolver say, and is the record the name's own?
    async fn confirm(&self, owner: &Name, want: &Want, judged: &[Judged<'_>], finding: &mut Finding) {
        if matches!(want, Want::DkimAlias { key: None, .. }) {
            // Nothing stands at the target yet: the question would plant that there, for the key that comes (RFC 2308 5).
            return;
        }
        let name = name_text(owner);
        let own = async {
            match want {
                Want::DkimKey { .. } | Want::DkimAlias { .. } => self.beside(owner).await,
                Want::Ownership { .. } | Want::Spf { .. } | Want::Dmarc => None,
            }
        };
        let (told, beside) = tokio::join!(recursive::txt(self.questions, owner), own);
        let right = |reply: &Reply| judged.iter().any(|one| one.is_right() && said(one.reply) == said(reply));
        if beside.is_some_and(|(_, replies)| replies.list.iter().any(&right)) {
            finding.warnings.push(wildcard::warning(&name));
        }
        let verdict = match &told {
            Ok(Told { word: Word::Answer { reply, .. }, .. }) if right(reply) => {
                Some(Verdict::new(Status::Ok, "As the authoritative servers."))
            }
            Ok(Told { word: Word::Answer { reply, .. }, .. }) => Some(self.verdict(&name, want, reply).await),
            Ok(Told { word: Word::Bogus, .. }) | Err(_) => None,
        };
        confirm::add(&name, finding, told, verdict);
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
        let texts: &[String] = match (&reply.outcome, want) {
            // of a CNAME that is wanted the way counts, too
            (_, Want::DkimAlias { .. }) | (Outcome::Nothing, _) => &[],
            (Outcome::Texts(texts), _) => texts,
            (Outcome::BrokenAlias(reason), _) => return alias::broken(name, reason),
            (Outcome::Failed(reason), _) => return Verdict::new(Status::Unreachable, reason.clone()),
        };
        let verdict = match want {
            Want::Ownership { value } => judge::ownership(name, value, texts),
            Want::DkimKey { key } => judge::dkim(name, key, texts),
            Want::DkimAlias { target, key } => return alias::delegated(name, target, key.as_ref(), reply),
            Want::Dmarc => judge::dmarc(name, texts),
            Want::Spf { egress } => SpfCheck { questions: self.questions }.verdict(name, egress, texts).await,
        };
        alias::through(name, want, &self.zone.apex_text(), reply, verdict)
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
        // what a wildcard gives at every name was put at none of them
        let everywhere = match missing.status {
            Status::Wildcard => missing.found.as_slice(),
            _ => &[],
        };
        let elsewhere = candidates.iter().map(|candidate| self.ours_at(&candidate.name, want, everywhere));
        let texts = join_all(elsewhere).await;
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
    async fn ours_at(&self, name: &str, want: &Want, everywhere: &[String]) -> Option<Vec<String>> {
        let owner = fqdn(name).filter(|owner| self.zone.holds(owner))?;
        self.ask(self.probes, &owner).await.list.into_iter().find_map(|reply| match reply.outcome {
            Outcome::Texts(texts) if misplaced::is_ours(want, &texts) && shown(&texts) != everywhere => Some(texts),
            Outcome::Texts(_) | Outcome::Nothing | Outcome::BrokenAlias(_) | Outcome::Failed(_) => None,
        })
    }
}
