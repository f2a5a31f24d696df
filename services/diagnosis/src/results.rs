//! The Authentication-Results value (RFC 8601 2.2).
use crate::evaluate::{Evaluation, SpfIdentity};
use signpost_dkim::verify::{DkimResult, MAX_SIGNATURES, Verification};

/// Longest property value: an address (RFC 5321 4.5.3.1).
const VALUE_MAX: usize = 320;
/// Longest text of a reason; what a sender controls must not make the field grow.
const REASON_MAX: usize = 200;

impl Evaluation {
    /// The value of an Authentication-Results field (RFC 8601 2.2), without folding: `mx.example; dkim=pass header.d=... ; spf=... ; dmarc=pass ...`.
    /// Nothing in it can break out of the field: values are tokens or quoted strings of printable ASCII. Results of more than
    /// `MAX_SIGNATURES` + 1 signatures are left out.
    pub fn authentication_results(&self, authserv_id: &str) -> String {
        let mut parts = vec![value(authserv_id)];
        if self.dkim.is_empty() {
            parts.push("dkim=none".to_owned());
        }
        parts.extend(self.dkim.iter().take(MAX_SIGNATURES + 1).map(dkim));
        parts.push(self.spf());
        parts.push(self.dmarc());
        parts.join("; ")
    }

    fn spf(&self) -> String {
        let property = match self.spf_identity {
            SpfIdentity::MailFrom => "smtp.mailfrom",
            SpfIdentity::Helo => "smtp.helo",
        };
        let mut text = format!("spf={}", self.spf.as_str());
        push_reason(&mut text, self.spf_reason.as_deref());
        push_property(&mut text, property, Some(&self.spf_domain).filter(|domain| !domain.is_empty()));
        text
    }

    fn dmarc(&self) -> String {
        let mut text = format!("dmarc={}", self.dmarc.as_str());
        push_reason(&mut text, Some(&self.dmarc_reason));
        push_property(&mut text, "header.from", self.from_domain.as_ref());
        // A comment; the words are fixed, so they cannot leave it.
        if let (Some(policy), Some(source)) = (self.dmarc_policy, self.dmarc_policy_source) {
            text.push_str(&format!(" ({}={})", source.as_str(), policy.as_str()));
        }
        text
    }
}

/// RFC 8601 2.7.1, RFC 6008.
fn dkim(verification: &Verification) -> String {
    let mut text = format!("dkim={}", verification.result.as_str());
    let is_plain_pass = verification.result == DkimResult::Pass && verification.reason.is_none();
    push_reason(&mut text, verification.reason.as_deref().filter(|_| !is_plain_pass));
    push_property(&mut text, "header.d", verification.domain.as_ref());
    push_property(&mut text, "header.s", verification.selector.as_ref());
    push_property(&mut text, "header.a", verification.algorithm.as_ref());
    push_property(&mut text, "header.b", verification.signature_prefix.as_ref());
    push_property(&mut text, "header.i", verification.agent.as_ref());
    text
}

/// reasonspec (RFC 8601 2.2), always as a quoted string.
fn push_reason(text: &mut String, reason: Option<&str>) {
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        let reason: String = reason.chars().take(REASON_MAX).collect();
        text.push_str(&format!(" reason={}", quoted(&reason)));
    }
}

/// propspec (RFC 8601 2.2).
fn push_property(text: &mut String, property: &str, found: Option<&String>) {
    if let Some(found) = found {
        text.push_str(&format!(" {property}={}", value(found)));
    }
}

/// pvalue (RFC 8601 2.2): a token (RFC 2045 5.1), an address with plain parts, or else a quoted string.
fn value(text: &str) -> String {
    let address = || {
        text.split_once('@').is_some_and(|(local, domain)| (local.is_empty() || is_token(local)) && is_token(domain))
    };
    let kept: String = text.chars().take(VALUE_MAX).collect();
    if kept == text && (is_token(text) || address()) { kept } else { quoted(&kept) }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
}

/// quoted-string (RFC 5322 3.2.4) of printable ASCII; everything else, CR and LF among it, becomes `?`.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{DmarcResult, LegacyResult, Policy, PolicySource, SpfResult};

    fn evaluation() -> Evaluation {
        Evaluation {
            dkim: vec![Verification {
                result: DkimResult::Pass,
                domain: Some("example.test".to_owned()),
                agent: None,
                selector: Some("s1".to_owned()),
                algorithm: Some("rsa-sha256".to_owned()),
                signature_prefix: Some("abcd/fg+".to_owned()),
                reason: None,
            }],
            spf: SpfResult::Pass,
            spf_domain: "bounce.example.test".to_owned(),
            spf_identity: SpfIdentity::MailFrom,
            spf_reason: None,
            dmarc: DmarcResult::Pass,
            from_domain: Some("example.test".to_owned()),
            dmarc_policy: Some(Policy::None),
            dmarc_policy_source: Some(PolicySource::P),
            dmarc_policy_domain: Some("example.test".to_owned()),
            organizational_domain: Some("example.test".to_owned()),
            legacy_result: LegacyResult::Pass,
            dmarc_reason: String::new(),
            spf_aligned: true,
            dkim_aligned: true,
        }
    }

    #[test]
    fn the_field_is_as_the_rfc_writes_it() {
        assert_eq!(
            evaluation().authentication_results("mx.example.net"),
            "mx.example.net; dkim=pass header.d=example.test header.s=s1 header.a=rsa-sha256 header.b=\"abcd/fg+\"; \
             spf=pass smtp.mailfrom=bounce.example.test; dmarc=pass header.from=example.test (p=none)"
        );
    }

    #[test]
    fn a_message_without_signature_says_so() {
        let mut unsigned = evaluation();
        unsigned.dkim.clear();
        assert!(unsigned.authentication_results("mx").starts_with("mx; dkim=none; spf=pass "));
    }

    #[test]
    fn a_null_sender_is_named_by_its_helo() {
        let mut null_sender = evaluation();
        null_sender.spf_identity = SpfIdentity::Helo;
        null_sender.spf_domain = "mail.example.test".to_owned();
        assert!(null_sender.authentication_results("mx").contains("smtp.helo=mail.example.test"));
    }

    #[test]
    fn nothing_breaks_out_of_the_field() {
        let evil = "x\"; dmarc=pass (\\\r\nX-Evil: 1\u{e9}\0;)".to_owned();
        let mut spoiled = evaluation();
        spoiled.dkim = vec![Verification {
            result: DkimResult::Permerror,
            domain: Some(evil.clone()),
            agent: Some(evil.repeat(100)),
            selector: Some(evil.clone()),
            algorithm: Some(evil.clone()),
            signature_prefix: Some(evil.clone()),
            reason: Some(evil.repeat(100)),
        }];
        spoiled.spf_domain = evil.clone();
        spoiled.spf_reason = Some(evil.clone());
        spoiled.dmarc_reason = evil.clone();
        spoiled.from_domain = Some(evil.clone());
        spoiled.dmarc_policy = None;
        let field = spoiled.authentication_results(&evil);
        assert!(field.bytes().all(|b| (b' '..=b'~').contains(&b)), "{field}");
        assert!(field.len() < 2500, "{}", field.len());
        let outside: String = outside_quotes(&field);
        assert_eq!(outside.matches("dmarc=").count(), 1, "{outside}");
        assert_eq!(outside.matches(';').count(), 3, "{outside}");
        assert!(!outside.contains('('), "{outside}");
    }

    /// The text without its quoted strings, read as a parser of RFC 5322 would.
    fn outside_quotes(field: &str) -> String {
        let (mut outside, mut inside, mut escaped) = (String::new(), false, false);
        for c in field.chars() {
            match (inside, escaped, c) {
                (true, true, _) => escaped = false,
                (true, false, '\\') => escaped = true,
                (_, false, '"') => inside = !inside,
                (true, false, _) => {}
                (false, _, c) => outside.push(c),
            }
        }
        assert!(!inside);
        outside
    }

    #[test]
    fn the_agent_is_named_if_the_signature_names_one() {
        let mut named = evaluation();
        for (agent, shown) in [
            ("@mail.example.test", "header.i=@mail.example.test"),
            ("ann+x@example.test", "header.i=ann+x@example.test"),
            ("a;b@example.test", "header.i=\"a;b@example.test\""),
        ] {
            named.dkim[0].agent = Some(agent.to_owned());
            let field = named.authentication_results("mx");
            assert!(field.contains(&format!(" header.b=\"abcd/fg+\" {shown}; spf=")), "{field}");
        }
    }

    /// RFC 5322 2.1.1: folded where white space allows it, no line needs to be longer than 998 octets.
    #[test]
    fn no_word_is_too_long_to_fold() {
        let mut long = evaluation();
        let text = "x".repeat(5000);
        long.dkim[0].reason = Some(text.clone());
        long.dkim[0].agent = Some(text.clone());
        long.dkim[0].signature_prefix = Some(text.clone());
        (long.spf_domain, long.dmarc_reason) = (text.clone(), text);
        let field = long.authentication_results("mx");
        assert!(field.split(' ').all(|word| word.len() < 400), "{field}");
    }

    #[test]
    fn a_flood_of_signatures_does_not_flood_the_field() {
        let mut flooded = evaluation();
        flooded.dkim = vec![flooded.dkim[0].clone(); 1000];
        assert_eq!(flooded.authentication_results("mx").matches("dkim=").count(), MAX_SIGNATURES + 1);
    }
}
