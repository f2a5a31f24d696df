//! Watching on a real store with a clock that the test moves; what DNS says is given by the test, or a server that fails.
use super::super::check::Asked;
use super::super::states::Sighting;
use super::super::watch_rules::Opinion::{Right, Unsure, Wrong};
use super::super::{CheckedRecord, PolicyChange};
use super::*;
use crate::domains::{NewDomain, Purpose};
use crate::messages::bench::{Bench, HOUR_MS, NAME, START_MS};
use crate::rows::{AuditFilter, SuspendedMail};
use crate::{Caller, Scope};
use futures_util::future::join_all;
use signpost_store::{Claim, WrongAnswers};

const MINUTE_MS: i64 = 60_000;

/// What a look at the domain as it is now sees.
async fn seen(bench: &Bench, record: Opinion, ownership: Opinion) -> (Observation, Vec<Opinion>) {
    let engine = &bench.engine;
    let view = engine.domain(&bench.caller, &bench.domain).await.unwrap();
    let listed = engine.listed_records(&view.row, &view.keys).await.unwrap();
    let status = |opinion: Opinion| match opinion {
        Right => Status::Ok,
        Wrong => Status::Missing,
        Unsure => Status::Unreachable,
    };
    let (mut records, mut asked, mut opinions, mut sightings) = (vec![], vec![], vec![], vec![]);
    for listed in listed {
        let opinion = match listed.view.purpose {
            Purpose::Dkim => record,
            Purpose::Ownership => ownership,
            Purpose::Spf | Purpose::ReturnPath | Purpose::Dmarc => Right,
        };
        if let Some(key) = view.keys.iter().find(|key| Some(&key.id) == listed.key_id.as_ref()) {
            let answer = match opinion {
                Right => Some((true, key.public_key.clone())),
                Wrong => Some((false, String::new())),
                Unsure => None,
            };
            sightings.push(Sighting { key_id: key.id.clone(), answer, other: false, ttl_ms: None });
        }
        asked.push(Asked::from(&listed));
        opinions.push(opinion);
        let mut record = listed.view;
        record.status = status(opinion).as_str().into();
        records.push(CheckedRecord { record, found: vec![], servers: vec![], explanation: "So.".into() });
    }
    let verdict = match (opinions.contains(&Wrong), opinions.contains(&Unsure)) {
        (true, _) => "fail",
        (false, true) => "indeterminate",
        (false, false) => "pass",
    };
    let row = CheckRow {
        id: engine.fresh_id(),
        domain_id: bench.domain.clone(),
        verdict: verdict.into(),
        checked_at: bench.now(),
        records: serde_json::to_value(&records).unwrap(),
    };
    let name = engine.inner.store.name_version(NAME).await.unwrap();
    let seen = Observation { row, records, asked, ownership_ok: ownership == Right, keys: sightings, name };
    (seen, opinions)
}

async fn state(bench: &Bench) -> WatchState {
    bench.engine.inner.store.watch_state(&bench.caller.tenant_id, &bench.domain).await.unwrap().unwrap()
}

/// Claims the look that is due now.
async fn claim(bench: &Bench) -> (DueLook, i64) {
    let store = &bench.engine.inner.store;
    let due = store.due_looks(bench.now(), 1, 1).await.unwrap().remove(0);
    assert_eq!(due.domain_id, bench.domain);
    let until = bench.now() + CLAIM_MS;
    assert!(store.claim_look(&due, until).await.unwrap());
    (due, until)
}

/// The look that is due now.
async fn look(bench: &Bench, record: Opinion, ownership: Opinion) {
    let (due, until) = claim(bench).await;
    let (seen, opinions) = seen(bench, record, ownership).await;
    bench.engine.conclude(&due, until, &Look { seen: &seen, opinions: &opinions }).await.unwrap();
}

/// The clock goes on to the next look; gives how many minutes that took.
async fn wait_for_look(bench: &Bench) -> i64 {
    let wait = state(bench).await.next_look_at.unwrap() - bench.now();
    assert!(wait > 0, "{wait}");
    bench.advance(wait);
    wait / MINUTE_MS
}

/// A domain whose look is due now.
async fn watched() -> Bench {
    let bench = Bench::start().await;
    due_now(&bench).await;
    bench
}

async fn due_now(bench: &Bench) {
    let state = WatchState { next_look_at: Some(bench.now()), ..state(bench).await };
    bench.change(DomainChange { watch: Some(state), ..DomainChange::default() }).await;
}

/// Three wrong answers, 5 and 15 minutes after the first.
async fn three(bench: &Bench, record: Opinion, ownership: Opinion) {
    look(bench, record, ownership).await;
    for minutes in [5, 10] {
        assert_eq!(wait_for_look(bench).await, minutes);
        look(bench, record, ownership).await;
    }
}

/// (ownership, signing, reason)
async fn standing(bench: &Bench) -> (String, String, Option<String>) {
    let row = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row;
    (row.ownership, row.signing, row.signing_reason)
}

fn is(ownership: &str, signing: &str, reason: Option<&str>) -> (String, String, Option<String>) {
    (ownership.to_owned(), signing.to_owned(), reason.map(str::to_owned))
}

/// What the audit log tells of ownership and signing by themselves, oldest first. Each row goes with an event.
async fn told(bench: &Bench) -> Vec<String> {
    let log = bench.engine.audit_log(&bench.caller, &AuditFilter::default(), None, 100).await.unwrap().rows;
    let by_itself = log.into_iter().rev().filter(|row| row.actor == "system" && row.object == bench.domain);
    by_itself.map(|row| row.action).collect()
}

#[tokio::test]
async fn three_wrong_answers_suspend_once_and_the_first_right_one_resumes() {
    let bench = watched().await;
    let queued = bench.send().await;
    look(&bench, Wrong, Right).await;
    let waits = bench.send().await;
    bench.expect(&waits, "held").await;
    for minutes in [5, 10] {
        assert_eq!(standing(&bench).await, is("verified", "enabled", None));
        assert_eq!(wait_for_look(&bench).await, minutes);
        look(&bench, Wrong, Right).await;
    }
    assert_eq!(bench.now(), START_MS + 15 * MINUTE_MS);
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
    assert_eq!(told(&bench).await, ["signing.suspended"]);
    // What was signed before waits, too: it would fail at the receiver.
    assert!(bench.work_until(&queued, "held").await.is_empty());
    for _ in 0..20 {
        wait_for_look(&bench).await;
        look(&bench, Wrong, Right).await;
    }
    assert_eq!(told(&bench).await, ["signing.suspended"], "nothing changed");
    assert!(bench.now() < START_MS + 6 * HOUR_MS, "looked at every few minutes");
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert_eq!(told(&bench).await, ["signing.suspended", "signing.resumed"]);
    let key = bench.keys().await.remove(0);
    bench.work_until(&queued, "delivered").await;
    let arrived = bench.work_until(&waits, "delivered").await;
    assert_eq!(arrived.len(), 2);
    arrived.iter().for_each(|octets| bench.assert_signed_by(octets, &key));
    assert!(wait_for_look(&bench).await > 5 * 60, "the usual interval again");
}

#[tokio::test]
async fn a_record_that_is_right_again_before_the_third_answer_is_no_event() {
    for wrong in [1, 2] {
        let bench = watched().await;
        for _ in 0..wrong {
            look(&bench, Wrong, Wrong).await;
            wait_for_look(&bench).await;
        }
        look(&bench, Right, Right).await;
        // From here on a first answer is the first.
        due_now(&bench).await;
        look(&bench, Wrong, Wrong).await;
        assert_eq!(state(&bench).await.record, WrongAnswers { looks: 1, since: Some(bench.now()) });
        assert_eq!(standing(&bench).await, is("verified", "enabled", None));
        assert_eq!(told(&bench).await, [""; 0]);
        let checks = bench.engine.checks(&bench.caller, &bench.domain, None, 10).await.unwrap().rows;
        assert!(checks.is_empty(), "what came to nothing is not kept");
    }
}

#[tokio::test]
async fn servers_that_fail_suspend_nothing_and_mail_goes_on_for_72_hours() {
    let bench = Bench::start().await;
    assert_eq!(bench.engine.watch_domains().await.unwrap(), 0);
    let mut looks = 0;
    while bench.now() < START_MS + 71 * HOUR_MS {
        wait_for_look(&bench).await;
        looks += bench.engine.watch_domains().await.unwrap();
        assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    }
    assert!((60..100).contains(&looks), "{looks} looks: every hour at the latest");
    let early = bench.send().await;
    bench.expect(&early, "queued").await;
    bench.advance(2 * HOUR_MS);
    let late = bench.send().await;
    bench.expect(&late, "held").await;
    bench.engine.watch_domains().await.unwrap();
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert_eq!(told(&bench).await, [""; 0]);
    // The first answer lets it go.
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    bench.release().await;
    // Its time came round while it was held.
    bench.advance(MINUTE_MS);
    bench.release().await;
    bench.expect(&late, "queued").await;
}

#[tokio::test]
async fn silence_between_wrong_answers_neither_counts_nor_ends_them() {
    let bench = watched().await;
    look(&bench, Wrong, Right).await;
    for _ in 0..10 {
        wait_for_look(&bench).await;
        look(&bench, Unsure, Unsure).await;
    }
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    for _ in 0..2 {
        wait_for_look(&bench).await;
        look(&bench, Wrong, Right).await;
    }
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
    // Nor does it resume.
    wait_for_look(&bench).await;
    look(&bench, Unsure, Unsure).await;
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
}

#[tokio::test]
async fn processes_on_one_database_do_not_look_twice() {
    let bench = Bench::start().await;
    for n in 0..9 {
        let new = NewDomain { name: format!("d{n}.example"), dkim_mode: None, algorithm: Some("ed25519".into()) };
        let row = bench.engine.register_domain(&bench.caller, &new).await.unwrap().row;
        let claim = Claim { name: row.name.clone(), seen_version: 0, at: bench.now(), loser_event: None };
        let change = DomainChange {
            ownership: Some(("verified".into(), Some(bench.now()))),
            claim: Some(claim),
            signing: Some(("enabled".into(), None)),
            ..DomainChange::default()
        };
        bench.engine.inner.store.change_domain(&row.tenant_id, &row.id, row.version, &change).await.unwrap();
    }
    let other = bench.sealed();
    let engines = [&bench.engine, &other, &bench.engine, &other];
    let pass =
        || async { join_all(engines.map(Engine::watch_domains)).await.into_iter().map(Result::unwrap).sum::<usize>() };
    assert_eq!(pass().await, 0, "the first looks are spread over the interval");
    bench.advance(6 * HOUR_MS);
    assert_eq!(pass().await, 10);
    assert_eq!(pass().await, 0);
}

#[tokio::test]
async fn first_looks_are_spread_over_the_interval() {
    let bench = Bench::start().await;
    let mut times = Vec::new();
    for _ in 0..64 {
        bench.change(DomainChange { watch: Some(WatchState::default()), ..DomainChange::default() }).await;
        bench.engine.plan_first_looks().await.unwrap();
        times.push(state(&bench).await.next_look_at.unwrap() - bench.now());
    }
    assert!(times.iter().all(|wait| (0..6 * HOUR_MS).contains(wait)), "{times:?}");
    let quarters: std::collections::BTreeSet<i64> = times.iter().map(|wait| wait / (90 * MINUTE_MS)).collect();
    assert_eq!(quarters.len(), 4, "{times:?}");
}

/// A second key that begins to sign says nothing of the record that mail needs.
#[tokio::test]
async fn an_ed25519_key_that_becomes_active_resumes_nothing_that_the_rsa_record_suspended() {
    let bench = Bench::start().await;
    let wish = PolicyChange { dual_signing: Some(true), ..PolicyChange::default() };
    let ed25519 = bench.keys().await.remove(0);
    let rsa = bench.further_key_of("rsa-2048").await;
    bench.change_key(&rsa.id, Some("active"), Some("")).await;
    bench.change_key(&ed25519.id, Some("retired"), None).await;
    bench.engine.change_signing_policy(&bench.caller, &bench.domain, &wish).await.unwrap();
    let wrong = WrongAnswers { looks: 3, since: Some(bench.now()) };
    let record_wrong = Some(("suspended".to_owned(), Some("record_wrong".to_owned())));
    let watch = Some(WatchState { record: wrong, ..state(&bench).await });
    bench.change(DomainChange { signing: record_wrong, watch, ..DomainChange::default() }).await;
    let second = bench.further_key_of("ed25519").await;
    let sighting = Sighting {
        key_id: second.id.clone(),
        answer: Some((true, second.public_key.clone())),
        other: false,
        ttl_ms: None,
    };
    bench.engine.step_by_itself(&second, &[sighting], json!({"reason": "test"})).await.unwrap();
    let active: Vec<_> = bench.keys().await.into_iter().filter(|key| key.state == "active").map(|key| key.id).collect();
    assert_eq!(active, [rsa.id.clone(), second.id]);
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
    assert_eq!(state(&bench).await.record, wrong);
    // Without the RSA key mail needs the other one, whose record is right.
    bench.engine.revoke_key(&bench.caller, &rsa.id).await.unwrap();
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert_eq!(state(&bench).await.record, WrongAnswers::default());
}

/// Mail goes without the Ed25519 signature where its record is wrong, and waits where the RSA key's is.
#[tokio::test]
async fn of_two_keys_that_sign_the_record_of_the_rsa_key_decides() {
    for (wrong, expected) in [("ed25519", "enabled"), ("rsa-2048", "suspended")] {
        let bench = Bench::start().await;
        let wish = PolicyChange { dual_signing: Some(true), ..PolicyChange::default() };
        bench.engine.change_signing_policy(&bench.caller, &bench.domain, &wish).await.unwrap();
        let rsa = bench.further_key_of("rsa-2048").await;
        bench.change_key(&rsa.id, Some("active"), Some(&rsa.public_key)).await;
        due_now(&bench).await;
        for turn in 0..3 {
            if turn > 0 {
                bench.advance(15 * MINUTE_MS);
                due_now(&bench).await;
            }
            let keys = bench.keys().await;
            let bad = keys.iter().find(|key| key.algorithm == wrong).unwrap();
            let (due, until) = claim(&bench).await;
            let (mut seen, mut opinions) = seen(&bench, Right, Right).await;
            let place = seen.asked.iter().position(|asked| asked.key_id.as_ref() == Some(&bad.id)).unwrap();
            opinions[place] = Wrong;
            for sighting in seen.keys.iter_mut().filter(|sighting| sighting.key_id == bad.id) {
                sighting.answer = Some((false, String::new()));
            }
            bench.engine.conclude(&due, until, &Look { seen: &seen, opinions: &opinions }).await.unwrap();
        }
        let row = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row;
        assert_eq!(row.signing, expected, "the record of the {wrong} key is wrong");
    }
}

#[tokio::test]
async fn mail_of_a_suspended_domain_is_held_or_refused_by_its_policy() {
    let bench = watched().await;
    three(&bench, Wrong, Right).await;
    let policy = |suspended_mail| {
        let wish = PolicyChange { suspended_mail: Some(suspended_mail), ..PolicyChange::default() };
        let (bench, wish) = (&bench, wish);
        async move { bench.engine.change_signing_policy(&bench.caller, &bench.domain, &wish).await }
    };
    let raw = || format!("From: ann@{NAME}\r\n\r\nHello\r\n").into_bytes();
    // Also where what DNS serves would do for a signature: the look decides.
    let key = bench.keys().await.remove(0);
    bench.change_key(&key.id, None, Some(&key.public_key)).await;
    let held = bench.send().await;
    let row = bench.expect(&held, "held").await;
    assert!(row.waiting_reason.as_deref().is_some_and(|reason| reason.contains("right record")), "{row:?}");
    assert!(matches!(bench.engine.sign(&bench.caller, raw()).await, Err(Error::SigningSuspended(_))));
    policy(SuspendedMail::Refuse).await.unwrap();
    for send_at in [None, Some("2026-11-26T02:00:00Z")] {
        let refused = bench.engine.send(&bench.caller, bench.request(send_at), None).await;
        assert!(matches!(refused, Err(Error::SigningSuspended(_))), "{refused:?}");
    }
    assert!(matches!(bench.engine.sign(&bench.caller, raw()).await, Err(Error::SigningSuspended(_))));
    bench.advance(MINUTE_MS);
    bench.release().await;
    bench.expect(&held, "held").await;
    policy(SuspendedMail::Hold).await.unwrap();
    let again = bench.send().await;
    bench.expect(&again, "held").await;
    policy(SuspendedMail::Refuse).await.unwrap();
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    let sent = bench.send().await;
    bench.expect(&sent, "queued").await;
    bench.work_until(&held, "delivered").await;
}

#[tokio::test]
async fn ownership_is_lost_and_comes_back_with_its_record() {
    let bench = watched().await;
    three(&bench, Right, Wrong).await;
    assert_eq!(standing(&bench).await, is("lost", "suspended", Some("ownership_lost")));
    assert_eq!(told(&bench).await, ["domain.ownership_lost"]);
    let refused = bench.engine.send(&bench.caller, bench.request(None), None).await;
    assert!(matches!(refused, Err(Error::DomainNotAllowed(_))), "{refused:?}");
    for _ in 0..3 {
        wait_for_look(&bench).await;
        look(&bench, Right, Wrong).await;
    }
    let proven_at = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row.proven_at;
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert_eq!(told(&bench).await, ["domain.ownership_lost", "domain.verified", "signing.resumed"]);
    assert_eq!(bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row.proven_at, proven_at);
    let sent = bench.send().await;
    bench.expect(&sent, "queued").await;
}

#[tokio::test]
async fn a_zone_that_is_gone_as_a_whole_is_told_as_lost_ownership_and_then_by_what_is_left() {
    let bench = watched().await;
    three(&bench, Wrong, Wrong).await;
    assert_eq!(standing(&bench).await, is("lost", "suspended", Some("ownership_lost")));
    wait_for_look(&bench).await;
    look(&bench, Wrong, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    let expected = ["domain.ownership_lost", "domain.verified", "signing.suspended", "signing.resumed"];
    assert_eq!(told(&bench).await, expected);
}

/// Another tenant claims the name with a token of now, and proves it.
async fn taken_by_another(bench: &Bench) {
    let (tenant, issued) = bench.engine.create_tenant("Bert").await.unwrap();
    let bert = Caller { tenant_id: tenant.id, key_id: issued.row.id, scopes: Scope::ALL.to_vec(), request_id: None };
    let new = NewDomain { name: NAME.into(), dkim_mode: None, algorithm: Some("ed25519".into()) };
    let row = bench.engine.register_domain(&bert, &new).await.unwrap().row;
    let store = &bench.engine.inner.store;
    let seen_version = store.name_version(NAME).await.unwrap().version;
    let claim = Claim { name: NAME.into(), seen_version, at: bench.now(), loser_event: None };
    let ownership = Some(("verified".into(), Some(bench.now())));
    let change = DomainChange { ownership, claim: Some(claim), ..DomainChange::default() };
    store.change_domain(&row.tenant_id, &row.id, row.version, &change).await.unwrap();
}

#[tokio::test]
async fn a_lost_name_that_another_tenant_proved_meanwhile_does_not_come_back() {
    let bench = watched().await;
    three(&bench, Right, Wrong).await;
    wait_for_look(&bench).await;
    // During the look, which sees the record again.
    let (due, until) = claim(&bench).await;
    let (seen, opinions) = seen(&bench, Right, Right).await;
    taken_by_another(&bench).await;
    bench.engine.conclude(&due, until, &Look { seen: &seen, opinions: &opinions }).await.unwrap();
    assert_eq!(standing(&bench).await, is("lost", "suspended", Some("ownership_lost")));
    bench.advance(24 * HOUR_MS);
    assert!(bench.engine.inner.store.due_looks(bench.now(), 1, 1).await.unwrap().is_empty(), "not watched any more");
    let domain = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row;
    let name = bench.engine.inner.store.name_version(NAME).await.unwrap();
    assert!(!super::super::check::token_can_win(&domain, &name));
}

#[tokio::test]
async fn disabling_or_deleting_during_a_look_is_not_undone_by_it() {
    let bench = watched().await;
    look(&bench, Wrong, Right).await;
    wait_for_look(&bench).await;
    look(&bench, Wrong, Right).await;
    wait_for_look(&bench).await;
    let (due, until) = claim(&bench).await;
    let (third, opinions) = seen(&bench, Wrong, Wrong).await;
    bench.engine.disable_signing(&bench.caller, &bench.domain).await.unwrap();
    bench.engine.conclude(&due, until, &Look { seen: &third, opinions: &opinions }).await.unwrap();
    assert_eq!(standing(&bench).await, is("verified", "disabled", None));
    bench.engine.delete_domain(&bench.caller, &bench.domain).await.unwrap();
    bench.engine.conclude(&due, until, &Look { seen: &third, opinions: &opinions }).await.unwrap();
    assert_eq!(told(&bench).await, [""; 0]);
}

#[tokio::test]
async fn a_suspended_domain_can_be_disabled_and_begins_anew_when_it_is_enabled() {
    let bench = watched().await;
    three(&bench, Wrong, Right).await;
    bench.engine.disable_signing(&bench.caller, &bench.domain).await.unwrap();
    assert_eq!(standing(&bench).await, is("verified", "disabled", None));
    bench.advance(24 * HOUR_MS);
    assert_eq!(bench.engine.watch_domains().await.unwrap(), 0);
    bench.passed_check().await;
    let enabled = bench.engine.enable_signing(&bench.caller, &bench.domain).await.unwrap();
    assert_eq!((enabled.row.signing.as_str(), state(&bench).await), ("enabled", WatchState::default()));
}

/// A check that somebody asked for, as far as it changes the domain.
async fn check(bench: &Bench, record: Opinion) {
    let (seen, _) = seen(bench, record, Right).await;
    let store = &bench.engine.inner.store;
    let row = store.domain(&bench.caller.tenant_id, &bench.domain).await.unwrap().unwrap();
    let keys = bench.keys().await;
    let circumstances = bench.engine.circumstances(&row, &seen.keys);
    let actor = Actor::Caller(&bench.caller);
    let turn = Turn { actor, domain: &row, keys: &keys, circumstances, because: json!({"reason": "a check"}) };
    let mut change = DomainChange::default();
    let steps = bench.engine.turn(&turn, &mut change);
    bench.engine.watch_after_check(&turn, &seen, &steps, &mut change).await.unwrap();
    store.change_domain(&row.tenant_id, &row.id, row.version, &change).await.unwrap();
}

#[tokio::test]
async fn a_check_that_somebody_asks_for_resumes_and_never_suspends() {
    let bench = Bench::start().await;
    bench.engine.plan_first_looks().await.unwrap();
    for _ in 0..5 {
        check(&bench, Wrong).await;
        bench.advance(10 * MINUTE_MS);
    }
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert!(state(&bench).await.next_look_at.unwrap() <= bench.now(), "the service looks for itself at once");
    three(&bench, Wrong, Right).await;
    check(&bench, Wrong).await;
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
    check(&bench, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert_eq!(state(&bench).await.record, WrongAnswers::default());
    assert_eq!(told(&bench).await, ["signing.suspended"], "it was resumed by the caller");
    let filter = AuditFilter { action: Some("signing.resumed".into()), ..AuditFilter::default() };
    let resumed = bench.engine.audit_log(&bench.caller, &filter, None, 10).await.unwrap().rows;
    assert_eq!((resumed.len(), &resumed[0].actor), (1, &bench.caller.key_id));
}

#[tokio::test]
async fn without_a_key_the_key_is_the_reason_and_the_next_one_resumes() {
    let bench = watched().await;
    three(&bench, Wrong, Right).await;
    let key = bench.keys().await.remove(0);
    bench.engine.revoke_key(&bench.caller, &key.id).await.unwrap();
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("key_unavailable")));
    wait_for_look(&bench).await;
    look(&bench, Wrong, Right).await;
    assert_eq!(state(&bench).await.record, WrongAnswers::default(), "the record of no key that signs");
    let next = bench.further_key().await;
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "enabled", None));
    assert_eq!(bench.keys().await.pop().unwrap().id, next.id);
    assert_eq!(bench.keys().await.pop().unwrap().state, states::ACTIVE);
    let sent = bench.send().await;
    bench.expect(&sent, "queued").await;
}

#[tokio::test]
async fn a_wrong_record_that_outlasts_a_key_that_was_away_suspends_at_the_next_look() {
    let bench = watched().await;
    let away = Some(("suspended".to_owned(), Some("key_unavailable".to_owned())));
    bench.change(DomainChange { signing: away, ..DomainChange::default() }).await;
    three(&bench, Wrong, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("key_unavailable")));
    assert_eq!(told(&bench).await, [""; 0], "one reason is shown at a time");
    bench.change(DomainChange { signing: Some(("enabled".into(), None)), ..DomainChange::default() }).await;
    wait_for_look(&bench).await;
    look(&bench, Wrong, Right).await;
    assert_eq!(standing(&bench).await, is("verified", "suspended", Some("record_wrong")));
}

#[tokio::test]
async fn the_history_keeps_looks_that_changed_something_and_the_event_says_what_is_wrong() {
    let bench = watched().await;
    let checks = || async { bench.engine.checks(&bench.caller, &bench.domain, None, 100).await.unwrap().rows };
    look(&bench, Right, Right).await;
    due_now(&bench).await;
    three(&bench, Wrong, Right).await;
    assert_eq!(checks().await.len(), 1, "only the look that suspended");
    // What the third look leads to, once more.
    let row = bench.engine.domain(&bench.caller, &bench.domain).await.unwrap().row;
    let row = DomainRow { signing: "enabled".into(), signing_reason: None, ..row };
    let (seen, opinions) = seen(&bench, Wrong, Right).await;
    let outcome = bench.engine.outcome(&row, &bench.keys().await, &Look { seen: &seen, opinions: &opinions }).await;
    let events = outcome.unwrap().change.events;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((events[0].kind.as_str(), events[0].domain.as_deref()), ("domain.signing_suspended", Some(NAME)));
    let details = &events[0].details;
    assert_eq!(details["reason"], "record_wrong");
    assert!(details["check"].as_str().is_some_and(|id| id.starts_with("chk_")), "{details}");
    assert!(
        details["records"][0].as_str().is_some_and(|text| text.contains("_domainkey") && text.contains("missing")),
        "{details}"
    );
    wait_for_look(&bench).await;
    look(&bench, Right, Right).await;
    let kept = checks().await;
    assert_eq!(kept.iter().map(|check| check.verdict.as_str()).collect::<Vec<_>>(), ["pass", "fail"]);
}
