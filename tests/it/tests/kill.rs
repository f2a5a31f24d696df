//! kill -9 at any moment: what was acknowledged arrives, signed and as posted; nothing else does; and nothing arrives twice
//! but what was in flight at a death. `tests/mutants` has the patches that break this; each must make these tests fail.
#![cfg(test)]

use serde_json::json;
use signpost_it::{Dice, Ending, Ledger, Mutant, Sink, Site, long, now, wait_for};
use std::time::Duration;

/// Of so many victims on PostgreSQL one only stands still, but for longer than its lease.
const STANDS_STILL: usize = 100;

/// How many times a process is killed; SIGNPOST_KILLS says otherwise.
fn kills() -> usize {
    let given = std::env::var("SIGNPOST_KILLS").ok().map(|text| text.parse().expect("SIGNPOST_KILLS is a number"));
    given.unwrap_or(if long() { 500 } else { 20 })
}

/// Random moments: so many messages were accepted since the last start, and then, half the time, a little later.
fn kill_again_and_again(site: &mut Site, ledger: &Ledger, dice: &mut Dice) {
    for number in 1..=kills() {
        ledger.wait_for_more(1 + dice.below(24), signpost_it::DEADLINE);
        if ledger.is_in_trouble() {
            return;
        }
        if dice.below(2) == 0 {
            std::thread::sleep(dice.duration(Duration::from_millis(100)));
        }
        let victim = dice.below(site.size());
        if number.is_multiple_of(STANDS_STILL) && site.size() > 1 {
            site.freeze_for_longer_than_a_lease(victim);
        } else {
            site.kill(victim, dice);
        }
    }
}

fn receiver() -> Sink {
    Sink::start(Duration::from_millis(60))
}

#[test]
fn on_sqlite() {
    Site::sqlite(receiver()).survive(&mut Dice::from_environment(), kill_again_and_again);
}

#[test]
fn on_postgresql() {
    let mut site = Site::postgres(receiver(), 3);
    // A process that stood still finds that its requests took too long.
    site.may_refuse = kills() >= STANDS_STILL;
    site.survive(&mut Dice::from_environment(), kill_again_and_again);
}

/// The fence: a worker that stood still for longer than its lease wakes up in the middle of a dialogue whose message another
/// worker has by now, and finds its connection broken. What it makes of that is not to be written.
#[test]
fn a_worker_that_stood_still_for_longer_than_its_lease_writes_nothing() {
    let mut site = Site::postgres(receiver(), 2);
    let address = "frozen@receiver.test";
    site.sink.keep_open(address);
    let message = json!({"from": "ann@example.test", "to": [address], "subject": "x", "text": "y\n"});
    let api = &site.apis()[0];
    let id = api.post("/v1/messages", &message).expect(202).json()["id"].as_str().unwrap().to_owned();
    let first = site.sink.wait_for_copies(address, 1);
    let frozen = (0..2).find(|process| first[0].helo == site.helo(*process)).unwrap();
    let other = 1 - frozen;
    site.app(frozen).freeze();
    site.note_death(frozen);
    let copies = site.sink.wait_for_copies(address, 2);
    assert_eq!(copies[1].helo, site.helo(other), "the lease ran out, and the other worker took the message");

    site.sink.end(address, 0, Ending::Dropped);
    site.app(frozen).thaw();
    let dropped = || site.app(frozen).log().contains("outcome dropped: the lease was lost");
    let api = &site.apis()[other];
    wait_for("the worker that stood still has settled", signpost_it::DEADLINE, || {
        let status = api.get(&format!("/v1/messages/{id}")).expect(200).json()["status"].clone();
        assert_eq!(status, "sending", "fence: the outcome of a worker without a lease was written");
        dropped().then_some(())
    });
    site.sink.end(address, 1, Ending::Taken);
    api.message_with_status(&id, "delivered");
    let events = api.event_types(&id);
    let told = |kind: &str| events.iter().filter(|event| *event == kind).count();
    assert_eq!((told("message.delivered"), told("message.deferred")), (1, 0), "fence: {events:?}");
    assert_eq!(site.sink.copies(address).len(), 2);
    // It is a worker again, under a new lease.
    site.app(other).freeze();
    let message = json!({"from": "ann@example.test", "to": ["after@receiver.test"], "subject": "x", "text": "y\n"});
    site.apis()[frozen].post("/v1/messages", &message).expect(202);
    assert_eq!(site.sink.wait_for_copies("after@receiver.test", 1)[0].helo, site.helo(frozen));
    site.app(other).thaw();
}

/// Without `--long` one of them, another one each day.
#[test]
fn a_product_with_a_broken_promise_fails() {
    let mutants = Mutant::all();
    let today = usize::try_from(now() / 86_400).unwrap() % mutants.len();
    let chosen = std::env::var("SIGNPOST_MUTANT").ok();
    for (number, mutant) in mutants.iter().enumerate() {
        let wanted = chosen.as_ref().map_or(long() || number == today, |name| mutant.name.contains(name));
        if wanted {
            eprintln!("{} of {}: {}", number + 1, mutants.len(), mutant.name);
            mutant.assert_found();
        }
    }
}
