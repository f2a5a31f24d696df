//! The slots of a claim: their selectors and targets, and which one the next key goes into.
use crate::domains::{self, records, states};
use crate::rows::{DomainRow, KeyRow};
use crate::{Engine, Error, FieldError, ids};
use signpost_diagnosis::check::{Expected, Want};
use signpost_diagnosis::update::PUBLISHED_TTL;
use signpost_dkim::{Selector, SigningDomain};
use signpost_store::{SlotRow, SlotShows};
use std::time::Duration;

/// How long a request that makes or withdraws a key waits for DNS before it leaves the rest to the passes.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);
/// The same before a check, which has a deadline of its own.
pub(crate) const BEFORE_A_CHECK: Duration = Duration::from_millis(500);
/// So long after a key took the place of a record that said its forerunner is revoked, caches may still hold that one: its TTL, and
/// what the update may take. An update that takes longer is seen by the look at the name, which moves the time.
const REPLACED_MS: i64 = PUBLISHED_TTL as i64 * 1000 + 60_000;
/// Slots of a claim, and CNAMEs that its tenant publishes: one signs, one is being replaced, one is free for an emergency.
const SLOTS: i64 = 3;
/// The keys of a claim are published at once: who proves nothing may not fill the operator's zone.
const UNPROVEN_DOMAINS: i64 = 100;
/// Symbols of 5 bits: 130 random bits. Who does not know a target cannot point anything at it.
const TARGET_LENGTH: usize = 26;

/// A CNAME to publish and what a check must find for it.
pub(crate) struct ListedSlot {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) expected: Expected,
    pub(crate) key_id: Option<String>,
    pub(crate) warnings: Vec<String>,
}

impl Engine {
    /// True if domains can be registered with `delegated`.
    pub(crate) fn offers_delegation(&self) -> bool {
        self.inner.delegation.get().is_some()
    }

    /// May this tenant have one more unproven delegated domain? `TooManyDelegated` if not.
    pub(crate) async fn admit_delegated(&self, tenant: &str) -> Result<(), Error> {
        let have = self.inner.store.count_unproven_delegated(tenant).await?;
        if have < UNPROVEN_DOMAINS { Ok(()) } else { Err(Error::TooManyDelegated { domains: UNPROVEN_DOMAINS }) }
    }

    /// The slots of a new claim, the first one under this selector. Nothing of them was ever used, and the store never gives a
    /// target out again.
    pub(crate) fn new_slots(&self, domain: &DomainRow, first: &str) -> Result<Vec<SlotRow>, Error> {
        let suffix = self.inner.delegation.get().map(|delegation| delegation.suffix.as_str());
        let suffix = suffix.ok_or_else(|| Error::Internal("slots without delegated mode".into()))?;
        let random = self.inner.random.as_ref();
        Ok((0..SLOTS)
            .map(|place| {
                let selector = if place == 0 { first.to_owned() } else { domains::random_selector(random) };
                let target = format!("{}.{suffix}", ids::random_text(random, TARGET_LENGTH));
                SlotRow::unused(domain, place, &selector, &target)
            })
            .collect())
    }

    /// The selector of the next key of a delegated domain, that of its first free slot, and until when caches may hold what stood there
    /// before. While a key signs or is to, one slot stays
    /// free, so that there is somewhere to go if it must be revoked. `NoFreeSlot` says from when on there will be one.
    pub(crate) async fn slot_for_key(&self, domain: &DomainRow) -> Result<Option<(Selector, Option<i64>)>, Error> {
        let store = &self.inner.store;
        let slots = store.slots(&domain.tenant_id, &domain.id).await?;
        if slots.is_empty() {
            // It is being registered.
            return Ok(None);
        }
        if domain.ownership == "lost" {
            let detail = "this name is not proven to be yours any more; no key is made for it";
            return Err(Error::Invalid(vec![FieldError::at("", detail)]));
        }
        let keys = store.keys(&domain.tenant_id, &domain.id).await?;
        let in_use = keys.iter().any(|key| states::is_in_use(&key.state));
        let now = self.now_ms();
        let slot = next_free(&slots, in_use, now)?;
        let selector = Selector::parse(&slot.selector);
        let selector = selector.map_err(|error| Error::Internal(format!("stored selector: {error}")))?;
        let other_data_until = (slot.shows == SlotShows::Revoked).then_some(now + REPLACED_MS);
        Ok(Some((selector, other_data_until)))
    }

    /// The CNAMEs of a delegated domain, by their place. A slot holds a key of `keys`, or none.
    pub(crate) async fn listed_slots(&self, domain: &DomainRow, keys: &[KeyRow]) -> Result<Vec<ListedSlot>, Error> {
        let name = records::stored_domain(&domain.name)?;
        let slots = self.inner.store.slots(&domain.tenant_id, &domain.id).await?;
        slots.iter().map(|slot| listed(&name, slot, keys)).collect()
    }

    /// Publishes what is owed for a domain, now and within that time; what fails is done by the passes.
    pub(crate) async fn publish_domain(&self, tenant: &str, domain_id: &str, within: Duration) {
        let Some(delegation) = self.inner.delegation.get() else { return };
        let publishing = async {
            let mut slots = self.inner.store.slots(tenant, domain_id).await?;
            slots.retain(SlotRow::is_owed);
            self.publish(delegation, slots).await
        };
        match tokio::time::timeout(within, publishing).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::debug!(domain_id, %failure, "its keys are published later"),
            Err(_) => tracing::debug!(domain_id, "the DNS update server is slow: its keys are published later"),
        }
    }
}

fn listed(domain: &SigningDomain, slot: &SlotRow, keys: &[KeyRow]) -> Result<ListedSlot, Error> {
    let key = match slot.shows {
        SlotShows::Key { .. } => keys.iter().find(|key| Some(&key.id) == slot.key_id.as_ref()),
        SlotShows::Nothing | SlotShows::Revoked => None,
    };
    let name = format!("{}._domainkey.{domain}", slot.selector);
    let mut warnings = Vec::new();
    if slot.is_owed() {
        warnings.push(
            "What stands behind this name is being published by the service and is not there yet; nothing is to be done."
                .to_owned(),
        );
    }
    let want = Want::DkimAlias { target: slot.target.clone(), key: key.map(records::stored_public_key).transpose()? };
    Ok(ListedSlot {
        expected: Expected { name: name.clone(), want },
        name,
        target: slot.target.clone(),
        key_id: key.map(|key| key.id.clone()),
        warnings,
    })
}

/// The first slot that a new key may have. `in_use`: there is a key that signs or could come to.
fn next_free(slots: &[SlotRow], in_use: bool, now: i64) -> Result<&SlotRow, Error> {
    let free: Vec<&SlotRow> = slots.iter().filter(|slot| slot.is_free(now)).collect();
    // Without such a key this is the emergency.
    let kept = usize::from(in_use);
    match free.first() {
        Some(slot) if free.len() > kept => Ok(slot),
        Some(_) | None => {
            let resting = slots.iter().filter(|slot| !slot.is_free(now) && !slot.is_owed());
            Err(Error::NoFreeSlot { free_at: resting.filter_map(|slot| slot.free_at).min() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn slots(places: &[(&str, SlotShows, Option<i64>, bool)]) -> Vec<SlotRow> {
        let slot = |(place, (key, shows, free_at, owed)): (i64, &(&str, SlotShows, Option<i64>, bool))| SlotRow {
            target: format!("t{place}.dkim.test"),
            tenant_id: "t".into(),
            domain_id: "d".into(),
            place,
            selector: format!("s{place}"),
            key_id: (!key.is_empty()).then(|| (*key).to_owned()),
            shows: shows.clone(),
            version: 2,
            published_version: if *owed { 1 } else { 2 },
            free_at: *free_at,
        };
        (0..).zip(places).map(slot).collect()
    }

    /// A key signs in one slot, a second one is taken for a rotation, the third stays for the day on which the first is revoked.
    #[test]
    fn one_slot_stays_free_for_an_emergency() {
        let shown = || SlotShows::Key { algorithm: "ed25519".into(), public_key: "p".into() };
        let empty = || ("", SlotShows::Nothing, None, false);
        let chosen = |places: &[(&str, SlotShows, Option<i64>, bool)], in_use: bool| match next_free(
            &slots(places),
            in_use,
            NOW,
        ) {
            Ok(slot) => Ok(slot.selector.clone()),
            Err(Error::NoFreeSlot { free_at }) => Err(free_at),
            Err(other) => panic!("{other:?}"),
        };
        let one = [("a", shown(), None, false), empty(), empty()];
        assert_eq!(chosen(&one, true), Ok("s1".into()));
        let two = [("a", shown(), None, false), ("b", shown(), None, false), empty()];
        assert_eq!(chosen(&two, true), Err(None));
        // The emergency: nothing is left that signs.
        let revoked = [("a", shown(), None, false), ("b", SlotShows::Revoked, Some(NOW + 5), false), empty()];
        assert_eq!(chosen(&revoked, false), Ok("s2".into()));
        // A slot whose key went comes back once it has rested, and not before DNS knows of it.
        let resting =
            |free_at, owed| [("a", SlotShows::Nothing, Some(free_at), owed), ("b", shown(), None, false), empty()];
        assert_eq!(chosen(&resting(NOW + 5, false), true), Err(Some(NOW + 5)));
        assert_eq!(chosen(&resting(NOW, true), true), Err(None));
        assert_eq!(chosen(&resting(NOW, false), true), Ok("s0".into()));
    }
}
