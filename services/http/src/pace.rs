//! How slow the other side may be. A connection costs a place and memory however little moves over it, so that a time-out between two
//! octets is not enough: one octet every few seconds would hold it for hours.
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Octets a second that every direction must carry: a third of what a GSM data call did, so that the worst line still in use passes;
/// with it a place is never held longer than the size of what moves explains.
pub(crate) const OCTETS_PER_SECOND: u32 = 1_000;
/// How long nothing may move at all. TCP repeats a lost segment after about 1, 2, 4 and 8 seconds: a line that stays dead after
/// that is gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Patience as credit: waiting for the other side spends it, each octet that moves earns back the time that it may take, up to
/// where it began. So a pause is forgiven, and a trickle is not. Time in which nobody waits does not count.
pub(crate) struct Pace {
    patience: Duration,
    octets_per_second: u32,
    credit: Duration,
    /// Whatever the credit: no longer than this.
    not_after: Option<Instant>,
    /// While one waits: when the credit is spent.
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// Full credit; `octets_per_second` is at least 1.
    pub(crate) fn new(octets_per_second: u32, patience: Duration) -> Self {
        let octets_per_second = octets_per_second.max(1);
        Self { patience, octets_per_second, credit: patience, not_after: None, until: None, timer: None }
    }

    /// The least speed of this server.
    pub(crate) fn least() -> Self {
        Self::new(OCTETS_PER_SECOND, PATIENCE)
    }

    /// The same, and over at `instant` in any case.
    pub(crate) fn not_after(mut self, instant: Instant) -> Self {
        self.not_after = Some(instant);
        self
    }

    /// So many octets moved.
    pub(crate) fn moved(&mut self, octets: usize) {
        if let Some(until) = self.until.take() {
            self.credit = until.saturating_duration_since(Instant::now());
        }
        let earned = (octets as u64).saturating_mul(1_000_000_000) / u64::from(self.octets_per_second);
        self.credit = self.credit.saturating_add(Duration::from_nanos(earned)).min(self.patience);
    }

    /// Nothing moves now: ready once that has gone on for too long.
    pub(crate) fn poll_spent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.until.is_none() {
            let spent = Instant::now() + self.credit;
            let until = self.not_after.map_or(spent, |last| last.min(spent));
            self.until = Some(until);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(until),
                None => self.timer = Some(Box::pin(sleep_until(until))),
            }
        }
        self.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::{advance, timeout};

    const SECOND: Duration = Duration::from_secs(1);

    /// Octets that move every so many seconds, and after how many seconds it is over (`None`: not within an hour).
    async fn over_after(octets: usize, every: u64) -> Option<u64> {
        let mut pace = Pace::new(1_000, 20 * SECOND);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3_600) {
            if timeout(Duration::from_secs(every), poll_fn(|cx| pace.poll_spent(cx))).await.is_ok() {
                return Some(begun.elapsed().as_secs());
            }
            pace.moved(octets);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_over_and_a_slow_flow_is_not() {
        for (octets, every, expected) in [
            (1, 100, Some(20)),
            (1, 9, Some(20)),
            (1, 1, Some(20)),
            // Every tenth second 9 s are earned.
            (9_000, 10, Some(110)),
            (999, 1, None),
            (1_000, 1, None),
            (19_000, 19, None),
            (1_000_000, 21, Some(20)),
        ] {
            assert_eq!(over_after(octets, every).await, expected, "{octets} octets every {every} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_beginning_earns_no_longer_pause() {
        let mut pace = Pace::new(1_000, 20 * SECOND);
        pace.moved(100_000_000);
        assert!(timeout(19 * SECOND, poll_fn(|cx| pace.poll_spent(cx))).await.is_err());
        assert!(timeout(2 * SECOND, poll_fn(|cx| pace.poll_spent(cx))).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_is_free_but_not_beyond_the_end() {
        let mut pace = Pace::new(1_000, 20 * SECOND).not_after(Instant::now() + 100 * SECOND);
        advance(90 * SECOND).await;
        assert!(timeout(9 * SECOND, poll_fn(|cx| pace.poll_spent(cx))).await.is_err());
        pace.moved(100_000);
        assert!(timeout(2 * SECOND, poll_fn(|cx| pace.poll_spent(cx))).await.is_ok());
    }
}
