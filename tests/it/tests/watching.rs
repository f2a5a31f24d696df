//! Domains whose records go and come back, seen from outside. Looks are minutes apart: the test moves their times in the database.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    Answer, Api, App, AppBuilder, DEADLINE, DkimPy, Domain, Named, PostgresServer, Receiver, Unbound, World,
    enabled_domain, wait_for,
};
use std::time::Duration;

fn policy(rotation_days: u32, suspended_mail: &str) -> Value {
    json!({"rotation_days": rotation_days, "dual_signing": false, "suspended_mail": suspended_mail, "warnings": []})
}

/// Two processes on one database, one enabled domain.
struct Watched {
    world: World,
    _other: App,
    server: PostgresServer,
    database: String,
    domain: Domain,
    /// The records that are published for it.
    records: Vec<Value>,
}

impl Watched {
    fn start() -> Self {
        Self::start_with(|_, app| app)
    }

    /// With further settings of both processes.
    fn start_with(settings: impl Fn(&Named, AppBuilder) -> AppBuilder) -> Self {
        let (server, named, receiver) = (PostgresServer::start(), World::zones().start(), Receiver::start());
        let database = server.database();
        let process = || {
            let app = App::with().dns(&named).relay(&receiver).env("SIGNPOST_DATABASE_URL", database.as_str());
            settings(&named, app)
        };
        let app = process().start();
        let key = app.master_key_file().display().to_string();
        let other = process().env("SIGNPOST_MASTER_KEY_FILE", key).start();
        let tenant = app.tenant("Ann");
        let world = World { app, tenant, named, receiver };
        let domain = enabled_domain(&world.tenant, &world.named, "example.test", "ed25519");
        let path = format!("/v1/domains/{}/records", domain.id);
        let records = world.tenant.api.get(&path).expect(200).json()["data"].as_array().unwrap().clone();
        let watched = Self { world, _other: other, server, database, domain, records };
        wait_for("the first look is planned", DEADLINE, || {
            (!watched.sql("SELECT next_look_at FROM domains").is_empty()).then_some(())
        });
        watched
    }

    fn api(&self) -> &Api {
        &self.world.tenant.api
    }

    fn sql(&self, text: &str) -> String {
        self.server.sql(&self.database, text)
    }

    /// Lets so many minutes pass for what watching knows, and waits until the look that is due then was made.
    fn look_after(&self, minutes: u32) {
        let ms = minutes * 60_000;
        self.sql(&format!(
            "UPDATE domains SET next_look_at = 0, unsure_since = unsure_since - {ms},
             record_wrong_since = record_wrong_since - {ms}, ownership_wrong_since = ownership_wrong_since - {ms}"
        ));
        // While a look is under way the time is the end of its claim, a minute ahead.
        let looked =
            "SELECT COUNT(*) FROM domains WHERE next_look_at > (EXTRACT(EPOCH FROM now()) * 1000)::BIGINT + 90000";
        wait_for("a look", DEADLINE, || (self.sql(looked) == "1").then_some(()));
    }

    fn three_looks(&self) {
        for minutes in [0, 5, 10] {
            self.look_after(minutes);
        }
    }

    fn record(&self, purpose: &str) -> &Value {
        self.records.iter().find(|record| record["purpose"] == purpose).unwrap()
    }

    fn withdraw(&self, purpose: &str) {
        self.world.named.withdraw_txt(self.record(purpose)["name"].as_str().unwrap());
    }

    fn publish(&self, purpose: &str) {
        self.world.named.publish(self.record(purpose));
    }

    /// (ownership, signing, reason)
    fn standing(&self) -> Value {
        let shown = self.api().get(&format!("/v1/domains/{}", self.domain.id)).expect(200).json();
        json!([shown["ownership"], shown["signing"], shown["signing_reason"]])
    }

    /// Events of ownership and signing since the domain was enabled, oldest first.
    fn events(&self) -> Vec<String> {
        let text = "SELECT kind FROM events WHERE kind LIKE 'domain.%' ORDER BY at, id";
        self.sql(text).lines().skip(1).map(str::to_owned).collect()
    }

    fn post(&self) -> Answer {
        let message = json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
        self.api().post("/v1/messages", &message)
    }

    fn sign(&self) -> Answer {
        self.api().post_message("/v1/sign", b"From: ann@example.test\r\n\r\nx\r\n")
    }

    fn choose(&self, suspended_mail: &str) -> Answer {
        let path = format!("/v1/domains/{}/signing-policy", self.domain.id);
        let body = json!({"suspended_mail": suspended_mail}).to_string();
        self.api().call("PATCH", &path, Some("application/json"), body.into_bytes())
    }
}

#[test]
fn a_key_record_that_is_gone_suspends_after_three_looks_and_its_return_resumes() {
    let watched = Watched::start();
    let mut dkimpy = DkimPy::start();
    watched.withdraw("dkim");
    watched.look_after(0);
    watched.publish("dkim");
    watched.look_after(5);
    assert_eq!(watched.standing(), json!(["verified", "enabled", null]));
    assert_eq!(watched.events(), [""; 0]);

    watched.withdraw("dkim");
    for minutes in [0, 5] {
        watched.look_after(minutes);
        assert_eq!(watched.standing(), json!(["verified", "enabled", null]));
    }
    watched.look_after(10);
    assert_eq!(watched.standing(), json!(["verified", "suspended", "record_wrong"]));
    watched.look_after(5);
    assert_eq!(watched.events(), ["domain.signing_suspended"]);

    let held = watched.post().expect(202).json();
    assert_eq!(held["status"], "held");
    watched.sign().problem(409, "signing-suspended");
    assert_eq!(watched.choose("refuse").expect(200).json(), policy(180, "refuse"));
    watched.post().problem(409, "signing-suspended");
    watched
        .api()
        .post_message("/v1/messages/raw?rcpt=bob@receiver.test", b"From: ann@example.test\r\n\r\nx\r\n")
        .problem(409, "signing-suspended");
    watched.choose("hold").expect(200);
    assert_eq!(watched.post().expect(202).json()["status"], "held");
    assert_eq!(watched.world.receiver.messages().len(), 0);

    // Mail waits, so its record is read again and again: nobody has to call, nor to wait for the next look.
    watched.publish("dkim");
    wait_for("signing resumes by itself", Duration::from_secs(120), || {
        (watched.standing() == json!(["verified", "enabled", null])).then_some(())
    });
    let id = held["id"].as_str().unwrap();
    watched.api().message_with_status(id, "delivered");
    let arrived = watched.world.receiver.wait_for_recipient("bob@receiver.test");
    watched.domain.assert_signed(&arrived.octets, &mut dkimpy, &watched.world.named);
    assert_eq!(watched.events(), ["domain.signing_suspended", "domain.signing_resumed"]);
    let audit = watched.api().get("/v1/audit?action=signing.suspended").expect(200).json();
    assert_eq!(audit["data"].as_array().unwrap().len(), 1, "{audit:#}");
    assert_eq!(audit["data"][0]["actor_type"], "system");
}

#[test]
fn while_a_resolver_still_has_the_record_no_answer_counts() {
    let unbound = std::sync::OnceLock::new();
    let watched = Watched::start_with(|named, app| {
        let unbound: &Unbound = unbound.get_or_init(|| Unbound::start(named, &[]));
        app.env("SIGNPOST_DNS_RESOLVERS", unbound.address().to_string())
    });
    let name = watched.record("dkim")["name"].as_str().unwrap();
    let value = watched.record("dkim")["value"].as_str().unwrap();
    let longer = format!("update delete {name}. TXT\nupdate add {name}. 3600 TXT \"{value}\"\n");
    watched.world.named.update(name, &longer);
    let resolver = unbound.get().unwrap();
    wait_for("the resolver has it for an hour", DEADLINE, || (resolver.txt_ttl(name)? > 60).then_some(()));
    watched.withdraw("dkim");
    watched.three_looks();
    watched.look_after(30);
    assert_eq!(watched.standing(), json!(["verified", "enabled", null]));
    assert_eq!(watched.events(), [""; 0]);
    assert_eq!(watched.sql("SELECT record_wrong_looks FROM domains WHERE unsure_since IS NOT NULL"), "0");
    // It is gone all the same: mail waits.
    assert_eq!(watched.post().expect(202).json()["status"], "held");
}

#[test]
fn a_check_resumes_at_once_and_what_it_finds_wrong_suspends_nothing() {
    let watched = Watched::start();
    let check = || watched.api().post_empty(&format!("/v1/domains/{}/check", watched.domain.id)).expect(200).json();
    watched.withdraw("dkim");
    for _ in 0..4 {
        assert_eq!(check()["verdict"], "fail");
    }
    assert_eq!(watched.standing(), json!(["verified", "enabled", null]));
    watched.three_looks();
    watched.look_after(5);
    assert_eq!(watched.standing(), json!(["verified", "suspended", "record_wrong"]));
    let held = watched.post().expect(202).json();
    watched.publish("dkim");
    assert_eq!(check()["verdict"], "pass");
    assert_eq!(watched.standing(), json!(["verified", "enabled", null]));
    watched.api().message_with_status(held["id"].as_str().unwrap(), "delivered");
}

#[test]
fn ownership_is_lost_with_its_record_and_comes_back_with_it() {
    let watched = Watched::start();
    watched.withdraw("ownership");
    watched.three_looks();
    assert_eq!(watched.standing(), json!(["lost", "suspended", "ownership_lost"]));
    watched.post().problem(403, "domain-not-allowed");
    watched.look_after(5);
    assert_eq!(watched.events(), ["domain.ownership_lost"]);
    watched.publish("ownership");
    watched.look_after(5);
    assert_eq!(watched.standing(), json!(["verified", "enabled", null]));
    assert_eq!(watched.events(), ["domain.ownership_lost", "domain.verified", "domain.signing_resumed"]);
    let sent = watched.post().expect(202).json();
    watched.api().message_with_status(sent["id"].as_str().unwrap(), "delivered");
}

#[test]
fn a_lost_name_that_another_account_proves_does_not_come_back() {
    let watched = Watched::start();
    watched.withdraw("ownership");
    watched.three_looks();
    let bert = watched.world.app.tenant("Bert");
    let theirs = enabled_domain(&bert, &watched.world.named, "example.test", "ed25519");
    watched.publish("ownership");
    let check = watched.api().post_empty(&format!("/v1/domains/{}/check", watched.domain.id)).expect(200).json();
    assert_eq!(check["verdict"], "fail", "{check:#}");
    assert_eq!(watched.standing(), json!(["lost", "suspended", "ownership_lost"]));
    watched.post().problem(403, "domain-not-allowed");
    bert.api.delete(&format!("/v1/domains/{}", theirs.id)).expect(204);
    watched.api().post_empty(&format!("/v1/domains/{}/check", watched.domain.id)).expect(200);
    assert_eq!(watched.standing(), json!(["lost", "suspended", "ownership_lost"]), "nobody has it now, and still");
}

#[test]
fn the_policy_of_suspended_mail_knows_two_values() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let path = format!("/v1/domains/{}/signing-policy", domain.id);
    let patch = |body: &str| world.tenant.api.call("PATCH", &path, Some("application/json"), body.as_bytes().to_vec());
    for wrong in [r#"{"suspended_mail": "drop"}"#, r#"{"suspended_mail": null}"#, r#"{"suspended_mail": true}"#] {
        let answer = patch(wrong);
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/suspended_mail"], "{wrong}");
    }
    assert_eq!(patch("{}").expect(200).json(), policy(180, "hold"));
    let both = patch(r#"{"rotation_days": 30, "suspended_mail": "refuse"}"#).expect(200).json();
    assert_eq!(both, policy(30, "refuse"));
    assert_eq!(world.tenant.api.get(&path).expect(200).json(), both);
}
