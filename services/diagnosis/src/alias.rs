//! Verdicts on CNAMEs (RFC 1034 3.6.2, RFC 6376 3.6.2.1): where one stands in the way of a record, and where one is what must be published.
use crate::authority::{Outcome, Reply};
use crate::check::{Status, Want};
use crate::dns::name_text;
use crate::judge::{self, Verdict};
use crate::misplaced;
use hickory_proto::rr::Name;
use psl::Psl;
use signpost_dkim::record::PublicKey;

/// The verdict on a chain of CNAMEs that can never be followed to its end; `reason` is a clause.
pub(crate) fn broken(name: &str, reason: &str) -> Verdict {
    Verdict::new(
        Status::CnameBroken,
        format!("No record can be reached from {name}: {reason}. Correct or remove the CNAME record."),
    )
}

/// What an answer through CNAMEs amounts to, `verdict` being that on its content: a target without the record, or with somebody
/// else's, is a fault of the CNAME. Where the target holds our record, only damaged, the damage is what must be mended.
pub(crate) fn through(name: &str, want: &Want, apex: &str, reply: &Reply, verdict: Verdict) -> Verdict {
    let Some(target) = reply.aliases.last() else { return verdict };
    let dangling = match want {
        Want::Ownership { .. } | Want::DkimKey { .. } | Want::Dmarc => reply.outcome == Outcome::Nothing,
        Want::Spf { .. } | Want::DkimAlias { .. } => false,
    };
    if dangling {
        return Verdict::new(
            Status::CnameBroken,
            format!(
                "The CNAME at {name} leads to {}, where there is no TXT record.{} Replace the CNAME by the TXT record shown, or make it \
                 lead to where that record stands.",
                name_text(target),
                dot_hint(target, apex)
            ),
        );
    }
    let foreign = match (&reply.outcome, want) {
        (Outcome::Texts(texts), Want::Ownership { .. } | Want::DkimKey { .. }) => !misplaced::is_ours(want, texts),
        (Outcome::Texts(_), Want::Spf { .. } | Want::Dmarc | Want::DkimAlias { .. })
        | (Outcome::Nothing | Outcome::BrokenAlias(_) | Outcome::Failed(_), _) => false,
    };
    match verdict.status {
        Status::Missing
        | Status::Mismatch
        | Status::Malformed
        | Status::Duplicate
        | Status::Truncated
        | Status::Unusable
            if foreign =>
        {
            Verdict::new(
                Status::CnameBroken,
                format!(
                    "The CNAME at {name} leads to a wrong target: what stands at {} is not the record that is needed. Replace the CNAME by \
                     the TXT record shown. In detail: {}",
                    name_text(target),
                    verdict.explanation
                ),
            )
        }
        Status::Ok
        | Status::Missing
        | Status::Mismatch
        | Status::Malformed
        | Status::Duplicate
        | Status::Truncated
        | Status::Misplaced
        | Status::Revoked
        | Status::Unusable
        | Status::Wildcard
        | Status::CnameBroken
        | Status::Lagging
        | Status::DnssecBogus
        | Status::Unreachable => verdict,
    }
}

/// RFC 1035 5.1: a target without its final dot gets the zone appended.
fn dot_hint(target: &Name, apex: &str) -> String {
    let text = name_text(target);
    let meant =
        text.strip_suffix(apex).and_then(|rest| rest.strip_suffix('.')).filter(|rest| rest.matches('.').count() > 1);
    let is_whole = |name: &&str| psl::List.suffix(name.as_bytes()).is_some_and(|suffix| suffix.is_known());
    match meant.filter(is_whole) {
        Some(meant) => {
            format!(" The zone seems to have been appended to the target: write `{meant}.` with its final dot.")
        }
        None => String::new(),
    }
}

/// The CNAME of a delegated key: it must lead straight to `target`, and the key behind it, if there is to be one, must stand there.
pub(crate) fn delegated(name: &str, target: &str, key: Option<&PublicKey>, reply: &Reply) -> Verdict {
    if let (Some(first), false) = (reply.aliases.first(), matches!(reply.outcome, Outcome::BrokenAlias(_))) {
        let leads_to = name_text(first);
        if leads_to != target {
            return Verdict::new(
                Status::CnameBroken,
                format!("The CNAME at {name} leads to {leads_to} instead of {target}. Correct its target."),
            );
        }
        return match (key, &reply.outcome) {
            (Some(key), Outcome::Texts(texts)) => judge::dkim(target, key, texts),
            (Some(_), Outcome::Nothing) => Verdict::new(
                Status::Missing,
                format!(
                    "The CNAME at {name} is right; the key is not yet published at {target}. That is done for you; check again in a minute."
                ),
            ),
            (Some(_), Outcome::Failed(reason)) => Verdict::new(Status::Unreachable, reason.clone()),
            (Some(_), Outcome::BrokenAlias(reason)) => broken(name, reason),
            (None, Outcome::Texts(_) | Outcome::Nothing | Outcome::Failed(_) | Outcome::BrokenAlias(_)) => {
                Verdict::new(Status::Ok, format!("The CNAME at {name} leads to {target}."))
            }
        };
    }
    match &reply.outcome {
        Outcome::BrokenAlias(reason) => broken(name, reason),
        Outcome::Failed(reason) => Verdict::new(Status::Unreachable, reason.clone()),
        Outcome::Nothing => Verdict::new(
            Status::Missing,
            format!("There is no CNAME record at {name}. Publish one that leads to `{target}`."),
        ),
        Outcome::Texts(_) => Verdict::new(
            Status::Mismatch,
            format!(
                "A TXT record stands at {name}, where a CNAME to `{target}` is needed. Remove the TXT record and publish the CNAME."
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fqdn;

    fn reply(outcome: Outcome, aliases: &[&str]) -> Reply {
        let aliases = aliases.iter().map(|name| fqdn(name).unwrap()).collect();
        Reply { server: "ns1".to_owned(), outcome, aliases, origin: None }
    }

    #[test]
    fn a_target_that_lost_its_final_dot_is_recognized() {
        let hint = |target: &str| dot_hint(&fqdn(target).unwrap(), "example.com");
        assert!(hint("s1.dkim.service.net.example.com").contains("`s1.dkim.service.net.`"));
        assert_eq!(hint("s1.example.com"), "");
        assert_eq!(hint("keys.mail.example.com"), "", "a subdomain of the zone itself");
        assert_eq!(hint("s1.dkim.service.net"), "");
    }

    /// (CNAMEs, what stands at their end, is there to be a key?, status)
    #[test]
    fn the_cname_of_a_delegated_key_must_lead_straight_to_its_target() {
        let key = PublicKey::from_ed25519(&[1; 32]).unwrap();
        let right = Outcome::Texts(vec![signpost_dkim::record::build(&key)]);
        let target = "slot1.dkim.signpost.test";
        let failed = Outcome::Failed("no answer in time".to_owned());
        let looped = Outcome::BrokenAlias("the CNAME records form a loop".to_owned());
        for (aliases, outcome, with_key, expected) in [
            (vec![target], right.clone(), true, Status::Ok),
            (vec![target], Outcome::Nothing, true, Status::Missing),
            (vec![target], Outcome::Texts(vec!["v=DKIM1; p=".to_owned()]), true, Status::Revoked),
            (vec![target], failed.clone(), true, Status::Unreachable),
            (vec![target], Outcome::Nothing, false, Status::Ok),
            (vec![target], failed.clone(), false, Status::Ok),
            (vec!["slot2.dkim.signpost.test"], right.clone(), true, Status::CnameBroken),
            (vec!["elsewhere.test", target], right.clone(), true, Status::CnameBroken),
            (vec![target, target], looped, true, Status::CnameBroken),
            (vec![], Outcome::Nothing, true, Status::Missing),
            (vec![], right, true, Status::Mismatch),
            (vec![], failed, true, Status::Unreachable),
        ] {
            let reply = reply(outcome, &aliases);
            let verdict = delegated("s1._domainkey.example.com", target, with_key.then_some(&key), &reply);
            assert_eq!(verdict.status, expected, "{reply:?}: {}", verdict.explanation);
        }
    }
}
