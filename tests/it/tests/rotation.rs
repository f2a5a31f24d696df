//! Keys come and go under a load of mail: nothing arrives that does not verify at that moment, and afterwards.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    Answer, Api, App, AppBuilder, DEADLINE, DkimPy, Domain, Kms, PostgresServer, Receiver, Sink, World, enabled_domain,
    signature_fields, wait_for,
};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Messages that the judge may be behind the clients: it shall see each as it arrives.
const BEHIND: usize = 30;
const DEFERRED: usize = 1000;

/// A message as it was found when it arrived.
struct Witnessed {
    selectors: Vec<String>,
    verdicts: Vec<bool>,
}

struct Load<'a> {
    world: &'a World,
    sink: &'a Sink,
    apis: Vec<Api>,
    stop: AtomicBool,
    posted: AtomicUsize,
    seen: Mutex<Vec<Witnessed>>,
}

impl Load<'_> {
    fn client(&self, number: usize) {
        let api = &self.apis[number % self.apis.len()];
        while !self.stop.load(Ordering::SeqCst) {
            let n = self.posted.fetch_add(1, Ordering::SeqCst);
            let message = json!({"from": "ann@example.test", "to": [format!("to{n}@receiver.test")], "subject": "x", "text": "y"});
            api.post("/v1/messages", &message).expect(202);
            wait_for("the judge keeps up", DEADLINE, || {
                (self.seen.lock().unwrap().len() + BEHIND > n || self.stop.load(Ordering::SeqCst)).then_some(())
            });
        }
    }

    /// Until everything that was posted has arrived.
    fn judge(&self) {
        let mut dkimpy = DkimPy::start();
        let mut judged = 0;
        loop {
            for arrival in self.sink.arrivals().into_iter().skip(judged) {
                judged += 1;
                let verdicts = dkimpy.verify_with_dns(&arrival.octets, self.world.named.address());
                let selectors = signature_fields(&arrival.octets).iter().map(|tags| tags["s"].clone()).collect();
                self.seen.lock().unwrap().push(Witnessed { selectors, verdicts });
            }
            if self.stop.load(Ordering::SeqCst) && judged >= self.posted.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn seen(&self, selector: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|message| message.selectors == [selector]).count()
    }

    /// Waits until so many further messages with this selector have arrived.
    fn wait_for_more(&self, count: usize, selector: &str) {
        let wanted = self.seen(selector) + count;
        wait_for(&format!("{count} more messages signed by {selector}"), DEADLINE * 2, || {
            (self.seen(selector) >= wanted).then_some(())
        });
    }
}

fn keys(api: &Api, domain: &str) -> Vec<Value> {
    api.get(&format!("/v1/domains/{domain}/keys")).expect(200).json()["data"].as_array().unwrap().clone()
}

fn states(api: &Api, domain: &str) -> Vec<String> {
    keys(api, domain).iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect()
}

/// The keys that are not revoked, and their states.
fn standing(api: &Api, domain: &str) -> (Vec<Value>, Vec<String>) {
    let standing: Vec<Value> = keys(api, domain).into_iter().filter(|key| key["state"] != "revoked").collect();
    let states = standing.iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect();
    (standing, states)
}

/// The record that the API lists for a key.
fn record_of(api: &Api, domain: &str, key: &Value) -> Value {
    let records = api.get(&format!("/v1/domains/{domain}/records")).expect(200).json();
    let begin = format!("{}._domainkey.", key["selector"].as_str().unwrap());
    let found = records["data"].as_array().unwrap().iter().find(|r| r["name"].as_str().unwrap().starts_with(&begin));
    found.unwrap_or_else(|| panic!("no record {begin}: {records:#}")).clone()
}

fn rotate(api: &Api, domain: &str) -> Answer {
    api.post_empty(&format!("/v1/domains/{domain}/keys/rotate"))
}

/// Rotates with a check by the tenant that makes the new key sign at once.
fn rotate_and_publish(world: &World, domain: &str) -> Value {
    let api = &world.tenant.api;
    let key = rotate(api, domain).expect(201).json();
    world.named.publish(&record_of(api, domain, &key));
    api.post_empty(&format!("/v1/domains/{domain}/check")).expect(200);
    let id = key["id"].clone();
    let active = keys(api, domain).into_iter().find(|key| key["id"] == id).unwrap();
    assert_eq!(active["state"], "active", "{active:#}");
    active
}

/// The rotation, while clients post: DNS is late.
fn rotate_late(load: &Load<'_>, domain: &Domain, is_checked: bool) -> Value {
    let api = &load.world.tenant.api;
    let check = || api.post_empty(&format!("/v1/domains/{}/check", domain.id)).expect(200).json();
    load.wait_for_more(20, &domain.selector);
    let next = rotate(api, &domain.id).expect(201).json();
    assert_eq!(next["state"], "pending");
    rotate(api, &domain.id).problem(409, "rotation-under-way");
    load.wait_for_more(20, &domain.selector);
    assert_eq!(check()["verdict"], "pass", "the record of the key that signs is right");
    assert_eq!(standing(api, &domain.id).1, ["active", "pending"]);
    load.wait_for_more(20, &domain.selector);
    let selector = next["selector"].as_str().unwrap();
    assert_eq!(load.seen(selector), 0, "signed before DNS has the key");
    load.world.named.publish(&record_of(api, &domain.id, &next));
    if is_checked {
        check();
    }
    wait_for("the new key signs", DEADLINE * 3, || {
        (standing(api, &domain.id).1 == ["retiring", "active"]).then_some(())
    });
    load.wait_for_more(40, selector);
    next
}

fn rotation_under_load(world: &World, sink: &Sink, apis: Vec<Api>, is_checked: bool) -> (Domain, Value) {
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let next = rotation_of(world, sink, apis, is_checked, &domain);
    (domain, next)
}

fn rotation_of(world: &World, sink: &Sink, apis: Vec<Api>, is_checked: bool, domain: &Domain) -> Value {
    let load = Load { world, sink, apis, stop: false.into(), posted: 0.into(), seen: Mutex::default() };
    let next = std::thread::scope(|scope| {
        let judge = scope.spawn(|| load.judge());
        let clients: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn({
                    let load = &load;
                    move || load.client(number)
                })
            })
            .collect();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rotate_late(&load, domain, is_checked)));
        load.stop.store(true, Ordering::SeqCst);
        clients.into_iter().for_each(|client| client.join().unwrap());
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        judge.join().unwrap();
        done
    });
    let next_selector = next["selector"].as_str().unwrap().to_owned();
    let seen = load.seen.lock().unwrap();
    assert_eq!(seen.len(), load.posted.load(Ordering::SeqCst), "each arrives once");
    for message in seen.iter() {
        assert_eq!(message.verdicts, [true], "when it arrived, signed by {:?}", message.selectors);
        assert!(message.selectors == [domain.selector.as_str()] || message.selectors == [next_selector.as_str()]);
    }
    // Whoever verifies later asks the DNS of then.
    let mut dkimpy = DkimPy::start();
    for arrival in sink.arrivals() {
        assert_eq!(dkimpy.verify_with_dns(&arrival.octets, world.named.address()), [true], "afterwards");
    }
    drop(seen);
    assert_told(world, domain, &next);
    next
}

/// The former key says until when its record is needed, and the log who did what.
fn assert_told(world: &World, domain: &Domain, next: &Value) {
    let api = &world.tenant.api;
    let (all, _) = standing(api, &domain.id);
    assert!(all[0]["retiring_since"].is_string() && all[0]["safe_to_remove_at"].is_string(), "{:#}", all[0]);
    assert!(all[0]["safe_to_remove_at"].as_str() > all[0]["retiring_since"].as_str());
    assert_eq!((&all[1]["retiring_since"], &all[1]["safe_to_remove_at"]), (&Value::Null, &Value::Null));
    let kept = record_of(api, &domain.id, &all[0]);
    assert!(kept["warnings"].to_string().contains("Keep this record until"), "{kept:#}");
    let log = api.get(&format!("/v1/audit?domain={}&limit=100", domain.id)).expect(200).json();
    let of = |key: &Value| -> Vec<String> {
        let entries = log["data"].as_array().unwrap().iter().rev().filter(|entry| entry["object"] == key["id"]);
        entries
            .map(|entry| format!("{} {}>{}", entry["action"], entry["before"], entry["after"]).replace('"', ""))
            .collect()
    };
    let expected = ["key.created null>pending", "key.published pending>published", "key.activated published>active"];
    assert_eq!(of(next), expected);
    let first = if all[0]["custody"] == "imported" { "key.imported null>pending" } else { expected[0] };
    assert_eq!(of(&all[0]), [first, expected[1], expected[2], "key.retiring active>retiring"]);
}

fn sink_settings(app: AppBuilder, sink: &Sink) -> AppBuilder {
    app.env("SIGNPOST_SMTP_RELAY", format!("smtp://127.0.0.1:{}", sink.port())).env("SIGNPOST_LOG", "info")
}

fn sink() -> Sink {
    Sink::start(Duration::from_millis(10))
}

#[test]
fn a_rotation_with_late_dns_on_sqlite_needs_no_check_by_the_tenant() {
    let sink = sink();
    let world = World::start_with(|app| sink_settings(app, &sink));
    let apis = vec![world.tenant.api.clone()];
    rotation_under_load(&world, &sink, apis, false);
}

#[test]
fn a_rotation_with_late_dns_of_a_key_in_the_kms() {
    let (sink, kms) = (sink(), Kms::start());
    let world = World::start_with(|app| sink_settings(app, &sink).keys_in(&kms));
    let apis = vec![world.tenant.api.clone()];
    let (domain, next) = rotation_under_load(&world, &sink, apis, true);
    let all = keys(&world.tenant.api, &domain.id);
    assert_eq!(all.iter().map(|key| key["custody"].as_str().unwrap()).collect::<Vec<_>>(), ["aws-kms", "aws-kms"]);
    let in_kms = |key: &Value| kms.key_of(key["id"].as_str().unwrap());
    assert_eq!(kms.state(&in_kms(&all[0])), "Enabled", "mail signed with it is on its way");
    let revoke = |key: &Value| {
        world.tenant.api.post_empty(&format!("/v1/keys/{}/revoke", key["id"].as_str().unwrap())).expect(200);
    };
    revoke(&all[0]);
    wait_for("the KMS gives the key up", DEADLINE, || (kms.state(&in_kms(&all[0])) == "PendingDeletion").then_some(()));
    assert_eq!(kms.state(&in_kms(&next)), "Enabled");
}

/// Two processes, each with a third of the clients at least.
fn on_postgresql(settings: impl Fn(AppBuilder) -> AppBuilder, first: impl Fn(&World) -> Domain) {
    let (sink, server) = (sink(), PostgresServer::start());
    let database = server.database();
    let with = |app: AppBuilder| settings(sink_settings(app, &sink)).env("SIGNPOST_DATABASE_URL", database.as_str());
    let world = World::start_with(with);
    let other = with(App::with().dns(&world.named))
        .env("SIGNPOST_MASTER_KEY_FILE", world.app.master_key_file().display().to_string())
        .start();
    let apis = vec![world.tenant.api.clone(), other.api().with_token(&world.tenant.token)];
    rotation_of(&world, &sink, apis, true, &first(&world));
}

fn made_here(world: &World) -> Domain {
    world.enabled_domain("example.test", "rsa-2048")
}

#[test]
fn a_rotation_with_late_dns_on_postgresql() {
    on_postgresql(|app| app, made_here);
}

#[test]
fn a_rotation_with_late_dns_of_a_key_in_the_kms_on_postgresql() {
    let kms = Kms::start();
    on_postgresql(|app| app.keys_in(&kms), made_here);
}

fn wrapped_by(kms: &Kms) -> impl Fn(AppBuilder) -> AppBuilder {
    |app| app.kms(kms).env("SIGNPOST_KEY_CUSTODY", "aws-kms-envelope")
}

#[test]
fn a_rotation_with_late_dns_of_a_key_that_the_kms_wraps() {
    let (sink, kms) = (sink(), Kms::start());
    let world = World::start_with(|app| wrapped_by(&kms)(sink_settings(app, &sink)));
    let apis = vec![world.tenant.api.clone()];
    let (domain, _) = rotation_under_load(&world, &sink, apis, true);
    assert_eq!(custodies(&world.tenant.api, &domain.id), ["aws-kms-envelope", "aws-kms-envelope"]);
    assert_eq!(kms.calls("Sign"), 0);
}

#[test]
fn a_rotation_with_late_dns_of_a_key_that_the_kms_wraps_on_postgresql() {
    let kms = Kms::start();
    on_postgresql(wrapped_by(&kms), made_here);
}

fn custodies(api: &Api, domain: &str) -> Vec<String> {
    keys(api, domain).iter().map(|key| key["custody"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_domain_moves_from_one_custody_to_another_by_a_rotation() {
    let kms = Kms::start();
    let world = World::start_with(|app| app.kms(&kms));
    let (api, mut dkimpy) = (&world.tenant.api, DkimPy::start());
    let domain = world.enabled_domain("example.test", "ed25519");
    let path = format!("/v1/domains/{}", domain.id);
    for custody in ["aws-kms", "aws-kms-envelope", "sealed"] {
        let next = api.post(&format!("{path}/keys/rotate"), &json!({"custody": custody})).expect(201).json();
        world.named.publish(&record_of(api, &domain.id, &next));
        api.post_empty(&format!("{path}/check")).expect(200);
        let now = Domain::from_json(&api.get(&path).expect(200).json());
        assert_eq!(now.selector, next["selector"].as_str().unwrap(), "{custody}");
        let recipient = format!("{custody}@receiver.test");
        api.message_with_status(&world.send_to(&now, &recipient), "delivered");
        now.assert_signed(&world.receiver.wait_for_recipient(&recipient).octets, &mut dkimpy, &world.named);
    }
    assert_eq!(custodies(api, &domain.id), ["sealed", "aws-kms", "aws-kms-envelope", "sealed"]);
    assert_eq!(states(api, &domain.id), ["retiring", "retiring", "retiring", "active"]);
}

/// A domain whose first key was made elsewhere. The key that was made here first never comes to sign.
fn with_an_imported_key(world: &World) -> Domain {
    let api = &world.tenant.api;
    let made =
        Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output();
    let private_key = String::from_utf8(made.unwrap().stdout).unwrap();
    world.app.learn_secret("the imported key", &private_key.as_bytes()[200..240]);
    let domain = api.post("/v1/domains", &json!({"name": "example.test"})).expect(201).json();
    let path = format!("/v1/domains/{}", domain["id"].as_str().unwrap());
    let imported = json!({"private_key": private_key, "selector": "mail.2026"});
    api.post(&format!("{path}/keys/import"), &imported).expect(201);
    let first = domain["keys"][0]["id"].as_str().unwrap();
    api.post_empty(&format!("/v1/keys/{first}/revoke")).expect(200);
    let records = api.get(&format!("{path}/records")).expect(200).json();
    for record in records["data"].as_array().unwrap().iter().filter(|record| record["required"] == true) {
        world.named.publish(record);
    }
    let domain = Domain::from_json(&api.post_empty(&format!("{path}/signing/enable")).expect(200).json());
    assert_eq!(domain.selector, "mail.2026");
    domain
}

#[test]
fn a_rotation_with_late_dns_from_an_imported_key() {
    let sink = sink();
    let world = World::start_with(|app| sink_settings(app, &sink));
    let domain = with_an_imported_key(&world);
    let next = rotation_of(&world, &sink, vec![world.tenant.api.clone()], true, &domain);
    assert_eq!(next["custody"], "sealed", "what was made elsewhere is followed by what is made here");
}

#[test]
fn a_rotation_with_late_dns_from_an_imported_key_on_postgresql() {
    on_postgresql(|app| app, with_an_imported_key);
}

/// Posts so many messages to recipients that are not taken yet, and waits until all of them are deferred.
fn defer(apis: &[Api], count: usize) {
    std::thread::scope(|scope| {
        let posting: Vec<_> = (0..8)
            .map(|number| {
                scope.spawn(move || {
                    for n in (number..count).step_by(8) {
                        let to = format!("greylist+{n}@receiver.test");
                        let message = json!({"from": "ann@example.test", "to": [to], "subject": "x", "text": "y"});
                        apis[number % apis.len()].post("/v1/messages", &message).expect(202);
                    }
                })
            })
            .collect();
        posting.into_iter().for_each(|posting| posting.join().unwrap());
    });
    wait_until_none_is(&apis[0], &["queued", "sending"]);
}

fn wait_until_none_is(api: &Api, statuses: &[&str]) {
    let is_empty = |status: &str| {
        let page = api.get(&format!("/v1/messages?status={status}&limit=1")).expect(200).json();
        page["data"].as_array().unwrap().is_empty()
    };
    wait_for(&format!("no message is {statuses:?}"), DEADLINE * 6, || {
        statuses.iter().all(|status| is_empty(status)).then_some(())
    });
}

/// All are there, once each, and verify with the DNS of now as signed by this key.
fn assert_arrived(world: &World, receiver: &Receiver, count: usize, selector: &str) {
    let mut dkimpy = DkimPy::start();
    let messages = receiver.messages();
    let mut recipients: Vec<&String> = messages.iter().flat_map(|message| &message.rcpt).collect();
    recipients.sort();
    recipients.dedup();
    assert_eq!((messages.len(), recipients.len()), (count, count), "each once");
    for message in &messages {
        let signers: Vec<String> = signature_fields(&message.octets).iter().map(|tags| tags["s"].clone()).collect();
        assert_eq!(signers, [selector]);
        assert_eq!(dkimpy.verify_with_dns(&message.octets, world.named.address()), [true]);
    }
}

/// A statement on a database that no process has open.
fn on_sqlite(file: &Path, statement: &str) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit(); c.close()";
    let output = Command::new("python3").args(["-c", script]).arg(file).arg(statement).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const ALL_DUE: &str = "UPDATE recipients SET next_attempt_at = 0 WHERE status = 'deferred'";

/// A receiver without TLS: a thousand handshakes are no part of this.
fn plain_receiver() -> Receiver {
    Receiver::start_with(&["--no-tls"])
}

fn quiet(app: AppBuilder, receiver: &Receiver) -> AppBuilder {
    app.relay(receiver).env("SIGNPOST_LOG", "info")
}

#[test]
fn a_thousand_deferred_messages_of_a_revoked_key_wait_for_the_next_one_and_arrive_valid() {
    let receiver = plain_receiver();
    let mut world = World::start_with(|app| quiet(app, &receiver));
    let domain = world.enabled_domain("example.test", "ed25519");
    let api = world.tenant.api.clone();
    defer(std::slice::from_ref(&api), DEFERRED);
    let first = keys(&api, &domain.id).remove(0);
    let revoked = api.post_empty(&format!("/v1/keys/{}/revoke", first["id"].as_str().unwrap())).expect(200).json();
    assert_eq!(revoked["state"], "revoked");
    let shown = api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json();
    assert_eq!((&shown["signing"], &shown["signing_reason"]), (&json!("suspended"), &json!("key_unavailable")));
    let record = record_of(&api, &domain.id, &first);
    assert_eq!(record["value"], "v=DKIM1; p=");
    world.named.publish(&record);

    // From now on everything is taken: what does not arrive is held back by us.
    receiver.open_gate();
    world.app.stop();
    on_sqlite(&world.app.data_folder().join("signpost.db"), ALL_DUE);
    world.app.start();
    wait_until_none_is(&api, &["deferred", "queued", "sending"]);
    assert_eq!(receiver.messages().len(), 0, "it left with the signature of a revoked key");
    let sign = api.post_message("/v1/sign", b"From: ann@example.test\r\n\r\nx\r\n");
    sign.problem(409, "signing-suspended");

    let next = rotate_and_publish(&world, &domain.id);
    assert_eq!(api.get(&format!("/v1/domains/{}", domain.id)).expect(200).json()["signing"], "enabled");
    wait_until_none_is(&api, &["held", "awaiting_signature", "queued", "sending", "deferred"]);
    assert_arrived(&world, &receiver, DEFERRED, next["selector"].as_str().unwrap());
}

#[test]
fn a_thousand_deferred_messages_of_a_revoked_key_are_signed_anew_by_the_active_one_on_postgresql() {
    let (receiver, server) = (plain_receiver(), PostgresServer::start());
    let database = server.database();
    let with = |app: AppBuilder| quiet(app, &receiver).env("SIGNPOST_DATABASE_URL", database.as_str());
    let world = World::start_with(with);
    let other = with(App::with().dns(&world.named))
        .env("SIGNPOST_MASTER_KEY_FILE", world.app.master_key_file().display().to_string())
        .start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let api = world.tenant.api.clone();
    defer(&[api.clone(), other.api().with_token(&world.tenant.token)], DEFERRED);
    let first = keys(&api, &domain.id).remove(0);
    let next = rotate_and_publish(&world, &domain.id);
    api.post_empty(&format!("/v1/keys/{}/revoke", first["id"].as_str().unwrap())).expect(200);
    assert_eq!(states(&api, &domain.id), ["revoked", "active"]);
    world.named.publish(&record_of(&api, &domain.id, &first));
    receiver.open_gate();
    server.sql(&database, ALL_DUE);
    wait_until_none_is(&api, &["deferred", "queued", "sending", "held", "awaiting_signature"]);
    assert_arrived(&world, &receiver, DEFERRED, next["selector"].as_str().unwrap());
}

#[test]
fn a_revoked_key_signs_no_more_on_any_process_within_five_seconds() {
    let server = PostgresServer::start();
    let database = server.database();
    let world = World::start_with(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    let other = App::with()
        .dns(&world.named)
        .relay(&world.receiver)
        .env("SIGNPOST_DATABASE_URL", database.as_str())
        .env("SIGNPOST_MASTER_KEY_FILE", world.app.master_key_file().display().to_string())
        .start();
    let domain = enabled_domain(&world.tenant, &world.named, "example.test", "ed25519");
    let there = other.api().with_token(&world.tenant.token);
    let sign = |api: &Api| api.post_message("/v1/sign", b"From: ann@example.test\r\n\r\nx\r\n");
    for _ in 0..20 {
        sign(&there).expect(200);
    }
    let key = keys(&world.tenant.api, &domain.id).remove(0);
    world.tenant.api.post_empty(&format!("/v1/keys/{}/revoke", key["id"].as_str().unwrap())).expect(200);
    sign(&world.tenant.api).problem(409, "signing-suspended");
    wait_for("the other process refuses", Duration::from_secs(5), || (sign(&there).status == 409).then_some(()));
    for _ in 0..20 {
        sign(&there).problem(409, "signing-suspended");
    }
    let message = json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
    let accepted = there.post("/v1/messages", &message).expect(202).json();
    assert_eq!((&accepted["status"], &accepted["signatures"]), (&json!("awaiting_signature"), &json!([])));
    assert_eq!(world.receiver.messages().len(), 0);
}

#[test]
fn what_stood_at_the_name_before_is_waited_for() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let api = &world.tenant.api;
    let next = rotate(api, &domain.id).expect(201).json();
    let record = record_of(api, &domain.id, &next);
    let name = record["name"].as_str().unwrap();
    world.named.update(
        name,
        &format!("update add {name}. 6 TXT \"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"\n"),
    );
    let check = || api.post_empty(&format!("/v1/domains/{}/check", domain.id)).expect(200).json();
    check();
    assert_eq!(states(api, &domain.id), ["active", "pending"]);
    let until = signpost_it::now() + 6;
    world.named.publish(&record);
    let mut checked_at = 0;
    wait_for("the record is seen", DEADLINE, || {
        // Once a second: a tenant has 120 checks a minute.
        if checked_at < signpost_it::now() {
            checked_at = signpost_it::now();
            check();
        }
        let shown = keys(api, &domain.id).remove(1);
        let early = signpost_it::now() + 1 < until;
        assert!(!early || shown["state"] != "active", "caches may still hold what stood there: {shown:#}");
        if shown["state"] == "published" {
            assert!(shown["signs_from"].is_string(), "{shown:#}");
        }
        (shown["state"] == "active").then_some(())
    });
}

#[test]
fn a_schedule_prepares_the_next_key_and_waits_for_its_record() {
    let server = PostgresServer::start();
    let database = server.database();
    let mut world = World::start_with(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    let domain = world.enabled_domain("example.test", "ed25519");
    let path = format!("/v1/domains/{}/signing-policy", domain.id);
    let api = world.tenant.api.clone();
    let patch = |body: &str| api.call("PATCH", &path, Some("application/json"), body.as_bytes().to_vec());
    assert_eq!(api.get(&path).expect(200).json()["rotation_days"], 180);
    assert_eq!(patch(r#"{"rotation_days": 30}"#).expect(200).json()["rotation_days"], 30);
    assert_eq!(patch("{}").expect(200).json()["rotation_days"], 30, "what is left out stays");
    world.app.stop();
    server.sql(&database, "UPDATE dkim_keys SET state_since = state_since - CAST(30 AS BIGINT) * 86400000");
    world.app.start();
    wait_for("the next key is made", DEADLINE, || (states(&api, &domain.id) == ["active", "pending"]).then_some(()));
    let asked = "SELECT COUNT(*) FROM events WHERE kind = 'key.rotation_waiting' AND domain = 'example.test'";
    assert_eq!(server.sql(&database, asked), "1");
    let next = keys(&api, &domain.id).remove(1);
    world.named.publish(&record_of(&api, &domain.id, &next));
    wait_for("it signs", DEADLINE * 3, || (states(&api, &domain.id) == ["retiring", "active"]).then_some(()));
    let kinds = "SELECT kind FROM events WHERE domain = 'example.test' AND kind LIKE 'key.%' ORDER BY at, id";
    let told = server.sql(&database, kinds);
    let expected = ["key.published", "key.activated", "key.rotation_waiting", "key.published", "key.activated"];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(patch(r#"{"rotation_days": null}"#).expect(200).json()["rotation_days"], Value::Null);
}

#[test]
fn wrong_requests_about_keys_are_refused_and_change_nothing() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let api = &world.tenant.api;
    let rotate = format!("/v1/domains/{}/keys/rotate", domain.id);
    let json_call = |method: &str, path: &str, body: &str| {
        api.call(method, path, Some("application/json"), body.as_bytes().to_vec())
    };
    for (body, pointer) in [
        (r#"{"algorithm": "rsa-1024"}"#, "/algorithm"),
        (r#"{"algorithm": 7}"#, "/algorithm"),
        (r#"{"custody": "paper"}"#, "/custody"),
        (r#"{"selector": "mine"}"#, "/selector"),
        ("[]", ""),
    ] {
        let answer = json_call("POST", &rotate, body);
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), [pointer], "{body}");
    }
    json_call("POST", &rotate, "{").problem(400, "malformed-json");
    api.call("POST", &rotate, Some("text/plain"), b"{}".to_vec()).problem(415, "unsupported-media-type");
    let policy = format!("/v1/domains/{}/signing-policy", domain.id);
    for body in [
        r#"{"rotation_days": 0}"#,
        r#"{"rotation_days": -1}"#,
        r#"{"rotation_days": 3651}"#,
        r#"{"rotation_days": 1.5}"#,
        r#"{"rotation_days": "180"}"#,
        r#"{"rotation_days": 99999999999999999999}"#,
    ] {
        let answer = json_call("PATCH", &policy, body);
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/rotation_days"], "{body}");
    }
    json_call("PATCH", &policy, r#"{"colour": 1}"#).problem(422, "invalid-request");
    let absent = "0".repeat(32);
    for path in [
        format!("/v1/keys/key_{absent}/revoke"),
        format!("/v1/keys/dom_{absent}/revoke"),
        "/v1/keys/x/revoke".to_owned(),
        format!("/v1/domains/dom_{absent}/keys/rotate"),
    ] {
        api.post_empty(&path).problem(404, "not-found");
    }
    assert_eq!(states(api, &domain.id), ["active"]);
    for body in [r#"{"dual_signing": null}"#, r#"{"dual_signing": "yes"}"#, r#"{"dual_signing": 1}"#] {
        let answer = json_call("PATCH", &policy, body);
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/dual_signing"], "{body}");
    }
    let unchanged = json!({"rotation_days": 180, "dual_signing": false, "suspended_mail": "hold", "warnings": []});
    assert_eq!(api.get(&policy).expect(200).json(), unchanged);
    // A body that says nothing is none.
    assert_eq!(json_call("POST", &rotate, "{}").expect(201).json()["algorithm"], "ed25519");
    json_call("POST", &rotate, "{}").problem(409, "rotation-under-way");
    // The keys of a deleted domain are nobody's.
    let key = keys(api, &domain.id).remove(0);
    api.delete(&format!("/v1/domains/{}", domain.id)).expect(204);
    api.post_empty(&format!("/v1/keys/{}/revoke", key["id"].as_str().unwrap())).problem(404, "not-found");
}
