//! The same promises on PostgreSQL: several processes, and a server that goes away.
#![cfg(test)]

use serde_json::json;
use signpost_it::{
    Api, App, AppBuilder, DEADLINE, Dice, DkimPy, Named, PostgresServer, Receiver, Sink, Site, World, enabled_domain,
    long, wait_for,
};
use std::collections::BTreeMap;
use std::time::Duration;

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

/// Stopped with `-m immediate`, killed, restarted: 503 with Retry-After meanwhile, and nothing else happens to the mail. Nobody
/// died, so nothing may arrive twice.
#[test]
fn while_postgresql_is_away_nothing_is_acknowledged_and_then_everything_is_delivered_once() {
    let mut site = Site::postgres(Sink::start(Duration::from_millis(60)), 1);
    site.may_refuse = true;
    site.survive(&mut Dice::from_environment(), |site, ledger, _| {
        let ways = [PostgresServer::stop, PostgresServer::kill, PostgresServer::stop_fast];
        for (way, go_away) in ways.into_iter().cycle().take(if long() { 30 } else { 6 }).enumerate() {
            ledger.wait_for_more(20, DEADLINE);
            let refused = ledger.refusals();
            go_away(site.server());
            wait_for(&format!("it answers without a database ({way})"), DEADLINE, || {
                (ledger.refusals() >= refused + 12).then_some(())
            });
            let api = site.app(0).api();
            wait_for("/readyz is 503", DEADLINE, || (api.get("/readyz").status == 503).then_some(()));
            api.get("/livez").expect(200);
            site.server().start_again();
            wait_for("/readyz is 200", DEADLINE, || (api.get("/readyz").status == 200).then_some(()));
        }
        ledger.wait_for_more(20, DEADLINE);
        assert!(ledger.acknowledgements() > 100, "{}", ledger.acknowledgements());
    });
}
