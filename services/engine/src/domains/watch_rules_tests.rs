use super::*;
use crate::domains::{Purpose, RecordView, ServerView, ZoneSource};
use Opinion::{Right, Unsure, Wrong};

const NOW: i64 = 1_700_000_000_000;
const INTERVAL: i64 = 6 * HOUR_MS;
const SIGNS: Opinions = Opinions { record: Some(Right), ownership: Right };

fn record(opinion: Opinion) -> Opinions {
    Opinions { record: Some(opinion), ..SIGNS }
}

fn found(status: Status, servers: &[Status]) -> CheckedRecord {
    CheckedRecord {
        record: RecordView {
            purpose: Purpose::Dkim,
            kind: "TXT".into(),
            name: "n".into(),
            relative_name: "n".into(),
            zone: "n".into(),
            zone_source: ZoneSource::Assumed,
            value: "v".into(),
            chunks: vec![],
            required: true,
            status: status.as_str().into(),
            warnings: vec![],
        },
        found: vec![],
        servers: servers.iter().map(|s| ServerView { server: "ns".into(), status: s.as_str().into() }).collect(),
        explanation: "e".into(),
    }
}

/// (status, what each server says, opinion)
#[test]
fn only_what_every_server_that_answers_has_wrong_is_wrong() {
    use Status::{Duplicate, Lagging, Malformed, Mismatch, Missing, Ok, Revoked, Unreachable};
    let table: [(Status, &[Status], Opinion); 11] = [
        (Ok, &[Ok], Right),
        (Ok, &[Ok, Unreachable], Right),
        // the resolver still remembers something else
        (Ok, &[Ok, Missing], Right),
        (Missing, &[Missing, Missing], Wrong),
        (Mismatch, &[Missing, Mismatch, Unreachable], Wrong),
        (Duplicate, &[Duplicate], Wrong),
        (Lagging, &[Ok, Missing], Unsure),
        // damage on one server, the record on another
        (Malformed, &[Malformed, Ok], Unsure),
        (Revoked, &[Ok, Revoked], Unsure),
        // right everywhere, but a signature by the key does not verify: no fault of DNS
        (Mismatch, &[Ok, Ok], Unsure),
        (Unreachable, &[Unreachable], Unsure),
    ];
    for (status, servers, expected) in table {
        assert_eq!(authoritative(&found(status, servers)), expected, "{status:?} {servers:?}");
    }
    assert_eq!(authoritative(&found(Status::DnssecBogus, &[Ok, Status::DnssecBogus])), Unsure);
    use Status::{CnameBroken, Misplaced, Truncated, Unusable, Wildcard};
    for status in
        [Missing, Mismatch, Malformed, Duplicate, Truncated, Misplaced, Revoked, Unusable, Wildcard, CnameBroken]
    {
        assert_eq!(authoritative(&found(status, &[status])), Wrong, "{status:?}");
    }
}

/// (minutes after the first, what the look says, wrong answers that count then)
#[test]
fn three_wrong_answers_over_fifteen_minutes_settle_it_and_a_right_one_ends_it() {
    for (series, settled) in [
        (vec![(0, Wrong, 1), (5, Wrong, 2), (15, Wrong, 3)], true),
        (vec![(0, Wrong, 1), (5, Wrong, 2), (14, Wrong, 2)], false),
        (vec![(0, Wrong, 1), (1, Wrong, 2), (2, Wrong, 2), (3, Wrong, 2), (15, Wrong, 3)], true),
        (vec![(0, Wrong, 1), (5, Right, 0), (15, Wrong, 1)], false),
        (vec![(0, Wrong, 1), (5, Wrong, 2), (15, Right, 0)], false),
        (vec![(0, Wrong, 1), (5, Unsure, 1), (10, Unsure, 1), (15, Wrong, 2), (20, Unsure, 2), (25, Wrong, 3)], true),
        (vec![(0, Wrong, 1), (20, Wrong, 2), (25, Wrong, 3), (30, Wrong, 3), (35, Unsure, 3)], true),
        (vec![(0, Unsure, 0), (71 * 60, Unsure, 0), (9_999, Unsure, 0)], false),
    ] {
        let mut state = WatchState::default();
        for (minute, opinion, looks) in &series {
            state = after_look(&state, record(*opinion), NOW + minute * MINUTE_MS);
            assert_eq!(state.record.looks, *looks, "{series:?} at {minute}");
            assert_eq!(state.ownership, WrongAnswers::default());
        }
        assert_eq!(is_settled(&state.record), settled, "{series:?}");
    }
}

#[test]
fn record_and_ownership_are_counted_apart_and_a_domain_without_key_has_no_wrong_record() {
    let seen = Opinions { record: Some(Right), ownership: Wrong };
    let state = after_look(&WatchState::default(), seen, NOW);
    assert_eq!((state.record.looks, state.ownership.looks), (0, 1));
    let wrong = after_look(&WatchState::default(), record(Wrong), NOW);
    let seen = Opinions { record: None, ownership: Right };
    assert_eq!(after_look(&wrong, seen, NOW + 1).record, WrongAnswers::default());
}

#[test]
fn a_clock_that_was_set_back_begins_anew() {
    let wrong = WrongAnswers { looks: 2, since: Some(NOW) };
    assert_eq!(counted(wrong, Wrong, NOW - 1), WrongAnswers { looks: 1, since: Some(NOW - 1) });
    let settled = WrongAnswers { looks: 3, since: Some(NOW - HOUR_MS) };
    assert_eq!(counted(settled, Wrong, NOW), settled);
}

/// (wrong looks, minutes since the first, minutes unsure, minutes to the next look)
#[test]
fn what_is_wrong_or_unknown_is_looked_at_sooner() {
    let table = [
        (0, 0, None, 360),
        (1, 0, None, 5),
        (2, 5, None, 10),
        (2, 12, None, 5),
        (2, 200, None, 5),
        (3, 15, None, 5),
        (3, 59, None, 5),
        (3, 60, None, 15),
        (3, 24 * 60 - 1, None, 15),
        (3, 24 * 60, None, 60),
        (0, 0, Some(0), 5),
        (0, 0, Some(20), 20),
        (0, 0, Some(9_999), 60),
        (1, 30, Some(25), 5),
    ];
    for (looks, since, unsure, expected) in table {
        let wrong = WrongAnswers { looks, since: (looks > 0).then_some(NOW - since * MINUTE_MS) };
        for ownership in [false, true] {
            let mut state = WatchState {
                unsure_since: unsure.map(|minutes: i64| NOW - minutes * MINUTE_MS),
                ..WatchState::default()
            };
            if ownership {
                state.ownership = wrong
            } else {
                state.record = wrong
            }
            let next = (next_look(&state, NOW, INTERVAL, 0) - NOW) / MINUTE_MS;
            assert_eq!(next, expected, "{looks} {since} {unsure:?}");
        }
    }
    // The operator's interval is the longest pause.
    let state = WatchState { record: WrongAnswers { looks: 3, since: Some(0) }, ..WatchState::default() };
    assert_eq!(next_look(&state, NOW, 10 * MINUTE_MS, 0), NOW + 10 * MINUTE_MS);
}

#[test]
fn looks_are_spread_over_an_eighth_of_the_interval_and_never_late() {
    let calm = WatchState::default();
    for (dice, pause) in [(0, INTERVAL), (1 << 31, INTERVAL - INTERVAL / 16), (u32::MAX, INTERVAL * 7 / 8 + 1)] {
        assert_eq!(next_look(&calm, NOW, INTERVAL, dice), NOW + pause, "{dice}");
    }
    assert_eq!((share(1_000, 0), share(1_000, u32::MAX)), (0, 999));
}

#[test]
fn a_check_that_somebody_asked_for_ends_what_is_right_and_counts_nothing_as_wrong() {
    let later = Some(NOW + HOUR_MS);
    let calm = WatchState { next_look_at: later, ..WatchState::default() };
    let check = |before: &WatchState, seen| after_check(before, seen, NOW, INTERVAL, 0);
    assert_eq!(check(&calm, SIGNS), calm);
    assert_eq!(check(&calm, record(Unsure)), calm);
    assert_eq!(check(&calm, record(Wrong)), WatchState { next_look_at: Some(NOW), ..calm }, "a look comes at once");
    let twice = WatchState { record: WrongAnswers { looks: 2, since: Some(NOW - 20 * MINUTE_MS) }, ..calm };
    for _ in 0..3 {
        assert_eq!(check(&twice, record(Wrong)), twice, "it neither counts nor hurries");
    }
    let mended = WatchState { next_look_at: Some(NOW + INTERVAL), ..WatchState::default() };
    assert_eq!(check(&twice, SIGNS), mended);
    let both = WatchState { ownership: twice.record, ..twice };
    let after = check(&both, Opinions { record: Some(Wrong), ownership: Right });
    assert_eq!((after.record, after.ownership), (twice.record, WrongAnswers::default()));
    // Of a domain that is not watched nothing is planned.
    assert_eq!(check(&WatchState::default(), record(Wrong)), WatchState::default());
}

/// (signing before, owns, has a key, record wrong, after)
#[test]
fn of_several_reasons_one_is_shown_and_signing_resumes_when_none_is_left() {
    let table = [
        ("enabled", None, true, true, false, "enabled", None),
        ("enabled", None, true, true, true, "suspended", Some("record_wrong")),
        ("enabled", None, false, true, true, "suspended", Some("ownership_lost")),
        ("suspended", Some("record_wrong"), true, true, false, "enabled", None),
        ("suspended", Some("record_wrong"), true, false, true, "suspended", Some("key_unavailable")),
        ("suspended", Some("key_unavailable"), true, true, true, "suspended", Some("key_unavailable")),
        ("suspended", Some("key_unavailable"), true, true, false, "suspended", Some("key_unavailable")),
        ("suspended", Some("ownership_lost"), true, true, true, "suspended", Some("record_wrong")),
        ("suspended", Some("ownership_lost"), true, false, false, "suspended", Some("key_unavailable")),
        ("suspended", Some("ownership_lost"), true, true, false, "enabled", None),
        ("suspended", Some("tenant_suspended"), false, true, true, "suspended", Some("tenant_suspended")),
        ("disabled", None, false, false, true, "disabled", None),
        // its key waits for a test signature
        ("enabled", None, true, false, false, "enabled", None),
    ];
    for (signing, reason, owns, has_key, wrong, then, why) in table {
        let was = (signing.to_owned(), reason.map(str::to_owned));
        let after = signing_after(&was, owns, has_key, wrong);
        assert_eq!((after.0.as_str(), after.1.as_deref()), (then, why), "{was:?} {owns} {has_key} {wrong}");
    }
}
