//! Keys in the KMS: really used, and nothing leaves unsigned, or signed by another key, when it fails.
#![cfg(test)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signpost_it::{
    AppBuilder, DEADLINE, DkimPy, Domain, Kms, Meddler, Port, PostgresServer, World, unfolded_field, wait_for,
};

const DEFAULT: &str = "aws-kms";

fn world(kms: &Kms) -> World {
    World::start_with(|app| app.keys_in(kms))
}

/// The only key of a domain.
fn key(world: &World, domain: &Domain) -> Value {
    let keys = world.tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
    assert_eq!(keys["data"].as_array().unwrap().len(), 1, "{keys:#}");
    keys["data"][0].clone()
}

fn id_in_kms(kms: &Kms, key: &Value) -> String {
    kms.key_of(key["id"].as_str().unwrap())
}

fn register(world: &World, name: &str) -> signpost_it::Answer {
    world.tenant.api.post("/v1/domains", &json!({"name": name, "algorithm": "ed25519"}))
}

/// Posts messages while the key does not work; each is taken and waits. Gives them as the API showed them.
fn post_and_wait(world: &World, domain: &Domain, count: usize) -> Vec<Value> {
    let post = |n: usize| {
        let id = world.send_to(domain, &format!("waits-{n}@receiver.test"));
        world.tenant.api.message_with_status(&id, "awaiting_signature")
    };
    (0..count).map(post).collect()
}

/// All of them arrive, signed, each once, as the same message that was accepted.
fn all_arrive(world: &World, domain: &Domain, waited: &[Value]) {
    let mut dkimpy = DkimPy::start();
    for message in waited {
        let (id, address) = (message["id"].as_str().unwrap(), message["recipients"][0]["address"].as_str().unwrap());
        world.tenant.api.message_with_status(id, "delivered");
        let received = world.receiver.wait_for_recipient(address);
        domain.assert_signed(&received.octets, &mut dkimpy, &world.named);
        assert_eq!(unfolded_field(&received.octets, "Message-ID"), [message["message_id"].as_str().unwrap()]);
        let events = world.tenant.api.event_types(id);
        for never in ["message.bounced", "message.deferred", "message.expired"] {
            assert!(!events.iter().any(|event| event == never), "{events:?}");
        }
    }
    assert_eq!(world.receiver.messages().len(), waited.len(), "each once");
}

#[test]
fn mail_is_signed_by_the_key_in_the_kms_that_is_published() {
    let kms = Kms::start();
    let world = world(&kms);
    let mut dkimpy = DkimPy::start();
    for (name, algorithm) in [("example.test", "rsa-2048"), ("other.test", "ed25519")] {
        let domain = world.enabled_domain(name, algorithm);
        let key = key(&world, &domain);
        assert_eq!((key["custody"].as_str(), key["algorithm"].as_str()), (Some(DEFAULT), Some(algorithm)));
        let spki = STANDARD.decode(kms.public_key(&id_in_kms(&kms, &key))).unwrap();
        // RFC 8463 4.2: p= of an Ed25519 key is its bare 32 octets.
        let published = if algorithm == "ed25519" { &spki[spki.len() - 32..] } else { &spki[..] };
        assert_eq!(key["public_key"], STANDARD.encode(published));
        assert!(domain.txt.values().next().unwrap().ends_with(&format!("p={}", STANDARD.encode(published))));

        let signed = kms.calls("Sign");
        let address = format!("{algorithm}@receiver.test");
        let id = world.send_to(&domain, &address);
        world.tenant.api.message_with_status(&id, "delivered");
        domain.assert_signed(&world.receiver.wait_for_recipient(&address).octets, &mut dkimpy, &world.named);
        assert_eq!(kms.calls("Sign"), signed + 1, "one message, one Sign");
    }
}

fn raw(world: &World, message: &Value) -> Vec<u8> {
    world.tenant.api.get(&format!("/v1/messages/{}/raw", message["id"].as_str().unwrap())).expect(200).body.to_vec()
}

#[test]
fn a_disabled_key_makes_mail_wait_in_silence_and_an_enabled_one_sends_it_as_the_same_message() {
    a_key_is_disabled_and_enabled(|app| app);
}

#[test]
fn on_postgresql_a_disabled_key_makes_mail_wait_and_an_enabled_one_sends_it_as_the_same_message() {
    let server = PostgresServer::start();
    let database = server.database();
    a_key_is_disabled_and_enabled(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    assert_eq!(server.sql(&database, "SELECT status, COUNT(*) FROM messages GROUP BY status"), "delivered|25");
}

fn a_key_is_disabled_and_enabled(settings: impl FnOnce(AppBuilder) -> AppBuilder) {
    let kms = Kms::start();
    let mut world = World::start_with(|app| settings(app.keys_in(&kms)));
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let in_kms = id_in_kms(&kms, &key(&world, &domain));
    kms.disable(&in_kms);
    let before = kms.calls("Sign");
    let mut waited = post_and_wait(&world, &domain, 25);
    let asked = kms.calls("Sign") - before;
    assert!((1..10).contains(&asked), "{asked} calls of Sign for 25 messages: probes are one a key, not one a message");
    assert!(waited[0]["signatures"].as_array().unwrap().is_empty(), "{:#}", waited[0]);

    // A process that knows nothing of the outage finds it anew, and loses nothing.
    world.app.stop();
    world.app.start();
    let dates: Vec<_> = waited.iter().map(|message| unfolded_field(&raw(&world, message), "Date")).collect();
    let probed = kms.calls("Sign");
    wait_for("a probe of the new process", DEADLINE, || (kms.calls("Sign") > probed).then_some(()));
    assert_eq!(world.receiver.messages().len(), 0, "nothing leaves unsigned");
    for message in &mut waited {
        let now = world.tenant.api.get(&format!("/v1/messages/{}", message["id"].as_str().unwrap())).expect(200).json();
        assert_eq!(now["status"], "awaiting_signature", "{now:#}");
    }

    kms.enable(&in_kms);
    all_arrive(&world, &domain, &waited);
    for (message, date) in waited.iter().zip(dates) {
        let received = world.receiver.wait_for_recipient(message["recipients"][0]["address"].as_str().unwrap());
        assert_eq!(unfolded_field(&received.octets, "Date"), date, "the Date is that of the acceptance");
    }
}

#[test]
fn whatever_the_kms_does_nothing_leaves_that_its_own_key_did_not_sign() {
    let kms = Kms::start();
    let world = world(&kms);
    let domain = world.enabled_domain("example.test", "ed25519");
    let mut waited = Vec::new();
    for fault in ["other_key", "throttled", "denied", "internal", "garbage", "silent"] {
        kms.fault(fault);
        // One that was accepted before the fault is known, and one after.
        for n in 1..=2 {
            let id = world.send_to(&domain, &format!("{fault}-{n}@receiver.test"));
            waited.push(world.tenant.api.message_with_status(&id, "awaiting_signature"));
        }
        // Nothing of it is shown that is the operator's only.
        let events = world.tenant.api.events(waited.last().unwrap()["id"].as_str().unwrap());
        assert!(!Value::from(events.clone()).to_string().contains("arn:"), "{events:#?}");
        let sign = world.tenant.api.post_message("/v1/sign", b"From: a@example.test\r\nSubject: x\r\n\r\ny\r\n");
        sign.problem(503, "key-unavailable");
    }
    assert_eq!(world.receiver.messages().len(), 0, "nothing leaves");
    kms.fault("none");
    all_arrive(&world, &domain, &waited);
}

/// Nobody listens where the KMS was: as any other outage, and new keys cannot be had either.
#[test]
fn a_kms_that_is_gone_makes_mail_wait_and_when_it_is_back_the_same_message_is_sent() {
    let kms = Kms::start();
    let mut world = world(&kms);
    let domain = world.enabled_domain("example.test", "ed25519");
    let elsewhere = Port::reserve();
    world.app.stop();
    world.app.set("AWS_ENDPOINT_URL_KMS", format!("http://127.0.0.1:{}", elsewhere.number()));
    world.app.start();
    let waited = post_and_wait(&world, &domain, 3);
    let dates: Vec<_> = waited.iter().map(|message| unfolded_field(&raw(&world, message), "Date")).collect();
    register(&world, "other.test").problem(503, "key-unavailable");
    assert_eq!(world.receiver.messages().len(), 0, "nothing leaves unsigned");

    let _way = Meddler::faithful(elsewhere, kms.port());
    all_arrive(&world, &domain, &waited);
    for (message, date) in waited.iter().zip(dates) {
        let received = world.receiver.wait_for_recipient(message["recipients"][0]["address"].as_str().unwrap());
        assert_eq!(unfolded_field(&received.octets, "Date"), date, "the Date is that of the acceptance");
    }
    register(&world, "other.test").expect(201);
}

#[test]
fn the_outage_of_one_key_does_not_keep_mail_of_another() {
    let kms = Kms::start();
    let world = world(&kms);
    let (down, up) = (world.enabled_domain("example.test", "ed25519"), world.enabled_domain("other.test", "ed25519"));
    let in_kms = id_in_kms(&kms, &key(&world, &down));
    kms.disable(&in_kms);
    let waited = post_and_wait(&world, &down, 2);
    let id = world.send_to(&up, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "delivered");
    assert_eq!(world.receiver.messages().len(), 1);
    kms.enable(&in_kms);
    for message in waited {
        world.tenant.api.message_with_status(message["id"].as_str().unwrap(), "delivered");
    }
}

#[test]
fn unproven_domains_with_keys_in_the_kms_are_few_and_deleted_ones_give_their_keys_up() {
    let kms = Kms::start();
    let world = world(&kms);
    let api = &world.tenant.api;
    let first = world.enabled_domain("example.test", "ed25519");
    let names = ["a.example", "b.example", "c.example", "d.example", "e.example"];
    let mut domains: Vec<Value> = names.iter().map(|name| register(&world, name).expect(201).json()).collect();
    assert_eq!(kms.keys().len(), 6);
    let problem = register(&world, "f.example").problem(409, "too-many-unproven-domains");
    assert!(problem["detail"].as_str().unwrap().contains('5'), "{problem}");
    assert_eq!(kms.keys().len(), 6, "refused before a key is made");
    // Each may have a second one, and not a third; a proven one as many as it needs.
    let keys = |id: &str| format!("/v1/domains/{id}/keys");
    let unproven = domains[0]["id"].as_str().unwrap().to_owned();
    api.post(&keys(&unproven), &json!({"algorithm": "ed25519"})).expect(201);
    api.post(&keys(&unproven), &json!({"algorithm": "ed25519"})).problem(409, "too-many-unproven-domains");
    api.post(&keys(&unproven), &json!({"algorithm": "ed25519", "custody": "sealed"})).expect(201);
    for _ in 0..3 {
        api.post(&keys(&first.id), &json!({"algorithm": "ed25519"})).expect(201);
    }

    // Deleted: its keys sign no more, are destroyed after the window, and there is room for another domain.
    let gone = domains.remove(1);
    let in_kms = id_in_kms(&kms, &gone["keys"][0]);
    api.delete(&format!("/v1/domains/{}", gone["id"].as_str().unwrap())).expect(204);
    wait_for("the key's deletion is scheduled", DEADLINE, || (kms.state(&in_kms) == "PendingDeletion").then_some(()));
    register(&world, "f.example").expect(201);
    let states: Vec<String> = kms.keys().iter().map(|id| kms.state(id)).collect();
    assert_eq!(states.iter().filter(|state| *state == "PendingDeletion").count(), 1, "{states:?}");
}

#[test]
fn after_7_days_an_unproven_domain_is_gone_and_its_key_given_up_and_a_proven_one_stays() {
    let (kms, server) = (Kms::start(), PostgresServer::start());
    let database = server.database();
    let mut world = World::start_with(|app| app.keys_in(&kms).env("SIGNPOST_DATABASE_URL", database.as_str()));
    let proven = world.enabled_domain("example.test", "ed25519");
    let old = register(&world, "old.example").expect(201).json();
    let young = register(&world, "young.example").expect(201).json();
    let in_kms = |domain: &Value| id_in_kms(&kms, &domain["keys"][0]);
    let (of_old, of_young) = (in_kms(&old), in_kms(&young));
    let of_proven = id_in_kms(&kms, &key(&world, &proven));
    let path = |domain: &Value| format!("/v1/domains/{}", domain["id"].as_str().unwrap());
    world.app.stop();
    let age = |name: &str, seconds: u64| {
        let changed = server.sql(
            &database,
            &format!(
                "WITH aged AS (UPDATE dkim_keys SET created_at = created_at - {}
                 WHERE domain_id = (SELECT id FROM domains WHERE name = '{name}') RETURNING 1) SELECT COUNT(*) FROM aged",
                seconds * 1000
            ),
        );
        assert_eq!(changed, "1", "keys of {name}");
    };
    const WEEK: u64 = 7 * 24 * 3600;
    age("old.example", WEEK + 1);
    age("young.example", WEEK - 3600);
    age("example.test", WEEK + 1);
    world.app.start();

    wait_for("the key's deletion is scheduled", DEADLINE, || (kms.state(&of_old) == "PendingDeletion").then_some(()));
    assert_eq!(world.tenant.api.get(&path(&old)).status, 404);
    world.tenant.api.get(&path(&young)).expect(200);
    world.tenant.api.get(&format!("/v1/domains/{}", proven.id)).expect(200);
    assert_eq!((kms.state(&of_young), kms.state(&of_proven)), ("Enabled".to_owned(), "Enabled".to_owned()));
    assert_eq!(kms.calls("ScheduleKeyDeletion"), 1);
}

#[test]
fn the_kms_is_offered_where_the_server_has_one() {
    let kms = Kms::start();
    let beside = World::start_with(|app| app.kms(&kms));
    let domain = register(&beside, "example.test").expect(201).json();
    assert_eq!(domain["keys"][0]["custody"], "sealed", "the default stays");
    let keys = format!("/v1/domains/{}/keys", domain["id"].as_str().unwrap());
    let made = beside.tenant.api.post(&keys, &json!({"custody": "aws-kms"})).expect(201).json();
    assert_eq!((made["custody"].as_str(), made["algorithm"].as_str()), (Some("aws-kms"), Some("rsa-2048")));
    assert_eq!(kms.state(&id_in_kms(&kms, &made)), "Enabled");
    let wrapped = beside.tenant.api.post(&keys, &json!({"custody": "aws-kms-envelope"})).expect(201).json();
    assert_eq!(wrapped["custody"], "aws-kms-envelope");
    for custody in ["imported", "AWS-KMS", "kms", ""] {
        let answer = beside.tenant.api.post(&keys, &json!({"custody": custody}));
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/custody"]);
    }

    let without = World::start();
    let domain = register(&without, "example.test").expect(201).json();
    let keys = format!("/v1/domains/{}/keys", domain["id"].as_str().unwrap());
    for custody in ["aws-kms", "aws-kms-envelope"] {
        let answer = without.tenant.api.post(&keys, &json!({"custody": custody}));
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/custody"]);
    }
}
