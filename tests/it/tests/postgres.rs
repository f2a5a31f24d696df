//! The same promises on PostgreSQL: several processes, and a server that goes away.
#![cfg(test)]

use serde_json::json;
use signpost_it::{
    Api, App, AppBuilder, DEADLINE, DkimPy, Named, PostgresServer, Receiver, World, enabled_domain, wait_for,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

fn settings(named: &Named, receiver: &Receiver, database: &str) -> AppBuilder {
    App::with().dns(named).relay(receiver).env("SIGNPOST_DATABASE_URL", database)
}

/// How often each of these recipients was delivered to.
fn deliveries(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for message in receiver.messages() {
        for address in message.rcpt {
            *times.entry(address).or_default() += 1;
        }
    }
    times
}

fn send(api: &Api, domain: &str, to: &str) -> u16 {
    let message = json!({"from": format!("ann@{domain}"), "to": [to], "subject": "x", "text": "y"});
    api.post("/v1/messages", &message).status
}

#[test]
fn a_message_goes_from_the_post_to_a_receiver_that_verifies() {
    let server = PostgresServer::start();
    let database = server.database();
    let world = World::start_with(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    let mut dkimpy = DkimPy::start();
    for (name, algorithm) in [("example.test", "rsa-2048"), ("other.test", "ed25519")] {
        let domain = world.enabled_domain(name, algorithm);
        let recipient = format!("bob@{algorithm}.receiver.test");
        let id = world.send_to(&domain, &recipient);
        let received = world.receiver.wait_for_recipient(&recipient);
        domain.assert_signed(&received.octets, &mut dkimpy, &world.named);
        world.tenant.api.message_with_status(&id, "delivered");
    }
    let stored = server.sql(&database, "SELECT status, COUNT(*) FROM messages GROUP BY status");
    assert_eq!(stored, "delivered|2", "it did not lie in another database");
}

#[test]
fn without_a_master_key_it_does_not_start_and_makes_none() {
    let server = PostgresServer::start();
    let mut app = App::with().makes_its_own_master_key().env("SIGNPOST_DATABASE_URL", server.database()).prepare();
    assert!(!app.start_and_fail().success());
    assert!(app.log().contains("SIGNPOST_MASTER_KEY_FILE"), "{}", app.log());
    assert!(!app.cli(&["tenant", "create", "Ann", "--json"]).status.success());
    assert!(!app.master_key_file().exists());
}

#[test]
fn a_server_that_does_not_flush_is_refused() {
    let server = PostgresServer::start_with(&["fsync=off"]);
    let mut app = App::with().env("SIGNPOST_DATABASE_URL", server.database()).prepare();
    assert!(!app.start_and_fail().success());
    assert!(app.log().contains("fsync"), "{}", app.log());
}

#[test]
fn processes_share_a_database_and_each_message_is_sent_once() {
    let (named, receiver, server) = (World::zones().start(), Receiver::start(), PostgresServer::start());
    let database = server.database();
    let one = settings(&named, &receiver, &database).start();
    let key = one.master_key_file().display().to_string();
    let two = settings(&named, &receiver, &database).env("SIGNPOST_MASTER_KEY_FILE", key.as_str()).start();
    let three = settings(&named, &receiver, &database)
        .env("SIGNPOST_MASTER_KEY_FILE", key.as_str())
        .env("SIGNPOST_ROLES", "api")
        .start();
    let tenant = one.tenant("Ann");
    enabled_domain(&tenant, &named, "example.test", "ed25519");
    let apis: Vec<Api> = [&one, &two, &three].map(|app| app.api().with_token(&tenant.token)).into();
    let mut expected = BTreeMap::new();
    for n in 0..60 {
        let address = format!("to{n}@receiver.test");
        assert_eq!(send(&apis[n % 3], "example.test", &address), 202);
        expected.insert(address, 1);
    }
    receiver.wait_for(expected.len());
    let open = "SELECT COUNT(*) FROM recipients WHERE status <> 'delivered'";
    wait_for("all outcomes are committed", DEADLINE, || (server.sql(&database, open) == "0").then_some(()));
    assert_eq!(deliveries(&receiver), expected);
    let workers = server.sql(&database, "SELECT COUNT(*) FROM workers WHERE lease_until IS NOT NULL");
    assert_eq!(workers, "2", "the process without that role is none");
}

#[test]
fn while_postgresql_is_down_nothing_is_acknowledged_and_then_everything_is_delivered() {
    let mut server = PostgresServer::start();
    let database = server.database();
    let (named, receiver) = (World::zones().start(), Receiver::start());
    let app = settings(&named, &receiver, &database).start();
    let tenant = app.tenant("Ann");
    enabled_domain(&tenant, &named, "example.test", "ed25519");
    let (stop, round) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    let answers: Vec<(String, u16)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (api, stop, round) = (tenant.api.clone(), &stop, &round);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        let address = format!("s{sender}n{}@receiver.test", answers.len());
                        let message = json!({"from": "ann@example.test", "to": [address], "subject": "x", "text": "y"});
                        let answer = api.post("/v1/messages", &message);
                        match answer.status {
                            202 => {}
                            503 => {
                                assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{}", answer.text());
                                answer.problem(503, "store-unavailable");
                            }
                            other => panic!("{other}: {}", answer.text()),
                        }
                        answers.push((address, answer.status));
                        round.fetch_add(1, Ordering::SeqCst);
                    }
                    answers
                })
            })
            .collect();
        let some_more = |what: &str| {
            let before = round.load(Ordering::SeqCst);
            wait_for(what, DEADLINE, || (round.load(Ordering::SeqCst) >= before + 12).then_some(()));
        };
        some_more("it answers");
        for _ in 0..2 {
            server.stop();
            some_more("it answers without a database");
            wait_for("/readyz is 503", DEADLINE, || (app.api().get("/readyz").status == 503).then_some(()));
            app.api().get("/livez").expect(200);
            server.start_again();
            wait_for("/readyz is 200", DEADLINE, || (app.api().get("/readyz").status == 200).then_some(()));
            some_more("it answers again");
        }
        stop.store(true, Ordering::SeqCst);
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    let refused = answers.iter().filter(|(_, status)| *status == 503).count();
    let acknowledged: Vec<&String> = answers.iter().filter(|(_, status)| *status == 202).map(|(to, _)| to).collect();
    assert!(refused > 0 && acknowledged.len() > 12, "{refused} refused, {} acknowledged", acknowledged.len());
    // A lease that could not be prolonged runs out within 20 s; an attempt that could not begin is repeated after 60 s.
    let delivered = wait_for("everything acknowledged is delivered", DEADLINE * 6, || {
        let delivered = deliveries(&receiver);
        acknowledged.iter().all(|to| delivered.contains_key(*to)).then_some(delivered)
    });
    let posted: std::collections::BTreeSet<&String> = answers.iter().map(|(to, _)| to).collect();
    assert!(delivered.keys().all(|to| posted.contains(to)), "mail that nobody posted");
    app.api().get("/readyz").expect(200);
}
