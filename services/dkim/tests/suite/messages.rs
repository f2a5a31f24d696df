//! Splitting a message, repairing line ends, and what may be sent.
use serde::Deserialize;
use signpost_dkim::message::{Message, MessageError, check_sendable, normalize_line_ends};

use crate::case_file;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    title: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    rfc: String,
    input: String,
    /// Fields as `name|value`, or the error's text begins so.
    parse: Option<Outcome<Vec<String>>>,
    /// With `parse`.
    body: Option<String>,
    normalized: Option<Outcome<String>>,
    /// `ok`, or how the error's text begins.
    sendable: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome<T> {
    Ok(T),
    Error(String),
}

fn check<T: std::fmt::Debug + PartialEq>(id: &str, found: Result<T, MessageError>, expected: &Outcome<T>) {
    match (found, expected) {
        (Ok(found), Outcome::Ok(expected)) => assert_eq!(&found, expected, "{id}"),
        (Err(e), Outcome::Error(start)) => assert!(e.to_string().starts_with(start), "{id}: {e}"),
        (found, Outcome::Ok(_) | Outcome::Error(_)) => panic!("{id}: {found:?}"),
    }
}

#[test]
fn messages_of_the_case_file() {
    for case in case_file::read::<Case>("messages") {
        assert!(case.parse.is_some() || case.normalized.is_some() || case.sendable.is_some(), "{}", case.id);
        let raw = case.input.as_bytes();
        if let Some(expected) = &case.parse {
            let parsed = Message::parse(raw);
            if let (Ok(message), Some(body)) = (&parsed, &case.body) {
                assert_eq!(std::str::from_utf8(message.body).unwrap(), body, "{}", case.id);
                assert_eq!(&raw[message.body_offset..], message.body, "{}", case.id);
            }
            let fields = parsed.map(|message| {
                let octets: Vec<u8> = message.fields.iter().flat_map(|f| f.raw).copied().collect();
                assert!(raw.starts_with(&octets), "{}: the original octets are not kept", case.id);
                let text = |value| String::from_utf8_lossy(value).into_owned();
                message.fields.iter().map(|f| format!("{}|{}", f.name, text(f.value))).collect()
            });
            check(&case.id, fields, expected);
        }
        if let Some(expected) = &case.normalized {
            let normalized = normalize_line_ends(raw.to_vec()).map(|octets| String::from_utf8(octets).unwrap());
            check(&case.id, normalized, expected);
        }
        if let Some(expected) = &case.sendable {
            match check_sendable(raw) {
                Ok(()) => assert_eq!(expected, "ok", "{}", case.id),
                Err(e) => assert!(e.to_string().starts_with(expected), "{}: {e}", case.id),
            }
        }
    }
}

#[test]
fn good_line_ends_are_not_copied() {
    let raw = b"From: a@example.com\r\n\r\nhi\r\n".to_vec();
    let before = raw.as_ptr();
    let normalized = normalize_line_ends(raw).unwrap();
    assert_eq!(normalized.as_ptr(), before);
}

#[test]
fn a_field_knows_its_line() {
    let message = Message::parse(b"A: 1\r\n 2\r\nB: 3\r\n\r\n").unwrap();
    assert_eq!(message.fields.iter().map(|f| f.line).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn lines_up_to_998_octets_may_be_sent() {
    let line = |length: usize| format!("From: a@example.com\r\n\r\n{}\r\n", "x".repeat(length));
    assert_eq!(check_sendable(line(998).as_bytes()), Ok(()));
    assert_eq!(check_sendable(line(999).as_bytes()), Err(MessageError::LongLine { line: 3, length: 999 }));
}

#[test]
fn octets_that_are_no_text_never_panic() {
    let start: Vec<u8> = (0..=255).collect();
    for cut in 0..start.len() {
        let raw = [&start[cut..], b":\r\n", &start[..cut]].concat();
        let _ = (Message::parse(&raw).is_ok(), check_sendable(&raw).is_ok(), normalize_line_ends(raw).is_ok());
    }
    let latin = b"Subject: gr\xFC\r\n\r\ngr\xFC\r\n";
    assert_eq!(Message::parse(latin).unwrap().fields[0].value, b" gr\xFC");
    assert_eq!(check_sendable(latin), Err(MessageError::EightBitHeader { name: "Subject".to_owned(), line: 1 }));
}
