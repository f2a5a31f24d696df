//! The promises of a budget, as single cases and for whatever may happen.
use super::*;
use proptest::prelude::*;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Pass(i64),
    Ask(usize),
    Serve,
    Leave(usize),
    Throttled,
    Retry,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_i64..400).prop_map(Step::Pass),
        (0_usize..4).prop_map(Step::Ask),
        Just(Step::Serve),
        (0_usize..4).prop_map(Step::Leave),
        Just(Step::Throttled),
        Just(Step::Retry),
    ]
}

fn name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

/// What was granted, retried and found too often, each with its time.
#[derive(Default)]
struct Log {
    firsts: Vec<i64>,
    retries: Vec<i64>,
    throttles: Vec<i64>,
}

impl Log {
    fn all(&self) -> Vec<i64> {
        let mut all: Vec<i64> = self.firsts.iter().chain(&self.retries).copied().collect();
        all.sort_unstable();
        all
    }
}

fn run(most: u32, steps: &[Step]) -> Log {
    let mut budget = Budget::new(most, 0);
    let (mut now, mut log) = (0, Log::default());
    let mut tickets: Vec<(usize, Ticket)> = Vec::new();
    for step in steps {
        match step {
            Step::Pass(ms) => now += ms,
            Step::Ask(tenant) => match budget.ask(&name(*tenant), now) {
                Admission::Go => {
                    budget.ended(now);
                    log.firsts.push(now);
                }
                Admission::Wait(ticket) => tickets.push((*tenant, ticket)),
                Admission::Later(after) => assert!((AWAY_LEAST_MS..=AWAY_MOST_MS).contains(&after), "{after}"),
            },
            Step::Serve => {
                for ticket in budget.serve(now) {
                    let before = tickets.len();
                    tickets.retain(|(_, waiting)| *waiting != ticket);
                    assert_eq!(tickets.len() + 1, before, "served once, and only who waits");
                    budget.ended(now);
                    log.firsts.push(now);
                }
            }
            Step::Leave(tenant) => {
                if let Some(at) = tickets.iter().position(|(of, _)| of == tenant) {
                    let (_, ticket) = tickets.swap_remove(at);
                    assert!(budget.leave(&name(*tenant), ticket).is_some());
                    assert!(budget.leave(&name(*tenant), ticket).is_none());
                }
            }
            Step::Throttled => {
                budget.throttled(now);
                log.throttles.push(now);
            }
            Step::Retry => {
                if budget.may_retry(now) {
                    log.retries.push(now);
                }
            }
        }
        assert_eq!(budget.next_at(now).is_some(), !tickets.is_empty());
    }
    log
}

proptest! {
    #[test]
    fn no_window_has_more_calls_than_its_time_and_one_burst_allow(
        most in 1_u32..2000,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let calls = run(most, &steps).all();
        let (most, burst) = (i64::from(most), burst(i64::from(most)) / CALL);
        for (first, from) in calls.iter().enumerate() {
            for (last, to) in calls.iter().enumerate().skip(first) {
                let count = i64::try_from(last - first + 1).unwrap();
                prop_assert!(count <= burst + 1 + most * (to - from) / 1000, "{count} from {from} to {to}");
            }
        }
    }

    #[test]
    fn at_each_retry_there_were_ten_times_as_many_first_attempts_in_the_10_seconds_before(
        steps in prop::collection::vec(prop_oneof![3 => (0_usize..4).prop_map(Step::Ask), 2 => Just(Step::Retry),
                                                   1 => (0_i64..900).prop_map(Step::Pass)], 1..600),
    ) {
        let log = run(1_000, &steps);
        for at in &log.retries {
            let within = |times: &[i64]| times.iter().filter(|time| (at - 10_000..=*at).contains(*time)).count();
            let (retries, firsts) = (within(&log.retries), within(&log.firsts));
            prop_assert!(retries * 10 <= firsts, "{retries} retries, {firsts} first attempts up to {at}");
        }
    }

    #[test]
    fn whoever_waits_is_served_in_the_end_and_everything_in_time_again(
        most in 1_u32..2000,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut budget = Budget::new(most, 0);
        let mut now = 0;
        for step in &steps {
            match step {
                Step::Pass(ms) => now += ms,
                Step::Ask(tenant) => {
                    budget.ask(&name(*tenant), now);
                }
                Step::Throttled => budget.throttled(now),
                Step::Serve | Step::Leave(_) | Step::Retry => {}
            }
        }
        let mut turns = 0;
        while let Some(at) = budget.next_at(now) {
            prop_assert!(at >= now && at <= now + 1000, "at the least rate a call a second");
            now = at;
            budget.serve(now);
            turns += 1;
            prop_assert!(turns < 10_000);
        }
        // Twenty seconds without a complaint, and the rate is whole again.
        now += 21_000;
        budget.pass_time(now);
        prop_assert_eq!(budget.rate, i64::from(most));
    }
}

/// Who asks how often in a millisecond.
type Asks = (&'static str, fn(i64) -> usize);

/// Calls that each tenant got until then, and how often each was sent away.
fn flood(budget: &mut Budget, asks: &[Asks], until: i64) -> [HashMap<&'static str, usize>; 2] {
    let [mut calls, mut away]: [HashMap<&'static str, usize>; 2] = Default::default();
    let mut waiting: HashMap<Ticket, &'static str> = HashMap::new();
    for now in 0..until {
        for ticket in budget.serve(now) {
            *calls.entry(waiting.remove(&ticket).unwrap()).or_default() += 1;
        }
        for (tenant, times) in asks {
            for _ in 0..times(now) {
                match budget.ask(tenant, now) {
                    Admission::Go => *calls.entry(tenant).or_default() += 1,
                    Admission::Wait(ticket) => {
                        waiting.insert(ticket, tenant);
                    }
                    Admission::Later(_) => *away.entry(tenant).or_default() += 1,
                }
            }
        }
    }
    [calls, away]
}

#[test]
fn a_tenants_flood_takes_what_the_others_leave_and_not_more() {
    // Of 100 calls a second one tenant wants 5,000, one 1,000, and one 10.
    let asks: [Asks; 3] = [("flood", |_| 5), ("quiet", |now| usize::from(now % 100 == 0)), ("busy", |_| 1)];
    let [calls, away] = flood(&mut Budget::new(100, 0), &asks, 10_000);
    assert_eq!(away.get("quiet"), None);
    assert!(calls["quiet"] >= 95, "{calls:?}");
    let (flood, busy) = (calls["flood"], calls["busy"]);
    assert!(flood.abs_diff(busy) < 60, "equal shares of the rest: {calls:?}");
    assert!(flood + busy > 880, "nothing is left unused: {calls:?}");
}

#[test]
fn a_tenant_alone_has_the_whole_rate() {
    let [calls, _] = flood(&mut Budget::new(800, 0), &[("only", |_| 3)], 10_000);
    assert!((8_000..=8_200).contains(&calls["only"]), "{calls:?}");
}

#[test]
fn throttling_halves_the_rate_once_a_second_and_every_quiet_second_gives_a_twentieth_back() {
    let mut budget = Budget::new(800, 0);
    let mut now = 0;
    for expected in [400, 200, 100] {
        budget.throttled(now);
        for later in 1..=9 {
            budget.throttled(now + later * 100);
        }
        assert_eq!(budget.rate, expected);
        assert_eq!(budget.level, 0, "what had been saved up is gone");
        now += 1000;
    }
    // A second after the last complaint.
    now += 900;
    for expected in [140, 180, 220] {
        budget.pass_time(now);
        assert_eq!(budget.rate, expected);
        now += 1000;
    }
    for second in 0..100 {
        budget.throttled(now + second * 1000);
    }
    assert!(budget.rate >= 8, "it goes on asking: {}", budget.rate);
}

#[test]
fn who_is_sent_away_again_and_again_comes_back_one_after_the_other() {
    let mut budget = Budget::new(10, 0);
    let mut afters = Vec::new();
    for _ in 0..400 {
        match budget.ask("a", 0) {
            Admission::Go | Admission::Wait(_) => {}
            Admission::Later(after) => afters.push(after),
        }
    }
    assert_eq!(&afters[..3], [1000, 1000, 1000]);
    assert!(afters.is_sorted());
    assert!(afters.contains(&15_000) && afters.last() == Some(&AWAY_MOST_MS), "{afters:?}");
}

#[test]
fn without_first_attempts_there_is_no_retry() {
    let mut budget = Budget::new(800, 0);
    for n in 1..=25 {
        assert_eq!(budget.ask("a", 0), Admission::Go);
        assert!(!budget.may_retry(0), "only what has ended was surely asked");
        budget.ended(0);
        assert_eq!(budget.may_retry(0), n % 10 == 0, "after {n} first attempts");
    }
    assert!(!budget.may_retry(60_000));
    // A slow call counts for the time that it was made.
    for _ in 0..10 {
        budget.ended(50_000);
    }
    assert!(!budget.may_retry(60_000));
    for second in 0..100 {
        budget.ended(second * 1000);
    }
    assert!(budget.retries.seconds.len() <= SECONDS_KEPT);
}

#[test]
fn tenants_that_are_gone_are_forgotten() {
    let mut budget = Budget::new(800, 0);
    for n in 0..100 {
        budget.ask(&name(n), 0);
    }
    budget.ask("new", REMEMBERED_MS);
    assert_eq!(budget.tenants.len(), 1);
}
