//! Answers that a wildcard gives (RFC 4592): a name next to the one in question, which nobody publishes, gets the same.
use crate::check::Status;
use crate::dns::{fqdn, name_text};
use crate::judge::Verdict;
use hickory_proto::rr::Name;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A name beside `owner`, different for each, that nobody publishes. It has the same closest encloser, so the same wildcard covers
/// both (RFC 4592 3.3.1). `None` where it would be no name.
pub(crate) fn sibling(owner: &Name) -> Option<Name> {
    let mut hasher = DefaultHasher::new();
    name_text(owner).hash(&mut hasher);
    fqdn(&format!("signpost-probe-{:016x}.{}", hasher.finish(), name_text(&owner.base_name())))
}

/// The verdict on an answer which the sibling gets too, and which is not what was wanted.
pub(crate) fn verdict(name: &str, sibling: &Name) -> Verdict {
    Verdict::new(
        Status::Wildcard,
        format!(
            "There is no record at {name} itself, the answer comes from a wildcard (`*`) record and is not the record that is needed: {}, \
             which nobody publishes, gets the same. Publish the record shown at exactly this name; there it goes before the wildcard (RFC 4592).",
            name_text(sibling)
        ),
    )
}

/// Said beside ok where the right answer is a wildcard's.
pub(crate) fn warning(name: &str) -> String {
    format!(
        "The record at {name} comes from a wildcard (`*`) record, so every name beside it has it too, those of later keys included; \
         publish it at exactly this name."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sibling_stands_beside_the_name() {
        let owner = fqdn("s1._domainkey.example.com").unwrap();
        let found = sibling(&owner).unwrap();
        assert_eq!(found.base_name(), owner.base_name());
        assert_ne!(found, owner);
        assert_eq!(sibling(&owner), Some(found), "the same question for the same record");
        assert_ne!(sibling(&fqdn("s2._domainkey.example.com").unwrap()), sibling(&owner));
    }
}
