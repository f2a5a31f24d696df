//! Keys that a key in the KMS wraps, and what each custody costs in calls.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{AppBuilder, DkimPy, Kms, PostgresServer, World, enabled_domain};

trait Wrapped {
    /// New keys are wrapped by the KMS.
    fn keys_wrapped_by(self, kms: &Kms) -> Self;
}

impl Wrapped for AppBuilder {
    fn keys_wrapped_by(self, kms: &Kms) -> Self {
        self.kms(kms).env("SIGNPOST_KEY_CUSTODY", "aws-kms-envelope")
    }
}

#[test]
fn mail_is_signed_here_by_a_key_that_the_kms_unwrapped_once() {
    let kms = Kms::start();
    let world = World::start_with(|app| app.keys_wrapped_by(&kms));
    let mut dkimpy = DkimPy::start();
    for (name, algorithm) in [("example.test", "rsa-2048"), ("other.test", "ed25519")] {
        let before = kms.calls("Decrypt");
        let domain = world.enabled_domain(name, algorithm);
        let keys = world.tenant.api.get(&format!("/v1/domains/{}/keys", domain.id)).expect(200).json();
        assert_eq!(
            (&keys["data"][0]["custody"], &keys["data"][0]["algorithm"]),
            (&json!("aws-kms-envelope"), &json!(algorithm))
        );
        for n in 0..5 {
            let address = format!("{algorithm}-{n}@receiver.test");
            let id = world.send_to(&domain, &address);
            world.tenant.api.message_with_status(&id, "delivered");
            domain.assert_signed(&world.receiver.wait_for_recipient(&address).octets, &mut dkimpy, &world.named);
        }
        assert_eq!(
            kms.calls("Decrypt") - before,
            2,
            "one when it was made, and one for the trial at the check and all of them"
        );
    }
    assert_eq!(kms.calls("Sign"), 0);
    assert_eq!(kms.keys().len(), 1, "one wrapping key for all");
    // A domain that is not proven costs nothing there: there may be many.
    for n in 0..8 {
        let body = json!({"name": format!("d{n}.example"), "algorithm": "ed25519"});
        world.tenant.api.post("/v1/domains", &body).expect(201);
    }
    let id = world.tenant.api.get("/v1/domains").expect(200).json()["data"][2]["id"].as_str().unwrap().to_owned();
    world.tenant.api.delete(&format!("/v1/domains/{id}")).expect(204);
    assert_eq!((kms.calls("DisableKey"), kms.calls("ScheduleKeyDeletion")), (0, 0), "the wrapping key is for all");
}

/// After a restart nothing is unwrapped: it is as when a lifetime has ended.
#[test]
fn while_the_kms_is_away_mail_waits_once_nothing_is_unwrapped_and_goes_when_it_is_back() {
    let kms = Kms::start();
    let mut world = World::start_with(|app| app.keys_wrapped_by(&kms));
    let (domain, sealed) = (world.enabled_domain("example.test", "ed25519"), world.tenant.clone());
    let first = world.send_to(&domain, "first@receiver.test");
    world.tenant.api.message_with_status(&first, "delivered");
    for fault in ["denied", "throttled", "silent"] {
        world.app.stop();
        kms.fault(fault);
        world.app.start();
        let id = world.send_to(&domain, &format!("{fault}@receiver.test"));
        let waits = sealed.api.message_with_status(&id, "awaiting_signature");
        assert!(waits["signatures"].as_array().unwrap().is_empty(), "{waits:#}");
        assert!(!Value::from(sealed.api.events(&id)).to_string().contains("arn:"), "ARNs are the operator's");
        kms.fault("none");
        sealed.api.message_with_status(&id, "delivered");
        let received = world.receiver.wait_for_recipient(&format!("{fault}@receiver.test"));
        domain.assert_signed(&received.octets, &mut DkimPy::start(), &world.named);
    }
}

#[test]
fn a_wrapped_key_that_was_moved_to_another_tenant_s_row_signs_nothing() {
    let (kms, server) = (Kms::start(), PostgresServer::start());
    let database = server.database();
    let mut world = World::start_with(|app| app.keys_wrapped_by(&kms).env("SIGNPOST_DATABASE_URL", database.as_str()));
    let ours = world.enabled_domain("example.test", "ed25519");
    let eve = world.app.tenant("Eve");
    let theirs = enabled_domain(&eve, &world.named, "other.test", "ed25519");
    world.app.stop();
    // Whoever can write the database gives Eve's row our private key, with all that belongs to it but the name of the row.
    let moved = "UPDATE dkim_keys SET sealed = a.sealed, public_key = a.public_key, published_p = a.published_p
         FROM (SELECT sealed, public_key, published_p FROM dkim_keys WHERE domain_name = 'example.test') AS a
         WHERE domain_name = 'other.test' RETURNING domain_name";
    assert!(server.sql(&database, moved).contains("other.test"));
    world.app.start();
    let message = json!({"from": "eve@other.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
    let id = eve.api.post("/v1/messages", &message).expect(202).json()["id"].as_str().unwrap().to_owned();
    eve.api.message_with_status(&id, "awaiting_signature");
    assert!(world.receiver.messages().is_empty(), "{theirs:?}", theirs = theirs.name);
    let id = world.send_to(&ours, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "delivered");
}

/// H13: a remote Sign for each signature, and no other call.
#[test]
fn a_key_in_the_kms_costs_one_call_a_signature() {
    let kms = Kms::start();
    let world = World::start_with(|app| app.keys_in(&kms));
    let domain = world.enabled_domain("example.test", "ed25519");
    let operations = ["Sign", "GetPublicKey", "DescribeKey", "Verify", "ListKeys", "Decrypt"];
    let before = operations.map(|operation| kms.calls(operation));
    let message = b"From: a@example.test\r\nSubject: x\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\ny\r\n";
    for _ in 0..100 {
        world.tenant.api.post_message("/v1/sign", message).expect(200);
    }
    let after = operations.map(|operation| kms.calls(operation));
    let spent: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(spent, [100, 0, 0, 0, 0, 0], "{operations:?}");
    assert_eq!(kms.calls("GetPublicKey"), 1, "once, when the key was made; {}", domain.name);
}
