//! What becomes of a message when the receiver, the network or we ourselves fail.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{App, DkimPy, Receiver, World, enabled_domain};

fn recipient<'a>(message: &'a Value, address: &str) -> &'a Value {
    message["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["address"] == address)
        .unwrap_or_else(|| panic!("{address} in {message:#}"))
}

fn attempts_at(receiver: &Receiver, address: &str) -> usize {
    receiver.events().iter().filter(|e| e["event"] == "rcpt" && e["address"] == address).count()
}

#[test]
fn a_temporary_refusal_defers_with_the_reply_and_a_next_attempt() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    for address in ["tempfail@receiver.test", "datafail4@receiver.test"] {
        let id = world.send_to(&domain, address);
        let message = world.tenant.api.message_with_status(&id, "deferred");
        let recipient = recipient(&message, address);
        assert_eq!(recipient["status"], "deferred");
        assert_eq!(recipient["attempts"], 1);
        assert_eq!(recipient["uncertain"], false);
        assert!(recipient["last_reply"].as_str().unwrap().starts_with("45"), "{recipient}");
        assert!(recipient["next_attempt_at"].is_string(), "{recipient}");
        assert!(world.tenant.api.event_types(&id).contains(&"message.deferred".to_owned()));
        assert_eq!(attempts_at(&world.receiver, address), 1);
    }
}

#[test]
fn a_permanent_refusal_bounces_at_once() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    for (address, reply) in [("permfail@receiver.test", "550"), ("datafail5@receiver.test", "554")] {
        let id = world.send_to(&domain, address);
        let message = world.tenant.api.message_with_status(&id, "bounced");
        let recipient = recipient(&message, address);
        assert_eq!(recipient["status"], "bounced");
        assert!(recipient["last_reply"].as_str().unwrap().starts_with(reply), "{recipient}");
        assert!(recipient["next_attempt_at"].is_null(), "{recipient}");
        assert!(world.tenant.api.event_types(&id).contains(&"message.bounced".to_owned()));
    }
}

#[test]
fn each_recipient_has_its_own_result() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let id = world.send(&json!({
        "from": format!("ann@{}", domain.name),
        "to": ["good@receiver.test", "permfail@receiver.test"],
        "subject": "to many", "text": "x",
    }));
    let message = world.tenant.api.message_with_status(&id, "partial");
    assert_eq!(recipient(&message, "good@receiver.test")["status"], "delivered");
    assert_eq!(recipient(&message, "permfail@receiver.test")["status"], "bounced");
    let id = world.send(&json!({
        "from": format!("ann@{}", domain.name),
        "to": ["fine@receiver.test", "tempfail@receiver.test"],
        "subject": "to many", "text": "x",
    }));
    let message = world.tenant.api.message_until(&id, "delivered to one and deferred for the other", |m| {
        recipient(m, "fine@receiver.test")["status"] == "delivered"
            && recipient(m, "tempfail@receiver.test")["status"] == "deferred"
    });
    assert_eq!(message["status"], "deferred", "it still has somewhere to go");
    let delivered =
        world.receiver.messages().iter().filter(|m| m.rcpt.contains(&"fine@receiver.test".to_owned())).count();
    assert_eq!(delivered, 1);
}

#[test]
fn a_connection_lost_after_the_data_is_uncertain_and_never_a_bounce() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let id = world.send_to(&domain, "drop@receiver.test");
    let message = world.tenant.api.message_with_status(&id, "deferred");
    let recipient = recipient(&message, "drop@receiver.test");
    assert_eq!(recipient["uncertain"], true, "{recipient}");
    assert!(recipient["next_attempt_at"].is_string());
}

#[test]
fn nobody_listening_defers_and_is_not_a_bounce() {
    let named = World::zones().start();
    let closed = signpost_it::Port::reserve();
    let app =
        App::with().dns(&named).env("SIGNPOST_SMTP_RELAY", format!("smtp://127.0.0.1:{}", closed.number())).start();
    let tenant = app.tenant("Ann");
    let domain = enabled_domain(&tenant, &named, "example.test", "ed25519");
    let accepted = tenant
        .api
        .post(
            "/v1/messages",
            &json!({"from": format!("ann@{}", domain.name), "to": ["bob@receiver.test"], "subject": "x", "text": "y"}),
        )
        .expect(202)
        .json();
    let message = tenant.api.message_with_status(accepted["id"].as_str().unwrap(), "deferred");
    assert_eq!(message["recipients"][0]["uncertain"], false, "no octet of it has left");
}

#[test]
fn a_domain_with_a_null_mx_bounces() {
    let named = World::zones().zone("nomail.test", "@ IN MX 0 .\n").start();
    let receiver = Receiver::start();
    let app = App::with().dns(&named).direct_to_mx(&receiver).start();
    let tenant = app.tenant("Ann");
    enabled_domain(&tenant, &named, "example.test", "ed25519");
    let send = |to: &str| {
        let message = json!({"from": "ann@example.test", "to": [to], "subject": "x", "text": "y"});
        tenant.api.post("/v1/messages", &message).expect(202).json()["id"].as_str().unwrap().to_owned()
    };
    tenant.api.message_with_status(&send("bob@nomail.test"), "bounced");
    // A name that is not there may be there tomorrow in no way that RFC 5321 5.1 allows: NXDOMAIN is permanent.
    tenant.api.message_with_status(&send("bob@nowhere.test"), "bounced");
    assert_eq!(receiver.events(), [] as [Value; 0]);
}

#[test]
fn a_receiver_without_tls_still_gets_its_mail() {
    let named = World::zones().start();
    let receiver = Receiver::start_with(&["--no-tls"]);
    let app = App::with().dns(&named).direct_to_mx(&receiver).start();
    let tenant = app.tenant("Ann");
    enabled_domain(&tenant, &named, "example.test", "ed25519");
    tenant
        .api
        .post(
            "/v1/messages",
            &json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"}),
        )
        .expect(202);
    assert!(!receiver.wait_for_recipient("bob@receiver.test").tls);
}

#[test]
fn an_mx_on_a_guarded_address_is_not_reached_unless_the_operator_allows_it() {
    for (allowed, reached) in [("127.0.0.1/32", false), ("127.0.0.0/8", true)] {
        let named = World::zones().start();
        let receiver = Receiver::start_with(&["--on-127.0.0.2"]);
        named
            .update("receiver.test", "update delete mx.receiver.test. A\nupdate add mx.receiver.test. 1 A 127.0.0.2\n");
        let app =
            App::with().dns(&named).direct_to_mx(&receiver).env("SIGNPOST_DANGEROUS_ALLOW_TARGETS", allowed).start();
        let tenant = app.tenant("Ann");
        enabled_domain(&tenant, &named, "example.test", "ed25519");
        let message = json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
        let id = tenant.api.post("/v1/messages", &message).expect(202).json()["id"].as_str().unwrap().to_owned();
        let settled = tenant.api.message_until(&id, "settled", |m| {
            ["deferred", "bounced", "delivered"].iter().any(|status| m["status"] == *status)
        });
        assert_eq!(settled["status"] == "delivered", reached, "{settled:#}");
        assert_eq!(!receiver.events().is_empty(), reached);
    }
}

#[test]
fn sigterm_lets_a_delivery_in_flight_finish() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let id = world.send_to(&domain, "gate@receiver.test");
    world.receiver.wait_until_gate_is_reached();
    world.app.begin_to_stop();
    world.receiver.open_gate();
    world.app.wait_for_end();
    world.app.start();
    let message = world.tenant.api.message_with_status(&id, "delivered");
    assert_eq!(message["recipients"][0]["attempts"], 1);
    assert_eq!(world.receiver.messages().len(), 1, "it was delivered once");
}

#[test]
fn kill_9_in_the_middle_of_a_delivery_loses_nothing() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let mut ids: Vec<String> = (0..20).map(|n| world.send_to(&domain, &format!("gate+{n}@receiver.test"))).collect();
    world.receiver.wait_until_gate_is_reached();
    ids.push(world.send_to(&domain, "gate+late@receiver.test"));
    world.app.kill();
    world.receiver.open_gate();
    world.app.start();
    for id in &ids {
        world.tenant.api.message_with_status(id, "delivered");
    }
    let mut dkimpy = DkimPy::start();
    for message in world.receiver.messages() {
        domain.assert_signed(&message.octets, &mut dkimpy, &world.named);
    }
    for n in 0..20 {
        world.receiver.wait_for_recipient(&format!("gate+{n}@receiver.test"));
    }
    world.receiver.wait_for_recipient("gate+late@receiver.test");
}

#[test]
fn every_acknowledged_message_survives_kill_9_while_sending() {
    let mut world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let address = world.app.address();
    let api = world.tenant.api.clone();
    let (acknowledged, sender) =
        (std::sync::Arc::new(std::sync::Mutex::new(Vec::new())), format!("ann@{}", domain.name));
    let collected = acknowledged.clone();
    let posting = std::thread::spawn(move || {
        for number in 0.. {
            let body = json!({"from": sender, "to": [format!("n{number}@receiver.test")], "subject": "x", "text": "y"});
            match api.try_call("POST", "/v1/messages", Some("application/json"), body.to_string().into_bytes()) {
                Ok(answer) if answer.status == 202 => {
                    collected.lock().unwrap().push(answer.json()["id"].as_str().unwrap().to_owned())
                }
                Ok(answer) => panic!("{} {}", answer.status, answer.text()),
                Err(_) => return,
            }
        }
    });
    signpost_it::wait_for("30 messages are acknowledged", signpost_it::DEADLINE, || {
        (acknowledged.lock().unwrap().len() >= 30).then_some(())
    });
    world.app.kill();
    posting.join().unwrap();
    world.app.start();
    assert_eq!(world.app.address(), address);
    let ids = acknowledged.lock().unwrap().clone();
    for id in &ids {
        world.tenant.api.message_with_status(id, "delivered");
    }
}
