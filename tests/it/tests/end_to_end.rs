//! From POST to the receiver, on a real BIND, with MAIL FROM in a zone of its own, so that SPF cannot hide a DKIM fault.
#![cfg(test)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signpost_it::{DEADLINE, DkimPy, Domain, Received, World, signature_fields, unfolded_field, wait_for};

const TEXT: &str = "Grüße aus Zürich,\n\n.\n.. a line that begins with dots\nFrom here on: trailing space \nund noch eine Zeile mit ümläüten, die länger als siebenundsiebzig Zeichen ist, weil sie es kann.\n";
const HTML: &str = "<p>Grüße &amp; <b>mehr</b> <img src=\"cid:logo@example\"></p>\n";
const SUBJECT: &str =
    "Zürich: eine Betreffzeile, die gefaltet werden muss, weil sie länger als eine Zeile ist, 日本語も";

fn rich_message(domain: &Domain) -> Value {
    json!({
        "from": {"email": format!("ann@{}", domain.name), "name": "Änn, of \"Sales\""},
        "to": ["Bob <bob@receiver.test>", "bert@receiver.test"],
        "cc": [{"email": "cc@receiver.test", "name": "Çédille"}],
        "bcc": ["hidden-recipient@receiver.test"],
        "reply_to": [format!("reply@{}", domain.name)],
        "subject": SUBJECT,
        "text": TEXT,
        "html": HTML,
        "headers": {"X-Campaign": "spring; größer"},
        "list_unsubscribe": "https://example.test/u?id=1",
        "attachments": [
            {"filename": "prüfung.pdf", "content_type": "application/pdf", "content": STANDARD.encode(b"abc")},
            {"filename": "logo.png", "content_type": "image/png", "content": STANDARD.encode(b"\x89PNG\r\n\x1a\n"), "content_id": "logo@example"},
        ],
        "tags": ["welcome"],
        "metadata": {"user": "42"},
    })
}

fn assert_envelope_sender_is_ours(received: &Received) {
    let domain = received.mail_from.rsplit('@').next().unwrap();
    assert!(domain == "bounce.signpost.test" || domain.ends_with(".bounce.signpost.test"), "{}", received.mail_from);
}

fn json_goes_through(world: &World, domain: &Domain, signature_algorithm: &str, dkimpy: &mut DkimPy) {
    let before = world.receiver.messages().len();
    let id = world.send(&rich_message(domain));
    let message = world.tenant.api.message_with_status(&id, "delivered");
    let all = world.receiver.messages();
    let new = &all[before..];
    let mut recipients: Vec<&str> = new.iter().flat_map(|m| m.rcpt.iter().map(String::as_str)).collect();
    recipients.sort_unstable();
    assert_eq!(
        recipients,
        ["bert@receiver.test", "bob@receiver.test", "cc@receiver.test", "hidden-recipient@receiver.test"]
    );
    assert_eq!(message["signatures"][0]["domain"], domain.name.as_str());
    assert_eq!(message["signatures"][0]["selector"], domain.selector.as_str());
    assert_eq!(message["signatures"][0]["algorithm"], signature_algorithm);
    for received in new {
        domain.assert_signed(&received.octets, dkimpy, &world.named);
        assert_envelope_sender_is_ours(received);
        assert!(received.tls, "STARTTLS was offered");
        assert_eq!(received.ehlo, "out.signpost.test");
        let text = String::from_utf8(received.octets.clone()).expect("our MIME is 7-bit clean");
        assert!(text.is_ascii());
        assert!(!text.contains("hidden-recipient"), "Bcc is in what was sent:\n{text}");
        assert!(text.split("\r\n").all(|line| line.len() <= 78), "a line over 78:\n{text}");
        assert_eq!(unfolded_field(&received.octets, "Bcc"), [] as [&str; 0]);
        let signature = &signature_fields(&received.octets)[0];
        assert_eq!(signature["c"], "relaxed/relaxed");
        assert!(!signature.contains_key("l"));
        assert!(!signature.contains_key("x"));

        let decoded = dkimpy.decode(&received.octets);
        assert_eq!(decoded.defects, [] as [&str; 0]);
        assert_eq!(decoded.header("Subject"), SUBJECT);
        assert_eq!(decoded.text.as_deref(), Some(TEXT));
        assert_eq!(decoded.html.as_deref(), Some(HTML));
        assert_eq!(decoded.header("X-Campaign"), "spring; größer");
        assert!(decoded.header("From").contains(&format!("<ann@{}>", domain.name)), "{}", decoded.header("From"));
        assert!(decoded.header("From").contains("Änn, of"), "{}", decoded.header("From"));
        assert_eq!(decoded.header("List-Unsubscribe"), "<https://example.test/u?id=1>");
        let attachments: Vec<_> = decoded
            .attachments
            .iter()
            .map(|a| (a.filename.as_deref(), a.content_type.as_str(), a.sha256.as_str()))
            .collect();
        assert!(attachments.contains(&(
            Some("prüfung.pdf"),
            "application/pdf",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        )));
        let inline = decoded.attachments.iter().find(|a| a.content_type == "image/png").unwrap();
        assert_eq!(inline.content_id.as_deref(), Some("<logo@example>"));
    }
    let events = world.tenant.api.event_types(&id);
    for expected in ["message.accepted", "message.delivered"] {
        assert!(events.iter().any(|event| event == expected), "{expected} in {events:?}");
    }
}

fn raw_goes_through(world: &World, domain: &Domain, dkimpy: &mut DkimPy) {
    let body = "first line\r\n\r\n\ttabbed  line \r\n.\r\nlast line\r\n";
    // LF line ends, and fields that must go: they are what a local program hands over.
    let raw = format!(
        "Return-Path: <old@elsewhere.test>\nfrom: Ann <ann@{}>\nTo: bob@receiver.test\nBCC: secret-bcc@receiver.test,\n secret-two@receiver.test\nSubject: as is,\n\tfolded\nDate: Wed, 25 Nov 2026 01:00:00 +0000\nMessage-ID: <raw-1@{}>\nX-Odd:   two  spaces\n\n{}",
        domain.name,
        domain.name,
        body.replace("\r\n", "\n")
    );
    let before = world.receiver.messages().len();
    let accepted = world.tenant.api.post_message("/v1/messages/raw", raw.as_bytes()).expect(202).json();
    let id = accepted["id"].as_str().unwrap();
    assert_eq!(accepted["message_id"], format!("<raw-1@{}>", domain.name));
    world.tenant.api.message_with_status(id, "delivered");
    let all = world.receiver.messages();
    let mut recipients: Vec<&str> = all[before..].iter().flat_map(|m| m.rcpt.iter().map(String::as_str)).collect();
    recipients.sort_unstable();
    assert_eq!(recipients, ["bob@receiver.test", "secret-bcc@receiver.test", "secret-two@receiver.test"]);
    for received in &all[before..] {
        domain.assert_signed(&received.octets, dkimpy, &world.named);
        assert_envelope_sender_is_ours(received);
        let text = String::from_utf8_lossy(&received.octets);
        let kept = format!(
            "from: Ann <ann@{0}>\r\nTo: bob@receiver.test\r\nSubject: as is,\r\n\tfolded\r\nDate: Wed, 25 Nov 2026 01:00:00 +0000\r\nMessage-ID: <raw-1@{0}>\r\nX-Odd:   two  spaces\r\n\r\n{body}",
            domain.name
        );
        assert!(text.ends_with(&kept), "the rest is as it was handed over:\n{text}");
        assert!(!text.contains("secret-"), "Bcc is in what was sent:\n{text}");
        assert_eq!(unfolded_field(&received.octets, "Return-Path"), [] as [&str; 0]);
        for trace in unfolded_field(&received.octets, "Received") {
            assert!(!trace.contains(" for "), "a Received field with `for` shows Bcc: {trace}");
        }
    }
}

#[test]
fn json_and_raw_arrive_signed_with_rsa_and_with_ed25519() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    let rsa = world.enabled_domain("example.test", "rsa-2048");
    let ed25519 = world.enabled_domain("other.test", "ed25519");
    json_goes_through(&world, &rsa, "rsa-sha256", &mut dkimpy);
    json_goes_through(&world, &ed25519, "ed25519-sha256", &mut dkimpy);
    raw_goes_through(&world, &rsa, &mut dkimpy);
    raw_goes_through(&world, &ed25519, &mut dkimpy);
}

#[test]
fn mail_goes_straight_to_the_mx_without_a_relay() {
    let world = World::start_direct_to_mx();
    let mut dkimpy = DkimPy::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    json_goes_through(&world, &domain, "rsa-sha256", &mut dkimpy);
}

#[test]
fn larger_rsa_keys_sign_as_well() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    for (name, algorithm) in [("example.test", "rsa-3072"), ("other.test", "rsa-4096")] {
        let domain = world.enabled_domain(name, algorithm);
        let id = world.send_to(&domain, &format!("{algorithm}@receiver.test"));
        world.tenant.api.message_with_status(&id, "delivered");
        let received = world.receiver.wait_for_recipient(&format!("{algorithm}@receiver.test"));
        domain.assert_signed(&received.octets, &mut dkimpy, &world.named);
    }
}

#[test]
fn sign_gives_what_to_prepend_and_changes_nothing() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let message = b"From: Ann <ann@example.test>\r\nSubject:  odd   spacing\r\n\r\nbody \r\n\r\n\r\n";
    let signed = world.tenant.api.with_header("Accept", "message/rfc822").post_message("/v1/sign", message).expect(200);
    assert_eq!(signed.header("content-type"), "message/rfc822");
    assert!(signed.body.ends_with(message), "{}", signed.text());
    domain.assert_signed(&signed.body, &mut dkimpy, &world.named);

    let parts =
        world.tenant.api.with_header("Accept", "application/json").post_message("/v1/sign", message).expect(200).json();
    let mut whole: Vec<u8> =
        parts["prepend"].as_array().unwrap().iter().flat_map(|field| field.as_str().unwrap().bytes()).collect();
    whole.extend_from_slice(message);
    domain.assert_signed(&whole, &mut dkimpy, &world.named);
    assert_eq!(parts["signatures"][0]["selector"], domain.selector.as_str());
    assert_eq!(world.receiver.messages().len(), 0, "/v1/sign sends nothing");
}

#[test]
fn sign_refuses_what_it_would_have_to_change() {
    let world = World::start();
    world.enabled_domain("example.test", "rsa-2048");
    for (message, named) in [
        ("From: ann@example.test\nSubject: x\n\nbody\n", ""),
        ("Return-Path: <a@example.test>\r\nFrom: ann@example.test\r\n\r\nbody\r\n", "Return-Path"),
        ("From: ann@example.test\r\nBcc: b@receiver.test\r\n\r\nbody\r\n", "Bcc"),
        ("From: ann@example.test\r\nResent-Bcc: b@receiver.test\r\n\r\nbody\r\n", "Resent-Bcc"),
    ] {
        let problem = world.tenant.api.post_message("/v1/sign", message.as_bytes()).problem(422, "invalid-request");
        let header = problem["errors"][0]["header"].as_str().unwrap_or_default();
        assert!(header.eq_ignore_ascii_case(named), "{problem}");
    }
}

#[test]
fn the_stored_message_is_what_was_sent() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let id = world.send_to(&domain, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "delivered");
    let raw = world.tenant.api.get(&format!("/v1/messages/{id}/raw")).expect(200);
    assert_eq!(raw.header("content-type"), "message/rfc822");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    let without_trace = |octets: &[u8]| {
        let text = String::from_utf8(octets.to_vec()).unwrap();
        text[text.find("DKIM-Signature:").unwrap()..].to_owned()
    };
    assert_eq!(without_trace(&raw.body), without_trace(&received.octets));
}

#[test]
fn a_subdomain_is_signed_by_its_verified_parent() {
    let world = World::start();
    let mut dkimpy = DkimPy::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    let id =
        world.send(&json!({"from": "ann@news.example.test", "to": ["bob@receiver.test"], "subject": "x", "text": "y"}));
    world.tenant.api.message_with_status(&id, "delivered");
    let received = world.receiver.wait_for_recipient("bob@receiver.test");
    domain.assert_signed(&received.octets, &mut dkimpy, &world.named);
}

/// H15. The policy of the parent is known from its last check.
#[test]
fn a_subdomain_signed_by_its_parent_is_warned_of_strict_alignment() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "ed25519");
    let warnings = |from: &str| {
        let message = json!({"from": from, "to": ["bob@receiver.test"], "subject": "x", "text": "y"});
        let accepted = world.tenant.api.post("/v1/messages", &message).expect(202).json();
        assert_eq!(accepted["signatures"][0]["domain"], "example.test");
        accepted["warnings"].to_string()
    };
    for (policy, strict) in [("v=DMARC1; p=reject; adkim=s", true), ("v=DMARC1; p=reject; adkim=r", false)] {
        world.named.publish_txt("_dmarc.example.test", &[policy]);
        world.tenant.api.post_empty(&format!("/v1/domains/{}/check", domain.id)).expect(200);
        wait_for("the policy is known", DEADLINE, || {
            (warnings("ann@news.example.test").contains("adkim=s") == strict).then_some(())
        });
        assert!(!warnings("ann@example.test").contains("adkim"), "{policy}");
    }
}

#[test]
fn nothing_is_sent_that_the_published_key_does_not_verify() {
    let world = World::start();
    let domain = world.enabled_domain("example.test", "rsa-2048");
    // Another key stands in DNS from now on: the check says so, and enabling once more is refused.
    let other = world
        .tenant
        .api
        .post(&format!("/v1/domains/{}/keys", domain.id), &json!({"algorithm": "rsa-2048"}))
        .expect(201)
        .json();
    let name = domain.txt.keys().next().unwrap();
    let wrong = format!("v=DKIM1; k=rsa; p={}", other["public_key"].as_str().unwrap());
    world.named.publish_txt(name, &[&wrong]);
    let check = world.tenant.api.post_empty(&format!("/v1/domains/{}/check", domain.id)).expect(200).json();
    assert_eq!(check["verdict"], "fail", "{check:#}");
    let record = check["records"].as_array().unwrap().iter().find(|r| r["name"] == name.as_str()).unwrap();
    assert_eq!(record["status"], "mismatch", "{record:#}");
    assert!(!record["explanation"].as_str().unwrap().is_empty());
    assert_eq!(record["found"][0], wrong);

    // Nothing leaves that this record does not verify; what waits goes out once the record is right again.
    let id = world.send_to(&domain, "bob@receiver.test");
    world.tenant.api.message_with_status(&id, "held");
    assert_eq!(world.receiver.messages().len(), 0);
    world.named.publish_txt(name, &[&domain.txt[name]]);
    let check = world.tenant.api.post_empty(&format!("/v1/domains/{}/check", domain.id)).expect(200).json();
    assert_eq!(check["verdict"], "pass", "{check:#}");
    world.tenant.api.message_with_status(&id, "delivered");
    domain.assert_signed(&world.receiver.messages()[0].octets, &mut DkimPy::start(), &world.named);
}
