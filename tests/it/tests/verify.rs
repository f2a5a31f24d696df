//! POST /v1/verify and `signpost verify` against records in a real BIND: every kind of result, with its reason.
#![cfg(test)]

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;
use signpost_dkim::message::Message;
use signpost_dkim::record::{PublicKey, build, zone_text};
use signpost_dkim::sign::{Policy, Signer, prepare};
use signpost_dkim::{KeyAlgorithm, Selector, SigningDomain};
use signpost_it::{App, DkimPy, Named, Tenant, binary, enabled_domain, now};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

/// Not a secret: its public half is in the zones of this file.
const SEED: [u8; 32] = [7; 32];
/// From here SPF passes for `mail.test`, from nowhere else.
const GOOD_IP: &str = "192.0.2.1";

/// What is posted and what must come out. A reason is a part of the text; an empty one means that there is none.
struct Case<'a> {
    name: &'a str,
    octets: Vec<u8>,
    query: &'a str,
    dkim: Vec<(&'a str, &'a str)>,
    spf: (&'a str, &'a str),
    dmarc: (&'a str, &'a str),
}

/// The parts of a case that most cases share.
fn case(name: &str, octets: Vec<u8>) -> Case<'_> {
    Case {
        name,
        octets,
        query: "",
        dkim: Vec::new(),
        spf: ("none", "was not given"),
        dmarc: ("pass", "DKIM passed for"),
    }
}

fn key_record() -> String {
    let pair = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    build(&PublicKey::from_ed25519(pair.public_key().as_ref()).unwrap())
}

/// Signed by the key above, at `signed_at`.
fn sign(domain: &str, selector: &str, message: &[u8], signed_at: u64, expires_after: Option<u64>) -> Vec<u8> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
    let parsed = Message::parse(message).unwrap();
    let signer = Signer {
        domain: SigningDomain::parse(domain).unwrap(),
        selector: Selector::parse(selector).unwrap(),
        algorithm: KeyAlgorithm::Ed25519,
    };
    let draft = prepare(&parsed, &signer, &Policy { expires_after, ..Policy::default() }, signed_at).unwrap();
    let signature = pair.sign(draft.digest());
    let field = draft.finish(signature.as_ref());
    [field.as_bytes(), message].concat()
}

fn letter(from: &str) -> Vec<u8> {
    format!(
        "From: {from}\r\nTo: Bob <bob@receiver.test>\r\nSubject: Hello\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n\
         Message-ID: <1@example.test>\r\n\r\nHello Bob,\r\nhow are you?\r\n"
    )
    .into_bytes()
}

fn replaced(octets: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(octets.to_vec()).unwrap();
    assert!(text.contains(from), "{from:?} in {text}");
    text.replacen(from, to, 1).into_bytes()
}

fn zones() -> Named {
    let key = zone_text(&key_record());
    let dmarc = |record: &str| format!("_dmarc IN TXT \"v=DMARC1; {record}\"\n");
    let t1 = format!("t1._domainkey IN TXT {key}\n");
    let mut includes = String::from("many IN TXT \"v=spf1");
    for n in 0..11 {
        let _ = write!(includes, " include:i{n}.mail.test");
    }
    includes.push_str(" -all\"\n");
    for n in 0..11 {
        let _ = writeln!(includes, "i{n} IN TXT \"v=spf1 ip4:198.51.100.{n} ?all\"");
    }
    let mail = format!(
        "@ IN TXT \"v=spf1 ip4:{GOOD_IP} -all\"\nsoft IN TXT \"v=spf1 ip4:{GOOD_IP} ~all\"\nneutral IN TXT \"v=spf1 ?all\"\n\
         plain IN A {GOOD_IP}\ntwo IN TXT \"v=spf1 mx -all\"\ntwo IN TXT \"v=spf1 a -all\"\nbad IN TXT \"v=spf1 foo -all\"\n\
         loop IN TXT \"v=spf1 include:loop.mail.test -all\"\ngone IN TXT \"v=spf1 include:nothing.mail.test -all\"\n\
         nested IN TXT \"v=spf1 include:refuses.mail.test include:mail.test -all\"\nrefuses IN TXT \"v=spf1 -all\"\n\
         shared IN TXT \"v=spf1 include:a.mail.test include:b.mail.test -all\"\na IN TXT \"v=spf1 include:c.mail.test ?all\"\n\
         b IN TXT \"v=spf1 include:c.mail.test ?all\"\nc IN TXT \"v=spf1 ip4:203.0.113.5 -all\"\n{includes}"
    );
    Named::with()
        .zone(
            "example.test",
            &format!("{}{t1}@ IN TXT \"v=spf1 ip4:{GOOD_IP} -all\"\n", dmarc("p=reject; sp=quarantine")),
        )
        .zone("other.test", &dmarc("p=quarantine; adkim=s; aspf=s"))
        .zone(
            "keys.test",
            &format!(
                "{}{t1}revoked._domainkey IN TXT \"v=DKIM1; k=ed25519; p=\"\ntest._domainkey IN TXT {}\n\
                 broken._domainkey IN TXT \"v=DKIM1; k=ed25519; p=AAAA\"\n",
                dmarc("p=none"),
                zone_text(&format!("{}; t=y", key_record()))
            ),
        )
        .zone("attacker.test", &format!("{t1}@ IN TXT \"v=spf1 ip4:{GOOD_IP} -all\"\n"))
        .zone("norecord.test", &t1)
        .zone("twice.test", &format!("{}{}{t1}", dmarc("p=none"), dmarc("p=reject")))
        .zone("shops.test", &format!("{}{t1}_dmarc.shop IN TXT \"v=DMARC1; p=reject; psd=n\"\n", dmarc("p=none")))
        .zone("public.test", &format!("{}t1._domainkey.org IN TXT {key}\n", dmarc("p=reject; psd=y; np=reject")))
        .zone("mail.test", &mail)
        .start()
}

struct Stage {
    app: App,
    named: Named,
    tenant: Tenant,
    judge: Mutex<DkimPy>,
}

impl Stage {
    fn set() -> Self {
        let named = zones();
        let app = App::with().dns(&named).env("SIGNPOST_MAX_MESSAGE", "100kB").start();
        let tenant = app.tenant("Ann");
        Self { app, named, tenant, judge: Mutex::new(DkimPy::start()) }
    }

    fn verify(&self, octets: &[u8], query: &str) -> Value {
        let answer = self.tenant.api.post_message(&format!("/v1/verify{query}"), octets);
        answer.expect(200).json()
    }

    /// `signpost verify` with the parameters of that query.
    fn cli(&self, octets: &[u8], query: &str, more: &[&str]) -> Output {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), octets).unwrap();
        let mut arguments = vec!["verify".to_owned(), file.path().display().to_string()];
        arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        for (name, value) in query.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('=')) {
            arguments.push(format!("--{}={value}", name.replace('_', "-")));
        }
        self.app.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// As a parser that is not ours reads the Authentication-Results value.
    fn assert_field(&self, field: &str, expected: &[(&str, &str)]) {
        let read = self.judge.lock().unwrap().authentication_results(field);
        let read: Vec<(&str, &str)> = read.iter().map(|(method, result)| (method.as_str(), result.as_str())).collect();
        assert_eq!(read, expected, "{field}");
    }

    /// By the API, and by the command line to the same effect.
    fn check(&self, case: &Case<'_>) {
        let found = self.verify(&case.octets, case.query);
        let what = format!("{}: {found:#}", case.name);
        let results: Vec<&str> = found["dkim"].as_array().unwrap().iter().map(|d| text(&d["result"])).collect();
        assert_eq!(results, case.dkim.iter().map(|(result, _)| *result).collect::<Vec<_>>(), "{what}");
        for (one, (_, reason)) in found["dkim"].as_array().unwrap().iter().zip(&case.dkim) {
            assert_reason(&one["reason"], reason, &what);
        }
        assert_eq!(found["spf"]["result"], case.spf.0, "{what}");
        assert_reason(&found["spf"]["reason"], case.spf.1, &what);
        assert_eq!(found["dmarc"]["result"], case.dmarc.0, "{what}");
        assert_reason(&found["dmarc"]["reason"], case.dmarc.1, &what);
        let field = text(&found["authentication_results"]);
        assert!(field.bytes().all(|b| (b' '..=b'~').contains(&b)), "{what}");
        assert!(field.starts_with("out.signpost.test; dkim="), "{what}");
        let mut expected: Vec<(&str, &str)> = results.iter().take(11).map(|result| ("dkim", *result)).collect();
        if expected.is_empty() {
            expected.push(("dkim", "none"));
        }
        expected.extend([("spf", case.spf.0), ("dmarc", case.dmarc.0)]);
        self.assert_field(field, &expected);
        let printed = self.cli(&case.octets, case.query, &["--json"]);
        let by_command: Value = serde_json::from_slice(&printed.stdout)
            .unwrap_or_else(|e| panic!("{}: {e}: {}", case.name, String::from_utf8_lossy(&printed.stderr)));
        assert_eq!(by_command, found, "{}: the command line says something else", case.name);
        assert_eq!(printed.status.code(), Some(i32::from(case.dmarc.0 != "pass")), "{}", case.name);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn assert_reason(found: &Value, part: &str, what: &str) {
    match part {
        "" => assert!(found.is_null(), "{what}"),
        part => assert!(found.as_str().is_some_and(|reason| reason.contains(part)), "{part:?} in {what}"),
    }
}

#[test]
fn signatures_are_judged_with_their_reasons() {
    let stage = Stage::set();
    let mut dkimpy = DkimPy::start();
    enabled_domain(&stage.tenant, &stage.named, "example.test", "rsa-2048");
    enabled_domain(&stage.tenant, &stage.named, "other.test", "ed25519");
    let by_service = |from: &str| {
        let api = stage.tenant.api.with_header("Accept", "message/rfc822");
        api.post_message("/v1/sign", &letter(from)).expect(200).body.to_vec()
    };
    let (rsa, ed) = (by_service("Ann <ann@example.test>"), by_service("ann@other.test"));
    let ours = |selector: &str| sign("keys.test", selector, &letter("ann@keys.test"), now(), None);
    let good = ours("t1");
    let day = 86_400;
    let length = dkimpy.sign(&letter("ann@keys.test"), "keys.test", "t1", &SEED, true);
    let relayed = replaced(&sign("attacker.test", "t1", &good, now(), None), "t=1", "t=9");
    let many = (0..12).fold(letter("ann@keys.test"), |message, n| sign("keys.test", "t1", &message, now() + n, None));
    let cases = [
        Case { dkim: vec![("pass", "")], ..case("RSA", rsa.clone()) },
        Case { dkim: vec![("pass", "")], ..case("Ed25519", ed) },
        Case { dkim: vec![("pass", ""), ("pass", "")], ..case("both", sign("example.test", "t1", &rsa, now(), None)) },
        Case {
            dkim: vec![("fail", "the body was changed")],
            dmarc: ("fail", "Neither DKIM nor SPF passed"),
            ..case("body changed", replaced(&rsa, "Hello Bob", "Hello Rob"))
        },
        Case {
            dkim: vec![("fail", "a signed field was changed")],
            dmarc: ("fail", "Neither"),
            ..case("header changed", replaced(&rsa, "Subject: Hello", "Subject: Help"))
        },
        Case {
            dkim: vec![("fail", "a signed field was changed")],
            dmarc: ("fail", "Neither"),
            ..case("field added", replaced(&rsa, "Subject: Hello", "Subject: Help\r\nSubject: Hello"))
        },
        Case {
            dkim: vec![("permerror", "gone._domainkey.keys.test")],
            dmarc: ("fail", "Neither"),
            ..case("key missing", ours("gone"))
        },
        Case {
            dkim: vec![("permerror", "revoked")],
            dmarc: ("fail", "Neither"),
            ..case("key revoked", ours("revoked"))
        },
        Case {
            dkim: vec![("permerror", "no usable key")],
            dmarc: ("fail", "Neither"),
            ..case("key broken", ours("broken"))
        },
        Case { dkim: vec![("pass", "test mode")], ..case("key in test mode", ours("test")) },
        Case {
            dkim: vec![("fail", "expired")],
            dmarc: ("fail", "Neither"),
            ..case("expired", sign("keys.test", "t1", &letter("ann@keys.test"), now() - 2 * day, Some(day)))
        },
        Case {
            dkim: vec![("policy", "future")],
            dmarc: ("fail", "Neither"),
            ..case("from the future", sign("keys.test", "t1", &letter("ann@keys.test"), now() + 2 * day, None))
        },
        Case { dkim: vec![("pass", "")], ..case("l= over the whole body", length.clone()) },
        Case {
            dkim: vec![("policy", "l=")],
            dmarc: ("fail", "Neither"),
            ..case("l= leaves octets unsigned", [length.as_slice(), b"Buy this.\r\n"].concat())
        },
        Case {
            dkim: vec![("permerror", "bad signature syntax"), ("pass", "")],
            ..case("garbage beside a good one", [b"DKIM-Signature: nonsense\r\n".as_slice(), &good].concat())
        },
        Case {
            dkim: vec![("fail", "a signed field was changed"), ("pass", "")],
            ..case("a relay's signature broken, the author's good", relayed)
        },
        Case {
            dkim: [vec![("pass", ""); 10], vec![("neutral", "at most 10"); 2]].concat(),
            ..case("twelve signatures", many)
        },
        Case { dkim: vec![], dmarc: ("fail", "Neither"), ..case("unsigned", letter("ann@keys.test")) },
        Case {
            dkim: vec![("temperror", "elsewhere.example")],
            dmarc: ("temperror", "_dmarc."),
            ..case("no answer from DNS", sign("elsewhere.example", "t1", &letter("ann@elsewhere.example"), now(), None))
        },
    ];
    for case in &cases {
        stage.check(case);
        // dkimpy has no limit of signatures, ignores x= and t= in the future, and takes l= as it is; about all else it must agree.
        if !["twelve", "from the future", "l= leaves", "no answer"].iter().any(|name| case.name.starts_with(name)) {
            let theirs = dkimpy.verify_with_dns(&case.octets, stage.named.address());
            let ours: Vec<bool> = case.dkim.iter().map(|(result, _)| *result == "pass").collect();
            assert_eq!(theirs, ours, "{}: dkimpy disagrees", case.name);
        }
    }
    let found = stage.verify(&rsa, "");
    let one = &found["dkim"][0];
    assert_eq!((text(&one["domain"]), text(&one["algorithm"])), ("example.test", "rsa-sha256"));
    let field = text(&found["authentication_results"]);
    let prefix =
        format!("dkim=pass header.d=example.test header.s={} header.a=rsa-sha256 header.b=", text(&one["selector"]));
    assert!(field.contains(&prefix), "{field}");
    assert!(field.ends_with("header.from=example.test (p=reject)"), "{field}");
}

#[test]
fn spf_is_judged_with_its_reasons() {
    let stage = Stage::set();
    let signed = sign("keys.test", "t1", &letter("ann@keys.test"), now(), None);
    let good = |mail_from: &str| format!("?ip={GOOD_IP}&helo=h.test&mail_from={mail_from}");
    let table = [
        (good("x@mail.test"), "pass", ""),
        ("?ip=198.51.100.7&mail_from=x@mail.test".to_owned(), "fail", "forbids 198.51.100.7"),
        ("?ip=2001:db8::1&mail_from=x@mail.test".to_owned(), "fail", "forbids 2001:db8::1"),
        ("?ip=198.51.100.7&mail_from=x@soft.mail.test".to_owned(), "softfail", "~all"),
        (good("x@neutral.mail.test"), "neutral", "says nothing"),
        (good("x@plain.mail.test"), "none", "no SPF record"),
        (good("x@two.mail.test"), "permerror", "2 SPF records"),
        (good("x@bad.mail.test"), "permerror", "foo"),
        ("?ip=203.0.113.9&mail_from=x@many.mail.test".to_owned(), "permerror", "`include:i10.mail.test`"),
        (good("x@loop.mail.test"), "permerror", "more than 10"),
        (good("x@gone.mail.test"), "permerror", "nothing.mail.test has no SPF record"),
        // A fail inside an include only means that it does not match; the same include by two ways is no loop.
        (good("x@nested.mail.test"), "pass", ""),
        (good("x@shared.mail.test"), "fail", "forbids"),
        (good("x@elsewhere.example"), "temperror", "elsewhere.example"),
        (good("x@[192.0.2.1]"), "none", "not a domain name"),
        // RFC 7208 2.4: the null reverse-path is judged by the EHLO name.
        (format!("?ip={GOOD_IP}&helo=mail.test&mail_from="), "pass", ""),
        (format!("?ip={GOOD_IP}&helo=mail.test"), "pass", ""),
        (format!("?ip={GOOD_IP}"), "none", "EHLO name is not known"),
        (format!("?ip={GOOD_IP}&helo=[192.0.2.1]"), "none", "not a domain name"),
        ("?mail_from=x@mail.test".to_owned(), "none", "was not given"),
    ];
    for (query, result, reason) in &table {
        stage.check(&Case { query, dkim: vec![("pass", "")], spf: (result, reason), ..case(query, signed.clone()) });
    }
    let helo = stage.verify(&signed, &format!("?ip={GOOD_IP}&helo=mail.test"));
    assert!(text(&helo["authentication_results"]).contains("spf=pass smtp.helo=mail.test"), "{helo}");
    let sender = stage.verify(&signed, &good("x@mail.test"));
    assert!(text(&sender["authentication_results"]).contains("spf=pass smtp.mailfrom=mail.test"), "{sender}");
}

#[test]
fn the_articles_spoof_passes_dkim_and_spf_but_not_dmarc() {
    let stage = Stage::set();
    let spoof = sign("attacker.test", "t1", &letter("The boss <boss@example.test>"), now(), None);
    let query = format!("?ip={GOOD_IP}&helo=attacker.test&mail_from=x@attacker.test");
    stage.check(&Case {
        query: &query,
        dkim: vec![("pass", "")],
        spf: ("pass", ""),
        dmarc: ("fail", "alignment"),
        ..case("spoof", spoof.clone())
    });
    let dmarc = stage.verify(&spoof, &query)["dmarc"].clone();
    let reason = text(&dmarc["reason"]);
    assert!(reason.contains("DKIM passed for attacker.test") && reason.contains("example.test"), "{reason}");
    assert_eq!(dmarc["aligned"], serde_json::json!({"spf": false, "dkim": false}));
    assert_eq!((text(&dmarc["policy"]), text(&dmarc["legacy_result"])), ("reject", "fail"));
}

/// From, d=, MAIL FROM; then result, policy, its tag, its domain, the organizational domain, aligned SPF and DKIM, legacy result.
type Alignment<'a> = (&'a str, &'a str, &'a str, &'a str, [Option<&'a str>; 4], (bool, bool), &'a str);

#[test]
fn dmarc_finds_record_policy_and_alignment() {
    let stage = Stage::set();
    let (example, others) = (Some("example.test"), Some("other.test"));
    let none = [None, None, None];
    let table: [Alignment<'_>; 13] = [
        (
            "example.test",
            "example.test",
            "",
            "pass",
            [Some("reject"), Some("p"), example, example],
            (false, true),
            "pass",
        ),
        // Relaxed: one organizational domain.
        (
            "sub.example.test",
            "example.test",
            "",
            "pass",
            [Some("quarantine"), Some("sp"), example, example],
            (false, true),
            "pass",
        ),
        (
            "sub.example.test",
            "keys.test",
            "example.test",
            "pass",
            [Some("quarantine"), Some("sp"), example, example],
            (true, false),
            "pass",
        ),
        (
            "example.test",
            "keys.test",
            "attacker.test",
            "fail",
            [Some("reject"), Some("p"), example, example],
            (false, false),
            "fail",
        ),
        // Strict: the very name.
        (
            "sub.other.test",
            "keys.test",
            "mail.test",
            "fail",
            [Some("quarantine"), Some("p"), others, others],
            (false, false),
            "fail",
        ),
        (
            "keys.test",
            "keys.test",
            "",
            "pass",
            [Some("none"), Some("p"), Some("keys.test"), Some("keys.test")],
            (false, true),
            "pass",
        ),
        // No record, two records, a record with psd= below another.
        (
            "norecord.test",
            "norecord.test",
            "",
            "none",
            [none[0], none[1], none[2], Some("norecord.test")],
            (false, true),
            "none",
        ),
        (
            "sub.norecord.test",
            "norecord.test",
            "",
            "none",
            [none[0], none[1], none[2], Some("sub.norecord.test")],
            (false, false),
            "none",
        ),
        (
            "twice.test",
            "twice.test",
            "",
            "none",
            [none[0], none[1], none[2], Some("twice.test")],
            (false, true),
            "none",
        ),
        (
            "shop.shops.test",
            "shops.test",
            "",
            "fail",
            [Some("reject"), Some("p"), Some("shop.shops.test"), Some("shop.shops.test")],
            (false, false),
            "pass",
        ),
        // Below a public suffix domain the organizational domain is one label deeper, and its policy is the last resort.
        (
            "a.org.public.test",
            "org.public.test",
            "",
            "pass",
            [Some("reject"), Some("np"), Some("public.test"), Some("org.public.test")],
            (false, true),
            "pass",
        ),
        (
            "other.public.test",
            "org.public.test",
            "",
            "fail",
            [Some("reject"), Some("np"), Some("public.test"), Some("other.public.test")],
            (false, false),
            "pass",
        ),
        (
            "a.b.c.d.e.f.g.h.org.public.test",
            "org.public.test",
            "",
            "pass",
            [Some("reject"), Some("np"), Some("public.test"), Some("org.public.test")],
            (false, true),
            "pass",
        ),
    ];
    for (from, signer, sender, result, found, aligned, legacy) in table {
        let octets = sign(signer, "t1", &letter(&format!("ann@{from}")), now(), None);
        let query = if sender.is_empty() { String::new() } else { format!("?ip={GOOD_IP}&mail_from=x@{sender}") };
        let dmarc = stage.verify(&octets, &query)["dmarc"].clone();
        let what = format!("From {from}, d={signer}, MAIL FROM {sender}: {dmarc:#}");
        assert_eq!(dmarc["result"], result, "{what}");
        let names = ["policy", "policy_source", "policy_domain", "organizational_domain"];
        assert_eq!(names.map(|name| dmarc[name].as_str()), found, "{what}");
        assert_eq!(
            (dmarc["aligned"]["spf"].as_bool(), dmarc["aligned"]["dkim"].as_bool()),
            (Some(aligned.0), Some(aligned.1)),
            "{what}"
        );
        assert_eq!(dmarc["legacy_result"], legacy, "{what}");
        assert_eq!(text(&dmarc["reason"]).contains("RFC 7489 and"), result != legacy, "{what}");
    }
}

#[test]
fn who_is_the_author_decides_whether_dmarc_applies() {
    let stage = Stage::set();
    for (from, result, reason) in [
        ("From: a@keys.test, b@keys.test\r\n", "pass", "keys.test"),
        ("From: a@keys.test, boss@example.test\r\n", "none", "2 domains"),
        ("From: a@keys.test\r\nFrom: boss@example.test\r\n", "permerror", "2 From fields"),
        ("", "permerror", "no From field"),
        ("From: undisclosed:;\r\n", "permerror", "From does not hold"),
        ("From: a@keys.test (boss@example.test)\r\n", "permerror", "comment"),
        ("From: nobody\r\n", "permerror", "From does not hold"),
        ("From: =?utf-8?q?boss=40example.test?= <a@keys.test>\r\n", "pass", "keys.test"),
    ] {
        let message = format!("{from}To: bob@receiver.test\r\nSubject: x\r\n\r\ny\r\n");
        // Our signer signs nothing that has no From.
        let octets = match from {
            "" => message.into_bytes(),
            _ => sign("keys.test", "t1", message.as_bytes(), now(), None),
        };
        let found = stage.verify(&octets, "");
        assert_eq!(found["dmarc"]["result"], result, "{from:?}: {found:#}");
        assert!(text(&found["dmarc"]["reason"]).contains(reason), "{from:?}: {found:#}");
    }
}

#[test]
fn what_is_no_message_or_no_parameter_is_a_422_that_says_why() {
    let stage = Stage::set();
    let api = &stage.tenant.api;
    for (parameter, query) in [
        ("ip", "?ip=nonsense"),
        ("ip", "?ip=192.0.2.1&ip=192.0.2.2"),
        ("helo", "?helo=a%20b"),
        ("helo", "?helo=a%0d%0aX-Evil:%201"),
        ("mail_from", "?mail_from=nobody"),
        ("mail_from", "?mail_from=%22%0d%0a%22@example.test"),
        ("rcpt", "?rcpt=bob@receiver.test"),
        ("ip", "?ip=%ff"),
    ] {
        let problem =
            api.post_message(&format!("/v1/verify{query}"), &letter("a@keys.test")).problem(422, "invalid-request");
        assert_eq!(problem["errors"][0]["parameter"], parameter, "{query}: {problem}");
    }
    for (octets, said) in [
        (&b""[..], "empty"),
        (b" \r\n\r\n", "empty"),
        (b"{}", "line 1"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "line 1"),
        (b"From: a@keys.test\r\nnot a field\r\n\r\nx\r\n", "line 2"),
        (b"From: a@keys.test\r\nSubject: a\0b\r\n\r\nx\r\n", "NUL"),
        (b"From: a@keys.test\r\nSubject: a\rb\r\n\r\nx\r\n", "bare CR"),
        (b"\r\nFrom: a@keys.test\r\n", "no header"),
        (b"From ann Mon Jan  1 00:00:00 2024\n", "no header"),
    ] {
        let answer = api.post_message("/v1/verify", octets);
        let problem = answer.problem(422, "invalid-request");
        assert!(problem.to_string().contains(said), "{said}: {problem}");
        let printed = stage.cli(octets, "", &[]);
        assert_eq!(printed.status.code(), Some(2), "{said}");
        assert!(String::from_utf8_lossy(&printed.stderr).contains(said), "{said}: {printed:?}");
    }
    api.call("POST", "/v1/verify", Some("text/plain"), letter("a@keys.test")).problem(415, "unsupported-media-type");
    api.post_message("/v1/verify", &[letter("a@keys.test"), vec![b'x'; 100_000]].concat())
        .problem(413, "message-too-large");
}

#[test]
fn stored_forms_of_a_message_are_judged_like_the_message() {
    let stage = Stage::set();
    let signed = String::from_utf8(sign("keys.test", "t1", &letter("ann@keys.test"), now(), None)).unwrap();
    let expected = stage.verify(signed.as_bytes(), "");
    assert_eq!(expected["dkim"][0]["result"], "pass");
    let unix = signed.replace("\r\n", "\n");
    for form in [
        unix.clone(),
        format!("From ann Mon Jan  1 00:00:00 2024\n{unix}"),
        format!("\u{feff}{signed}"),
        unix.trim_end().to_owned(),
        signed.replacen("\r\n\r\n", "\n\n", 1),
    ] {
        assert_eq!(stage.verify(form.as_bytes(), ""), expected, "{form:?}");
    }
    let changed = stage.verify(unix.replace("Hello Bob", "Hello Rob").as_bytes(), "");
    assert!(text(&changed["dkim"][0]["reason"]).contains("read as CRLF"), "{changed}");
    // Odd octets in a body are a receiver's daily bread.
    for body in ["a\0b\r\n", "a\rb\r\n", "\u{e9}\r\n", &format!("{}\r\n", "x".repeat(5_000))] {
        let found = stage.verify(format!("{signed}{body}").as_bytes(), "");
        assert!(text(&found["dkim"][0]["reason"]).contains("the body was changed"), "{found}");
    }
}

#[test]
fn nothing_in_a_message_makes_a_server_error_or_breaks_out_of_the_field() {
    let stage = Stage::set();
    let signed = sign("keys.test", "t1", &letter("ann@keys.test"), now(), None);
    let mut state: u64 = 42;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..150 {
        let mut octets = signed.clone();
        for _ in 0..=random(4) {
            let at = random(octets.len());
            match random(3) {
                0 => octets[at] = u8::try_from(random(256)).unwrap(),
                1 => drop(octets.remove(at)),
                _ => octets.insert(at, b"\r\n\0;=@\"( "[random(9)]),
            }
        }
        let answer = stage.tenant.api.post_message("/v1/verify", &octets);
        assert!([200, 422].contains(&answer.status), "{}: {:?}", answer.text(), String::from_utf8_lossy(&octets));
    }
    for hostile in [
        "DKIM-Signature: v=1; a=x\"; dmarc=pass; d=keys.test; s=\"; dkim=pass header.d=bank.test; b=a\"b; bh=; h=from\r\n",
        "DKIM-Signature: v=1; a=rsa-sha256; d=\u{e9}\"; s=(; i=@\"; dmarc=pass (x\r\n",
        "DKIM-Signature: v=1; a=ed25519-sha256; d=keys.test; s=t1; i=\"; dmarc=pass\"@keys.test; h=from; bh=AA==; b=AA==\r\n",
    ] {
        let octets = [hostile.as_bytes(), &letter("\"x; dmarc=pass\" <ann@keys.test>")].concat();
        let found = stage.verify(&octets, "");
        let field = text(&found["authentication_results"]);
        stage.assert_field(field, &[("dkim", "permerror"), ("spf", "none"), ("dmarc", "fail")]);
    }
    let flood = [b"DKIM-Signature: x\r\n".repeat(2_000), letter("ann@keys.test")].concat();
    let found = stage.verify(&flood, "");
    assert_eq!(found["dkim"].as_array().unwrap().len(), 100);
    assert!(text(&found["dkim"][99]["reason"]).contains("1900 more"), "{}", found["dkim"][99]);
}

#[test]
fn a_silent_dns_server_is_a_temperror_and_no_error() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let app = App::with().env("SIGNPOST_DNS_RESOLVERS", silent.local_addr().unwrap().to_string()).start();
    let tenant = app.tenant("Ann");
    let signed = sign("keys.test", "t1", &letter("ann@keys.test"), now(), None);
    let found = tenant.api.post_message("/v1/verify?ip=192.0.2.1&mail_from=x@mail.test", &signed).expect(200).json();
    for result in [&found["dkim"][0], &found["spf"], &found["dmarc"]] {
        assert_eq!(result["result"], "temperror", "{found:#}");
        assert!(!text(&result["reason"]).is_empty());
    }
    assert_eq!(found["dmarc"]["legacy_result"], "none");
}

#[test]
fn the_command_line_speaks_to_people_and_reads_standard_input() {
    let stage = Stage::set();
    let signed = sign("keys.test", "t1", &letter("ann@keys.test"), now(), None);
    let shown = stage.cli(&signed, &format!("?ip={GOOD_IP}&mail_from=x@mail.test"), &[]);
    let out = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.status.code(), Some(0), "{out}");
    for line in [
        "dkim  pass      d=keys.test s=t1 a=ed25519-sha256",
        "spf   pass      mail.test",
        "dmarc pass      p=none at _dmarc.keys.test: DKIM passed for keys.test",
        "Authentication-Results: out.signpost.test; dkim=pass",
    ] {
        assert!(out.lines().any(|shown| shown.starts_with(line)), "{line:?} in:\n{out}");
    }
    let spoof = sign("attacker.test", "t1", &letter("ann@example.test"), now(), None);
    let shown = stage.cli(&spoof, "", &[]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(String::from_utf8(shown.stdout).unwrap().contains("alignment"));
    let mut child = Command::new(binary())
        .args(["verify", "-", "--json", "--dns-resolvers", &stage.named.address().to_string(), "--hostname", "mx.test"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&signed).unwrap();
    let output = child.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), text(&found["dmarc"]["result"])), (Some(0), "pass"));
    for (arguments, said) in [
        (vec!["verify", "/nonexistent/message.eml"], "/nonexistent/message.eml"),
        (vec!["verify", "-", "--ip", "nonsense"], "--ip"),
        (vec!["verify", "-", "--mail-from", "nobody"], "--mail-from"),
        (vec!["verify", "-"], "empty"),
    ] {
        let output = stage.app.cli(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{arguments:?}: {output:?}");
    }
}
