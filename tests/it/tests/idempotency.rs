//! The same request with the same Idempotency-Key is one message, whatever happens in between.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{Answer, World};

fn world() -> World {
    let world = World::start();
    world.enabled_domain("example.test", "ed25519");
    world
}

fn message(subject: &str) -> Value {
    json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": subject, "text": "y"})
}

fn id(answer: &Answer) -> String {
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_repetition_gets_the_same_answer_and_sends_nothing() {
    let world = world();
    let api = world.tenant.api.with_header("Idempotency-Key", "order-17");
    let first = api.post("/v1/messages", &message("x")).expect(202);
    world.tenant.api.message_with_status(&id(&first), "delivered");
    let again = api.post("/v1/messages", &message("x")).expect(202);
    assert_eq!(first.body, again.body);
    assert_eq!(first.header("content-type"), again.header("content-type"));
    // The next message comes after anything that the repetition would have sent.
    let marker = world.tenant.api.post("/v1/messages", &message("marker")).expect(202);
    world.tenant.api.message_with_status(&id(&marker), "delivered");
    assert_eq!(world.receiver.messages().len(), 2);
    assert_eq!(world.tenant.api.get("/v1/messages").expect(200).json()["data"].as_array().unwrap().len(), 2);
}

#[test]
fn another_body_under_the_same_key_is_refused() {
    let world = world();
    let api = world.tenant.api.with_header("Idempotency-Key", "order-17");
    api.post("/v1/messages", &message("x")).expect(202);
    api.post("/v1/messages", &message("y")).problem(422, "idempotency-mismatch");
    // The raw body counts, not its meaning.
    let spaced = format!(" {}", message("x"));
    api.call("POST", "/v1/messages", Some("application/json"), spaced.into_bytes())
        .problem(422, "idempotency-mismatch");
}

#[test]
fn the_scope_of_a_key_is_tenant_method_and_path() {
    let world = world();
    let first = world.tenant.api.with_header("Idempotency-Key", "k").post("/v1/messages", &message("x")).expect(202);
    let raw = b"From: ann@example.test\r\nTo: bob@receiver.test\r\n\r\nx\r\n";
    let second = world.tenant.api.with_header("Idempotency-Key", "k").post_message("/v1/messages/raw", raw).expect(202);
    assert_ne!(id(&first), id(&second));
    let bert = world.app.tenant("Bert").api;
    bert.with_header("Idempotency-Key", "k").post("/v1/messages", &message("x")).problem(403, "domain-not-allowed");
}

#[test]
fn of_many_at_once_exactly_one_is_accepted() {
    let world = world();
    let api = world.tenant.api.with_header("Idempotency-Key", "race");
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..16).map(|_| scope.spawn(|| api.post("/v1/messages", &message("x")))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let mut accepted: Vec<&Answer> = Vec::new();
    let mut first = 0;
    for answer in &answers {
        if answer.status == 202 {
            first += usize::from(answer.header("idempotent-replayed").is_empty());
            accepted.push(answer);
        } else {
            answer.problem(409, "idempotency-in-flight");
        }
    }
    assert_eq!(first, 1, "one was accepted, all others are 409 or its repetition");
    assert!(accepted.iter().all(|answer| answer.body == accepted[0].body));
    assert_eq!(world.tenant.api.get("/v1/messages").expect(200).json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a_refusal_is_repeated_too() {
    let world = world();
    let api = world.tenant.api.with_header("Idempotency-Key", "bad");
    let wrong = json!({"from": "ann@example.test", "to": [], "subject": "x", "text": "y"});
    let first = api.post("/v1/messages", &wrong).expect(422);
    let again = api.post("/v1/messages", &wrong).expect(422);
    assert_eq!(first.body, again.body);
    api.post("/v1/messages", &message("x")).problem(422, "idempotency-mismatch");
}

#[test]
fn an_answer_survives_kill_9() {
    let mut world = world();
    let api = world.tenant.api.with_header("Idempotency-Key", "order-17");
    let first = api.post("/v1/messages", &message("x")).expect(202);
    world.app.kill();
    world.app.start();
    let again = api.post("/v1/messages", &message("x")).expect(202);
    assert_eq!(first.body, again.body);
    world.tenant.api.message_with_status(&id(&first), "delivered");
    assert_eq!(world.tenant.api.get("/v1/messages").expect(200).json()["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a_key_that_is_none_is_refused() {
    let world = world();
    let api = world.tenant.api.with_header("Idempotency-Key", &"x".repeat(300));
    api.post("/v1/messages", &message("x")).problem(422, "invalid-request");
}
