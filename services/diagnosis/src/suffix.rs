//! Organizational domains by the Public Suffix List compiled in (no DNS).
use psl::Psl;
use signpost_dkim::SigningDomain;

/// The registrable domain: one label below the public suffix (ICANN and private section). `None` if `domain` is itself a public suffix.
/// A suffix unknown to the list counts as a single-label suffix (`example.test` -> `example.test`).
pub fn organizational_domain(domain: &SigningDomain) -> Option<SigningDomain> {
    let registrable = psl::List.domain(domain.as_str().as_bytes())?;
    domain.self_and_ancestors().into_iter().find(|ancestor| ancestor.as_str().as_bytes() == registrable.as_bytes())
}

/// True for names of the ICANN section of the list, such as `co.uk` (refused at registration). Private-section suffixes
/// such as `github.io` may be registered by their owner.
pub fn is_icann_suffix(domain: &SigningDomain) -> bool {
    psl::List
        .suffix(domain.as_str().as_bytes())
        .is_some_and(|suffix| suffix.typ() == Some(psl::Type::Icann) && suffix.as_bytes() == domain.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> SigningDomain {
        SigningDomain::parse(text).unwrap()
    }

    #[test]
    fn the_organizational_domain_is_one_label_below_the_suffix() {
        let table = [
            ("example.com", Some("example.com")),
            ("a.b.example.com", Some("example.com")),
            ("mail.example.co.uk", Some("example.co.uk")),
            ("co.uk", None),
            ("alice.github.io", Some("alice.github.io")),
            ("github.io", None),
            ("example.test", Some("example.test")),
            ("a.example.test", Some("example.test")),
            // A wildcard rule (*.ck) with an exception (!www.ck).
            ("example.co.ck", Some("example.co.ck")),
            ("www.ck", Some("www.ck")),
            ("something.ck", None),
            // An internationalized suffix in A-label form.
            ("example.xn--55qx5d.cn", Some("example.xn--55qx5d.cn")),
        ];
        for (name, expected) in table {
            assert_eq!(organizational_domain(&domain(name)).as_ref().map(SigningDomain::as_str), expected, "{name}");
        }
    }

    #[test]
    fn only_icann_suffixes_are_refused() {
        for (name, expected) in [
            ("co.uk", true),
            ("example.co.uk", false),
            ("github.io", false),
            ("example.test", false),
            ("example.com", false),
        ] {
            assert_eq!(is_icann_suffix(&domain(name)), expected, "{name}");
        }
    }
}
