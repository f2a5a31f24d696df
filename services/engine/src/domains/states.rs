//! Key states: `pending -> published -> active -> retiring -> retired`, `revoked` from any. Decided here only.
use signpost_store::{KeyChange, KeyRow};

/// State of a key, as stored.
pub(crate) const PENDING: &str = "pending";
/// Its record was seen right in DNS.
pub(crate) const PUBLISHED: &str = "published";
/// It signs.
pub(crate) const ACTIVE: &str = "active";
/// Replaced; its record must stay while mail signed with it is under way.
pub(crate) const RETIRING: &str = "retiring";

/// True while a signature by a key in this state may leave.
pub(crate) fn may_be_sent(state: &str) -> bool {
    state == ACTIVE || state == RETIRING
}

/// True while the key signs, or could come to.
pub(crate) fn is_in_use(state: &str) -> bool {
    matches!(state, PENDING | PUBLISHED | ACTIVE)
}

/// True while the key's record belongs into the tenant's zone.
pub(crate) fn is_listed(state: &str) -> bool {
    matches!(state, PENDING | PUBLISHED | ACTIVE | RETIRING)
}

/// The key whose record is required: the active one or, where none is active, the newest that could become it.
pub(crate) fn required_key(keys: &[KeyRow]) -> Option<&KeyRow> {
    let newest = |wanted: &[&str]| {
        keys.iter()
            .filter(|k| wanted.contains(&k.state.as_str()))
            .max_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)))
    };
    newest(&[ACTIVE]).or_else(|| newest(&[PENDING, PUBLISHED]))
}

/// New states: pending keys in `seen_ok` become published; then, if the domain signs (`enabled`), the newest published key
/// becomes active and a former active one retiring; an older key never replaces a newer one. Without dual signing at most one key of a domain is active.
pub(crate) fn transitions(keys: &[KeyRow], seen_ok: &[String], enabled: bool) -> Vec<(String, &'static str)> {
    let state_after = |key: &KeyRow| {
        if key.state == PENDING && seen_ok.contains(&key.id) { PUBLISHED.to_owned() } else { key.state.clone() }
    };
    let active = keys.iter().filter(|k| k.state == ACTIVE).map(|k| (k.created_at, &k.id)).max();
    let newest_published = keys
        .iter()
        .filter(|k| state_after(k) == PUBLISHED && active.is_none_or(|active| (k.created_at, &k.id) > active))
        .max_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let mut changes = Vec::new();
    for key in keys {
        let becomes = match (enabled, newest_published) {
            (true, Some(next)) if next.id == key.id => ACTIVE,
            (true, Some(_)) if key.state == ACTIVE => RETIRING,
            _ if state_after(key) != key.state => PUBLISHED,
            _ => continue,
        };
        changes.push((key.id.clone(), becomes));
    }
    changes
}

/// `transitions` as store changes.
pub(crate) fn key_changes(transitions: &[(String, &'static str)]) -> Vec<KeyChange> {
    transitions
        .iter()
        .map(|(id, state)| KeyChange {
            key_id: id.clone(),
            state: Some((*state).to_owned()),
            published: None,
            wipe: false,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, state: &str, created_at: i64) -> KeyRow {
        KeyRow {
            id: id.into(),
            tenant_id: "t".into(),
            domain_id: "d".into(),
            domain_name: "example.com".into(),
            selector: id.into(),
            algorithm: "rsa-2048".into(),
            custody: "sealed".into(),
            reference: format!("sealed:{id}"),
            sealed: vec![],
            public_key: String::new(),
            state: state.into(),
            published_p: None,
            published_read_at: None,
            published_tried_at: None,
            created_at,
        }
    }

    /// (keys before as id:state, seen ok, enabled, changes)
    #[test]
    fn a_key_is_published_when_seen_and_activated_when_the_domain_signs() {
        type Case = (
            &'static [(&'static str, &'static str)],
            &'static [&'static str],
            bool,
            &'static [(&'static str, &'static str)],
        );
        let cases: [Case; 10] = [
            (&[("a", PENDING)], &[], false, &[]),
            (&[("a", PENDING)], &["a"], false, &[("a", PUBLISHED)]),
            (&[("a", PUBLISHED)], &[], true, &[("a", ACTIVE)]),
            (&[("a", PENDING)], &["a"], true, &[("a", ACTIVE)]),
            (&[("a", ACTIVE), ("b", PENDING)], &[], true, &[]),
            (&[("a", ACTIVE), ("b", PENDING)], &["a"], true, &[]),
            (&[("a", ACTIVE), ("b", PENDING)], &["a", "b"], true, &[("a", RETIRING), ("b", ACTIVE)]),
            (
                &[("a", ACTIVE), ("b", PENDING), ("c", PENDING)],
                &["b", "c"],
                true,
                &[("a", RETIRING), ("b", PUBLISHED), ("c", ACTIVE)],
            ),
            (&[("a", PENDING), ("b", ACTIVE)], &["a"], true, &[("a", PUBLISHED)]),
            (&[("a", "revoked"), ("b", "retired")], &["a", "b"], true, &[]),
        ];
        for (before, seen, enabled, expected) in cases {
            let keys: Vec<_> = (0_i64..).zip(before).map(|(at, (id, state))| key(id, state, at)).collect();
            let seen: Vec<_> = seen.iter().map(|s| (*s).to_owned()).collect();
            let got = transitions(&keys, &seen, enabled);
            let got: Vec<_> = got.iter().map(|(id, state)| (id.as_str(), *state)).collect();
            assert_eq!(got, expected, "before {before:?} seen {seen:?} enabled {enabled}");
        }
    }

    #[test]
    fn the_required_record_is_the_active_keys_or_else_the_newest() {
        let keys = [key("a", RETIRING, 1), key("b", ACTIVE, 2), key("c", PENDING, 3)];
        assert_eq!(required_key(&keys).map(|k| k.id.as_str()), Some("b"));
        let keys = [key("a", PENDING, 1), key("b", PUBLISHED, 2), key("c", PENDING, 3)];
        assert_eq!(required_key(&keys).map(|k| k.id.as_str()), Some("c"));
        assert!(required_key(&[key("a", "revoked", 1)]).is_none());
    }
}
