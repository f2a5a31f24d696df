//! How often a KMS may be asked, and who is next: the rule without its clock. Times are milliseconds of one clock that does not go back.
//!
//! A bucket of calls fills at a rate. An answer that it was too often halves the rate, at most once a second, and every second
//! without one gives a twentieth of the full rate back. While calls are scarce, those that wait are dealt out to the tenant that was
//! served least recently, so that one tenant's flood takes only what the others leave.
use std::collections::{HashMap, VecDeque};

/// A request waits for a call no longer than this: it would rather leave its message to the queue.
pub(crate) const PATIENCE_MS: i64 = 250;
/// A call, in the bucket's measure.
const CALL: i64 = 1000;
/// The bucket holds what comes in a second, divided by this: with the default rate of 800 even the worst second has 1,000 calls.
const BURST_PART: i64 = 4;
/// The rate falls no lower than the full one divided by this: as often is asked whether the KMS takes calls again.
const LEAST_PART: i64 = 100;
/// A second gives back the full rate divided by this.
const STEP_PART: i64 = 20;
/// Calls under way when the rate was halved say nothing new.
const HALVING_PAUSE_MS: i64 = 1000;
/// Who is sent away comes back after between so long ...
const AWAY_LEAST_MS: i64 = 1000;
/// ... and so long.
const AWAY_MOST_MS: i64 = 30_000;
/// A tenant that was not seen for so long is forgotten.
const REMEMBERED_MS: i64 = 60_000;
/// Retries are counted over so many seconds ...
const RETRY_WINDOW_S: i64 = 10;
/// ... in which there are at least so many first attempts for each.
const FIRSTS_PER_RETRY: i64 = 10;
/// Seconds that are remembered: the window, and what a slow call takes.
const SECONDS_KEPT: usize = 32;

/// A place in the queue.
pub(crate) type Ticket = u64;

/// The answer to who wants to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Now.
    Go,
    /// When `serve` names the ticket.
    Wait(Ticket),
    /// Not soon: try again after so many ms.
    Later(i64),
}

#[derive(Default)]
struct Standing {
    /// When it was served last, in calls.
    served: u64,
    /// How often it was sent away and not served since: about as many messages of it wait.
    sent_away: i64,
    seen_at: i64,
}

/// The calls of one account, region and kind of work.
pub(crate) struct Budget {
    most: i64,
    rate: i64,
    level: i64,
    filled_at: i64,
    rate_changed_at: i64,
    halved_at: Option<i64>,
    waiting: HashMap<String, VecDeque<Ticket>>,
    tenants: HashMap<String, Standing>,
    forgotten_at: i64,
    tickets: Ticket,
    served: u64,
    retries: Retries,
}

impl Budget {
    /// `most`: calls a second.
    pub(crate) fn new(most: u32, now: i64) -> Self {
        let most = i64::from(most.max(1));
        Self {
            most,
            rate: most,
            level: burst(most),
            filled_at: now,
            rate_changed_at: now,
            halved_at: None,
            waiting: HashMap::new(),
            tenants: HashMap::new(),
            forgotten_at: now,
            tickets: 0,
            served: 0,
            retries: Retries::default(),
        }
    }

    /// A first attempt of this tenant.
    pub(crate) fn ask(&mut self, tenant: &str, now: i64) -> Admission {
        self.pass_time(now);
        self.tenants.entry(tenant.to_owned()).or_default().seen_at = now;
        if self.waiting.is_empty() && self.level >= CALL {
            self.take(tenant);
            return Admission::Go;
        }
        let tenants = self.waiting.len() + usize::from(!self.waiting.contains_key(tenant));
        let share = self.rate * PATIENCE_MS / 1000 / i64::try_from(tenants).unwrap_or(i64::MAX);
        let share = usize::try_from(share.max(1)).unwrap_or(usize::MAX);
        if self.waiting.get(tenant).is_some_and(|queue| queue.len() >= share) {
            return Admission::Later(self.send_away(tenant));
        }
        self.tickets += 1;
        self.waiting.entry(tenant.to_owned()).or_default().push_back(self.tickets);
        Admission::Wait(self.tickets)
    }

    /// Those that may go now, the tenant served least recently first.
    pub(crate) fn serve(&mut self, now: i64) -> Vec<Ticket> {
        self.pass_time(now);
        let mut going = Vec::new();
        while self.level >= CALL {
            let served = |tenant: &String| self.tenants.get(tenant).map_or(0, |standing| standing.served);
            let Some(tenant) = self.waiting.keys().min_by_key(|tenant| (served(tenant), *tenant)).cloned() else {
                break;
            };
            let Some(ticket) = self.waiting.get_mut(&tenant).and_then(VecDeque::pop_front) else { break };
            self.tidy(&tenant);
            self.take(&tenant);
            going.push(ticket);
        }
        going
    }

    /// When the next of those that wait may go; `None` if nobody waits.
    pub(crate) fn next_at(&self, now: i64) -> Option<i64> {
        let lacking = (CALL - self.level).max(0);
        // Rounded up: a little too late, never too early.
        (!self.waiting.is_empty()).then(|| now + (lacking + self.rate - 1) / self.rate)
    }

    /// It waits no longer; after how many ms it may come back. `None` if it was served already.
    pub(crate) fn leave(&mut self, tenant: &str, ticket: Ticket) -> Option<i64> {
        let queue = self.waiting.get_mut(tenant)?;
        let place = queue.iter().position(|waiting| *waiting == ticket)?;
        queue.remove(place);
        self.tidy(tenant);
        Some(self.send_away(tenant))
    }

    /// A call that was granted was not made.
    pub(crate) fn give_back(&mut self) {
        self.level = (self.level + CALL).min(burst(self.rate));
    }

    /// A first attempt that was made at `asked_at` has ended, however: the KMS has seen it.
    pub(crate) fn ended(&mut self, asked_at: i64) {
        self.retries.second(asked_at).firsts += 1;
    }

    /// The KMS says that it was too often.
    pub(crate) fn throttled(&mut self, now: i64) {
        self.pass_time(now);
        self.level = 0;
        self.rate_changed_at = now;
        if self.halved_at.is_some_and(|at| now - at < HALVING_PAUSE_MS) {
            return;
        }
        self.rate = (self.rate / 2).max(self.most / LEAST_PART).max(1);
        self.halved_at = Some(now);
    }

    /// May a call that failed be made once more at once? Of those that ended there are ten times as many first ones.
    pub(crate) fn may_retry(&mut self, now: i64) -> bool {
        self.pass_time(now);
        let may = self.waiting.is_empty() && self.level >= CALL && self.retries.take(now);
        if may {
            self.level -= CALL;
        }
        may
    }

    fn take(&mut self, tenant: &str) {
        let plenty = self.waiting.is_empty() && self.level >= burst(self.rate) / 2;
        self.level -= CALL;
        self.served += 1;
        if let Some(standing) = self.tenants.get_mut(tenant) {
            standing.served = self.served;
            standing.sent_away = if plenty { 0 } else { (standing.sent_away - 1).max(0) };
        }
    }

    /// Whom is sent away often comes back later and later, one after the other at its share of the rate.
    fn send_away(&mut self, tenant: &str) -> i64 {
        let tenants = i64::try_from(self.waiting.len().max(1)).unwrap_or(i64::MAX);
        let Some(standing) = self.tenants.get_mut(tenant) else { return AWAY_LEAST_MS };
        let pause = (standing.sent_away + 1).saturating_mul(1000).saturating_mul(tenants) / self.rate;
        if pause < AWAY_MOST_MS {
            standing.sent_away += 1;
        }
        pause.clamp(AWAY_LEAST_MS, AWAY_MOST_MS)
    }

    fn tidy(&mut self, tenant: &str) {
        if self.waiting.get(tenant).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(tenant);
        }
    }

    fn pass_time(&mut self, now: i64) {
        let passed = (now - self.filled_at).max(0);
        self.level = self.level.saturating_add(self.rate.saturating_mul(passed)).min(burst(self.rate));
        self.filled_at += passed;
        let seconds = (now - self.rate_changed_at).max(0) / 1000;
        let step = (self.most + STEP_PART - 1) / STEP_PART;
        self.rate = self.rate.saturating_add(step.saturating_mul(seconds)).min(self.most);
        self.rate_changed_at += seconds * 1000;
        if now - self.forgotten_at >= REMEMBERED_MS {
            self.forgotten_at = now;
            self.tenants
                .retain(|tenant, standing| now - standing.seen_at < REMEMBERED_MS || self.waiting.contains_key(tenant));
        }
    }
}

/// What the bucket holds at this rate: one call at least.
fn burst(rate: i64) -> i64 {
    (rate.saturating_mul(CALL) / BURST_PART).max(CALL)
}

/// Retries and first attempts by second. What cannot be told to a second counts against a retry.
#[derive(Default)]
struct Retries {
    seconds: VecDeque<Second>,
}

struct Second {
    number: i64,
    firsts: i64,
    retries: i64,
}

impl Retries {
    /// True if there may be one more, which is counted.
    fn take(&mut self, now: i64) -> bool {
        let oldest = now.div_euclid(1000) - RETRY_WINDOW_S;
        while self.seconds.front().is_some_and(|second| second.number < oldest) {
            self.seconds.pop_front();
        }
        // The oldest second lies in the window in part only: its retries count, its first attempts do not.
        let firsts: i64 = self.seconds.iter().filter(|second| second.number > oldest).map(|second| second.firsts).sum();
        let retries: i64 = self.seconds.iter().map(|second| second.retries).sum();
        let may = (retries + 1) * FIRSTS_PER_RETRY <= firsts;
        if may {
            self.second(now).retries += 1;
        }
        may
    }

    fn second(&mut self, at: i64) -> &mut Second {
        let number = at.div_euclid(1000);
        let place = self.seconds.partition_point(|second| second.number < number);
        if self.seconds.get(place).is_none_or(|second| second.number != number) {
            self.seconds.insert(place, Second { number, firsts: 0, retries: 0 });
            if self.seconds.len() > SECONDS_KEPT {
                self.seconds.pop_front();
                return &mut self.seconds[place.saturating_sub(1)];
            }
        }
        &mut self.seconds[place]
    }
}

#[cfg(test)]
#[path = "kms_budget_tests.rs"]
mod tests;
