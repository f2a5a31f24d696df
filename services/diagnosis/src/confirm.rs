//! The second opinion: once the authoritative servers are right, a recursive resolver is asked as receivers ask it.
use crate::check::{Finding, ServerAnswer, Status};
use crate::combine::push_new;
use crate::judge::Verdict;
use crate::recursive::{Told, Word};

/// Adds what the resolver said to a finding that is ok; `verdict` judges its answer, if it gave one. What it keeps from before is a
/// warning: it passes with the TTL. That it refuses what does not validate is a fault of the zone.
pub(crate) fn add(name: &str, finding: &mut Finding, told: Result<Told, Vec<String>>, verdict: Option<Verdict>) {
    let Told { resolver, word } = match told {
        Ok(told) => told,
        Err(silent) => {
            silent.into_iter().for_each(|reason| push_new(&mut finding.warnings, format!("{reason}.")));
            return;
        }
    };
    let status = match (&word, verdict) {
        (Word::Bogus, _) => Status::DnssecBogus,
        (Word::Answer { .. }, Some(verdict)) => verdict.status,
        (Word::Answer { .. }, None) => Status::Unreachable,
    };
    match word {
        Word::Bogus => {
            finding.status = Status::DnssecBogus;
            finding.explanation = bogus_text(name, &resolver);
        }
        Word::Answer { ttl, .. } if status != Status::Ok => {
            push_new(&mut finding.warnings, stale_text(&resolver, status, ttl));
        }
        Word::Answer { .. } => {}
    }
    finding.servers.push(ServerAnswer { server: resolver, status });
}

fn bogus_text(name: &str, resolver: &str) -> String {
    format!(
        "The authoritative servers serve the right record at {name}, but the {resolver}, which validates DNSSEC, refuses it: it says SERVFAIL, \
         and answers only with checking disabled. The signatures of the zone do not verify, so receivers that validate get no key. \
         Usual causes: signatures that have expired or were not made anew after a change (sign the zone again), or a DS record at the \
         registrar that belongs to an earlier key (replace or remove it)."
    )
}

fn stale_text(resolver: &str, status: Status, ttl: Option<u32>) -> String {
    let what = match status {
        Status::Missing | Status::Wildcard | Status::Misplaced => "still says that there is no such record".to_owned(),
        Status::Ok
        | Status::Mismatch
        | Status::Malformed
        | Status::Duplicate
        | Status::Truncated
        | Status::Revoked
        | Status::Unusable
        | Status::CnameBroken
        | Status::Lagging
        | Status::DnssecBogus
        | Status::Unreachable => format!("still gives another answer ({})", status.as_str()),
    };
    let until = match ttl {
        Some(ttl) => format!("its memory of that ends in at most {ttl} seconds"),
        None => "that passes".to_owned(),
    };
    format!(
        "The {resolver} {what}, while the authoritative servers are right; {until}. Receivers that ask such a resolver see no key until then."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Outcome, Reply};

    fn ok() -> Finding {
        Finding {
            status: Status::Ok,
            warnings: Vec::new(),
            found: vec!["right".to_owned()],
            servers: vec![ServerAnswer { server: "ns1 (192.0.2.1)".to_owned(), status: Status::Ok }],
            explanation: "Fine.".to_owned(),
            publish: None,
        }
    }

    fn answer(ttl: Option<u32>) -> Result<Told, Vec<String>> {
        let reply = Reply {
            server: "resolver (192.0.2.53)".to_owned(),
            outcome: Outcome::Nothing,
            aliases: Vec::new(),
            origin: None,
        };
        Ok(Told { resolver: "resolver (192.0.2.53)".to_owned(), word: Word::Answer { reply, ttl } })
    }

    #[test]
    fn what_a_resolver_remembers_is_a_warning_with_its_end() {
        let mut finding = ok();
        add("x.example.com", &mut finding, answer(Some(86_000)), Some(Verdict::new(Status::Missing, "Nothing.")));
        assert_eq!((finding.status, finding.servers.len()), (Status::Ok, 2));
        assert_eq!(finding.servers[1].status, Status::Missing);
        assert!(finding.warnings[0].contains("at most 86000 seconds"), "{:?}", finding.warnings);

        let mut finding = ok();
        add("x.example.com", &mut finding, answer(None), Some(Verdict::new(Status::Ok, "Fine.")));
        assert_eq!((finding.servers[1].status, finding.warnings.len()), (Status::Ok, 0));
    }

    #[test]
    fn a_silent_resolver_is_a_warning_and_one_that_refuses_what_is_bogus_decides() {
        let mut finding = ok();
        add("x.example.com", &mut finding, Err(vec!["resolver (192.0.2.53): no answer in time".to_owned()]), None);
        assert_eq!((finding.status, finding.warnings.len(), finding.servers.len()), (Status::Ok, 1, 1));

        let mut finding = ok();
        let told = Told { resolver: "resolver (192.0.2.53)".to_owned(), word: Word::Bogus };
        add("x.example.com", &mut finding, Ok(told), None);
        assert_eq!((finding.status, finding.servers[1].status), (Status::DnssecBogus, Status::DnssecBogus));
        assert!(finding.explanation.contains("DS record"), "{}", finding.explanation);
    }
}
