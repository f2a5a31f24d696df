//! From what each server says to one finding.
use crate::authority::{Outcome, Reply};
use crate::check::{Finding, ServerAnswer, Status, unreachable_text};
use crate::dns::name_text;
use crate::judge::{self, Verdict};
use std::collections::BTreeSet;

/// Warnings of one verdict.
const VERDICT_WARNINGS: usize = 20;
/// Servers that an explanation names where they do not agree.
const NAMED_SERVERS: usize = 12;

/// One server's reply, the verdict on it and, where servers disagree, the serial of the zone that it answered from.
#[derive(Clone, Copy)]
pub(crate) struct Judged<'a> {
    pub(crate) reply: &'a Reply,
    pub(crate) verdict: &'a Verdict,
    pub(crate) serial: Option<u32>,
}

impl Judged<'_> {
    /// True for an answer, right or wrong.
    pub(crate) fn is_answer(&self) -> bool {
        self.verdict.status != Status::Unreachable
    }

    pub(crate) fn is_right(&self) -> bool {
        self.verdict.status == Status::Ok
    }
}

/// DESIGN: ok if at least one server is right and none wrong; else the worst wrong one; unreachable only if none answered. Wrong ones
/// that are only behind right ones make it `lagging`.
pub(crate) fn combine(name: &str, general: &BTreeSet<String>, judged: &[Judged<'_>]) -> Finding {
    let servers = judged
        .iter()
        .map(|one| ServerAnswer { server: one.reply.server.clone(), status: one.verdict.status })
        .collect();
    let mut warnings: Vec<String> = general.iter().cloned().collect();
    for Judged { reply, verdict, .. } in judged {
        if verdict.status == Status::Unreachable {
            push_new(&mut warnings, format!("{}: {}.", reply.server, verdict.explanation));
        }
        for warning in verdict.warnings.iter().take(VERDICT_WARNINGS) {
            push_new(&mut warnings, warning.clone());
        }
    }
    let answered: Vec<&Judged<'_>> = judged.iter().filter(|one| one.is_answer()).collect();
    let Some(decisive) = decisive(&answered) else {
        let explanation = unreachable_text(name, &no_answer_text(&warnings));
        return Finding { warnings, servers, ..Finding::unreachable(explanation) };
    };
    let (status, explanation, publish) = match decisive {
        Decisive::One(one) => (one.verdict.status, explanation_of(name, one, &answered), one.verdict.publish.clone()),
        Decisive::Behind => (Status::Lagging, lagging_text(&answered), None),
    };
    let mut found = Vec::new();
    for one in &answered {
        if let Outcome::Texts(texts) = &one.reply.outcome {
            shown(texts).into_iter().for_each(|text| push_new(&mut found, text));
        }
    }
    Finding { status, warnings, found, servers, explanation, publish }
}

/// What decides the status.
enum Decisive<'a> {
    /// This answer.
    One(&'a Judged<'a>),
    /// That some are right and all the others behind them.
    Behind,
}

/// `None` without any answer.
fn decisive<'a>(answered: &[&'a Judged<'a>]) -> Option<Decisive<'a>> {
    let worst = |list: &[&'a Judged<'a>]| list.iter().copied().max_by_key(|one| one.verdict.status.weight());
    let (right, wrong): (Vec<&Judged<'_>>, Vec<&Judged<'_>>) = answered.iter().copied().partition(|one| one.is_right());
    if right.is_empty() || wrong.is_empty() {
        return worst(answered).map(Decisive::One);
    }
    let standing: Vec<&Judged<'_>> = wrong.into_iter().filter(|one| !is_behind(one, &right)).collect();
    Some(worst(&standing).map_or(Decisive::Behind, Decisive::One))
}

/// True if a wrong server serves the state of before. An older serial proves it, a newer one disproves it: then it is the right ones that
/// are behind. Where the serial does not tell (many providers do not count it up), a record that is not there yet or another value
/// in good form is taken for the former state; damage is not, nor is a revocation.
fn is_behind(wrong: &Judged<'_>, right: &[&Judged<'_>]) -> bool {
    let apex = |one: &Judged<'_>| one.reply.origin.as_ref().map(|(_, apex)| apex.clone());
    let newest = right
        .iter()
        .filter(|one| apex(one) == apex(wrong))
        .filter_map(|one| one.serial)
        .reduce(|a, b| if is_newer(b, a) { b } else { a });
    match (wrong.serial, newest) {
        (Some(theirs), Some(newest)) if is_newer(newest, theirs) => true,
        (Some(theirs), Some(newest)) if is_newer(theirs, newest) => false,
        (Some(_) | None, Some(_) | None) => {
            matches!(wrong.verdict.status, Status::Missing | Status::Wildcard | Status::Mismatch)
        }
    }
}

/// RFC 1982 3.2: serials go round.
fn is_newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) < 1 << 31
}

fn explanation_of(name: &str, one: &Judged<'_>, answered: &[&Judged<'_>]) -> String {
    let mut explanation = one.verdict.explanation.clone();
    if !one.reply.aliases.is_empty() {
        let chain: Vec<String> = one.reply.aliases.iter().map(name_text).collect();
        explanation.push_str(&format!(" ({name} is a CNAME to {}.)", chain.join(", then ")));
    }
    if answered.iter().any(|other| other.verdict.status != one.verdict.status) {
        explanation = format!("The servers do not agree: {}. {explanation}", said(answered));
    }
    explanation
}

fn lagging_text(answered: &[&Judged<'_>]) -> String {
    format!(
        "The servers do not agree: {}. Some have the record already, the others still serve the state of before: nothing is signed with it \
         until all of them have it. Wait until they have followed. If they do not within an hour, the zone does not get to them: ask the \
         DNS provider or, where the domain is held by two providers, publish the record with both.",
        said(answered)
    )
}

/// What each server says, with the serial of its zone where these differ.
fn said(answered: &[&Judged<'_>]) -> String {
    let serials: BTreeSet<u32> = answered.iter().filter_map(|one| one.serial).collect();
    let one = |one: &&Judged<'_>| {
        let status = one.verdict.status.as_str();
        match one.serial.filter(|_| serials.len() > 1) {
            Some(serial) => format!("{} says {status} (serial {serial} of the zone)", one.reply.server),
            None => format!("{} says {status}", one.reply.server),
        }
    };
    answered.iter().take(NAMED_SERVERS).map(one).collect::<Vec<_>>().join(", ")
}

fn no_answer_text(warnings: &[String]) -> String {
    if warnings.is_empty() {
        "no authoritative server was found.".to_owned()
    } else {
        format!("no authoritative server answered. {}", warnings.join(" "))
    }
}

pub(crate) fn push_new(list: &mut Vec<String>, text: String) {
    if !list.contains(&text) {
        list.push(text);
    }
}

/// What may be shown of a record.
pub(crate) fn shown(texts: &[String]) -> Vec<String> {
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
    use crate::dns::fqdn;

    fn reply(server: &str, outcome: Outcome) -> Reply {
        let origin = Some((([192, 0, 2, 1], 53).into(), fqdn("example.com").unwrap()));
        Reply { server: server.to_owned(), outcome, aliases: Vec::new(), origin }
    }

    fn combined(list: &[(Reply, Verdict, Option<u32>)]) -> Finding {
        let judged: Vec<_> =
            list.iter().map(|(reply, verdict, serial)| Judged { reply, verdict, serial: *serial }).collect();
        combine("x.example.com", &BTreeSet::new(), &judged)
    }

    #[test]
    fn the_worst_wrong_server_decides_and_silent_ones_are_warnings() {
        let silent = (
            reply("ns3 (192.0.2.3)", Outcome::Failed("no answer in time".to_owned())),
            Verdict::new(Status::Unreachable, "no answer in time"),
            None,
        );
        let finding = combined(&[
            (
                reply("ns1 (192.0.2.1)", Outcome::Texts(vec!["right".to_owned()])),
                Verdict::new(Status::Ok, "Fine."),
                None,
            ),
            (
                reply("ns2 (192.0.2.2)", Outcome::Texts(vec!["p=".to_owned()])),
                Verdict::new(Status::Revoked, "p= is empty."),
                None,
            ),
            silent.clone(),
        ]);
        assert_eq!(finding.status, Status::Revoked);
        let said = "ns1 (192.0.2.1) says ok, ns2 (192.0.2.2) says revoked";
        assert!(finding.explanation.contains(said), "{}", finding.explanation);
        assert_eq!(finding.warnings, ["ns3 (192.0.2.3): no answer in time."]);
        assert_eq!(finding.found, ["right", "p="]);
        let silent = combined(&[silent]);
        assert_eq!(silent.status, Status::Unreachable);
        assert!(silent.explanation.contains("no answer in time"));
    }

    /// (statuses and serials of the servers, overall status)
    #[test]
    fn servers_that_are_only_behind_make_a_record_lag() {
        use Status::{Duplicate, Lagging, Malformed, Mismatch, Missing, Ok, Revoked, Unreachable, Wildcard};
        type Said = (Status, Option<u32>);
        let table: [(&[Said], Status); 16] = [
            (&[(Ok, None), (Missing, None)], Lagging),
            (&[(Ok, None), (Wildcard, None)], Lagging),
            (&[(Ok, Some(7)), (Mismatch, Some(7))], Lagging),
            (&[(Ok, Some(7)), (Unreachable, None), (Missing, Some(7))], Lagging),
            // damage and revocation are new, unless the serial says otherwise
            (&[(Ok, Some(7)), (Malformed, Some(7))], Malformed),
            (&[(Ok, None), (Revoked, None)], Revoked),
            (&[(Ok, Some(8)), (Malformed, Some(7))], Lagging),
            (&[(Ok, Some(8)), (Revoked, Some(7)), (Duplicate, Some(6))], Lagging),
            (&[(Ok, Some(8)), (Malformed, Some(8)), (Missing, Some(7))], Malformed),
            // the newest state is the one without the record
            (&[(Ok, Some(7)), (Missing, Some(8))], Missing),
            (&[(Ok, Some(7)), (Ok, Some(9)), (Missing, Some(8))], Lagging),
            // serials go round
            (&[(Ok, Some(2)), (Malformed, Some(u32::MAX))], Lagging),
            (&[(Ok, Some(u32::MAX)), (Missing, Some(2))], Missing),
            (&[(Ok, None), (Unreachable, None)], Ok),
            (&[(Missing, Some(7)), (Mismatch, Some(8))], Mismatch),
            (&[(Unreachable, None)], Unreachable),
        ];
        for (servers, expected) in table {
            let list: Vec<_> = servers
                .iter()
                .map(|(status, serial)| (reply("ns", Outcome::Nothing), Verdict::new(*status, "So."), *serial))
                .collect();
            let finding = combined(&list);
            assert_eq!(finding.status, expected, "{servers:?}: {}", finding.explanation);
        }
    }
}
