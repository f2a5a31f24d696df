//! DMARC records: which text is one and what it says (RFC 9989 4.7; RFC 7489 6.3, 6.4). Where one is found: `discovery.rs`.
//!
//! Found and parsed here rather than by mail-auth, because that takes the first of several records, where all must be discarded.

impl Record {
    /// RFC 9989 4.10.1: p= at the author domain itself; below the record's name np= for a domain that does not exist, else sp=,
    /// else p=.
    pub(crate) fn policy_for(&self, at_author: bool, author_exists: bool) -> (Policy, PolicySource) {
        let below = || self.subdomains.map_or((self.policy, PolicySource::P), |policy| (policy, PolicySource::Sp));
        match (at_author, author_exists, self.nonexistent) {
            (true, _, _) => (self.policy, PolicySource::P),
            (false, false, Some(policy)) => (policy, PolicySource::Np),
            (false, true, _) | (false, false, None) => below(),
        }
    }
}

/// How close names must be (RFC 7489 3.1.1, 3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// Same organizational domain.
    Relaxed,
    /// The same name.
    Strict,
}

impl Alignment {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Strict => "strict",
        }
    }
}

/// p=, sp= and np= (RFC 9989 4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum Policy {
    None,
    Quarantine,
    Reject,
}

impl Policy {
    /// As written in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Quarantine, Self::Reject]
            .into_iter()
            .find(|policy| policy.as_str().eq_ignore_ascii_case(text))
    }
}

/// Which tag gave the policy (RFC 9989 4.10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the tags'")]
pub enum PolicySource {
    P,
    Sp,
    Np,
}

impl PolicySource {
    /// The tag.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P => "p",
            Self::Sp => "sp",
            Self::Np => "np",
        }
    }
}

/// The tags that decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// For the name where it stands, and for names below where nothing else is said.
    pub(crate) policy: Policy,
    /// sp=, for names below.
    pub(crate) subdomains: Option<Policy>,
    /// np=, for names below that do not exist.
    pub(crate) nonexistent: Option<Policy>,
    /// psd=y: true, psd=n: false (RFC 9989 4.7).
    pub(crate) public_suffix: Option<bool>,
    pub(crate) adkim: Alignment,
    pub(crate) aspf: Alignment,
    /// Tags that were ignored, and spelling that many tools fail on; a sentence each.
    pub(crate) warnings: Vec<String>,
}

/// RFC 7489 6.4 dmarc-version: `v`, `=`, blanks allowed around it, then exactly `DMARC1` as the first tag, nothing before.
pub(crate) fn is_dmarc(text: &str) -> bool {
    let first = text.split(';').next().unwrap_or_default();
    let Some((name, value)) = first.split_once('=') else { return false };
    let blank = |c: char| c == ' ' || c == '\t';
    !text.starts_with(blank)
        && name.trim_end_matches(blank).eq_ignore_ascii_case("v")
        && value.trim_matches(blank) == "DMARC1"
}

/// True for a DMARC record that wants d= to be the very domain of From, not one above it (adkim=s, RFC 7489 3.1.1 and 6.3).
pub fn wants_strict_dkim(text: &str) -> bool {
    is_dmarc(text) && parse(text).is_ok_and(|record| record.adkim == Alignment::Strict)
}

/// True for a text that was meant to be a DMARC record but is none for a receiver.
pub(crate) fn is_near_miss(text: &str) -> bool {
    let squeezed: String = text.chars().filter(|c| !c.is_whitespace() && *c != '"' && *c != '\\').collect();
    !is_dmarc(text) && squeezed.to_ascii_lowercase().starts_with("v=dmarc")
}

/// Why a near miss is one.
pub(crate) fn near_miss_reason(text: &str) -> &'static str {
    if text.starts_with(char::is_whitespace) {
        "it begins with a blank; remove it"
    } else if text.contains('"') {
        "it contains literal quote characters; enter the value without quotes"
    } else {
        "the first tag must be exactly v=DMARC1, with DMARC1 in capitals, ended by `;`"
    }
}

/// Reads the tags of a text for which `is_dmarc` holds. `Err` is the reason why the record does not apply (RFC 7489 6.6.3 step 6).
pub(crate) fn parse(text: &str) -> Result<Record, String> {
    let mut warnings = Vec::new();
    if text.split(';').next().is_some_and(|version| version.trim() != "v=DMARC1") {
        warnings.push("many tools fail on blanks around `=` and on a capital `V`; write `v=DMARC1`".to_owned());
    }
    let tags = tags(text, &mut warnings);
    let value = |name: &str| tags.iter().find(|(tag, _)| tag == name).map(|(_, value)| value.as_str());
    let has_report_address = value("rua").is_some_and(|uris| uris.split(',').any(is_mailto));
    let (p, sp, np) = (value("p").map(Policy::parse), value("sp").map(Policy::parse), value("np").map(Policy::parse));
    let (policy, subdomains, nonexistent) = match (p, sp, np) {
        (Some(Some(policy)), None | Some(Some(_)), None | Some(Some(_))) => (policy, sp.flatten(), np.flatten()),
        (None | Some(None), _, _) | (_, Some(None), _) | (_, _, Some(None)) if has_report_address => {
            warnings.push(
                "p= is missing, or p=, sp= or np= is wrong, so receivers treat it as p=none (RFC 9989 4.10.1)"
                    .to_owned(),
            );
            (Policy::None, None, None)
        }
        (None, _, _) => return Err("it has no p= tag; add p=none, p=quarantine or p=reject".to_owned()),
        (Some(None), _, _) => return Err("p= must be none, quarantine or reject".to_owned()),
        (Some(Some(_)), Some(None), _) => return Err("sp= must be none, quarantine or reject".to_owned()),
        (Some(Some(_)), _, Some(None)) => return Err("np= must be none, quarantine or reject".to_owned()),
    };
    let public_suffix = match value("psd").map(str::to_ascii_lowercase).as_deref() {
        Some("y") => Some(true),
        Some("n") => Some(false),
        Some(_) | None => None,
    };
    Ok(Record {
        policy,
        subdomains,
        nonexistent,
        public_suffix,
        adkim: alignment("adkim", value("adkim"), &mut warnings),
        aspf: alignment("aspf", value("aspf"), &mut warnings),
        warnings,
    })
}

/// Tag names in lower case with trimmed values; what is not `name=value` or stands twice is ignored with a warning.
fn tags(text: &str, warnings: &mut Vec<String>) -> Vec<(String, String)> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for part in text.split(';').skip(1).map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((name, value)) => {
                let name = name.trim().to_ascii_lowercase();
                if tags.iter().any(|(tag, _)| *tag == name) {
                    warnings.push(format!("{name}= stands twice; the first is used"));
                } else {
                    tags.push((name, value.trim().to_owned()));
                }
            }
            None => warnings.push(format!("`{part}` is not of the form name=value and is ignored")),
        }
    }
    tags
}

fn is_mailto(uri: &str) -> bool {
    let uri = uri.trim();
    uri.split_at_checked(7).is_some_and(|(scheme, rest)| scheme.eq_ignore_ascii_case("mailto:") && rest.contains('@'))
}

fn alignment(tag: &str, value: Option<&str>, warnings: &mut Vec<String>) -> Alignment {
    match value.map(str::to_ascii_lowercase).as_deref() {
        None | Some("r") => Alignment::Relaxed,
        Some("s") => Alignment::Strict,
        Some(_) => {
            warnings.push(format!("{tag}= must be r or s; the default r is used"));
            Alignment::Relaxed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_versions_are_records() {
        for (text, expected) in [
            ("v=DMARC1; p=none", true),
            ("v=DMARC1;p=none", true),
            ("v = DMARC1 ; p = quarantine", true),
            ("V=DMARC1; p=none", true),
            ("v=DMARC1", true),
            (" v=DMARC1; p=none", false),
            ("v=dmarc1; p=reject", false),
            ("v=DMARC10; p=none", false),
            ("v=DMARC1 p=none", false),
            ("p=none; v=DMARC1", false),
            ("v=spf1 -all", false),
        ] {
            assert_eq!(is_dmarc(text), expected, "{text}");
        }
        assert!(
            is_near_miss("v=dmarc1; p=reject")
                && is_near_miss(" v=DMARC1; p=none")
                && is_near_miss("\"v=DMARC1; p=none\"")
        );
        assert!(!is_near_miss("v=spf1 -all") && !is_near_miss("v=DMARC1; p=none"));
    }

    #[test]
    fn policies_are_read_whatever_their_case_and_blanks() {
        for (text, policy, below) in [
            ("v = DMARC1 ; p = quarantine", Policy::Quarantine, Policy::Quarantine),
            ("v=DMARC1; p= none; sp= none", Policy::None, Policy::None),
            ("v=DMARC1; P=Reject; RUA=MAILTO:a@example.com", Policy::Reject, Policy::Reject),
            ("v=DMARC1;p=reject;sp=none;", Policy::Reject, Policy::None),
            ("v=DMARC1; p:none; rua=mailto:a@example.com", Policy::None, Policy::None),
            ("v=DMARC1; p=bogus; rua=mailto:a@example.com", Policy::None, Policy::None),
            ("v=DMARC1; p=bogus; sp=reject; rua=mailto:a@example.com", Policy::None, Policy::None),
            ("v=DMARC1; p=reject; np=bogus; rua=mailto:a@example.com", Policy::None, Policy::None),
        ] {
            let record = parse(text).unwrap();
            assert_eq!((record.policy, record.policy_for(false, true).0), (policy, below), "{text}");
        }
        let strict = parse("v=DMARC1; p=none; adkim=s; aspf=S").unwrap();
        assert_eq!((strict.adkim, strict.aspf), (Alignment::Strict, Alignment::Strict));
    }

    #[test]
    fn a_record_without_policy_and_report_address_does_not_apply() {
        for text in [
            "v=DMARC1",
            "v=DMARC1; p=bogus",
            "v=DMARC1; p=none; sp=bogus",
            "v=DMARC1; p=none; np=bogus",
            "v=DMARC1; rua=a@example.com",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_policy_of_a_name_below_depends_on_whether_it_exists() {
        use PolicySource::{Np, P, Sp};
        for (text, at_author, exists, expected) in [
            ("v=DMARC1; p=none; sp=quarantine; np=reject", true, false, (Policy::None, P)),
            ("v=DMARC1; p=none; sp=quarantine; np=reject", false, true, (Policy::Quarantine, Sp)),
            ("v=DMARC1; p=none; sp=quarantine; np=reject", false, false, (Policy::Reject, Np)),
            ("v=DMARC1; p=none; sp=quarantine", false, false, (Policy::Quarantine, Sp)),
            ("v=DMARC1; p=reject; np=none", false, true, (Policy::Reject, P)),
            ("v=DMARC1; p=reject", false, false, (Policy::Reject, P)),
        ] {
            assert_eq!(parse(text).unwrap().policy_for(at_author, exists), expected, "{text}");
        }
        let suffix = |text: &str| parse(text).unwrap().public_suffix;
        assert_eq!(suffix("v=DMARC1; p=none; psd=Y"), Some(true));
        assert_eq!(suffix("v=DMARC1; p=none; psd=n"), Some(false));
        assert_eq!((suffix("v=DMARC1; p=none; psd=u"), suffix("v=DMARC1; p=none")), (None, None));
    }
}
