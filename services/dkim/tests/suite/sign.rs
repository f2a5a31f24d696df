//! Signing: what is emitted, that it verifies, and that it does not once something signed changes.
use signpost_dkim::canonical::{BodyHasher, Canonicalization};
use signpost_dkim::message::Message;
use signpost_dkim::sign::{EXPIRATION_MARGIN, Policy, SignError, Signer, prepare, prepare_streamed};
use signpost_dkim::verify::{KeyAnswer, Verifier};
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};

use crate::signing_key::SigningKey;

/// 2026-11-02T12:00:00+02:00, and so 10:00 UTC.
const NOW: u64 = 1_793_613_600;

const MESSAGE: &str = "From: A <a@example.com>\r\nTo: b@example.net\r\nSubject: t\r\nDate: Mon, 02 Nov 2026 10:00:00 +0000\r\n\
                       Message-ID: <1@example.com>\r\n\r\nhi\r\n";

const ALL: [(Canonicalization, Canonicalization); 4] = [
    (Canonicalization::Simple, Canonicalization::Simple),
    (Canonicalization::Simple, Canonicalization::Relaxed),
    (Canonicalization::Relaxed, Canonicalization::Simple),
    (Canonicalization::Relaxed, Canonicalization::Relaxed),
];

fn signer(algorithm: KeyAlgorithm) -> Signer {
    Signer { domain: SigningDomain::parse("example.com").unwrap(), selector: Selector::parse("s1").unwrap(), algorithm }
}

fn sign(raw: &str, policy: &Policy, key: &SigningKey) -> String {
    let algorithm = key.public().algorithm().unwrap();
    let message = Message::parse(raw.as_bytes()).unwrap();
    let draft = prepare(&message, &signer(algorithm), policy, NOW).unwrap();
    let signature = key.sign(draft.digest());
    draft.finish(&signature)
}

fn results(raw: &str, key: &SigningKey) -> Vec<&'static str> {
    let message = Message::parse(raw.as_bytes()).unwrap();
    let record = key.record();
    Verifier::new(&message)
        .verify(&|_| KeyAnswer::Text(vec![record.clone()]), NOW)
        .iter()
        .map(|v| v.result.as_str())
        .collect()
}

/// The h= list, after taking out what folding may put there.
fn signed_names(field: &str) -> Vec<String> {
    let h = field.split(';').find_map(|t| t.trim().strip_prefix("h=")).unwrap();
    h.split(':').map(|name| name.trim().to_owned()).collect()
}

fn count(field: &str, name: &str) -> usize {
    signed_names(field).iter().filter(|n| n.eq_ignore_ascii_case(name)).count()
}

fn longest_line(field: &str) -> usize {
    field.split("\r\n").map(str::len).max().unwrap()
}

#[test]
fn every_message_verifies_in_all_four_canonicalizations_with_both_algorithms() {
    let headers = [
        MESSAGE.split_once("\r\n\r\n").unwrap().0,
        // Neither To nor Subject.
        "From: a@example.com\r\nDate: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <3@example.com>",
        "From : a@example.com\r\nSubject:\r\nTo: \t b@example.net,\r\n\tc@example.net \r\n  ,d@example.net\r\nX-Empty: ",
        "Received: by a.example\r\nDKIM-Signature: v=1; junk\r\nList-Id: <a>\r\nList-Id: <b>\r\nFrom: a@example.com",
    ];
    let bodies = [
        "",
        "\r\n",
        "hi",
        "hi\r\n",
        "a \t b  \r\n \r\n\r\n",
        ".\r\n..\r\nFrom x\r\n",
        "gr\u{fc}\u{df}e\u{a0}\r\n\r\n\r\n",
    ];
    for key in [SigningKey::ed25519(), SigningKey::rsa_2048()] {
        for (header, body) in ALL {
            let policy = Policy { header, body, ..Policy::default() };
            for raw in headers.iter().flat_map(|h| bodies.iter().map(move |b| format!("{h}\r\n\r\n{b}"))) {
                let field = sign(&raw, &policy, &key);
                let signed = format!("{field}{raw}");
                assert_eq!(results(&signed, &key)[0], "pass", "{header:?}/{body:?} {signed:?}");
                assert!(longest_line(&field) <= 78, "{field}");
                let before = Message::parse(raw.as_bytes()).unwrap();
                let after = Message::parse(signed.as_bytes()).unwrap();
                let raws = |m: &Message<'_>| m.fields.iter().map(|f| f.raw.to_vec()).collect::<Vec<_>>();
                assert_eq!(raws(&after)[1..], raws(&before), "the other fields are as they were");
                assert_eq!(after.body, before.body);
            }
        }
    }
}

#[test]
fn the_tags_stand_in_the_field_and_l_never_does() {
    let policy = Policy { expires_after: Some(600_000), ..Policy::default() };
    let field = sign(MESSAGE, &policy, &SigningKey::ed25519());
    let unfolded = field.replace("\r\n ", " ");
    let start = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; i=@example.com; s=s1; q=dns/txt; \
                 t=1793613600; x=1794213600; h=From:";
    assert!(unfolded.starts_with(start), "{unfolded}");
    let names: Vec<&str> =
        unfolded.split(';').filter_map(|t| t.split_once('=')).map(|(n, _)| n.rsplit(' ').next().unwrap()).collect();
    assert_eq!(names, ["v", "a", "c", "d", "i", "s", "q", "t", "x", "h", "bh", "b"]);
    assert!(field.ends_with("\r\n") && field.is_ascii());
}

#[test]
fn oversigned_fields_are_listed_once_more_than_present_whatever_the_policy_repeats() {
    let mut policy = Policy::default();
    policy.oversigned.extend(["from".to_owned(), "SUBJECT".to_owned()]);
    policy.signed.extend(["From".to_owned(), "x-tag".to_owned(), "X-Tag".to_owned(), "X-Absent".to_owned()]);
    let field = sign(&format!("X-Tag: 1\r\nX-Tag: 2\r\n{MESSAGE}"), &policy, &SigningKey::ed25519());
    for (name, times) in [
        ("From", 2),
        ("To", 2),
        ("Cc", 1),
        ("Subject", 2),
        ("Reply-To", 1),
        ("List-Unsubscribe-Post", 1),
        ("X-Tag", 2),
        ("X-Absent", 0),
    ] {
        assert_eq!(count(&field, name), times, "{name} in {field}");
    }
    assert_eq!(Policy::default().oversigned.len(), 12);
}

#[test]
fn one_more_of_any_oversigned_field_above_or_below_is_a_fail() {
    let key = SigningKey::ed25519();
    for (header, body) in ALL {
        let policy = Policy { header, body, ..Policy::default() };
        let field = sign(MESSAGE, &policy, &key);
        for name in &policy.oversigned {
            let extra = format!("{name}: x@evil.example\r\n");
            let below = MESSAGE.replacen("\r\n\r\n", &format!("\r\n{extra}\r\n"), 1);
            for changed in
                [format!("{extra}{field}{MESSAGE}"), format!("{field}{extra}{MESSAGE}"), format!("{field}{below}")]
            {
                assert_eq!(results(&changed, &key), ["fail"], "{changed}");
            }
        }
    }
}

#[test]
fn a_change_of_a_signed_field_or_of_the_body_fails_and_an_added_trace_field_does_not() {
    let key = SigningKey::ed25519();
    let signed = format!("{}{MESSAGE}", sign(MESSAGE, &Policy::default(), &key));
    for (from, to) in [
        ("Subject: t", "Subject: u"),
        ("b@example.net", "c@example.net"),
        ("\r\n\r\nhi", "\r\n\r\nho"),
        ("hi\r\n", "hi\r\nmore\r\n"),
    ] {
        assert_eq!(results(&signed.replacen(from, to, 1), &key), ["fail"], "{to}");
    }
    let relayed = format!("Return-Path: <x@example.net>\r\nReceived: by relay.example\r\n{signed}\r\n");
    assert_eq!(results(&relayed.replace("Subject: t", "SUBJECT:  t "), &key), ["pass"]);
}

#[test]
fn no_name_of_h_is_ever_cut_and_lines_keep_to_78() {
    let mut policy = Policy::default();
    policy.signed.extend((0..25).map(|i| format!("X-Quite-Long-Header-Field-Name-Number-{i}")));
    let added: String = policy.signed.iter().map(|name| format!("{name}: v\r\n")).collect();
    let raw = format!("{added}{MESSAGE}");
    let wanted: Vec<&String> = policy.oversigned.iter().chain(&policy.signed).collect();
    // Signatures of Ed25519 and of RSA with 2048, 3072 and 4096 bits.
    for (length, algorithm) in [
        (64, KeyAlgorithm::Ed25519),
        (256, KeyAlgorithm::Rsa2048),
        (384, KeyAlgorithm::Rsa3072),
        (512, KeyAlgorithm::Rsa4096),
    ] {
        let message = Message::parse(raw.as_bytes()).unwrap();
        let field = prepare(&message, &signer(algorithm), &policy, NOW).unwrap().finish(&vec![0xA5; length]);
        assert!(longest_line(&field) <= 78, "{field}");
        assert!(signed_names(&field).iter().all(|name| wanted.contains(&name)), "{field}");
        // Folds stand behind `;`, behind `:` of h=, or inside the base64 of b=.
        let b = field.find(" b=").unwrap();
        for (at, _) in field[..b].match_indices("\r\n ") {
            assert!(matches!(field.as_bytes()[at - 1], b';' | b':'), "{field}");
        }
        assert!(field.split("\r\n").all(|line| !line.trim().is_empty() || line.is_empty()), "{field}");
    }
}

#[test]
fn every_column_at_which_b_can_begin_keeps_to_78() {
    for extra in 1..=63 {
        let signer = Signer {
            domain: SigningDomain::parse("example.com").unwrap(),
            selector: Selector::parse(&"s".repeat(extra)).unwrap(),
            algorithm: KeyAlgorithm::Rsa4096,
        };
        let policy =
            Policy { oversigned: vec![], signed: vec![format!("X-{}", "y".repeat(extra))], ..Policy::default() };
        let raw = format!("X-{}: 1\r\n{MESSAGE}", "y".repeat(extra));
        let field =
            prepare(&Message::parse(raw.as_bytes()).unwrap(), &signer, &policy, NOW).unwrap().finish(&[0x5A; 512]);
        assert!(longest_line(&field) <= 78, "{field}");
    }
}

#[test]
fn the_longest_names_are_not_broken_and_stay_below_998() {
    let label = "x".repeat(63);
    let key = SigningKey::ed25519();
    let signer = Signer {
        domain: SigningDomain::parse(&format!("{label}.{label}.{label}.{}", "y".repeat(61))).unwrap(),
        selector: Selector::parse(&format!("{label}.{label}.{label}.{}", "z".repeat(61))).unwrap(),
        algorithm: KeyAlgorithm::Ed25519,
    };
    for (header, body) in ALL {
        let policy = Policy { header, body, ..Policy::default() };
        let draft = prepare(&Message::parse(MESSAGE.as_bytes()).unwrap(), &signer, &policy, NOW).unwrap();
        let signature = key.sign(draft.digest());
        let field = draft.finish(&signature);
        assert!(field.contains(&format!("d={};", signer.domain)) && field.contains(&format!("s={};", signer.selector)));
        assert!(longest_line(&field) < 998, "{field}");
    }
}

#[test]
fn a_body_in_chunks_gives_the_same_draft() {
    let message = Message::parse(MESSAGE.as_bytes()).unwrap();
    let policy = Policy::default();
    let whole = prepare(&message, &signer(KeyAlgorithm::Ed25519), &policy, NOW).unwrap();
    let mut hasher = BodyHasher::new(policy.body, None);
    message.body.chunks(1).for_each(|octet| hasher.update(octet));
    let header = Message { body: b"", ..message };
    let streamed = prepare_streamed(&header, &hasher.finish(), &signer(KeyAlgorithm::Ed25519), &policy, NOW).unwrap();
    assert_eq!(streamed.digest(), whole.digest());
}

#[test]
fn a_second_signature_verifies_beside_the_first() {
    let key = SigningKey::ed25519();
    let once = format!("{}{MESSAGE}", sign(MESSAGE, &Policy::default(), &key));
    let twice = format!("{}{once}", sign(&once, &Policy::default(), &key));
    assert_eq!(results(&twice, &key), ["pass", "pass"]);
}

#[test]
fn what_cannot_be_signed_is_refused() {
    let message = Message::parse(b"To: b@example.net\r\n\r\nhi\r\n").unwrap();
    let refused = prepare(&message, &signer(KeyAlgorithm::Ed25519), &Policy::default(), NOW).map(|d| *d.digest());
    assert_eq!(refused, Err(SignError::NoFrom));
    let message = Message::parse(MESSAGE.as_bytes()).unwrap();
    for name in [
        "Return-Path",
        "RECEIVED",
        "DKIM-Signature",
        "Authentication-Results",
        "ARC-Seal",
        "arc-message-signature",
        "Bcc",
        "Resent-Bcc",
        "Resent-From",
        "Delivered-To",
        "",
        "X Foo",
        "X:Foo",
        "X-é",
        "X;Foo",
        "X\r\nFoo",
    ] {
        for policy in [
            Policy { signed: vec![name.to_owned()], ..Policy::default() },
            Policy { oversigned: vec![name.to_owned()], ..Policy::default() },
        ] {
            let expected = SignError::UnsignableField(name.to_owned());
            assert_eq!(policy.validate(0), Err(expected.clone()), "{name:?}");
            let refused = prepare(&message, &signer(KeyAlgorithm::Ed25519), &policy, NOW).map(|d| *d.digest());
            assert_eq!(refused, Err(expected), "{name:?}");
        }
    }
    assert_eq!(Policy::default().validate(432_000), Ok(()));
}

#[test]
fn an_expiration_outlasts_the_queue() {
    let policy = |after| Policy { expires_after: Some(after), ..Policy::default() };
    let days = 86_400;
    for (after, good) in
        [(0, false), (days, false), (5 * days, false), (5 * days + EXPIRATION_MARGIN, true), (u64::MAX, true)]
    {
        assert_eq!(policy(after).validate(5 * days).is_ok(), good, "{after}");
    }
    let message = Message::parse(MESSAGE.as_bytes()).unwrap();
    for after in [0, u64::MAX] {
        let refused = prepare(&message, &signer(KeyAlgorithm::Ed25519), &policy(after), NOW).map(|d| *d.digest());
        assert_eq!(refused, Err(SignError::Expiration), "x= not after t=, or beyond every number");
    }
}

/// From is signed even where the policy forgets it (RFC 6376 5.4).
#[test]
fn from_is_always_signed() {
    let policy = Policy { signed: vec!["Subject".to_owned()], oversigned: vec![], ..Policy::default() };
    assert_eq!(signed_names(&sign(MESSAGE, &policy, &SigningKey::ed25519())), ["Subject", "From", "From"]);
}
