//! The way to the KMS for what happens once a message: paced by `kms_budget`, one budget for each account, region and kind of work.
use crate::kms_budget::{Admission, Budget, PATIENCE_MS, Ticket};
use crate::kms_fault::Fault;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A call that failed later than this is not made again at once: whoever waits for it has waited enough.
const QUICK_MS: i64 = 500;
/// Budgets of more places than this: idle ones go.
const PLACES: usize = 1000;

/// What AWS counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// Sign.
    Sign,
    /// Decrypt and GenerateDataKey: of symmetric keys, with a quota of their own that is several times as large.
    Unwrap,
}

/// Whose quota a call is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    account: String,
    region: String,
    work: Work,
}

impl Place {
    /// Signatures by a key of this ARN: `arn:aws:kms:<region>:<account>:key/<id>`.
    pub(crate) fn signing(arn: &str) -> Self {
        let mut parts = arn.split(':').skip(3).map(str::to_owned);
        let region = parts.next().unwrap_or_default();
        Self { region, account: parts.next().unwrap_or_default(), work: Work::Sign }
    }

    /// Unwrapping, in the account and region that the process runs under, whatever their names.
    pub(crate) fn unwrapping() -> Self {
        Self { account: String::new(), region: String::new(), work: Work::Unwrap }
    }
}

/// All budgets of this process.
pub(crate) struct Gate {
    rate: NonZeroU32,
    began: Instant,
    places: Mutex<HashMap<Place, Arc<Counter>>>,
}

impl Gate {
    /// `rate`: calls a second for each place.
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        Self { rate, began: Instant::now(), places: Mutex::default() }
    }

    /// Makes the call when the budget has room for one of this tenant, once more at once if it failed in a way that passes and few do;
    /// `Paced` if there is no room soon.
    pub(crate) async fn pass<T, F>(&self, place: &Place, tenant: &str, call: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let counter = self.counter(place);
        counter.admit(tenant).await?;
        let asked_at = counter.now();
        let answer = call().await;
        counter.desk().budget.ended(asked_at);
        let fault = match answer {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        let again = fault.may_pass_at_once() && {
            let now = counter.now();
            now - asked_at <= QUICK_MS && counter.desk().budget.may_retry(now)
        };
        let outcome = if again { call().await } else { Err(fault) };
        if let Err(fault) = &outcome
            && fault.is_throttling()
        {
            let now = counter.now();
            counter.desk().budget.throttled(now);
        }
        outcome
    }

    fn counter(&self, place: &Place) -> Arc<Counter> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(place) {
            return Arc::clone(known);
        }
        if places.len() >= PLACES {
            // Nobody is at them; the worst of it is a fuller bucket.
            places.retain(|_, counter| Arc::strong_count(counter) > 1);
        }
        let new = Arc::new(Counter::new(self.rate, self.began));
        places.insert(place.clone(), Arc::clone(&new));
        new
    }
}

/// Where the calls of one place are given out.
struct Counter {
    began: Instant,
    desk: Mutex<Desk>,
}

struct Desk {
    budget: Budget,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// A task serves those that wait.
    staffed: bool,
}

impl Counter {
    fn new(rate: NonZeroU32, began: Instant) -> Self {
        let budget = Budget::new(rate.get(), millis(began.elapsed()));
        Self { began, desk: Mutex::new(Desk { budget, waiting: HashMap::new(), staffed: false }) }
    }

    fn now(&self) -> i64 {
        millis(self.began.elapsed())
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a call, not for long.
    async fn admit(self: &Arc<Self>, tenant: &str) -> Result<(), Fault> {
        let (mut waiting, mut called) = {
            let mut desk = self.desk();
            let ticket = match desk.budget.ask(tenant, self.now()) {
                Admission::Go => return Ok(()),
                Admission::Later(after) => return Err(paced(after)),
                Admission::Wait(ticket) => ticket,
            };
            let (call, called) = oneshot::channel();
            desk.waiting.insert(ticket, call);
            if !desk.staffed {
                desk.staffed = true;
                tokio::spawn(serve(Arc::clone(self)));
            }
            (Waiting { counter: self, tenant, ticket: Some(ticket) }, called)
        };
        let patience = Duration::from_millis(PATIENCE_MS.unsigned_abs());
        match tokio::time::timeout(patience, &mut called).await {
            Ok(Ok(())) => {
                waiting.ticket = None;
                Ok(())
            }
            // Its turn may have come at the same moment.
            Ok(Err(_)) | Err(_) => waiting.leave().map_or(Ok(()), |after| Err(paced(after))),
        }
    }
}

/// Calls those that wait, until nobody does.
async fn serve(counter: Arc<Counter>) {
    loop {
        let next_at = {
            let mut desk = counter.desk();
            let now = counter.now();
            for ticket in desk.budget.serve(now) {
                let went = desk.waiting.remove(&ticket).is_some_and(|call| call.send(()).is_ok());
                if !went {
                    desk.budget.give_back();
                }
            }
            match desk.budget.next_at(now) {
                Some(at) => at,
                None => {
                    desk.staffed = false;
                    return;
                }
            }
        };
        tokio::time::sleep_until(counter.began + Duration::from_millis(next_at.unsigned_abs())).await;
    }
}

/// Who waits; leaves the queue however the wait ends.
struct Waiting<'a> {
    counter: &'a Counter,
    tenant: &'a str,
    ticket: Option<Ticket>,
}

impl Waiting<'_> {
    /// After how many ms it may come back; `None` if it was called.
    fn leave(&mut self) -> Option<i64> {
        let ticket = self.ticket.take()?;
        let mut desk = self.counter.desk();
        desk.waiting.remove(&ticket);
        desk.budget.leave(self.tenant, ticket)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

fn paced(after_ms: i64) -> Fault {
    Fault::Paced(Duration::from_millis(after_ms.unsigned_abs()))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "kms_gate_tests.rs"]
mod tests;
