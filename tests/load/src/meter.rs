//! Measures operations a second of CPU time, so that other programs on the machine disturb little.
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// Something to be repeated.
pub(crate) type Operation<'o> = dyn FnMut() -> Result<()> + 'o;

/// CPU time of this thread so far.
fn cpu_time() -> Result<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?)
}

/// Each candidate gets this much before the next one has its turn: a change in the speed of the machine meets all of them.
const TURN: Duration = Duration::from_millis(20);
/// CPU time of each candidate in one round.
const ROUND: Duration = Duration::from_secs(1);

/// Operations a second of CPU time, for each candidate, measured in turns.
pub(crate) fn speeds(candidates: &mut [&mut Operation<'_>]) -> Result<Vec<f64>> {
    let mut batches = Vec::new();
    for candidate in &mut *candidates {
        batches.push(batch(candidate)?);
    }
    let mut totals = vec![(0_u32, Duration::ZERO); candidates.len()];
    while totals.iter().any(|(_, spent)| *spent < ROUND) {
        for ((candidate, batch), total) in candidates.iter_mut().zip(&batches).zip(&mut totals) {
            total.0 += batch;
            total.1 += time(candidate, *batch)?;
        }
    }
    Ok(totals.iter().map(|(count, spent)| f64::from(*count) / spent.as_secs_f64()).collect())
}

fn time(operation: &mut Operation<'_>, count: u32) -> Result<Duration> {
    let begin = cpu_time()?;
    for _ in 0..count {
        operation()?;
    }
    Ok(cpu_time()?.saturating_sub(begin))
}

/// How many operations make a turn; the clock is read once a turn, since reading it takes as long as a small operation.
fn batch(operation: &mut Operation<'_>) -> Result<u32> {
    let mut count = 1;
    while time(operation, count)? < TURN {
        count *= 2;
    }
    Ok(count)
}
