//! The rules of watching: what counts as a wrong answer, when is looked again, and what a domain's signing is after a look. Pure;
//! docs/watching.md tells them to people.
use super::CheckedRecord;
use signpost_diagnosis::check::Status;
use signpost_store::{WatchState, WrongAnswers};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// So many wrong answers in a row...
const ANSWERS: i64 = 3;
/// ...over at least so long change the state of a domain.
const LASTING_MS: i64 = 15 * MINUTE_MS;
/// The shortest pause between two looks.
const SHORT_MS: i64 = 5 * MINUTE_MS;
/// What stays wrong is looked at so often from the second hour on, and...
const LONGER_MS: i64 = 15 * MINUTE_MS;
/// ...so often from the second day on. It is also the longest pause while nothing is known.
const LONG_MS: i64 = HOUR_MS;

/// What a look says of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion {
    /// Right on at least one authoritative server, wrong on none.
    Right,
    /// Wrong on every authoritative server that answered, and by a resolver.
    Wrong,
    /// Nothing that counts: no answer, servers that disagree, a resolver that does not confirm it.
    Unsure,
}

/// What a look says of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opinions {
    /// Of the records of the keys that sign; `None` if no key does.
    pub(super) record: Option<Opinion>,
    /// Of the record of ownership.
    pub(super) ownership: Opinion,
}

/// Whether a domain signs, and why not.
pub(super) type Signing = (String, Option<String>);

/// What the authoritative servers alone say of a record. `Wrong` is to be confirmed by a resolver.
pub(super) fn authoritative(record: &CheckedRecord) -> Opinion {
    let right_somewhere = record.servers.iter().any(|server| server.status == Status::Ok.as_str());
    match Status::parse(&record.record.status) {
        Some(Status::Ok) => Opinion::Right,
        Some(Status::Unreachable | Status::Lagging | Status::DnssecBogus) | None => Opinion::Unsure,
        Some(
            Status::Missing
            | Status::Mismatch
            | Status::Malformed
            | Status::Duplicate
            | Status::Truncated
            | Status::Misplaced
            | Status::Revoked
            | Status::Unusable
            | Status::Wildcard
            | Status::CnameBroken,
        ) => {
            if right_somewhere {
                Opinion::Unsure
            } else {
                Opinion::Wrong
            }
        }
    }
}

/// True once the wrong answers change a state.
pub(super) fn is_settled(wrong: &WrongAnswers) -> bool {
    wrong.looks >= ANSWERS
}

/// What is known after a look by the service itself. Its next time is still to be set.
pub(super) fn after_look(before: &WatchState, seen: Opinions, now: i64) -> WatchState {
    let unsure = seen.record == Some(Opinion::Unsure) || seen.ownership == Opinion::Unsure;
    WatchState {
        next_look_at: before.next_look_at,
        unsure_since: unsure.then(|| before.unsure_since.filter(|since| *since <= now).unwrap_or(now)),
        record: seen.record.map_or_else(WrongAnswers::default, |opinion| counted(before.record, opinion, now)),
        ownership: counted(before.ownership, seen.ownership, now),
    }
}

/// The answer that settles it counts only once the first is old enough.
fn counted(before: WrongAnswers, opinion: Opinion, now: i64) -> WrongAnswers {
    match opinion {
        Opinion::Right => WrongAnswers::default(),
        Opinion::Unsure => before,
        Opinion::Wrong => {
            // A clock that was set back begins anew.
            let since = before.since.filter(|since| before.looks > 0 && *since <= now).unwrap_or(now);
            let looks = if since == now { 0 } else { before.looks };
            let settles = looks + 1 >= ANSWERS && now - since < LASTING_MS;
            WrongAnswers { looks: if settles { looks } else { (looks + 1).min(ANSWERS) }, since: Some(since) }
        }
    }
}

/// What is known after a check that somebody asked for. What it found right counts as right; what it found wrong counts as nothing, but
/// the service looks for itself now. `interval_ms` and `dice` as in [`next_look`].
pub(super) fn after_check(before: &WatchState, seen: Opinions, now: i64, interval_ms: i64, dice: u32) -> WatchState {
    let kept = |wrong: WrongAnswers, right: bool| if right { WrongAnswers::default() } else { wrong };
    let record_right = seen.record.is_none_or(|opinion| opinion == Opinion::Right);
    let ownership_right = seen.ownership == Opinion::Right;
    let wrong = seen.record == Some(Opinion::Wrong) || seen.ownership == Opinion::Wrong;
    let calm = WatchState { next_look_at: before.next_look_at, ..WatchState::default() };
    let mut after = WatchState {
        record: kept(before.record, record_right),
        ownership: kept(before.ownership, ownership_right),
        unsure_since: before.unsure_since.filter(|_| !(record_right && ownership_right)),
        ..*before
    };
    if before.next_look_at.is_none() {
        return after;
    }
    if wrong && *before == calm {
        after.next_look_at = Some(now);
    } else if after != *before {
        after.next_look_at = Some(next_look(&after, now, interval_ms, dice));
    }
    after
}

/// When is looked again: after the interval, less up to an eighth of it by `dice`, so that domains spread out; sooner while something is
/// wrong or unknown. At the first wrong answer after 5 minutes, then 15 minutes after that first one; then every 5 minutes in the first
/// hour, every 15 on the first day, then every hour.
pub(super) fn next_look(state: &WatchState, now: i64, interval_ms: i64, dice: u32) -> i64 {
    let mut pause = interval_ms - share(interval_ms / 8, dice);
    for wrong in [&state.record, &state.ownership] {
        let Some(since) = wrong.since else { continue };
        let lasted = now - since;
        let due = match wrong.looks {
            0 | 1 => SHORT_MS,
            _ if !is_settled(wrong) => (LASTING_MS - lasted).max(SHORT_MS),
            _ if lasted < HOUR_MS => SHORT_MS,
            _ if lasted < 24 * HOUR_MS => LONGER_MS,
            _ => LONG_MS,
        };
        pause = pause.min(due);
    }
    if let Some(since) = state.unsure_since {
        pause = pause.min((now - since).clamp(SHORT_MS, LONG_MS));
    }
    now + pause
}

/// A part of `whole`, from nothing to nearly all.
pub(super) fn share(whole: i64, dice: u32) -> i64 {
    i64::try_from((i128::from(whole) * i128::from(dice)) >> 32).unwrap_or(0)
}

/// What a domain's signing is, given what it was and what is known now. Reasons that hold at the same time are shown in this order:
/// the tenant, ownership, the key, the record. A key that its custody does not give is nothing that DNS tells: who found it so takes
/// that back.
pub(super) fn signing_after(was: &Signing, owns: bool, has_key: bool, record_wrong: bool) -> Signing {
    let suspended = |reason: &str| ("suspended".to_owned(), Some(reason.to_owned()));
    match (was.0.as_str(), was.1.as_deref()) {
        ("disabled", _) | (_, Some("tenant_suspended")) => was.clone(),
        _ if !owns => suspended("ownership_lost"),
        (_, Some("key_unavailable")) => was.clone(),
        ("suspended", _) if !has_key => suspended("key_unavailable"),
        _ if record_wrong => suspended("record_wrong"),
        _ => ("enabled".to_owned(), None),
    }
}

#[cfg(test)]
#[path = "watch_rules_tests.rs"]
mod tests;
