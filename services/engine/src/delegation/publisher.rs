//! Brings DNS to what the store says of slots, and tells the store so.
//!
//! Several processes may do so at once. Each writes what it read, then asks the store whether that is still what is to stand there,
//! and writes again if not. One that dies in between leaves what it wrote to the reconciler.
use super::{Delegation, Failure};
use crate::Engine;
use crate::domains::records;
use signpost_diagnosis::update::{CHANGES_MAX, NameChange, PUBLISHED_TTL, UpdateError};
use signpost_dkim::record;
use signpost_store::{SlotRow, SlotShows};
use std::collections::BTreeMap;

/// Owed rows of one page.
const PAGE: u32 = 500;
/// A slot that changes again and again while it is published is left to the next pass.
const TRIES: usize = 8;

/// The TXT value that is to stand at a slot's target; `None`: nothing.
pub(super) fn text_of(slot: &SlotRow) -> Result<Option<String>, Failure> {
    match &slot.shows {
        SlotShows::Nothing => Ok(None),
        SlotShows::Revoked => Ok(Some(record::REVOKED.to_owned())),
        SlotShows::Key { algorithm, public_key } => {
            Ok(Some(record::build(&records::public_key_of(algorithm, public_key)?)))
        }
    }
}

impl Engine {
    /// Publishes everything that is owed. The first trouble is told after all that could be done was done.
    pub(super) async fn publish_owed(&self, delegation: &Delegation) -> Result<(), Failure> {
        let mut after: Option<String> = None;
        let mut trouble = None;
        loop {
            let slots = self.inner.store.owed_slots(after.as_deref(), PAGE).await?;
            let Some(last) = slots.last() else { break };
            after = Some(last.target.clone());
            if let Err(failure) = self.publish(delegation, slots).await {
                let over = matches!(failure, Failure::Dns(UpdateError::Unavailable(_)) | Failure::Store(_));
                trouble.get_or_insert(failure);
                if over {
                    break;
                }
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Makes DNS show what these slots are to show. What one zone refuses stops no other.
    pub(super) async fn publish(&self, delegation: &Delegation, slots: Vec<SlotRow>) -> Result<(), Failure> {
        // An earlier service domain may have been another one.
        let mut by_suffix: BTreeMap<String, Vec<SlotRow>> = BTreeMap::new();
        for slot in slots {
            let suffix = slot.target.split_once('.').map_or("", |(_, suffix)| suffix).to_owned();
            by_suffix.entry(suffix).or_default().push(slot);
        }
        let mut trouble = None;
        for (suffix, slots) in by_suffix {
            match self.publish_below(delegation, &suffix, slots).await {
                Ok(()) => {}
                // It may never take it again, and keeps nothing else waiting.
                Err(Failure::Dns(UpdateError::Refused(reason))) if suffix != delegation.suffix => {
                    delegation.tell_of_earlier(&suffix, &reason);
                }
                Err(failure) => {
                    trouble.get_or_insert(failure);
                }
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn publish_below(&self, delegation: &Delegation, suffix: &str, slots: Vec<SlotRow>) -> Result<(), Failure> {
        let zone = delegation.update.zone_of(suffix, self.now_unix()).await?.apex;
        let mut trouble = None;
        for part in slots.chunks(CHANGES_MAX) {
            match self.publish_part(delegation, &zone, part.to_vec()).await {
                Ok(()) => {}
                // What is wrong with these is not wrong with the others.
                Err(failure @ (Failure::Dns(UpdateError::Refused(_)) | Failure::Key(_))) => {
                    trouble.get_or_insert(failure);
                }
                Err(failure @ (Failure::Dns(UpdateError::Unavailable(_)) | Failure::Store(_))) => return Err(failure),
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn publish_part(&self, delegation: &Delegation, zone: &str, part: Vec<SlotRow>) -> Result<(), Failure> {
        let mut part = part;
        for _ in 0..TRIES {
            part = self.publish_together(delegation, zone, &part).await?;
            if part.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// One update; gives those of the slots that are to show something else by now.
    async fn publish_together(
        &self,
        delegation: &Delegation,
        zone: &str,
        slots: &[SlotRow],
    ) -> Result<Vec<SlotRow>, Failure> {
        let mut changes = Vec::with_capacity(slots.len());
        for slot in slots {
            changes.push(NameChange { name: slot.target.clone(), text: text_of(slot)? });
        }
        delegation.update.replace(zone, &changes, self.now_unix()).await?;
        let now = self.now_ms();
        // A slot is filled anew only after its old key was gone for the lifetime of the queue and a TTL.
        let free_at = now.saturating_add(self.inner.settings.queue_lifetime_ms) + i64::from(PUBLISHED_TTL) * 1000;
        let store = &self.inner.store;
        let mut again = Vec::new();
        for slot in slots {
            if store.record_slot_published(&slot.target, slot.version, now, free_at).await? {
                tracing::info!(name = %slot.target, shows = shown(&slot.shows), "published");
            } else {
                again.extend(store.slot(&slot.target).await?);
            }
        }
        Ok(again)
    }

    /// Seconds since the epoch, as signatures of DNS messages want them.
    pub(super) fn now_unix(&self) -> u64 {
        self.inner.clock.now_s()
    }
}

fn shown(shows: &SlotShows) -> &'static str {
    match shows {
        SlotShows::Nothing => "nothing",
        SlotShows::Key { .. } => "a key",
        SlotShows::Revoked => "that its key is revoked",
    }
}
