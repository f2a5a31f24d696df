//! Where a record lands when a DNS form is filled in wrongly.
use crate::check::Want;
use crate::{dmarc, judge, spf};
use signpost_dkim::SigningDomain;

/// A wrong name and how to mend it, as a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) mend: String,
}

/// Names to look at, the likeliest first. `apex` is the zone that the provider's form edits.
pub(crate) fn candidates(name: &str, want: &Want, domain: &SigningDomain, apex: &str) -> Vec<Candidate> {
    let domain = domain.as_str();
    let mut list: Vec<Candidate> = Vec::new();
    let mut add = |wrong: String, mend: String| {
        if wrong != name && !list.iter().any(|candidate| candidate.name == wrong) {
            list.push(Candidate { name: wrong, mend });
        }
    };
    // RFC 1035 5.1: the form appends the zone to what is typed.
    let doubled = "remove the domain from the host field, the form appends it";
    add(format!("{name}.{apex}"), doubled.to_owned());
    add(format!("{name}.{domain}"), doubled.to_owned());
    if matches!(want, Want::Spf { .. }) {
        // An SPF record at another name is that name's own.
        return list;
    }
    let Some(relative) = name.strip_suffix(domain).and_then(|relative| relative.strip_suffix('.')) else { return list };
    let host = |zone: &str| name.strip_suffix(zone).map_or(name, |host| host.trim_end_matches('.')).to_owned();
    if !matches!(want, Want::Dmarc) {
        // For DMARC that is the name of the organizational domain's own record.
        add(format!("{relative}.{apex}"), format!("it lacks the subdomain; the host field must be `{}`", host(apex)));
    }
    if let Some(selector) =
        relative.strip_suffix("._domainkey").filter(|_| matches!(want, Want::DkimKey { .. } | Want::DkimAlias { .. }))
    {
        let must = format!("the host field must be `{}`", host(apex));
        add(format!("{selector}.{domain}"), format!("it lacks `_domainkey`; {must}"));
        add(format!("{relative}._domainkey.{domain}"), format!("it has `_domainkey` twice; {must}"));
        add(format!("_domainkey.{domain}"), format!("it lacks the selector; {must}"));
        add(format!("{selector}.domainkey.{domain}"), format!("it lacks the underscore of `_domainkey`; {must}"));
        add(format!("{selector}_domainkey.{domain}"), format!("a dot is missing before `_domainkey`; {must}"));
    } else if let Some(plain) = relative.strip_prefix('_') {
        add(format!("{plain}.{domain}"), format!("it lacks the underscore; the host field must be `{}`", host(apex)));
    }
    add(domain.to_owned(), format!("it stands at the domain itself; the host field must be `{}`", host(apex)));
    list
}

/// True if records found at another name are what was wanted, or nearly.
pub(crate) fn is_ours(want: &Want, texts: &[String]) -> bool {
    match want {
        Want::Ownership { value } => judge::is_our_token(value, texts),
        Want::DkimKey { key } | Want::DkimAlias { key: Some(key), .. } => judge::is_our_key(key, texts),
        Want::DkimAlias { key: None, .. } => false,
        Want::Spf { .. } => texts.iter().any(|text| spf::is_spf(text)),
        Want::Dmarc => texts.iter().any(|text| dmarc::is_dmarc(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, want: &Want, domain: &str, apex: &str) -> Vec<String> {
        let domain = SigningDomain::parse(domain).unwrap();
        candidates(name, want, &domain, apex).into_iter().map(|candidate| candidate.name).collect()
    }

    #[test]
    fn a_token_is_looked_for_doubled_without_underscore_and_at_the_apex() {
        let want = Want::Ownership { value: "x".to_owned() };
        assert_eq!(
            names("_signpost.example.com", &want, "example.com", "example.com"),
            ["_signpost.example.com.example.com", "signpost.example.com", "example.com"]
        );
    }

    #[test]
    fn below_a_zone_the_subdomain_may_be_doubled_or_lost() {
        let want = Want::Dmarc;
        assert_eq!(
            names("_dmarc.mail.example.com", &want, "mail.example.com", "example.com"),
            [
                "_dmarc.mail.example.com.example.com",
                "_dmarc.mail.example.com.mail.example.com",
                "dmarc.mail.example.com",
                "mail.example.com"
            ]
        );
    }
}
