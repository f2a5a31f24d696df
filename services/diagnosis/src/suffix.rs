//! Organizational domains by the Public Suffix List compiled in (no DNS).
use signpost_dkim::SigningDomain;

/// The registrable domain: one label below the public suffix (ICANN and private section). `None` if `domain` is itself a public suffix.
/// A suffix unknown to the list counts as a single-label suffix (`example.test` -> `example.test`).
pub fn organizational_domain(_domain: &SigningDomain) -> Option<SigningDomain> {
    todo!()
}

/// True for names of the ICANN section of the list, such as `co.uk` (refused at registration). Private-section suffixes
/// such as `github.io` may be registered by their owner.
pub fn is_icann_suffix(_domain: &SigningDomain) -> bool {
    todo!()
}
