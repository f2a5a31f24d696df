//! Verification: case files. `@BH@` and `@B@` in a message are filled in by a naive signer with the key of RFC 8463 A.2,
//! so that fields can be signed that our own signer would never make.
use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use signpost_dkim::message::Message;
use signpost_dkim::verify::{KeyAnswer, MAX_SIGNATURES, Verifier};

use crate::signing_key::{ED25519_P, SigningKey};
use crate::{case_file, naive};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    title: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    rfc: String,
    message: String,
    /// Text to find after signing, and what takes its place.
    #[serde(default)]
    then_replace: Vec<(String, String)>,
    /// Name: TXT values; a name that is not here does not exist. `@ED25519@` is the p= of the signing key.
    #[serde(default)]
    records: HashMap<String, Vec<String>>,
    /// Names for which DNS gives no answer.
    #[serde(default)]
    unavailable: Vec<String>,
    now: u64,
    /// Names asked for; not looked at where absent.
    asked: Option<Vec<String>>,
    expect: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    result: String,
    domain: Option<String>,
    selector: Option<String>,
    algorithm: Option<String>,
    prefix: Option<String>,
    /// A part of the reason; the empty text: no reason.
    reason: Option<String>,
}

/// Value of a tag in a field that has plain tags only.
fn tag(field: &str, name: &str) -> Option<String> {
    let value = field.split_once(':').unwrap().1;
    value.split(';').filter_map(|t| t.split_once('=')).find(|(n, _)| n.trim() == name).map(|(_, v)| v.trim().to_owned())
}

/// Fields with their CRLFs, and the body.
fn split(message: &str) -> (Vec<String>, String) {
    let (header, body) = message.split_once("\r\n\r\n").unwrap();
    let mut fields: Vec<String> = Vec::new();
    for line in header.split("\r\n") {
        match line.starts_with([' ', '\t']) {
            true => fields.last_mut().unwrap().push_str(&format!("{line}\r\n")),
            false => fields.push(format!("{line}\r\n")),
        }
    }
    (fields, body.to_owned())
}

fn name_of(field: &str) -> String {
    field.split_once(':').unwrap().0.trim_end().to_ascii_lowercase()
}

/// Fills in the placeholders of one field.
fn sign_field(fields: &[String], own: usize, body: &str, key: &SigningKey) -> String {
    let c = tag(&fields[own], "c").unwrap_or_else(|| "simple/simple".to_owned());
    let (header, body_c) = c.split_once('/').unwrap_or((&c, "simple"));
    let canonical = match body_c {
        "relaxed" => naive::relaxed_body(body.as_bytes()),
        _ => naive::simple_body(body.as_bytes()),
    };
    let limit = tag(&fields[own], "l").map_or(canonical.len(), |l| l.parse().unwrap()).min(canonical.len());
    let bh = STANDARD.encode(digest(&SHA256, &canonical[..limit]));
    let with_bh = fields[own].replace("@BH@", &bh);
    let field_form = |field: &str| match header {
        "relaxed" => naive::relaxed_field(field.as_bytes()),
        _ => field.as_bytes().to_vec(),
    };
    let mut left: Vec<usize> = (0..fields.len()).filter(|&i| i != own).collect();
    let mut input = Vec::new();
    for name in tag(&with_bh, "h").unwrap().split(':') {
        if let Some(at) = left.iter().rposition(|&i| name_of(&fields[i]) == name.trim().to_ascii_lowercase()) {
            input.extend(field_form(&fields[left.remove(at)]));
        }
    }
    input.extend(field_form(&with_bh.replace("@B@", "")));
    input.truncate(input.len() - 2);
    let digest: [u8; 32] = digest(&SHA256, &input).as_ref().try_into().unwrap();
    with_bh.replace("@B@", &STANDARD.encode(key.sign(&digest)))
}

/// From the bottom up, so that a signature can cover those below it.
fn sign_placeholders(message: &str) -> String {
    if !message.contains("@B@") {
        return message.to_owned();
    }
    let key = SigningKey::ed25519();
    let (mut fields, body) = split(message);
    for own in (0..fields.len()).rev() {
        if fields[own].contains("@B@") {
            fields[own] = sign_field(&fields, own, &body, &key);
        }
    }
    format!("{}\r\n{body}", fields.concat())
}

#[test]
fn messages_of_the_case_file() {
    for case in case_file::read::<Case>("verify") {
        let mut text = sign_placeholders(&case.message);
        for (from, to) in &case.then_replace {
            assert!(text.contains(from), "{}: {from:?} is not in the message", case.id);
            text = text.replacen(from, to, 1);
        }
        let message = Message::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{}: {e}", case.id));
        let verifier = Verifier::new(&message);
        if let Some(asked) = &case.asked {
            assert_eq!(&verifier.record_names(), asked, "{}", case.id);
        }
        let answer = |name: &str| match case.records.get(name) {
            Some(records) => KeyAnswer::Text(records.iter().map(|r| r.replace("@ED25519@", ED25519_P)).collect()),
            None if case.unavailable.iter().any(|n| n == name) => KeyAnswer::Unavailable("SERVFAIL".to_owned()),
            None => KeyAnswer::Absent,
        };
        let found = verifier.verify(&answer, case.now);
        assert_eq!(found.len(), case.expect.len(), "{}: {found:?}", case.id);
        for (found, expected) in found.iter().zip(&case.expect) {
            assert_eq!(found.result.as_str(), expected.result, "{}: {found:?}", case.id);
            for (found, expected) in [
                (&found.domain, &expected.domain),
                (&found.selector, &expected.selector),
                (&found.algorithm, &expected.algorithm),
                (&found.signature_prefix, &expected.prefix),
            ] {
                assert!(expected.is_none() || found == expected, "{}: {found:?} is not {expected:?}", case.id);
            }
            match expected.reason.as_deref() {
                None => {}
                Some("") => assert_eq!(found.reason, None, "{}", case.id),
                Some(part) => {
                    assert!(found.reason.as_deref().is_some_and(|r| r.contains(part)), "{}: {found:?}", case.id);
                }
            }
        }
    }
}

#[test]
fn signatures_beyond_the_tenth_are_neutral_and_no_more_keys_are_asked_for() {
    let field =
        "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; s=s1; h=from; bh=@BH@; b=@B@\r\n";
    let text = sign_placeholders(&format!("{}From: a@example.com\r\n\r\nhi\r\n", field.repeat(MAX_SIGNATURES + 5)));
    let message = Message::parse(text.as_bytes()).unwrap();
    let asked = std::cell::Cell::new(0);
    let results = Verifier::new(&message).verify(
        &|_| {
            asked.set(asked.get() + 1);
            KeyAnswer::Text(vec![format!("v=DKIM1; k=ed25519; p={ED25519_P}")])
        },
        0,
    );
    let texts: Vec<&str> = results.iter().map(|v| v.result.as_str()).collect();
    assert_eq!(texts, [["pass"].repeat(MAX_SIGNATURES), ["neutral"].repeat(5)].concat());
    assert_eq!(asked.get(), MAX_SIGNATURES);
}

/// With work that grows with fields times entries this would not come to an end.
#[test]
fn many_fields_and_a_long_h_take_linear_work() {
    let names = vec!["x-a"; 100_000].join(":");
    let field = format!(
        "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; s=s1; h=from:{names}; bh=@BH@; b=AAAA\r\n"
    );
    let bh = STANDARD.encode(digest(&SHA256, b"hi\r\n"));
    let text = format!(
        "{}From: a@example.com\r\n{}\r\nhi\r\n",
        field.replace("@BH@", &bh).repeat(3),
        "X-A: b\r\n".repeat(100_000)
    );
    let message = Message::parse(text.as_bytes()).unwrap();
    let results =
        Verifier::new(&message).verify(&|_| KeyAnswer::Text(vec![format!("v=DKIM1; k=ed25519; p={ED25519_P}")]), 0);
    assert_eq!(results.iter().map(|v| v.result.as_str()).collect::<Vec<_>>(), ["fail"; 3]);
}

/// One changed octet anywhere in a signed message: never a panic, and `pass` only where the canonical form is the same.
#[test]
fn a_change_of_any_octet_never_panics_and_only_passes_where_nothing_signed_changed() {
    let text = sign_placeholders(
        "DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; d=example.com; i=@example.com;\r\n \
         s=s1; q=dns/txt; t=1; x=9; h=from:subject:from; bh=@BH@;\r\n b=@B@\r\n\
         From: a@example.com\r\nSubject: s\r\n\r\nhi\r\n",
    );
    let verify = |octets: &[u8]| match Message::parse(octets) {
        Ok(message) => Verifier::new(&message)
            .verify(&|_| KeyAnswer::Text(vec![format!("v=DKIM1; k=ed25519; p={ED25519_P}")]), 5)
            .iter()
            .any(|v| v.result.as_str() == "pass"),
        Err(_) => false,
    };
    assert!(verify(text.as_bytes()));
    for i in 0..text.len() {
        for octet in [b' ', b';', b':', b'=', b'\r', b'\n', b'A', 0, 0xFF] {
            let mut changed = text.clone().into_bytes();
            if changed[i] != octet {
                changed[i] = octet;
                assert!(!verify(&changed), "octet {i} as {octet:#x} still passes");
            }
        }
        let mut shorter = text.clone().into_bytes();
        shorter.remove(i);
        // Without its CRLF, or a part of it, the last line is as good as with it.
        assert!(i + 2 >= text.len() || !verify(&shorter), "without octet {i} it still passes");
    }
}
