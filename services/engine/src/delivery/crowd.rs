//! How many messages are on their way to one destination at once: a host that answers slowly must not stop the others' mail.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whoever finds no place comes back after this at the earliest, in ms,
const FIRST_TURN: i64 = 1_000;
/// and so much after the one before him, so that a long queue for one destination is not claimed in vain all at once,
const BETWEEN_TURNS: i64 = 50;
/// and after this at the latest.
const LAST_TURN: i64 = 10 * 60_000;

#[derive(Debug, Default)]
struct Destination {
    inside: usize,
    /// When the last one who found no place comes back.
    last_turn: i64,
}

/// Destinations (domains and addresses) that messages are on their way to now.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    destinations: Mutex<HashMap<String, Destination>>,
}

impl Crowd {
    /// A destination may have a quarter of all deliveries in flight.
    pub fn new(in_flight: usize) -> Self {
        Self { most: (in_flight / 4).max(1), destinations: Mutex::default() }
    }

    /// A place, left when the value goes.
    ///
    /// # Errors
    /// When to come back (ms), if there is none at `now`.
    pub fn enter(self: &Arc<Self>, name: &str, now: i64) -> Result<Place, i64> {
        let mut destinations = self.lock();
        let destination = destinations.entry(name.to_owned()).or_default();
        if destination.inside >= self.most {
            let turn = destination.last_turn.max(now + FIRST_TURN) + BETWEEN_TURNS;
            destination.last_turn = turn.min(now + LAST_TURN);
            return Err(destination.last_turn);
        }
        destination.inside += 1;
        Ok(Place { crowd: Arc::clone(self), name: name.to_owned() })
    }

    fn leave(&self, name: &str) {
        let mut destinations = self.lock();
        if let Some(destination) = destinations.get_mut(name) {
            destination.inside = destination.inside.saturating_sub(1);
            if destination.inside == 0 {
                destinations.remove(name);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Destination>> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One message on its way.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    name: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.leave(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_a_quarter_and_the_others_come_back_one_after_another() {
        let crowd = Arc::new(Crowd::new(8));
        let first = crowd.enter("slow.example", 0).expect("place");
        let _second = crowd.enter("slow.example", 0).expect("place");
        assert_eq!(crowd.enter("slow.example", 0).err(), Some(1_050));
        assert_eq!(crowd.enter("slow.example", 0).err(), Some(1_100));
        assert_eq!(crowd.enter("slow.example", 5_000).err(), Some(6_050));
        let elsewhere = crowd.enter("other.example", 0).expect("place");
        drop(first);
        let _third = crowd.enter("slow.example", 5_000).expect("place");
        drop(elsewhere);
        assert_eq!(crowd.lock().len(), 1, "what is empty is forgotten");
        for _ in 0..20_000 {
            assert!(crowd.enter("slow.example", 5_000).is_err_and(|turn| turn <= 5_000 + LAST_TURN));
        }
        assert!(Arc::new(Crowd::new(1)).enter("x", 0).is_ok());
    }
}
