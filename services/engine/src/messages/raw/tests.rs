use super::*;
use crate::messages::cases::{NOW_MS, Sequence, assert_signature_verifies, context, places, read};
use serde::Deserialize;
use signpost_dkim::canonical::{BodyHasher, Canonicalization};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    title: String,
    rfc: String,
    input: String,
    rcpt: Option<Vec<String>>,
    mail_from: Option<String>,
    /// POST /messages/raw.
    expect: Expect,
    /// POST /sign of the same octets.
    sign: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default)]
    same: bool,
    becomes: Option<String>,
    faults: Option<Vec<String>>,
    recipients: Option<Vec<String>>,
    subject: Option<String>,
    sender: Option<String>,
    message_id: Option<String>,
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = read(include_str!("../../../../../tests/cases/mime/raw.jsonl"));
    assert!(cases.len() > 50);
    cases
}

fn check(case: &Case, expect: &Expect, result: Result<Prepared, Error>) {
    let id = format!("{}: {} ({})", case.id, case.title, case.rfc);
    let prepared = match (result, &expect.faults) {
        (Err(error), Some(faults)) => return assert_eq!(&places(&error), faults, "{id}"),
        (Ok(prepared), None) => prepared,
        (result, _) => panic!("{id}: {result:?}"),
    };
    let raw = String::from_utf8(prepared.raw.clone()).unwrap();
    assert!(expect.same || expect.becomes.is_some(), "{id}: the case expects nothing");
    if expect.same {
        assert_eq!(raw, case.input, "{id}");
    }
    if let Some(becomes) = &expect.becomes {
        let random = prepared.message_id.trim_matches(['<', '>']).split('@').next().unwrap();
        assert_eq!(raw, becomes.replace("<*@", &format!("<{random}@")), "{id}");
    }
    if let Some(recipients) = &expect.recipients {
        assert_eq!(&prepared.recipients.iter().map(Mailbox::address).collect::<Vec<_>>(), recipients, "{id}");
    }
    if let Some(subject) = &expect.subject {
        assert_eq!(&prepared.subject, subject, "{id}");
    }
    if let Some(message_id) = &expect.message_id {
        assert_eq!(&prepared.message_id, message_id, "{id}");
    }
    assert_eq!(prepared.sender.as_ref().map(Mailbox::address), expect.sender, "{id}");
    assert_eq!(prepared.from.address(), "a@example.com", "{id}");
}

#[test]
fn raw_cases() {
    for case in cases() {
        let envelope = RawEnvelope { rcpt: case.rcpt.clone(), mail_from: case.mail_from.clone() };
        let random = Sequence::new(1);
        let result = prepare_raw(case.input.clone().into_bytes(), &envelope, &context(&random));
        if let Ok(prepared) = &result {
            assert_eq!(prepared.mail_from.as_ref().map(Mailbox::address), case.mail_from, "{}", case.id);
            assert!(!prepared.recipients.is_empty() && !prepared.message_id.is_empty(), "{}", case.id);
            check_sendable(&prepared.raw).unwrap();
            assert_signature_verifies(&case.id, &prepared.raw);
        }
        check(&case, &case.expect, result);
    }
}

#[test]
fn sign_cases() {
    for case in cases() {
        let Some(mut expect) = case.sign.as_ref().map(|e| Expect { faults: e.faults.clone(), ..expect_nothing() })
        else {
            continue;
        };
        expect.same = expect.faults.is_none();
        expect.sender.clone_from(&case.expect.sender);
        expect.message_id = case.sign.as_ref().and_then(|sign| sign.message_id.clone());
        let random = Sequence::new(1);
        let result = prepare_for_sign(case.input.clone().into_bytes(), &context(&random));
        if let Ok(prepared) = &result {
            assert!(prepared.recipients.is_empty() && prepared.mail_from.is_none());
        }
        check(&case, &expect, result);
    }
}

fn expect_nothing() -> Expect {
    Expect { same: false, becomes: None, faults: None, recipients: None, subject: None, sender: None, message_id: None }
}

fn send(raw: &str) -> Prepared {
    let random = Sequence::new(7);
    prepare_raw(raw.as_bytes().to_vec(), &RawEnvelope::default(), &context(&random)).unwrap()
}

#[test]
fn mixed_line_ends_hash_as_crlf() {
    let raw = send("From: a@example.com\nTo: b@example.net\r\n\none\ntwo\r\nthree\n").raw;
    let mut hasher = BodyHasher::new(Canonicalization::Simple, None);
    hasher.update(Message::parse(&raw).unwrap().body);
    let hash = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, hasher.finish().sha256);
    assert_eq!(hash, "n8TGvcflN0t144+p4Ql1dzmbt08czDOxcS1Tom0CwJo=");
}

#[test]
fn a_made_message_id_has_128_random_bits_at_the_from_domain() {
    let first = send("From: a@example.com\r\nTo: b@example.net\r\n\r\n").message_id;
    let (local, domain) = first.split_once('@').unwrap();
    assert_eq!(domain, "example.com>");
    assert!((local.len() - 1) * 5 >= 128, "{local}");
}

#[test]
fn a_message_over_the_limit_is_too_large_before_and_after_completion() {
    let raw = "From: a@example.com\r\nTo: b@example.net\r\n\r\nhi\r\n";
    let random = Sequence::new(1);
    for (limit, fits) in [(10, false), (raw.len() as u64, false), (raw.len() as u64 + 200, true)] {
        let context = ComposeContext { now_ms: NOW_MS, random: &random, max_message: limit };
        let result = prepare_raw(raw.as_bytes().to_vec(), &RawEnvelope::default(), &context);
        assert_eq!(matches!(result, Err(Error::TooLarge { limit: l }) if l == limit), !fits, "{limit}");
    }
    let context = ComposeContext { now_ms: NOW_MS, random: &random, max_message: raw.len() as u64 };
    assert!(prepare_for_sign(raw.as_bytes().to_vec(), &context).is_ok());
}

#[test]
fn redate_changes_the_one_date_and_no_other_octet() {
    let rows = [
        (
            "From: a@b.c\r\nDATE :\r\n Mon, 02 Nov\r\n 2026\r\nTo: x@y.z\r\n\r\nDate: body\r\n",
            "From: a@b.c\r\n",
            "To: x@y.z\r\n\r\nDate: body\r\n",
        ),
        ("Date: x\r\nFrom: a@b.c\r\n\r\n", "", "From: a@b.c\r\n\r\n"),
        ("From: a@b.c\r\n\r\ngr\u{fc}n", "", "From: a@b.c\r\n\r\ngr\u{fc}n"),
    ];
    for (raw, before, after) in rows {
        let expect = format!("{before}Date: Wed, 25 Nov 2026 01:00:00 +0000\r\n{after}");
        assert_eq!(String::from_utf8(redate(raw.as_bytes(), NOW_MS)).unwrap(), expect);
    }
    assert_eq!(redate(b"no message", NOW_MS), b"no message");
}

#[test]
fn faults_beyond_a_hundred_are_counted() {
    let raw = format!("From: a@example.com\r\n{}\r\n", "Subject: x\r\n".repeat(150));
    let random = Sequence::new(1);
    let error = prepare_for_sign(raw.into_bytes(), &context(&random)).unwrap_err();
    let Error::Invalid(faults) = error else { panic!("{error:?}") };
    assert_eq!(faults.len(), 101);
    assert!(faults[100].detail.contains("49 more"));
}

/// Pieces of headers and bodies, well-formed and not.
const PIECES: [&str; 26] = [
    "From: a@example.com",
    "From: b@example.org",
    "To: b@example.net",
    "Bcc: x@example.org",
    "bCC : y@example.org,",
    "Resent-Bcc:z@example.org",
    "Return-Path: <>",
    "Date: x",
    "Message-ID: <1@example.com>",
    "Subject: s",
    "X: y",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    "<",
    "\"",
    "(",
    "ü",
    "\0",
    "Bcc",
    "From ",
];

#[test]
fn whatever_is_accepted_can_be_sent_and_leaks_nobody() {
    let mut accepted = 0;
    for seed in 0..20_000 {
        let random = Sequence::new(seed);
        let mut raw = String::from("From: a@example.com\r\nTo: b@example.net\r\n");
        for _ in 0..random.below(12) {
            raw.push_str(PIECES[random.below(PIECES.len())]);
            if random.below(3) > 0 {
                raw.push_str("\r\n");
            }
        }
        let context = context(&random);
        let Ok(prepared) = prepare_raw(raw.clone().into_bytes(), &RawEnvelope::default(), &context) else { continue };
        accepted += 1;
        check_sendable(&prepared.raw).unwrap();
        assert!(prepared.raw.ends_with(b"\r\n"), "{raw:?}");
        let message = Message::parse(&prepared.raw).unwrap();
        for name in NEVER_SENT {
            assert_eq!(message.all(name).count(), 0, "{raw:?}");
        }
        for name in ["From", "Date", "Message-ID"] {
            assert_eq!(message.all(name).count(), 1, "{raw:?}");
        }
        let before = normalize_line_ends(raw.clone().into_bytes()).unwrap();
        assert_eq!(message.body, Message::parse(&before).unwrap().body, "{raw:?}");
        // what is ready stays as it is, also for /sign
        let again = prepare_raw(
            prepared.raw.clone(),
            &RawEnvelope { rcpt: Some(vec!["b@example.net".to_owned()]), mail_from: None },
            &context,
        );
        assert_eq!(again.unwrap().raw, prepared.raw, "{raw:?}");
        assert_eq!(prepare_for_sign(prepared.raw.clone(), &context).unwrap().raw, prepared.raw, "{raw:?}");
    }
    assert!(accepted > 1_000, "{accepted}");
}

#[test]
fn warnings_are_few_and_a_flood_of_recipients_is_one_fault() {
    let spaced: String = (0..500).map(|n| format!("X-{n} : v\r\n")).collect();
    let raw = format!("From: a@example.com\r\nTo: b@example.net\r\n{spaced}\r\nx\r\n");
    let prepared = send(&raw);
    assert_eq!((prepared.warnings.len(), prepared.warnings[20].as_str()), (21, "and 480 more"));

    let envelope = RawEnvelope { rcpt: Some(vec![String::new(); 1_001]), mail_from: None };
    let random = Sequence::new(7);
    let refused = prepare_raw(raw.into_bytes(), &envelope, &context(&random)).unwrap_err();
    assert_eq!(places(&refused), ["/rcpt"]);
}
