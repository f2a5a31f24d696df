//! Statuses of a record (DESIGN: Record.status).

/// Status of one record or of what one server says of it. `unchecked` is not a result of a check and not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Right on at least one server, wrong on none.
    Ok,
    /// Nothing at the name.
    Missing,
    /// Well-formed, but another value or another key.
    Mismatch,
    /// Not parseable.
    Malformed,
    /// More than one record at the name.
    Duplicate,
    /// The beginning of the right value.
    Truncated,
    /// Found at another name.
    Misplaced,
    /// p= is empty.
    Revoked,
    /// h=, k= or s= forbid our use.
    Unusable,
    /// Nothing at the name itself: a wildcard answers, and wrongly.
    Wildcard,
    /// A CNAME that leads nowhere, in a circle, or to somebody else's record.
    CnameBroken,
    /// Right on some servers, still the former state on others.
    Lagging,
    /// Right, but validating resolvers refuse it: the zone's DNSSEC signatures do not verify.
    DnssecBogus,
    /// No authoritative server answered.
    Unreachable,
}

impl Status {
    pub(crate) const ALL: [Self; 14] = [
        Self::Ok,
        Self::Missing,
        Self::Mismatch,
        Self::Malformed,
        Self::Duplicate,
        Self::Truncated,
        Self::Misplaced,
        Self::Revoked,
        Self::Unusable,
        Self::Wildcard,
        Self::CnameBroken,
        Self::Lagging,
        Self::DnssecBogus,
        Self::Unreachable,
    ];

    /// As in JSON: `ok`, `missing`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Mismatch => "mismatch",
            Self::Malformed => "malformed",
            Self::Duplicate => "duplicate",
            Self::Truncated => "truncated",
            Self::Misplaced => "misplaced",
            Self::Revoked => "revoked",
            Self::Unusable => "unusable",
            Self::Wildcard => "wildcard",
            Self::CnameBroken => "cname_broken",
            Self::Lagging => "lagging",
            Self::DnssecBogus => "dnssec_bogus",
            Self::Unreachable => "unreachable",
        }
    }

    /// The reverse of `as_str`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Where servers disagree the highest is the overall status: what was published wrongly goes before what is not there yet.
    pub(crate) fn weight(self) -> u8 {
        match self {
            Self::Unreachable => 0,
            Self::Ok => 1,
            Self::Lagging => 2,
            Self::Missing => 3,
            Self::Wildcard => 4,
            Self::Misplaced => 5,
            Self::Truncated => 6,
            Self::Malformed => 7,
            Self::Mismatch => 8,
            Self::CnameBroken => 9,
            Self::Unusable => 10,
            Self::Duplicate => 11,
            Self::Revoked => 12,
            Self::DnssecBogus => 13,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_names_and_distinct_weights() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        let mut weights: Vec<u8> = Status::ALL.into_iter().map(Status::weight).collect();
        weights.sort_unstable();
        weights.dedup();
        assert_eq!(weights.len(), Status::ALL.len());
        assert_eq!(Status::parse("unchecked"), None);
    }
}
