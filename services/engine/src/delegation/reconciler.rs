//! Compares what stands below `dkim.<service domain>` with what the store says, and puts it right: what somebody changed by hand,
//! what a process left that died, what an old copy of the zone brought back.
use super::publisher::text_of;
use super::{Delegation, Failure, LONG_NEGATIVE_TTL};
use crate::Engine;
use signpost_diagnosis::update::{CHANGES_MAX, NameChange, UpdateError};
use signpost_store::{SlotRow, SlotShows};
use std::collections::BTreeMap;

/// How often the serial number of the zone is asked for: one question.
const LOOK_EVERY_MS: i64 = 5_000;
/// The zone is compared again so long after the last time, if it changed since; where that took long, after ten times as long.
const PAUSE_MS: i64 = 10_000;
const PAUSE_SHARE: i64 = 10;
/// And after so long whether it changed or not.
const AT_LEAST_EVERY_MS: i64 = 3_600_000;
/// Slots of one page.
const PAGE: u32 = 1_000;
/// So many names that the store does not know are removed in any case. More than those, and more than the store knows: that is the
/// zone of another installation.
const STRANGERS: usize = 8;

/// When the zone was compared last, and what it was then.
#[derive(Default)]
pub(super) struct Rounds {
    looked_at: Option<i64>,
    /// Serial number of the zone before the last comparison, when that ended, and how long it took.
    compared: Option<(u32, i64, i64)>,
    told: Told,
}

/// What the operator was told, once in the life of the process.
#[derive(Default)]
struct Told {
    no_transfer: bool,
    negative_ttl: bool,
}

impl Rounds {
    fn may_look(&mut self, now: i64) -> bool {
        let may = self.looked_at.is_none_or(|at| now < at || now >= at + LOOK_EVERY_MS);
        if may {
            self.looked_at = Some(now);
        }
        may
    }

    fn is_due(&self, serial: u32, now: i64) -> bool {
        let Some((last, ended, took)) = self.compared else { return true };
        let pause = PAUSE_MS.max(took.saturating_mul(PAUSE_SHARE));
        now < ended || now >= ended + AT_LEAST_EVERY_MS || (serial != last && now >= ended + pause)
    }
}

impl Engine {
    /// Compares, if it is time to and the zone changed.
    pub(super) async fn reconcile(&self, delegation: &Delegation) -> Result<(), Failure> {
        let began = self.now_ms();
        if !delegation.pace().rounds.may_look(began) {
            return Ok(());
        }
        let zone = delegation.update.zone_of(&delegation.suffix, self.now_unix()).await?;
        if !delegation.pace().rounds.is_due(zone.serial, began) {
            return Ok(());
        }
        if zone.negative_ttl > LONG_NEGATIVE_TTL
            && !std::mem::replace(&mut delegation.pace().rounds.told.negative_ttl, true)
        {
            tracing::warn!(
                zone = %zone.apex,
                "others remember for {} s that a name of this zone does not exist; 300 s (the last number of its SOA) suit changing keys",
                zone.negative_ttl
            );
        }
        self.compare(delegation, &zone.apex).await?;
        let ended = self.now_ms();
        delegation.pace().rounds.compared = Some((zone.serial, ended, ended - began));
        Ok(())
    }

    async fn compare(&self, delegation: &Delegation, apex: &str) -> Result<(), Failure> {
        // The zone before the store: what stood in it then has its row by now, so that nothing new is taken for a stranger.
        let mut zone = self.zone_contents(delegation, apex).await?;
        let (mut after, mut known) = (None, 0);
        loop {
            let page = self.inner.store.all_slots(after.as_deref(), PAGE).await?;
            known += page.rows.iter().filter(|slot| matches!(slot.shows, SlotShows::Key { .. })).count();
            let mut wrong = Vec::new();
            for (slot, stands) in self.beside_each_other(delegation, &mut zone, page.rows).await? {
                // What is owed is published anyway.
                if !slot.is_owed() && stands.iter().map(String::as_str).ne(text_of(&slot)?.as_deref()) {
                    tracing::warn!(name = %slot.target, "DNS does not show there what it is to show; it is put right");
                    wrong.push(slot);
                }
            }
            self.publish(delegation, wrong).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        match zone {
            Some(strangers) => self.remove(delegation, apex, strangers.into_keys().collect(), known).await,
            None => Ok(()),
        }
    }

    /// All names below `dkim.<service domain>` with their records; `None` where the server does not hand out the zone.
    async fn zone_contents(
        &self,
        delegation: &Delegation,
        apex: &str,
    ) -> Result<Option<BTreeMap<String, Vec<String>>>, Failure> {
        match delegation.update.transfer(apex, &delegation.suffix, self.now_unix()).await {
            Ok(contents) => Ok(Some(contents)),
            Err(UpdateError::Refused(reason)) => {
                if !std::mem::replace(&mut delegation.pace().rounds.told.no_transfer, true) {
                    tracing::info!(
                        zone = %apex, %reason,
                        "the zone cannot be transferred: names are asked for one by one, and what others put below {} is not found",
                        delegation.suffix
                    );
                }
                Ok(None)
            }
            Err(unavailable @ UpdateError::Unavailable(_)) => Err(unavailable.into()),
        }
    }

    /// The slots with what stands at their targets. Those that the server knows nothing of (an earlier service domain) are left out.
    async fn beside_each_other(
        &self,
        delegation: &Delegation,
        zone: &mut Option<BTreeMap<String, Vec<String>>>,
        slots: Vec<SlotRow>,
    ) -> Result<Vec<(SlotRow, Vec<String>)>, Failure> {
        let is_here =
            |slot: &SlotRow| slot.target.split_once('.').is_some_and(|(_, suffix)| suffix == delegation.suffix);
        let (here, elsewhere): (Vec<_>, Vec<_>) = slots.into_iter().partition(is_here);
        let mut all = match zone {
            Some(zone) => here.into_iter().map(|slot| (zone.remove(&slot.target).unwrap_or_default(), slot)).collect(),
            None => self.ask_for(delegation, here).await?,
        };
        match self.ask_for(delegation, elsewhere).await {
            Ok(found) => all.extend(found),
            Err(Failure::Dns(UpdateError::Refused(reason))) => {
                tracing::debug!(reason, "targets below an earlier service domain are not compared");
            }
            Err(failure) => return Err(failure),
        }
        Ok(all.into_iter().map(|(stands, slot)| (slot, stands)).collect())
    }

    async fn ask_for(
        &self,
        delegation: &Delegation,
        slots: Vec<SlotRow>,
    ) -> Result<Vec<(Vec<String>, SlotRow)>, Failure> {
        let names: Vec<String> = slots.iter().map(|slot| slot.target.clone()).collect();
        let found = delegation.update.read(&names, self.now_unix()).await?;
        Ok(found.into_iter().zip(slots).collect())
    }

    /// Removes what the store does not know, unless there is so much of it that it must be somebody else's.
    async fn remove(
        &self,
        delegation: &Delegation,
        apex: &str,
        strangers: Vec<String>,
        known: usize,
    ) -> Result<(), Failure> {
        // A store without a key is more likely a new one than that of an installation which lost all.
        if !strangers.is_empty() && (known == 0 || strangers.len() > STRANGERS.max(known)) {
            tracing::error!(
                "{} names below {} are unknown to this database, and {known} keys are known: this looks like the zone of another \
                 installation, and nothing is removed. Give each its own service domain, or remove them by hand",
                strangers.len(),
                delegation.suffix
            );
            return Ok(());
        }
        for part in strangers.chunks(CHANGES_MAX) {
            let changes: Vec<NameChange> =
                part.iter().map(|name| NameChange { name: name.clone(), text: None }).collect();
            delegation.update.replace(apex, &changes, self.now_unix()).await?;
            for name in part {
                tracing::warn!(%name, "removed from DNS: it stood below the names of delegated keys and was never one of them");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_compared_when_it_changed_and_not_all_the_time() {
        let mut rounds = Rounds::default();
        assert!(
            rounds.may_look(1_000)
                && !rounds.may_look(1_000 + LOOK_EVERY_MS - 1)
                && rounds.may_look(1_000 + LOOK_EVERY_MS)
        );
        assert!(rounds.is_due(7, 0), "never compared");
        rounds.compared = Some((7, 100_000, 50));
        for (serial, now, due) in [
            (7, 100_000 + PAUSE_MS, false),
            (8, 100_000 + PAUSE_MS - 1, false),
            (8, 100_000 + PAUSE_MS, true),
            (7, 100_000 + AT_LEAST_EVERY_MS, true),
            // The clock was set back.
            (7, 99_999, true),
        ] {
            assert_eq!(rounds.is_due(serial, now), due, "{serial} at {now}");
        }
        rounds.compared = Some((7, 100_000, 5_000));
        assert!(!rounds.is_due(8, 100_000 + 49_999) && rounds.is_due(8, 100_000 + 50_000));
    }
}
