//! The life of a domain's keys, checks and credentials, seen from outside.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{Answer, DEADLINE, DkimPy, Domain, World, wait_for};
use std::os::unix::fs::PermissionsExt;

fn key_states(world: &World, domain: &Domain) -> Vec<String> {
    let keys = world.tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
    keys["data"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_second_key_takes_over_when_a_check_sees_its_record() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    let api = &world.tenant.api;
    let first = world.enabled_domain("example.test", "rsa-2048");
    let path = format!("/v1/domains/{}", first.id);
    let key = api.post(&format!("{path}/keys"), &json!({"algorithm": "ed25519"})).expect(201).json();
    assert_eq!(key["state"], "pending");
    // Not published yet: the check still passes, as the record of the key that signs is right, and nothing changes.
    let check = api.post_empty(&format!("{path}/check")).expect(200).json();
    assert_eq!(check["verdict"], "pass", "{check:#}");
    assert_eq!(key_states(&world, &first), ["active", "pending"]);
    let waiting = world.send_to(&first, "greylist@receiver.test");
    api.message_with_status(&waiting, "deferred");

    let records = api.get(&format!("{path}/records")).expect(200).json();
    let name = format!("{}._domainkey.example.test", key["selector"].as_str().unwrap());
    let record = records["data"].as_array().or_else(|| records["records"].as_array()).or_else(|| records.as_array());
    let record = record.unwrap().iter().find(|r| r["name"] == name.as_str()).unwrap();
    assert_eq!(record["required"], false, "{record}");
    world.named.publish(record);
    api.post_empty(&format!("{path}/check")).expect(200);
    assert_eq!(key_states(&world, &first), ["retiring", "active"]);
    let second = Domain::from_json(&api.get(&path).expect(200).json());
    assert_ne!(second.selector, first.selector);

    let id = world.send_to(&second, "bob@receiver.test");
    api.message_with_status(&id, "delivered");
    second.assert_signed(&world.receiver.wait_for_recipient("bob@receiver.test").octets, &mut dkimpy, &world.named);
    // What the former key signed still verifies: its record stays listed and published.
    let raw = api.get(&format!("/v1/messages/{waiting}/raw")).expect(200);
    first.assert_signed(&raw.body, &mut dkimpy, &world.named);
}

#[test]
fn enabling_right_after_a_check_asks_no_dns_and_is_idempotent() {
    let World { app, tenant, named, receiver: _receiver } = World::start();
    let domain = signpost_it::enabled_domain(&tenant, &named, "example.test", "ed25519");
    let path = format!("/v1/domains/{}", domain.id);
    let call = |what: &str| tenant.api.post_empty(&format!("{path}/{what}"));
    assert_eq!(call("signing/disable").expect(200).json()["signing"], "disabled");
    assert_eq!(call("check").expect(200).json()["verdict"], "pass");
    let checks = |api: &signpost_it::Api| api.get(&format!("{path}/checks")).expect(200).json()["data"].clone();
    let before = checks(&tenant.api);
    drop(named);
    assert_eq!(call("signing/enable").expect(200).json()["signing"], "enabled");
    assert_eq!(call("signing/enable").expect(200).json()["signing"], "enabled");
    assert_eq!(checks(&tenant.api), before, "no further check was run");
    assert_eq!(call("signing/disable").expect(200).json()["signing"], "disabled");
    assert_eq!(call("signing/disable").expect(200).json()["signing"], "disabled");
    drop(app);
}

#[test]
fn the_121st_check_within_a_minute_is_a_429_that_says_when() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let path = format!("/v1/domains/{}/check", domain.id);
    // One was made already. Whatever each says, it counts.
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| (0..11).map(|_| world.tenant.api.post_empty(&path)).collect::<Vec<_>>()))
            .collect();
        calls.into_iter().flat_map(|call| call.join().unwrap()).collect()
    });
    let limited: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!limited.is_empty(), "132 checks went through");
    for answer in &limited {
        answer.problem(429, "rate-limited");
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=61).contains(&seconds), "{seconds}");
    }
    // Another tenant has its own count.
    let bert = world.app.tenant("Bert");
    let other = bert.api.post("/v1/domains", &json!({"name": "other.test"})).expect(201).json();
    bert.api.post_empty(&format!("/v1/domains/{}/check", other["id"].as_str().unwrap())).expect(200);
}

#[test]
fn the_last_use_of_a_key_appears_in_the_list() {
    let world = World::start();
    let issued = world.tenant.api.post("/v1/api-keys", &json!({"name": "n", "scopes": ["sign"]})).expect(201).json();
    let token = issued["api_key"].as_str().unwrap();
    world.app.learn_token(token);
    let of = |list: &Value| list["data"].as_array().unwrap().iter().find(|k| k["id"] == issued["id"]).unwrap().clone();
    let list = || world.tenant.api.get("/v1/api-keys").expect(200).json();
    assert_eq!(of(&list())["last_used_at"], Value::Null);
    world.app.api().with_token(token).get("/v1/domains").problem(403, "missing-scope");
    wait_for("the last use is written down", DEADLINE, || of(&list())["last_used_at"].is_string().then_some(()));
}

#[test]
fn a_key_file_that_others_can_read_seals_and_its_mending_is_noticed_without_a_restart() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let file = world.app.master_key_file();
    world.app.stop();
    let before = world.app.log().len();
    let mode = |mode: u32| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    world.app.start_until(503);
    world.app.api().get("/readyz").problem(503, "sealed");
    let log = world.app.log()[before..].to_owned();
    assert!(log.contains("chmod 600") && log.contains(&file.display().to_string()), "{log}");
    mode(0o600);
    wait_for("the right key is noticed", DEADLINE, || (world.app.api().get("/readyz").status == 200).then_some(()));
    let id = world.send_to(&domain, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "delivered");
}

#[test]
fn deleting_a_domain_cancels_what_has_not_left() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let deferred = world.send_to(&domain, "greylist@receiver.test");
    world.tenant.api.message_with_status(&deferred, "deferred");
    let scheduled = world.send(&json!({
        "from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y",
        "send_at": later(3600),
    }));
    assert_eq!(world.tenant.api.message_with_status(&scheduled, "scheduled")["signatures"], json!([]));
    let raw = world.tenant.api.get(&format!("/v1/messages/{scheduled}/raw")).expect(200);
    assert!(!raw.text().to_lowercase().contains("dkim-signature"), "{}", raw.text());
    world.tenant.api.delete(&format!("/v1/domains/{}", domain.id)).expect(204);
    for id in [&deferred, &scheduled] {
        world.tenant.api.message_with_status(id, "cancelled");
        assert_eq!(world.tenant.api.event_types(id).last().map(String::as_str), Some("message.cancelled"));
    }
    assert_eq!(world.receiver.messages().len(), 0);
}

fn later(seconds: u64) -> String {
    let date = std::process::Command::new("date")
        .args(["-u", "-d", &format!("@{}", signpost_it::now() + seconds), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

#[test]
fn mail_with_a_time_leaves_then_with_a_date_of_that_moment() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let at = signpost_it::now() + 3;
    let id = world.send(&json!({
        "from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y", "send_at": later(3),
    }));
    world.tenant.api.message_with_status(&id, "delivered");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    domain.assert_signed(&received.octets, &mut dkimpy, &world.named);
    let signed: u64 = signpost_it::signature_fields(&received.octets)[0]["t"].parse().unwrap();
    assert!(signed >= at, "signed at {signed}, not before its time {at}");
    let date = signpost_it::unfolded_field(&received.octets, "Date").remove(0);
    let seconds = std::process::Command::new("date").args(["-d", &date, "+%s"]).output().unwrap();
    let seconds: u64 = String::from_utf8(seconds.stdout).unwrap().trim().parse().unwrap();
    assert_eq!(seconds, signed, "Date is the release: {date}");
}

#[test]
fn a_mail_loop_is_refused_and_a_long_way_is_not_one() {
    let world = World::start();
    world.enabled_domain("example.test", "ed25519");
    let rest = "From: ann@example.test\r\nTo: bob@receiver.test\r\nSubject: x\r\n\r\nbody\r\n";
    let id =
        world.send(&json!({"from": "ann@example.test", "to": ["seed@receiver.test"], "subject": "x", "text": "y"}));
    world.tenant.api.message_with_status(&id, "delivered");
    let seed = world.receiver.wait_for_recipient("seed@receiver.test");
    let own = signpost_it::unfolded_field(&seed.octets, "Received").remove(0);
    let post = |trace: &str, count: usize| {
        let raw = format!("{}{rest}", format!("Received: {trace}\r\n").repeat(count));
        world.tenant.api.post_message("/v1/messages/raw", raw.as_bytes())
    };
    post(&own, 4).expect(202);
    let problem = post(&own, 5).problem(422, "invalid-request");
    assert_eq!(problem["errors"][0]["header"], "Received", "{problem}");
    let foreign = "from a.example by b.example with SMTP id 1; Wed, 25 Nov 2026 01:00:00 +0000";
    // RFC 5321 6.3 counts to 100; ours is one of them.
    let accepted = post(foreign, 99).expect(202).json();
    let id = accepted["id"].as_str().unwrap();
    world.tenant.api.message_with_status(id, "delivered");
    let longest = world.receiver.messages().pop().unwrap();
    assert_eq!(signpost_it::unfolded_field(&longest.octets, "Received").len(), 100);
}
