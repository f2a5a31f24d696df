//! Keys of tenants in AWS KMS: used by the tenant's role only, and by nobody who is not that tenant.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{
    Answer, App, AwsEdge, DEADLINE, DkimPy, Domain, Kms, Named, Receiver, Tenant, World, enabled_domain, required,
    wait_for,
};
use std::time::Duration;

const ROLE: &str = "arn:aws:iam::123456789012:role/mail/signs-dkim";

/// The service with access to AWS, one tenant with an enabled domain, whose first key is sealed.
struct Scene {
    app: App,
    tenant: Tenant,
    domain: Domain,
    named: Named,
    receiver: Receiver,
    edge: AwsEdge,
    kms: Kms,
}

impl Scene {
    fn start() -> Self {
        let (named, receiver, kms) = (World::zones().start(), Receiver::start(), Kms::start());
        let edge = AwsEdge::before(&kms);
        let app = App::with().dns(&named).relay(&receiver).aws(&kms, &edge).start();
        app.learn_secret("secret access key of a session", b"of-ASIATEST");
        app.learn_secret("token of a session", b"token-ASIATEST");
        let tenant = app.tenant("Ann");
        let domain = enabled_domain(&tenant, &named, "example.test", "ed25519");
        Self { app, tenant, domain, named, receiver, edge, kms }
    }

    /// A key of this spec in the tenant's account, which nobody may use yet.
    fn foreign_key(&self, spec: &str) -> String {
        let key = self.key(spec, "SIGN_VERIFY");
        self.edge.foreign(&key);
        key
    }

    fn key(&self, spec: &str, usage: &str) -> String {
        let made = self.kms.call("CreateKey", &json!({"KeySpec": spec, "KeyUsage": usage}));
        made["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    fn external_id(&self, tenant: &Tenant) -> String {
        let access = tenant.api.get("/v1/kms-access").expect(200).json();
        access["external_id"].as_str().unwrap().to_owned()
    }

    /// Names the key in the domain's list of keys.
    fn name(&self, key: &str, role: &str) -> Answer {
        name(&self.tenant, &self.domain, key, role)
    }

    /// The first detail of a 422 that points there, and nothing was stored.
    fn refused(&self, key: &str, role: &str, pointer: &str) -> String {
        let before = self.keys();
        let answer = self.name(key, role);
        assert_eq!(answer.pointers(), [pointer], "{}", answer.text());
        let problem = answer.problem(422, "invalid-request");
        assert_eq!(self.keys(), before, "something was stored");
        problem["errors"][0]["detail"].as_str().unwrap().to_owned()
    }

    fn keys(&self) -> Value {
        self.tenant.api.get(&format!("/v1/domains/{}/keys", self.domain.id)).expect(200).json()["data"].clone()
    }

    /// Publishes what is listed, and waits until the key with this id signs.
    fn until_it_signs(&self, key: &Value) -> Domain {
        let path = format!("/v1/domains/{}", self.domain.id);
        for record in required_and_new(&self.tenant.api.get(&path).expect(200).json()["records"]) {
            self.named.publish(&record);
        }
        self.tenant.api.post_empty(&format!("{path}/check")).expect(200);
        wait_for("the tenant's key signs", DEADLINE, || {
            let domain = self.tenant.api.get(&path).expect(200).json();
            let active =
                domain["keys"].as_array().unwrap().iter().any(|k| k["id"] == key["id"] && k["state"] == "active");
            active.then(|| Domain::from_json(&domain))
        })
    }

    fn deliver(&self, domain: &Domain, to: &str) {
        let message = json!({"from": "ann@example.test", "to": [to], "subject": "x", "text": "y"});
        self.tenant.api.post("/v1/messages", &message).expect(202);
        let received = self.receiver.wait_for_recipient(to);
        domain.assert_signed(&received.octets, &mut DkimPy::start(), &self.named);
    }
}

fn name(tenant: &Tenant, domain: &Domain, key: &str, role: &str) -> Answer {
    let named = json!({"custody": "aws-kms", "kms_key_arn": key, "role_arn": role});
    tenant.api.post(&format!("/v1/domains/{}/keys", domain.id), &named)
}

fn required_and_new(records: &Value) -> Vec<Value> {
    let mut wanted = required(records);
    wanted.extend(
        records.as_array().unwrap().iter().filter(|r| r["purpose"] == "dkim" && r["required"] == false).cloned(),
    );
    wanted
}

#[test]
fn mail_is_signed_by_the_tenants_key_and_the_key_stays_the_tenants() {
    for (spec, algorithm) in [("RSA_2048", "rsa-2048"), ("ECC_NIST_EDWARDS25519", "ed25519")] {
        let scene = Scene::start();
        let key = scene.foreign_key(spec);
        let external_id = scene.external_id(&scene.tenant);
        scene.edge.role(ROLE, Some(&external_id), &[&key]);
        let named = scene.name(&key, ROLE).expect(201).json();
        assert_eq!((&named["custody"], &named["algorithm"]), (&json!("aws-kms"), &json!(algorithm)));
        let domain = scene.until_it_signs(&named);
        let before = scene.edge.assumed().len();
        for n in 0..3 {
            scene.deliver(&domain, &format!("to{n}@receiver.test"));
        }
        let since = scene.edge.assumed().split_off(before);
        assert!(since.len() <= 1, "a session is kept: {since:?}");
        // Only what a session needs is asked for, and only for this key.
        let last = scene.edge.assumed().pop().unwrap();
        let policy: Value = serde_json::from_str(last["policy"].as_str().unwrap()).unwrap();
        assert_eq!(policy["Statement"][0]["Resource"], json!(key));
        assert_eq!(last["external_id"], json!(external_id));

        // Only the tenant can make the next one there.
        let rotate = format!("/v1/domains/{}/keys/rotate", scene.domain.id);
        let answer = scene.tenant.api.post_empty(&rotate);
        assert_eq!(answer.pointers(), ["/custody"], "{}", answer.text());
        answer.problem(422, "invalid-request");
        scene.tenant.api.post(&rotate, &json!({"custody": "sealed"})).expect(201);

        // Once it is revoked it is forgotten here, and no more.
        let path = format!("/v1/keys/{}/revoke", named["id"].as_str().unwrap());
        assert_eq!(scene.tenant.api.post_empty(&path).expect(200).json()["state"], "revoked");
        wait_for("it was let go", DEADLINE, || scene.app.log().contains("a key was given up").then_some(()));
        assert_eq!(scene.kms.state(&key), "Enabled");
        assert_eq!((scene.kms.calls("DisableKey"), scene.kms.calls("ScheduleKeyDeletion")), (0, 0));
        assert!(scene.refused(&key, ROLE, "/kms_key_arn").contains("was, used here"));
    }
}

#[test]
fn a_key_or_a_role_that_others_could_use_is_refused() {
    let scene = Scene::start();
    let external_id = scene.external_id(&scene.tenant);
    let (ours, theirs) = (scene.key("RSA_2048", "SIGN_VERIFY"), scene.foreign_key("RSA_2048"));
    scene.edge.role(ROLE, Some(&external_id), &[&ours, &theirs]);
    assert!(scene.refused(&ours, ROLE, "/kms_key_arn").contains("without your role"));

    scene.edge.role(ROLE, None, &[&theirs]);
    assert!(scene.refused(&theirs, ROLE, "/role_arn").contains("lacks the condition"));
    // A condition that every tenant of this service meets.
    scene.edge.role(ROLE, Some("sp-*"), &[&theirs]);
    scene.refused(&theirs, ROLE, "/role_arn");
    scene.edge.role(ROLE, Some("somebody-else"), &[&theirs]);
    let told = scene.refused(&theirs, ROLE, "/role_arn");
    assert!(told.contains("AccessDenied") && told.contains("/v1/kms-access"), "{told}");
    scene.refused(&theirs, "arn:aws:iam::123456789012:role/unknown", "/role_arn");

    // Another tenant knows both ARNs, and gets nowhere: its ExternalId is another one.
    scene.edge.role(ROLE, Some(&external_id), &[&theirs]);
    let eve = scene.app.tenant("Eve");
    let domain = enabled_domain(&eve, &scene.named, "other.test", "ed25519");
    assert_ne!(scene.external_id(&eve), external_id);
    let answer = name(&eve, &domain, &theirs, ROLE);
    assert_eq!(answer.pointers(), ["/role_arn"], "{}", answer.text());
    answer.problem(422, "invalid-request");
    scene.name(&theirs, ROLE).expect(201);
    assert_eq!(scene.external_id(&scene.tenant), external_id, "it never changes");
}

#[test]
fn without_access_to_aws_there_is_an_external_id_and_no_more() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let access = world.tenant.api.get("/v1/kms-access").expect(200).json();
    assert!(access["external_id"].as_str().unwrap().len() > 40);
    assert_eq!((&access["account"], &access["principal"]), (&Value::Null, &Value::Null));
    let answer = name(&world.tenant, &domain, "arn:aws:kms:us-east-1:123456789012:key/1234abcd", ROLE);
    assert_eq!(answer.pointers(), ["/kms_key_arn"], "{}", answer.text());
    answer.problem(422, "invalid-request");
}

#[test]
fn what_cannot_sign_or_is_named_wrongly_is_refused() {
    let scene = Scene::start();
    let external_id = scene.external_id(&scene.tenant);
    let (small, usage, disabled) = (
        scene.key("ECC_NIST_P256", "SIGN_VERIFY"),
        scene.key("RSA_2048", "ENCRYPT_DECRYPT"),
        scene.foreign_key("RSA_2048"),
    );
    let unreachable = scene.foreign_key("RSA_2048");
    scene.kms.disable(disabled.rsplit('/').next().unwrap());
    scene.edge.role(ROLE, Some(&external_id), &[&small, &usage, &disabled]);
    assert!(scene.refused(&small, ROLE, "/kms_key_arn").contains("ECC_NIST_P256"));
    assert!(scene.refused(&usage, ROLE, "/kms_key_arn").contains("SIGN_VERIFY"));
    assert!(scene.refused(&disabled, ROLE, "/kms_key_arn").contains("DisabledException"));
    assert!(scene.refused(&unreachable, ROLE, "/kms_key_arn").contains("AccessDenied"));
    scene.refused("arn:aws:kms:us-east-1:123456789012:alias/mail", ROLE, "/kms_key_arn");
    scene.refused(&unreachable, "arn:aws:iam::123456789012:user/ann", "/role_arn");

    let good = scene.foreign_key("RSA_2048");
    scene.edge.role(ROLE, Some(&external_id), &[&good]);
    let path = format!("/v1/domains/{}/keys", scene.domain.id);
    let both = json!({"custody": "aws-kms", "kms_key_arn": good, "role_arn": ROLE});
    for (change, pointer) in [
        (json!({"algorithm": "ed25519"}), "/algorithm"),
        (json!({"algorithm": "rsa-1024"}), "/algorithm"),
        (json!({"custody": "sealed"}), "/custody"),
        (json!({"custody": null}), "/custody"),
        (json!({"role_arn": null}), "/role_arn"),
        (json!({"kms_key_arn": null}), "/kms_key_arn"),
    ] {
        let mut body = both.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = scene.tenant.api.post(&path, &body);
        assert_eq!(answer.pointers(), [pointer], "{body}: {}", answer.text());
        answer.problem(422, "invalid-request");
    }
}

#[test]
fn a_role_that_is_taken_away_makes_mail_wait_and_given_back_lets_it_go() {
    let scene = Scene::start();
    let external_id = scene.external_id(&scene.tenant);
    let key = scene.foreign_key("RSA_2048");
    scene.edge.role(ROLE, Some(&external_id), &[&key]);
    let named = scene.name(&key, ROLE).expect(201).json();
    let domain = scene.until_it_signs(&named);
    scene.deliver(&domain, "before@receiver.test");
    // Declared anew without the key, by which its sessions end too.
    scene.edge.role(ROLE, Some(&external_id), &[]);
    let message = json!({"from": "ann@example.test", "to": ["during@receiver.test"], "subject": "x", "text": "y"});
    let accepted = scene.tenant.api.post("/v1/messages", &message).expect(202).json();
    assert_eq!(accepted["status"], "awaiting_signature", "{accepted}");
    scene.edge.role(ROLE, Some(&external_id), &[&key]);
    // Tries are seconds apart, and each opens a session at most.
    let received = wait_for("the message arrives", Duration::from_secs(90), || {
        scene.receiver.messages().into_iter().find(|message| message.rcpt.iter().any(|to| to == "during@receiver.test"))
    });
    domain.assert_signed(&received.octets, &mut DkimPy::start(), &scene.named);
}
