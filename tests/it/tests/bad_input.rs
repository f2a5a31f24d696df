//! The "Bad input" promises: what is refused, how, and where the fault lies. Never a 500, never another domain.
#![cfg(test)]

use serde_json::{Value, json};
use signpost_it::{Api, DEADLINE, DkimPy, World};
use std::io::{Read, Write};
use std::net::TcpStream;

fn world() -> World {
    let world = World::start();
    world.enabled_domain("example.test", "ed25519");
    world
}

fn good() -> Value {
    json!({"from": "ann@example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"})
}

/// `good` with `value` at `pointer` (the last token may be new).
fn with(pointer: &str, value: Value) -> Value {
    let mut message = good();
    let (parent, token) = pointer.rsplit_once('/').unwrap();
    message.pointer_mut(parent).unwrap()[token] = value;
    message
}

fn assert_refused(api: &Api, message: &Value, pointer: &str) {
    let answer = api.post("/v1/messages", message);
    answer.problem(422, "invalid-request");
    let pointers = answer.pointers();
    let is_it = |p: &String| p == pointer || (!pointer.is_empty() && p.starts_with(&format!("{pointer}/")));
    assert!(pointers.iter().any(is_it), "{pointer} for {message}: {}", answer.text());
}

#[test]
fn a_query_parameter_that_a_call_does_not_have_is_refused_by_every_call() {
    let world = World::start();
    let api = &world.tenant.api;
    let document = api.get("/openapi.json").json();
    let id = "0".repeat(32);
    let mut calls = 0;
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/")) {
        let kind = match path.split('/').nth(2) {
            Some("messages") => "msg",
            Some("keys") => "key",
            _ => "dom",
        };
        for method in item.as_object().unwrap().keys() {
            let path = format!("{}?colour=blue", path.replace("{id}", &format!("{kind}_{id}")));
            let content_type =
                if path.contains("/raw") || path.contains("/sign") { "message/rfc822" } else { "application/json" };
            let answer = api.call(&method.to_ascii_uppercase(), &path, Some(content_type), b"{}".to_vec());
            let problem = answer.problem(422, "invalid-request");
            assert_eq!(problem["errors"][0]["parameter"], "colour", "{method} {path}: {problem}");
            calls += 1;
        }
    }
    assert!(calls >= 18, "the document lost its calls");
}

#[test]
fn control_characters_in_any_json_field_that_becomes_a_header_address_or_parameter_are_refused() {
    let world = world();
    let api = &world.tenant.api;
    for bad in ["\r\nBcc: evil@receiver.test", "\n", "\r", "\0"] {
        let attachment = |name: &str, value: String| {
            let mut attachment = json!({"filename": "a.txt", "content_type": "text/plain", "content": "YQ=="});
            attachment[name] = value.into();
            json!([attachment])
        };
        let table: Vec<(Value, &str)> = vec![
            (with("/from", format!("ann@example.test{bad}").into()), "/from"),
            (with("/from", format!("Ann{bad} <ann@example.test>").into()), "/from"),
            (with("/from", json!({"email": format!("ann{bad}@example.test")})), "/from"),
            (with("/from", json!({"email": "ann@example.test", "name": format!("A{bad}nn")})), "/from"),
            (with("/to", json!([format!("bob@receiver.test{bad}")])), "/to/0"),
            (with("/to", json!(["x@receiver.test", {"email": "bob@receiver.test", "name": bad}])), "/to/1"),
            (with("/cc", json!([format!("bob{bad}@receiver.test")])), "/cc/0"),
            (with("/bcc", json!([format!("bob@receiver.test{bad}")])), "/bcc/0"),
            (with("/reply_to", json!([format!("B{bad} <bob@receiver.test>")])), "/reply_to/0"),
            (with("/subject", format!("x{bad}y").into()), "/subject"),
            (with("/list_unsubscribe", format!("https://example.test/{bad}").into()), "/list_unsubscribe"),
            (with("/mail_from", format!("ann@example.test{bad}").into()), "/mail_from"),
            (with("/headers", json!({"X-A": format!("b{bad}c")})), "/headers"),
            (with("/headers", json!({format!("X-A{bad}"): "b"})), "/headers"),
            (with("/attachments", attachment("filename", format!("a{bad}.txt"))), "/attachments/0/filename"),
            (
                with("/attachments", attachment("content_type", format!("text/plain{bad}"))),
                "/attachments/0/content_type",
            ),
            (with("/attachments", attachment("content_id", format!("a{bad}@b"))), "/attachments/0/content_id"),
        ];
        for (message, pointer) in table {
            assert_refused(api, &message, pointer);
        }
    }
    assert_refused(api, &with("/text", "a\0b".into()), "/text");
    assert_refused(api, &with("/html", "<p>a\0b</p>".into()), "/html");
    assert_eq!(world.receiver.messages().len(), 0);
}

#[test]
fn from_is_exactly_one_plain_mailbox() {
    let world = world();
    for from in [
        json!("ann@example.test, bob@example.test"),
        json!("Team: ann@example.test, bob@example.test;"),
        json!("Team: ann@example.test;"),
        json!("=?utf-8?q?ann=40example=2Etest?="),
        json!("<=?utf-8?q?ann?=@example.test>"),
        json!(""),
        json!("ann"),
        json!("ann@"),
        json!("@example.test"),
        json!("ann@example.test <"),
        json!("ann@[127.0.0.1]"),
        json!({"email": "Ann <ann@example.test>"}),
        json!({"email": "ann@example.test, bob@example.test"}),
    ] {
        assert_refused(&world.tenant.api, &with("/from", from), "/from");
    }
    for (header, line) in [
        ("From: ann@example.test\r\nTo: bob@receiver.test\r\nFROM: bob@example.test\r\n", 3),
        ("To: bob@receiver.test\r\nFrom: ann@example.test, bob@example.test\r\n", 2),
        ("From: Team: ann@example.test;\r\nTo: bob@receiver.test\r\n", 1),
        ("From: =?utf-8?q?ann=40example=2Etest?=\r\nTo: bob@receiver.test\r\n", 1),
        ("To: bob@receiver.test\r\nSubject: x\r\nFrom: <=?utf-8?q?ann?=@example.test>\r\n", 3),
    ] {
        for path in ["/v1/messages/raw", "/v1/sign"] {
            let problem = world
                .tenant
                .api
                .post_message(path, format!("{header}\r\nbody\r\n").as_bytes())
                .problem(422, "invalid-request");
            let fault = problem["errors"].as_array().unwrap().iter().find(|e| e["line"] == line);
            let fault = fault.unwrap_or_else(|| panic!("line {line} in {problem}"));
            assert!(fault["header"].as_str().unwrap().eq_ignore_ascii_case("from"), "{problem}");
        }
    }
    let missing = world.tenant.api.post_message("/v1/messages/raw", b"To: bob@receiver.test\r\n\r\nbody\r\n");
    missing.problem(422, "invalid-request");
}

#[test]
fn raw_mail_that_receivers_read_in_two_ways_is_refused_with_its_line() {
    let world = world();
    let head = "From: ann@example.test\r\nTo: bob@receiver.test\r\n";
    let long = "x".repeat(999);
    for (message, line) in [
        (format!("{head}Subject: a\rb\r\n\r\nbody\r\n").into_bytes(), 3),
        (format!("{head}\r\nbo\rdy\r\n").into_bytes(), 4),
        (format!("{head}\r\nbo\0dy\r\n").into_bytes(), 4),
        (format!("{head}Subject: gr\u{fc}n\r\n\r\nbody\r\n").into_bytes(), 3),
        ([head.as_bytes(), b"Subject: gr\xfcn\r\n\r\nbody\r\n"].concat(), 3),
        (format!("{head}\r\n{long}\r\n").into_bytes(), 4),
        (
            format!("{head}Subject: a\r\nDate: Wed, 25 Nov 2026 01:00:00 +0000\r\nSubject: b\r\n\r\nbody\r\n")
                .into_bytes(),
            5,
        ),
        (format!("{head}Message-ID: <a@b.test>\r\nMessage-ID: <c@d.test>\r\n\r\nbody\r\n").into_bytes(), 4),
        (format!("{head}no colon here\r\n\r\nbody\r\n").into_bytes(), 3),
    ] {
        let shown = String::from_utf8_lossy(&message).into_owned();
        let problem = world.tenant.api.post_message("/v1/messages/raw", &message).problem(422, "invalid-request");
        assert!(
            problem["errors"].as_array().unwrap().iter().any(|e| e["line"] == line),
            "line {line} of {shown:?}: {problem}"
        );
    }
    assert_eq!(world.receiver.messages().len(), 0);
}

#[test]
fn header_fields_that_are_ours_are_refused_by_name() {
    let world = world();
    let names = [
        "DKIM-Signature",
        "dkim-signature",
        "Return-Path",
        "Received",
        "Bcc",
        "Resent-Bcc",
        "From",
        "Sender",
        "To",
        "Cc",
        "Subject",
        "Reply-To",
        "Date",
        "Message-ID",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
        "ARC-Seal",
    ];
    for name in names {
        let answer = world.tenant.api.post("/v1/messages", &with("/headers", json!({"X-Fine": "a", name: "b"})));
        let problem = answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), [format!("/headers/{name}")], "{problem}");
    }
    let many = json!({"Received": "a", "X-Fine": "b", "Return-Path": "c", "Bcc": "d"});
    let answer = world.tenant.api.post("/v1/messages", &with("/headers", many));
    answer.problem(422, "invalid-request");
    let mut refused = answer.pointers();
    refused.sort_unstable();
    assert_eq!(refused, ["/headers/Bcc", "/headers/Received", "/headers/Return-Path"]);
    for name in ["", "X A", "X:A", "Ümlaut", "X-A\u{7f}"] {
        assert_refused(&world.tenant.api, &with("/headers", json!({name: "b"})), "/headers");
    }
}

#[test]
fn odd_addresses_are_exactly_that_mailbox_or_refused() {
    let world = world();
    let mut dkimpy = DkimPy::start();
    for from in [
        "\"ann@other.test\"@example.test",
        "\"ann smith\"@example.test",
        "\"<ann@other.test>\" <ann@example.test>",
        "ann(at other.test)@example.test",
        "ann@example.test (ann@other.test)",
        "(bob@other.test) ann@example.test",
        "\"ann\\\"@other.test\"@example.test",
        "ann@other.test@example.test",
        "\"a, b@other.test\" <ann@example.test>",
        "<@other.test:ann@example.test>",
    ] {
        let answer = world.tenant.api.post("/v1/messages", &with("/from", from.into()));
        if answer.status == 422 {
            answer.problem(422, "invalid-request");
            continue;
        }
        let id = answer.expect(202).json()["id"].as_str().unwrap().to_owned();
        world.tenant.api.message_with_status(&id, "delivered");
        let received = world.receiver.messages().pop().unwrap();
        let decoded = dkimpy.decode(&received.octets);
        let seen = decoded.header("From");
        let address = seen.rsplit_once('<').map_or(seen, |(_, address)| address).trim_end_matches('>');
        assert!(address.ends_with("@example.test"), "{from} became {seen}");
    }
    for to in [
        "\"bob@other.test\"@receiver.test",
        "bob(x@other.test)@receiver.test",
        "\"bob smith\"@receiver.test",
        "bob@receiver.test (bob@other.test)",
    ] {
        let before = world.receiver.events().len();
        let answer = world.tenant.api.post("/v1/messages", &with("/to", json!([to])));
        if answer.status == 422 {
            answer.problem(422, "invalid-request");
            continue;
        }
        let id = answer.expect(202).json()["id"].as_str().unwrap().to_owned();
        world.tenant.api.message_with_status(&id, "delivered");
        for event in &world.receiver.events()[before..] {
            if event["event"] == "rcpt" {
                assert!(event["address"].as_str().unwrap().ends_with("@receiver.test"), "{to} became {event}");
            }
        }
    }
}

#[test]
fn json_that_is_wrong_is_a_problem_with_a_pointer() {
    let world = world();
    let api = &world.tenant.api;
    for (message, pointer) in [
        (with("/unknown", 1.into()), "/unknown"),
        (with("/subject", 5.into()), "/subject"),
        (with("/to", json!("bob@receiver.test")), "/to"),
        (with("/to", json!([])), "/to"),
        (with("/to", json!([7])), "/to/0"),
        (with("/from", json!({"email": "ann@example.test", "nick": "x"})), "/from"),
        (with("/from", Value::Null), "/from"),
        (with("/headers", json!({"X-A": 1})), "/headers"),
        (
            with("/attachments", json!([{"filename": "a", "content_type": "text/plain", "content": "not base64!"}])),
            "/attachments/0/content",
        ),
        (
            with("/attachments", json!([{"filename": "a", "content_type": "text/plain", "content": "YQ"}])),
            "/attachments/0/content",
        ),
        (
            with("/attachments", json!([{"filename": "a", "content_type": "nonsense", "content": "YQ=="}])),
            "/attachments/0/content_type",
        ),
        (with("/send_at", "tomorrow".into()), "/send_at"),
        (with("/to", (0..51).map(|n| format!("n{n}@receiver.test")).collect()), "/to"),
    ] {
        assert_refused(api, &message, pointer);
    }
    for body in ["", "{", "[]", "null", "\"x\"", "{\"from\":}", "{\"from\":\"a\"} x", "\u{feff}{}"] {
        let answer = api.call("POST", "/v1/messages", Some("application/json"), body.as_bytes().to_vec());
        assert!(matches!(answer.status, 400 | 422), "{body:?}: {} {}", answer.status, answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    let answer = api.call("POST", "/v1/messages", Some("application/json"), b"{\"from\":\"\xff\"}".to_vec());
    assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
    let answer = api.call("POST", "/v1/messages", Some("text/csv"), b"a,b".to_vec());
    answer.problem(415, "unsupported-media-type");
}

#[test]
fn names_that_are_no_sending_domain_are_refused_at_registration() {
    let world = world();
    for name in [
        "",
        "test",
        "com",
        "co.uk",
        "example..test",
        "-example.test",
        "exa_mple.test",
        "127.0.0.1",
        "[127.0.0.1]",
        "example.test\r\n",
        "a b.test",
        "*.example.test",
        &"a".repeat(300),
    ] {
        let answer = world.tenant.api.post("/v1/domains", &json!({"name": name}));
        answer.problem(422, "invalid-request");
        assert_eq!(answer.pointers(), ["/name"], "{name:?}: {}", answer.text());
    }
    let created = world.tenant.api.post("/v1/domains", &json!({"name": "BÜCHER.test."})).expect(201).json();
    assert_eq!(created["name"], "xn--bcher-kva.test");
    world.tenant.api.post("/v1/domains", &json!({"name": "xn--bcher-kva.test"})).problem(409, "domain-exists");
}

#[test]
fn ids_and_parameters_that_make_no_sense_are_4xx() {
    let world = world();
    let api = &world.tenant.api;
    for id in
        ["msg_", "msg_zz", "dom_00000000000000000000000000000000", "x", "..", "%00", "msg_%F0%28", "%2e%2e%2fdomains"]
    {
        for path in [
            format!("/v1/messages/{id}"),
            format!("/v1/messages/{id}/raw"),
            format!("/v1/messages/{id}/events"),
            format!("/v1/domains/{id}"),
        ] {
            let answer = api.get(&path);
            assert!(matches!(answer.status, 400 | 404 | 422), "{path}: {}", answer.status);
        }
    }
    for query in ["limit=-1", "limit=x", "status=nonsense", "unknown=1"] {
        let answer = api.get(&format!("/v1/messages?{query}"));
        assert_eq!(answer.status, 422, "{query}: {}", answer.text());
    }
    api.get("/v1/nothing-here").problem(404, "not-found");
    api.delete("/v1/messages").problem(405, "method-not-allowed");
}

/// Sends the head of a request that announces `length` octets of body, and no body; gives the status line.
fn announce(world: &World, path: &str, content_type: &str, length: u64) -> String {
    let mut stream = TcpStream::connect(world.app.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{{",
        world.tenant.token
    )
    .unwrap();
    let mut answer = [0; 64];
    let octets = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..octets]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let world = world();
    for (path, content_type, length) in [
        ("/v1/messages", "application/json", 36_000_001),
        ("/v1/messages/raw", "message/rfc822", 25_000_001),
        ("/v1/sign", "message/rfc822", 25_000_001),
        ("/v1/messages", "application/json", u64::MAX / 2),
    ] {
        let status = announce(&world, path, content_type, length);
        assert!(status.contains(" 413 "), "{path} with {length} octets: {status}");
    }
}

#[test]
fn a_body_without_a_length_is_cut_off_at_the_limit() {
    let world = world();
    let mut stream = TcpStream::connect(world.app.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // The answer is read while the body is still being written: after the end it could be lost to a reset.
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(octets @ 1..) = reader.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..octets]);
            if answer.windows(2).any(|w| w == b"\r\n") {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    });
    write!(
        stream,
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        world.tenant.token
    )
    .unwrap();
    let chunk = vec![b' '; 1_000_000];
    for _ in 0..60 {
        // Once the server has refused, it may close while we still write.
        if write!(stream, "{:x}\r\n", chunk.len())
            .and_then(|()| stream.write_all(&chunk))
            .and_then(|()| stream.write_all(b"\r\n"))
            .is_err()
        {
            break;
        }
    }
    let text = reading.join().unwrap();
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    world.tenant.api.get("/v1/messages").expect(200);
}

#[test]
fn a_message_that_grows_too_large_when_built_is_413() {
    let world = world();
    let content = "QUFB".repeat(24_500_000 / 4);
    let message = with(
        "/attachments",
        json!([{"filename": "a", "content_type": "application/octet-stream", "content": content}]),
    );
    world.tenant.api.post("/v1/messages", &message).problem(413, "message-too-large");
}
