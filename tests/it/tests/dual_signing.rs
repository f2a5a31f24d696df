//! Dual signing (RFC 8463 5), seen from outside: an RSA and an Ed25519 signature in each message, and each key with a life of its own.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    Api, App, DEADLINE, DkimPy, Domain, Kms, MailAuthJudge, Named, Postfix, PostgresServer, Receiver, World,
    our_verdict, signature_fields, wait_for,
};
use std::collections::BTreeMap;

const DEFERRED: usize = 40;

/// A domain and its tenant.
struct Sender<'a> {
    api: &'a Api,
    named: &'a Named,
    id: String,
}

impl Sender<'_> {
    fn path(&self, what: &str) -> String {
        format!("/v1/domains/{}/{what}", self.id)
    }

    fn keys(&self) -> Vec<Value> {
        self.api.get(&self.path("keys")).expect(200).json()["data"].as_array().unwrap().clone()
    }

    fn states(&self) -> Vec<String> {
        self.keys().iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect()
    }

    /// The policy after the switch.
    fn switch(&self, on: bool) -> Value {
        let body = json!({"dual_signing": on}).to_string().into_bytes();
        let policy = self.api.call("PATCH", &self.path("signing-policy"), Some("application/json"), body);
        let policy = policy.expect(200).json();
        assert_eq!(policy["dual_signing"], on);
        assert_eq!(self.api.get(&self.path("signing-policy")).expect(200).json(), policy);
        policy
    }

    fn check(&self) -> Value {
        self.api.post_empty(&self.path("check")).expect(200).json()
    }

    fn dkim_records(&self) -> Vec<Value> {
        let records = self.api.get(&self.path("records")).expect(200).json()["data"].clone();
        records.as_array().unwrap().iter().filter(|record| record["purpose"] == "dkim").cloned().collect()
    }

    fn record_of(&self, key: &Value) -> Value {
        let name = format!("{}._domainkey.example.test", selector(key));
        self.dkim_records().into_iter().find(|record| record["name"] == name.as_str()).unwrap()
    }

    /// A key of this kind that signs at the end.
    fn add_key(&self, algorithm: &str) -> Value {
        let key = self.api.post(&self.path("keys"), &json!({"algorithm": algorithm})).expect(201).json();
        self.publish_and_check(&key)
    }

    fn rotate(&self, algorithm: &str) -> Value {
        let body = json!({"algorithm": algorithm});
        let key = self.api.post(&self.path("keys/rotate"), &body).expect(201).json();
        self.api.post(&self.path("keys/rotate"), &body).problem(409, "rotation-under-way");
        self.publish_and_check(&key)
    }

    fn publish_and_check(&self, key: &Value) -> Value {
        self.named.publish(&self.record_of(key));
        self.check();
        let shown = self.keys().into_iter().find(|shown| shown["id"] == key["id"]).unwrap();
        assert_eq!(shown["state"], "active", "{shown:#}");
        shown
    }

    fn revoke(&self, key: &Value) {
        self.api.post_empty(&format!("/v1/keys/{}/revoke", key["id"].as_str().unwrap())).expect(200);
    }

    fn sign(&self) -> Value {
        let message = b"From: ann@example.test\r\nSubject: x\r\n\r\nHello there.\r\n";
        self.api.post_message("/v1/sign", message).expect(200).json()
    }

    /// Each judge sees these signatures, from the top, and passes all of them.
    fn assert_signed_by(&self, octets: &[u8], keys: &[&Value], judges: &mut Judges) {
        let text = String::from_utf8_lossy(octets);
        let selectors: Vec<&str> = keys.iter().map(|key| selector(key)).collect();
        let fields = signature_fields(octets);
        assert_eq!(fields.iter().map(|tags| tags["s"].as_str()).collect::<Vec<_>>(), selectors, "{text}");
        for (tags, key) in fields.iter().zip(keys) {
            let kind = if key["algorithm"] == "ed25519" { "ed25519-sha256" } else { "rsa-sha256" };
            assert_eq!((tags["a"].as_str(), tags["d"].as_str()), (kind, "example.test"));
            assert!(!tags["h"].to_ascii_lowercase().contains("dkim-signature"), "neither signs the other: {text}");
        }
        assert!(fields.iter().all(|tags| tags["bh"] == fields[0]["bh"] && tags["t"] == fields[0]["t"]), "{text}");
        let all = vec![true; keys.len()];
        assert_eq!(judges.dkimpy.verify_with_dns(octets, self.named.address()), all, "{text}");
        let records = self.dkim_records();
        let part = |record: &Value, name: &str| record[name].as_str().unwrap().to_owned();
        let txt: BTreeMap<_, _> = records.iter().map(|record| (part(record, "name"), part(record, "value"))).collect();
        let others = judges.mail_auth.verify(octets, &txt);
        let mut passed: Vec<&str> = others.iter().map(|(_, selector, _)| selector.as_str()).collect();
        passed.sort_unstable();
        let mut expected = selectors.clone();
        expected.sort_unstable();
        assert_eq!(passed, expected, "{others:?}");
        assert!(others.iter().all(|(_, _, result)| *result == "pass"), "{others:?}");
        let ours = our_verdict(octets, &txt);
        assert_eq!(ours.len(), keys.len(), "{ours:?}");
        assert!(ours.iter().all(|one| one.result.as_str() == "pass"), "{ours:?}");
    }
}

/// Who says what a signature is worth.
struct Judges {
    dkimpy: DkimPy,
    mail_auth: MailAuthJudge,
}

impl Judges {
    fn start() -> Self {
        Self { dkimpy: DkimPy::start(), mail_auth: MailAuthJudge::new() }
    }
}

fn selector(key: &Value) -> &str {
    key["selector"].as_str().unwrap()
}

fn selectors(signatures: &Value) -> Vec<&str> {
    signatures.as_array().unwrap().iter().map(selector).collect()
}

fn sender<'a>(world: &'a World, domain: &Domain) -> Sender<'a> {
    Sender { api: &world.tenant.api, named: &world.named, id: domain.id.clone() }
}

/// A domain that signs with both, and its keys: RSA, Ed25519.
fn dual(world: &World) -> (Domain, Value, Value) {
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let sender = sender(world, &domain);
    sender.switch(true);
    let ed25519 = sender.add_key("ed25519");
    (domain, sender.keys().remove(0), ed25519)
}

/// Sends one message; gives it as it is listed and as it arrived.
fn through(world: &World, domain: &Domain, recipient: &str) -> (Value, Vec<u8>) {
    let id = world.send_to(domain, recipient);
    let listed = world.tenant.api.message_with_status(&id, "delivered");
    (listed, world.receiver.wait_for_recipient(recipient).octets)
}

fn whole_life(world: &World) {
    let mut judges = Judges::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let sender = sender(world, &domain);
    let rsa = sender.keys().remove(0);

    let policy = sender.switch(true);
    let warnings = policy["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{policy:#}");
    assert!(warnings[0].as_str().unwrap().contains("report that signature as failed"), "{policy:#}");
    assert!(warnings[1].as_str().unwrap().contains(r#"{"algorithm": "ed25519"}"#), "{policy:#}");
    assert_eq!(sender.states(), ["active"], "it makes no key by itself");
    assert_eq!(sender.check()["verdict"], "pass", "a key that does not exist has no record");
    let (_, octets) = through(world, &domain, "one@receiver.test");
    sender.assert_signed_by(&octets, &[&rsa], &mut judges);

    let ed25519 = sender.api.post(&sender.path("keys"), &json!({"algorithm": "ed25519"})).expect(201).json();
    let check = sender.check();
    assert_eq!(check["verdict"], "fail", "one record of each kind is required: {check:#}");
    assert_eq!((sender.record_of(&ed25519)["required"].clone(), sender.states()[0].as_str()), (json!(true), "active"));
    let (_, octets) = through(world, &domain, "two@receiver.test");
    sender.assert_signed_by(&octets, &[&rsa], &mut judges);

    sender.publish_and_check(&ed25519);
    assert_eq!(sender.check()["verdict"], "pass");
    assert_eq!(sender.states(), ["active", "active"]);
    assert!(sender.dkim_records().iter().all(|record| record["required"] == true && record["status"] == "ok"));
    let policy = sender.api.get(&sender.path("signing-policy")).expect(200).json();
    assert_eq!(policy["warnings"].as_array().unwrap().len(), 1, "{policy:#}");
    let (listed, octets) = through(world, &domain, "three@receiver.test");
    assert_eq!(selectors(&listed["signatures"]), [selector(&rsa), selector(&ed25519)]);
    sender.assert_signed_by(&octets, &[&rsa, &ed25519], &mut judges);
    let signed = sender.sign();
    assert_eq!(selectors(&signed["signatures"]), [selector(&rsa), selector(&ed25519)]);
    let prepend: String = signed["prepend"].as_array().unwrap().iter().map(|field| field.as_str().unwrap()).collect();
    let whole = format!("{prepend}From: ann@example.test\r\nSubject: x\r\n\r\nHello there.\r\n");
    sender.assert_signed_by(whole.as_bytes(), &[&rsa, &ed25519], &mut judges);

    let next = sender.rotate("ed25519");
    assert_eq!(sender.states(), ["active", "retiring", "active"]);
    let (_, later) = through(world, &domain, "four@receiver.test");
    sender.assert_signed_by(&later, &[&rsa, &next], &mut judges);
    sender.assert_signed_by(&octets, &[&rsa, &ed25519], &mut judges);
    assert_eq!(sender.record_of(&ed25519)["required"], false);
    let stronger = sender.rotate("rsa-3072");
    assert_eq!(sender.states(), ["retiring", "retiring", "active", "active"]);
    let (_, octets) = through(world, &domain, "five@receiver.test");
    sender.assert_signed_by(&octets, &[&stronger, &next], &mut judges);

    sender.revoke(&next);
    let shown = sender.api.get(&format!("/v1/domains/{}", sender.id)).expect(200).json();
    assert_eq!(shown["signing"], "enabled", "the RSA key signs on");
    let (listed, octets) = through(world, &domain, "six@receiver.test");
    assert_eq!(selectors(&listed["signatures"]), [selector(&stronger)]);
    sender.assert_signed_by(&octets, &[&stronger], &mut judges);
    sender.revoke(&stronger);
    let shown = sender.api.get(&format!("/v1/domains/{}", sender.id)).expect(200).json();
    assert_eq!((&shown["signing"], &shown["signing_reason"]), (&json!("suspended"), &json!("key_unavailable")));
    let id = world.send_to(&domain, "seven@receiver.test");
    sender.api.message_with_status(&id, "awaiting_signature");
    assert!(world.receiver.messages().iter().all(|message| message.rcpt != ["seven@receiver.test"]));
}

#[test]
fn two_keys_sign_rotate_and_are_revoked_apart_on_sqlite() {
    whole_life(&World::start());
}

#[test]
fn two_keys_sign_rotate_and_are_revoked_apart_on_postgresql() {
    let server = PostgresServer::start();
    let database = server.database();
    whole_life(&World::start_with(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str())));
}

#[test]
fn deferred_mail_of_a_revoked_ed25519_key_arrives_with_the_rsa_signature_alone() {
    let server = PostgresServer::start();
    let database = server.database();
    let world = World::start_with(|app| app.env("SIGNPOST_DATABASE_URL", database.as_str()));
    let (domain, rsa, ed25519) = dual(&world);
    let sender = sender(&world, &domain);
    let mut judges = Judges::start();
    let deferred: Vec<String> =
        (0..DEFERRED).map(|n| world.send_to(&domain, &format!("greylist+{n}@receiver.test"))).collect();
    for id in &deferred {
        let message = sender.api.message_with_status(id, "deferred");
        assert_eq!(selectors(&message["signatures"]), [selector(&rsa), selector(&ed25519)]);
    }
    sender.revoke(&ed25519);
    let record = sender.record_of(&ed25519);
    assert_eq!(record["value"], "v=DKIM1; p=");
    world.named.publish(&record);
    world.receiver.open_gate();
    server.sql(&database, "UPDATE recipients SET next_attempt_at = 0 WHERE status = 'deferred'");
    for id in &deferred {
        let message = sender.api.message_with_status(id, "delivered");
        assert_eq!(selectors(&message["signatures"]), [selector(&rsa)]);
    }
    let arrived = world.receiver.messages();
    assert_eq!(arrived.len(), DEFERRED, "each once");
    for message in &arrived {
        sender.assert_signed_by(&message.octets, &[&rsa], &mut judges);
    }
}

#[test]
fn two_keys_in_the_kms_sign_once_each_and_mail_waits_for_the_rsa_key_only() {
    let kms = Kms::start();
    let world = World::start_with(|app| app.keys_in(&kms));
    let (domain, rsa, ed25519) = dual(&world);
    let sender = sender(&world, &domain);
    let mut judges = Judges::start();
    let in_kms = |key: &Value| kms.key_of(key["id"].as_str().unwrap());
    let calls = kms.calls("Sign");
    let (_, octets) = through(&world, &domain, "one@receiver.test");
    sender.assert_signed_by(&octets, &[&rsa, &ed25519], &mut judges);
    assert_eq!(kms.calls("Sign"), calls + 2, "one message, one Sign for each signature");

    kms.disable(&in_kms(&ed25519));
    let (listed, octets) = through(&world, &domain, "two@receiver.test");
    assert_eq!(selectors(&listed["signatures"]), [selector(&rsa)]);
    sender.assert_signed_by(&octets, &[&rsa], &mut judges);
    let events = sender.api.events(listed["id"].as_str().unwrap());
    let signed = events.iter().find(|event| event["type"] == "message.signed").unwrap();
    assert_eq!(signed["details"]["left_out"]["selector"], ed25519["selector"], "{signed:#}");

    kms.enable(&in_kms(&ed25519));
    kms.disable(&in_kms(&rsa));
    let id = world.send_to(&domain, "three@receiver.test");
    let waiting = sender.api.message_with_status(&id, "awaiting_signature");
    assert_eq!(waiting["signatures"], json!([]), "to most receivers it would be unsigned");
    kms.enable(&in_kms(&rsa));
    let listed = sender.api.message_with_status(&id, "delivered");
    assert_eq!(selectors(&listed["signatures"])[0], selector(&rsa));
    let received = world.receiver.wait_for_recipient("three@receiver.test");
    let verdicts = judges.dkimpy.verify_with_dns(&received.octets, world.named.address());
    assert!(verdicts.len() == selectors(&listed["signatures"]).len() && verdicts.iter().all(|passes| *passes));
}

#[test]
fn switched_off_the_ed25519_key_retires_and_its_record_is_not_required_any_more() {
    let world = World::start();
    let (domain, rsa, ed25519) = dual(&world);
    let sender = sender(&world, &domain);
    let mut judges = Judges::start();
    let waiting = world.send_to(&domain, "greylist@receiver.test");
    sender.api.message_with_status(&waiting, "deferred");
    let policy = sender.switch(false);
    assert_eq!(policy["warnings"], json!([]));
    assert_eq!(sender.states(), ["active", "retiring"]);
    let (listed, octets) = through(&world, &domain, "bob@receiver.test");
    assert_eq!(selectors(&listed["signatures"]), [selector(&rsa)]);
    sender.assert_signed_by(&octets, &[&rsa], &mut judges);
    // What is on its way leaves as it is.
    let raw = sender.api.get(&format!("/v1/messages/{waiting}/raw")).expect(200);
    sender.assert_signed_by(&raw.body, &[&rsa, &ed25519], &mut judges);
    let former = sender.record_of(&ed25519);
    assert_eq!(former["required"], false);
    assert!(former["warnings"].to_string().contains("Keep this record until"), "{former:#}");
    let log = sender.api.get(&format!("/v1/audit?domain={}&limit=100", sender.id)).expect(200).json();
    let of = |action: &str| log["data"].as_array().unwrap().iter().find(|entry| entry["action"] == action).cloned();
    assert_eq!(of("key.retiring").unwrap()["object"], ed25519["id"]);
    assert_eq!(of("signing_policy.changed").unwrap()["after"]["dual_signing"], false);
}

#[test]
fn signing_is_enabled_once_the_records_of_both_kinds_are_right() {
    let world = World::start();
    let api = &world.tenant.api;
    let domain = api.post("/v1/domains", &json!({"name": "example.test", "algorithm": "rsa-2048"})).expect(201).json();
    let sender = Sender { api, named: &world.named, id: domain["id"].as_str().unwrap().to_owned() };
    sender.switch(true);
    let ed25519 = api.post(&sender.path("keys"), &json!({"algorithm": "ed25519"})).expect(201).json();
    let ownership = domain["records"].as_array().unwrap().iter().find(|r| r["purpose"] == "ownership").unwrap();
    world.named.publish(ownership);
    world.named.publish(&sender.record_of(&domain["keys"][0]));
    let refused = api.post_empty(&sender.path("signing/enable")).problem(409, "records-not-ready");
    assert!(refused["errors"].to_string().contains(selector(&ed25519)), "{refused:#}");
    assert_eq!(refused["errors"].as_array().unwrap().len(), 1, "{refused:#}");
    world.named.publish(&sender.record_of(&ed25519));
    let enabled = api.post_empty(&sender.path("signing/enable")).expect(200).json();
    assert_eq!(enabled["signing"], "enabled");
    assert_eq!(sender.states(), ["active", "active"]);
    assert_eq!(sender.sign()["signatures"].as_array().unwrap().len(), 2);
}

/// Published late, and checked by nobody: the service looks for the second key as for any other.
#[test]
fn the_second_key_signs_by_itself_when_its_record_is_there() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let sender = sender(&world, &domain);
    sender.switch(true);
    let ed25519 = sender.api.post(&sender.path("keys"), &json!({"algorithm": "ed25519"})).expect(201).json();
    world.named.publish(&sender.record_of(&ed25519));
    wait_for("both sign", DEADLINE * 3, || (sender.states() == ["active", "active"]).then_some(()));
}

#[test]
fn a_delegated_domain_has_no_name_for_a_second_key_and_says_so() {
    let (named, receiver) = (World::zones().start(), Receiver::start());
    let app = App::with().dns(&named).relay(&receiver).secret("TSIG secret", named.update_secret());
    let app = app.env("SIGNPOST_DNS_UPDATE", named.update_setting()).start();
    let tenant = app.tenant("Ann's shop");
    let new = json!({"name": "example.test", "dkim_mode": "delegated"});
    let domain = tenant.api.post("/v1/domains", &new).expect(201).json();
    let path = format!("/v1/domains/{}/signing-policy", domain["id"].as_str().unwrap());
    let patch = |body: Value| tenant.api.call("PATCH", &path, Some("application/json"), body.to_string().into_bytes());
    let refused = patch(json!({"dual_signing": true, "rotation_days": 30}));
    let problem = refused.problem(422, "invalid-request");
    assert_eq!(refused.pointers(), ["/dual_signing"]);
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("three names"), "{problem:#}");
    let unchanged = json!({"rotation_days": 180, "dual_signing": false, "suspended_mail": "hold", "warnings": []});
    assert_eq!(patch(json!({"dual_signing": false})).expect(200).json(), unchanged);
}

#[test]
fn a_receiver_that_knows_both_kinds_passes_both() {
    let named = World::zones().start();
    let mut postfix = Postfix::start(&named);
    let app = App::with().dns(&named).env("SIGNPOST_SMTP_PORT", postfix.port().to_string()).start();
    let tenant = app.tenant("Ann's shop");
    named.publish_txt("_dmarc.example.test", &["v=DMARC1; p=reject"]);
    let domain = signpost_it::enabled_domain(&tenant, &named, "example.test", "rsa-2048");
    let sender = Sender { api: &tenant.api, named: &named, id: domain.id };
    sender.switch(true);
    let ed25519 = sender.add_key("ed25519");
    let message =
        json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "Hello", "text": "Hello."});
    let accepted = tenant.api.post("/v1/messages", &message).expect(202).json();
    tenant.api.message_with_status(accepted["id"].as_str().unwrap(), "delivered");
    let received = postfix.wait_for_recipient("bob@receiver.test");
    let results = received.found("dkim");
    assert_eq!(results.len(), 2, "{results:?}");
    for key in [&sender.keys()[0], &ed25519] {
        let of_key = format!("header.s={}", selector(key));
        let result = results.iter().find(|result| result.contains(&of_key));
        assert!(result.is_some_and(|result| result.starts_with("dkim=pass")), "{of_key} in {results:?}");
    }
    assert!(received.found("dmarc")[0].starts_with("dmarc=pass"), "{:?}", received.results);
}
