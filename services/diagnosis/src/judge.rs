//! Verdicts on the TXT records found at a name: pure functions, one per kind of record.
use crate::check::Status;
use crate::dmarc;
use signpost_dkim::names::SignatureAlgorithm;
use signpost_dkim::record::{self, PublicKey, RecordFault};

/// What the records at one name amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: Status,
    pub(crate) warnings: Vec<String>,
    /// Full sentences: cause and mend, or why it is fine.
    pub(crate) explanation: String,
    /// What to publish instead of the standard value.
    pub(crate) publish: Option<String>,
}

impl Verdict {
    pub(crate) fn new(status: Status, explanation: impl Into<String>) -> Self {
        Self { status, warnings: Vec::new(), explanation: explanation.into(), publish: None }
    }

    pub(crate) fn warn(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    pub(crate) fn publish(mut self, value: String) -> Self {
        self.publish = Some(value);
        self
    }
}

/// The value without what web forms and copying add: blanks, quotes, backslashes.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'' | '\\')).collect()
}

/// The ownership token. Several tenants may claim one name, and a name may hold other TXT records: one equal record is enough.
pub(crate) fn ownership(name: &str, value: &str, texts: &[String]) -> Verdict {
    if texts.iter().any(|text| text == value) {
        return Verdict::new(Status::Ok, format!("The ownership token stands at {name}."));
    }
    let prefix = value.split_inclusive('=').next().unwrap_or(value);
    // The kinds of damage, the most specific first.
    if let Some(text) = texts.iter().find(|text| squeezed(text) == value) {
        let what = if text.contains('"') {
            "contains literal quote characters; enter the value without quotes"
        } else if text.contains('\\') {
            "contains a literal backslash; enter the value as it is shown"
        } else {
            "has blanks in or around it; enter the value without blanks"
        };
        return Verdict::new(Status::Malformed, format!("The token at {name} {what}."));
    }
    if texts.iter().any(|text| text.len() > prefix.len() && value.starts_with(text.as_str())) {
        return Verdict::new(
            Status::Truncated,
            format!("The token at {name} is cut off at its end; publish the whole value `{value}`."),
        );
    }
    if texts.iter().any(|text| squeezed(text).contains(value)) {
        return Verdict::new(
            Status::Malformed,
            format!("The token at {name} has other text around it; publish it as a TXT record of its own."),
        );
    }
    if texts.iter().any(|text| value.strip_prefix(prefix) == Some(text.trim())) {
        return Verdict::new(
            Status::Malformed,
            format!("The token at {name} lacks its beginning `{prefix}`; publish the whole value `{value}`."),
        );
    }
    if texts.iter().any(|text| text.eq_ignore_ascii_case(value)) {
        return Verdict::new(
            Status::Mismatch,
            format!("The token at {name} differs in upper and lower case; publish exactly `{value}`."),
        );
    }
    if texts.iter().any(|text| squeezed(text).starts_with(prefix)) {
        return Verdict::new(
            Status::Mismatch,
            format!(
                "Another token stands at {name}, perhaps of an earlier registration or another account. Publish `{value}` (beside it or instead of it)."
            ),
        );
    }
    missing_among(name, texts, "the ownership token", value)
}

fn missing_among(name: &str, texts: &[String], what: &str, value: &str) -> Verdict {
    let explanation = if texts.is_empty() {
        format!(
            "There is no TXT record at {name}. Publish {what}: `{value}`. If you just did, wait until your DNS provider's servers have it."
        )
    } else {
        format!("The TXT records at {name} are of other kinds; {what} is not among them. Add a TXT record `{value}`.")
    };
    Verdict::new(Status::Missing, explanation)
}

/// The key record (RFC 6376 3.6.2.2: more than one record is undefined, so one right among several is not enough).
pub(crate) fn dkim(name: &str, key: &PublicKey, texts: &[String]) -> Verdict {
    match texts {
        [] => missing_among(name, texts, "the key record", &record::build(key)),
        [text] => dkim_single(name, key, text),
        several => dkim_several(name, key, several),
    }
}

fn dkim_several(name: &str, key: &PublicKey, texts: &[String]) -> Verdict {
    let right = texts.iter().filter(|text| record::parse(text).is_ok_and(|found| found.key == *key)).count();
    // The two halves of a value that was entered as two records.
    let squeezed_value = squeezed(&record::build(key));
    let halves = texts.iter().filter(|text| !text.is_empty() && squeezed_value.contains(&squeezed(text))).count();
    let advice = if right > 0 {
        "One of them is right: remove the others."
    } else if halves == texts.len() {
        "They look like pieces of one value: make one TXT record with all the strings in it, not one record per string."
    } else {
        "Remove them and publish only the one shown."
    };
    Verdict::new(
        Status::Duplicate,
        format!(
            "There are {} TXT records at {name}. Only one is allowed; with more, what receivers do is undefined (RFC 6376 3.6.2.2). {advice}",
            texts.len()
        ),
    )
}

fn dkim_single(name: &str, key: &PublicKey, text: &str) -> Verdict {
    let found = match record::parse(text) {
        Ok(found) => found,
        Err(fault) => return dkim_fault(name, key, text, &fault),
    };
    if found.key == *key {
        return Verdict::new(Status::Ok, format!("The record at {name} holds the key that signs."))
            .warn(found.warnings)
            .warn(spelling_warning(text));
    }
    Verdict::new(
        Status::Mismatch,
        format!(
            "The record at {name} holds another key: {}. Replace it by the value shown.",
            difference(&found.key, key)
        ),
    )
    .warn(found.warnings)
}

fn spelling_warning(text: &str) -> Vec<String> {
    let clauses = record::spelling(text);
    if clauses.is_empty() {
        return Vec::new();
    }
    let clauses = clauses.join("; ");
    vec![format!("the record is written otherwise than shown, which does no harm: {clauses}")]
}

fn kind_text(key: &PublicKey) -> String {
    match key.kind() {
        SignatureAlgorithm::RsaSha256 => format!("an RSA key of {} bits", key.bits()),
        SignatureAlgorithm::Ed25519Sha256 => "an Ed25519 key".to_owned(),
    }
}

/// Characters of p= that are shown where two keys part.
const EXCERPT: usize = 12;

/// Where two keys part.
fn difference(found: &PublicKey, wanted: &PublicKey) -> String {
    if (found.kind(), found.bits()) != (wanted.kind(), wanted.bits()) {
        return format!("it is {}, the key that signs is {}", kind_text(found), kind_text(wanted));
    }
    let (theirs, ours) = (found.to_p(), wanted.to_p());
    let same = theirs.bytes().zip(ours.bytes()).take_while(|(a, b)| a == b).count();
    let there = |p: &str| p.get(same..(same + EXCERPT).min(p.len())).unwrap_or_default().to_owned();
    let case = if theirs.eq_ignore_ascii_case(&ours) {
        ", only in upper and lower case: something on the way changed it"
    } else {
        ""
    };
    format!(
        "p= differs from character {} on{case} (found `{}...`, {} characters in all; expected `{}...`, {})",
        same + 1,
        there(&theirs),
        theirs.len(),
        there(&ours),
        ours.len()
    )
}

fn dkim_fault(name: &str, key: &PublicKey, text: &str, fault: &RecordFault) -> Verdict {
    let status = match fault {
        RecordFault::NotAKeyRecord(_) | RecordFault::Malformed(_) => Status::Malformed,
        RecordFault::Truncated(_) => Status::Truncated,
        RecordFault::Revoked => Status::Revoked,
        RecordFault::Unusable(_) => Status::Unusable,
    };
    let ours = key.to_p();
    let whole = squeezed(&record::build(key));
    let head = squeezed(text);
    if status == Status::Malformed
        && head.len() > "v=DKIM1;".len()
        && head.len() < whole.len()
        && whole.starts_with(&head)
    {
        let explanation = format!("The record at {name} is only the beginning of the value; publish all of it.");
        return Verdict::new(Status::Truncated, explanation);
    }
    // Also where the piece that is left happens to look like something else than a cut key.
    if let (Status::Malformed | Status::Truncated, Some(piece)) = (status, beginning_of(&ours, text)) {
        return Verdict::new(
            Status::Truncated,
            format!(
                "The record at {name} ends after {piece} of the {} characters of p= ({} characters in all): the DNS provider or its form cut it. \
                 Split the value into strings of at most 255 characters in one record, or use an Ed25519 key beside it. ({fault}.)",
                ours.len(),
                text.len()
            ),
        );
    }
    let hint = match fault {
        RecordFault::Malformed(_)
            if squeezed(text).to_ascii_lowercase().contains(&ours.to_ascii_lowercase())
                && !squeezed(text).contains(&ours) =>
        {
            " The letters of p= are right but for upper and lower case, which counts in base64: something on the way changed it."
        }
        RecordFault::NotAKeyRecord(_) => " If no such record was published here, look for the one that was.",
        RecordFault::Revoked => {
            " Publish the value shown, or use another selector if the key was withdrawn on purpose."
        }
        RecordFault::Malformed(_) | RecordFault::Truncated(_) | RecordFault::Unusable(_) => "",
    };
    Verdict::new(status, format!("The record at {name} is not usable: {fault}.{hint}"))
}

/// How many characters of our p= the text holds, if it ends inside of it and nothing else stands in p=.
fn beginning_of(ours: &str, text: &str) -> Option<usize> {
    // A record that begins with something else is not cut but put together wrongly, for example its halves in the wrong order.
    let first = squeezed(text.split('=').next().unwrap_or(text));
    if !["v", "k", "p", "h", "s", "t", "n", "g"].contains(&first.as_str()) {
        return None;
    }
    let p = text.split(';').map(squeezed).find_map(|tag| tag.strip_prefix("p=").map(str::to_owned))?;
    (!p.is_empty() && p.len() < ours.len() && ours.starts_with(&p)).then_some(p.len())
}

/// The DMARC record at one name.
pub(crate) fn dmarc(name: &str, texts: &[String]) -> Verdict {
    let records: Vec<&String> = texts.iter().filter(|text| dmarc::is_dmarc(text)).collect();
    match records.as_slice() {
        [] => match texts.iter().find(|text| dmarc::is_near_miss(text)) {
            Some(text) => Verdict::new(
                Status::Malformed,
                format!(
                    "Receivers do not see the record at {name} as DMARC: {} (RFC 7489 6.4, 6.6.3).",
                    dmarc::near_miss_reason(text)
                ),
            ),
            None => Verdict::new(
                Status::Missing,
                format!(
                    "There is no DMARC record at {name}. Publish a TXT record that begins with `v=DMARC1; p=none`."
                ),
            ),
        },
        [record] => match dmarc::parse(record) {
            Ok(found) => {
                Verdict::new(Status::Ok, format!("The DMARC record at {name} is valid, p={}.", found.policy.as_str()))
                    .warn(found.warnings)
            }
            Err(fault) => {
                Verdict::new(Status::Malformed, format!("The DMARC record at {name} does not apply: {fault}."))
            }
        },
        several => Verdict::new(
            Status::Duplicate,
            format!(
                "There are {} DMARC records at {name}; receivers then apply none of them (RFC 7489 6.6.3). Keep one.",
                several.len()
            ),
        ),
    }
}

/// True if these records, found elsewhere, are what was meant for the right name.
pub(crate) fn is_our_key(key: &PublicKey, texts: &[String]) -> bool {
    let p = key.to_p();
    texts.iter().any(|text| {
        record::parse(text).is_ok_and(|found| found.key == *key)
            || squeezed(text).contains(&p)
            // A cut one, where enough is left to know it.
            || beginning_of(&p, text).is_some_and(|length| length >= 60)
    })
}

/// True if the token is among these records, whatever a form did to it.
pub(crate) fn is_our_token(value: &str, texts: &[String]) -> bool {
    texts.iter().any(|text| squeezed(text).contains(value))
}

/// True for a text with a private key in it: it is public already, but it is not repeated.
pub(crate) fn holds_private_key(text: &str) -> bool {
    text.to_ascii_uppercase().contains("PRIVATE KEY")
        || record::parse(text).is_err_and(|fault| fault.to_string().contains("PRIVATE key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "signpost-verification=abc123DEF456";

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn tokens_are_told_apart() {
        for (found, expected) in [
            (vec![TOKEN], Status::Ok),
            (vec!["v=spf1 -all", "signpost-verification=other", TOKEN], Status::Ok),
            (vec![], Status::Missing),
            (vec!["v=spf1 -all"], Status::Missing),
            (vec!["signpost-verification=other"], Status::Mismatch),
            (vec!["signpost-verification=ABC123def456"], Status::Mismatch),
            (vec!["\"signpost-verification=abc123DEF456\""], Status::Malformed),
            (vec!["signpost-verification=abc123DEF456\\"], Status::Malformed),
            (vec![" signpost-verification=abc123DEF456"], Status::Malformed),
            (vec!["TXT signpost-verification=abc123DEF456"], Status::Malformed),
            (vec!["abc123DEF456"], Status::Malformed),
            (vec!["signpost-verification=abc123"], Status::Truncated),
            (vec!["signpost-verification="], Status::Mismatch),
        ] {
            let verdict = ownership("_signpost.example.com", TOKEN, &texts(&found));
            assert_eq!(verdict.status, expected, "{found:?}");
            assert!(verdict.explanation.contains("_signpost.example.com"), "{}", verdict.explanation);
        }
    }

    #[test]
    fn dmarc_records_are_told_apart() {
        for (found, expected) in [
            (vec!["v=DMARC1; p=none"], Status::Ok),
            (vec!["v=spf1 -all", "v=DMARC1; p=reject"], Status::Ok),
            (vec!["v=DMARC1; p=none", "v=DMARC1; p=reject"], Status::Duplicate),
            (vec![" v=DMARC1; p=none"], Status::Malformed),
            (vec!["v=dmarc1; p=none"], Status::Malformed),
            (vec!["v=DMARC1; p=nonsense"], Status::Malformed),
            (vec!["v=spf1 -all"], Status::Missing),
            (vec![], Status::Missing),
        ] {
            assert_eq!(dmarc("_dmarc.example.com", &texts(&found)).status, expected, "{found:?}");
        }
    }

    #[test]
    fn a_published_private_key_is_recognized() {
        assert!(holds_private_key("v=DKIM1; p=-----BEGIN RSA PRIVATE KEY-----MIIE"));
        assert!(!holds_private_key("v=DKIM1; p="));
    }
}
