//! Verdict on a name of a delegated domain: it must be a CNAME to the service, which keeps the key record behind it.
use crate::authority::{Outcome, Reply};
use crate::check::Status;
use crate::dns::name_text;
use crate::judge::{self, Verdict};
use signpost_dkim::record::PublicKey;

/// RFC 1034 3.6.2: where the CNAME leads, and what stands there. `key` is what must; without one nothing has to.
pub(crate) fn verdict(name: &str, target: &str, key: Option<&PublicKey>, reply: &Reply) -> Verdict {
    let aliases: Vec<String> = reply.aliases.iter().map(name_text).collect();
    match &reply.outcome {
        Outcome::Failed(reason) => Verdict::new(Status::Unreachable, reason.clone()),
        Outcome::BrokenAlias(reason) => broken(name, target, reason),
        Outcome::Texts(_) | Outcome::Nothing if !aliases.is_empty() && !aliases.iter().any(|alias| alias == target) => {
            let appended = aliases.iter().any(|alias| alias.starts_with(&format!("{target}.")));
            let reason = match (appended, aliases.last()) {
                (true, _) => {
                    "your DNS provider appended your own domain to the target; end the target with a dot".to_owned()
                }
                (false, Some(last)) => format!("it leads to {last}"),
                (false, None) => "it leads elsewhere".to_owned(),
            };
            broken(name, target, &reason)
        }
        Outcome::Texts(_) if aliases.is_empty() => Verdict::new(
            Status::Mismatch,
            format!(
                "There is a TXT record at {name}, where a CNAME to {target} is needed, so that keys can be replaced without you. \
                 Remove the TXT record and publish the CNAME."
            ),
        ),
        Outcome::Nothing if aliases.is_empty() => Verdict::new(
            Status::Missing,
            format!(
                "There is no CNAME record at {name}. Publish one that leads to `{target}`. If you just did, wait until your DNS provider's servers have it."
            ),
        ),
        Outcome::Texts(texts) => behind(name, target, key, texts).warn(detour(target, &aliases)),
        Outcome::Nothing => behind(name, target, key, &[]).warn(detour(target, &aliases)),
    }
}

fn broken(name: &str, target: &str, reason: &str) -> Verdict {
    let explanation =
        format!("The CNAME at {name} does not lead to the service: {reason}. It must lead to `{target}`.");
    Verdict::new(Status::CnameBroken, explanation)
}

fn detour(target: &str, aliases: &[String]) -> Vec<String> {
    match aliases.first() {
        Some(first) if first != target => vec![format!("The CNAME leads to {target} by way of {first}.")],
        Some(_) | None => Vec::new(),
    }
}

/// The CNAME is right. What is wrong behind it is ours to mend.
fn behind(name: &str, target: &str, key: Option<&PublicKey>, texts: &[String]) -> Verdict {
    let Some(key) = key else {
        return Verdict::new(
            Status::Ok,
            format!("The CNAME at {name} leads to the service, which keeps no key behind it now."),
        );
    };
    let at_target = judge::dkim(target, key, texts);
    let explanation = match at_target.status {
        Status::Ok => format!("The CNAME at {name} leads to the service, which publishes the key."),
        Status::Missing => format!(
            "The CNAME at {name} is right, but the key record behind it, at {target}, is not there yet. The service publishes it \
             by itself: there is nothing to change; check again in a minute."
        ),
        Status::Mismatch
        | Status::Malformed
        | Status::Duplicate
        | Status::Truncated
        | Status::Misplaced
        | Status::CnameBroken
        | Status::Revoked
        | Status::Unusable
        | Status::Unreachable => format!(
            "The CNAME at {name} is right, but the record behind it, at {target}, is not: {} The service puts it right by \
             itself: there is nothing to change; check again in a minute.",
            at_target.explanation
        ),
    };
    Verdict { explanation, publish: None, ..at_target }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fqdn;
    use signpost_dkim::record;

    const NAME: &str = "sel._domainkey.example.com";
    const TARGET: &str = "abc.dkim.service.example";

    fn key(octet: u8) -> PublicKey {
        PublicKey::from_ed25519(&[octet; 32]).unwrap()
    }

    #[test]
    fn where_the_alias_leads_and_what_is_there_are_told_apart() {
        let right = record::build(&key(1));
        let other = record::build(&key(2));
        let texts = |list: &[&str]| Outcome::Texts(list.iter().map(|text| (*text).to_owned()).collect());
        let cases: [(&[&str], Outcome, bool, Status, &str); 15] = [
            (&[TARGET], texts(&[&right]), true, Status::Ok, "publishes the key"),
            (&[TARGET], Outcome::Nothing, false, Status::Ok, "no key behind it"),
            (&[TARGET], texts(&["v=DKIM1; p="]), false, Status::Ok, "no key behind it"),
            (&["other.example", TARGET], texts(&[&right]), true, Status::Ok, "publishes the key"),
            (&[TARGET], Outcome::Nothing, true, Status::Missing, "by itself"),
            (&[TARGET], texts(&[&other]), true, Status::Mismatch, "by itself"),
            (&[TARGET], texts(&["v=DKIM1; p="]), true, Status::Revoked, "by itself"),
            (&[TARGET], texts(&[&right, &other]), true, Status::Duplicate, "by itself"),
            (&[], Outcome::Nothing, true, Status::Missing, "no CNAME record"),
            (&[], texts(&[&right]), true, Status::Mismatch, "Remove the TXT record"),
            (&["wrong.example"], texts(&[&right]), true, Status::CnameBroken, "leads to wrong.example"),
            (&["wrong.example"], Outcome::Nothing, false, Status::CnameBroken, "leads to wrong.example"),
            (
                &["abc.dkim.service.example.example.com"],
                Outcome::Nothing,
                true,
                Status::CnameBroken,
                "end the target with a dot",
            ),
            (
                &["a.example"],
                Outcome::BrokenAlias("they form a loop".to_owned()),
                true,
                Status::CnameBroken,
                "form a loop",
            ),
            (&[], Outcome::Failed("no answer in time".to_owned()), true, Status::Unreachable, "no answer in time"),
        ];
        for (aliases, outcome, holds_key, status, told) in cases {
            let aliases = aliases.iter().map(|alias| fqdn(alias).unwrap()).collect();
            let reply = Reply { server: "ns1".to_owned(), outcome, aliases };
            let wanted = key(1);
            let verdict = verdict(NAME, TARGET, holds_key.then_some(&wanted), &reply);
            assert_eq!(verdict.status, status, "{reply:?}");
            assert!(verdict.explanation.contains(told), "{}", verdict.explanation);
        }
    }

    #[test]
    fn a_way_round_is_a_warning() {
        let aliases = vec![fqdn("other.example").unwrap(), fqdn(TARGET).unwrap()];
        let outcome = Outcome::Texts(vec![record::build(&key(1))]);
        let reply = Reply { server: "ns1".to_owned(), outcome, aliases };
        assert_eq!(
            verdict(NAME, TARGET, Some(&key(1)), &reply).warnings,
            ["The CNAME leads to abc.dkim.service.example by way of other.example."]
        );
    }
}
