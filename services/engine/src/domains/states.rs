//! Key states: `pending -> published -> active -> retiring -> retired`, `revoked` from any. Decided here only; docs/key-states.md
//! tells who and what causes each step.
use signpost_dkim::KeyAlgorithm;
use signpost_dkim::names::SignatureAlgorithm;
use signpost_store::{KeyLife, KeyRow};

/// State of a key, as stored.
pub(crate) const PENDING: &str = "pending";
/// Its record was seen right in DNS.
pub(crate) const PUBLISHED: &str = "published";
/// It signs.
pub(crate) const ACTIVE: &str = "active";
/// Replaced; its record must stay while mail signed with it is under way.
pub(crate) const RETIRING: &str = "retiring";
/// Nothing needs its record any more; its private half is gone.
pub(crate) const RETIRED: &str = "retired";
/// It must not be trusted any more; its private half is gone.
pub(crate) const REVOKED: &str = "revoked";

/// Caches are taken to keep a record no longer than this (the common limits are a day and a week), in ms.
const LONGEST_TTL_MS: i64 = 7 * 24 * 3600 * 1000;
/// TTL of a record where it could not be learned, in ms.
const UNKNOWN_TTL_MS: i64 = 24 * 3600 * 1000;

/// What DNS said at a key's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Key.
    pub(crate) key_id: String,
    /// (right?, p= found or empty); `None`: no answer, or the servers do not agree.
    pub(crate) answer: Option<(bool, String)>,
    /// Something else than the record stands there, on some server at least.
    pub(crate) other: bool,
    /// TTL of what stands there, where it was asked for and told.
    pub(crate) ttl_ms: Option<i64>,
}

/// What the next steps depend on.
#[derive(Clone, Copy)]
pub(crate) struct Circumstances<'a> {
    /// What DNS says now; nothing of keys that were not asked for.
    pub(crate) sightings: &'a [Sighting],
    /// The domain signs (enabled or suspended).
    pub(crate) signs: bool,
    /// It signs with a key of each kind.
    pub(crate) dual: bool,
    /// Keys that did not pass the test before their first use.
    pub(crate) barred: &'a [String],
    /// To be revoked.
    pub(crate) revoke: &'a [String],
    /// Milliseconds.
    pub(crate) now: i64,
}

/// One change of state: an arrow of docs/key-states.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) key_id: String,
    pub(crate) from: String,
    pub(crate) to: &'static str,
}

/// True while the key signs, or could come to.
pub(crate) fn is_in_use(state: &str) -> bool {
    matches!(state, PENDING | PUBLISHED | ACTIVE)
}

/// True while a signature that this key made may leave: not if DNS said that the record of a replaced key is gone already.
pub(crate) fn still_stands(key: &KeyRow) -> bool {
    key.state == ACTIVE || (key.state == RETIRING && key.published_p.as_ref().is_none_or(|p| *p == key.public_key))
}

/// True while the key's record belongs into the tenant's zone.
pub(crate) fn is_listed(state: &str) -> bool {
    matches!(state, PENDING | PUBLISHED | ACTIVE | RETIRING)
}

/// True while the key may still come to sign.
fn is_on_its_way(key: &KeyRow) -> bool {
    key.state == PENDING || key.state == PUBLISHED
}

/// Keys are ordered by their making.
fn age(key: &KeyRow) -> (i64, &str) {
    (key.created_at, &key.id)
}

/// Where one key signs: the newest that may takes the place of the former one. Without dual signing a domain has one place for keys of
/// every kind; with it one for those that make RSA signatures, whatever their size, and one for Ed25519 (RFC 8463 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Any,
    Of(SignatureAlgorithm),
}

/// RSA first: every receiver knows it.
const DUAL: [Place; 2] = [Place::Of(SignatureAlgorithm::RsaSha256), Place::Of(SignatureAlgorithm::Ed25519Sha256)];

impl Place {
    /// Those of a domain, in the order of their signatures.
    pub(crate) fn all(dual: bool) -> &'static [Self] {
        if dual { &DUAL } else { &[Self::Any] }
    }

    /// Where keys of this algorithm sign.
    pub(crate) fn of(algorithm: KeyAlgorithm, dual: bool) -> Self {
        if dual { Self::Of(algorithm.signature_algorithm()) } else { Self::Any }
    }

    pub(crate) fn takes(self, key: &KeyRow) -> bool {
        let made = KeyAlgorithm::parse(&key.algorithm).map(KeyAlgorithm::signature_algorithm);
        match self {
            Self::Any => true,
            Self::Of(algorithm) => made == Some(algorithm),
        }
    }

    /// The newest key that signs here.
    pub(crate) fn active(self, keys: &[KeyRow]) -> Option<&KeyRow> {
        keys.iter().filter(|key| key.state == ACTIVE && self.takes(key)).max_by_key(|key| age(key))
    }

    /// The key whose record is required: the active one or, where none is active, the newest that could become it.
    fn required(self, keys: &[KeyRow]) -> Option<&KeyRow> {
        let to_come = || keys.iter().filter(|key| is_on_its_way(key) && self.takes(key)).max_by_key(|key| age(key));
        self.active(keys).or_else(to_come)
    }

    /// The newest key that is to replace the active one, if a rotation is under way.
    pub(crate) fn next(self, keys: &[KeyRow]) -> Option<&KeyRow> {
        let active = self.active(keys).map(age);
        keys.iter()
            .filter(|key| is_on_its_way(key) && self.takes(key) && active.is_none_or(|active| age(key) > active))
            .max_by_key(|key| age(key))
    }
}

/// The keys that sign a message, at most one of a kind, in the order of their signatures.
pub(crate) fn signing_keys(keys: &[KeyRow]) -> impl Iterator<Item = &KeyRow> {
    DUAL.into_iter().filter_map(|place| place.active(keys))
}

/// The keys whose records are required, one for each place that has any.
pub(crate) fn required_keys(keys: &[KeyRow], dual: bool) -> Vec<&KeyRow> {
    Place::all(dual).iter().filter_map(|place| place.required(keys)).collect()
}

/// Keys that are to be revoked where dual signing ends: Ed25519 keys that do not sign yet would else take the place of the RSA key
/// that goes on, and mail be left with the signature that not every receiver knows.
pub(crate) fn without_a_place(keys: &[KeyRow]) -> Vec<String> {
    let [rsa, ed25519] = DUAL;
    let goes_on = rsa.active(keys).is_some()
        || (ed25519.active(keys).is_none() && keys.iter().any(|key| key.state == PUBLISHED && rsa.takes(key)));
    let on_their_way = keys.iter().filter(|key| goes_on && is_on_its_way(key) && ed25519.takes(key));
    on_their_way.map(|key| key.id.clone()).collect()
}

/// The next steps of a domain's keys, in order. A pending key whose record is seen right becomes published; then, if the domain
/// signs, the newest published key whose record is right, whose name is free of other data in caches and that passed its test
/// becomes active, and a former active one of its place retiring; an older key never replaces a newer one. A retiring key becomes
/// retired once nothing needs its record. Without dual signing at most one key of a domain is active: where two are left from it, the
/// RSA key stays.
pub(crate) fn steps(keys: &[KeyRow], circumstances: &Circumstances<'_>) -> Vec<Step> {
    let mut keys = keys.to_vec();
    let mut steps = Vec::new();
    let mut take = |key: &mut KeyRow, to: &'static str| {
        steps.push(Step { key_id: key.id.clone(), from: std::mem::replace(&mut key.state, to.to_owned()), to });
    };
    for key in &mut keys {
        if circumstances.revoke.contains(&key.id) && key.state != REVOKED {
            take(key, REVOKED);
        }
        if key.state == PENDING && circumstances.seen_right(key) == Some(true) {
            take(key, PUBLISHED);
        }
        let over = key.life.safe_to_remove_at.is_some_and(|at| at <= circumstances.now);
        if key.state == RETIRING && over {
            take(key, RETIRED);
        }
    }
    let first = signing_keys(&keys).next().map(|key| key.id.clone());
    if let (false, Some(first)) = (circumstances.dual, first) {
        for key in keys.iter_mut().filter(|key| key.state == ACTIVE && key.id != first) {
            take(key, RETIRING);
        }
    }
    for place in Place::all(circumstances.dual) {
        let Some(next) = circumstances.takes_over(*place, &keys) else { continue };
        for key in keys.iter_mut().filter(|key| place.takes(key)) {
            if key.id == next {
                take(key, ACTIVE);
            } else if key.state == ACTIVE {
                take(key, RETIRING);
            }
        }
    }
    steps
}

impl Circumstances<'_> {
    /// `None`: it was not asked for, or nothing is known.
    fn seen_right(&self, key: &KeyRow) -> Option<bool> {
        let sighting = self.sightings.iter().find(|sighting| sighting.key_id == key.id)?;
        sighting.answer.as_ref().map(|(right, _)| *right)
    }

    /// True if one of them takes the other's place.
    pub(crate) fn compete(&self, one: &KeyRow, other: &KeyRow) -> bool {
        Place::all(self.dual).iter().any(|place| place.takes(one) && place.takes(other))
    }

    /// The key that begins to sign at a place now.
    fn takes_over(&self, place: Place, keys: &[KeyRow]) -> Option<String> {
        let active = place.active(keys).map(age);
        let next = keys
            .iter()
            .filter(|key| place.takes(key) && active.is_none_or(|active| age(key) > active))
            .filter(|key| key.state == PUBLISHED && self.may_activate(key))
            .max_by_key(|key| age(key))?;
        self.signs.then(|| next.id.clone())
    }

    fn may_activate(&self, key: &KeyRow) -> bool {
        let asked = self.sightings.iter().any(|sighting| sighting.key_id == key.id);
        let right = match self.seen_right(key) {
            Some(right) => right,
            // Asked now and not answered, or not by all alike: that is no time to begin.
            None if asked => false,
            None => key.published_p.as_ref() == Some(&key.public_key),
        };
        let clean = key.life.other_data_until.is_none_or(|until| until <= self.now);
        right && clean && !self.barred.contains(&key.id)
    }
}

/// The times of a key after a look at its name.
pub(crate) fn life_after_sighting(key: &KeyRow, sighting: &Sighting, now: i64) -> KeyLife {
    let mut life = key.life.clone();
    match &sighting.answer {
        Some((true, _)) => {
            life.first_seen_at.get_or_insert(now);
            life.record_ttl = sighting.ttl_ms.or(life.record_ttl);
        }
        Some((false, _)) => life.first_seen_at = None,
        None => {}
    }
    if sighting.other && is_on_its_way(key) {
        let ttl = sighting.ttl_ms.unwrap_or(UNKNOWN_TTL_MS).min(LONGEST_TTL_MS);
        life.other_data_until = life.other_data_until.max(Some(now + ttl));
    }
    life
}

/// The times of a key after a step. `lifetime_ms` is that of the queue.
///
/// A message that the key signed last may be in our queue for a lifetime, and in that of a forwarder, who verifies or whose
/// receiver does, for another; and what stands in a zone is relied on for its TTL.
pub(crate) fn life_after_step(mut life: KeyLife, to: &str, lifetime_ms: i64, now: i64) -> KeyLife {
    life.state_since = now;
    if to == RETIRING {
        let ttl = life.record_ttl.unwrap_or(UNKNOWN_TTL_MS).min(LONGEST_TTL_MS);
        life.retiring_since = Some(now);
        life.safe_to_remove_at = Some(now.saturating_add(lifetime_ms.saturating_mul(2)).saturating_add(ttl));
    }
    if to == REVOKED {
        life.safe_to_remove_at = None;
    }
    life
}

#[cfg(test)]
#[path = "states_tests.rs"]
mod tests;
